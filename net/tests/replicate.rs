//! Replication: the other nodes hold published envelopes byte for byte.

use crate::common::envelopes::{GROUP, commit, envelope, sign, statement};
use crate::common::network::{Network, UNREACHABLE, empty_store, eventually};
use crate::common::raw::RawPeer;
use bytes::Bytes;
use hawser_engine::chain_strand::ChainEvent;
use hawser_proto::frame::{
    ControlFrame, DataFrame, EndFrame, RefusalReason, StreamCode, WantFrame, WantRefused,
};
use hawser_proto::merkle::envelope_leaf;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, Family, InvalidRule, LogEntry, Mark, SkipReason, Validity};

fn want(originator: u32, after: u64, up_to: Option<u64>) -> ControlFrame {
    ControlFrame::Want(WantFrame {
        originator: OriginatorId(originator),
        after: SequenceId(after),
        up_to: up_to.map(SequenceId),
        bytes_max: 1000,
    })
}

/// The first events of a chain.
fn events(count: u64) -> Vec<ChainEvent> {
    let event = |sequence| ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: 1_750_000_000 + sequence,
        transaction_hash: [7; 32],
        client_bytes: commit(sequence),
        topic_identifier: Some(Bytes::from_static(&GROUP)),
        bootstrapped: false,
    };
    (1..=count).map(event).collect()
}

