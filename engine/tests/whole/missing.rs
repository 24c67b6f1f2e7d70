//! Places that are marked missing, and peers that hold them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hawser_engine::replication::{LinkCommand, StrandItem};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::void::VoidStatement;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    Change, Evidence, EvidenceTime, LogEntry, Mark, Misbehavior, SkipReason, Store, Validity,
};

use crate::common::{self, START_NS};
use crate::follow::{Follower, OTHER, Peer, SOURCE, dated, envelope, key, strand};

const DAY_NS: i64 = 86_400_000_000_000;

fn append(place: u64) -> Change {
    let id = EnvelopeId::new(SOURCE, SequenceId(place));
    let (bytes, validity) = (envelope(SOURCE, place, "true"), Validity::Valid);
    Change::Append(LogEntry { id, bytes, validity, facts: None })
}

fn missing(from: u64, through: u64) -> Change {
    let (from, through, reason) = (SequenceId(from), SequenceId(through), SkipReason::Missing);
    Change::Skip { originator: SOURCE, from, through, reason }
}

/// Returns a log as it begins on a snapshot that leaves out the places 2 and 3 of four.
fn copied() -> Store {
    let store = common::store();
    store.commit(&[append(1), missing(2, 3), append(4)]).unwrap();
    store
}

/// Records a claim that all places of the source's strand between these two are missing.
fn claim_between(store: &Store, before: u64, place: u64) {
    let claim = Evidence {
        misbehavior: Misbehavior::Gap,
        at: EnvelopeId::new(SOURCE, SequenceId(place)),
        from: None,
        envelopes: strand(SOURCE, &[before, place]),
    };
    store.record_evidence(START_NS.unsigned_abs(), &[claim]).unwrap();
}

/// Returns the places at which claims stand.
fn claims(store: &Store) -> Vec<u64> {
    let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    all.into_iter().map(|it| it.evidence.at.sequence.0).collect()
}

/// Checks that a node which starts withdraws its claim, on a clock that is paused.
async fn assert_claim_ends(store: Store) {
    assert_eq!(claims(&store), [4]);
    let follower = Follower::start(store.clone());
    tokio::time::sleep(Duration::from_secs(180)).await;
    tokio::time::resume();
    follower.until("the claim ends", || claims(&store).is_empty()).await;
    follower.stop().await;
}

