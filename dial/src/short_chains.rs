//! TLS to a host, with a bound on the chain of its certificate that is checked before any of it is followed.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The names of HTTP/2 and HTTP/1.1 over TLS. Specified: RFC 9113 §3.2, RFC 7301 §6.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Largest number of certificates behind a server's own. The library follows each order of those that may have issued
/// one another, up to six in a row, and reads all of them again at each step: at most 65 steps for four, and 80,000 for
/// nine. A guess: public authorities have one to three between a server and their root.
const INTERMEDIATES_MAX: usize = 4;
/// Longest such certificates together, bytes: each is read up to 65 times. A guess: four of 4096-bit keys take half.
const INTERMEDIATES_LEN_BYTES_MAX: usize = 16 * 1024;

/// Returns the public authorities.
#[must_use]
pub fn public_authorities() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// Returns the public authorities, and those in `pem`. Certificates in it that no authority can have are skipped.
///
/// # Errors
/// When a certificate in `pem` is damaged text.
pub fn authorities_with(pem: &[u8]) -> io::Result<RootCertStore> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let mut roots = public_authorities();
    roots.add_parsable_certificates(certificates.map_err(io::Error::other)?);
    Ok(roots)
}

/// TLS to one host.
#[derive(Clone)]
pub struct HostTls {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// True if the host has to choose HTTP/2.
    is_http2: bool,
}

impl HostTls {
    /// Prepares TLS for HTTP/2 to a host, as a URL has it, whose certificate one of `roots` has issued.
    ///
    /// # Errors
    /// When the host has no name for TLS, or TLS cannot be set up at all.
    pub fn new(host: &str, roots: RootCertStore) -> io::Result<Self> {
        Self::for_protocol(HTTP2, host, roots)
    }

    /// Prepares TLS for HTTP/1.1 to a host, as [`new`](Self::new) does for HTTP/2.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn for_http1(host: &str, roots: RootCertStore) -> io::Result<Self> {
        Self::for_protocol(HTTP1, host, roots)
    }

    fn for_protocol(protocol: &'static [u8], host: &str, roots: RootCertStore) -> io::Result<Self> {
        // An IPv6 address has brackets in a URL.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let config = trusting(roots, protocol).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, name, is_http2: protocol == HTTP2 })
    }

    /// Makes the handshake. The caller limits the time.
    ///
    /// # Errors
    /// When the handshake fails, the certificate is not the host's, its chain is longer than those of public
    /// authorities are, or the host does not speak HTTP/2 where that is wanted.
    pub async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.connector.connect(self.name.clone(), tcp).await?;
        // Servers of HTTP/1.1 may choose no protocol at all.
        if self.is_http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(io::Error::other("the server does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }
}

/// Returns how to connect to a server of a protocol whose certificate one of `roots` has issued.
fn trusting(roots: RootCertStore, protocol: &[u8]) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|error| Error::General(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ShortChains(verifier)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// The verifier of a library, for chains that are short. A handshake's certificates are followed in one go on a thread
/// that serves others, and the server, or a host on the way to it, can make all of them.
#[derive(Debug)]
struct ShortChains(Arc<dyn ServerCertVerifier>);

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
            let why =
                "the server sends more than four certificates behind its own, or 16 KiB of them";
            return Err(Error::General(why.to_owned()));
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

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn a_file_of_authorities_with_damaged_text_is_refused_and_what_is_no_authority_is_skipped() {
        let with = |text: &str| {
            let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
            authorities_with(pem.as_bytes()).map(|roots| roots.len())
        };
        assert_eq!(with("AAAA").unwrap(), public_authorities().len());
        assert!(with("!").is_err());
    }

    /// A server, or a host on the way to it, may send any certificates behind its own.
    #[tokio::test]
    async fn a_server_with_a_long_chain_is_left_before_its_certificates_are_followed() {
        let made = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
        let own = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let client = Arc::new(trusting(roots, HTTP2).unwrap());
        // The first certificate suffices, so the library alone would accept each of these chains.
        let accepts = async |behind: Vec<CertificateDer<'static>>| {
            let chain = [vec![own.clone()], behind].concat();
            let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let name = ServerName::try_from("node").unwrap();
            let connecting = TlsConnector::from(client.clone()).connect(name, near);
            let accepting = TlsAcceptor::from(Arc::new(server)).accept(far);
            let (connected, _) = tokio::join!(connecting, accepting);
            connected.is_ok()
        };
        assert!(accepts(vec![own.clone(); 4]).await);
        assert!(!accepts(vec![own.clone(); 5]).await, "too many");
        let long = CertificateDer::from(vec![0; 17 * 1024]);
        assert!(!accepts(vec![long]).await, "too long together");
    }
}
