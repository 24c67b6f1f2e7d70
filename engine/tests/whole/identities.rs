//! Identity updates: each judged against the valid ones before it, shown only when valid, and
//! waiting where the verdict is not known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::facts;
use hawser_engine::ports::{IdentityJudge, IdentityVerdict, InboxJudge};
use hawser_engine::read::{QueryError, SubscriptionEvent};
use hawser_engine::runtime::{ChainAppender, JudgedUpdates};
use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind;
use hawser_proto::pb::xmtp::identity::associations::{
    AddAssociation, CreateInbox, IdentityAction, IdentityUpdate, MemberIdentifier,
    RevokeAssociation, member_identifier,
};
use hawser_proto::{
    Address, Bytes, Cursor, EnvelopeId, InboxId, OriginatorId, SequenceId, Topic, TopicKind,
};
use hawser_storage::{Family, InvalidRule, Mark, Store};
use parking_lot::Mutex;

use crate::common::*;

mod long_logs;
mod unread;

const STRAND: OriginatorId = OriginatorId::IDENTITY_UPDATES;
/// Updates with such a name are invalid.
const BAD: u64 = 1_000;

/// Knows updates by their timestamps: from [`BAD`] on they are invalid, and so is a repeat; some
/// cannot be judged for the time being.
#[derive(Default)]
struct Scripted {
    shared: Arc<Script>,
}

#[derive(Default)]
struct Script {
    unknown: Mutex<BTreeSet<u64>>,
    /// Inbox, earlier updates, and the one judged.
    asked: Mutex<Vec<(u8, Vec<u64>, u64)>>,
    /// Updates before the next one of each inbox, and the place of the last of them.
    kept: Mutex<BTreeMap<InboxId, (Vec<u64>, SequenceId)>>,
    /// True if it remembers inboxes.
    remembers: AtomicBool,
    /// Updates that were read from the log.
    read: AtomicUsize,
    /// Signers that have to be found for each update that is read.
    signers: AtomicUsize,
    /// Number of times that a judgement was asked for.
    asked_for: AtomicUsize,
    /// Updates that were looked ahead for.
    looked_for: Mutex<Vec<u64>>,
}

impl IdentityJudge for Scripted {
    fn open(&self, inbox: InboxId) -> Box<dyn InboxJudge> {
        let (before, known) = match self.shared.kept.lock().remove(&inbox) {
            Some(before) => before,
            None => (Vec::new(), SequenceId::NONE),
        };
        Box::new(ScriptedInbox { shared: self.shared.clone(), inbox, before, known })
    }

    fn forget_all(&self) {
        self.shared.kept.lock().clear();
    }

    fn judge_soon(&self) {
        self.shared.asked_for.fetch_add(1, Ordering::Relaxed);
    }

    fn look_ahead(&self, update: &IdentityUpdate, event_ns: i64) {
        assert!(event_ns > 1_750_000_000_000_000_000, "the time of its block");
        self.shared.looked_for.lock().push(update.client_timestamp_ns);
    }
}

struct ScriptedInbox {
    shared: Arc<Script>,
    inbox: InboxId,
    before: Vec<u64>,
    known: SequenceId,
}

impl InboxJudge for ScriptedInbox {
    fn known(&self) -> SequenceId {
        self.known
    }

    fn start_over(&mut self) {
        (self.before, self.known) = (Vec::new(), SequenceId::NONE);
    }

    fn add(&mut self, at: SequenceId, update: &IdentityUpdate) -> usize {
        assert!(self.known < at, "in order");
        self.known = at;
        self.before.push(update.client_timestamp_ns);
        self.shared.read.fetch_add(1, Ordering::Relaxed);
        self.shared.signers.load(Ordering::Relaxed)
    }

    fn judge(&mut self, at: SequenceId, update: &IdentityUpdate, event_ns: i64) -> IdentityVerdict {
        assert!(event_ns > 1_750_000_000_000_000_000, "the time of its block");
        assert!(self.known < at, "in order");
        let name = update.client_timestamp_ns;
        let repeats = self.before.contains(&name);
        self.shared.asked.lock().push((self.inbox.0[0], self.before.clone(), name));
        if self.shared.unknown.lock().contains(&name) {
            IdentityVerdict::Waiting("its chain does not answer".into())
        } else if name >= BAD || repeats {
            IdentityVerdict::Invalid("no".into())
        } else {
            self.before.push(name);
            self.known = at;
            IdentityVerdict::Valid
        }
    }

