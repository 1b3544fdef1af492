//! What the members of a group tell each other at once: cancel requests whose client is not here,
//! and that somebody waits for the others to have heard of a commit. Over a channel in Redis, by
//! connections of its own, wherever K is. In a cluster every node has it.
//!
//! Invariant: what was heard is not told on, so that nothing goes in circles. Whatever is lost here
//! costs time alone.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_core::Stream as _;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{Client, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::metrics::CancelCounters;

use super::cancel_word::{Pace, Word, Words};
use super::link::{self, LinkError, within};
use super::settings::Settings;

/// Requests being told, and others being carried out, at most: each of the latter has a connection
/// to PostgreSQL.
const AT_ONCE_MAX: usize = 64;

/// Requests told and heard a second, at most: anybody may send some, and each has all members look.
const A_SECOND_MAX: u32 = 1000;

/// So long nothing may be heard until it is asked whether Redis is there.
const SILENCE: Duration = Duration::from_secs(5);

/// Between attempts to listen to a Redis that cannot be reached, or that refuses it.
const RETRY: Duration = Duration::from_secs(1);
const REFUSED_RETRY: Duration = Duration::from_secs(30);

pub struct Talk {
    settings: Arc<Settings>,
    channel: String,
    pub words: Words,
    telling: Gate,
    hearing: Gate,
    /// What was told by last. Nothing else is locked inside.
    voice: Mutex<Option<MultiplexedConnection>>,
    pub counters: CancelCounters,
}

impl Talk {
    pub fn new(settings: &Arc<Settings>) -> Self {
        Self {
            // Named as K is, so that what a user may do there is said alike.
            channel: format!("fb:{{{}}}:talk", settings.name),
            words: Words::new(settings.secret.reveal().as_bytes()),
            settings: Arc::clone(settings),
            telling: Gate::new(Instant::now()),
            hearing: Gate::new(Instant::now()),
            voice: Mutex::default(),
            counters: CancelCounters::default(),
        }
    }

    /// Tells the others of a client that is not here. Waits for Redis, for about a second at most,
    /// and for none of the others.
    pub async fn tell(&self, pid: u32, key: &[u8]) {
        let Some(_permit) = self.telling.enter(Instant::now()) else {
            self.counters.dropped.one();
            tracing::info!("too many cancel requests to tell the group of this one");
            return;
        };
        let word = self.words.of(pid, key, rand::random()).bytes();
        match within(self.settings.link.timeout, self.say(&word)).await {
            Ok(()) => {
                self.counters.sent.one();
                tracing::debug!("cancel request told to the group");
            }
            Err(error) => {
                *self.voice() = None;
                self.counters.dropped.one();
                tracing::info!(reason = %error, "the group cannot be told of a cancel request");
            }
        }
    }

    async fn say(&self, word: &[u8]) -> Result<(), LinkError> {
        let kept = self.voice().clone();
        if let Some(mut voice) = kept {
            match self.publish(word, &mut voice).await {
                // It was there once, and may have been restarted.
                Err(LinkError::Lost(_)) => {}
                said => return said,
            }
        }
        let mut voice = link::connect(&link::find(&self.settings.link).await?).await?;
        self.publish(word, &mut voice).await?;
        *self.voice() = Some(voice);
        Ok(())
    }

    async fn publish(
        &self,
        word: &[u8],
        voice: &mut MultiplexedConnection,
    ) -> Result<(), LinkError> {
        let mut publish = redis::cmd("PUBLISH");
        Ok(publish.arg(&self.channel).arg(word).query_async(voice).await?)
    }

