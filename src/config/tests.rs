//! Whole configurations: arguments and files in, a `Config` or the very text of the mistakes out.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use toml::de::DeTable;

use super::*;
use crate::sql::rules::{Pattern, Subject};

const URL: &str = "postgres://app:secret@db:5432/shop";

fn load_with(arguments: &[&str], files: &[(&str, &str)]) -> Result<Loaded, Exit> {
    let read = |path: &Path| {
        files
            .iter()
            .find(|(name, _)| Path::new(name) == path)
            .map(|(_, text)| (*text).to_owned())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    load(["forebay"].iter().chain(arguments).map(OsString::from), &read, &|_| Ok(Vec::new()))
}

/// A configuration that must be good.
fn good(arguments: &[&str], files: &[(&str, &str)]) -> Config {
    match load_with(arguments, files) {
        Ok(loaded) => loaded.config,
        Err(exit) => panic!("{arguments:?}: {}", exit.text),
    }
}

fn notices(arguments: &[&str], files: &[(&str, &str)]) -> Vec<String> {
    load_with(arguments, files).unwrap().notices
}

/// The mistakes of a configuration that must be bad, a line each.
fn bad(arguments: &[&str], files: &[(&str, &str)]) -> String {
    let exit = load_with(arguments, files).unwrap_err();
    assert_eq!(exit.code, 1, "{}", exit.text);
    exit.text
}

/// A TOML file whose only mistake is `expected`; it stands on line 3.
fn check_bad_toml(text: &str, expected: &str) {
    let text = format!("[server]\nurl = \"{URL}\"\n{text}");
    assert_eq!(bad(&["f.toml"], &[("f.toml", &text)]), format!("f.toml:{expected}\n"), "{text}");
}

/// A `pgbouncer.ini` whose only mistake is `expected`; `text` begins on line 6.
fn check_bad_ini(text: &str, expected: &str) {
    let text = format!(
        "[databases]\nshop = host=db\n[pgbouncer]\nlisten_addr = *\nauth_type = trust\n{text}"
    );
    assert_eq!(bad(&["p.ini"], &[("p.ini", &text)]), format!("p.ini:{expected}\n"), "{text}");
}

fn shown(config: &Config, name: &str) -> Option<Shown> {
    config.show().into_iter().find(|row| row.name == name)
}

// The three ways to start.

#[test]
fn a_url_alone_pools_by_transaction_and_caches() {
    let config = good(&[URL], &[]);
    assert_eq!(config.pool.pool_mode, PoolMode::Transaction);
    assert_eq!(config.pool.pins, PinPolicy::Pin);
    assert_eq!(config.cache.mode, CacheMode::On);
    assert_eq!(config.auth_type(), AuthType::ScramSha256);
    let listening: Vec<String> =
        config.listen_addresses().map(|address| address.to_string()).collect();
    assert_eq!(listening, ["127.0.0.1:6432"]);
    assert_eq!(config.admin.address.unwrap().to_string(), "127.0.0.1:6433");
    assert_eq!(config.default_database.as_deref(), Some("shop"));
    assert_eq!(config.admin.admin_users, ["app"]);
}

#[test]
fn a_url_alone_serves_every_database_of_its_host_as_its_user() {
    let config = good(&[URL], &[]);
    let entry = config.database("any name").unwrap();
    assert_eq!((&entry.host, entry.port), (&Host::Name("db".to_owned()), 5432));
    assert_eq!(entry.dbname, None);
    assert_eq!(entry.user.as_deref(), Some("app"));
    assert_eq!(entry.password.as_ref().unwrap().reveal(), "secret");
    let credentials = config.credentials.unwrap();
    assert_eq!(credentials.user, "app");
    assert_eq!(credentials.password.unwrap().reveal(), "secret");
}

#[test]
fn options_come_before_files_and_the_url_between_them() {
    let toml = "[pool]\npool_mode = \"session\"\ndefault_pool_size = 5\n\
                [tls]\nserver_tls_sslmode = \"disable\"\n\
                [server]\nserver_connect_timeout = 1\nurl = \"postgres://other@other/\"\n";
    let url = "postgres://app:secret@db/shop?sslmode=require&connect_timeout=7";
    let arguments = [url, "--config", "f.toml", "--pool-size", "9", "--cache", "dry_run"];
    let config = good(&arguments, &[("f.toml", toml)]);
    assert_eq!(config.pool.pool_mode, PoolMode::Session);
    assert_eq!(config.pool.default_pool_size, 9);
    assert_eq!(config.tls.server_tls_sslmode, SslMode::Require);
    assert_eq!(config.server.server_connect_timeout, Duration::from_secs(7));
    assert_eq!(config.cache.mode, CacheMode::DryRun);
    assert_eq!(config.databases.len(), 1);
    assert_eq!(config.databases[0].user.as_deref(), Some("app"));
}

#[test]
fn every_option_reaches_its_setting() {
    let arguments = [
        URL,
        "--redis=redis://r",
        "--listen=[::1]:1111",
        "--admin-listen=localhost:2222",
        "--pool-mode=session",
        "--pool-size=3",
        "--no-cache",
        "--cache-size=64MB",
        "--max-age=2m",
        "--log-level=debug",
        "--log-format=json",
        "--workers=4",
        "--tls-cert=c.pem",
        "--tls-key=k.pem",
    ];
    let config = good(&arguments, &[]);
    assert_eq!(config.redis.url.reveal(), "redis://r");
    assert_eq!(config.listen.listen_addr, ["::1"]);
    assert_eq!(config.listen.listen_port, 1111);
    assert_eq!(config.admin.address.unwrap().to_string(), "localhost:2222");
    assert_eq!(config.pool.pool_mode, PoolMode::Session);
    assert_eq!(config.pool.default_pool_size, 3);
    assert_eq!(config.cache.mode, CacheMode::Off);
    assert_eq!(config.cache.size, Size::megabytes(64));
    assert_eq!(config.cache.max_age, Duration::from_mins(2));
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.listen.workers, 4);
    assert_eq!(config.tls.client_tls_cert_file, Some(PathBuf::from("c.pem")));
    assert_eq!(config.tls.client_tls_key_file, Some(PathBuf::from("k.pem")));
    assert_eq!(config.tls.client_tls_sslmode, SslMode::Prefer);
}

