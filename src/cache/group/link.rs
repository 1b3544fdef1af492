//! One connection to the Redis process that has K, as long as it is that process.
//!
//! Nothing here is tried again: after any error the link is over, and the next one is to another
//! process for all we know. So Sentinel and Cluster are asked once, by plain commands.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, Pipeline, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::address::{Address, AddressError};
use super::broken;
use super::member::Millis;
use super::picture::{Field, Picture};
use super::process::{Info, Process, Unfit};
use super::script::{Call, Malformed, Reply, Request, Script};

/// A cluster's first node knows where K is; while that changes, so may the second.
const HOPS_MAX: usize = 3;

/// More are not read for people: with half as many K begins anew.
const FIELDS_MAX: usize = 1 << 15;

/// Part of the `[redis]` section.
/// Its URL may hold a password, and is not shown.
#[derive(Clone)]
pub struct Settings {
    pub url: String,
    /// Authorities in PEM; the system's are trusted otherwise.
    pub authorities: Option<Vec<u8>>,
    /// For each sentinel and node on the way: to connect to it, log in and hear all answers.
    pub timeout: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

pub struct Link {
    /// None once the link is over: a time-out leaves answers behind that nobody asked for.
    connection: Option<MultiplexedConnection>,
    key: String,
    /// The names of the scripts, in the order of `Script::ALL`.
    names: Vec<String>,
    info: Info,
    place: Place,
}

/// A node of Redis, and how to log in there.
#[derive(Clone)]
pub struct Place(ConnectionInfo);

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.addr())
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.0.addr() == other.0.addr()
    }
}

impl Place {
    /// One more connection to it.
    pub async fn connect(&self) -> Result<MultiplexedConnection, LinkError> {
        connect(&self.0).await
    }

    /// K as it is now, on a connection for that alone. Cancel-safe.
    pub async fn picture(&self, key: &str, time: Duration) -> Result<Picture, LinkError> {
        within(time, self.read(key)).await
    }

    async fn read(&self, key: &str) -> Result<Picture, LinkError> {
        let mut connection = self.connect().await?;
        let count: usize = ask(&["HLEN", key], &mut connection).await?;
        if count > FIELDS_MAX {
            return Err(LinkError::Refused(format!("{key} has {count} fields")));
        }
        let fields: Vec<Field> = ask(&["HGETALL", key], &mut connection).await?;
        let (seconds, micros): (Millis, Millis) = ask(&["TIME"], &mut connection).await?;
        let now = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        Picture::read(&fields, now).map_err(LinkError::Malformed)
    }
}

/// Where the links of this process were last found to lead, for those who go there too.
#[derive(Default)]
pub struct Found {
    /// Nothing else is locked inside.
    place: Mutex<Option<Place>>,
    told: Notify,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").finish_non_exhaustive()
    }
}

