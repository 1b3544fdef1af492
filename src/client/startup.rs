//! From a client's first byte to its first ReadyForQuery: TLS, StartupMessage, authentication,
//! and the settings it asked for.

use std::collections::BTreeMap;

use crate::auth::{AuthError, ClientAuth, Progress, Random, ScramKeys};
use crate::server::settings::literal;
use crate::wire::backend::{self, Status};
use crate::wire::startup::{Replication, Startup};
use crate::wire::{Malformed, sqlstate};

use super::close::CloseReason;
use super::registry::Identity;

/// Parameters of the StartupMessage that are no settings.
const NO_SETTINGS: &[&str] = &["user", "database", "options", "replication"];

/// What PgBouncer keeps for each client, whatever is to be ignored.
const TRACKED: &[&str] = &[
    "application_name",
    "client_encoding",
    "datestyle",
    "standard_conforming_strings",
    "timezone",
];

/// Which startup parameters count.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// `ignore_startup_parameters`: accepted and forgotten, unless tracked. `options` among them
    /// are all those that the parameter `options` holds.
    pub ignored: &'a [String],
    /// `track_extra_parameters`.
    pub tracked: &'a [String],
}

impl Accepted<'_> {
    fn counts(&self, name: &str, in_options: bool) -> bool {
        let lists = |list: &[String], name: &str| {
            list.iter().any(|listed| listed.eq_ignore_ascii_case(name))
        };
        let ignored = lists(self.ignored, name) || in_options && lists(self.ignored, "options");
        TRACKED.contains(&name) || lists(self.tracked, name) || !ignored
    }
}

pub fn replication(startup: &Startup) -> Result<Replication, CloseReason> {
    startup.replication().map_err(|Malformed| {
        let value = startup.parameter("replication").unwrap_or_default();
        CloseReason::ServerLogin {
            sqlstate: sqlstate::INVALID_PARAMETER_VALUE.into(),
            message: format!("invalid value for parameter \"replication\": \"{value}\""),
        }
    })
}

/// The settings a client starts with, by lower-case name.
pub fn parameters(
    startup: &Startup,
    accepted: Accepted<'_>,
) -> Result<BTreeMap<String, String>, CloseReason> {
    let mut values = BTreeMap::new();
    let options = startup.parameter("options").map(parse_options).transpose()?;
    let options = options.into_iter().flatten().map(|(name, value)| (name, value, true));
    let parameters = startup.parameters.iter();
    let parameters = parameters.map(|(name, value)| (name.clone(), value.clone(), false));
    for (name, value, in_options) in options.chain(parameters) {
        let name = name.to_ascii_lowercase();
        let is_setting = !NO_SETTINGS.contains(&name.as_str()) && !name.starts_with("_pq_.");
        if is_setting && accepted.counts(&name, in_options) {
            values.insert(name, value);
        }
    }
    Ok(values)
}

/// The same as SQL that may follow `SET name TO`.
pub fn settings(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    parameters.iter().map(|(name, value)| (name.clone(), list_or_literal(name, value))).collect()
}

/// Settings that are lists: each element is a constant of its own after SET.
const LISTS: &[&str] =
    &["search_path", "datestyle", "temp_tablespaces", "session_preload_libraries"];

fn list_or_literal(name: &str, value: &str) -> String {
    if !LISTS.contains(&name) {
        return literal(value);
    }
    let elements: Vec<String> = value
        .split(',')
        .map(str::trim)
        .filter(|element| !element.is_empty())
        .map(|element| {
            match element.strip_prefix('"').and_then(|element| element.strip_suffix('"')) {
                Some(quoted) => literal(&quoted.replace("\"\"", "\"")),
                None => literal(&element.to_ascii_lowercase()),
            }
        })
        .collect();
    if elements.is_empty() { literal("") } else { elements.join(", ") }
}

const UNSUPPORTED_OPTIONS: &str = "unsupported options startup parameter: only '-c config=val' \
     and '--config=val' are allowed";

/// `-c name=value`, `-cname=value` and `--name=value`, blanks escaped by a backslash.
fn parse_options(options: &str) -> Result<Vec<(String, String)>, CloseReason> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            character if character.is_ascii_whitespace() => words.extend(word.take()),
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    let refused = || CloseReason::LoginFailed(UNSUPPORTED_OPTIONS.into());
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (None, Some("")) => words.next().ok_or_else(refused)?,
            (Some(pair), _) | (None, Some(pair)) => pair.to_owned(),
            (None, None) => return Err(refused()),
        };
        let (name, value) = pair.split_once('=').ok_or_else(refused)?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// `application_name_add_host`: `web - 10.0.0.7:4000`.
pub fn add_host(startup: &mut Startup, address: &str) {
    let is_name = |(name, _): &&mut (String, String)| name == "application_name";
    if let Some((_, name)) = startup.parameters.iter_mut().find(is_name) {
        name.extend([" - ", address]);
    } else {
        let name = format!("app - {address}");
        startup.parameters.push(("application_name".to_owned(), name));
    }
}

