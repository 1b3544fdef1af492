//! Accepting connections: the first packets, TLS, authentication, and who serves what comes next.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use crate::admin::conversation::Access;
use crate::auth::ClientAuth;
use crate::client::close::CloseReason;
use crate::client::io as client_io;
use crate::client::registry::{Entry, Hello, Registered};
use crate::client::session::Session;
use crate::client::startup::{self, Proof};
use crate::config::{Config, SslMode};
use crate::console::report::Report;
use crate::gateway::{Gateway, Opened};
use crate::net::listen::{Listener, own_uid};
use crate::net::{Peer, Stream, accept_tls};
use crate::pool::Reported;
use crate::server::io::{ServerError, next_id};
use crate::server::settings::{Settings, replay};
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::startup::{Packet, Startup, StartupError};
use crate::wire::{backend, frontend};
use crate::{cancel, console, stop};

/// Longest message of a client that has not proven who it is.
const UNPROVEN_BYTES_MAX: usize = 64 * 1024;

/// Accepts until the process ends; clients over TCP only until it begins to stop, so that whoever
/// comes after it has the address. `console`: everybody who connects here gets the console.
pub async fn accept(listener: Listener, gateway: Arc<Gateway>, console: bool) {
    let ends_early = !console && !listener.is_unix();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop::begun(&gateway), if ends_early => return,
        };
        match accepted {
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
    id: u64,
    /// `None` only while TLS is being negotiated over it.
    stream: Option<Stream>,
    input: BytesMut,
    gateway: Arc<Gateway>,
}

/// One that has.
struct Known {
    user: String,
    database: String,
    startup: Startup,
    /// Messages for it, AuthenticationOk not among them yet.
    out: Vec<u8>,
    /// It wants the console, not a database.
    console: bool,
    /// It is there without a secret, as the user this process runs as.
    own: bool,
}

