"""The workload of the three Python drivers that speak SQL: psycopg 2, psycopg 3, asyncpg.

An adapter gives `query(sql, params)` (rows as lists), `run(sql, params)`, `many(sql, rows)`,
`begin()`, `commit()`, `rollback()`, `failure(sql, params)` (SQLSTATE and message of an error)
and `close()`. SQL is written with $1; adapters rewrite it.
"""

import datetime
import decimal
import uuid

from common import DIRECT_URL, FOREBAY_URL, REPEATS, RUNS, TWIN_URL, Tally

TABLES = [
    """CREATE TABLE {s}.item (
        id int PRIMARY KEY, small int2, big int8, real4 float4, real8 float8, amount numeric(12,3),
        name text, code varchar(10), fixed char(4), flag bool, raw bytea, day date, at timestamp,
        at_zone timestamptz, clock time, span interval, ident uuid, doc jsonb, plain json,
        numbers int[], words text[])""",
    "CREATE TABLE {s}.line (id serial PRIMARY KEY, item int REFERENCES {s}.item ON DELETE CASCADE, quantity int)",
    "CREATE VIEW {s}.stock AS SELECT item, sum(quantity) AS total FROM {s}.line GROUP BY item",
]
INSERT_ITEM = """INSERT INTO {s}.item VALUES ($1::int, $2::int2, $3::int8, $4::float4, $5::float8, $6::numeric,
    $7::text, $8::varchar, $9::bpchar, $10::bool, $11::bytea, $12::date, $13::timestamp, $14::timestamptz,
    $15::time, $16::interval, $17::uuid, $18::jsonb, $19::json, $20::int[], $21::text[])"""


def items():
    utc = datetime.timezone.utc
    for number in range(1, 21):
        yield [
            number, number, number * 10**12, number / 4, number / 3, decimal.Decimal(number) / 8,
            f"näme % {number} 'quoted' $1", f"c{number}", "ab", number % 2 == 0, bytes([0, number, 255]),
            datetime.date(2024, 2, number), datetime.datetime(2024, 2, number, 12, 30, 1, 5),
            datetime.datetime(2024, 2, number, 12, 30, tzinfo=utc), datetime.time(1, 2, number),
            datetime.timedelta(days=number, seconds=3), uuid.UUID(int=number),
            f'{{"n": {number}, "s": "x"}}', f'{{"n":  {number}}}', [number, -number], ["a", f"b,{number}"],
        ]
    yield [21] + [None] * 20


# Every type as a parameter, every type in an answer; joins, aggregates, a view, a CTE, no rows.
READS = [
    ("all items", "SELECT * FROM {s}.item ORDER BY id", []),
    ("by id", "SELECT name, amount FROM {s}.item WHERE id = $1::int", [3]),
    ("by another id", "SELECT name, amount FROM {s}.item WHERE id = $1::int", [4]),
    ("literal", "SELECT big, real8 FROM {s}.item WHERE id = 5", []),
    ("text", "SELECT id FROM {s}.item WHERE name = $1::text", ["näme % 3 'quoted' $1"]),
    ("like", "SELECT count(*) FROM {s}.item WHERE name LIKE $1::text", ["näme % 1%"]),
    ("numeric", "SELECT id FROM {s}.item WHERE amount >= $1::numeric ORDER BY id", [decimal.Decimal("2.125")]),
    ("float", "SELECT id FROM {s}.item WHERE real8 < $1::float8 ORDER BY id", [1.5]),
    ("bool", "SELECT id FROM {s}.item WHERE flag = $1::bool ORDER BY id", [True]),
    ("bytes", "SELECT id FROM {s}.item WHERE raw = $1::bytea", [bytes([0, 7, 255])]),
    ("date", "SELECT id FROM {s}.item WHERE day > $1::date ORDER BY id", [datetime.date(2024, 2, 15)]),
    ("timestamp", "SELECT at FROM {s}.item WHERE at < $1::timestamp ORDER BY id", [datetime.datetime(2024, 2, 5)]),
    ("zone", "SELECT at_zone FROM {s}.item WHERE at_zone < $1::timestamptz ORDER BY id",
     [datetime.datetime(2024, 2, 5, tzinfo=datetime.timezone.utc)]),
    ("uuid", "SELECT id FROM {s}.item WHERE ident = $1::uuid", [uuid.UUID(int=9)]),
    ("array", "SELECT id FROM {s}.item WHERE id = ANY($1::int[]) ORDER BY id", [[1, 5, 9]]),
    ("json", "SELECT doc FROM {s}.item WHERE doc @> $1::jsonb", ['{"n": 6}']),
    ("null", "SELECT id FROM {s}.item WHERE name IS NULL AND $1::text IS NULL", [None]),
    ("no rows", "SELECT * FROM {s}.item WHERE id = $1::int", [999]),
    ("join", "SELECT i.id, l.quantity FROM {s}.item i JOIN {s}.line l ON l.item = i.id ORDER BY l.id", []),
    ("aggregate", "SELECT flag, count(*), sum(amount), max(day) FROM {s}.item GROUP BY flag ORDER BY flag", []),
    ("view", "SELECT * FROM {s}.stock WHERE total > $1::int ORDER BY item", [5]),
    ("cte", "WITH few AS (SELECT * FROM {s}.item WHERE id < $1::int) SELECT count(*), sum(id) FROM few", [7]),
]