#[test]
fn a_certificate_on_the_command_line_does_not_weaken_what_a_file_asks_for() {
    let toml = "[tls]\nclient_tls_sslmode = \"require\"\n";
    let arguments = [URL, "f.toml", "--tls-cert=c", "--tls-key=k"];
    let config = good(&arguments, &[("f.toml", toml)]);
    assert_eq!(config.tls.client_tls_sslmode, SslMode::Require);
}

const PGBOUNCER_INI: &str = "\
;; a comment, and # another
[databases]
shop = host=10.0.0.1 port=5433 dbname=shop_v2 user=app password='it''s' pool_size=7
reports = host=10.0.0.2 pool_mode=transaction min_pool_size=2 timezone=UTC
local =
* = host=10.0.0.3 reserve_pool=3 timezone=UTC

[users]
app = pool_mode=statement query_timeout=2 max_user_connections = 3

[pgbouncer]
logfile = /var/log/pgbouncer/pgbouncer.log
pkt_buf = 8192
listen_addr = 0.0.0.0, ::1
listen_port = 7000
unix_socket_dir = /var/run/postgresql
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = root, dba
stats_users = monitor
# A later assignment wins.
default_pool_size = 30
default_pool_size = 40
server_reset_query = DISCARD ALL
server_idle_timeout = 0.5
ignore_startup_parameters = extra_float_digits,options
log_connections = 0
%include more.ini
query_wait_timeout = 30
";

const PGBOUNCER_FILES: &[(&str, &str)] = &[
    ("pgbouncer.ini", PGBOUNCER_INI),
    ("userlist.txt", "\"app\" \"secret\"\n"),
    ("more.ini", "max_client_conn = 2000\nquery_wait_timeout = 20\n"),
];

#[test]
fn pgbouncer_ini_is_read_as_pgbouncer_would() {
    let config = good(&["pgbouncer.ini"], PGBOUNCER_FILES);
    assert_eq!(config.base, Base::PgBouncer);
    assert_eq!(config.listen.listen_addr, ["0.0.0.0", "::1"]);
    assert_eq!(config.listen.listen_port, 7000);
    assert_eq!(config.listen.max_client_conn, 2000);
    assert_eq!(config.listen.ignore_startup_parameters, ["extra_float_digits", "options"]);
    assert_eq!(config.auth_type(), AuthType::ScramSha256);
    assert_eq!(config.userlist.unwrap().reveal(), "\"app\" \"secret\"\n");
    assert_eq!(config.admin.admin_users, ["root", "dba"]);
    assert_eq!(config.admin.stats_users, ["monitor"]);
    assert_eq!(config.pool.default_pool_size, 40);
    assert_eq!(config.pool.query_wait_timeout, Duration::from_secs(30));
    assert_eq!(config.server.server_idle_timeout, Duration::from_millis(500));
    assert!(!config.log.log_connections);
}

#[test]
fn pgbouncer_ini_starts_from_the_defaults_of_pgbouncer() {
    let ini = "[databases]\n* = host=db\n[pgbouncer]\nlisten_addr = *\nauth_file = u\n";
    let config = good(&["p.ini"], &[("p.ini", ini), ("u", "")]);
    assert_eq!(config.pool.pool_mode, PoolMode::Session);
    assert_eq!(config.listen.listen_port, 6432);
    assert_eq!(config.listen.max_client_conn, 100);
    assert_eq!(config.auth_type(), AuthType::Md5);
    assert_eq!(config.cache.mode, CacheMode::Off);
    assert_eq!(config.admin.address, None);
    assert_eq!(config.credentials, None);
}

#[test]
fn databases_of_pgbouncer_ini_are_found_by_name_then_by_star() {
    let config = good(&["pgbouncer.ini"], PGBOUNCER_FILES);
    let shop = config.database("shop").unwrap();
    assert_eq!(shop.host, Host::Name("10.0.0.1".to_owned()));
    assert_eq!(shop.port, 5433);
    assert_eq!(shop.dbname.as_deref(), Some("shop_v2"));
    assert_eq!(shop.user.as_deref(), Some("app"));
    assert_eq!(shop.password.as_ref().unwrap().reveal(), "it's");
    assert_eq!(shop.pool_size, Some(7));
    let reports = config.database("reports").unwrap();
    assert_eq!(reports.pool_mode, Some(PoolMode::Transaction));
    assert_eq!(reports.limits.min_pool_size, Some(2));
    assert_eq!(config.database("any").unwrap().limits.reserve_pool_size, Some(3));
    let local = config.database("local").unwrap();
    assert_eq!(local.host, Host::Unnamed(PathBuf::from("/var/run/postgresql")));
    assert_eq!(config.database("other").unwrap().host, Host::Name("10.0.0.3".to_owned()));
}

#[test]
fn users_have_their_own_settings_in_either_file() {
    let app = UserEntry {
        name: "app".into(),
        pool_mode: Some(PoolMode::Statement),
        query_timeout: Some(Duration::from_secs(2)),
        max_user_connections: Some(3),
        ..UserEntry::default()
    };
    let config = good(&["pgbouncer.ini"], PGBOUNCER_FILES);
    assert_eq!(config.user("app"), Some(&app));
    assert_eq!(config.user("other"), None);
    let toml = "[users]\napp = { pool_mode = \"statement\", query_timeout = \"2s\", \
                max_user_connections = 3 }\n";
    assert_eq!(good(&[URL, "f.toml"], &[("f.toml", toml)]).users, [app]);
    let toml = "[users]\nbob = { slow_threshold = \"2s\" }\n\
                [databases]\napp = { slow_threshold = 0 }\n";
    let config = good(&[URL, "f.toml"], &[("f.toml", toml)]);
    assert_eq!(config.user("bob").unwrap().slow_threshold, Some(Duration::from_secs(2)));
    let app = config.database("app").unwrap();
    assert_eq!(app.limits.slow_threshold, Some(Duration::ZERO));
}

#[test]
fn what_has_no_effect_is_noticed_once_with_its_place() {
    assert_eq!(
        notices(&["pgbouncer.ini"], PGBOUNCER_FILES),
        ["pgbouncer.ini:13: pkt_buf: accepted, has no effect yet"]
    );
}

#[test]
fn pgbouncer_ini_of_a_fresh_package_starts() {
    let ini = "[databases]\n[users]\n[pgbouncer]\nlisten_addr = localhost\n";
    assert_eq!(
        notices(&["p.ini"], &[("p.ini", ini)]),
        [
            "[databases] is empty: there is the console alone",
            "auth_file is not set: nobody can log in",
        ]
    );
}

