//! The client half of SCRAM-SHA-256, towards servers: the driver's where the password is known,
//! our own where only keys are, which a client's proof gave away (pass-through).

use std::fmt;
use std::str;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use subtle::ConstantTimeEq;

use super::scram::{Key, NONCE_BYTES, ScramVerifier, hmac_sha256, xor};

/// How an exchange is tied to the connection under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// There is no TLS, or its certificate cannot be bound to.
    Impossible,
    /// We could, and the server has not offered it. One that did will notice the forgery.
    NotOffered,
    /// `tls-server-end-point`: the hash of the certificate that the server has shown.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// Our header: the binding, and no other identity.
    fn header(&self) -> &'static str {
        match self {
            Self::Impossible => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// What repeats the header later, with the data.
    fn repeated(&self) -> String {
        let data: &[u8] = match self {
            Self::Impossible | Self::NotOffered => &[],
            Self::EndPoint(hash) => hash,
        };
        BASE64.encode([self.header().as_bytes(), data].concat())
    }
}

/// What logs in wherever the stored verifier is the very one it was made with.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) verifier: Arc<ScramVerifier>,
    pub(super) client_key: Key,
}

/// Never prints the key.
impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(…)")
    }
}

/// Why the server's half of the exchange is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScramClientError {
    /// Not what the grammar wants at this point.
    Malformed { expected: &'static str },
    /// The server's nonce does not begin with ours.
    Nonce,
    /// The server stores another verifier than the one these keys belong to.
    OtherVerifier,
    /// The server does not know the verifier.
    WrongSignature,
    /// What the driver says of it.
    Driver(String),
}

impl fmt::Display for ScramClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { expected } => write!(f, "malformed message: no {expected}"),
            Self::Nonce => f.write_str("nonce does not match"),
            Self::OtherVerifier => f.write_str(
                "the server's verifier is not the one in the user list; \
                 copy it from pg_authid, or list the password itself",
            ),
            Self::WrongSignature => f.write_str("the server does not know the password"),
            Self::Driver(cause) => f.write_str(cause),
        }
    }
}

/// ```text
/// first_message ──→ prove(server-first) ──→ finish(server-final)
/// ```
pub(super) enum ScramClient {
    Password(ScramSha256),
    Keys { keys: ScramKeys, nonce: String, binding: Binding },
}

/// Waits for the server's proof.
pub(super) enum ScramProving {
    Password(ScramSha256),
    Keys { server_signature: Key },
}

impl ScramClient {
    pub(super) fn of_password(password: &str, binding: Binding) -> Self {
        // The driver's names for the first two are about the server.
        let binding = match binding {
            Binding::Impossible => ChannelBinding::unsupported(),
            Binding::NotOffered => ChannelBinding::unrequested(),
            Binding::EndPoint(hash) => ChannelBinding::tls_server_end_point(hash),
        };
        Self::Password(ScramSha256::new(password.as_bytes(), binding))
    }

    pub(super) fn of_keys(keys: ScramKeys, nonce: [u8; NONCE_BYTES], binding: Binding) -> Self {
        Self::Keys { keys, nonce: BASE64.encode(nonce), binding }
    }

    pub(super) fn first_message(&self) -> Vec<u8> {
        match self {
            Self::Password(driver) => driver.message().to_vec(),
            // PostgreSQL takes the user from the startup message, not from `n=`.
            Self::Keys { nonce, binding, .. } => {
                format!("{}n=,r={nonce}", binding.header()).into_bytes()
            }
        }
    }

    /// Takes server-first-message, returns client-final-message.
    pub(super) fn prove(
        self,
        challenge: &[u8],
    ) -> Result<(ScramProving, Vec<u8>), ScramClientError> {
        match self {
            Self::Password(mut driver) => {
                driver.update(challenge).map_err(|error| driver_error(&error))?;
                let message = driver.message().to_vec();
                Ok((ScramProving::Password(driver), message))
            }
            Self::Keys { keys, nonce, binding } => {
                prove_with_keys(&keys, &nonce, &binding, challenge)
            }
        }
    }
}

impl ScramProving {
    /// Takes server-final-message. Only after this does the server have proven anything.
    pub(super) fn finish(self, message: &[u8]) -> Result<(), ScramClientError> {
        match self {
            Self::Password(mut driver) => {
                driver.finish(message).map_err(|error| driver_error(&error))
            }
            Self::Keys { server_signature } => {
                let signature = message
                    .strip_prefix(b"v=")
                    .and_then(|text| BASE64.decode(text).ok())
                    .ok_or(ScramClientError::Malformed { expected: "signature" })?;
                let right = bool::from(signature.ct_eq(&server_signature));
                if right { Ok(()) } else { Err(ScramClientError::WrongSignature) }
            }
        }
    }
}

fn driver_error(error: &std::io::Error) -> ScramClientError {
    ScramClientError::Driver(error.to_string())
}

fn prove_with_keys(
    keys: &ScramKeys,
    client_nonce: &str,
    binding: &Binding,
    challenge: &[u8],
) -> Result<(ScramProving, Vec<u8>), ScramClientError> {
    let challenge =
        str::from_utf8(challenge).ok().ok_or(ScramClientError::Malformed { expected: "text" })?;
    let mut attributes = challenge.split(',');
    let mut attribute = |name: &str, expected| {
        attributes
            .next()
            .and_then(|attribute| attribute.strip_prefix(name))
            .ok_or(ScramClientError::Malformed { expected })
    };
    let nonce = attribute("r=", "nonce")?;
    let salt = attribute("s=", "salt")?;
    let iterations = attribute("i=", "iteration count")?;
    // A server that adds nothing to our nonce could replay what it once heard.
    if nonce.strip_prefix(client_nonce).is_none_or(str::is_empty) {
        return Err(ScramClientError::Nonce);
    }
    if !keys.verifier.has_salt(salt, iterations) {
        return Err(ScramClientError::OtherVerifier);
    }
    let without_proof = format!("c={},r={nonce}", binding.repeated());
    let auth_message = format!("n=,r={client_nonce},{challenge},{without_proof}");
    let client_signature = hmac_sha256(&keys.verifier.stored_key, &[auth_message.as_bytes()]);
    let proof = BASE64.encode(xor(keys.client_key, client_signature));
    let message = format!("{without_proof},p={proof}").into_bytes();
    let server_signature = hmac_sha256(&keys.verifier.server_key, &[auth_message.as_bytes()]);
    Ok((ScramProving::Keys { server_signature }, message))
}
