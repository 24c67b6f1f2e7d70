//! Checks a server's certificate as a client does, for the server's operator. Another program may answer at the
//! address, so the work is bounded in time; the TLS library bounds the bytes that it reads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::der;

/// The reason for which a client does not accept a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsHandshakeError {
    /// No trusted authority has issued the certificate, or the server does not send an intermediate certificate.
    #[error(
        "no authority that is trusted has issued its certificate, or those in between are not sent"
    )]
    Untrusted,
    /// The certificate is for other names.
    #[error("its certificate is one for other names")]
    OtherName,
    /// The certificate, or one of its issuers, has expired.
    #[error("its certificate, or one of its issuers, has expired")]
    Expired,
    /// Another fault of the certificate.
    #[error("its certificate cannot be accepted: {0}")]
    Other(String),
    /// There was no handshake: nothing listens, it does not speak TLS, or it is silent.
    #[error("there is no TLS handshake with it: {0}")]
    NoHandshake(String),
}

/// Connects like a client that trusts `roots`, and returns the time at which the certificate expires, unix seconds.
/// Sends no request.
///
/// # Errors
/// See [`TlsHandshakeError`].
pub async fn expiry_seen(
    host: &str,
    port: u16,
    roots: RootCertStore,
    time_max: Duration,
) -> Result<i64, TlsHandshakeError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| TlsHandshakeError::NoHandshake(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of both versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = super::files::ALPN.map(<[u8]>::to_vec).into();
    let connecting = async {
        let stream = TcpStream::connect((host, port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = match timeout(time_max, connecting).await {
        Ok(connected) => connected.map_err(|error| fault(&error))?,
        Err(_) => {
            let text = format!("no answer within {} s", time_max.as_secs_f32());
            return Err(TlsHandshakeError::NoHandshake(text));
        }
    };
    let chain = stream.get_ref().1.peer_certificates();
    let expires = chain.and_then(|chain| der::expires_unix_s(chain.first()?));
    expires.ok_or_else(|| TlsHandshakeError::Other("its end cannot be read".to_owned()))
}

fn fault(error: &io::Error) -> TlsHandshakeError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    let Some(Error::InvalidCertificate(fault)) = cause else {
        return TlsHandshakeError::NoHandshake(error.to_string());
    };
    match fault {
        // A bad signature means another authority with the same name and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsHandshakeError::Untrusted
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsHandshakeError::OtherName
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            TlsHandshakeError::Expired
        }
        // The texts of other errors may quote the certificate, so they are cut.
        other => TlsHandshakeError::Other(other.to_string().chars().take(200).collect()),
    }
}