#[test]
fn a_toml_file_beside_pgbouncer_ini_adds_forebays_own_settings() {
    let toml = "[cache]\nmode = \"on\"\nmax_age = \"5m\"\n[admin]\naddress = \"127.0.0.1:1\"\n";
    let mut files = PGBOUNCER_FILES.to_vec();
    files.push(("forebay.toml", toml));
    for arguments in
        [["pgbouncer.ini", "forebay.toml"].as_slice(), &["--config=forebay.toml", "pgbouncer.ini"]]
    {
        let config = good(arguments, &files);
        assert_eq!(config.base, Base::PgBouncer);
        assert_eq!(config.cache.mode, CacheMode::On);
        assert_eq!(config.cache.max_age, Duration::from_mins(5));
        assert_eq!(config.pool.pool_mode, PoolMode::Session);
        assert_eq!(config.admin.address.unwrap().to_string(), "127.0.0.1:1");
    }
}

#[test]
fn databases_in_toml_take_the_server_url_where_they_name_no_host() {
    let toml = "[databases]\nsmall = { pool_size = 2 }\n\
                other = { host = \"/run/pg\", port = 1 }\n\
                named = { user = \"nobody\" }\n";
    let config = good(&[URL, "f.toml"], &[("f.toml", toml)]);
    let small = config.database("small").unwrap();
    assert_eq!((&small.host, small.pool_size), (&Host::Name("db".to_owned()), Some(2)));
    assert_eq!(small.password.as_ref().unwrap().reveal(), "secret");
    let other = config.database("other").unwrap();
    assert_eq!(other.host, Host::SocketDirectory(PathBuf::from("/run/pg")));
    // The password of one host is not sent to another, nor that of one user for another.
    assert_eq!((&other.user, &other.password), (&None, &None));
    assert_eq!(config.database("named").unwrap().password, None);
    assert_eq!(config.database("anything").unwrap().host, Host::Name("db".to_owned()));
}

#[test]
fn a_database_without_entry_is_unknown_unless_there_is_a_star() {
    let toml = "[databases.shop]\nhost = \"db\"\n";
    let config = good(&["f.toml"], &[("f.toml", toml)]);
    assert!(config.database("shop").is_some());
    assert!(config.database("other").is_none());
    assert!(config.database("*").is_none());
}

// The files that are shipped.

#[test]
fn the_reference_file_is_what_the_settings_say() {
    assert_eq!(include_str!("../../config/forebay.toml"), reference());
}

#[test]
fn the_reference_file_sets_every_setting_to_its_default() {
    let text = include_str!("../../config/forebay.toml");
    let document = DeTable::parse(text).unwrap();
    let mut written = BTreeSet::new();
    for (section, table) in document.get_ref() {
        for (key, _) in table.get_ref().as_table().unwrap() {
            written.insert(format!("{}.{}", section.get_ref(), key.get_ref()));
        }
    }
    let settings: BTreeSet<String> =
        SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
    assert_eq!(written, settings);

    assert_eq!(good(&[URL, "f.toml"], &[("f.toml", text)]), good(&[URL], &[]));
}

#[test]
fn the_entries_shown_in_the_reference_file_can_be_used() {
    let text = reference();
    let (_, example) = text.split_once("# [databases]").unwrap();
    let example = format!("[databases]{}", example.replace("\n# ", "\n"));
    let config = good(&["f.toml"], &[("f.toml", &example)]);
    assert_eq!(config.database("shop").unwrap().pool_size, Some(40));
    assert_eq!(config.database("any").unwrap().pool_mode, Some(PoolMode::Session));
    assert_eq!(config.rules.len(), 3);
}

#[test]
fn the_minimal_file_is_enough() {
    let text = include_str!("../../config/minimal.toml");
    let config = good(&["minimal.toml"], &[("minimal.toml", text)]);
    assert_eq!(config.default_database.as_deref(), Some("postgres"));
    assert_eq!(config.cache.mode, CacheMode::On);
}

// Who may log in.

#[test]
fn without_password_only_this_machine_may_connect() {
    let url = "postgres://app@db/shop";
    assert_eq!(good(&[url], &[]).auth_type(), AuthType::Trust);
    for option in ["--listen=0.0.0.0:6432", "--listen=*:6432", "--admin-listen=10.0.0.1:1"] {
        assert_eq!(
            bad(&[url, option], &[]),
            "auth.auth_type: other machines could connect without a password: expected a \
             password in the server URL, an auth_file, or auth_type = \"trust\" if that is meant\n",
            "{option}"
        );
    }
    let trust = ("f.toml", "[auth]\nauth_type = \"trust\"\n");
    let config = good(&[url, "f.toml", "--listen=0.0.0.0:6432"], &[trust]);
    assert_eq!(config.auth_type(), AuthType::Trust);
}

#[test]
fn without_token_only_this_machine_may_look() {
    let toml = |listen: &str, token: &str| {
        format!("[admin]\nhttp_listen = \"{listen}\"\nhttp_token = \"{token}\"\n")
    };
    let url = "postgres://app:secret@db/shop";
    for listen in ["0.0.0.0:9127", "*:9127", "10.0.0.1:9127", "[::]:9127", "example.com:9127"] {
        assert_eq!(
            bad(&[url, "f.toml"], &[("f.toml", &toml(listen, ""))]),
            format!(
                "f.toml:2: admin.http_listen: other machines could look at {listen}: expected \
                 admin.http_token too\n"
            )
        );
        good(&[url, "f.toml"], &[("f.toml", &toml(listen, "0123456789abcdef"))]);
    }
    for listen in ["127.0.0.1:9127", "[::1]:9127", "localhost:9127"] {
        good(&[url, "f.toml"], &[("f.toml", &toml(listen, ""))]);
    }
    assert_eq!(
        bad(&[url, "f.toml"], &[("f.toml", &toml("127.0.0.1:9127", "0123456789abcde"))]),
        "f.toml:3: admin.http_token: expected 16 characters at least, found 15\n"
    );
    assert_eq!(good(&[url], &[]).admin.http_listen, None);
}

#[test]
fn a_method_that_nobody_can_pass_is_a_mistake() {
    let toml = "[auth]\nauth_type = \"md5\"\n";
    assert_eq!(
        bad(&["postgres://app@db", "f.toml"], &[("f.toml", toml)]),
        "f.toml:2: auth.auth_type: nobody could log in: expected an auth_file, or a password in \
         the server URL\n"
    );
}

