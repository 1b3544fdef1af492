//! A client that speaks the protocol message by message, and prints what it hears in a notation
//! that tests can state literally: `1 2 T(id) D(7) C(SELECT 1) Z(I)`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::DEADLINE;

/// Who logs in, and as what.
#[derive(Clone)]
pub struct Login {
    user: String,
    password: String,
    parameters: Vec<(String, String)>,
    minor: u16,
}

impl Login {
    pub fn new(user: &str, password: &str, database: &str) -> Self {
        let parameters = vec![("database".to_owned(), database.to_owned())];
        Self { user: user.to_owned(), password: password.to_owned(), parameters, minor: 0 }
    }

    pub fn with(mut self, parameters: &[(&str, &str)]) -> Self {
        let owned = parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.parameters.extend(owned);
        self
    }

    /// Asks for protocol 3.`minor`.
    pub fn minor(mut self, minor: u16) -> Self {
        self.minor = minor;
        self
    }

    pub fn startup(&self) -> Vec<u8> {
        let mut body = (3_u32 << 16 | u32::from(self.minor)).to_be_bytes().to_vec();
        let user = ("user".to_owned(), self.user.clone());
        for (name, value) in std::iter::once(&user).chain(&self.parameters) {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        packet(&body)
    }
}

/// Untagged, as first packets are.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body].concat()
}

/// The login was refused: SQLSTATE and message, or an empty SQLSTATE where the socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub sqlstate: String,
    pub message: String,
}

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> String {
        let fields = self.body.split(|&byte| byte == 0);
        let found = fields.filter_map(|field| field.split_first()).find(|(key, _)| **key == code);
        found.map_or_else(String::new, |(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The columns of a DataRow, as text.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                columns.push(None);
                rest = after;
                continue;
            };
            columns.push(Some(String::from_utf8_lossy(&after[..length]).into_owned()));
            rest = &after[length..];
        }
        columns
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end_matches('\0').replace('\0', "=")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = match self.tag {
            b'C' | b'Z' | b'S' => self.text(),
            b'E' => self.field(b'C'),
            b'N' => self.field(b'M'),
            b'D' => {
                let columns = self.columns();
                columns
                    .iter()
                    .map(|column| column.as_deref().unwrap_or("NULL"))
                    .collect::<Vec<_>>()
                    .join(",")
            }
            b'T' => column_names(&self.body).join(","),
            b'd' => String::from_utf8_lossy(&self.body).trim_end().to_owned(),
            b'A' => {
                let text = String::from_utf8_lossy(&self.body[4..]).into_owned();
                text.trim_end_matches('\0').replace('\0', "=")
            }
            _ => String::new(),
        };
        write!(f, "{}", char::from(self.tag))?;
        if inside.is_empty() { Ok(()) } else { write!(f, "({inside})") }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn column_names(body: &[u8]) -> Vec<String> {
    column_types(body).into_iter().map(|(name, _)| name).collect()
}

/// Names and type OIDs of a RowDescription.
pub fn column_types(body: &[u8]) -> Vec<(String, u32)> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let oid = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
        columns.push((name, oid));
        rest = &rest[end + 1 + 18..];
    }
    columns
}

