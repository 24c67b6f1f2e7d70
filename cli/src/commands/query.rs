//! `hawser query`: asks a node for stored data, and ends.

use hawser_node::CheckedChannel;
use hawser_node::error::RunError;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as envelopes_pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetInboxIdsRequest, GetNewestEnvelopeRequest, QueryEnvelopesRequest,
    get_inbox_ids_request,
};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Bytes, Cursor, EnvelopeId, SequenceId};
use prost::Message as _;
use serde_json::json;
use tonic::Status;

use super::tail;
use crate::args::query::{PagesArgs, QueryCommand};
use crate::{client, output};

/// The most originators that a cursor names. Specified: `docs/protocol/api.md`.
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
        let response = api.query_envelopes(request).await.map_err(failure)?;
        if !any {
            tail::tell_expired(response.metadata());
        }
        let page = response.into_inner();
        if page.envelopes.is_empty() {
            break;
        }
        any = true;
        for bytes in page.envelopes {
            let id = OriginatorEnvelope::parse(bytes.clone()).map(|envelope| envelope.id());
            let id = id.map_err(|error| {
                RunError::failed(format!(
                    "the node sent bytes that do not decode as an envelope: {error}"
                ))
            })?;
            check(id, &query.originator_node_ids, &reached)?;
            reached.advance(id);
            if left > 0 {
                tail::print(bytes, as_json);
                left -= 1;
            }
        }
    }
    let after = if args.from == "start" { String::new() } else { format!(" after {}", args.from) };
    found_something(any, &format!("{otherwise}{after}"))
}

/// Checks that an envelope belongs to the answer, behind those that have been reached. `asked` has the originators that
/// were asked for; it is empty if topics were.
fn check(id: EnvelopeId, asked: &[u32], reached: &Cursor) -> Result<(), RunError> {
    if !asked.is_empty() && !asked.contains(&id.originator.0) {
        return Err(RunError::failed(format!("the node sent {id}, which was not requested")));
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
    let answer = api.get_sync_cursor(GetSyncCursorRequest {}).await.map_err(failure)?.into_inner();
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
    let request = GetNewestEnvelopeRequest { topics };
    let answer = api.get_newest_envelope(request).await.map_err(failure)?.into_inner();
    let found = answer.results.into_iter().map(|result| result.originator_envelope);
    let mut any = false;
    for (name, found) in names.iter().zip(found) {
        any |= found.is_some();
        match found {
            Some(envelope) => print(&envelope, as_json),
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
    let answer = api.get_inbox_ids(request).await.map_err(failure)?.into_inner();
    let mut any = false;
    for found in answer.responses {
        any |= found.inbox_id.is_some();
        if as_json {
            output::line(json!({ "identifier": found.identifier, "inbox_id": found.inbox_id }));
        } else {
            output::line(inbox_line(&found.identifier, found.inbox_id.as_deref()));
        }
    }
    found_something(any, "no inbox of these addresses")
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

fn print(envelope: &envelopes_pb::OriginatorEnvelope, as_json: bool) {
    tail::print(envelope.encode_to_vec().into(), as_json);
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
        let text =
            |id, asked: &[u32], reached: &Cursor| check(id, asked, reached).map_err(|it| it.text);
        let reached: Cursor = [id(100, 7)].into_iter().collect();
        assert_eq!(text(id(100, 8), &[100], &reached), Ok(()));
        assert_eq!(text(id(200, 1), &[], &reached), Ok(()));
        assert!(text(id(200, 1), &[100], &reached).unwrap_err().contains("not requested"));
        assert!(text(id(100, 7), &[100], &reached).unwrap_err().contains("again"));
        let full: Cursor = (1..=100).map(|originator| id(originator, 1)).collect();
        assert_eq!(text(id(100, 2), &[], &full), Ok(()));
        assert!(text(id(101, 1), &[], &full).unwrap_err().contains("no cursor has more"));
    }

    #[test]
    fn texts_of_a_node_steer_no_terminal() {
        assert_eq!(inbox_line("0xaa", None), "0xaa  none");
        assert_eq!(inbox_line("0xaa\u{1b}[2J", Some("b\nc")), "0xaa [2J  b c");
    }
}
