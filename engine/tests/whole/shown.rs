//! A backlog that readers are shown before it is verified: how far that goes, and what proves that its node has lied.

use std::sync::mpsc;
use std::time::Duration;

use hawser_engine::replication::{LinkCommand, PeerViolation, ShownLimits, StrandItem};
use hawser_engine::runtime::Priority;
use hawser_engine::runtime::replication::ReplicationSettings;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId};
use hawser_storage::{EvidenceTime, Misbehavior};

use crate::backlog::{ALL, BAD, Backlog, all_verified, assert_equal, envelope, showing};
use crate::common::{self, group_topic};
use crate::follow::{Follower, Peer, SOURCE, WAIT_MAX};

/// Returns settings by which readers are shown what is not verified, within these bounds.
fn within(shown_limits: ShownLimits) -> ReplicationSettings {
    ReplicationSettings { shown_limits, ..showing() }
}

/// Keeps what readers are shown from being verified, until the result is dropped.
#[must_use]
fn hold_verification(follower: &Follower) -> Vec<mpsc::Sender<()>> {
    let workers = follower.engine().workers();
    let hold = |_| {
        let (held, release) = mpsc::channel();
        workers.spawn(Priority::Behind, move || _ = release.recv());
        held
    };
    (0..workers.threads()).map(hold).collect()
}

fn readable(follower: &Follower) -> Vec<Bytes> {
    let topics = [0, 1, 2].map(group_topic);
    let reader = follower.engine().reader();
    let mut page = reader.query_topics(&topics, &Cursor::new(), 0).unwrap();
    let place = |bytes: &Bytes| OriginatorEnvelope::parse(bytes.clone()).unwrap().id();
    page.sort_unstable_by_key(place);
    page
}

/// Places of a strand that a follower shows its readers before it verifies them.
const SHOWN: u64 = 19;

/// Has a follower show the first places, among them one that a relay has changed. Returns it with the peer that it asks
/// for that place again.
async fn shown_with_a_changed_place(backlog: &Backlog) -> (Follower, Peer) {
    let relayed = Backlog { envelopes: backlog.relayed(BAD), ..Backlog::new(None) };
    let follower = Follower::start_by(common::store(), showing());
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.answer(relayed.run(1, SHOWN)).await;
    // It is sent away for that.
    let expected = LinkCommand::Disconnect { violation: PeerViolation::ForgedSignature };
    let sent_away =
        async { while source.link.command().await.expect("it is connected") != expected {} };
    tokio::time::timeout(WAIT_MAX, sent_away).await.expect("it is sent away");
    drop(source);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (BAD - 1, None) {}
    (follower, source)
}

/// Its end is readable too, and all of it also if each part comes while the one before is on its way to disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_readable_while_nothing_of_it_is_verified() {
    let backlog = Backlog::new(None);
    let follower = Follower::start_by(common::store(), showing());
    let held = hold_verification(&follower);
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    for from in (1..ALL).step_by(5) {
        source.answer(backlog.run(from, from + 4)).await;
    }
    follower.wait_for(SOURCE, ALL).await;
    assert_eq!(readable(&follower), backlog.envelopes);
    let store = follower.engine().store();
    assert_eq!(store.snapshot().verified_head(SOURCE).unwrap(), SequenceId::NONE);
    assert_eq!(follower.replication.heads().get().get(SOURCE), SequenceId::NONE);
    drop(held);
    all_verified(&follower).await;
    assert_eq!(follower.replication.counters().verified_behind.get(), ALL);
    assert_eq!(follower.replication.counters().verified.get(), 0);
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_shown_so_much_before_it_is_verified_and_no_more() {
    const AHEAD: u64 = 10;
    let backlog = Backlog::new(None);
    let settings = within(ShownLimits { ahead_max: AHEAD, ..ShownLimits::default() });
    let follower = Follower::start_by(common::store(), settings);
    let held = hold_verification(&follower);
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    let runs: Vec<_> = (1..ALL).step_by(5).map(|from| backlog.run(from, from + 4)).collect();
    let sending = tokio::spawn(async move {
        for run in runs {
            source.answer(run).await;
        }
        source
    });
    follower.wait_for(SOURCE, AHEAD).await;
    // The rest waits at the peer but for the few parts that this node takes in.
    assert_eq!(readable(&follower).len() as u64, AHEAD);
    assert!(!sending.is_finished());
    drop(held);
    let source = tokio::time::timeout(WAIT_MAX, sending).await.expect("the rest is taken").unwrap();
    follower.wait_for(SOURCE, ALL).await;
    all_verified(&follower).await;
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// The tree that its node has signed goes on behind what is held of the strand.
#[tokio::test(flavor = "multi_thread")]
async fn another_statement_than_the_one_shown_is_proof_at_once() {
    let backlog = Backlog::new(None);
    let (follower, source) = shown_with_a_changed_place(&backlog).await;
    source.send([envelope(BAD, true)]).await;
    let store = follower.engine().store();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let two_stories = || {
        // That one of them breaks a rule is evidence, too.
        let mut all = all().into_iter().map(|it| it.evidence);
        all.find(|it| it.misbehavior == Misbehavior::OtherLeaf)
    };
    follower.until("its node is proven to have told two stories", || two_stories().is_some()).await;
    let proof = two_stories().expect("it was there");
    assert_eq!(proof.at, EnvelopeId::new(SOURCE, SequenceId(BAD)));
    assert!(store.snapshot().tree_size(SOURCE).unwrap() < ALL);
    assert_eq!(store.snapshot().verified_head(SOURCE).unwrap().0, BAD - 1, "it goes on waiting");
    drop(source);
    follower.stop().await;
}

/// The node signs a place twice, and another place of the same answer is not as readers are shown it: nothing of the
/// answer is stored. The place has to be verified before it is compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_statement_is_kept_until_its_place_is_verified() {
    let backlog = Backlog::new(None);
    let (follower, mut source) = shown_with_a_changed_place(&backlog).await;
    let mut items = backlog.plain(BAD, BAD);
    items.push(StrandItem::Envelope(envelope(BAD + 1, true)));
    items.push(StrandItem::Second(envelope(BAD, true)));
    source.answer(items).await;
    // It is asked again after a pause.
    while source.want(SOURCE).await != (BAD - 1, None) {}
    let store = follower.engine().store();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let signed_twice = || {
        let mut all = all().into_iter().map(|it| it.evidence);
        all.find(|it| matches!(it.misbehavior, Misbehavior::TwoStatements(_)))
    };
    assert_eq!(signed_twice(), None, "its place is not verified");
    source.answer(backlog.plain(BAD, SHOWN)).await;
    follower.until("both statements are kept", || signed_twice().is_some()).await;
    let found = signed_twice().expect("it was there");
    assert_eq!(found.at, EnvelopeId::new(SOURCE, SequenceId(BAD)));
    let held = backlog.envelopes[usize::try_from(BAD).unwrap() - 1].clone();
    assert_eq!(found.envelopes, [held, envelope(BAD, true)]);
    drop(source);
    follower.stop().await;
}

