SELECT aid, bid, abalance FROM pgbench_accounts WHERE aid <= :rows ORDER BY aid;
