#!/bin/sh
# Runs the jobs that tessera.job=NAME[,NAME...] on the kernel command line names, says on the console how they ended, and
# switches the guest off. tessera.scale=N makes them N times as long.

# A login on the same line would hang it up.
systemctl stop --quiet serial-getty@ttyS0.service
exec >/dev/ttyS0 2>/dev/ttyS0 </dev/null
stty -F /dev/ttyS0 -onlcr -echo

jobs=
SCALE=1
for word in $(cat /proc/cmdline); do
    case $word in
    tessera.job=*) jobs=$(echo "${word#tessera.job=}" | tr , ' ') ;;
    tessera.scale=*) SCALE=${word#tessera.scale=} ;;
    esac
done
export SCALE

# CPUs that maxcpus= kept waiting.
for cpu in /sys/devices/system/cpu/cpu*/online; do
    [ "$(cat "$cpu")" = 1 ] || echo 1 >"$cpu"
done

# job NAME true|false CHECKSUM [JSON MEMBERS]: one result. The checksum is the same in every run.
job() {
    printf '\nTESSERA-RESULT {"program":"%s","ok":%s,"checksum":"%s","seconds":%s%s}\n' \
        "$1" "$2" "$3" "$(($(date +%s) - began))" "${4:+,$4}"
}

echo
echo "TESSERA-READY {\"nproc\":$(nproc),\"release\":\"$(uname -r)\"}"
for name in $jobs; do
    began=$(date +%s)
    if [ -r "/usr/local/lib/tessera/jobs/$name" ]; then
        # In a shell of its own, so that a job cannot end the others.
        (. "/usr/local/lib/tessera/jobs/$name") || job "$name" false "failed"
    else
        job "$name" false "there is no such job"
    fi
done

trouble='BUG:|WARNING:|Oops|general protection|soft lockup|hard LOCKUP|rcu.*(stall|detected)|hung_task|blocked for more than|segfault|I/O error|EXT4-fs error|Machine check|clocksource.*unstable'
dmesg | grep -E "$trouble"
echo "TESSERA-LOG-PROBLEMS $(dmesg | grep -c -E "$trouble")"
sync
systemctl poweroff
