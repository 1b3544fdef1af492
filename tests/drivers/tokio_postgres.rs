//! tokio-postgres in lockstep: through Forebay, on a twin database, and directly for reads outside
//! transactions. Answers are compared as bytes. Prepared statements, pipelines, portals,
//! savepoints, cancellation and errors; COPY is left to the other drivers, since its streams would
//! need a dependency of their own here.
#![expect(clippy::print_stdout, reason = "the runner reads the count of answers")]

use std::error::Error;
use std::time::{Duration, SystemTime};

use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage};

const REPEATS: usize = 5;
const RUNS: usize = 2;

type Failure = Box<dyn Error + Send + Sync>;
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

const TABLES: &str = "
    DROP SCHEMA IF EXISTS drv_tokio CASCADE;
    CREATE SCHEMA drv_tokio;
    CREATE TABLE drv_tokio.item (id int PRIMARY KEY, big int8, real8 float8, name text, flag bool,
        raw bytea, at timestamptz, numbers int[]);
    CREATE TABLE drv_tokio.line (id serial PRIMARY KEY,
        item int REFERENCES drv_tokio.item ON DELETE CASCADE, quantity int);";

/// A value as PostgreSQL sent it, whatever its type.
#[derive(Debug, PartialEq)]
struct Raw(Option<Vec<u8>>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Self(Some(raw.to_vec())))
    }
    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self(None))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value with its column's name and type.
type Cell = (String, u32, Raw);

/// Rows as a client sees them.
fn visible(rows: &[Row]) -> Result<Vec<Vec<Cell>>, tokio_postgres::Error> {
    rows.iter()
        .map(|row| {
            let columns = row.columns().iter().enumerate();
            columns
                .map(|(index, column)| {
                    let value: Raw = row.try_get(index)?;
                    Ok((column.name().to_owned(), column.type_().oid(), value))
                })
                .collect()
        })
        .collect()
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its errors reach the client's own calls, which report them.
    tokio::spawn(connection);
    Ok(client)
}

/// `postgres://…/app?…` to `postgres://…/app_twin?…`.
fn twin_of(url: &str) -> String {
    match url.split_once('?') {
        Some((base, options)) => format!("{base}_twin?{options}"),
        None => format!("{url}_twin"),
    }
}

struct Lockstep {
    ours: Client,
    twin: Client,
    now: Client,
    in_transaction: bool,
    answers: usize,
}

impl Lockstep {
    async fn open() -> Result<Self, Failure> {
        let direct = std::env::var("DIRECT_URL")?;
        let twin = std::env::var("TWIN_URL").unwrap_or_else(|_| twin_of(&direct));
        Ok(Self {
            ours: connect(&std::env::var("FOREBAY_URL")?).await?,
            twin: connect(&twin).await?,
            now: connect(&direct).await?,
            in_transaction: false,
            answers: 0,
        })
    }

    fn same<T: PartialEq + std::fmt::Debug>(
        &mut self,
        label: &str,
        ours: &T,
        theirs: &T,
    ) -> Result<(), Failure> {
        self.answers += 1;
        if ours == theirs {
            return Ok(());
        }
        Err(format!("DIFFERENT {label}:\n  Forebay:    {ours:?}\n  PostgreSQL: {theirs:?}").into())
    }

    async fn batch(&mut self, sql: &str) -> Result<(), Failure> {
        self.ours.batch_execute(sql).await?;
        self.twin.batch_execute(sql).await?;
        match sql {
            "BEGIN" => self.in_transaction = true,
            "COMMIT" | "ROLLBACK" => self.in_transaction = false,
            _ => {}
        }
        Ok(())
    }

    async fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<(), Failure> {
        let ours = self.ours.execute(sql, params).await?;
        let theirs = self.twin.execute(sql, params).await?;
        self.same(sql, &ours, &theirs)
    }

    async fn query(&mut self, sql: &str, params: Params<'_>) -> Result<(), Failure> {
        let ours = visible(&self.ours.query(sql, params).await?)?;
        let twin = visible(&self.twin.query(sql, params).await?)?;
        self.same(sql, &ours, &twin)?;
        if !self.in_transaction {
            let now = visible(&self.now.query(sql, params).await?)?;
            self.same(&format!("{sql}, now"), &ours, &now)?;
        }
        Ok(())
    }

    async fn simple(&mut self, sql: &str) -> Result<(), Failure> {
        let ours = texts(&self.ours.simple_query(sql).await?);
        let twin = texts(&self.twin.simple_query(sql).await?);
        self.same(sql, &ours, &twin)
    }

