//! Statements about void places: made for a gap after a restore, taken from peers, and decisive for nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_engine::own_strand::{GAP, GAP_MAX, OperatorConfirmation, OwnStrandStatus};
use hawser_engine::replication::{LinkCommand, StrandItem};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::void::{SignedVoid, VOIDS_OF_NODE_MAX, VoidStatement};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::MisbehaviorKind;
use hawser_rules::misbehavior::report::client_safety_report;
use hawser_storage::{DiskReserveSettings, Evidence, EvidenceTime, Misbehavior, Store};
use parking_lot::Mutex;

use crate::common::{self, NODE, START_NS};
use crate::follow::{Follower, OTHER, Peer, SOURCE, WAIT_MAX, dated, envelope, key, strand};

/// The statement of `node` about these places, signed with the key of `by`.
pub fn declared(node: OriginatorId, from: u64, through: u64, by: OriginatorId) -> SignedVoid {
    let (from, through) = (SequenceId(from), SequenceId(through));
    let time_ns = u64::try_from(START_NS).unwrap();
    VoidStatement { node, from, through, time_ns, incarnation: [3; 16] }.sign(&key(by))
}

pub fn kept(follower: &Follower) -> Vec<SignedVoid> {
    follower.engine().store().void_statements().unwrap()
}

/// Waits for a quarantine, and says that no other process signs.
async fn say(follower: &Follower, gap: u64) {
    let status = || follower.engine().own_strand_status();
    let is_quarantined = || matches!(status(), OwnStrandStatus::Quarantined(_));
    follower.until("a peer shows what is not held", is_quarantined).await;
    follower.engine().confirm_own_strand(OperatorConfirmation { gap, about: status() });
}

/// Waits for a quarantine, and ends it as an operator whose disk was lost.
async fn confirm(follower: &Follower) {
    say(follower, GAP).await;
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
}

/// A restored node that has taken places 1 and 2 of its strand from a peer, with that peer.
async fn restored(store: Store) -> (Follower, Peer) {
    let follower = Follower::start(store);
    let mut other = follower.connect(OTHER, &[(NODE, 2)]);
    assert_eq!(other.want(NODE).await, (0, None));
    other.send(strand(NODE, &[1, 2])).await;
    follower.wait_for(NODE, 2).await;
    (follower, other)
}

/// Makes the disk full as soon as it has a statement, until the result is emptied.
fn full_behind_a_statement(store: &Store) -> Arc<Mutex<Option<Store>>> {
    let full = Arc::new(Mutex::new(Some(store.clone())));
    let seen = Arc::clone(&full);
    let free_bytes = Arc::new(move || {
        let store = seen.lock().clone();
        let is_full = store.is_some_and(|it| !it.void_statements().unwrap().is_empty());
        Some(if is_full { 0 } else { u64::MAX })
    });
    store.keep_room(DiskReserveSettings { free_bytes_min: 1 << 30, free_bytes });
    full
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_declared_void_before_the_node_publishes_behind_it() {
    let (follower, other) = restored(common::store()).await;
    confirm(&follower).await;

    // The gate is open, and nothing is published yet.
    let [signed] = kept(&follower)[..] else { panic!("one statement: {:?}", kept(&follower)) };
    let VoidStatement { node, from, through, incarnation, .. } = signed.statement;
    assert_eq!((node, from, through), (NODE, SequenceId(3), SequenceId(2 + GAP)));
    assert_eq!(incarnation, follower.engine().store().incarnation());
    assert_eq!(signed.verify(&key(NODE).public_key()), Ok(()));
    assert_eq!(follower.replication.void_statements_after(0, 9), [signed]);
    assert_eq!(follower.replication.void_statements_after(1, 9), []);
    follower.publish("behind the gap").await.unwrap();
    drop(other);

    let again = Follower::start(follower.stop().await);
    assert_eq!(again.replication.void_statements_after(0, 9), [signed]);
    again.stop().await;
}

/// The peers lack an envelope that the node has acknowledged before its disk was lost, and a client has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_continues_behind_a_place_that_a_client_has_reported() {
    let (follower, other) = restored(common::store()).await;
    let report = async |reported: Vec<Bytes>| {
        let kind = MisbehaviorKind::DuplicateSequenceId;
        let time_ns = u64::try_from(START_NS).unwrap();
        let report = client_safety_report(time_ns, NODE, kind, &reported).unwrap();
        follower.engine().reports().submit(0, report).await.unwrap();
    };
    // Only the node itself can show places of its strand.
    let forged = OriginatorEnvelope::parse(envelope(NODE, 70, "forged")).unwrap();
    let stranger = key(OTHER).sign(originator_digest(forged.unsigned().as_bytes()));
    let statement = forged.unsigned().as_bytes().clone();
    report(vec![OriginatorEnvelope::encode(statement, Proof::Signature(stranger))]).await;
    report(vec![envelope(OTHER, 80, "of another strand"), envelope(NODE, 9, "held by a client")])
        .await;
    confirm(&follower).await;
    let through = kept(&follower)[0].statement.through;
    assert_eq!(through, SequenceId(9 + GAP));
    drop(other);
    follower.stop().await;
}

