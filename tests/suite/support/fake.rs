//! A small model of PostgreSQL's side of the protocol, for scripts that break off or go wrong at
//! any message. It knows a handful of statements by their first word, and no tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::raw::message;
use super::scripted::{Reply, ScriptedServer, complete};

/// What goes wrong, at which message of a script, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with an ErrorResponse.
    Error(usize),
    /// The server is gone instead of answering it.
    Cut(usize),
    /// The server is gone after this many bytes of its answer, and before its last.
    CutInside(usize, usize),
}

impl Fault {
    fn at(self) -> usize {
        match self {
            Self::Error(at) | Self::Cut(at) | Self::CutInside(at, _) => at,
        }
    }
}

/// What test and connections share.
#[derive(Default)]
struct Common {
    fault: Option<Fault>,
    /// Messages of the script so far.
    seen: usize,
    /// Fresh queries that met what another client had left.
    violations: Vec<String>,
}

/// A PostgreSQL of which only the manners are true.
pub struct FakePostgres {
    pub server: ScriptedServer,
    common: Arc<Mutex<Common>>,
}

/// In every statement of a script; what lacks it is Forebay's own.
pub const MARK: &str = "/*script*/";

/// What ends every script, in whatever state.
pub const END: &str = "SELECT fresh end";

impl FakePostgres {
    pub fn start() -> Self {
        let common: Arc<Mutex<Common>> = Arc::default();
        let shared = Arc::clone(&common);
        let server = ScriptedServer::start_each(move || {
            let mut session = Session { common: Arc::clone(&shared), ..Session::default() };
            Box::new(move |tag, body| session.take(tag, body))
        });
        Self { server, common }
    }

    /// From now on this goes wrong, once.
    pub fn arm(&self, fault: Option<Fault>) {
        let mut common = self.common.lock().unwrap();
        common.fault = fault;
        common.seen = 0;
    }