#[test]
fn an_auth_file_is_a_password_to_ask_for() {
    let toml = "[auth]\nauth_file = \"u\"\n[listen]\nlisten_addr = \"*\"\n";
    let config = good(&["postgres://app@db", "f.toml"], &[("f.toml", toml), ("u", "text")]);
    assert_eq!(config.auth_type(), AuthType::ScramSha256);
    assert_eq!(config.userlist.unwrap().reveal(), "text");
}

// Mistakes.

#[test]
fn all_mistakes_of_all_places_are_told_at_once() {
    let toml = "[pool]\npool_mode = \"transactoin\"\nbanana = 1\n\
                [cache]\nmax_age = \"sixty\"\nsize = true\n";
    assert_eq!(
        bad(
            &[
                "postgres://app@db:port/?sslmod=x",
                "f.toml",
                "--config=gone.toml",
                "--listen",
                "6432"
            ],
            &[("f.toml", toml)]
        ),
        "f.toml:2: pool.pool_mode: expected session, transaction or statement, found \"transactoin\"\n\
         f.toml:3: unknown setting pool.banana\n\
         f.toml:5: cache.max_age: expected a duration such as \"60s\" from 1ms to 30d, \
         found \"sixty\"\n\
         f.toml:6: cache.size: expected a size such as \"256MB\" from 1MB to 1TB, found true\n"
            .to_owned()
            + "gone.toml: cannot read: entity not found\n"
            + "--listen: expected an address and port such as \"127.0.0.1:6432\", found \"6432\"\n"
            + "server URL: port: expected a whole number from 1 to 65535\n"
            + "server URL: unknown parameter sslmod (did you mean sslmode?)\n"
    );
}

#[test]
fn values_in_toml_must_fit_their_setting() {
    let check = check_bad_toml;
    check(
        "[pool]\ndefault_pool_size = -1",
        "4: pool.default_pool_size: expected a whole number from 0 to 100000, found -1",
    );
    check(
        "[pool]\ndefault_pool_size = \"5\"",
        "4: pool.default_pool_size: expected a whole number from 0 to 100000, found \"5\"",
    );
    check(
        "[pool]\ndefault_pool_size = 99999999999999999999",
        "4: pool.default_pool_size: expected a whole number from 0 to 100000, found a number that is too large",
    );
}

#[test]
fn names_in_toml_must_be_known() {
    let check = check_bad_toml;
    check("[pool]\npinz = 1", "4: unknown setting pool.pinz (did you mean pool.pins?)");
    check("[cache]\nmaxage = 1", "4: unknown setting cache.maxage (did you mean cache.max_age?)");
    check(
        "[cache]\npool_mode = 1",
        "4: unknown setting cache.pool_mode (did you mean pool.pool_mode?)",
    );
    check("[cahce]\nmode = \"on\"", "3: unknown section [cahce] (did you mean cache?)");
}

#[test]
fn values_in_toml_must_be_of_their_kind() {
    let check = check_bad_toml;
    check("[cache]\nmode = true", "4: cache.mode: expected off, on, dry_run or verify, found true");
    check(
        "[cache]\nmax_age = -1",
        "4: cache.max_age: expected a duration such as \"60s\" from 1ms to 30d, found -1",
    );
    check(
        "[cache]\nmax_age = nan",
        "4: cache.max_age: expected a duration such as \"60s\" from 1ms to 30d, found NaN",
    );
    check(
        "[cache]\nmax_age = 2020-01-01",
        "4: cache.max_age: expected a duration such as \"60s\" from 1ms to 30d, found a date",
    );
    check(
        "[cache]\nmax_age = 0",
        "4: cache.max_age: expected a duration such as \"60s\" from 1ms to 30d, found 0",
    );
    check(
        "[cache]\nsize = \"2MB\"\nmax_entry_size = \"3MB\"",
        "5: cache.max_entry_size: expected at most cache.size, which is 2MB",
    );
    check(
        "[admin]\nadmin_users = [1]",
        "4: admin.admin_users: expected a list of texts, found a list that holds more than texts",
    );
}

#[test]
fn settings_of_other_sections_must_fit_too() {
    let check = check_bad_toml;
    check(
        "[admin]\naddress = \"6433\"",
        "4: admin.address: expected an address and port such as \"127.0.0.1:6433\", found \"6433\"",
    );
    check(
        "[admin]\naddress = \"127.0.0.1:6432\"",
        "4: admin.address: 127.0.0.1:6432 is where clients connect already",
    );
    check(
        "[admin]\nhttp_listen = \"127.0.0.1:6433\"",
        "4: admin.http_listen: 127.0.0.1:6433 is where clients or the console connect already",
    );
    check("[auth]\nauth_type = \"hba\"", "4: auth.auth_type: hba expects auth_hba_file");
    for foreign in ["pam", "ldap"] {
        check(
            &format!("[auth]\nauth_type = \"{foreign}\""),
            &format!(
                "4: auth.auth_type: {foreign} is not supported; \
                 auth_query asks PostgreSQL for users and secrets"
            ),
        );
    }
    check(
        "[auth]\nauth_type = \"cert\"",
        "4: auth.auth_type: cert expects client_tls_sslmode = verify-full",
    );
    check(
        "[auth]\nauth_dbname = \"pgbouncer\"",
        "4: auth.auth_dbname: cannot use the reserved \"pgbouncer\" database as an auth_dbname",
    );
    check("[auth]\nauth_file = \"gone\"", "4: auth.auth_file: cannot read gone: entity not found");
    check(
        "[redis]\nurl = \"http://x\"",
        "4: redis.url: expected redis://, rediss://, redis+sentinel:// or unix:// and an address",
    );
    check(
        "[redis]\nurl = \"redis+sentinel://x/?master=m\"",
        "4: redis.url: expected group.name: only a group asks sentinels",
    );
    check("[redis]\nurl = 5", "4: redis.url: expected a text, found a number");
    check("[log]\nlog_stats = 1", "4: log.log_stats: expected true or false, found 1");
    check(
        "[slow]\nthreshold = \"5 parsecs\"",
        "4: slow.threshold: expected a duration such as \"60s\" 0 or from 1ms to 365d, found \"5 parsecs\"",
    );
}

