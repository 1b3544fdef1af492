//! Savepoints of a transaction that is kept back (`kept_back.rs`): set, released and returned to
//! here. Those that are still there when the transaction is sent on are set behind its BEGIN.
//!
//! What would be an error, or tell the client something, is for PostgreSQL.

use crate::server::Server;

use super::session::Session;

/// With more of them at once the transaction is sent on: each is one more statement in front of
/// the client's own.
const SAVEPOINTS_MAX: usize = 50;

/// PostgreSQL cuts longer names, and says so.
const NAME_BYTES_MAX: usize = 63;

impl Session {
    /// Sets a savepoint here; `None` if that is for PostgreSQL.
    pub(super) fn mark(&mut self, name: &str) -> Option<()> {
        let fits =
            self.work.transaction.savepoint_names().count() < SAVEPOINTS_MAX && is_plain(name);
        fits.then(|| self.work.transaction.savepoint(name.to_owned(), &self.settings))
    }

    /// Whether it is a savepoint that PostgreSQL has not heard of.
    pub(super) fn is_mark(&self, name: &str) -> bool {
        let transaction = &self.work.transaction;
        transaction.kept_back.is_some() && transaction.savepoint_names().any(|mark| mark == name)
    }

    /// Sets those that are there, in their order; the replies are swallowed.
    pub(super) fn send_marks(&self, server: &mut Server) {
        for name in self.work.transaction.savepoint_names() {
            server.swallow_query(&format!("SAVEPOINT \"{}\"", name.replace('"', "\"\"")));
        }
    }
}

/// The same name to PostgreSQL as to us, whatever its encoding and its letters.
fn is_plain(name: &str) -> bool {
    name.is_ascii() && name.len() < NAME_BYTES_MAX
}
