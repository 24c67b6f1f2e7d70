//! Asks a node for the envelope at an id, and decodes the envelopes of answers.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Bytes, Cursor, EnvelopeId};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use prost::Message as _;
use tonic::Status;

use super::node::Node;

/// Returns the first envelope that a node shows at this id or after it in the same strand. The answer is not
/// verified.
///
/// # Errors
/// The status of the failed query, or INTERNAL if the envelope does not decode.
pub(crate) async fn query_place(
    node: &Node,
    id: EnvelopeId,
) -> Result<Option<OriginatorEnvelope>, Status> {
    let before = EnvelopeId::new(id.originator, id.sequence.previous());
    let query = EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![id.originator.0],
        last_seen: Some(Cursor::from_iter([before]).to_pb()),
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 1 };
    let mut client = ReplicationApiClient::new(node.query_channel.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let first = client.query_envelopes(request).await?.into_inner().envelopes.into_iter().next();
    first.map(decoded).transpose()
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
