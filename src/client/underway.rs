//! Statements between their arrival and the end of their answer, for the statistics: one for each
//! that runs, also where several are sent in one string, one group or one pipeline.
//!
//! An Execute has ended when the next one ends or its unit does, so that the commit behind the
//! last one counts for it. Whatever is left ends with its connection. Decides nothing about what a
//! client is sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::entry::{Entry, low_half};
use crate::insight::{Outcome, Tag};
use crate::pool::database;
use crate::pool::statements::Statement;
use crate::sql::verdict::{BypassReason, Read, Verdict, Write};
use crate::wire::backend::{self, Status};
use crate::wire::frontend;

use super::session::{RequestKind, Session};
use super::single::front;

/// A statement between its arrival and the end of its answer.
#[derive(Clone, Debug)]
pub struct Running {
    /// What is owed for it; 0 until it is sent.
    request: u64,
    pub arrived_at: Instant,
    pub sent_at: Option<Instant>,
    completed_at: Option<Instant>,
    pub shape: Shape,
    /// Which of the statements of a string of several, counted from 0.
    pub piece: usize,
    pub outcome: Outcome,
    pub writes: bool,
    is_query: bool,
    /// It began now; otherwise it goes on with a portal.
    pub is_call: bool,
    pub rows: u64,
    /// Sent to the client.
    pub bytes: u64,
    /// A hash of its values; 0: not known.
    pub values: u64,
    /// Which of the texts of its client it is, counted as long as there is work.
    pub text: u32,
    /// What its comments say of where it comes from.
    pub tag: Option<Tag>,
    /// The class of the SQLSTATE with which it failed.
    pub failed: Option<[u8; 2]>,
}

/// Where the statement's shape is, until somebody prints it.
#[derive(Clone, Debug)]
pub enum Shape {
    Text(Arc<database::Known>),
    Prepared(Arc<Statement>),
    /// It has none: an empty text, or a portal that we did not see made.
    Unknown,
}

/// A statement that has been answered.
#[derive(Debug)]
pub struct Finished {
    pub running: Running,
    pub finished_at: Instant,
    pub server_pid: Option<u32>,
}

/// In the order of their answers. Nearly always there is one at most.
#[derive(Debug, Default)]
pub struct Underway {
    first: Option<Running>,
    /// Bounded as the requests of a client are.
    more: VecDeque<Running>,
}

impl Underway {
    fn push(&mut self, running: Running) {
        if self.first.is_none() {
            self.first = Some(running);
        } else {
            self.more.push_back(running);
        }
    }

    fn pop(&mut self) -> Option<Running> {
        if self.more.is_empty() {
            return self.first.take();
        }
        let popped = std::mem::replace(&mut self.first, self.more.pop_front());
        if self.more.is_empty() {
            // Only pipelines need it.
            self.more = VecDeque::new();
        }
        popped
    }

    /// What is answered next.
    pub fn first(&self) -> Option<&Running> {
        self.first.as_ref()
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Running> {
        self.first.iter_mut().chain(&mut self.more)
    }

    /// Those that have been sent now, with what they waited for.
    pub fn sent(&mut self, now: Instant) {
        for running in self.iter_mut().rev() {
            if running.sent_at.is_some() {
                return;
            }
            running.sent_at = Some(now);
        }
    }
}

impl Running {
    /// What ran before it has ended: until then it did not wait, and did not run.
    fn begins(&mut self, now: Instant) {
        self.arrived_at = self.arrived_at.max(now);
        self.sent_at = self.sent_at.map(|sent| sent.max(now));
    }
}

impl Shape {
    /// How many statements it is made of.
    fn statements(&self) -> usize {
        match self {
            Self::Text(known) => known.verdict.statements,
            Self::Prepared(_) | Self::Unknown => 1,
        }
    }
}

impl Session {
    /// Remembers what is under way and counts what the cache had to do with it.
    pub(super) fn note(&mut self, outcome: Outcome, shape: Shape, now: Instant, writes: bool) {
        let counters = &self.common.cache_counters;
        match outcome {
            Outcome::Hit | Outcome::SharedHit => counters.hits.one(),
            Outcome::Miss => counters.misses.one(),
            Outcome::Bypass(reason) => counters.bypass(reason),
        }
        let is_query = matches!(shape, Shape::Text(_));
        let tag = self.tag_of(&shape);
        let shape = if shape.statements() == 0 { Shape::Unknown } else { shape };
        self.work.noted = Some(Running {
            request: 0,
            arrived_at: self.work.arrived_at.unwrap_or(now),
            sent_at: None,
            completed_at: None,
            shape,
            piece: 0,
            outcome,
            writes,
            is_query,
            is_call: true,
            rows: 0,
            bytes: 0,
            values: std::mem::take(&mut self.work.values),
            text: self.work.texts,
            tag,
            failed: None,
        });
    }

