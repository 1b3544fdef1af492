//! `auth_query`: asks PostgreSQL for the secret of a user that no file lists, as `auth_user`, over
//! connections that no client ever has. Nothing it says is kept: it is asked at each log-in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Secret;
use crate::server::io::{Connection, Rows, ServerError, Target};
use crate::server::start::Start;

/// Questions to one database at a time; further log-ins wait, as long as `client_login_timeout`.
const QUESTIONS_MAX: usize = 8;

/// Where, and as whom.
type Key = (String, String, String);

#[derive(Default)]
pub struct AuthQueries {
    /// Guards the connections' homes; a home's own lock may be taken inside.
    desks: Mutex<HashMap<Key, Arc<Desk>>>,
    /// Guards how many have a turn at each place; nothing else is locked inside.
    asking: Mutex<HashMap<(String, String), usize>>,
}

/// The right to ask one question, over one connection.
pub struct Turn<'a> {
    queries: &'a AuthQueries,
    place: (String, String),
    desk: Arc<Desk>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut asking = self.queries.lock_asking();
        if let Entry::Occupied(mut here) = asking.entry(self.place.clone()) {
            *here.get_mut() -= 1;
            if *here.get() == 0 {
                here.remove();
            }
        }
    }
}

impl Turn<'_> {
    /// `None`: there is no such user.
    pub async fn ask(
        self,
        query: &str,
        user: &str,
        connect_timeout: Duration,
    ) -> Result<Option<Found>, AskError> {
        let (target, desk) = (&self.desk.target, &self.desk);
        let (mut connection, is_old) = match desk.take() {
            Some(connection) => (connection, true),
            None => (open(target, connect_timeout).await?, false),
        };
        let answer = match connection.query_with(query, user).await {
            // It may have been gone before we asked.
            Err(ServerError::Io(_) | ServerError::Closed) if is_old => {
                connection = open(target, connect_timeout).await?;
                connection.query_with(query, user).await
            }
            answer => answer,
        };
        match answer {
            Ok(results) => {
                desk.give_back(connection);
                read(results)
            }
            Err(ServerError::Query { message, .. }) => {
                desk.give_back(connection);
                Err(AskError::Query(message))
            }
            Err(error) => Err(AskError::Server(error)),
        }
    }
}

struct Desk {
    /// Of the first to come: it knows which of its hosts are silent.
    target: Arc<Target>,
    turns: Arc<Semaphore>,
    /// Guards connections that nobody uses, and since when; nothing else is locked inside.
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// What PostgreSQL knows of a user.
#[derive(Debug)]
pub struct Found {
    /// As the answer spells it.
    pub user: String,
    pub secret: Secret,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// No connection; what PostgreSQL or the network said.
    Server(ServerError),
    /// PostgreSQL refused the question, or its answer is none.
    Query(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(error) => error.fmt(f),
            Self::Query(cause) => f.write_str(cause),
        }
    }
}

impl AuthQueries {
    /// Waits until so few ask there that one more may. Cancel-safe.
    pub async fn turn(&self, target: &Arc<Target>) -> Result<Turn<'_>, AskError> {
        let desk = self.desk(target);
        let permit = Arc::clone(&desk.turns).acquire_owned().await;
        let permit = permit.map_err(|_closed| AskError::Server(ServerError::Closed))?;
        let place = target.place();
        *self.lock_asking().entry(place.clone()).or_default() += 1;
        Ok(Turn { queries: self, place, desk, _permit: permit })
    }

    fn lock_asking(&self) -> MutexGuard<'_, HashMap<(String, String), usize>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has a turn at this place; at any, if there is none.
    pub fn is_asking(&self, place: Option<&(String, String)>) -> bool {
        let asking = self.lock_asking();
        place.map_or_else(|| !asking.is_empty(), |place| asking.contains_key(place))
    }

    fn desk(&self, target: &Arc<Target>) -> Arc<Desk> {
        let hosts = format!("{:?}", target.hosts.addresses);
        let key = (hosts, target.database.clone(), target.user.clone());
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        let desk = || {
            let turns = Arc::new(Semaphore::new(QUESTIONS_MAX));
            Arc::new(Desk { target: Arc::clone(target), turns, idle: Mutex::default() })
        };
        Arc::clone(desks.entry(key).or_insert_with(desk))
    }

    /// Closes what nobody has used for `idle_timeout` (zero: never), and forgets databases that
    /// are not asked any more: clients choose their names.
    pub fn upkeep(&self, now: Instant, idle_timeout: Duration) {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.retain(|_, desk| {
            let mut idle = desk.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain_mut(|(connection, since)| {
                let young =
                    idle_timeout.is_zero() || now.saturating_duration_since(*since) <= idle_timeout;
                young && connection.is_quiet()
            });
            !idle.is_empty() || Arc::strong_count(desk) > 1
        });
    }

    /// Closes the connections to a database on these hosts.
    pub fn leave(&self, hosts: &str, database: &str) {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.retain(|(of_hosts, name, _), _| of_hosts != hosts || name != database);
    }

    /// Closes all connections: the settings they were made by have changed.
    pub fn clear(&self) {
        // Those in use go back to desks that nobody finds any more.
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Desk {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (mut connection, _since) = idle.pop()?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        if connection.server.is_clean() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((connection, Instant::now()));
        }
    }
}

async fn open(target: &Arc<Target>, timeout: Duration) -> Result<Connection, AskError> {
    let start = Start::plain();
    let opening = Box::pin(Connection::open(target, &start));
    let opened = match timeout {
        Duration::ZERO => opening.await,
        limit => target.hosts.within(limit, opening).await.unwrap_or(Err(ServerError::Closed)),
    };
    opened.map_err(AskError::Server)
}

/// The user and the secret of the last row.
fn read(results: Vec<Rows>) -> Result<Option<Found>, AskError> {
    let Some(row) = results.into_iter().flatten().next_back() else {
        return Ok(None);
    };
    let columns = row.len();
    let [user, secret] = <[Option<String>; 2]>::try_from(row).map_err(|_row| {
        AskError::Query(format!("expected 2 columns from auth_query, not {columns}"))
    })?;
    let user = user.ok_or_else(|| {
        AskError::Query("auth_query response contained null user name".to_owned())
    })?;
    // Without a secret nobody is let in, whatever it says.
    let secret = secret.as_deref().map_or_else(Secret::impossible, Secret::parse);
    Ok(Some(Found { user, secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<Rows> {
        vec![vec![values.iter().map(|value| value.map(str::to_owned)).collect()]]
    }

    #[test]
    fn an_answer_is_a_user_and_a_secret() {
        let found = read(row(&[Some("ann"), Some("pencil")])).unwrap().unwrap();
        assert_eq!(found.user, "ann");
        assert!(matches!(found.secret, Secret::Plain(password) if password.as_str() == "pencil"));
        assert!(read(Vec::new()).unwrap().is_none());
        assert!(read(vec![Rows::new()]).unwrap().is_none());
    }

    #[test]
    fn a_user_without_secret_has_an_impossible_one() {
        let found = read(row(&[Some("ann"), None])).unwrap().unwrap();
        assert!(matches!(found.secret, Secret::Md5(_)));
    }

    #[test]
    fn other_answers_are_mistakes_of_the_operator() {
        let three = read(row(&[Some("ann"), None, None])).unwrap_err();
        assert_eq!(three.to_string(), "expected 2 columns from auth_query, not 3");
        let nobody = read(row(&[None, Some("x")])).unwrap_err();
        assert_eq!(nobody.to_string(), "auth_query response contained null user name");
    }
}
