//! From a client's first byte to its first ReadyForQuery: TLS, StartupMessage, authentication,
//! and the settings it asked for.

use std::collections::BTreeMap;

use crate::auth::{ClientAuth, Progress, Random};
use crate::server::settings::literal;
use crate::wire::backend::{self, Status};
use crate::wire::startup::Startup;

use super::close::CloseReason;

/// Parameters of the StartupMessage that are no settings.
const NO_SETTINGS: &[&str] = &["user", "database", "options", "replication"];

/// The settings a client starts with, as SQL values; `ignored` are accepted and forgotten.
pub fn settings(
    startup: &Startup,
    ignored: &[String],
) -> Result<BTreeMap<String, String>, CloseReason> {
    let mut values = BTreeMap::new();
    let options = startup.parameter("options").map(parse_options).transpose()?;
    let parameters = startup.parameters.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in options.into_iter().flatten().chain(parameters) {
        let name = name.to_ascii_lowercase();
        let is_setting = !NO_SETTINGS.contains(&name.as_str())
            && !name.starts_with("_pq_.")
            && !ignored.iter().any(|ignored| ignored.eq_ignore_ascii_case(&name));
        if is_setting {
            let sql = list_or_literal(&name, &value);
            values.insert(name, sql);
        }
    }
    Ok(values)
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
                None => literal(&element.to_lowercase()),
            }
        })
        .collect();
    if elements.is_empty() { literal("") } else { elements.join(", ") }
}

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
    let refused = || CloseReason::LoginFailed(format!("unsupported options: {options}"));
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

/// The messages from AuthenticationOk to ReadyForQuery. `notice`: `login_notify_message`.
pub fn welcome(
    out: &mut Vec<u8>,
    reported: &[(String, String)],
    (pid, key): (u32, &[u8]),
    notice: &str,
) {
    backend::write_authentication(out, &0_i32.to_be_bytes());
    for (name, value) in reported {
        backend::write_parameter_status(out, name, value);
    }
    backend::write_backend_key_data(out, pid, key);
    if !notice.is_empty() {
        backend::write_notice(out, notice);
    }
    backend::write_ready(out, Status::Idle);
}

/// One step of proving who the client is.
pub enum Proof {
    /// Sent what is in `out`; give me the next `p` message.
    Ask(ClientAuth),
    Proven,
    Refused(CloseReason),
}

/// Takes what the authentication machine says into messages.
pub fn step(auth: ClientAuth, progress: Progress, user: &str, out: &mut Vec<u8>) -> Proof {
    match progress {
        Progress::Continue(body) => {
            backend::write_authentication(out, &body);
            Proof::Ask(auth)
        }
        Progress::Done { last, .. } => {
            if let Some(body) = last {
                backend::write_authentication(out, &body);
            }
            Proof::Proven
        }
        Progress::Failed(_) => {
            Proof::Refused(CloseReason::PasswordFailed { user: user.to_owned() })
        }
    }
}

/// Fresh randomness for one authentication.
pub fn random(process: &[u8; 32]) -> Random<'_> {
    Random { process, nonce: rand::random(), md5_salt: rand::random() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: &[(&str, &str)]) {
        let startup = Startup {
            minor: 0,
            parameters: vec![("options".into(), options.into()), ("user".into(), "ann".into())],
        };
        let settings = settings(&startup, &[]).unwrap();
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
        let settings = settings(&startup, &["extra_float_digits".into()]).unwrap();
        assert_eq!(settings.get("timezone").map(String::as_str), Some("'Asia/Tokyo'"));
        assert_eq!(settings.len(), 1);
    }
}
