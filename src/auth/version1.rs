//! Certificates of X.509 version 1: what has to be checked of them, since the TLS library knows
//! version 3 alone. `openssl x509 -req` makes them where nothing asks for extensions, and so does
//! the procedure in PostgreSQL's manual.

use super::certificate::{BIT_STRING, Der, INTEGER, SEQUENCE, VERSION};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const DAY: u64 = 86_400;

/// A certificate without extensions. Nothing of it has been believed yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Version1<'a> {
    /// What the signature is over.
    pub signed: &'a [u8],
    /// The contents of its AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    pub issuer: &'a [u8],
    pub key: PublicKey<'a>,
    /// Seconds of Unix time; valid from the first to the last.
    pub validity: (u64, u64),
}

#[derive(Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    /// SubjectPublicKeyInfo.
    pub whole: &'a [u8],
    /// The contents of its AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    pub bits: &'a [u8],
}

/// Who signs, of a certificate of any version.
#[derive(Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    pub name: &'a [u8],
    pub key: PublicKey<'a>,
}

impl<'a> Version1<'a> {
    /// `None`: it is not one, but of another version or no certificate.
    pub fn parse(certificate: &'a [u8]) -> Option<Self> {
        let mut outer = Der(whole_of(certificate)?);
        let signed = outer.whole(SEQUENCE)?;
        let algorithm = outer.take(SEQUENCE)?;
        let signature = bits(outer.take(BIT_STRING)?)?;
        let mut body = Der(signed).enter(SEQUENCE)?;
        body.take(INTEGER)?;
        // Both places must say the same, or one is not signed.
        let named = body.take(SEQUENCE)?;
        let issuer = body.take(SEQUENCE)?;
        let mut validity = body.enter(SEQUENCE)?;
        let validity = (time(&mut validity)?, time(&mut validity)?);
        body.take(SEQUENCE)?;
        let key = PublicKey::read(&mut body)?;
        let ends = outer.0.is_empty() && body.0.is_empty();
        (ends && named == algorithm).then_some(Self {
            signed,
            algorithm,
            signature,
            issuer,
            key,
            validity,
        })
    }
}

impl<'a> Authority<'a> {
    pub fn parse(certificate: &'a [u8]) -> Option<Self> {
        let mut body = Der(whole_of(certificate)?).enter(SEQUENCE)?;
        if body.peek() == Some(VERSION) {
            body.next()?;
        }
        body.take(INTEGER)?;
        // Algorithm, issuer, validity.
        for _ in 0..3 {
            body.take(SEQUENCE)?;
        }
        Some(Self { name: body.take(SEQUENCE)?, key: PublicKey::read(&mut body)? })
    }
}

impl<'a> PublicKey<'a> {
    fn read(body: &mut Der<'a>) -> Option<Self> {
        let whole = body.whole(SEQUENCE)?;
        let mut inside = Der(whole).enter(SEQUENCE)?;
        Some(Self {
            whole,
            algorithm: inside.take(SEQUENCE)?,
            bits: bits(inside.take(BIT_STRING)?)?,
        })
    }
}

/// What is inside the one sequence that there must be.
fn whole_of(certificate: &[u8]) -> Option<&[u8]> {
    let mut outer = Der(certificate);
    let inside = outer.take(SEQUENCE)?;
    outer.0.is_empty().then_some(inside)
}

/// Whole bytes; the first says how many bits of the last do not count.
fn bits(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// `YYMMDDhhmmssZ`, or with four digits of the year.
fn time(from: &mut Der<'_>) -> Option<u64> {
    let (tag, content) = from.next()?;
    let digits = content.strip_suffix(b"Z")?;
    let mut numbers = digits.chunks(2).map(|pair| match pair {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(u64::from(tens - b'0') * 10 + u64::from(ones - b'0'))
        }
        _ => None,
    });
    let mut number = || numbers.next().flatten();
    let year = match tag {
        // RFC 5280: up to 49 is of this century.
        UTC_TIME => number().map(|year| if year < 50 { 2000 + year } else { 1900 + year })?,
        GENERALIZED_TIME => number()? * 100 + number()?,
        _ => return None,
    };
    let (month, day) = (number()?, number()?);
    let seconds = (number()? * 60 + number()?) * 60 + number()?;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && numbers.next().is_none();
    if !is_date || seconds > DAY || year < 1970 {
        return None;
    }
    Some(days_since_1970(year, month, day) * DAY + seconds)
}

/// Of the Gregorian calendar, from 1970 on. Years begin in March, so that the leap day is the last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    const TO_1970: u64 = 719_468;
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let in_year = (153 * month + 2) / 5 + day - 1;
    (year * 365 + leap_days + in_year).saturating_sub(TO_1970)
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

    const VERSION_1: &str = include_str!("../../tests/suite/support/tls/version1.pem");
    const SERVER: &str = include_str!("../../tests/suite/support/tls/server.pem");

    #[test]
    fn a_certificate_of_version_1_is_told_from_others() {
        let old = der(VERSION_1);
        let parsed = Version1::parse(&old).expect("readable");
        // From 2000 to 2100.
        assert_eq!(parsed.validity, (946_684_800, 4_102_444_800));
        let own = Authority::parse(&old).expect("readable");
        assert_eq!((own.name, own.key), (parsed.issuer, parsed.key));
        let new = der(SERVER);
        assert_eq!(Version1::parse(&new), None);
        assert!(Authority::parse(&new).is_some());
        for end in 0..old.len() {
            assert_eq!(Version1::parse(&old[..end]), None, "{end}");
        }
        assert_eq!(Version1::parse(&[old.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn times_are_seconds_since_1970() {
        let read = |tag: u8, text: &str| {
            let length = u8::try_from(text.len()).expect("short");
            time(&mut Der(&[&[tag, length], text.as_bytes()].concat()))
        };
        assert_eq!(read(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(read(UTC_TIME, "240229120000Z"), Some(1_709_208_000));
        assert_eq!(read(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for broken in ["", "Z", "240229120000", "24022912000Z", "241329120000Z", "2402291200000Z"] {
            assert_eq!(read(UTC_TIME, broken), None, "{broken}");
        }
    }
}