pub fn authenticated(out: &mut Vec<u8>) {
    backend::write_authentication(out, &0_i32.to_be_bytes());
}

/// The messages from AuthenticationOk, not included, to ReadyForQuery. `notice`:
/// `login_notify_message`.
pub fn welcome(
    out: &mut Vec<u8>,
    reported: &[(String, String)],
    identity: &Identity,
    notice: &str,
) {
    let Identity { pid, key } = identity;
    for (name, value) in reported {
        backend::write_parameter_status(out, name, value);
    }
    backend::write_backend_key_data(out, *pid, key);
    if !notice.is_empty() {
        backend::write_notice(out, notice);
    }
    backend::write_ready(out, Status::Idle);
}

/// One step of proving who the client is.
pub enum Proof {
    /// Sent what is in `out`; give me the next `p` message.
    Ask(ClientAuth),
    /// With what its proof gave away, if it was SCRAM's.
    Proven(Option<ScramKeys>),
    Refused(AuthError),
}

/// Takes what the authentication machine says into messages.
pub fn step(auth: ClientAuth, progress: Progress, out: &mut Vec<u8>) -> Proof {
    match progress {
        Progress::Continue(body) => {
            backend::write_authentication(out, &body);
            Proof::Ask(auth)
        }
        Progress::Done { last, keys } => {
            if let Some(body) = last {
                backend::write_authentication(out, &body);
            }
            Proof::Proven(keys)
        }
        Progress::Failed(error) => Proof::Refused(error),
    }
}

/// Fresh randomness for one authentication.
pub fn random(process: &[u8; 32], iterations: u32) -> Random<'_> {
    Random { process, nonce: rand::random(), md5_salt: rand::random(), iterations }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: &[(&str, &str)]) {
        let startup = Startup {
            minor: 0,
            parameters: vec![("options".into(), options.into()), ("user".into(), "ann".into())],
        };
        let accepted = Accepted { ignored: &[], tracked: &[] };
        let settings = settings(&parameters(&startup, accepted).unwrap());
        let found: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn options_are_read_as_postgres_reads_its_command_line() {
        check("-c search_path=sz", &[("search_path", "'sz'")]);
        check(
            "-cstatement_timeout=5s --lock-timeout=1",
            &[("lock_timeout", "'1'"), ("statement_timeout", "'5s'")],
        );
        check(r"-c app.x=a\ b", &[("app.x", "'a b'")]);
        check(
            r"  -c t\imezone=\E\u\r/x -cdat\estyle\=\Ge\rman,\ YMD",
            &[("datestyle", "'german', 'ymd'"), ("timezone", "'Eur/x'")],
        );
        check(r#"-c search_path=A,"B",c"#, &[("search_path", "'a', 'B', 'c'")]);
    }

    #[test]
    fn the_address_goes_behind_the_name_of_the_application() {
        let check = |parameters: &[(&str, &str)], expected: &str| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let parameters = parameters.iter().map(own).collect();
            let mut startup = Startup { minor: 0, parameters };
            add_host(&mut startup, "10.0.0.7:4000");
            assert_eq!(startup.parameter("application_name"), Some(expected));
        };
        check(&[("user", "ann"), ("application_name", "web")], "web - 10.0.0.7:4000");
        check(&[("user", "ann")], "app - 10.0.0.7:4000");
    }

    #[test]
    fn other_options_are_refused() {
        assert!(parse_options("-h").is_err());
        assert!(parse_options("-c novalue").is_err());
        assert!(parse_options("-c").is_err());
    }

    #[test]
    fn parameters_win_over_options_and_ignored_ones_vanish() {
        let startup = Startup {
            minor: 0,
            parameters: vec![
                ("options".into(), "-c TimeZone=UTC -c extra_float_digits=3".into()),
                ("TimeZone".into(), "Asia/Tokyo".into()),
            ],
        };
        let ignored = ["extra_float_digits".to_owned()];
        let settings = parameters(&startup, Accepted { ignored: &ignored, tracked: &[] }).unwrap();
        assert_eq!(settings, BTreeMap::from([("timezone".to_owned(), "Asia/Tokyo".to_owned())]));
    }

    #[test]
    fn ignored_options_are_those_that_pgbouncer_would_not_track() {
        let startup = Startup {
            minor: 0,
            parameters: vec![
                ("options".into(), "-c enable_seqscan=off -c work_mem=1MB -c TimeZone=UTC".into()),
                ("lock_timeout".into(), "5".into()),
            ],
        };
        let (ignored, tracked) = (["options".to_owned()], ["Work_Mem".to_owned()]);
        let accepted = Accepted { ignored: &ignored, tracked: &tracked };
        let names: Vec<String> = parameters(&startup, accepted).unwrap().into_keys().collect();
        assert_eq!(names, ["lock_timeout", "timezone", "work_mem"]);
    }
}
