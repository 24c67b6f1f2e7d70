//! The publish path as a whole: what is acknowledged is stored, once, in order, and nothing else.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;

use crate::common::{NODE, message, node_key, start, start_publishing, start_with, store};
use bytes::Bytes;
use hawser_engine::admission::RefusedEnvelope;
use hawser_engine::facts;
use hawser_engine::ports::{NodeRecord, Registry, TrustingJudge};
use hawser_engine::runtime::{Priority, PublishCaller, PublishError, PublishSettings};
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
use hawser_proto::{EnvelopeId, SequenceId};
use hawser_storage::{Change, InvalidRule, LogEntry, Store, StoredEnvelope, Validity};
use prost::Message as _;

fn id(bytes: &Bytes) -> u64 {
    OriginatorEnvelope::parse(bytes.clone()).unwrap().id().sequence.0
}

fn stored(store: &Store, sequence: u64) -> Option<Bytes> {
    store.snapshot().get(EnvelopeId::new(NODE, SequenceId(sequence))).unwrap()
}

fn head(store: &Store) -> u64 {
    store.snapshot().head(NODE).unwrap().0
}

fn rebuilt(store: &Store) {
    let before = store.snapshot().projection_digests().unwrap();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), before);
    let derive = |stored: &[StoredEnvelope]| facts::of_stored_many(stored, NODE);
    store.rebuild_many(&derive, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_envelopes_are_stored_in_order_and_signed() {
    let store = store();
    let node = start(store.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16u8 {
        let engine = node.engine.clone();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for round in 0..20 {
                let size = 1 + usize::from(task) % 3 * 20;
                let batch = (0..size).map(|n| message(task, &format!("{task} {round} {n}")));
                let answer = engine.publish(batch.collect()).await.unwrap();
                assert_eq!(answer.len(), size);
                let ids: Vec<_> = answer.iter().map(id).collect();
                assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "one request, one run");
                answers.extend(answer);
            }
            answers
        });
    }
    let mut answers = tasks.join_all().await.concat();
    answers.sort_by_key(id);
    assert_eq!(head(&store), answers.len() as u64);
    let mut last_ns = 0;
    for (index, bytes) in answers.iter().enumerate() {
        assert_eq!(id(bytes), index as u64 + 1);
        assert_eq!(stored(&store, id(bytes)).as_ref(), Some(bytes));
        let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
        assert_eq!(envelope.recover_originator(), Ok(Some(node_key().public_key())));
        assert!(envelope.unsigned().originator_ns() > last_ns);
        last_ns = envelope.unsigned().originator_ns();
    }
    rebuilt(&store);
}

/// Payers come in runs or alone, and between them stand a damaged envelope, one without a readable signature, and one
/// of another digest.
#[tokio::test]
async fn facts_of_many_envelopes_are_those_of_each() {
    let node = start(store());
    let mut envelopes = Vec::new();
    for (payer, count) in [(1, 80), (2, 1), (1, 30), (3, 40), (4, 1), (5, 1), (3, 40)] {
        let from = envelopes.len();
        let batch = (from..from + count).map(|n| message(payer, &n.to_string())).collect();
        envelopes.extend(node.engine.publish(batch).await.unwrap());
    }
    let stored = |(at, bytes): (usize, Bytes)| {
        let id = OriginatorEnvelope::parse(bytes.clone()).unwrap().id();
        let validity = match at {
            20 => Validity::Invalid(InvalidRule(2)),
            21 => Validity::Waiting,
            _ => Validity::Valid,
        };
        let bytes = match at {
            30 => Bytes::from_static(b"damaged"),
            31 => with_payer_signature(&bytes, |signature| signature.fill(0xff)),
            32 | 150 => with_payer_signature(&bytes, |signature| signature[40] ^= 1),
            _ => bytes,
        };
        StoredEnvelope { id, bytes, validity }
    };
    let stored: Vec<_> = envelopes.into_iter().enumerate().map(stored).collect();
    let each = stored.iter().map(|it| facts::of_stored(&it.bytes, it.validity, NODE));
    let each: Vec<_> = each.collect();
    assert_eq!(each.iter().filter(|it| it.is_none()).count(), 3);
    let payer = |at: usize| each[at].as_ref().unwrap().charge.map(|it| it.payer);
    assert_eq!(payer(31), None, "the signature is none");
    assert!(payer(32).is_none_or(|it| Some(it) != payer(33)), "the guess at the payer is wrong");
    for part in [&stored[..], &stored[..70], &stored[81..81], &stored[60..140]] {
        let at = part.first().map_or(0, |first| stored.iter().position(|it| it == first).unwrap());
        assert_eq!(facts::of_stored_many(part, NODE), each[at..at + part.len()]);
    }
}

