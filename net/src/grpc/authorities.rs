//! Certificate authorities that are trusted in addition to the public ones: those in the file that `SSL_CERT_FILE`
//! names. An unusable file is logged, and peers with public certificates are still followed.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawser_dial::{authorities_with, public_authorities};
use rustls::RootCertStore;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A file of further certificate authorities in PEM that programs of this system trust, by the convention of OpenSSL.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Longest such file. A guess: ten times the bundle of a system.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Longest wait for it. A guess: a file on another machine that is slow.
const READ_MAX: Duration = Duration::from_secs(2);
/// The beginning of each certificate in it.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Returns the authorities that may issue the certificates of peers. The file is read for each connection, so that one
/// that was renewed counts.
pub(super) async fn trusted() -> RootCertStore {
    let file = std::env::var_os(VARIABLE).filter(|file| !file.is_empty());
    trusted_with(file).await
}

/// Returns the public authorities and those of `file`. Without a usable file it warns once, and returns the public
/// ones.
async fn trusted_with(file: Option<OsString>) -> RootCertStore {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if let Some(file) = file {
        let read = timeout(READ_MAX, read(&file)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match read.and_then(|pem| authorities_with(&pem)) {
            Ok(roots) => {
                IS_TOLD.store(false, Ordering::Relaxed);
                return roots;
            }
            Err(error) if !IS_TOLD.swap(true, Ordering::Relaxed) => {
                let (file, next) = (file.display(), "public authorities alone are trusted");
                let why = error.to_string();
                tracing::warn!(code = "authorities_unusable", %file, why, "{VARIABLE}: {next}");
            }
            Err(_) => {}
        }
    }
    public_authorities()
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
            let trusted = trusted_with(Some(path.clone())).await;
            assert_eq!(trusted.len(), public_authorities().len(), "{path:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