/// Messages in the notation of this file.
pub fn show(messages: &[Message]) -> String {
    messages.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// One connection.
pub struct RawClient {
    stream: TcpStream,
    input: Vec<u8>,
    /// From BackendKeyData.
    pub pid: u32,
    pub key: Vec<u8>,
    /// Everything between AuthenticationOk and ReadyForQuery.
    pub greeting: Vec<Message>,
}

impl RawClient {
    /// A socket on which nothing has been said.
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap()
    }

    fn try_connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, input: Vec::new(), pid: 0, key: Vec::new(), greeting: Vec::new() })
    }

    pub fn log_in(port: u16, login: &Login) -> Result<Self, Refused> {
        let gone =
            |error: &io::Error| Refused { sqlstate: String::new(), message: error.to_string() };
        let mut client = Self::try_connect(port).map_err(|error| gone(&error))?;
        client.stream.write_all(&login.startup()).map_err(|error| gone(&error))?;
        client.authenticate(login)?;
        Ok(client)
    }

    /// From the first answer to a StartupMessage up to ReadyForQuery.
    pub fn authenticate(&mut self, login: &Login) -> Result<(), Refused> {
        let mut scram = None;
        loop {
            let message = self
                .try_message()
                .map_err(|error| Refused { sqlstate: String::new(), message: error.to_string() })?;
            match message.tag {
                b'R' => self.answer(&message.body, login, &mut scram),
                b'E' => {
                    let (sqlstate, message) = (message.field(b'C'), message.field(b'M'));
                    return Err(Refused { sqlstate, message });
                }
                b'K' => {
                    self.pid = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.key = message.body[4..].to_vec();
                    self.greeting.push(message);
                }
                b'Z' => return Ok(()),
                _ => self.greeting.push(message),
            }
        }
    }

    fn answer(&mut self, body: &[u8], login: &Login, scram: &mut Option<ScramSha256>) {
        let (kind, rest) = body.split_first_chunk::<4>().unwrap();
        match u32::from_be_bytes(*kind) {
            0 => {}
            3 => self.send(&password(login.password.as_bytes())),
            5 => {
                let salt = rest.try_into().unwrap();
                let hash = md5_hash(login.user.as_bytes(), login.password.as_bytes(), salt);
                self.send(&password(hash.as_bytes()));
            }
            10 => {
                let state =
                    ScramSha256::new(login.password.as_bytes(), ChannelBinding::unsupported());
                let first = state.message();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                self.send(&message(b'p', &[b"SCRAM-SHA-256\0", &length[..], first].concat()));
                *scram = Some(state);
            }
            11 => {
                let state = scram.as_mut().unwrap();
                state.update(rest).unwrap();
                let answer = message(b'p', state.message());
                self.send(&answer);
            }
            12 => scram.as_mut().unwrap().finish(rest).unwrap(),
            other => panic!("unknown authentication request {other}"),
        }
    }

    /// The socket alone.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// For peers that may have closed already.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// One raw byte, such as the answer to an SSLRequest.
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    pub fn try_message(&mut self) -> io::Result<Message> {
        let started = Instant::now();
        loop {
            if let Some((header, rest)) = self.input.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
                if rest.len() + 4 >= length {
                    let body = rest[..length - 4].to_vec();
                    let tag = header[0];
                    self.input.drain(..=length);
                    return Ok(Message { tag, body });
                }
            }
            if started.elapsed() > DEADLINE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                // A receive timeout makes read(2) return on any signal (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message; none in time is a failure.
    pub fn message(&mut self) -> Message {
        self.try_message().expect("a message")
    }

    /// Messages up to and with the next one of this tag.
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = match self.try_message() {
                Ok(message) => message,
                Err(error) => {
                    panic!("{error} while waiting for {}: {}", char::from(tag), show(&messages))
                }
            };
            let last = message.tag == tag;
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    /// Everything up to the next ReadyForQuery, in the notation of this file.
    pub fn replies(&mut self) -> String {
        show(&self.until(b'Z'))
    }

    /// Fails unless these messages come next.
    pub fn expect(&mut self, expected: &str) {
        let mut depth = 0;
        let separators = expected.chars().filter(|&character| {
            depth += i32::from(character == '(') - i32::from(character == ')');
            character == ' ' && depth == 0
        });
        let count = separators.count() + 1;
        let heard: Vec<Message> = (0..count).map(|_| self.message()).collect();
        assert_eq!(show(&heard), expected);
    }

    /// What is left until the server closes the connection.
    pub fn until_closed(&mut self) -> String {
        let mut messages = Vec::new();
        loop {
            match self.try_message() {
                Ok(message) => messages.push(message),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("still open after {}", show(&messages))
                }
                Err(_closed) => return show(&messages),
            }
        }
    }

    /// What it hears if it asks this and goes; of a peer that may go first.
    pub fn ask_last(mut self, sql: &str) -> String {
        let sent = self.try_send(&[query(sql), message(b'X', &[])].concat());
        sent.map_or_else(|gone| gone.to_string(), |()| self.until_closed())
    }

    /// A simple query and all of its replies.
    pub fn query(&mut self, sql: &str) -> String {
        self.send(&query(sql));
        self.replies()
    }

    /// Messages and all replies up to the next ReadyForQuery.
    pub fn ask(&mut self, messages: &[Vec<u8>]) -> String {
        self.send(&messages.concat());
        self.replies()
    }

    /// A simple query that must succeed.
    pub fn run(&mut self, sql: &str) {
        let messages = self.run_for_messages(sql);
        drop(messages);
    }

    /// Begins a transaction and takes a server for it, which BEGIN alone need not do.
    pub fn hold_server(&mut self) {
        self.run("BEGIN");
        self.run("SELECT 1");
    }

    pub fn run_for_messages(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        let messages = self.until(b'Z');
        if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
            panic!("{sql}: {} {}", error.field(b'C'), error.field(b'M'));
        }
        messages
    }

    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.run_for_messages(sql);
        messages.iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
    }

    /// The first column of the first row.
    pub fn one(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        let first = rows.first().unwrap_or_else(|| panic!("{sql}: no row"));
        first[0].clone().unwrap_or_else(|| "NULL".to_owned())
    }

    /// The same by the extended protocol, unnamed statement, text parameters.
    pub fn one_extended(&mut self, sql: &str, values: &[Option<&str>]) -> String {
        self.send(&[parse("", sql, &[]), bind("", "", values), execute("", 0), sync()].concat());
        let messages = self.until(b'Z');
        let row = messages.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: {}", show(&messages)));
        row.columns()[0].clone().unwrap_or_else(|| "NULL".to_owned())
    }

    /// A column of the first row, by name.
    pub fn column(&mut self, sql: &str, name: &str) -> String {
        let messages = self.run_for_messages(sql);
        let body = |tag| messages.iter().find(|message| message.tag == tag).unwrap();
        let index = column_names(&body(b'T').body).iter().position(|column| column == name);
        let columns = body(b'D').columns();
        columns[index.unwrap_or_else(|| panic!("{sql}: no column {name}"))]
            .clone()
            .unwrap_or_else(|| "NULL".to_owned())
    }

    /// Says goodbye and waits until the other side has heard it.
    pub fn close(mut self) {
        self.send(&message(b'X', &[]));
        self.until_closed();
    }
}

