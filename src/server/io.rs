//! The socket of a server: connect, log in, ask our own questions, cancel.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::time::Sleep;

use crate::auth::{Knowledge, Learned, Secret, certificate};
use crate::cache::group;
use crate::cache::group::shared::Group;
use crate::cache::home::Home;
use crate::net::{ConnectError, SslMode, Stream, TlsClientConfig};
use crate::wire::backend::{self, Status};
use crate::wire::frame::{self, HEADER_BYTES};
use crate::wire::startup::Replication;
use crate::wire::{frontend, sqlstate, startup};

use super::Server;
use super::base::{self, Base, UNTIMED, WHICH_CLUSTER, WHICH_DEFAULTS, defaults_changes};
use super::hosts::Hosts;
use super::link::{Ends, Link};
use super::login::{LoggedIn, Login, LoginError, Step};
use super::settings::{CLEAN, Settings, beyond_ascii, replay};
use super::start::Start;

/// Longest message of an answer to a question of our own.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The TLS settings of every server, as they are now.
pub struct ServerTls(RwLock<TlsClientConfig>);

impl ServerTls {
    pub fn new(config: TlsClientConfig) -> Self {
        Self(RwLock::new(config))
    }

    pub fn get(&self) -> TlsClientConfig {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For connections to come.
    pub fn set(&self, config: TlsClientConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Where a pool's servers are, and as whom they log in.
#[derive(Clone)]
pub struct Target {
    pub hosts: Arc<Hosts>,
    pub tls: Arc<ServerTls>,
    pub database: String,
    pub user: String,
    pub secret: Option<Secret>,
    /// What this user's log-ins here have told; `None` where clients are other users.
    pub learned: Option<Arc<Learned>>,
    /// `application_name`, `options` and the like of servers, beside user and database.
    pub parameters: Vec<(String, String)>,
    /// Run on each new connection, and again whenever its settings have been taken back.
    pub connect_query: Option<Arc<str>>,
    /// The group that this process is part of.
    pub group: Option<Arc<group::settings::Settings>>,
}

impl Target {
    /// Which database it is: where, and by what name.
    pub fn place(&self) -> (String, String) {
        (format!("{:?}", self.hosts.addresses), self.database.clone())
    }

    /// A secret of the settings counts before one that was learned.
    fn knowledge(&self) -> Knowledge {
        let learned = self.learned.as_ref().map(|learned| learned.get()).unwrap_or_default();
        Knowledge { secret: self.secret.clone().or(learned.secret), keys: learned.keys }
    }
}

/// A server and its socket.
pub struct Connection {
    pub server: Server,
    pub stream: Stream,
    pub input: BytesMut,
    /// How much of `server.to_server` the socket has taken.
    pub written: usize,
    /// Wakes whoever waits to send what is held back until a moment.
    pub(super) hold_alarm: Option<Pin<Box<Sleep>>>,
    /// What it reported until it was ready for a client, in order.
    pub reported: Reported,
    pub link: Arc<Link>,
}

#[derive(Debug)]
pub enum ServerError {
    Connect(ConnectError),
    Io(std::io::Error),
    Closed,
    Login(LoginError),
    Protocol,
    /// It may be one of several databases that are served, or none of them.
    Ambiguous,
    /// A question of ours was refused.
    Query {
        sqlstate: String,
        message: String,
    },
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect failed: {error}"),
            Self::Io(error) => write!(f, "connection failed: {error}"),
            Self::Closed => f.write_str("server closed the connection"),
            Self::Login(error) => error.fmt(f),
            Self::Protocol => f.write_str("server broke the protocol"),
            Self::Ambiguous => f.write_str(
                "cannot tell this database from another: grant EXECUTE ON FUNCTION \
                 pg_control_system() to the user",
            ),
            Self::Query { message, .. } => f.write_str(message),
        }
    }
}

impl From<std::io::Error> for ServerError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// ParameterStatus values in the order PostgreSQL tells them.
pub type Reported = Arc<[(String, String)]>;

/// Rows of one result: text values.
pub type Rows = Vec<Vec<Option<String>>>;

/// What came of a question of our own.
#[derive(Default)]
struct Answer {
    /// Of each statement.
    results: Vec<Rows>,
    /// As ParameterStatus told it meanwhile, in order.
    reported: Vec<(String, String)>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Clients and servers are counted as one, as in PgBouncer.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// No server connected so far has a larger one.
pub fn newest_id() -> u64 {
    NEXT_ID.load(Ordering::Relaxed).saturating_sub(1)
}

impl Connection {
    /// Connects, logs in and reads how the session starts. No time-out of its own.
    pub async fn open(target: &Arc<Target>, start: &Start) -> Result<Self, ServerError> {
        Self::open_as(target, start, next_id()).await
    }

