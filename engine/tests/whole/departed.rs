//! A node that has left the network: what it signs later counts nowhere, whenever this node learns of it. Also a member
//! that cannot take part.

use std::sync::Arc;

use hawser_engine::facts;
use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::runtime::PublishError;
use hawser_engine::runtime::replication::StrandPart;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::merkle::TreeHash;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::{Absence, Absences, RULES_VERSION};
use hawser_storage::{
    EvidenceTime, Family, HiddenRules, InvalidRule, Mark, Store, TimeRule, Validity,
};

use crate::common::{self, NODE, START_NS, group_topic, payer, record};
use crate::follow::{Follower, OTHER, SOURCE, dated, key, strand};

const SECOND: i64 = 1_000_000_000;
const NEW: OriginatorId = OriginatorId(400);
const ABSENT: Option<Mark> = Some(Mark::Invalid(InvalidRule(17)));

/// Seconds after the start, as the chain has them.
fn at(seconds: i64) -> u64 {
    u64::try_from(START_NS / SECOND + seconds).unwrap()
}

fn away(from: i64, until: Option<i64>) -> Absences {
    Absences::new(vec![Absence { from_s: at(from), until_s: until.map(at) }]).unwrap()
}

/// The registry of all nodes, in which one of them has been away, and may be away now.
fn registry(node: OriginatorId, canonical: bool, absences: Absences) -> Arc<Registry> {
    let record = |id: OriginatorId| NodeRecord {
        id,
        public_key: key(id).public_key(),
        owner: key(id).public_key().address(),
        canonical: canonical || id != node,
        ..record()
    };
    let records = [NODE, OTHER, SOURCE, NEW].map(record).into_iter();
    Arc::new(records.collect::<Registry>().with_absences([(node, absences)]))
}

fn signed(sequence: u64, seconds: i64) -> Bytes {
    dated(SOURCE, sequence, START_NS + seconds * SECOND)
}

fn mark(follower: &Follower, originator: OriginatorId, sequence: u64) -> Option<Mark> {
    let id = EnvelopeId::new(originator, SequenceId(sequence));
    follower.engine().store().snapshot().mark(id).unwrap()
}

/// Returns the envelopes of the topic that readers get.
fn readable(follower: &Follower) -> Vec<Bytes> {
    follower.engine().reader().query_topics(&[group_topic(1)], &Cursor::new(), 100).unwrap()
}

/// Prices what is marked for it, as a task of the node does. Returns the charged messages of the strand, and
/// asserts that a rebuild gives the same rows.
fn charged(store: &Store) -> u64 {
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    common::reprice(store, &derive);
    let snapshot = store.snapshot();
    let payer = payer(0).public_key().address();
    let row = snapshot.usage(SOURCE, minute_of(START_NS), payer).unwrap();
    let before = snapshot.projection_digests().unwrap();
    drop(snapshot);
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), before);
    row.map_or(0, |row| row.messages)
}

/// Returns the registry in which `SOURCE` has the key of this node.
fn with_key_of(signer: OriginatorId) -> Arc<Registry> {
    let record = |(id, signer): (OriginatorId, OriginatorId)| NodeRecord {
        id,
        public_key: key(signer).public_key(),
        owner: key(signer).public_key().address(),
        ..record()
    };
    let records = [(NODE, NODE), (OTHER, OTHER), (SOURCE, signer)].map(record);
    Arc::new(records.into_iter().collect::<Registry>())
}

/// A reorganisation of the settlement chain has given the id to another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_another_key_in_the_registry_is_followed_by_that_one() {
    let follower = Follower::start_with(common::store(), with_key_of(NEW));
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    follower.node.registry.send_replace(with_key_of(SOURCE));
    source.want(SOURCE).await;
    source.send(strand(SOURCE, &[1])).await;
    follower.wait_for(SOURCE, 1).await;
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &[1]));
    follower.stop().await;
}

