//! Who a client says it is, proven or not: the side of authentication that asks.
//!
//! Invariant: an unknown user and a wrong password get the same messages for as long as the
//! client can see them (`tests::an_unknown_user_and_a_wrong_password_look_the_same`). Two things
//! still tell users apart, as they do in PostgreSQL and PgBouncer: `Md5` asks users with a SCRAM
//! verifier for SCRAM, and a verifier may carry an uncommon number of iterations.

use std::fmt;
use std::sync::Arc;

use super::md5::Md5Hash;
use super::scram::{self, ExpectClientFinal, ExpectClientFirst, ScramError, ScramVerifier};
use super::scram_client::ScramKeys;
use super::userlist::Secret;
use super::{PASSWORD_BYTES_MAX, code, request};

/// What a client is asked for; PgBouncer's `auth_type` after HBA rules were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing, but the user has to be known.
    Trust,
    /// md5, or SCRAM where the secret is a SCRAM verifier.
    Md5,
    Scram,
    /// The password in the clear.
    Plain,
}

/// The randomness of one authentication.
#[derive(Clone, Copy)]
pub struct Random<'a> {
    /// Lives as long as the process: unknown users get challenges derived from it.
    pub process: &'a [u8; 32],
    pub nonce: [u8; scram::NONCE_BYTES],
    pub md5_salt: [u8; 4],
    /// Of verifiers that do not exist: as many as those have that are made here.
    pub iterations: u32,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send this `AuthenticationRequest` body and wait for the client's answer.
    Continue(Vec<u8>),
    /// The client is who it says. Send `last`, if any, then `AuthenticationOk`.
    Done {
        last: Option<Vec<u8>>,
        /// SCRAM only: what the client's proof gave away, for `ServerAuth::with_keys`.
        keys: Option<ScramKeys>,
    },
    Failed(AuthError),
}

/// Why a client was not let in. For the log; clients are told `AuthError::message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    UnknownUser(Method),
    WrongPassword(Method),
    /// The stored secret cannot be used with this method: an md5 hash for SCRAM.
    WrongSecretType,
    /// The listed password is empty, which lets nobody in.
    EmptySecret(Method),
    /// A password message that is not one.
    Malformed,
    /// The client broke the SCRAM exchange.
    Scram(ScramError),
    /// A message after the outcome.
    Finished,
}

impl AuthError {
    /// SQLSTATE and sentence for the client: nothing in it tells a wrong user from a wrong
    /// password. PgBouncer's words.
    pub fn message(self) -> (&'static str, &'static str) {
        const INVALID_PASSWORD: &str = "28P01";
        const PROTOCOL_VIOLATION: &str = "08P01";
        match self {
            Self::UnknownUser(method) | Self::WrongPassword(method) | Self::EmptySecret(method) => {
                let sentence = match method {
                    Method::Trust => "\"trust\" authentication failed",
                    Method::Scram => "SASL authentication failed",
                    Method::Md5 | Method::Plain => "password authentication failed",
                };
                (INVALID_PASSWORD, sentence)
            }
            Self::WrongSecretType => (INVALID_PASSWORD, "SASL authentication failed"),
            Self::Malformed => (PROTOCOL_VIOLATION, "invalid password packet"),
            Self::Scram(_) => (PROTOCOL_VIOLATION, "malformed SASL message"),
            Self::Finished => (PROTOCOL_VIOLATION, "unexpected password message"),
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUser(method) => write!(f, "no such user (method {method:?})"),
            Self::WrongPassword(method) => write!(f, "wrong password (method {method:?})"),
            Self::WrongSecretType => f.write_str("wrong password type: SCRAM cannot use md5"),
            Self::EmptySecret(_) => f.write_str("the listed password is empty"),
            Self::Malformed => f.write_str("malformed password message"),
            Self::Scram(error) => error.fmt(f),
            Self::Finished => f.write_str("password message after the outcome"),
        }
    }
}

impl std::error::Error for AuthError {}

/// ```text
/// begin ─┬─ trust ────────────────────────────────────────────────→ Finished
///        ├─ ExpectPassword ── password ───────────────────────────→ Finished
///        ├─ ExpectMd5 ── md5 answer ──────────────────────────────→ Finished
///        └─ ExpectFirst ── client-first ──→ ExpectFinal ── proof ──→ Finished
/// ```
pub struct ClientAuth(State);

enum State {
    ExpectPassword { user: String, secret: Result<Secret, AuthError> },
    ExpectMd5 { salt: [u8; 4], secret: Result<Md5Hash, AuthError> },
    ExpectFirst { machine: ExpectClientFirst, refusal: AuthError },
    ExpectFinal { machine: ExpectClientFinal, refusal: AuthError },
    Finished,
}

