//! An ErrorResponse on its way to the client: what PostgreSQL ignores for it is taken back here, and
//! whether it proves a rollback is noted for the end of the unit.

use std::time::Instant;

use crate::server::Server;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::wire::backend::{self, Status};

use super::moment::is_question;
use super::replies::ServerFault;
use super::session::{Ending, RequestKind, Session};
use super::verify::blame;

impl Session {
    /// Gives whether the client sees it.
    pub(super) fn error(
        &mut self,
        server: &mut Server,
        body: &[u8],
        forward: bool,
        now: Instant,
    ) -> Result<bool, ServerFault> {
        if let Some(fill) = &mut self.work.fill {
            fill.refuse(blame(body));
        }
        let front = server.outstanding.front();
        let unasked = front.is_none();
        let question = is_question(server);
        if server.outstanding.runs_ours() {
            return Err(ServerFault::OwnQueryFailed);
        }
        // A Parse of ours in front of the client's Bind, or what describes that: the error is the
        // client's to see.
        let inserted_parse = matches!(
            front,
            Some(Owed::Expect {
                reply: Reply::Parse | Reply::Describe,
                deliver: Deliver::Swallow,
                ..
            })
        );
        // Its statement has failed, and so the question behind it.
        let told_before = question && server.status == Status::Failed;
        if is_doubtful(body) {
            self.work.ending = Ending::Doubtful;
        } else if self.work.ending != Ending::Doubtful && !told_before {
            self.work.ending = Ending::Failed;
        }
        let skipped = server.outstanding.skip_to_sync();
        for statement in skipped.statements {
            server.statements.pop(&statement);
            if server.unnamed == Some(statement) {
                server.unnamed = None;
            }
        }
        if inserted_parse {
            server.unnamed = None;
        }
        // An error in front of it is not its answer.
        let is_unanswered = self.revalidation_failed(&skipped.requests);
        self.undo(skipped.requests, server, now);
        if is_unanswered {
            // Its Sync has not been sent, and is the client's own.
            self.work.moment = None;
        }
        if !told_before && !unasked {
            let boundary = match server.outstanding.front() {
                Some(Owed::Expect { request, .. }) => *request,
                Some(Owed::Invented(..)) | None => u64::MAX,
            };
            self.statement_failed(error_class(body), boundary, now);
        }
        self.moment_failed(server);
        // What nobody asked for, such as the end of the backend, is for the client that has it;
        // so is what keeps its commit from being sent.
        let shown = (forward || inserted_parse || unasked || question) && !told_before;
        self.told_fatal |= shown && backend::error_field(body, b'V') == Some(b"FATAL");
        Ok(shown)
    }

    /// What PostgreSQL ignores because of an error in front of it is as if it had not been sent.
    fn undo(&mut self, requests: Vec<u64>, server: &mut Server, now: Instant) {
        // The last first: a name may have been closed and given anew.
        for request in requests.into_iter().rev() {
            // A lock behind a DISCARD ALL that is ignored, too: it was not let go of.
            server.swallowed(request, now);
            match self.take_request(request) {
                Some(RequestKind::Parse { name, statement }) => {
                    self.names.remove(&name, statement.id);
                }
                Some(RequestKind::Close { name, closed }) => self.names.reopen(name, *closed),
                // A Query that is ignored as well, and with it all before it was rolled back.
                Some(RequestKind::Unit(unit)) => {
                    self.settle(unit.armed, false);
                    self.work.unsynced |= server.outstanding.is_skipping();
                }
                Some(
                    RequestKind::Describe(_)
                    | RequestKind::Changed { .. }
                    | RequestKind::Execute { .. },
                )
                | None => {}
            }
        }
    }
}

fn error_class(body: &[u8]) -> [u8; 2] {
    let code = backend::error_field(body, b'C').unwrap_or_default();
    code.first_chunk().copied().unwrap_or_default()
}

/// An error that does not prove a rollback: the connection, the operator or the system failed
/// (hazards D8, H8, H9).
pub(super) fn is_doubtful(body: &[u8]) -> bool {
    let severity = backend::error_field(body, b'V');
    let code = backend::error_field(body, b'C').unwrap_or_default();
    let class = code.get(..2).unwrap_or_default();
    severity != Some(b"ERROR") || matches!(class, b"08" | b"57" | b"58" | b"XX" | b"F0" | b"")
}