/// The same while a part of the strand is held that the former key has signed, and a checkpoint of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_key_has_signed_is_no_evidence_and_is_not_passed_on() {
    let follower = Follower::start_with(common::store(), with_key_of(SOURCE));
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send(strand(SOURCE, &[1, 2])).await;
    follower.wait_for(SOURCE, 2).await;
    let store = follower.engine().store().clone();
    while !store.extend_trees(usize::MAX).unwrap() {}
    let root = store.snapshot().root(SOURCE, 2).unwrap();
    let signed = |root, by| {
        let of = Checkpoint { node: SOURCE, originator: SOURCE, size: 2, root, time_ns: 1 };
        of.sign(&key(by)).into()
    };
    let mut other = follower.connect(OTHER, &[(SOURCE, 2)]);
    other.link.note_checkpoint(signed(root, SOURCE));
    let exchange = &follower.engine().counters().checkpoint_exchange;
    follower.until("the former node's tree agrees", || exchange.agreed.get() == 1).await;
    let replication = &follower.replication;
    let is_passed_on = || {
        let (part, reads) = (StrandPart::Items(None), replication.page_reads());
        replication.reader(SOURCE, SequenceId::NONE, part, 1 << 20, reads).is_ok()
    };
    assert!(is_passed_on());

    follower.node.registry.send_replace(with_key_of(NEW));
    follower.until("it is not passed on", || !is_passed_on()).await;
    other.link.note_checkpoint(signed(TreeHash([7; 32]), NEW));
    follower.until("the present node's tree differs", || exchange.differing.get() == 1).await;
    let is_asked = async { while other.want(SOURCE).await != (0, Some(1)) {} };
    tokio::select! {
        biased;
        found = replication.fetch(SOURCE, [(SequenceId(1), None)].into()) => assert!(found.is_empty()),
        () = is_asked => panic!("an honest peer would be sent away for its answer"),
    }
    assert_eq!(exchange.contradicting.get(), 0);
    drop((source, other));
    let store = follower.stop().await;
    let evidence = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    assert!(evidence.is_empty(), "{evidence:?}");
}

/// The clock of the node that had the id before was ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_steps_back_from_a_former_key_is_no_evidence() {
    let store = common::store();
    let follower = Follower::start_with(store.clone(), with_key_of(SOURCE));
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send([signed(1, 60)]).await;
    follower.wait_for(SOURCE, 1).await;
    follower.node.registry.send_replace(with_key_of(NEW));
    while source.want(SOURCE).await != (1, None) {}
    let statement = OriginatorEnvelope::open(signed(2, 0)).unwrap().0;
    let signature = key(NEW).sign(originator_digest(&statement));
    source.send([OriginatorEnvelope::encode(statement, Proof::Signature(signature))]).await;
    follower.wait_for(SOURCE, 2).await;
    assert!(!store.evidence_counts().contains_key(&SOURCE), "the times are of two nodes");
    follower.stop().await;
}

/// Shows a checkpoint of the source, and one that is forged by then, so that the test knows when both were looked at.
async fn show(follower: &Follower, signer: OriginatorId, root: TreeHash, forger: OriginatorId) {
    let of = Checkpoint { node: SOURCE, originator: SOURCE, size: 9, root, time_ns: 9 };
    let counters = follower.engine().counters().clone();
    let forged = || counters.checkpoint_exchange.forged.get();
    let before = forged();
    assert!(follower.replication.show_checkpoint(of.sign(&key(signer)).into()));
    let other = Checkpoint { size: 8, ..of };
    assert!(follower.replication.show_checkpoint(other.sign(&key(forger)).into()));
    follower.until("both are looked at", || forged() > before).await;
}

