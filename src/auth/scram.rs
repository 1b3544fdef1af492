//! The server half of SCRAM-SHA-256 (RFC 5802, RFC 7677), as PostgreSQL speaks it: two states,
//! each consumed by the message it waits for. Nonces come in as arguments. Channel binding is not
//! offered to clients. The client half, towards servers, is in `super::scram_client`.

use std::fmt;
use std::str;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::authentication::sasl::{self, ChannelBinding};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The one mechanism we offer and accept.
pub const MECHANISM: &str = sasl::SCRAM_SHA_256;

/// The same, tied to the connection under it; towards servers only.
pub(super) const MECHANISM_PLUS: &str = sasl::SCRAM_SHA_256_PLUS;

/// Longest message taken from a client, as in PostgreSQL; real ones stay under 200 bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Random bytes in our part of the nonce, as many as PostgreSQL uses.
pub const NONCE_BYTES: usize = 18;

/// What PostgreSQL stores by default, and `scram_iterations` too.
pub const ITERATIONS: u32 = 4096;
pub const SALT_BYTES: usize = 16;

pub(super) type Key = [u8; 32];

/// What is stored of a password: enough to check a proof, not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`;
    /// `None` for anything else, which PostgreSQL would take for a plain password.
    pub fn parse(secret: &str) -> Option<Self> {
        let rest = secret.strip_prefix(MECHANISM)?.strip_prefix('$')?;
        let (cost, keys) = rest.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let digits = !iterations.is_empty() && iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|count| *count > 0 && digits)?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        Some(Self {
            iterations,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// Derives a verifier: thousands of hashes, about a millisecond, so never once per connection.
    /// The password is prepared with `SASLprep`, or taken as it is where that fails, as PostgreSQL
    /// and libpq do.
    pub fn of_password(password: &str, iterations: u32, salt: [u8; SALT_BYTES]) -> Self {
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let salted = hi(prepared.as_bytes(), &salt, iterations);
        let client_key = hmac_sha256(&salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac_sha256(&salted, &[b"Server Key"]),
        }
    }

    /// A verifier that no proof fits, always the same for this user as long as `secret` lives,
    /// so that an unknown user is asked just what a known one is asked.
    pub fn mock(secret: &[u8; 32], user: &str, iterations: u32) -> Self {
        let derive = |label: &str| hmac_sha256(secret, &[label.as_bytes(), user.as_bytes()]);
        Self {
            iterations,
            salt: derive("salt:").into_iter().take(SALT_BYTES).collect(),
            stored_key: derive("stored:"),
            server_key: derive("server:"),
        }
    }

    /// Whether a challenge with this salt and this count is a challenge for this verifier.
    pub(super) fn has_salt(&self, salt: &str, iterations: &str) -> bool {
        BASE64.encode(&self.salt) == salt && iterations.parse() == Ok(self.iterations)
    }

    /// Whether this verifier was made from `password`, at the full price of a derivation.
    ///
    /// The driver's client half answers a challenge of ours: it is the only one here that
    /// prepares passwords with `SASLprep`. It refuses more than 100,000 iterations.
    pub fn accepts_password(self: &Arc<Self>, password: &[u8]) -> bool {
        let mut client = sasl::ScramSha256::new(password, ChannelBinding::unsupported());
        // No wire is involved, so nothing can be replayed and the nonce need not be random.
        let server = ExpectClientFirst::new(Arc::clone(self), [0; NONCE_BYTES]);
        let Ok((server, challenge)) = server.client_first(client.message()) else {
            return false;
        };
        client.update(&challenge).is_ok() && server.client_final(client.message()).is_ok()
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// Why an exchange ended. Only `WrongProof` is about the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// Longer than `MESSAGE_BYTES_MAX`.
    TooLong,
    /// A mechanism other than the one offered.
    Mechanism,
    /// Channel binding was asked for, which is not offered.
    ChannelBinding,
    /// An identity other than that of the startup message was asked for.
    AuthorizationIdentity,
    /// An extension we do not know and may not ignore.
    MandatoryExtension,
    /// The message is not what the grammar wants at this point.
    Malformed { expected: &'static str },
    /// The second message does not belong to the first.
    Nonce,
    /// The header of the first message was not repeated as sent.
    Header,
    /// The client does not know the password.
    WrongProof,
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("SASL message is too long"),
            Self::Mechanism => write!(f, "SASL mechanism other than {MECHANISM}"),
            Self::ChannelBinding => f.write_str("channel binding is not supported"),
            Self::AuthorizationIdentity => f.write_str("authorization identity is not supported"),
            Self::MandatoryExtension => f.write_str("unknown mandatory SCRAM extension"),
            Self::Malformed { expected } => write!(f, "malformed SCRAM message: no {expected}"),
            Self::Nonce => f.write_str("SCRAM nonce does not match"),
            Self::Header => f.write_str("SCRAM channel binding header does not match"),
            Self::WrongProof => f.write_str("SCRAM proof does not match"),
        }
    }
}

/// Splits the body of a `SASLInitialResponse` and returns the mechanism's first message.
pub fn initial_response(body: &[u8]) -> Result<&[u8], ScramError> {
    let malformed = |expected| ScramError::Malformed { expected };
    let end = body.iter().position(|byte| *byte == 0).ok_or(malformed("mechanism"))?;
    let (mechanism, rest) = body.split_at_checked(end).ok_or(malformed("mechanism"))?;
    if mechanism != MECHANISM.as_bytes() {
        return Err(ScramError::Mechanism);
    }
    // The first byte of `rest` is the zero that ends the mechanism.
    let rest = rest.get(1..).ok_or(malformed("length"))?;
    let (length, message) = rest.split_first_chunk::<4>().ok_or(malformed("length"))?;
    if usize::try_from(i32::from_be_bytes(*length)) != Ok(message.len()) {
        return Err(malformed("initial response"));
    }
    Ok(message)
}

/// ```text
/// ExpectClientFirst ── client-first ──→ ExpectClientFinal ── client-final ──→ Proven
///         └──────────────────────── ScramError ─────────────────────┘
/// ```
pub struct ExpectClientFirst {
    verifier: Arc<ScramVerifier>,
    server_nonce: String,
}

impl ExpectClientFirst {
    pub fn new(verifier: Arc<ScramVerifier>, nonce: [u8; NONCE_BYTES]) -> Self {
        Self { verifier, server_nonce: BASE64.encode(nonce) }
    }

    /// Takes client-first-message, returns server-first-message.
    pub fn client_first(self, message: &[u8]) -> Result<(ExpectClientFinal, Vec<u8>), ScramError> {
        let first = ClientFirst::parse(text(message)?)?;
        let nonce = format!("{}{}", first.nonce, self.server_nonce);
        let salt = BASE64.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let next = ExpectClientFinal {
            header: BASE64.encode(first.header),
            auth_message: format!("{},{server_first},", first.bare),
            nonce,
            verifier: self.verifier,
        };
        Ok((next, server_first.into_bytes()))
    }
}

pub struct ExpectClientFinal {
    verifier: Arc<ScramVerifier>,
    /// The value of `c=` that repeats the client's header.
    header: String,
    /// client-first-message-bare and server-first-message, each with its comma.
    auth_message: String,
    nonce: String,
}

/// The client knows the password.
pub struct Proven {
    /// server-final-message, by which we prove that we know the verifier.
    pub server_final: Vec<u8>,
    /// Logs in elsewhere, wherever the verifier is the same.
    pub client_key: Key,
    pub verifier: Arc<ScramVerifier>,
}

impl ExpectClientFinal {
    /// Takes client-final-message and checks the proof in constant time.
    pub fn client_final(self, message: &[u8]) -> Result<Proven, ScramError> {
        let last = ClientFinal::parse(text(message)?)?;
        if last.header != self.header {
            return Err(ScramError::Header);
        }
        if last.nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let parts = [self.auth_message.as_bytes(), last.without_proof.as_bytes()];
        let signature = hmac_sha256(&self.verifier.stored_key, &parts);
        let client_key = xor(last.proof, signature);
        let stored_key = Key::from(Sha256::digest(client_key));
        if !bool::from(stored_key.ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let server_signature = hmac_sha256(&self.verifier.server_key, &parts);
        let server_final = format!("v={}", BASE64.encode(server_signature)).into_bytes();
        Ok(Proven { server_final, client_key, verifier: self.verifier })
    }
}

struct ClientFirst<'a> {
    /// `n,,` or `y,,`.
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Result<Self, ScramError> {
        let (flag, rest) =
            message.split_once(',').ok_or(ScramError::Malformed { expected: "header" })?;
        match flag {
            // `y`: the client could bind channels and believes that we cannot, which is so.
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed { expected: "header" }),
        }
        let (identity, bare) =
            rest.split_once(',').ok_or(ScramError::Malformed { expected: "header" })?;
        if !identity.is_empty() {
            return Err(ScramError::AuthorizationIdentity);
        }
        let header =
            message.strip_suffix(bare).ok_or(ScramError::Malformed { expected: "header" })?;
        if bare.starts_with("m=") {
            return Err(ScramError::MandatoryExtension);
        }
        let mut attributes = bare.split(',');
        // PostgreSQL knows the user from the startup message; drivers send anything here.
        attribute(&mut attributes, "n=", "user name")?;
        let nonce = attribute(&mut attributes, "r=", "nonce")?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed { expected: "nonce" });
        }
        extensions(attributes)?;
        Ok(Self { header, bare, nonce })
    }
}

