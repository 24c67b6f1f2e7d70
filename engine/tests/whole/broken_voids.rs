//! Envelopes for places that their node had declared void, which are kept as claims.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, SequenceId};
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_storage::{DiskReserveSettings, Evidence, EvidenceTime, Misbehavior};

use crate::common;
use crate::follow::{Follower, OTHER, SOURCE, envelope, key, strand};
use crate::voids::{declared, kept};

/// The two signatures outlive the envelope, and any reader of the evidence can judge them.
#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_breaks_a_statement_is_kept_with_it_as_a_claim() {
    let follower = Follower::start(common::store());
    let (mut source, other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    let of = declared(SOURCE, 2, 3, SOURCE).statement;
    let earlier = VoidStatement { time_ns: of.time_ns - 301_000_000_000, ..of }.sign(&key(SOURCE));
    other.link.note_void(earlier);
    follower.until("it is kept", || kept(&follower) == [earlier]).await;
    // They are taken one after the other: the first one counts when the next one is kept.
    let next = declared(OTHER, 1, 4, OTHER);
    other.link.note_void(next);
    follower.until("the next one is kept", || kept(&follower).contains(&next)).await;
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 2, 3])).await;
    follower.wait_for(SOURCE, 3).await;
    let store = follower.engine().store().clone();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    assert_eq!(all().len(), 1, "one statement is broken once");
    let Evidence { misbehavior, at, from, envelopes } = all().remove(0).evidence;
    assert_eq!((misbehavior, at.sequence, from), (Misbehavior::VoidSigned, SequenceId(2), None));
    let statement = Bytes::copy_from_slice(&earlier.encode());
    assert_eq!(envelopes, [statement, envelope(SOURCE, 2, "true")]);
    let registry = follower.engine().ports().registry.borrow().clone();
    let evidence = TreeEvidence { fault: TreeFault::VoidSigned, pieces: envelopes };
    let judgement = verify_trees(&evidence, &registry);
    assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Claim, Some(SOURCE)));

    let about_held = VoidStatement { from: SequenceId(3), ..earlier.statement };
    other.link.note_void(about_held.sign(&key(SOURCE)));
    follower.until("a statement that comes later is compared, too", || all().len() == 2).await;
    assert_eq!(all()[1].evidence.at.sequence, SequenceId(3));
    follower.stop().await;
}

/// The process has ended between the statement and the look at what is held, or the statement came with a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_before_the_start_is_compared_with_what_is_held() {
    let first = Follower::start(common::store());
    let mut source = first.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 2, 3])).await;
    first.wait_for(SOURCE, 3).await;
    drop(source);
    let store = first.stop().await;
    let of = declared(SOURCE, 2, 3, SOURCE).statement;
    let earlier = VoidStatement { time_ns: of.time_ns - 301_000_000_000, ..of }.sign(&key(SOURCE));
    store.record_void_statements(&[earlier]).unwrap();
    let follower = Follower::start(store.clone());
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("it is compared", || !all().is_empty()).await;
    let Evidence { misbehavior, at, .. } = all().remove(0).evidence;
    assert_eq!((misbehavior, at.sequence), (Misbehavior::VoidSigned, SequenceId(2)));
    follower.stop().await;
    assert_eq!(all().len(), 1, "one statement is broken once");
}

/// The disk is full when the envelope comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_statement_becomes_a_claim_once_the_disk_has_room_again() {
    let store = common::store();
    let (is_full, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (full_now, counted) = (is_full.clone(), refused.clone());
    let free_bytes = Arc::new(move || {
        let is_full = full_now.load(Ordering::SeqCst);
        counted.fetch_add(u64::from(is_full), Ordering::SeqCst);
        Some(if is_full { 0 } else { u64::MAX })
    });
    store.keep_room(DiskReserveSettings { free_bytes_min: 1 << 30, free_bytes });
    let follower = Follower::start(store.clone());
    let (mut source, other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    let of = declared(SOURCE, 2, 3, SOURCE).statement;
    let earlier = VoidStatement { time_ns: of.time_ns - 301_000_000_000, ..of }.sign(&key(SOURCE));
    other.link.note_void(earlier);
    follower.until("it is kept", || kept(&follower) == [earlier]).await;
    // They are taken one after the other: the first one counts when the next one is kept.
    let next = declared(OTHER, 1, 4, OTHER);
    other.link.note_void(next);
    follower.until("the next one is kept", || kept(&follower).contains(&next)).await;
    assert_eq!(source.want(SOURCE).await, (0, None));
    is_full.store(true, Ordering::SeqCst);
    source.send(strand(SOURCE, &[1, 2, 3])).await;
    // That of the claim, and that of the envelopes.
    let are_refused = || refused.load(Ordering::SeqCst) >= 2;
    follower.until("two writes are refused", are_refused).await;
    is_full.store(false, Ordering::SeqCst);
    follower.wait_for(SOURCE, 3).await;
    let found = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let [held] = &found[..] else { panic!("one statement is broken once: {found:?}") };
    let Evidence { misbehavior, at, .. } = &held.evidence;
    assert_eq!((*misbehavior, at.sequence), (Misbehavior::VoidSigned, SequenceId(2)));
    follower.stop().await;
}
