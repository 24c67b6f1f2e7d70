//! A node behind real proxies, configured as `docs/proxies.md` says.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_tests::harness::client::{Client, QUERY_API, REPLICATION_API};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::process::Process;
use hawser_tests::harness::xmtpd_database::Certificate;
use hawser_tests::harness::{envelopes, ports, raw, seed, wait};
use prost::Message as _;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate as Authority, ClientTlsConfig, Endpoint};
use tonic::{Code, Request};

const DOCUMENT: &str = include_str!("../../docs/proxies.md");
const GROUP: [u8; 16] = [5; 16];

/// A proxy of the document.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Nginx,
    HaProxy,
}

/// A running proxy in front of a node.
struct Proxy {
    port: u16,
    certificate: String,
    _process: Process,
}

impl Kind {
    /// Returns its program; `None`, with a message, if this machine has none.
    fn program(self) -> Option<&'static str> {
        let names = match self {
            Self::Nginx => ["nginx", "/usr/sbin/nginx"],
            Self::HaProxy => ["haproxy", "/usr/sbin/haproxy"],
        };
        let starts = |name: &&str| {
            let mut command = Command::new(name);
            command.arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        let found = names.into_iter().find(starts);
        if found.is_none() {
            let why = "because it cannot be started; install it";
            let _ = writeln!(io::stderr(), "NOT TESTED: {}, {why}", names[0]);
        }
        found
    }

    /// Returns the configuration of the document with this test's ports and files.
    fn configuration(self, port: u16, node: &Node, folder: &Path) -> String {
        let language = match self {
            Self::Nginx => "```nginx\n",
            Self::HaProxy => "```haproxy\n",
        };
        let (_, rest) = DOCUMENT.split_once(language).unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let text = text
            .replace("listen 443", &format!("listen 127.0.0.1:{port}"))
            .replace("bind :443", &format!("bind 127.0.0.1:{port}"))
            .replace("127.0.0.1:5050", &format!("127.0.0.1:{}", node.port))
            .replace("/etc/hawser", &folder.display().to_string());
        match self {
            Self::HaProxy => text,
            Self::Nginx => {
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {name};"))
                    .join(" ");
                format!("user root root; pid pid; events {{}} http {{ {temporary}\n{text}\n}}")
            }
        }
    }

    async fn start(self, node: &Node) -> Option<Proxy> {
        let program = self.program()?;
        let (port, folder) = (ports::free(), node.folder().join("proxy"));
        fs::create_dir_all(&folder).unwrap();
        let made = Certificate::new("localhost");
        fs::write(folder.join("fullchain.pem"), &made.certificate).unwrap();
        fs::write(folder.join("privkey.pem"), &made.key).unwrap();
        fs::write(folder.join("both.pem"), format!("{}{}", made.certificate, made.key)).unwrap();
        let file = folder.join("configuration");
        fs::write(&file, self.configuration(port, node, &folder)).unwrap();
        let mut command = Command::new(program);
        match self {
            Self::Nginx => {
                let prefix = format!("{}/", folder.display());
                command.args(["-p", &prefix, "-e", "stderr", "-g", "daemon off;", "-c"]).arg(&file)
            }
            Self::HaProxy => command.args(["-db", "-f"]).arg(&file),
        };
        let process = Process::start(program, command, &folder.join("output"));
        wait::until("the proxy listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Some(Proxy { port, certificate: made.certificate, _process: process })
    }
}

impl Proxy {
    /// A connection of a caller at an address of its own.
    fn client(&self, from: [u8; 4]) -> (Client, QueryApiClient<tonic::transport::Channel>) {
        let tls = ClientTlsConfig::new().ca_certificate(Authority::from_pem(&self.certificate));
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", self.port)).unwrap();
        let endpoint = endpoint.local_address(Some(from.into())).tls_config(tls).unwrap();
        let channel = endpoint.connect_lazy();
        (Client::over(channel.clone()), QueryApiClient::new(channel))
    }

