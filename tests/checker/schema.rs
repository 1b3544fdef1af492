//! The tables, and the registers that clients read through them. Each writer owns one set.

use std::io;

use crate::oracle::Register;
use crate::wire::{Connection, Url};

/// Which part of an answer is the register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    Value,
    /// How many columns `SELECT *` has.
    Columns,
}

/// Index into the registers of one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Row,
    Cascade,
    Columns,
    Rewritten,
    ViewText,
    FunctionText,
    Partitions,
    Swapped,
}

pub(crate) const PLACES: [Place; 8] = [
    Place::Row,
    Place::Cascade,
    Place::Columns,
    Place::Rewritten,
    Place::ViewText,
    Place::FunctionText,
    Place::Partitions,
    Place::Swapped,
];

/// A register and the statements that read it.
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) texts: Vec<String>,
    /// Takes tens of milliseconds, so that writes overlap it; cacheable as the others are.
    pub(crate) slow: String,
    /// Never cached.
    pub(crate) uncached: String,
    pub(crate) shows: Shows,
    pub(crate) register: Register,
}

impl Cell {
    pub(crate) fn new(table: &str, shows: Shows) -> Self {
        let texts = match shows {
            Shows::Columns => vec![format!("SELECT * FROM {table}")],
            Shows::Value => vec![
                format!("SELECT max(v) FROM {table}"),
                format!("SELECT v FROM {table} ORDER BY v DESC LIMIT 1"),
                format!(
                    "SELECT x.v FROM {table} x WHERE x.v = (SELECT max(v) FROM {table}) LIMIT 1"
                ),
            ],
        };
        let slow = match shows {
            Shows::Columns => {
                format!("SELECT * FROM {table}, (SELECT FROM filler x, filler y LIMIT 1) z")
            }
            Shows::Value => {
                format!(
                    "SELECT max({table}.v), count(*) FROM {table}, filler x, filler y, filler z"
                )
            }
        };
        let uncached = match shows {
            Shows::Columns => format!("SELECT * FROM {table} WHERE clock_timestamp() IS NOT NULL"),
            Shows::Value => format!("SELECT max(v), clock_timestamp() FROM {table}"),
        };
        Self { name: table.to_owned(), texts, slow, uncached, shows, register: Register::default() }
    }

    fn of_function(name: &str) -> Self {
        let mut cell = Self::new(name, Shows::Value);
        cell.texts = vec![format!("SELECT {name}() AS v FROM one"), format!("SELECT {name}()")];
        cell.slow =
            format!("SELECT max({name}()), count(*) FROM one, filler x, filler y, filler z");
        cell.uncached = format!("SELECT {name}(), clock_timestamp() FROM one");
        cell
    }
}

/// The registers of writer `who`, in the order of `PLACES`.
pub(crate) fn cells(who: usize) -> Vec<Cell> {
    PLACES
        .iter()
        .map(|place| match place {
            Place::Row => {
                let mut cell = Cell::new(&format!("r{who}"), Shows::Value);
                cell.texts.push(format!("SELECT max(v) FROM rv{who}"));
                cell
            }
            Place::Cascade => Cell::new(&format!("c{who}"), Shows::Value),
            Place::Columns => Cell::new(&format!("a{who}"), Shows::Columns),
            Place::Rewritten => Cell::new(&format!("d{who}"), Shows::Value),
            Place::ViewText => Cell::new(&format!("vd{who}"), Shows::Value),
            Place::FunctionText => Cell::of_function(&format!("f{who}")),
            Place::Partitions => Cell::new(&format!("pt{who}"), Shows::Value),
            Place::Swapped => Cell::new(&format!("s{who}"), Shows::Value),
        })
        .collect()
}

/// Creates everything in a schema of its own, directly on PostgreSQL.
pub(crate) fn create(direct: &Url, writers: usize) -> io::Result<()> {
    let mut connection = Connection::open(direct)?;
    let mut script = String::from(COMMON);
    for who in 0..writers {
        script.push_str(&OF_WRITER.replace("{w}", &who.to_string()));
    }
    for tenant in 0..TENANTS {
        script.push_str(&OF_TENANT.replace("{tenant}", &tenant.to_string()));
    }
    for number in 0..EMPTIED {
        script.push_str(&EMPTIED_TABLE.replace("{number}", &number.to_string()));
    }
    match connection.simple(&script)?.error {
        Some(error) => Err(io::Error::other(format!("cannot create the tables: {error:?}"))),
        None => Ok(()),
    }
}

pub(crate) const TENANTS: i64 = 4;

/// Tables truncated together: their files are removed after the commit is visible and before it
/// is acknowledged, which makes that window milliseconds wide.
pub(crate) const EMPTIED: usize = 60;

const EMPTIED_TABLE: &str = "CREATE TABLE emptied{number} (x int PRIMARY KEY, y text);";

const OF_TENANT: &str = "
    DROP SCHEMA IF EXISTS tenant_{tenant} CASCADE;
    CREATE SCHEMA tenant_{tenant};
    CREATE TABLE tenant_{tenant}.items (v bigint);
    INSERT INTO tenant_{tenant}.items VALUES ({tenant} * 1000000);
