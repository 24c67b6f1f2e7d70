//! Checks that calls reach the node at its registered URL in both protocols of clients. A proxy in front may pass on
//! only one of them: gRPC needs HTTP/2, browsers use gRPC-Web.

use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetVersionRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{one_line, root_cause};
use hawser_serve::CheckedChannel;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::time::timeout;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::checked::DoctorCheck;
use super::public::ASK_ELSEWHERE;

/// Time limit of a call. A guess: it takes a few round trips.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);
/// A call that every node answers.
const CALL: &str = "xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion";
/// A frame of gRPC-Web with an empty message: no flags, and a length of 0.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// The reason for which a call has no answer of a node.
#[derive(Debug)]
enum TestCallError {
    /// There is no connection, or no answer on it.
    Silent(String),
    /// The answer is not a node's.
    Other(String),
}

/// Makes a call to the registered URL over gRPC, and one over gRPC-Web.
pub(super) async fn calls(url: &str) -> [DoctorCheck; 2] {
    let (grpc, web) = tokio::join!(over_grpc(url), over_grpc_web(url));
    let is_reached = [&grpc, &web].iter().any(|it| !matches!(it, Err(TestCallError::Silent(_))));
    let for_grpc = "let the proxy in front pass HTTP/2 on, to the node as well: docs/proxies.md";
    let for_web = "let the proxy in front pass calls of browsers on over HTTP/1.1: docs/proxies.md";
    [
        judge("grpc", &format!("calls over gRPC to {url}"), grpc, is_reached, for_grpc),
        judge("grpc_web", &format!("calls over gRPC-Web to {url}"), web, is_reached, for_web),
    ]
}

/// Judges the answer to a call. Silence is a fault of a proxy only if the same URL answers another call.
fn judge(
    name: &'static str,
    calls: &str,
    answered: Result<(), TestCallError>,
    is_reached: bool,
    remedy: &str,
) -> DoctorCheck {
    match answered {
        Ok(()) => DoctorCheck::fine(name, format!("{calls} are answered")),
        Err(TestCallError::Silent(why)) if !is_reached => {
            let found = format!("{calls} are not answered from this machine: {why}");
            DoctorCheck::doubtful(name, found, ASK_ELSEWHERE)
        }
        Err(TestCallError::Silent(why) | TestCallError::Other(why)) => {
            DoctorCheck::failed(name, format!("{calls} get no answer of a node: {why}"), remedy)
        }
    }
}

/// Makes a call to a node over this channel.
///
/// # Errors
/// The reason for which there is no answer of a node.
pub(in crate::service) async fn call_node(channel: CheckedChannel) -> Result<(), String> {
    in_time(call(channel)).await.map_err(|error| match error {
        TestCallError::Silent(why) | TestCallError::Other(why) => why,
    })
}

async fn over_grpc(url: &str) -> Result<(), TestCallError> {
    let silent =
        |error: tonic::transport::Error| TestCallError::Silent(one_line(&root_cause(&error)));
    in_time(async {
        let endpoint = endpoint(url).await.map_err(silent)?;
        let channel = endpoint.connect().await.map_err(silent)?;
        call(CheckedChannel::from(channel)).await
    })
    .await
}

async fn in_time(
    calling: impl Future<Output = Result<(), TestCallError>>,
) -> Result<(), TestCallError> {
    let late = || TestCallError::Silent(format!("no answer within {} s", CALL_MAX.as_secs()));
    timeout(CALL_MAX, calling).await.unwrap_or_else(|_| Err(late()))
}

async fn call(channel: CheckedChannel) -> Result<(), TestCallError> {
    let mut client = MetadataApiClient::new(channel);
    match client.get_version(GetVersionRequest {}).await {
        Ok(_) => Ok(()),
        // A status that the library makes of a broken connection has its error as source.
        Err(status) => Err(match std::error::Error::source(&status) {
            Some(cause) => TestCallError::Silent(one_line(&root_cause(cause))),
            None => {
                let text = format!("{:?}: {}", status.code(), status.message());
                TestCallError::Other(one_line(&text))
            }
        }),
    }
}

/// Returns the endpoint of a URL. For `https:` it trusts public authorities and those in the file of `SSL_CERT_FILE`.
pub(super) async fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?;
    if !url.starts_with("https:") {
        return Ok(endpoint);
    }
    let mut trusted = ClientTlsConfig::new().with_enabled_roots();
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
        if let Ok(Ok(pem)) = read {
            trusted = trusted.ca_certificate(Certificate::from_pem(pem));
        }
    }
    endpoint.tls_config(trusted)
}

/// Makes a call over HTTP/1.1, and reads the head of its answer.
async fn over_grpc_web(url: &str) -> Result<(), TestCallError> {
    // An error means that the process has already installed another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let silent = |error: reqwest::Error| TestCallError::Silent(one_line(&root_cause(&error)));
    let client = reqwest::Client::builder()
        .timeout(CALL_MAX)
        .no_proxy()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(silent)?;
    let request = client
        .post(format!("{}/{CALL}", url.trim_end_matches('/')))
        .header(CONTENT_TYPE, "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .body(EMPTY_MESSAGE.to_vec());
    let answer = request.send().await.map_err(silent)?;
    let header = |name: &str| {
        let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (kind, code) = (header("content-type"), header("grpc-status"));
    let status = answer.status();
    let is_of_node = status == StatusCode::OK && kind.starts_with("application/grpc-web");
    // The status of a call with an answer follows the answer, and is not in the head.
    if is_of_node && ["", "0"].contains(&code.as_str()) {
        return Ok(());
    }
    let status = status.as_u16();
    Err(TestCallError::Other(one_line(&format!("status {status}, {kind} {code}"))))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::checked::CheckResult::{self, Doubtful, Failed, Fine};
    use super::*;

    /// Answers each HTTP/1.1 request with these bytes, as a proxy does that knows no HTTP/2.
    async fn at(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    let len = stream.read(&mut bytes).await.unwrap_or(0);
                    if bytes[..len].starts_with(b"POST ") {
                        let _ = stream.write_all(answer.as_bytes()).await;
                        while stream.read(&mut bytes).await.is_ok_and(|len| len > 0) {}
                    }
                });
            }
        });
        url
    }

    async fn results(url: &str) -> [CheckResult; 2] {
        calls(url).await.map(|checked| checked.result)
    }

    #[tokio::test]
    async fn a_proxy_that_passes_on_one_protocol_only_is_found() {
        let web = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(results(&at(web).await).await, [Failed, Fine]);
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
        let [grpc, of_browsers] = calls(&at(page).await).await;
        assert_eq!([grpc.result, of_browsers.result], [Failed, Failed]);
        assert!(of_browsers.found.contains("text/html"), "{of_browsers:?}");
        assert!(of_browsers.remedy.is_some_and(|it| it.contains("docs/proxies.md")));
        let gone = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(results(&at(gone).await).await, [Failed, Failed]);
    }

    #[tokio::test]
    async fn a_url_that_does_not_answer_here_at_all_is_doubtful() {
        assert_eq!(results("http://127.0.0.1:1").await, [Doubtful, Doubtful]);
        assert_eq!(results("no url").await, [Doubtful, Doubtful]);
    }
}
