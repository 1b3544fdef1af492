//! From the first byte to the first ReadyForQuery, as a machine over whole messages.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::fmt;

use crate::auth::{Knowledge, ServerAuth, ServerAuthError, ServerProgress, scram};
use crate::wire::Reader;
use crate::wire::backend;
use crate::wire::startup::{CANCEL_KEY_BYTES_MAX, MINOR};

/// What a finished login has told us.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    pub pid: u32,
    pub cancel_key: Vec<u8>,
    /// ParameterStatus, in order.
    pub reported: Vec<(String, String)>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// Send this as the body of a `p` message.
    Answer(Vec<u8>),
    Done(LoggedIn),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// PostgreSQL said no.
    Refused {
        sqlstate: String,
        message: String,
    },
    Auth(ServerAuthError),
    UnexpectedMessage {
        tag: u8,
    },
    Malformed {
        tag: u8,
    },
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. } => f.write_str(message),
            Self::Auth(error) => error.fmt(f),
            Self::UnexpectedMessage { tag } => {
                write!(f, "unexpected message type {tag} during login")
            }
            Self::Malformed { tag } => write!(f, "malformed message type {tag} during login"),
        }
    }
}

pub struct Login {
    auth: ServerAuth,
    authenticated: bool,
    logged_in: LoggedIn,
}

impl Login {
    /// `nonce` is for SCRAM with keys; `end_point` ties SCRAM to the connection.
    pub fn new(
        user: &str,
        knowledge: Knowledge,
        nonce: [u8; scram::NONCE_BYTES],
        end_point: Option<Vec<u8>>,
    ) -> Self {
        let auth = ServerAuth::begin(user, knowledge.secret.as_ref()).with_end_point(end_point);
        let auth = match knowledge.keys {
            Some(keys) => auth.with_keys(keys, nonce),
            None => auth,
        };
        Self { auth, authenticated: false, logged_in: LoggedIn::default() }
    }

    pub fn handle(&mut self, tag: u8, body: &[u8]) -> Result<Step, LoginError> {
        let malformed = LoginError::Malformed { tag };
        match tag {
            backend::AUTHENTICATION if !self.authenticated => match self.auth.handle(body) {
                ServerProgress::Answer(answer) => Ok(Step::Answer(answer)),
                ServerProgress::Wait => Ok(Step::More),
                ServerProgress::Done => {
                    self.authenticated = true;
                    Ok(Step::More)
                }
                ServerProgress::Failed(error) => Err(LoginError::Auth(error)),
            },
            backend::ERROR_RESPONSE => {
                let field = |field| {
                    let text = backend::error_field(body, field).unwrap_or_default();
                    String::from_utf8_lossy(text).into_owned()
                };
                Err(LoginError::Refused { sqlstate: field(b'C'), message: field(b'M') })
            }
            backend::NOTICE_RESPONSE => Ok(Step::More),
            // It has no newer version than it says; what that changes is the length of its key.
            backend::NEGOTIATE_PROTOCOL_VERSION if !self.authenticated => {
                match backend::negotiate(body) {
                    Ok(minor) if minor <= MINOR => Ok(Step::More),
                    Ok(_) | Err(_) => Err(malformed),
                }
            }
            backend::PARAMETER_STATUS if self.authenticated => {
                let (name, value) = backend::parameter_status(body).or(Err(malformed))?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                self.logged_in.reported.push((text(name), text(value)));
                Ok(Step::More)
            }
            backend::BACKEND_KEY_DATA if self.authenticated => {
                let mut reader = Reader::new(body);
                self.logged_in.pid = reader.u32().or(Err(malformed))?;
                let key = reader.rest();
                if key.len() > CANCEL_KEY_BYTES_MAX {
                    return Err(LoginError::Malformed { tag });
                }
                self.logged_in.cancel_key = key.to_vec();
                Ok(Step::More)
            }
            backend::READY_FOR_QUERY if self.authenticated => {
                Ok(Step::Done(std::mem::take(&mut self.logged_in)))
            }
            _ => Err(LoginError::UnexpectedMessage { tag }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login::new("ann", Knowledge::default(), [0; scram::NONCE_BYTES], None)
    }

    #[test]
    fn a_trusting_server_logs_us_in() {
        let mut login = login();
        assert_eq!(login.handle(b'R', &[0, 0, 0, 0]), Ok(Step::More));
        assert_eq!(login.handle(b'S', b"TimeZone\0UTC\0"), Ok(Step::More));
        assert_eq!(login.handle(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]), Ok(Step::More));
        let Ok(Step::Done(logged_in)) = login.handle(b'Z', b"I") else { panic!("not done") };
        assert_eq!(logged_in.pid, 7);
        assert_eq!(logged_in.cancel_key, [1, 2, 3, 4]);
        assert_eq!(logged_in.reported, [("TimeZone".into(), "UTC".into())]);
    }

    #[test]
    fn an_older_server_says_so_and_a_newer_one_has_long_keys() {
        let mut login = login();
        assert_eq!(login.handle(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]), Ok(Step::More));
        let newer = login.handle(b'v', &[0, 3, 0, 3, 0, 0, 0, 0]);
        assert_eq!(newer, Err(LoginError::Malformed { tag: b'v' }));
        login.handle(b'R', &[0, 0, 0, 0]).unwrap();
        assert_eq!(login.handle(b'K', &[7; 4 + 256]), Ok(Step::More));
        let longer = login.handle(b'K', &[7; 4 + 257]);
        assert_eq!(longer, Err(LoginError::Malformed { tag: b'K' }));
    }

    #[test]
    fn ready_before_authentication_is_refused() {
        let mut login = login();
        assert_eq!(login.handle(b'Z', b"I"), Err(LoginError::UnexpectedMessage { tag: b'Z' }));
    }

    #[test]
    fn a_refusal_keeps_its_code_and_sentence() {
        let mut login = login();
        let error = login.handle(b'E', b"SFATAL\0C28000\0Mno entry\0\0");
        let refused = LoginError::Refused { sqlstate: "28000".into(), message: "no entry".into() };
        assert_eq!(error, Err(refused));
    }
}