/// The reorganised settlement chain has had no node with the id for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_id_that_no_node_had_for_a_while_does_not_answer_for_the_former_one() {
    let follower = Follower::start_with(common::store(), with_key_of(SOURCE));
    show(&follower, SOURCE, TreeHash([1; 32]), NEW).await;
    let before = with_key_of(SOURCE);
    let without: Registry = before.nodes().filter(|it| it.id != SOURCE).cloned().collect();
    follower.node.registry.send_replace(Arc::new(without));
    let of = Checkpoint {
        node: SOURCE,
        originator: SOURCE,
        size: 7,
        root: TreeHash([1; 32]),
        time_ns: 9,
    };
    assert!(follower.replication.show_checkpoint(of.sign(&key(SOURCE)).into()));
    let counters = follower.engine().counters().clone();
    let counters = &counters.checkpoint_exchange;
    follower.until("no node has the id", || counters.unknown.get() > 0).await;
    follower.node.registry.send_replace(with_key_of(NEW));
    show(&follower, NEW, TreeHash([2; 32]), SOURCE).await;
    assert_eq!(counters.contradicting.get(), 0, "each has signed one tree");
    follower.stop().await;
}

/// The same after a restart: the former node's checkpoint is on the disk, and no peer shows one in this run.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_checkpoint_of_a_former_key_does_not_contradict_the_present_node() {
    let of = |node: OriginatorId| Checkpoint {
        node,
        originator: node,
        size: 9,
        root: TreeHash([1; 32]),
        time_ns: 9,
    };
    let store = common::store();
    store.put_checkpoints([&of(SOURCE).sign(&key(SOURCE)).into()]).unwrap();
    let follower = Follower::start_with(store, with_key_of(SOURCE));
    // The stored ones are read before any that are shown, such as this forged one of another node.
    assert!(follower.replication.show_checkpoint(of(OTHER).sign(&key(NEW)).into()));
    let counters = follower.engine().counters().clone();
    let counters = &counters.checkpoint_exchange;
    follower.until("it is looked at", || counters.forged.get() > 0).await;
    follower.node.registry.send_replace(with_key_of(NEW));
    show(&follower, NEW, TreeHash([2; 32]), SOURCE).await;
    assert_eq!(counters.contradicting.get(), 0, "each has signed one tree");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_before_the_notice_is_judged_anew_and_later_parts_come_from_others() {
    let follower = Follower::start(common::store());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    source.send([signed(1, 0), signed(2, 2)]).await;
    follower.wait_for(SOURCE, 2).await;
    let store = follower.engine().store().clone();
    assert_eq!(readable(&follower).len(), 2);
    assert_eq!(charged(&store), 2);

    follower.node.registry.send_replace(registry(SOURCE, false, away(1, None)));
    follower.until("it is judged anew", || mark(&follower, SOURCE, 2) == ABSENT).await;
    assert_eq!(readable(&follower), [signed(1, 0)]);
    assert_eq!(charged(&store), 1);
    assert_eq!(other.want(SOURCE).await, (2, None), "its strand comes from another node");
    other.send([signed(3, 1), signed(4, 3)]).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!((mark(&follower, SOURCE, 3), mark(&follower, SOURCE, 4)), (None, ABSENT));
    assert_eq!(readable(&follower).len(), 2, "the one from before is completed");
    assert_eq!(charged(&store), 2);
    assert_eq!(follower.held(SOURCE).len(), 4, "all of it is there for other nodes");
    follower.stop().await;
}

/// The disk has damaged an older part of its strand, so the strand cannot be read as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_strand_that_cannot_be_judged_anew_goes_on() {
    let store = common::store();
    let follower = Follower::start(store.clone());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    source.send([signed(1, 0), signed(2, 2)]).await;
    follower.wait_for(SOURCE, 2).await;
    // No row of a mark.
    let key = [&SOURCE.0.to_be_bytes()[..], &1_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff]);

    follower.node.registry.send_replace(registry(SOURCE, false, away(1, None)));
    assert_eq!(other.want(SOURCE).await, (2, None), "its strand comes from another node");
    other.send([signed(3, 1), signed(4, 3)]).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(mark(&follower, SOURCE, 4), ABSENT, "new ones are judged by the present absences");
    let absences = away(1, None).to_bytes();
    assert_ne!(store.snapshot().judged_by(SOURCE).unwrap(), absences, "it is not judged yet");
    drop(follower.stop().await);
}