/// Folders of one age that the same peers answer at once, each before another one has signed.
#[tokio::test(flavor = "multi_thread")]
async fn folders_that_a_majority_releases_at_once_leave_gaps_of_their_own() {
    let (mut followers, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (follower, other) = restored(common::store()).await;
        peers.push((other, follower.connect(SOURCE, &[(NODE, 2)])));
        followers.push(follower);
    }
    let mut gaps = BTreeSet::new();
    for follower in followers {
        follower.until("a majority has answered", || !kept(&follower).is_empty()).await;
        let [signed] = kept(&follower)[..] else { panic!("one: {:?}", kept(&follower)) };
        let VoidStatement { from, through, .. } = signed.statement;
        assert_eq!(from, SequenceId(3));
        let gap = through.0 - 2;
        assert!((GAP..=GAP_MAX).contains(&gap) && gap.is_multiple_of(GAP), "{gap}");
        gaps.insert(gap);
        follower.until("it may sign", || follower.complaint().is_none()).await;
        follower.stop().await;
    }
    drop(peers);
    // All four have the same one in 256³ runs.
    assert!(gaps.len() > 1, "{gaps:?}");
}

/// Another folder of one age has left a gap of the same width, once in 256 pairs.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_another_folder_about_the_same_gap_stops_the_node() {
    let (follower, other) = restored(common::store()).await;
    confirm(&follower).await;
    follower.publish("behind the gap").await.unwrap();
    let of = declared(NODE, 3, 2 + GAP, NODE).statement;
    let second = VoidStatement { time_ns: of.time_ns + 1, ..of }.sign(&key(NODE));
    other.link.note_void(second);
    let status = || follower.engine().own_strand_status();
    follower.until("it does not sign", || status() == OwnStrandStatus::Stopped).await;
    follower.publish("and on").await.unwrap_err();
    drop(other);
    follower.stop().await;
}

/// The statement is on disk, the record of the gap is not. Then the operator says that nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn no_place_that_was_declared_is_signed_after_the_gap_could_not_be_recorded() {
    let store = common::store();
    let full = full_behind_a_statement(&store);
    let (follower, other) = restored(store.clone()).await;
    say(&follower, GAP).await;
    follower.until("the gap is not recorded", || !store.has_room()).await;
    assert_eq!(kept(&follower)[0].statement.through, SequenceId(2 + GAP));
    say(&follower, 0).await;
    *full.lock() = None;
    store.check_room().unwrap();
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(2 + GAP + 1)));
    assert_eq!(kept(&follower).len(), 1, "a retry declares nothing more");
    drop(other);
    follower.stop().await;
}

/// The process ends while the statement is on disk and the record of the gap is not. After the restart the operator
/// says that nothing is lost, or the same as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_a_statement_and_its_gap_signs_no_declared_place() {
    for gap in [0, GAP] {
        let store = common::store();
        let full = full_behind_a_statement(&store);
        let (follower, other) = restored(store.clone()).await;
        say(&follower, GAP).await;
        follower.until("the gap is not recorded", || !store.has_room()).await;
        drop(other);
        let ended = follower.stop().await;
        let [first] = ended.void_statements().unwrap()[..] else { panic!("one statement") };
        assert_eq!(first.statement.through, SequenceId(2 + GAP));
        assert_eq!(ended.snapshot().head(NODE).unwrap(), SequenceId(2), "there is no gap");
        *full.lock() = None;
        ended.check_room().unwrap();

        let again = Follower::start(ended);
        assert!(again.complaint().is_some(), "its own statement keeps it from signing");
        say(&again, gap).await;
        again.until("the operator is heard", || again.complaint().is_none()).await;
        let behind = OriginatorEnvelope::parse(again.publish("on").await.unwrap()).unwrap();
        assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(2 + GAP + gap + 1)));
        // A larger gap has a statement of its own, about all of its places.
        let statements = kept(&again);
        let last = statements[statements.len() - 1].statement;
        assert_eq!((last.from, last.through), (SequenceId(3), SequenceId(2 + GAP + gap)));
        assert_eq!((statements[0], statements.len()), (first, if gap == 0 { 1 } else { 2 }));
        again.stop().await;
    }
}