    /// The same for questions of our own, which nobody is shown: not counted among the servers.
    pub async fn open_uncounted(target: &Arc<Target>) -> Result<Self, ServerError> {
        Self::open_as(target, &Start::plain(), 0).await
    }

    async fn open_as(target: &Arc<Target>, start: &Start, id: u64) -> Result<Self, ServerError> {
        let tls = target.tls.get();
        match Self::open_by(target, &tls.first_try(), start, id).await {
            // A server that has no rule for connections in the clear may have one for TLS.
            Err(ServerError::Login(LoginError::Refused { sqlstate, .. }))
                if tls.mode() == SslMode::Allow && sqlstate == sqlstate::INVALID_AUTHORIZATION =>
            {
                Box::pin(Self::open_by(target, &tls, start, id)).await
            }
            opened => opened,
        }
    }

    async fn open_by(
        target: &Arc<Target>,
        tls: &TlsClientConfig,
        start: &Start,
        id: u64,
    ) -> Result<Self, ServerError> {
        let defaults = defaults_changes();
        let Greeted { stream, host, input, logged_in } = greet(target, tls, start).await?;
        let mut reported = logged_in.reported.clone();
        // Nothing is committed before the true home is known.
        let home = Arc::new(Home::new(0));
        let server = Server::new(id, logged_in, defaults, home, &start.settings, Instant::now());
        let ends = Ends::of(&stream);
        let link = Arc::new(Link::new(target, host, &server, start.replication, ends));
        let mut connection = Self {
            server,
            stream,
            input,
            written: 0,
            hold_alarm: None,
            reported: reported.as_slice().into(),
            link,
        };
        if start.replication != Replication::None {
            // A WAL sender answers few questions, and is never handed on.
            connection.server.close_needed = true;
            return Ok(connection);
        }
        connection.server.connect_query.clone_from(&target.connect_query);
        if let Some(beginning) = connection.server.beginning() {
            hear(&mut reported, connection.question(&beginning).await?.reported);
            connection.reported = reported.as_slice().into();
        }
        let base = connection.read_base(reported, &target.parameters).await?;
        let home = base::find_home(&base, target.group.as_ref(), Instant::now())
            .or(Err(ServerError::Ambiguous))?;
        connection.server.place = base::place(&base);
        if let Some(group) = &home.group {
            // Before it serves anybody: while the lock is there, others know that we may commit.
            connection.take_lock(group).await?;
        }
        connection.server.home = home;
        connection.server.base = base::intern(base);
        Ok(connection)
    }

    /// Takes the lock by which others see that this server may commit.
    pub async fn take_lock(&mut self, group: &Group) -> Result<(), ServerError> {
        self.query_untimed(&group.settings.lock(group.id)).await?;
        (self.server.locked_at, self.server.taking_lock) = (Some(Instant::now()), false);
        Ok(())
    }

    /// Makes its settings those of a client, whatever was left here, and gives what PostgreSQL reports
    /// of them. It does so at the end of a Query, of what is not as it was reported last: what was
    /// left is taken back in one of its own, or what is set again would not be told.
    pub async fn assume(
        &mut self,
        wanted: &Arc<Settings>,
    ) -> Result<Vec<(String, String)>, ServerError> {
        let is_unknown = self.server.is_unknown();
        let back = if is_unknown {
            Some(CLEAN.to_owned())
        } else {
            replay(&self.server.applied, &self.server.initial)
        };
        let mut reported = self.server.base.reported.clone();
        if let Some(back) = back {
            hear(&mut reported, self.question(&back).await?.reported);
            if is_unknown && let Some(group) = self.server.home.group.clone() {
                // That let go of all locks.
                self.take_lock(&group).await?;
            }
            if let Some(beginning) = self.server.beginning() {
                hear(&mut reported, self.question(&beginning).await?.reported);
            }
        }
        if let Some(sql) = replay(&self.server.initial, wanted) {
            hear(&mut reported, self.question(&sql).await?.reported);
        }
        self.server.applied = Arc::clone(wanted);
        (self.server.tainted, self.server.untidy) = (false, false);
        Ok(reported)
    }

