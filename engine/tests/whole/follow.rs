//! Strands of other nodes, as peers bring them: the test plays the peers.

use std::sync::Arc;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::facts;
use hawser_engine::own_strand::{GAP, OperatorConfirmation, OwnStrandStatus};
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::replication::{GapWants, LinkCommand, RequestId, StrandItem};
use hawser_engine::runtime::PublishError;
use hawser_engine::runtime::replication::{
    Link, Replication, ReplicationSettings, ReplicationTasks,
};
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{
    Bytes, Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId, StatementDifference,
};
use hawser_rules::fees::base_fee;
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{
    Change, Evidence, EvidenceTime, LogEntry, LogItem, Misbehavior, SkipReason, Store, Validity,
};
use prost::Message as _;

use crate::common::{
    self, NODE, Node, START_NS, client, frame, group_payload, group_topic, message, payer, rate,
    record,
};

pub const SOURCE: OriginatorId = OriginatorId(300);
pub const OTHER: OriginatorId = OriginatorId(200);
/// The longest wait of a test. A guess, for busy machines: a failing test alone waits so long.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

pub fn key(node: OriginatorId) -> SecretKey {
    if node == NODE {
        return common::node_key();
    }
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).unwrap() + 100; 32]).unwrap()
}

/// Returns an envelope that `originator` signs for a place; each `text` is another statement.
pub fn envelope(originator: OriginatorId, sequence: u64, text: &str) -> Bytes {
    priced(originator, sequence, text, rate())
}

/// Returns such an envelope at the price of `rate`.
pub fn priced(originator: OriginatorId, sequence: u64, text: &str, rate: Rate) -> Bytes {
    let ns = START_NS + i64::try_from(sequence).unwrap();
    signed(originator, sequence, text, rate, ns)
}

/// An envelope that states this time.
pub fn dated(originator: OriginatorId, sequence: u64, ns: i64) -> Bytes {
    signed(originator, sequence, "true", rate(), ns)
}

fn signed(originator: OriginatorId, sequence: u64, text: &str, rate: Rate, ns: i64) -> Bytes {
    let payload = group_payload(frame(1, 1, text.as_bytes()));
    let client = client(&group_topic(1), None, payload);
    let paid: Bytes = PayerEnvelope::sign(client, originator, 60, &payer(0)).encode_to_vec().into();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        base_fee_picodollars: base_fee(&rate, paid.len() as u64, 60).unwrap().0,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(ns / 1_000_000_000).unwrap() + 60 * 86_400,
        payer_envelope_bytes: paid,
    };
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key(originator).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

pub fn strand(originator: OriginatorId, sequences: &[u64]) -> Vec<Bytes> {
    sequences.iter().map(|&sequence| envelope(originator, sequence, "true")).collect()
}

/// An engine that follows nodes 200 and 300.
pub struct Follower {
    pub node: Node,
    pub replication: Replication,
    tasks: ReplicationTasks,
}

impl Follower {
    pub fn start(store: Store) -> Self {
        Self::start_by(store, ReplicationSettings::default())
    }

    pub fn start_by(store: Store, settings: ReplicationSettings) -> Self {
        let other = |id| NodeRecord {
            id,
            public_key: key(id).public_key(),
            owner: key(id).public_key().address(),
            ..record()
        };
        let registry = [record(), other(OTHER), other(SOURCE)].into_iter().collect();
        Self::start_all(store, Arc::new(registry), settings)
    }

    pub fn start_with(store: Store, registry: Arc<Registry>) -> Self {
        Self::start_all(store, registry, ReplicationSettings::default())
    }

    fn start_all(store: Store, registry: Arc<Registry>, settings: ReplicationSettings) -> Self {
        let node = common::start(store);
        node.registry.send_replace(registry);
        let (replication, tasks) = Replication::start(&node.engine, settings);
        Self { node, replication, tasks }
    }

    pub fn connect(&self, id: OriginatorId, clock: &[(OriginatorId, u64)]) -> Peer {
        let clock = clock.iter().map(|&(id, head)| EnvelopeId::new(id, SequenceId(head)));
        let clock: Cursor = clock.collect();
        Peer { link: self.replication.connect(id, &clock, GapWants::None), asked: None }
    }

