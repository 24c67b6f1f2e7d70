//! TLS of the listener: certificates from files, read again when they change.
//!
//! TLS 1.2 and 1.3, for HTTP/2 and HTTP/1.1 by ALPN (RFC 7301). Connections keep the certificate that they began with,
//! so a reload ends none. Unusable files fail the start. Later the certificate in use stays, and the fault is logged
//! and shown by a metric.
//!
//! - this file: the certificate in use; `files`: reading it; `der`: the time at which it expires;
//! - `decrypted_stream`: a connection with or without TLS; `handshake_check`: the certificate as a client sees it;
//! - `short_chains`: the bound on the certificates that a client sends.

mod decrypted_stream;
mod der;
mod files;
mod handshake_check;
mod short_chains;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustls::ServerConfig;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::metrics::Exposition;
use crate::readiness::{Check, Purpose};
use files::{FileStamps, LoadedCertificate};

pub(crate) use decrypted_stream::{DecryptedStream, ENCRYPTED_BYTES};
pub use files::{TlsFiles, TlsFilesError};
pub use handshake_check::{TlsHandshakeError, expiry_seen};

/// Interval between two checks of the files. A guess: certificates are replaced days before they expire.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(10);

/// The certificate of a listener. Cheap to clone; clones share state.
#[derive(Clone)]
pub struct Tls(Arc<TlsState>);

struct TlsState {
    files: TlsFiles,
    current: RwLock<LoadedTls>,
}

/// The certificate and key in use, and the files as they were last seen.
struct LoadedTls {
    config: Arc<ServerConfig>,
    expires_unix_s: i64,
    /// The files at the last check, usable or not.
    stamps: FileStamps,
    /// The reason why the current files are not in use.
    fault: Option<String>,
}

impl fmt::Debug for Tls {
    /// Formats the paths only, because the configuration contains the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Loads certificate and key.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn load(files: TlsFiles) -> Result<Self, TlsFilesError> {
        let stamps = files.stamps();
        let LoadedCertificate { config, expires_unix_s } = files.load()?;
        let current = LoadedTls { config, expires_unix_s, stamps, fault: None };
        Ok(Self(Arc::new(TlsState { files, current: RwLock::new(current) })))
    }

    /// Returns the acceptor of new connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.current.read().config.clone().into()
    }

    /// Watches the files until `end`, and uses a new certificate once they have changed.
    pub(crate) async fn follow_files(self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = sleep(LOOKED_AT_EVERY) => {}
            }
            let tls = self.clone();
            // Files may lie on a slow disk.
            if tokio::task::spawn_blocking(move || tls.look()).await.is_err() {
                tracing::error!(
                    code = "tls_look_failed",
                    "the task that checks the certificate's files failed"
                );
            }
        }
    }

    /// Reads the files again if they have changed since the last check, and those that could not be used then at each
    /// check: their owner and mode change no stamp, and a disk may fail for a moment. If they cannot be used, the
    /// certificate in use stays.
    pub fn look(&self) {
        let stamps = self.0.files.stamps();
        {
            let current = self.0.current.read();
            if current.stamps == stamps && current.fault.is_none() {
                return;
            }
        }
        let loaded = self.0.files.load();
        let mut current = self.0.current.write();
        current.stamps = stamps;
        match loaded {
            Ok(LoadedCertificate { config, expires_unix_s }) => {
                (current.config, current.expires_unix_s) = (config, expires_unix_s);
                current.fault = None;
                tracing::info!(expires_unix_s, "a new certificate is in use");
            }
            Err(error) => {
                let fault = Some(error.to_string());
                if current.fault != fault {
                    tracing::error!(
                        code = "tls_certificate_unusable",
                        %error,
                        "the new certificate cannot be used: the last one stays in use"
                    );
                }
                current.fault = fault;
            }
        }
    }

    /// Returns the condition of the certificate. It is not met after the certificate has expired, because clients then
    /// refuse it. An unusable new certificate does not change it: the node stays in its balancer while the one in use
    /// is valid.
    #[must_use]
    pub fn check(&self, purpose: Option<Purpose>) -> Check {
        let current = self.0.current.read();
        let result = match &current.fault {
            _ if current.expires_unix_s > now_unix_s() => Ok(()),
            None => Err("the certificate has expired".to_owned()),
            Some(fault) => Err(format!("the certificate has expired, and the new one: {fault}")),
        };
        let remedy = "put a valid certificate and its key in place of the files: they are read again within seconds";
        Check { name: "tls_certificate", purpose, result, remedy }
    }

    /// Returns the time at which the certificate in use expires, unix seconds.
    #[must_use]
    pub fn expires_unix_s(&self) -> i64 {
        self.0.current.read().expires_unix_s
    }

    /// Returns the reason why the current files are not in use; `None` if they are.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.0.current.read().fault.clone()
    }
}

/// The metrics of a listener's certificate; none without TLS.
#[derive(Debug)]
pub struct TlsMetrics(pub Option<Tls>);

impl Collector for TlsMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let tls = self.0.as_ref();
        let mut out = Exposition::new(encoder);
        out.gauge(
            "xmtp_tls_cert_expiry_timestamp_seconds",
            "Time at which the certificate in use expires, unix seconds",
            tls.map(Tls::expires_unix_s),
        )?;
        out.gauge(
            "xmtp_tls_reload_failed",
            "1 if the files of the certificate hold one that cannot be used, and the one before is in use",
            tls.map(|tls| i64::from(tls.fault().is_some())),
        )
    }
}

fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
