//! A blocking client that speaks the protocol by hand, so that the checker decides what travels
//! together: pipelines, Flush in the middle, COPY, a connection dropped mid-commit.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use postgres_protocol::authentication::{md5_hash, sasl};

/// Longest silence that is taken for a slow answer. A run that hangs must end with a message.
const SILENCE_MAX: Duration = Duration::from_secs(30);

const QUERY_CANCELED: &str = "57014";

#[derive(Clone, Debug)]
pub(crate) struct Url {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
}

impl Url {
    /// `postgres://user:password@host:port/database`, nothing percent-encoded.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("postgres://").or(text.strip_prefix("postgresql://"))?;
        let (login, place) = rest.rsplit_once('@').unwrap_or(("postgres", rest));
        let (address, database) = place.split_once('/').unwrap_or((place, "postgres"));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let port = if address.contains(':') { "" } else { ":5432" };
        Some(Self {
            address: format!("{address}{port}"),
            user: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
        })
    }
}

/// What a statement, or a group of messages up to ReadyForQuery, was answered with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<Vec<Option<String>>>,
    pub(crate) columns: Vec<String>,
    pub(crate) tags: Vec<String>,
    /// SQLSTATE and message of the first error.
    pub(crate) error: Option<(String, String)>,
    /// Which member of a group it is of.
    pub(crate) member: usize,
}

impl Answer {
    pub(crate) fn first(&self) -> Option<i64> {
        self.rows.first()?.first()?.as_ref()?.parse().ok()
    }

