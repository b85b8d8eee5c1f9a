# A scene without chance in it: threads must give the picture that one gives.
cd /tmp || exit 1
cat >scene.pov <<'SCENE'
#version 3.7;
global_settings { assumed_gamma 1.0 }
camera { location <0, 2, -6> look_at <0, 0.5, 0> }
light_source { <4, 8, -6> rgb 1 }
plane { y, 0 pigment { checker rgb 0.2, rgb 0.9 } finish { reflection 0.2 } }
#for (N, 0, 8)
  sphere { <N - 4, 0.6 + 0.3 * sin(N), mod(N, 3) - 1>, 0.6 pigment { rgb <N / 8, 0.5, 1 - N / 8> } finish { phong 0.8 reflection 0.3 } }
#end
SCENE
width=$((60 * SCALE))
render() { povray +Iscene.pov +W$width +H48 -D +FN8 +WT"$1" +O"$2" >/tmp/povray 2>&1; }
render 4 many.png || { tail -n 20 /tmp/povray; exit 1; }
render 1 one.png || { tail -n 20 /tmp/povray; exit 1; }
# (The files have the time in them: only the picture counts.)
pixels() { python3 -c '
import sys, zlib
data, at, body = open(sys.argv[1], "rb").read(), 8, b""
while at < len(data):
    size = int.from_bytes(data[at:at + 4], "big")
    if data[at + 4:at + 8] == b"IDAT":
        body += data[at + 8:at + 8 + size]
    at += 12 + size
print(zlib.crc32(zlib.decompress(body)))' "$1"; }
sum=$(pixels many.png)
[ -n "$sum" ] && [ "$sum" = "$(pixels one.png)" ] && ok=true || ok=false
job povray $ok "$sum"
