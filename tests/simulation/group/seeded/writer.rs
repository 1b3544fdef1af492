//! A client that writes: what it commits is judged, put in flight, sent once there is leave, and
//! settled when the outcome is known, or when its backend is gone.

use std::sync::Arc;
use std::time::Instant;

use forebay::cache::coherence::{InFlight, Scope};
use forebay::server::Server;
use forebay::server::outstanding::Owed;
use forebay::service::lost::Lost;
use forebay::sql::verdict::Beyond;

use super::instance::{Client, Instance, Woken};
use super::postgres::{Outcome, PLACE, TABLES, Work, Write};
use super::world::{Outside, Twin};

pub(super) struct Writing {
    write: Write,
    slot: usize,
    stage: Stage,
}

enum Stage {
    /// All locks of the session are being let go of.
    Discard,
    Judge,
    Arm {
        scope: Scope,
        /// Of the catalogue by which it was judged.
        under: u64,
    },
    Held {
        armed: Armed,
        woken: Arc<Woken>,
        alarm: Option<Instant>,
    },
    Granted(Armed),
    Sent(Armed),
}

/// As `client::session` has it.
struct Armed {
    guards: Vec<InFlight>,
    catalog: bool,
    generation: u64,
}

impl Writing {
    /// `discards`: it lets go of all locks first.
    pub(super) fn new(write: Write, slot: usize, discards: bool) -> Self {
        let stage = if discards { Stage::Discard } else { Stage::Judge };
        Self { write, slot, stage }
    }

