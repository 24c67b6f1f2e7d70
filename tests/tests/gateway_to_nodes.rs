//! A real gateway before real nodes: what it acknowledges can be read at every node, also when a
//! node ends in the middle.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    QueryMisbehaviorReportsRequest, QueryMisbehaviorReportsResponse, UnsignedMisbehaviorReport,
};
use hawser_proto::pb::xmtp::xmtpv4::payer_api::PublishClientEnvelopesRequest;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::payer_api_client::PayerApiClient;
use hawser_proto::{Address, Cursor, Signature, Topic};
use hawser_tests::harness::client::Client;
use hawser_tests::harness::envelopes::{group_message, group_topic, payer, welcome, welcome_topic};
use hawser_tests::harness::faulty::{AnswerFault, FaultyNode};
use hawser_tests::harness::files::Record;
use hawser_tests::harness::gateway::Gateway;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::xmtpd_database::Certificate;
use hawser_tests::harness::{files, raw, seed, strand, wait};
use prost::Message;
use tonic::transport::{Certificate as Authority, ClientTlsConfig, Endpoint};

const PUBLISH: &str = "/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes";
const REPORTS: &str = "/xmtp.xmtpv4.message_api.MisbehaviorApi/QueryMisbehaviorReports";
const GET_NODES: &str = "/xmtp.xmtpv4.payer_api.PayerApi/GetNodes";

/// A list of envelopes as bytes: what the gateway is asked, and what it answers.
#[derive(Clone, PartialEq, Message)]
struct Envelopes {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    envelopes: Vec<Bytes>,
}

async fn publish(gateway: &Gateway, envelopes: Vec<Bytes>) -> Result<Vec<Bytes>, tonic::Status> {
    let answer = gateway.client().unary::<_, Envelopes>(PUBLISH, Envelopes { envelopes }).await?;
    Ok(answer.envelopes)
}

fn topics() -> Vec<Topic> {
    (0..12).flat_map(|n| [group_topic([n; 16]), welcome_topic([n; 32])]).collect()
}

/// Every envelope of these topics that a node has.
async fn held(client: &Client) -> BTreeSet<Bytes> {
    let (mut cursor, mut all) = (Cursor::new(), BTreeSet::new());
    loop {
        let page = client.query_topics(&topics(), &cursor, 1000).await.unwrap();
        if page.is_empty() {
            return all;
        }
        page.iter().for_each(|envelope| cursor.advance(strand::id_of(envelope)));
        all.extend(page);
    }
}

