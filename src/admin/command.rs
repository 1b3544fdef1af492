//! The console's language: one command a query, words in any case.

use super::part::Part;
use super::table::{Column, Columns, int4, text};
use super::words::{Word, assignment, words};
use super::{
    cache_show, clients_show, differences_show, fds_show, group_show, plan_show, routes_show, show,
    statements_show, stats_show, tables_show,
};

/// Longest command that is read; the longest sensible one is a tenth of it.
const TEXT_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Show(Show),
    /// In another order, or not all of it.
    ShowPart(Show, Part),
    /// `SHOW HELP`: a notice and no rows.
    Help,
    /// A setting of PostgreSQL that drivers ask for: its name, and what PgBouncer says.
    Probe(Probe),
    /// SET of such a setting, which does nothing.
    SetIgnored,
    /// SET of a setting of ours.
    Set {
        key: String,
        value: String,
    },
    /// BEGIN and its kin, which drivers send around everything. They do nothing.
    Transaction(Transaction),
    FlushCache,
    /// Of one database, by the name that PostgreSQL knows it by.
    FlushDatabase(String),
    /// Of whoever logs in as this role, or has taken it.
    FlushRole(String),
    /// Of a table, and so of its tree, wherever there is one of that name.
    FlushTable {
        schema: Option<String>,
        name: String,
    },
    Reload,
    Shutdown(Shutdown),
    /// Of this database; without a name, of all. The same below.
    Pause(Option<String>),
    Resume(Option<String>),
    Suspend,
    /// Needs a name.
    Disable(Option<String>),
    /// Needs a name.
    Enable(Option<String>),
    Reconnect(Option<String>),
    Kill(Option<String>),
    /// `None`: what was given is no id.
    KillClient(Option<u64>),
    /// The plan of a slow statement. `None`: what was given is no id.
    ExplainSlow(Option<u64>),
    WaitClose(Option<String>),
    /// Nothing but blanks and comments.
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Abandoned,
    ActiveSockets,
    Cache,
    CacheDifferences,
    CacheReasons,
    CacheTables,
    Group,
    GroupDrops,
    GroupInFlight,
    GroupMembers,
    ClientStats,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pins,
    Pools,
    Repeats,
    Routes,
    Servers,
    Slow,
    Sockets,
    State,
    Statements,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    Now,
    WaitForServers,
    WaitForClients,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    Begin,
    Commit,
    Rollback,
}

/// A question with one fixed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub columns: Columns,
    pub answer: &'static str,
    pub tag: &'static str,
}

const fn probe(columns: Columns, answer: &'static str) -> Probe {
    Probe { columns, answer, tag: "SHOW" }
}

/// As PgBouncer answers, and beside them what drivers and dashboards send to be sure that
/// somebody is there.
static PROBES: &[(&str, Probe)] = &[
    ("client_encoding", probe(&[text("client_encoding")], "UTF-8")),
    (
        "default_transaction_isolation",
        probe(&[text("default_transaction_isolation")], "read committed"),
    ),
    ("transaction_isolation", probe(&[text("transaction_isolation")], "read committed")),
    ("standard_conforming_strings", probe(&[text("standard_conforming_strings")], "on")),
    ("datestyle", probe(&[text("DateStyle")], "ISO")),
    ("timezone", probe(&[text("TimeZone")], "GMT")),
    ("extra_float_digits", probe(&[text("extra_float_digits")], "2")),
];

static ONE: Probe = Probe { columns: &[int4("?column?")], answer: "1", tag: "SELECT 1" };

/// Settings of PostgreSQL that drivers set before anything else.
const SET_IGNORED: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "intervalstyle",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "time",
    "transaction",
];

