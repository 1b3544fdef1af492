//! A client of this process's own, for one question: let in without a log-in, in nobody's place,
//! and from then on as any other.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cache::key::{self, KeyBuffer, StatementKey};
use crate::cache::warm::Recipe;
use crate::client::close::CloseReason;
use crate::client::facts::Facts;
use crate::client::io::{Beginning, Task, login_patience};
use crate::client::registry::{Hello, Room};
use crate::client::session::Session;
use crate::gateway::{Gateway, Opened};
use crate::net::Stream;
use crate::opening;
use crate::server::io::next_id;
use crate::server::settings::{Settings, literal};
use crate::wire::startup::Replication;
use crate::wire::{backend, frame, frontend};

/// What PostgreSQL and the statistics know it by.
pub(super) const NAME: &str = "forebay warm-up";

/// Who takes longer is not asked for the sake of later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What comes before the rows, and behind them, takes less.
const ENVELOPE_BYTES: usize = 64 * 1024;

/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its answer is in memory.
    Kept,
    /// It was answered and is not, or was not sent, since it would not be.
    NotKept,
    /// PostgreSQL said that it cannot be answered.
    Refused,
    /// There was no answer.
    Lost,
}

/// Whether it is answered without being asked.
pub(super) fn is_kept(opened: &Opened, recipe: &Recipe) -> bool {
    let common = &opened.pool.common;
    let settings = Settings::intern(recipe.asker.settings.clone());
    let facts = Facts::of(common, &common.base(), &settings);
    let mut key = KeyBuffer::default();
    key::statement(&recipe.statement)
        .is_some_and(|statement| key.set(facts.key, &statement, common.cache.seed()))
        && common.cache.is_kept(&key, Instant::now())
}

pub(super) async fn ask(gateway: &Arc<Gateway>, opened: &Opened, recipe: &Recipe) -> Outcome {
    let Some(request) = key::statement(&recipe.statement).and_then(|of| request(&of)) else {
        return Outcome::Refused;
    };
    let bytes_max = gateway.cache.limits().entry_bytes_max.saturating_add(ENVELOPE_BYTES);
    let asking = async {
        let (mut stream, task) = match enter(gateway, opened, recipe).await {
            Ok(entered) => entered,
            Err(CloseReason::ServerLogin { .. }) => return Outcome::Refused,
            Err(_) => return Outcome::Lost,
        };
        match answered(&mut stream, &request, bytes_max).await {
            Some(true) if is_kept(opened, recipe) => Outcome::Kept,
            Some(true) => Outcome::NotKept,
            Some(false) => Outcome::Refused,
            None => {
                drop(stream);
                match task.await {
                    Ok(CloseReason::NotKept) => Outcome::NotKept,
                    Ok(_) | Err(_) => Outcome::Lost,
                }
            }
        }
    };
    // Dropped, it leaves as a client that is gone.
    timeout(ANSWER_TIMEOUT, asking).await.unwrap_or(Outcome::Lost)
}

/// Our end of a new client's connection, and its task, which tells why it ended.
async fn enter(
    gateway: &Arc<Gateway>,
    opened: &Opened,
    recipe: &Recipe,
) -> Result<(Stream, JoinHandle<CloseReason>), CloseReason> {
    let common = &opened.pool.common;
    let mut settings = recipe.asker.settings.clone();
    settings.insert("application_name".to_owned(), literal(NAME));
    let settings = Settings::intern(settings);
    let hello = Hello {
        id: next_id(),
        user: common.user.clone(),
        server_user: common.user.clone(),
        database: opened.pool.name.clone(),
        application_name: NAME.to_owned(),
        plain_name: NAME.to_owned(),
        address: "forebay".to_owned(),
        local: String::new(),
        tls: None,
        console: false,
        own: true,
        replication: Replication::None,
        long_keys: false,
        peer_id: 0,
        fd: -1,
    };
    let registered = gateway.shared.registry.enter(hello, Room::UNLIMITED)?;
    let entry = &registered.entry;
    let timeouts = gateway.timeouts(opened, &common.user);
    entry.set_timeouts(gateway.shared.registry.share(timeouts));
    let login = gateway.config().listen.client_login_timeout;
    let patience = login_patience(&entry.timeouts.get(), login);
    opening::reported(opened, &settings, entry, patience, pending()).await?;
    let (theirs, ours) = UnixStream::pair().or(Err(CloseReason::ClientLost))?;
    let guest = opened.pool.enter();
    let mut task = Task::new(Beginning {
        stream: Stream::Unix(theirs),
        input: BytesMut::new(),
        out: Vec::new(),
        session: Session::new(Arc::clone(common), settings),
        pool: Arc::clone(&opened.pool),
        entry: Arc::clone(entry),
        service: Arc::clone(&opened.service),
        shared: Arc::clone(&gateway.shared),
    });
    let task = tokio::spawn(async move {
        let reason = task.run().await;
        task.part(&reason).await;
        drop((registered, guest));
        reason
    });
    Ok((Stream::Unix(ours), task))
}

