//! Queries and subscriptions that exceed a limit, have no filter, or name something that does not exist.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use tonic::{Code, Request};

use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, refused};
use crate::connection::{NOTIFICATION_API, QUERY_API, REPLICATION_API};
use crate::context::{JudgedNodes, query_with};
use crate::envelopes::cursor;
use crate::listener::{Listener, STARTED};
use crate::wire::{Framed, List, NewestList};

const AREA: Area = Area::Errors;
const QUERIES: &str = "docs/protocol/api.md#queries";
const STREAMS: &str = "docs/protocol/api.md#streams";

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "query-topics-and-originators",
        "a query by topics and by originators is refused",
        QUERIES,
        |c| Box::pin(query_refused(c, "both", query(topics(1, 5), vec![100], None))),
    ),
    Case::new(
        AREA,
        "query-too-many",
        "a query for more than 10,000 topics or originators is refused",
        QUERIES,
        |c| Box::pin(too_many(c)),
    ),
    Case::new(
        AREA,
        "query-bad-topic-length",
        "a query for a topic of no bytes, or of more than 128, is refused",
        QUERIES,
        |c| Box::pin(bad_topics(c)),
    ),
    Case::new(
        AREA,
        "query-long-cursor",
        "a query with a cursor of more than 100 originators is refused",
        QUERIES,
        |c| Box::pin(query_refused(c, "101 entries", query(topics(1, 5), vec![], long_cursor()))),
    ),
    Case::new(
        AREA,
        "inbox-ids-too-many",
        "GetInboxIds refuses more than 1000 identifiers",
        QUERIES,
        |c| Box::pin(inbox_ids(c)),
    ),
    Case::new(
        AREA,
        "newest-too-many",
        "GetNewestEnvelope refuses more than 10,000 topics",
        QUERIES,
        |c| Box::pin(newest(c)),
    ),
    Case::new(
        AREA,
        "subscribe-envelopes-refusals",
        "SubscribeEnvelopes refuses what a query refuses, and a query for nothing",
        STREAMS,
        |c| Box::pin(subscribe_envelopes(c)),
    ),
    Case::new(
        AREA,
        "subscribe-originators-refusals",
        "SubscribeOriginators refuses a request without filter, originators or cursor",
        STREAMS,
        |c| Box::pin(subscribe_originators(c)),
    ),
    Case::new(
        AREA,
        "subscribe-topics-refusals",
        "SubscribeTopics refuses bad filters after its status that the stream has started",
        STREAMS,
        |c| Box::pin(subscribe_topics(c)),
    ),
    Case::new(
        AREA,
        "bad-resume-point",
        "SubscribeAllEnvelopes refuses a resume point that is no cursor",
        "docs/protocol/api.md#resume-point",
        |c| Box::pin(bad_resume(c)),
    ),
    Case::new(
        AREA,
        "unknown-methods",
        "a service or method that the node does not serve is UNIMPLEMENTED",
        "docs/protocol/api.md#the-port",
        |c| Box::pin(unknown(c)),
    ),
    Case::new(
        AREA,
        "broken-messages",
        "a request that does not decode is INVALID_ARGUMENT",
        "docs/protocol/api.md#the-port",
        |c| Box::pin(broken(c)),
    ),
];

fn topics(count: usize, len: usize) -> Vec<Bytes> {
    vec![vec![0; len].into(); count]
}

fn long_cursor() -> Option<Cursor> {
    Some(cursor((0..101).map(|number| (number * 100, 1))))
}

fn query(
    topics: Vec<Bytes>,
    originator_node_ids: Vec<u32>,
    last_seen: Option<Cursor>,
) -> api::EnvelopesQuery {
    api::EnvelopesQuery { topics, originator_node_ids, last_seen }
}

async fn query_refused(c: &JudgedNodes, what: &str, query: api::EnvelopesQuery) -> Checked {
    for service in [REPLICATION_API, QUERY_API] {
        let answer = query_with(&c.target, service, query.clone(), 0).await;
        refused(what, answer, Code::InvalidArgument, "invalid query:")?;
    }
    Ok(())
}

