//! Every way in which an application writes, each setting a register to a new version.

use std::io;

use crate::oracle::POISON;
use crate::schema::Place;
use crate::wire::{self, Answer, Connection, Url};

/// How a write ended, as the client knows it.
pub(crate) enum Outcome {
    /// The register holds this now.
    Acked(i64),
    RolledBack,
    /// The connection is gone, or was left behind on purpose.
    Unknown,
    /// PostgreSQL refused; SQLSTATE and message.
    Refused(String, String),
}

pub(crate) struct Write<'a> {
    pub(crate) who: usize,
    /// The new version.
    pub(crate) n: i64,
    pub(crate) connection: &'a mut Connection,
    pub(crate) direct: &'a Url,
    /// Whether the connection has prepared its statement.
    pub(crate) prepared: &'a mut bool,
}

type Run = fn(&mut Write<'_>) -> io::Result<Outcome>;

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// How often it is chosen; what invalidates the whole database comes seldom.
    pub(crate) weight: u32,
    pub(crate) run: Run,
}

const fn kind(name: &'static str, place: Place, weight: u32, run: Run) -> Kind {
    Kind { name, place, weight, run }
}

pub(crate) const KINDS: &[Kind] = &[
    kind("update_simple", Place::Row, 12, |write| {
        write.sql("UPDATE r{w} SET v = {n} WHERE id = 1")
    }),
    kind("update_extended", Place::Row, 12, update_extended),
    kind("update_prepared", Place::Row, 12, update_prepared),
    kind("pipeline", Place::Row, 12, pipeline),
    kind("multi_statement", Place::Row, 8, |write| {
        write.sql("UPDATE r{w} SET v = {n} - 1 WHERE id = 1; UPDATE r{w} SET v = {n} WHERE id = 1; SELECT 1")
    }),
    kind("transaction", Place::Row, 12, transaction),
    kind("pipelined_block", Place::Row, 12, pipelined_block),
    kind("local_path", Place::Row, 12, |write| {
        write.sql("SET search_path = decoy")?;
        let update = "UPDATE r{w} SET v = {n} WHERE id = 1";
        let outcome = write.block(&["SET LOCAL search_path = checker", update])?;
        write.sql("SET search_path = checker")?;
        Ok(outcome)
    }),
    kind("savepoint", Place::Row, 8, savepoint),
    kind("rollback", Place::Row, 12, rollback),
    kind("failing_group", Place::Row, 8, failing_group),
    kind("trigger", Place::Row, 10, |write| write.sql("UPDATE t{w} SET v = {n} WHERE id = 1")),
    kind("cascade", Place::Cascade, 12, |write| write.sql("UPDATE p{w} SET id = {n}")),
    kind("default_function", Place::Row, 10, |write| {
        let answer =
            write.connection.simple(&write.fill("INSERT INTO df{w} DEFAULT VALUES RETURNING x"))?;
        let value = answer.first();
        Ok(outcome(answer, value.unwrap_or_default()))
    }),
    kind("writing_function", Place::Row, 10, |write| write.sql("SELECT wr{w}({n})")),
    kind("copy", Place::Row, 12, copy),
    kind("truncate", Place::Row, 8, |write| {
        write.block(&["TRUNCATE r{w}", "INSERT INTO r{w} (id, v) VALUES (1, {n})"])
    }),
    kind("insert", Place::Row, 12, |write| write.sql("INSERT INTO r{w} (v) VALUES ({n})")),
    kind("delete_insert", Place::Row, 8, |write| {
        write.block(&["DELETE FROM r{w}", "INSERT INTO r{w} (id, v) VALUES (1, {n})"])
    }),
    kind("on_conflict", Place::Row, 8, |write| {
        write.sql("INSERT INTO r{w} (id, v) VALUES (1, {n}) ON CONFLICT (id) DO UPDATE SET v = excluded.v")
    }),
    kind("merge", Place::Row, 8, |write| {
        write
            .sql("MERGE INTO r{w} r USING one ON r.id = one.x WHEN MATCHED THEN UPDATE SET v = {n}")
    }),
    kind("writing_cte", Place::Row, 8, |write| {
        write.sql("WITH u AS (UPDATE r{w} SET v = {n} WHERE id = 1 RETURNING v) SELECT v FROM u")
    }),
    kind("view", Place::Row, 10, |write| write.sql("UPDATE rv{w} SET v = {n} WHERE id = 1")),
    kind("do_block", Place::Row, 2, |write| {
        write.sql("DO $$ BEGIN UPDATE checker.r{w} SET v = {n} WHERE id = 1; END $$")
    }),
    kind("call_commits", Place::Row, 2, |write| write.sql("CALL pr{w}({n})")),
    kind("commit_inside", Place::Row, 2, |write| {
        write.sql(
            "BEGIN; UPDATE r{w} SET v = {n} WHERE id = 1; COMMIT; \
             SELECT count(*) FROM filler x, filler y, filler z",
        )
    }),
    kind("cursor", Place::Row, 10, |write| {
        write.block(&[
            "DECLARE cur CURSOR FOR SELECT v FROM r{w} WHERE id = 1 FOR UPDATE",
            "FETCH cur",
            "UPDATE r{w} SET v = {n} WHERE CURRENT OF cur",
        ])
    }),
    kind("sql_prepare", Place::Row, 10, |write| {
        write.sql("PREPARE upd AS UPDATE r{w} SET v = $1 WHERE id = 1")?;
        let outcome = write.sql("EXECUTE upd({n})")?;
        write.sql("DEALLOCATE upd")?;
        Ok(outcome)
    }),
    kind("abandon", Place::Row, 2, abandon),
    kind("kill", Place::Row, 2, kill),
    kind("rewrite", Place::Rewritten, 1, |write| {
        write.sql("ALTER TABLE d{w} ALTER v TYPE bigint USING {n}::bigint")
    }),
    kind("add_column", Place::Columns, 1, |write| {
        write.sql("ALTER TABLE a{w} ADD c{n} int DEFAULT {n}")
    }),
    kind("replace_view", Place::ViewText, 1, |write| {
        write.sql("CREATE OR REPLACE VIEW vd{w} AS SELECT {n}::bigint AS v FROM one")
    }),
    kind("replace_function", Place::FunctionText, 1, |write| {
        write.sql(
            "CREATE OR REPLACE FUNCTION f{w}() RETURNS bigint LANGUAGE sql IMMUTABLE \
             AS 'SELECT {n}::bigint'",
        )
    }),
    kind("partition_root", Place::Partitions, 8, |write| {
        write.sql("INSERT INTO pt{w} VALUES ({n})")
    }),
    kind("partition_leaf", Place::Partitions, 8, |write| {
        write.sql("INSERT INTO pd{w} VALUES ({n})")
    }),
    kind("partition_attach", Place::Partitions, 1, |write| {
        write.sql("CREATE TABLE px{w}_{n} (v bigint); INSERT INTO px{w}_{n} VALUES ({n})")?;
        write.sql("ALTER TABLE pt{w} ATTACH PARTITION px{w}_{n} FOR VALUES IN ({n})")
    }),
    kind("rename_swap", Place::Swapped, 1, |write| {
        write.block(&[
            "CREATE TABLE s{w}_new AS SELECT {n}::bigint AS v",
            "DROP TABLE s{w}",
            "ALTER TABLE s{w}_new RENAME TO s{w}",
        ])
    }),
];

