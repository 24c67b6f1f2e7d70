//! Calls to nodes whose answers are lists.
//!
//! A node may lie, and fill its answer with empty entries. Each takes two bytes on the wire, and tens of times as much
//! once it is decoded, for as long as the node holds back the end of the call. So an answer with far more fields than
//! an honest node sends is refused before it is decoded.

use hawser_proto::codec::BoundedCodec;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetNewestEnvelopeRequest, PublishPayerEnvelopesRequest,
    PublishPayerEnvelopesResponse, QueryEnvelopesRequest,
};
use hawser_proto::{Bytes, Topic};
use hawser_serve::{CheckedChannel, MESSAGE_LEN_BYTES_MAX};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};

use super::answer::AnswerError;

/// Fields of an entry of an answer, itself included. Calculated: an entry has three, and later versions of the schema
/// may add some.
const ENTRY_FIELDS_MAX: usize = 16;
/// Bytes of the log of an inbox for each of its fields. Calculated: an entry has three, and the shortest update has
/// more than 200 bytes with the layers around it.
const LOG_FIELD_LEN_BYTES: usize = 64;

const QUERY_ENVELOPES: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
const GET_NEWEST: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/GetNewestEnvelope";
const PUBLISH: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/PublishPayerEnvelopes";

/// A call whose answer is a list.
#[derive(Debug)]
pub(super) struct ListCall<T> {
    /// The path of the method.
    path: &'static str,
    request: T,
    /// The maximum number of fields of the answer.
    fields_max: usize,
}

impl ListCall<QueryEnvelopesRequest> {
    /// Creates a call for as many envelopes as `request` says, which has a limit.
    pub(super) fn envelopes(request: QueryEnvelopesRequest) -> Self {
        let fields_max = fields_of(request.limit as usize);
        Self { path: QUERY_ENVELOPES, request, fields_max }
    }

    /// Creates a call for the whole log of an inbox, for an answer of at most `len_bytes_max` bytes.
    pub(super) fn log(topic: &Topic, len_bytes_max: usize) -> Self {
        let query = EnvelopesQuery {
            topics: vec![topic.as_bytes().clone()],
            originator_node_ids: Vec::new(),
            last_seen: None,
        };
        // Without a limit nodes return the whole log of an inbox (`docs/protocol/api.md`).
        let request = QueryEnvelopesRequest { query: Some(query), limit: 0 };
        Self { path: QUERY_ENVELOPES, request, fields_max: len_bytes_max / LOG_FIELD_LEN_BYTES }
    }
}

impl ListCall<GetNewestEnvelopeRequest> {
    /// Creates a call for the newest envelope of each topic.
    pub(super) fn newest(topics: Vec<Bytes>) -> Self {
        let fields_max = fields_of(topics.len());
        Self { path: GET_NEWEST, request: GetNewestEnvelopeRequest { topics }, fields_max }
    }
}

impl<T: Message + Clone + 'static> ListCall<T> {
    /// Makes the call, and returns the answer. One of more than `len_bytes_max` bytes gives the status OUT_OF_RANGE,
    /// and one with too many fields RESOURCE_EXHAUSTED: neither is decoded.
    ///
    /// # Errors
    /// The status of the failed call.
    pub(super) async fn make<A>(
        &self,
        channel: CheckedChannel,
        len_bytes_max: usize,
    ) -> Result<A, Status>
    where
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(channel)
            .max_decoding_message_size(len_bytes_max)
            .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = BoundedCodec::with_fields_max(self.fields_max);
        let path = PathAndQuery::from_static(self.path);
        let answer = grpc.unary(Request::new(self.request.clone()), path, codec).await?;
        Ok(answer.into_inner())
    }

    /// Returns the fault of an answer that was not decoded; `None` if the status says something else.
    fn fault_of(&self, status: &Status, len_bytes_max: usize) -> Option<AnswerError> {
        let fields_max = self.fields_max;
        let too_long = format!("the limit is: {len_bytes_max} bytes");
        let too_many = format!("message has more than {fields_max} fields");
        match status.code() {
            Code::OutOfRange if status.message().ends_with(&too_long) => {
                Some(AnswerError::TooLong { len_bytes_max })
            }
            Code::ResourceExhausted if status.message() == too_many => {
                Some(AnswerError::TooManyFields { fields_max })
            }
            _ => None,
        }
    }
}

