-- Twenty tables of :rows rows.
SELECT format(
    'CREATE TABLE mix_%1$s (id int PRIMARY KEY, owner int NOT NULL, title text NOT NULL, changes int NOT NULL);
     INSERT INTO mix_%1$s SELECT x, x %% 100 + 1, md5(x::text), 0 FROM generate_series(1, %2$s) x;
     CREATE INDEX ON mix_%1$s (owner)', number, :rows)
FROM generate_series(1, 20) number \gexec
VACUUM ANALYZE;
