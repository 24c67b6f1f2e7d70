//! The messages of the API, as far as faults change them.

use bytes::Bytes;
use hawser_conformance::wire::{Framed, Lane, List, Number64, SubscribeFrame, SubscribeV1};
use hawser_proto::OriginatorId;
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::pb::hawser::checkpoint_api as proofs;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;

use crate::harness::network::node_key;

const DAY_S: u64 = 24 * 60 * 60;

/// The layout of a method's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A list in field 1: of envelopes, or of results.
    List,
    /// Such a list in a message in field 1.
    Framed,
    /// Frames of `Subscribe`.
    Subscribe,
    /// Anything else.
    Other,
}

impl Layout {
    pub(super) fn of(path: &str) -> Self {
        match path.rsplit('/').next().unwrap_or_default() {
            "QueryEnvelopes"
            | "PublishPayerEnvelopes"
            | "PublishClientEnvelopes"
            | "SubscribeEnvelopes"
            | "SubscribeAllEnvelopes"
            | "GetInboxIds"
            | "QueryMisbehaviorReports"
            | "GetNewestEnvelope" => Self::List,
            "SubscribeTopics" | "SubscribeOriginators" => Self::Framed,
            "Subscribe" => Self::Subscribe,
            _ => Self::Other,
        }
    }

    /// Returns the elements of a message's list; `None` if it has none.
    pub(super) fn items(self, message: &[u8]) -> Option<Vec<Bytes>> {
        let items = match self {
            Self::List => List::decode(message).ok()?.items,
            Self::Framed => Framed::decode(message).ok()?.envelopes?.items,
            Self::Subscribe => SubscribeFrame::decode(message).ok()?.v1?.envelopes?.envelopes,
            Self::Other => return None,
        };
        Some(items).filter(|items| !items.is_empty())
    }

    /// Replaces the elements of a message's list.
    pub(super) fn with_items(self, message: &[u8], items: Vec<Bytes>) -> Bytes {
        let bytes = match self {
            Self::List => List { items }.encode_to_vec(),
            Self::Framed => {
                Framed { envelopes: Some(List { items }), status: None }.encode_to_vec()
            }
            Self::Subscribe => {
                let v1 = SubscribeFrame::decode(message).ok().and_then(|frame| frame.v1);
                let mutate_id = v1.and_then(|v1| v1.envelopes).map_or(0, |lane| lane.mutate_id);
                let lane = Some(Lane { envelopes: items, mutate_id });
                let v1 = Some(SubscribeV1 { envelopes: lane, ..SubscribeV1::default() });
                SubscribeFrame { v1 }.encode_to_vec()
            }
            Self::Other => message.to_vec(),
        };
        bytes.into()
    }
}

/// Changes what an envelope states: expiry, retention and time. Something else is changed by a bit.
pub(super) fn altered(item: &Bytes, number: u32) -> Bytes {
    let change = || {
        let mut envelope = pb::OriginatorEnvelope::decode(item.clone()).ok()?;
        let bytes = envelope.unsigned_originator_envelope.clone();
        let mut unsigned = pb::UnsignedOriginatorEnvelope::decode(bytes).ok()?;
        let mut payer = pb::PayerEnvelope::decode(unsigned.payer_envelope_bytes.clone()).ok()?;
        payer.message_retention_days += number;
        unsigned.payer_envelope_bytes = payer.encode_to_vec().into();
        unsigned.expiry_unixtime += u64::from(number) * 1_000_000;
        envelope.unsigned_originator_envelope = unsigned.encode_to_vec().into();
        Some(Bytes::from(envelope.encode_to_vec()))
    };
    change().unwrap_or_else(|| flipped(item))
}

/// States an expiry that is a day earlier, signed by the key of the envelope's node. Something else stays as it is.
pub(super) fn kept_for_less(item: &Bytes) -> Bytes {
    let change = || {
        let envelope = pb::OriginatorEnvelope::decode(item.clone()).ok()?;
        let bytes = envelope.unsigned_originator_envelope;
        let mut unsigned = pb::UnsignedOriginatorEnvelope::decode(bytes).ok()?;
        unsigned.expiry_unixtime -= DAY_S;
        let key = node_key(OriginatorId(unsigned.originator_node_id));
        Some(UnsealedEnvelope::new(&unsigned).seal(&key))
    };
    change().unwrap_or_else(|| item.clone())
}

