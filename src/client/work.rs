//! What a client has under way: its transaction, its request group, the answer being made. A client
//! that waits has none of it; the room is lent, from a few that each thread keeps.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use crate::cache::coherence::Scope;
use crate::cache::entry::Entry;
use crate::cache::fill::Fill;
use crate::cache::key::KeyBuffer;
use crate::cache::turns::Gate;
use crate::insight::Tag;
use crate::sql::lex::Lexed;
use crate::sql::verdict::{BypassReason, Verdict};

use super::check::Asked;
use super::group::Group;
use super::moment::Moment;
use super::revalidate::Revalidation;
use super::session::{Armed, Ending, Extent, FillPlan, Found, Request, RequestKind};
use super::transaction::Transaction;
use super::underway::{Finished, Running, Underway};

/// Rooms that a thread keeps for the next client, about 2 kB each.
const SPARE_MAX: usize = 64;

/// Buffers that grew beyond this are freed when the client rests.
const BUFFER_BYTES_MAX: usize = 4 * 1024;

/// Rows that the client is sent from the memory of their entry, at a place in its output.
#[derive(Debug)]
pub struct LentRows {
    /// So many bytes of the output go before them.
    pub at: usize,
    pub entry: Arc<Entry>,
    /// How many of their bytes the socket has taken.
    pub written: usize,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
pub struct Work {
    pub transaction: Transaction,
    /// The request group being collected.
    pub group: Group,
    /// Messages were sent on without a Sync so far; the server may not be released.
    pub unsynced: bool,
    /// Known to be inside a transaction block that nothing sent so far can end.
    pub in_block: bool,
    /// What was executed since the last Sync.
    pub extent: Extent,
    /// What is to be done when replies come, in the order they are owed.
    pub requests: VecDeque<Request>,
    pub last_request: u64,
    /// Commits that messages sent since the last Sync may make.
    pub armed: Armed,
    /// Recording of the answer under way.
    pub fill: Option<Box<Fill>>,
    /// The group asks for descriptions and for nothing else, so that they may be kept.
    pub describing: bool,
    /// The read that the group is, if it may fill the cache once sent.
    pub plan: Option<FillPlan>,
    /// A commit waits to be told what it would commit.
    pub moment: Option<Moment>,
    /// The group waits to be told what a statement of it is.
    pub revalidation: Option<Revalidation>,
    pub key: KeyBuffer,
    /// What Redis had for it, once it was asked.
    pub found: Found,
    /// Whose fill the group is to wait for, and whether it may.
    pub awaited_fill: Option<Arc<Gate>>,
    pub may_await_fill: bool,
    pub lexed: Lexed,
    pub material: Vec<u8>,
    /// Of the text lexed last.
    pub tag: Option<Tag>,
    /// Texts lexed so far; the last is in `lexed`.
    pub texts: u32,
    /// When the group came.
    pub arrived_at: Option<Instant>,
    /// The statement that the group is, until it is sent on or answered.
    pub noted: Option<Running>,
    pub underway: Underway,
    /// Why those of its statements were not looked up that might have been.
    pub unasked: BypassReason,
    /// The verdict on the Query that the group is.
    pub query_verdict: Option<Arc<Verdict>>,
    /// Of the catalogue that verdict was made under.
    pub query_generation: u64,
    /// Names made on the server so that it would refuse them; closed after the next Sync.
    pub stray_names: Vec<Box<[u8]>>,
    /// Of broken twins: what is invalidated when the client speaks again, and a hit that waits
    /// behind answers still owed.
    pub unsettled: Vec<Scope>,
    pub early_hit: Option<Vec<u8>>,
    /// The last hit's, if they are many; the task writes them before it takes another message.
    pub lent_rows: Option<LentRows>,
    /// Rows, and bytes of answers, shown to the client since the last statement ended.
    pub rows: u64,
    pub bytes: u64,
    /// Hash of the values of the statement about to be noted; 0: not known.
    pub values: u64,
    pub ending: Ending,
    /// Settings that fell back to what the client started with, told before ReadyForQuery.
    pub returned: Vec<String>,
    /// What PostgreSQL has just told it that its `application_name` is.
    pub renamed: Option<String>,
    /// The group has waited for the catalogue; it is judged without it if need be.
    pub awaited_catalog: bool,
    /// What was sent lets go of all locks of its session, that of the group too.
    pub unlocks: bool,
    /// What was sent forgets all prepared statements.
    pub discards: bool,
    /// What the group was asked about for this request, and whether it could say.
    pub asked: Asked,
    /// Databases that nobody may be connected to when what was just dispatched is run; taken by
    /// the task before it sends that.
    pub vacate: Vec<String>,
    /// Finished statements that somebody wants to hear of; taken by the task.
    pub finished: Vec<Finished>,
    /// Transactions that ended since the task looked.
    pub transactions: u32,
}

impl Work {
    /// Something that writes was sent behind what has just ended, or is part of it.
    pub fn goes_on_writing(&self) -> bool {
        let units = self.requests.iter().filter_map(|request| match &request.kind {
            RequestKind::Unit(unit) => Some(&unit.armed),
            RequestKind::Parse { .. }
            | RequestKind::Close { .. }
            | RequestKind::Describe(_)
            | RequestKind::Changed { .. }
            | RequestKind::Execute { .. } => None,
        });
        !self.transaction.wrote_nothing() && units.chain([&self.armed]).any(|armed| armed.writes)
    }