#[test]
fn settings_must_fit_each_other() {
    let check = check_bad_toml;
    check(
        "[tls]\nclient_tls_sslmode = \"require\"",
        "4: tls.client_tls_sslmode: require expects client_tls_cert_file and client_tls_key_file",
    );
    check(
        "[tls]\nserver_tls_cert_file = \"c\"",
        "4: tls.server_tls_cert_file: expected server_tls_cert_file and server_tls_key_file, both or neither",
    );
    check(
        "[tls]\nclient_tls_sslmode = \"verify-ca\"\nclient_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"",
        "4: tls.client_tls_sslmode: verify-ca expects client_tls_ca_file",
    );
}

#[test]
fn databases_in_toml_must_be_proper() {
    let check = check_bad_toml;
    check("[databases.x]\nprot = 1", "4: databases.x.prot: unknown key (did you mean port?)");
    check(
        "[databases.x]\nhost = \"a,b/c\"",
        "4: databases.x.host: expected a host name, an address, or a directory that begins with /",
    );
    check(
        "[databases.x]\nport = 0",
        "4: databases.x.port: expected a whole number from 1 to 65535, found 0",
    );
    check("[databases]\nx = 5", "4: databases.x: expected a table with its host");
    check("[databases.pgbouncer]\nport = 1", "3: databases.pgbouncer: this name is the console's");
}

#[test]
fn mistakes_outside_sections_are_told_too() {
    let check = |text: &str, expected: &str| {
        assert_eq!(bad(&[URL, "f.toml"], &[("f.toml", text)]), format!("{expected}\n"));
    };
    check("pool = 5", "f.toml:1: expected a section: [pool]");
    check(
        "\npool_mode = 5",
        "f.toml:2: unknown setting pool_mode (did you mean pool.pool_mode?); settings belong to sections",
    );
}

#[test]
fn text_that_is_not_toml_is_told_by_line() {
    let text = bad(&[URL, "f.toml"], &[("f.toml", "[pool]\npins = \n[cache\n")]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("f.toml:2: not TOML: "), "{text}");
    assert!(lines[1].starts_with("f.toml:3: not TOML: "), "{text}");
    assert_eq!(lines.len(), 2, "{text}");
}

#[test]
fn mistakes_in_pgbouncer_ini_name_line_and_expectation() {
    let check = check_bad_ini;
    check("pool_mod = session", "6: unknown setting pool_mod (did you mean pool_mode?)");
    check(
        "pool_mode = autocommit",
        "6: pool_mode: expected session, transaction or statement, found \"autocommit\"",
    );
    check("cache = on", "6: unknown setting cache");
    check(
        "listen_port = 70000",
        "6: listen_port: expected a whole number from 0 to 65535, found \"70000\"",
    );
    check("log_stats = 2", "6: log_stats: expected true or false, found \"2\"");
    check("nonsense", "6: expected name = value");
    check("\n[cache]\nmode = on", "7: unknown section [cache]");
    check("[users", "6: expected a section name in brackets: [pgbouncer]");
    check("%include gone.ini", "6: %include gone.ini: cannot read: entity not found");
    check("%inclued x", "6: expected %include and a file name");
    check("[databases]\nx = hots=db", "7: databases.x: unknown key hots (did you mean host?)");
    check(
        "[databases]\nx = host=db password='open",
        "7: databases.x: expected key=value pairs, as in host=localhost",
    );
    check(
        "[databases]\nx = host=db port=x",
        "7: databases.x.port: expected a whole number from 1 to 65535, found \"x\"",
    );
    check(
        "[users]\nx = pool_mood=session",
        "7: users.x: unknown key pool_mood (did you mean pool_mode?)",
    );
    check(
        "listen_addr =\nunix_socket_dir =",
        "6: listen.listen_addr: expected an address such as 127.0.0.1, or a unix_socket_dir",
    );
}

#[test]
fn a_setting_before_any_section_is_a_mistake() {
    let ini = "pool_mode = session\n[databases]\n* = host=x\n[pgbouncer]\nauth_type = trust\n\
               listen_addr = *\n";
    assert_eq!(
        bad(&["p.ini"], &[("p.ini", ini)]),
        "p.ini:1: expected a section such as [pgbouncer] first\n"
    );
}

#[test]
fn files_that_include_themselves_come_to_an_end() {
    let ini = "[databases]\n* = host=x\n[pgbouncer]\nauth_type = trust\nlisten_addr = *\n\
               %include p.ini\n%include p.ini\n";
    let text = bad(&["p.ini"], &[("p.ini", ini)]);
    let expected = ": %include p.ini: too many files include others";
    assert!(text.lines().all(|line| line.ends_with(expected)), "{text}");
}

#[test]
fn nothing_to_connect_to_is_a_mistake() {
    let expected = "no server: expected a postgres:// URL, server.url, or an entry in \
                    [databases] (see forebay --help)\n";
    assert_eq!(bad(&[], &[]), expected);
    assert_eq!(bad(&["f.toml"], &[("f.toml", "")]), expected);
    assert_eq!(
        bad(&["f.toml"], &[("f.toml", "[databases.x]\nport = 1\n")]),
        "f.toml:1: databases.x: expected a host\n"
    );
}

#[test]
fn no_mistake_repeats_a_password() {
    let toml = "[redis]\nurl = \"hunter2\"\n[databases.x]\npassword = 5\nhost = \"\"\n";
    let ini = "[databases]\nx = password='hunter2\ny = port=x password=hunter2\n";
    let urls = [
        "postgres://app:hunter2@db:x/y?z=1",
        "postgres://app:hunter2/x@db/y",
        "postgres://app:a?hunter2@db/y",
        "postgres://app:a?hunter2=x&y@db/y",
        "postgres://app:hunter2%zz@db",
        "postgres://:hunter2@db",
        "postgres://app:hunter2:x@[::1/y",
    ];
    for url in urls {
        let text = bad(&[url, "f.toml"], &[("f.toml", toml)]);
        assert!(!text.contains("hunter2"), "{text}");
    }
    let text = bad(&["p.ini"], &[("p.ini", ini)]);
    assert!(!text.contains("hunter2"), "{text}");
}

// The URL.