    fn keep(self: Box<Self>) {
        if self.shared.remembers.load(Ordering::Relaxed) {
            self.shared.kept.lock().insert(self.inbox, (self.before, self.known));
        }
    }
}

impl Scripted {
    fn unknown(names: &[u64]) -> Arc<Self> {
        let judge = Self::default();
        judge.shared.unknown.lock().extend(names);
        Arc::new(judge)
    }

    fn remembering() -> Arc<Self> {
        let judge = Self::default();
        judge.shared.remembers.store(true, Ordering::Relaxed);
        Arc::new(judge)
    }

    fn learn(&self) {
        self.shared.unknown.lock().clear();
    }

    /// Returns the number of updates that were read from the log since the last call.
    fn read(&self) -> usize {
        self.shared.read.swap(0, Ordering::Relaxed)
    }

    fn asked(&self) -> Vec<(u8, Vec<u64>, u64)> {
        let mut asked = std::mem::take(&mut *self.shared.asked.lock());
        asked.sort_by_key(|(inbox, _, name)| (*inbox, *name));
        asked
    }
}

fn topic(inbox: u8) -> Topic {
    Topic::new(TopicKind::IdentityUpdates, &[inbox; 32]).unwrap()
}

fn update_with(sequence: u64, inbox: u8, name: u64, actions: Vec<Kind>) -> ChainEvent {
    let update = IdentityUpdate {
        actions: actions.into_iter().map(|kind| IdentityAction { kind: Some(kind) }).collect(),
        client_timestamp_ns: name,
        inbox_id: hex::encode([inbox; 32]),
    };
    ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: 1_750_000_000 + sequence,
        transaction_hash: [7; 32],
        client_bytes: client(&topic(inbox), None, Payload::IdentityUpdate(update)),
        topic_identifier: Some(Bytes::copy_from_slice(&[inbox; 32])),
        bootstrapped: false,
    }
}

fn update(sequence: u64, inbox: u8, name: u64) -> ChainEvent {
    update_with(sequence, inbox, name, Vec::new())
}

fn append(chain: &ChainAppender, events: &[ChainEvent]) {
    chain.append(STRAND, events, None).unwrap();
}

fn sequences(envelopes: &[Bytes]) -> Vec<u64> {
    envelopes
        .iter()
        .map(|bytes| OriginatorEnvelope::parse(bytes.clone()).unwrap().id().sequence.0)
        .collect()
}

/// Returns the answer to a query for the whole log of an inbox.
fn shown(node: &Node, inbox: u8) -> Vec<u64> {
    let page = node.engine.reader().query_topics(&[topic(inbox)], &Cursor::new(), 0).unwrap();
    sequences(&page)
}

/// Returns the answer to a query for the whole strand.
fn strand(node: &Node) -> Vec<u64> {
    sequences(&node.engine.reader().query_originators(&[STRAND], &Cursor::new(), 0).unwrap())
}

fn mark(store: &Store, sequence: u64) -> Option<Mark> {
    store.snapshot().mark(EnvelopeId::new(STRAND, SequenceId(sequence))).unwrap()
}

#[tokio::test]
async fn an_update_is_judged_against_all_valid_ones_before_it() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(1, 1, 1), update(2, 2, 2), update(3, 1, BAD), update(4, 1, 4)]);
    append(&chain, &[update(5, 1, 5), update(6, 1, 1)]);
    append(&chain, &[update(7, 1, 7)]);
    let expected = [
        (1, vec![], 1),
        (1, vec![1, 4, 5], 1),
        (1, vec![1], 4),
        (1, vec![1, 4], 5),
        (1, vec![1, 4, 5], 7),
        (1, vec![1], BAD),
        (2, vec![], 2),
    ];
    assert_eq!(judge.asked(), expected);
    assert_eq!(shown(&node, 1), [1, 4, 5, 7]);
    assert_eq!(shown(&node, 2), [2]);
}

