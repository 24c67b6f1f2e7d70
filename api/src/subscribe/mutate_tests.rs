//! Tests of each check of a Mutate, alone and together with the one after it.

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::mutate::Subscription as Add;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::stream_error::TOPICS_MAX;

/// The topics of a stream: live ones, ones with history, and a number of others.
#[derive(Default)]
struct Topics {
    live: BTreeSet<Bytes>,
    history: BTreeSet<Bytes>,
    others: usize,
}

impl StreamTopics for Topics {
    fn len(&self) -> usize {
        self.live.len() + self.others
    }

    fn contains(&self, topic: &Topic) -> bool {
        self.live.contains(topic.as_bytes())
    }

    fn reads_history(&self, topic: &Topic) -> bool {
        self.history.contains(topic.as_bytes())
    }
}

fn name(name: u8) -> Bytes {
    vec![0, name].into()
}

fn add(topic: Bytes, cursor: &[(u32, u64)]) -> Add {
    let last_seen = Cursor { node_id_to_sequence_id: cursor.iter().copied().collect() };
    Add { topic, last_seen: Some(last_seen) }
}

fn adds(id: u64, names: &[u8]) -> Mutate {
    let adds = names.iter().map(|&it| add(name(it), &[])).collect();
    Mutate { adds, mutate_id: id, ..Mutate::default() }
}

/// Checks a Mutate of a stream with live topics 1 and 2, history of topic 3, and wave 7.
async fn checked(mutate: &mut Mutate) -> Result<(), MutateError> {
    checked_among(mutate, 1, 0).await
}

async fn checked_among(
    mutate: &mut Mutate,
    waves: usize,
    others: usize,
) -> Result<(), MutateError> {
    let (live, history) = ([name(1), name(2)].into(), [name(3)].into());
    let mut topics = Topics { live, history, others };
    check(mutate, &|wave| wave == 7, waves, TOPICS_MAX, &mut topics).await
}

async fn refused(mut mutate: Mutate) -> MutateError {
    checked(&mut mutate).await.unwrap_err()
}

#[tokio::test]
async fn the_id_is_checked_first() {
    assert_eq!(refused(adds(0, &[9])).await, MutateError::IdMissing);
    assert_eq!(refused(adds(7, &[9])).await, MutateError::IdInUse(7));
    assert_eq!(refused(adds(7, &[])).await, MutateError::IdInUse(7), "also without adds");
    checked(&mut adds(0, &[])).await.unwrap();
    let many = Mutate { adds: vec![Add::default(); ADDS_MAX + 1], ..adds(7, &[]) };
    assert_eq!(refused(many).await, MutateError::IdInUse(7), "before the number of adds");
}

#[tokio::test]
async fn numbers_are_checked_before_what_is_repeated_is_left_out() {
    let topic = name(9);
    let many = vec![add(topic.clone(), &[]); ADDS_MAX + 1];
    let error = refused(Mutate { adds: many, ..adds(8, &[]) }).await;
    assert_eq!(error, MutateError::TooManyAdds(ADDS_MAX + 1));
    assert!(error.is_limit());
    let entries: Vec<(u32, u64)> = (0..1001).map(|id| (id, 1)).collect();
    let many = vec![add(topic.clone(), &entries); 1000];
    let mutate = Mutate { adds: many, removes: vec![Bytes::new()], ..adds(8, &[]) };
    assert_eq!(refused(mutate).await, MutateError::TooManyCursorEntries(1_001_000));
    let mut most = Mutate { adds: vec![add(topic, &[]); ADDS_MAX], ..adds(8, &[]) };
    checked(&mut most).await.unwrap();
    assert_eq!(most.adds.len(), 1, "a topic counts once");
}

/// Clients may use each limit to its last value. One cursor entry more is refused.
#[tokio::test]
async fn the_last_value_of_each_limit_is_allowed() {
    let entries: Vec<(u32, u64)> = (0..1000).map(|id| (id, 1)).collect();
    let full = vec![add(name(9), &entries); ADDED_ENTRIES_MAX / 1000];
    let mut one_more = Mutate { adds: full.clone(), ..adds(8, &[]) };
    one_more.adds.push(add(name(9), &[(1, 1)]));
    checked(&mut Mutate { adds: full, ..adds(8, &[]) }).await.unwrap();
    let error = refused(one_more).await;
    assert_eq!(error, MutateError::TooManyCursorEntries(ADDED_ENTRIES_MAX + 1));

    let last = (ORIGINATOR_MAX, SequenceId::MAX.0);
    assert_eq!(last, ((1 << 31) - 1, (1 << 63) - 1));
    checked(&mut Mutate { adds: vec![add(name(9), &[last])], ..adds(8, &[]) }).await.unwrap();

    checked_among(&mut adds(8, &[9]), WAVES_MAX - 1, 0).await.unwrap();
}