    /// Sends an HTTP/1.1 request, and returns the response as text, to the end of the connection.
    async fn http1(&self, head: &str, body: &[u8]) -> String {
        let mut roots = RootCertStore::empty();
        let certificate =
            rustls::pki_types::CertificateDer::from_pem_slice(self.certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let len = body.len();
        let head = format!(
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut response = Vec::new();
        // A proxy may close without TLS's farewell.
        _ = tokio::time::timeout(wait::WAIT_MAX, stream.read_to_end(&mut response)).await.unwrap();
        String::from_utf8_lossy(&response).to_lowercase()
    }
}

async fn node(arguments: &[&str]) -> Network {
    let mut network = Network::new(1);
    let trusted = "--rate-limit.trusted-proxy-cidrs=127.0.0.1/32";
    let arguments = arguments.iter().copied().chain([trusted]);
    network.nodes[0].arguments = arguments.map(str::to_owned).collect();
    network.start_all().await;
    network
}

fn message(node: &Node) -> hawser_proto::pb::xmtp::xmtpv4::envelopes::PayerEnvelope {
    let mut rng = seed::rng(seed::seed(), 0);
    let message = envelopes::group_message(GROUP, 100, &mut rng);
    envelopes::sign(&message, node.id, &envelopes::payer(1))
}

/// Calls of gRPC: one answer, a stream of answers, streams both ways, an error with its text.
async fn grpc(proxy: &Proxy, node: &Node) {
    let (client, mut query) = proxy.client([127, 0, 0, 1]);
    let topic = envelopes::group_topic(GROUP);
    let mut stream = client.subscribe_topics(&[(topic.clone(), Cursor::default())]).await.unwrap();
    let (requests, receiver) = mpsc::channel(4);
    requests.send(add(&topic)).await.unwrap();
    let answers = query.subscribe(Request::new(ReceiverStream::new(receiver))).await;
    let mut answers = answers.unwrap().into_inner();

    let published = client.publish(vec![message(node)]).await.unwrap();
    let stored =
        client.query_topics(std::slice::from_ref(&topic), &Cursor::default(), 10).await.unwrap();
    assert_eq!(stored, published);
    wait::until("the stream has the envelope", async || {
        let frame = stream.next().await.unwrap().expect("the stream goes on");
        (frame.envelopes == published).then_some(())
    })
    .await;
    wait::until("the stream of requests is answered", async || {
        let answer = answers.message().await.unwrap().expect("the stream goes on");
        // The envelope arrives by a wave or live; both carry its bytes.
        let answer = answer.encode_to_vec();
        let needle: &[u8] = &published[0];
        answer.windows(needle.len()).any(|window| window == needle).then_some(())
    })
    .await;

    let empty = api::EnvelopesQuery { topics: vec![Vec::new().into()], ..Default::default() };
    let refused = client.query(empty, 10).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(!refused.message().is_empty());
}

fn add(topic: &hawser_proto::Topic) -> api::SubscribeRequest {
    use api::subscribe_request::v1::mutate::Subscription;
    use api::subscribe_request::v1::{Mutate, Request};
    use api::subscribe_request::{V1, Version};
    let subscription = Subscription { topic: topic.as_bytes().clone(), last_seen: None };
    let mutate = Mutate { adds: vec![subscription], mutate_id: 1, ..Mutate::default() };
    api::SubscribeRequest {
        version: Some(Version::V1(V1 { request: Some(Request::Mutate(mutate)) })),
    }
}

/// Calls over HTTP/1.1, as browsers and scripts make them.
async fn web(proxy: &Proxy) {
    let path = format!("{QUERY_API}/QueryEnvelopes");
    let allowed =
        proxy.http1(&format!("OPTIONS {path} HTTP/1.1\r\norigin: https://app.example"), b"").await;
    assert!(allowed.starts_with("http/1.1 204"), "{allowed}");
    assert_eq!(allowed.matches("access-control-allow-origin: *").count(), 1, "{allowed}");

    let query = api::EnvelopesQuery {
        topics: vec![envelopes::group_topic(GROUP).as_bytes().clone()],
        ..Default::default()
    };
    let request = api::QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let head = format!(
        "POST {path} HTTP/1.1\r\ncontent-type: application/grpc-web+proto\r\nx-grpc-web: 1"
    );
    let answer = proxy.http1(&head, &raw::grpc_message(&request.encode_to_vec())).await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("grpc-status:0") || answer.contains("grpc-status: 0"), "{answer}");

    let head =
        format!("POST {REPLICATION_API}/QueryEnvelopes HTTP/1.1\r\ncontent-type: application/json");
    let answer = proxy.http1(&head, br#"{"query":{"originatorNodeIds":[100]},"limit":1}"#).await;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("\"envelopes\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_call_goes_through_the_documented_proxies() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let network = node(&[]).await;
        let Some(proxy) = kind.start(&network.nodes[0]).await else { continue };
        tokio::time::timeout(wait::WAIT_MAX, grpc(&proxy, &network.nodes[0])).await.unwrap();
        web(&proxy).await;
        // Again, over connections to the node that the proxy has kept.
        tokio::time::timeout(wait::WAIT_MAX, grpc(&proxy, &network.nodes[0])).await.unwrap();
    }
}

/// A caller that writes the header itself gains nothing by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxies_name_each_caller_and_none_names_itself() {
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let network = node(&["--rate-limit.enable", "--rate-limit.t2-per-minute-capacity=1"]).await;
        let Some(proxy) = kind.start(&network.nodes[0]).await else { continue };
        let ask = async |from: [u8; 4], named: &str| {
            let (_, mut query) = proxy.client(from);
            let mut request = Request::new(api::GetNewestEnvelopeRequest::default());
            request.set_timeout(Duration::from_secs(30));
            request.metadata_mut().insert("x-forwarded-for", named.parse().unwrap());
            query.get_newest_envelope(request).await.map(|_| ()).map_err(|status| status.code())
        };
        assert_eq!(ask([127, 0, 0, 7], "192.0.2.1").await, Ok(()), "{kind:?}");
        let again = ask([127, 0, 0, 7], "192.0.2.2").await;
        assert_eq!(again, Err(Code::ResourceExhausted), "{kind:?}: one caller, whatever it says");
        assert_eq!(ask([127, 0, 0, 8], "192.0.2.1").await, Ok(()), "{kind:?}: another caller");
    }
}