    pub async fn wait_for(&self, originator: OriginatorId, sequence: u64) {
        let mut heads = self.node.engine.heads().subscribe();
        let reached = heads.wait_for(|heads| heads.get(originator).0 >= sequence);
        let reached = tokio::time::timeout(WAIT_MAX, reached).await;
        drop(reached.expect("the strand grows").unwrap());
    }

    pub async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, wait).await.expect(what);
    }

    pub fn held(&self, originator: OriginatorId) -> Vec<Bytes> {
        let snapshot = self.node.engine.store().snapshot();
        let start = EnvelopeId::new(originator, SequenceId::NONE);
        let items = snapshot.log(start, SequenceId::MAX).map(Result::unwrap);
        let envelope = |item| match item {
            LogItem::Envelope { bytes, .. } => Some(bytes),
            LogItem::Skipped { .. } => None,
        };
        items.filter_map(envelope).collect()
    }

    /// Returns the reason for which publishes are refused, if they are.
    pub fn complaint(&self) -> Option<String> {
        match self.node.engine.ready_to_publish() {
            Ok(()) => None,
            Err(PublishError::Unavailable { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
        }
    }

    pub fn engine(&self) -> &Engine {
        &self.node.engine
    }

    pub async fn publish(&self, text: &str) -> Result<Bytes, PublishError> {
        let status = || self.engine().own_strand_status();
        self.until("the peers are asked", || status() != OwnStrandStatus::Asking).await;
        let answer = self.node.engine.publish(vec![message(1, text)]).await;
        answer.map(|mut envelopes| envelopes.remove(0))
    }

    /// Stops in order, and gives the log back.
    pub async fn stop(self) -> Store {
        self.tasks.stop().await;
        self.node.engine.drain();
        let store = self.node.engine.store().clone();
        tokio::task::spawn_blocking(move || self.node.threads.join()).await.unwrap();
        store
    }
}

/// The other end of a connection.
pub struct Peer {
    pub link: Link,
    asked: Option<(OriginatorId, RequestId)>,
}

impl Peer {
    /// The next want for a strand, which [`Peer::send`] answers from now on: after, up to.
    pub async fn want(&mut self, originator: OriginatorId) -> (u64, Option<u64>) {
        loop {
            let command = tokio::time::timeout(WAIT_MAX, self.link.command()).await;
            let command = command.expect("something is asked for").expect("the link stands");
            let LinkCommand::Want { request, want } = command else { continue };
            if want.originator == originator {
                self.asked = Some((originator, request));
                return (want.after.0, want.up_to().map(|up_to| up_to.0));
            }
        }
    }

    pub async fn send(&self, envelopes: impl IntoIterator<Item = Bytes>) {
        self.answer(envelopes.into_iter().map(StrandItem::Envelope).collect()).await;
    }

    pub async fn answer(&self, items: Vec<StrandItem<Bytes>>) {
        let (originator, request) = self.asked.expect("something was asked for");
        self.link.sink().deliver(originator, request, items).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_statements_for_one_place_the_first_is_kept_and_both_are_evidence() {
    let follower = Follower::start(common::store());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 4])).await;
    assert_eq!(other.want(SOURCE).await, (1, Some(3)));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    other.send(strand(SOURCE, &[2])).await;
    follower.wait_for(SOURCE, 2).await;
    let counters = follower.replication.counters();
    assert_eq!(counters.conflicts.get(), 0);

    // Just as well signed, and another story.
    source.send([envelope(SOURCE, 2, "other"), envelope(SOURCE, 3, "true")]).await;
    follower.wait_for(SOURCE, 3).await;
    // No peer is disconnected for it. The follower may not have heard yet that place 2 is on disk.
    let (after, up_to) = source.want(SOURCE).await;
    assert!(matches!((after, up_to), (1 | 2, None)), "{after} {up_to:?}");
    // The same again is no second story.
    let next: Vec<_> = (after + 1..=4).collect();
    source.send(strand(SOURCE, &next)).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &[1, 2, 3, 4]));
    assert_eq!(counters.conflicts.get(), 1);
    let store = follower.node.engine.store().clone();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    assert_eq!(all().len(), 1);
    let Evidence { misbehavior, at, from, envelopes } = all().remove(0).evidence;
    assert_eq!(misbehavior, Misbehavior::TwoStatements(StatementDifference::Content));
    assert_eq!((at, from), (EnvelopeId::new(SOURCE, SequenceId(2)), Some(SOURCE)));
    assert_eq!(envelopes, [envelope(SOURCE, 2, "true"), envelope(SOURCE, 2, "other")]);
    follower.stop().await;
}

