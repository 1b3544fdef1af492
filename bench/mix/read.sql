-- One row of one of twenty tables: few tables and few rows are asked for most of the time.
\set table random_zipfian(1, 20, 1.1)
\set id random_zipfian(1, :rows, 1.1)
SELECT id, owner, title, changes FROM mix_:table WHERE id = :id;