# Each is followed by all reads again: the answers must have changed where PostgreSQL's did.
WRITES = [
    ("update", "UPDATE {s}.item SET amount = amount + 1, name = 'new' WHERE id = $1::int", [3]),
    ("insert", "INSERT INTO {s}.line (item, quantity) VALUES ($1::int, $2::int)", [4, 17]),
    ("cascade", "DELETE FROM {s}.item WHERE id = $1::int", [2]),
    ("writing CTE", "WITH gone AS (DELETE FROM {s}.line WHERE item = $1::int RETURNING quantity) "
     "INSERT INTO {s}.line (item, quantity) SELECT 6, sum(quantity) FROM gone", [5]),
    ("truncate", "TRUNCATE {s}.line", []),
]

ERRORS = [
    ("division", "SELECT id / ($1::int - 1) FROM {s}.item", [1]),
    ("no table", "SELECT * FROM {s}.missing", []),
    ("duplicate", "INSERT INTO {s}.item (id) VALUES ($1::int)", [1]),
    ("syntax", "SELEKT 1", []),
    ("foreign key", "INSERT INTO {s}.line (item, quantity) VALUES ($1::int, 1)", [4711]),
]


class Lockstep:
    """One operation on Forebay and on the twin; reads outside transactions also directly."""

    def __init__(self, connect, schema):
        self.connect = connect
        self.schema = schema
        self.tally = Tally()
        self.in_transaction = False
        self.open()

    def open(self):
        self.ours, self.twin, self.witness = (self.connect(url) for url in (FOREBAY_URL, TWIN_URL, DIRECT_URL))

    def close(self):
        for connection in (self.ours, self.twin, self.witness):
            connection.close()

    def sql(self, text):
        return text.replace("{s}", self.schema)

    def both(self, name, *arguments):
        getattr(self.ours, name)(*arguments)
        getattr(self.twin, name)(*arguments)
        if name in ("begin", "commit", "rollback"):
            self.in_transaction = name == "begin"

    def run(self, text, params=()):
        self.both("run", self.sql(text), list(params))

    def query(self, label, text, params=()):
        text, params = self.sql(text), list(params)
        ours = self.ours.query(text, params)
        self.tally.same(label, ours, self.twin.query(text, params))
        if not self.in_transaction:
            self.tally.same(f"{label}, now", ours, self.witness.query(text, params))

    def failure(self, label, text, params=()):
        text, params = self.sql(text), list(params)
        self.tally.same(label, self.ours.failure(text, params), self.twin.failure(text, params))

    def reads(self, when):
        for _ in range(REPEATS):
            for label, text, params in READS:
                self.query(f"{label} {when}", text, params)


