//! The listener with TLS, over sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use hawser_serve::address::Cidr;
use hawser_serve::metrics::MetricsPage;
use hawser_serve::tls::{Tls, TlsFiles, TlsFilesError, TlsHandshakeError, TlsMetrics, expiry_seen};
use hawser_serve::{CallMetrics, MemoryBudget, ServeSettings, Server};
use prometheus_client::collector::Collector;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::common::listen;

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost` and its key, PEM.
fn issued(authority: &Authority) -> (String, String) {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    certified(authority, &params)
}

fn certified(authority: &Authority, params: &CertificateParams) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn pem_of(authority: &Authority) -> String {
    pem("CERTIFICATE", authority.der())
}

/// A folder with the files of a listener's certificate.
pub(crate) struct Files {
    folder: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), authority: authority() };
        files.write(&issued(&files.authority));
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces both files as a renewal does: each by a rename.
    fn write(&self, (certificate, key): &(String, String)) {
        for (name, text) in [("cert.pem", certificate), ("key.pem", key)] {
            replace(&self.path(name), text);
        }
    }

    fn names(&self) -> TlsFiles {
        TlsFiles { cert: self.path("cert.pem"), key: self.path("key.pem"), client_ca: None }
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::load(self.names()).unwrap()
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn server(tls: Tls, adjust: impl FnOnce(&mut ServeSettings)) -> Server {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let with_tls = |settings: &mut ServeSettings| {
        settings.tls = Some(tls);
        adjust(settings);
    };
    listen(Routes::new(health), CallMetrics::new(&[]), with_tls).await
}

pub(crate) fn endpoint(
    server: &Server,
    authority: &Authority,
    identity: Option<Identity>,
) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem_of(authority)));
    let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
    let url = format!("https://localhost:{}", server.address().port());
    Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap()
}

async fn health(endpoint: Endpoint) -> Result<ServingStatus, tonic::Status> {
    let mut client = HealthClient::new(endpoint.connect_lazy());
    let answer = client.check(HealthCheckRequest { service: String::new() }).await?;
    Ok(answer.into_inner().status())
}

/// Connects with one version of TLS and these protocols.
pub(crate) async fn connected(
    server: &Server,
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    encrypted(stream, authority, version, alpn).await
}

/// Does the handshake on a connection.
async fn encrypted(
    stream: TcpStream,
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[version]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn http_2_and_http_1_1_are_spoken_in_both_versions_of_tls() {
    let files = Files::new();
    let server = server(files.tls(), |_| {}).await;
    let answer = health(endpoint(&server, &files.authority, None)).await.unwrap();
    assert_eq!(answer, ServingStatus::Serving);
    let versions = [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ];
    for (version, expected) in versions {
        for (alpn, chosen) in [(&b"h2"[..], &b"h2"[..]), (b"http/1.1", b"http/1.1")] {
            let stream = connected(&server, &files.authority, version, &[alpn]).await.unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(expected));
            assert_eq!(session.alpn_protocol(), Some(chosen));
        }
    }
    // A browser's gRPC-Web call, sent in pieces.
    let web = [&b"http/1.1"[..]];
    let mut stream =
        connected(&server, &files.authority, &rustls::version::TLS13, &web).await.unwrap();
    let request = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: localhost\r\n\
                   content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\
                   connection: close\r\n\r\n\0\0\0\0\0";
    for piece in request.as_bytes().chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

/// A balancer that passes TLS on sends its header in plain text, before the handshake.
#[tokio::test]
async fn a_proxy_names_the_client_of_a_connection_with_tls() {
    let files = Files::new();
    let server = server(files.tls(), |settings| {
        settings.connections_per_address_max = 1;
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    })
    .await;
    let version = &rustls::version::TLS13;
    let mut held = Vec::new();
    for (client, is_served) in [("1.2.3.4", true), ("1.2.3.4", false), ("1.2.3.5", true)] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let header = format!("PROXY TCP4 {client} 5.6.7.8 1000 443\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        let shaken = encrypted(stream, &files.authority, version, &[b"h2"]).await;
        assert_eq!(shaken.is_ok(), is_served, "{client}: {:?}", shaken.as_ref().err());
        held.push(shaken);
    }
}

/// Clients would take a frame of HTTP/2 in place of the handshake for a fault of the listener's TLS.
#[tokio::test]
async fn a_connection_too_many_is_closed_without_bytes_in_plain_text() {
    let files = Files::new();
    let server = server(files.tls(), |settings| settings.connections_per_address_max = 1).await;
    let version = &rustls::version::TLS13;
    let _held = connected(&server, &files.authority, version, &[b"h2"]).await.unwrap();
    let mut refused = TcpStream::connect(server.address()).await.unwrap();
    let mut answer = Vec::new();
    let _ = refused.read_to_end(&mut answer).await; // it may be reset
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn a_caller_without_tls_gets_nothing() {
    let files = Files::new();
    let server = server(files.tls(), |_| {}).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let answer = health(endpoint(&server, &authority(), None)).await.unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable, "another authority than the client's");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_closed_and_its_place_is_free_again() {
    let files = Files::new();
    let server = server(files.tls(), |settings| {
        // All of this test's handshakes together take less, also on busy cores.
        settings.head_timeout = Duration::from_secs(3);
        settings.connections_per_address_max = 3;
    })
    .await;
    // A client that sends nothing, one that sends half of its first message, and one that sends no request after
    // the handshake.
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 1, 0, 1, 0]).await.unwrap();
    let version = &rustls::version::TLS13;
    let mut shaken = connected(&server, &files.authority, version, &[b"h2"]).await.unwrap();
    assert!(
        connected(&server, &files.authority, version, &[b"h2"]).await.is_err(),
        "handshakes count among the connections of an address"
    );
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let _ = half.read_to_end(&mut rest).await;
    let _ = shaken.read_to_end(&mut rest).await;
    let endpoint = endpoint(&server, &files.authority, None);
    assert_eq!(health(endpoint).await.unwrap(), ServingStatus::Serving);
}

/// The library keeps the bytes of a handshake, up to 64 KiB, until all of it is here.
#[tokio::test]
async fn a_handshake_is_charged_while_it_is_on_its_way() {
    let (files, memory) = (Files::new(), MemoryBudget::new(16 * 1024 * 1024));
    let budget = memory.clone();
    let server = server(files.tls(), |settings| settings.memory = budget).await;
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    half.write_all(&[0x16, 3, 1, 1, 0, 1, 0]).await.unwrap();
    let charged = async {
        while memory.used_bytes() < 64 * 1024 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let charged = tokio::time::timeout(Duration::from_secs(60), charged).await;
    assert!(charged.is_ok(), "{} bytes", memory.used_bytes());
    drop(half);
    let given_back = async {
        while memory.used_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_back).await.expect("given back");
}

#[tokio::test]
async fn a_new_certificate_is_used_and_ends_no_call() {
    let files = Files::new();
    let tls = files.tls();
    let server = server(tls.clone(), |_| {}).await;
    let channel = endpoint(&server, &files.authority, None).connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    let request = || HealthCheckRequest { service: String::new() };
    let mut stream = client.watch(request()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());

    let next = authority();
    files.write(&issued(&next));
    tls.look();
    assert!(health(endpoint(&server, &next, None)).await.is_ok());
    assert!(health(endpoint(&server, &files.authority, None)).await.is_err());
    client.check(request()).await.expect("the connection goes on");
    let silent = tokio::time::timeout(Duration::from_millis(50), stream.message()).await;
    assert!(silent.is_err(), "the stream goes on: {silent:?}");
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_certificate_in_use() {
    let files = Files::new();
    let tls = files.tls();
    let server = server(tls.clone(), |_| {}).await;
    let expires = tls.expires_unix_s();
    let (certificate, key) = issued(&files.authority);
    // A certificate whose key is not replaced yet, a truncated one, and an empty file.
    for text in [certificate.as_str(), &certificate[..certificate.len() / 2], ""] {
        replace(&files.path("cert.pem"), text);
        tls.look();
        assert!(tls.fault().is_some_and(|fault| fault.contains("cert.pem")), "{text}");
        assert!(health(endpoint(&server, &files.authority, None)).await.is_ok());
        assert!(tls.check(None).result.is_ok(), "the one in use is valid");
    }
    std::fs::remove_file(files.path("key.pem")).unwrap();
    tls.look();
    assert_eq!(tls.expires_unix_s(), expires);
    files.write(&(certificate, key));
    tls.look();
    assert_eq!(tls.fault(), None);
    assert!(health(endpoint(&server, &files.authority, None)).await.is_ok());
}

/// Played by bytes that become right while length, time and number of the file stay: as a key that gets the right
/// owner, or a disk that has failed to read for a moment.
#[test]
fn files_that_could_not_be_used_are_in_use_once_they_can_be_although_they_look_the_same() {
    let files = Files::new();
    let tls = files.tls();
    let (certificate, key) = issued(&files.authority);
    files.write(&(certificate, "x".repeat(key.len())));
    tls.look();
    assert!(tls.fault().is_some_and(|fault| fault.contains("key.pem")));
    let path = files.path("key.pem");
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, key).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    tls.look();
    assert_eq!(tls.fault(), None);
}

#[tokio::test]
async fn a_start_names_the_file_that_cannot_be_used() {
    let files = Files::new();
    let names = files.names();
    let (other, _) = issued(&files.authority);
    replace(&files.path("other.pem"), &other);
    let text = |error: TlsFilesError| error.to_string();
    let loaded = |names: TlsFiles| Tls::load(names).map(drop).map_err(text);
    let missing = loaded(TlsFiles { cert: files.path("none.pem"), ..names.clone() });
    assert!(missing.unwrap_err().contains("none.pem"));
    let swapped = loaded(TlsFiles { cert: names.key.clone(), ..names.clone() });
    assert!(swapped.unwrap_err().contains("no certificate"));
    let no_key = loaded(TlsFiles { key: names.cert.clone(), ..names.clone() });
    assert!(no_key.unwrap_err().contains("no secret key"));
    let pair = loaded(TlsFiles { cert: files.path("other.pem"), ..names.clone() });
    assert!(pair.unwrap_err().contains("key.pem"));
    let device = loaded(TlsFiles { key: "/dev/null".into(), ..names.clone() });
    assert!(device.unwrap_err().contains("/dev/null: it is neither a file nor a pipe"));
    let clients = loaded(TlsFiles { client_ca: Some(names.key.clone()), ..names });
    assert!(clients.unwrap_err().contains("no certificate"));
}

/// Alerts select by both: the end of the certificate that clients see, and files that wait for their repair.
#[test]
fn the_metrics_are_those_of_the_certificate_in_use_and_of_the_files() {
    let files = Files::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    files.write(&certified(&files.authority, &params));
    let tls = files.tls();
    let page = |tls: Option<Tls>| {
        let collector: Box<dyn Collector> = Box::new(TlsMetrics(tls));
        MetricsPage::new([collector]).render()
    };
    let shown = |failed: u8| {
        let page = page(Some(tls.clone()));
        let end = "\nxmtp_tls_cert_expiry_timestamp_seconds 2208988800\n";
        let fault = format!("\nxmtp_tls_reload_failed {failed}\n");
        assert!(page.contains(end) && page.contains(&fault), "{failed}: {page}");
    };
    shown(0);
    replace(&files.path("cert.pem"), "");
    tls.look();
    shown(1);
    files.write(&certified(&files.authority, &params));
    tls.look();
    shown(0);
    let plain = page(None);
    assert!(!plain.contains("\nxmtp_tls_"), "{plain}");
}

#[tokio::test]
async fn an_expired_certificate_is_told_by_its_condition() {
    let files = Files::new();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    files.write(&certified(&files.authority, &params));
    let tls = files.tls();
    assert!(tls.check(None).result.unwrap_err().contains("expired"));
    files.write(&issued(&files.authority));
    tls.look();
    assert!(tls.check(None).result.is_ok());
}

#[tokio::test]
async fn with_an_authority_of_clients_only_its_clients_are_served() {
    let files = Files::new();
    let clients = authority();
    replace(&files.path("clients.pem"), &pem_of(&clients));
    let names = TlsFiles { client_ca: Some(files.path("clients.pem")), ..files.names() };
    let server = server(Tls::load(names).unwrap(), |_| {}).await;
    let identity = |authority| {
        let (certificate, key) = issued(authority);
        Some(Identity::from_pem(certificate, key))
    };
    let known = endpoint(&server, &files.authority, identity(&clients));
    assert!(health(known).await.is_ok());
    for refused in [None, identity(&authority())] {
        assert!(health(endpoint(&server, &files.authority, refused)).await.is_err());
    }
}

/// A client may make the certificates behind its own as it likes, and the library would follow each order of them.
#[tokio::test]
async fn a_client_with_a_long_chain_is_refused_before_its_certificates_are_followed() {
    let files = Files::new();
    let clients = authority();
    replace(&files.path("clients.pem"), &pem_of(&clients));
    let names = TlsFiles { client_ca: Some(files.path("clients.pem")), ..files.names() };
    let server = server(Tls::load(names).unwrap(), |_| {}).await;
    let (certificate, key) = issued(&clients);
    // The first certificate suffices, so the library alone would accept each of these chains.
    let sends = |behind: String| {
        let identity = Identity::from_pem(format!("{certificate}{behind}"), &key);
        health(endpoint(&server, &files.authority, Some(identity)))
    };
    let short = pem_of(&clients);
    assert!(sends(short.repeat(4)).await.is_ok());
    assert!(sends(short.repeat(5)).await.is_err(), "too many");
    let long = pem("CERTIFICATE", &vec![0; 17 * 1024]);
    assert!(sends(long).await.is_err(), "too long together");
}

#[tokio::test]
async fn a_client_tells_why_it_does_not_accept_a_certificate() {
    const TIME_MAX: Duration = Duration::from_secs(20);
    let files = Files::new();
    let trusting = |authority: &Authority| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        roots
    };
    let tls = files.tls();
    let server = server(tls.clone(), |_| ()).await;
    let port = server.address().port();
    let seen = |roots| expiry_seen("localhost", port, roots, TIME_MAX);
    assert_eq!(seen(trusting(&files.authority)).await, Ok(tls.expires_unix_s()));
    assert_eq!(seen(trusting(&authority())).await, Err(TlsHandshakeError::Untrusted));
    let by_number = expiry_seen("127.0.0.1", port, trusting(&files.authority), TIME_MAX).await;
    assert_eq!(by_number, Err(TlsHandshakeError::OtherName));
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    files.write(&certified(&files.authority, &params));
    tls.look();
    assert_eq!(seen(trusting(&files.authority)).await, Err(TlsHandshakeError::Expired));
    // A listener that accepts and says nothing does not hold the client.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let roots = trusting(&files.authority);
    let unanswered = expiry_seen("localhost", port, roots, Duration::from_millis(50)).await;
    assert!(matches!(unanswered, Err(TlsHandshakeError::NoHandshake(_))), "{unanswered:?}");
}
