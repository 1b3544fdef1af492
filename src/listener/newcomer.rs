//! A connection until it has logged in: the first packets, TLS, authentication.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use crate::auth::{Asking, ClientAuth};
use crate::client::close::CloseReason;
use crate::client::startup::{self, Proof};
use crate::gateway::Gateway;
use crate::net::listen::own_uid;
use crate::net::{AcceptError, Stream, accept_direct_tls, accept_tls};
use crate::server::io::next_id;
use crate::stop::{self, Arrival};
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::startup::{MINOR, Packet, Replication, Startup, StartupError};
use crate::wire::{backend, frontend};
use crate::{authenticate, cancel, console};

/// Longest message of a client that has not proven who it is; passwords may have 65535 bytes.
const UNPROVEN_BYTES_MAX: usize = 66 * 1024;

/// A connection while it has not logged in.
pub(super) struct Newcomer {
    pub(super) id: u64,
    /// `None` only while TLS is being negotiated over it.
    pub(super) stream: Option<Stream>,
    pub(super) input: BytesMut,
    pub(super) gateway: Arc<Gateway>,
    /// It may be let in while clients are waited for.
    pub(super) arrival: Option<Arrival>,
    since: Instant,
    /// For whoever counts those that log in.
    _logs_in: Arc<()>,
    /// What it said it wants, for the log.
    database: String,
    user: String,
}

/// What it wants, once it is let in.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    database: &'a str,
    console: bool,
    /// Of the whole cluster, not of one database.
    replication: bool,
}

/// One that has.
pub(super) struct Known {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) startup: Startup,
    /// What it called itself; the startup's may have its address behind it.
    pub(super) plain_name: String,
    /// Messages for it, AuthenticationOk not among them yet.
    pub(super) out: Vec<u8>,
    pub(super) replication: Replication,
    /// It wants the console, not a database.
    pub(super) console: bool,
    /// It is there without a secret, as the user this process runs as.
    pub(super) own: bool,
}

impl Newcomer {
    pub(super) fn new(stream: Stream, gateway: Arc<Gateway>, arrival: Option<Arrival>) -> Self {
        Self {
            id: next_id(),
            stream: Some(stream),
            input: BytesMut::new(),
            _logs_in: Arc::clone(&gateway.logging_in),
            gateway,
            arrival,
            since: Instant::now(),
            database: String::new(),
            user: String::new(),
        }
    }

    /// `None`: it was a cancel request, and is done.
    pub(super) async fn log_in(&mut self, console: bool) -> Result<Option<Known>, CloseReason> {
        self.start_direct_tls().await?;
        let mut startup = loop {
            match self.packet().await? {
                Packet::SslRequest => self.start_tls().await?,
                Packet::GssencRequest => self.send(b"N").await?,
                Packet::Cancel { pid, key } => {
                    // Boxed, or every login is ten times as large and moved about as such.
                    Box::pin(cancel::request(&self.gateway, pid, &key)).await;
                    return Ok(None);
                }
                Packet::Startup(startup) => break startup,
            }
        };
        self.require_tls()?;
        // All it is told until it is let in, without growing.
        let mut out = Vec::with_capacity(1024);
        if startup.minor > MINOR || startup.extensions().next().is_some() {
            backend::write_negotiate(&mut out, startup.minor.min(MINOR), startup.extensions());
        }
        let user = startup.parameter("user").unwrap_or_default().to_owned();
        if user.is_empty() {
            return Err(CloseReason::NoUser);
        }
        let replication = startup::replication(&startup)?;
        let config = self.gateway.config();
        let default = config.default_database.clone();
        let named = startup.parameter("database").filter(|name| !name.is_empty());
        let database = named.map_or_else(|| default.unwrap_or_else(|| user.clone()), str::to_owned);
        let console = console || console::is_named(&config, &database);
        // Whatever its own port was asked for, it is one thing to who looks users up.
        let database = if console { console::DATABASE.to_owned() } else { database };
        if !console && stop::refuses(&self.gateway, self.arrival.as_ref()) {
            return Err(CloseReason::ShuttingDown);
        }
        if !console {
            // Consoles come in while all is suspended, for somebody has to resume.
            let mut suspended = self.gateway.suspended.subscribe();
            // The sender is the gateway's, so it is there as long as we are.
            let _resumed = suspended.wait_for(|suspended| !suspended).await.is_ok();
        }
        (self.user, self.database) = (user.clone(), database.clone());
        let own = console && self.is_own(&user);
        let user = if own {
            user
        } else {
            // To the rules one of a database is a client of that database.
            let physical = replication == Replication::Physical;
            let wanted = Wanted { database: &database, console, replication: physical };
            self.authenticate(&user, wanted, &mut out).await?
        };
        // Only who has proven who it is learns which databases there are.
        if !console && !self.gateway.knows_database(&database) {
            return Err(CloseReason::NoSuchDatabase(database));
        }
        if !console && self.gateway.pauses().is_disabled(&database) {
            return Err(CloseReason::DatabaseDisabled(database));
        }
        let plain_name = startup.parameter("application_name").unwrap_or_default().to_owned();
        if config.listen.application_name_add_host {
            let peer = self.stream.as_ref().and_then(|stream| stream.peer().ok());
            let address = peer.map_or_else(String::new, |peer| peer.to_string());
            startup::add_host(&mut startup, &address);
        }
        Ok(Some(Known { user, database, startup, plain_name, out, replication, console, own }))
    }