    /// Of a Query, what its text says; of an Execute, what its statement's does. That names a
    /// request only the first time after its Parse: later it may stand there since yesterday.
    fn tag_of(&mut self, shape: &Shape) -> Option<Tag> {
        match shape {
            Shape::Text(_) => self.work.tag.take(),
            Shape::Prepared(statement) => {
                let tag = statement.tag.clone()?;
                let is_fresh = self.names.parsed == statement.id;
                if is_fresh {
                    self.names.parsed = 0;
                }
                Some(if is_fresh { tag } else { Tag { request: 0, ..tag } })
            }
            Shape::Unknown => None,
        }
    }

    /// What was noted has been answered here.
    pub(super) fn finish_noted(&mut self, now: Instant, rows: u64, bytes: u64) {
        if let Some(running) = self.work.noted.take() {
            let running = Running { rows, bytes, ..running };
            self.finish(Finished { running, finished_at: now, server_pid: None });
        }
    }

    pub(super) fn note_hit(&mut self, shape: Shape, now: Instant, entry: &Entry) {
        self.work.values = low_half(entry.hash());
        self.note(Outcome::Hit, shape, now, false);
        let len = entry.rows().len() as u64;
        self.common.cache_counters.hit_bytes.add(len);
        self.common.counters.query.one();
        if self.status() == Status::Idle {
            self.transaction_over();
        } else {
            self.work.transaction.served = true;
        }
        let described = entry.row_description().map_or(0, <[u8]>::len);
        let rows = backend::rows_of_tag(entry.rows()).unwrap_or(0);
        self.finish_noted(now, rows, len + described as u64);
    }

    fn finish(&mut self, finished: Finished) {
        self.work.finished.push(finished);
    }

    /// The last hit is one on what another client had asked for.
    pub(super) fn hit_was_shared(&mut self) {
        self.common.cache_counters.shared_fills.one();
        if let Some(last) = self.work.finished.last_mut() {
            last.running.outcome = Outcome::SharedHit;
        }
    }

    /// A Query or an Execute is on its way, under this request: as it was noted, or by its verdict
    /// alone where it was not looked up, for this reason if for none of its own.
    pub(super) fn begin_running(
        &mut self,
        request: u64,
        shape: impl FnOnce() -> Shape,
        verdict: &Verdict,
        otherwise: BypassReason,
    ) {
        let Some(now) = self.work.arrived_at else { return };
        if self.work.noted.is_none() {
            let reason = match verdict.read {
                Read::Bypass(reason) => reason,
                Read::Cacheable(_) => otherwise,
            };
            let shape = if verdict.statements == 0 { Shape::Unknown } else { shape() };
            self.note(Outcome::Bypass(reason), shape, now, verdict.write != Write::None);
        }
        if let Some(mut running) = self.work.noted.take() {
            running.request = request;
            self.work.underway.push(running);
        }
    }

    /// The Execute just begun goes on with a portal.
    pub(super) fn continues_portal(&mut self) {
        if let Some(running) = self.work.underway.iter_mut().next_back() {
            running.is_call = false;
        }
    }

    /// An Execute is over, or suspended. `rows`: as its tag tells, else those shown count.
    pub(super) fn executed(&mut self, request: u64, rows: Option<u64>, now: Instant) {
        let (shown, bytes) = self.take_shown();
        while self.work.underway.first.as_ref().is_some_and(|running| running.request < request) {
            self.finish_executed(None);
        }
        let Some(running) = &mut self.work.underway.first else { return };
        if running.request != request {
            return;
        }
        running.rows = rows.unwrap_or(shown);
        running.bytes = bytes;
        running.completed_at = Some(now);
        if let Some(next) = self.work.underway.more.front_mut() {
            next.begins(now);
        }
    }

    /// A statement of a Query is over.
    pub(super) fn query_completed(&mut self, request: u64, rows: Option<u64>, now: Instant) {
        let (shown, bytes) = self.take_shown();
        let Some(running) = &mut self.work.underway.first else { return };
        if running.request != request {
            return;
        }
        running.rows = rows.unwrap_or(shown);
        running.bytes = bytes;
        if running.shape.statements() > 1 {
            let piece = running.clone();
            running.piece += 1;
            (running.rows, running.bytes) = (0, 0);
            running.begins(now);
            self.finish(Finished { running: piece, finished_at: now, server_pid: None });
        }
    }

    /// An error came, behind which everything up to `boundary` is skipped: the first that is not
    /// over has failed, else the commit of the last.
    pub(super) fn statement_failed(&mut self, class: [u8; 2], boundary: u64, now: Instant) {
        self.take_shown();
        let mut skipped = VecDeque::new();
        while let Some(running) = self.work.underway.pop() {
            skipped.push_back(running);
        }
        let mut of_unit = skipped.iter_mut().filter(|running| running.request <= boundary);
        let failing = match of_unit.find(|running| running.completed_at.is_none()) {
            Some(running) => Some(running),
            None => skipped.iter_mut().rfind(|running| running.request <= boundary),
        };
        if let Some(running) = failing {
            running.failed = Some(class);
        } else {
            self.error_alone(class, now);
        }
        for running in skipped {
            let over = running.completed_at.is_some() || running.failed.is_some();
            if over || running.request > boundary {
                self.work.underway.push(running);
            }
        }
    }

