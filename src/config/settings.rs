//! Every setting that has an effect, declared once: the struct field, its doc, default, range and
//! whether a reload applies it. `SHOW CONFIG`, the reference file and the readers come from here.

use std::path::PathBuf;
use std::time::Duration;

use super::value::{Range, Raw, Style, Value};
use super::{
    Analysis, AuthType, CacheMode, Config, FileMode, GroupMode, ListenAddress, LogFormat, LogLevel,
    OpaqueWrites, PinPolicy, PoolMode, SecretText, Size, SslMode,
};

/// Whose setting it is, which decides its name and spelling on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Means what it means in PgBouncer: read from `pgbouncer.ini`, shown without section.
    PgBouncer,
    /// Forebay's own: TOML only, shown with its section.
    Forebay,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// By RELOAD, or by SET on the console.
    OnReload,
    /// By RELOAD alone: other settings follow from it, together with what the files say.
    OnReloadAlone,
    AtStart,
}

/// One setting, as the table of all of them knows it.
pub struct Setting {
    pub section: &'static str,
    pub key: &'static str,
    /// `section.key`.
    pub name: &'static str,
    /// Lines as written in the declaration.
    pub doc: &'static [&'static str],
    pub origin: Origin,
    pub range: Range,
    pub applies: Applies,
    pub secret: bool,
    pub(super) read: fn(&mut Config, &Raw, Range) -> Result<(), String>,
    pub(super) show: fn(&Config, Style) -> String,
    pub(super) same: fn(&Config, &Config) -> bool,
    pub(super) copy: fn(&mut Config, &Config),
    pub(super) range_words: fn(Range) -> Option<String>,
}

impl Setting {
    /// The name in `SHOW CONFIG`.
    pub fn shown_name(&self) -> &'static str {
        match self.origin {
            Origin::PgBouncer => self.key,
            Origin::Forebay => self.name,
        }
    }

    pub(super) fn shown_value(&self, config: &Config) -> String {
        let style = match self.origin {
            Origin::PgBouncer => Style::PgBouncer,
            Origin::Forebay => Style::Own,
        };
        (self.show)(config, style)
    }
}

/// The setting `section.key` of a TOML file.
pub(super) fn by_name(section: &str, key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.section == section && setting.key == key)
}

/// The setting `key` of `pgbouncer.ini`.
pub(super) fn by_pgbouncer_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.origin == Origin::PgBouncer && setting.key == key)
}

macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        [$section:ident] $Section:ident { $(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $default:expr, $origin:ident, $range:expr, $applies:ident;
        )+ }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section { $( $(#[doc = $doc])+ pub $field: $type, )+ }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $field: $default, )+ }
                }
            }
        )+

        /// Every section with its doc lines, in the order of the reference file.
        pub static SECTIONS: &[(&str, &[&str])] =
            &[ $( (stringify!($section), &[$($section_doc),+]) ),+ ];

        /// Every setting, in the order of the reference file.
        pub static SETTINGS: &[Setting] = &[ $( $( Setting {
            section: stringify!($section),
            key: stringify!($field),
            name: concat!(stringify!($section), ".", stringify!($field)),
            doc: &[$($doc),+],
            origin: Origin::$origin,
            range: $range,
            applies: Applies::$applies,
            secret: <$type as Value>::SECRET,
            read: |config, raw, range| {
                config.$section.$field = <$type>::read(raw, range)?;
                Ok(())
            },
            show: |config, style| config.$section.$field.show(style),
            same: |one, other| one.$section.$field == other.$section.$field,
            copy: |to, from| to.$section.$field.clone_from(&from.$section.$field),
            range_words: <$type>::range_words,
        }, )+ )+ ];
    };
}

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
/// A time-out that may be switched off.
pub(super) const TIMEOUT: Range = Range::OffOrBetween(1, 365 * DAY);
pub(super) const COUNT: Range = Range::Between(0, 1_000_000);
const KILOBYTE: u64 = 1 << 10;
const TERABYTE: u64 = 1 << 40;