/// Starts a follower of a strand of which it has place 4 and lacks those before. Returns it with two peers that are
/// asked for the latter.
async fn lacks_three_places(store: &Store) -> (Follower, [Peer; 2]) {
    let (from, through) = (SequenceId(1), SequenceId(3));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Missing };
    let (id, bytes) = (EnvelopeId::new(SOURCE, SequenceId(4)), envelope(SOURCE, 4, "true"));
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    let follower = Follower::start(store.clone());
    let mut other = follower.connect(OTHER, &[]);
    let mut third = follower.connect(OriginatorId(400), &[]);
    assert_eq!(other.want(SOURCE).await, (0, Some(3)));
    assert_eq!(third.want(SOURCE).await, (0, Some(3)));
    (follower, [other, third])
}

/// Prunes up to nine expired envelopes. Returns their number.
fn prune(store: &Store) -> usize {
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        std::ops::ControlFlow::Continue(())
    };
    store.snapshot().expiring(None, 9, each).unwrap();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    store.prune(&expired, &derive).unwrap().pruned.len()
}

/// Returns the counted kinds of second statements, with their numbers.
fn second_statements(follower: &Follower) -> Vec<(&'static str, u64)> {
    let all = follower.engine().counters().second_statements.all();
    all.filter(|(_, count)| *count > 0).collect()
}

/// A node keeps only the leaf of a pruned place, so another statement for the place is a claim.
#[tokio::test(flavor = "multi_thread")]
async fn another_statement_for_a_pruned_place_is_kept_as_a_claim() {
    let store = common::store();
    let (follower, [other, third]) = lacks_three_places(&store).await;
    other.send(strand(SOURCE, &[2])).await;
    follower.until("the find is stored", || follower.held(SOURCE) == strand(SOURCE, &[2, 4])).await;

    assert_eq!(prune(&store), 1);
    third.send([envelope(SOURCE, 2, "other")]).await;
    let kept = || {
        let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
        let mut all = all.into_iter().map(|it| it.evidence);
        all.find(|it| it.misbehavior == Misbehavior::OtherThanPruned)
    };
    follower.until("the other one is kept", || kept().is_some()).await;
    let counted = || second_statements(&follower);
    follower.until("it is counted", || counted() == [("pruned", 1)]).await;
    let Evidence { at, from, envelopes, .. } = kept().unwrap();
    assert_eq!((at.sequence, from), (SequenceId(2), Some(OriginatorId(400))));
    assert_eq!(envelopes[0], envelope(SOURCE, 2, "other"));
    assert_eq!((envelopes.len(), envelopes[1].len()), (2, 32), "and the leaf of what was there");
    // A reader of the evidence with the keys of the registry comes to the same verdict.
    let registry = follower.engine().ports().registry.borrow().clone();
    let evidence = TreeEvidence { fault: TreeFault::OtherThanPruned, pieces: envelopes };
    let judgement = verify_trees(&evidence, &registry);
    assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Claim, Some(SOURCE)));
    follower.stop().await;
}

