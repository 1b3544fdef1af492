//! The protocol on a console connection: messages in, commands to perform, replies out.
//!
//! Both ways to ask: Query, and Parse to Sync without parameters, so that drivers that know only
//! the second can look too. After an error in the second, messages are skipped up to Sync.

use std::collections::HashMap;

use crate::wire::backend::{self, Severity, Status};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::sqlstate;

use super::command::{Command, HELP, Transaction};
use super::table::{Columns, Kind, Table, Value};

/// Statements and portals of one connection, each; drivers need a handful.
const NAMES_MAX: usize = 1000;

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Rows(Table),
    /// Done: the command tag, and sentences for whoever did it.
    Done {
        tag: String,
        notices: Vec<String>,
    },
    /// Not done, and why, a line each.
    Failed {
        sqlstate: &'static str,
        message: String,
    },
}

impl Outcome {
    pub fn done(tag: impl Into<String>) -> Self {
        Self::Done { tag: tag.into(), notices: Vec::new() }
    }
}

/// Which commands the user may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    All,
    Look,
}

/// What the connection has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Give me the next message.
    Next,
    /// Perform this, then `Conversation::answer`.
    Perform(Command),
    Close,
    /// The peer broke the protocol.
    Broken,
}

/// One console connection.
pub struct Conversation {
    access: Access,
    status: Status,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
    /// An error has been told; everything up to Sync is skipped.
    skipping: bool,
    /// How the answer under way is to be written.
    asked: Asked,
}

#[derive(Clone, Debug)]
struct Portal {
    command: Command,
    formats: Vec<bool>,
}

/// Who asked for the answer under way.
enum Asked {
    Query,
    Execute { formats: Vec<bool> },
}

impl Conversation {
    pub fn new(access: Access) -> Self {
        Self {
            access,
            status: Status::Idle,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skipping: false,
            asked: Asked::Query,
        }
    }

