//! The task of one console connection: bytes in, commands performed, bytes out.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::admin::command::{Command, Show};
use crate::admin::conversation::{Access, Conversation, Outcome, Step};
use crate::admin::part::Part;
use crate::client::close::CloseReason;
use crate::client::registry::Registered;
use crate::config::SETTINGS;
use crate::gateway::Gateway;
use crate::net::Stream;
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::{frontend, sqlstate};

use super::act::{self, Performed};
use super::agreed;
use super::operate::{self, Waiting};
use super::plan_slow;

/// Longest message; commands are short, and so are the groups drivers send.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Between two looks at whether what a command waits for has come about.
const LOOK: Duration = Duration::from_millis(20);

/// A console that does not take what it is told at the end by then does not hear it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Replies over this many bytes are sent before the next message is taken.
const BACKLOG_BYTES: usize = 256 * 1024;

/// What the console reports of itself at login, as PgBouncer does.
pub fn reported() -> Vec<(String, String)> {
    let version = concat!(env!("CARGO_PKG_VERSION"), "/bouncer");
    [
        ("server_version", version),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// While it lives, the program does not end over the head of whoever has told it to.
struct Untold(Arc<Gateway>);

impl Untold {
    fn of(gateway: &Arc<Gateway>) -> Self {
        gateway.untold.send_modify(|count| *count += 1);
        Self(Arc::clone(gateway))
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.untold.send_modify(|count| *count -= 1);
    }
}

/// Whether what is set may not be in the log.
fn is_secret(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.secret && setting.shown_name() == key)
}

/// What is shown may take a look at every client, and at every entry of the cache, and so may what
/// empties it: the threads that serve clients have better to do.
async fn perform(
    gateway: Arc<Gateway>,
    command: Command,
    access: Access,
    now: Instant,
) -> Performed {
    let read = |path: &Path| std::fs::read_to_string(path);
    let is_long = matches!(
        command,
        Command::Show(_)
            | Command::ShowPart(..)
            | Command::FlushCache
            | Command::Reload
            | Command::Set { .. }
    );
    if !is_long {
        return act::perform(&gateway, &command, access, now, &read);
    }
    let making = move || act::perform(&gateway, &command, access, now, &read);
    tokio::task::spawn_blocking(making).await.unwrap_or_else(|_panicked| {
        Performed::Done(Outcome::Failed {
            sqlstate: sqlstate::INTERNAL_ERROR,
            message: "it failed, see the log".to_owned(),
        })
    })
}

pub struct Task {
    stream: Stream,
    input: BytesMut,
    out: Vec<u8>,
    access: Access,
    conversation: Conversation,
    registered: Registered,
    gateway: Arc<Gateway>,
    untold: Option<Untold>,
}

impl Task {
    pub fn new(
        stream: Stream,
        input: BytesMut,
        out: Vec<u8>,
        access: Access,
        registered: Registered,
        gateway: Arc<Gateway>,
    ) -> Self {
        let conversation = Conversation::new(access);
        Self { stream, input, out, access, conversation, registered, gateway, untold: None }
    }

    /// Serves until the client leaves or must. Gives its entry back, for the log.
    pub async fn run(mut self) -> (CloseReason, Registered) {
        // What it sent behind the messages of its login.
        self.gateway.console_counters.received.add(self.input.len() as u64);
        let reason = loop {
            if let Err(reason) = self.take_messages().await {
                break reason;
            }
            if let Err(reason) = self.read().await {
                break reason;
            }
        };
        reason.tell(&mut self.out);
        // It is leaving: what it does not take is lost, and that is all.
        let _told = tokio::time::timeout(FAREWELL_TIMEOUT, self.flush()).await;
        (reason, self.registered)
    }

    async fn take_messages(&mut self) -> Result<(), CloseReason> {
        loop {
            if self.out.len() > BACKLOG_BYTES {
                self.flush().await?;
            }
            let header = match frame::header(&self.input, MESSAGE_BYTES_MAX) {
                Ok(header) => header,
                Err(frame::FrameError::LengthTooLarge { tag, .. }) => {
                    return Err(CloseReason::MessageTooLarge { tag });
                }
                Err(frame::FrameError::LengthTooSmall { tag }) => {
                    return Err(CloseReason::MalformedMessage { tag });
                }
            };
            let Some(header) = header.filter(|header| self.input.len() >= header.total) else {
                let flushed = self.flush().await;
                self.untold = None;
                return flushed;
            };
            let message = self.input.split_to(header.total).freeze();
            let body = message.get(HEADER_BYTES..).unwrap_or_default();
            self.take(header.tag, body).await?;
        }
    }

    async fn take(&mut self, tag: u8, body: &[u8]) -> Result<(), CloseReason> {
        let now = Instant::now();
        // Before: what it shows counts itself, as in PgBouncer.
        if matches!(tag, frontend::QUERY | frontend::EXECUTE) {
            self.registered.entry.note_request(now);
            self.gateway.console_counters.query.one();
            self.gateway.console_counters.xact.one();
            let mut shown =
                self.registered.entry.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.queries += 1;
        }
        match self.conversation.take(tag, body, &mut self.out) {
            Step::Next => {}
            Step::Perform(command) => {
                self.log(&command);
                if matches!(command, Command::Shutdown(_)) {
                    self.untold = Some(Untold::of(&self.gateway));
                }
                let gateway = Arc::clone(&self.gateway);
                let outcome = match perform(gateway, command, self.access, now).await {
                    Performed::Done(outcome) => outcome,
                    Performed::Waits(waiting, tag) => self.wait_for(&waiting, tag).await?,
                    Performed::Plans(id) => Box::pin(self.plan(id)).await?,
                    Performed::AsksGroup(show, part) => {
                        Box::pin(self.ask_group(show, part)).await?
                    }
                };
                self.conversation.answer(&outcome, &mut self.out);
            }
            Step::Close => return Err(CloseReason::ClientClosed),
            Step::Broken => return Err(CloseReason::UnknownMessage { tag }),
        }
        Ok(())
    }

    /// Waits until it has come about, or a cancel request says that nobody wants it any more.
    async fn wait_for(
        &mut self,
        waiting: &Waiting,
        tag: &'static str,
    ) -> Result<Outcome, CloseReason> {
        self.flush().await?;
        let entry = Arc::clone(&self.registered.entry);
        let mut cancelled = std::pin::pin!(entry.cancelled.notified());
        let mut every = tokio::time::interval(LOOK);
        loop {
            let room = self.input.len() < MESSAGE_BYTES_MAX;
            self.input.reserve(1024);
            tokio::select! {
                _ = every.tick() => {
                    if operate::is_done(&self.gateway, waiting, Instant::now()) {
                        return Ok(Outcome::done(tag));
                    }
                }
                () = &mut cancelled => {
                    operate::give_up(&self.gateway, waiting);
                    return Ok(Outcome::Failed {
                        sqlstate: sqlstate::QUERY_CANCELED,
                        message: CloseReason::CancelledWaiting.text(),
                    });
                }
                leave = entry.asked_to_leave() => return Err(leave.reason()),
                read = self.stream.read(&mut self.input), if room => {
                    self.count_received(&read)?;
                }
            }
        }
    }

    /// Asks PostgreSQL for the plan of a slow statement, unless nobody wants it any more.
    async fn plan(&mut self, id: Option<u64>) -> Result<Outcome, CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        self.unless_unwanted(plan_slow::explain(&gateway, id)).await
    }

    /// Asks Redis what a group has agreed on, in the same way.
    async fn ask_group(&mut self, show: Show, part: Option<Part>) -> Result<Outcome, CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        self.unless_unwanted(agreed::show(&gateway, show, part)).await
    }

    async fn unless_unwanted(
        &mut self,
        asked: impl Future<Output = Outcome>,
    ) -> Result<Outcome, CloseReason> {
        self.flush().await?;
        let entry = &self.registered.entry;
        tokio::select! {
            outcome = asked => Ok(outcome),
            () = entry.cancelled.notified() => Ok(Outcome::Failed {
                sqlstate: sqlstate::QUERY_CANCELED,
                message: CloseReason::CancelledWaiting.text(),
            }),
            leave = entry.asked_to_leave() => Err(leave.reason()),
        }
    }

    /// Who changes something is on record.
    fn log(&self, command: &Command) {
        if !command.only_looks() {
            let entry = &self.registered.entry;
            let mut command = command.clone();
            if let Command::Set { key, value } = &mut command
                && is_secret(key)
            {
                "****".clone_into(value);
            }
            tracing::info!(
                client_id = entry.id,
                user = %entry.user,
                address = %entry.address,
                ?command,
                "console command"
            );
        }
    }

    async fn read(&mut self) -> Result<(), CloseReason> {
        self.input.reserve(1024);
        let read = tokio::select! {
            read = self.stream.read(&mut self.input) => read,
            leave = self.registered.entry.asked_to_leave() => return Err(leave.reason()),
        };
        self.count_received(&read)
    }

    fn count_received(&self, read: &io::Result<usize>) -> Result<(), CloseReason> {
        match read {
            Ok(0) | Err(_) => Err(CloseReason::ClientLost),
            Ok(count) => {
                self.gateway.console_counters.received.add(*count as u64);
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        let written = self.stream.write_all(&self.out).await;
        self.gateway.console_counters.sent.add(self.out.len() as u64);
        self.out.clear();
        written.or(Err(CloseReason::ClientLost))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::net::UnixStream;
    use tokio::runtime::Builder;

    use super::super::tests::{gateway, hello};
    use super::*;
    use crate::client::registry::Room;

    #[test]
    fn while_something_is_shown_clients_are_served() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let guard = runtime.enter();
        let gateway = gateway();
        let enter = |console| {
            let hello = hello("pgbouncer", "root", console);
            gateway.shared.registry.enter(hello, Room::UNLIMITED).unwrap()
        };
        let (console, client) = (enter(true), enter(false));
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut input = Vec::new();
        frontend::write(&mut input, frontend::QUERY, |body| body.extend(b"SHOW CLIENTS\0"));
        let task = Task::new(
            Stream::Unix(theirs),
            BytesMut::from(&*input),
            Vec::new(),
            Access::All,
            console,
            Arc::clone(&gateway),
        );
        // Whoever looks at this client has to wait.
        let shown = client.entry.shown.lock().unwrap();
        runtime.spawn(task.run());
        let (sender, receiver) = mpsc::channel();
        runtime.spawn(async move { sender.send(()) });
        receiver.recv_timeout(Duration::from_secs(20)).expect("the thread is held up");
        drop(shown);
        let shown = runtime.block_on(async {
            let (mut stream, mut reply) = (Stream::Unix(ours), BytesMut::new());
            while !reply.ends_with(b"Z\0\0\0\x05I") {
                reply.reserve(1024);
                assert!(stream.read(&mut reply).await.unwrap() > 0);
            }
            String::from_utf8_lossy(&reply).into_owned()
        });
        assert!(shown.contains("SHOW"), "{shown}");
        drop(guard);
    }
}
