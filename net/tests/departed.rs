//! A node that leaves the network: its sessions end, and its strand comes from the nodes that hold it.

use crate::common::envelopes::{NOW_NS, envelope, key};
use crate::common::network::{Network, eventually};
use crate::common::raw::RawPeer;
use hawser_engine::runtime::PublishError;
use hawser_net::PeerError;
use hawser_proto::frame::{CloseCode, ControlFrame, Hello, VERSION};
use hawser_proto::{Cursor, OriginatorId};
use quinn::VarInt;

const LEAVING: OriginatorId = OriginatorId(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_is_disconnected_and_its_strand_comes_from_others() {
    let mut network = Network::new();
    let (holder, leaving) = (network.start(100), network.start(LEAVING.0));
    for text in 0..5 {
        leaving.publish(text).await;
    }
    holder.wait_for(LEAVING.0, 5).await;

    network.remove(LEAVING.0, u64::try_from(NOW_NS / 1_000_000_000).unwrap() + 1);
    let is_connected = || holder.replication.peer_clocks().iter().any(|(id, _)| *id == LEAVING);
    eventually("the session ends", || !is_connected()).await;
    let refused = leaving.engine.ready_to_publish();
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("not canonical"), "{reason}");

    // A node that is new takes the strand from the one that holds it.
    let late = network.start(200);
    late.wait_for(LEAVING.0, 5).await;
    assert_eq!(late.held(LEAVING.0), leaving.held(LEAVING.0));
    assert_eq!(late.replication.strands()[&LEAVING].source(), Some(holder.id));

    // It does not come in again.
    let mut peer = RawPeer::connect(holder.endpoint.local_addr()).await;
    let (versions, clock) = (vec![VERSION], Cursor::new());
    peer.say(ControlFrame::Hello(Hello { versions, features: 0, node_id: LEAVING, clock })).await;
    assert_eq!(peer.closed().await, Some(CloseCode::UnknownNode));
    assert!(holder.endpoint.counters().refused(PeerError::UnknownNode) > 0);
}

/// The peer takes no control frame, so that the node waits for room to send the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_is_disconnected_also_while_it_reads_nothing() {
    /// Less than the first frames of a session: a clock and a want.
    const WINDOW_BYTES: u32 = 30;
    let (mut network, node) = Network::with_peer(LEAVING);
    let address = node.endpoint.local_addr();
    let mut peer = RawPeer::connect_with_window(address, WINDOW_BYTES).await;
    peer.prove(LEAVING, &key(LEAVING), node.id).await;
    eventually("the session begins", || !node.endpoint.peers().is_empty()).await;
    network.remove(LEAVING.0, 1);
    assert_eq!(peer.closed().await, Some(CloseCode::UnknownNode));
}

/// The two read the registry at different times, so the peer may know this node again at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_did_not_know_this_node_for_a_moment_is_admitted_again_at_once() {
    let (_network, node) = Network::with_peer(LEAVING);
    for _ in 0..3 {
        let mut peer = RawPeer::join(&node, LEAVING.0).await;
        peer.hear_want(LEAVING.0).await;
        peer.connection.close(VarInt::from_u32(CloseCode::UnknownNode.code()), b"");
        eventually("the session ends", || node.endpoint.peers().is_empty()).await;
    }
}

/// A reorganisation of the settlement chain has given its id to another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_id_now_belongs_to_another_key_is_disconnected() {
    let (mut network, node) = Network::with_peer(LEAVING);
    let peer = RawPeer::join(&node, LEAVING.0).await;
    eventually("the session begins", || !node.endpoint.peers().is_empty()).await;
    network.change_key(LEAVING, OriginatorId(200));
    assert_eq!(peer.closed().await, Some(CloseCode::UnknownNode));
}

/// It has broken no rule, so it is not kept out like a peer that has.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_removed_and_added_again_is_followed_at_once() {
    let (mut network, node) = Network::with_peer(LEAVING);
    for place in 1..4 {
        let mut peer = RawPeer::join(&node, LEAVING.0).await;
        let want = peer.hear_want(LEAVING.0).await;
        let mut strand = peer.open(LEAVING, want.after).await;
        let sent: Vec<_> = (want.after.0 + 1..=place).map(|it| envelope(LEAVING, it)).collect();
        strand.send_batch(&sent).await;
        node.wait_for(LEAVING.0, place).await;
        network.remove(LEAVING.0, 1);
        assert_eq!(peer.closed().await, Some(CloseCode::UnknownNode));
        network.bring_back(LEAVING.0, 1, 2);
    }
}
