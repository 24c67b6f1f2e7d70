//! Chain events become the strands of the chain: in order, once, or with an error that says why not.

use hawser_engine::chain_strand::{ChainEvent, ChainPosition};
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::reports::LoggedChain;
use hawser_engine::runtime::{ChainAppendError, ChainAppender, PublishError};
use hawser_proto::envelope::{OriginatorEnvelope, Proof, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_rules::misbehavior::report::own_safety_report;
use hawser_rules::misbehavior::{MisbehaviorKind, MisbehaviorVerdict, ReportCase, verify};
use hawser_storage::{Change, LogEntry, LogItem, Mark, Store, Validity};
use prost::Message as _;

use crate::common::*;

const GROUPS: OriginatorId = OriginatorId::GROUP_MESSAGES;

fn commit(sequence: u64, text: &str) -> ChainEvent {
    let payload = group_payload(frame(1, 3, text.as_bytes()));
    ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: 1_750_000_000 + sequence,
        transaction_hash: [7; 32],
        client_bytes: client(&group_topic(1), None, payload),
        topic_identifier: Some(Bytes::copy_from_slice(&[1; 16])),
        bootstrapped: false,
    }
}

fn bootstrapped(sequence: u64, text: &str) -> ChainEvent {
    ChainEvent { bootstrapped: true, ..commit(sequence, text) }
}

fn position(block: u64) -> ChainPosition {
    ChainPosition { block, hash: [u8::try_from(block).unwrap(); 32] }
}

/// The strand in short: `3`, or `4-6x` for places that are void.
fn strand(store: &Store) -> String {
    let snapshot = store.snapshot();
    let items = snapshot.log(EnvelopeId::new(GROUPS, SequenceId::NONE), SequenceId::MAX);
    let places = items.map(|item| match item.unwrap() {
        LogItem::Envelope { id, .. } => id.sequence.to_string(),
        LogItem::Skipped { from, through, .. } => format!("{from}-{through}x"),
    });
    places.collect::<Vec<_>>().join(" ")
}

fn appended(store: &Store) -> ChainAppender {
    start(store.clone()).engine.chain_appender()
}

#[tokio::test]
async fn events_and_where_their_reader_is_are_stored_together() {
    let store = store();
    let chain = appended(&store);
    assert_eq!(chain.position(GROUPS).unwrap(), None);
    chain.append(GROUPS, &[commit(1, "a"), commit(2, "b")], Some(position(5))).unwrap();
    assert_eq!(chain.position(GROUPS).unwrap(), Some(position(5)));
    assert_eq!(chain.position(OriginatorId::IDENTITY_UPDATES).unwrap(), None);
    chain.append(GROUPS, &[], Some(position(6))).unwrap();
    assert_eq!(chain.position(GROUPS).unwrap(), Some(position(6)), "without events, too");
    chain.append(GROUPS, &[commit(3, "c")], None).unwrap();
    let again = appended(&store);
    assert_eq!(again.position(GROUPS).unwrap(), Some(position(6)));
    assert_eq!((strand(&store).as_str(), again.head(GROUPS).unwrap().0), ("1 2 3", 3));

    let refused = chain.append(GROUPS, &[commit(5, "e")], Some(position(7)));
    assert!(
        matches!(refused, Err(ChainAppendError::Gap { got: SequenceId(5), .. })),
        "{refused:?}"
    );
    assert_eq!(chain.position(GROUPS).unwrap(), Some(position(6)), "all or nothing");
}

#[tokio::test]
async fn the_same_events_again_change_nothing() {
    let store = store();
    let chain = appended(&store);
    let events = [commit(1, "a"), commit(2, "b"), commit(2, "b"), commit(1, "a"), commit(3, "c")];
    chain.append(GROUPS, &events, None).unwrap();
    chain.append(GROUPS, &events, None).unwrap();
    chain.append(GROUPS, &[commit(3, "c"), commit(4, "d")], None).unwrap();
    assert_eq!(strand(&store), "1 2 3 4");
}

