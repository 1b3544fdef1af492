//! A client that reads: whether it may be answered here, the look-up, Redis, and else PostgreSQL,
//! whose answer is kept. Each is a step of its own, so that anything may come between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use forebay::cache::Age;
use forebay::cache::digests::{Digest, Session};
use forebay::cache::entry::Entry;
use forebay::cache::fill::Fill;
use forebay::cache::group::check::Check;
use forebay::cache::key::{KeyBuffer, SessionKey, StatementKey};
use forebay::cache::sealed::shared::{Material, Reader};
use forebay::sql::verdict::TableId;

use super::instance::{Client, Instance, Woken};
use super::postgres::{Outcome, PLACE, Read, Rows, Work};
use super::redis::Redis;
use super::world::{Outside, Twin};

/// As `client/check.rs` has it.
const CHECKS_MAX: u8 = 3;

const COMPLETE: &[u8] = b"C\0\0\0\x0dSELECT 1\0";

pub(super) struct Reading {
    read: Read,
    key: KeyBuffer,
    /// The moment of PostgreSQL's when the request came, and the latest that anybody had been told.
    arrived: usize,
    told: usize,
    /// Its own clock when the request came.
    now: Instant,
    /// What the group was asked about; nothing: not yet.
    checked: Option<Vec<TableId>>,
    times: u8,
    fetched: Fetched,
    stage: Stage,
}

/// What Redis had.
enum Fetched {
    NotAsked,
    Nothing,
    Entry(Arc<Entry>),
}

enum Stage {
    Judge,
    Check {
        check: Arc<Check>,
        woken: Arc<Woken>,
        until: Instant,
    },
    LookUp {
        tables: Vec<TableId>,
        changes: u64,
    },
    /// Redis has given this, at that time of its clock.
    Fetched {
        sealed: Option<Vec<u8>>,
        redis_us: u64,
        asked_at: Instant,
    },
    /// To a server. What is kept of the answer is of these tables by that catalogue.
    Send(Option<(Vec<TableId>, u64)>),
    Answer {
        slot: usize,
        tables: Vec<TableId>,
        fill: Option<Box<Fill>>,
    },
    Offer(Arc<Entry>),
    Put {
        name: String,
        sealed: Vec<u8>,
    },
}

/// What becomes of the client.
type Next = Result<Client, String>;

impl Reading {
    pub(super) fn new(read: Read, instance: &Instance, outside: &mut Outside) -> Self {
        let mut key = KeyBuffer::default();
        let none: &[u8] = &[];
        let [types, formats, values, result_formats] = [none; 4];
        let statement = StatementKey { text: read.text(), types, formats, values, result_formats };
        assert!(key.set(SessionKey::default(), &statement, instance.cache.seed()));
        let arrived = outside.postgres.now();
        outside.say(instance.id, || format!("is asked for {read:?}, at {arrived}"));
        Self {
            read,
            key,
            arrived,
            told: outside.told,
            now: instance.clock(outside),
            checked: None,
            times: 0,
            fetched: Fetched::NotAsked,
            stage: Stage::Judge,
        }
    }