/// A peer that was away for long shows a statement of another folder of this node.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_after_the_release_ends_it_if_nothing_was_signed() {
    let follower = Follower::start(common::store());
    follower.until("it may sign", || follower.complaint().is_none()).await;
    let other = follower.connect(OTHER, &[]);
    let earlier = declared(NODE, 1, 1_000, NODE);
    other.link.note_void(earlier);
    confirm(&follower).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(1_000 + GAP + 1)));
    assert_eq!(kept(&follower)[0], earlier);
    drop(other);
    follower.stop().await;
}

/// The same node as above, whose folder has signed: another folder may sign the same places.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_about_places_above_those_that_a_released_node_has_signed_stops_it() {
    let follower = Follower::start(common::store());
    for text in ["one", "two"] {
        follower.publish(text).await.unwrap();
    }
    let other = follower.connect(OTHER, &[]);
    // About places that this folder has: it knows all that the other one knew.
    let below = declared(NODE, 1, 2, NODE);
    other.link.note_void(below);
    follower.until("it is kept", || kept(&follower) == [below]).await;
    follower.publish("three").await.unwrap();

    let above = declared(NODE, 3, 1_000, NODE);
    other.link.note_void(above);
    let status = || follower.engine().own_strand_status();
    follower.until("it does not sign", || status() == OwnStrandStatus::Stopped).await;
    follower.publish("four").await.unwrap_err();
    // It counts before it is on disk.
    follower.until("it is kept", || kept(&follower) == [below, above]).await;
    follower.engine().confirm_own_strand(OperatorConfirmation { gap: GAP, about: status() });
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(1_000 + GAP + 1)));
    drop(other);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_node_goes_on_when_a_peer_shows_it_its_own_statement() {
    let (follower, other) = restored(common::store()).await;
    confirm(&follower).await;
    let [own] = kept(&follower)[..] else { panic!("one statement: {:?}", kept(&follower)) };
    follower.publish("behind the gap").await.unwrap();
    other.link.note_void(own);
    // A statement that is known is dropped at once, and the next one is taken.
    let of_other = declared(SOURCE, 1, 4, SOURCE);
    other.link.note_void(of_other);
    follower.until("the next one is kept", || kept(&follower) == [own, of_other]).await;
    assert_eq!(follower.engine().own_strand_status(), OwnStrandStatus::Ready);
    follower.publish("and on").await.unwrap();
    drop(other);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_gap_cannot_be_recorded_stops_when_it_is_asked_to() {
    let store = common::store();
    let full = full_behind_a_statement(&store);
    let (follower, other) = restored(store.clone()).await;
    say(&follower, GAP).await;
    follower.until("the gap is not recorded", || !store.has_room()).await;
    drop(other);
    tokio::time::timeout(WAIT_MAX, follower.stop()).await.expect("the guard has heard of it");
    *full.lock() = None;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_peers_are_kept_if_their_node_has_signed_them_and_within_bounds() {
    let follower = Follower::start(common::store());
    let other = follower.connect(OTHER, &[]);
    let stranger = OriginatorId(900);
    other.link.note_void(declared(SOURCE, 1, 4, OTHER));
    other.link.note_void(declared(stranger, 1, 4, OTHER));
    let genuine = declared(SOURCE, 1, SequenceId::MAX.0, SOURCE);
    other.link.note_void(genuine);
    follower.until("the genuine one is kept", || kept(&follower) == [genuine]).await;

    for place in 2..200 {
        other.link.note_void(declared(SOURCE, place, place, SOURCE));
    }
    follower.until("there is room for some", || kept(&follower).len() == 64).await;
    // One of another node still fits, and is decided about after all the others.
    let of_other = declared(OTHER, 1, 4, OTHER);
    other.link.note_void(of_other);
    follower.until("another node has its own room", || kept(&follower).contains(&of_other)).await;
    assert_eq!(kept(&follower).len(), 65);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_of_declared_places_fills_its_place() {
    let follower = Follower::start(common::store());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    let signed = declared(SOURCE, 2, 3, SOURCE);
    other.link.note_void(signed);
    follower.until("it is kept", || kept(&follower) == [signed]).await;
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 4])).await;
    // The node searches as it would without the statement.
    assert_eq!(other.want(SOURCE).await, (1, Some(3)));
    other.send([envelope(SOURCE, 2, "true"), envelope(SOURCE, 3, "true")]).await;
    follower.wait_for(SOURCE, 3).await;
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &[1, 2, 3]));
    follower.stop().await;
}

