//! The reference of every setting, as a TOML file at the defaults: `config/forebay.toml`.

use super::{Applies, Base, Config, SECTIONS, SETTINGS, Setting, value::Style};

const HEADER: &str = "\
# Every setting of Forebay at its default. Durations are \"250ms\", \"60s\", \"5m\", \"1h\" or a
# number of seconds; sizes are \"64kB\", \"256MB\", \"1GB\" (powers of 1024) or a number of bytes.
# RELOAD on the console and SIGHUP apply changes, except where it says (restart).
";

const DATABASES: &str = "
# Databases one by one, instead of or beside server.url; \"*\" is every other name. An entry knows
# host, port, dbname, user, password, application_name, auth_dbname, auth_query, auth_user,
# client_encoding, connect_query, datestyle, load_balance_hosts, max_db_client_connections,
# max_db_connections, min_pool_size, options, pool_mode, pool_size, query_wait_timeout,
# reserve_pool, reserve_pool_size, server_lifetime, slow_threshold, timezone; one of [users]
# client_idle_timeout, idle_transaction_timeout, max_user_client_connections,
# max_user_connections, pool_mode, pool_size, query_timeout, query_wait_timeout,
# reserve_pool_size, slow_threshold and transaction_timeout.
# Peers by their peer_id: each at an address at which that process alone is reached.
# Rules say what is never kept, or not for long: by table (with all that is read through it or
# beside it), by schema, or by statement. A * stands for anything, and in a statement where its
# values are. A statement may say so itself in the comment it begins with: /* forebay:nocache */
# or /* forebay:max_age=5s */.
# [databases]
# shop = { host = \"10.0.0.5\", port = 5432, dbname = \"shop_v2\", pool_size = 40 }
# \"*\" = { host = \"10.0.0.6\", user = \"app\", password = \"secret\", pool_mode = \"session\" }
# [users]
# reports = { pool_mode = \"session\", pool_size = 5, query_timeout = \"5m\" }
# [peers]
# 2 = { host = \"/run/forebay2\", port = 6432 }
# [rules]
# audited = { table = \"payroll.*\", deny = true }
# prices = { database = \"shop\", table = \"prices\", max_age = \"5s\" }
# reports = { statement = \"select count(*) from orders*\", max_age = \"10s\" }
";

/// The text of `config/forebay.toml`.
pub fn reference() -> String {
    let defaults = Config::defaults(Base::Forebay);
    let mut text = HEADER.to_owned();
    for (section, doc) in SECTIONS {
        text.push('\n');
        comment(&mut text, doc);
        text.extend(["[", section, "]\n"]);
        for setting in SETTINGS.iter().filter(|setting| setting.section == *section) {
            comment(&mut text, setting.doc);
            if let Some(bounds) = bounds(setting) {
                text.extend(["# ", &bounds, "\n"]);
            }
            let value = (setting.show)(&defaults, Style::Toml);
            text.extend([setting.key, " = ", &value, "\n"]);
        }
    }
    text.push_str(DATABASES);
    text
}

fn comment(text: &mut String, doc: &[&str]) {
    for line in doc {
        text.extend(["#", line, "\n"]);
    }
}

/// Range and restart, if there is anything to say.
fn bounds(setting: &Setting) -> Option<String> {
    let range = (setting.range_words)(setting.range).map(|mut words| {
        if let Some(first) = words.get_mut(0..1) {
            first.make_ascii_uppercase();
        }
        format!("{words}.")
    });
    let restart = (setting.applies == Applies::AtStart).then(|| "(restart)".to_owned());
    match (range, restart) {
        (Some(range), Some(restart)) => Some(format!("{range} {restart}")),
        (range, restart) => range.or(restart),
    }
}
