//! A bound on the chain of a client's certificate, checked before any of it is followed.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Largest number of certificates behind a client's own. The library follows each order of those that may have issued
/// one another, up to six in a row, and reads all of them again at each step: at most 65 steps for four, and 80,000 for
/// nine. A guess: authorities have one to three between a client and their root, and some clients send the root too.
const INTERMEDIATES_MAX: usize = 4;
/// Longest such certificates together, bytes: each is read up to 65 times. A guess: four of 4096-bit keys take half.
const INTERMEDIATES_LEN_BYTES_MAX: usize = 16 * 1024;

/// The verifier of a library, for chains that are short. A handshake's certificates are followed in one go on a thread
/// that serves connections, and a stranger can make all of them: 300 of a hundred bytes took five seconds.
#[derive(Debug)]
pub(super) struct ShortChains(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ShortChains {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let len_bytes: usize = intermediates.iter().map(|certificate| certificate.len()).sum();
        if intermediates.len() > INTERMEDIATES_MAX || len_bytes > INTERMEDIATES_LEN_BYTES_MAX {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
