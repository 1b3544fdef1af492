//! Proving to PostgreSQL who we are: the side of authentication that answers.
//!
//! The server is not trusted: it may be another one than we were told of. So an answer is only
//! given to a question that fits, and a SCRAM exchange counts only when the server has proven that
//! it knows the password too.

use std::fmt;
use std::mem;

use super::code;
use super::md5::Md5Hash;
use super::scram::{MECHANISM, MECHANISM_PLUS, NONCE_BYTES};
use super::scram_client::{Binding, ScramClient, ScramClientError, ScramKeys, ScramProving};
use super::userlist::{Password, Secret};

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerProgress {
    /// Send this as the body of a `p` message, then go on reading.
    Answer(Vec<u8>),
    /// Nothing to send; go on reading.
    Wait,
    /// `AuthenticationOk`.
    Done,
    Failed(ServerAuthError),
}

/// Why we cannot log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAuthError {
    /// Nothing is stored for this user, and the server asks for it.
    NoSecret { method: &'static str },
    /// What is stored cannot answer this method: a hash where the password itself is needed.
    WrongSecretType { method: &'static str },
    /// A method that Forebay does not speak.
    Unsupported { method: &'static str, code: i32 },
    /// None of the mechanisms is ours; their names, for the log.
    NoMechanism { offered: String },
    /// The message ends early or holds what it must not.
    Malformed { method: &'static str },
    /// A message that may not come now; a server that skips the end of SCRAM among them.
    Unexpected { method: &'static str },
    /// The server failed to prove that it knows the password, or broke the exchange.
    Scram(ScramClientError),
}

impl fmt::Display for ServerAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSecret { method } => {
                write!(f, "server asks for {method} and no password is configured")
            }
            Self::WrongSecretType { method } => {
                write!(f, "wrong password type: the stored secret cannot answer {method}")
            }
            Self::Unsupported { method, code } => {
                write!(f, "server asks for {method} (code {code}), which is not supported")
            }
            Self::NoMechanism { offered } => {
                write!(f, "server offers no SASL mechanism but {offered:?}; {MECHANISM} is needed")
            }
            Self::Malformed { method } => write!(f, "malformed {method} request from server"),
            Self::Unexpected { method } => write!(f, "unexpected {method} from server"),
            Self::Scram(cause) => write!(f, "SCRAM with server failed: {cause}"),
        }
    }
}

impl std::error::Error for ServerAuthError {}

/// ```text
/// Start ─┬─ Ok ─────────────────────────────────────────────────────────→ Finished
///        ├─ CleartextPassword, MD5Password ──→ Answered ── Ok ──────────→ Finished
///        └─ SASL ──→ Challenged ── SASLContinue ──→ Proving ── SASLFinal ──→ Answered
/// ```
pub struct ServerAuth {
    user: String,
    secret: Option<Secret>,
    keys: Option<(ScramKeys, [u8; NONCE_BYTES])>,
    /// `tls-server-end-point` of the connection, if it has one.
    end_point: Option<Vec<u8>>,
    state: State,
}

enum State {
    Start,
    Challenged(ScramClient),
    Proving(ScramProving),
    /// All is said; `AuthenticationOk` or an error comes next.
    Answered,
    Finished,
}

impl ServerAuth {
    /// `user` is the one of the startup message; `secret` what is stored for it.
    pub fn begin(user: &str, secret: Option<&Secret>) -> Self {
        Self {
            user: user.to_owned(),
            secret: secret.cloned(),
            keys: None,
            end_point: None,
            state: State::Start,
        }
    }

    /// Ties SCRAM to the TLS connection whose `tls-server-end-point` this is, where the server
    /// offers that.
    #[must_use]
    pub fn with_end_point(mut self, end_point: Option<Vec<u8>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// Answers SCRAM with what the same user's client gave away at its log-in, unless a password
    /// is stored. Never mix users here: keys log in as whoever they belong to.
    #[must_use]
    pub fn with_keys(mut self, keys: ScramKeys, nonce: [u8; NONCE_BYTES]) -> Self {
        self.keys = Some((keys, nonce));
        self
    }

    /// Takes the body of an `AuthenticationRequest` (`R`). After `Done` or `Failed` every
    /// further request fails.
    pub fn handle(&mut self, body: &[u8]) -> ServerProgress {
        let state = mem::replace(&mut self.state, State::Finished);
        match self.step(state, body) {
            Ok((state, progress)) => {
                self.state = state;
                progress
            }
            Err(error) => ServerProgress::Failed(error),
        }
    }

    fn step(&self, state: State, body: &[u8]) -> Result<(State, ServerProgress), ServerAuthError> {
        let (code, payload) = body
            .split_first_chunk::<4>()
            .ok_or(ServerAuthError::Malformed { method: "authentication" })?;
        let code = i32::from_be_bytes(*code);
        match (code, state) {
            (code::OK, State::Start | State::Answered) => {
                empty(code, payload)?;
                Ok((State::Finished, ServerProgress::Done))
            }
            (code::CLEARTEXT_PASSWORD, State::Start) => {
                empty(code, payload)?;
                let answer = cstring(self.password(code)?.as_str());
                Ok((State::Answered, ServerProgress::Answer(answer)))
            }
            (code::MD5_PASSWORD, State::Start) => {
                let answer = cstring(&self.md5_answer(payload)?);
                Ok((State::Answered, ServerProgress::Answer(answer)))
            }
            (code::SASL, State::Start) => {
                let (scram, answer) = self.begin_scram(payload)?;
                Ok((State::Challenged(scram), ServerProgress::Answer(answer)))
            }
            (code::SASL_CONTINUE, State::Challenged(scram)) => {
                let (scram, answer) = scram.prove(payload).map_err(ServerAuthError::Scram)?;
                Ok((State::Proving(scram), ServerProgress::Answer(answer)))
            }
            (code::SASL_FINAL, State::Proving(scram)) => {
                scram.finish(payload).map_err(ServerAuthError::Scram)?;
                Ok((State::Answered, ServerProgress::Wait))
            }
            (
                code,
                State::Start
                | State::Challenged(_)
                | State::Proving(_)
                | State::Answered
                | State::Finished,
            ) => Err(refusal(code)),
        }
    }

    fn password(&self, code: i32) -> Result<&Password, ServerAuthError> {
        let method = method_name(code);
        match &self.secret {
            Some(Secret::Plain(password)) if !password.as_str().is_empty() => Ok(password),
            Some(Secret::Md5(_) | Secret::Scram(_)) => {
                Err(ServerAuthError::WrongSecretType { method })
            }
            Some(Secret::Plain(_)) | None => Err(ServerAuthError::NoSecret { method }),
        }
    }

    fn md5_answer(&self, payload: &[u8]) -> Result<String, ServerAuthError> {
        let code = code::MD5_PASSWORD;
        let salt: [u8; 4] = <[u8; 4]>::try_from(payload)
            .ok()
            .ok_or(ServerAuthError::Malformed { method: method_name(code) })?;
        if let Some(Secret::Md5(hash)) = &self.secret {
            return Ok(hash.answer(salt));
        }
        let password = self.password(code)?.as_str().as_bytes();
        Ok(Md5Hash::of_password(&self.user, password).answer(salt))
    }

    fn begin_scram(&self, payload: &[u8]) -> Result<(ScramClient, Vec<u8>), ServerAuthError> {
        let offers = |mechanism: &str| {
            mechanisms(payload).map(|mut names| names.any(|name| name == mechanism.as_bytes()))
        };
        let (mechanism, binding) = match &self.end_point {
            Some(hash) if offers(MECHANISM_PLUS)? => {
                (MECHANISM_PLUS, Binding::EndPoint(hash.clone()))
            }
            Some(_) => (MECHANISM, Binding::NotOffered),
            None => (MECHANISM, Binding::Impossible),
        };
        if !offers(mechanism)? {
            let offered = mechanisms(payload)?
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect::<Vec<_>>()
                .join(" ");
            return Err(ServerAuthError::NoMechanism { offered });
        }
        let scram = match (self.password(code::SASL), &self.keys) {
            (Ok(password), _) => ScramClient::of_password(password.as_str(), binding),
            (Err(_), Some((keys, nonce))) => ScramClient::of_keys(keys.clone(), *nonce, binding),
            (Err(error), None) => return Err(error),
        };
        let message = scram.first_message();
        let length = i32::try_from(message.len())
            .ok()
            .ok_or(ServerAuthError::Malformed { method: MECHANISM })?;
        let mut answer = cstring(mechanism);
        answer.extend(length.to_be_bytes());
        answer.extend(message);
        Ok((scram, answer))
    }
}

/// The names in an `AuthenticationSASL`: each ends with a zero, and so does the list.
fn mechanisms(payload: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ServerAuthError> {
    let names = payload
        .strip_suffix(b"\0\0")
        .ok_or(ServerAuthError::Malformed { method: method_name(code::SASL) })?;
    Ok(names.split(|byte| *byte == 0))
}

fn cstring(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn empty(code: i32, payload: &[u8]) -> Result<(), ServerAuthError> {
    if payload.is_empty() {
        Ok(())
    } else {
        Err(ServerAuthError::Malformed { method: method_name(code) })
    }
}

/// What is wrong with a request that the present state has no use for.
fn refusal(code: i32) -> ServerAuthError {
    let method = method_name(code);
    match code {
        code::OK
        | code::CLEARTEXT_PASSWORD
        | code::MD5_PASSWORD
        | code::SASL
        | code::SASL_CONTINUE
        | code::SASL_FINAL => ServerAuthError::Unexpected { method },
        _ => ServerAuthError::Unsupported { method, code },
    }
}

fn method_name(code: i32) -> &'static str {
    match code {
        code::OK => "AuthenticationOk",
        2 => "Kerberos V5 authentication",
        code::CLEARTEXT_PASSWORD => "a cleartext password",
        4 => "crypt authentication",
        code::MD5_PASSWORD => "md5 authentication",
        6 => "SCM credential authentication",
        7 | 8 => "GSSAPI authentication",
        9 => "SSPI authentication",
        code::SASL => "SASL authentication",
        code::SASL_CONTINUE => "AuthenticationSASLContinue",
        code::SASL_FINAL => "AuthenticationSASLFinal",
        _ => "an unknown authentication method",
    }
}
