//! Asks a node for the envelope at an id or for those of topics, and decodes the envelopes of answers.
//!
//! Many requests search at one node at a time when it has failed their calls. The node may lie, and answer each with
//! 25 MiB. So an answer has memory by what is searched for, or by a place for long answers of the node. There are many
//! places for less than a MiB, which most long answers have: an envelope that is not found in time is paid for again.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetNewestEnvelopeResponse, QueryEnvelopesRequest, QueryEnvelopesResponse,
};
use hawser_proto::{Bytes, Cursor, EnvelopeId, Topic};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status};

use super::call::ListCall;
use super::node::Node;
use super::observed::shown_len_bytes_max;

/// The lengths for which a long answer gets a place, bytes, and their MiB. Chosen: a page of a busy topic, and any
/// message.
const LONG_ANSWERS: [(usize, u32); 2] = [(1 << 20, 1), (MESSAGE_LEN_BYTES_MAX, 25)];

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
    let call = ListCall::envelopes(request);
    let answer: Result<QueryEnvelopesResponse, _> =
        call.make(node.query_channel.clone(), shown_len_bytes_max(client)).await;
    let first = match answer {
        Err(status) if is_long(&status) => return Ok(None),
        answer => answer?.envelopes.into_iter().next(),
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
    let call = ListCall::newest(topics);
    let (answer, place): (GetNewestEnvelopeResponse, _) =
        ask_within(node, &call, usual_len_bytes_max).await?;
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
    let entries_max = request.limit as usize;
    let call = ListCall::envelopes(request);
    let (answer, place): (QueryEnvelopesResponse, _) =
        ask_within(node, &call, usual_len_bytes_max).await?;
    let mut envelopes = answer.envelopes;
    envelopes.truncate(entries_max); // an empty one takes two bytes here, and far more once it is decoded
    Ok((all_decoded(envelopes)?, place))
}

/// Returns the log of an inbox that a node shows. One of more than `len_bytes_max` bytes gives the status OUT_OF_RANGE.
///
/// # Errors
/// The status of the failed query.
pub(crate) async fn query_log(
    node: &Node,
    topic: &Topic,
    len_bytes_max: usize,
) -> Result<Vec<Bytes>, Status> {
    let call = ListCall::log(topic, len_bytes_max);
    let answer: QueryEnvelopesResponse =
        call.make(node.query_channel.clone(), len_bytes_max).await?;
    Ok(answer.envelopes)
}

/// Returns the answer of a node. Asks again with the next place of [`LONG_ANSWERS`] while the answer is longer.
async fn ask_within<T, A>(
    node: &Node,
    call: &ListCall<T>,
    usual_len_bytes_max: usize,
) -> Result<(A, AnswerPlace), Status>
where
    T: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    let mut place: AnswerPlace = None;
    let channel = &node.query_channel;
    let mut answer = call.make::<A>(channel.clone(), usual_len_bytes_max).await;
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
        answer = call.make(channel.clone(), len_bytes_max).await;
    }
    Ok((answer?, place))
}

/// Returns true for the status with which this side ends a call whose answer is longer than it may be.
fn is_long(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}

/// Decodes the outer layers of all envelopes of an answer.
///
/// # Errors
/// INTERNAL if one of them does not decode, as for any other answer that is no message.
pub(super) fn all_decoded(envelopes: Vec<Bytes>) -> Result<Vec<OriginatorEnvelope>, Status> {
    envelopes.into_iter().map(decoded).collect()
}

/// Decodes the outer layer of one envelope.
fn decoded(envelope: Bytes) -> Result<OriginatorEnvelope, Status> {
    OriginatorEnvelope::decode(envelope).map_err(|error| Status::internal(error.to_string()))
}
