//! Every counter, by name. What the console prints and an exporter serves is the same counter.

mod counter;

use crate::sql::footprint::Doubt;
use crate::sql::verdict::BypassReason;

pub use counter::{Counter, SmallCounter, shard};

/// What the cache did with queries.
#[derive(Debug, Default)]
pub struct CacheCounters {
    pub hits: Counter,
    /// Of the hits, those whose entry came from Redis.
    pub hits_redis: Counter,
    /// Looked up and not found, or found untrue.
    pub misses: Counter,
    /// Answers kept.
    pub fills: Counter,
    /// Answers not kept because a write came between, or they were too large or unfit.
    pub refused: Counter,
    /// Asked of PostgreSQL all the same: dry run, verify mode, and the sample.
    pub would_hit: Counter,
    pub hit_bytes: Counter,
    /// Hits on what another client had asked for already, and this one waited for.
    pub shared_fills: Counter,
    /// Of statements, given without asking PostgreSQL.
    pub descriptions: Counter,
    /// That ended without ever having taken a server.
    pub transactions: Counter,
    /// Writes whose commit was settled, by what they made fresh.
    pub invalidated_tables: Counter,
    pub invalidated_database: Counter,
    /// PostgreSQL was asked what a transaction wrote.
    pub asked: Counter,
    /// Of those, it told which tables, or that there were none.
    pub asked_known: Counter,
    /// Tables that these transactions made fresh.
    pub asked_tables: Counter,
    /// Of those, tables that were not written; in an audit, of all transactions.
    pub surplus: Counter,
    /// Tables written that were not going to be made fresh; a bug of ours, seen by audit alone.
    pub unforeseen: Counter,
    /// Why the whole database was, by `Doubt`.
    doubts: [Counter; Doubt::ALL.len()],
    bypasses: Bypasses,
}

/// What the cache was to one shape of statement, to sessions of the same settings, since the
/// catalogue last changed.
#[derive(Debug, Default)]
pub struct StatementCounters {
    pub hits: Counter,
    pub misses: Counter,
    /// Answers that came into memory, and those that have left it.
    pub kept: Counter,
    pub left: Counter,
    /// What PostgreSQL took for these, in microseconds.
    pub took: Counter,
}

impl StatementCounters {
    /// For one, if there was any.
    pub fn took(&self) -> Option<u64> {
        self.took.value().checked_div(self.kept.value())
    }

    /// Answers in memory, true or not.
    pub fn entries(&self) -> u64 {
        self.kept.value().saturating_sub(self.left.value())
    }
}

/// What was asked again of our own accord.
#[derive(Debug, Default)]
pub struct WarmUpCounters {
    /// Times that it was begun, as all had been forgotten.
    pub begun: Counter,
    /// Answers that are kept again.
    pub warmed: Counter,
    /// Statements that failed, or could not be asked.
    pub failed: Counter,
}

/// What answers over one table were of use for.
#[derive(Debug, Default)]
pub struct TableCounters {
    pub fills: Counter,
    /// Of answers that have left the memory; those that are there count their own.
    pub hits: Counter,
}

/// Statements that PostgreSQL was asked about, since names alone did not decide.
#[derive(Debug, Default)]
pub struct AnalysisCounters {
    pub asked: Counter,
    /// Of those, found worth keeping.
    pub decided: Counter,
    /// Of those, refused by PostgreSQL, or not answered in time.
    pub failed: Counter,
    /// Not asked: too many waited, the catalogue had changed, or the user is another.
    pub skipped: Counter,
}

/// Hits that were asked of PostgreSQL as well.
#[derive(Debug, Default)]
pub struct VerifyCounters {
    pub same: Counter,
    /// The same rows in another order, where the statement fixes none.
    pub other_order: Counter,
    /// A write passed between, or the answer says nothing about the entry.
    pub incomparable: Counter,
    /// Would have been wrong.
    pub differences: Counter,
}

/// What the second tier did.
#[derive(Debug, Default)]
pub struct RedisCounters {
    /// Asked for an entry.
    pub look_ups: Counter,
    /// Of those, answered with none, or with one that had become untrue.
    pub misses: Counter,
    /// Entries stored.
    pub stores: Counter,
    /// Operations that Redis or its connection failed.
    pub errors: Counter,
    /// Operations that took longer than `redis.timeout`.
    pub timeouts: Counter,
    /// Entries not stored: the queue was full, Redis down or full, or they had become untrue.
    /// With the stores these are all fills, but for those that wait in the queue.
    pub dropped: Counter,
    /// Values that are not what this process stored.
    pub forged: Counter,
    /// Not asked for an entry that it may have, since it is not up.
    pub skipped: Counter,
}

/// What one member of a group did.
#[derive(Debug, Default)]
pub struct MemberCounters {
    /// Rounds that asked K whether what is known here is true.
    pub checks: Counter,
    /// Commits announced.
    pub begins: Counter,
    /// Times that K was asked what has changed, because somebody waited for it.
    pub hears: Counter,
    /// Times that the group was seen to open.
    pub opened: Counter,
    /// Times that what had been joined was lost.
    pub lost: Counter,
    /// Renewals refused for somebody who has not joined.
    pub strangers: Counter,
}

/// Cancel requests told to a group and heard from it.
#[derive(Debug, Default)]
pub struct CancelCounters {
    pub sent: Counter,
    /// For clients of this process.
    pub heard: Counter,
    /// Over a bound, or Redis could not be reached.
    pub dropped: Counter,
}

#[derive(Debug)]
struct Bypasses([Counter; BypassReason::ALL.len()]);

impl Default for Bypasses {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl CacheCounters {
    pub fn bypass(&self, reason: BypassReason) {
        if let Some(counter) = self.bypasses.0.get(reason as usize) {
            counter.one();
        }
    }

    pub fn doubt(&self, doubt: Doubt) {
        if let Some(counter) = self.doubts.get(doubt as usize) {
            counter.one();
        }
    }

    /// Counts in the order of `Doubt::ALL`.
    pub fn doubts(&self) -> [u64; Doubt::ALL.len()] {
        std::array::from_fn(|index| self.doubts.get(index).map_or(0, Counter::value))
    }

    /// Every reason with its count, in the order of the declaration.
    pub fn bypasses(&self) -> impl Iterator<Item = (BypassReason, u64)> {
        BypassReason::ALL.into_iter().zip(self.bypasses.0.iter().map(Counter::value))
    }
}

/// PgBouncer's totals of one pool; `SHOW STATS` sums them by database. Times in microseconds.
#[derive(Debug, Default)]
pub struct PoolCounters {
    pub server_assignment: Counter,
    pub xact: Counter,
    pub query: Counter,
    pub received: Counter,
    pub sent: Counter,
    pub xact_time: Counter,
    pub query_time: Counter,
    pub wait_time: Counter,
    pub client_parse: Counter,
    pub server_parse: Counter,
    pub bind: Counter,
    pub login: Counter,
    /// Servers that clients left in the middle of something: with replies still to come, which
    /// were taken; in a transaction, which was rolled back; with neither possible, and closed.
    pub abandoned_drained: Counter,
    pub abandoned_rolled_back: Counter,
    pub abandoned_closed: Counter,
}

/// What one group of clients did, beside what its statements did: same user, database, application
/// name and address.
#[derive(Debug, Default)]
pub struct GroupCounters {
    /// Under which its statements are counted; 0 is the console's.
    pub number: u16,
    pub clients: Counter,
    pub received: Counter,
    pub sent: Counter,
    /// In line for a server.
    pub wait_time: Counter,
}