/// The leaf of a pruned place speaks for it if the node has signed a checkpoint above.
#[tokio::test(flavor = "multi_thread")]
async fn another_statement_for_a_pruned_place_below_a_checkpoint_is_proven() {
    let store = common::store();
    let (follower, [other, third]) = lacks_three_places(&store).await;
    other.send(strand(SOURCE, &[1, 2, 3])).await;
    let whole = strand(SOURCE, &[1, 2, 3, 4]);
    follower.until("the finds are stored", || follower.held(SOURCE) == whole).await;
    while !store.extend_trees(usize::MAX).unwrap() {}
    let root = store.snapshot().root(SOURCE, 4).unwrap();
    let of = Checkpoint { node: SOURCE, originator: SOURCE, size: 4, root, time_ns: 1 };
    store.put_checkpoint(&of.sign(&key(SOURCE)).into()).unwrap();

    assert_eq!(prune(&store), 3);
    third.send([envelope(SOURCE, 2, "other")]).await;
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("the other one is kept", || !all().is_empty()).await;
    let counted = || second_statements(&follower);
    follower.until("it is counted for the alert", || counted() == [("leaf", 1)]).await;
    let Evidence { misbehavior, at, from, envelopes } = all().remove(0).evidence;
    assert_eq!((misbehavior, all().len()), (Misbehavior::OtherLeaf, 1));
    assert_eq!((at.sequence, from), (SequenceId(2), Some(OriginatorId(400))));
    // Every reader with the keys of the registry can check it.
    let registry = follower.engine().ports().registry.borrow().clone();
    let evidence = TreeEvidence { fault: TreeFault::OtherLeaf, pieces: envelopes.clone() };
    let judgement = verify_trees(&evidence, &registry);
    assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Proven, Some(SOURCE)));
    let same = vec![envelopes[0].clone(), envelopes[1].clone(), envelope(SOURCE, 2, "true")];
    let evidence = TreeEvidence { fault: TreeFault::OtherLeaf, pieces: same };
    assert_eq!(verify_trees(&evidence, &registry).verdict, MisbehaviorVerdict::Refuted);
    follower.stop().await;
}