    /// Takes one whole message, `body` without its header.
    pub fn take(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Step {
        if tag == frontend::TERMINATE {
            return Step::Close;
        }
        if tag == frontend::SYNC {
            self.skipping = false;
            // Portals end with their transaction, and there is one around every Sync.
            self.portals.clear();
            backend::write_ready(out, self.status);
            return Step::Next;
        }
        if self.skipping {
            return Step::Next;
        }
        match tag {
            frontend::QUERY => self.query(body, out),
            frontend::PARSE => self.parse(body, out),
            frontend::BIND => self.bind(body, out),
            frontend::DESCRIBE => self.describe(body, out),
            frontend::EXECUTE => self.execute(body, out),
            frontend::CLOSE => self.close(body, out),
            // Nothing is held back.
            frontend::FLUSH => Step::Next,
            _ => Step::Broken,
        }
    }

    /// Tells what came of the command that `take` gave.
    pub fn answer(&mut self, outcome: &Outcome, out: &mut Vec<u8>) {
        match (&self.asked, outcome) {
            (_, Outcome::Failed { sqlstate, message }) => {
                backend::write_error(out, Severity::Error, sqlstate, message);
                if matches!(self.asked, Asked::Execute { .. }) {
                    self.skipping = true;
                }
            }
            (Asked::Query, Outcome::Rows(table)) => {
                write_columns(out, table.columns, &[]);
                write_rows(out, table, &[]);
            }
            (Asked::Execute { formats }, Outcome::Rows(table)) => write_rows(out, table, formats),
            (_, Outcome::Done { tag, notices }) => {
                for notice in notices {
                    backend::write_notice(out, notice);
                }
                backend::write_command_complete(out, tag);
            }
        }
        if matches!(self.asked, Asked::Query) {
            backend::write_ready(out, self.status);
        }
    }

    fn query(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(text) = frontend::query(body) else { return Step::Broken };
        self.asked = Asked::Query;
        let command = match Command::parse(&String::from_utf8_lossy(text)) {
            Ok(command) => command,
            Err(invalid) => {
                self.answer(&refused(sqlstate::PROTOCOL_VIOLATION, invalid.0), out);
                return Step::Next;
            }
        };
        self.start(command, out)
    }

    /// Answers what needs nobody else.
    fn start(&mut self, command: Command, out: &mut Vec<u8>) -> Step {
        let outcome = if self.access == Access::Look && !command.only_looks() {
            refused(sqlstate::PROTOCOL_VIOLATION, "admin access needed".into())
        } else {
            match command {
                Command::Help => {
                    Outcome::Done { tag: "SHOW".into(), notices: vec![HELP.to_owned()] }
                }
                Command::SetIgnored => {
                    Outcome::Done { tag: "SET".into(), notices: vec!["SET ignored".into()] }
                }
                Command::Transaction(transaction) => self.transaction(transaction),
                Command::Probe(probe) => {
                    let mut table = Table::new(probe.columns);
                    table.push(vec![Some(probe.answer.to_owned())]);
                    Outcome::Rows(table)
                }
                Command::Empty => {
                    frontend::write(out, backend::EMPTY_QUERY_RESPONSE, |_| {});
                    if matches!(self.asked, Asked::Query) {
                        backend::write_ready(out, self.status);
                    }
                    return Step::Next;
                }
                Command::Show(_)
                | Command::ShowPart(..)
                | Command::ExplainSlow(_)
                | Command::Set { .. }
                | Command::FlushCache
                | Command::FlushDatabase(_)
                | Command::FlushRole(_)
                | Command::FlushTable { .. }
                | Command::Reload
                | Command::Shutdown(_)
                | Command::Pause(_)
                | Command::Resume(_)
                | Command::Suspend
                | Command::Disable(_)
                | Command::Enable(_)
                | Command::Reconnect(_)
                | Command::Kill(_)
                | Command::KillClient(_)
                | Command::WaitClose(_) => return Step::Perform(command),
            }
        };
        self.answer(&outcome, out);
        Step::Next
    }

    fn transaction(&mut self, transaction: Transaction) -> Outcome {
        let (status, tag) = match transaction {
            Transaction::Begin => (Status::InTransaction, "BEGIN"),
            Transaction::Commit => (Status::Idle, "COMMIT"),
            Transaction::Rollback => (Status::Idle, "ROLLBACK"),
        };
        self.status = status;
        Outcome::done(tag)
    }

    fn parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(parse) = Parse::read(body) else { return Step::Broken };
        match Command::parse(&String::from_utf8_lossy(parse.sql)) {
            Err(invalid) => self.fail(sqlstate::PROTOCOL_VIOLATION, &invalid.0, out),
            Ok(_) if self.statements.len() >= NAMES_MAX => {
                let message = "too many prepared statements";
                self.fail(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, message, out)
            }
            Ok(command) => {
                self.statements.insert(parse.name.to_vec(), command);
                out.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
                Step::Next
            }
        }
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(bind) = Bind::read(body) else { return Step::Broken };
        let Some(command) = self.statements.get(bind.statement).cloned() else {
            return self.fail(UNDEFINED_STATEMENT, "prepared statement does not exist", out);
        };
        if bind.values_count > 0 {
            let message = "the console takes no parameters";
            return self.fail(sqlstate::PROTOCOL_VIOLATION, message, out);
        }
        if self.portals.len() >= NAMES_MAX {
            return self.fail(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, "too many portals", out);
        }
        let codes = bind.result_formats.as_chunks::<2>().0;
        let formats: Vec<bool> = codes.iter().map(|code| *code == [0, 1]).collect();
        self.portals.insert(bind.portal.to_vec(), Portal { command, formats });
        out.extend_from_slice(backend::BIND_COMPLETE_MESSAGE);
        Step::Next
    }

    fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok((target, name)) = frontend::target(body) else { return Step::Broken };
        let (command, formats) = match target {
            Target::Statement => match self.statements.get(name) {
                Some(command) => {
                    frontend::write(out, backend::PARAMETER_DESCRIPTION, |body| {
                        body.extend_from_slice(&[0; 2]);
                    });
                    (command, &[] as &[bool])
                }
                None => {
                    return self.fail(
                        UNDEFINED_STATEMENT,
                        "prepared statement does not exist",
                        out,
                    );
                }
            },
            Target::Portal => match self.portals.get(name) {
                Some(portal) => (&portal.command, portal.formats.as_slice()),
                None => return self.fail(UNDEFINED_PORTAL, "portal does not exist", out),
            },
        };
        match command.columns() {
            Some(columns) => write_columns(out, columns, formats),
            None => frontend::write(out, backend::NO_DATA, |_| {}),
        }
        Step::Next
    }

    /// A limit of rows is not kept: the answers are short, and PgBouncer has no portals at all.
    fn execute(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok((name, _rows)) = frontend::execute(body) else { return Step::Broken };
        let Some(portal) = self.portals.get(name).cloned() else {
            return self.fail(UNDEFINED_PORTAL, "portal does not exist", out);
        };
        self.asked = Asked::Execute { formats: portal.formats };
        self.start(portal.command, out)
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok((target, name)) = frontend::target(body) else { return Step::Broken };
        match target {
            Target::Statement => drop(self.statements.remove(name)),
            Target::Portal => drop(self.portals.remove(name)),
        }
        out.extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
        Step::Next
    }

    fn fail(&mut self, sqlstate: &str, message: &str, out: &mut Vec<u8>) -> Step {
        backend::write_error(out, Severity::Error, sqlstate, message);
        self.skipping = true;
        Step::Next
    }
}

