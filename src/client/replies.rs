//! Replies on their way from the server to the client: each takes one entry out of the queue of
//! what is owed, and runs of rows go through unread.

use std::time::Instant;

use bytes::{Buf, BytesMut};

use crate::server::Server;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::sql::verdict::Control;
use crate::twin::{self, Twin};
use crate::wire::backend::{self, Status};
use crate::wire::frame::{self, HEADER_BYTES};

use super::moment::{ANSWER_BYTES_MAX, is_question};
use super::rows::Run;
use super::session::{Ending, RequestKind, Session, Unit};

/// Longest message taken from a server, rows and copy data aside: those stream.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// The server broke the protocol, or our own query on it failed; it must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    Frame,
    Unexpected {
        tag: u8,
    },
    /// Settings or a statement of ours that PostgreSQL refused.
    OwnQueryFailed,
    /// No fault of the server's: its client began a transaction in statement pooling.
    TransactionBlock,
}

impl Session {
    /// Takes every whole message out of `input`, and the parts of rows that are there.
    pub fn replies(
        &mut self,
        server: &mut Server,
        input: &mut BytesMut,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), ServerFault> {
        self.invented(server, out);
        loop {
            if server.partial > 0 {
                let len = server.partial.min(input.len());
                if len == 0 {
                    return Ok(());
                }
                self.pass(input, len, server.partial_forward, out);
                server.partial -= len;
                continue;
            }
            let Some(header) =
                frame::header(input, MESSAGE_BYTES_MAX).or(Err(ServerFault::Frame))?
            else {
                return Ok(());
            };
            let forward = matches!(
                server.outstanding.front(),
                Some(Owed::Expect { deliver: Deliver::Forward, .. })
            );
            let question = is_question(server);
            let answer =
                header.tag == backend::DATA_ROW && question && header.total <= ANSWER_BYTES_MAX;
            if matches!(header.tag, backend::DATA_ROW | backend::COPY_DATA) && !answer {
                let run = if question {
                    Run { bytes: header.total, count: 1 }
                } else {
                    Run::of(header.tag, input, MESSAGE_BYTES_MAX)
                };
                server.partial = run.bytes;
                server.partial_forward = forward;
                self.work.rows += if forward { run.count } else { 0 };
                continue;
            }
            if input.len() < header.total {
                return Ok(());
            }
            let message = input.get(..header.total).unwrap_or_default();
            if answer {
                self.answered(server, message.get(HEADER_BYTES..).unwrap_or_default());
                input.advance(header.total);
                continue;
            }
            self.reply(server, header.tag, message, forward, now, out)?;
            input.advance(header.total);
            self.invented(server, out);
        }
    }

    fn reply(
        &mut self,
        server: &mut Server,
        tag: u8,
        message: &[u8],
        forward: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), ServerFault> {
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        let mut show = forward;
        match tag {
            backend::READY_FOR_QUERY => {
                let status = Status::read(body).or(Err(ServerFault::Unexpected { tag }))?;
                show = self.ready(server, status, now)?;
                if show && !self.work.returned.is_empty() {
                    self.tell_returned(out);
                }
            }
            backend::ERROR_RESPONSE => {
                let refused = self.refused_for_us(server, body, out);
                show = self.error(server, body, forward, now)? && !refused;
            }
            backend::COMMAND_COMPLETE if is_question(server) => self.question_completed(server),
            backend::COMMAND_COMPLETE => {
                self.command_complete(server, message, body, forward, now);
                if forward && let Some(completion) = self.completion(message) {
                    show = false;
                    out.extend_from_slice(&completion);
                }
            }
            backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED => {
                self.spoil_fill();
                self.pop_execute(server, None, now);
            }
            backend::PARSE_COMPLETE => self.parse_complete(server),
            backend::BIND_COMPLETE => {
                if twin::is(Twin::StampAtExecute) {
                    self.restamp_fill();
                }
                pop_if(server, Reply::Bind);
            }
            backend::CLOSE_COMPLETE => pop_if(server, Reply::Close),
            backend::ROW_DESCRIPTION => self.row_description(server, message, forward),
            backend::NO_DATA => {
                self.note_description(server, message, true);
                pop_if(server, Reply::Describe);
            }
            backend::PARAMETER_DESCRIPTION => self.note_description(server, message, false),
            backend::COPY_DONE | backend::FUNCTION_CALL_RESPONSE => {}
            backend::COPY_IN_RESPONSE
            | backend::COPY_OUT_RESPONSE
            | backend::COPY_BOTH_RESPONSE => {
                self.spoil_fill();
                if tag != backend::COPY_OUT_RESPONSE {
                    self.copy_in(server);
                }
            }
            backend::NOTICE_RESPONSE => {
                self.spoil_fill();
                show = forward || server.outstanding.is_empty();
            }
            backend::NOTIFICATION_RESPONSE => {
                show = true;
            }
            backend::PARAMETER_STATUS => {
                show = (forward || server.outstanding.is_empty())
                    && !self.is_fallback_of_server(server, body);
                if show && let Ok((b"application_name", name)) = backend::parameter_status(body) {
                    self.work.renamed = Some(String::from_utf8_lossy(name).into_owned());
                }
            }
            _ => return Err(ServerFault::Unexpected { tag }),
        }
        if show {
            out.extend_from_slice(message);
        }
        Ok(())
    }

