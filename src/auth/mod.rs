//! Proving identities, both ways: `ClientAuth` asks an application, `ServerAuth` answers
//! PostgreSQL. Both are machines over message *bodies* (no tag, no length); they know nothing of
//! sockets, and the randomness towards clients comes in as an argument.
//!
//! Protocol: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

pub mod md5;
pub mod scram;
pub mod scram_client;
pub mod userlist;
mod tokens;
pub mod ident;
pub mod hba;
pub mod certificate;
pub mod learned;
pub mod demand;
pub mod client;
pub mod server;

pub use certificate::CertificateNames;
pub use client::{AuthError, ClientAuth, Method, Progress, Random};
pub use demand::{Demand, Refusal};
pub use hba::{Asking, Hba};
pub use ident::{IdentMap, IdentMaps};
pub use learned::{AllLearned, Knowledge, Learned};
pub use scram_client::{ScramClientError, ScramKeys};
pub use server::{ServerAuth, ServerAuthError, ServerProgress};
pub use userlist::{Secret, Userlist};

/// Longest `PasswordMessage` taken from a client, as in PostgreSQL: tokens may be long.
const PASSWORD_BYTES_MAX: usize = 65535;

/// The codes of `AuthenticationRequest` that we send or understand.
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT_PASSWORD: i32 = 3;
    pub(super) const MD5_PASSWORD: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// An `AuthenticationRequest` body.
fn request(code: i32, payload: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), payload].concat()
}

#[cfg(test)]
mod tests;
