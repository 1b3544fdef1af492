-- What one owner has in one table, as a page shows it.
\set table random_zipfian(1, 20, 1.1)
\set owner random_zipfian(1, 100, 1.1)
SELECT id, title, changes FROM mix_:table WHERE owner = :owner ORDER BY changes DESC, id LIMIT 20;
