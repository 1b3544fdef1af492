//! Performs what was typed: looks, or changes the running program.

use std::sync::Arc;
use std::time::Instant;

use crate::admin::command::{Command, Show, Shutdown};
use crate::admin::conversation::Outcome;
use crate::admin::table::Table;
use crate::admin::{cache_show, clients_show, show, stats_show};
use crate::cache::coherence::Scope;
use crate::client::registry::Leave;
use crate::gateway::{Gateway, Stage};
use crate::reload::{self, Read};
use crate::stop;
use crate::wire::sqlstate;

use super::collect::Collector;
use super::flush;

/// `read` reads a file, for RELOAD.
pub fn perform(gateway: &Arc<Gateway>, command: &Command, now: Instant, read: Read<'_>) -> Outcome {
    match command {
        Command::Show(what) => Outcome::Rows(table(gateway, *what, now)),
        Command::FlushCache => {
            flush(gateway);
            Outcome::done("FLUSH")
        }
        Command::FlushDatabase(name) => flush::database(gateway, name),
        Command::FlushTable { schema, name } => flush::table(gateway, schema.as_deref(), name),
        Command::KillClient(id) => kill(gateway, *id),
        Command::Reload => match reload::reload(gateway, read) {
            Ok(notices) => Outcome::Done { tag: "RELOAD", notices },
            Err(mistakes) => {
                let message = format!("RELOAD failed: {mistakes}");
                Outcome::Failed { sqlstate: sqlstate::CONFIG_FILE_ERROR, message }
            }
        },
        Command::Set { key, value } => match reload::set(gateway, key, value, read) {
            Ok(notices) => Outcome::Done { tag: "SET", notices },
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
        | Command::Empty => Outcome::done("SHOW"),
    }
}

fn table(gateway: &Gateway, what: Show, now: Instant) -> Table {
    let now = Collector::new(gateway, now);
    match what {
        Show::ActiveSockets | Show::Sockets => {
            let mut sockets = now.clients();
            sockets.extend(now.servers());
            show::sockets(&sockets)
        }
        Show::Cache => cache_show::cache(&now.cache()),
        Show::CacheReasons => cache_show::reasons(gateway.cache_counters.bypasses()),
        Show::ClientStats => clients_show::client_stats(&now.groups()),
        Show::Clients => show::clients(&now.clients()),
        Show::Config => show::config(&gateway.config()),
        Show::Databases => show::databases(&now.databases()),
        Show::Lists => show::lists(now.lists()),
        // Its rows are PgBouncer's own allocators, of which there are none here.
        Show::Mem => Table::new(show::MEM),
        Show::Pins => clients_show::pins(&now.pins()),
        Show::Pools => show::pools(&now.pools()),
        Show::Servers => show::clients(&now.servers()),
        Show::Slow => clients_show::slow(&gateway.shared.insight.slow()),
        Show::State => show::state(),
        Show::Stats => stats_show::stats(&now.pools()),
        Show::StatsAverages => stats_show::stats_averages(&now.pools()),
        Show::StatsTotals => stats_show::stats_totals(&now.pools()),
        Show::Totals => stats_show::totals(&now.pools()),
        Show::Users => show::users(&now.users()),
        Show::Version => show::version(),
    }
}

/// First the versions move, so that no fill under way is admitted after the memory is empty.
fn flush(gateway: &Gateway) {
    for (database, _) in gateway.databases() {
        database.home().coherence.invalidate(&Scope::Database);
    }
    gateway.cache.clear();
    tracing::info!("cache flushed");
}

fn kill(gateway: &Gateway, id: u64) -> Outcome {
    let clients = gateway.shared.registry.clients();
    match clients.iter().find(|entry| entry.id == id) {
        Some(entry) => {
            entry.ask_to_leave(Leave::Killed);
            Outcome::done("KILL_CLIENT")
        }
        None => Outcome::Failed {
            sqlstate: sqlstate::PROTOCOL_VIOLATION,
            message: format!("client not found: {id}"),
        },
    }
}
