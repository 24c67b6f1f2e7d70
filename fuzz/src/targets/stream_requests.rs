//! Fuzz target: the requests of streams that only answer: `SubscribeEnvelopes`, `SubscribeOriginators` and
//! `SubscribeTopics`.

use bytes::Bytes;
use hawser_api::StreamRequest;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use pb::subscribe_originators_request::OriginatorFilter;
use pb::subscribe_topics_request::TopicFilter;
use prost::{Message as _, Name as _};

use super::Target;
use crate::corpus;

/// A filter without content takes two bytes on the wire.
pub(super) const TARGET: Target =
    Target { name: "stream-requests", run, seeds, memory_factor: 512 };

/// Topics and originators of a request, entries of a cursor, and bytes of a topic (`docs/protocol/api.md`).
const SELECTED_MAX: usize = 10_000;
const ENTRIES_MAX: usize = 100;
const TOPIC_LEN_MAX: usize = 128;

/// The number of topics or originators that are read; or the name of the limit, and the field that is wrong.
type StreamVerdict = Result<usize, (&'static str, String)>;

/// The first byte of an input names the method, the rest is the message.
fn input(method: u8, message: &[u8]) -> Vec<u8> {
    [&[method][..], message].concat()
}

fn cursor(entries: u32) -> Option<Cursor> {
    Some(Cursor { node_id_to_sequence_id: (0..entries).map(|id| (id, 7)).collect() })
}

fn query(topics: &[&'static [u8]], ids: &[u32], last_seen: Option<Cursor>) -> Vec<u8> {
    let topics = topics.iter().copied().map(Bytes::from_static).collect();
    let query = pb::EnvelopesQuery { topics, originator_node_ids: ids.to_vec(), last_seen };
    input(0, &pb::SubscribeEnvelopesRequest { query: Some(query) }.encode_to_vec())
}

fn strands(ids: Vec<u32>, last_seen: Option<Cursor>) -> Vec<u8> {
    let filter = Some(OriginatorFilter { originator_node_ids: ids, last_seen });
    input(1, &pb::SubscribeOriginatorsRequest { filter }.encode_to_vec())
}

/// Filters for topics, each with the number of its cursor's entries.
fn filters(topics: &[(&'static [u8], u32)]) -> Vec<u8> {
    let filter = |&(topic, entries): &(&'static [u8], u32)| TopicFilter {
        topic: Bytes::from_static(topic),
        last_seen: cursor(entries),
    };
    let filters = topics.iter().map(filter).collect();
    input(2, &pb::SubscribeTopicsRequest { filters }.encode_to_vec())
}

const TOPIC: &[u8] = b"\x00topic";
const OTHER: &[u8] = b"\x01other";
const UNKNOWN: &[u8] = b"\x09unknown";
const EMPTY: &[u8] = b"";
const LONG: &[u8] = &[0; 129];

fn seeds() -> Vec<Vec<u8>> {
    let by_hand = [
        query(&[TOPIC, UNKNOWN, OTHER], &[], None),
        query(&[TOPIC], &[100], None),
        query(&[], &[0, 100, 200], cursor(100)),
        query(&[TOPIC, EMPTY], &[], cursor(101)),
        query(&[], &[], cursor(1)),
        strands(vec![100, 100, 0], cursor(2)),
        strands(vec![], cursor(0)),
        strands(vec![1], None),
        strands(vec![1; 10_001], cursor(101)),
        filters(&[(TOPIC, 1), (TOPIC, 0), (OTHER, 100)]),
        filters(&[(TOPIC, 101), (EMPTY, 0)]),
        filters(&[(LONG, 0)]),
        filters(&[]),
    ];
    let names = [
        pb::SubscribeEnvelopesRequest::full_name(),
        pb::SubscribeOriginatorsRequest::full_name(),
        pb::SubscribeTopicsRequest::full_name(),
    ];
    let of_corpus = (0..).zip(&names).flat_map(|(method, name)| {
        corpus::messages_of(name).into_iter().map(move |message| input(method, &message))
    });
    by_hand.into_iter().chain(of_corpus).collect()
}

fn check_count(count: usize, field: &str) -> Result<(), (&'static str, String)> {
    if count > SELECTED_MAX {
        return Err(("TOO_MANY_SUBSCRIPTIONS", field.to_owned()));
    }
    Ok(())
}

fn check_cursor(
    cursor: Option<&Cursor>,
    field: impl Fn() -> String,
) -> Result<(), (&'static str, String)> {
    match cursor {
        Some(cursor) if cursor.node_id_to_sequence_id.len() > ENTRIES_MAX => {
            Err(("CURSOR_ENTRIES", field()))
        }
        _ => Ok(()),
    }
}

fn check_lengths<'t>(
    topics: impl Iterator<Item = &'t Bytes>,
    field: impl Fn(usize) -> String,
) -> Result<(), (&'static str, String)> {
    for (place, topic) in topics.enumerate() {
        if topic.is_empty() || topic.len() > TOPIC_LEN_MAX {
            return Err(("TOPIC_LENGTH", field(place)));
        }
    }
    Ok(())
}

/// Returns the number of topics that an envelope can have.
fn storable<'t>(topics: impl Iterator<Item = &'t Bytes>) -> usize {
    topics.filter(|topic| topic.len() >= 2 && topic[0] < 6).count()
}

fn of_query(query: Option<&pb::EnvelopesQuery>) -> StreamVerdict {
    let nothing = || ("NOTHING_SELECTED", "query".to_owned());
    let pb::EnvelopesQuery { topics, originator_node_ids: ids, last_seen } =
        query.ok_or_else(nothing)?;
    if !topics.is_empty() && !ids.is_empty() {
        return Err(("TOPICS_AND_ORIGINATORS", "query".to_owned()));
    }
    check_count(topics.len(), "query.topics")?;
    check_count(ids.len(), "query.originator_node_ids")?;
    check_lengths(topics.iter(), |place| format!("query.topics[{place}]"))?;
    check_cursor(last_seen.as_ref(), || "query.last_seen".to_owned())?;
    match (topics.is_empty(), ids.is_empty()) {
        (true, true) => Err(nothing()),
        (true, false) => Ok(ids.len()),
        (false, _) => Ok(storable(topics.iter())),
    }
}

fn of_strands(filter: Option<&OriginatorFilter>) -> StreamVerdict {
    let filter = filter.ok_or_else(|| ("FILTER_MISSING", "filter".to_owned()))?;
    let ids = filter.originator_node_ids.len();
    if ids == 0 {
        return Err(("ORIGINATORS_MISSING", "filter.originator_node_ids".to_owned()));
    }
    if filter.last_seen.is_none() {
        return Err(("CURSOR_MISSING", "filter.last_seen".to_owned()));
    }
    check_count(ids, "filter.originator_node_ids")?;
    check_cursor(filter.last_seen.as_ref(), || "filter.last_seen".to_owned())?;
    Ok(ids)
}

fn of_topics(filters: &[TopicFilter]) -> StreamVerdict {
    if filters.is_empty() {
        return Err(("FILTER_MISSING", "filters".to_owned()));
    }
    check_count(filters.len(), "filters")?;
    let topics = || filters.iter().map(|filter| &filter.topic);
    check_lengths(topics(), |place| format!("filters[{place}].topic"))?;
    for (place, filter) in filters.iter().enumerate() {
        check_cursor(filter.last_seen.as_ref(), || format!("filters[{place}].last_seen"))?;
    }
    Ok(storable(topics()))
}

/// Each request is decided as the page says, in the order of its checks.
fn run(input: &[u8]) {
    let [method, message @ ..] = input else { return };
    let (request, described) = match method % 3 {
        0 => {
            let Ok(request) = pb::SubscribeEnvelopesRequest::decode(message) else { return };
            let described = of_query(request.query.as_ref());
            (StreamRequest::Envelopes(request), described)
        }
        1 => {
            let Ok(request) = pb::SubscribeOriginatorsRequest::decode(message) else { return };
            let described = of_strands(request.filter.as_ref());
            (StreamRequest::Originators(request), described)
        }
        _ => {
            let Ok(request) = pb::SubscribeTopicsRequest::decode(message) else { return };
            let described = of_topics(&request.filters);
            (StreamRequest::Topics(request), described)
        }
    };
    assert_eq!(request.check(), described);
}