settings! {
    /// Where applications connect, and how many may.
    [listen] Listen {
        /// Addresses or names; "*" is every address.
        listen_addr: Vec<String> = vec!["127.0.0.1".to_owned()], PgBouncer, Range::Any, AtStart;
        /// Port on every one of these addresses. 0 lets the system choose.
        listen_port: u16 = 6432, PgBouncer, Range::Between(0, 65_535), AtStart;
        /// Directory of the Unix socket for clients and console, `.s.PGSQL.<listen_port>` in it;
        /// empty for none. `@name` is a socket without a file.
        unix_socket_dir: Option<PathBuf> = None, PgBouncer, Range::Any, AtStart;
        /// Who may connect to it, in octal.
        unix_socket_mode: FileMode = FileMode(0o777), PgBouncer, Range::Any, AtStart;
        /// Clients connected at once; the next one is refused.
        max_client_conn: u32 = 1000, PgBouncer, Range::Between(1, 1_000_000), OnReload;
        /// A client that has not logged in by then is disconnected. 0 waits for ever.
        client_login_timeout: Duration = Duration::from_mins(1), PgBouncer, TIMEOUT, OnReload;
        /// Startup parameters that are accepted and forgotten.
        ignore_startup_parameters: Vec<String> = Vec::new(), PgBouncer, Range::Any, OnReload;
        /// Startup parameters that PgBouncer is to keep for each client beside those it keeps
        /// anyway. Forebay keeps all; those listed here count although they are ignored above.
        track_extra_parameters: Vec<String> = vec!["IntervalStyle".to_owned()], PgBouncer,
            Range::Any, OnReload;
        /// Bytes of the longest message a client or server may send.
        max_packet_size: u32 = 2_147_483_647, PgBouncer,
            Range::Between(KILOBYTE, 2_147_483_647), OnReload;
        /// Clients of one database connected at once; 0 is no limit. Admins on the console are
        /// let in all the same.
        max_db_client_connections: u32 = 0, PgBouncer, COUNT, OnReload;
        /// Clients of one user connected at once; 0 is no limit. Here, too, but for admins.
        max_user_client_connections: u32 = 0, PgBouncer, COUNT, OnReload;
        /// A client that has no server and asks for nothing this long is disconnected. 0 never.
        client_idle_timeout: Duration = Duration::ZERO, PgBouncer, TIMEOUT, OnReload;
        /// Threads that do the work. 0 is one a core.
        workers: u32 = 0, Forebay, Range::Between(0, 1024), AtStart;
        /// Group of that Unix socket, by name or number; empty for Forebay's own.
        unix_socket_group: String = String::new(), PgBouncer, Range::Any, AtStart;
        /// Connections that wait to be accepted.
        listen_backlog: u32 = 128, PgBouncer, Range::Between(1, 65_535), AtStart;
        /// Several Forebays listen on one address and port, and the system shares connections out:
        /// more processes, or one after another without a gap.
        so_reuseport: bool = false, PgBouncer, Range::Any, AtStart;
        /// Which of them this is, so that cancel requests find it: its key in [peers] of the
        /// others. 0 if it has no peers.
        peer_id: u16 = 0, PgBouncer, Range::Between(0, 16_383), OnReload;
        /// Ask peers that say nothing whether they are still there. The times and the count are
        /// the system's unless given here.
        tcp_keepalive: bool = true, PgBouncer, Range::Any, OnReload;
        /// Unanswered questions until the connection is given up.
        tcp_keepcnt: u32 = 0, PgBouncer, Range::Between(0, 127), OnReload;
        /// Seconds of silence until the first question.
        tcp_keepidle: u32 = 0, PgBouncer, Range::Between(0, 32_767), OnReload;
        /// Seconds between two questions.
        tcp_keepintvl: u32 = 0, PgBouncer, Range::Between(0, 32_767), OnReload;
        /// Milliseconds that sent data may go unacknowledged. 0 is the system's.
        tcp_user_timeout: u32 = 0, PgBouncer, Range::Between(0, 86_400_000), OnReload;
        /// Bytes of the system's buffers of each socket. 0 is the system's.
        tcp_socket_buffer: u32 = 0, PgBouncer, Range::Between(0, 1 << 30), OnReload;
        /// Add the client's address to its `application_name`, for `pg_stat_activity`.
        application_name_add_host: bool = false, PgBouncer, Range::Any, OnReload;
        /// A notice for each client that logs in; empty for none.
        login_notify_message: String = String::new(), PgBouncer, Range::Any, OnReload;
    }

    /// The console, for SHOW, PAUSE, RELOAD and the rest.
    [admin] Admin {
        /// A port of its own for the console; empty for none. The databases "pgbouncer" and
        /// "forebay" on the main port are the console too.
        address: Option<ListenAddress> = Some(ListenAddress {
            host: "127.0.0.1".to_owned(), port: 6433,
        }), Forebay, Range::Any, AtStart;
        /// Users that may do everything there. Empty: the user of `server.url`.
        admin_users: Vec<String> = Vec::new(), PgBouncer, Range::Any, OnReload;
        /// Users that may only look.
        stats_users: Vec<String> = Vec::new(), PgBouncer, Range::Any, OnReload;
        /// Clients that have not taken what they were sent by then are disconnected by SUSPEND.
        /// 0 waits for ever.
        suspend_timeout: Duration = Duration::from_secs(10), PgBouncer, TIMEOUT, OnReload;
        /// Write the process id to this file; empty for none.
        pidfile: Option<PathBuf> = None, PgBouncer, Range::Any, AtStart;
        /// A port for browsers, Prometheus and load balancers, such as "127.0.0.1:9127"; empty for
        /// none. It only shows: a page at /, /metrics, and /live and /ready for everybody.
        http_listen: Option<ListenAddress> = None, Forebay, Range::Any, AtStart;
        /// What has to be shown there, but for /live and /ready: as the password of any user name, or
        /// as a bearer token. Empty: nothing, which only an address of this machine alone may have.
        http_token: SecretText = SecretText::default(), Forebay, Range::Any, OnReload;
    }

    /// Who may connect. The user and password of `server.url` always may.
    [auth] Auth {
        /// auto, trust, any, plain, md5, scram-sha-256, cert, peer, or hba: what the rules of
        /// `auth_hba_file` say. auto is scram-sha-256 where there is
        /// a password to ask for (in `server.url`, or an `auth_file`), else trust, but then only if
        /// every address listened on is of this machine alone.
        auth_type: Option<AuthType> = None, PgBouncer, Range::Any, OnReload;
        /// Users and their secrets, in the format of PgBouncer's userlist.txt; empty for none.
        auth_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Rules of who may connect from where and how, in PgBouncer's dialect of PostgreSQL's
        /// pg_hba.conf; they count with `auth_type` hba.
        auth_hba_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Which names of certificates and of this system's users may be which users: the maps
        /// that those rules name.
        auth_ident_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Users that `auth_file` does not list are looked up by PostgreSQL, as this user; empty:
        /// they are unknown. An entry of `[databases]` may have its own.
        auth_user: String = String::new(), PgBouncer, Range::Any, OnReload;
        /// How they are looked up: gives name and secret of the user $1, or no row.
        auth_query: String = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL \
            ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin".to_owned(),
            PgBouncer, Range::Any, OnReload;
        /// In which database, as clients name it; empty: in the one the client wants.
        auth_dbname: String = String::new(), PgBouncer, Range::Any, OnReload;
        /// How dear a guess is at a SCRAM secret made from a listed plain password.
        scram_iterations: u32 = 4096, PgBouncer, Range::Between(1, 1_000_000), OnReload;
    }

    /// How clients share servers.
    [pool] Pool {
        /// transaction, session or statement: when a server goes back to its pool. statement is
        /// transaction without BEGIN.
        pool_mode: PoolMode = PoolMode::Transaction, PgBouncer, Range::Any, OnReload;
        /// Servers for each pair of database and user; 0 is no limit.
        default_pool_size: u32 = 20, PgBouncer, Range::Between(0, 100_000), OnReload;
        /// A client that has waited this long for a server is disconnected. 0 waits for ever.
        query_wait_timeout: Duration = Duration::from_mins(2), PgBouncer, TIMEOUT, OnReload;
        /// Prepared statements kept on each server for clients that come and go.
        /// 0 leaves prepared statements alone: they work in session pooling only.
        max_prepared_statements: u32 = 200, PgBouncer, COUNT, OnReload;
        /// Prepared statements that one client may have.
        max_client_prepared_statements: u32 = 1000, Forebay,
            Range::Between(1, 1_000_000), OnReload;
        /// What to do about session state that cannot follow a client to another server
        /// (temporary tables, LISTEN, advisory locks): pin keeps the server with the client,
        /// ignore does nothing as PgBouncer does, refuse refuses the statement.
        pins: PinPolicy = PinPolicy::Pin, Forebay, Range::Any, OnReload;
        /// Servers kept open for each pool ahead of need: once it has a client, or at once where
        /// its entry in `[databases]` names the user.
        min_pool_size: u32 = 0, PgBouncer, COUNT, OnReload;
        /// Servers beyond the pool's size for clients that have waited `reserve_pool_timeout`.
        reserve_pool_size: u32 = 0, PgBouncer, COUNT, OnReload;
        /// How long a client waits before such a server is connected for it. 0 switches them off.
        reserve_pool_timeout: Duration = Duration::from_secs(5), PgBouncer, TIMEOUT, OnReload;
        /// Servers of one database, whatever their users; 0 is no limit. At the limit an idle one
        /// of another pool gives way.
        max_db_connections: u32 = 0, PgBouncer, COUNT, OnReload;
        /// Servers of one user, whatever their databases; 0 is no limit.
        max_user_connections: u32 = 0, PgBouncer, COUNT, OnReload;
        /// A statement that takes longer ends its client's connection. 0 never does.
        query_timeout: Duration = Duration::ZERO, PgBouncer, TIMEOUT, OnReload;
        /// A transaction in which nothing happens for so long ends its client's connection.
        /// 0 never does.
        idle_transaction_timeout: Duration = Duration::ZERO, PgBouncer, TIMEOUT, OnReload;
        /// A transaction that lasts longer ends its client's connection. 0 never does.
        transaction_timeout: Duration = Duration::ZERO, PgBouncer, TIMEOUT, OnReload;
        /// A client that has waited this long for a server is told so by a notice. 0 never is.
        query_wait_notify: Duration = Duration::from_secs(5), PgBouncer, TIMEOUT, OnReload;
        /// A pool without clients and servers is forgotten, its counters too. 0 never is.
        pool_idle_timeout: Duration = Duration::ZERO, PgBouncer, TIMEOUT, OnReload;
        /// The same for all of a database that has no entry but `*`. 0 never is.
        autodb_idle_timeout: Duration = Duration::from_hours(1), PgBouncer, TIMEOUT, OnReload;
    }

    /// Connections to PostgreSQL.
    [server] Server {
        /// `postgres://user:password@host:5432/database?sslmode=prefer`: every database of that
        /// host, as that user; the one named is for clients that name none. The query takes
        /// host (a directory for Unix sockets), port, sslmode, sslrootcert, sslcert, sslkey,
        /// `application_name`, options and `connect_timeout`. Empty where `[databases]` says all.
        url: SecretText = SecretText::default(), Forebay, Range::Any, OnReloadAlone;
        /// Give up connecting and logging in after this time. 0 never does.
        server_connect_timeout: Duration = Duration::from_secs(15), PgBouncer, TIMEOUT, OnReload;
        /// After a failed connection or login, try no other one of that pool for this long; who
        /// would need one is told the error meanwhile. 0 tries again at once.
        server_login_retry: Duration = Duration::from_secs(15), PgBouncer, TIMEOUT, OnReload;
        /// Close a server that nobody has used for this long. 0 never does.
        server_idle_timeout: Duration = Duration::from_mins(10), PgBouncer, TIMEOUT, OnReload;
        /// Close a server that has been connected for this long, once it is free.
        /// 0 uses it once.
        server_lifetime: Duration = Duration::from_hours(1), PgBouncer, TIMEOUT, OnReload;
        /// What is sent to a server when its client leaves it, in session pooling; empty for
        /// nothing.
        server_reset_query: String = "DISCARD ALL".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Send it in the other pool modes too, after each transaction.
        server_reset_query_always: bool = false, PgBouncer, Range::Any, OnReload;
        /// Asked of a server that was idle for `server_check_delay`, before a client gets it;
        /// `<empty>` is a query without text, and no text at all no question.
        server_check_query: String = "<empty>".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Servers idle for less are not asked. 0 asks each time.
        server_check_delay: Duration = Duration::from_secs(30), PgBouncer, TIMEOUT, OnReload;
        /// The idle server that was used longest ago is used next, not the one used last.
        server_round_robin: bool = false, PgBouncer, Range::Any, OnReload;
        /// In session pooling, part clients from servers that are to be closed as soon as they
        /// are between transactions.
        server_fast_close: bool = false, PgBouncer, Range::Any, OnReload;
        /// Give up a cancel request that PostgreSQL has not taken by then. 0 never does.
        cancel_wait_timeout: Duration = Duration::from_secs(10), PgBouncer, TIMEOUT, OnReload;
    }

    /// TLS towards clients and towards PostgreSQL.
    [tls] Tls {
        /// disable, allow, prefer, require, verify-ca or verify-full, towards clients.
        client_tls_sslmode: SslMode = SslMode::Disable, PgBouncer, Range::Any, OnReload;
        /// Forebay's certificate; empty for none.
        client_tls_cert_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// The key of that certificate.
        client_tls_key_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Who may sign the certificates of clients. verify-ca and verify-full demand one; with
        /// the other words a client may show one.
        client_tls_ca_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// The same six words, towards PostgreSQL. The sslmode of `server.url` counts before it.
        server_tls_sslmode: SslMode = SslMode::Prefer, PgBouncer, Range::Any, OnReload;
        /// Who may sign PostgreSQL's certificate; empty for those the system trusts.
        server_tls_ca_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Certificate to show to PostgreSQL; empty for none.
        server_tls_cert_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// The key of that certificate.
        server_tls_key_file: Option<PathBuf> = None, PgBouncer, Range::Any, OnReload;
        /// Versions towards clients: secure, all, or some of tlsv1.2 and tlsv1.3.
        client_tls_protocols: String = "secure".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Ciphers of TLS 1.2 towards clients, by OpenSSL's names.
        client_tls_ciphers: String = "default".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Ciphers of TLS 1.3 towards clients; empty for all.
        client_tls13_ciphers: String = String::new(), PgBouncer, Range::Any, OnReload;
        /// Versions towards PostgreSQL.
        server_tls_protocols: String = "secure".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Ciphers of TLS 1.2 towards PostgreSQL.
        server_tls_ciphers: String = "default".to_owned(), PgBouncer, Range::Any, OnReload;
        /// Ciphers of TLS 1.3 towards PostgreSQL; empty for all.
        server_tls13_ciphers: String = String::new(), PgBouncer, Range::Any, OnReload;
    }

    /// What is remembered, and for how long.
    [cache] Cache {
        /// off, on; `dry_run`: count what would have been hits, serve none; verify: compare these
        /// with what PostgreSQL answers, too. What differs is logged and in
        /// `SHOW CACHE_DIFFERENCES`.
        mode: CacheMode = CacheMode::On, Forebay, Range::Any, OnReload;
        /// Memory for answers.
        size: Size = Size::megabytes(256), Forebay,
            Range::Between(KILOBYTE * KILOBYTE, TERABYTE), AtStart;
        /// No answer is served when older. Writes that do not pass through Forebay are seen
        /// within this time; those that do, at once.
        max_age: Duration = Duration::from_mins(1), Forebay, Range::Between(1, 30 * DAY), OnReload;
        /// A longer answer is not kept. In memory there is room for the longest, up to 97% of
        /// `size` with its statement; for what a RELOAD raises this to after a restart.
        max_entry_size: Size = Size::megabytes(1), Forebay,
            Range::Between(KILOBYTE, 1 << 30), OnReload;
        /// For so long after PostgreSQL has last answered, what is kept is served although it
        /// cannot be reached; 0: not at all. Neither is served when older than max_age.
        serve_while_down: Duration = Duration::ZERO, Forebay, Range::Between(0, 30 * DAY), OnReload;
        /// How often the catalogue is asked for changes of tables and grants that were made
        /// without Forebay.
        catalog_poll: Duration = Duration::from_secs(5), Forebay,
            Range::Between(100, 3600 * SECOND), OnReload;
        /// What functions, triggers, rules and DO blocks wrote: ask has PostgreSQL tell, in the
        /// same transaction before its commit is sent; database makes the whole database fresh
        /// instead; audit asks before every commit, and logs an error for each table that was
        /// written unforeseen.
        opaque_writes: OpaqueWrites = OpaqueWrites::Ask, Forebay, Range::Any, OnReload;
        /// While PostgreSQL takes longer than this to answer, half of the time, it is not asked.
        ask_median_max: Duration = Duration::from_millis(1), Forebay,
            Range::Between(1, 10 * SECOND), OnReload;
        /// auto: what a statement means where its names alone do not tell is asked of PostgreSQL,
        /// at the second sighting and four times a second at most, by a temporary view that is
        /// rolled back. Not on a standby, without the right to temporary tables, or where there
        /// are event triggers. local or off: such answers are not kept.
        analysis: Analysis = Analysis::Auto, Forebay, Range::Any, OnReload;
        /// Tables whose writes end nearly every answer before it is asked for again are cut off:
        /// those with fewer hits than this for each hundred such answers. They are tried again
        /// after 10 s, then after longer pauses up to 5 minutes. 0 cuts nothing off.
        cut_off: u32 = 5, Forebay, Range::Between(0, 10_000), OnReload;
        /// After the answers of a whole database were forgotten, those whose hits saved most are asked
        /// again, so many a second for each database; at a start, too, in a group with a secret. 0:
        /// none, until somebody asks.
        warm_up: u32 = 0, Forebay, Range::Between(0, 10_000), OnReload;
        /// Statements of each database that are remembered for this.
        warm_up_entries: u32 = 1000, Forebay, Range::Between(1, 100_000), OnReload;
        /// Functions of yours, as schema.name, that write nothing and whose results depend on
        /// nothing but their arguments: answers computed with them are kept, whatever their
        /// label says. For statements that call them by name; views that do stay out.
        functions: Vec<String> = Vec::new(), Forebay, Range::Any, OnReload;
        /// Of ten thousand hits so many are verified while the cache is on; 0 for none. The answer is
        /// PostgreSQL's then, and takes a server and its time.
        verify_sample: u32 = 0, Forebay, Range::Between(0, 10_000), OnReload;
        /// Literals, parameters, settings of applications' own and bytes of rows are in what is reported
        /// of a difference.
        verify_values: bool = false, Forebay, Range::Any, OnReload;
    }

    /// A second tier for answers. Without it the cache is this process's memory alone.
    [redis] Redis {
        /// `redis://:password@host:6379/0`, `rediss://` for TLS; empty for none. In a group also
        /// `redis+sentinel://host:26379,host:26379/0?master=name`, or any node of a Redis Cluster.
        /// A `maxmemory` there wants room for the answers of `cache.max_age`, in a group for 3 MB more
        /// for each database, and the policy allkeys-lfu or volatile-lfu.
        url: SecretText = SecretText::default(), Forebay, Range::Any, AtStart;
        /// Authorities that may vouch for a `rediss://` server, instead of the system's.
        tls_ca_file: Option<PathBuf> = None, Forebay, Range::Any, AtStart;
        /// Every key begins with it; in a group with fb:{ instead, so that all lie together.
        prefix: String = "forebay:".to_owned(), Forebay, Range::Any, AtStart;
        /// An operation that takes longer counts as a miss.
        timeout: Duration = Duration::from_millis(20), Forebay,
            Range::Between(1, 10 * SECOND), AtStart;
        /// After this many failures in a row Redis is left alone.
        breaker_failures: u32 = 5, Forebay, Range::Between(1, 10_000), AtStart;
        /// Then for this long, until it is tried again.
        breaker_reset: Duration = Duration::from_secs(1), Forebay,
            Range::Between(10, 3600 * SECOND), AtStart;
        /// Answers of this length and more are compressed.
        compress_from: Size = Size::kilobytes(4), Forebay, Range::Between(0, TERABYTE), AtStart;
    }

    /// Several Forebays that answer as one, over the Redis of [redis].
    [group] Group {
        /// All that have this name, this Redis and the same PostgreSQL are one; empty for none.
        name: String = String::new(), Forebay, Range::Any, AtStart;
        /// strict, or strict-local.
        mode: GroupMode = GroupMode::Strict, Forebay, Range::Any, AtStart;
        /// All that have the same secret share the answers they keep in Redis, sealed with it. Empty:
        /// each keeps its own there. As long as the key of a cipher, 32 random letters or more.
        secret: SecretText = SecretText::default(), Forebay, Range::Any, AtStart;
        /// How long one that is silent is thought alive. The longest delay of a write too. The same
        /// for all members, or they do not let each other in.
        lease: Duration = Duration::from_secs(2), Forebay,
            Range::Between(200, 60 * SECOND), AtStart;
        /// Redis has so long to answer; after that this process is out of the group for now.
        timeout: Duration = Duration::from_millis(100), Forebay,
            Range::Between(1, 10 * SECOND), AtStart;
    }

    /// What is written to standard error, or to a file.
    [log] Log {
        /// Append to this file; empty for standard error.
        logfile: Option<PathBuf> = None, PgBouncer, Range::Any, AtStart;
        /// error, warn, info, debug or trace.
        level: LogLevel = LogLevel::Info, Forebay, Range::Any, OnReload;
        /// text, json, or pgbouncer: lines as PgBouncer writes them, for scripts that read those.
        format: LogFormat = LogFormat::Text, Forebay, Range::Any, AtStart;
        /// Log every login.
        log_connections: bool = true, PgBouncer, Range::Any, OnReload;
        /// Log every disconnection and its reason.
        log_disconnections: bool = true, PgBouncer, Range::Any, OnReload;
        /// Log the errors that Forebay itself sends to clients.
        log_pooler_errors: bool = true, PgBouncer, Range::Any, OnReload;
        /// Log totals once a period.
        log_stats: bool = true, PgBouncer, Range::Any, OnReload;
        /// The period of those totals, and of the averages in SHOW STATS.
        stats_period: Duration = Duration::from_mins(1), PgBouncer,
            Range::Between(SECOND, DAY), OnReload;
    }

    /// Slow statements, in the log and in SHOW SLOW.
    [slow] Slow {
        /// A statement that takes this long is slow. 0 switches it off.
        threshold: Duration = Duration::from_millis(500), Forebay, TIMEOUT, OnReload;
        /// Slow statements logged a second at most; the rest are counted.
        rate_limit: u32 = 10, Forebay, COUNT, OnReload;
        /// How many of the latest are kept for the console.
        ring_size: u32 = 1000, Forebay, COUNT, AtStart;
    }

    /// Who runs what: SHOW STATEMENTS, SHOW CLIENT_STATS, SHOW REPEATS and SHOW ROUTES.
    [insight] Insight {
        /// Count by statement and by group of clients.
        enabled: bool = true, Forebay, Range::Any, OnReload;
        /// Statement shapes told apart. Beyond it the least used make room for new ones and are
        /// summed as one.
        statements_max: u32 = 2000, Forebay, Range::Between(0, 50_000), AtStart;
        /// A statement that a client runs this often in one burst, whatever its values, is told
        /// in SHOW REPEATS, and once a burst in the log. 0 tells none.
        repeats: u32 = 10, Forebay, COUNT, OnReload;
        /// After a longer pause outside a transaction a client's next statement begins a burst.
        burst_pause: Duration = Duration::from_millis(100), Forebay,
            Range::Between(1, 3600 * SECOND), OnReload;
        /// Routes told apart, as comments of statements name them (sqlcommenter, marginalia,
        /// QueryLogs). Beyond it those seen longest ago are summed as one.
        routes_max: u32 = 1000, Forebay, Range::Between(0, 10_000), AtStart;
        /// A request that makes more queries is logged with its route, once. 0 allows any number.
        queries_per_request: u32 = 0, Forebay, COUNT, OnReload;
        /// SHOW SLOW and SHOW REPEATS show texts as they were sent, with their literals, and what
        /// was bound, to `admin_users`. The plans of EXPLAIN SLOW hold literals in any case.
        literals: bool = false, Forebay, Range::Any, OnReload;
        /// How often the log tells what each group of clients did: queries, hits, slow ones. The
        /// twenty that queried most; none that did nothing. 0 tells none.
        log_interval: Duration = Duration::from_mins(5), Forebay, TIMEOUT, OnReload;
    }
}

/// Settings of PgBouncer that are accepted and do nothing yet, with PgBouncer's defaults.
///
/// `SHOW CONFIG` lists them at those defaults, since exporters require some of them (numbers for
/// `max_user_connections`) and a value that is not in force must not be shown as if it were.
pub(super) static WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("auth_ldap_options", ""),
    ("client_tls_dheparams", "auto"),
    ("client_tls_ecdhcurve", "auto"),
    ("conffile", ""),
    ("disable_pqexec", "0"),
    ("dns_max_ttl", "15"),
    ("dns_nxdomain_ttl", "15"),
    ("dns_zone_check_period", "0"),
    ("job_name", "pgbouncer"),
    ("pkt_buf", "4096"),
    ("resolv_conf", ""),
    ("sbuf_loopcnt", "5"),
    ("service_name", "pgbouncer"),
    ("syslog", "0"),
    ("syslog_facility", "daemon"),
    ("syslog_ident", "pgbouncer"),
    ("tcp_defer_accept", "1"),
    ("user", ""),
    ("verbose", "0"),
];