/// Replaces the payer's signature within an originator envelope. Nothing else is judged again in a rebuild.
fn with_payer_signature(bytes: &Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
    let signature = envelope.unsigned().payer().signature_bytes().unwrap();
    let at = bytes.windows(signature.len()).position(|it| it == signature).unwrap();
    let mut changed = bytes.to_vec();
    change(&mut changed[at..at + signature.len()]);
    changed.into()
}

#[tokio::test]
async fn the_same_envelope_again_gets_the_same_answer_wherever_it_stands() {
    let store = store();
    let node = start(store.clone());
    let publish = |batch| node.engine.publish(batch);
    let first = publish(vec![message(1, "a"), message(1, "b")]).await.unwrap();
    // Twice in one request, old and new mixed, in request order.
    let mixed = vec![message(1, "c"), message(1, "b"), message(1, "c"), message(1, "a")];
    let answer = publish(mixed).await.unwrap();
    assert_eq!(answer.iter().map(id).collect::<Vec<_>>(), [3, 2, 3, 1]);
    assert_eq!(answer[1], first[1]);
    assert_eq!(answer[3], first[0]);
    // Retention is not part of what a payer signs.
    let mut longer = message(1, "a");
    longer.message_retention_days = 365;
    assert_eq!(publish(vec![longer]).await.unwrap(), first[..1]);
    assert_eq!(head(&store), 3);
    rebuilt(&store);
    // After a restart, too.
    node.engine.drain();
    node.threads.join();
    let again = start(store.clone());
    assert_eq!(again.engine.publish(vec![message(1, "b")]).await.unwrap(), first[1..]);
    let next = again.engine.publish(vec![message(1, "d")]).await.unwrap();
    assert_eq!(id(&next[0]), 4);
}

/// Removes the first `count` envelopes, as if they had expired.
fn prune(store: &Store, count: usize) {
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        ControlFlow::Continue(())
    };
    store.snapshot().expiring(None, count, each).unwrap();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    assert_eq!(store.prune(&expired, &derive).unwrap().pruned.len(), count);
}

