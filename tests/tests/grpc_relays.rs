//! Peers over gRPC that pass on strands of other nodes, which they do not check.

use std::time::Duration;

use hawser_proto::{OriginatorId, SecretKey};
use hawser_tests::harness::files::Record;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::scripted_peer::{Habits, ScriptedPeer};
use hawser_tests::harness::{raw, wait};

use super::{UNREACHABLE, assert_follows};

/// Node 400 is registered and cannot be reached. It has given the relay an envelope that it has not signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_passes_on_what_it_has_not_checked_keeps_its_session_and_its_own_strand() {
    let mut relay = ScriptedPeer::start(300, Habits::default());
    let mut away = ScriptedPeer::start(400, Habits::default());
    relay.originate(3, 60);
    away.originate(2, 60);
    relay.hold(&away);
    relay.take_over(400, &[3], &SecretKey::from_bytes(&[0x24; 32]).unwrap(), 1);
    let mut network = Network::new(1);
    network.register(relay.record());
    network.register(Record { http_address: UNREACHABLE.to_owned(), ..away.record() });
    network.start_all().await;
    let node = &network.nodes[0];
    let metrics = wait::until("the envelope is refused", async || {
        let metrics = node.metrics().await;
        let refused = metrics.sum("xmtp_replicated_total", &[r#"result="forged""#]);
        (refused > 0.0).then_some(metrics)
    })
    .await;
    assert_follows(node, &away).await;
    let node = &mut network.nodes[0];
    wait::until("it is named", async || {
        let output = node.process().output();
        let line = output.lines().find(|line| line.contains("did not check it"));
        line.is_some_and(|line| line.contains("300") && line.contains("400")).then_some(())
    })
    .await;
    let node = &network.nodes[0];
    // So the node stays ready for readers, although others claim more of the strand.
    wait::until("the status shows it", async || {
        let (_, page) = raw::get(node.metrics_port, "/status").await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&page).ok()?;
        let strand = status["originators"].as_array()?.iter().find(|it| it["originator_id"] == 400);
        (strand?["refused_after"] == 2).then_some(())
    })
    .await;
    relay.originate(5, 60);
    assert_follows(node, &relay).await;
    let later = node.metrics().await;
    for metrics in [metrics, later] {
        assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
        assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    }
}

/// Node 400 is registered and cannot be reached. The peer claims to hold its strand, and refuses to send it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strand_of_another_node_that_is_refused_does_not_end_the_session() {
    let key = SecretKey::from_bytes(&[0x23; 32]).unwrap();
    let mut peer = ScriptedPeer::start(300, Habits { refuses_others: true, ..Habits::default() });
    peer.originate(5, 60);
    peer.take_over(400, &[1, 2, 3], &key, 1);
    let away = Record {
        id: OriginatorId(400),
        key: key.public_key(),
        http_address: UNREACHABLE.to_owned(),
        ..peer.record()
    };
    let mut network = Network::new(1);
    [peer.record(), away].into_iter().for_each(|record| network.register(record));
    network.start_all().await;
    assert_follows(&network.nodes[0], &peer).await;
    wait::until("the strand of another node was refused at once and in a stream", async || {
        (peer.seen().refused >= 3).then_some(())
    })
    .await;
    peer.originate(5, 60);
    assert_follows(&network.nodes[0], &peer).await;
    let metrics = network.nodes[0].metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0);
}

/// The strands of the relay and of a node that cannot be reached have long envelopes, and the relay puts all that its
/// database gives into one message. It cuts its pages by their rows, or has an envelope that fits into none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_messages_are_too_long_keeps_its_session_and_is_asked_for_pages() {
    for (page_rows_max, own) in [(100, 250), (0, 50)] {
        let habits = Habits { page_rows_max, stream_rows_max: 100, ..Habits::default() };
        let mut relay = ScriptedPeer::start(300, habits);
        let mut away = ScriptedPeer::start(400, Habits::default());
        relay.originate(own, 60);
        away.originate(250, 60);
        relay.hold(&away);
        let mut network = Network::new(1);
        network.register(relay.record());
        network.register(Record { http_address: UNREACHABLE.to_owned(), ..away.record() });
        network.start_all().await;
        let node = &network.nodes[0];
        if page_rows_max > 0 {
            assert_follows(node, &away).await;
        }
        wait::until("both streams, or one of them twice, were too long", async || {
            (relay.seen().long_messages >= 2).then_some(())
        })
        .await;
        relay.originate(5, 60);
        assert_follows(node, &relay).await;
        let metrics = node.metrics().await;
        assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
        assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    }
}

/// Over a slow link a page takes longer than the three seconds for which a want waits for pages before its stream. This
/// stream would be too long again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_place_of_a_stream_may_take_longer_than_pages_before_one() {
    let page_takes = Duration::from_millis(3_500);
    let habits = Habits { stream_rows_max: 100, page_takes, ..Habits::default() };
    let mut peer = ScriptedPeer::start(300, habits);
    peer.originate(150, 60);
    let mut network = Network::new(1);
    network.register(peer.record());
    network.start_all().await;
    let node = &network.nodes[0];
    assert_follows(node, &peer).await;
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
}