fn url_entry(url: &str) -> DatabaseEntry {
    good(&[url], &[]).databases.remove(0)
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    let check = |url: &str, host: &str, port: u16, user: &str, password: &str| {
        let entry = url_entry(url);
        assert_eq!((entry.host.to_string().as_str(), entry.port), (host, port), "{url}");
        assert_eq!(entry.user.as_deref(), Some(user), "{url}");
        let password_read = entry.password.as_ref().map_or("", SecretText::reveal);
        assert_eq!(password_read, password, "{url}");
    };
    check("postgres://a@h", "h", 5432, "a", "");
    check("postgres://a@h,i", "h,i", 5432, "a", "");
    check("postgresql://a:b@h:1/d", "h", 1, "a", "b");
    check("postgres://a:b@/d", "localhost", 5432, "a", "b");
    check("postgres://a:b@[::1]:7/d", "::1", 7, "a", "b");
    check("postgres://a:b@[2001:db8::1]", "2001:db8::1", 5432, "a", "b");
    check("postgres://a:b@h@d", "d", 5432, "a", "b@h");
    check("postgres://a%40x:p%3A%2f%3F%C3%A9@h/d", "h", 5432, "a@x", "p:/?é");
    check("postgres://a:b:c@h", "h", 5432, "a", "b:c");
    check("postgres://a@/d?host=/run/pg&port=9", "/run/pg", 9, "a", "");
    check("postgres://a@%2Frun%2Fpg/d", "/run/pg", 5432, "a", "");
    check("postgres://a@h/?", "h", 5432, "a", "");
}

#[test]
fn the_query_of_a_url_reaches_entry_and_settings() {
    let config = good(
        &[
            "postgres://a:b@h/d%20b?application_name=my%20app&options=-c%20x%3D1&sslmode=verify-full\
           &sslrootcert=ca.pem&sslcert=c.pem&sslkey=k.pem&connect_timeout=3",
        ],
        &[],
    );
    assert_eq!(config.default_database.as_deref(), Some("d b"));
    assert_eq!(config.databases[0].application_name.as_deref(), Some("my app"));
    assert_eq!(config.databases[0].options.as_deref(), Some("-c x=1"));
    assert_eq!(config.tls.server_tls_sslmode, SslMode::VerifyFull);
    assert_eq!(config.tls.server_tls_ca_file, Some(PathBuf::from("ca.pem")));
    assert_eq!(config.tls.server_tls_cert_file, Some(PathBuf::from("c.pem")));
    assert_eq!(config.tls.server_tls_key_file, Some(PathBuf::from("k.pem")));
    assert_eq!(config.server.server_connect_timeout, Duration::from_secs(3));

    let config = good(&["postgres://a:b@h?sslrootcert=system"], &[]);
    assert_eq!(config.tls.server_tls_ca_file, None);
    assert_eq!(config.tls.server_tls_sslmode, SslMode::VerifyFull);
    for weak in ["sslrootcert=system&sslmode=require", "sslmode=disable&sslrootcert=system"] {
        let told = bad(&[&format!("postgres://a:b@h?{weak}")], &[]);
        assert!(told.contains("expected verify-full, or none, with sslrootcert=system"), "{told}");
    }
    good(&["postgres://a:b@h?sslrootcert=system&sslmode=verify-full"], &[]);
    let config = good(&["postgres://a@/d?host=@here&application_name=a@b"], &[]);
    assert_eq!(config.databases[0].host.to_string(), "@here");
}

#[test]
fn no_piece_of_a_password_is_told_though_it_was_written_as_it_is() {
    for url in
        ["postgres://u:p@ss?word@h/db", "postgres://u:p@ss/word@h/db", "postgres://u:word/@h"]
    {
        let told = bad(&[url], &[]);
        assert!(told.contains("expected / and ?") && !told.contains("word@"), "{told}");
    }
}

#[test]
fn mistakes_in_urls_name_their_part() {
    let check = |url: &str, expected: &str| {
        assert_eq!(bad(&[url], &[]), format!("server URL: {expected}\n"), "{url}");
    };
    check("postgres://", "expected a user: postgres://user:password@host/database");
    check("postgres://a@h:0/", "port: expected a whole number from 1 to 65535");
    check(
        "postgres://a@h:1:2/",
        "host: expected host or host:port; an IPv6 address stands in brackets",
    );
    check(
        "postgres://a@::1/",
        "host: expected host or host:port; an IPv6 address stands in brackets",
    );
    check("postgres://a@[::1", "host: expected ] after an IPv6 address");
    check("postgres://a@[h]", "host: expected an IPv6 address in brackets");
    check(
        "postgres://a@h?sslmode=strict",
        "server_tls_sslmode: expected disable, allow, prefer, require, verify-ca or verify-full, found \"strict\"",
    );
    check("postgres://a@h?ssl=1", "unknown parameter ssl");
    let decoding =
        "expected % to be followed by two hexadecimal digits that make UTF-8 without NUL";
    check("postgres://a:b%4@h", &format!("password: {decoding}"));
    check("postgres://a:b%ff@h", &format!("password: {decoding}"));
    check(
        "postgres://a%00@h/%zz",
        &format!(
            "user: {decoding}\nserver URL: database: {decoding}\nserver URL: expected a user: postgres://user:password@host/database"
        ),
    );
}

// What is shown.

#[test]
fn show_config_is_sorted_complete_and_without_repeats() {
    let names: Vec<&str> = good(&[URL], &[]).show().iter().map(|row| row.name).collect();
    assert!(names.is_sorted());
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len());
    assert_eq!(names.len(), SETTINGS.len() + WITHOUT_EFFECT.len());
}

#[test]
fn show_config_speaks_as_pgbouncer_does_of_its_settings() {
    let config = good(&["pgbouncer.ini"], PGBOUNCER_FILES);
    let row = |name: &'static str, value: &str, default: &str, changeable| {
        let expected =
            Shown { name, value: value.to_owned(), default: default.to_owned(), changeable };
        assert_eq!(shown(&config, name), Some(expected));
    };
    row("max_client_conn", "2000", "100", true);
    row("max_user_connections", "0", "0", true);
    row("pool_mode", "session", "session", true);
    row("server_lifetime", "3600", "3600", true);
    row("server_idle_timeout", "0.5", "600", true);
    row("listen_addr", "0.0.0.0,::1", "", false);
    row("log_connections", "0", "1", true);
    row("cache.max_age", "60s", "60s", true);
    row("cache.size", "256MB", "256MB", false);
}