/// A payer's envelopes are public, and its signature does not cover the retention: any reader could choose a new one.
#[tokio::test]
async fn what_has_expired_is_not_published_again_whatever_retention_it_has_now() {
    let store = store();
    let node = start(store.clone());
    for text in ["a", "b", "c"] {
        node.engine.publish(vec![message(1, text)]).await.unwrap();
    }
    prune(&store, 2);
    rebuilt(&store);
    let mut longer = message(1, "b");
    longer.message_retention_days = 365;
    for again in [message(1, "b"), longer] {
        let refused = node.engine.publish(vec![message(1, "new"), again]).await;
        let Err(PublishError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        let named: Vec<_> = refusal.envelopes.iter().map(|it| (it.index, it.rule)).collect();
        assert_eq!(named, [(1, "PUBLISHED_BEFORE")], "{refusal}");
    }
    assert_eq!(head(&store), 3, "nothing got a place");
    let held = node.engine.publish(vec![message(1, "c")]).await.unwrap();
    assert_eq!(id(&held[0]), 3, "what is held is still the answer");
    let new = node.engine.publish(vec![message(1, "new")]).await.unwrap();
    assert_eq!(id(&new[0]), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_that_are_under_way_at_once_become_one_envelope() {
    let store = store();
    let node = start(store.clone());
    for round in 0..30 {
        let copies = (0..8).map(|_| {
            let caller = PublishCaller::default();
            node.engine.publisher().publish(caller, vec![message(2, &format!("{round}"))])
        });
        let answers = futures_util::future::try_join_all(copies).await.unwrap();
        let first = &answers[0].envelopes;
        assert!(answers.iter().all(|answer| answer.envelopes == *first));
        let added: usize = answers.iter().map(|answer| answer.added).sum();
        assert_eq!(added, 1, "the others are told that they repeat it");
    }
    assert_eq!(head(&store), 30);
}

/// A payer's envelopes are public. A reader who sends them again uses up nothing of that payer's rate.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn repeats_take_nothing_from_the_rate_of_their_payer() {
    let one_per_second = PublishSettings {
        idempotent: true,
        require_balance: false,
        publishes_per_payer: std::num::NonZeroU32::new(1),
    };
    let store = store();
    let node = start_publishing(store.clone(), one_per_second, Arc::new(TrustingJudge));
    let both = || vec![message(1, "a"), message(1, "b")];
    let first = node.engine.publish(both()).await.unwrap();
    for _ in 0..200 {
        assert_eq!(node.engine.publish(both()).await.unwrap(), first);
    }
    // The last place of a strand is never pruned.
    prune(&store, 1);
    for _ in 0..200 {
        let again = node.engine.publish(vec![message(1, "a")]).await;
        assert!(matches!(again, Err(PublishError::Refused(_))), "{again:?}");
    }
}

/// The threads that small requests pass have nothing to do with large ones before these are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_request_holds_no_small_one_up() {
    let store = store();
    let node = start(store.clone());
    let workers = node.engine.workers();
    let (begun, begins) = mpsc::channel();
    let hold = |_| {
        let (held, release) = mpsc::channel::<()>();
        let begun = begun.clone();
        workers.spawn(Priority::Behind, move || {
            let _ = begun.send(());
            let _ = release.recv();
        });
        held
    };
    let held: Vec<_> = (0..workers.threads()).map(hold).collect();
    begins.iter().take(held.len()).for_each(drop);
    let large: Vec<_> = (0..257).map(|number| message(1, &number.to_string())).collect();
    let large = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(large).await }
    });
    for expected in 1..=20 {
        let answer = node.engine.publish(vec![message(2, &format!("small {expected}"))]).await;
        assert_eq!(id(&answer.unwrap()[0]), expected);
    }
    assert!(!large.is_finished());
    drop(held);
    assert_eq!(large.await.unwrap().unwrap().len(), 257);
    assert_eq!(head(&store), 277);
}

/// Polls a future once.
async fn is_pending<F: Future>(future: &mut Pin<Box<F>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

/// Any caller can send old envelopes again, and the disk may be slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn look_ups_of_repeats_that_hang_hold_no_new_envelope_up() {
    let store = store();
    let node = start(store.clone());
    let old: Vec<_> = (0..3).map(|number| message(1, &number.to_string())).collect();
    let stored = node.engine.publish(old.clone()).await.unwrap();
    let workers = node.engine.workers();
    let (begun, begins) = mpsc::channel();
    let hang = |_| {
        let (hung, release) = mpsc::channel::<()>();
        let begun = begun.clone();
        workers.spawn(Priority::LookUp(PublishCaller::default()), move || {
            let _ = begun.send(());
            let _ = release.recv();
        });
        hung
    };
    let hung: Vec<_> = (0..workers.threads()).map(hang).collect();
    begins.iter().take(hung.len()).for_each(drop);
    // Begun before the new ones, and by the same caller.
    let mut repeats = Box::pin(node.engine.publish(old));
    assert!(is_pending(&mut repeats).await);
    for expected in 4..=23 {
        let answer = node.engine.publish(vec![message(2, &format!("new {expected}"))]).await;
        assert_eq!(id(&answer.unwrap()[0]), expected);
    }
    assert!(is_pending(&mut repeats).await, "they are looked up on other threads");
    drop(hung);
    assert_eq!(repeats.await.unwrap(), stored);
    assert_eq!(head(&store), 23);
}