#[tokio::test]
async fn names_have_a_kind_and_no_upper_bound() {
    let bad = Bytes::from_static(&[77, 1]);
    let mutate = Mutate { removes: vec![bad.clone()], ..adds(8, &[]) };
    assert_eq!(refused(mutate).await.to_string(), "remove: unknown topic kind 77");
    let mut mutate = adds(8, &[9]);
    mutate.adds[0].topic = Bytes::from_static(&[0]);
    assert_eq!(refused(mutate).await.to_string(), "add: topic must be at least 2 bytes long");
    let mut long = adds(8, &[9]);
    long.adds[0].topic = vec![0; 129].into();
    long.removes = vec![vec![0; 500].into()];
    checked(&mut long).await.unwrap();
}

#[tokio::test]
async fn only_adds_that_change_something_are_left_in_their_order() {
    let mut mutate = adds(8, &[9, 1, 5, 9, 2, 4]);
    mutate.removes = vec![name(2), name(6)];
    checked(&mut mutate).await.unwrap();
    let left: Vec<u8> = mutate.adds.iter().map(|add| add.topic[1]).collect();
    assert_eq!(left, [9, 5, 2, 4], "2 begins anew");

    let out_of_range = [(1u32 << 31, 1), (1, 1 << 63)];
    for entry in out_of_range {
        let mut mutate = adds(8, &[9, 9, 1]);
        mutate.adds[1] = add(name(9), &[entry]);
        mutate.adds[2] = add(name(1), &[entry]);
        checked(&mut mutate).await.expect("cursors that do not count are not checked");
        mutate.adds = vec![add(name(9), &[entry])];
        assert_eq!(refused(mutate).await, MutateError::CursorEntry(0, entry.0, entry.1));
    }
}

#[tokio::test]
async fn history_is_of_topics_that_are_not_there_and_not_being_read() {
    let history = |names: &[u8]| Mutate { history_only: true, ..adds(8, names) };
    assert!(matches!(refused(history(&[1])).await, MutateError::Subscribed(0, _)));
    assert!(matches!(refused(history(&[3])).await, MutateError::HistoryInFlight(0, _)));
    assert!(matches!(refused(adds(8, &[3])).await, MutateError::HistoryInFlight(0, _)));
    let removed = Mutate { removes: vec![name(3)], ..adds(8, &[3]) };
    assert!(matches!(refused(removed).await, MutateError::HistoryInFlight(0, _)));
    let mut begins_anew = Mutate { removes: vec![name(1)], ..history(&[1]) };
    checked(&mut begins_anew).await.unwrap();
    assert_eq!(begins_anew.adds.len(), 1);
}

#[tokio::test]
async fn the_stream_may_be_full_of_topics_and_of_waves() {
    let others = TOPICS_MAX - 3;
    checked_among(&mut adds(8, &[9]), 1, others).await.unwrap();
    let error = checked_among(&mut adds(8, &[9, 8]), WAVES_MAX, others).await.unwrap_err();
    let too_many = MutateError::TooManyTopics(TOPICS_MAX + 1, TOPICS_MAX);
    assert_eq!(error, too_many, "before the number of waves");
    let mut moved = Mutate { removes: vec![name(1), name(1), name(4)], ..adds(8, &[9, 8]) };
    checked_among(&mut moved, 1, others).await.expect("one leaves");
    let mut history = Mutate { history_only: true, ..adds(8, &[9, 8]) };
    checked_among(&mut history, 1, others).await.expect("history does not count");
    let full = checked_among(&mut adds(8, &[9]), WAVES_MAX, 0).await.unwrap_err();
    assert_eq!(full, MutateError::TooManyWaves);
    assert!(full.is_limit());
    checked_among(&mut adds(8, &[1]), WAVES_MAX, 0).await.expect("nothing to read");
}

#[tokio::test]
async fn an_operator_may_allow_fewer_topics() {
    let mut stream = Topics { others: 8, ..Topics::default() };
    check(&mut adds(8, &[1, 2]), &|_| false, 0, 10, &mut stream).await.unwrap();
    let checked = check(&mut adds(8, &[1, 2, 3]), &|_| false, 0, 10, &mut stream).await;
    let error = checked.unwrap_err();
    assert_eq!(error, MutateError::TooManyTopics(11, 10));
    assert!(error.is_limit());
    assert_eq!(error.to_string(), "too many topics: 11, at most 10 are allowed on one stream");
}

