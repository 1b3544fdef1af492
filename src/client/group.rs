//! The request group: messages up to Sync, Flush, or one Query, kept as bytes with an index, so
//! that they leave in one write and can be answered as a whole.

use std::ops::Range;

use crate::wire::frame::HEADER_BYTES;
use crate::wire::frontend::{self, Bind, Parse};

use super::close::CloseReason;
use super::session::{Session, Taken};

/// A group over this many bytes is sent on without waiting for its end.
const GROUP_BYTES_MAX: usize = 128 * 1024;

/// Portals of one client at once. Drivers name one for each cursor they read piece by piece.
const PORTALS_MAX: usize = 1000;

/// Messages collected so far.
#[derive(Debug, Default)]
pub struct Group {
    pub bytes: Vec<u8>,
    pub parts: Vec<Part>,
}

/// One message in it: its tag, and where it lies, header included.
#[derive(Clone, Debug)]
pub struct Part {
    pub tag: u8,
    pub range: Range<usize>,
}

impl Group {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn message(&self, part: &Part) -> &[u8] {
        self.bytes.get(part.range.clone()).unwrap_or_default()
    }

    pub fn body(&self, part: &Part) -> &[u8] {
        self.message(part).get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Whether it holds `least` messages of this kind that give something a name; both Parse and
    /// Bind begin with it.
    fn names(&self, tag: u8, least: usize) -> bool {
        let named = |part: &&Part| part.tag == tag && self.body(part).first() != Some(&0);
        self.parts.len() >= least && self.parts.iter().filter(named).count() >= least
    }

    fn push(&mut self, tag: u8, message: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message);
        self.parts.push(Part { tag, range: start..self.bytes.len() });
    }

    /// Empties it, keeping a small buffer for the next one.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.bytes.clear();
        self.bytes.shrink_to(4096);
    }
}

impl Session {
    /// Takes one whole message of the client into the group. Copy messages are not for here.
    pub fn take(&mut self, tag: u8, message: &[u8]) -> Taken {
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        if !is_well_formed(tag, body) {
            return Taken::Close(CloseReason::MalformedMessage { tag });
        }
        if tag == frontend::PARSE && self.has_too_many_statements(body) {
            return Taken::Close(CloseReason::StatementsMax);
        }
        if tag == frontend::BIND && self.has_too_many_portals(body) {
            return Taken::Close(CloseReason::PortalsMax);
        }
        match tag {
            frontend::TERMINATE => Taken::Close(CloseReason::ClientClosed),
            frontend::QUERY | frontend::FUNCTION_CALL | frontend::SYNC | frontend::FLUSH => {
                self.work.group.push(tag, message);
                Taken::GroupReady
            }
            frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE => {
                self.work.group.push(tag, message);
                if self.work.group.bytes.len() > GROUP_BYTES_MAX {
                    Taken::GroupReady
                } else {
                    Taken::More
                }
            }
            _ => Taken::Close(CloseReason::UnknownMessage { tag }),
        }
    }
}

impl Session {
    fn has_too_many_statements(&self, body: &[u8]) -> bool {
        let prepared = &self.names.prepared;
        let left = self.common.limits.statements_max().saturating_sub(prepared.len());
        self.work.group.names(frontend::PARSE, left)
            && Parse::read(body)
                .is_ok_and(|parse| !parse.name.is_empty() && !prepared.contains_key(parse.name))
    }

    fn has_too_many_portals(&self, body: &[u8]) -> bool {
        let names = &self.names;
        self.work.group.names(frontend::BIND, PORTALS_MAX.saturating_sub(names.named_portals()))
            && Bind::read(body)
                .is_ok_and(|bind| !bind.portal.is_empty() && names.portal(bind.portal).is_none())
    }
}

/// Fields that fit their length; what PostgreSQL would answer with a protocol violation.
fn is_well_formed(tag: u8, body: &[u8]) -> bool {
    match tag {
        frontend::QUERY => frontend::query(body).is_ok(),
        frontend::PARSE => Parse::read(body).is_ok(),
        frontend::BIND => Bind::read(body).is_ok(),
        frontend::DESCRIBE | frontend::CLOSE => frontend::target(body).is_ok(),
        frontend::EXECUTE => frontend::execute(body).is_ok(),
        frontend::SYNC | frontend::FLUSH | frontend::TERMINATE => body.is_empty(),
        _ => true,
    }
}
