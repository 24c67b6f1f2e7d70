//! Violations by a peer are refused and counted, and other sessions go on.

use crate::common;

use std::collections::BTreeMap;

use crate::common::envelopes::{envelope, forged, key, sign, statement};
use crate::common::network::{Network, Node, UNREACHABLE};
use crate::common::raw::{RawPeer, SilentServer, closed};
use bytes::{BufMut, Bytes, BytesMut};
use hawser_engine::replication::PeerViolation;
use hawser_net::PeerError;
use hawser_proto::frame::{
    CloseCode, ControlFrame, DataFrame, GapFrame, GapFrameReason, Hello, MAX_BATCH_FRAME,
    MAX_CONTROL_FRAME, NodeProof, Role, proof_preimage,
};
use hawser_proto::sign::keccak256;
use hawser_proto::{Cursor, OriginatorId, SequenceId};

const LIAR: OriginatorId = OriginatorId(300);
/// Frames without envelopes that no honest peer sends: more than it may send at once, and in all the time that a test
/// takes.
const FLOOD: u64 = 40_000;

/// A node under test, and an honest one whose strand it must go on following.
struct Scene {
    node: Node,
    honest: Node,
    published: u64,
    _network: Network,
}

impl Scene {
    async fn new() -> Self {
        let mut network = Network::new();
        network.register(LIAR, UNREACHABLE);
        let (node, honest) = (network.start(100), network.start(200));
        let mut scene = Self { node, honest, published: 0, _network: network };
        scene.assert_goes_on().await;
        scene
    }

    async fn connect(&self) -> RawPeer {
        RawPeer::connect(self.node.endpoint.local_addr()).await
    }

    async fn join(&self) -> RawPeer {
        RawPeer::join(&self.node, LIAR.0).await
    }