impl Found {
    pub fn set(&self, place: Place) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        self.told.notify_one();
    }

    pub fn get(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there is one; for one task alone. Cancel-safe.
    pub async fn known(&self) -> Place {
        loop {
            if let Some(place) = self.get() {
                return place;
            }
            self.told.notified().await;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum LinkError {
    Address(AddressError),
    /// A setting that the client library does not take.
    Settings(String),
    /// Not there, or gone.
    Lost(String),
    Timeout,
    /// Redis answered with an error.
    Refused(String),
    /// What the user that we are there may not run.
    Forbidden {
        commands: String,
    },
    /// Not one that a group can use.
    Unfit(Unfit),
    /// No sentinel told where this one is; what went wrong last.
    NoMaster {
        master: String,
        reason: String,
    },
    /// The nodes of a cluster go on sending us to others.
    TooManyHops,
    Malformed(Malformed),
    /// It has been used after an error.
    Over,
}

impl LinkError {
    /// Redis refused a script at its first write: it has no room, no disk, no replicas, or is one
    /// itself. What has written something already is let through.
    pub fn is_before_any_write(&self) -> bool {
        let Self::Refused(text) = self else { return false };
        let code = text.split(' ').next().unwrap_or_default();
        ["OOM", "MISCONF", "NOREPLICAS", "READONLY"].contains(&code)
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(error) => write!(f, "redis.url: {error}"),
            Self::Settings(text) | Self::Lost(text) | Self::Refused(text) => f.write_str(text),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Forbidden { commands } => {
                write!(f, "the user may not run {commands} on the keys of the group")
            }
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::NoMaster { master, reason } => {
                write!(f, "no sentinel tells where {master} is: {reason}")
            }
            Self::TooManyHops => f.write_str("the cluster does not tell where the key is"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Over => f.write_str("used after it ended"),
        }
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        // Of a pipeline there may be many; they are alike. In Redis's own words.
        match error.clone().into_server_errors().as_deref() {
            Some([(_, first), ..]) => {
                let details = first.details().unwrap_or_default();
                Self::Refused(format!("{} {details}", first.code()))
            }
            Some([]) | None => Self::Lost(error.to_string()),
        }
    }
}

/// What a node said of K.
enum Node {
    HasKey(MultiplexedConnection),
    /// `host:port`; without host it is where this one is.
    Elsewhere(String),
}

impl Link {
    /// Finds the primary that has this key, or would have it. Waits for each node that it asks no
    /// longer than the time-out. Cancel-safe.
    pub async fn connect(settings: &Settings, key: &str) -> Result<Self, LinkError> {
        let mut at = find(settings).await?;
        for _ in 0..HOPS_MAX {
            match within(settings.timeout, ask_for_key(&at, key)).await? {
                Node::HasKey(connection) => {
                    return within(settings.timeout, Self::start(connection, key, Place(at))).await;
                }
                Node::Elsewhere(node) => at = moved(&at, &node)?,
            }
        }
        Err(LinkError::TooManyHops)
    }

    async fn start(
        mut connection: MultiplexedConnection,
        key: &str,
        place: Place,
    ) -> Result<Self, LinkError> {
        let info = info(&mut connection).await?;
        let mut names = Vec::with_capacity(Script::ALL.len());
        for script in Script::ALL {
            names.push(ask(&["SCRIPT", "LOAD", &broken::text(script)], &mut connection).await?);
        }
        let mut link = Self { connection: None, key: key.to_owned(), names, info, place };
        link.probe(&mut connection).await?;
        link.connection = Some(connection);
        Ok(link)
    }

    /// Asks anew what it is connected to: a primary that has its first replica, or loses its last,
    /// calls itself by another replication id, and who comes after that knows no other. After an
    /// error, or given up while it waits, the link is over.
    pub async fn look_again(&mut self, time: Duration) -> Result<(), LinkError> {
        let mut connection = self.connection.take().ok_or(LinkError::Over)?;
        self.info = within(time, info(&mut connection)).await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// What would be refused at the first write is better known at the start.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), LinkError> {
        let probe: String = ask(&["SCRIPT", "LOAD", Script::PROBE], connection).await?;
        let missing: Vec<String> = ask(&["EVALSHA", &probe, "1", &self.key], connection).await?;
        if missing.is_empty() {
            Ok(())
        } else {
            Err(LinkError::Forbidden { commands: missing.join(", ") })
        }
    }

    /// Asks all of these at once, in this order, and gives the answers in the same. After an
    /// error, or given up while it waits, the link is over; what was asked may still happen.
    pub async fn round(
        &mut self,
        requests: &[Request],
        time: Duration,
    ) -> Result<Vec<Reply>, LinkError> {
        let mut connection = self.connection.take().ok_or(LinkError::Over)?;
        let mut pipeline = Pipeline::with_capacity(requests.len());
        for request in requests {
            self.add(request, &mut pipeline);
        }
        let mut replies = Vec::with_capacity(requests.len());
        if !requests.is_empty() {
            let answers: Vec<Value> =
                within(time, async { Ok(pipeline.query_async(&mut connection).await?) }).await?;
            for (request, answer) in requests.iter().zip(answers) {
                let reply = words(answer).and_then(|words| request.reply(&words));
                replies.push(reply.map_err(LinkError::Malformed)?);
            }
        }
        self.connection = Some(connection);
        Ok(replies)
    }

    fn add(&self, request: &Request, pipeline: &mut Pipeline) {
        match request.call() {
            Call::Script(script, words) => {
                let name = self.names.get(script as usize).map_or("", String::as_str);
                pipeline.cmd("EVALSHA").arg(name).arg(1).arg(&self.key).arg(words);
            }
            Call::Fields(fields) => {
                pipeline.cmd("HMGET").arg(&self.key).arg(fields);
            }
            Call::Time => {
                pipeline.cmd("TIME");
            }
        }
    }

    /// What it was connected to when it was last asked; `Join` names it.
    pub fn process(&self) -> Process {
        self.info.process
    }

    /// Where more of its kind may go.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What it said of itself when it was last asked.
    pub fn info(&self) -> &Info {
        &self.info
    }
}

async fn info(connection: &mut MultiplexedConnection) -> Result<Info, LinkError> {
    let mut text = String::new();
    for section in ["server", "replication", "memory"] {
        let of_section: String = ask(&["INFO", section], connection).await?;
        text.push_str(&of_section);
        text.push_str("\r\n");
    }
    Info::parse(&text).map_err(LinkError::Unfit)
}

pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(time, work).await.unwrap_or(Err(LinkError::Timeout))
}

/// Where to go first.
pub(super) async fn find(settings: &Settings) -> Result<ConnectionInfo, LinkError> {
    let (urls, master) = match Address::parse(&settings.url).map_err(LinkError::Address)? {
        Address::One { url } => return place(&url, settings),
        Address::Sentinels { urls, master } => (urls, master),
    };
    let mut reason = "none is known".to_owned();
    for url in urls {
        let redis = place(&url, settings)?;
        match within(settings.timeout, ask_sentinel(&redis, &master)).await {
            Ok(Some((host, port))) => {
                let addr = other_place(redis.addr(), host, port);
                return Ok(redis.set_addr(addr));
            }
            Ok(None) => "it is not watched".clone_into(&mut reason),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(LinkError::NoMaster { master, reason })
}

fn place(url: &str, settings: &Settings) -> Result<ConnectionInfo, LinkError> {
    let unread = |error: RedisError| LinkError::Settings(format!("redis.url: {error}"));
    let mut info = url.into_connection_info().map_err(unread)?;
    if let Some(pem) = &settings.authorities {
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            return Err(LinkError::Settings("redis.tls_ca_file: no certificate".to_owned()));
        }
        let tls = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
        let client = Client::build_with_tls(info, tls)
            .map_err(|error| LinkError::Settings(format!("redis.tls_ca_file: {error}")))?;
        info = client.get_connection_info().clone();
    }
    // What is asked is waited for, so it is not held back to be sent along with more.
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// The same way there, to another host and port.
fn other_place(addr: &ConnectionAddr, to_host: String, to_port: u16) -> ConnectionAddr {
    let mut addr = addr.clone();
    if let ConnectionAddr::TcpTls { host, port, .. } = &mut addr {
        (*host, *port) = (to_host, to_port);
        addr
    } else {
        ConnectionAddr::Tcp(to_host, to_port)
    }
}

/// The node that `MOVED` names.
fn moved(from: &ConnectionInfo, node: &str) -> Result<ConnectionInfo, LinkError> {
    let unread = || LinkError::Refused(format!("MOVED to \"{node}\""));
    let (host, port) = node.rsplit_once(':').ok_or_else(unread)?;
    let port = port.parse().map_err(|_not_a_port| unread())?;
    let host = match (host, from.addr()) {
        ("" | "?", ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host,
        ("" | "?", _) => return Err(unread()),
        (host, _) => host,
    };
    let addr = other_place(from.addr(), host.to_owned(), port);
    Ok(from.clone().set_addr(addr))
}

pub(super) async fn connect(info: &ConnectionInfo) -> Result<MultiplexedConnection, LinkError> {
    // Time is kept here; the library's own would come on top.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = Client::open(info.clone())?;
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Asks for K as a hit would, so that a node of a cluster says whether it is there.
async fn ask_for_key(at: &ConnectionInfo, key: &str) -> Result<Node, LinkError> {
    let mut connection = connect(at).await?;
    let mut read = redis::cmd("HMGET");
    match read.arg(key).arg("act").query_async::<Value>(&mut connection).await {
        Ok(_value) => Ok(Node::HasKey(connection)),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) => {
            let (node, _slot) = error.redirect_node().unwrap_or_default();
            Ok(Node::Elsewhere(node.to_owned()))
        }
        Err(error) => Err(refused("HMGET", error)),
    }
}

/// Sentinels know no database, and only those that ask for a password get the one we have.
async fn ask_sentinel(
    redis: &ConnectionInfo,
    master: &str,
) -> Result<Option<(String, u16)>, LinkError> {
    let all = redis.redis_settings();
    let bare = redis::RedisConnectionInfo::default().set_protocol(all.protocol());
    let ask_as = async |settings| {
        let mut connection = connect(&redis.clone().set_redis_settings(settings)).await?;
        ask(&["SENTINEL", "get-master-addr-by-name", master], &mut connection).await
    };
    match ask_as(bare).await {
        Err(LinkError::Refused(text)) if text.starts_with("NOAUTH") => {
            ask_as(all.clone().set_db(0)).await
        }
        answer => answer,
    }
}

/// A command of these words.
async fn ask<T: FromRedisValue>(
    words: &[&str],
    connection: &mut MultiplexedConnection,
) -> Result<T, LinkError> {
    let (name, arguments) = words.split_first().unwrap_or((&"", &[]));
    let mut command = redis::cmd(name);
    command.arg(arguments).query_async(connection).await.map_err(|error| refused(name, error))
}

fn refused(command: &str, error: RedisError) -> LinkError {
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        LinkError::Forbidden { commands: command.to_owned() }
    } else {
        error.into()
    }
}

/// The words of an answer of ours.
fn words(answer: Value) -> Result<Vec<Option<Vec<u8>>>, Malformed> {
    let Value::Array(values) = answer else {
        return Err(Malformed { word: 0, expected: "words" });
    };
    let mut words = Vec::with_capacity(values.len());
    for (at, value) in values.into_iter().enumerate() {
        words.push(if let Value::BulkString(word) = value {
            Some(word)
        } else if value == Value::Nil {
            None
        } else {
            return Err(Malformed { word: at + 1, expected: "a word" });
        });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_arrays_of_words_and_nils() {
        let check = |answer: Value, expected: Result<Vec<Option<&str>>, usize>| {
            let read = words(answer).map_err(|malformed| malformed.word);
            let expected = expected.map(|words| {
                words.into_iter().map(|word| word.map(|word| word.as_bytes().to_vec())).collect()
            });
            assert_eq!(read, expected);
        };
        let word = |word: &str| Value::BulkString(word.as_bytes().to_vec());
        check(Value::Array(vec![word("ok"), Value::Nil]), Ok(vec![Some("ok"), None]));
        check(Value::Array(vec![]), Ok(vec![]));
        check(Value::Array(vec![word("ok"), Value::Int(1)]), Err(2));
        check(Value::Array(vec![Value::Array(vec![])]), Err(1));
        check(word("ok"), Err(0));
        check(Value::Nil, Err(0));
        check(Value::Int(1), Err(0));
    }
}