#[tokio::test]
async fn an_invalid_envelope_keeps_its_place_and_reaches_no_reader() {
    let store = store();
    let node = start_judging(store.clone(), true, Scripted::unknown(&[]));
    let chain = node.engine.chain_appender();
    let reader = node.engine.reader();
    let mut by_topic = reader.subscribe_topics([(topic(1), Cursor::new())]);
    let mut all = reader.subscribe_all();
    let mut by_strand = reader.subscribe_originators([STRAND], None);
    let misnamed = ChainEvent {
        client_bytes: client(
            &topic(1),
            None,
            Payload::IdentityUpdate(IdentityUpdate {
                inbox_id: hex::encode([2; 32]),
                ..IdentityUpdate::default()
            }),
        ),
        ..update(4, 1, 4)
    };
    append(&chain, &[update(1, 1, 1), update(2, 1, BAD), update(3, 1, 1), misnamed]);
    append(&chain, &[update(5, 1, 5)]);

    assert_eq!(node.engine.heads().get().get(STRAND), SequenceId(5));
    for sequence in [2, 3, 4] {
        assert_eq!(mark(&store, sequence), Some(Mark::Invalid(InvalidRule(15))), "{sequence}");
        let id = EnvelopeId::new(STRAND, SequenceId(sequence));
        assert!(store.snapshot().get(id).unwrap().is_some(), "{sequence} is kept");
    }
    assert_eq!((shown(&node, 1), shown(&node, 2)), (vec![1, 5], vec![]));
    assert_eq!(strand(&node), [1, 5]);
    let newest = reader.newest(&[topic(1)]).unwrap();
    assert_eq!(sequences(&newest.into_iter().flatten().collect::<Vec<_>>()), [5]);
    for stream in [&mut by_topic, &mut all, &mut by_strand] {
        let mut got = Vec::new();
        while got.len() < 2 {
            if let SubscriptionEvent::Envelopes { envelopes, .. } = stream.next().await.unwrap() {
                got.extend(sequences(&envelopes));
            }
        }
        assert_eq!(got, [1, 5]);
    }
}

#[tokio::test]
async fn an_inbox_waits_alone_and_its_updates_come_in_order_once_they_are_known() {
    let store = store();
    let judge = Scripted::unknown(&[2]);
    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(1, 1, 1), update(2, 1, 2), update(3, 1, 3), update(4, 2, 4)]);
    append(&chain, &[update(5, 1, BAD), update(6, 2, 6), update(7, 1, 2)]);
    assert_eq!((shown(&node, 1), shown(&node, 2)), (vec![1], vec![4, 6]));
    assert_eq!(strand(&node), [1, 4, 6]);
    assert_eq!(mark(&store, 2), Some(Mark::Waiting));
    assert_eq!(mark(&store, 5), Some(Mark::Waiting), "what comes later waits unjudged");
    assert_eq!(chain.inboxes_waiting(), 1);
    judge.asked();
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 0, invalid: 0, waiting: 4 });
    assert_eq!(judge.asked(), [(1, vec![1], 2)]);

    // The same after a restart.
    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    assert!(!chain.knows_waiting(), "no start reads the marks of a strand");
    append(&chain, &[update(8, 1, 8)]);
    assert!(chain.knows_waiting());
    assert_eq!(chain.inboxes_waiting(), 1);
    judge.learn();
    append(&chain, &[update(9, 1, 9)]);
    assert_eq!(shown(&node, 1), [1], "in order, whatever is known by now");
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 4, invalid: 2, waiting: 0 });
    let expected = [
        (1, vec![1], 2),
        (1, vec![1, 2, 3], 2),
        (1, vec![1, 2], 3),
        (1, vec![1, 2, 3], 8),
        (1, vec![1, 2, 3, 8], 9),
        (1, vec![1, 2, 3], BAD),
    ];
    assert_eq!(judge.asked(), expected);
    assert_eq!(shown(&node, 1), [1, 2, 3, 8, 9]);
    assert_eq!(strand(&node), [1, 2, 3, 4, 6, 8, 9]);
    assert_eq!(mark(&store, 2), None);
    assert_eq!(mark(&store, 5), Some(Mark::Invalid(InvalidRule(15))));
    assert_eq!(chain.inboxes_waiting(), 0);
    append(&chain, &[update(10, 1, 10)]);
    assert_eq!(shown(&node, 1).last(), Some(&10));
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates::default());
}

