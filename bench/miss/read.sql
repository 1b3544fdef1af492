\set n random(1, 1000000000)
SELECT abalance, repeat('x', 1200) FROM pgbench_accounts WHERE aid = 1 + :n % 1000000;
