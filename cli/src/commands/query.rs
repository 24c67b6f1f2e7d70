//! `hawser query`: asks a node for stored data, and ends.

use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetInboxIdsRequest, GetNewestEnvelopeRequest, QueryEnvelopesRequest,
    get_inbox_ids_request,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId, Topic};
use prost::Message as _;
use serde_json::json;
use tonic::Status;

use super::tail;
use crate::args::query::{PagesArgs, QueryCommand};
use crate::{client, output};

/// The maximum number of originators that a cursor names. Specified: `docs/protocol/api.md`.
const CURSOR_ENTRIES_MAX: usize = 100;

/// Runs the command.
///
/// # Errors
/// When arguments are wrong, when the node refuses or does not answer, or when it has none of the named items.
pub(super) async fn run(command: QueryCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        QueryCommand::Topics { of, pages: args } => {
            let topics = topics(&of.topics)?;
            let query = EnvelopesQuery { topics, ..EnvelopesQuery::default() };
            pages(&args, query, as_json, "no envelope of these topics").await
        }
        QueryCommand::Originators { ids, pages: args } => {
            let originator_node_ids = originators(&ids)?;
            let query = EnvelopesQuery { originator_node_ids, ..EnvelopesQuery::default() };
            pages(&args, query, as_json, "no envelope of these originators").await
        }
        QueryCommand::Cursors(to) => cursors(&to.node, as_json).await,
        QueryCommand::Newest { of, to } => newest(&of.topics, &to.node, as_json).await,
        QueryCommand::Inbox { addresses, to } => inbox(&addresses, &to.node, as_json).await,
    }
}

fn topics(names: &[String]) -> Result<Vec<Bytes>, RunError> {
    names.iter().map(|name| Ok(tail::parse_topic(name)?.into_bytes())).collect()
}

fn originators(names: &[String]) -> Result<Vec<u32>, RunError> {
    let id = |name: &String| {
        name.parse().map_err(|_| {
            RunError::usage(format!(
                "{name:?} is not an originator id, a whole number below \
            2^32"
            ))
        })
    };
    names.iter().map(id).collect()
}

/// Asks for page after page, each behind the last one, until one is empty. Fails with the text `otherwise` if already
/// the first one is.
async fn pages(
    args: &PagesArgs,
    mut query: EnvelopesQuery,
    as_json: bool,
    otherwise: &str,
) -> Result<(), RunError> {
    let mut reached = match args.from.as_str() {
        "start" => Cursor::new(),
        ids => tail::parse_cursor(ids).ok_or_else(|| {
            RunError::usage(format!("--from {ids}: must be start, or ids such as 0:12,100:7"))
        })?,
    };
    let mut api = api(&args.to.node).await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut any = left == 0;
    while left > 0 {
        query.last_seen = Some(reached.to_pb());
        let limit = u32::try_from(left).unwrap_or(0);
        let request = QueryEnvelopesRequest { query: Some(query.clone()), limit };
        let response = client::whole(api.query_envelopes(request)).await.map_err(failure)?;
        if !any {
            tail::tell_expired(response.metadata());
        }
        let page = response.into_inner();
        if page.envelopes.is_empty() {
            break;
        }
        any = true;
        for bytes in page.envelopes {
            let envelope = OriginatorEnvelope::parse(bytes.clone()).map_err(|error| {
                RunError::failed(format!(
                    "the node sent bytes that do not decode as an envelope: {error}"
                ))
            })?;
            check(&query, envelope.id(), tail::topic_of(&envelope), &reached)?;
            reached.advance(envelope.id());
            if left > 0 {
                tail::print(bytes, as_json);
                left -= 1;
            }
        }
    }
    let after = if args.from == "start" { String::new() } else { format!(" after {}", args.from) };
    found_something(any, &format!("{otherwise}{after}"))
}

/// Checks that an envelope belongs to the answer of a query, behind those that have been reached. A query names either
/// topics or originators.
fn check(
    query: &EnvelopesQuery,
    id: EnvelopeId,
    topic: &Topic,
    reached: &Cursor,
) -> Result<(), RunError> {
    let is_asked = query.originator_node_ids.contains(&id.originator.0)
        || query.topics.contains(topic.as_bytes());
    if !is_asked {
        return Err(tail::not_requested(id));
    }
    if reached.covers(id) {
        return Err(RunError::failed(format!("the node sent {id} again, or out of order")));
    }
    let is_new = reached.get(id.originator) == SequenceId::NONE;
    if is_new && reached.len() >= CURSOR_ENTRIES_MAX {
        return Err(RunError::failed(format!(
            "the node sent {id} behind envelopes of {CURSOR_ENTRIES_MAX} other originators, and no cursor has more"
        )));
    }
    Ok(())
}

async fn cursors(node: &str, as_json: bool) -> Result<(), RunError> {
    let mut api = MetadataApiClient::new(client::connect(node).await?);
    let answer = client::whole(api.get_sync_cursor(GetSyncCursorRequest {}))
        .await
        .map_err(failure)?
        .into_inner();
    for id in Cursor::from(&answer.latest_sync.unwrap_or_default()).iter() {
        if as_json {
            let (originator, sequence) = (id.originator.0, id.sequence.0);
            output::line(json!({ "originator_id": originator, "sequence_id": sequence }));
        } else {
            output::line(id);
        }
    }
    Ok(())
}

