//! The certificate of the API.

use std::net::SocketAddr;

use hawser_serve::address::is_public;
use hawser_serve::tls::{Tls, TlsFiles, TlsFilesError};

/// Loads the configured certificate.
///
/// # Errors
/// [`TlsFilesError`] with the file that cannot be used.
pub(super) fn load(files: Option<&TlsFiles>) -> Result<Option<Tls>, TlsFilesError> {
    files.cloned().map(Tls::load).transpose()
}

/// Warns about a public API without TLS, whose traffic can be read and changed on its way.
pub(super) fn warn_without(files: Option<&TlsFiles>, listen: SocketAddr) {
    if files.is_none() && is_public(listen.ip()) {
        tracing::warn!(%listen, "the API listens on a public address without TLS (--tls-cert, --tls-key)");
    }
}
