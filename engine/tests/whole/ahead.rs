//! A backlog that readers are shown before it is verified: it ends as one that was verified first, also where peers
//! lie.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawser_engine::checkpoints::ObserverPace;
use hawser_engine::facts;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::read::SubscriptionEvent;
use hawser_engine::replication::{LinkCommand, PeerViolation, StoredTrees, StrandItem, Trees as _};
use hawser_engine::runtime::replication::{ReplicationSettings, StrandPart};
use hawser_engine::runtime::{Subscription, start_checkpoint_task_with_pace};
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId};
use hawser_rules::{Absence, Absences};
use hawser_storage::{Change, EvidenceTime, InvalidRule, Mark, Misbehavior, Store};

use crate::backlog::{ALL, BAD, Backlog, all_verified, assert_equal, envelope, showing, verifier};
use crate::common::{self, NODE, START_NS};
use crate::follow::{Follower, Peer, SOURCE, dated, key};

/// Parts of any length, some proven, some not, some with a lie, and restarts between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_shown_first_ends_as_one_verified_first() {
    let mut shown_first = 0;
    for seed in 0..6_u64 {
        let backlog = Backlog::new((seed % 2 == 0).then_some(BAD));
        let mut random = seed;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut follower = Follower::start_by(common::store(), showing());
        let mut source = follower.connect(SOURCE, &[]);
        let (mut sent, _) = source.want(SOURCE).await;
        while sent < ALL {
            let (from, through) = (sent + 1, (sent + 1 + next(9)).min(ALL));
            let items = match next(4) {
                0 => backlog.plain(from, through),
                // The proof of another size.
                1 => {
                    let mut items = backlog.plain(from, through);
                    items.insert(0, backlog.run(1, from).remove(0));
                    items
                }
                _ => backlog.run(from, through),
            };
            source.answer(items).await;
            sent = through;
            if next(5) == 0 {
                follower.wait_for(SOURCE, sent).await;
                drop(source);
                shown_first += follower.replication.counters().verified_behind.get();
                follower = Follower::start_by(follower.stop().await, showing());
                source = follower.connect(SOURCE, &[]);
                assert_eq!(source.want(SOURCE).await, (sent, None), "seed {seed}");
            }
        }
        follower.wait_for(SOURCE, ALL).await;
        all_verified(&follower).await;
        drop(source);
        shown_first += follower.replication.counters().verified_behind.get();
        assert_equal(&follower.stop().await, &backlog.verified_first().await);
    }
    assert!(shown_first > 0, "some of it was shown first");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_must_not_have_signed_is_withdrawn_and_is_evidence_against_it() {
    let backlog = Backlog::new(Some(BAD));
    let follower = Follower::start_by(common::store(), showing());
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.answer(backlog.run(1, 20)).await;
    source.answer(backlog.run(21, ALL)).await;
    follower.wait_for(SOURCE, ALL).await;
    all_verified(&follower).await;
    let counters = follower.engine().counters();
    assert_eq!((counters.withdrawn.get(), counters.invalid.get()), (1, 1));
    assert_eq!(follower.replication.counters().verified_behind.get(), ALL);
    let store = follower.engine().store();
    let at = EnvelopeId::new(SOURCE, SequenceId(BAD));
    assert!(matches!(store.snapshot().mark(at).unwrap(), Some(Mark::Invalid(_))));
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("evidence is kept", || !all().is_empty()).await;
    let evidence = all().remove(0).evidence;
    assert!(matches!(evidence.misbehavior, Misbehavior::Invalid(_)));
    assert_eq!((evidence.at, evidence.envelopes), (at, vec![envelope(BAD, true)]));
    // The checkpoint that showed it is compared with those that its node shows others.
    let shown_by = || store.snapshot().checkpoint(SOURCE, SOURCE, u64::MAX).unwrap();
    follower.until("the checkpoint is kept", || shown_by().is_some()).await;
    assert_eq!(shown_by().map(|it| it.signed), Some(backlog.signed));
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outer_layer_that_a_peer_has_changed_costs_it_the_connection_and_is_asked_for_again() {
    let backlog = Backlog::new(None);
    let follower = Follower::start_by(common::store(), showing());
    let mut liar = follower.connect(SOURCE, &[]);
    liar.want(SOURCE).await;
    let forged = Backlog { envelopes: backlog.relayed(BAD), ..Backlog::new(None) };
    liar.answer(forged.run(1, 20)).await;
    liar.answer(forged.run(21, ALL)).await;
    let violation = PeerViolation::ForgedSignature;
    while liar.link.command().await != Some(LinkCommand::Disconnect { violation }) {}
    drop(liar);
    let mut source = follower.connect(SOURCE, &[]);
    // The places before it are verified, and not requested again.
    while source.want(SOURCE).await != (BAD - 1, None) {}
    source.answer(backlog.plain(BAD, ALL)).await;
    all_verified(&follower).await;
    follower.wait_for(SOURCE, ALL).await;
    assert_eq!(follower.held(SOURCE), backlog.envelopes);
    assert_eq!(follower.engine().counters().withdrawn.get(), 0);
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// A search waits until everything shown is verified, and nothing is shown while it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_behind_what_is_shown_is_searched_for_as_ever() {
    let backlog = Backlog::new(None);
    let follower = Follower::start_by(common::store(), showing());
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.answer(backlog.run(1, 10)).await;
    source.answer(backlog.plain(13, ALL)).await;
    assert_eq!(source.want(SOURCE).await, (10, Some(12)));
    assert_eq!(follower.replication.counters().verified_behind.get(), 10);
    source.answer(backlog.run(11, 12)).await;
    // The follower may not have heard yet that they are on disk.
    let (after, up_to) = source.want(SOURCE).await;
    assert!((10..=12).contains(&after) && up_to.is_none(), "{after} {up_to:?}");
    source.answer(backlog.plain(after + 1, ALL)).await;
    follower.wait_for(SOURCE, ALL).await;
    assert_eq!(follower.replication.counters().verified_behind.get(), 10);
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// The folder says which places are left, so a start with the setting that shows only verified ones finishes the work,
/// too.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_verifies_what_it_has_shown() {
    let backlog = Backlog::new(Some(BAD));
    for settings in [ReplicationSettings::default(), showing()] {
        let store = backlog.killed_before_verifying(&backlog.envelopes);
        // A checkpoint waits until the tree below it is verified, and is cosigned then.
        let reached = |store: &Store| StoredTrees(&store.snapshot()).size(SOURCE);
        assert_eq!(reached(&store), 0);
        let follower = Follower::start_by(store, settings);
        all_verified(&follower).await;
        assert_eq!(reached(follower.engine().store()), ALL);
        let heads = follower.replication.heads();
        follower.until("peers are told", || heads.get().get(SOURCE).0 == ALL).await;
        assert_equal(&follower.stop().await, &backlog.verified_first().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_told_and_sent_what_is_verified_only() {
    let backlog = Backlog::new(None);
    // It cannot be verified beyond a place without a peer.
    let store = backlog.killed_before_verifying(&backlog.relayed(BAD));
    let follower = Follower::start_by(store, ReplicationSettings::default());
    let heads = follower.replication.heads();
    let verified_head = || heads.get().get(SOURCE).0;
    follower.until("the beginning is verified", || verified_head() == BAD - 1).await;
    assert_eq!(follower.engine().heads().get().get(SOURCE).0, ALL, "readers get all of it");
    let reads = follower.replication.page_reads();
    let (start, part) = (SequenceId::NONE, StrandPart::Items(Some(SequenceId(ALL))));
    let mut reader = follower.replication.reader(SOURCE, start, part, 1 << 20, reads).unwrap();
    let sent = reader.next().await.unwrap().unwrap().items;
    assert_eq!(sent, backlog.plain(1, BAD - 1));
    assert!(reader.next().await.unwrap().is_none());
    assert_eq!(verified_head(), BAD - 1);
    assert_eq!(follower.engine().store().snapshot().verified_head(SOURCE).unwrap().0, BAD - 1);
    follower.stop().await;
}

/// A follower accepts the prefixes that a reader sends.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_backlog_are_sent_with_the_proof_that_their_node_has_signed_them() {
    let backlog = Backlog::new(None);
    let store = backlog.verified_first().await;
    store.put_checkpoints([&backlog.signed.into()]).unwrap();
    let leader = Follower::start(store);
    let reader = |after| {
        let reads = leader.replication.page_reads();
        let (after, part) = (SequenceId(after), StrandPart::Items(None));
        let reader = leader.replication.reader(SOURCE, after, part, 2_000, reads);
        reader.unwrap().proving()
    };
    let first = reader(0).next().await.unwrap().unwrap().items;
    let through = u64::try_from(first.len()).unwrap() - 1;
    assert!((2..ALL).contains(&through), "a page is a part of the strand");
    assert_eq!(first, backlog.run(1, through));
    // The last page is no backlog.
    let last = reader(ALL - 1).next().await.unwrap().unwrap().items;
    assert_eq!(last, backlog.plain(ALL, ALL));

    let follower = Follower::start_by(common::store(), showing());
    let mut source: Peer = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.answer(first).await;
    follower.wait_for(SOURCE, through).await;
    all_verified(&follower).await;
    assert_eq!(follower.replication.counters().verified_behind.get(), through);
    follower.stop().await;
    leader.stop().await;
}

/// A rebuild books nothing before it is verified.
#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_what_is_shown_are_made_again_without_charges() {
    let backlog = Backlog::new(None);
    let store = backlog.killed_before_verifying(&backlog.envelopes);
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    let before = store.snapshot().projection_digests().unwrap();
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), before);
    let follower = Follower::start(store);
    all_verified(&follower).await;
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// Its node was away when it signed these, and a relay has changed one: neither keeps the strand from going on.
#[tokio::test(flavor = "multi_thread")]
async fn a_strand_of_a_node_that_was_away_goes_on_after_it_was_asked_for_again() {
    let backlog = Backlog::new(None);
    let store = backlog.killed_before_verifying(&backlog.relayed(BAD));
    let start_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let away = Absence { from_s: start_s - 9, until_s: Some(start_s + 9) };
    let away = Absences::new(vec![away]).unwrap();
    let node = |id| NodeRecord {
        id,
        public_key: key(id).public_key(),
        owner: key(id).public_key().address(),
        ..common::record()
    };
    let registry: Registry = [common::record(), node(SOURCE)].into_iter().collect();
    let registry = registry.with_absences([(SOURCE, away)]);
    let follower = Follower::start_with(store, Arc::new(registry));
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (BAD - 1, None) {}
    source.answer(backlog.plain(BAD, ALL)).await;
    all_verified(&follower).await;
    assert_eq!(follower.held(SOURCE), backlog.envelopes);
    let store = follower.engine().store();
    let absent = Some(Mark::Invalid(InvalidRule(17)));
    let mark = |it| store.snapshot().mark(EnvelopeId::new(SOURCE, SequenceId(it))).unwrap();
    let is_judged = || (1..=ALL).all(|it| mark(it) == absent);
    follower.until("all of it is judged by the absence", is_judged).await;
    follower.stop().await;
}

/// A strand waits until a peer has what takes the place of the shown envelope.
#[tokio::test(flavor = "multi_thread")]
async fn another_statement_for_a_shown_place_keeps_the_strand_waiting_for_the_one_shown() {
    let backlog = Backlog::new(None);
    let store = backlog.killed_before_verifying(&backlog.relayed(BAD));
    let follower = Follower::start(store);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (BAD - 1, None) {}
    source.send([envelope(BAD, true)]).await;
    // It is asked for again, by a follower that has accepted none of it.
    while source.want(SOURCE).await != (BAD - 1, None) {}
    assert_eq!(follower.engine().store().snapshot().verified_head(SOURCE).unwrap().0, BAD - 1);
    source.answer(backlog.plain(BAD, ALL)).await;
    let is_verified = || follower.engine().store().unverified().unwrap().is_empty();
    while !is_verified() {
        tokio::select! {
            () = all_verified(&follower) => {}
            want = source.want(SOURCE) => if want == (BAD - 1, None) {
                source.answer(backlog.plain(BAD, ALL)).await;
            },
        }
    }
    assert_eq!(follower.held(SOURCE), backlog.envelopes);
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// Readers may be shown more than this node speaks for.
#[tokio::test(flavor = "multi_thread")]
async fn an_observer_signs_the_tree_of_what_is_verified_only() {
    const VERIFIED: u64 = 12;
    let backlog = Backlog::new(None);
    let store = backlog.killed_before_verifying(&backlog.envelopes);
    let first = backlog.envelopes[..12].to_vec();
    let entries: Vec<_> = verifier().check(first).into_iter().map(Result::unwrap).collect();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    store.commit_verified(SOURCE, &entries, &derive).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.tree_size(SOURCE).unwrap(), ALL);
    let trees = StoredTrees(&snapshot);
    assert_eq!(trees.size(SOURCE), VERIFIED);
    assert!(trees.root(SOURCE, VERIFIED).is_some());
    assert_eq!(trees.root(SOURCE, VERIFIED + 1), None);
    assert_eq!(trees.consistency(SOURCE, VERIFIED, VERIFIED + 1), None);
    let node = common::start(store.clone());
    let pace = ObserverPace { after: Duration::ZERO, every: Duration::ZERO };
    let task = start_checkpoint_task_with_pace(&node.engine, common::node_key(), pace);
    let signed = loop {
        match store.snapshot().checkpoint(SOURCE, NODE, u64::MAX).unwrap() {
            Some(found) => break found.signed.checkpoint,
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    assert_eq!((signed.size, Some(signed.root)), (VERIFIED, trees.root(SOURCE, VERIFIED)));
    task.stop().await;
}

/// Other software follows a node by reading whole strands, and believes what it gets.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_whole_strands_get_what_is_verified_only() {
    let backlog = Backlog::new(None);
    // It cannot be verified beyond a place without a peer.
    let store = backlog.killed_before_verifying(&backlog.relayed(BAD));
    let follower = Follower::start(store);
    let verified = || follower.engine().store().snapshot().verified_head(SOURCE).unwrap().0;
    follower.until("the first places are verified", || verified() == BAD - 1).await;
    let reader = follower.engine().reader().clone();
    let page = reader.query_originators(&[SOURCE], &Cursor::new(), 0).unwrap();
    let place = |it: u64| usize::try_from(it).unwrap();
    assert_eq!(page, backlog.envelopes[..place(BAD) - 1]);
    let mut streams = [
        reader.subscribe_originators([SOURCE], Some(Cursor::new())),
        reader.subscribe_all_after(Cursor::new()),
    ];
    let mut got = [Vec::new(), Vec::new()];
    for (stream, got) in streams.iter_mut().zip(&mut got) {
        while !matches!(next(stream, got).await, SubscriptionEvent::CaughtUp(_)) {}
        assert_eq!(*got, backlog.envelopes[..place(BAD) - 1]);
    }
    let mut from_now = reader.subscribe_originators([SOURCE], None);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (BAD - 1, None) {}
    source.answer(backlog.plain(BAD, ALL)).await;
    for (stream, got) in streams.iter_mut().zip(&mut got) {
        while got.len() < place(ALL) {
            next(stream, got).await;
        }
        assert_eq!(*got, backlog.envelopes);
    }
    let mut later = Vec::new();
    while later.len() < place(ALL - BAD + 1) {
        next(&mut from_now, &mut later).await;
    }
    assert_eq!(later, backlog.envelopes[place(BAD) - 1..]);
    let page = reader.query_originators(&[SOURCE], &Cursor::new(), 0).unwrap();
    assert_eq!(page, backlog.envelopes);
    follower.stop().await;
}

/// Adds the envelopes of the next event of a stream.
async fn next(stream: &mut Subscription, got: &mut Vec<Bytes>) -> SubscriptionEvent {
    let event = tokio::time::timeout(Duration::from_secs(120), stream.next()).await;
    let event = event.expect("there is more").unwrap();
    if let SubscriptionEvent::Envelopes { envelopes, .. } = &event {
        got.extend(envelopes.iter().cloned());
    }
    event
}

/// A relay has changed a place, and its own node keeps it no more: nothing can verify it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_shown_place_that_its_own_node_keeps_no_more_is_pruned_and_the_strand_goes_on() {
    const DAY_NS: i64 = 86_400_000_000_000;
    let backlog = Backlog::new(None);
    // The second range goes on behind what is shown.
    for through in [BAD + 2, ALL + 1] {
        let store = backlog.killed_before_verifying(&backlog.relayed(BAD));
        let follower = Follower::start(store);
        follower.node.clock.0.store(START_NS + 61 * DAY_NS, Ordering::SeqCst); // they expire after 60
        let mut source = follower.connect(SOURCE, &[]);
        while source.want(SOURCE).await != (BAD - 1, None) {}
        let (from, to) = (SequenceId(BAD), SequenceId(through));
        let rest: Vec<_> = (through + 1..=ALL + 2).map(|it| envelope(it, false)).collect();
        let mut items = vec![StrandItem::Gap { from, to, expired: true }];
        items.extend(rest.iter().cloned().map(StrandItem::Envelope));
        source.answer(items).await;
        follower.wait_for(SOURCE, ALL + 2).await;
        all_verified(&follower).await;
        let before = usize::try_from(BAD).unwrap() - 1;
        assert_eq!(follower.held(SOURCE), [&backlog.envelopes[..before], &rest].concat());
        assert_eq!(follower.engine().counters().withdrawn.get(), 0);
        drop(source);
        let store = follower.stop().await;
        let mark = |it| store.snapshot().mark(EnvelopeId::new(SOURCE, SequenceId(it))).unwrap();
        for place in BAD..=through.min(ALL) {
            assert!(matches!(mark(place), Some(Mark::Pruned { .. })), "{place}");
        }
        let beyond = through > ALL;
        assert_eq!(matches!(mark(ALL + 1), Some(Mark::Expired { .. })), beyond);
        // The leaves stay, since its node has signed them.
        let root = backlog.tree.snapshot().root(SOURCE, ALL).unwrap();
        assert_eq!(store.snapshot().root(SOURCE, ALL).unwrap(), root);
        let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
        let digests = store.snapshot().projection_digests().unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    }
}

/// Played by a node that has a relay change a shown place: what it sends again is compared with the time of the last
/// verified place, though the follower that asks again has taken nothing yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_shown_place_behind_a_young_one_has_not_expired_whatever_the_next_one_states() {
    const DAY_NS: i64 = 86_400_000_000_000;
    let backlog = Backlog::new(None);
    let follower = Follower::start(backlog.killed_before_verifying(&backlog.relayed(BAD)));
    follower.node.clock.0.store(START_NS + DAY_NS, Ordering::SeqCst);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (BAD - 1, None) {}
    let gap = StrandItem::Gap { from: SequenceId(BAD), to: SequenceId(ALL), expired: true };
    let behind = dated(SOURCE, ALL + 1, START_NS - 3 * DAY_NS);
    source.answer(vec![gap, StrandItem::Envelope(behind)]).await;
    assert_eq!(source.want(SOURCE).await, (BAD - 1, Some(ALL)));
    drop(source);
    follower.stop().await;
}

