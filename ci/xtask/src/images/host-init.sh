#!/bin/sh
# Process 1 of a lab host. Its settings come from the kernel command line:
#   lab.id=N       this host's number, from 1; its address is 10.77.0.N
#   lab.node=yes   start `tessera node`
# Network cards are told apart by their hardware address 52:54:00:77:SELF:PEER (PEER 00: management).
export PATH=/bin:/sbin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /tmp /root /run
mount -t devpts pts /dev/pts
mount -t tmpfs -o size=90% tmp /tmp
mount -t tmpfs shm /dev/shm

fail() {
    echo "TESSERA-LAB-HOST-FAILED $*"
    poweroff -f
}

id=
node=no
for word in $(cat /proc/cmdline); do
    case $word in
    lab.id=*) id=${word#lab.id=} ;;
    lab.node=*) node=${word#lab.node=} ;;
    esac
done
[ -n "$id" ] || fail "no lab.id on the kernel command line"
hostname "lab$id"

while read -r module settings; do
    # shellcheck disable=SC2086 # the settings are words
    insmod "/lib/modules/$module" $settings || fail "insmod $module"
done </lib/modules/order

# One address for all cards: on the loopback one, which is there however many hosts the lab has.
ip link set lo up && ip addr add "10.77.0.$id/32" dev lo || fail "address"
for card in /sys/class/net/*; do
    read -r hardware <"$card/address"
    name=${card##*/}
    case $hardware in
    52:54:00:77:*:00)
        ip addr add 10.0.2.15/24 dev "$name" && ip link set "$name" up || fail "management network"
        ;;
    52:54:00:77:*)
        peer=$((0x${hardware##*:}))
        ip link set "$name" mtu 9000 up &&
            ip route add "10.77.0.$peer/32" dev "$name" src "10.77.0.$id" || fail "network to host $peer"
        ;;
    esac
done

tessera-lab-agent &
if [ "$node" = yes ]; then
    while :; do
        tessera node --listen 0.0.0.0:7070 --public >/tmp/node.log 2>&1
        echo "tessera node ended with status $?: $(tail -n 3 /tmp/node.log)"
        sleep 1
    done &
    tries=0
    until grep -q ':1B9E 00000000:0000 0A' /proc/net/tcp; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "tessera node does not listen: $(tail -n 3 /tmp/node.log)"
        usleep 50000
    done
fi
until grep -q ':1B9F 00000000:0000 0A' /proc/net/tcp; do usleep 20000; done
echo "TESSERA-LAB-HOST-READY $id"
while :; do sleep 1000; done
