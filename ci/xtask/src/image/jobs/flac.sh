# A made-up sound, encoded by several processes at once, and decoded again.
cd /tmp || exit 1
python3 -c '
import math, sys
seconds = int(sys.argv[1])
out = bytearray()
for n in range(44100 * seconds):
    v = int(12000 * math.sin(n / 20) + 6000 * math.sin(n / 7.3)) + (n * 7919 % 512)
    out += v.to_bytes(2, "little", signed=True)
open("sound.raw", "wb").write(out)' "$((2 * SCALE))" || exit 1
raw='--endian=little --sign=signed --channels=1 --bps=16 --sample-rate=44100'
for n in 1 2 3 4; do
    flac -s -f $raw --force-raw-format -8 -o sound$n.flac sound.raw &
done
wait
sum=$(cksum <sound.raw | cut -d ' ' -f 1)
ok=true
for n in 1 2 3 4; do
    flac -s -d -f --force-raw-format --endian=little --sign=signed -o back.raw sound$n.flac || ok=false
    cmp -s back.raw sound.raw || ok=false
done
job flac $ok "$sum $(cksum <sound1.flac | cut -d ' ' -f 1)"
