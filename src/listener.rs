//! Accepting connections: the first packets, TLS, authentication, and who serves what comes next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use crate::admin::conversation::Access;
use crate::auth::{Asking, ClientAuth};
use crate::authenticate;
use crate::client::close::CloseReason;
use crate::client::io::{self as client_io, login_patience};
use crate::client::log::{log_connection, log_disconnection};
use crate::client::registry::{Entry, Hello, Registered, Room};
use crate::client::relay;
use crate::client::session::Session;
use crate::client::startup::{self, Proof};
use crate::config::{Config, SslMode};
use crate::console::report::Report;
use crate::gateway::{Gateway, Opened};
use crate::net::listen::{Listener, own_uid};
use crate::net::{AcceptError, Peer, Stream, accept_direct_tls, accept_tls};
use crate::pool::PoolMode;
use crate::pool::io::Lease;
use crate::server::start::Start;
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::startup::{MINOR, Packet, Replication, Startup, StartupError};
use crate::wire::{backend, frontend};
use crate::{console, opening, plan, stop};

/// Longest message of a client that has not proven who it is; passwords may have 65535 bytes.
const UNPROVEN_BYTES_MAX: usize = 66 * 1024;

/// As often as PgBouncer does it: who waits for an effect waits no longer.
const UPKEEP_PERIOD: Duration = Duration::from_millis(333);

