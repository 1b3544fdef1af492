-- An aggregate with a hundred different parameters: what a dashboard sends.
\set a 1000 * random(1, 100)
SELECT sum(abalance), count(*) FROM pgbench_accounts WHERE aid BETWEEN :a AND :a + 1000;