async fn too_many(c: &JudgedNodes) -> Checked {
    query_refused(c, "10,001 topics", query(topics(10_001, 5), vec![], None)).await?;
    query_refused(c, "10,001 originators", query(vec![], vec![100; 10_001], None)).await?;
    let most = query(topics(10_000, 5), vec![], None);
    let answer = query_with(&c.target, REPLICATION_API, most, 1).await;
    answer.map(|_| ()).map_err(|status| CaseError::from(status).at("10,000 topics"))
}

async fn bad_topics(c: &JudgedNodes) -> Checked {
    query_refused(c, "an empty topic", query(topics(1, 0), vec![], None)).await?;
    query_refused(c, "a topic of 129 bytes", query(topics(1, 129), vec![], None)).await?;
    let longest =
        query_with(&c.target, REPLICATION_API, query(topics(1, 128), vec![], None), 1).await;
    longest.map(|_| ()).map_err(|status| CaseError::from(status).at("a topic of 128 bytes"))
}

async fn inbox_ids(c: &JudgedNodes) -> Checked {
    let path = format!("{REPLICATION_API}/GetInboxIds");
    let one = api::get_inbox_ids_request::Request { identifier: "0x".into(), identifier_kind: 1 };
    let request = |count| api::GetInboxIdsRequest { requests: vec![one.clone(); count] };
    let answer = c.target.unary::<_, api::GetInboxIdsResponse>(&path, request(1001)).await;
    refused("1001 identifiers", answer, Code::InvalidArgument, "too many requests")?;
    let most = c.target.unary::<_, api::GetInboxIdsResponse>(&path, request(1000)).await;
    most.map(|_| ()).map_err(|status| CaseError::from(status).at("1000 identifiers"))
}

async fn newest(c: &JudgedNodes) -> Checked {
    let path = format!("{REPLICATION_API}/GetNewestEnvelope");
    let request = api::GetNewestEnvelopeRequest { topics: topics(10_001, 5) };
    match c.target.unary::<_, NewestList>(&path, request).await {
        Ok(_) => Err(CaseError::known("xmtpd 1.3: it has no bound", "INVALID_ARGUMENT", "OK")),
        refusal => refused("10,001 topics", refusal, Code::InvalidArgument, "").map(|_| ()),
    }
}

/// Checks that a stream of `ReplicationApi` ends with a refusal, at once or after its first message.
async fn stream_refused<Q: prost::Message + 'static>(
    c: &JudgedNodes,
    method: &str,
    request: Q,
    what: &str,
    text: &str,
) -> Checked {
    let path = format!("{REPLICATION_API}/{method}");
    let code = Code::InvalidArgument;
    match c.target.stream::<Q, Framed>(&path, request).await {
        Err(status) => refused(what, Err::<(), _>(status), code, text).map(|_| ()),
        Ok(stream) => Listener::new(stream, c.target.answer_timeout())
            .ends_with(code, text)
            .await
            .map_err(|failure| failure.at(what)),
    }
}

async fn subscribe_envelopes(c: &JudgedNodes) -> Checked {
    let nothing = "query must contain either topics or originators";
    let prefix = "invalid subscription request:";
    for (what, query, text) in [
        ("no query", None, nothing),
        ("a query for nothing", Some(query(vec![], vec![], None)), nothing),
        ("topics and originators", Some(query(topics(1, 5), vec![100], None)), prefix),
        ("10,001 topics", Some(query(topics(10_001, 5), vec![], None)), prefix),
        ("an empty topic", Some(query(topics(1, 0), vec![], None)), prefix),
        ("a cursor of 101 entries", Some(query(topics(1, 5), vec![], long_cursor())), prefix),
    ] {
        stream_refused(
            c,
            "SubscribeEnvelopes",
            api::SubscribeEnvelopesRequest { query },
            what,
            text,
        )
        .await?;
    }
    Ok(())
}