struct ClientFinal<'a> {
    without_proof: &'a str,
    header: &'a str,
    nonce: &'a str,
    proof: Key,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a str) -> Result<Self, ScramError> {
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(ScramError::Malformed { expected: "proof" })?;
        let proof = decode_key(proof).ok_or(ScramError::Malformed { expected: "proof" })?;
        let mut attributes = without_proof.split(',');
        let header = attribute(&mut attributes, "c=", "channel binding")?;
        let nonce = attribute(&mut attributes, "r=", "nonce")?;
        extensions(attributes)?;
        Ok(Self { without_proof, header, nonce, proof })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::TooLong);
    }
    str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or(ScramError::Malformed { expected: "text" })
}

fn attribute<'a>(
    attributes: &mut str::Split<'a, char>,
    name: &str,
    expected: &'static str,
) -> Result<&'a str, ScramError> {
    attributes
        .next()
        .and_then(|attribute| attribute.strip_prefix(name))
        .ok_or(ScramError::Malformed { expected })
}

/// What follows the attributes we know has to look like an attribute, and is ignored.
fn extensions(mut attributes: str::Split<'_, char>) -> Result<(), ScramError> {
    let well_formed = attributes.all(|attribute| {
        let mut bytes = attribute.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic()) && bytes.next() == Some(b'=')
    });
    if well_formed { Ok(()) } else { Err(ScramError::Malformed { expected: "attribute" }) }
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