    async fn packet(&mut self) -> Result<Packet, CloseReason> {
        loop {
            match crate::wire::startup::read(&self.input) {
                Ok(Some((packet, total))) => {
                    self.input.advance(total);
                    return Ok(packet);
                }
                Ok(None) => self.read().await?,
                Err(StartupError::Version { major, minor }) => {
                    return Err(CloseReason::StartupVersion { major, minor });
                }
                Err(StartupError::Length(_) | StartupError::Malformed | StartupError::NotUtf8) => {
                    return Err(CloseReason::StartupMalformed);
                }
            }
        }
    }

    async fn start_tls(&mut self) -> Result<(), CloseReason> {
        let has_none = self.is_tls() || self.is_unix();
        let Some(config) = self.gateway.running().tls.client.clone().filter(|_| !has_none) else {
            return self.send(b"N").await;
        };
        let Some(plain) = self.stream.take() else { return Err(CloseReason::ClientLost) };
        let accepted = accept_tls(plain, &config, &self.input).await;
        self.secured(accepted)
    }

    /// As of PostgreSQL 17 a client may begin with TLS, without asking.
    async fn start_direct_tls(&mut self) -> Result<(), CloseReason> {
        let Some(config) = self.gateway.running().tls.client.clone() else { return Ok(()) };
        let Some(plain) = self.stream.take() else { return Err(CloseReason::ClientLost) };
        if !plain.begins_with_tls().await.or(Err(CloseReason::ClientLost))? {
            self.stream = Some(plain);
            return Ok(());
        }
        let accepted = accept_direct_tls(plain, &config).await;
        self.secured(accepted)
    }

    fn secured(&mut self, accepted: Result<Stream, AcceptError>) -> Result<(), CloseReason> {
        match accepted {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => {
                tracing::info!(%error, "TLS handshake failed");
                Err(CloseReason::ClientLost)
            }
        }
    }

    fn require_tls(&self) -> Result<(), CloseReason> {
        let required = self.gateway.running().tls.is_required;
        if required && !self.is_tls() && !self.is_unix() {
            return Err(CloseReason::TlsRequired);
        }
        Ok(())
    }