async fn subscribe_originators(c: &JudgedNodes) -> Checked {
    type Filter = api::subscribe_originators_request::OriginatorFilter;
    let filter = |originator_node_ids, last_seen| Some(Filter { originator_node_ids, last_seen });
    for (what, filter, text) in [
        ("no filter", None, "filter must not be nil"),
        (
            "no originator",
            filter(vec![], Some(cursor([]))),
            "filter must contain at least one originator node id",
        ),
        ("no cursor", filter(vec![100], None), "last_seen cursor is required"),
        (
            "10,001 originators",
            filter(vec![100; 10_001], Some(cursor([]))),
            "invalid subscription request:",
        ),
        (
            "a cursor of 101 entries",
            filter(vec![100], long_cursor()),
            "invalid subscription request:",
        ),
    ] {
        let request = api::SubscribeOriginatorsRequest { filter };
        stream_refused(c, "SubscribeOriginators", request, what, text).await?;
    }
    Ok(())
}

async fn subscribe_topics(c: &JudgedNodes) -> Checked {
    let filter = |len: usize, last_seen| api::subscribe_topics_request::TopicFilter {
        topic: vec![0; len].into(),
        last_seen,
    };
    for (what, filters) in [
        ("no filter", vec![]),
        ("10,001 filters", vec![filter(5, None); 10_001]),
        ("an empty topic", vec![filter(0, None)]),
        ("a topic of 129 bytes", vec![filter(129, None)]),
        ("a cursor of 101 entries", vec![filter(5, long_cursor())]),
    ] {
        let request = api::SubscribeTopicsRequest { filters };
        let mut stream: Listener<Framed> =
            c.listen("SubscribeTopics", request).await.map_err(|failure| failure.at(what))?;
        let first = stream.receive().await.map_err(|failure| failure.at(what))?;
        if first.status != Some(STARTED) {
            return Err(CaseError::new(
                format_args!("{what}: status STARTED first"),
                format!("{:?}", first.status),
            ));
        }
        stream.ends_with(Code::InvalidArgument, "").await.map_err(|failure| failure.at(what))?;
    }
    Ok(())
}

async fn bad_resume(c: &JudgedNodes) -> Checked {
    for text in ["nonsense", "100=1,100=2", "100=-1", "100"] {
        let mut request = Request::new(api::SubscribeAllEnvelopesRequest {});
        request.metadata_mut().insert("hawser-resume", text.parse().expect("it is ASCII"));
        let path = format!("{NOTIFICATION_API}/SubscribeAllEnvelopes");
        let status = match c.target.stream_with::<_, List>(&path, request).await {
            Err(status) => status,
            Ok(stream) => {
                match Listener::new(stream, c.target.answer_timeout()).next_or_end().await? {
                    Ok(_) => {
                        return Err(CaseError::known(
                            "xmtpd 1.3: it has no resume points",
                            "INVALID_ARGUMENT",
                            "a stream",
                        ));
                    }
                    Err(status) => status,
                }
            }
        };
        refused(text, Err::<(), _>(status), Code::InvalidArgument, "")?;
    }
    Ok(())
}

async fn unknown(c: &JudgedNodes) -> Checked {
    let paths = [
        format!("{QUERY_API}/Nothing"),
        "/no.such.Api/QueryEnvelopes".to_owned(),
        format!("{NOTIFICATION_API}/QueryEnvelopes"),
    ];
    for path in paths {
        refused(&path, c.target.raw(&path, Bytes::new()).await, Code::Unimplemented, "")?;
    }
    Ok(())
}

async fn broken(c: &JudgedNodes) -> Checked {
    for message in [
        &[0xff; 20][..],
        &[0x0a, 0x7f, 1],
        &[0x0b],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        let path = format!("{REPLICATION_API}/QueryEnvelopes");
        let answer = c.target.raw(&path, Bytes::copy_from_slice(message)).await;
        refused("noise", answer, Code::InvalidArgument, "")?;
    }
    c.target.serves().await
}
