-- Each account once: 3,125 for each client.
\set n :n + 1
\set aid :client_id * 3125 + :n
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