    async fn error(&mut self, sql: &str, params: Params<'_>) -> Result<(), Failure> {
        let ours = self.ours.query(sql, params).await.err();
        let twin = self.twin.query(sql, params).await.err();
        let code = |error: Option<tokio_postgres::Error>| {
            error.and_then(|error| {
                error.as_db_error().map(|error| (error.code().clone(), error.message().to_owned()))
            })
        };
        let (ours, twin) = (code(ours), code(twin));
        if ours.is_none() {
            return Err(format!("{sql} did not fail as it must").into());
        }
        self.same(&format!("error of {sql}"), &ours, &twin)
    }

    async fn reads(&mut self) -> Result<(), Failure> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_500);
        for _ in 0..REPEATS {
            self.query("SELECT * FROM drv_tokio.item ORDER BY id", &[]).await?;
            for id in [1_i32, 4, 99] {
                self.query("SELECT name, flag FROM drv_tokio.item WHERE id = $1", &[&id]).await?;
            }
            self.query(
                "SELECT i.name, l.quantity FROM drv_tokio.item i JOIN drv_tokio.line l ON l.item = i.id
                 WHERE l.quantity > $1 ORDER BY l.id",
                &[&4_i32],
            )
            .await?;
            self.query(
                "SELECT flag, count(*), sum(big) FROM drv_tokio.item GROUP BY flag ORDER BY flag",
                &[],
            )
            .await?;
            self.query(
                "SELECT id FROM drv_tokio.item WHERE id = ANY($1) ORDER BY id",
                &[&vec![1_i32, 2, 8]],
            )
            .await?;
            self.query("SELECT id FROM drv_tokio.item WHERE real8 < $1 ORDER BY id", &[&1.5_f64])
                .await?;
            self.query("SELECT id FROM drv_tokio.item WHERE raw = $1", &[&vec![0_u8, 7, 255]])
                .await?;
            self.query("SELECT id, at FROM drv_tokio.item WHERE at < $1 ORDER BY id", &[&at])
                .await?;
            self.query("SELECT id FROM drv_tokio.item WHERE name = $1", &[&None::<String>]).await?;
            self.simple("SELECT sum(quantity) FROM drv_tokio.line").await?;
            self.simple("SELECT count(*) FROM drv_tokio.line; SELECT max(id) FROM drv_tokio.item")
                .await?;
        }
        Ok(())
    }
}

/// The answer to a simple query: rows as text, and each statement's count.
fn texts(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => (0..row.len())
            .map(|index| format!("{:?}", row.get(index)))
            .collect::<Vec<_>>()
            .join("|"),
        SimpleQueryMessage::CommandComplete(count) => format!("{count} rows"),
        // The enum may grow: whatever comes is compared as it prints.
        other @ (SimpleQueryMessage::RowDescription(_) | _) => format!("{other:?}"),
    };
    messages.iter().map(text).collect()
}

async fn fill(lockstep: &mut Lockstep) -> Result<(), Failure> {
    lockstep.batch(TABLES).await?;
    for n in 1..=12_i32 {
        let at =
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::try_from(n)? * 100);
        let raw = vec![0, u8::try_from(n)?, 255];
        lockstep
            .execute(
                "INSERT INTO drv_tokio.item VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &n,
                    &(i64::from(n) << 40),
                    &(f64::from(n) / 3.0),
                    &format!("näme '{n}'"),
                    &(n % 2 == 0),
                    &raw,
                    &at,
                    &vec![n, -n],
                ],
            )
            .await?;
        lockstep
            .execute("INSERT INTO drv_tokio.line (item, quantity) VALUES ($1, $2)", &[&n, &(n * 2)])
            .await?;
    }
    Ok(())
}

async fn transactions(lockstep: &mut Lockstep) -> Result<(), Failure> {
    lockstep.batch("BEGIN").await?;
    lockstep.reads().await?;
    lockstep.execute("UPDATE drv_tokio.item SET big = 0 WHERE id = $1", &[&3_i32]).await?;
    lockstep.reads().await?;
    lockstep.batch("SAVEPOINT one").await?;
    lockstep.execute("DELETE FROM drv_tokio.line", &[]).await?;
    lockstep.batch("ROLLBACK TO SAVEPOINT one").await?;
    lockstep.reads().await?;
    lockstep.batch("ROLLBACK").await?;
    lockstep.reads().await?;
    lockstep.batch("BEGIN").await?;
    lockstep.execute("UPDATE drv_tokio.item SET name = 'kept' WHERE id = $1", &[&4_i32]).await?;
    lockstep.batch("COMMIT").await?;
    lockstep.reads().await?;
    lockstep.batch("BEGIN").await?;
    lockstep.error("SELECT 1 / $1", &[&0_i32]).await?;
    lockstep.error("SELECT count(*) FROM drv_tokio.item", &[]).await?;
    lockstep.batch("ROLLBACK").await?;
    lockstep.error("INSERT INTO drv_tokio.item (id) VALUES ($1)", &[&1_i32]).await?;
    lockstep.error("SELECT * FROM drv_tokio.missing", &[]).await?;
    lockstep.error("SELEKT 1", &[]).await
}