async fn held_everywhere(network: &Network, nodes: &[usize], acknowledged: &BTreeSet<Bytes>) {
    for &node in nodes {
        let client = network.nodes[node].client();
        wait::until("everything acknowledged can be read", async || {
            acknowledged.is_subset(&held(&client).await).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_envelopes_can_be_read_at_every_node() {
    let network = Network::start(3).await;
    let mut gateway = Gateway::start(&network).await;
    let nodes: hawser_proto::pb::xmtp::xmtpv4::payer_api::GetNodesResponse =
        gateway.client().unary(GET_NODES, Envelopes::default()).await.unwrap();
    let expected: BTreeMap<_, _> = network
        .nodes
        .iter()
        .map(|node| (node.id.0, format!("http://127.0.0.1:{}", node.port)))
        .collect();
    assert_eq!(nodes.nodes, expected);

    let mut rng = seed::rng(seed::seed(), 0);
    let mut acknowledged = BTreeSet::new();
    for round in 0..10u8 {
        let sent: Vec<Bytes> = (0..12)
            .flat_map(|n| {
                let message = group_message([n; 16], 50 + usize::from(round), &mut rng);
                [message, welcome([n; 32], 500, &mut rng)]
            })
            .collect();
        let answer = publish(&gateway, sent.clone()).await.unwrap();
        let answered: Vec<_> = answer.iter().map(strand::client_bytes_of).collect();
        assert_eq!(answered, sent, "in the order of the request, byte for byte");
        for envelope in &answer {
            let own = strand::id_of(envelope).originator;
            let node = network.nodes.iter().find(|node| node.id == own).unwrap();
            assert!(held(&node.client()).await.contains(envelope), "at once, at its node");
        }
        acknowledged.extend(answer);
    }
    let originators: BTreeSet<_> =
        acknowledged.iter().map(|envelope| strand::id_of(envelope).originator).collect();
    assert_eq!(originators.len(), 3, "all nodes took part");
    held_everywhere(&network, &[0, 1, 2], &acknowledged).await;
    assert!(gateway.process.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_goes_on_when_a_node_is_killed() {
    let mut network = Network::start(3).await;
    let gateway = Gateway::start(&network).await;
    let mut rng = seed::rng(seed::seed(), 1);
    let mut acknowledged = BTreeSet::new();
    for round in 0..20 {
        if round == 7 {
            network.nodes[1].kill();
        }
        let sent = (0..12).map(|n| group_message([n; 16], 80, &mut rng)).collect();
        acknowledged.extend(publish(&gateway, sent).await.unwrap());
    }
    network.nodes[1].start();
    network.nodes[1].ready().await;
    held_everywhere(&network, &[0, 1, 2], &acknowledged).await;
}

/// Two tenants, each with one caller. The names in capitals are replaced.
const TENANTS: &str = r#"
[identity]
kind = "api-key"
[identity.api_keys]
alice = "sha256:ALICE"
bob = "sha256:BOB"

[tenants.red]
payer_key_file = "RED"
members = ["alice"]
[tenants.red.total]
envelopes_per_day = 5

[tenants.blue]
payer_key_file = "BLUE"
members = ["bob"]
"#;

/// Writes the keys of both tenants and their policies below a folder. Returns the policies' path.
fn write_tenants(folder: &Path) -> String {
    let mut text = TENANTS.to_owned();
    for (name, hash) in [("ALICE", "key of alice"), ("BOB", "key of bob")] {
        text = text.replace(name, &hex::encode(<sha2::Sha256 as sha2::Digest>::digest(hash)));
    }
    for (name, key) in [("RED", payer(21)), ("BLUE", payer(22))] {
        let path = folder.join(name.to_lowercase());
        files::write_key(&path, &key);
        text = text.replace(name, path.to_str().unwrap());
    }
    let path = folder.join("policies.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Publishes an envelope as the caller of this name.
async fn publish_as(gateway: &Gateway, name: &str, envelope: &Bytes) -> Result<(), tonic::Status> {
    let url = format!("http://127.0.0.1:{}", gateway.port);
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let envelopes = vec![pb::ClientEnvelope::decode(envelope.clone()).unwrap()];
    let mut request = tonic::Request::new(PublishClientEnvelopesRequest { envelopes });
    let key = format!("key of {name}");
    request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    PayerApiClient::new(channel).publish_client_envelopes(request).await.map(drop)
}

/// Returns the account that pays for an envelope.
fn payer_of(envelope: &Bytes) -> Address {
    let envelope = strand::open(envelope);
    let payer = envelope.unsigned().payer();
    let signature = Signature::from_bytes(payer.signature_bytes().unwrap()).unwrap();
    signature.recover(payer.digest()).unwrap().address()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_have_keys_meters_and_limits_of_their_own() {
    let network = Network::start(2).await;
    let policies = write_tenants(network.nodes[0].folder());
    let gateway = Gateway::start_with(&network, &["--policies-file", &policies]).await;
    let mut rng = seed::rng(seed::seed(), 2);
    // The same topics for both.
    let mut messages =
        || (0..5).map(|n| group_message([n; 16], 80, &mut rng)).collect::<Vec<Bytes>>();
    let (of_red, of_blue, more) = (messages(), messages(), messages());
    for (red, blue) in of_red.iter().zip(&of_blue) {
        let (red, blue) =
            tokio::join!(publish_as(&gateway, "alice", red), publish_as(&gateway, "bob", blue));
        red.unwrap();
        blue.unwrap();
    }
    // The day of one is used up, and only its own.
    for envelope in &more[..3] {
        let refused = publish_as(&gateway, "alice", envelope).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        publish_as(&gateway, "bob", envelope).await.unwrap();
    }
    let stranger = publish_as(&gateway, "mallory", &more[3]).await.unwrap_err();
    assert_eq!(stranger.code(), tonic::Code::Unauthenticated, "{stranger}");

    let expected: BTreeMap<Bytes, Address> = of_red
        .into_iter()
        .map(|client| (client, payer(21)))
        .chain(of_blue.into_iter().chain(more[..3].to_vec()).map(|client| (client, payer(22))))
        .map(|(client, key)| (client, key.public_key().address()))
        .collect();
    for node in &network.nodes {
        let client = node.client();
        let paid = async || -> BTreeMap<Bytes, Address> {
            let held = held(&client).await;
            held.iter().map(|it| (strand::client_bytes_of(it), payer_of(it))).collect()
        };
        wait::until("all is at every node", async || {
            (paid().await.len() == expected.len()).then_some(())
        })
        .await;
        assert_eq!(paid().await, expected, "each tenant pays for its own envelopes");
    }
    let (_, usage) = raw::get(gateway.metrics_port, "/usage.csv").await.unwrap();
    for (tenant, caller, count) in [("red", "alice", 5), ("blue", "bob", 8)] {
        let rows = usage.lines().skip(1).filter(|row| row.ends_with(&format!(",{tenant}")));
        let rows: Vec<Vec<&str>> = rows.map(|row| row.split(',').collect()).collect();
        assert!(rows.iter().all(|row| row[1].contains(caller)), "{usage}");
        let sum: u32 = rows.iter().map(|row| row[3].parse::<u32>().unwrap()).sum();
        assert_eq!(sum, count, "{usage}");
    }
}

/// Returns the reports that a node keeps and that clients have submitted to it.
async fn submitted_to(client: &Client) -> Vec<UnsignedMisbehaviorReport> {
    let request = QueryMisbehaviorReportsRequest { after_ns: 0 };
    let kept: QueryMisbehaviorReportsResponse = client.unary(REPORTS, request).await.unwrap();
    let reports = kept.reports.into_iter().map(|it| it.unsigned_misbehavior_report);
    let reports = reports.map(|bytes| UnsignedMisbehaviorReport::decode(bytes).unwrap());
    reports.filter(|report| !report.submitted_by_node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_signs_a_wrong_answer_is_reported_to_nodes_that_hand_the_report_out() {
    let network = Network::start(3).await;
    let (liar, others) = network.nodes.split_last().unwrap();
    let faulty = FaultyNode::before(liar.port).await;
    let record = |node: &hawser_tests::harness::network::Node| Record {
        id: node.id,
        key: node.key.public_key(),
        http_address: match node.id == liar.id {
            true => format!("http://127.0.0.1:{}", faulty.port),
            false => format!("http://127.0.0.1:{}", node.port),
        },
        quic_address: None,
        canonical: true,
    };
    let registry = liar.folder().join("gateway_registry.json");
    files::write_registry(&registry, &network.nodes.iter().map(record).collect::<Vec<_>>());
    let gateway = Gateway::with_registry(&network, &registry, &[]).await;
    let mut rng = seed::rng(seed::seed(), 3);
    let metric = async |outcome: &str| {
        let (_, page) = raw::get(gateway.metrics_port, "/metrics").await.unwrap();
        let name = format!("xmtp_gateway_misbehavior_reports_total{{outcome=\"{outcome}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        value.trim().parse::<u64>().unwrap()
    };

    faulty.set(Some(AnswerFault::EarlierExpiry));
    let sent = (0..24).map(|n| group_message([n; 16], 80, &mut rng)).collect();
    publish(&gateway, sent).await.unwrap();
    wait::until("the report was sent", async || (metric("sent").await == 1).then_some(())).await;
    for node in others {
        let reports = submitted_to(&node.client()).await;
        assert_eq!(reports.len(), 1, "node {}", node.id);
        assert_eq!(reports[0].misbehaving_node_id, liar.id.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_is_answered_if_that_was_switched_on() {
    let network = Network::start(1).await;
    for (arguments, served) in [(&[][..], false), (&["--reflection.enable"], true)] {
        let mut gateway = Gateway::start_with(&network, arguments).await;
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let client = gateway.client();
            let asked = client.streaming::<_, Envelopes>(&path, Envelopes::default()).await;
            let refused = asked.err().map(|status| status.code());
            let expected = (!served).then_some(tonic::Code::Unimplemented);
            assert_eq!(refused, expected, "{version} with {arguments:?}");
        }
        assert!(gateway.process.terminate().success());
        std::fs::remove_file(network.nodes[0].folder().join("gateway.key")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_a_certificate_speaks_tls_only() {
    let network = Network::start(1).await;
    let made = Certificate::new("localhost");
    let folder = network.nodes[0].folder();
    let (certificate, key) = (folder.join("gateway.pem"), folder.join("gateway.pem.key"));
    std::fs::write(&certificate, &made.certificate).unwrap();
    std::fs::write(&key, &made.key).unwrap();
    let certificate = format!("--tls-cert={}", certificate.display());
    let key = format!("--tls-key={}", key.display());
    let gateway = Gateway::start_with(&network, &[&certificate, &key]).await;
    let (_, page) = raw::get(gateway.metrics_port, "/metrics").await.unwrap();
    assert!(page.contains("\nxmtp_condition{name=\"tls_certificate\"} 1\n"), "{page}");
    assert!(page.contains("\nxmtp_tls_cert_expiry_timestamp_seconds "), "{page}");
    let get_nodes = async |client: Client| {
        client.unary::<_, Envelopes>(GET_NODES, Envelopes::default()).await.map(drop)
    };
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", gateway.port)).unwrap();
    let trusting = ClientTlsConfig::new().ca_certificate(Authority::from_pem(&made.certificate));
    let trusted = endpoint.clone().tls_config(trusting).unwrap();
    get_nodes(Client::over(trusted.connect_lazy())).await.unwrap();
    let other = Authority::from_pem(Certificate::new("localhost").certificate);
    let distrusting = ClientTlsConfig::new().ca_certificate(other);
    let distrusted = endpoint.tls_config(distrusting).unwrap();
    assert!(get_nodes(Client::over(distrusted.connect_lazy())).await.is_err());
    assert!(get_nodes(gateway.client()).await.is_err(), "a port that speaks TLS only");
}
