# Clients that all add to the same counters, with threads for input and output.
redis-server --port 6400 --save '' --io-threads 2 --daemonize yes --logfile /tmp/redis.log >/dev/null
for _ in $(seq 600); do redis-cli -p 6400 ping >/dev/null 2>&1 && break; sleep 0.1; done
requests=$((4000 * SCALE))
redis-benchmark -p 6400 -q -c 20 -n $requests --threads 2 incr counter >/tmp/redis 2>&1 || { cat /tmp/redis; exit 1; }
for list in a b; do
    seq $((500 * SCALE)) | sed "s/^/rpush $list /" | redis-cli -p 6400 >/dev/null &
done
wait
sum=$(redis-cli -p 6400 lrange a 0 -1 | cksum | cut -d ' ' -f 1)
counter=$(redis-cli -p 6400 get counter)
lists="$(redis-cli -p 6400 llen a) $(redis-cli -p 6400 llen b)"
[ "$counter" = $requests ] && [ "$lists" = "$((500 * SCALE)) $((500 * SCALE))" ] && ok=true || ok=false
job redis $ok "counter $counter lists $lists sum $sum"
redis-cli -p 6400 shutdown nosave