fn update_extended(write: &mut Write<'_>) -> io::Result<Outcome> {
    let sql = write.fill("UPDATE r{w} SET v = $1 WHERE id = 1");
    let answer = write.connection.extended(&sql, &[&write.n.to_string()])?;
    Ok(outcome(answer, write.n))
}

fn update_prepared(write: &mut Write<'_>) -> io::Result<Outcome> {
    let mut bytes = Vec::new();
    if !*write.prepared {
        bytes = wire::parse("upd_row", &write.fill("UPDATE r{w} SET v = $1 WHERE id = 1"));
        *write.prepared = true;
    }
    bytes.extend(
        [wire::bind("upd_row", &[&write.n.to_string()]), wire::execute(), wire::sync()].concat(),
    );
    write.connection.send(&bytes)?;
    let answer = write.connection.answer()?;
    Ok(outcome(answer, write.n))
}

/// Two updates, one Sync, then a read of our own behind it in the same burst.
fn pipeline(write: &mut Write<'_>) -> io::Result<Outcome> {
    let update = write.fill("UPDATE r{w} SET v = $1 WHERE id = 1");
    let read = write.fill("SELECT max(v) FROM r{w}");
    let (before, n) = ((write.n - 1).to_string(), write.n.to_string());
    let group = [wire::extended(&update, &[&before]), wire::extended(&update, &[&n]), wire::sync()];
    let behind = [wire::extended(&read, &[]), wire::sync()];
    write.connection.send(&[group.concat(), behind.concat()].concat())?;
    let written = write.connection.answer()?;
    let answer = write.connection.answer()?;
    let answered = written.error.is_none() && answer.error.is_none();
    if answered && answer.first().is_none_or(|value| value < write.n) {
        return Err(own(format!("a pipelined read behind version {n} returned {answer:?}")));
    }
    Ok(outcome(written, write.n))
}

fn transaction(write: &mut Write<'_>) -> io::Result<Outcome> {
    write.sql("BEGIN")?;
    write.sql("SELECT max(v) FROM r{w}")?;
    write.sql("UPDATE r{w} SET v = {n} WHERE id = 1")?;
    write.reads_own(write.n)?;
    write.sql("COMMIT")
}

/// All but its end is sent before the answer to what stands in front of it has come.
fn pipelined_block(write: &mut Write<'_>) -> io::Result<Outcome> {
    let update = write.fill("UPDATE r{w} SET v = {n} WHERE id = 1");
    let pieces = ["SELECT 1", "BEGIN", &update];
    write.connection.send(&pieces.map(wire::query).concat())?;
    for _ in pieces {
        if let Some((sqlstate, message)) = write.connection.answer()?.error {
            return Err(refused(&sqlstate, &message));
        }
    }
    write.reads_own(write.n)?;
    write.sql("COMMIT")
}

