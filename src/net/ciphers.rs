//! TLS versions and cipher suites by the names that OpenSSL, and so PgBouncer's settings, have for
//! them. The library speaks TLS 1.2 and 1.3 with nine suites; the rest of OpenSSL's is unknown here.

use std::fmt;

use tokio_rustls::rustls::crypto::ring::ALL_CIPHER_SUITES;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion,
};

/// What one side of ours offers or accepts in a handshake.
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    /// Words that were written and are not supported, for a notice.
    pub unsupported: Vec<String>,
}

impl Default for Offer {
    fn default() -> Self {
        let versions = vec![&TLS13, &TLS12];
        Self { versions, suites: ALL_CIPHER_SUITES.to_vec(), unsupported: Vec::new() }
    }
}

/// The settings of one side, as written.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub protocols: &'a str,
    pub ciphers: &'a str,
    /// Empty: all of TLS 1.3.
    pub tls13_ciphers: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferError {
    /// No word for a version at all.
    Protocol(String),
    /// Nothing that is wanted is supported.
    NoProtocol,
    NoCipher,
    NoTls13Cipher,
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(word) => write!(f, "invalid TLS protocol {}", word.escape_debug()),
            Self::NoProtocol => {
                f.write_str("none of the protocols is supported, TLS 1.2 is the least")
            }
            Self::NoCipher => f.write_str("failed to set the cipher suites: none is supported"),
            Self::NoTls13Cipher => {
                f.write_str("failed to set the TLSv1.3 cipher suites: none is supported")
            }
        }
    }
}

impl std::error::Error for OfferError {}

impl Offer {
    pub fn of(wanted: Wanted<'_>) -> Result<Self, OfferError> {
        let mut unsupported = Vec::new();
        let versions = versions(wanted.protocols, &mut unsupported)?;
        let mut suites = tls13_suites(wanted.tls13_ciphers, &mut unsupported);
        if suites.is_empty() {
            return Err(OfferError::NoTls13Cipher);
        }
        let older = tls12_suites(wanted.ciphers, &mut unsupported);
        if older.is_empty() && versions.contains(&&TLS12) {
            return Err(OfferError::NoCipher);
        }
        suites.extend(older);
        Ok(Self { versions, suites, unsupported })
    }
}

fn words<'a>(text: &'a str, separators: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(separators).map(str::trim).filter(|word| !word.is_empty())
}

/// Words as of libtls: `secure`, `all`, `tlsv1.2`, `!tlsv1.2`.
fn versions(
    text: &str,
    unsupported: &mut Vec<String>,
) -> Result<Vec<&'static SupportedProtocolVersion>, OfferError> {
    let (mut tls13, mut tls12, mut any) = (false, false, false);
    for word in words(text, &[',', ':']) {
        let lower = word.to_ascii_lowercase();
        let (on, name) = match lower.strip_prefix('!') {
            Some(name) => (false, name.trim_start()),
            None => (true, lower.as_str()),
        };
        if !on && !any {
            // Before anything is taken away, all is there.
            (tls13, tls12) = (true, true);
        }
        any = true;
        match name {
            "all" | "legacy" | "default" | "secure" | "tlsv1" => (tls13, tls12) = (on, on),
            "tlsv1.3" => tls13 = on,
            "tlsv1.2" => tls12 = on,
            "tlsv1.0" | "tlsv1.1" if on => unsupported.push(name.to_owned()),
            "tlsv1.0" | "tlsv1.1" => {}
            _ => return Err(OfferError::Protocol(word.to_owned())),
        }
    }
    let mut versions = Vec::new();
    versions.extend((tls13 || !any).then_some(&TLS13));
    versions.extend((tls12 || !any).then_some(&TLS12));
    if versions.is_empty() { Err(OfferError::NoProtocol) } else { Ok(versions) }
}

fn tls13_suites(text: &str, unsupported: &mut Vec<String>) -> Vec<SupportedCipherSuite> {
    let all = || suites_of(ProtocolVersion::TLSv1_3);
    if text.trim().is_empty() {
        return all().collect();
    }
    let mut chosen = Vec::new();
    for word in words(text, &[':', ',']) {
        match all().find(|suite| openssl_name(suite.suite()) == Some(word)) {
            Some(suite) => chosen.push(suite),
            None => unsupported.push(word.to_owned()),
        }
    }
    chosen
}

/// A list of OpenSSL's: names, a few of its words for groups, and what is taken away by `!` or `-`.
fn tls12_suites(text: &str, unsupported: &mut Vec<String>) -> Vec<SupportedCipherSuite> {
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    let mut banned = Vec::new();
    for word in words(text, &[':', ',', ' ', ';']) {
        let (sign, name) = match word.strip_prefix(['!', '-']) {
            Some(name) => (false, name),
            None => (true, word),
        };
        let meant: Vec<_> = suites_of(ProtocolVersion::TLSv1_2)
            .filter(|suite| openssl_name(suite.suite()).is_some_and(|full| is_meant(name, full)))
            .collect();
        match (sign, meant.is_empty()) {
            // What is taken away and not there needs no word.
            (false, _) => banned.extend(meant.iter().map(SupportedCipherSuite::suite)),
            (true, true) if name.starts_with(['@', '+']) => {}
            (true, true) => unsupported.push(word.to_owned()),
            (true, false) => {
                chosen.retain(|suite| !meant.contains(suite));
                chosen.extend(meant);
            }
        }
    }
    chosen.retain(|suite| !banned.contains(&suite.suite()));
    chosen
}

