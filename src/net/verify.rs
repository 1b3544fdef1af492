//! How much of a server's certificate is verified: nothing, its authority, or its name as well.
//!
//! Built on the library's own checks; what differs from its default is why this file exists:
//! names may be left out, and a listed certificate may be shown itself.

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    self, CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

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
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
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
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
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
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