";

const COMMON: &str = "
    DROP SCHEMA IF EXISTS checker, decoy CASCADE;
    CREATE SCHEMA checker; CREATE SCHEMA decoy;
    SET search_path TO checker;
    CREATE TABLE filler (x int);
    INSERT INTO filler SELECT generate_series(1, 38);
    CREATE TABLE one (x int);
    INSERT INTO one VALUES (1);
    CREATE TABLE stamp (id int PRIMARY KEY, v bigint); INSERT INTO stamp VALUES (1, 0);
    CREATE TABLE pipe (id int PRIMARY KEY, v bigint); INSERT INTO pipe VALUES (1, 0);
    CREATE TABLE gate (x int); INSERT INTO gate VALUES (1);
    CREATE TABLE flight (id int PRIMARY KEY, v bigint); INSERT INTO flight VALUES (1, 0);
    CREATE TABLE apart (id int PRIMARY KEY, v bigint); INSERT INTO apart VALUES (1, 0);
    CREATE TABLE bustle (id int PRIMARY KEY, v bigint); INSERT INTO bustle VALUES (1, 0);
    CREATE TABLE landing (id int PRIMARY KEY, v bigint); INSERT INTO landing VALUES (1, 0);
    CREATE TABLE runway (x int); INSERT INTO runway VALUES (1);
    CREATE TABLE many (id int PRIMARY KEY, v bigint); INSERT INTO many VALUES (1, 0);
    CREATE TABLE shadow (v bigint); INSERT INTO shadow VALUES (1);
    CREATE TABLE secret (v bigint); INSERT INTO secret VALUES (1);
    CREATE TABLE door (v bigint); INSERT INTO door VALUES (1);
    CREATE TABLE owned (owner text, v bigint);
    INSERT INTO owned VALUES ('checker_none', 1), ('checker_door', 2);
    ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON owned USING (owner = current_user);
    DO $$ BEGIN CREATE ROLE checker_none; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    DO $$ BEGIN CREATE ROLE checker_door; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    GRANT USAGE ON SCHEMA checker TO checker_none, checker_door;
    GRANT SELECT ON owned TO checker_none, checker_door;
    GRANT SELECT ON door TO checker_door;
";

/// Each kind of write finds here what it needs; all of it ends in one of the registers.
const OF_WRITER: &str = "
    CREATE TABLE r{w} (id serial PRIMARY KEY, v bigint NOT NULL);
    CREATE TABLE decoy.r{w} AS SELECT 1 AS id, 0::bigint AS v;
    INSERT INTO r{w} (v) VALUES (0);
    CREATE VIEW rv{w} AS SELECT id, v FROM r{w};
    CREATE TABLE t{w} (id int PRIMARY KEY, v bigint);
    INSERT INTO t{w} VALUES (1, 0);
    CREATE FUNCTION tr{w}() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE checker.r{w} SET v = NEW.v WHERE id = 1; RETURN NEW; END';
    CREATE TRIGGER tr AFTER UPDATE ON t{w} FOR EACH ROW EXECUTE FUNCTION tr{w}();
    CREATE TABLE p{w} (id bigint PRIMARY KEY);
    INSERT INTO p{w} VALUES (0);
    CREATE TABLE c{w} (v bigint REFERENCES p{w} (id) ON UPDATE CASCADE);
    INSERT INTO c{w} VALUES (0);
    CREATE FUNCTION wr{w}(n bigint) RETURNS bigint LANGUAGE plpgsql AS
        'BEGIN UPDATE checker.r{w} SET v = n WHERE id = 1; RETURN n; END';
    CREATE FUNCTION nx{w}() RETURNS bigint LANGUAGE plpgsql AS
        'DECLARE n bigint; BEGIN SELECT max(v) + 1 FROM checker.r{w} INTO n;
         UPDATE checker.r{w} SET v = n WHERE id = 1; RETURN n; END';
    CREATE TABLE df{w} (x bigint DEFAULT checker.nx{w}());
    CREATE PROCEDURE pr{w}(n bigint) LANGUAGE plpgsql AS
        'BEGIN UPDATE checker.r{w} SET v = n - 1 WHERE id = 1; COMMIT;
         UPDATE checker.r{w} SET v = n WHERE id = 1; COMMIT;
         PERFORM count(*) FROM checker.filler x, checker.filler y, checker.filler z; END';
    CREATE TABLE a{w} (first int);
    INSERT INTO a{w} VALUES (1);
    CREATE TABLE d{w} (id int, v bigint);
    INSERT INTO d{w} VALUES (1, 0);
    CREATE VIEW vd{w} AS SELECT 0::bigint AS v FROM one;
    CREATE FUNCTION f{w}() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 0::bigint';
    CREATE TABLE pt{w} (v bigint) PARTITION BY LIST (v);
    CREATE TABLE px{w}_0 PARTITION OF pt{w} FOR VALUES IN (0);
    INSERT INTO pt{w} VALUES (0);
    CREATE TABLE pd{w} PARTITION OF pt{w} DEFAULT;
    CREATE TABLE s{w} (v bigint);
    INSERT INTO s{w} VALUES (0);
";