    /// For broken twins: notes the versions of now, not of when the answer was asked.
    pub(super) fn restamp_fill(&mut self) {
        if let Some(fill) = &mut self.work.fill
            && let Some(stamp) = self.common.database.home().coherence.stamp(&fill.tables())
        {
            fill.restamp(stamp);
        }
    }

    fn spoil_fill(&mut self) {
        if let Some(fill) = &mut self.work.fill {
            fill.spoil();
        }
    }

    /// The description of a portal goes into the entry; that of a statement names no formats.
    fn row_description(&mut self, server: &mut Server, message: &[u8], forward: bool) {
        if forward {
            self.work.bytes += message.len() as u64;
            if let Some(fill) = &mut self.work.fill {
                fill.describe(message);
            }
        }
        self.note_description(server, message, true);
        pop_if(server, Reply::Describe);
    }

    fn parse_complete(&mut self, server: &mut Server) {
        if let Some(Owed::Expect { reply: Reply::Parse, request, .. }) = server.outstanding.front()
        {
            let request = *request;
            server.outstanding.pop();
            if let Some(RequestKind::Parse { statement, .. }) = self.take_request(request) {
                statement.accept();
            }
        }
    }

    /// PostgreSQL ignores a Sync it was sent together with the statement that began a copy.
    fn copy_in(&mut self, server: &mut Server) {
        // The client has to say more.
        self.work.discards = false;
        let ignored = server.outstanding.ignore_sync_in_copy();
        if let Some(RequestKind::Unit(unit)) = ignored.and_then(|id| self.take_request(id)) {
            self.work.armed.append(unit.armed);
            self.work.unsynced = true;
        }
    }

    fn pop_execute(
        &mut self,
        server: &mut Server,
        rows: Option<u64>,
        now: Instant,
    ) -> Option<RequestKind> {
        match server.outstanding.front() {
            Some(Owed::Expect { reply: Reply::Execute, request, .. }) => {
                let request = *request;
                server.outstanding.pop();
                self.executed(request, rows, now);
                self.take_request(request)
            }
            Some(_) | None => None,
        }
    }