/// The peer may be the only one that holds them: the strand's own node, or the only source of a replica.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_a_strand_is_asked_for_what_a_snapshot_leaves_out() {
    for peer in [SOURCE, OTHER] {
        let follower = Follower::start(copied());
        let mut source = follower.connect(peer, &[(SOURCE, 4)]);
        assert_eq!(source.want(SOURCE).await, (4, None));
        assert_eq!(source.want(SOURCE).await, (1, Some(3)));
        let found = strand(SOURCE, &[2, 3]).into_iter().map(StrandItem::Envelope);
        source.answer(found.chain([StrandItem::End]).collect()).await;
        let whole = strand(SOURCE, &[1, 2, 3, 4]);
        follower.until("the finds are stored", || follower.held(SOURCE) == whole).await;
        assert_eq!(source.want(SOURCE).await, (4, None), "what comes next");
        source.send(strand(SOURCE, &[5])).await;
        follower.wait_for(SOURCE, 5).await;
        follower.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_answer_about_missing_places_holds_up_no_new_envelope() {
    let follower = Follower::start(copied());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
    assert_eq!(source.want(SOURCE).await, (4, None));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    let clock: Cursor = [EnvelopeId::new(SOURCE, SequenceId(5))].into_iter().collect();
    source.link.sink().note_clock(&clock);
    assert_eq!(source.want(SOURCE).await, (4, None));
    source.send(strand(SOURCE, &[5])).await;
    follower.wait_for(SOURCE, 5).await;
    follower.stop().await;
}

/// Has a peer state, after some days, that the places 2 and 3 of a copied log have expired. Returns the log, and the
/// mark of these places.
async fn stated_as_expired(copied: Store, peer: OriginatorId, days: i64) -> (Store, Option<Mark>) {
    let follower = Follower::start(copied);
    follower.node.clock.0.store(START_NS + days * DAY_NS, Ordering::SeqCst);
    let mut source = follower.connect(peer, &[(SOURCE, 4)]);
    assert_eq!(source.want(SOURCE).await, (4, None));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    let (from, to) = (SequenceId(2), SequenceId(3));
    source.answer(vec![StrandItem::Gap { from, to, expired: true }, StrandItem::End]).await;
    assert_eq!(source.want(SOURCE).await, (4, None), "what comes next");
    // It ends what it has begun.
    let store = follower.stop().await;
    let mark = store.snapshot().mark(EnvelopeId::new(SOURCE, from)).unwrap();
    (store, mark)
}

/// A snapshot leaves out places that have expired. Only the strand's own node is believed, and only about old ones.
#[tokio::test(flavor = "multi_thread")]
async fn missing_places_that_their_own_node_no_longer_keeps_are_marked_expired() {
    for (peer, days, is_expired) in [(SOURCE, 3, true), (SOURCE, 1, false), (OTHER, 3, false)] {
        let (store, mark) = stated_as_expired(copied(), peer, days).await;
        let through = SequenceId(3);
        let expected = match is_expired {
            true => Mark::Expired { through },
            false => Mark::Missing { through },
        };
        assert_eq!(mark, Some(expected), "{peer} after {days} days");
        // A later find fills the log in each case.
        store.commit(&[append(2)]).unwrap();
        let found = store.snapshot().get(EnvelopeId::new(SOURCE, SequenceId(2)));
        assert!(found.unwrap().is_some());
    }
}

/// Records evidence that the strand has gone back from one time to another one, in nanoseconds from the start on. Both
/// are signed with the key of `signer`.
fn note_dated_back(store: &Store, signer: OriginatorId, (from_ns, to_ns): (i64, i64)) {
    let signed = |sequence, ns| {
        let statement = OriginatorEnvelope::open(dated(SOURCE, sequence, START_NS + ns)).unwrap().0;
        let signature = key(signer).sign(originator_digest(&statement));
        OriginatorEnvelope::encode(statement, Proof::Signature(signature))
    };
    let dated_back = Evidence {
        misbehavior: Misbehavior::TimeBack,
        at: EnvelopeId::new(SOURCE, SequenceId(4)),
        from: None,
        envelopes: vec![signed(1, from_ns), signed(4, to_ns)],
    };
    store.record_evidence(START_NS.unsigned_abs(), &[dated_back]).unwrap();
}

/// An envelope of the node may be younger than it states by the step. A clock that was put right is no reason to search
/// for what an honest node has pruned, and a node does not answer for the one that had its id before.
#[tokio::test(flavor = "multi_thread")]
async fn missing_places_of_a_node_that_has_dated_back_expire_later_by_the_step() {
    let through = SequenceId(3);
    let (stays, expired) = (Mark::Missing { through }, Mark::Expired { through });
    let two_days = (0, -2 * DAY_NS);
    let cases = [
        (SOURCE, two_days, 3, stays),
        (SOURCE, two_days, 5, expired),
        (SOURCE, (0, -2_000_000_000), 3, expired),
        (SOURCE, (400 * DAY_NS, 0), 3, expired),
        (OTHER, two_days, 3, expired),
    ];
    for (signer, step, days, expected) in cases {
        let store = copied();
        note_dated_back(&store, signer, step);
        let (_, mark) = stated_as_expired(store, SOURCE, days).await;
        assert_eq!(mark, Some(expected), "{signer}, {step:?}, after {days} days");
    }
}

/// The node may have waited for a restart of its follower, which knows the last time alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_has_dated_back_calls_expired_is_searched_for() {
    for has_dated_back in [false, true] {
        let store = common::store();
        store.commit(&[append(1)]).unwrap();
        if has_dated_back {
            note_dated_back(&store, SOURCE, (0, -2 * DAY_NS));
        }
        let follower = Follower::start(store);
        follower.node.clock.0.store(START_NS + 3 * DAY_NS, Ordering::SeqCst);
        let mut source = follower.connect(SOURCE, &[(SOURCE, 1)]);
        assert_eq!(source.want(SOURCE).await, (1, None));
        let place = SequenceId(2);
        let gap = StrandItem::Gap { from: place, to: place, expired: true };
        source.answer(vec![gap, StrandItem::Envelope(envelope(SOURCE, 3, "true"))]).await;
        match has_dated_back {
            true => assert_eq!(source.want(SOURCE).await, (1, Some(2))),
            false => follower.wait_for(SOURCE, 3).await,
        }
        follower.stop().await;
    }
}

