//! Asks PostgreSQL about statements that names alone do not decide, on the service's connection: one
//! at a time, a few a second, none of which runs. What cannot be asked stays as it was judged.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::pool::analysis::Waiting;
use crate::pool::database::Database;
use crate::server::io::{Connection, Rows, ServerError};
use crate::sql::analysis::{MAY_ASK_QUERY, PARAMETERS_QUERY, conclude};

/// Between two questions. Each leaves about fifteen dead rows in catalogues.
const PAUSE: Duration = Duration::from_millis(250);

/// PostgreSQL has its own limits for these; beyond them the connection is dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Analyst<'a> {
    database: &'a Database,
    cache: &'a Cache,
    /// As whom the connection is logged in: what others may see is not asked about.
    user: String,
    added: Arc<Notify>,
    asked_at: Instant,
}

impl<'a> Analyst<'a> {
    /// Finds out whether this connection may ask.
    pub async fn begin(
        connection: &mut Connection,
        user: String,
        database: &'a Database,
        cache: &'a Cache,
    ) -> Result<Self, ServerError> {
        let rows = ask(connection, MAY_ASK_QUERY).await?;
        let row = rows.first().and_then(|rows| rows.first());
        let value = |column: usize| row.and_then(|row| row.get(column)?.as_deref());
        database.analysis.set_usable(value(0) == Some("f") && value(1) == Some("t"));
        let added = Arc::new(Notify::new());
        let waker = Arc::clone(&added);
        database.analysis.added.on_raise(Box::new(move || waker.notify_one()));
        Ok(Self { database, cache, user, added, asked_at: Instant::now() })
    }

    /// Resolves when there is a question, and its time has come. Cancel-safe.
    pub async fn due(&self) {
        while self.database.analysis.is_empty() {
            self.added.notified().await;
        }
        tokio::time::sleep_until(self.asked_at + PAUSE).await;
    }

    /// Asks about the next statement.
    pub async fn answer(&mut self, connection: &mut Connection) -> Result<(), ServerError> {
        let Some(waiting) = self.database.analysis.next() else { return Ok(()) };
        let snapshot = self.database.snapshot();
        let counters = &self.cache.analysis.counters;
        let catalog = snapshot.catalog.as_ref().filter(|catalog| !catalog.event_triggers());
        let Some(catalog) = catalog
            .filter(|_| snapshot.generation == waiting.generation && self.user == waiting.user)
        else {
            counters.skipped.one();
            return Ok(());
        };
        self.asked_at = Instant::now();
        counters.asked.one();
        let tree = match tree(connection, &waiting).await {
            Ok(tree) => tree,
            // Refused, or not in time. Whoever sends it hears of it, if it is a mistake.
            Err(ServerError::Query { .. }) => None,
            Err(error) => return Err(error),
        };
        ask(connection, "ROLLBACK").await?;
        ask(connection, "DEALLOCATE ALL").await?;
        if tree.is_none() {
            counters.failed.one();
        }
        let under = (&**catalog, &*snapshot.restrictions);
        let verdict =
            tree.and_then(|(view, tree)| conclude(view, &tree, under, &waiting.known.verdict));
        if verdict.is_some() {
            counters.decided.one();
        }
        self.database.decide(&waiting.known, verdict);
        Ok(())
    }
}

/// The view over the statement, in a transaction that is left open.
async fn tree(
    connection: &mut Connection,
    waiting: &Waiting,
) -> Result<Option<(u32, String)>, ServerError> {
    let question = &waiting.question;
    let declared = match question.declared() {
        Some(sql) => first_column(ask(connection, &sql).await?),
        None => Vec::new(),
    };
    ask(connection, &question.opening(&declared)).await?;
    let types = first_column(ask(connection, PARAMETERS_QUERY).await?);
    let Some(view) = question.view(&types) else { return Ok(None) };
    let answers = ask(connection, &view).await?;
    let row = answers.into_iter().flatten().next_back();
    let mut values = row.into_iter().flatten().flatten();
    Ok(values.next().and_then(|id| id.parse().ok()).zip(values.next()))
}

fn first_column(answers: Vec<Rows>) -> Vec<String> {
    answers.into_iter().flatten().filter_map(|row| row.into_iter().next()?).collect()
}

async fn ask(connection: &mut Connection, sql: &str) -> Result<Vec<Rows>, ServerError> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, connection.query(sql)).await;
    answer.unwrap_or(Err(ServerError::Closed))
}
