//! The exchange of a node of the reference implementation and a Hawser node that followed each other,
//! recorded once: a node that is sent the same bytes takes both strands, and answers the other one's request alike.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use hawser_proto::OriginatorId;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::recorded_peer::{RecordedPeer, Recording};
use hawser_tests::harness::{strand, wait};
use prost::Message as _;

const RECORDING: &str = include_str!("../recorded/exchange.json");

/// The part of an envelope that its originator signed.
fn statement(envelope: &Bytes) -> Bytes {
    pb::OriginatorEnvelope::decode(envelope.clone()).unwrap().unsigned_originator_envelope
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_exchange_is_followed_and_answered_as_it_was() {
    let recording: Recording = serde_json::from_str(RECORDING).unwrap();
    assert_eq!(recording.nodes.len(), 2);
    let mut network = Network::new(1);
    let mut peers = Vec::new();
    for node in &recording.nodes {
        let peer = RecordedPeer::start(&recording, node);
        network.register(peer.record());
        peers.push(peer);
    }
    network.start_all().await;
    let client = network.nodes[0].client();
    for recorded in &recording.nodes {
        let (id, sent) = (OriginatorId(recorded.id), recording.stream_of(recorded).envelopes());
        assert!(sent.len() > 10, "{} of node {id}", sent.len());
        let head = recording.stream_of(recorded).head();
        wait::until_equal(&format!("the head of {id}"), &true, async || {
            Some(client.cursor().await.ok()?.get(id).0 >= head)
        })
        .await;
        let held: Vec<Bytes> = strand::read(&client, id).await.into_values().collect();
        let statements = |envelopes: &[Bytes]| envelopes.iter().map(statement).collect::<Vec<_>>();
        assert_eq!(statements(&held), statements(&sent), "strand {id}");
        assert!(held.iter().all(|it| OriginatorEnvelope::open(it.clone()).is_ok()), "strand {id}");
    }

    // The other software's request for Hawser's strand.
    let hawser = recording.nodes.iter().find(|node| node.kind == "Hawser").unwrap();
    let call = recording.stream_of(hawser);
    assert_eq!(call.first_len(), 0, "the first message has no content");
    let mut stream = client.subscribe_originators_with(call.asked()).await.unwrap();
    let (wanted, mut answered) = (call.envelopes(), Vec::new());
    while answered.len() < wanted.len() {
        answered.extend(stream.next().await.unwrap().unwrap().envelopes);
    }
    assert_eq!(answered, wanted, "byte for byte");
}
