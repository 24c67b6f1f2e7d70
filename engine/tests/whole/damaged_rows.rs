//! Rows that the disk has damaged: each costs itself, and nothing waits for it.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{EvidenceTime, Family, Misbehavior, Severity};

use crate::common;
use crate::follow::{Follower, OTHER, SOURCE, envelope, strand};

/// The key of the fact that a node has signed two statements of different content for a place.
fn two_statements(accused: OriginatorId, place: u64) -> Vec<u8> {
    let code = 1 | (2 << 4);
    [&accused.0.to_be_bytes()[..], &[0, code], &place.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_of_evidence_holds_up_neither_its_strand_nor_the_evidence() {
    let store = common::store();
    store.put_raw_row(Family::MisbehaviorFact, &two_statements(SOURCE, 2), b"damaged");
    let follower = Follower::start(store.clone());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 4])).await;
    assert_eq!(other.want(SOURCE).await, (1, Some(3)));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    other.send(strand(SOURCE, &[2])).await;
    follower.wait_for(SOURCE, 2).await;
    source.send([envelope(SOURCE, 2, "other"), envelope(SOURCE, 3, "true")]).await;
    follower.wait_for(SOURCE, 3).await;
    let (after, up_to) = source.want(SOURCE).await;
    assert!(matches!((after, up_to), (1 | 2 | 3, None)), "{after} {up_to:?}");
    source.send(strand(SOURCE, &(after + 1..=4).collect::<Vec<_>>())).await;
    follower.wait_for(SOURCE, 4).await;

    let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let found: Vec<_> = all.iter().map(|it| (it.evidence.misbehavior, it.evidence.at)).collect();
    let at = EnvelopeId::new(SOURCE, SequenceId(2));
    assert_eq!(found, [(Misbehavior::TwoStatements(Severity::Content), at)]);
    assert_eq!(store.evidence_unreadable(), 1);
    follower.stop().await;
}