    /// Gives the user it has proven to be.
    async fn authenticate(
        &mut self,
        user: &str,
        wanted: Wanted<'_>,
        out: &mut Vec<u8>,
    ) -> Result<String, CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let running = gateway.running();
        let Wanted { database, console, replication } = wanted;
        let finding = authenticate::find(&gateway, &running, database, console, user);
        // Boxed, since few clients are looked up and every task has room for it.
        let candidate = Box::pin(finding).await?;
        let stream = self.stream.as_ref().ok_or(CloseReason::ClientLost)?;
        let asking = Asking {
            address: authenticate::address(stream)?,
            tls: stream.is_tls(),
            replication,
            databases: if console { &console::NAMES } else { &[database] },
            user: &candidate.user,
        };
        let demand = running
            .demand(&asking)
            .map_err(|refusal| CloseReason::NotAdmitted(refusal.sentence(None)))?;
        // Settings that came while it was asked count as if they had been there before.
        let stands = || {
            let now = gateway.running();
            let same_secret = match (running.secret(user), now.secret(user)) {
                (Some(one), Some(other)) => one.is_same(&other),
                (one, other) => one.is_none() && other.is_none(),
            };
            if same_secret && now.demand(&asking).as_ref() == Ok(&demand) {
                Ok(())
            } else {
                Err(CloseReason::Reconfigured)
            }
        };
        let learn = |keys| {
            if !console && gateway.knows_database(database) {
                let learned = gateway.learned.of(database, &candidate.user);
                learned.set(candidate.knowledge(keys));
            }
        };
        let Some(method) = candidate.method(&demand, stream)? else {
            learn(None);
            return Ok(candidate.user);
        };
        let iterations = running.config.auth.scram_iterations;
        let random = startup::random(&gateway.process_secret, iterations);
        let secret = candidate.secret.as_ref();
        let (auth, progress) = ClientAuth::begin(method, &candidate.user, secret, &random);
        let mut proof = startup::step(auth, progress, out);
        loop {
            match proof {
                Proof::Proven(keys) => {
                    stands()?;
                    learn(keys);
                    return Ok(candidate.user);
                }
                Proof::Refused(error) => return Err(candidate.unproven(error)),
                Proof::Ask(mut auth) => {
                    self.send(out).await?;
                    out.clear();
                    let answer = self.password_message().await?;
                    let progress = auth.respond(&answer);
                    proof = startup::step(auth, progress, out);
                }
            }
        }
    }

    async fn password_message(&mut self) -> Result<BytesMut, CloseReason> {
        loop {
            let header = frame::header(&self.input, UNPROVEN_BYTES_MAX)
                .or(Err(CloseReason::MessageTooLarge { tag: frontend::PASSWORD }))?;
            if let Some(header) = header {
                if header.tag != frontend::PASSWORD {
                    return Err(CloseReason::UnknownMessage { tag: header.tag });
                }
                if self.input.len() >= header.total {
                    let mut message = self.input.split_to(header.total);
                    message.advance(HEADER_BYTES);
                    return Ok(message);
                }
            }
            self.read().await?;
        }
    }

    /// The user `pgbouncer` on a Unix socket from a process of our own user may do everything, as
    /// in PgBouncer: such a process could as well end ours.
    fn is_own(&self, user: &str) -> bool {
        let peer = self.stream.as_ref().and_then(|stream| stream.peer_uid().ok().flatten());
        user == console::DATABASE && peer.is_some() && peer == own_uid()
    }

    fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// There is no TLS on Unix sockets.
    fn is_unix(&self) -> bool {
        matches!(self.stream, Some(Stream::Unix(_)))
    }

    async fn read(&mut self) -> Result<(), CloseReason> {
        self.input.reserve(1024);
        let Some(stream) = &mut self.stream else { return Err(CloseReason::ClientLost) };
        match stream.read(&mut self.input).await {
            Ok(0) | Err(_) => Err(CloseReason::ClientLost),
            Ok(_) => Ok(()),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let Some(stream) = &mut self.stream else { return Err(CloseReason::ClientLost) };
        stream.write_all(bytes).await.or(Err(CloseReason::ClientLost))
    }

    pub(super) async fn refuse(&mut self, reason: &CloseReason) {
        let log = &self.gateway.config().log;
        let peer = self.stream.as_ref().and_then(|stream| stream.peer().ok());
        let address = peer.map_or_else(String::new, |peer| peer.to_string());
        let (database, user, text) = (&self.database, &self.user, reason.text());
        if log.log_disconnections {
            let age = self.since.elapsed().as_secs();
            tracing::info!(%database, %user, %address, "closing because: {text} (age={age}s)");
        }
        // Who is gone is told nothing.
        if log.log_pooler_errors && *reason != CloseReason::ClientLost {
            tracing::warn!(%database, %user, %address, "pooler error: {text}");
        }
        let mut out = Vec::new();
        reason.tell(&mut out);
        // It is being refused: if it does not listen, that is all the same.
        let _told = self.send(&out).await;
    }
}
