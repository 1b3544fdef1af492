//! One look at a database: whether what was lost there is gone, whether sessions begin as before, and
//! whether its catalogue has changed behind our back, which is read then.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::coherence::Scope;
use crate::cache::home::Home;
use crate::server::base::defaults_changed;
use crate::server::io::{Connection, Rows, ServerError};
use crate::sql::catalog::{Catalog, FINGERPRINT_QUERY, SETUP_QUERIES, SNAPSHOT_QUERIES};

use super::lost::{self, Backend};
use super::{Seen, Service, ask, place};

/// Settings of roles and of this database, and when PostgreSQL has last read its files.
const DEFAULTS_QUERY: &str = "SELECT concat_ws(' ', pg_conf_load_time(), \
     (SELECT hashtextextended(string_agg(concat_ws('|', setdatabase, setrole, setconfig), ',' \
      ORDER BY setdatabase, setrole), 0) FROM pg_db_role_setting WHERE setdatabase IN \
      (0, (SELECT oid FROM pg_database WHERE datname = current_database()))))";

impl Service {
    pub(super) async fn round(
        &self,
        connection: &mut Connection,
        answers: &mut Vec<Rows>,
        seen: &mut Seen,
    ) -> Result<(), ServerError> {
        if self.missing.count() > 0 {
            self.look_for_lost(connection).await?;
        }
        let home = &Arc::clone(&connection.server.home);
        self.look_at_defaults(connection, &mut seen.defaults).await?;
        let snapshot = self.database.snapshot();
        if !Arc::ptr_eq(&snapshot.home, home) {
            // The pool's servers are of another database by now; we have to be, too.
            return Err(ServerError::Closed);
        }
        if snapshot.catalog.is_some() {
            let now = first_value(&ask(connection, &[FINGERPRINT_QUERY]).await?, 0);
            if now == seen.fingerprint && now.is_some() {
                return Ok(());
            }
            tracing::info!(database = %self.database.name, "catalogue changed elsewhere");
            self.database.catalog_changed(home);
            home.invalidate(&Scope::Database);
        }
        self.load(connection, answers, home, &mut seen.fingerprint).await
    }

    /// Whether sessions that begin now begin as those did that began before.
    async fn look_at_defaults(
        &self,
        connection: &mut Connection,
        known: &mut Option<String>,
    ) -> Result<(), ServerError> {
        let now = first_value(&ask(connection, &[DEFAULTS_QUERY]).await?, 0);
        if known.is_some() && *known != now {
            tracing::info!(database = %self.database.name, "defaults of sessions changed");
            defaults_changed();
        }
        *known = now;
        Ok(())
    }

    /// `answers` holds those to `SETUP_QUERIES`, before and after.
    async fn load(
        &self,
        connection: &mut Connection,
        answers: &mut Vec<Rows>,
        home: &Arc<Home>,
        fingerprint: &mut Option<String>,
    ) -> Result<(), ServerError> {
        let generation = self.database.snapshot().generation;
        let began = Instant::now();
        let opening = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", FINGERPRINT_QUERY];
        let questions = [&opening, SNAPSHOT_QUERIES, &["COMMIT"]].concat();
        let mut heard = ask(connection, &questions).await?;
        let asked = began.elapsed();
        heard.pop();
        let now = first_value(&heard, 1);
        answers.extend(heard.into_iter().skip(opening.len()));
        let built = Catalog::build(answers);
        answers.truncate(SETUP_QUERIES.len());
        match built {
            Ok(catalog) => {
                if let Some(redis) = &self.cache.redis {
                    // Before anything is judged by it.
                    redis.judged_by(self.database.id, now.as_deref());
                }
                // Refused if DDL came between; then we are woken again.
                if self.database.install(generation, home, catalog) {
                    *fingerprint = now;
                    tracing::debug!(
                        database = %self.database.name,
                        asked_ms = asked.as_millis(),
                        built_ms = began.elapsed().saturating_sub(asked).as_millis(),
                        "catalogue read"
                    );
                } else {
                    self.wake.notify_one();
                }
            }
            Err(error) => {
                // Nothing is cached until it can be read; the next round tries again.
                tracing::error!(database = %self.database.name, ?error, "catalogue not understood");
            }
        }
        Ok(())
    }

    async fn look_for_lost(&self, connection: &mut Connection) -> Result<(), ServerError> {
        let asked_at = Instant::now();
        let rows = ask(connection, &[lost::QUERY]).await?;
        let backends: Vec<Backend> =
            rows.iter().flatten().filter_map(|row| Backend::read(row)).collect();
        let place = place(&connection.server);
        self.settle(self.missing.take_gone(place, &backends, asked_at));
        self.settle_old(Some(place));
        Ok(())
    }
}

fn first_value(answers: &[Rows], question: usize) -> Option<String> {
    answers.get(question)?.first()?.first()?.clone()
}