/// Changes the third byte, or the last one of a shorter message.
pub(super) fn flipped(message: &[u8]) -> Bytes {
    let mut bytes = message.to_vec();
    let at = 2.min(bytes.len().saturating_sub(1));
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x40;
    }
    bytes.into()
}

/// Changes the first hash of a proof, or the leaf where the proof is empty. Other messages stay as they are.
pub(super) fn wrong_proof(path: &str, message: &Bytes) -> Bytes {
    let change = || {
        let bytes = match path.rsplit('/').next()? {
            "GetInclusion" => {
                let mut answer = proofs::GetInclusionResponse::decode(message.clone()).ok()?;
                let hash = answer.proof.first_mut().unwrap_or(&mut answer.leaf);
                *hash = flipped(hash);
                answer.encode_to_vec()
            }
            "GetConsistency" => {
                let mut answer = proofs::GetConsistencyResponse::decode(message.clone()).ok()?;
                let hash = answer.proof.first_mut()?;
                *hash = flipped(hash);
                answer.encode_to_vec()
            }
            _ => return None,
        };
        Some(Bytes::from(bytes))
    };
    change().unwrap_or_else(|| message.clone())
}

/// Returns the id of a Mutate that has one; `None` for other requests of `Subscribe`.
pub(super) fn mutate_id(message: &[u8]) -> Option<u64> {
    use api::subscribe_request::Version;
    use api::subscribe_request::v1::Request;

    match api::SubscribeRequest::decode(message).ok()?.version? {
        Version::V1(v1) => match v1.request? {
            Request::Mutate(mutate) => Some(mutate.mutate_id).filter(|id| *id != 0),
            Request::Ping(_) | Request::Pong(_) => None,
        },
    }
}

/// Returns the frame that completes the wave of a Mutate.
pub(super) fn completed(mutate_id: u64) -> Vec<u8> {
    let complete = Some(Number64 { value: mutate_id });
    let v1 = Some(SubscribeV1 { complete, ..SubscribeV1::default() });
    SubscribeFrame { v1 }.encode_to_vec()
}

/// Returns true if requests of this method have a cursor.
pub(super) fn has_cursor(path: &str) -> bool {
    let methods =
        ["QueryEnvelopes", "SubscribeTopics", "SubscribeEnvelopes", "SubscribeOriginators"];
    methods.iter().any(|method| path.ends_with(&format!("/{method}")))
}

/// Returns a request that begins at the start and has no limit.
pub(super) fn without_cursor(path: &str, message: &[u8]) -> Vec<u8> {
    let begin = |query: Option<api::EnvelopesQuery>| {
        query.map(|query| api::EnvelopesQuery { last_seen: Some(pb::Cursor::default()), ..query })
    };
    let change = || {
        Some(match path.rsplit('/').next()? {
            "QueryEnvelopes" => {
                let request = api::QueryEnvelopesRequest::decode(message).ok()?;
                api::QueryEnvelopesRequest { query: begin(request.query), limit: 0 }.encode_to_vec()
            }
            "SubscribeEnvelopes" => {
                let request = api::SubscribeEnvelopesRequest::decode(message).ok()?;
                api::SubscribeEnvelopesRequest { query: begin(request.query) }.encode_to_vec()
            }
            "SubscribeTopics" => {
                let mut request = api::SubscribeTopicsRequest::decode(message).ok()?;
                request.filters.iter_mut().for_each(|filter| filter.last_seen = None);
                request.encode_to_vec()
            }
            _ => {
                let mut request = api::SubscribeOriginatorsRequest::decode(message).ok()?;
                request.filter.as_mut()?.last_seen = Some(pb::Cursor::default());
                request.encode_to_vec()
            }
        })
    };
    change().unwrap_or_else(|| message.to_vec())
}