    pub fn violations(&self) -> Vec<String> {
        self.common.lock().unwrap().violations.clone()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copying {
    #[default]
    No,
    /// By Query: its end is answered by ReadyForQuery.
    Simple,
    Extended,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Session {
    common: Arc<Mutex<Common>>,
    in_transaction: bool,
    failed: bool,
    /// Messages have come that no Sync has followed.
    unsynced: bool,
    skipping: bool,
    copying: Copying,
    statements: HashMap<Vec<u8>, Vec<u8>>,
    portals: HashMap<Vec<u8>, Vec<u8>>,
}

impl Session {
    fn take(&mut self, tag: u8, body: &[u8]) -> Reply {
        let text = String::from_utf8_lossy(body).into_owned();
        if tag == b'Q' && !text.contains(MARK) {
            return Reply::Send(self.own_or_fresh(&text));
        }
        let fault = {
            let mut common = self.common.lock().unwrap();
            let at = common.seen;
            common.seen += 1;
            common.fault.take_if(|fault| fault.at() == at)
        };
        match fault {
            None => Reply::Send(self.answer(tag, body)),
            Some(Fault::Cut(_)) => Reply::Cut,
            Some(Fault::Error(_)) => Reply::Send(self.fail(tag)),
            Some(Fault::CutInside(_, len)) => {
                let mut answer = self.answer(tag, body);
                answer.truncate(len.min(answer.len().saturating_sub(1)));
                Reply::SendAndCut(answer)
            }
        }
    }

    /// Forebay's own questions are all answered with nothing; a fresh client's with its number.
    fn own_or_fresh(&mut self, text: &str) -> Vec<u8> {
        let Some(number) = text.strip_prefix("SELECT fresh ") else {
            let word = text.split([' ', ';']).next().unwrap_or_default().to_owned();
            if matches!(word.as_str(), "ROLLBACK" | "DISCARD") {
                (self.in_transaction, self.failed) = (false, false);
            }
            return [complete(&word), self.ready()].concat();
        };
        let state = (self.in_transaction, self.unsynced, self.skipping, self.copying);
        // The end of a script is its own client's.
        if !text.starts_with(END) && state != (false, false, false, Copying::No) {
            self.common.lock().unwrap().violations.push(format!("{text}: {state:?}"));
        }
        let number = number.trim_end_matches('\0');
        [row_description(), row(number), complete("SELECT 1"), self.ready()].concat()
    }

    fn answer(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        match (tag, self.copying) {
            // As PostgreSQL does outside and inside a copy.
            (b'd', _) | (b'c' | b'f', Copying::No) | (b'S' | b'H', Copying::Extended) => Vec::new(),
            (b'c', _) => self.end_copy(complete("COPY 1")),
            (b'f', _) => self.fail(tag),
            (b'S', _) => {
                (self.unsynced, self.skipping) = (false, false);
                self.portals.clear();
                self.ready()
            }
            (b'Q', _) => {
                let answer = self.run(body, Copying::Simple);
                if self.copying == Copying::No { [answer, self.ready()].concat() } else { answer }
            }
            (_, _) => {
                self.unsynced = true;
                if self.skipping { Vec::new() } else { self.extended(tag, body) }
            }
        }
    }

    fn extended(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        let mut words = body.split(|&byte| byte == 0).map(<[u8]>::to_vec);
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match tag {
            b'P' => {
                self.statements.insert(first, second);
                message(b'1', &[])
            }
            b'B' => {
                let sql = self.statements.get(&second).cloned().unwrap_or_default();
                self.portals.insert(first, sql);
                message(b'2', &[])
            }
            b'D' if first.first() == Some(&b'S') => {
                [message(b't', &[0, 0]), row_description()].concat()
            }
            b'D' => row_description(),
            b'E' => {
                let sql = self.portals.get(&first).cloned().unwrap_or_default();
                self.run(&sql, Copying::Extended)
            }
            b'C' => message(b'3', &[]),
            _ => Vec::new(),
        }
    }

    /// What comes before ReadyForQuery.
    fn run(&mut self, sql: &[u8], copying: Copying) -> Vec<u8> {
        let text = String::from_utf8_lossy(sql).into_owned();
        let mut words = text.trim_end_matches('\0').split(' ');
        let simple = copying == Copying::Simple;
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            ("ROLLBACK" | "COMMIT", _) => {
                let tag = if self.failed { "ROLLBACK" } else { "COMMIT" };
                (self.in_transaction, self.failed) = (false, false);
                complete(tag)
            }
            _ if self.failed => self.error(simple),
            ("BEGIN", _) => {
                self.in_transaction = true;
                complete("BEGIN")
            }
            ("SELECT", value) => {
                let described = if simple { row_description() } else { Vec::new() };
                [described, row(value), complete("SELECT 1")].concat()
            }
            ("COPY", "in") => {
                self.copying = copying;
                message(b'G', &[0, 0, 0])
            }
            ("COPY", _) => {
                let (begin, end) = (message(b'H', &[0, 0, 0]), message(b'c', &[]));
                [begin, message(b'd', b"1\n"), end, complete("COPY 1")].concat()
            }
            (_, _) => self.error(simple),
        }
    }

    /// Answers this message with an error, whatever it is.
    fn fail(&mut self, tag: u8) -> Vec<u8> {
        match (tag, self.copying) {
            (b'd' | b'c' | b'f', Copying::No) => Vec::new(),
            (b'd' | b'c' | b'f' | b'S' | b'H', Copying::Simple | Copying::Extended) => {
                let error = self.error(self.copying == Copying::Simple);
                self.end_copy(error)
            }
            (b'S', Copying::No) => {
                (self.unsynced, self.skipping) = (false, false);
                [self.error(true), self.ready()].concat()
            }
            (b'Q', _) => [self.error(true), self.ready()].concat(),
            (_, _) => {
                self.unsynced = true;
                if self.skipping { Vec::new() } else { self.error(false) }
            }
        }
    }

    fn end_copy(&mut self, answer: Vec<u8>) -> Vec<u8> {
        match std::mem::take(&mut self.copying) {
            Copying::Simple => [answer, self.ready()].concat(),
            Copying::Extended | Copying::No => answer,
        }
    }

    fn error(&mut self, simple: bool) -> Vec<u8> {
        self.failed = self.in_transaction;
        self.skipping = !simple;
        message(b'E', b"SERROR\0VERROR\0C22012\0Mscripted\0\0")
    }

    fn ready(&self) -> Vec<u8> {
        let status = match (self.in_transaction, self.failed) {
            (false, _) => b"I",
            (true, false) => b"T",
            (true, true) => b"E",
        };
        message(b'Z', status)
    }
}

fn row_description() -> Vec<u8> {
    let column = [b"v\0".as_slice(), &[0; 6], &[0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0]];
    message(b'T', &[&[0, 1], column.concat().as_slice()].concat())
}

fn row(value: &str) -> Vec<u8> {
    let len = u32::try_from(value.len()).unwrap().to_be_bytes();
    message(b'D', &[&[0, 1], len.as_slice(), value.as_bytes()].concat())
}