static SHOWS: &[(&str, Show, Columns)] = &[
    ("abandoned", Show::Abandoned, clients_show::ABANDONED),
    ("active_sockets", Show::ActiveSockets, show::SOCKETS),
    ("cache", Show::Cache, cache_show::CACHE),
    ("cache_differences", Show::CacheDifferences, differences_show::CACHE_DIFFERENCES),
    ("cache_reasons", Show::CacheReasons, cache_show::CACHE_REASONS),
    ("cache_tables", Show::CacheTables, tables_show::CACHE_TABLES),
    ("client_stats", Show::ClientStats, clients_show::CLIENT_STATS),
    ("clients", Show::Clients, show::CLIENTS),
    ("config", Show::Config, show::CONFIG),
    ("databases", Show::Databases, show::DATABASES),
    ("dns_hosts", Show::DnsHosts, show::DNS_HOSTS),
    ("dns_zones", Show::DnsZones, show::DNS_ZONES),
    ("fds", Show::Fds, fds_show::FDS),
    ("group", Show::Group, group_show::GROUP),
    ("group_drops", Show::GroupDrops, group_show::GROUP_DROPS),
    ("group_in_flight", Show::GroupInFlight, group_show::GROUP_IN_FLIGHT),
    ("group_members", Show::GroupMembers, group_show::GROUP_MEMBERS),
    ("lists", Show::Lists, show::LISTS),
    ("mem", Show::Mem, show::MEM),
    ("peer_pools", Show::PeerPools, show::PEER_POOLS),
    ("peers", Show::Peers, show::PEERS),
    ("pins", Show::Pins, clients_show::PINS),
    ("pools", Show::Pools, show::POOLS),
    ("repeats", Show::Repeats, statements_show::REPEATS),
    ("routes", Show::Routes, routes_show::ROUTES),
    ("servers", Show::Servers, show::CLIENTS),
    ("slow", Show::Slow, clients_show::SLOW),
    ("sockets", Show::Sockets, show::SOCKETS),
    ("state", Show::State, show::STATE),
    ("statements", Show::Statements, statements_show::STATEMENTS),
    ("stats", Show::Stats, stats_show::STATS),
    ("stats_averages", Show::StatsAverages, stats_show::STATS_AVERAGES),
    ("stats_totals", Show::StatsTotals, stats_show::STATS_TOTALS),
    ("totals", Show::Totals, stats_show::TOTALS),
    ("users", Show::Users, show::USERS),
    ("version", Show::Version, show::VERSION),
];

pub const HELP: &str = "Console usage
	SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
	SHOW PEERS|PEER_POOLS
	SHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
	SHOW DNS_HOSTS|DNS_ZONES
	SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
	SHOW CACHE|CACHE_TABLES|CACHE_REASONS|CACHE_DIFFERENCES
	SHOW GROUP|GROUP_MEMBERS|GROUP_IN_FLIGHT|GROUP_DROPS
	SHOW CLIENT_STATS|STATEMENTS|ROUTES|REPEATS|SLOW|PINS|ABANDONED
	SHOW <any of these> [ORDER BY <column> [ASC|DESC]] [LIMIT <n>]
	EXPLAIN SLOW <id>
	FLUSH CACHE [DATABASE <name>|ROLE <name>|TABLE <name>]
	RELOAD
	SET key = value
	PAUSE [<db>]
	RESUME [<db>]
	DISABLE <db>
	ENABLE <db>
	RECONNECT [<db>]
	KILL [<db>]
	KILL_CLIENT <client_id>
	SUSPEND
	WAIT_CLOSE [<db>]
	SHUTDOWN
	SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS";

/// A text that is no command; the sentence is PgBouncer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl Show {
    pub fn columns(self) -> Columns {
        let found = SHOWS.iter().find(|(_, show, _)| *show == self);
        found.map_or(&[] as &[Column], |(_, _, columns)| columns)
    }
}

