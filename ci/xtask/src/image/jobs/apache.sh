# The worker MPM: threads of several processes.
a2dismod -q -f mpm_event && a2enmod -q mpm_worker || exit 1
head -c 65536 /dev/zero | tr '\0' t >/var/www/html/page
systemctl start apache2.service || exit 1
requests=$((400 * SCALE))
ab -q -n $requests -c 8 http://127.0.0.1/page >/tmp/ab 2>&1 || { cat /tmp/ab; exit 1; }
failed=$(sed -n 's/^Failed requests: *//p' /tmp/ab)
bytes=$(sed -n 's/^HTML transferred: *\([0-9]*\) bytes/\1/p' /tmp/ab)
[ "$failed" = 0 ] && [ "$bytes" = $((requests * 65536)) ] && ok=true || { ok=false; cat /tmp/ab; }
job apache $ok "$requests requests $bytes bytes" "\"per_second\":$(sed -n 's/^Requests per second: *\([0-9.]*\).*/\1/p' /tmp/ab)"
systemctl stop apache2.service