def prepare_tables(lockstep):
    lockstep.run("DROP SCHEMA IF EXISTS {s} CASCADE")
    lockstep.run("CREATE SCHEMA {s}")
    for table in TABLES:
        lockstep.run(table)
    lockstep.both("many", lockstep.sql(INSERT_ITEM), list(items()))
    lockstep.both("many", lockstep.sql("INSERT INTO {s}.line (item, quantity) VALUES ($1::int, $2::int)"),
                  [[number, number * 2] for number in range(1, 21)])


def transactions(lockstep):
    # Reads in a transaction, before and after its own write; then all of it undone.
    lockstep.both("begin")
    lockstep.reads("in a transaction")
    lockstep.run("UPDATE {s}.item SET amount = 0 WHERE id = 8")
    lockstep.reads("after its own write")
    lockstep.both("rollback")
    lockstep.reads("after a rollback")
    lockstep.both("begin")
    lockstep.run("UPDATE {s}.item SET name = 'kept' WHERE id = 9")
    lockstep.run("SAVEPOINT inner_one")
    lockstep.run("UPDATE {s}.item SET name = 'lost' WHERE id = 10")
    lockstep.query("in a savepoint", "SELECT id, name FROM {s}.item ORDER BY id")
    lockstep.run("ROLLBACK TO SAVEPOINT inner_one")
    lockstep.query("after its rollback", "SELECT id, name FROM {s}.item ORDER BY id")
    lockstep.run("RELEASE SAVEPOINT inner_one")
    lockstep.both("commit")
    lockstep.reads("after a commit")
    # An error ends the transaction; the client notices and rolls back.
    lockstep.both("begin")
    lockstep.run("UPDATE {s}.item SET name = 'never' WHERE id = 11")
    lockstep.failure("error in a transaction", "SELECT 1 / $1::int", [0])
    lockstep.failure("aborted transaction", "SELECT count(*) FROM {s}.item")
    lockstep.both("rollback")
    lockstep.reads("after an aborted transaction")


def session_state(lockstep):
    # Settings change answers; both of these belong to the key.
    lockstep.run("SET TIME ZONE 'Asia/Tokyo'")
    lockstep.witness.run("SET TIME ZONE 'Asia/Tokyo'", [])
    lockstep.query("another time zone", "SELECT at_zone::text FROM {s}.item ORDER BY id")
    lockstep.both("run", f"SET search_path = {lockstep.schema}", [])
    lockstep.witness.run(f"SET search_path = {lockstep.schema}", [])
    for _ in range(REPEATS):
        lockstep.query("search_path", "SELECT count(*), sum(id) FROM item")
    for setting in ("TIME ZONE DEFAULT", "search_path TO DEFAULT"):
        lockstep.run(f"SET {setting}")
        lockstep.witness.run(f"SET {setting}", [])
    lockstep.query("time zone again", "SELECT at_zone::text FROM {s}.item ORDER BY id")


def run(connect, name, extras=()):
    """All of it, RUNS times. extras are the driver's own steps, called with the lockstep."""
    lockstep = Lockstep(connect, f"drv_{name}")
    for _ in range(RUNS):
        prepare_tables(lockstep)
        lockstep.reads("at first")
        for label, text, params in WRITES[:2]:
            lockstep.run(text, params)
            lockstep.reads(f"after {label}")
        transactions(lockstep)
        for label, text, params in ERRORS:
            lockstep.failure(label, text, params)
        for extra in extras:
            extra(lockstep)
            lockstep.reads(f"after {extra.__name__}")
        session_state(lockstep)
        for label, text, params in WRITES[2:]:
            lockstep.run(text, params)
            lockstep.reads(f"after {label}")
        lockstep.run("ALTER TABLE {s}.item ADD COLUMN added int DEFAULT 7")
        # PostgreSQL refuses a prepared SELECT * whose columns have changed; applications reconnect.
        lockstep.close()
        lockstep.open()
        lockstep.reads("after a new column")
    lockstep.run("DROP SCHEMA {s} CASCADE")
    lockstep.close()
    lockstep.tally.finish()