#[tokio::test]
async fn another_event_in_a_place_that_is_taken_is_told_with_both_versions() {
    let store = store();
    let chain = appended(&store);
    let malformed = ChainEvent { client_bytes: Bytes::from_static(b"\xff"), ..commit(2, "") };
    chain.append(GROUPS, &[commit(1, "a"), malformed.clone()], None).unwrap();
    assert_eq!(strand(&store), "1 2-2x");
    let held = store.snapshot().get(EnvelopeId::new(GROUPS, SequenceId(1))).unwrap();

    let elsewhere = ChainEvent { transaction_hash: [8; 32], ..commit(1, "a") };
    for (came, held) in [
        (commit(1, "other"), held.clone()),
        (elsewhere, held.clone()),
        (ChainEvent { client_bytes: Bytes::new(), ..commit(1, "") }, held),
        (commit(2, "b"), None),
    ] {
        let refused = chain.append(GROUPS, &[came.clone(), commit(3, "c")], Some(position(1)));
        let Err(ChainAppendError::Conflict(conflict)) = refused else { panic!("{refused:?}") };
        assert_eq!(conflict.at, EnvelopeId::new(GROUPS, came.sequence));
        assert_eq!((conflict.held, conflict.came), (held, came));
    }
    let twice = [commit(3, "c"), commit(4, "d"), commit(3, "other")];
    let refused = chain.append(GROUPS, &twice, None);
    assert!(matches!(refused, Err(ChainAppendError::Conflict(_))), "{refused:?}");
    assert_eq!(strand(&store), "1 2-2x");
    assert_eq!(chain.position(GROUPS).unwrap(), None);
    chain.append(GROUPS, &[malformed], None).unwrap();
}

