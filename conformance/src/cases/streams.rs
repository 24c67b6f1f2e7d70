//! Server streams: first messages, history, the switch from history to live envelopes, keepalives.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use std::time::Duration;
use tonic::Request;

use crate::case::Need::{Payer, Second};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, same};
use crate::connection::{NOTIFICATION_API, QUERY_API};
use crate::context::{JudgedNodes, id_of, same_envelopes, seen};
use crate::duplex::DuplexStream;
use crate::envelopes::{cursor, new_group};
use crate::listener::{CAUGHT_UP, Listener, STARTED, WAITING};
use crate::wire::{Framed, List};

const AREA: Area = Area::Streams;
const STREAMS: &str = "docs/protocol/api.md#streams";
const RESUME: &str = "docs/protocol/api.md#resume-point";
/// Longest keepalive interval that the suite waits for. A guess: twice the default.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "topics-stream-tells-its-states",
        "SubscribeTopics sends STARTED, all history, CATCHUP_COMPLETE, and then live \
         envelopes",
        STREAMS,
        |c| Box::pin(topics_states(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-stream-has-a-cursor-each",
        "SubscribeTopics begins each topic behind its own cursor",
        STREAMS,
        |c| Box::pin(topics_cursors(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-stream-first-filter-counts",
        "a topic that is named twice has the cursor of its first filter and comes once",
        STREAMS,
        |c| Box::pin(topics_twice(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-stream-services-agree",
        "SubscribeTopics is the same under both names of its service",
        STREAMS,
        |c| Box::pin(topics_services(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-stream-seam",
        "a topics stream that opens while messages are published has each of them once, in \
         order",
        STREAMS,
        |c| Box::pin(topics_seam(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "topics-stream-shows-peers",
        "a topics stream at another node delivers what is published here",
        STREAMS,
        |c| Box::pin(topics_elsewhere(c)),
    )
    .needs(&[Payer, Second]),
    Case::new(
        AREA,
        "envelopes-stream-is-live-without-cursor",
        "SubscribeEnvelopes sends an empty message first, and no history without a cursor",
        STREAMS,
        |c| Box::pin(envelopes_live(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "envelopes-stream-has-history",
        "SubscribeEnvelopes with a cursor, also an empty one, sends what follows it and goes \
         on live",
        STREAMS,
        |c| Box::pin(envelopes_history(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "originators-stream-follows-a-strand",
        "SubscribeOriginators sends an empty message, the strand behind the cursor, and goes \
         on live without a gap",
        STREAMS,
        |c| Box::pin(originators(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "all-stream-has-everything",
        "SubscribeAllEnvelopes sends an empty message first and then every new envelope",
        STREAMS,
        |c| Box::pin(all(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "all-stream-resumes",
        "SubscribeAllEnvelopes with a resume point begins behind it",
        RESUME,
        |c| Box::pin(all_resumes(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "silent-stream-shows-life",
        "a stream that has nothing to send shows life after each idle interval",
        STREAMS,
        |c| Box::pin(signs_of_life(c)),
    )
    .limit(Duration::from_secs(150)),
];

async fn topics_states(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let history = c.send(&topic, 4).await?;
    let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
    let first = stream.receive().await?;
    ensure(
        first.status == Some(STARTED) && first.envelopes.is_empty(),
        "status STARTED alone",
        || format!("{:?}", first.status),
    )?;
    same_envelopes("before CATCHUP_COMPLETE", &history, &stream.receive_until(CAUGHT_UP).await?)?;
    let live = [c.send(&topic, 1).await?, c.send(&topic, 2).await?].concat();
    same_envelopes("live", &live, &stream.receive_envelopes(3).await?)
}

async fn topics_cursors(c: &JudgedNodes) -> Checked {
    let topics = [new_group(), new_group()];
    let mut sent = [Vec::new(), Vec::new()];
    for number in [0, 1, 0, 1, 0, 1] {
        sent[number].extend(c.send(&topics[number], 1).await?);
    }
    let cursors = [Some(seen(&sent[0][..2])?), Some(cursor([]))];
    let mut stream = c
        .subscribe_topics(&[(&topics[0], cursors[0].clone()), (&topics[1], cursors[1].clone())])
        .await?;
    let mut expected = vec![sent[0][2].clone()];
    expected.extend(sent[1].clone());
    let mut got = stream.receive_until(CAUGHT_UP).await?;
    // The node chooses the order of history across topics; within a topic it is the order of the strand.
    let of_second: Vec<Bytes> =
        got.iter().filter(|bytes| sent[1].contains(bytes)).cloned().collect();
    same_envelopes("the second topic", &sent[1], &of_second)?;
    got.sort_by_key(|bytes| id_of(bytes).ok());
    expected.sort_by_key(|bytes| id_of(bytes).ok());
    same_envelopes("both topics", &expected, &got)
}

async fn topics_twice(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 3).await?;
    let filters = [(&topic, Some(seen(&sent[..1])?)), (&topic, None)];
    let mut stream = c.subscribe_topics(&filters).await?;
    same_envelopes("history", &sent[1..], &stream.receive_until(CAUGHT_UP).await?)?;
    let live = c.send(&topic, 2).await?;
    same_envelopes("live", &live, &stream.receive_envelopes(2).await?)
}

async fn topics_services(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let sent = c.send(&topic, 2).await?;
    let filter = api::subscribe_topics_request::TopicFilter { topic, last_seen: None };
    let request = api::SubscribeTopicsRequest { filters: vec![filter] };
    let stream = c.target.stream(&format!("{QUERY_API}/SubscribeTopics"), request).await?;
    let mut stream = Listener::<Framed>::new(stream, c.target.answer_timeout());
    same_envelopes("QueryApi", &sent, &stream.receive_until(CAUGHT_UP).await?)
}

/// Publishes while streams open, so that some envelopes are history and some are live.
async fn topics_seam(c: &JudgedNodes) -> Checked {
    const COUNT: usize = 30;
    let topic = new_group();
    let publish = c.send_one_by_one(&topic, COUNT);
    let listen = async {
        let mut received = Vec::new();
        for _ in 0..5 {
            let mut stream = c.subscribe_topics(&[(&topic, None)]).await?;
            received.push(stream.receive_envelopes(COUNT).await?);
        }
        Ok::<_, CaseError>(received)
    };
    let (sent, received) = tokio::try_join!(publish, listen)?;
    for received in received {
        same_envelopes("a stream", &sent, &received)?;
    }
    Ok(())
}

async fn topics_elsewhere(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let filter =
        api::subscribe_topics_request::TopicFilter { topic: topic.clone(), last_seen: None };
    let request = api::SubscribeTopicsRequest { filters: vec![filter] };
    let path = format!("{QUERY_API}/SubscribeTopics");
    let stream = c.second()?.stream(&path, request).await?;
    let mut stream = Listener::<Framed>::new(stream, c.target.answer_timeout());
    stream.receive_until(CAUGHT_UP).await?;
    let sent = c.send(&topic, 3).await?;
    same_envelopes("the stream of the second node", &sent, &stream.receive_envelopes(3).await?)
}

async fn subscribe_envelopes(
    c: &JudgedNodes,
    topic: &Bytes,
    last_seen: Option<Cursor>,
) -> Checked<Listener<List>> {
    let query =
        api::EnvelopesQuery { topics: vec![topic.clone()], last_seen, ..Default::default() };
    let mut stream: Listener<List> = c
        .listen("SubscribeEnvelopes", api::SubscribeEnvelopesRequest { query: Some(query) })
        .await?;
    stream.expect_empty_first().await?;
    Ok(stream)
}

/// An earlier stream has shown the first messages live before the stream opens whose beginning is judged: a node may
/// acknowledge a message a moment before its streams get it, and then it is no history.
async fn envelopes_live(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut earlier = subscribe_envelopes(c, &topic, None).await?;
    let sent = c.send(&topic, 2).await?;
    same_envelopes("live envelopes", &sent, &earlier.receive_envelopes(2).await?)?;
    let mut stream = subscribe_envelopes(c, &topic, None).await?;

    let live = [c.send(&topic, 1).await?, c.send(&topic, 1).await?].concat();
    same_envelopes("live envelopes alone", &live, &stream.receive_envelopes(2).await?)
}

async fn envelopes_history(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let mut sent = c.send(&topic, 4).await?;
    let mut from_start = subscribe_envelopes(c, &topic, Some(cursor([]))).await?;
    let mut from_second = subscribe_envelopes(c, &topic, Some(seen(&sent[..2])?)).await?;
    same_envelopes("history", &sent, &from_start.receive_envelopes(4).await?)?;
    same_envelopes(
        "history behind the cursor",
        &sent[2..],
        &from_second.receive_envelopes(2).await?,
    )?;
    sent = c.send(&topic, 2).await?;
    same_envelopes("live", &sent, &from_start.receive_envelopes(2).await?)?;
    same_envelopes("live", &sent, &from_second.receive_envelopes(2).await?)
}

/// Reads until all of `wanted` have come, skips the envelopes of other publishers, and checks that the ids of each
/// originator ascend.
async fn among_others<A>(stream: &mut Listener<A>, wanted: &[Bytes]) -> Checked
where
    crate::listener::Received: From<A>,
{
    let wanted_ids = wanted.iter().map(id_of).collect::<Checked<Vec<_>>>()?;
    let mut heads = hawser_proto::Cursor::new();
    let mut found = Vec::new();
    while found.len() < wanted.len() {
        for envelope in stream.receive().await?.envelopes {
            let id = id_of(&envelope)?;
            ensure(!heads.covers(id), "ascending places without repetition", || {
                format!("{id} a second time or out of order")
            })?;
            heads.advance(id);
            if wanted_ids.contains(&id) {
                found.push(envelope);
            }
        }
    }
    same_envelopes("the published envelopes in the stream", wanted, &found)
}

async fn originators(c: &JudgedNodes) -> Checked {
    let mut sent = c.send(&new_group(), 4).await?;
    let before = id_of(&sent[0])?;
    let filter = api::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![before.originator.0],
        last_seen: Some(cursor([(before.originator.0, before.sequence.0)])),
    };
    let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut stream: Listener<Framed> = c.listen("SubscribeOriginators", request).await?;
    stream.expect_empty_first().await?;
    sent.extend(c.send(&new_group(), 3).await?);
    among_others(&mut stream, &sent[1..]).await
}

async fn all(c: &JudgedNodes) -> Checked {
    let path = format!("{NOTIFICATION_API}/SubscribeAllEnvelopes");
    let stream = c.target.stream(&path, api::SubscribeAllEnvelopesRequest {}).await?;
    let mut stream = Listener::<List>::new(stream, c.target.answer_timeout());
    stream.expect_empty_first().await?;
    let sent = [c.send(&new_group(), 2).await?, c.send(&new_group(), 2).await?].concat();
    among_others(&mut stream, &sent).await
}

async fn all_resumes(c: &JudgedNodes) -> Checked {
    let sent = c.send(&new_group(), 3).await?;
    let mut heads = crate::context::heads(&c.target).await?;
    let first = id_of(&sent[0])?;
    heads.node_id_to_sequence_id.insert(first.originator.0, first.sequence.0);
    let text: Vec<String> = heads
        .node_id_to_sequence_id
        .iter()
        .map(|(id, sequence)| format!("{id}={sequence}"))
        .collect();
    let mut request = Request::new(api::SubscribeAllEnvelopesRequest {});
    request
        .metadata_mut()
        .insert("hawser-resume", text.join(",").parse().expect("numbers are ASCII"));
    let path = format!("{NOTIFICATION_API}/SubscribeAllEnvelopes");
    let stream = c.target.stream_with(&path, request).await?;
    let mut stream = Listener::<List>::new(stream, c.target.answer_timeout());
    stream.expect_empty_first().await?;
    let later = c.send(&new_group(), 1).await?;
    let expected = [&sent[1..], &later].concat();
    match among_others(&mut stream, &expected).await {
        Err(failure) if failure.got.starts_with("silence") => Err(CaseError::known(
            "xmtpd 1.3: it has no resume points",
            "the envelopes behind the resume point",
            failure.got,
        )),
        other => other,
    }
}

async fn signs_of_life(c: &JudgedNodes) -> Checked {
    let interval = DuplexStream::open(&c.target).await?.interval;
    if interval > INTERVAL_MAX {
        return Err(CaseError::skip(format_args!(
            "the node's interval of {} s is too long to wait for",
            interval.as_secs()
        )));
    }
    let topic = new_group();
    let mut topics = c.subscribe_topics(&[(&topic, None)]).await?;
    topics.receive_until(CAUGHT_UP).await?;
    let mut envelopes = subscribe_envelopes(c, &topic, None).await?;
    topics.set_answer_timeout(interval + c.target.answer_timeout());
    envelopes.set_answer_timeout(interval + c.target.answer_timeout());
    let (from_topics, from_envelopes) = tokio::try_join!(topics.receive(), envelopes.receive())?;
    same("status", &Some(WAITING), &from_topics.status)?;
    ensure(from_envelopes.envelopes.is_empty(), "an empty message", || "envelopes".into())
}
