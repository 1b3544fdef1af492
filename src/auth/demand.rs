//! What is asked of a client before it is let in, by `auth_type` and the rules of `auth_hba_file`,
//! and whether a certificate or a process of this machine is enough.

use std::fmt;
use std::sync::Arc;

use crate::config::AuthType;

use super::certificate::CertificateNames;
use super::client::Method;
use super::hba::{Asking, Hba, HbaMethod};
use super::ident::IdentMap;

/// What a client has to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A proof, by messages.
    Proof(Method),
    /// A certificate of its name, or of one that the map has for it.
    Certificate(Option<Arc<IdentMap>>),
    /// To be a process of its name, or of one that the map has for it.
    Peer(Option<Arc<IdentMap>>),
}

/// Why nothing a client could bring would do, or what it brought does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NoRule,
    Rejected,
    NoTls,
    NoCertificate,
    OtherCertificate,
    OtherPeer,
    /// A certificate or a process for a user that is not known.
    UnknownUser,
}

impl Refusal {
    /// For the client; PgBouncer's words, which do not tell what was wrong.
    pub fn sentence(self, demand: Option<&Demand>) -> &'static str {
        match (self, demand) {
            (Self::NoRule, _) => "no authentication method is found",
            (Self::UnknownUser | Self::OtherPeer, Some(Demand::Peer(_))) => {
                "unix socket login rejected"
            }
            (Self::NoTls | Self::NoCertificate | Self::OtherCertificate, _)
            | (Self::UnknownUser, Some(Demand::Certificate(_))) => {
                "certificate authentication failed"
            }
            (Self::Rejected | Self::OtherPeer | Self::UnknownUser, _) => "login rejected",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no rule of auth_hba_file fits",
            Self::Rejected => "a rule of auth_hba_file rejects",
            Self::NoTls => "TLS connection required",
            Self::NoCertificate => "TLS client certificate required",
            Self::OtherCertificate => "TLS certificate name mismatch",
            Self::OtherPeer => "the process runs as another user",
            Self::UnknownUser => "no such user",
        })
    }
}

impl Demand {
    /// What this client has to bring; `hba` counts with `auth_type = hba` alone.
    pub fn of(auth_type: AuthType, hba: &Hba, asking: &Asking<'_>) -> Result<Self, Refusal> {
        match auth_type {
            AuthType::Any | AuthType::Trust => Ok(Self::Proof(Method::Trust)),
            AuthType::Plain => Ok(Self::Proof(Method::Plain)),
            AuthType::Md5 => Ok(Self::Proof(Method::Md5)),
            AuthType::ScramSha256 => Ok(Self::Proof(Method::Scram)),
            AuthType::Cert => Ok(Self::Certificate(None)),
            AuthType::Peer => Ok(Self::Peer(None)),
            AuthType::Hba => {
                let rule = hba.rule(asking).ok_or(Refusal::NoRule)?;
                match rule.method {
                    HbaMethod::Trust => Ok(Self::Proof(Method::Trust)),
                    HbaMethod::Reject => Err(Refusal::Rejected),
                    HbaMethod::Md5 => Ok(Self::Proof(Method::Md5)),
                    HbaMethod::Password => Ok(Self::Proof(Method::Plain)),
                    HbaMethod::ScramSha256 => Ok(Self::Proof(Method::Scram)),
                    HbaMethod::Cert => Ok(Self::Certificate(rule.map.clone())),
                    HbaMethod::Peer => Ok(Self::Peer(rule.map.clone())),
                }
            }
        }
    }
}

/// Whether the certificate that was shown, if any, makes a client of TLS this user.
pub fn check_certificate(
    map: Option<&IdentMap>,
    tls: bool,
    names: Option<&CertificateNames>,
    user: &str,
) -> Result<(), Refusal> {
    if !tls {
        return Err(Refusal::NoTls);
    }
    let names = names.ok_or(Refusal::NoCertificate)?;
    let allowed = match map {
        Some(map) => map.allows(user, |name| names.has(name)),
        None => names.has(user),
    };
    if allowed { Ok(()) } else { Err(Refusal::OtherCertificate) }
}

