-- A hundred distinct point reads: what a page that is asked for often sends.
\set aid random(1, 100)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