/// Large requests get their places in pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_request_keeps_its_order_beside_small_ones() {
    let store = store();
    let node = start(store.clone());
    let large: Vec<_> = (0..600).map(|number| message(1, &number.to_string())).collect();
    let large = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(large).await }
    });
    let mut answers = Vec::new();
    while !large.is_finished() {
        let small = message(2, &format!("small {}", answers.len()));
        answers.extend(node.engine.publish(vec![small]).await.unwrap());
    }
    let large = large.await.unwrap().unwrap();
    assert_eq!(large.len(), 600);
    assert!(large.is_sorted_by(|one, next| id(one) < id(next)), "in the order of the request");
    for (number, bytes) in large.iter().enumerate() {
        let text = number.to_string();
        let is_there = bytes.windows(text.len()).any(|it| it == text.as_bytes());
        assert!(is_there, "the answer for envelope {number} is that of another one");
    }
    answers.extend(large);
    answers.sort_by_key(id);
    assert_eq!(head(&store), answers.len() as u64);
    for (index, bytes) in answers.iter().enumerate() {
        assert_eq!(
            (id(bytes), stored(&store, id(bytes)).as_ref()),
            (index as u64 + 1, Some(bytes))
        );
    }
    rebuilt(&store);
}

/// A large request is refused as a whole, before its first piece is stored, for anything that can be known beforehand.
#[tokio::test]
async fn the_last_envelope_of_a_large_request_refuses_all_of_it_if_it_has_no_price() {
    let store = store();
    let node = start(store.clone());
    // A message may cost this much for two days, and not for a year.
    let expensive = hawser_rules::fees::Rate {
        storage_fee: hawser_rules::PicoDollarsPerByteDay(u64::MAX >> 15),
        ..crate::common::rate()
    };
    let table = hawser_rules::fees::RateTable::new(vec![expensive], None).unwrap();
    node.rates.send_replace(Arc::new(table));
    let kept = |number: usize, days| {
        let mut message = message(1, &number.to_string());
        message.message_retention_days = days;
        message
    };
    let request = (0..300).map(|number| kept(number, if number == 299 { 365 } else { 2 }));
    let refused = node.engine.publish(request.collect()).await;
    let Err(PublishError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    let named: Vec<_> = refusal.envelopes.iter().map(|it| (it.index, it.rule)).collect();
    assert_eq!(named, [(299, "NO_PRICE")], "{refusal}");
    assert_eq!(head(&store), 0);
}

/// A copy that arrives while the first one is being written finds it in memory. Its answer still waits for that
/// write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_copy_of_what_could_not_be_stored_is_acknowledged() {
    for round in 0..20 {
        let store = store();
        let node = start(store.clone());
        store.fail_next_write();
        let copies = (0..16).map(|_| {
            let engine = node.engine.clone();
            tokio::spawn(async move { engine.publish(vec![message(2, "copy")]).await })
        });
        for answer in futures_util::future::join_all(copies).await {
            let answer = answer.unwrap();
            let is_refused = matches!(answer, Err(PublishError::Unavailable { .. }));
            assert!(is_refused, "round {round}: {answer:?}");
        }
        assert_eq!(head(&store), 0);
        node.engine.drain();
        node.threads.join();
    }
}

#[tokio::test]
async fn without_the_switch_every_publish_is_new() {
    let store = store();
    let node = start_with(store.clone(), false);
    for expected in 1..=3 {
        let answer = node.engine.publish(vec![message(1, "a")]).await.unwrap();
        assert_eq!(id(&answer[0]), expected);
    }
    rebuilt(&store);
}