pub(super) fn xor(mut left: Key, right: Key) -> Key {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}

pub(super) fn hmac_sha256(key: &Key, parts: &[&[u8]]) -> Key {
    let mut hmac = keyed(key);
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn hi(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    // Keyed once: passwords may be long, and they are hashed to make the key.
    let keyed = keyed(password);
    let mut round = keyed.clone();
    round.update(salt);
    round.update(&1_u32.to_be_bytes());
    let mut last: Key = round.finalize().into_bytes().into();
    let mut sum = last;
    for _ in 1..iterations {
        let mut round = keyed.clone();
        round.update(&last);
        last = round.finalize().into_bytes().into();
        sum = xor(sum, last);
    }
    sum
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7677, section 3.
    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    const CLIENT_KEY: &str = "pg/JI9Z+hkSpLRa5btpe9GVrDHJcSEN0viVTVXaZbos=";

    fn start() -> ExpectClientFirst {
        let verifier = ScramVerifier::parse(VERIFIER).expect("the verifier is well formed");
        ExpectClientFirst { verifier: Arc::new(verifier), server_nonce: SERVER_NONCE.to_owned() }
    }

    fn challenged() -> ExpectClientFinal {
        start().client_first(CLIENT_FIRST.as_bytes()).expect("the vector is right").0
    }

    fn first_error(message: &str) -> Option<ScramError> {
        start().client_first(message.as_bytes()).err()
    }

    fn final_error(message: &str) -> Option<ScramError> {
        challenged().client_final(message.as_bytes()).err()
    }

    #[expect(clippy::unnecessary_wraps, reason = "the tables below hold options")]
    fn malformed(expected: &'static str) -> Option<ScramError> {
        Some(ScramError::Malformed { expected })
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let (server, challenge) =
            start().client_first(CLIENT_FIRST.as_bytes()).expect("the vector is right");
        assert_eq!(str::from_utf8(&challenge), Ok(SERVER_FIRST));
        let proven = server.client_final(CLIENT_FINAL.as_bytes()).expect("the vector is right");
        assert_eq!(str::from_utf8(&proven.server_final), Ok(SERVER_FINAL));
        assert_eq!(BASE64.encode(proven.client_key), CLIENT_KEY);
    }

    #[test]
    fn a_derived_verifier_accepts_its_password_alone() {
        for password in ["pencil", "pässwörd", "I\u{ad}X", "\u{1f511}", "nul\u{7}"] {
            let verifier = ScramVerifier::of_password(password, ITERATIONS, [9; SALT_BYTES]);
            let verifier = Arc::new(verifier);
            assert!(verifier.accepts_password(password.as_bytes()), "{password}");
            assert!(!verifier.accepts_password(b"pencil2"), "{password}");
            assert!(!verifier.accepts_password(b""), "{password}");
        }
    }

    #[test]
    fn a_password_is_prepared_before_it_is_compared() {
        let verifier = Arc::new(ScramVerifier::of_password("I\u{ad}X", 4096, [1; SALT_BYTES]));
        assert!(verifier.accepts_password(b"IX"));
    }

    #[test]
    fn a_mock_verifier_is_stable_and_like_a_real_one() {
        let mock = ScramVerifier::mock(&[7; 32], "bob", 4096);
        assert!(mock == ScramVerifier::mock(&[7; 32], "bob", 4096));
        assert!(mock != ScramVerifier::mock(&[7; 32], "alice", 4096));
        assert!(mock != ScramVerifier::mock(&[8; 32], "bob", 4096));
        assert!(!Arc::new(mock.clone()).accepts_password(b"pencil"));
        let real = ScramVerifier::of_password("pencil", 4096, [1; SALT_BYTES]);
        assert_eq!((mock.iterations, mock.salt.len()), (real.iterations, real.salt.len()));
    }

    #[test]
    fn a_broken_verifier_is_no_verifier() {
        for (from, to) in [
            ("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
            ("4096", "0"),
            ("4096", "+4096"),
            ("4096", ""),
            ("4096", "99999999999"),
            ("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            ("W22ZaJ0SNY7soEsUEjb6gQ==", "*"),
            ("WG5d", ""),
            (":wfPL", "$wfPL"),
            ("2dU=", "2dU"),
            ("2dU=", "2dU=:x"),
        ] {
            let text = VERIFIER.replacen(from, to, 1);
            assert!(ScramVerifier::parse(&text).is_none(), "{text}");
        }
        for end in 0..VERIFIER.len() {
            assert!(ScramVerifier::parse(VERIFIER.get(..end).expect("ASCII")).is_none(), "{end}");
        }
    }

    #[test]
    fn each_departure_from_the_first_message_has_its_error() {
        for (message, expected) in [
            ("y,,n=,r=abc", None),
            ("n,,n=*,r=abc,x=later", None),
            ("", malformed("header")),
            ("n", malformed("header")),
            ("n,", malformed("header")),
            ("x,,n=,r=abc", malformed("header")),
            ("p=tls-server-end-point,,n=,r=abc", Some(ScramError::ChannelBinding)),
            ("n,a=root,n=,r=abc", Some(ScramError::AuthorizationIdentity)),
            ("n,,m=x,n=,r=abc", Some(ScramError::MandatoryExtension)),
            ("n,,", malformed("user name")),
            ("n,,r=abc", malformed("user name")),
            ("n,,n=", malformed("nonce")),
            ("n,,n=,r=", malformed("nonce")),
            ("n,,n=,r=a b", malformed("nonce")),
            ("n,,n=,r=é", malformed("nonce")),
            ("n,,n=,r=abc,", malformed("attribute")),
            ("n,,n=,r=abc,1=x", malformed("attribute")),
            ("n,,n=\0,r=abc", malformed("text")),
        ] {
            assert_eq!(first_error(message), expected, "{message:?}");
        }
        let long = format!("n,,n=,r={}", "a".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(first_error(&long), Some(ScramError::TooLong));
    }

    #[test]
    fn each_departure_from_the_final_message_has_its_error() {
        for (from, to, expected) in [
            ("c=biws", "c=eSws", Some(ScramError::Header)),
            ("c=biws", "c=", Some(ScramError::Header)),
            ("c=biws,", "", malformed("channel binding")),
            ("k0,", "k1,", Some(ScramError::Nonce)),
            ("r=rOpr", "r=xOpr", Some(ScramError::Nonce)),
            ("r=rOpr", "s=rOpr", malformed("nonce")),
            ("p=dHzb", "p=dHzc", Some(ScramError::WrongProof)),
            ("p=dHzb", "p=", malformed("proof")),
            ("p=dHzb", "q=dHzb", malformed("proof")),
            (",p=", ",x=1,p=", Some(ScramError::WrongProof)),
            (",p=", ",x,p=", malformed("attribute")),
        ] {
            let message = CLIENT_FINAL.replacen(from, to, 1);
            assert_eq!(final_error(&message), expected, "{message}");
        }
    }

    #[test]
    fn a_truncated_final_message_never_proves_anything() {
        for end in 0..CLIENT_FINAL.len() {
            assert!(final_error(CLIENT_FINAL.get(..end).expect("ASCII")).is_some(), "{end}");
        }
    }

    #[test]
    fn a_final_message_with_any_bit_changed_proves_nothing() {
        for index in 0..CLIENT_FINAL.len() {
            for bit in 0..8 {
                let mut message = CLIENT_FINAL.as_bytes().to_vec();
                message[index] ^= 1 << bit;
                assert!(challenged().client_final(&message).is_err(), "{index} {bit}");
            }
        }
    }

    #[test]
    fn an_initial_response_is_split_at_its_length() {
        let body = |mechanism: &str, length: i32, message: &str| {
            [mechanism.as_bytes(), &length.to_be_bytes(), message.as_bytes()].concat()
        };
        let right = body("SCRAM-SHA-256\0", 3, "abc");
        assert_eq!(initial_response(&right), Ok(b"abc".as_slice()));
        for end in 0..right.len() {
            assert!(initial_response(&right[..end]).is_err(), "{end}");
        }
        let plus = body("SCRAM-SHA-256-PLUS\0", 3, "abc");
        assert_eq!(initial_response(&plus), Err(ScramError::Mechanism));
        for length in [-1, 0, 2, 4, i32::MIN, i32::MAX] {
            assert!(initial_response(&body("SCRAM-SHA-256\0", length, "abc")).is_err());
        }
    }
}