    fn voice(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        self.voice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for ever. Whoever is told of a word keeps the permit until it has been dealt with.
    pub async fn listen(&self, heard: impl Fn(&Word, Permit), hurried: impl Fn(Hurry<'_>)) {
        let mut unsaid = None;
        loop {
            let error = match within(self.settings.link.timeout, self.subscribe()).await {
                Ok(ear) => {
                    tracing::debug!(channel = %self.channel, "listening to the group");
                    self.hear(ear, &heard, &hurried).await
                }
                Err(error) => error,
            };
            *self.voice() = None;
            let refused = matches!(error, LinkError::Refused(_));
            let why = error.to_string();
            if unsaid.as_ref() != Some(&why) {
                let channel = &self.channel;
                tracing::warn!(%channel, reason = %why, "the group is not heard");
            }
            unsaid = Some(why);
            sleep(if refused { REFUSED_RETRY } else { RETRY }).await;
        }
    }

    async fn subscribe(&self) -> Result<(PubSubSink, PubSubStream), LinkError> {
        let client = Client::open(link::find(&self.settings.link).await?)?;
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(&self.channel).await?;
        Ok((sink, stream))
    }

    /// Until Redis is gone. A connection that it takes for too slow it ends, too.
    async fn hear(
        &self,
        (mut sink, mut stream): (PubSubSink, PubSubStream),
        heard: impl Fn(&Word, Permit),
        hurried: impl Fn(Hurry<'_>),
    ) -> LinkError {
        loop {
            let next = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx));
            match timeout(SILENCE, next).await {
                Ok(Some(message)) => {
                    let bytes = message.get_payload_bytes();
                    match Hurry::read(bytes) {
                        Some(hurry) => hurried(hurry),
                        None => self.take(bytes, &heard),
                    }
                }
                Ok(None) => return LinkError::Lost("Redis ended the connection".to_owned()),
                Err(_silent) => {
                    let answer = async { Ok(sink.ping::<Value>().await?) };
                    if let Err(error) = within(self.settings.link.timeout, answer).await {
                        return error;
                    }
                }
            }
        }
    }

    fn take(&self, bytes: &[u8], heard: impl Fn(&Word, Permit)) {
        let Some(word) = Word::read(bytes) else { return };
        match self.hearing.enter(Instant::now()) {
            Some(permit) => heard(&word, permit),
            None => self.counters.dropped.one(),
        }
    }
}

/// A member waits for the others to have heard what has changed in this K; `lua/begin.lua` says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hurry<'a> {
    pub by: u32,
    pub key: &'a str,
}

impl<'a> Hurry<'a> {
    /// From `2 u8 · the member's number in decimal · space · name of K`.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes.strip_prefix(&[2])?).ok()?;
        let (by, key) = text.split_once(' ')?;
        Some(Self { by: by.parse().ok()?, key })
    }
}

/// One of those that are let in at once, until it is dropped.
pub struct Permit(#[expect(dead_code, reason = "gives it back")] OwnedSemaphorePermit);

/// Lets in no more than there may be, neither at once nor in a second.
struct Gate {
    at_once: Arc<Semaphore>,
    /// Nothing else is locked inside.
    pace: Mutex<Pace>,
}

impl Gate {
    fn new(now: Instant) -> Self {
        Self { at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)), pace: Mutex::new(Pace::new(now)) }
    }

    fn enter(&self, now: Instant) -> Option<Permit> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if !pace.may_pass(now, A_SECOND_MAX) {
            return None;
        }
        Arc::clone(&self.at_once).try_acquire_owned().ok().map(Permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hurry_is_read_or_is_none() {
        let read = |bytes: &'static [u8]| Hurry::read(bytes);
        assert_eq!(read(b"\x027 fb:{g:1:2}"), Some(Hurry { by: 7, key: "fb:{g:1:2}" }));
        for none in [&b""[..], b"\x02", b"\x027", b"\x02x k", b"\x01 7 k", b"\x027 \xff", b"7 k"] {
            assert_eq!(read(none), None, "{none:?}");
        }
    }

    #[test]
    fn so_many_are_let_in_at_once_and_a_second() {
        let now = Instant::now();
        let gate = Gate::new(now);
        let mut inside: Vec<Permit> = (0..AT_ONCE_MAX).map_while(|_| gate.enter(now)).collect();
        assert_eq!(inside.len(), AT_ONCE_MAX);
        assert!(gate.enter(now).is_none());
        inside.clear();
        let passed = (0..A_SECOND_MAX).map_while(|_| gate.enter(now)).count();
        assert_eq!(passed, A_SECOND_MAX as usize - AT_ONCE_MAX - 1);
        assert!(gate.enter(now + Duration::from_secs(1)).is_some());
    }
}