fn envelopes(frames: &[DataFrame]) -> Vec<Bytes> {
    let batch = |frame: &DataFrame| match frame {
        DataFrame::Batch(batch) => batch.envelopes().collect(),
        _ => Vec::new(),
    };
    frames.iter().flat_map(batch).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_holds_every_strand_byte_for_byte() {
    let mut network = Network::new();
    let nodes = [network.start(100), network.start(200), network.start(300)];
    for text in 0..20 {
        for node in &nodes {
            node.publish(text).await;
        }
    }
    for originator in [100, 200, 300] {
        for node in &nodes {
            node.wait_for(originator, 20).await;
        }
        let held = nodes.each_ref().map(|node| node.held(originator));
        assert_eq!(held[0].len(), 20);
        assert_eq!(held[0], held[1]);
        assert_eq!(held[0], held[2]);
    }
    let strands = nodes[0].replication.strands();
    for originator in [200, 300].map(OriginatorId) {
        assert_eq!(strands[&originator].received.get(), 20);
        assert_eq!(strands[&originator].source(), Some(originator));
    }
    assert_eq!(strands.len(), 2, "no peer sends a node its own strand");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_peer_are_kept() {
    let mut network = Network::new();
    network.register(OriginatorId(300), UNREACHABLE);
    let (node, peer) = (network.start(100), network.start(200));
    let note = |id: u32| node.endpoint.failures().remove(&OriginatorId(id)).unwrap_or_default();
    eventually("300 is not reached", || note(300).failed_attempts > 1).await;
    assert!(note(300).last_error.is_some());
    assert_eq!(note(300).refused, 0);
    eventually("200 is connected", || !node.endpoint.peers().is_empty()).await;
    peer.stop().await;
    // That it was closed, or already that it is not reached any more.
    eventually("200 has gone", || note(200).last_error.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_empty_catches_up_and_one_that_restarts_goes_on_from_its_log() {
    let mut network = Network::new();
    let origin = network.start(100);
    for text in 0..300 {
        origin.publish(text).await;
    }
    let follower = network.start(200);
    follower.wait_for(100, 300).await;
    let store = follower.stop().await;
    for text in 300..350 {
        origin.publish(text).await;
    }
    let follower = network.start_on(store, "127.0.0.1:0");
    follower.wait_for(100, 350).await;
    assert_eq!(follower.held(100), origin.held(100));
    // Counted after the commit that made them visible.
    let stored = || follower.replication.counters().stored.get();
    eventually("they are counted", || stored() >= 50).await;
    assert_eq!(stored(), 50, "nothing is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_at_its_address_is_followed_again() {
    let mut network = Network::new();
    let (follower, origin) = (network.start(200), network.start(100));
    origin.publish(1).await;
    follower.wait_for(100, 1).await;
    let address = origin.endpoint.local_addr().to_string();
    let store = origin.stop().await;
    eventually("the follower misses it", || follower.endpoint.peers().is_empty()).await;
    let origin = network.start_on(store, &address);
    origin.publish(2).await;
    follower.wait_for(100, 2).await;
    assert_eq!(follower.held(100), origin.held(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_can_ask_for_any_strand_and_gets_what_was_signed() {
    let mut network = Network::new();
    network.register(OriginatorId(300), UNREACHABLE);
    let (relay, origin) = (network.start(100), network.start(200));
    for text in 0..30 {
        origin.publish(text).await;
    }
    relay.wait_for(200, 30).await;
    let mut peer = RawPeer::join(&relay, 300).await;
    peer.say(want(200, 10, Some(25))).await;
    let frames = peer.read_strand().await;
    let held = origin.held(200);
    assert_eq!(envelopes(&frames), (11..=25).map(|n| held[&n].clone()).collect::<Vec<_>>());
    assert_eq!(frames.last(), Some(&DataFrame::End(EndFrame { through: SequenceId(25) })));
    let batches = frames.iter().filter(|frame| matches!(frame, DataFrame::Batch(_))).count();
    assert!(batches > 3, "no batch is larger than was asked for, so there are several");

    peer.say(want(200, 28, Some(99))).await;
    let frames = peer.read_strand().await;
    assert_eq!(envelopes(&frames), [held[&29].clone(), held[&30].clone()]);
    assert_eq!(frames.last(), Some(&DataFrame::End(EndFrame { through: SequenceId(30) })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_want_without_an_end_is_answered_with_what_comes_later() {
    let mut network = Network::new();
    network.register(OriginatorId(300), UNREACHABLE);
    let origin = network.start(100);
    let mut peer = RawPeer::join(&origin, 300).await;
    peer.say(want(100, 0, None)).await;
    let mut strand = peer.accept().await;
    for text in 0..3 {
        let published = origin.publish(text).await;
        let sent = loop {
            if let DataFrame::Batch(batch) = strand.next().await {
                break batch.envelopes().collect::<Vec<_>>();
            }
        };
        assert_eq!(sent, [published]);
    }
}

/// Another node's disk has damaged its own, and its tree says which envelopes are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_chains_strand_is_sent_and_all_of_it_is_not() {
    let (_network, node) = Network::with_peer(OriginatorId(300));
    let chain = OriginatorId(0);
    node.engine.chain_appender().append(chain, &events(3), None).unwrap();
    let mut peer = RawPeer::join(&node, 300).await;
    peer.say(want(0, 1, Some(2))).await;
    let (mut strand, mut frames) = (peer.accept().await, Vec::new());
    let end = loop {
        match strand.next().await {
            DataFrame::End(end) => break end,
            frame => frames.push(frame),
        }
    };
    assert_eq!(end, EndFrame { through: SequenceId(2) });
    assert_eq!(envelopes(&frames), [node.held(0)[&2].clone()]);
    peer.say(want(0, 1, None)).await;
    let reason = RefusalReason::NotFromPeers;
    assert_eq!(peer.hear_refused().await, WantRefused { originator: chain, reason });
}

/// Peers follow no strand of a chain, and bring back what the disk of another one has damaged.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_places_of_a_chains_strand_are_fetched_as_its_tree_has_them() {
    let mut network = Network::new();
    let [damaged, peer] = [network.start(100), network.start(200)];
    let chain = OriginatorId(0);
    peer.engine.chain_appender().append(chain, &events(4), None).unwrap();
    let held = peer.held(0);
    eventually("the peer tells what it has", || {
        let clocks = damaged.replication.peer_clocks();
        clocks.iter().any(|(_, clock)| clock.get(chain) == SequenceId(4))
    })
    .await;
    let leaf = |place: u64| envelope_leaf(&held[&place]);
    // Of the second one no leaf can be read, and that of the fourth is another.
    let wanted = [(1, leaf(1)), (2, None), (3, leaf(3)), (4, leaf(1))];
    let wanted = wanted.into_iter().map(|(place, leaf)| (SequenceId(place), leaf));
    let found = damaged.replication.fetch(chain, wanted.collect()).await;
    let expected = [1, 3].map(|place| (SequenceId(place), held[&place].clone()));
    assert_eq!(found, expected.into_iter().collect());
    assert_eq!(damaged.held(0), [].into_iter().collect(), "it commits nothing");
    for node in [damaged, peer] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strands_of_chains_and_of_strangers_are_refused() {
    let (_network, node) = Network::with_peer(OriginatorId(300));
    let mut peer = RawPeer::join(&node, 300).await;
    for (originator, reason) in
        [(0, RefusalReason::NotFromPeers), (900, RefusalReason::UnknownOriginator)]
    {
        peer.say(want(originator, 0, None)).await;
        let originator = OriginatorId(originator);
        assert_eq!(peer.hear_refused().await, WantRefused { originator, reason });
    }
}

/// The node's disk has damaged a row behind two envelopes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_at_a_damaged_row_brings_what_stands_before_it() {
    let mut network = Network::new();
    let id = OriginatorId(300);
    network.register(id, UNREACHABLE);
    let store = empty_store(OriginatorId(100));
    let append = |n| {
        let (id, bytes) = (EnvelopeId::new(id, SequenceId(n)), envelope(id, n));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts: None })
    };
    let (from, through, reason) = (SequenceId(3), SequenceId(3), SkipReason::Missing);
    let skip = Change::Skip { originator: id, from, through, reason };
    store.commit(&[append(1), append(2), skip]).unwrap();
    let node = network.start_on(store, "127.0.0.1:0");
    let row = [&id.0.to_be_bytes()[..], &3_u64.to_be_bytes(), &[0]].concat();
    node.engine.store().put_raw_row(Family::Log, &row, b"damaged");

    let mut peer = RawPeer::join(&node, 300).await;
    peer.say(want(300, 0, Some(3))).await;
    let frames = peer.read_strand().await;
    assert_eq!(envelopes(&frames), [1, 2].map(|n| envelope(id, n)));
    assert!(!frames.iter().any(|frame| matches!(frame, DataFrame::End(_))), "it is not whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_filled_by_another_peer() {
    let mut network = Network::new();
    let id = OriginatorId(300);
    network.register(id, UNREACHABLE);
    let (left, right) = (network.start(100), network.start(200));
    let mut peer = RawPeer::join(&right, 300).await;
    let _right = peer.answer(300, &[1, 2, 3, 4].map(|n| envelope(id, n))).await;
    right.wait_for(300, 4).await;

    let mut peer = RawPeer::join(&left, 300).await;
    let _left = peer.answer(300, &[1, 4].map(|n| envelope(id, n))).await;
    left.wait_for(300, 3).await;
    assert_eq!(left.held(300), (1..=3).map(|n| (n, envelope(id, n))).collect());
    let after = peer.hear_want(300).await;
    assert_eq!(after.up_to, Some(SequenceId(3)), "the originator itself is asked too");
    let _left = peer.answer(300, &[envelope(id, 4)]).await;
    left.wait_for(300, 4).await;
    assert_eq!(left.held(300), right.held(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_and_refused_wants_are_repeated() {
    let mut network = Network::new();
    let id = OriginatorId(300);
    network.register(id, UNREACHABLE);
    let node = network.start(100);
    let mut peer = RawPeer::join(&node, 300).await;
    let mut strand = peer.answer(300, &[envelope(id, 1)]).await;
    node.wait_for(300, 1).await;
    strand.0.finish().unwrap();
    let want = peer.hear_want(300).await;
    assert_eq!((want.after, want.up_to), (SequenceId(1), None), "it has ended");
    let mut strand = peer.open(id, want.after).await;
    strand.send_batch(&[envelope(id, 2)]).await;
    node.wait_for(300, 2).await;
    strand.0.reset(StreamCode::Internal.code().into()).unwrap();
    let want = peer.hear_want(300).await;
    assert_eq!((want.after, want.up_to), (SequenceId(2), None), "it was reset");
    let reason = RefusalReason::Busy;
    peer.say(ControlFrame::Refused(WantRefused { originator: id, reason })).await;
    assert_eq!(peer.hear_want(300).await, want, "it was refused");
    let mut strand = peer.open(id, want.after).await;
    strand.send_batch(&[envelope(id, 3)]).await;
    node.wait_for(300, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_envelope_that_breaks_a_rule_is_kept_and_marked_and_passed_on() {
    let mut network = Network::new();
    let id = OriginatorId(300);
    network.register(id, UNREACHABLE);
    network.register(OriginatorId(400), UNREACHABLE);
    let node = network.start(100);
    let mut kept_too_long = statement(id, 2);
    kept_too_long.expiry_unixtime += 2 * 86_400;
    let strand = [envelope(id, 1), sign(&kept_too_long, id), envelope(id, 3)];
    let mut peer = RawPeer::join(&node, 300).await;
    let _open = peer.answer(300, &strand).await;
    node.wait_for(300, 3).await;
    let place = EnvelopeId::new(id, SequenceId(2));
    let mark = node.engine.store().snapshot().mark(place).unwrap();
    assert_eq!(mark, Some(Mark::Invalid(InvalidRule(9))));
    // Readers see a commit before it is counted.
    let invalid = || node.engine.counters().invalid.get();
    eventually("it is counted", || invalid() > 0).await;
    assert_eq!(invalid(), 1);

    let mut other = RawPeer::join(&node, 400).await;
    other.say(want(300, 0, Some(3))).await;
    assert_eq!(envelopes(&other.read_strand().await), strand, "peers judge for themselves");
}