/// Played by an account that had the chain order such a message when nodes still showed it, and by an endpoint that
/// leaves an event out: the reader then reads stored blocks again.
#[tokio::test]
async fn what_an_earlier_version_has_made_of_an_event_stays_when_the_event_comes_again() {
    let store = store();
    let payload = group_payload([frame(1, 3, b"a"), vec![0]].concat());
    let odd = ChainEvent { client_bytes: client(&group_topic(1), None, payload), ..commit(1, "") };
    let payer = pb::PayerEnvelope {
        unsigned_client_envelope: odd.client_bytes.clone(),
        ..Default::default()
    };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_sequence_id: 1,
        originator_ns: odd.originator_ns(),
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..Default::default()
    };
    let proof = Proof::Transaction(odd.transaction_hash);
    let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
    let id = EnvelopeId::new(GROUPS, SequenceId(1));
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[Change::Append(entry)]).unwrap();

    let chain = appended(&store);
    chain.append(GROUPS, &[odd.clone(), commit(2, "b")], None).unwrap();
    assert_eq!(strand(&store), "1 2");
    let other = Some(Bytes::copy_from_slice(&[2; 16]));
    for came in [
        ChainEvent { topic_identifier: other, ..odd.clone() },
        ChainEvent { transaction_hash: [8; 32], ..odd.clone() },
        ChainEvent { sequence: SequenceId(2), ..odd },
    ] {
        let refused = chain.append(GROUPS, &[came], None);
        assert!(matches!(refused, Err(ChainAppendError::Conflict(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_bootstrap_may_leave_ids_out_repeat_them_and_go_back() {
    let store = store();
    let chain = appended(&store);
    let events = [
        bootstrapped(3, "a"),
        bootstrapped(4, "b"),
        bootstrapped(4, "again"),
        bootstrapped(2, "late"),
        bootstrapped(9, "c"),
        bootstrapped(6, "late"),
        commit(10, "d"),
    ];
    chain.append(GROUPS, &events, None).unwrap();
    assert_eq!(strand(&store), "1-2x 3 4 5-8x 9 10");
    chain.append(GROUPS, &events, None).unwrap();
    assert_eq!(strand(&store), "1-2x 3 4 5-8x 9 10", "and it may come again");
    let void = store.snapshot().mark(EnvelopeId::new(GROUPS, SequenceId(7))).unwrap();
    assert_eq!(void, Some(Mark::Void { through: SequenceId(8) }));
    let refused = chain.append(GROUPS, &[commit(6, "no bootstrap")], None);
    assert!(matches!(refused, Err(ChainAppendError::Conflict(_))), "{refused:?}");
}

/// The operator of the contract, or an endpoint that lies, names the id before the last one there is.
#[tokio::test]
async fn a_bootstrap_that_skips_nearly_all_ids_is_served_and_makes_no_leaves() {
    let store = store();
    let chain = appended(&store);
    let far = SequenceId::MAX.0 - 1;
    chain.append(GROUPS, &[commit(1, "a")], None).unwrap();
    let now = |event: ChainEvent| ChainEvent { block_time_s: 1_750_000_002, ..event };
    let events = [now(bootstrapped(far, "b")), now(commit(far + 1, "c"))];
    chain.append(GROUPS, &events, None).unwrap();
    assert_eq!(strand(&store), format!("1 2-{}x {far} {}", far - 1, far + 1));
    assert!(store.extend_trees(1).unwrap(), "the tree waits");
    let snapshot = store.snapshot();
    assert_eq!(snapshot.tree_size(GROUPS).unwrap(), 1);
    assert!(snapshot.get(EnvelopeId::new(GROUPS, SequenceId(far))).unwrap().is_some());
}

/// The operator of the contract, or an endpoint that lies, names an id above the last one there is.
#[tokio::test]
async fn an_event_with_an_id_above_those_of_places_keeps_no_other_one_from_its_place() {
    let store = store();
    let chain = appended(&store);
    let beyond = SequenceId::MAX.0 + 1;
    let events = [
        commit(1, "a"),
        bootstrapped(beyond, "beyond"),
        commit(beyond + 1, "beyond"),
        ChainEvent { sequence: SequenceId(u64::MAX), ..bootstrapped(beyond, "beyond") },
        commit(2, "b"),
    ];
    chain.append(GROUPS, &events, Some(position(5))).unwrap();
    assert_eq!(strand(&store), "1 2");
    assert_eq!(chain.position(GROUPS).unwrap(), Some(position(5)));
    let alone = [bootstrapped(beyond, "beyond")];
    chain.append(GROUPS, &alone, Some(position(6))).unwrap();
    chain.append(GROUPS, &[commit(3, "c")], None).unwrap();
    assert_eq!(strand(&store), "1 2 3");
    assert_eq!(chain.position(GROUPS).unwrap(), Some(position(6)));
}

#[tokio::test]
async fn an_event_that_is_filed_under_another_id_than_its_payload_leaves_its_place_empty() {
    let store = store();
    let chain = appended(&store);
    let other = Some(Bytes::copy_from_slice(&[2; 16]));
    let event = ChainEvent { topic_identifier: other, ..commit(1, "a") };
    chain.append(GROUPS, &[event, commit(2, "b")], None).unwrap();
    assert_eq!(strand(&store), "1-1x 2");
}

#[tokio::test]
async fn a_message_is_newer_than_the_commit_it_depends_on() {
    let store = store();
    let now_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let at = |sequence, block_time_s| ChainEvent { block_time_s, ..commit(sequence, "c") };
    let message = |text: &str, sequence| {
        let depends_on = pb::Cursor { node_id_to_sequence_id: [(0, sequence)].into() };
        let payload = group_payload(frame(1, 1, text.as_bytes()));
        vec![sign(client(&group_topic(1), Some(depends_on), payload), 60)]
    };
    let publish = async |node: &Node, text: &str, sequence| {
        let stored = node.engine.publish(message(text, sequence)).await.unwrap().remove(0);
        OriginatorEnvelope::parse(stored).unwrap().unsigned().originator_ns() - START_NS
    };
    let node = start(store.clone());
    let events = [at(1, now_s - 9), at(2, now_s + 2), at(3, now_s + 3), at(4, now_s + 3_600)];
    node.engine.chain_appender().append(GROUPS, &events, None).unwrap();
    assert_eq!(publish(&node, "a", 1).await, 0);
    assert_eq!(publish(&node, "b", 2).await, 2_000_000_001);
    // That clock is not followed, and no envelope may seem to depend on what came later.
    let refused = node.engine.publish(message("c", 4)).await.unwrap_err();
    assert!(
        matches!(&refused, PublishError::Unavailable { reason, .. } if reason.contains("3600 s ahead"))
    );
    drop(node);
    let node = start(store);
    assert_eq!(publish(&node, "d", 3).await, 3_000_000_001, "after a restart, too");
}

/// Judges an envelope of the accused by the chain as the log has it.
fn judged(
    store: &Store,
    registry: &Registry,
    accused: OriginatorId,
    envelope: Bytes,
) -> (MisbehaviorVerdict, &'static str) {
    let report =
        own_safety_report(1, accused, MisbehaviorKind::CausalOrdering, &[envelope]).unwrap();
    let judgement = verify(&ReportCase {
        report: &report.to_bytes(),
        host_signature: None,
        host: None,
        registry,
        rates: None,
        chain: &LoggedChain(&store.snapshot()),
        held_at_ns: None,
    });
    (judgement.verdict, judgement.facts[0].name)
}

/// The chain takes a commit back after an honest node has signed a message that depends on it, and orders another one
/// in its place.
#[tokio::test]
async fn a_node_that_has_read_what_the_chain_took_back_is_not_proven_guilty() {
    let at_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let at = |block_time_s| ChainEvent { block_time_s, ..commit(1, "c") };
    let node = start(store());
    node.engine.chain_appender().append(GROUPS, &[at(at_s - 1)], None).unwrap();
    let depends_on = pb::Cursor { node_id_to_sequence_id: [(0, 1)].into() };
    let message = client(&group_topic(1), Some(depends_on), group_payload(frame(1, 1, b"m")));
    let signed = node.engine.publish(vec![sign(message, 60)]).await.unwrap().remove(0);

    let after = store();
    appended(&after).append(GROUPS, &[at(at_s + 600)], None).unwrap();
    let registry: Registry = [record()].into_iter().collect();
    let claim = (MisbehaviorVerdict::Claim, "dependency_later");
    assert_eq!(judged(&after, &registry, NODE, signed), claim);
}

/// A later event alone shows that the chain did not have a place. It is no proof against a node that names the place:
/// the chain may have taken the place back after the node had seen it.
#[tokio::test]
async fn a_dependency_on_a_place_that_never_came_is_a_claim_once_there_is_a_later_event() {
    const MINUTE_S: u64 = 60;
    let store = store();
    let node = start(store.clone());
    let at_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let at = |sequence, block_time_s| ChainEvent { block_time_s, ..commit(sequence, "c") };
    let (accused, key) = (OriginatorId(200), SecretKey::from_bytes(&[9; 32]).unwrap());
    let needing = |sequence| {
        let depends_on = pb::Cursor { node_id_to_sequence_id: [(0, sequence)].into() };
        let payload = group_payload(frame(1, 1, b"m"));
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: accused.0,
            originator_sequence_id: 1,
            originator_ns: START_NS,
            payer_envelope_bytes: sign(client(&group_topic(1), Some(depends_on), payload), 60)
                .encode_to_vec()
                .into(),
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(&key)
    };
    let peer = NodeRecord { id: accused, public_key: key.public_key(), ..record() };
    let registry: Registry = [record(), peer].into_iter().collect();
    let judged = |sequence| judged(&store, &registry, accused, needing(sequence));
    let chain = node.engine.chain_appender();
    let unknown = (MisbehaviorVerdict::Inconclusive, "dependency_unknown");
    assert_eq!(judged(1), unknown, "nothing of the chain is known");
    chain.append(GROUPS, &[at(1, at_s - 1), at(2, at_s + 5 * MINUTE_S)], None).unwrap();
    assert_eq!(judged(2), (MisbehaviorVerdict::Refuted, "dependencies_hold"));
    assert_eq!(judged(3), unknown, "the chain may have had it by its own clock");
    chain.append(GROUPS, &[at(3, at_s + 5 * MINUTE_S + 1)], None).unwrap();
    assert_eq!(judged(3), (MisbehaviorVerdict::Claim, "dependency_later"));
    assert_eq!(judged(4), (MisbehaviorVerdict::Claim, "dependency_absent"));
    assert_eq!(judged(1 << 62), (MisbehaviorVerdict::Claim, "dependency_absent"));
}

#[tokio::test]
async fn thousands_of_events_in_one_batch_keep_their_order() {
    let store = store();
    let node = start(store.clone());
    let events: Vec<_> = (1..=3_000).map(|n| commit(n, &n.to_string())).collect();
    node.engine.chain_appender().append(GROUPS, &events, Some(position(9))).unwrap();
    let snapshot = store.snapshot();
    for n in [1, 1_499, 1_500, 1_501, 3_000] {
        let bytes = snapshot.get(EnvelopeId::new(GROUPS, SequenceId(n))).unwrap().unwrap();
        let text = &events[usize::try_from(n).unwrap() - 1].client_bytes;
        assert!(bytes.windows(text.len()).any(|part| part == text), "{n}");
    }
    assert_eq!(node.engine.heads().get().get(GROUPS), SequenceId(3_000));
}