fn savepoint(write: &mut Write<'_>) -> io::Result<Outcome> {
    write.sql("BEGIN")?;
    write.sql("UPDATE r{w} SET v = {n} WHERE id = 1")?;
    write.sql("SAVEPOINT a")?;
    write.sql("UPDATE r{w} SET v = {poison} WHERE id = 1")?;
    write.reads_own(write.poison())?;
    write.sql("ROLLBACK TO a")?;
    write.reads_own(write.n)?;
    write.sql("COMMIT")
}

fn rollback(write: &mut Write<'_>) -> io::Result<Outcome> {
    write.sql("BEGIN")?;
    write.sql("UPDATE r{w} SET v = {poison} WHERE id = 1")?;
    write.reads_own(write.poison())?;
    let end = write.sql("ROLLBACK")?;
    Ok(if matches!(end, Outcome::Acked(_)) { Outcome::RolledBack } else { end })
}

fn failing_group(write: &mut Write<'_>) -> io::Result<Outcome> {
    let update = write.fill("UPDATE r{w} SET v = {poison} WHERE id = 1");
    let fail = wire::extended("SELECT 1 / 0", &[]);
    write.connection.send(&[wire::extended(&update, &[]), fail, wire::sync()].concat())?;
    let answer = write.connection.answer()?;
    Ok(match answer.sqlstate() {
        Some("22012") => Outcome::RolledBack,
        _ => outcome(answer, write.n),
    })
}

fn copy(write: &mut Write<'_>) -> io::Result<Outcome> {
    let begun = write.connection.simple(&write.fill("COPY r{w} (v) FROM STDIN"))?;
    if begun.error.is_some() {
        return Ok(outcome(begun, write.n));
    }
    write.connection.send(&wire::copy_data(&format!("{}\n", write.n)))?;
    let answer = write.connection.answer()?;
    Ok(outcome(answer, write.n))
}

/// Sends a write and never reads the answer; it may happen now, later or not at all, and must not
/// undo a later one when it does.
fn abandon(write: &mut Write<'_>) -> io::Result<Outcome> {
    let sql = write.fill("UPDATE r{w} SET v = {n} WHERE id = 1 AND v < {n}");
    write.connection.send(&wire::query(&sql))?;
    Ok(Outcome::Unknown)
}

/// The server process is killed while it commits.
fn kill(write: &mut Write<'_>) -> io::Result<Outcome> {
    write.sql("BEGIN")?;
    write.sql("UPDATE r{w} SET v = {n} WHERE id = 1 AND v < {n}")?;
    let answer = write.connection.simple("SELECT pg_backend_pid()")?;
    let pid = answer.first();
    if answer.error.is_some() {
        return Ok(outcome(answer, write.n));
    }
    let mut killer = Connection::open(write.direct)?;
    let terminate = format!("SELECT pg_terminate_backend({})", pid.unwrap_or_default());
    write.connection.send(&wire::query("COMMIT"))?;
    killer.simple(&terminate)?;
    let answer = write.connection.answer()?;
    Ok(match answer.error {
        Some(_) => Outcome::Unknown,
        None => outcome(answer, write.n),
    })
}

impl Write<'_> {
    fn poison(&self) -> i64 {
        POISON + self.n
    }

    fn fill(&self, sql: &str) -> String {
        sql.replace("{w}", &self.who.to_string())
            .replace("{n}", &self.n.to_string())
            .replace("{poison}", &self.poison().to_string())
    }

    /// One simple Query. A refusal ends the write.
    fn sql(&mut self, sql: &str) -> io::Result<Outcome> {
        let answer = self.connection.simple(&self.fill(sql))?;
        match answer.error {
            Some((sqlstate, message)) => Err(refused(&sqlstate, &message)),
            None => Ok(outcome(answer, self.n)),
        }
    }

    fn block(&mut self, statements: &[&str]) -> io::Result<Outcome> {
        self.sql("BEGIN")?;
        for sql in statements {
            self.sql(sql)?;
        }
        self.sql("COMMIT")
    }

    /// Inside a transaction that wrote, the register holds exactly what we wrote.
    fn reads_own(&mut self, expected: i64) -> io::Result<()> {
        let answer = self.connection.simple(&self.fill("SELECT max(v) FROM r{w}"))?;
        match (&answer.error, answer.first()) {
            (Some((sqlstate, message)), _) => Err(refused(sqlstate, message)),
            (None, Some(value)) if value == expected => Ok(()),
            (None, _) => {
                Err(own(format!("wrote {expected} in this transaction and read {answer:?}")))
            }
        }
    }
}

fn outcome(answer: Answer, n: i64) -> Outcome {
    match answer.error {
        Some((sqlstate, message)) => Outcome::Refused(sqlstate, message),
        None => Outcome::Acked(n),
    }
}

/// A refusal on its way out of a write of several statements; `main` takes it apart again.
fn refused(sqlstate: &str, message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{sqlstate} {message}"))
}

/// A client did not see its own writes.
fn own(story: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, story)
}