/// A snapshot, or a node that burns ids, can leave more ranges than a follower keeps in memory. On a clock that only
/// moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_place_below_many_others_that_no_peer_holds_has_its_turn() {
    const RANGES: u64 = 1_025;
    let store = common::store();
    let pair = |n: u64| [missing(n * 2 - 1, n * 2 - 1), append(n * 2)];
    store.commit(&(1..=RANGES).flat_map(pair).collect::<Vec<_>>()).unwrap();
    let follower = Follower::start(store);
    let mut other = follower.connect(OTHER, &[]);
    let asked = async {
        loop {
            let command = other.link.command().await.expect("the link stands");
            let LinkCommand::Want { request, want } = command else { continue };
            match want.up_to() {
                _ if want.originator != SOURCE => {}
                Some(SequenceId(1)) => break,
                _ => {
                    let items = vec![StrandItem::End];
                    other.link.sink().deliver(SOURCE, request, items).await.unwrap();
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(7_200), asked).await.expect("it has its turn");
    tokio::time::resume();
    follower.stop().await;
}

/// A relay had left them out while their node restarted. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_claim_that_places_are_missing_ends_when_all_of_them_are_found() {
    let store = copied();
    claim_between(&store, 1, 4);
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
    assert_eq!(source.want(SOURCE).await, (4, None));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    let found =
        |place| vec![StrandItem::Envelope(envelope(SOURCE, place, "true")), StrandItem::End];
    source.answer(found(3)).await;
    let held = strand(SOURCE, &[1, 3, 4]);
    follower.until("one is found", || follower.held(SOURCE) == held).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert_eq!(claims(&store), [4], "the other one is missing still");
    let mut other = follower.connect(OTHER, &[]);
    assert_eq!(other.want(SOURCE).await, (1, Some(2)));
    other.answer(found(2)).await;
    let whole = strand(SOURCE, &[1, 2, 3, 4]);
    follower.until("the other one is found", || follower.held(SOURCE) == whole).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    tokio::time::resume();
    follower.until("the claim ends", || claims(&store).is_empty()).await;
    follower.stop().await;
}

/// The process had ended before it looked at the claim. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_claim_about_places_that_an_earlier_run_has_found_ends() {
    let store = common::store();
    store.commit(&[append(1), append(2), append(3), append(4)]).unwrap();
    claim_between(&store, 1, 4);
    assert_claim_ends(store).await;
}

/// A restored node has declared place 2 void, and a relay had left out what it signed right behind it: gaps side by
/// side are one claim. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_claim_ends_when_a_part_of_its_places_is_declared_and_the_others_are_found() {
    let store = common::store();
    store.commit(&[append(1), missing(2, 2), append(3), append(4)]).unwrap();
    claim_between(&store, 1, 4);
    let (node, place, time_ns) = (SOURCE, SequenceId(2), START_NS.unsigned_abs());
    let of = VoidStatement { node, from: place, through: place, time_ns, incarnation: [3; 16] };
    store.record_void_statements(&[of.sign(&key(SOURCE))]).unwrap();
    assert_claim_ends(store).await;
}

