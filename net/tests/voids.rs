//! Statements about void places between nodes: verified, passed on, and no more of them than a session may show.

use crate::common::envelopes::{NOW_NS, key};
use crate::common::network::{Network, Node, UNREACHABLE, eventually};
use crate::common::raw::RawPeer;
use bytes::BytesMut;
use hawser_engine::replication::VOIDS_MAX;
use hawser_proto::frame::{CloseCode, ControlFrame};
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_proto::{OriginatorId, SequenceId};

const LIAR: OriginatorId = OriginatorId(300);

/// The statement of node 300 about these places, signed with the key of `by`.
fn declared(from: u64, through: u64, by: OriginatorId) -> SignedVoid {
    let time_ns = u64::try_from(NOW_NS).expect("a time after 1970");
    let (from, through) = (SequenceId(from), SequenceId(through));
    VoidStatement { node: LIAR, from, through, time_ns, incarnation: [3; 16] }.sign(&key(by))
}

/// The statements that a node keeps.
fn kept(node: &Node) -> Vec<SignedVoid> {
    node.engine.store().void_statements().expect("it is in memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_reaches_every_node_and_those_that_come_later_and_a_forged_one_none() {
    let mut network = Network::new();
    network.register(LIAR, UNREACHABLE);
    let nodes = [100, 200].map(|id| network.start(id));
    let mut peer = RawPeer::join(&nodes[0], 300).await;
    peer.say(ControlFrame::Void(declared(1, 4, nodes[0].id))).await;
    let signed = declared(5, 9, LIAR);
    peer.say(ControlFrame::Void(signed)).await;
    for node in &nodes {
        eventually("the statement arrives", || kept(node) == [signed]).await;
    }
    let third = network.start(400);
    eventually("it is shown to a node that comes later", || kept(&third) == [signed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_shows_more_statements_than_nodes_keep_is_sent_away() {
    let (_network, node) = Network::with_peer(LIAR);
    let mut peer = RawPeer::join(&node, 300).await;
    let signed = declared(5, 9, LIAR);
    let mut bytes = BytesMut::new();
    for _ in 0..=VOIDS_MAX {
        ControlFrame::Void(signed).encode(&mut bytes).expect("it fits a frame");
    }
    peer.say_bytes(&bytes).await;
    assert_eq!(peer.closed().await, Some(CloseCode::ProtocolViolation));
    eventually("the first one is kept", || kept(&node) == [signed]).await;
}