#[test]
fn secrets_are_hidden_wherever_a_configuration_is_shown() {
    let arguments = [URL, "--redis=redis://:hunter2@r", "f.toml"];
    let toml = "[databases.x]\nhost = \"h\"\npassword = \"hunter2\"\n[group]\nsecret = \"hunter2\"\n[auth]\nauth_file = \"u\"\n";
    let files = [("f.toml", toml), ("u", "\"x\" \"hunter2\"")];
    let config = good(&arguments, &files);
    assert_eq!(shown(&config, "redis.url").unwrap().value, "****");
    assert_eq!(shown(&config, "group.secret").unwrap().value, "****");
    assert_eq!(shown(&config, "server.url").unwrap().value, "****");
    assert!(!format!("{config:?} {:?}", config.show()).contains("hunter2"));
    let checked = load_with(&[&arguments[..], &["--check"]].concat(), &files).unwrap_err();
    assert!(!checked.text.contains("hunter2"), "{}", checked.text);
}

#[test]
fn check_prints_the_result_and_succeeds() {
    let exit = load_with(&[URL, "--check", "--pool-size=3"], &[]).unwrap_err();
    assert_eq!(exit.code, 0);
    let lines: Vec<&str> = exit.text.lines().collect();
    assert!(lines.contains(&"database * = db port 5432 user app"), "{}", exit.text);
    assert!(lines.contains(&"pool.default_pool_size = 3 (default: 20)"), "{}", exit.text);
    assert!(lines.contains(&"cache.mode = on"), "{}", exit.text);
    assert_eq!(lines.last(), Some(&"the configuration is good"));
}

#[test]
fn check_tells_what_who_would_begin_says() {
    let check = |begun: Result<Vec<String>, String>| {
        let arguments = ["forebay", URL, "--check"].map(OsString::from).into_iter();
        let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        load(arguments, &read, &|_| begun.clone()).unwrap_err()
    };
    let told = check(Ok(vec!["no TLS with servers".to_owned()]));
    assert_eq!((told.code, told.text.lines().next()), (0, Some("notice: no TLS with servers")));
    let refused = check(Err("no such certificate".to_owned()));
    assert_eq!((refused.code, refused.text.as_str()), (1, "no such certificate\n"));
}

#[test]
fn words_are_read_in_letters_of_either_case() {
    let config = good(
        &["f.ini"],
        &[("f.ini", "[databases]\nx = host=h\n[pgbouncer]\npool_mode = Session\n")],
    );
    assert_eq!(config.pool.pool_mode, PoolMode::Session);
}

#[test]
fn help_version_and_defaults_succeed_and_other_options_do_not() {
    let exit = load_with(&["--version"], &[]).unwrap_err();
    assert_eq!(exit, Exit { code: 0, text: "Forebay 0.1.0\n".to_owned() });
    let exit = load_with(&["--defaults"], &[]).unwrap_err();
    assert_eq!(exit, Exit { code: 0, text: reference() });
    let help = load_with(&["--help"], &[]).unwrap_err();
    assert_eq!(help.code, 0);
    assert!(help.text.contains("Usage: forebay [OPTIONS]"), "{}", help.text);
    assert_eq!(load_with(&["--banana"], &[]).unwrap_err().code, 2);
    assert_eq!(load_with(&[URL, "--cache=on", "--no-cache"], &[]).unwrap_err().code, 2);
}

// SET.