/// As an unnamed statement, described, so that its answer is for whoever asks in whatever way.
/// `None` if the parameters are none.
fn request(of: &StatementKey<'_>) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    frontend::write_parse(&mut request, b"", of.text, of.types);
    let mut tail = Vec::new();
    let codes = |tail: &mut Vec<u8>, codes: &[u8]| {
        tail.extend_from_slice(&u16::try_from(codes.len() / 2).ok()?.to_be_bytes());
        tail.extend_from_slice(codes);
        Some(())
    };
    codes(&mut tail, of.formats)?;
    tail.extend_from_slice(&count_of(of.values)?.to_be_bytes());
    tail.extend_from_slice(of.values);
    codes(&mut tail, of.result_formats)?;
    frontend::write_bind(&mut request, b"", b"", &tail);
    frontend::write_target(&mut request, frontend::DESCRIBE, frontend::Target::Portal, b"");
    frontend::write(&mut request, frontend::EXECUTE, |body| body.extend_from_slice(&[0; 5]));
    frontend::write_sync(&mut request);
    (!of.text.contains(&0)).then_some(request)
}

/// How many values these are.
fn count_of(mut values: &[u8]) -> Option<u16> {
    let mut count: u16 = 0;
    while !values.is_empty() {
        let (len, rest) = values.split_first_chunk()?;
        // -1 is NULL, which has no bytes.
        let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or(0);
        (_, values) = rest.split_at_checked(len)?;
        count = count.checked_add(1)?;
    }
    Some(count)
}

/// Whether it was answered without an error; `None` if it was not to its end, or at too great a
/// length.
async fn answered(stream: &mut Stream, request: &[u8], bytes_max: usize) -> Option<bool> {
    stream.write_all(request).await.ok()?;
    let mut input = BytesMut::new();
    let (mut count, mut succeeded) = (0, true);
    loop {
        while let Some(header) = frame::header(&input, bytes_max).ok()? {
            if input.len() < header.total {
                break;
            }
            input.advance(header.total);
            match header.tag {
                backend::READY_FOR_QUERY => return Some(succeeded),
                backend::ERROR_RESPONSE => succeeded = false,
                _ => {}
            }
        }
        input.reserve(READ_BYTES);
        let read = stream.read(&mut input).await.ok().filter(|read| *read > 0)?;
        count += read;
        if count > bytes_max {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frontend::{Bind, Parse};

    const NONE: StatementKey<'static> = StatementKey {
        text: b"select $1, $2",
        types: &[0, 0, 0, 23],
        formats: &[0, 1],
        values: &[0, 0, 0, 1, 7, 255, 255, 255, 255],
        result_formats: &[0, 1, 0, 0],
    };

    #[test]
    fn a_statement_is_asked_as_its_key_has_it() {
        let request = request(&NONE).unwrap();
        let mut rest: &[u8] = &request;
        let mut messages = Vec::new();
        while let Some(header) = frame::header(rest, 1000).unwrap() {
            messages.push((header.tag, &rest[frame::HEADER_BYTES..header.total]));
            rest = &rest[header.total..];
        }
        let tags: Vec<char> = messages.iter().map(|(tag, _)| char::from(*tag)).collect();
        assert_eq!(tags, ['P', 'B', 'D', 'E', 'S']);
        let parse = Parse::read(messages[0].1).unwrap();
        assert_eq!((parse.name, parse.sql, parse.types), (&b""[..], NONE.text, NONE.types));
        let bind = Bind::read(messages[1].1).unwrap();
        assert_eq!((bind.formats, bind.values_count, bind.values), (NONE.formats, 2, NONE.values));
        assert_eq!(bind.result_formats, NONE.result_formats);
    }

    #[test]
    fn what_no_client_could_have_said_is_not_asked() {
        assert_eq!(request(&StatementKey { values: &[0, 0, 0, 2, 7], ..NONE }), None);
        assert_eq!(request(&StatementKey { values: &[0, 0], ..NONE }), None);
        assert_eq!(request(&StatementKey { text: b"select\0 1", ..NONE }), None);
    }
}