    /// Nothing in it will be asked for again.
    fn is_over(&self) -> bool {
        let is_idle = self.transaction.is_over() && !self.unsynced && !self.in_block;
        let is_sent = self.group.is_empty() && self.requests.is_empty() && self.armed.is_empty();
        let is_answered = self.fill.is_none()
            && self.plan.is_none()
            && self.moment.is_none()
            && self.revalidation.is_none()
            && self.awaited_fill.is_none()
            && self.noted.is_none()
            && self.underway.is_empty()
            && self.early_hit.is_none()
            && self.lent_rows.is_none()
            && self.extent == Extent::Empty
            && self.ending == Ending::Fine
            && self.rows == 0
            && self.bytes == 0;
        let is_told = self.stray_names.is_empty()
            && self.unsettled.is_empty()
            && self.returned.is_empty()
            && self.renamed.is_none()
            && self.vacate.is_empty()
            && self.finished.is_empty()
            && self.transactions == 0;
        is_idle && is_sent && is_answered && is_told
    }

    /// As if new, but for the room its buffers have: no client finds anything of another's. Field
    /// by field, and each named, since most are as new already: some because `is_over` has said so.
    fn clear(&mut self) {
        let Self {
            transaction,
            group: Group { bytes, parts },
            unsynced: _,
            in_block: _,
            extent: _,
            requests,
            // Goes on, so that no number comes twice.
            last_request: _,
            armed,
            fill: _,
            describing,
            plan: _,
            moment: _,
            revalidation: _,
            key,
            found,
            awaited_fill: _,
            may_await_fill,
            lexed: Lexed { text, shape, time_word, literals, multiple, hint, comment },
            material,
            tag,
            texts,
            arrived_at,
            noted: _,
            underway: _,
            unasked,
            query_verdict,
            query_generation,
            stray_names,
            unsettled,
            early_hit: _,
            lent_rows: _,
            rows: _,
            bytes: _,
            values,
            ending: _,
            returned,
            renamed: _,
            awaited_catalog,
            unlocks,
            discards,
            asked,
            vacate,
            finished,
            transactions: _,
        } = self;
        transaction.forget();
        empty(bytes);
        empty(parts);
        requests.shrink_to(BUFFER_BYTES_MAX / size_of::<Request>());
        *armed = Armed::default();
        (*describing, *may_await_fill, *awaited_catalog) = (false, false, false);
        (*unlocks, *discards, *asked) = (false, false, Asked::default());
        key.empty(BUFFER_BYTES_MAX);
        *found = Found::default();
        empty(text);
        empty(shape);
        (*time_word, *literals, *multiple, *hint, *comment) = (false, 0, false, None, None);
        empty(material);
        (*tag, *texts, *arrived_at, *values) = (None, 0, None, 0);
        (*unasked, *query_verdict, *query_generation) = (BypassReason::default(), None, 0);
        empty(stray_names);
        empty(unsettled);
        empty(returned);
        empty(vacate);
        empty(finished);
    }
}

/// Keeps the room of what is in it, unless that is large.
fn empty<T>(vector: &mut Vec<T>) {
    if vector.capacity() * size_of::<T>() > BUFFER_BYTES_MAX {
        *vector = Vec::new();
    }
    vector.clear();
}

/// Room for a client's work, taken when first written to.
#[derive(Debug, Default)]
pub struct Lent(Option<Box<Work>>);

thread_local! {
    #[expect(clippy::vec_box, reason = "what is lent stays where it is")]
    static SPARE: RefCell<Vec<Box<Work>>> = const { RefCell::new(Vec::new()) };
    /// What a client that rests has under way. Lives as long as the program: a thread's worth.
    static NOTHING: &'static Work = Box::leak(Box::default());
}

impl Lent {
    /// Gives the room back if nothing is under way.
    pub fn rest(&mut self) {
        let Some(mut work) = self.0.take_if(|work| work.is_over()) else { return };
        work.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(work);
            }
        });
    }
}