/// Otherwise an attacker could put many updates without an answer into one inbox, each of which waits for its hours
/// anew.
#[tokio::test]
async fn what_waits_behind_another_update_is_looked_for_at_once() {
    let (store, judge) = (store(), Scripted::unknown(&[1]));
    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(1, 1, 1), update(2, 1, 2), update(3, 2, 3)]);
    append(&chain, &[update(4, 1, 4)]);
    let looked_for = || std::mem::take(&mut *judge.shared.looked_for.lock());
    assert_eq!(looked_for(), [2, 4]);
    let node = start_judging(store, true, judge.clone());
    append(&node.engine.chain_appender(), &[update(5, 1, 5)]);
    assert_eq!(looked_for(), [2, 4, 5], "also after a restart");
}

/// The disk has damaged an update in the log of an inbox, and one that waits, until peers have brought them back.
#[tokio::test]
async fn an_inbox_whose_updates_cannot_be_read_waits_and_no_other_one_does() {
    let (store, judge) = (store(), Scripted::unknown(&[4, 5]));
    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(1, 1, 1), update(2, 1, 2), update(3, 2, 3)]);
    append(&chain, &[update(4, 3, 4), update(5, 4, 5)]);
    let sound = [2, 4].map(|sequence| {
        let id = EnvelopeId::new(STRAND, SequenceId(sequence));
        let key = [&STRAND.0.to_be_bytes()[..], &sequence.to_be_bytes()].concat();
        let bytes = store.snapshot().get(id).unwrap().unwrap();
        store.put_raw_row(Family::Log, &key, b"damaged");
        (key, bytes)
    });
    append(&chain, &[update(6, 1, 6), update(7, 2, 7)]);
    assert_eq!((shown(&node, 2), chain.inboxes_waiting()), (vec![3, 7], 3));
    judge.learn();
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 1, invalid: 0, waiting: 2 });
    assert_eq!(shown(&node, 4), [5]);
    assert_eq!(judge.shared.asked_for.load(Ordering::Relaxed), 0, "a repair takes its time");

    for (key, bytes) in sound {
        store.put_raw_row(Family::Log, &key, &bytes);
    }
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 2, invalid: 0, waiting: 0 });
    assert_eq!((shown(&node, 1), shown(&node, 3)), (vec![1, 2, 6], vec![4]));
}

#[tokio::test]
async fn of_many_inboxes_that_wait_each_goes_on_when_it_can() {
    let unknown: Vec<u64> = (0..200).collect();
    let judge = Scripted::unknown(&unknown);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    let events: Vec<_> = (0..200u8).map(|n| update(u64::from(n) + 1, n, u64::from(n))).collect();
    append(&chain, &events);
    assert_eq!(
        chain.judge_waiting().unwrap(),
        JudgedUpdates { valid: 0, invalid: 0, waiting: 200 }
    );
    judge.shared.unknown.lock().retain(|name| name % 3 == 0);
    assert_eq!(
        chain.judge_waiting().unwrap(),
        JudgedUpdates { valid: 133, invalid: 0, waiting: 67 }
    );
    assert_eq!(chain.inboxes_waiting(), 67);
    assert_eq!((shown(&node, 3), shown(&node, 199)), (vec![], vec![200]));
    assert_eq!(node.engine.counters().identities.valid.get(), 133);
    judge.learn();
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 67, invalid: 0, waiting: 0 });
    assert_eq!(strand(&node).len(), 200);
}