/// The node of the strand has signed one tree for this reader, and signs another one for others, after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_is_held_against_its_node_after_a_restart() {
    let backlog = Backlog::new(None);
    let store = common::store();
    let relayed = backlog.relayed(BAD);
    let read = verifier().read(relayed).unwrap().into_iter();
    let changes: Vec<_> = read.map(|(entry, _)| Change::Append(entry)).collect();
    store.commit_shown_by(&changes, &backlog.prefix(ALL), &[]).unwrap();
    let follower = Follower::start(store);
    let verified = || follower.engine().store().snapshot().verified_head(SOURCE).unwrap().0;
    follower.until("the first places are verified", || verified() == BAD - 1).await;
    let other = Checkpoint { root: TreeHash([7; 32]), ..backlog.signed.checkpoint };
    let other = other.sign(&key(SOURCE));
    let all = || {
        let snapshot = follower.engine().store().snapshot();
        snapshot.evidence(EvidenceTime::default(), 9, usize::MAX).unwrap()
    };
    let shown = || {
        // It may come before the one that is kept, and more than once.
        let _ = follower.replication.show_checkpoint(other.into());
        !all().is_empty()
    };
    follower.until("its node is proven to have told two stories", shown).await;
    assert_eq!(all().remove(0).evidence.misbehavior, Misbehavior::TwoCheckpoints);
    let counted = || {
        let mut all = follower.engine().counters().second_statements.all();
        all.any(|found| found == ("checkpoint", 1))
    };
    follower.until("it is counted for the alert", counted).await;
    follower.stop().await;
}