#[cold]
fn lend() -> Box<Work> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

impl Deref for Lent {
    type Target = Work;

    #[inline]
    fn deref(&self) -> &Work {
        self.0.as_deref().unwrap_or_else(|| NOTHING.with(|nothing| *nothing))
    }
}

impl DerefMut for Lent {
    #[inline]
    fn deref_mut(&mut self) -> &mut Work {
        self.0.get_or_insert_with(lend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::judge::unreadable;
    use crate::sql::footprint::Doubt;
    use crate::sql::lex::lex;
    use crate::sql::verdict::{Beyond, Isolation};

    #[test]
    fn who_rests_holds_nothing_and_the_next_finds_nothing_of_it() {
        let mut one = Lent::default();
        assert_eq!(one.rows, 0);
        assert!(one.0.is_none(), "looking takes no room");
        one.lexed.text.extend_from_slice(b"select 1");
        one.query_generation = 7;
        one.rows = 1;
        one.rest();
        assert!(one.0.is_some(), "rows are yet to be counted");
        one.rows = 0;
        one.rest();
        assert!(one.0.is_none());
        let mut next = Lent::default();
        next.lexed.literals += 1;
        assert!(next.lexed.text.is_empty() && next.lexed.text.capacity() >= 8);
        assert_eq!(next.query_generation, 0);
    }

    #[test]
    fn all_that_may_be_left_when_nothing_is_under_way_is_forgotten() {
        let mut one = Lent::default();
        let work = &mut *one;
        work.group.bytes = b"bytes".to_vec();
        work.requests = VecDeque::with_capacity(4);
        work.armed.catalog = true;
        work.transaction.set_isolation(Some(Isolation::Serializable));
        work.transaction.set_isolation(None);
        work.transaction.doubt = Some(Doubt::Off);
        (work.transaction.catalog, work.transaction.beyond) = (true, Beyond::Starts);
        (work.transaction.local_settings, work.transaction.served) = (true, true);
        work.transaction.judged_under = Some(1);
        (work.describing, work.may_await_fill, work.awaited_catalog) = (true, true, true);
        work.found = Found::Nothing;
        lex(b"/* a */ select 'today', 1; select 2 -- b", &mut work.lexed).unwrap();
        let (tagged, mut lexed) = (b"/*route='a'*/ select 1", Lexed::default());
        lex(tagged, &mut lexed).unwrap();
        work.tag = Tag::of(tagged, &lexed);
        assert!(work.tag.is_some() && work.lexed.multiple && work.lexed.time_word);
        (work.texts, work.values, work.query_generation) = (1, 2, 3);
        work.material = b"material".to_vec();
        work.arrived_at = Some(Instant::now());
        work.unasked = BypassReason::Hint;
        work.query_verdict = Some(Arc::new(unreadable(b"")));
        assert!(work.is_over());
        work.clear();
        assert_eq!(format!("{work:?}"), format!("{:?}", Work::default()));
    }

    #[test]
    fn a_thread_keeps_few_rooms_and_no_large_buffer() {
        let mut clients: Vec<Lent> = (0..SPARE_MAX + 3).map(|_| Lent::default()).collect();
        for client in &mut clients {
            client.material.reserve(BUFFER_BYTES_MAX + 1);
        }
        for client in &mut clients {
            client.rest();
        }
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.len(), SPARE_MAX);
            assert!(spare.iter().all(|work| work.material.capacity() == 0));
        });
    }
}