/// Answers as the node of a strand with the places 1 and 4, until the link ends.
async fn show_one_and_four(source: &mut Peer) {
    while let Some(command) = source.link.command().await {
        let LinkCommand::Want { request, want } = command else { continue };
        if want.originator != SOURCE {
            continue;
        }
        let asked = |place: &u64| SequenceId(*place) > want.after;
        let items = match want.up_to() {
            Some(_) => vec![StrandItem::End],
            None => {
                let held: Vec<u64> = [1, 4].into_iter().filter(asked).collect();
                strand(SOURCE, &held).into_iter().map(StrandItem::Envelope).collect()
            }
        };
        source.link.sink().deliver(SOURCE, request, items).await.unwrap();
    }
}

/// The statement comes behind the first envelope behind the gap, while its places are searched for. The search is on a
/// clock that only moves while all tasks wait.
#[tokio::test]
async fn a_gap_is_a_claim_only_if_its_node_has_not_declared_it_void() {
    for (declared_from, claims) in [(None, 1), (Some(2), 0), (Some(3), 1)] {
        let follower = Follower::start(common::store());
        let mut source = follower.connect(SOURCE, &[(SOURCE, 4)]);
        assert_eq!(source.want(SOURCE).await, (0, None));
        source.send(strand(SOURCE, &[1, 4])).await;
        assert_eq!(source.want(SOURCE).await, (1, Some(3)));
        if let Some(from) = declared_from {
            source.link.note_void(declared(SOURCE, from, 3, SOURCE));
            follower.until("it is kept", || !kept(&follower).is_empty()).await;
        }
        source.answer(vec![StrandItem::End]).await;
        tokio::time::pause();
        let mut heads = follower.engine().heads().subscribe();
        let is_passed = heads.wait_for(|heads| heads.get(SOURCE) >= SequenceId(4));
        tokio::select! {
            () = show_one_and_four(&mut source) => panic!("the link stands"),
            passed = is_passed => drop(passed.unwrap()),
        }
        tokio::time::resume();
        assert_eq!(follower.held(SOURCE), strand(SOURCE, &[1, 4]));
        let store = follower.engine().store().clone();
        let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
        let gaps = all.iter().filter(|it| it.evidence.misbehavior == Misbehavior::Gap);
        assert_eq!(gaps.count(), claims, "declared from {declared_from:?}");
        drop(source);
        follower.stop().await;
    }
}

/// The evidence of a gap in the strand of `SOURCE` between two places.
fn gap(before: u64, after: u64) -> Evidence {
    let at = EnvelopeId::new(SOURCE, SequenceId(after));
    let envelopes = strand(SOURCE, &[before, after]);
    Evidence { misbehavior: Misbehavior::Gap, at, from: None, envelopes }
}

/// The places behind the gaps that are claimed, and the number of reports.
fn claims(store: &Store) -> (Vec<u64>, usize) {
    let snapshot = store.snapshot();
    let all = snapshot.evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let reports = snapshot.reports(0, 9, usize::MAX).unwrap();
    (all.iter().map(|it| it.evidence.at.sequence.0).collect(), reports.len())
}

/// The node was restored, and its peers are shown its statements hours after they have passed the gaps.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_about_a_gap_ends_when_its_node_declares_all_of_its_places_void() {
    let store = common::store();
    store.record_evidence(START_NS.unsigned_abs(), &[gap(1, 4), gap(6, 9)]).unwrap();
    let follower = Follower::start(store.clone());
    follower.engine().reports().report_evidence().unwrap();
    assert_eq!(claims(&store), (vec![4, 9], 2));
    let other = follower.connect(OTHER, &[]);
    other.link.note_void(declared(SOURCE, 8, 8, SOURCE));
    other.link.note_void(declared(SOURCE, 2, 3, SOURCE));
    follower.until("the first one ends", || claims(&store) == (vec![9], 1)).await;
    other.link.note_void(declared(SOURCE, 7, 7, SOURCE));
    follower.until("two statements cover the other one", || claims(&store) == (vec![], 0)).await;
    follower.stop().await;
}

/// The statement has come with a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_an_earlier_run_about_places_that_are_declared_void_ends_at_the_start() {
    let store = common::store();
    store.record_evidence(START_NS.unsigned_abs(), &[gap(1, 4), gap(6, 9)]).unwrap();
    store.record_void_statements(&[declared(SOURCE, 7, 8, SOURCE)]).unwrap();
    let follower = Follower::start(store.clone());
    follower.until("it ends", || claims(&store) == (vec![4], 0)).await;
    follower.stop().await;
}

