//! A check of the certificate that clients see at the registered URL, because a proxy in front may serve another one
//! than the node's files contain.

use std::time::Duration;

use hawser_serve::tls::{TlsHandshakeError, expiry_seen};
use rustls::RootCertStore;

use super::checked::DoctorCheck;
use super::machine::{self, CERTIFICATE_DAYS_MIN};
use super::public::host_and_port;
use crate::clock::signed_now_unix_s;

/// Time limit of the handshake. A guess: it takes two round trips.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const NAME: &str = "served_certificate";

/// Performs a TLS handshake with the registered URL like a client. Returns `None` for a URL without TLS.
pub(super) async fn served_certificate(url: &str) -> Option<DoctorCheck> {
    let (host, port) = host_and_port(url).filter(|_| url.starts_with("https://"))?;
    let mut roots = RootCertStore::empty();
    // The file named by SSL_CERT_FILE is read here and may be on a slow disk.
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let (trusted, _) =
        roots.add_parsable_certificates(loaded.map(|it| it.certs).unwrap_or_default());
    if trusted == 0 {
        let found = "this machine trusts no authority, so it cannot look as a client does";
        let remedy = "install ca-certificates, or name a file of authorities: SSL_CERT_FILE";
        return Some(DoctorCheck::doubtful(NAME, found, remedy));
    }
    let now_s = signed_now_unix_s();
    let seen = expiry_seen(&host, port, roots, HANDSHAKE_MAX).await;
    Some(judge(&format!("{host}:{port}"), seen.map(|expires_s| expires_s.saturating_sub(now_s))))
}

/// Judges the remaining lifetime of a certificate in seconds, or the reason why clients refuse it.
fn judge(at: &str, seen: Result<i64, TlsHandshakeError>) -> DoctorCheck {
    let remedy = match &seen {
        Ok(left_s) => {
            let days = left_s.div_euclid(86_400);
            let left = machine::days(days);
            let found = format!("clients of {at} trust its certificate, which expires in {left}");
            if days >= CERTIFICATE_DAYS_MIN {
                return DoctorCheck::fine(NAME, found);
            }
            let remedy = "renew it where TLS ends: in the files of --tls-cert, or at the proxy";
            return DoctorCheck::doubtful(NAME, found, remedy);
        }
        Err(TlsHandshakeError::NoHandshake(error)) => {
            let found = format!("{at} makes no TLS handshake with this machine: {error}");
            let remedy = "set --tls-cert and --tls-key, or let a proxy end TLS: docs/proxies.md. If other machines reach it, a router does not lead back";
            return DoctorCheck::doubtful(NAME, found, remedy);
        }
        Err(TlsHandshakeError::Untrusted) => {
            "serve the certificate with those of its issuers behind it, of an authority that clients trust; a private one is named to this command by SSL_CERT_FILE"
        }
        Err(TlsHandshakeError::OtherName) => {
            "get a certificate for this name, or correct the URL: hawser registry node update-http"
        }
        Err(TlsHandshakeError::Expired) => {
            "renew it where TLS ends: in the files of --tls-cert, or at the proxy"
        }
        Err(TlsHandshakeError::Other(_)) => "get a certificate of a public authority",
    };
    let error = seen.expect_err("a certificate that is accepted was judged");
    DoctorCheck::failed(NAME, format!("clients do not accept {at}: {error}"), remedy)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::*;

    #[test]
    fn each_fault_has_its_result_and_its_step() {
        let day = 86_400;
        let result = |seen| judge("node.example:443", seen).result;
        assert_eq!(result(Ok(14 * day)), Fine);
        assert_eq!(result(Ok(14 * day - 1)), Doubtful);
        assert_eq!(result(Err(TlsHandshakeError::NoHandshake("refused".to_owned()))), Doubtful);
        let failed = [
            (TlsHandshakeError::Untrusted, "issuers"),
            (TlsHandshakeError::OtherName, "update-http"),
            (TlsHandshakeError::Expired, "renew"),
            (TlsHandshakeError::Other("revoked".to_owned()), "public authority"),
        ];
        for (fault, step) in failed {
            let text = fault.to_string();
            let judged = judge("node.example:443", Err(fault));
            assert_eq!(judged.result, Failed, "{judged:?}");
            assert!(judged.found.ends_with(&text), "{judged:?}");
            assert!(judged.remedy.as_ref().is_some_and(|it| it.contains(step)), "{judged:?}");
        }
    }

    #[tokio::test]
    async fn a_url_without_tls_is_not_looked_at_and_one_that_does_not_answer_is_doubtful() {
        assert_eq!(served_certificate("http://127.0.0.1:1").await, None);
        assert_eq!(served_certificate("no url").await, None);
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let judged = served_certificate(&format!("https://{closed}")).await.unwrap();
        assert_eq!(judged.result, Doubtful, "{judged:?}");
    }
}