/// Accepts until the process ends. `console`: everybody who connects here gets the console.
pub async fn accept(listener: Listener, gateway: Arc<Gateway>, console: bool) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                tokio::spawn(serve(stream, Arc::clone(&gateway), console));
            }
            Err(error) => {
                // Too many open files, most likely; accepting again at once would spin.
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection while it has not logged in.
struct Newcomer {
    /// `None` only while TLS is being negotiated over it.
    stream: Option<Stream>,
    input: BytesMut,
    gateway: Arc<Gateway>,
    since: Instant,
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
struct Known {
    user: String,
    database: String,
    startup: Startup,
    /// Messages for it, AuthenticationOk not among them yet.
    out: Vec<u8>,
    replication: Replication,
    /// It wants the console, not a database.
    console: bool,
    /// It is there without a secret, as the user this process runs as.
    own: bool,
}

async fn serve(stream: Stream, gateway: Arc<Gateway>, console: bool) {
    // Fails only on a socket that is gone already, and then the first read says so.
    let _gone = stream.set_nodelay();
    let timeout = gateway.config().listen.client_login_timeout;
    let input = BytesMut::with_capacity(1024);
    let mut newcomer = Newcomer {
        stream: Some(stream),
        input,
        gateway,
        since: Instant::now(),
        database: String::new(),
        user: String::new(),
    };
    let login = newcomer.log_in(console);
    let known = match timeout {
        Duration::ZERO => login.await,
        limit => tokio::time::timeout(limit, login).await.unwrap_or(Err(CloseReason::LoginTimeout)),
    };
    let reason = match known {
        Ok(Some(known)) => newcomer.serve(known).await,
        Ok(None) => return,
        Err(reason) => {
            newcomer.refuse(&reason).await;
            reason
        }
    };
    tracing::debug!(reason = %reason.text(), "connection closed");
}

impl Newcomer {
    /// `None`: it was a cancel request, and is done.
    async fn log_in(&mut self, console: bool) -> Result<Option<Known>, CloseReason> {
        self.start_direct_tls().await?;
        let startup = loop {
            match self.packet().await? {
                Packet::SslRequest => self.start_tls().await?,
                Packet::GssencRequest => self.send(b"N").await?,
                Packet::Cancel { pid, key } => {
                    self.cancel(pid, &key).await;
                    return Ok(None);
                }
                Packet::Startup(startup) => break startup,
            }
        };
        self.require_tls()?;
        let mut out = Vec::new();
        if startup.minor > MINOR || startup.extensions().next().is_some() {
            backend::write_negotiate(&mut out, startup.extensions());
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
        if !console && stop::has_begun(&self.gateway) {
            return Err(CloseReason::ShuttingDown);
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
        Ok(Some(Known { user, database, startup, out, replication, console, own }))
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
        let Some(config) = self.gateway.running().tls.client.clone().filter(|_| !self.is_tls())
        else {
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
        let mode = self.gateway.config().tls.client_tls_sslmode;
        let required = matches!(mode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull);
        // There is none on Unix sockets.
        let is_unix = matches!(self.stream, Some(Stream::Unix(_)));
        if required && !self.is_tls() && !is_unix {
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
            address: authenticate::address(stream),
            tls: stream.is_tls(),
            replication,
            database,
            user: &candidate.user,
        };
        let demand = running
            .demand(&asking)
            .map_err(|refusal| CloseReason::NotAdmitted(refusal.sentence(None)))?;
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

    async fn refuse(&mut self, reason: &CloseReason) {
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

    async fn cancel(&mut self, pid: u32, key: &[u8]) {
        if let Some(cancelling) = self.gateway.shared.registry.begin_cancel(pid, key) {
            let link = &cancelling.link;
            let sent = crate::server::io::cancel(&link.target, link.host, link.pid, &link.key);
            let limit = match self.gateway.config().server.cancel_wait_timeout {
                Duration::ZERO => Duration::MAX,
                limit => limit,
            };
            if tokio::time::timeout(limit, sent).await.is_err() {
                tracing::info!(server_pid = link.pid, "closing because: cancel_wait_timeout");
            }
        }
    }

    async fn serve(mut self, known: Known) -> CloseReason {
        if known.console {
            return self.serve_console(known).await;
        }
        if known.replication != Replication::None {
            return self.serve_replication(known).await;
        }
        match self.open(known).await {
            Ok((opened, session, registered, known, lease)) => {
                let _guest = opened.pool.enter();
                let Some(stream) = self.stream else { return CloseReason::ClientLost };
                let mut task = client_io::Task {
                    stream,
                    input: self.input,
                    out: known.out,
                    written: 0,
                    session: Box::new(session),
                    pool: opened.pool,
                    entry: Arc::clone(&registered.entry),
                    service: opened.service,
                    shared: Arc::clone(&self.gateway.shared),
                    lease: None,
                    leaving: None,
                    now: Instant::now(),
                    transaction_began: None,
                    answer_owed: None,
                    alarm: None,
                    group_wait: None,
                    away: Vec::new(),
                };
                if let Some(lease) = lease {
                    task.take_lease(lease);
                }
                let reason = Box::pin(task.run()).await;
                log_disconnection(&self.gateway.config(), &registered.entry, &reason);
                task.part(&reason).await;
                reason
            }
            Err(reason) => {
                self.refuse(&reason).await;
                reason
            }
        }
    }

    async fn serve_console(mut self, known: Known) -> CloseReason {
        let own = known.own.then_some(Access::All);
        let Some(access) = own.or_else(|| console::access(&self.gateway.config(), &known.user))
        else {
            let reason = CloseReason::LoginFailed("not allowed".into());
            self.refuse(&reason).await;
            return reason;
        };
        let mut hello = self.hello(&known);
        console::DATABASE.clone_into(&mut hello.database);
        hello.console = true;
        // Not bound by max_client_conn: when clients are too many, somebody has to look.
        let room = match access {
            Access::All => Room::UNLIMITED,
            Access::Look => {
                let room = plan::room(&self.gateway.config(), console::DATABASE, &known.user);
                Room { clients: usize::MAX, ..room }
            }
        };
        let registered = match self.gateway.shared.registry.enter(hello, room) {
            Ok(registered) => registered,
            Err(reason) => {
                self.refuse(&reason).await;
                return reason;
            }
        };
        let Some(stream) = self.stream else { return CloseReason::ClientLost };
        let mut out = known.out;
        let entry = &registered.entry;
        startup::welcome(&mut out, &console::io::reported(), &entry.identity());
        log_connection(&self.gateway.config(), entry);
        let gateway = Arc::clone(&self.gateway);
        let task = console::io::Task::new(stream, self.input, out, access, registered, gateway);
        let (reason, registered) = task.run().await;
        log_disconnection(&self.gateway.config(), &registered.entry, &reason);
        reason
    }

    fn hello(&self, known: &Known) -> Hello {
        let text = |peer: std::io::Result<Peer>| {
            peer.map_or_else(|_| String::new(), |peer| peer.to_string())
        };
        let stream = self.stream.as_ref();
        Hello {
            user: known.user.clone(),
            server_user: known.user.clone(),
            database: known.database.clone(),
            application_name: known
                .startup
                .parameter("application_name")
                .unwrap_or_default()
                .to_owned(),
            address: stream.map_or_else(String::new, |stream| text(stream.peer())),
            local: stream.map_or_else(String::new, |stream| text(stream.local())),
            tls: stream.and_then(Stream::tls_description),
            console: false,
            replication: known.replication,
            long_keys: known.startup.has_long_keys(),
        }
    }

    /// A client that replicates: a server of its own, and what it says is its own affair.
    async fn serve_replication(mut self, mut known: Known) -> CloseReason {
        let (registered, lease) = match self.open_replication(&mut known).await {
            Ok(opened) => opened,
            Err(reason) => {
                self.refuse(&reason).await;
                return reason;
            }
        };
        let entry = &registered.entry;
        entry.set_current(Some(Arc::clone(&lease.connection.link)));
        let Some(stream) = self.stream else { return CloseReason::ClientLost };
        let reason = Box::pin(relay::run(stream, self.input, &known.out, lease, entry)).await;
        log_disconnection(&self.gateway.config(), entry, &reason);
        reason
    }

    async fn open_replication(
        &mut self,
        known: &mut Known,
    ) -> Result<(Registered, Lease), CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let config = gateway.config();
        let has_entry = |name: &str| config.databases.iter().any(|entry| entry.name == name);
        // To PostgreSQL the database of a physical one is a word that means nothing, and libpq
        // sends "replication".
        let name = match &config.default_database {
            Some(default)
                if known.replication == Replication::Physical && !has_entry(&known.database) =>
            {
                default.clone()
            }
            Some(_) | None => known.database.clone(),
        };
        let opened = gateway
            .pool(&name, &known.user)
            .ok_or_else(|| CloseReason::NoSuchDatabase(known.database.clone()))?;
        let start = opening::start(&known.startup, known.replication, &config)?;
        let registered = self.register(known, &opened, &config)?;
        let lease = self.take_server(&opened, &start, &registered).await?;
        let reported = &lease.connection.reported;
        startup::welcome(&mut known.out, reported, &registered.entry.identity());
        opened.pool.common.counters.login.one();
        log_connection(&config, &registered.entry);
        Ok((registered, lease))
    }

    /// Lets the client in if there is room for it.
    fn register(
        &self,
        known: &Known,
        opened: &Opened,
        config: &Config,
    ) -> Result<Registered, CloseReason> {
        let mut hello = self.hello(known);
        hello.server_user.clone_from(&opened.pool.common.user);
        let room = plan::room(config, &known.database, &known.user);
        let registered = self.gateway.shared.registry.enter(hello, room)?;
        registered.entry.set_timeouts(self.gateway.timeouts(opened, &known.user));
        Ok(registered)
    }

    /// How long it may wait for a server now.
    fn patience(&self, entry: &Entry) -> Option<(Instant, CloseReason)> {
        let login = self.gateway.config().listen.client_login_timeout;
        login_patience(&entry.timeouts.get(), login)
    }

    async fn take_server(
        &mut self,
        opened: &Opened,
        start: &Start,
        registered: &Registered,
    ) -> Result<Lease, CloseReason> {
        let patience = self.patience(&registered.entry);
        let Some(stream) = &mut self.stream else { return Err(CloseReason::ClientLost) };
        opening::take_server(opened, start, registered, stream, &mut self.input, patience).await
    }

    /// Makes the client's session: its pool, its settings, its place in the registry, and in
    /// session pooling its server.
    async fn open(
        &mut self,
        mut known: Known,
    ) -> Result<(Opened, Session, Registered, Known, Option<Lease>), CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let opened = gateway
            .pool(&known.database, &known.user)
            .ok_or_else(|| CloseReason::NoSuchDatabase(known.database.clone()))?;
        let config = gateway.config();
        let start = opening::start(&known.startup, known.replication, &config)?;
        let settings = Arc::clone(&start.settings);
        let registered = self.register(&known, &opened, &config)?;
        let entry = &registered.entry;
        let (reported, lease) = if opened.pool.common.mode == PoolMode::Session {
            let lease = self.take_server(&opened, &start, &registered).await?;
            (Arc::clone(&lease.connection.reported), Some(lease))
        } else {
            (opening::reported(&opened, &settings, entry, self.patience(entry)).await?, None)
        };
        opened.service.tried().await;
        startup::welcome(&mut known.out, &reported, &entry.identity());
        opened.pool.common.counters.login.one();
        // Either may have happened before it was registered, and then nobody has told it.
        if stop::has_begun(&gateway) {
            return Err(CloseReason::ShuttingDown);
        }
        if !gateway.is_current(&opened) {
            return Err(CloseReason::Reconfigured);
        }
        log_connection(&config, entry);
        let session = Session::new(Arc::clone(&opened.pool.common), settings);
        Ok((opened, session, registered, known, lease))
    }
}

/// Looks after every pool and tells the totals, for as long as the process lives.
pub async fn upkeep(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
    let mut report = Report::new(Instant::now());
    loop {
        ticks.tick().await;
        let now = Instant::now();
        gateway.upkeep(now);
        let idle_timeout = gateway.config().server.server_idle_timeout;
        gateway.auth_queries.upkeep(now, idle_timeout);
        report.tick(&gateway, now);
    }
}