    pub(super) fn step(
        mut self: Box<Self>,
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Next {
        match std::mem::replace(&mut self.stage, Stage::Judge) {
            Stage::Judge => Ok(self.judge(instance, outside)),
            Stage::Check { check, woken, until } => {
                let is_late = instance.clock(outside) >= until;
                let is_asked = woken.is() || is_late;
                let answer = if is_asked { woken.poll(|cx| check.poll(cx)) } else { Poll::Pending };
                match answer {
                    Poll::Ready(holds) => return Ok(self.checked(holds, instance, outside)),
                    Poll::Pending if is_late => return Ok(self.checked(false, instance, outside)),
                    Poll::Pending => self.stage = Stage::Check { check, woken, until },
                }
                Ok(Client::Reading(self))
            }
            Stage::LookUp { tables, changes } => self.look_up((tables, changes), instance, outside),
            Stage::Fetched { sealed, redis_us, asked_at } => {
                let found = sealed.and_then(|sealed| {
                    let (group, coherence) = (&*instance.group, &*instance.home.coherence);
                    let reader = Reader { group, coherence, redis_us, asked_at };
                    let material = self.material(instance)?;
                    let key = (self.key.bytes(), self.key.hash());
                    instance.seal.open(&sealed, &material, key, &reader).ok()
                });
                outside.seen.opened_answers += u64::from(found.is_some());
                self.fetched =
                    found.map_or(Fetched::Nothing, |entry| Fetched::Entry(Arc::new(entry)));
                self.now = instance.clock(outside);
                Ok(Client::Reading(self))
            }
            Stage::Send(plan) => Ok(self.send(plan, instance, outside)),
            Stage::Answer { slot, tables, fill } => {
                Ok(self.answer(slot, (tables, fill), instance, outside))
            }
            Stage::Offer(entry) => Ok(self.offer(&entry, instance, outside)),
            Stage::Put { name, sealed } => {
                if instance.reaches_redis(outside) {
                    outside.redis.has.answers.insert(name, sealed);
                }
                Ok(Client::Idle)
            }
        }
    }

    /// As `Session::group_says_of`, once the statement is judged.
    fn judge(mut self: Box<Self>, instance: &mut Instance, outside: &mut Outside) -> Client {
        let Some(catalog) = instance.known() else {
            self.stage = Stage::Send(None);
            return Client::Reading(self);
        };
        let (tables, changes) = (self.read.tables(catalog), instance.home.catalog_changes());
        let group = &instance.group;
        let covers = |known: &Vec<TableId>| tables.iter().all(|table| known.contains(table));
        let always = outside.plan.twin == Twin::AlwaysGranted && group.is_open();
        let is_known = self.checked.as_ref().is_some_and(covers)
            || (group.is_at(PLACE) && (group.is_granted(self.now) || always))
            || outside.plan.twin == Twin::NoCheck;
        self.stage = if is_known {
            Stage::LookUp { tables, changes }
        } else if !group.is_at(PLACE) || self.times >= CHECKS_MAX {
            Stage::Send(None)
        } else {
            self.times += 1;
            let (check, woken) = (group.check(&tables), Arc::new(Woken::default()));
            self.checked = Some(tables);
            let until = instance.clock(outside) + group.settings.read_timeout;
            match woken.poll(|cx| check.poll(cx)) {
                Poll::Ready(holds) => return self.checked(holds, instance, outside),
                Poll::Pending => Stage::Check { check, woken, until },
            }
        };
        Client::Reading(self)
    }

    fn checked(mut self: Box<Self>, holds: bool, instance: &Instance, outside: &Outside) -> Client {
        self.now = instance.clock(outside);
        self.stage = if holds { Stage::Judge } else { Stage::Send(None) };
        Client::Reading(self)
    }

    fn look_up(
        mut self: Box<Self>,
        (tables, changes): (Vec<TableId>, u64),
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Next {
        let age = Age { now: self.now, max: None };
        let reads_the_same = |entry: &Arc<Entry>| {
            let kept: BTreeSet<_> = entry.stamp.slots().filter_map(|slot| slot.table).collect();
            kept == tables.iter().copied().collect()
        };
        let found = match &self.fetched {
            Fetched::Entry(entry) if instance.cache.is_true(entry, age) => Some(entry),
            Fetched::Entry(_) | Fetched::Nothing | Fetched::NotAsked => None,
        };
        if let Some(entry) = instance.cache.look_up(&self.key, age) {
            outside.seen.hits += 1;
            return self.show(&entry, instance, outside);
        }
        if let Some(entry) = found.filter(|entry| reads_the_same(entry)) {
            instance.cache.promote(entry);
            outside.seen.shared_hits += 1;
            return self.show(entry, instance, outside);
        }
        let material = self.material(instance);
        let asks = matches!(self.fetched, Fetched::NotAsked) && instance.reaches_redis(outside);
        self.stage = match material.filter(|_| asks && outside.plan.shares) {
            Some(material) => Stage::Fetched {
                sealed: outside.redis.has.answers.get(&instance.seal.name(&material)).cloned(),
                redis_us: Redis::clock(outside.now) * 1000,
                asked_at: instance.clock(outside),
            },
            None => Stage::Send(Some((tables, changes))),
        };
        Ok(Client::Reading(self))
    }

    fn material(&self, instance: &Instance) -> Option<Material> {
        let catalogue = Digest::of_catalogue(&instance.fingerprint.to_string());
        let session = Session { catalogue, session: Digest([1; 32]) };
        Material::new(&instance.group.name()?, &session, self.read.text())
    }

    /// The oracle: PostgreSQL would have said so at some moment since the request came.
    fn show(&self, entry: &Entry, instance: &Instance, outside: &mut Outside) -> Next {
        let rows = rows(entry);
        outside.say(instance.id, || format!("answers {:?} with {rows:?}", self.read));
        let postgres = &outside.postgres;
        if !postgres.has_answered(self.read, rows, self.arrived) {
            let was = postgres.at(self.arrived).answer(self.read);
            let known = postgres.has_answered(self.read, rows, self.told);
            let told = if known { "nobody had been told" } else { "somebody had been told" };
            return Err(format!("{rows:?} of {:?}, which was {was:?}, as {told}", self.read));
        }
        Ok(Client::Idle)
    }

    /// As `Session::begin_fill`.
    fn send(
        mut self: Box<Self>,
        plan: Option<(Vec<TableId>, u64)>,
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Client {
        let Some(slot) = instance.acquire() else {
            self.stage = Stage::Send(plan);
            return Client::Reading(self);
        };
        let now = instance.clock(outside);
        let (tables, changes) = plan.unzip();
        let tables = tables.unwrap_or_default();
        let stamp = instance.home.coherence.stamp(&tables);
        let current = changes.filter(|changes| *changes == instance.home.catalog_changes());
        let stamp = stamp.filter(|_| current.is_some());
        let begin = |stamp| Box::new(Fill::begin(&self.key, stamp, now, 1000));
        let fill = stamp.map(begin);
        outside.postgres.send(instance.pid(slot), Work::Query(self.read));
        self.stage = Stage::Answer { slot, tables, fill };
        Client::Reading(self)
    }

    fn answer(
        mut self: Box<Self>,
        slot: usize,
        (tables, fill): (Vec<TableId>, Option<Box<Fill>>),
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Client {
        let pid = instance.pid(slot);
        let outcome = outside.postgres.hear(pid);
        if let Some(Outcome::Rows(moment)) = outcome {
            instance.slots[slot].is_taken = false;
            outside.told = outside.told.max(moment);
            let rows = outside.postgres.at(moment).answer(self.read);
            let kept = fill.and_then(|mut fill| {
                fill.rows(&row(rows));
                fill.complete(COMPLETE);
                if outside.plan.twin == Twin::UncheckedStore {
                    fill.restamp(instance.home.coherence.stamp(&tables)?);
                }
                instance.cache.store(*fill, None)
            });
            outside.seen.kept += u64::from(kept.is_some());
            outside.say(instance.id, || {
                format!("PostgreSQL says {rows:?} to {:?}; kept: {}", self.read, kept.is_some())
            });
            let Some(entry) = kept.filter(|_| outside.plan.shares) else { return Client::Idle };
            self.stage = Stage::Offer(entry);
        } else if !outside.postgres.is_alive(pid) {
            let slot = &mut instance.slots[slot];
            (slot.server, slot.is_taken) = (None, false);
            return Client::Idle;
        } else {
            self.stage = Stage::Answer { slot, tables, fill };
        }
        Client::Reading(self)
    }

    /// As `Redis::seal_shared`.
    fn offer(
        mut self: Box<Self>,
        entry: &Entry,
        instance: &Instance,
        outside: &mut Outside,
    ) -> Client {
        let tables: Vec<_> = entry.stamp.slots().filter_map(|slot| slot.table).collect();
        let Some((_, versions, clock)) = instance.group.versions(&tables) else {
            return Client::Idle;
        };
        let Some(material) = self.material(instance).filter(|_| entry.stamp.holds()) else {
            return Client::Idle;
        };
        let Some(sealed) = instance.seal.seal(entry, &material, (&versions, clock)) else {
            return Client::Idle;
        };
        outside.say(instance.id, || format!("shares its answer, of {versions:?}"));
        self.stage = Stage::Put { name: instance.seal.name(&material), sealed };
        Client::Reading(self)
    }
}

/// A DataRow, as PostgreSQL sends it.
fn row(rows: Rows) -> Vec<u8> {
    let mut message = b"D\0\0\0\x1e\0\x03".to_vec();
    for number in rows {
        message.extend_from_slice(&4_u32.to_be_bytes());
        message.extend_from_slice(&number.to_be_bytes());
    }
    message
}

fn rows(entry: &Entry) -> Rows {
    let (head, columns) = entry.rows().split_at(7);
    let (columns, _) = columns.as_chunks::<8>();
    assert!(head.starts_with(b"D"));
    std::array::from_fn(|at| {
        let [.., a, b, c, d] = columns[at];
        u32::from_be_bytes([a, b, c, d])
    })
}