    pub(super) fn step(
        mut self: Box<Self>,
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Client {
        let pid = instance.pid(self.slot);
        if !outside.postgres.is_alive(pid) && outside.below(2) == 0 {
            return self.lose(instance, outside);
        }
        match std::mem::replace(&mut self.stage, Stage::Judge) {
            Stage::Discard => {
                if outside.postgres.hear(pid) == Some(Outcome::Discarded) {
                    if let Some(server) = instance.server(self.slot) {
                        server.take_lock_again();
                    }
                    outside.postgres.send(pid, Work::TakeLock);
                } else {
                    self.stage = Stage::Discard;
                }
            }
            Stage::Judge => {
                let under = instance.home.catalog_changes();
                let scope = judge(self.write, instance);
                self.stage = Stage::Arm { scope, under };
            }
            Stage::Arm { scope, under } => {
                let armed = self.arm(&scope, under, instance);
                outside.say(instance.id, || format!("has {:?} in flight", self.write));
                let (woken, alarm) = (Arc::new(Woken::default()), None);
                self.stage = match self.wait(&woken, instance, outside) {
                    Ok(()) => Stage::Granted(armed),
                    Err(alarm_at) => Stage::Held { armed, woken, alarm: alarm.or(alarm_at) },
                };
            }
            Stage::Held { armed, woken, alarm } => {
                self.hear_lock(instance, outside);
                let now = instance.clock(outside);
                let is_asked = woken.is() || alarm.is_some_and(|alarm| now >= alarm);
                self.stage = if is_asked {
                    match self.wait(&woken, instance, outside) {
                        Ok(()) => Stage::Granted(armed),
                        Err(alarm) => Stage::Held { armed, woken, alarm },
                    }
                } else {
                    Stage::Held { armed, woken, alarm }
                };
            }
            Stage::Granted(armed) => {
                outside.say(instance.id, || format!("sends {:?} to {pid}", self.write));
                outside.commit(pid, self.write);
                self.stage = Stage::Sent(armed);
            }
            Stage::Sent(armed) => return self.hear(pid, armed, instance, outside),
        }
        Client::Writing(self)
    }

    /// As `Session::arm`.
    fn arm(&self, scope: &Scope, under: u64, instance: &mut Instance) -> Armed {
        let generation = instance.home.catalog_changes();
        let scope = if under == generation { scope } else { &Scope::Database };
        let catalog = self.write.is_ddl();
        let server = instance.server(self.slot);
        let guards = server.map(|server| server.begin_write(scope, catalog)).into_iter().collect();
        Armed { guards, catalog, generation }
    }

    /// As `Connection::may_go`.
    fn wait(
        &self,
        woken: &Arc<Woken>,
        instance: &mut Instance,
        outside: &Outside,
    ) -> Result<(), Option<Instant>> {
        let now = instance.clock(outside);
        let Some(server) = instance.server(self.slot) else { return Ok(()) };
        while let Some(hold) = server.holds.front() {
            if outside.plan.twin != Twin::Unannounced {
                woken.poll(|cx| hold.commit.poll_leave(cx, now))?;
            }
            server.holds.pop_front();
        }
        Ok(())
    }

    fn hear_lock(&self, instance: &mut Instance, outside: &mut Outside) {
        let (now, id) = (instance.clock(outside), instance.id);
        let Some(server) = instance.server(self.slot) else { return };
        if outside.postgres.hear(server.pid) == Some(Outcome::Locked)
            && let Some(Owed::Expect { request, .. }) = server.outstanding.pop()
        {
            server.swallowed(request, now);
            outside.say(id, || format!("backend {} has the lock again", server.pid));
        }
    }

    fn hear(
        mut self: Box<Self>,
        pid: u32,
        armed: Armed,
        instance: &mut Instance,
        outside: &mut Outside,
    ) -> Client {
        match outside.postgres.hear(pid) {
            Some(Outcome::Committed(moment)) => {
                outside.say(instance.id, || format!("{:?} is committed: {moment}", self.write));
                settle(armed, false, instance);
                outside.told = outside.told.max(moment);
                outside.seen.commits += 1;
            }
            Some(Outcome::RolledBack) => {
                outside.say(instance.id, || format!("{:?} is rolled back", self.write));
                settle(armed, true, instance);
            }
            Some(Outcome::Rows(_) | Outcome::Discarded | Outcome::Locked) | None => {
                self.stage = Stage::Sent(armed);
                return Client::Writing(self);
            }
        }
        instance.slots[self.slot].is_taken = false;
        Client::Idle
    }

    /// Its server is gone. What was put in flight stays there until its backend is gone.
    fn lose(self, instance: &mut Instance, outside: &mut Outside) -> Client {
        let now = instance.clock(outside);
        let slot = &mut instance.slots[self.slot];
        slot.is_taken = false;
        let server = slot.server.take();
        let (Stage::Held { armed, .. } | Stage::Granted(armed) | Stage::Sent(armed)) = self.stage
        else {
            return Client::Idle;
        };
        let pid = server.as_ref().map_or(0, |server: &Server| server.pid);
        outside.say(instance.id, || format!("loses backend {pid} with {:?}", self.write));
        let Armed { guards, catalog, generation } = armed;
        let (home, generation) = (Some(Arc::clone(&instance.home)), Some(generation));
        let (place, beyond) = (PLACE, Beyond::Nothing);
        let lost = Lost { pid, place, home, guards, catalog, beyond, generation };
        if outside.plan.twin == Twin::LossSettledAtOnce {
            instance.settle_lost(lost);
        } else {
            instance.missing.add(lost, now);
        }
        Client::Idle
    }
}

/// What it may write by what is known of the catalogue.
fn judge(write: Write, instance: &Instance) -> Scope {
    let Write::Rows(tables) = write else { return Scope::Database };
    let Some(catalog) = instance.known() else { return Scope::Database };
    let writes = [tables[0], tables[1] || (tables[0] && catalog.triggers)];
    Scope::Tables(TABLES.into_iter().zip(writes).filter(|of| of.1).map(|of| of.0).collect())
}

/// As `Session::settle`.
fn settle(armed: Armed, proven_rollback: bool, instance: &Instance) {
    let home = &instance.home;
    if armed.generation != home.catalog_changes() && !proven_rollback {
        home.invalidate(&Scope::Database);
    }
    if armed.catalog && !proven_rollback {
        home.catalog_changed();
    }
    for guard in armed.guards {
        if proven_rollback { guard.rolled_back() } else { guard.committed() }
    }
}