    fn command_complete(
        &mut self,
        server: &mut Server,
        message: &[u8],
        body: &[u8],
        forward: bool,
        now: Instant,
    ) {
        // What is swallowed in front of a read is none of its answer.
        if forward && let Some(fill) = &mut self.work.fill {
            fill.complete(message);
        }
        if forward {
            self.work.bytes += message.len() as u64;
        }
        let rows = backend::rows_of_tag(body);
        let rolled_back = body == b"ROLLBACK\0";
        self.work.ending = match (self.work.ending, rolled_back) {
            (Ending::Failed | Ending::Doubtful, _) => self.work.ending,
            (Ending::Fine | Ending::RolledBack, true) => Ending::RolledBack,
            (Ending::Fine | Ending::RolledBack, false) => Ending::Fine,
        };
        match server.outstanding.front() {
            Some(Owed::Expect { reply: Reply::Execute, .. }) => {
                let request = self.pop_execute(server, rows, now);
                if let Some(RequestKind::Execute { verdict, stale }) = request {
                    if let Some((name, generation)) = stale
                        && let Some(prepared) = self.names.find_mut(&name)
                    {
                        prepared.generation = generation;
                    }
                    for control in &verdict.controls {
                        self.apply(control, rolled_back, server);
                    }
                }
            }
            Some(Owed::Expect {
                reply: Reply::Query, deliver: Deliver::Forward, request, ..
            }) => {
                let request = *request;
                self.query_completed(request, rows, now);
                let unit = self.unit_of(request);
                let completed = unit.and_then(|unit| {
                    unit.completed += 1;
                    let verdict = unit.verdict.as_ref()?;
                    let controls = !verdict.controls.is_empty();
                    controls.then(|| (std::sync::Arc::clone(verdict), unit.completed - 1))
                });
                if let Some((verdict, statement)) = completed {
                    for control in verdict.controls_of(statement) {
                        self.apply(control, rolled_back, server);
                    }
                }
            }
            Some(_) | None => {}
        }
    }

    fn unit_of(&mut self, id: u64) -> Option<&mut Unit> {
        match self.request_of(id)? {
            RequestKind::Unit(unit) => Some(unit),
            RequestKind::Parse { .. }
            | RequestKind::Close { .. }
            | RequestKind::Describe(_)
            | RequestKind::Changed { .. }
            | RequestKind::Execute { .. } => None,
        }
    }

    /// Whether a reset tells the server's own default of what this client started with otherwise;
    /// the client is told its own.
    fn is_fallback_of_server(&self, server: &Server, body: &[u8]) -> bool {
        let Some(Owed::Expect { request, .. }) = server.outstanding.front() else { return false };
        let verdict =
            self.work.requests.iter().find(|known| known.id == *request).and_then(|request| {
                match &request.kind {
                    RequestKind::Execute { verdict, .. } => Some(verdict),
                    RequestKind::Unit(unit) => unit.verdict.as_ref(),
                    RequestKind::Parse { .. }
                    | RequestKind::Close { .. }
                    | RequestKind::Describe(_)
                    | RequestKind::Changed { .. } => None,
                }
            });
        let resets = verdict.is_some_and(|verdict| {
            verdict.controls.iter().any(|control| {
                matches!(control, Control::Reset { .. } | Control::ResetAll | Control::DiscardAll)
            })
        });
        // In session pooling both defaults are one.
        resets
            && server.initial.id != self.startup.id
            && backend::parameter_status(body).is_ok_and(|(name, _)| {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                self.startup.values.contains_key(&name)
            })
    }

    /// ParameterStatus of what the client started with, in PostgreSQL's own spelling.
    fn tell_returned(&mut self, out: &mut Vec<u8>) {
        let returned = std::mem::take(&mut self.work.returned);
        let base = self.common.base();
        let Some(reported) = self.common.reported(base.id, self.startup.id) else { return };
        for (name, value) in reported.iter() {
            let lower = name.to_ascii_lowercase();
            // What was set again meanwhile, or not given back after all, it has been told.
            let is_back = || self.settings.values.get(&lower) == self.startup.values.get(&lower);
            if returned.contains(&lower) && is_back() {
                backend::write_parameter_status(out, name, value);
                if name == "application_name" {
                    self.work.renamed = Some(value.clone());
                }
            }
        }
    }

    /// What needs no further byte from the server.
    fn invented(&mut self, server: &mut Server, out: &mut Vec<u8>) {
        while let Some((bytes, request)) = server.outstanding.pop_invented() {
            out.extend_from_slice(bytes);
            if request != 0 {
                let _done = self.take_request(request);
            }
        }
    }
}

/// Takes the front entry if it waits for this reply; a Query's own messages leave it there.
fn pop_if(server: &mut Server, expected: Reply) {
    if let Some(Owed::Expect { reply, .. }) = server.outstanding.front()
        && *reply == expected
    {
        server.outstanding.pop();
    }
}