    /// An error that is no statement's: of a Parse, or of a Bind without an Execute.
    fn error_alone(&mut self, class: [u8; 2], now: Instant) {
        let running = Running {
            request: 0,
            arrived_at: now,
            sent_at: Some(now),
            completed_at: None,
            shape: Shape::Unknown,
            piece: 0,
            outcome: Outcome::Bypass(BypassReason::NotARead),
            writes: false,
            is_query: false,
            is_call: false,
            rows: 0,
            bytes: 0,
            values: 0,
            text: 0,
            tag: None,
            failed: Some(class),
        };
        self.finish(Finished { running, finished_at: now, server_pid: None });
    }

    /// At ReadyForQuery: all up to this request are over.
    pub(super) fn unit_ended(&mut self, request: u64, now: Instant, pid: u32) {
        self.take_shown();
        let before = self.work.finished.len();
        while self.work.underway.first.as_ref().is_some_and(|running| running.request <= request) {
            let is_last =
                self.work.underway.more.front().is_none_or(|running| running.request > request);
            self.finish_executed(is_last.then_some(now));
        }
        if let Some(next) = &mut self.work.underway.first {
            next.begins(now);
        }
        for finished in self.work.finished.iter_mut().skip(before) {
            finished.server_pid = Some(pid);
        }
    }

    /// The connection ends, and no answer comes any more: what is under way has failed for this
    /// reason, unless it has told its own. What was sent behind that never began.
    pub(super) fn connection_ended(&mut self, class: [u8; 2], now: Instant, pid: Option<u32>) {
        let (rows, bytes) = self.take_shown();
        let mut left = VecDeque::new();
        while let Some(running) = self.work.underway.pop() {
            left.push_back(running);
        }
        if left.iter().all(|running| running.failed.is_none())
            && let Some(failing) = self.never_ended(&left).and_then(|at| left.get_mut(at))
        {
            failing.failed = Some(class);
            failing.rows += rows;
            failing.bytes += bytes;
        }
        for mut running in left {
            let finished_at = match (running.failed, running.completed_at) {
                (Some(_), _) => now,
                (None, Some(completed)) => completed,
                (None, None) => {
                    running.failed = Some(class);
                    running.begins(now);
                    now
                }
            };
            self.finish(Finished { running, finished_at, server_pid: pid });
        }
        // With its group it is kept back; of one that was ignored the group is gone.
        if self.work.noted.is_some() && !self.work.group.is_empty() {
            self.unsent(class, now);
        }
    }

    /// Which of these, all under way, was not answered to its end: the first without an answer in
    /// the unit that is, else the one in front of the commit.
    fn never_ended(&self, left: &VecDeque<Running>) -> Option<usize> {
        let unit = self.work.requests.iter().find_map(|request| match &request.kind {
            RequestKind::Unit(_) => Some(request.id),
            RequestKind::Parse { .. }
            | RequestKind::Close { .. }
            | RequestKind::Describe(_)
            | RequestKind::Changed { .. }
            | RequestKind::Execute { .. } => None,
        });
        let is_open = |running: &Running| running.completed_at.is_none();
        let is_of_unit = |running: &Running| unit.is_some_and(|end| running.request <= end);
        left.iter()
            .position(|running| is_of_unit(running) && is_open(running))
            .or_else(|| left.iter().rposition(is_of_unit))
            .or_else(|| left.iter().position(is_open))
    }

    /// No server was had for the group: what was noted of it has failed, else the statement in
    /// front of those that it is.
    pub(super) fn unsent(&mut self, class: [u8; 2], now: Instant) {
        if self.work.noted.is_none()
            && let Some(shape) = self.shape_in_front()
        {
            self.note(Outcome::Bypass(self.work.unasked), shape, now, false);
        }
        if let Some(running) = self.work.noted.take() {
            self.common.counters.query.one();
            let running = Running { failed: Some(class), ..running };
            self.finish(Finished { running, finished_at: now, server_pid: None });
        }
    }

    /// Of a group that runs something.
    fn shape_in_front(&mut self) -> Option<Shape> {
        let group = std::mem::take(&mut self.work.group);
        let runs = group.parts.iter().any(|part| part.tag == frontend::EXECUTE);
        let prepared = front(&group).and_then(|(single, _)| self.prepared_for(&single));
        self.work.group = group;
        let shape = prepared.map(|prepared| Shape::Prepared(prepared.statement));
        runs.then(|| shape.unwrap_or(Shape::Unknown))
    }

    /// The first under way is over, at `ended`, else when it was completed.
    fn finish_executed(&mut self, ended: Option<Instant>) {
        let Some(running) = &self.work.underway.first else { return };
        // Of several statements in a string each was finished for itself.
        let is_over = if running.is_query {
            running.shape.statements() <= 1 || running.failed.is_some()
        } else {
            running.completed_at.is_some() || running.failed.is_some()
        };
        let finished_at = ended.or(running.completed_at).or(running.sent_at);
        if let Some(running) = self.work.underway.pop()
            && let Some(finished_at) = finished_at.filter(|_| is_over)
        {
            self.finish(Finished { running, finished_at, server_pid: None });
        }
    }

    fn take_shown(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.work.rows), std::mem::take(&mut self.work.bytes))
    }
}