/// A relay, or the maker of a snapshot, has changed two places of many. Peers bring these two again, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_outer_layer_has_its_place_sent_again_and_not_the_rest_of_the_strand() {
    let backlog = Backlog::new(None);
    let places = [BAD, BAD + 9];
    let mut sent = backlog.envelopes.clone();
    for place in places {
        let at = usize::try_from(place).unwrap() - 1;
        sent[at] = backlog.relayed(place)[at].clone();
    }
    let store = backlog.killed_before_verifying(&sent);
    let settings = within(ShownLimits { again_places: 1, ..ShownLimits::default() });
    let follower = Follower::start_by(store, settings);
    let mut source = follower.connect(SOURCE, &[]);
    for place in places {
        while source.want(SOURCE).await != (place - 1, None) {}
        source.answer(backlog.plain(place, place)).await;
    }
    all_verified(&follower).await;
    while source.want(SOURCE).await != (ALL, None) {}
    let counters = follower.replication.counters();
    assert_eq!(counters.verified.get(), 2, "of what has come");
    assert_eq!(counters.verified_behind.get(), ALL, "from the log, and these two");
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}

/// The node that signs the tree has not signed one of the envelopes in it, so nothing verifies what is behind.
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_withdrawn_behind_a_place_that_nothing_verifies() {
    const UNSIGNED: u64 = 5;
    let place = |it: u64| usize::try_from(it).unwrap();
    let backlog = Backlog::new(Some(BAD));
    let sent = Backlog { envelopes: backlog.relayed(UNSIGNED), ..Backlog::new(Some(BAD)) };
    let at_once = ShownLimits { withdraw_after: Duration::ZERO, ..ShownLimits::default() };
    let settings = within(at_once);
    let follower = Follower::start_by(common::store(), settings);
    let held = hold_verification(&follower);
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.answer(sent.run(1, ALL)).await;
    follower.wait_for(SOURCE, ALL).await;
    assert_eq!(readable(&follower), sent.envelopes);
    drop(held);
    let counters = follower.engine().counters();
    follower.until("it is withdrawn", || counters.withdrawn.get() == 1).await;
    let mut others = sent.envelopes.clone();
    others.remove(place(BAD) - 1);
    assert_eq!(readable(&follower), others);
    let store = follower.engine().store();
    assert_eq!(store.snapshot().verified_head(SOURCE).unwrap().0, UNSIGNED - 1);
    assert_eq!(counters.invalid.get(), 0, "there is no verdict yet");
    drop(source);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (UNSIGNED - 1, None) {}
    source.send(backlog.envelopes[place(UNSIGNED) - 1..].iter().cloned()).await;
    all_verified(&follower).await;
    follower.until("the verdict is counted", || counters.invalid.get() == 1).await;
    assert_eq!(counters.withdrawn.get(), 1, "not again");
    drop(source);
    assert_equal(&follower.stop().await, &backlog.verified_first().await);
}
