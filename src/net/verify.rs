//! How much of a server's certificate is verified: nothing, its authority, or its name as well.
//!
//! Built on the library's own checks; what differs from its default is why this file exists:
//! names may be left out, a listed certificate may be shown itself, and certificates of X.509
//! version 1 count where a listed authority has signed them.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    self, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore,
    SignatureScheme,
};

use crate::auth::CertificateNames;
use crate::auth::version1::{Authority, Version1};

/// Whom to trust.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: RootCertStore,
    /// The same as certificates, from a CA file only: a server may show one of these itself.
    pub(super) listed: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) enum Check {
    Nothing,
    Authority(Authorities),
    AuthorityAndName(Authorities),
}

/// Verifies as much of a server's certificate as `sslmode` says.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) check: Check,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check_authority(
        &self,
        authorities: &Authorities,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if let Some(certificate) = Version1::parse(end_entity) {
            let is_listed = authorities.listed.contains(end_entity);
            return check_version1(&certificate, authorities, is_listed, self.algorithms, now);
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let result = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &authorities.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match result {
            // A self-signed certificate, copied from the server to its clients as PostgreSQL's
            // manual shows, is its own authority. The library refuses authorities as servers;
            // here the operator named this very certificate, so its dates are all that is left
            // to check, and those come first.
            Err(rustls::Error::InvalidCertificate(cause))
                if !is_about_dates(&cause) && authorities.listed.contains(end_entity) =>
            {
                Ok(())
            }
            Ok(()) | Err(_) => result,
        }
    }

    /// Whether a certificate that nothing is asked of is one that the library cannot read, such
    /// as one of X.509 version 1. Its signature then proves no less than anybody's.
    fn is_beyond_checking(&self, certificate: &CertificateDer<'_>) -> bool {
        matches!(self.check, Check::Nothing) && ParsedCertificate::try_from(certificate).is_err()
    }
}

/// What the library does for later versions: dates, and the signature of a listed authority.
/// There are no extensions that could limit what it is good for.
fn check_version1(
    certificate: &Version1<'_>,
    authorities: &Authorities,
    is_listed: bool,
    algorithms: WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (first, last) = certificate.validity;
    if now.as_secs() < first {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > last {
        return Err(CertificateError::Expired.into());
    }
    let signs = |authority: &Authority<'_>| {
        authority.name == certificate.issuer
            && algorithms.all.iter().any(|algorithm| {
                algorithm.signature_alg_id().as_ref() == certificate.algorithm
                    && algorithm.public_key_alg_id().as_ref() == authority.key.algorithm
                    && algorithm
                        .verify_signature(
                            authority.key.bits,
                            certificate.signed,
                            certificate.signature,
                        )
                        .is_ok()
            })
    };
    let mut listed = authorities.listed.iter().filter_map(|listed| Authority::parse(listed));
    if is_listed || listed.any(|authority| signs(&authority)) {
        Ok(())
    } else {
        Err(CertificateError::UnknownIssuer.into())
    }
}

/// The signature that shows whose the certificate is, in TLS 1.2.
fn verify_version1_tls12(
    message: &[u8],
    certificate: &Version1<'_>,
    signed: &DigitallySignedStruct,
    algorithms: WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let of_scheme = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let fits =
        of_scheme.into_iter().flat_map(|(_, algorithms)| algorithms.iter()).any(|algorithm| {
            let key = &certificate.key;
            algorithm.public_key_alg_id().as_ref() == key.algorithm
                && algorithm.verify_signature(key.bits, message, signed.signature()).is_ok()
        });
    if fits {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// The same in TLS 1.3.
fn verify_version1_tls13(
    message: &[u8],
    certificate: &Version1<'_>,
    signed: &DigitallySignedStruct,
    algorithms: WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(certificate.key.whole);
    verify_tls13_signature_with_raw_key(message, &key, signed, &algorithms)
}

/// The host's name is one of the alternative names; or, where there are none, the common one, as
/// it was before them and still is in PostgreSQL's manual.
fn check_name(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let names = CertificateNames::of(certificate).ok_or(CertificateError::BadEncoding)?;
    if names.has_alternatives {
        return verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
    }
    if names.common_name.is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str())) {
        Ok(())
    } else {
        Err(CertificateError::NotValidForName.into())
    }
}

/// Verifies the certificates that clients show.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    /// The library's own, for all but version 1.
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) authorities: Authorities,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match Version1::parse(end_entity) {
            Some(certificate) => {
                check_version1(&certificate, &self.authorities, false, self.algorithms, now)?;
                Ok(ClientCertVerified::assertion())
            }
            None => self.inner.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Version1::parse(certificate) {
            Some(old) => verify_version1_tls12(message, &old, signed, self.algorithms),
            None => self.inner.verify_tls12_signature(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Version1::parse(certificate) {
            Some(old) => verify_version1_tls13(message, &old, signed, self.algorithms),
            None => self.inner.verify_tls13_signature(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_about_dates(cause: &CertificateError) -> bool {
    matches!(
        cause,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.check {
            Check::Nothing => {}
            Check::Authority(authorities) => {
                self.check_authority(authorities, end_entity, intermediates, now)?;
            }
            Check::AuthorityAndName(authorities) => {
                self.check_authority(authorities, end_entity, intermediates, now)?;
                check_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.is_beyond_checking(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match Version1::parse(certificate) {
            Some(old) => verify_version1_tls12(message, &old, signed, self.algorithms),
            None => verify_tls12_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.is_beyond_checking(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match Version1::parse(certificate) {
            Some(old) => verify_version1_tls13(message, &old, signed, self.algorithms),
            None => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
