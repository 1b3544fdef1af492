//! Performs what was typed: looks, or changes the running program.

use std::sync::Arc;
use std::time::Instant;

use crate::admin::command::{Command, Show, Shutdown};
use crate::admin::conversation::{Access, Outcome};
use crate::admin::part::Part;
use crate::admin::snapshot::Socket;
use crate::admin::table::Table;
use crate::admin::{
    cache_show, clients_show, differences_show, fds_show, group_show, routes_show, show,
    statements_show, stats_show, tables_show,
};
use crate::gateway::{Gateway, Stage};
use crate::reload::{self, Read};
use crate::stop;
use crate::wire::sqlstate;

use super::collect::Collector;
use super::flush;
use super::operate::{self, Refused, Waiting};

/// What a command has come to so far.
pub enum Performed {
    Done(Outcome),
    /// It is answered with this tag when that has come about.
    Waits(Waiting, &'static str),
    /// PostgreSQL is to be asked for the plan of this slow statement.
    Plans(Option<u64>),
    /// Redis is to be asked for these rows of what a group has agreed on.
    AsksGroup(Show, Option<Part>),
}

/// `read` reads a file, for RELOAD.
pub fn perform(
    gateway: &Arc<Gateway>,
    command: &Command,
    access: Access,
    now: Instant,
    read: Read<'_>,
) -> Performed {
    match operation(gateway, command, now) {
        None => Performed::Done(perform_at_once(gateway, command, access, now, read)),
        Some(Ok(performed)) => performed,
        Some(Err(message)) => {
            Performed::Done(Outcome::Failed { sqlstate: sqlstate::PROTOCOL_VIOLATION, message })
        }
    }
}

/// `None`: it is no operation.
fn operation(
    gateway: &Gateway,
    command: &Command,
    now: Instant,
) -> Option<Result<Performed, Refused>> {
    Some(match command {
        Command::Pause(name) => waits(operate::pause(gateway, name.as_deref()), "PAUSE"),
        Command::Suspend => waits(operate::suspend(gateway, now), "SUSPEND"),
        Command::Kill(name) => waits(operate::kill(gateway, name.as_deref(), now), "KILL"),
        Command::KillClient(id) => waits(operate::kill_client(gateway, *id, now), "KILL_CLIENT"),
        Command::WaitClose(name) => {
            waits(operate::wait_close(gateway, name.as_deref()), "WAIT_CLOSE")
        }
        Command::Resume(name) => done(operate::resume(gateway, name.as_deref()), "RESUME"),
        Command::Disable(name) => done(operate::disable(gateway, name.as_deref()), "DISABLE"),
        Command::Enable(name) => done(operate::enable(gateway, name.as_deref()), "ENABLE"),
        Command::Reconnect(name) => done(operate::reconnect(gateway, name.as_deref()), "RECONNECT"),
        Command::ExplainSlow(id) => Ok(Performed::Plans(*id)),
        Command::Show(show @ (Show::GroupInFlight | Show::GroupMembers)) => {
            Ok(Performed::AsksGroup(*show, None))
        }
        Command::ShowPart(show @ (Show::GroupInFlight | Show::GroupMembers), part) => {
            Ok(Performed::AsksGroup(*show, Some(*part)))
        }
        Command::Show(_)
        | Command::ShowPart(..)
        | Command::Help
        | Command::Probe(_)
        | Command::SetIgnored
        | Command::Set { .. }
        | Command::Transaction(_)
        | Command::FlushCache
        | Command::FlushDatabase(_)
        | Command::FlushRole(_)
        | Command::FlushTable { .. }
        | Command::Reload
        | Command::Shutdown(_)
        | Command::Empty => return None,
    })
}

fn waits(waiting: Result<Waiting, Refused>, tag: &'static str) -> Result<Performed, Refused> {
    waiting.map(|waiting| Performed::Waits(waiting, tag))
}

fn done(done: Result<(), Refused>, tag: &'static str) -> Result<Performed, Refused> {
    done.map(|()| Performed::Done(Outcome::done(tag)))
}

fn perform_at_once(
    gateway: &Arc<Gateway>,
    command: &Command,
    access: Access,
    now: Instant,
    read: Read<'_>,
) -> Outcome {
    match command {
        Command::Show(what) => Outcome::Rows(table(gateway, *what, access, now)),
        Command::ShowPart(what, part) => Outcome::Rows(part.of(table(gateway, *what, access, now))),
        Command::FlushCache => flush::all(gateway),
        Command::FlushDatabase(name) => flush::database(gateway, name),
        Command::FlushRole(name) => flush::role(gateway, name),
        Command::FlushTable { schema, name } => flush::table(gateway, schema.as_deref(), name),
        Command::Reload => match reload::reload(gateway, read) {
            Ok(notices) => Outcome::Done { tag: "RELOAD".into(), notices },
            Err(mistakes) => {
                // The first line is PgBouncer's.
                let message = format!("RELOAD failed, see logs for additional details\n{mistakes}");
                Outcome::Failed { sqlstate: sqlstate::CONFIG_FILE_ERROR, message }
            }
        },
        Command::Set { key, value } => match reload::set(gateway, key, value, read) {
            Ok(notices) => Outcome::Done { tag: format!("SET {key}={value}"), notices },
            Err(mistakes) => Outcome::Failed {
                sqlstate: sqlstate::PROTOCOL_VIOLATION,
                message: format!("SET failed: {mistakes}"),
            },
        },
        Command::Shutdown(how) => {
            let stage = match how {
                Shutdown::Now => Stage::Now,
                Shutdown::WaitForServers => Stage::WaitForServers,
                Shutdown::WaitForClients => Stage::WaitForClients,
            };
            stop::begin(gateway, stage);
            Outcome::done("SHUTDOWN")
        }
        Command::Help
        | Command::Probe(_)
        | Command::SetIgnored
        | Command::Transaction(_)
        | Command::ExplainSlow(_)
        | Command::Pause(_)
        | Command::Suspend
        | Command::Kill(_)
        | Command::KillClient(_)
        | Command::WaitClose(_)
        | Command::Resume(_)
        | Command::Disable(_)
        | Command::Enable(_)
        | Command::Reconnect(_)
        | Command::Empty => Outcome::done("SHOW"),
    }
}

fn sockets(now: &Collector<'_>) -> Vec<Socket> {
    let mut sockets = now.clients();
    sockets.extend(now.servers());
    sockets
}

/// What SHOW shows.
pub fn table(gateway: &Gateway, what: Show, access: Access, at: Instant) -> Table {
    let now = Collector::new(gateway, at);
    let literals = access == Access::All && gateway.config().insight.literals;
    match what {
        Show::ActiveSockets => {
            let mut sockets = sockets(&now);
            sockets.retain(|socket| socket.state != "idle");
            show::sockets(&sockets)
        }
        Show::Sockets => show::sockets(&sockets(&now)),
        Show::Cache => cache_show::cache(&now.cache()),
        Show::CacheDifferences => {
            differences_show::differences(&now.differences(), access == Access::All)
        }
        Show::CacheReasons => cache_show::reasons(gateway.cache_counters.bypasses()),
        Show::CacheTables => tables_show::cache_tables(now.cache_tables()),
        Show::Group => group_show::group(&now.group()),
        Show::GroupDrops => group_show::group_drops(&now.group_drops()),
        // What is in Redis is asked for by who can wait.
        Show::GroupInFlight | Show::GroupMembers => Table::new(what.columns()),
        Show::ClientStats => clients_show::client_stats(&now.groups()),
        Show::Clients => show::clients(&now.clients()),
        Show::Config => show::config(&gateway.config()),
        Show::Databases => show::databases(&now.databases()),
        Show::Lists => show::lists(now.lists()),
        Show::DnsHosts => Table::new(show::DNS_HOSTS),
        Show::DnsZones => Table::new(show::DNS_ZONES),
        Show::Fds => fds_show::fds(&now.descriptors()),
        Show::Mem => show::mem(&now.memory()),
        Show::PeerPools => show::peer_pools(&now.peer_pools()),
        Show::Peers => show::peers(&now.peers()),
        Show::Abandoned => clients_show::abandoned(&now.pools()),
        Show::Pins => clients_show::pins(&now.pins()),
        Show::Pools => show::pools(&now.pools()),
        Show::Repeats => {
            gateway.shared.take_bursts(at);
            statements_show::repeats(gateway.shared.insight.repeats.rows(), literals)
        }
        Show::Routes => {
            gateway.shared.take_bursts(at);
            routes_show::routes(gateway.shared.insight.routes.rows())
        }
        Show::Servers => show::clients(&now.servers()),
        Show::Slow => clients_show::slow(&gateway.shared.insight.slow.latest(), literals),
        Show::Statements => statements_show::statements(gateway.shared.insight.statements()),
        Show::State => show::state(gateway.pauses().activity()),
        Show::Stats => stats_show::stats(&now.pools()),
        Show::StatsAverages => stats_show::stats_averages(&now.pools()),
        Show::StatsTotals => stats_show::stats_totals(&now.pools()),
        Show::Totals => stats_show::totals(&now.pools()),
        Show::Users => show::users(&now.users()),
        Show::Version => show::version(),
    }
}
