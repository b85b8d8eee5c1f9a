# Transactions of four clients; pgbench's own tables add up at the end.
systemctl start postgresql.service
as() { su postgres -c "$1"; }
# It is up when it answers.
for _ in $(seq 600); do as 'pg_isready -q' && break; sleep 0.1; done
as 'createdb bench && pgbench -q -i -s 2 bench' >/tmp/init 2>&1 || { cat /tmp/init; exit 1; }
as "pgbench -n -c 4 -j 2 -t $((100 * SCALE)) bench" >/tmp/pgbench 2>&1 || { cat /tmp/pgbench; exit 1; }
sums=$(as "psql -At bench" <<'SQL'
select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
   and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
   and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history);
SQL
)
done=$(as 'psql -At bench -c "select count(*) from pgbench_history"')
checked=$(as '/usr/lib/postgresql/*/bin/pg_amcheck --install-missing bench' 2>&1) || sums=f
[ "$sums" = t ] && ok=true || { ok=false; echo "sums: $sums $checked"; }
job pgbench $ok "$done transactions" "\"tps\":$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' /tmp/pgbench | head -n 1)"
systemctl stop postgresql.service