    /// The defaults of this session: every setting it may change, and who and where it is.
    async fn read_base(
        &mut self,
        reported: Vec<(String, String)>,
        parameters: &[(String, String)],
    ) -> Result<Base, ServerError> {
        let rows = self.query_untimed(base::QUERY).await?.into_iter().flatten().collect();
        let mut base = Base::read(rows, reported, parameters);
        if base.may_ask(&WHICH_DEFAULTS) {
            let defaults = first_value(self.query_untimed(WHICH_DEFAULTS.query).await?);
            base.add(&WHICH_DEFAULTS, defaults.unwrap_or_default());
        } else {
            // What was committed through us makes sessions different, then.
            base.add(&WHICH_DEFAULTS, defaults_changes().to_string());
        }
        if base.may_ask(&WHICH_CLUSTER) {
            let cluster = match self.query_untimed(WHICH_CLUSTER.query).await {
                Ok(results) => first_value(results),
                // Some services refuse it to everybody, whatever the privileges say.
                Err(ServerError::Query { .. }) => None,
                Err(error) => return Err(error),
            };
            if let Some(cluster) = cluster {
                base.add(&WHICH_CLUSTER, cluster);
            }
        }
        Ok(base)
    }

    /// The same as `query`, whatever time-outs the session has.
    async fn query_untimed(&mut self, sql: &str) -> Result<Vec<Rows>, ServerError> {
        let results = self.query(&format!("{}; {sql}", UNTIMED.join("; "))).await?;
        Ok(results.into_iter().skip(UNTIMED.len()).collect())
    }

    /// Asks a question of our own, simple protocol, and gives the rows of each statement. The
    /// server must be clean; it is again afterwards unless this fails, and then it must be closed.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Rows>, ServerError> {
        Ok(self.question(sql).await?.results)
    }

    /// The same with what PostgreSQL reports meanwhile.
    async fn question(&mut self, sql: &str) -> Result<Answer, ServerError> {
        let Some((before, sql)) = beyond_ascii(sql) else { return self.ask(sql).await };
        let mut reported = self.ask(before).await?.reported;
        let mut answer = self.ask(&sql).await?;
        reported.append(&mut answer.reported);
        // It begins with a statement of ours.
        Ok(Answer { results: answer.results.into_iter().skip(1).collect(), reported })
    }

    async fn ask(&mut self, sql: &str) -> Result<Answer, ServerError> {
        let mut message = Vec::new();
        frontend::write_query(&mut message, sql);
        // A Query ends the unnamed statement.
        self.server.unnamed = None;
        self.answers(&message).await
    }

    /// The same by the extended protocol, with one parameter.
    pub async fn query_with(&mut self, sql: &str, value: &str) -> Result<Vec<Rows>, ServerError> {
        let mut message = Vec::new();
        frontend::write_parse(&mut message, b"", sql.as_bytes(), &[]);
        let length = i32::try_from(value.len()).or(Err(ServerError::Protocol))?;
        // No formats, so text; one value; its columns as text too.
        let mut tail = [0_i16.to_be_bytes(), 1_i16.to_be_bytes()].concat();
        tail.extend(length.to_be_bytes());
        tail.extend(value.as_bytes());
        tail.extend(0_i16.to_be_bytes());
        frontend::write_bind(&mut message, b"", b"", &tail);
        frontend::write(&mut message, frontend::EXECUTE, |out| {
            frontend::put_cstr(out, b"");
            out.extend(0_i32.to_be_bytes());
        });
        frontend::write_sync(&mut message);
        Ok(self.answers(&message).await?.results)
    }

    async fn answers(&mut self, message: &[u8]) -> Result<Answer, ServerError> {
        // Who has ended the connection may have said why before.
        let unsent = self.stream.write_all(message).await.err();
        let mut answer = Answer::default();
        let mut rows = Rows::new();
        let mut failure = None;
        loop {
            let (tag, body) = match next_message(&mut self.stream, &mut self.input).await {
                Ok(message) => message,
                Err(end) => return Err(failure.or(unsent.map(ServerError::Io)).unwrap_or(end)),
            };
            match tag {
                backend::DATA_ROW => {
                    let values = backend::data_row(&body).or(Err(ServerError::Protocol))?;
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    rows.push(values.into_iter().map(|value| value.map(text)).collect());
                }
                backend::COMMAND_COMPLETE => answer.results.push(std::mem::take(&mut rows)),
                backend::ERROR_RESPONSE => {
                    let field = |field| {
                        let text = backend::error_field(&body, field).unwrap_or_default();
                        String::from_utf8_lossy(text).into_owned()
                    };
                    failure =
                        Some(ServerError::Query { sqlstate: field(b'C'), message: field(b'M') });
                }
                backend::PARAMETER_STATUS => {
                    let (name, value) =
                        backend::parameter_status(&body).or(Err(ServerError::Protocol))?;
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    answer.reported.push((text(name), text(value)));
                }
                backend::READY_FOR_QUERY => {
                    self.server.status = Status::read(&body).or(Err(ServerError::Protocol))?;
                    return failure.map_or(Ok(answer), Err);
                }
                _ => {}
            }
        }
    }

