//! What becomes of a group of messages: it is answered here, perhaps after what it has to wait for, or
//! sent on to a server.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::client::close::CloseReason;
use crate::client::look_up::Answer;

use super::Task;

/// How often a group of messages waits for something before it is sent on, whatever it would wait for
/// next: the catalogue may go on changing.
const WAITS_MAX: usize = 8;

/// How long a statement waits for the catalogue to be read after DDL.
const CATALOG_WAIT: Duration = Duration::from_millis(250);

/// How long a client waits for another's fill. It saves PostgreSQL the same work many times over,
/// and adds no more than this to a statement whose leader is slow.
const FILL_WAIT: Duration = Duration::from_millis(100);

/// Leaving a database takes no round trip, so this is long.
const VACATE_TIMEOUT: Duration = Duration::from_secs(1);

impl Task {
    pub(super) async fn answer_or_send(&mut self) -> Result<(), CloseReason> {
        let mut answer = self.answer();
        for _ in 0..WAITS_MAX {
            // What waits seldom is boxed: every idle client has room for what is not.
            answer = match answer {
                // Once a group of messages.
                Answer::AwaitCatalog => {
                    Box::pin(self.service.catalog_read(CATALOG_WAIT)).await;
                    self.answer()
                }
                // A few times.
                Answer::AskGroup => Box::pin(self.ask_group()).await?,
                // Once.
                Answer::AskRedis => Box::pin(self.ask_redis()).await?,
                Answer::AwaitFill => Box::pin(self.await_fill()).await?,
                Answer::Done | Answer::Refuse(_) | Answer::Send | Answer::SendIfFree => break,
            };
        }
        match answer {
            Answer::Done => return Ok(()),
            Answer::Refuse(pin) => return Err(CloseReason::PinRefused(pin)),
            Answer::Send
            | Answer::AwaitCatalog
            | Answer::AskGroup
            | Answer::AskRedis
            | Answer::AwaitFill => {
                return self.send_group().await;
            }
            Answer::SendIfFree => {
                // PgBouncer counts whatever has an answer of its own.
                self.session.common.counters.query.one();
                if self.lease.is_none() {
                    let Some(lease) = self.pool.try_acquire(self.now) else {
                        self.session.accept_parse(&mut self.out);
                        return Ok(());
                    };
                    self.take_lease(lease);
                }
            }
        }
        self.send_group().await
    }

    fn answer(&mut self) -> Answer {
        self.entry.note_request(self.now);
        let server = self.lease.as_ref().map(|lease| &lease.connection.server);
        self.session.answer(server, self.now, &mut self.out)
    }

    /// Asks the group, no longer than a look into Redis may take; the client is read no further
    /// meanwhile, and what it is owed already is sent.
    async fn ask_group(&mut self) -> Result<Answer, CloseReason> {
        let holds = match self.session.check() {
            Some((check, limit)) => {
                let answered = self.sending(poll_fn(|cx| check.poll(cx)));
                timeout(limit, answered).await.unwrap_or(Ok(false))?
            }
            None => false,
        };
        self.take_output();
        self.now = Instant::now();
        Ok(self.session.answer_checked(holds, self.now, &mut self.out))
    }

    /// Looks in Redis, no longer than `redis.timeout`; the client is read no further meanwhile, and
    /// what it is owed already is sent.
    async fn ask_redis(&mut self) -> Result<Answer, CloseReason> {
        let common = Arc::clone(&self.session.common);
        let found = match &common.cache.redis {
            Some(redis) => {
                let home = common.database.home();
                let key = std::mem::take(&mut self.session.work.key);
                let found = self.sending(redis.look_up(&key, &home)).await;
                self.session.work.key = key;
                found?
            }
            None => None,
        };
        self.take_output();
        self.now = Instant::now();
        Ok(self.session.answer_again(found, self.now, &mut self.out))
    }

    /// Waits for another client's fill, no longer than `FILL_WAIT`; the client is read no further
    /// meanwhile, and what it is owed already is sent.
    async fn await_fill(&mut self) -> Result<Answer, CloseReason> {
        if let Some(gate) = self.session.work.awaited_fill.take() {
            let entry = Arc::clone(&self.entry);
            let opened = self.sending(poll_fn(|cx| gate.poll_open(cx)));
            tokio::select! {
                opened = timeout(FILL_WAIT, opened) => opened.unwrap_or(Ok(()))?,
                () = entry.cancelled.notified() => {
                    return Err(CloseReason::CancelledWaiting);
                }
            }
        }
        self.now = Instant::now();
        Ok(self.session.answer_shared(self.now, &mut self.out))
    }

    /// Sends the group on, after waiting for a server if there is none yet.
    pub(super) async fn send_group(&mut self) -> Result<(), CloseReason> {
        if self.lease.is_none()
            && let Err(reason) = self.acquire().await
        {
            self.session.unsent(reason.class(), Instant::now());
            return Err(reason);
        }
        if self.entry.own && !self.session.would_keep_answer() {
            // It is not asked, which is nobody's failure.
            self.session.work.noted = None;
            return Err(CloseReason::NotKept);
        }
        if let Some(lease) = &mut self.lease {
            let server = &mut lease.connection.server;
            if self.session.asks(server, self.now) {
                return Ok(());
            }
            self.session.dispatch(server, self.now);
            lease.connection.link.set_runs_ours(server.outstanding.runs_ours());
        }
        if !self.session.work.vacate.is_empty() {
            Box::pin(self.vacate()).await;
        }
        Ok(())
    }

    /// Leaves the databases that what was dispatched wants to have for itself. Should that take
    /// too long, PostgreSQL says who is still there.
    async fn vacate(&mut self) {
        for name in std::mem::take(&mut self.session.work.vacate) {
            if let Some(vacate) = self.shared.vacate.get() {
                self.away.extend(vacate(&self.pool.target, &name));
            }
        }
        for away in &self.away {
            let _late = timeout(VACATE_TIMEOUT, away.is_gone()).await;
        }
    }
}