/// Whether a process of the system's user `peer` may be this user; `None`: not of this machine,
/// or of nobody with a name.
pub fn check_peer(map: Option<&IdentMap>, peer: Option<&str>, user: &str) -> Result<(), Refusal> {
    let allowed = peer.is_some_and(|peer| match map {
        Some(map) => map.allows(user, |name| name == peer),
        None => peer == user,
    });
    if allowed { Ok(()) } else { Err(Refusal::OtherPeer) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ident::IdentMaps;
    use super::*;

    fn asking<'a>() -> Asking<'a> {
        Asking { address: None, tls: false, replication: false, databases: &["app"], user: "ann" }
    }

    fn hba(text: &str) -> Hba {
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        Hba::parse(Path::new("hba"), text, &IdentMaps::default(), &read).expect("in order")
    }

    #[test]
    fn rules_count_for_hba_alone() {
        let reject = hba("local all all reject\n");
        let of = |auth_type| Demand::of(auth_type, &reject, &asking());
        assert_eq!(of(AuthType::Hba), Err(Refusal::Rejected));
        assert_eq!(of(AuthType::Md5), Ok(Demand::Proof(Method::Md5)));
        assert_eq!(of(AuthType::Cert), Ok(Demand::Certificate(None)));
    }

    #[test]
    fn whom_no_rule_fits_is_refused() {
        let demand = Demand::of(AuthType::Hba, &hba("host all all all trust\n"), &asking());
        assert_eq!(demand, Err(Refusal::NoRule));
        assert_eq!(Refusal::NoRule.sentence(None), "no authentication method is found");
    }

    #[test]
    fn a_certificate_is_good_for_its_names_and_those_of_the_map() {
        let names = CertificateNames {
            common_name: Some("ann.example".into()),
            has_alternatives: true,
            dns_names: vec!["other.example".into()],
        };
        let maps = IdentMaps::parse("staff ann.example ann\n").expect("in order");
        let map = maps.get("staff").map(AsRef::as_ref);
        let check = |map, user| check_certificate(map, true, Some(&names), user);
        assert_eq!(check(None, "ann.example"), Ok(()));
        assert_eq!(check(None, "other.example"), Ok(()));
        assert_eq!(check(None, "ann"), Err(Refusal::OtherCertificate));
        assert_eq!(check(map, "ann"), Ok(()));
        assert_eq!(check(map, "ann.example"), Err(Refusal::OtherCertificate));
        assert_eq!(check_certificate(None, true, None, "ann"), Err(Refusal::NoCertificate));
        assert_eq!(check_certificate(None, false, Some(&names), "ann"), Err(Refusal::NoTls));
    }

    #[test]
    fn a_process_is_good_for_its_user_and_those_of_the_map() {
        let maps = IdentMaps::parse("ops root all\n").expect("in order");
        let map = maps.get("ops").map(AsRef::as_ref);
        assert_eq!(check_peer(None, Some("ann"), "ann"), Ok(()));
        assert_eq!(check_peer(None, Some("bob"), "ann"), Err(Refusal::OtherPeer));
        assert_eq!(check_peer(None, None, "ann"), Err(Refusal::OtherPeer));
        assert_eq!(check_peer(map, Some("root"), "ann"), Ok(()));
        assert_eq!(check_peer(map, Some("ann"), "ann"), Err(Refusal::OtherPeer));
    }

    #[test]
    fn an_unknown_user_is_told_what_a_wrong_one_is() {
        for (demand, wrong) in [
            (Demand::Certificate(None), Refusal::OtherCertificate),
            (Demand::Peer(None), Refusal::OtherPeer),
        ] {
            let demand = Some(&demand);
            assert_eq!(Refusal::UnknownUser.sentence(demand), wrong.sentence(demand));
        }
    }
}