    /// Whether nothing has come from an idle server; what comes then is its end, or a message
    /// that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        if !self.input.is_empty() {
            return false;
        }
        if self.stream.poll_read_ready(&mut context).is_pending() {
            return true;
        }
        // Readiness may be left over from what was read before; only a read tells.
        self.input.reserve(1024);
        self.stream.poll_read(&mut context, &mut self.input).is_pending()
    }
}

/// A connection that has logged in.
struct Greeted {
    stream: Stream,
    host: usize,
    input: BytesMut,
    logged_in: LoggedIn,
}

/// Connects and logs in by the newest protocol that these hosts have not refused.
async fn greet(
    target: &Target,
    tls: &TlsClientConfig,
    start: &Start,
) -> Result<Greeted, ServerError> {
    let minor = target.hosts.minor();
    match greet_by(minor, target, tls, start).await {
        Err(error) if minor > 0 && dislikes_version(&error) => {
            let greeted = greet_by(0, target, tls, start).await?;
            target.hosts.speak_oldest();
            Ok(greeted)
        }
        greeted => greeted,
    }
}

/// PostgreSQL negotiates since 9.3; what stands in for it may refuse the version or hang up.
fn dislikes_version(error: &ServerError) -> bool {
    match error {
        ServerError::Closed => true,
        ServerError::Login(LoginError::Refused { sqlstate, .. }) => {
            matches!(sqlstate.as_str(), "0A000" | "08P01")
        }
        ServerError::Login(_)
        | ServerError::Connect(_)
        | ServerError::Io(_)
        | ServerError::Protocol
        | ServerError::Ambiguous
        | ServerError::Query { .. } => false,
    }
}

async fn greet_by(
    minor: u16,
    target: &Target,
    tls: &TlsClientConfig,
    start: &Start,
) -> Result<Greeted, ServerError> {
    let (mut stream, host) = target.hosts.connect(tls).await?;
    let mut hello = Vec::new();
    let named = [("user", target.user.as_str()), ("database", target.database.as_str())];
    let more = start.message(&target.parameters);
    startup::write_startup(&mut hello, minor, named.into_iter().chain(more));
    stream.write_all(&hello).await?;
    let mut input = BytesMut::with_capacity(8192);
    let logged_in = log_in(&mut stream, &mut input, target).await?;
    Ok(Greeted { stream, host, input, logged_in })
}

async fn log_in(
    stream: &mut Stream,
    input: &mut BytesMut,
    target: &Target,
) -> Result<LoggedIn, ServerError> {
    let end_point = stream.peer_certificate().and_then(certificate::end_point_binding);
    let mut login = Login::new(&target.user, target.knowledge(), rand::random(), end_point);
    loop {
        let (tag, body) = next_message(stream, input).await?;
        match login.handle(tag, &body).map_err(ServerError::Login)? {
            Step::More => {}
            Step::Answer(answer) => {
                let mut message = Vec::new();
                let body = |out: &mut Vec<u8>| out.extend_from_slice(&answer);
                frontend::write(&mut message, frontend::PASSWORD, body);
                stream.write_all(&message).await?;
            }
            Step::Done(logged_in) => return Ok(logged_in),
        }
    }
}

/// What was reported later takes the place of what is known.
fn hear(known: &mut Vec<(String, String)>, reported: Vec<(String, String)>) {
    for (name, value) in reported {
        match known.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => known.push((name, value)),
        }
    }
}

fn first_value(results: Vec<Rows>) -> Option<String> {
    results.into_iter().flatten().flatten().next().flatten()
}

async fn next_message(
    stream: &mut Stream,
    input: &mut BytesMut,
) -> Result<(u8, BytesMut), ServerError> {
    loop {
        let header = frame::header(input, ANSWER_BYTES_MAX).or(Err(ServerError::Protocol))?;
        if let Some(header) = header
            && input.len() >= header.total
        {
            let mut message = input.split_to(header.total);
            message.advance(HEADER_BYTES);
            return Ok((header.tag, message));
        }
        input.reserve(header.map_or(8192, |header| header.total).max(1024));
        if stream.read(input).await? == 0 {
            return Err(ServerError::Closed);
        }
    }
}
