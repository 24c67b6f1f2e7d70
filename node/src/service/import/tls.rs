//! Connections to Postgres, with or without TLS as in the modes of libpq, whose messages are bounded.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::messages::MessageScan;

/// The request for TLS: its length, and its code. Specified: protocol 3 of Postgres.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The checks of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateCheck {
    /// None: an attacker on the path can read and change everything.
    Nothing,
    /// A trusted authority must have issued it, for any name.
    Issuer,
    /// A trusted authority must have issued it for the host.
    IssuerAndName,
}

/// A connector that asks for TLS as its mode says. Cheap to clone.
#[derive(Clone)]
pub(super) struct PostgresTls {
    connector: TlsConnector,
    mode: SslMode,
}

impl PostgresTls {
    /// Creates a connector that trusts the authorities in the PEM file `roots`, or those of this machine.
    ///
    /// # Errors
    /// The reason, if there is no trusted authority.
    pub(super) fn new(
        mode: SslMode,
        checked: CertificateCheck,
        roots: Option<&Path>,
    ) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match checked {
            CertificateCheck::Nothing => {
                Arc::new(AnyName { issuer: None, provider: provider.clone() })
            }
            CertificateCheck::Issuer => {
                let issuer = Some(trusting(roots, provider.clone())?);
                Arc::new(AnyName { issuer, provider: provider.clone() })
            }
            CertificateCheck::IssuerAndName => trusting(roots, provider.clone())?,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), mode })
    }

    /// Returns a connector without TLS, if the operator has not required it.
    pub(super) fn without_tls(&self) -> Option<Self> {
        let connector = self.connector.clone();
        (self.mode == SslMode::Prefer).then_some(Self { connector, mode: SslMode::Disable })
    }
}

fn trusting(
    roots: Option<&Path>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let certificates = match roots {
        Some(path) => {
            let failed = |error| format!("sslrootcert {}: {error}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
            read.collect::<Result<Vec<_>, _>>().map_err(failed)?
        }
        // Unreadable certificates are left out; the others may be enough.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates);
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
    built.map_err(|error| {
        let of = roots.map_or("this machine".to_owned(), |path| path.display().to_string());
        format!("no authority of {of} can be trusted ({error}): name one with sslrootcert")
    })
}

impl<S> MakeTlsConnect<S> for PostgresTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = PostgresStream;
    type TlsConnect = HostTls;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<HostTls, InvalidDnsNameError> {
        let host = ServerName::try_from(host.to_owned())?;
        Ok(HostTls { tls: self.clone(), host })
    }
}

/// A connector for one connection to a host.
pub(super) struct HostTls {
    tls: PostgresTls,
    host: ServerName<'static>,
}

impl<S> TlsConnect<S> for HostTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = PostgresStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<PostgresStream>> + Send>>;

    fn connect(self, mut stream: S) -> Self::Future {
        Box::pin(async move {
            let PostgresTls { connector, mode } = self.tls;
            if mode == SslMode::Disable {
                return Ok(PostgresStream::over(stream));
            }
            stream.write_all(&TLS_REQUEST).await?;
            match stream.read_u8().await? {
                b'S' => Ok(PostgresStream::over(connector.connect(self.host, stream).await?)),
                _ if mode == SslMode::Require => {
                    Err(io::Error::other("the server does not support TLS"))
                }
                _ => Ok(PostgresStream::over(stream)),
            }
        })
    }
}

/// A stream in both directions, with or without TLS.
trait PlainOrTls: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> PlainOrTls for T {}

/// A connection that fails at a message above the bounds.
pub(super) struct PostgresStream {
    stream: Box<dyn PlainOrTls>,
    scan: MessageScan,
}

impl PostgresStream {
    fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), scan: MessageScan::default() }
    }
}

impl TlsStream for PostgresStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for PostgresStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, to))?;
        let scanned = self.scan.read(&to.filled()[before..]);
        Poll::Ready(scanned.map_err(io::Error::other))
    }
}

impl AsyncWrite for PostgresStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// A verifier that accepts a certificate for any name: one from a trusted authority, or, if the issuer is not checked,
/// any certificate, even a malformed one, because the operator has requested no check.
#[derive(Debug)]
struct AnyName {
    issuer: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(issuer) = &self.issuer else { return Ok(ServerCertVerified::assertion()) };
        match issuer.verify_server_cert(certificate, between, host, ocsp, now) {
            // The library checks the name last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(issuer) = &self.issuer else { return Ok(HandshakeSignatureValid::assertion()) };
        issuer.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(issuer) = &self.issuer else { return Ok(HandshakeSignatureValid::assertion()) };
        issuer.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