async fn serve(stream: Stream, gateway: Arc<Gateway>, console: bool) {
    if let Err(error) = stream.tune() {
        // The socket may be gone already, and then the first read says so.
        tracing::debug!(%error, "cannot set socket options");
    }
    let timeout = gateway.config().listen.client_login_timeout;
    let input = BytesMut::with_capacity(1024);
    let mut newcomer = Newcomer { id: next_id(), stream: Some(stream), input, gateway };
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
        let mut startup = loop {
            match self.packet().await? {
                Packet::SslRequest => self.start_tls().await?,
                Packet::GssencRequest => self.send(b"N").await?,
                Packet::Cancel { pid, key } => {
                    cancel::request(&self.gateway, pid, &key).await;
                    return Ok(None);
                }
                Packet::Startup(startup) => break startup,
            }
        };
        self.require_tls()?;
        let mut out = Vec::new();
        if startup.minor > 0 || startup.extensions().next().is_some() {
            backend::write_negotiate(&mut out, startup.extensions());
        }
        let user = startup.parameter("user").unwrap_or_default().to_owned();
        if user.is_empty() {
            return Err(CloseReason::NoUser);
        }
        let config = self.gateway.config();
        let default = config.default_database.clone();
        let named = startup.parameter("database").filter(|name| !name.is_empty());
        let database = named.map_or_else(|| default.unwrap_or_else(|| user.clone()), str::to_owned);
        let console = console || console::is_named(&config, &database);
        if !console && stop::has_begun(&self.gateway) {
            return Err(CloseReason::ShuttingDown);
        }
        if !console {
            // Consoles come in while all is suspended, for somebody has to resume.
            let mut suspended = self.gateway.suspended.subscribe();
            // The sender is the gateway's, so it is there as long as we are.
            let _resumed = suspended.wait_for(|suspended| !suspended).await.is_ok();
        }
        let own = console && self.is_own(&user);
        if !own {
            out = self.authenticate(&user, out).await?;
        }
        // Only who has proven who it is learns which databases there are.
        if !console && !self.gateway.knows_database(&database) {
            return Err(CloseReason::NoSuchDatabase(database));
        }
        if !console && self.gateway.pauses().is_disabled(&database) {
            return Err(CloseReason::DatabaseDisabled(database));
        }
        if config.listen.application_name_add_host {
            let peer = self.stream.as_ref().and_then(|stream| stream.peer().ok());
            let address = peer.map_or_else(String::new, |peer| peer.to_string());
            startup::add_host(&mut startup, &address);
        }
        Ok(Some(Known { user, database, startup, out, console, own }))
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
        let Some(config) = self.gateway.running().client_tls.clone().filter(|_| !self.is_tls())
        else {
            return self.send(b"N").await;
        };
        let Some(plain) = self.stream.take() else { return Err(CloseReason::ClientLost) };
        match accept_tls(plain, &config, &self.input).await {
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
        if required && !self.is_tls() {
            return Err(CloseReason::TlsRequired);
        }
        Ok(())
    }

    async fn authenticate(&mut self, user: &str, mut out: Vec<u8>) -> Result<Vec<u8>, CloseReason> {
        let (method, secret) = self.gateway.running().method(user);
        let random = startup::random(&self.gateway.process_secret);
        let (auth, progress) = ClientAuth::begin(method, user, secret.as_ref(), &random);
        let mut proof = startup::step(auth, progress, user, &mut out);
        loop {
            match proof {
                Proof::Proven => return Ok(out),
                Proof::Refused(reason) => return Err(reason),
                Proof::Ask(mut auth) => {
                    self.send(&out).await?;
                    out.clear();
                    let answer = self.password_message().await?;
                    let progress = auth.respond(&answer);
                    proof = startup::step(auth, progress, user, &mut out);
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
        if self.gateway.config().log.log_pooler_errors {
            let peer = self.stream.as_ref().and_then(|stream| stream.peer().ok());
            let address = peer.map_or_else(String::new, |peer| peer.to_string());
            tracing::info!(%address, "closing because: {}", reason.text());
        }
        let mut out = Vec::new();
        reason.tell(&mut out);
        // It is being refused: if it does not listen, that is all the same.
        let _told = self.send(&out).await;
    }

    async fn serve(mut self, known: Known) -> CloseReason {
        if known.console {
            return self.serve_console(known).await;
        }
        match self.open(known).await {
            Ok((opened, session, registered, known)) => {
                let Some(stream) = self.stream else { return CloseReason::ClientLost };
                let task = client_io::Task {
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
                };
                let reason = Box::pin(task.run()).await;
                log_disconnection(&self.gateway.config(), &registered.entry, &reason);
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
        let Some(registered) = self.gateway.shared.registry.enter(hello, usize::MAX) else {
            return CloseReason::TooManyClients;
        };
        let Some(stream) = self.stream else { return CloseReason::ClientLost };
        let mut out = known.out;
        let entry = &registered.entry;
        let cancel_key = (entry.pid, &entry.key()[..]);
        startup::welcome(&mut out, &console::io::reported(), cancel_key, "");
        self.gateway.console_counters.login.one();
        log_connection(&self.gateway.config(), entry);
        let gateway = Arc::clone(&self.gateway);
        let task = console::io::Task::new(stream, self.input, out, access, registered, gateway);
        let (reason, registered) = task.run().await;
        log_disconnection(&self.gateway.config(), &registered.entry, &reason);
        drop(registered);
        console::operate::console_left(&self.gateway);
        reason
    }

    fn hello(&self, known: &Known) -> Hello {
        let text = |peer: std::io::Result<Peer>| {
            peer.map_or_else(|_| String::new(), |peer| peer.to_string())
        };
        let stream = self.stream.as_ref();
        Hello {
            id: self.id,
            user: known.user.clone(),
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
            peer_id: self.gateway.config().listen.peer_id,
            fd: stream.map_or(-1, Stream::fd),
        }
    }

    /// Makes the client's session: its pool, its settings, its place in the registry.
    async fn open(
        &mut self,
        mut known: Known,
    ) -> Result<(Opened, Session, Registered, Known), CloseReason> {
        let gateway = Arc::clone(&self.gateway);
        let opened = gateway
            .pool(&known.database, &known.user)
            .ok_or_else(|| CloseReason::NoSuchDatabase(known.database.clone()))?;
        let config = gateway.config();
        let ignored = &config.listen.ignore_startup_parameters;
        let settings = Settings::intern(startup::settings(&known.startup, ignored)?);
        let reported = reported(&opened, &settings).await?;
        opened.service.tried().await;
        let hello = self.hello(&known);
        let clients_max = usize::try_from(config.listen.max_client_conn).unwrap_or(usize::MAX);
        let registered =
            gateway.shared.registry.enter(hello, clients_max).ok_or(CloseReason::TooManyClients)?;
        let entry = &registered.entry;
        let notice = &config.listen.login_notify_message;
        startup::welcome(&mut known.out, &reported, (entry.pid, &entry.key()), notice);
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
        Ok((opened, session, registered, known))
    }
}

fn log_connection(config: &Config, entry: &Entry) {
    if config.log.log_connections {
        tracing::info!(
            client_id = entry.id,
            database = %entry.database,
            user = %entry.user,
            application_name = %entry.application_name,
            address = %entry.address,
            "login attempt"
        );
    }
}

/// With what the client did, so that the log alone tells who queried and who was served.
fn log_disconnection(config: &Config, entry: &Entry, reason: &CloseReason) {
    if !config.log.log_disconnections {
        return;
    }
    let (queries, hits) = {
        let shown = entry.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (shown.queries, shown.hits)
    };
    let age = entry.connected_at.elapsed().as_secs();
    tracing::info!(
        client_id = entry.id,
        database = %entry.database,
        user = %entry.user,
        application_name = %entry.application_name,
        address = %entry.address,
        queries,
        hits,
        "closing because: {} (age={age}s)",
        reason.text()
    );
}

/// What PostgreSQL reports to a session with these settings; asked of a server the first time,
/// so that values are PostgreSQL's own and bad ones are refused in its words.
async fn reported(opened: &Opened, settings: &Arc<Settings>) -> Result<Reported, CloseReason> {
    let common = &opened.pool.common;
    let base = common.base();
    if base.id != 0
        && let Some(reported) = common.reported(base.id, settings.id)
    {
        return Ok(reported);
    }
    let mut lease = opened.pool.acquire().await.map_err(|error| client_io::close_reason(&error))?;
    let connection = &mut lease.connection;
    connection.server.clean();
    let mut values: Vec<(String, String)> = connection.server.base.reported.clone();
    // Whatever the last client left is taken back first, so that only these settings show.
    let back = replay(&connection.server.applied, &Settings::none());
    let wanted = replay(&Settings::none(), settings);
    let sql = format!("{}{}", back.unwrap_or_default(), wanted.unwrap_or_default());
    connection.heard.clear();
    if !sql.is_empty() {
        let base_id = connection.server.base.id;
        connection.query(&sql).await.map_err(|error| refused(&error))?;
        connection.server.applied = Arc::clone(settings);
        for (name, value) in connection.heard.drain(..) {
            match values.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => values.push((name, value)),
            }
        }
        let reported: Reported = values.into();
        common.set_reported(base_id, settings.id, Arc::clone(&reported));
        lease.release(Instant::now());
        return Ok(reported);
    }
    let reported: Reported = values.into();
    common.set_reported(connection.server.base.id, settings.id, Arc::clone(&reported));
    lease.release(Instant::now());
    Ok(reported)
}

fn refused(error: &ServerError) -> CloseReason {
    match error {
        ServerError::Query { sqlstate, message } => {
            CloseReason::ServerLogin { sqlstate: sqlstate.clone(), message: message.clone() }
        }
        ServerError::Connect(_)
        | ServerError::Io(_)
        | ServerError::Closed
        | ServerError::Login(_)
        | ServerError::Ambiguous
        | ServerError::Protocol => CloseReason::ServerUnreachable(error.to_string()),
    }
}

/// Closes what is due in every pool and tells the totals, once a second, for as long as the process lives.
pub async fn upkeep(gateway: Arc<Gateway>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut report = Report::new(Instant::now());
    loop {
        every_second.tick().await;
        let now = Instant::now();
        for opened in gateway.pools() {
            opened.pool.upkeep(now);
        }
        report.tick(&gateway, now);
    }
}
