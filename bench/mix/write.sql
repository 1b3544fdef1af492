-- One row of any of the tables, all alike: none is spared because it is read often.
\set table random(1, 20)
\set id random(1, :rows)
UPDATE mix_:table SET changes = changes + 1 WHERE id = :id;