/// Applies the checks as the specification states them, one pass for each. Returns the adds that are left, or the
/// name of the failed check.
fn by_the_page(mutate: &Mutate) -> Result<Vec<Add>, &'static str> {
    let (live, history) = ([name(1), name(2)], [name(3)]);
    let is_topic = |topic: &Bytes| Topic::parse(topic.clone()).is_ok();
    if mutate.mutate_id == 0 && !mutate.adds.is_empty() {
        return Err("MUTATE_ID_MISSING");
    }
    if mutate.mutate_id == 7 {
        return Err("MUTATE_ID_IN_FLIGHT");
    }
    if !mutate.removes.iter().all(is_topic) {
        return Err("REMOVE_TOPIC");
    }
    let mut left: Vec<Add> = Vec::new();
    for (place, add) in mutate.adds.iter().enumerate() {
        let is_removed = mutate.removes.contains(&add.topic);
        let repeats = mutate.adds[..place].iter().any(|earlier| earlier.topic == add.topic);
        let entries = add.last_seen.iter().flat_map(|it| it.node_id_to_sequence_id.iter());
        let mut is_far = entries.map(|(&id, &sequence)| id >= 1 << 31 || sequence >= 1 << 63);
        match () {
            () if !is_topic(&add.topic) => return Err("ADD_TOPIC"),
            () if repeats => {}
            () if live.contains(&add.topic) && !is_removed && mutate.history_only => {
                return Err("HISTORY_OF_SUBSCRIBED");
            }
            () if live.contains(&add.topic) && !is_removed => {}
            () if history.contains(&add.topic) => return Err("HISTORY_IN_FLIGHT"),
            () if is_far.any(|it| it) => return Err("CURSOR_RANGE"),
            () => left.push(add.clone()),
        }
    }
    Ok(left)
}

fn some_topic() -> impl Strategy<Value = Bytes> {
    let odd = [&b""[..], &[0], &[77, 1]].map(Bytes::from_static);
    prop_oneof![20 => (1..8_u8).prop_map(name), 1 => proptest::sample::select(odd.to_vec())]
}

fn some_add() -> impl Strategy<Value = Add> {
    let sequences = prop_oneof![20 => 0..9_u64, 1 => Just(1 << 63)];
    let originators = prop_oneof![20 => 0..3_u32, 1 => Just(1 << 31)];
    let cursor = proptest::collection::btree_map(originators, sequences, 0..3);
    let cursor = cursor.prop_map(|node_id_to_sequence_id| Cursor { node_id_to_sequence_id });
    let last_seen = proptest::option::of(cursor);
    (some_topic(), last_seen).prop_map(|(topic, last_seen)| Add { topic, last_seen })
}

fn some_mutate() -> impl Strategy<Value = Mutate> {
    let adds = proptest::collection::vec(some_add(), 0..8);
    let removes = proptest::collection::vec(some_topic(), 0..4);
    (adds, removes, prop_oneof![1 => 0..9_u64, 4 => Just(8)], any::<bool>()).prop_map(
        |(adds, removes, mutate_id, history_only)| Mutate {
            adds,
            removes,
            mutate_id,
            history_only,
        },
    )
}

fn decided(mut mutate: Mutate) -> Result<Vec<Add>, &'static str> {
    let decided = checked(&mut mutate).now_or_never().expect("a short Mutate takes one turn");
    decided.map(|()| mutate.adds).map_err(|error| error.name())
}

proptest! {
    #[test]
    fn the_checks_decide_as_the_page_says(mutate in some_mutate()) {
        prop_assert_eq!(decided(mutate.clone()), by_the_page(&mutate));
    }

    /// Bytes are changed, removed and inserted. Every message that still decodes must be accepted or refused.
    #[test]
    fn bytes_that_are_nearly_a_mutate_are_decided(
        mutate in some_mutate(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 1..6),
    ) {
        let mut bytes = mutate.encode_to_vec();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => _ = bytes.remove(at),
                _ => if let Some(it) = bytes.get_mut(at) { *it = byte },
            }
        }
        if let Ok(mutate) = Mutate::decode(&bytes[..]) {
            prop_assert_eq!(decided(mutate.clone()), by_the_page(&mutate));
        }
    }
}
