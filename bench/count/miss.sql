-- Point reads of which none is ever repeated: each fills the cache. `base` and `each` are given.
\set n :n + 1
\set aid :base + :client_id * :each + :n
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
