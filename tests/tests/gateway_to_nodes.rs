//! A real gateway before real nodes: what it acknowledges can be read at every node, also when a
//! node ends in the middle.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::{Cursor, Topic};
use hawser_tests::harness::client::Client;
use hawser_tests::harness::envelopes::{group_message, group_topic, welcome, welcome_topic};
use hawser_tests::harness::gateway::Gateway;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::{seed, strand, wait};
use prost::Message;

const PUBLISH: &str = "/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes";
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
