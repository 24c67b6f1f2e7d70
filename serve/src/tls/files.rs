//! The files of a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::der;
use super::short_chains::ShortChains;
use crate::named_file::read_bytes;

/// Protocols that the listener speaks, the preferred one first (RFC 7301).
pub(super) const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The largest file that is read, bytes. A guess: a chain of a few certificates has some thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The files of a listener's certificate, all of them PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those of its issuers.
    pub cert: PathBuf,
    /// The certificate's secret key.
    pub key: PathBuf,
    /// The authorities that sign the certificates of clients. With them a client without such a certificate is refused.
    pub client_ca: Option<PathBuf>,
}

/// The reason for which the files of a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file does not have the expected content.
    #[error("{path}: {reason}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The key does not belong to the certificate, or their kind is not supported.
    #[error("{cert} with the key {key}: {reason}", cert = cert.display(), key = key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The fault.
        reason: String,
    },
}

/// Metadata of the files. It changes when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStamps(Vec<Option<Stamp>>);

/// Length, time of the last change and, where the system has one, number of a file.
type Stamp = (u64, Option<SystemTime>, u64);

/// The content of the files.
pub(super) struct LoadedCertificate {
    pub(super) config: Arc<ServerConfig>,
    pub(super) expires_unix_s: i64,
}

impl TlsFiles {
    pub(super) fn stamps(&self) -> FileStamps {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        FileStamps(files.into_iter().flatten().map(|path| stamp(path)).collect())
    }

    /// Reads the files, and builds the TLS settings of new connections.
    pub(super) fn load(&self) -> Result<LoadedCertificate, TlsFilesError> {
        let chain = certificates(&self.cert)?;
        let expires_unix_s = der::expires_unix_s(&chain[0])
            .ok_or_else(|| content(&self.cert, "its first certificate is malformed"))?;
        let key = read(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| content(&self.key, "no secret key in PEM"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites of both versions");
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider);
                let verifier =
                    verifier.build().map_err(|error: VerifierBuilderError| content(path, error))?;
                config.with_client_cert_verifier(Arc::new(ShortChains(verifier)))
            }
        };
        let pair = |error: rustls::Error| TlsFilesError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            reason: error.to_string(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        Ok(LoadedCertificate { config: Arc::new(config), expires_unix_s })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&file);
    #[cfg(not(unix))]
    let number = 0;
    Some((file.len(), file.modified().ok(), number))
}

fn content(path: &Path, reason: impl ToString) -> TlsFilesError {
    TlsFilesError::Content { path: path.to_owned(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFilesError> {
    let failed = |source| TlsFilesError::Read { path: path.to_owned(), source };
    let bytes = read_bytes(path, FILE_BYTES_MAX + 1).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(content(path, "longer than any certificate"));
    }
    Ok(bytes)
}

/// Reads the certificates of a file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| content(path, format!("not PEM: {error}")))?;
    if all.is_empty() { Err(content(path, "no certificate in PEM")) } else { Ok(all) }
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsFilesError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| content(path, error))?;
    }
    Ok(Arc::new(roots))
}
