//! A ReadyForQuery on its way to the client, the end of a unit of work: what that wrote is settled and
//! what it read is kept before the client hears of it.

use std::time::Instant;

use crate::pool::PoolMode;
use crate::server::Server;
use crate::server::outstanding::{Deliver, Owed, Reply};
use crate::twin::{self, Twin};
use crate::wire::backend::{self, Status};

use super::replies::ServerFault;
use super::session::{Ending, RequestKind, Session, Unit};

impl Session {
    /// The end of a unit: settles what it may have committed, then lets the client know.
    pub(super) fn ready(
        &mut self,
        server: &mut Server,
        status: Status,
        now: Instant,
    ) -> Result<bool, ServerFault> {
        let unexpected = ServerFault::Unexpected { tag: backend::READY_FOR_QUERY };
        let Some(Owed::Expect { reply: Reply::Sync | Reply::Query, deliver, request, .. }) =
            server.outstanding.pop()
        else {
            return Err(unexpected);
        };
        server.status = status;
        if deliver == Deliver::Swallow {
            self.question_ready(request, server);
            server.swallowed(request, now);
            return Ok(false);
        }
        let Some(RequestKind::Unit(mut unit)) = self.take_request(request) else {
            return Err(unexpected);
        };
        if !self.completes(&mut unit, server) {
            return Ok(false);
        }
        if status != Status::Idle && self.common.mode == PoolMode::Statement {
            return Err(ServerFault::TransactionBlock);
        }
        self.work.transaction.status = status;
        let ending = std::mem::take(&mut self.work.ending);
        self.end_of_unit(unit, ending, status, server);
        if twin::is(Twin::NoVersionCheck) {
            self.restamp_fill();
        }
        let fill = self.work.fill.take();
        if let Some(mut fill) = fill.and_then(|fill| self.verified(fill, server, now)) {
            fill.came(now);
            let kept = self.common.cache.store(*fill, server.home.group.as_ref()).is_some();
            let counters = &self.common.cache_counters;
            if kept { counters.fills.one() } else { counters.refused.one() }
        }
        if status == Status::Idle {
            self.transaction_over();
        }
        self.unit_ended(request, now, server.pid);
        Ok(true)
    }

    fn end_of_unit(&mut self, unit: Unit, ending: Ending, status: Status, server: &mut Server) {
        let proven_rollback = status == Status::Idle && unit.extent.proves_rollback(ending);
        let unseen = unit.armed.is_empty() && ending == Ending::Fine;
        self.settle(unit.armed, proven_rollback);
        if status == Status::Idle {
            // A failed COMMIT, group or string.
            if matches!(ending, Ending::Failed | Ending::Doubtful)
                && let Some(settings) = self.work.transaction.begun_with().cloned()
            {
                self.set(settings, server);
                if ending == Ending::Doubtful {
                    self.forget_settings(server);
                }
            }
            // Nothing was armed and yet the transaction is over: if it was not rolled back before
            // our eyes, it may have been committed.
            if unseen && let Some(scope) = self.work.transaction.dirty.scope() {
                server.home.invalidate(&scope);
            }
            let goes_on = self.work.goes_on_writing();
            self.work.transaction.end(false, goes_on, &self.settings);
            self.names.clear_portals();
        }
        if self.work.requests.is_empty() && !self.work.unsynced {
            self.work.transaction.settle_names();
            self.work.discards = false;
        }
        if !server.tainted {
            self.tainted = false;
        }
    }
}