#[tokio::test]
async fn repeated_events_of_a_waiting_inbox_are_no_conflict() {
    let judge = Scripted::unknown(&[1]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    let events = [update(1, 1, 1), update(2, 1, 2)];
    append(&chain, &events);
    append(&chain, &events);
    judge.learn();
    chain.judge_waiting().unwrap();
    append(&chain, &events);
    assert_eq!(shown(&node, 1), [1, 2]);
}

#[tokio::test]
async fn a_long_inbox_is_judged_against_all_of_it() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    let events: Vec<_> = (1..=700).map(|n| update(n, 1, n)).collect();
    append(&chain, &events);
    judge.asked();
    append(&chain, &[update(701, 1, 701)]);
    let asked = judge.asked();
    assert!(asked[0].1.iter().copied().eq(1..=700));
    assert_eq!(shown(&node, 1).len(), 701);
}

#[tokio::test]
async fn the_log_of_an_inbox_is_not_read_again_for_each_update() {
    let judge = Scripted::remembering();
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &(1..=700).map(|n| update(n, 1, n)).collect::<Vec<_>>());
    append(&chain, &[update(701, 1, 701), update(702, 1, BAD)]);
    append(&chain, &[update(703, 1, 703)]);
    let asked = judge.asked();
    assert_eq!(judge.read(), 0, "the state was advanced");
    let (_, before, name) = asked.iter().find(|(_, _, name)| *name == 703).unwrap();
    assert!(before.iter().copied().eq(1..=701), "{name}");
    assert_eq!(shown(&node, 1).len(), 702);

    // A state that the log does not lead to counts for nothing: the log is read.
    let other = (vec![5], SequenceId(9_999));
    judge.shared.kept.lock().insert(InboxId([1; 32]), other);
    append(&chain, &[update(704, 1, 704)]);
    assert_eq!(judge.read(), 702);
    let [(_, before, _)] = &judge.asked()[..] else { panic!() };
    assert!(before.iter().copied().eq((1..=701).chain([703])));
}

#[tokio::test]
async fn a_query_without_a_limit_gives_the_whole_logs_of_inboxes() {
    let node = start(store());
    let mut sequence = 0;
    let mut events = Vec::new();
    for inbox in 0..50 {
        for name in 0..30 {
            sequence += 1;
            events.push(update(sequence, inbox, name));
        }
    }
    append(&node.engine.chain_appender(), &events);
    let reader = node.engine.reader();
    let mut topics: Vec<_> = (0..50).map(topic).collect();
    let count =
        |topics: &[Topic], limit| reader.query_topics(topics, &Cursor::new(), limit).unwrap().len();
    assert_eq!(count(&topics, 0), 1_500);
    assert_eq!(count(&topics, 7), 7);
    assert_eq!(count(&topics, 2_000), 1_000, "a limit is one");
    topics.push(group_topic(1));
    assert_eq!(count(&topics, 0), 1_000, "with other topics it is a page");
}

/// Clients never ask for a second page. One huge log must not hide the end of the others, such as who has left.
#[tokio::test]
async fn logs_of_inboxes_that_fit_into_no_answer_together_are_refused_by_name() {
    let node = start_judging(store(), true, Scripted::remembering());
    let chain = node.engine.chain_appender();
    for place in 1..=110 {
        let initial_identifier = "x".repeat(250_000);
        let create = CreateInbox { initial_identifier, ..CreateInbox::default() };
        append(&chain, &[update_with(place, 1, place, vec![Kind::CreateInbox(create)])]);
    }
    append(&chain, &[update(111, 2, 111)]);
    let reader = node.engine.reader();
    let count = |inboxes: &[u8], limit| {
        let topics: Vec<_> = inboxes.iter().copied().map(topic).collect();
        reader.query_topics(&topics, &Cursor::new(), limit).map(|page| page.len())
    };
    for asked in [[1, 2], [2, 1]] {
        let refused = count(&asked, 0).unwrap_err();
        assert!(matches!(&refused, QueryError::LogsTooLarge(cut) if *cut == topic(1)), "{refused}");
        assert!(refused.to_string().contains(&"01".repeat(32)), "{refused}");
    }
    assert_eq!(count(&[1, 2], 50).unwrap(), 50, "pages are there with a limit");
    assert_eq!(count(&[2, 3], 0).unwrap(), 1);
    assert!((100..110).contains(&count(&[1], 0).unwrap()), "the log of one inbox comes in pages");
}

fn account(name: u8) -> Address {
    Address([name; 20])
}

