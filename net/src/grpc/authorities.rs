//! Certificate authorities that are trusted in addition to the public ones: those in the file that `SSL_CERT_FILE`
//! names. An unusable file is logged, and peers with public certificates are still followed.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::short_chains::ShortChains;

/// A file of further certificate authorities in PEM that programs of this system trust, by the convention of OpenSSL.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Longest such file. A guess: ten times the bundle of a system.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Longest wait for it. A guess: a file on another machine that is slow.
const READ_MAX: Duration = Duration::from_secs(2);
/// The beginning of each certificate in it.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Returns how peers are connected to over TLS. The file is read for each connection, so that one that was renewed
/// counts.
///
/// # Errors
/// When TLS cannot be set up at all.
pub(super) async fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let file = std::env::var_os(VARIABLE).filter(|file| !file.is_empty());
    tls_config_with(file).await
}

/// Sets up TLS with the public authorities and those of `file`. Without a usable file it warns once, and uses
/// the public ones.
async fn tls_config_with(file: Option<OsString>) -> Result<ClientConfig, rustls::Error> {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    if let Some(file) = file {
        let read = timeout(READ_MAX, read(&file)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match read.and_then(|pem| certificates(&pem)) {
            Ok(certificates) => {
                roots.add_parsable_certificates(certificates);
                IS_TOLD.store(false, Ordering::Relaxed);
            }
            Err(error) if !IS_TOLD.swap(true, Ordering::Relaxed) => {
                let (file, next) = (file.display(), "public authorities alone are trusted");
                let why = error.to_string();
                tracing::warn!(code = "authorities_unusable", %file, why, "{VARIABLE}: {next}");
            }
            Err(_) => {}
        }
    }
    trusting(roots)
}

/// Returns how to connect to a peer whose certificate one of `roots` has issued.
fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ShortChains(verifier)))
        .with_no_client_auth();
    Ok(config)
}

/// Returns the certificates of a file.
fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.map_err(io::Error::other)
}

/// Reads a file with certificates on a thread that may block, one file at a time: a network file system that is gone
/// holds its thread without bound, and commits need such threads too.
async fn read(file: &OsString) -> io::Result<Vec<u8>> {
    static READING: Semaphore = Semaphore::const_new(1);
    let permit = READING.acquire().await.map_err(io::Error::other)?;
    let file = file.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit; // for as long as the thread reads, also when its caller has stopped waiting
        read_now(&file)
    });
    reading.await.map_err(io::Error::other)?
}

/// Reads a file that has a certificate. A pipe would block for ever.
fn read_now(file: &OsString) -> io::Result<Vec<u8>> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    if !std::fs::metadata(file)?.is_file() {
        return Err(invalid("it is not a file"));
    }
    let mut pem = Vec::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > FILE_BYTES_MAX {
        return Err(invalid("it is too long"));
    }
    if !pem.windows(BEGIN.len()).any(|part| part == BEGIN) {
        return Err(invalid("it has no certificate"));
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_used_leaves_the_public_authorities() {
        let folder = std::env::temp_dir().join(format!("authorities-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            path.into_os_string()
        };
        let mut long = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap()];
        long.extend_from_slice(BEGIN);
        let unusable = [
            folder.join("none").into_os_string(),
            folder.as_os_str().to_owned(),
            file("long", &long),
            file("empty", b""),
        ];
        for path in &unusable {
            assert!(read(path).await.is_err(), "{path:?}");
        }
        let damaged = [BEGIN, b"\n!\n-----END CERTIFICATE-----\n"].concat();
        for path in unusable.into_iter().chain([file("damaged", &damaged)]) {
            assert!(tls_config_with(Some(path.clone())).await.is_ok(), "{path:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// A peer, or a host on the way to it, may send any certificates behind its own.
    #[tokio::test]
    async fn a_peer_with_a_long_chain_is_left_before_its_certificates_are_followed() {
        let made = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
        let own = made.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let client = Arc::new(trusting(roots).unwrap());
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
            let name = ServerName::try_from("peer").unwrap();
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
