//! The little that is read from an X.509 certificate here: whose it is, and the hash that binds a
//! SCRAM exchange to it (RFC 5929). Whether to believe it has been decided by the TLS library.

use sha2::{Digest, Sha256, Sha384, Sha512};

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` and `[3]` in the body: version and extensions.
pub(super) const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[2]` of an alternative name.
const DNS_NAME: u8 = 0x82;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The names that a certificate vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// `None` where the subject has none, or several.
    pub common_name: Option<String>,
    /// It has alternative names, of whatever kind.
    pub has_alternatives: bool,
    pub dns_names: Vec<String>,
}

impl CertificateNames {
    /// Reads a certificate in DER; `None` if it is not one.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let mut body = Der(Der(certificate).take(SEQUENCE)?).enter(SEQUENCE)?;
        if body.peek() == Some(VERSION) {
            body.next()?;
        }
        body.take(INTEGER)?;
        // Algorithm, issuer, validity.
        for _ in 0..3 {
            body.take(SEQUENCE)?;
        }
        let common_name = match common_names(body.enter(SEQUENCE)?)?.as_slice() {
            [only] => only.clone(),
            [] | [_, ..] => None,
        };
        // The key.
        body.take(SEQUENCE)?;
        let mut names = Self { common_name, ..Self::default() };
        while let Some((tag, content)) = body.next() {
            if tag == EXTENSIONS {
                names.add_alternatives(Der(content).enter(SEQUENCE)?)?;
            }
        }
        Some(names)
    }

    fn add_alternatives(&mut self, mut extensions: Der<'_>) -> Option<()> {
        while !extensions.0.is_empty() {
            let mut extension = extensions.enter(SEQUENCE)?;
            if extension.take(OID)? != ALTERNATIVE_NAMES {
                continue;
            }
            self.has_alternatives = true;
            // Whether it is critical may come between.
            let mut value = None;
            while let Some((tag, content)) = extension.next() {
                if tag == OCTET_STRING {
                    value = Some(content);
                }
            }
            let mut list = Der(value?).enter(SEQUENCE)?;
            while let Some((tag, content)) = list.next() {
                if tag == DNS_NAME && content.is_ascii() && !content.contains(&0) {
                    self.dns_names.extend(std::str::from_utf8(content).map(str::to_owned));
                }
            }
        }
        Some(())
    }

    /// Whether it is one of them; names of hosts are users like any other here.
    pub fn has(&self, name: &str) -> bool {
        self.common_name.as_deref() == Some(name) || self.dns_names.iter().any(|dns| dns == name)
    }
}

/// Every common name of a subject; one that is no text, or a trick, is `None`.
fn common_names(mut subject: Der<'_>) -> Option<Vec<Option<String>>> {
    let mut found = Vec::new();
    while let Some((tag, content)) = subject.next() {
        let mut set = Der((tag == SET).then_some(content)?);
        while !set.0.is_empty() {
            let mut attribute = set.enter(SEQUENCE)?;
            if attribute.take(OID)? == COMMON_NAME {
                let (tag, content) = attribute.next()?;
                let is_text = [UTF8_STRING, PRINTABLE_STRING, IA5_STRING].contains(&tag);
                let text = std::str::from_utf8(content).ok();
                // Who reads names up to a zero sees another one.
                let text = text.filter(|text| is_text && !text.contains('\0'));
                found.push(text.map(str::to_owned));
            }
        }
    }
    Some(found)
}

/// `tls-server-end-point` of a certificate in DER: its hash, by the hash it is signed with, or by
/// SHA-256 where that one is too weak. `None` where the signature names no hash.
pub fn end_point_binding(certificate: &[u8]) -> Option<Vec<u8>> {
    let mut outer = Der(certificate).enter(SEQUENCE)?;
    outer.take(SEQUENCE)?;
    let algorithm = outer.enter(SEQUENCE)?.take(OID)?;
    outer.take(BIT_STRING)?;
    match algorithm {
        // RSA: 1.2.840.113549.1.1.x with MD5, SHA-1, SHA-256, SHA-384, SHA-512.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 4 | 5 | 11]
        // ECDSA: 1.2.840.10045.4.1 with SHA-1, 4.3.2 with SHA-256.
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 2] => {
            Some(Sha256::digest(certificate).to_vec())
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 12]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 3] => {
            Some(Sha384::digest(certificate).to_vec())
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 13]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 4] => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// What is left of a run of values, each a tag, a length and that many bytes.
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            // Certificates are kilobytes, not more.
            if digits.is_empty() || digits.len() > 3 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next value, of this tag.
    pub(super) fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(tag, content)| (tag == wanted).then_some(content))
    }

    /// The next value with its tag and length.
    pub(super) fn whole(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let before = self.0;
        self.take(wanted)?;
        before.get(..before.len() - self.0.len())
    }

    pub(super) fn enter(&mut self, wanted: u8) -> Option<Self> {
        self.take(wanted).map(Self)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN"));
        let base64: String = lines.skip(1).take_while(|line| !line.starts_with("-----")).collect();
        BASE64.decode(base64).expect("a certificate of the suite")
    }

    const CLIENT: &str = include_str!("../../tests/suite/support/tls/client.pem");
    const SERVER: &str = include_str!("../../tests/suite/support/tls/server.pem");
    const VERSION_1: &str = include_str!("../../tests/suite/support/tls/version1.pem");

    #[test]
    fn names_are_read_from_subject_and_alternatives() {
        let names = CertificateNames::of(&der(SERVER)).expect("readable");
        assert!(names.has("localhost"), "{names:?}");
        assert!(!names.has("") && !names.has("localhos"), "{names:?}");
        let client = CertificateNames::of(&der(CLIENT)).expect("readable");
        assert_eq!(client.common_name.as_deref(), Some("bob"));
        assert!(CertificateNames::of(&der(VERSION_1)).is_some());
    }

    #[test]
    fn every_prefix_of_a_certificate_is_refused() {
        let whole = der(SERVER);
        for end in 0..whole.len() {
            let part = &whole[..end];
            assert_eq!(CertificateNames::of(part), None, "{end}");
            assert_eq!(end_point_binding(part), None, "{end}");
        }
    }

    #[test]
    fn no_single_changed_byte_panics() {
        let whole = der(SERVER);
        for at in 0..whole.len() {
            for value in [0, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _names = CertificateNames::of(&changed);
                let _binding = end_point_binding(&changed);
            }
        }
    }

    #[test]
    fn a_name_with_a_zero_inside_is_none() {
        let mut changed = der(CLIENT);
        let at = changed.windows(5).rposition(|five| five == b"\x0c\x03bob").expect("the name");
        changed[at + 3] = 0;
        assert_eq!(CertificateNames::of(&changed).expect("readable").common_name, None);
    }
}