/// A peer may still send what an earlier search or follower has asked for when the next one begins.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_late_is_taken_for_none_to_a_later_search_or_follower() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[(SOURCE, 9)]);
    let search = || {
        let replication = follower.replication.clone();
        let wanted = [(SequenceId(5), None)].into();
        tokio::spawn(async move { replication.fetch(SOURCE, wanted).await })
    };
    assert_eq!(source.want(SOURCE).await, (0, None));
    let mut asked = vec![source.asked];
    let first = search();
    while source.want(SOURCE).await != (4, Some(5)) {}
    let early = source.asked.unwrap().1;
    asked.push(source.asked);
    source.answer(vec![StrandItem::End]).await;
    assert!(first.await.unwrap().is_empty());

    let second = search();
    while source.want(SOURCE).await != (4, Some(5)) {}
    asked.push(source.asked);
    // The first search would be over again by this.
    source.link.sink().deliver(SOURCE, early, vec![StrandItem::End]).await.unwrap();
    source.send([envelope(SOURCE, 5, "true")]).await;
    let found = second.await.unwrap();
    assert_eq!(found, [(SequenceId(5), envelope(SOURCE, 5, "true"))].into());
    // The strand is followed again.
    while source.want(SOURCE).await != (0, None) {}
    asked.push(source.asked);
    let mut ids: Vec<_> = asked.into_iter().map(|it| it.unwrap().1).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "no id was given twice: {ids:?}");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_places_are_looked_for_after_a_restart() {
    let store = common::store();
    let (from, through) = (SequenceId(1), SequenceId(3));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Missing };
    let id = EnvelopeId::new(SOURCE, SequenceId(4));
    let bytes = envelope(SOURCE, 4, "true");
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();

    let follower = Follower::start(store);
    let mut other = follower.connect(OTHER, &[]);
    assert_eq!(other.want(SOURCE).await, (0, Some(3)));
    let mut items: Vec<_> = strand(SOURCE, &[2]).into_iter().map(StrandItem::Envelope).collect();
    items.push(StrandItem::End);
    other.answer(items).await;
    follower.until("the find is stored", || follower.held(SOURCE) == strand(SOURCE, &[2, 4])).await;
    let mut third = follower.connect(OTHER, &[]);
    assert_eq!(third.want(SOURCE).await, (0, Some(1)), "only what is not found yet");
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_that_no_rate_explains_holds_nothing_up_and_is_not_what_is_booked() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let expensive = Rate { message_fee: PicoDollarPrice(2000), ..rate() };
    let sent = [envelope(SOURCE, 1, "true"), priced(SOURCE, 2, "true", expensive)];
    source.send(sent.clone()).await;
    follower.wait_for(SOURCE, 2).await;
    assert_eq!(follower.held(SOURCE), sent);
    assert_eq!(follower.node.engine.counters().invalid.get(), 0, "readers get both");
    let store = follower.node.engine.store();
    let minute = hawser_proto::minute_of(START_NS);
    let payer = payer(0).public_key().address();
    let row = store.snapshot().usage(SOURCE, minute, payer).unwrap().unwrap();
    assert_eq!(row.messages, 2);
    let more = PicoDollarPrice(1000);
    assert_eq!(row.stated_picodollars, row.picodollars.plus(more), "two thousand instead of one");
    assert_eq!(store.differing_fees(), [(SOURCE, 1)].into());

    // It is evidence once the list is known to have every rate of that time.
    let store = store.clone();
    let count = || store.evidence_counts().get(&SOURCE).map_or(0, |it| it.proven());
    assert_eq!(count(), 0);
    let confirmed = |ns| Arc::new(follower.node.rates.borrow().confirmed(ns));
    let old = confirmed(START_NS);
    follower.node.rates.send_replace(old);
    let new = confirmed(START_NS + 2);
    follower.node.rates.send_replace(new);
    follower.until("the fee is judged", || count() == 1).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_times_are_evidence_and_hold_nothing_up() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let hour_ns = 3_600_000_000_000;
    let sent = [
        dated(SOURCE, 1, START_NS),
        dated(SOURCE, 2, START_NS + hour_ns),
        dated(SOURCE, 3, START_NS + 1),
        dated(SOURCE, 4, START_NS + 2),
    ];
    source.send(sent.clone()).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(follower.held(SOURCE), sent);
    assert_eq!(follower.node.engine.counters().invalid.get(), 0, "readers get all of them");
    let store = follower.node.engine.store().clone();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("the times are recorded", || all().len() == 2).await;
    let [ahead, back] = <[_; 2]>::try_from(all()).unwrap().map(|it| it.evidence);
    assert_eq!((ahead.misbehavior, ahead.at.sequence.0), (Misbehavior::TimeAhead, 2));
    assert_eq!((back.misbehavior, back.at.sequence.0), (Misbehavior::TimeBack, 3));
    assert_eq!(back.envelopes, sent[1..3]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_after_a_chain_that_is_ahead_are_no_evidence() {
    let follower = Follower::start(common::store());
    let minute_ns = 60_000_000_000;
    let commit = |sequence: u64, ns: i64| ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: u64::try_from(ns / 1_000_000_000).unwrap(),
        transaction_hash: [1; 32],
        client_bytes: client(&group_topic(1), None, group_payload(frame(1, 3, b"commit"))),
        topic_identifier: None,
        bootstrapped: false,
    };
    let commits = |event| {
        let appender = follower.node.engine.chain_appender();
        appender.append(OriginatorId::GROUP_MESSAGES, &[event], None).unwrap();
    };
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    commits(commit(1, START_NS + 9 * minute_ns));
    let sent = [9, 13].map(|minutes| START_NS + minutes * minute_ns);
    source.send([dated(SOURCE, 1, sent[0]), dated(SOURCE, 2, sent[1])].to_vec()).await;
    follower.wait_for(SOURCE, 2).await;
    // Nodes do not follow a chain this far ahead, so its clock explains nothing.
    commits(commit(2, START_NS + 60 * minute_ns));
    source.send(vec![dated(SOURCE, 3, START_NS + 61 * minute_ns)]).await;
    follower.wait_for(SOURCE, 3).await;
    let store = follower.node.engine.store().clone();
    let all = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("the third time is recorded", || !all().is_empty()).await;
    assert_eq!(all().iter().map(|it| it.evidence.at.sequence.0).collect::<Vec<_>>(), [3]);
    follower.stop().await;
}

