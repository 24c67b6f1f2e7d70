//! A bound on the chain of a peer's certificate, checked before any of it is followed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Largest number of certificates behind a server's own. The library follows each order of those that may have issued
/// one another, up to six in a row, and reads all of them again at each step: at most 65 steps for four, and 80,000 for
/// nine. A guess: public authorities have one to three between a server and their root.
const INTERMEDIATES_MAX: usize = 4;
/// Longest such certificates together, bytes: each is read up to 65 times. A guess: four of 4096-bit keys take half.
const INTERMEDIATES_LEN_BYTES_MAX: usize = 16 * 1024;

/// The verifier of a library, for chains that are short. A handshake's certificates are followed in one go on a thread
/// that serves others, and the server, or a host on the way to it, can make all of them.
#[derive(Debug)]
pub(super) struct ShortChains(pub(super) Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for ShortChains {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let len_bytes: usize = intermediates.iter().map(|certificate| certificate.len()).sum();
        if intermediates.len() > INTERMEDIATES_MAX || len_bytes > INTERMEDIATES_LEN_BYTES_MAX {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