/// A statement prepared once, used between writes that change its answer.
async fn prepared(lockstep: &mut Lockstep) -> Result<(), Failure> {
    let sql = "SELECT sum(quantity), count(*) FROM drv_tokio.line WHERE item > $1";
    let ours = lockstep.ours.prepare(sql).await?;
    let twin = lockstep.twin.prepare(sql).await?;
    for round in 0..REPEATS {
        for item in [0_i32, 3, 0, 3] {
            let mine = visible(&lockstep.ours.query(&ours, &[&item]).await?)?;
            let theirs = visible(&lockstep.twin.query(&twin, &[&item]).await?)?;
            lockstep.same(&format!("prepared, round {round}"), &mine, &theirs)?;
        }
        lockstep
            .execute("UPDATE drv_tokio.line SET quantity = quantity + 1 WHERE item = $1", &[&5_i32])
            .await?;
    }
    Ok(())
}

/// Requests sent before the answers to earlier ones: each is answered as of its place.
async fn pipelined(lockstep: &mut Lockstep) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for client in [&lockstep.ours, &lockstep.twin] {
        let read =
            client.prepare("SELECT sum(quantity) FROM drv_tokio.line WHERE item > $1").await?;
        let write = client
            .prepare("UPDATE drv_tokio.line SET quantity = quantity + 1 WHERE item > $1")
            .await?;
        let from: Params<'_> = &[&2_i32];
        let (first, second, _, third, _, fourth) = tokio::try_join!(
            client.query(&read, from),
            client.query(&read, from),
            client.execute(&write, from),
            client.query(&read, from),
            client.execute(&write, from),
            client.query(&read, from),
        )?;
        let mut answers = Vec::new();
        for rows in [first, second, third, fourth] {
            answers.push(visible(&rows)?);
        }
        seen.push(answers);
    }
    let twin = seen.pop();
    let ours = seen.pop();
    lockstep.same("pipeline", &ours, &twin)
}

/// A portal read in parts: Execute with a row limit.
async fn portals(lockstep: &mut Lockstep) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for client in [&mut lockstep.ours, &mut lockstep.twin] {
        let transaction = client.transaction().await?;
        let portal = transaction
            .bind("SELECT id, name FROM drv_tokio.item WHERE id > $1 ORDER BY id", &[&2_i32])
            .await?;
        let mut parts = Vec::new();
        for rows_max in [3, 2, 0] {
            parts.push(visible(&transaction.query_portal(&portal, rows_max).await?)?);
        }
        transaction.commit().await?;
        seen.push(parts);
    }
    let twin = seen.pop();
    let ours = seen.pop();
    lockstep.same("portal in parts", &ours, &twin)
}

/// A cancel request reaches the statement it was meant for.
async fn cancelled(lockstep: &mut Lockstep) -> Result<(), Failure> {
    let token = lockstep.ours.cancel_token();
    let marker = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(20)'";
    let sleeping = lockstep.ours.batch_execute("SELECT pg_sleep(20)");
    let cancelling = async {
        // Until the server runs it; earlier there would be nothing to cancel.
        while lockstep.now.query_one(marker, &[]).await?.try_get::<_, i64>(0)? == 0 {
            tokio::task::yield_now().await;
        }
        token.cancel_query(NoTls).await
    };
    let (slept, asked) = tokio::join!(sleeping, cancelling);
    asked?;
    let ended = format!("{slept:?}");
    lockstep.same("cancelled", &ended.contains("E57014"), &true).map_err(|_different| ended.into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut lockstep = Lockstep::open().await?;
    for _ in 0..RUNS {
        fill(&mut lockstep).await?;
        lockstep.reads().await?;
        transactions(&mut lockstep).await?;
        prepared(&mut lockstep).await?;
        pipelined(&mut lockstep).await?;
        portals(&mut lockstep).await?;
        cancelled(&mut lockstep).await?;
        lockstep.reads().await?;
        lockstep.execute("DELETE FROM drv_tokio.item WHERE id = $1", &[&2_i32]).await?;
        lockstep.reads().await?;
    }
    lockstep.batch("DROP SCHEMA drv_tokio CASCADE").await?;
    println!("answers {}", lockstep.answers);
    Ok(())
}