/// Returns the most fields of an answer with this number of entries.
fn fields_of(entries: usize) -> usize {
    entries.saturating_mul(ENTRY_FIELDS_MAX)
}

/// Asks a node to publish payer envelopes. Returns the envelopes of its answer, one for each, not verified. If the
/// answer has another number of envelopes, or is not decoded because of its length or number of fields, returns the
/// fault: the node may have published.
///
/// # Errors
/// The status of the failed call.
pub(super) async fn publish(
    channel: CheckedChannel,
    payer_envelopes: Vec<pb::PayerEnvelope>,
    len_bytes_max: usize,
) -> Result<Result<Vec<pb::OriginatorEnvelope>, AnswerError>, Status> {
    let asked = payer_envelopes.len();
    let request = PublishPayerEnvelopesRequest { payer_envelopes };
    let call = ListCall { path: PUBLISH, request, fields_max: fields_of(asked) };
    let answer: Result<PublishPayerEnvelopesResponse, _> = call.make(channel, len_bytes_max).await;
    match answer.map(|answer| answer.originator_envelopes) {
        Ok(envelopes) if envelopes.len() == asked => Ok(Ok(envelopes)),
        Ok(envelopes) => Ok(Err(AnswerError::Count { asked, got: envelopes.len() })),
        Err(status) => match call.fault_of(&status, len_bytes_max) {
            Some(fault) => Ok(Err(fault)),
            None => Err(status),
        },
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::TopicKind;
    use hawser_proto::budget::has_at_most;
    use hawser_proto::pb::xmtp::xmtpv4::message_api::QueryEnvelopesResponse;

    use super::*;

    #[test]
    fn an_answer_that_was_not_decoded_is_told_from_a_refusal() {
        let call = ListCall::newest(vec![Bytes::new(); 2]);
        let text = "decoded message length too large: found 70 bytes, the limit is: 60 bytes";
        let too_long = Some(AnswerError::TooLong { len_bytes_max: 60 });
        assert_eq!(call.fault_of(&Status::out_of_range(text), 60), too_long);
        assert_eq!(call.fault_of(&Status::out_of_range(text), 61), None, "the limit of the node");
        let status =
            |fields| Status::resource_exhausted(format!("message has more than {fields} fields"));
        let too_many = Some(AnswerError::TooManyFields { fields_max: 32 });
        assert_eq!(call.fault_of(&status(32), 60), too_many);
        assert_eq!(call.fault_of(&status(1 << 20), 60), None, "the limit of the node");
        assert_eq!(call.fault_of(&Status::resource_exhausted("congested"), 60), None);
    }

    #[test]
    fn a_log_has_room_for_the_shortest_updates_and_none_for_empty_entries() {
        const LEN_BYTES_MAX: usize = 1 << 20;
        let topic = Topic::new(TopicKind::IdentityUpdates, &[7; 32]).unwrap();
        let call = ListCall::log(&topic, LEN_BYTES_MAX);
        let log = |envelope: Bytes| {
            let count = LEN_BYTES_MAX / (envelope.len() + 3);
            QueryEnvelopesResponse { envelopes: vec![envelope; count] }.encode_to_vec()
        };
        let proof = pb::BlockchainProof { transaction_hash: vec![7; 32].into() };
        let shortest = pb::OriginatorEnvelope {
            unsigned_originator_envelope: vec![7; 165].into(),
            proof: Some(pb::originator_envelope::Proof::BlockchainProof(proof)),
        };
        let shortest = log(shortest.encode_to_vec().into());
        assert!((LEN_BYTES_MAX / 2..=LEN_BYTES_MAX).contains(&shortest.len()));
        assert!(has_at_most(&shortest, call.fields_max, 2));
        assert!(!has_at_most(&log(Bytes::new()), call.fields_max, 2));
    }
}