    pub(crate) fn sqlstate(&self) -> Option<&str> {
        self.error.as_ref().map(|error| error.0.as_str())
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
    /// What a cancel request for it carries.
    pub(crate) key: Vec<u8>,
    /// Counts its statements that were cancelled; `None` where nobody asks for that.
    pub(crate) cancelled: Option<Arc<AtomicU64>>,
    /// Which member of a group it goes to; of one alone the first.
    pub(crate) member: usize,
    /// While it is set nothing more is sent, except by who has something under way.
    pub(crate) still: Option<Arc<AtomicBool>>,
    /// Counted in `UNDER_WAY`.
    is_under_way: bool,
    /// What was sent last, its beginning.
    last: Vec<u8>,
}

thread_local! {
    /// Connections of this thread with a statement or a transaction under way: what holds a server
    /// and locks may not stop there, nor one that waits for another of its thread.
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

impl Connection {
    pub(crate) fn open(url: &Url) -> io::Result<Self> {
        let stream = TcpStream::connect(&url.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let mut connection = Self {
            stream,
            input: Vec::new(),
            taken: 0,
            key: Vec::new(),
            cancelled: None,
            member: 0,
            still: None,
            is_under_way: false,
            last: Vec::new(),
        };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for word in ["user", &url.user, "database", &url.database, ""] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        let mut start = length(body.len() + 4).to_vec();
        start.extend_from_slice(&body);
        connection.stream.write_all(&start)?;
        connection.log_in(url)?;
        Ok(connection)
    }

    fn log_in(&mut self, url: &Url) -> io::Result<()> {
        let mut scram = None;
        loop {
            let (tag, body) = self.message()?;
            match (tag, number(&body, 0)) {
                (b'R', 3) => self.send(&frame(b'p', &text(&url.password)))?,
                (b'R', 5) => {
                    let salt = body.get(4..8).and_then(|salt| salt.try_into().ok());
                    let salt = salt.ok_or_else(|| broken("md5 salt"))?;
                    let hash = md5_hash(url.user.as_bytes(), url.password.as_bytes(), salt);
                    self.send(&frame(b'p', &text(&hash)))?;
                }
                (b'R', 10) => {
                    let channel = sasl::ChannelBinding::unsupported();
                    let client = sasl::ScramSha256::new(url.password.as_bytes(), channel);
                    let mut body = text("SCRAM-SHA-256");
                    body.extend_from_slice(&length(client.message().len()));
                    body.extend_from_slice(client.message());
                    scram = Some(client);
                    self.send(&frame(b'p', &body))?;
                }
                (b'R', 11) => {
                    let client = scram.as_mut().ok_or_else(|| broken("SASLContinue"))?;
                    client.update(body.get(4..).unwrap_or_default())?;
                    let reply = frame(b'p', client.message());
                    self.send(&reply)?;
                }
                (b'R', 12) => {
                    let client = scram.as_mut().ok_or_else(|| broken("SASLFinal"))?;
                    client.finish(body.get(4..).unwrap_or_default())?;
                }
                (b'E', _) => return Err(self.ended(&body).unwrap_or_else(|| refused(&body))),
                (b'K', _) => self.key = body,
                (b'Z', _) => return Ok(()),
                _ => {}
            }
        }
    }

    /// One simple Query.
    pub(crate) fn simple(&mut self, sql: &str) -> io::Result<Answer> {
        self.send(&query(sql))?;
        self.answer()
    }

    /// Parse, Bind, Describe, Execute and Sync of the unnamed statement.
    pub(crate) fn extended(&mut self, sql: &str, params: &[&str]) -> io::Result<Answer> {
        self.send(&[extended(sql, params), sync()].concat())?;
        self.answer()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let still = self.still.as_ref();
        while UNDER_WAY.get() == 0 && still.is_some_and(|still| still.load(Ordering::Relaxed)) {
            thread::park_timeout(Duration::from_millis(10));
        }
        self.is_under_way(true);
        self.last = bytes.iter().copied().take(120).collect();
        self.stream.write_all(bytes)
    }

    fn is_under_way(&mut self, is: bool) {
        let count = UNDER_WAY.get() - usize::from(self.is_under_way) + usize::from(is);
        UNDER_WAY.set(count);
        self.is_under_way = is;
    }

    /// Everything up to the next `ReadyForQuery`, or to where COPY wants rows.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer { member: self.member, ..Answer::default() };
        loop {
            let (tag, body) = self.message()?;
            match tag {
                b'D' => answer.rows.push(fields(&body)),
                b'T' => answer.columns = names(&body),
                b'C' => answer.tags.push(words(&body).next().unwrap_or_default()),
                b'E' => match self.ended(&body) {
                    Some(end) => return Err(end),
                    None => answer.error = answer.error.or(Some(error(&body))),
                },
                // CopyInResponse, ReadyForQuery.
                b'G' | b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Reads until a message of this type has come.
    pub(crate) fn wait_for(&mut self, wanted: u8) -> io::Result<()> {
        loop {
            match self.message()? {
                (tag, _) if tag == wanted => return Ok(()),
                (b'E', body) => return Err(self.ended(&body).unwrap_or_else(|| refused(&body))),
                _ => {}
            }
        }
    }

    /// What an error means for the connection: FATAL and the loss of a server are its end, and so
    /// is a cancel that was meant for another.
    fn ended(&self, body: &[u8]) -> Option<io::Error> {
        let (sqlstate, message) = error(body);
        if sqlstate == QUERY_CANCELED {
            let Some(cancelled) = &self.cancelled else {
                return Some(broken("cancelled, though nobody asked for that"));
            };
            cancelled.fetch_add(1, Ordering::Relaxed);
        }
        let is_fatal = words(body).any(|word| ["VFATAL", "VPANIC"].contains(&word.as_str()));
        let is_end = is_fatal || sqlstate.starts_with("57P") || sqlstate.starts_with("08");
        let end =
            || io::Error::new(io::ErrorKind::ConnectionAborted, format!("{sqlstate} {message}"));
        is_end.then(end)
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let input = self.input.get(self.taken..).unwrap_or_default();
            if let Some((&tag, rest)) = input.split_first() {
                let whole = usize::try_from(number(rest, 0)).unwrap_or(usize::MAX);
                if let Some(body) = rest.get(4..whole) {
                    let body = body.to_vec();
                    self.taken += 1 + whole;
                    if tag == b'Z' {
                        self.is_under_way(body != b"I");
                    }
                    return Ok((tag, body));
                }
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            let mut chunk = [0; 8192];
            let count = match self.stream.read(&mut chunk) {
                // Whoever stops this process and lets it go on does that.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (member, last) = (self.member, self.last.escape_ascii());
                    let what = format!("member {member} was silent after {last}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                count => count?,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.is_under_way(false);
    }
}

/// Asks to cancel what the connection with this key does; returns when that has been taken.
pub(crate) fn cancel(url: &Url, key: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(&url.address)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let code = 80_877_102_u32.to_be_bytes();
    stream.write_all(&[&length(8 + key.len())[..], &code, key].concat())?;
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &text(sql))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    frame(b'P', &[text(name), text(sql), vec![0, 0]].concat())
}

/// Bind of the unnamed portal and Describe of it; all text.
pub(crate) fn bind(name: &str, params: &[&str]) -> Vec<u8> {
    let mut body = [text(""), text(name), vec![0, 0]].concat();
    body.extend_from_slice(&u16::try_from(params.len()).unwrap_or(0).to_be_bytes());
    for param in params {
        body.extend_from_slice(&length(param.len()));
        body.extend_from_slice(param.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    [frame(b'B', &body), frame(b'D', b"P\0")].concat()
}

pub(crate) fn execute() -> Vec<u8> {
    frame(b'E', &[0; 5])
}

pub(crate) fn extended(sql: &str, params: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", params), execute()].concat()
}

pub(crate) fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    frame(b'H', &[])
}

pub(crate) fn copy_data(rows: &str) -> Vec<u8> {
    [frame(b'd', rows.as_bytes()), frame(b'c', &[])].concat()
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &length(body.len() + 4)[..], body].concat()
}

fn text(words: &str) -> Vec<u8> {
    [words.as_bytes(), &[0]].concat()
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(bytes: &[u8], at: usize) -> i32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(-1, i32::from_be_bytes)
}

fn words(body: &[u8]) -> impl Iterator<Item = String> + '_ {
    body.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned())
}

fn error(body: &[u8]) -> (String, String) {
    let field = |key| words(body).find_map(|word| word.strip_prefix(key).map(str::to_owned));
    (field('C').unwrap_or_default(), field('M').unwrap_or_default())
}

fn fields(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut fields = Vec::new();
    while rest.len() >= 4 {
        let len = usize::try_from(number(rest, 0)).ok();
        let value = len.and_then(|len| rest.get(4..4 + len));
        fields.push(value.map(|value| String::from_utf8_lossy(value).into_owned()));
        rest = rest.get(4 + len.unwrap_or(0)..).unwrap_or_default();
    }
    fields
}

fn names(body: &[u8]) -> Vec<String> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        names.push(String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned());
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    names
}

fn refused(body: &[u8]) -> io::Error {
    broken(&format!("refused: {:?}", error(body)))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
