-- More answers than `cache.size` has room for, all of them in Redis.
\set aid random(1, 50000)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