/// The case of a restored backup whose peers are late: the log lacks the last envelopes, and the node gives one place
/// out again before a peer can show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_set_back_fetches_its_own_strand_and_repeats_no_further_place() {
    let before = Follower::start(common::store());
    let mut published = Vec::new();
    for text in ["one", "two", "three"] {
        published.push(before.publish(text).await.unwrap());
    }
    before.stop().await;

    let restored = Follower::start(common::store());
    assert_eq!(restored.publish("one").await.unwrap(), published[0], "the backup has the first");
    let mut other = restored.connect(OTHER, &[(NODE, 3)]);
    assert_eq!(other.want(NODE).await, (1, None));
    let asking = restored.complaint().unwrap();
    assert!(asking.contains("node 200 says that it holds"), "{asking}");
    assert!(matches!(restored.publish("four").await, Err(PublishError::Unavailable { .. })));

    other.send(published[1..].iter().cloned()).await;
    restored.wait_for(NODE, 3).await;
    assert_eq!(restored.held(NODE), published);
    let stopped = || restored.engine().own_strand_status() == OwnStrandStatus::Stopped;
    restored.until("the node stops publishing", stopped).await;
    drop(other);
    assert!(matches!(restored.publish("four").await, Err(PublishError::Unavailable { .. })));

    let about = restored.engine().own_strand_status();
    restored.engine().confirm_own_strand(OperatorConfirmation { gap: 0, about });
    restored.until("the operator is heard", || restored.complaint().is_none()).await;
    restored.publish("four").await.unwrap();
    assert_eq!(restored.held(NODE).len(), 4);
    assert_eq!(restored.held(NODE)[..3], published);
    restored.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_were_left_out_are_looked_for_at_peers_while_the_node_publishes() {
    let follower = Follower::start(common::store());
    let mut other = follower.connect(OTHER, &[(NODE, 2)]);
    assert_eq!(other.want(NODE).await, (0, None));
    other.send(strand(NODE, &[1, 2])).await;
    follower.wait_for(NODE, 2).await;
    let status = || follower.engine().own_strand_status();
    let is_quarantined = || matches!(status(), OwnStrandStatus::Quarantined(_));
    follower.until("a peer shows what is not held", is_quarantined).await;

    follower.engine().confirm_own_strand(OperatorConfirmation { gap: GAP, about: status() });
    follower.until("the operator is heard", || follower.complaint().is_none()).await;
    let after = follower.publish("after the gap").await.unwrap();
    let after = OriginatorEnvelope::parse(after).unwrap();
    assert_eq!(after.id(), EnvelopeId::new(NODE, SequenceId(2 + GAP + 1)));

    assert_eq!(other.want(NODE).await, (2, Some(2 + GAP)), "only the gap");
    // The lost machine's clock was ahead. So few seconds show no other process.
    let ahead_ns = START_NS + 3_000_000_000;
    let find = dated(NODE, 5, ahead_ns);
    other.answer(vec![StrandItem::Envelope(find.clone()), StrandItem::End]).await;
    let found = || follower.held(NODE)[..3] == [strand(NODE, &[1, 2]), vec![find.clone()]].concat();
    follower.until("the find is stored", || follower.held(NODE).len() == 4 && found()).await;
    let next = OriginatorEnvelope::parse(follower.publish("and on").await.unwrap()).unwrap();
    assert_eq!(follower.held(NODE).len(), 5);
    assert!(next.unsigned().originator_ns() > ahead_ns, "a later place has no earlier time");
    follower.stop().await;
}

/// On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_show_what_it_says_it_holds_stops_publishing_only_for_a_while() {
    let follower = Follower::start(common::store());
    follower.until("no peer answers", || follower.complaint().is_none()).await;
    let liar = follower.connect(OTHER, &[(NODE, 1000)]);
    follower.until("the peer is asked", || follower.complaint().is_some()).await;
    // Neither by going away nor by coming back does it gain anything.
    drop(liar);
    follower.until("the peer is gone", || follower.complaint().is_none()).await;
    let mut liar = follower.connect(OTHER, &[(NODE, 1000)]);
    follower.until("the peer is asked again", || follower.complaint().is_some()).await;
    liar.want(NODE).await;
    follower.until("the peer is not believed", || follower.complaint().is_none()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(follower.complaint(), None);
    tokio::time::resume();
    follower.publish("one").await.unwrap();
    follower.stop().await;
}

/// A long envelope over a slow link. On a clock that only moves while all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_claim_counts_while_bytes_of_what_it_promises_arrive() {
    let follower = Follower::start(common::store());
    let mut other = follower.connect(OTHER, &[(NODE, 1)]);
    assert_eq!(other.want(NODE).await, (0, None));
    for _ in 0..50 {
        other.answer(Vec::new()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(follower.complaint().is_some(), "it is asked");
    }
    // The disk and the checks of signatures have no part in this clock.
    tokio::time::resume();
    other.send(strand(NODE, &[1])).await;
    follower.wait_for(NODE, 1).await;
    follower.stop().await;
}