/// The removal was in a block that the chain has not any more. The strand could not be read as a whole meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_taken_back_leaves_no_mark_of_a_strand_that_could_not_be_judged_by_it() {
    let store = common::store();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    let judge = |_: &Bytes| Validity::Valid;
    let rules = HiddenRules { originator: SOURCE, version: RULES_VERSION, judge: &judge };
    store.judge_hidden(&rules, &derive).unwrap();
    let follower = Follower::start(store.clone());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    source.send([signed(1, 0), signed(2, 2)]).await;
    follower.wait_for(SOURCE, 2).await;
    let key = [&SOURCE.0.to_be_bytes()[..], &1_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff]);
    follower.node.registry.send_replace(registry(SOURCE, false, away(1, None)));
    assert_eq!(other.want(SOURCE).await, (2, None), "its strand comes from another node");
    other.send([signed(3, 1), signed(4, 3)]).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(mark(&follower, SOURCE, 4), ABSENT);

    // The disk is mended: a mark of rule 17.
    store.put_raw_row(Family::Mark, &key, &[1, 17]);
    follower.node.registry.send_replace(registry(SOURCE, true, Absences::NONE));
    let marks = || [1, 4].map(|sequence| mark(&follower, SOURCE, sequence));
    follower.until("no envelope has a mark", || marks() == [None, None]).await;
    let reader = follower.engine().reader();
    let all = reader.query_originators(&[SOURCE], &Cursor::new(), 100).unwrap();
    assert_eq!(all, [signed(1, 0), signed(2, 2), signed(3, 1), signed(4, 3)]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_returns_goes_on_and_a_shorter_absence_gives_envelopes_back() {
    let follower = Follower::start(common::store());
    follower.node.registry.send_replace(registry(SOURCE, false, away(1, None)));
    let mut other = follower.connect(OTHER, &[]);
    other.want(SOURCE).await;
    other.send([signed(1, 0), signed(2, 2), signed(3, 4)]).await;
    follower.wait_for(SOURCE, 3).await;
    assert_eq!(readable(&follower).len(), 1);

    follower.node.registry.send_replace(registry(SOURCE, true, away(1, Some(5))));
    let mut source = follower.connect(SOURCE, &[]);
    let (after, up_to) = source.want(SOURCE).await;
    // The task of the strand may not have seen yet that the last commit has ended: it then asks from before it.
    assert!(matches!(after, 0 | 3) && up_to.is_none(), "it is asked itself again: {after}");
    source.send([signed(4, 5), signed(5, 6)]).await;
    follower.wait_for(SOURCE, 5).await;
    let marks = |sequences: &[u64]| -> Vec<_> {
        sequences.iter().map(|it| mark(&follower, SOURCE, *it)).collect()
    };
    assert_eq!(marks(&[1, 2, 3, 4, 5]), [None, ABSENT, ABSENT, None, None]);
    let store = follower.engine().store().clone();
    assert_eq!(charged(&store), 3);

    // As after a reorganisation of the chain.
    follower.node.registry.send_replace(registry(SOURCE, true, away(1, Some(4))));
    follower.until("it is judged anew", || marks(&[3]) == [None]).await;
    assert_eq!(marks(&[1, 2, 3, 4, 5]), [None, ABSENT, None, None, None]);
    assert_eq!(readable(&follower).len(), 4);
    assert_eq!(charged(&store), 4);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_learned_while_the_node_was_down_counts_at_its_start() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send([signed(1, 0), signed(2, 2)]).await;
    follower.wait_for(SOURCE, 2).await;
    let store = follower.stop().await;

    let follower = Follower::start_with(store, registry(SOURCE, false, away(1, None)));
    follower.until("it is judged anew", || mark(&follower, SOURCE, 2) == ABSENT).await;
    assert_eq!(readable(&follower), [signed(1, 0)]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_an_earlier_rule_are_judged_once_more() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    let in_the_second = dated(SOURCE, 2, START_NS + SECOND + SECOND / 2);
    source.send([signed(1, 0), in_the_second.clone(), signed(3, 3)]).await;
    follower.wait_for(SOURCE, 3).await;
    let store = follower.stop().await;
    // The second of the removal belonged to the absence, and its bytes named no rule.
    let basis = [at(1).to_be_bytes(), u64::MAX.to_be_bytes()].concat();
    let is_broken_at = |ns| START_NS + SECOND < ns;
    let rule = InvalidRule(17);
    let rule = TimeRule {
        originator: SOURCE,
        rule,
        is_broken_at: &is_broken_at,
        replaces: &|_| false,
        judge: &|_| Validity::Valid,
        basis: &basis,
    };
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    assert_eq!(store.judge_times(&rule, &derive).unwrap().marked, 2);

    let follower = Follower::start_with(store, registry(SOURCE, false, away(1, None)));
    follower.until("it is judged anew", || mark(&follower, SOURCE, 2).is_none()).await;
    assert_eq!(mark(&follower, SOURCE, 3), ABSENT);
    assert_eq!(readable(&follower), [signed(1, 0), in_the_second]);
    assert_eq!(charged(follower.engine().store()), 2);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_was_in_the_network_has_no_strand() {
    let follower = Follower::start(common::store());
    follower.node.registry.send_replace(registry(NEW, false, Absences::NONE));
    let mut other = follower.connect(OTHER, &[(NEW, 9)]);
    other.want(OTHER).await;
    assert!(!follower.replication.strands().contains_key(&NEW));

    follower.node.registry.send_replace(registry(NEW, true, Absences::NONE));
    let mut new = follower.connect(NEW, &[]);
    assert_eq!(new.want(NEW).await, (0, None));
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_removed_itself_publishes_nothing_until_its_clock_has_passed_its_return() {
    let follower = Follower::start(common::store());
    follower.publish("before").await.unwrap();
    follower.node.clock.0.store(START_NS + 2 * SECOND, std::sync::atomic::Ordering::Relaxed);
    follower.publish("after, and before the notice").await.unwrap();
    assert_eq!(readable(&follower).len(), 2);

    follower.node.registry.send_replace(registry(NODE, false, away(1, None)));
    let refused = follower.publish("later").await;
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("not canonical"), "{reason}");
    follower.until("it judges itself", || mark(&follower, NODE, 2) == ABSENT).await;
    assert_eq!(readable(&follower).len(), 1);

    follower.node.registry.send_replace(registry(NODE, true, away(1, Some(3))));
    let refused = follower.publish("too early").await;
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("has not reached the time"), "{reason}");
    follower.node.clock.0.store(START_NS + 3 * SECOND, std::sync::atomic::Ordering::Relaxed);
    follower.publish("returned").await.unwrap();
    assert_eq!((mark(&follower, NODE, 3), readable(&follower).len()), (None, 2));
    follower.stop().await;
}

/// Such a member cannot answer, and the contracts count it: a quarantine ends with more than half of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_majority_counts_a_member_without_a_valid_key() {
    let other = NodeRecord {
        id: OTHER,
        public_key: key(OTHER).public_key(),
        owner: key(OTHER).public_key().address(),
        ..record()
    };
    let nodes: Registry = [record(), other].into_iter().collect();
    let nodes = nodes.with_unusable([(SOURCE, true), (NEW, false)]);
    let follower = Follower::start_with(common::store(), Arc::new(nodes));
    let mut other = follower.connect(OTHER, &[(NODE, 2)]);
    assert_eq!(other.want(NODE).await, (0, None));
    other.send(strand(NODE, &[1, 2])).await;
    let quarantine = || match follower.engine().own_strand_status() {
        OwnStrandStatus::Quarantined(quarantine) => Some(quarantine),
        _ => None,
    };
    follower.until("a peer shows what is not held", || quarantine().is_some()).await;
    let quarantine = quarantine().unwrap();
    assert_eq!((quarantine.others, quarantine.needed()), (2, Some(2)));
    follower.stop().await;
}