/// The folder was restored a second time, from a backup that lacks the statement of the first time.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_continues_behind_the_places_that_another_of_its_folders_has_declared() {
    let follower = Follower::start(common::store());
    let other = follower.connect(OTHER, &[]);
    let earlier = declared(NODE, 1, 1_000, NODE);
    other.link.note_void(earlier);
    confirm(&follower).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(1_000 + GAP + 1)));
    assert_eq!(kept(&follower)[0], earlier);
    assert_eq!(kept(&follower)[1].statement.through, SequenceId(1_000 + GAP));
    drop(other);
    follower.stop().await;
}

/// The same node as above, restarted before it is released.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_no_places_that_another_folder_has_declared() {
    let store = common::store();
    store.record_void_statements(&[declared(NODE, 1, 1_000, NODE)]).unwrap();
    let follower = Follower::start(store);
    confirm(&follower).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(1_000 + GAP + 1)));
    follower.stop().await;
}

/// The clock of the machine on which the node was restored is an hour behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_dated_behind_all_that_the_node_is_known_to_have_signed() {
    let follower = Follower::start(common::store());
    let mut other = follower.connect(OTHER, &[(NODE, 1)]);
    assert_eq!(other.want(NODE).await, (0, None));
    let later_ns = START_NS + 3_600_000_000_000;
    other.send([dated(NODE, 1, later_ns)]).await;
    follower.wait_for(NODE, 1).await;
    let status = || follower.engine().own_strand_status();
    let is_stopped = || status() == OwnStrandStatus::Stopped;
    follower.until("it was signed after the start, by this clock", is_stopped).await;
    follower.engine().confirm_own_strand(OperatorConfirmation { gap: GAP, about: status() });
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
    let [signed] = kept(&follower)[..] else { panic!("one statement: {:?}", kept(&follower)) };
    assert!(!signed.statement.is_broken_by(later_ns + 1), "one that was lost may be as late");
    drop(other);
    follower.stop().await;
}

/// The clock is behind, and a statement of another folder was recorded before a restart: no peer shows it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_dated_behind_those_that_were_recorded_before_the_start() {
    let store = common::store();
    let of = declared(NODE, 1, 1_000, NODE).statement;
    let time_ns = of.time_ns + 3_600_000_000_000;
    let earlier = VoidStatement { time_ns, ..of }.sign(&key(NODE));
    store.record_void_statements(&[earlier]).unwrap();
    let follower = Follower::start(store);
    confirm(&follower).await;
    let [first, second] = kept(&follower)[..] else { panic!("two: {:?}", kept(&follower)) };
    assert_eq!(first, earlier);
    assert!(second.statement.time_ns >= time_ns, "{second:?}");
    follower.stop().await;
}

/// No further statement of the node is kept, so none on its disk has the time of what was shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_declare_no_more_dates_its_places_after_what_was_shown() {
    let store = common::store();
    let all = (1..).take(VOIDS_OF_NODE_MAX).map(|place| declared(NODE, place, place, NODE));
    store.record_void_statements(&all.collect::<Vec<_>>()).unwrap();
    let follower = Follower::start(store);
    let ahead_ns = START_NS + 3_000_000_000;
    let reported = [envelope(OTHER, 80, "of another strand"), dated(NODE, 90, ahead_ns)];
    let (kind, now_ns) = (MisbehaviorKind::DuplicateSequenceId, START_NS.unsigned_abs());
    let report = client_safety_report(now_ns, NODE, kind, &reported).unwrap();
    follower.engine().reports().submit(0, report).await.unwrap();
    confirm(&follower).await;
    let behind = OriginatorEnvelope::parse(follower.publish("on").await.unwrap()).unwrap();
    assert_eq!(behind.id(), EnvelopeId::new(NODE, SequenceId(90 + GAP + 1)));
    assert_eq!(kept(&follower).len(), VOIDS_OF_NODE_MAX);
    assert!(behind.unsigned().originator_ns() > ahead_ns, "a later place has no earlier time");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_dated_ahead_is_not_kept() {
    let follower = Follower::start(common::store());
    let other = follower.connect(OTHER, &[]);
    let of = declared(SOURCE, 1, SequenceId::MAX.0, SOURCE).statement;
    let ahead = of.time_ns + 301_000_000_000;
    for time_ns in [u64::MAX, ahead] {
        other.link.note_void(VoidStatement { time_ns, ..of }.sign(&key(SOURCE)));
    }
    let kept_one = declared(SOURCE, 2, 3, SOURCE);
    other.link.note_void(kept_one);
    follower.until("the last one is kept", || kept(&follower) == [kept_one]).await;
    follower.stop().await;
}
