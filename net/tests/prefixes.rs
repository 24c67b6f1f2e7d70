//! A backlog over QUIC that its node has signed as a whole: shown first, verified behind.

use crate::common::envelopes::{envelope, key, message};
use crate::common::network::{Network, Node, UNREACHABLE, eventually};
use crate::common::raw::RawPeer;
use bytes::{Bytes, BytesMut};
use hawser_engine::runtime::replication::CatchUp;
use hawser_net::PeerError;
use hawser_proto::checkpoint::{Checkpoint, SignedCheckpoint, SignedPrefix};
use hawser_proto::frame::{
    CloseCode, ControlFrame, DataFrame, FEATURE_CHECKPOINTS, FEATURE_PREFIXES, WantFrame,
};
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_proto::{OriginatorId, SequenceId};

/// Publishes this many envelopes, and has the node sign the tree of all of them.
async fn fill(node: &Node, count: u64) -> SignedCheckpoint {
    node.engine.own_strand_asked().await;
    for from in (0..count).step_by(100) {
        let messages = (from..count.min(from + 100)).map(|text| message(node.id, text));
        node.engine.publish(messages.collect()).await.unwrap();
    }
    let store = node.engine.store();
    let root = store.snapshot().root(node.id, count).unwrap();
    let of = Checkpoint { node: node.id, originator: node.id, size: count, root, time_ns: 1 };
    let signed = of.sign(&key(node.id));
    store.put_checkpoint(&signed.into()).unwrap();
    signed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_is_shown_by_its_checkpoint_and_verified_behind() {
    // More than two batches.
    const ALL: u64 = 5_000;
    let mut network = Network::new();
    let origin = network.start(100);
    fill(&origin, ALL).await;
    network.catch_up = CatchUp::Checkpoints;
    let follower = network.start(200);
    follower.wait_for(100, ALL).await;
    let store = follower.engine.store();
    eventually("everything is verified", || store.unverified().unwrap().is_empty()).await;
    let whole = origin.held(100);
    assert_eq!(follower.held(100), whole);
    let counters = follower.replication.counters();
    assert!(counters.verified_behind.get() > 0, "a part was shown first");
    assert_eq!(counters.verified_behind.get() + counters.verified.get(), ALL);
    // The follower shows verified places to others.
    network.catch_up = CatchUp::Verified;
    // Nothing but the follower is left to take it from.
    origin.stop().await;
    let other = network.start(300);
    other.wait_for(100, ALL).await;
    assert_eq!(other.held(100), whole);
    assert_eq!(other.replication.counters().verified_behind.get(), 0);
}

/// Bytes of the shortest batch that comes with a proof.
const BYTES_MAX: u32 = 64 * 1024;
/// Envelopes of more than two such batches.
const PLACES: u64 = 1_000;

async fn strand(origin: &Node, features: u64, bytes_max: u32, places: u64) -> Vec<DataFrame> {
    let mut peer = RawPeer::join_with(origin, 300, features).await;
    let (originator, after, up_to) = (origin.id, SequenceId::NONE, Some(SequenceId(places)));
    peer.say(ControlFrame::Want(WantFrame { originator, after, up_to, bytes_max })).await;
    peer.read_strand().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_comes_before_each_batch_of_a_backlog_for_a_peer_that_takes_them() {
    let mut network = Network::new();
    network.register(OriginatorId(300), UNREACHABLE);
    let origin = network.start(100);
    let signed = fill(&origin, PLACES).await;
    let all = FEATURE_CHECKPOINTS | FEATURE_PREFIXES;
    let frames = strand(&origin, all, BYTES_MAX, PLACES).await;
    let (mut held, mut prefixes) = (Vec::<Bytes>::new(), Vec::new());
    for frame in &frames {
        match frame {
            DataFrame::Prefix(prefix) => prefixes.push((held.len(), prefix)),
            DataFrame::Batch(batch) => held.extend(batch.envelopes()),
            _ => {}
        }
    }
    assert_eq!(held, origin.held(100).into_values().collect::<Vec<_>>());
    let batches = frames.iter().filter(|it| matches!(it, DataFrame::Batch(_))).count();
    // The last one as well: else a reader would get it only when everything before it is verified.
    assert!(batches > 2 && prefixes.len() == batches, "{} of {batches}", prefixes.len());
    for (before, prefix) in prefixes {
        assert!(prefix.size > u64::try_from(before).unwrap());
        assert_eq!(prefix.signed, signed);
        let root = origin.engine.store().snapshot().root(origin.id, prefix.size).unwrap();
        assert_eq!(prefix.begins_with(root), Ok(()));
    }
    // Older peers would take one for a violation; of what fits one batch nothing is gained, and a page of short ones
    // has one proof.
    let without = [
        strand(&origin, FEATURE_CHECKPOINTS, BYTES_MAX, PLACES).await,
        strand(&origin, all, BYTES_MAX, 30).await,
        strand(&origin, all, 2_000, PLACES).await,
    ];
    for frames in without {
        assert!(!frames.iter().any(|it| matches!(it, DataFrame::Prefix(_))));
    }
}

const LIAR: OriginatorId = OriginatorId(300);

/// A prefix whose proof fits no strand.
fn lie() -> DataFrame {
    let of =
        Checkpoint { node: LIAR, originator: LIAR, size: 1, root: TreeHash([1; 32]), time_ns: 1 };
    let signed = of.sign(&key(LIAR));
    let proof = ConsistencyProof(Vec::new());
    DataFrame::Prefix(Box::new(SignedPrefix { size: 1, signed, proof }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_was_not_asked_for_ends_the_connection() {
    let bytes = envelope(LIAR, 1);
    for catch_up in [CatchUp::Verified, CatchUp::Checkpoints] {
        let mut network = Network::new();
        network.register(LIAR, UNREACHABLE);
        network.catch_up = catch_up;
        let node = network.start(100);
        let mut peer = RawPeer::join(&node, LIAR.0).await;
        let mut strand = peer.open_wanted(LIAR.0).await;
        strand.send(lie()).await;
        if catch_up == CatchUp::Verified {
            assert_eq!(peer.closed().await, Some(CloseCode::ProtocolViolation));
        } else {
            // The proof does not fit, and later envelopes are verified one by one.
            strand.send_batch(std::slice::from_ref(&bytes)).await;
            node.wait_for(LIAR.0, 1).await;
        }
    }
}

/// Otherwise a peer could have prefixes decoded without end, and send no envelope.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_prefix_without_a_batch_between_ends_the_connection() {
    let mut network = Network::new();
    network.register(LIAR, UNREACHABLE);
    network.catch_up = CatchUp::Checkpoints;
    let node = network.start(100);
    let mut peer = RawPeer::join(&node, LIAR.0).await;
    let mut strand = peer.open_wanted(LIAR.0).await;
    let mut frame = BytesMut::new();
    lie().encode(&mut frame);
    // The node may close the connection before it has taken both.
    let _ = strand.0.write_all(&frame.repeat(2)).await;
    assert_eq!(peer.closed().await, Some(CloseCode::ProtocolViolation));
    let counted = || node.endpoint.counters().refused(PeerError::Protocol);
    eventually("it is counted", || counted() == 1).await;
}