/// `key` becomes `value`, or what is told instead.
fn set_to(config: &Config, key: &str, value: &str) -> Result<Config, String> {
    let read = |path: &Path| match path.to_str() {
        Some("u") => Ok("\"ann\" \"secret\"".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    set(config, key, value, &read)
}

#[test]
fn what_databases_follow_from_is_not_set_but_reloaded() {
    let running = good(&[URL], &[]);
    for value in ["postgres://other@other/", "rubbish", ""] {
        let refusal = "server.url cannot be changed by SET: write it in the file and RELOAD";
        assert_eq!(set_to(&running, "server.url", value).unwrap_err(), refusal);
    }
    assert!(!shown(&running, "server.url").unwrap().changeable);
    let new = good(&["postgres://other@other/"], &[]);
    assert_eq!(running.changed_without_restart(&new), [""; 0]);
    assert_eq!(running.reloaded(&new).databases[0].user.as_deref(), Some("other"));
}

#[test]
fn what_is_called_changeable_is_set_and_nothing_else() {
    let running = good(&[URL], &[]);
    for setting in SETTINGS {
        let name = setting.shown_name();
        // Secrets are not shown, and may all be empty.
        let value = if setting.secret { String::new() } else { setting.shown_value(&running) };
        let is_set = set_to(&running, name, &value).is_ok();
        assert_eq!(is_set, shown(&running, name).unwrap().changeable, "{name} = {value}");
    }
}

#[test]
fn without_an_auth_file_nobody_is_listed_any_more() {
    let running = good(&[URL], &[]);
    let listed = set_to(&running, "auth_file", "u").unwrap();
    assert_eq!(listed.userlist.as_ref().unwrap().reveal(), "\"ann\" \"secret\"");
    assert!(set_to(&listed, "auth_file", "").unwrap().userlist.is_none());
    assert!(set_to(&listed, "auth_file", "gone").is_err());
}

// Reload.

#[test]
fn a_reload_keeps_what_only_a_restart_applies_and_names_it() {
    let running = good(&[URL], &[]);
    let new = good(&[URL, "--listen=127.0.0.1:1", "--cache-size=9MB", "--max-age=9s"], &[]);
    assert_eq!(running.changed_without_restart(&new), ["listen_port", "cache.size"]);
    let reloaded = running.reloaded(&new);
    assert_eq!(reloaded.listen.listen_port, 6432);
    assert_eq!(reloaded.cache.size, Size::megabytes(256));
    assert_eq!(reloaded.cache.max_age, Duration::from_secs(9));
    assert_eq!(running.changed_without_restart(&reloaded), [""; 0]);
}

#[test]
fn a_reload_does_not_open_an_address_it_did_not_judge() {
    let running = good(&[URL, "--listen=0.0.0.0:6432"], &[]);
    let new = good(&["postgres://app@db"], &[]);
    assert_eq!(new.auth_type(), AuthType::Trust);
    let reloaded = running.reloaded(&new);
    assert_eq!(reloaded.listen.listen_addr, ["0.0.0.0"]);
    assert_eq!(reloaded.auth_type(), AuthType::ScramSha256);
    assert_eq!(running.changed_without_restart(&new), ["listen_addr", "auth_type"]);
}

#[test]
fn a_reload_asks_for_more_proof_wherever_it_listens() {
    let file = |auth_type| [("f.toml", format!("[auth]\nauth_type = \"{auth_type}\"\n"))];
    let load = |auth_type, address| {
        let file = file(auth_type);
        let file = [(file[0].0, file[0].1.as_str())];
        good(&[URL, "f.toml", &format!("--listen={address}:6432")], &file)
    };
    for before in ["any", "trust", "md5"] {
        let (running, new) = (load(before, "0.0.0.0"), load("scram-sha-256", "127.0.0.1"));
        assert_eq!(running.reloaded(&new).auth_type(), AuthType::ScramSha256, "{before}");
        assert_eq!(running.changed_without_restart(&new), ["listen_addr"]);
    }
}

#[test]
fn who_is_to_be_quiet_logs_errors_alone() {
    assert_eq!(good(&[URL, "-q", "--log-level=debug"], &[]).log.level, LogLevel::Error);
}

// Values.

#[test]
fn durations_and_sizes_are_read_with_and_without_units() {
    let check = |age: &str, milliseconds: u64, size: &str, bytes: u64| {
        let toml = format!("[cache]\nmax_age = {age}\nsize = {size}\n");
        let config = good(&[URL, "f.toml"], &[("f.toml", &toml)]);
        assert_eq!(config.cache.max_age, Duration::from_millis(milliseconds), "{age}");
        assert_eq!(config.cache.size.bytes(), bytes, "{size}");
    };
    check("60", 60_000, "2097152", 2 << 20);
    check("0.25", 250, "0x200000", 2 << 20);
    check("\"250ms\"", 250, "\"2MB\"", 2 << 20);
    check("\"5m\"", 300_000, "\"2048kB\"", 2 << 20);
    check("\"1.5 h\"", 5_400_000, "\"1GiB\"", 1 << 30);
    check("\"2d\"", 172_800_000, "\"1 gb\"", 1 << 30);
    check("\"7\"", 7_000, "\"1048576\"", 1 << 20);
}

#[test]
fn every_default_is_within_its_own_range() {
    // The reference file is read back with every range applied, so nothing else need be asked;
    // PgBouncer's defaults are not in it.
    for base in [Base::Forebay, Base::PgBouncer] {
        let defaults = Config::defaults(base);
        for setting in SETTINGS {
            let text = (setting.show)(&defaults, value::Style::Own);
            let mut config = Config::defaults(base);
            let read = (setting.read)(&mut config, &Raw::Untyped(text), setting.range);
            assert_eq!(read, Ok(()), "{}", setting.name);
            assert!((setting.same)(&config, &defaults), "{}", setting.name);
        }
    }
}

/// What random texts are made of.
const PIECES: &[&str] = &[
    "[pool]",
    "[databases]",
    "[pgbouncer]",
    "[cache]",
    "\n",
    "\n",
    "=",
    "=",
    " ",
    "'",
    "\"",
    "host",
    "max_age",
    "pool_mode",
    "x",
    "é",
    "\u{0}",
    "[",
    "]",
    "{",
    "}",
    "%",
    "%include ",
    "f",
    ",",
    "#",
    ";",
    "-1",
    "1e999",
    "99999999999999999999",
    "\"60s\"",
    "postgres://",
    "@",
    ":",
    "/",
    "?",
    "&",
    "%4",
    "[::1",
    "listen_addr",
    "\u{feff}",
    "2020-01-01",
    "\r\n",
    ".",
];

#[test]
fn no_text_makes_a_reader_panic() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..4_000 {
        let mut text = String::new();
        for _ in 0..random.random_range(0..30) {
            if random.random_range(0..8) == 0 {
                text.push(random.random());
            } else {
                text.push_str(PIECES[random.random_range(0..PIECES.len())]);
            }
        }
        let files = [("f", text.as_str()), ("f.toml", text.as_str())];
        let url = format!("postgres://{text}");
        for arguments in [["f", "f.toml"], [&url, "f.toml"], [URL, "--listen"], [&url, "f"]] {
            if let Err(exit) = load_with(&arguments, &files) {
                assert!(!exit.text.is_empty());
            }
        }
    }
}

#[test]
fn rules_are_read_with_the_place_of_every_mistake() {
    let toml = "[rules]\nlow = { table = \"a.b*\", deny = true }\n\
                slow = { statement = \"SELECT  *\", max_age = \"5s\", database = \"d\" }\n\
                all = { database = \"d\", max_age = 2 }\n";
    let rules = good(&[URL, "f.toml"], &[("f.toml", toml)]).rules;
    let relations = |schema: Option<&str>, name: &str| Subject::Relations {
        schema: schema.map(Pattern::new),
        name: Pattern::new(name),
    };
    let rule = |name: &str, subject, seconds: Option<u64>| Rule {
        name: name.to_owned(),
        database: (name != "low").then(|| "d".to_owned()),
        subject,
        deny: name == "low",
        max_age: seconds.map(Duration::from_secs),
    };
    assert_eq!(
        rules,
        [
            rule("low", relations(Some("a"), "b*"), None),
            rule("slow", Subject::Statements(Pattern::new("select *")), Some(5)),
            rule("all", relations(None, "*"), Some(2)),
        ]
    );
    let check = |entry: &str, text: &str| check_bad_toml(&format!("[rules]\nr = {entry}"), text);
    check("1", "4: rules.r: expected a table");
    check("{ table = \"t\" }", "4: rules.r: expected deny = true, or a max_age");
    check("{ deny = true }", "4: rules.r: expected a table, a schema, a statement or a database");
    check("{ tabel = \"t\" }", "4: rules.r.tabel: unknown key (did you mean table?)");
    check(
        "{ table = \"t\", max_age = 0 }",
        "4: rules.r.max_age: expected a duration such as \"60s\" from 1ms to 30d, found 0",
    );
    check(
        "{ schema = \"s\", table = \"s.t\", deny = true }",
        "4: rules.r: expected the schema once",
    );
    check(
        "{ statement = \"s\", table = \"s.t\", deny = true }",
        "4: rules.r: expected a table or a schema, or else a statement",
    );
    check_bad_toml(
        "[cache]\nfunctions = [\"a.b\", \"c\"]",
        "4: cache.functions: expected schema.name, found \"c\"",
    );
    check_bad_toml(
        "[cache]\nfunctions = \"pg_catalog.now\"",
        "4: cache.functions: expected functions of your own, found \"pg_catalog.now\"",
    );
}

#[test]
fn the_reference_names_what_databases_and_users_know() {
    let reference = reference();
    for key in database::DATABASE_KEYS.iter().chain(limits::USER_KEYS) {
        assert!(reference.contains(key), "{key}");
    }
}
