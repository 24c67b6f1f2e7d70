//! Long backlogs that several peers over gRPC send at once.

use std::time::Duration;

use hawser_proto::SecretKey;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::scripted_peer::{Habits, ScriptedPeer};
use hawser_tests::harness::wait;

use super::assert_follows;

/// The last place of the strand: it stays long enough to be split while streams show up to three messages of it.
const LAST: u64 = 20_000;
/// Envelopes in the first page of a strand.
const FIRST_PAGE: u64 = 100;

/// Two peers whose streams show the next part of a backlog after a long time. The second one passes on the strand of
/// the first one.
fn slow_peers() -> [ScriptedPeer; 2] {
    let habits = Habits { stream_pause: Duration::from_secs(10), ..Habits::default() };
    let mut peers = [300, 400].map(|id| ScriptedPeer::start(id, habits.clone()));
    peers[0].originate(LAST, 60);
    peers[1].hold(&peers[0]);
    peers
}

/// Starts a node that has nothing yet, and waits until it has the strand of the first peer. Asserts that both were
/// asked for parts, and kept their sessions.
async fn join_late(peers: &[ScriptedPeer; 2]) -> Network {
    let mut network = Network::new(1);
    peers.iter().for_each(|peer| network.register(peer.record()));
    network.nodes[0].start();
    for peer in peers {
        wait::until(&format!("{} sends parts", peer.id), async || {
            (peer.seen().paged >= FIRST_PAGE).then_some(())
        })
        .await;
    }
    peers.iter().for_each(|peer| peer.change(|habits| habits.stream_pause = Duration::ZERO));
    network.nodes[0].readable().await;
    assert_follows(&network.nodes[0], &peers[0]).await;
    let metrics = network.nodes[0].metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 2.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    network
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_late_takes_parts_of_a_backlog_from_two_peers_over_grpc_at_once() {
    let peers = slow_peers();
    join_late(&peers).await;
    // Each page costs a round trip to a far peer, so later parts begin with longer ones.
    let longest = peers.iter().map(|peer| peer.seen().first_page_max as u64).max();
    assert!(longest > Some(FIRST_PAGE), "{longest:?}");
}

/// Such a peer has shorter envelopes before, and does not cut its pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_too_long_for_a_message_is_asked_for_shorter_and_the_session_goes_on() {
    let peers = slow_peers();
    peers.iter().for_each(|peer| peer.change(|habits| habits.page_rows_max = 300));
    join_late(&peers).await;
    assert!(peers.iter().any(|peer| peer.seen().long_pages > 0));
}

/// Other software checks no signature of the strands that it passes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_relay_over_grpc_has_not_checked_in_its_parts_comes_from_another_peer() {
    let mut peers = slow_peers();
    let forged: Vec<_> = (1..=LAST).step_by(64).collect();
    peers[1].take_over(300, &forged, &SecretKey::from_bytes(&[0x24; 32]).unwrap(), 1);
    let network = join_late(&peers).await;
    let metrics = network.nodes[0].metrics().await;
    let refused = metrics.sum("xmtp_replicated_total", &[r#"result="forged""#]);
    assert!(refused > 0.0, "{}", metrics.text());
}