impl ClientAuth {
    /// Starts with what is known of the user; `None`: the user is unknown, and is asked as if it
    /// were known (not with `Trust`, where there is nothing to ask).
    ///
    /// A listed user with an empty password passes `Trust` alone.
    pub fn begin(
        method: Method,
        user: &str,
        secret: Option<&Secret>,
        random: &Random<'_>,
    ) -> (Self, Progress) {
        match (method, secret) {
            (Method::Trust, Some(_)) => {
                (Self(State::Finished), Progress::Done { last: None, keys: None })
            }
            (Method::Trust, None) => {
                let error = AuthError::UnknownUser(method);
                (Self(State::Finished), Progress::Failed(error))
            }
            (Method::Plain, secret) => {
                let secret = secret.cloned().ok_or(AuthError::UnknownUser(method));
                let state = State::ExpectPassword { user: user.to_owned(), secret };
                (Self(state), Progress::Continue(request(code::CLEARTEXT_PASSWORD, &[])))
            }
            (Method::Md5, Some(Secret::Scram(_))) | (Method::Scram, _) => {
                Self::begin_scram(user, secret, random)
            }
            (Method::Md5, Some(Secret::Md5(hash))) => Self::begin_md5(Ok(hash.clone()), random),
            (Method::Md5, Some(Secret::Plain(password))) => {
                let hash = match password.as_str() {
                    "" => Err(AuthError::EmptySecret(method)),
                    text => Ok(Md5Hash::of_password(user, text.as_bytes())),
                };
                Self::begin_md5(hash, random)
            }
            (Method::Md5, None) => Self::begin_md5(Err(AuthError::UnknownUser(method)), random),
        }
    }

    fn begin_md5(secret: Result<Md5Hash, AuthError>, random: &Random<'_>) -> (Self, Progress) {
        let salt = random.md5_salt;
        let state = State::ExpectMd5 { salt, secret };
        (Self(state), Progress::Continue(request(code::MD5_PASSWORD, &salt)))
    }

    fn begin_scram(user: &str, secret: Option<&Secret>, random: &Random<'_>) -> (Self, Progress) {
        // `refusal` is what a wrong proof means. A mock verifier fits no proof, so its exchange
        // always ends with it.
        let known = match secret {
            None => Err(AuthError::UnknownUser(Method::Scram)),
            Some(Secret::Md5(_)) => Err(AuthError::WrongSecretType),
            Some(Secret::Scram(verifier)) => Ok(verifier),
            Some(Secret::Plain(password)) => {
                password.verifier().ok_or(AuthError::EmptySecret(Method::Scram))
            }
        };
        let (verifier, refusal) = match known {
            Ok(verifier) => (Arc::clone(verifier), AuthError::WrongPassword(Method::Scram)),
            Err(refusal) => {
                let mock = ScramVerifier::mock(random.process, user, random.iterations);
                (Arc::new(mock), refusal)
            }
        };
        let machine = ExpectClientFirst::new(verifier, random.nonce);
        let mut mechanisms = scram::MECHANISM.as_bytes().to_vec();
        // One zero ends the name, one ends the list.
        mechanisms.extend([0, 0]);
        let first = Progress::Continue(request(code::SASL, &mechanisms));
        (Self(State::ExpectFirst { machine, refusal }), first)
    }

    /// Takes the body of the client's next `p` message. After `Done` or `Failed` the
    /// conversation is over, and every further message fails.
    pub fn respond(&mut self, body: &[u8]) -> Progress {
        let state = std::mem::replace(&mut self.0, State::Finished);
        let outcome = match state {
            State::ExpectPassword { user, secret } => check_password(&user, secret, body),
            State::ExpectMd5 { salt, secret } => check_md5(salt, secret, body),
            State::ExpectFirst { machine, refusal } => scram::initial_response(body)
                .and_then(|message| machine.client_first(message))
                .map_err(|error| scram_error(error, refusal))
                .map(|(machine, challenge)| {
                    self.0 = State::ExpectFinal { machine, refusal };
                    Progress::Continue(request(code::SASL_CONTINUE, &challenge))
                }),
            State::ExpectFinal { machine, refusal } => machine
                .client_final(body)
                .map_err(|error| scram_error(error, refusal))
                .map(|proven| Progress::Done {
                    last: Some(request(code::SASL_FINAL, &proven.server_final)),
                    keys: Some(ScramKeys {
                        verifier: proven.verifier,
                        client_key: proven.client_key,
                    }),
                }),
            State::Finished => Err(AuthError::Finished),
        };
        outcome.unwrap_or_else(Progress::Failed)
    }
}

fn scram_error(error: ScramError, refusal: AuthError) -> AuthError {
    if error == ScramError::WrongProof { refusal } else { AuthError::Scram(error) }
}

fn check_password(
    user: &str,
    secret: Result<Secret, AuthError>,
    body: &[u8],
) -> Result<Progress, AuthError> {
    let password = password_text(body)?;
    let right = match secret? {
        Secret::Plain(stored) if stored.as_str().is_empty() => {
            return Err(AuthError::EmptySecret(Method::Plain));
        }
        Secret::Plain(stored) => stored.accepts(password),
        Secret::Md5(hash) => hash.accepts_password(user, password),
        Secret::Scram(verifier) => verifier.accepts_password(password),
    };
    passed(right && !password.is_empty(), Method::Plain)
}

fn check_md5(
    salt: [u8; 4],
    secret: Result<Md5Hash, AuthError>,
    body: &[u8],
) -> Result<Progress, AuthError> {
    let answer = password_text(body)?;
    passed(secret?.accepts(salt, answer), Method::Md5)
}

fn passed(right: bool, method: Method) -> Result<Progress, AuthError> {
    if right {
        Ok(Progress::Done { last: None, keys: None })
    } else {
        Err(AuthError::WrongPassword(method))
    }
}

/// The text of a `PasswordMessage`: ends with the message's only zero byte.
fn password_text(body: &[u8]) -> Result<&[u8], AuthError> {
    match body.split_last() {
        Some((0, text)) if text.len() <= PASSWORD_BYTES_MAX && !text.contains(&0) => Ok(text),
        Some(_) | None => Err(AuthError::Malformed),
    }
}