/// Any message of a client.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], packet(body).as_slice()].concat()
}

fn password(secret: &[u8]) -> Vec<u8> {
    message(b'p', &[secret, b"\0"].concat())
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn count(items: usize) -> [u8; 2] {
    u16::try_from(items).unwrap().to_be_bytes()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let oids: Vec<u8> = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    message(b'P', &[cstr(name), cstr(sql), count(types.len()).to_vec(), oids].concat())
}

/// Text parameters, text results.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    bind_formats(portal, statement, values, &[])
}

/// Text parameters, results in these formats.
pub fn bind_formats(
    portal: &str,
    statement: &str,
    values: &[Option<&str>],
    result_formats: &[u16],
) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), count(0).to_vec()].concat();
    body.extend(count(values.len()));
    for value in values {
        match value {
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(value.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend(count(result_formats.len()));
    body.extend(result_formats.iter().flat_map(|format| format.to_be_bytes()));
    message(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    message(b'D', &[b"S".to_vec(), cstr(name)].concat())
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    message(b'D', &[b"P".to_vec(), cstr(name)].concat())
}

pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    message(b'E', &[cstr(portal), rows_max.to_be_bytes().to_vec()].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[b"S".to_vec(), cstr(name)].concat())
}

pub fn close_portal(name: &str) -> Vec<u8> {
    message(b'C', &[b"P".to_vec(), cstr(name)].concat())
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn copy_data(text: &str) -> Vec<u8> {
    message(b'd', text.as_bytes())
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &cstr(reason))
}

/// CancelRequest for the connection with this key.
pub fn cancel(pid: u32, key: &[u8]) -> Vec<u8> {
    packet(&[&80_877_102_u32.to_be_bytes(), &pid.to_be_bytes(), key].concat())
}

pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
