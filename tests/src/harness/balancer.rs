//! A load balancer in front of one port: it forwards TCP, with or without terminating TLS, and does not forward UDP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::xmtpd_database::Certificate;

/// A running balancer. Dropping it ends its connections.
#[derive(Debug)]
pub struct Balancer {
    url: String,
    task: AbortHandle,
}

/// The TLS termination of a balancer: its certificate, and the authority that clients have to trust.
#[derive(Clone)]
pub struct BalancerTls {
    /// The authority that its certificate is from, PEM.
    pub authority: String,
    acceptor: TlsAcceptor,
}

impl BalancerTls {
    /// Makes a certificate for this machine.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new() -> Self {
        let made = Certificate::new("127.0.0.1");
        let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { authority: made.certificate, acceptor: Arc::new(config).into() }
    }
}

impl Default for BalancerTls {
    fn default() -> Self {
        Self::new()
    }
}

impl Balancer {
    /// Starts a balancer in front of `target`, which terminates TLS if `tls` is given.
    pub async fn to(target: SocketAddr, tls: Option<&BalancerTls>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(|tls| tls.acceptor.clone());
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    match acceptor {
                        None => pass(near, target).await,
                        Some(acceptor) => {
                            if let Ok(near) = acceptor.accept(near).await {
                                pass(near, target).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url: format!("{scheme}://{address}"), task: task.abort_handle() }
    }

    /// Returns the URL to register.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Forwards bytes both ways. The connection ends if the node is down or either end leaves.
async fn pass(mut near: impl AsyncRead + AsyncWrite + Unpin, target: SocketAddr) {
    if let Ok(mut far) = TcpStream::connect(target).await {
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