fn text(name: u8) -> String {
    format!("0x{}", hex::encode([name; 20]))
}

fn member(name: u8) -> Option<MemberIdentifier> {
    Some(MemberIdentifier { kind: Some(member_identifier::Kind::EthereumAddress(text(name))) })
}

fn create(name: u8) -> Kind {
    Kind::CreateInbox(CreateInbox { initial_identifier: text(name), ..CreateInbox::default() })
}

fn add(name: u8) -> Kind {
    Kind::Add(AddAssociation { new_member_identifier: member(name), ..AddAssociation::default() })
}

fn revoke(name: u8) -> Kind {
    let revoke = RevokeAssociation { member_to_revoke: member(name), ..Default::default() };
    Kind::Revoke(revoke)
}

fn inboxes<const N: usize>(node: &Node, names: [u8; N]) -> [Option<u8>; N] {
    let asked: Vec<_> = names.map(|name| Some(account(name))).to_vec();
    let found = node.engine.reader().inboxes(&asked).unwrap();
    std::array::from_fn(|place| found[place].map(|inbox| inbox.0[0]))
}

#[tokio::test]
async fn addresses_belong_to_the_inbox_that_they_joined_last_and_have_not_left() {
    let store = store();
    let judge = Scripted::unknown(&[8]);
    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    assert_eq!(inboxes(&node, [1]), [None]);
    append(
        &chain,
        &[
            update_with(1, 1, 1, vec![create(11), add(12), add(13), revoke(13)]),
            update_with(2, 2, 2, vec![create(21), revoke(22), add(22)]),
            update_with(3, 3, BAD, vec![create(31)]),
        ],
    );
    assert_eq!(
        inboxes(&node, [11, 12, 13, 21, 22, 31]),
        [Some(1), Some(1), None, Some(2), Some(2), None]
    );
    append(&chain, &[update_with(4, 2, 4, vec![add(12)])]);
    assert_eq!(inboxes(&node, [12]), [Some(2)], "the one joined last");
    append(
        &chain,
        &[update_with(5, 2, 5, vec![revoke(12)]), update_with(6, 2, 6, vec![revoke(22)])],
    );
    assert_eq!(inboxes(&node, [12, 22]), [Some(1), None], "it is in the other one still");
    append(&chain, &[update_with(7, 2, 7, vec![add(22)])]);
    assert_eq!(inboxes(&node, [22]), [Some(2)]);
    // A waiting update has no effect until its validity is known.
    append(
        &chain,
        &[update_with(8, 4, 8, vec![create(12), add(41)]), update_with(9, 1, 9, vec![add(22)])],
    );
    assert_eq!(inboxes(&node, [12, 41, 22]), [Some(1), None, Some(1)]);
    judge.learn();
    chain.judge_waiting().unwrap();
    assert_eq!(inboxes(&node, [12, 41, 22]), [Some(4), Some(4), Some(1)]);

    let before = store.snapshot().projection_digests().unwrap();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), before);
    assert_eq!(inboxes(&node, [12, 41, 22]), [Some(4), Some(4), Some(1)]);
}

#[tokio::test]
async fn an_account_that_is_written_otherwise_is_not_found() {
    let node = start(store());
    let chain = node.engine.chain_appender();
    append(&chain, &[update_with(1, 1, 1, vec![create(0xab), add(0xcd)])]);
    let named = |text: String| {
        Kind::Revoke(RevokeAssociation {
            member_to_revoke: Some(MemberIdentifier {
                kind: Some(member_identifier::Kind::EthereumAddress(text)),
            }),
            ..Default::default()
        })
    };
    let shouted = format!("0x{}", "AB".repeat(20));
    let actions = vec![named(shouted), named("ab".repeat(20)), named("0x".to_owned())];
    append(&chain, &[update_with(2, 1, 2, actions)]);
    assert_eq!(inboxes(&node, [0xab, 0xcd]), [Some(1), Some(1)]);
    append(&chain, &[update_with(3, 1, 3, vec![named(text(0xab))])]);
    assert_eq!(inboxes(&node, [0xab, 0xcd]), [None, Some(1)]);
}
