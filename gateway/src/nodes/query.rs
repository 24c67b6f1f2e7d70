//! Asks a node for the envelope at an id or for those of topics, and decodes the envelopes of answers.
//!
//! Many requests search at one node at a time when it has failed their calls. The node may lie, and answer each with
//! 25 MiB. So an answer has memory by what is searched for, or by a place for long answers of the node. There are many
//! places for less than a MiB, which most long answers have: an envelope that is not found in time is paid for again.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetNewestEnvelopeRequest, QueryEnvelopesRequest,
};
use hawser_proto::{Bytes, Cursor, EnvelopeId};
use hawser_serve::{CheckedChannel, MESSAGE_LEN_BYTES_MAX};
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Response, Status};

use super::node::Node;
use super::observed::shown_len_bytes_max;

/// The lengths for which a long answer gets a place, bytes, and their MiB. Chosen: a page of a busy topic, and any
/// message.
const LONG_ANSWERS: [(usize, u32); 2] = [(1 << 20, 1), (MESSAGE_LEN_BYTES_MAX, 25)];

/// A client for queries.
type QueryClient = ReplicationApiClient<CheckedChannel>;

/// The place of a long answer at its node, to be held as long as what was decoded from it; `None` for a short one.
pub(crate) type AnswerPlace = Option<OwnedSemaphorePermit>;

/// Returns the first envelope that a node shows at this id or after it in the same strand; `None` also if it is far
/// longer than one of this client envelope. The answer is not verified.
///
/// # Errors
/// The status of the failed query, or INTERNAL if the envelope does not decode.
pub(crate) async fn query_place(
    node: &Node,
    id: EnvelopeId,
    client: &Bytes,
) -> Result<Option<OriginatorEnvelope>, Status> {
    let before = EnvelopeId::new(id.originator, id.sequence.previous());
    let query = EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![id.originator.0],
        last_seen: Some(Cursor::from_iter([before]).to_pb()),
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let mut api = node.query_client(shown_len_bytes_max(client));
    let first = match api.query_envelopes(request).await {
        Err(status) if is_long(&status) => return Ok(None),
        answer => answer?.into_inner().envelopes.into_iter().next(),
    };
    first.map(decoded).transpose()
}

/// Returns the newest envelopes of topics that a node shows, in their order. An answer of more than
/// `usual_len_bytes_max` bytes waits for a place.
///
/// # Errors
/// The status of the failed query.
pub(crate) async fn query_newest(
    node: &Node,
    topics: Vec<Bytes>,
    usual_len_bytes_max: usize,
) -> Result<(Vec<Option<OriginatorEnvelope>>, AnswerPlace), Status> {
    let request = GetNewestEnvelopeRequest { topics };
    let ask = move |mut api: QueryClient| {
        let request = request.clone();
        async move { api.get_newest_envelope(request).await }
    };
    let (answer, place) = ask_within(node, usual_len_bytes_max, ask).await?;
    let results = answer.results.into_iter();
    Ok((results.map(|result| result.originator_envelope).collect(), place))
}

/// Returns the envelopes of a page that a node shows, not more than `request` asks for. An answer of more than
/// `usual_len_bytes_max` bytes waits for a place.
///
/// # Errors
/// The status of the failed query, or INTERNAL if an envelope does not decode.
pub(crate) async fn query_page(
    node: &Node,
    request: QueryEnvelopesRequest,
    usual_len_bytes_max: usize,
) -> Result<(Vec<OriginatorEnvelope>, AnswerPlace), Status> {
    let limit = request.limit as usize;
    let ask = move |mut api: QueryClient| {
        let request = request.clone();
        async move { api.query_envelopes(request).await }
    };
    let (answer, place) = ask_within(node, usual_len_bytes_max, ask).await?;
    let mut envelopes = answer.envelopes;
    envelopes.truncate(limit); // an empty one takes two bytes of the answer, and far more once it is decoded
    Ok((all_decoded(envelopes)?, place))
}

/// Returns the answer of a node. Asks again with the next place of [`LONG_ANSWERS`] while the answer is longer.
async fn ask_within<T, F>(
    node: &Node,
    usual_len_bytes_max: usize,
    ask: impl Fn(QueryClient) -> F,
) -> Result<(T, AnswerPlace), Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut place: AnswerPlace = None;
    let mut answer = ask(node.query_client(usual_len_bytes_max)).await;
    for (len_bytes_max, mib) in LONG_ANSWERS {
        if !answer.as_ref().is_err_and(is_long) {
            break;
        }
        if len_bytes_max <= usual_len_bytes_max {
            continue;
        }
        // Given back first: searches that wait for places of others while they hold one would stop.
        drop(place.take());
        place = Some(node.long_answer(mib).await);
        answer = ask(node.query_client(len_bytes_max)).await;
    }
    Ok((answer?.into_inner(), place))
}

/// Returns true for the status with which this side ends a call whose answer is longer than it may be.
fn is_long(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}

/// Decodes the outer layers of all envelopes of an answer.
///
/// # Errors
/// INTERNAL if one of them does not decode, as for any other answer that is no message.
pub(crate) fn all_decoded(envelopes: Vec<Bytes>) -> Result<Vec<OriginatorEnvelope>, Status> {
    envelopes.into_iter().map(decoded).collect()
}

/// Decodes the outer layer of one envelope.
fn decoded(envelope: Bytes) -> Result<OriginatorEnvelope, Status> {
    OriginatorEnvelope::decode(envelope).map_err(|error| Status::internal(error.to_string()))
}
