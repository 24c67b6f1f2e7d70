//! One session for each peer, and no more of anything than there is room for.

mod common;

use common::envelopes::{envelope, key};
use common::network::{Network, Node, UNREACHABLE};
use common::raw::RawPeer;
use hawser_net::PeerError;
use hawser_proto::OriginatorId;
use hawser_proto::frame::CloseCode;

const PEER: OriginatorId = OriginatorId(300);

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_dial_each_other_keep_one_connection() {
    let mut network = Network::new();
    let (left, right) = (network.start(100), network.start(200));
    for text in 0..50 {
        left.publish(text).await;
        right.publish(text).await;
    }
    left.wait_for(200, 50).await;
    right.wait_for(100, 50).await;
    let remote =
        |node: &Node| node.endpoint.peers().iter().map(|peer| peer.remote).collect::<Vec<_>>();
    assert_eq!(remote(&left), [right.endpoint.local_addr()]);
    assert_eq!(remote(&right), [left.endpoint.local_addr()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_that_a_peer_opens_the_newer_is_kept() {
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let node = network.start(100);
    let mut first = RawPeer::join(node.endpoint.local_addr(), 300, node.id).await;
    let _strand = first.answer(300, &[envelope(PEER, 1)]).await;
    node.wait_for(300, 1).await;
    let mut second = RawPeer::join(node.endpoint.local_addr(), 300, node.id).await;
    assert_eq!(first.closed().await, Some(CloseCode::Duplicate));
    assert_eq!(second.hear_want(300).await.after.0, 1, "it is asked for what follows");
    let refused: u64 = PeerError::ALL.map(|r| node.endpoint.counters().refused(r)).iter().sum();
    assert_eq!(refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so() {
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let node = network.start(100);
    let mut peer = RawPeer::join(node.endpoint.local_addr(), 300, node.id).await;
    peer.hear_want(300).await;
    node.stop().await;
    assert_eq!(peer.closed().await, Some(CloseCode::Shutdown));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_prove_nothing_are_bounded_and_close_no_session() {
    let mut network = Network::new();
    let (node, honest) = (network.start(100), network.start(200));
    honest.publish(0).await;
    node.wait_for(200, 1).await;
    let mut silent = Vec::new();
    let turned_away = loop {
        assert!(silent.len() < 200, "there is no bound");
        match RawPeer::try_connect(node.endpoint.local_addr()).await {
            Ok(peer) => silent.push(peer),
            Err(error) => break error,
        }
    };
    assert!(matches!(turned_away, quinn::ConnectionError::ConnectionClosed(_)), "{turned_away}");
    assert!(node.endpoint.counters().refused(PeerError::Busy) > 0);
    honest.publish(1).await;
    node.wait_for(200, 2).await;
    let address = node.endpoint.local_addr();
    drop(silent);
    network.register(PEER, UNREACHABLE);
    let mut peer = loop {
        // Soon: those who are gone have to be missed first.
        if let Ok(peer) = RawPeer::try_connect(address).await {
            break peer;
        }
    };
    peer.prove(PEER, &key(PEER), node.id).await;
    peer.hear_want(300).await;
}