/// Whether a word of a cipher list means the suite of this name; `+` joins what must all hold.
fn is_meant(word: &str, full: &str) -> bool {
    // libtls's words, and OpenSSL's for all that is good.
    const EVERY: [&str; 11] = [
        "default", "secure", "normal", "fast", "compat", "legacy", "insecure", "all", "DEFAULT",
        "ALL", "HIGH",
    ];
    word == full
        || word.split('+').all(|part| match part {
            part if EVERY.contains(&part) => true,
            "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" | "TLSv1.2" | "AEAD" => true,
            "aRSA" | "RSA" => full.contains("-RSA-"),
            "aECDSA" | "ECDSA" => full.contains("-ECDSA-"),
            "AES" | "AESGCM" => full.contains("-AES"),
            "AES128" => full.contains("-AES128"),
            "AES256" => full.contains("-AES256"),
            "CHACHA20" => full.contains("-CHACHA20-"),
            "SHA256" => full.ends_with("-SHA256"),
            "SHA384" => full.ends_with("-SHA384"),
            _ => false,
        })
}

fn suites_of(version: ProtocolVersion) -> impl Iterator<Item = SupportedCipherSuite> {
    ALL_CIPHER_SUITES.iter().copied().filter(move |suite| suite.version().version == version)
}

const NAMES: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

pub(super) fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == suite).map(|(_, name)| *name)
}

pub(super) fn openssl_version(version: ProtocolVersion) -> &'static str {
    if version == ProtocolVersion::TLSv1_3 { "TLSv1.3" } else { "TLSv1.2" }
}

pub(super) fn openssl_group(group: NamedGroup) -> Option<&'static str> {
    const NAMES: [(NamedGroup, &str); 3] = [
        (NamedGroup::X25519, "X25519"),
        (NamedGroup::secp256r1, "prime256v1"),
        (NamedGroup::secp384r1, "secp384r1"),
    ];
    NAMES.iter().find(|(known, _)| *known == group).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(protocols: &str, ciphers: &str, tls13_ciphers: &str) -> Result<Offer, OfferError> {
        Offer::of(Wanted { protocols, ciphers, tls13_ciphers })
    }

    fn check_protocols(text: &str, expected: &[&str]) {
        let offer = offer(text, "default", "").expect("supported");
        let found: Vec<_> =
            offer.versions.iter().map(|version| openssl_version(version.version)).collect();
        assert_eq!(found, expected, "{text}");
    }

    fn check_ciphers(text: &str, expected: &[&str], unsupported: &[&str]) {
        let offer = offer("secure", text, "").expect("supported");
        let names: Vec<_> =
            offer.suites.iter().skip(3).filter_map(|suite| openssl_name(suite.suite())).collect();
        assert_eq!(names, expected, "{text}");
        assert_eq!(offer.unsupported, unsupported, "{text}");
    }

    #[test]
    fn every_suite_of_the_library_has_openssl_s_name() {
        assert_eq!(ALL_CIPHER_SUITES.len(), 9);
        assert!(ALL_CIPHER_SUITES.iter().all(|suite| openssl_name(suite.suite()).is_some()));
    }

    #[test]
    fn versions_are_read_as_libtls_reads_them() {
        for both in ["", "secure", "all", "default", "tlsv1.2,tlsv1.3", "tlsv1.1:TLSv1.2:tlsv1.3"] {
            check_protocols(both, &["TLSv1.3", "TLSv1.2"]);
        }
        check_protocols("tlsv1.3", &["TLSv1.3"]);
        check_protocols("all, !tlsv1.3", &["TLSv1.2"]);
        check_protocols("!tlsv1.2", &["TLSv1.3"]);
        assert_eq!(offer("tlsv1.0", "default", "").err(), Some(OfferError::NoProtocol));
        assert_eq!(offer("ssl3", "default", "").err(), Some(OfferError::Protocol("ssl3".into())));
        assert_eq!(offer("tlsv1.0,tlsv1.2", "default", "").unwrap().unsupported, ["tlsv1.0"]);
    }

    #[test]
    fn cipher_lists_have_names_groups_and_exclusions() {
        let rsa = "ECDHE-RSA-AES256-GCM-SHA384";
        check_ciphers(rsa, &[rsa], &[]);
        check_ciphers(&format!("{rsa}:AES128-SHA:{rsa}"), &[rsa], &["AES128-SHA"]);
        check_ciphers(
            "ECDHE+CHACHA20:!aNULL",
            &["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"],
            &[],
        );
        check_ciphers(
            "HIGH:!CHACHA20:-ECDSA:@STRENGTH",
            &["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"],
            &[],
        );
        for every in ["default", "HIGH:!MD5", "ALL"] {
            assert_eq!(offer("secure", every, "").unwrap().suites.len(), 9, "{every}");
        }
        assert_eq!(offer("secure", "AES128-SHA", "").err(), Some(OfferError::NoCipher));
        assert!(offer("tlsv1.3", "AES128-SHA", "").is_ok());
    }

    #[test]
    fn suites_of_tls_1_3_are_a_list_of_their_own() {
        let one = offer("tlsv1.3", "default", "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256");
        let one = one.unwrap();
        assert_eq!(openssl_name(one.suites[0].suite()), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(one.unsupported, ["TLS_AES_128_CCM_SHA256"]);
        let none = offer("secure", "default", "unknown").unwrap_err();
        assert!(none.to_string().contains("failed to set the TLSv1.3 cipher suites"));
    }
}