const UNDEFINED_STATEMENT: &str = "26000";
const UNDEFINED_PORTAL: &str = "34000";

fn refused(sqlstate: &'static str, message: String) -> Outcome {
    Outcome::Failed { sqlstate, message }
}

/// Whether a column was asked for in binary: one code speaks for all, none means all text.
fn is_binary(formats: &[bool], at: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all,
        each => each.get(at).copied().unwrap_or(false),
    }
}

fn write_columns(out: &mut Vec<u8>, columns: Columns, formats: &[bool]) {
    frontend::write(out, backend::ROW_DESCRIPTION, |body| {
        body.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (at, column) in columns.iter().enumerate() {
            frontend::put_cstr(body, column.name.as_bytes());
            body.extend_from_slice(&[0; 6]);
            body.extend_from_slice(&column.kind.oid().to_be_bytes());
            body.extend_from_slice(&column.kind.type_len().to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes());
            body.extend_from_slice(&u16::from(is_binary(formats, at)).to_be_bytes());
        }
    });
}

fn write_rows(out: &mut Vec<u8>, table: &Table, formats: &[bool]) {
    for row in &table.rows {
        frontend::write(out, backend::DATA_ROW, |body| {
            body.extend_from_slice(&u16::try_from(row.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (at, (value, column)) in row.iter().zip(table.columns).enumerate() {
                write_value(body, value, column.kind, is_binary(formats, at));
            }
        });
    }
    backend::write_command_complete(out, "SHOW");
}

fn write_value(body: &mut Vec<u8>, value: &Value, kind: Kind, binary: bool) {
    let Some(text) = value else {
        body.extend_from_slice(&(-1_i32).to_be_bytes());
        return;
    };
    let bytes = if binary { binary_value(text, kind) } else { text.clone().into_bytes() };
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(&bytes);
}

/// A value as PostgreSQL's binary format has it. Numbers here are ours, whole and not negative;
/// one that is too large for its column becomes the largest.
fn binary_value(text: &str, kind: Kind) -> Vec<u8> {
    let number: u64 = text.parse().unwrap_or(0);
    match kind {
        Kind::Text | Kind::Bytea => text.as_bytes().to_vec(),
        Kind::Int4 => i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
        Kind::Int8 => i64::try_from(number).unwrap_or(i64::MAX).to_be_bytes().to_vec(),
        Kind::Numeric => numeric(number),
    }
}

/// Digits to the base of 10,000 behind their count, the weight of the first, sign and scale.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits: Vec<u16> = Vec::new();
    while number > 0 {
        digits.push(u16::try_from(number % 10_000).unwrap_or(0));
        number /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or(0);
    let header = [count, count.saturating_sub(1), 0, 0];
    header.iter().chain(digits.iter().rev()).flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::command::Show;
    use super::super::show;
    use super::*;

    /// Tags of the messages in `out`.
    fn tags(mut out: &[u8]) -> String {
        let mut tags = String::new();
        while let Some((tag, rest)) = out.split_first() {
            tags.push(char::from(*tag));
            let length = u32::from_be_bytes(*rest.first_chunk::<4>().unwrap());
            out = &rest[usize::try_from(length).unwrap()..];
        }
        tags
    }

    fn message(write: impl FnOnce(&mut Vec<u8>)) -> (u8, Vec<u8>) {
        let mut out = Vec::new();
        write(&mut out);
        (out[0], out[5..].to_vec())
    }

    fn ask(conversation: &mut Conversation, sql: &str) -> (Step, Vec<u8>) {
        let mut out = Vec::new();
        let (tag, body) = message(|out| frontend::write_query(out, sql));
        let step = conversation.take(tag, &body, &mut out);
        (step, out)
    }

    #[test]
    fn a_query_is_performed_and_answered_with_rows() {
        let mut console = Conversation::new(Access::Look);
        let (step, mut out) = ask(&mut console, "SHOW VERSION");
        assert_eq!(step, Step::Perform(Command::Show(Show::Version)));
        console.answer(&Outcome::Rows(show::version()), &mut out);
        assert_eq!(tags(&out), "TDCZ");
    }

    #[test]
    fn what_is_no_command_is_an_error_and_the_next_one_is_heard() {
        let mut console = Conversation::new(Access::All);
        let (step, out) = ask(&mut console, "foo");
        assert_eq!((step, tags(&out).as_str()), (Step::Next, "EZ"));
        assert_eq!(backend::error_field(&out[5..], b'C'), Some(&b"08P01"[..]));
        let (step, _) = ask(&mut console, "RELOAD");
        assert_eq!(step, Step::Perform(Command::Reload));
    }

    #[test]
    fn who_may_only_look_is_told_so() {
        let mut console = Conversation::new(Access::Look);
        for command in [
            "RELOAD",
            "SHUTDOWN",
            "FLUSH CACHE",
            "KILL_CLIENT 1",
            "SET x = 1",
            "PAUSE",
            "RESUME",
            "SUSPEND",
            "DISABLE a",
            "ENABLE a",
            "RECONNECT",
            "KILL",
            "WAIT_CLOSE",
            "SHOW FDS",
            "EXPLAIN SLOW 1",
        ] {
            let (step, out) = ask(&mut console, command);
            assert_eq!((step, tags(&out).as_str()), (Step::Next, "EZ"));
            assert_eq!(backend::error_field(&out[5..], b'M'), Some(&b"admin access needed"[..]));
        }
    }

    #[test]
    fn the_extended_protocol_describes_before_it_runs() {
        let mut console = Conversation::new(Access::Look);
        let mut out = Vec::new();
        let steps = [
            message(|out| frontend::write_parse(out, b"s", b"SHOW VERSION", &[])),
            message(|out| frontend::write_target(out, frontend::DESCRIBE, Target::Statement, b"s")),
            message(|out| frontend::write_bind(out, b"", b"s", &[0, 0, 0, 0, 0, 0])),
            message(|out| frontend::write_target(out, frontend::DESCRIBE, Target::Portal, b"")),
        ];
        for (tag, body) in steps {
            assert_eq!(console.take(tag, &body, &mut out), Step::Next);
        }
        let step = console.take(frontend::EXECUTE, &[0, 0, 0, 0, 0], &mut out);
        assert_eq!(step, Step::Perform(Command::Show(Show::Version)));
        console.answer(&Outcome::Rows(show::version()), &mut out);
        console.take(frontend::SYNC, &[], &mut out);
        assert_eq!(tags(&out), "1tT2TDCZ");
    }

    #[test]
    fn after_an_error_everything_up_to_sync_is_skipped() {
        let mut console = Conversation::new(Access::All);
        let mut out = Vec::new();
        let (tag, body) = message(|out| frontend::write_parse(out, b"", b"nonsense", &[]));
        console.take(tag, &body, &mut out);
        let (tag, body) = message(|out| frontend::write_bind(out, b"", b"", &[0; 6]));
        console.take(tag, &body, &mut out);
        console.take(frontend::EXECUTE, &[0, 0, 0, 0, 0], &mut out);
        console.take(frontend::SYNC, &[], &mut out);
        assert_eq!(tags(&out), "EZ");
    }

    #[test]
    fn transactions_of_drivers_change_the_status_and_nothing_else() {
        let mut console = Conversation::new(Access::Look);
        let (_, out) = ask(&mut console, "BEGIN");
        assert_eq!(out.last(), Some(&b'T'));
        let (_, out) = ask(&mut console, "COMMIT");
        assert_eq!(out.last(), Some(&b'I'));
    }

    #[test]
    fn an_empty_query_has_its_own_answer() {
        let (_, out) = ask(&mut Conversation::new(Access::Look), ";");
        assert_eq!(tags(&out), "IZ");
    }

    #[test]
    fn truncated_messages_break_the_protocol_and_nothing_else() {
        let (tag, body) = message(|out| frontend::write_bind(out, b"", b"s", &[0; 6]));
        for end in 0..body.len() {
            let mut console = Conversation::new(Access::All);
            assert_eq!(console.take(tag, &body[..end], &mut Vec::new()), Step::Broken);
        }
    }

    #[test]
    fn binary_values_are_those_of_postgresql() {
        assert_eq!(binary_value("7", Kind::Int4), [0, 0, 0, 7]);
        assert_eq!(binary_value("258", Kind::Int8), [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(binary_value("0", Kind::Numeric), [0, 0, 0, 0, 0, 0, 0, 0]);
        // 12345678 is 1234 5678 to the base of 10,000.
        assert_eq!(
            binary_value("12345678", Kind::Numeric),
            [0, 2, 0, 1, 0, 0, 0, 0, 0x04, 0xd2, 0x16, 0x2e]
        );
    }
}
