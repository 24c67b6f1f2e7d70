//! This node's own clock: far ahead of those of others, and stepping back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hawser_engine::own_strand::{GAP, OperatorConfirmation, OwnStrandStatus};
use hawser_engine::runtime::PublishError;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::merkle::TreeHash;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{PicoDollarPrice, Rate, RateTable};
use hawser_storage::{EvidenceTime, Misbehavior};

use crate::common::{self, NODE, START_NS, message, rate};
use crate::follow::{Follower, OTHER, Peer, SOURCE, dated, key, strand};

const HOUR_NS: i64 = 3_600_000_000_000;
const MINUTE_NS: i64 = 60_000_000_000;

fn set(follower: &Follower, offset_ns: i64) {
    follower.node.clock.0.store(START_NS + offset_ns, Ordering::Relaxed);
}

fn time(envelope: &Bytes) -> i64 {
    OriginatorEnvelope::parse(envelope.clone()).unwrap().unsigned().originator_ns() - START_NS
}

/// A peer signs an envelope of its own strand, dated so, while it is connected.
async fn signs(follower: &Follower, peer: &Peer, id: OriginatorId, sequence: u64, offset_ns: i64) {
    peer.send([dated(id, sequence, START_NS + offset_ns)]).await;
    let claim = EnvelopeId::new(id, SequenceId(sequence));
    peer.link.sink().note_clock(&[claim].into_iter().collect());
    follower.wait_for(id, sequence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_ahead_of_most_peers_dates_nothing_and_publishing_resumes_when_it_is_right()
{
    let follower = Follower::start(common::store());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    other.want(OTHER).await;
    set(&follower, HOUR_NS);
    // A single peer might be lying.
    signs(&follower, &source, SOURCE, 1, 0).await;
    follower.publish("by one peer").await.unwrap();
    signs(&follower, &other, OTHER, 1, 0).await;

    let refused = follower.publish("by two peers").await;
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("s ahead of the clocks of most other nodes"), "{reason}");
    assert_eq!(follower.complaint(), Some(reason));
    assert!(follower.engine().check_clock().is_err());

    set(&follower, 60_000_000_000);
    assert_eq!(follower.complaint(), None);
    follower.publish("by two peers").await.unwrap();
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dates_back_stops_no_node_and_an_old_strand_shows_no_clock() {
    let follower = Follower::start(common::store());
    // The node was away for an hour, in which the others have published.
    let (mut source, mut other) =
        (follower.connect(SOURCE, &[(SOURCE, 2)]), follower.connect(OTHER, &[(OTHER, 2)]));
    for (peer, id) in [(&mut source, SOURCE), (&mut other, OTHER)] {
        peer.want(id).await;
        peer.send([dated(id, 1, START_NS - HOUR_NS), dated(id, 2, START_NS - HOUR_NS)]).await;
        follower.wait_for(id, 2).await;
    }
    follower.publish("after an hour").await.unwrap();
    signs(&follower, &source, SOURCE, 3, 0).await;
    for sequence in 3..6 {
        signs(&follower, &other, OTHER, sequence, -24 * HOUR_NS).await;
        assert_eq!(follower.complaint(), None);
    }
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_ahead_of_a_chain_dates_nothing() {
    let follower = Follower::start(common::store());
    let start_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    follower.engine().note_block("app", start_s, Instant::now());
    set(&follower, HOUR_NS);
    let refused = follower.publish("ahead").await;
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("s ahead of the newest block of the app chain"), "{reason}");
    set(&follower, 1);
    assert_eq!(time(&follower.publish("right").await.unwrap()), 1);
    follower.stop().await;
}

/// The statement about a gap is signed before anything is published, and dates every place behind the gap.
#[tokio::test]
async fn a_restored_node_declares_no_gap_while_its_clock_is_an_hour_ahead_of_a_chain() {
    let follower = Follower::start(common::store());
    let start_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    follower.engine().note_block("app", start_s, Instant::now());
    set(&follower, HOUR_NS);
    let mut other = follower.connect(OTHER, &[(NODE, 2)]);
    assert_eq!(other.want(NODE).await, (0, None));
    other.send(strand(NODE, &[1, 2])).await;
    follower.wait_for(NODE, 2).await;
    let status = || follower.engine().own_strand_status();
    let is_quarantined = || matches!(status(), OwnStrandStatus::Quarantined(_));
    follower.until("a peer shows what is not held", is_quarantined).await;
    follower.engine().confirm_own_strand(OperatorConfirmation { gap: GAP, about: status() });
    // The time moves only while the guard waits: it has looked many times.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    let declared = || follower.engine().store().void_statements().unwrap();
    assert_eq!(declared(), []);

    set(&follower, 0);
    follower.until("the clock is right", || follower.complaint().is_none()).await;
    assert_eq!(declared().len(), 1);
    let published = time(&follower.publish("behind the gap").await.unwrap());
    assert!(published < MINUTE_NS, "{published}");
    drop(other);
    follower.stop().await;
}

/// The lost machine had started with a clock that was an hour ahead, and its last checkpoint has that time.
#[tokio::test(flavor = "multi_thread")]
async fn a_shown_checkpoint_from_a_wrong_clock_dates_nothing_once_its_places_are_held() {
    let follower = Follower::start(common::store());
    let mut other = follower.connect(OTHER, &[(NODE, 2)]);
    assert_eq!(other.want(NODE).await, (0, None));
    let time_ns = u64::try_from(START_NS + HOUR_NS).unwrap();
    let root = TreeHash([1; 32]);
    let checkpoint = Checkpoint { node: NODE, originator: NODE, size: 2, root, time_ns };
    other.link.note_checkpoint(checkpoint.sign(&key(NODE)).into());
    let status = || follower.engine().own_strand_status();
    let is_stopped = || status() == OwnStrandStatus::Stopped;
    follower.until("it seems to be signed since the start", is_stopped).await;
    other.send(strand(NODE, &[1, 2])).await;
    follower.wait_for(NODE, 2).await;
    follower.engine().confirm_own_strand(OperatorConfirmation { gap: GAP, about: status() });
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
    let published = time(&follower.publish("behind the gap").await.unwrap());
    assert!(published < MINUTE_NS, "{published}");
    drop(other);
    follower.stop().await;
}

/// To a machine whose clock stood still for an hour the times of all others seem to be in the future.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_behind_most_peers_holds_only_later_times_against_a_peer() {
    let follower = Follower::start(common::store());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    other.want(OTHER).await;
    signs(&follower, &source, SOURCE, 1, 0).await;
    signs(&follower, &other, OTHER, 1, 0).await;
    set(&follower, -HOUR_NS);
    signs(&follower, &source, SOURCE, 2, MINUTE_NS).await;
    signs(&follower, &other, OTHER, 2, MINUTE_NS).await;
    let all = || {
        let snapshot = follower.engine().store().snapshot();
        let all = snapshot.evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
        all.into_iter().map(|it| (it.evidence.misbehavior, it.evidence.at)).collect::<Vec<_>>()
    };
    assert_eq!(all(), []);
    signs(&follower, &source, SOURCE, 3, HOUR_NS).await;
    assert_eq!(all(), [(Misbehavior::TimeAhead, EnvelopeId::new(SOURCE, SequenceId(3)))]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_go_on_ascending_when_the_clock_steps_back_also_after_a_restart() {
    let follower = Follower::start(common::store());
    set(&follower, 7);
    assert_eq!(time(&follower.publish("one").await.unwrap()), 7);
    set(&follower, -HOUR_NS);
    assert_eq!(time(&follower.publish("two").await.unwrap()), 8);
    let store = follower.stop().await;

    let follower = Follower::start(store);
    set(&follower, -2 * HOUR_NS);
    assert_eq!(time(&follower.publish("three").await.unwrap()), 9);
    set(&follower, 11);
    assert_eq!(time(&follower.publish("four").await.unwrap()), 11);
    follower.stop().await;
}

/// A machine may start with a clock that is ahead, and set it right before anything is published. The minutes that
/// count for congestion are those of the envelopes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_at_the_start_makes_no_congestion() {
    let node = common::start(common::store());
    let busy = Rate { congestion_fee: PicoDollarPrice(7), target_rate_per_minute: 2, ..rate() };
    node.rates.send_replace(Arc::new(RateTable::new(vec![busy], None).unwrap()));
    for minute in 0..5_i64 {
        let now_ns = START_NS - HOUR_NS + minute * MINUTE_NS;
        node.clock.0.store(now_ns, Ordering::Relaxed);
        let pair = [0, 1].map(|place| message(1, &format!("{minute} {place}"))).to_vec();
        for envelope in node.engine.publish(pair).await.unwrap() {
            let envelope = OriginatorEnvelope::parse(envelope).unwrap();
            let fee = envelope.unsigned().congestion_fee();
            assert_eq!(fee, PicoDollarPrice(0), "minute {minute} has no more than the target");
        }
    }
}