#[tokio::test]
async fn one_bad_envelope_refuses_the_request_and_burns_nothing() {
    let store = store();
    let node = start(store.clone());
    let mut bad = message(1, "b");
    bad.target_originator = 200;
    let refused = node.engine.publish(vec![message(1, "a"), bad]).await;
    let expected = "error processing payer envelopes:could not validate envelope. index 1: \
                    invalid_argument: invalid target originator";
    let Err(PublishError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.text, expected);
    let [RefusedEnvelope { index: 1, rule: "TARGET_ORIGINATOR", .. }] = &refusal.envelopes[..]
    else {
        panic!("{refusal:?}")
    };
    assert_eq!(head(&store), 0);
    let answer = node.engine.publish(vec![message(1, "a")]).await.unwrap();
    assert_eq!(id(&answer[0]), 1);
}

#[tokio::test]
async fn an_answer_that_could_not_be_sent_is_refused_before_anything_is_sequenced() {
    let store = store();
    let node = start(store.clone());
    let text = "x".repeat(16_000);
    let batch = (0..1700).map(|n| message(1, &format!("{n} {text}")));
    let refused = node.engine.publish(batch.collect()).await;
    assert_eq!(refused, Err(PublishError::AnswerTooLarge));
    assert_eq!(head(&store), 0);
}

/// Played by a thief of the node's key, whose envelope the node has taken over from its peers.
#[tokio::test]
async fn a_strand_that_ends_with_the_last_time_refuses_publishes_and_ends_no_process() {
    for (last_ns, room) in [(i64::MAX, 0), (i64::MAX - 1, 1)] {
        let store = store();
        let statement = UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: 1,
            originator_ns: last_ns,
            ..Default::default()
        };
        let proof = Proof::Transaction([1; 32]);
        let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
        let of_thief = EnvelopeId::new(NODE, SequenceId(1));
        let entry = LogEntry::invalid(of_thief, bytes, InvalidRule(1));
        store.commit(&[Change::Append(entry)]).unwrap();
        let node = start(store.clone());
        for place in 0..3 {
            let published = node.engine.publish(vec![message(1, &format!("{place}"))]).await;
            match published {
                Ok(_) => assert!(place < room, "{place}"),
                Err(PublishError::Unavailable { reason, .. }) => {
                    assert!(place >= room && reason.contains("no time left"), "{place}: {reason}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(head(&store), 1 + room);
    }
}

#[tokio::test]
async fn a_node_without_standing_takes_nothing() {
    let store = store();
    let node = start(store.clone());
    let unavailable = async |reason: &str| match node.engine.publish(vec![message(1, "a")]).await {
        Err(PublishError::Unavailable { reason: stated, .. }) => {
            assert!(stated.contains(reason), "{stated}");
        }
        answer => panic!("{reason}: {answer:?}"),
    };
    let announce = |records: Vec<NodeRecord>| {
        node.registry.send_replace(Arc::new(records.into_iter().collect::<Registry>()));
    };
    announce(vec![]);
    unavailable("no record").await;
    announce(vec![NodeRecord { canonical: false, ..crate::common::record() }]);
    unavailable("not canonical").await;
    let stranger = crate::common::payer(9).public_key();
    announce(vec![NodeRecord { public_key: stranger, ..crate::common::record() }]);
    unavailable("another key").await;
    announce(vec![crate::common::record()]);
    let stale = crate::common::START_NS - 61 * 60 * 1_000_000_000;
    let table = |rate, refreshed| {
        Arc::new(hawser_rules::fees::RateTable::new(vec![rate], refreshed).unwrap())
    };
    node.rates.send_replace(table(crate::common::rate(), Some(stale)));
    unavailable("60 minutes").await;
    let future = hawser_rules::fees::Rate { start_unix_s: 2_000_000_000, ..crate::common::rate() };
    node.rates.send_replace(table(future, None));
    unavailable("no rate").await;
    node.rates.send_replace(table(crate::common::rate(), None));
    assert!(node.engine.publish(vec![message(1, "a")]).await.is_ok());
    node.engine.drain();
    unavailable("shutting down").await;
    node.threads.join();
    assert_eq!(head(&store), 1);
}