impl Command {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            let shown: String = text.trim().chars().take(200).collect();
            Invalid(format!("invalid command '{shown}', use SHOW HELP;"))
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(invalid());
        }
        if let Some((key, value)) = assignment(text)
            && !SET_IGNORED.contains(&key.as_str())
        {
            return Ok(Self::Set { key, value });
        }
        let written = words(text).ok_or_else(invalid)?;
        let lower: Vec<String> = written.iter().map(|word| word.text.to_lowercase()).collect();
        let words: Vec<&str> = lower.iter().map(String::as_str).collect();
        if let Some(operation) = Self::operation(&words, written.get(1).map(|word| &word.text)) {
            return Ok(operation);
        }
        if let ["flush", "cache", what @ ("database" | "role" | "table"), ..] = words.as_slice() {
            let names: Vec<String> = written.into_iter().skip(3).map(Word::into_name).collect();
            return Self::flush(what, &names).ok_or_else(invalid);
        }
        let (words, asked) = Part::split(&words);
        match (Self::from_words(words).ok_or_else(invalid)?, asked) {
            (command, None) => Ok(command),
            (Self::Show(show), Some(asked)) => {
                let part = asked.of(show.columns()).ok_or_else(invalid)?;
                Ok(Self::ShowPart(show, part))
            }
            (_, Some(_)) => Err(invalid()),
        }
    }

    /// What has at most one argument: the name of a database, which keeps its case.
    fn operation(words: &[&str], name: Option<&String>) -> Option<Self> {
        let ([word] | [word, _]) = words else { return None };
        let name = name.cloned();
        Some(match *word {
            "pause" => Self::Pause(name),
            "resume" => Self::Resume(name),
            "suspend" if name.is_none() => Self::Suspend,
            "disable" => Self::Disable(name),
            "enable" => Self::Enable(name),
            "reconnect" => Self::Reconnect(name),
            "kill" => Self::Kill(name),
            "kill_client" => Self::KillClient(name.and_then(|id| id.parse().ok())),
            "wait_close" => Self::WaitClose(name),
            _ => return None,
        })
    }

    /// A table is `t`, `s.t`, or either with quotes.
    fn flush(what: &str, names: &[String]) -> Option<Self> {
        let table = what == "table";
        let (schema, name) = match names {
            [schema, point, name] if table && point == "." => {
                (Some(schema.as_str()), name.as_str())
            }
            [name] if table => {
                name.split_once('.').map_or((None, name.as_str()), |(s, name)| (Some(s), name))
            }
            [name] if what == "role" => return Some(Self::FlushRole(name.clone())),
            [name] => return Some(Self::FlushDatabase(name.clone())),
            _ => return None,
        };
        Some(Self::FlushTable { schema: schema.map(str::to_owned), name: name.to_owned() })
    }

    fn from_words(words: &[&str]) -> Option<Self> {
        Some(match words {
            [] => Self::Empty,
            ["show" | "select", "help"] | ["show"] => Self::Help,
            ["show", "time", "zone"] => Self::show("timezone")?,
            ["show", "transaction", "isolation", "level"] => Self::show("transaction_isolation")?,
            ["select", "1"] => Self::Probe(ONE),
            ["show" | "select", what] | ["select", "*", "from", what] => Self::show(what)?,
            ["set", name, _, ..] if SET_IGNORED.contains(name) => Self::SetIgnored,
            ["begin", ..] | ["start", "transaction", ..] => Self::Transaction(Transaction::Begin),
            ["commit" | "end"] => Self::Transaction(Transaction::Commit),
            ["rollback" | "abort"] => Self::Transaction(Transaction::Rollback),
            ["explain", "slow", id] => Self::ExplainSlow(id.parse().ok()),
            ["flush", "cache"] => Self::FlushCache,
            ["reload"] => Self::Reload,
            ["shutdown"] => Self::Shutdown(Shutdown::Now),
            ["shutdown", "wait_for_servers"] => Self::Shutdown(Shutdown::WaitForServers),
            ["shutdown", "wait_for_clients"] => Self::Shutdown(Shutdown::WaitForClients),
            _ => return None,
        })
    }

    fn show(what: &str) -> Option<Self> {
        let show = SHOWS.iter().find(|(name, ..)| *name == what);
        let probe = PROBES.iter().find(|(name, _)| *name == what);
        show.map(|(_, show, _)| Self::Show(*show))
            .or_else(|| probe.map(|(_, probe)| Self::Probe(*probe)))
    }

    /// Who may only look may do this too. `SHOW FDS` shows the keys to cancel with.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Show(show) | Self::ShowPart(show, _) => *show != Show::Fds,
            Self::Help | Self::Probe(_) | Self::SetIgnored | Self::Transaction(_) | Self::Empty => {
                true
            }
            Self::Set { .. }
            | Self::ExplainSlow(_)
            | Self::FlushCache
            | Self::FlushDatabase(_)
            | Self::FlushRole(_)
            | Self::FlushTable { .. }
            | Self::Reload
            | Self::Shutdown(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Suspend
            | Self::Disable(_)
            | Self::Enable(_)
            | Self::Reconnect(_)
            | Self::Kill(_)
            | Self::KillClient(_)
            | Self::WaitClose(_) => false,
        }
    }

    /// What its rows will look like; `None`: it gives none.
    pub fn columns(&self) -> Option<Columns> {
        match self {
            Self::Show(show) | Self::ShowPart(show, _) => Some(show.columns()),
            Self::Probe(probe) => Some(probe.columns),
            Self::ExplainSlow(_) => Some(plan_show::PLAN),
            Self::Help
            | Self::SetIgnored
            | Self::Set { .. }
            | Self::Transaction(_)
            | Self::FlushCache
            | Self::FlushDatabase(_)
            | Self::FlushRole(_)
            | Self::FlushTable { .. }
            | Self::Reload
            | Self::Shutdown(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Suspend
            | Self::Disable(_)
            | Self::Enable(_)
            | Self::Reconnect(_)
            | Self::Kill(_)
            | Self::KillClient(_)
            | Self::WaitClose(_)
            | Self::Empty => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Command) {
        assert_eq!(Command::parse(text).as_ref(), Ok(expected), "{text}");
    }

    #[test]
    fn commands_are_read_in_any_case_and_with_comments() {
        check("SHOW POOLS;", &Command::Show(Show::Pools));
        check("  show\n pools ; ", &Command::Show(Show::Pools));
        check("/* x */ SHOW -- y\n stats_totals", &Command::Show(Show::StatsTotals));
        check("select version", &Command::Show(Show::Version));
        check("SELECT * FROM \"clients\"", &Command::Show(Show::Clients));
        let part = Part::split(&["order", "by", "calls", "limit", "2"]).1.unwrap();
        let part = part.of(Show::Statements.columns()).unwrap();
        let top = Command::ShowPart(Show::Statements, part);
        check("SHOW STATEMENTS ORDER BY Calls LIMIT 2;", &top);
        check("select 1", &Command::Probe(ONE));
        check("Explain slow 7;", &Command::ExplainSlow(Some(7)));
        check("EXPLAIN SLOW x", &Command::ExplainSlow(None));
        check("SHOW HELP", &Command::Help);
        check("show", &Command::Help);
        check("FLUSH CACHE", &Command::FlushCache);
        check("flush cache database Shop", &Command::FlushDatabase("shop".into()));
        check("FLUSH CACHE ROLE \"Ann\"", &Command::FlushRole("Ann".into()));
        let table = |schema: Option<&str>, name: &str| Command::FlushTable {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        };
        check("FLUSH CACHE TABLE T", &table(None, "t"));
        check("FLUSH CACHE TABLE s.t;", &table(Some("s"), "t"));
        check("FLUSH CACHE TABLE \"S\".\"T\"", &table(Some("S"), "T"));
        check("RELOAD", &Command::Reload);
        check("SHUTDOWN", &Command::Shutdown(Shutdown::Now));
        check("shutdown wait_for_servers;", &Command::Shutdown(Shutdown::WaitForServers));
        check("SHUTDOWN WAIT_FOR_CLIENTS", &Command::Shutdown(Shutdown::WaitForClients));
        check("kill_client 12", &Command::KillClient(Some(12)));
        check(" ; ", &Command::Empty);
        check("", &Command::Empty);
    }

    #[test]
    fn operations_take_the_name_of_a_database_as_written() {
        let name = || Some("App".to_owned());
        check("PAUSE", &Command::Pause(None));
        check("pause App;", &Command::Pause(name()));
        check("Pause \"App\"", &Command::Pause(name()));
        check("RESUME App", &Command::Resume(name()));
        check("suspend", &Command::Suspend);
        check("DISABLE App", &Command::Disable(name()));
        check("ENABLE", &Command::Enable(None));
        check("RECONNECT", &Command::Reconnect(None));
        check("KILL App", &Command::Kill(name()));
        check("WAIT_CLOSE", &Command::WaitClose(None));
        check("KILL_CLIENT x", &Command::KillClient(None));
        for text in ["suspend App", "pause a b", "pauseApp"] {
            assert!(Command::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn drivers_probes_are_answered() {
        check("SET client_encoding = 'UTF8'", &Command::SetIgnored);
        check("set datestyle to iso", &Command::SetIgnored);
        check("SET extra_float_digits=3", &Command::SetIgnored);
        check("SET TIME ZONE 'UTC'", &Command::SetIgnored);
        for text in [
            "set Pool_Size = A'b",
            "SET pool_size='A''b';",
            "set pool_size TO A'b",
            "set pool_size=A'b",
        ] {
            let set = Command::Set { key: "pool_size".into(), value: "A'b".into() };
            check(&text.replace("Pool_Size", "POOL_SIZE"), &set);
        }
        check("set x =", &Command::Set { key: "x".into(), value: String::new() });
        check("BEGIN READ ONLY", &Command::Transaction(Transaction::Begin));
        check("COMMIT", &Command::Transaction(Transaction::Commit));
        let Ok(Command::Probe(probe)) = Command::parse("SHOW client_encoding") else { panic!() };
        assert_eq!((probe.columns[0].name, probe.answer), ("client_encoding", "UTF-8"));
    }

    #[test]
    fn anything_else_is_refused_in_pgbouncers_words() {
        for text in
            ["foo bar", "show pools; show pools", "show foo", "show pools x", "kill_client x y"]
        {
            let expected = format!("invalid command '{text}', use SHOW HELP;");
            assert_eq!(Command::parse(text), Err(Invalid(expected)));
        }
        for text in ["show 'pools", "/* show pools", "set x", "\"", "show =", "é'", "set x y"] {
            assert!(Command::parse(text).is_err(), "{text}");
        }
        assert!(Command::parse(&"x".repeat(TEXT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn every_show_is_in_the_table_and_in_the_help() {
        for (name, show, columns) in SHOWS {
            check(&format!("SHOW {name}"), &Command::Show(*show));
            assert_eq!(show.columns(), *columns);
            assert!(HELP.contains(&name.to_uppercase()), "{name}");
        }
    }

    #[test]
    fn who_may_only_look_changes_nothing() {
        let may = |text| Command::parse(text).unwrap().only_looks();
        assert!(may("show stats") && may("select 1") && may("set datestyle to iso"));
        for text in
            ["reload", "shutdown", "flush cache", "kill_client 1", "set x = 1", "explain slow 1"]
        {
            assert!(!may(text), "{text}");
        }
    }
}
