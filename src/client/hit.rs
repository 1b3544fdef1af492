//! One read in the cache: what is kept under its key and may be served, and what becomes of a miss.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::Age;
use crate::cache::entry::{Entry, low_half};
use crate::cache::key::StatementKey;
use crate::cache::turns::Turn;
use crate::cache::verify::Witness;
use crate::insight::Outcome;
use crate::metrics::StatementCounters;
use crate::sql::verdict::{BypassReason, Read, Verdict};
use crate::twin::{self, Twin};

use super::look_up::Answer;
use super::session::{FillPlan, Found, Session};
use super::underway::Shape;
use super::verify::Looked;
use super::work::LentRows;

/// Below it a copy costs less than the two writes more that going without it takes.
const LENT_ROWS_MIN: usize = 64 * 1024;

impl Session {
    pub(super) fn set_key(&mut self, statement: &StatementKey<'_>) -> bool {
        let Some(facts) = &self.facts else { return false };
        self.work.key.set(facts.key, statement, self.common.cache.seed())
    }

    /// A true entry for the key that has been set, if there is one and it may be served.
    pub(super) fn hit(&self, verdict: &Verdict, needs_description: bool, age: Age) -> Looked {
        let cache = &self.common.cache;
        let described =
            |entry: &Arc<Entry>| !needs_description || entry.row_description().is_some();
        let (entry, from_redis) = match (cache.look_up(&self.work.key, age), &self.work.found) {
            (Some(entry), _) => (entry, false),
            (None, Found::Entry(entry))
                if entry.key() == self.work.key.bytes()
                    && cache.is_true(entry, age)
                    && reads_the_same(entry, verdict)
                    && described(entry) =>
            {
                cache.promote(entry);
                (Arc::clone(entry), true)
            }
            (None, Found::Entry(_) | Found::Nothing | Found::NotAsked) => {
                return Looked::Miss(None);
            }
        };
        if !described(&entry) {
            return Looked::Miss(None);
        }
        entry.hits.one();
        self.serve_or_verify(entry, from_redis)
    }

    /// The rows of a hit. Many are not copied: the task writes them from the entry, at their place.
    pub(super) fn put_rows(&mut self, entry: &Arc<Entry>, out: &mut Vec<u8>) {
        let is_early = twin::is(Twin::PipelineLookupOnArrival);
        if entry.rows().len() < LENT_ROWS_MIN || self.work.lent_rows.is_some() || is_early {
            out.extend_from_slice(entry.rows());
        } else {
            let entry = Arc::clone(entry);
            self.work.lent_rows = Some(LentRows { at: out.len(), entry, written: 0 });
        }
    }

    /// The key that has been set is not in memory, or is to be verified.
    pub(super) fn miss(
        &mut self,
        shape: Shape,
        verdict: Arc<Verdict>,
        (generation, uses, witness): (u64, Arc<StatementCounters>, Option<Witness>),
        now: Instant,
    ) -> Answer {
        if witness.is_none()
            && let Read::Cacheable(tables) = &verdict.read
            && !self.is_worth_keeping(tables, now)
        {
            self.note(Outcome::Bypass(BypassReason::CutOff), shape, now, false);
            return Answer::Send;
        }
        if witness.is_none() && self.should_ask_redis() {
            return Answer::AskRedis;
        }
        let turn = match witness {
            None => self.common.cache.take_turn(&self.work.key, self.work.may_await_fill),
            Some(_) => Turn::Alone,
        };
        let leader = match turn {
            Turn::Lead(leader) => Some(leader),
            Turn::Wait(gate) => {
                self.work.awaited_fill = Some(gate);
                return Answer::AwaitFill;
            }
            Turn::Alone => None,
        };
        self.work.values = low_half(self.work.key.hash());
        self.note(Outcome::Miss, shape, now, false);
        uses.misses.one();
        self.work.plan = Some(FillPlan { tables: verdict, uses, generation, leader, witness });
        Answer::Send
    }

    fn should_ask_redis(&self) -> bool {
        matches!(self.work.found, Found::NotAsked)
            && self.common.cache.may_be_in_redis(&self.work.key)
    }

    /// Whether the group is a read whose answer would be kept, as far as is known now.
    pub fn would_keep_answer(&self) -> bool {
        let generation = self.common.database.generation();
        self.work.plan.as_ref().is_some_and(|plan| plan.generation == generation)
    }
}

/// Whether the entry was kept for the tables that the statement reads by this verdict. Who stored it
/// may have known another catalogue, or have other rules; and only of these was the group asked.
fn reads_the_same(entry: &Entry, verdict: &Verdict) -> bool {
    let Read::Cacheable(tables) = &verdict.read else { return false };
    let kept: BTreeSet<_> = entry.stamp.slots().filter_map(|slot| slot.table).collect();
    kept == tables.iter().copied().collect()
}
