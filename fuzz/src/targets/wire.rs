//! Fuzz target: every message that a node decodes from outside, with the generated protobuf types.

use std::fmt::Debug;

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::mls_validation::v1 as validation;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes, message_api, metadata_api, payer_api};
use prost::Message;

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "wire", run, seeds: corpus::messages, memory_factor: 2 * DECODED_PER_BYTE };

/// Bytes that a decoded message may hold for each of its bytes, measured. It is much, because protobuf
/// writes an empty submessage in two bytes and a vector makes room for four of them at once: the
/// four bytes of an `IdentityUpdate` with one empty `IdentityAction` (352 bytes) hold 1,464, and the
/// vector around them half as much again while it grows.
pub(super) const DECODED_PER_BYTE: usize = 400;

/// A message read, written and read again is the same message.
fn recode<M: Message + Default + PartialEq + Debug>(input: &Bytes) {
    let Ok(message) = M::decode(input.clone()) else { return };
    let written = Bytes::from(message.encode_to_vec());
    assert_eq!(written.len(), message.encoded_len());
    let again = M::decode(written).expect("what was written can be read");
    assert_eq!(again, message);
}

macro_rules! recode_each {
    ($input:expr; $($($message:ident)::+),+ $(,)?) => {
        $(recode::<$($message)::+>($input);)+
    };
}

fn run(input: &[u8]) {
    let input = &Bytes::copy_from_slice(input);
    recode_each!(input;
        MlsCredential,
        envelopes::ClientEnvelope,
        envelopes::OriginatorEnvelope,
        envelopes::PayerEnvelope,
        envelopes::UnsignedOriginatorEnvelope,
        message_api::GetInboxIdsRequest,
        message_api::GetInboxIdsResponse,
        message_api::GetNewestEnvelopeRequest,
        message_api::GetNewestEnvelopeResponse,
        message_api::MisbehaviorReport,
        message_api::PublishPayerEnvelopesRequest,
        message_api::PublishPayerEnvelopesResponse,
        message_api::QueryEnvelopesRequest,
        message_api::QueryEnvelopesResponse,
        message_api::QueryMisbehaviorReportsRequest,
        message_api::QueryMisbehaviorReportsResponse,
        message_api::SubmitMisbehaviorReportRequest,
        message_api::SubscribeAllEnvelopesRequest,
        message_api::SubscribeEnvelopesRequest,
        message_api::SubscribeEnvelopesResponse,
        message_api::SubscribeOriginatorsRequest,
        message_api::SubscribeOriginatorsResponse,
        message_api::SubscribeRequest,
        message_api::SubscribeResponse,
        message_api::SubscribeTopicsRequest,
        message_api::SubscribeTopicsResponse,
        message_api::UnsignedMisbehaviorReport,
        metadata_api::GetPayerInfoRequest,
        metadata_api::GetPayerInfoResponse,
        metadata_api::GetSyncCursorRequest,
        metadata_api::GetSyncCursorResponse,
        metadata_api::GetVersionResponse,
        payer_api::GetNodesResponse,
        payer_api::PublishClientEnvelopesRequest,
        payer_api::PublishClientEnvelopesResponse,
        validation::GetAssociationStateRequest,
        validation::GetAssociationStateResponse,
        validation::ValidateGroupMessagesRequest,
        validation::ValidateGroupMessagesResponse,
        validation::ValidateInboxIdKeyPackagesRequest,
        validation::ValidateInboxIdKeyPackagesResponse,
    );
}