async fn newest(names: &[String], node: &str, as_json: bool) -> Result<(), RunError> {
    let topics = topics(names)?;
    let mut api = api(node).await?;
    let request = GetNewestEnvelopeRequest { topics: topics.clone() };
    let answer =
        client::whole(api.get_newest_envelope(request)).await.map_err(failure)?.into_inner();
    check_count(answer.results.len(), topics.len())?;
    let mut any = false;
    for ((name, topic), result) in names.iter().zip(&topics).zip(answer.results) {
        let found = result.originator_envelope;
        any |= found.is_some();
        match found {
            Some(envelope) => {
                let bytes = Bytes::from(envelope.encode_to_vec());
                // One that cannot be read is printed as unreadable.
                if let Ok(envelope) = OriginatorEnvelope::parse(bytes.clone())
                    && tail::topic_of(&envelope).as_bytes() != topic
                {
                    return Err(tail::not_requested(envelope.id()));
                }
                tail::print(bytes, as_json);
            }
            None if as_json => output::line(json!({ "topic": bare(name), "id": null })),
            None => output::line(format_args!("{}  nothing", bare(name))),
        }
    }
    found_something(any, "no envelope of these topics")
}

async fn inbox(addresses: &[String], node: &str, as_json: bool) -> Result<(), RunError> {
    let mut api = api(node).await?;
    let request = |identifier: &String| get_inbox_ids_request::Request {
        identifier: identifier.clone(),
        identifier_kind: 0,
    };
    let request = GetInboxIdsRequest { requests: addresses.iter().map(request).collect() };
    let answer = client::whole(api.get_inbox_ids(request)).await.map_err(failure)?.into_inner();
    check_count(answer.responses.len(), addresses.len())?;
    let mut any = false;
    for (asked, found) in addresses.iter().zip(answer.responses) {
        // Nodes repeat an address byte for byte, and clients look for it in the answer.
        if found.identifier != *asked {
            let other = output::plain(&found.identifier);
            let text = format!("the node sent the inbox of {other} in place of that of {asked}");
            return Err(RunError::failed(text));
        }
        any |= found.inbox_id.is_some();
        if as_json {
            output::line(json!({ "identifier": found.identifier, "inbox_id": found.inbox_id }));
        } else {
            output::line(inbox_line(&found.identifier, found.inbox_id.as_deref()));
        }
    }
    found_something(any, "no inbox of these addresses")
}

/// Checks that a node has sent a result for each part of a request. With another number of them, results would stand
/// beside parts to which they do not belong.
fn check_count(results: usize, asked: usize) -> Result<(), RunError> {
    if results == asked {
        return Ok(());
    }
    let results = output::count(results, "result");
    Err(RunError::failed(format!("the node sent {results} in place of {asked}")))
}

/// Returns the line about an identifier. The node has written both texts.
fn inbox_line(identifier: &str, inbox: Option<&str>) -> String {
    let inbox = inbox.unwrap_or("none");
    format!("{}  {}", output::plain(identifier), output::plain(inbox))
}

fn found_something(any: bool, otherwise: &str) -> Result<(), RunError> {
    if any { Ok(()) } else { Err(RunError::not_found(format!("the node has {otherwise}"))) }
}

async fn api(node: &str) -> Result<QueryApiClient<CheckedChannel>, RunError> {
    let channel = client::connect(node).await?;
    Ok(QueryApiClient::new(channel).max_decoding_message_size(client::MESSAGE_LEN_BYTES_MAX))
}

fn bare(topic: &str) -> &str {
    topic.strip_prefix("0x").unwrap_or(topic)
}

fn failure(status: Status) -> RunError {
    client::failure(&status)
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;

    use super::*;

    #[test]
    fn an_answer_has_what_was_asked_for_once_and_of_few_originators() {
        let id =
            |originator, sequence| EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
        let topic = |last: u8| Topic::parse(vec![0, last].into()).unwrap();
        let originator_node_ids = vec![100];
        let of_strand = EnvelopesQuery { originator_node_ids, ..EnvelopesQuery::default() };
        let topics = vec![topic(1).into_bytes()];
        let of_topic = EnvelopesQuery { topics, ..EnvelopesQuery::default() };
        let text = |query: &EnvelopesQuery, id, topic: &Topic, reached: &Cursor| {
            check(query, id, topic, reached).map_err(|it| it.text)
        };
        let reached: Cursor = [id(100, 7)].into_iter().collect();
        assert_eq!(text(&of_strand, id(100, 8), &topic(2), &reached), Ok(()));
        assert_eq!(text(&of_topic, id(200, 1), &topic(1), &reached), Ok(()));
        let other = text(&of_strand, id(200, 1), &topic(1), &reached);
        assert!(other.unwrap_err().contains("200:1, which was not requested"));
        let other = text(&of_topic, id(100, 8), &topic(2), &reached);
        assert!(other.unwrap_err().contains("100:8, which was not requested"));
        let again = text(&of_strand, id(100, 7), &topic(1), &reached);
        assert!(again.unwrap_err().contains("again"));
        let full: Cursor = (1..=100).map(|originator| id(originator, 1)).collect();
        assert_eq!(text(&of_topic, id(100, 2), &topic(1), &full), Ok(()));
        let more = text(&of_topic, id(101, 1), &topic(1), &full);
        assert!(more.unwrap_err().contains("no cursor has more"));
    }

    #[test]
    fn texts_of_a_node_steer_no_terminal() {
        assert_eq!(inbox_line("0xaa", None), "0xaa  none");
        assert_eq!(inbox_line("0xaa\u{1b}[2J", Some("b\nc")), "0xaa [2J  b c");
    }
}