/// A node could leave places out until its envelopes there may have expired. On a clock that only moves while all tasks
/// wait.
#[tokio::test(start_paused = true)]
async fn a_claim_about_places_that_have_expired_unseen_stays_when_others_are_found() {
    let store = common::store();
    let (from, through) = (SequenceId(2), SequenceId(3));
    let expired = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Expired };
    store.commit(&[append(1), expired, append(4), missing(5, 5), append(6)]).unwrap();
    claim_between(&store, 1, 4);
    claim_between(&store, 4, 6);
    assert_eq!(claims(&store), [4, 6]);
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 6)]);
    assert_eq!(source.want(SOURCE).await, (6, None));
    assert_eq!(source.want(SOURCE).await, (4, Some(5)));
    let found = StrandItem::Envelope(envelope(SOURCE, 5, "true"));
    source.answer(vec![found, StrandItem::End]).await;
    let held = strand(SOURCE, &[1, 4, 5, 6]);
    follower.until("it is found", || follower.held(SOURCE) == held).await;
    tokio::time::sleep(Duration::from_secs(180)).await;
    tokio::time::resume();
    follower.until("the claim about it ends", || claims(&store).len() < 2).await;
    assert_eq!(claims(&store), [4]);
    follower.stop().await;
}

/// The node that follows stops after it has marked the places, and before the envelope behind them comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_was_marked_before_a_restart_is_a_claim() {
    let store = common::store();
    store.commit(&[append(1), missing(2, 3)]).unwrap();
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
    assert_eq!(source.want(SOURCE).await, (3, None));
    source.send(strand(SOURCE, &[4])).await;
    follower.wait_for(SOURCE, 4).await;
    let found = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let [held] = &found[..] else { panic!("one claim: {found:?}") };
    let Evidence { misbehavior, at, envelopes, .. } = &held.evidence;
    assert_eq!((*misbehavior, at.sequence), (Misbehavior::Gap, SequenceId(4)));
    assert_eq!(*envelopes, strand(SOURCE, &[1, 4]));
    follower.stop().await;
}

/// Plays a node that has left out place 2 of its strand and, as soon as that has been searched for, also place 3.
async fn leave_out_one_by_one(source: &mut Peer) {
    loop {
        let command = source.link.command().await.expect("the link stands");
        let LinkCommand::Want { request, want } = command else { continue };
        if want.originator != SOURCE {
            continue;
        }
        let shown: &[u64] = match (want.up_to(), want.after) {
            (Some(_), _) => &[],
            (None, SequenceId::NONE) => &[1, 3],
            (None, _) => &[4],
        };
        let mut items: Vec<_> =
            strand(SOURCE, shown).into_iter().map(StrandItem::Envelope).collect();
        items.extend(want.up_to().map(|_| StrandItem::End));
        source.link.sink().deliver(SOURCE, request, items).await.unwrap();
    }
}

/// No envelope stands before the second gap. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn gaps_that_follow_one_another_are_one_claim() {
    let store = common::store();
    let follower = Follower::start(store.clone());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
    let mut heads = follower.engine().heads().subscribe();
    let is_passed = heads.wait_for(|heads| heads.get(SOURCE) >= SequenceId(4));
    tokio::select! {
        () = leave_out_one_by_one(&mut source) => panic!("the link stands"),
        passed = is_passed => drop(passed.unwrap()),
    }
    tokio::time::resume();
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &[1, 4]));
    let found = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let [held] = &found[..] else { panic!("one claim: {found:?}") };
    let Evidence { misbehavior, at, envelopes, .. } = &held.evidence;
    assert_eq!((*misbehavior, at.sequence), (Misbehavior::Gap, SequenceId(4)));
    assert_eq!(*envelopes, strand(SOURCE, &[1, 4]));
    follower.stop().await;
}