    /// The peer is sent away, it is counted, and the honest node is followed as before.
    async fn assert_refused(&mut self, peer: &RawPeer, reason: PeerError, code: CloseCode) {
        assert_eq!(peer.closed().await, Some(code));
        let counters = self.node.endpoint.counters();
        let refused: BTreeMap<&str, u64> = PeerError::ALL
            .into_iter()
            .map(|reason| (reason.label(), counters.refused(reason)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(refused, BTreeMap::from([(reason.label(), 1)]));
        self.assert_goes_on().await;
    }

    async fn assert_goes_on(&mut self) {
        self.honest.publish(self.published).await;
        self.published += 1;
        self.node.wait_for(200, self.published).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_not_in_the_registry_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    peer.say(hello(OriginatorId(900))).await;
    scene.assert_refused(&peer, PeerError::UnknownNode, CloseCode::UnknownNode).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_id_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    peer.say(hello(scene.node.id)).await;
    scene.assert_refused(&peer, PeerError::WrongNode, CloseCode::WrongNode).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_proved_with_another_key_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    peer.prove(LIAR, &key(OriginatorId(900)), scene.node.id).await;
    scene.assert_refused(&peer, PeerError::BadProof, CloseCode::BadProof).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_for_another_id_than_the_one_greeted_with_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    peer.greet(LIAR).await;
    let own = OriginatorId(200);
    let preimage = proof_preimage(Role::Dialler, own, scene.node.id, &peer.exporter());
    let signature = *key(own).sign(keccak256(&[&preimage])).as_bytes();
    peer.say(ControlFrame::Proof(NodeProof { node_id: own, signature })).await;
    scene.assert_refused(&peer, PeerError::BadProof, CloseCode::BadProof).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_from_another_connection_is_refused() {
    let mut scene = Scene::new().await;
    let mut first = scene.connect().await;
    let signature = first.prove(LIAR, &key(LIAR), scene.node.id).await;
    first.hear_want(LIAR.0).await; // it was good there
    let mut second = scene.connect().await;
    second.greet(LIAR).await;
    second.say(ControlFrame::Proof(NodeProof { node_id: LIAR, signature })).await;
    scene.assert_refused(&second, PeerError::BadProof, CloseCode::BadProof).await;
    assert_eq!(first.connection.close_reason(), None, "the true peer does not suffer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_sent_back_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    let NodeProof { signature, .. } = peer.greet(LIAR).await;
    peer.say(ControlFrame::Proof(NodeProof { node_id: LIAR, signature })).await;
    scene.assert_refused(&peer, PeerError::BadProof, CloseCode::BadProof).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_known_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    let clock = Cursor::new();
    let hello = Hello { versions: vec![7], features: 0, node_id: LIAR, clock };
    peer.say(ControlFrame::Hello(hello)).await;
    scene.assert_refused(&peer, PeerError::NoCommonVersion, CloseCode::NoCommonVersion).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_prove_its_id_in_time_is_refused() {
    let server = SilentServer::start();
    let mut network = Network::new();
    network.register(LIAR, server.address());
    let (node, honest) = (network.start(100), network.start(200));
    let silent = RawPeer::connect(node.endpoint.local_addr()).await;
    let mut greeted = RawPeer::connect(node.endpoint.local_addr()).await;
    greeted.greet(LIAR).await;
    let mut dialled = server.accept().await;
    if dialled.remote_address() != node.endpoint.local_addr() {
        dialled = server.accept().await; // the honest node dials it too
    }
    for connection in [&silent.connection, &greeted.connection, &dialled] {
        assert_eq!(closed(connection).await, Some(CloseCode::HandshakeTimeout));
    }
    let counted = || node.endpoint.counters().refused(PeerError::HandshakeTimeout);
    common::network::eventually("each of them is counted", || counted() >= 3).await;
    honest.publish(1).await;
    node.wait_for(200, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_the_proof() {
    let mut scene = Scene::new().await;
    let mut peer = scene.connect().await;
    peer.greet(LIAR).await;
    let (originator, after) = (OriginatorId(100), SequenceId(0));
    let want = hawser_proto::frame::WantFrame { originator, after, up_to: None, bytes_max: 1 };
    peer.say(ControlFrame::Want(want)).await;
    scene.assert_refused(&peer, PeerError::Protocol, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_for_another_is_not_followed() {
    let mut network = Network::new();
    let (node, honest) = (network.start(100), network.start(200));
    network.register(LIAR, honest.endpoint.local_addr());
    common::network::eventually("the wrong node is refused", || {
        node.endpoint.counters().refused(PeerError::WrongNode) > 0
    })
    .await;
    honest.publish(1).await;
    node.wait_for(200, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_envelope_ends_the_connection_and_is_not_stored() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let batch = [envelope(LIAR, 1), forged(LIAR, 2), envelope(LIAR, 3)];
    let _strand = peer.answer(LIAR.0, &batch).await;
    let reason = PeerError::Envelope(PeerViolation::ForgedSignature);
    scene.assert_refused(&peer, reason, CloseCode::BadEnvelope).await;
    scene.node.wait_for(LIAR.0, 1).await;
    assert_eq!(scene.node.held(LIAR.0), BTreeMap::from([(1, envelope(LIAR, 1))]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_refused_is_kept_out_for_a_while() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let _strand = peer.answer(LIAR.0, &[forged(LIAR, 1)]).await;
    let reason = PeerError::Envelope(PeerViolation::ForgedSignature);
    scene.assert_refused(&peer, reason, CloseCode::BadEnvelope).await;
    let again = scene.join().await;
    assert_eq!(again.closed().await, Some(CloseCode::Busy));
}

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_that_break_the_stream_are_refused() {
    let outside = bytes::Bytes::from_static(b"no envelope at all");
    for (batch, violation, code) in [
        (vec![outside], PeerViolation::NotCanonical, CloseCode::BadEnvelope),
        (
            vec![envelope(OriginatorId(200), 1)],
            PeerViolation::WrongOriginator,
            CloseCode::ProtocolViolation,
        ),
        (
            vec![envelope(LIAR, 2), envelope(LIAR, 1)],
            PeerViolation::OutOfOrder,
            CloseCode::ProtocolViolation,
        ),
        (
            vec![envelope(LIAR, 1), envelope(LIAR, 1)],
            PeerViolation::OutOfOrder,
            CloseCode::ProtocolViolation,
        ),
    ] {
        let mut scene = Scene::new().await;
        let mut peer = scene.join().await;
        // A gap before the second envelope would take the stream away before it is looked at.
        let mut strand = peer.open_wanted(LIAR.0).await;
        if violation == PeerViolation::OutOfOrder && batch[0] == envelope(LIAR, 2) {
            strand.send_batch(&[envelope(LIAR, 1)]).await;
        }
        strand.send_batch(&batch).await;
        scene.assert_refused(&peer, PeerError::Envelope(violation), code).await;
        assert!(scene.node.held(LIAR.0).len() <= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strand_that_was_not_asked_for_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    peer.hear_want(LIAR.0).await;
    let mut strand = peer.open(OriginatorId(200), SequenceId(1)).await;
    strand.send_batch(&[envelope(OriginatorId(200), 9)]).await;
    scene.assert_refused(&peer, PeerError::Unrequested, CloseCode::ProtocolViolation).await;
    assert!(!scene.node.held(200).contains_key(&9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strand_from_another_place_than_asked_for_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    peer.hear_want(LIAR.0).await;
    let _strand = peer.open(LIAR, SequenceId(5)).await;
    scene.assert_refused(&peer, PeerError::Unrequested, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_frame_that_claims_too_much_is_refused_by_its_head() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let mut strand = peer.open_wanted(LIAR.0).await;
    strand.0.write_all(&head(0x42, MAX_BATCH_FRAME + 1)).await.unwrap();
    scene.assert_refused(&peer, PeerError::Oversized, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_asked_for_is_refused() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let want = peer.hear_want(LIAR.0).await;
    let count = u64::from(want.bytes_max) / envelope(LIAR, 1).len() as u64 + 1;
    let envelopes: Vec<Bytes> = (1..=count).map(|n| envelope(LIAR, n)).collect();
    let mut strand = peer.open(want.originator, want.after).await;
    strand.send_batch(&envelopes).await;
    scene.assert_refused(&peer, PeerError::Oversized, CloseCode::ProtocolViolation).await;
    assert_eq!(scene.node.held(LIAR.0), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_frame_that_claims_too_much_is_refused_by_its_head() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    peer.say_bytes(&head(0x05, MAX_CONTROL_FRAME + 1)).await;
    scene.assert_refused(&peer, PeerError::Oversized, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_malformed_or_out_of_place_are_refused() {
    for bytes in [
        head(0x03, 0),  // a want without a body
        head(0x02, 69), // below: a second proof
    ] {
        let mut scene = Scene::new().await;
        let mut peer = scene.join().await;
        let mut frame = bytes.to_vec();
        if bytes[0] == 0x02 {
            frame.extend([0; 69]);
        }
        peer.say_bytes(&frame).await;
        scene.assert_refused(&peer, PeerError::Protocol, CloseCode::ProtocolViolation).await;
    }
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let mut strand = peer.open_wanted(LIAR.0).await;
    strand.0.write_all(&head(0x42, 9)).await.unwrap();
    strand.0.finish().unwrap();
    scene.assert_refused(&peer, PeerError::Protocol, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_about_a_gap_do_not_move_a_strand() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let mut strand = peer.open_wanted(LIAR.0).await;
    let (from, to) = (SequenceId(1), SequenceId(1000));
    strand.send(DataFrame::Gap(GapFrame { from, to, reason: GapFrameReason::Expired })).await;
    scene.assert_goes_on().await;
    assert_eq!(scene.node.engine.heads().get().get(LIAR), SequenceId::NONE);
    // A younger one would have the gap searched for at other nodes.
    let mut old = statement(LIAR, 1001);
    old.originator_ns -= 2 * 86_400 * 1_000_000_000 + 1001;
    old.expiry_unixtime -= 2 * 86_400;
    strand.send_batch(&[sign(&old, LIAR)]).await;
    scene.node.wait_for(LIAR.0, 1001).await;
    assert_eq!(scene.node.held(LIAR.0).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_gaps_ends_the_connection() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    let mut strand = peer.open_wanted(LIAR.0).await;
    let mut flood = BytesMut::new();
    for place in (1..=FLOOD).map(SequenceId) {
        let gap = GapFrame { from: place, to: place, reason: GapFrameReason::Missing };
        DataFrame::Gap(gap).encode(&mut flood);
    }
    // The node may close the connection before it has taken all of it.
    let _ = strand.0.write_all(&flood).await;
    scene.assert_refused(&peer, PeerError::EmptyFrames, CloseCode::ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_without_a_frame_ends_the_connection() {
    let mut scene = Scene::new().await;
    let mut peer = scene.join().await;
    peer.hear_want(LIAR.0).await;
    for _ in 0..FLOOD {
        let Ok(mut stream) = peer.connection.open_uni().await else { break };
        let _ = stream.finish(); // fails if the connection was closed meanwhile
    }
    scene.assert_refused(&peer, PeerError::EmptyFrames, CloseCode::ProtocolViolation).await;
}

fn hello(node_id: OriginatorId) -> ControlFrame {
    let versions = vec![hawser_proto::frame::VERSION];
    ControlFrame::Hello(Hello { versions, features: 0, node_id, clock: Cursor::new() })
}

/// A frame's type, and the length that it claims.
fn head(kind: u8, len_bytes: u32) -> Bytes {
    let mut head = BytesMut::new();
    head.put_u8(kind);
    head.put_u32(len_bytes);
    head.freeze()
}
