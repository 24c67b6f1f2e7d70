//! Shared parts of the vector tests: the files, and the generated types by full name.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_proto::pb::xmtp;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::{DecodeError, Message, Name};
use serde::de::DeserializeOwned;

/// Decodes bytes as one generated type and encodes the result.
pub(crate) type Recode = fn(Bytes) -> Result<Vec<u8>, DecodeError>;

/// Reads a file of vectors, one JSON object a line. There has to be at least one.
pub(crate) fn vectors<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = format!("{}/../tests/vectors/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let vectors: Vec<T> =
        text.lines().map(|line| serde_json::from_str(line).expect("a vector a line")).collect();
    assert!(!vectors.is_empty(), "{path} is empty");
    vectors
}

fn recode<M: Message + Default>(bytes: Bytes) -> Result<Vec<u8>, DecodeError> {
    Ok(M::decode(bytes)?.encode_to_vec())
}

/// Every generated message, by the full name that it gives itself.
pub(crate) fn table() -> BTreeMap<String, Recode> {
    let mut table = generated();
    for (name, function) in with_envelopes() {
        assert!(table.insert(name, function).is_some());
    }
    table
}

/// Decodes and encodes a message in which envelopes are bytes. Its readers decode them next, so that one which does not
/// decode counts as an error here.
fn recode_with<M: Message + Default>(
    bytes: Bytes,
    inside: fn(&mut M) -> Result<(), DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    let mut message = M::decode(bytes)?;
    inside(&mut message)?;
    Ok(message.encode_to_vec())
}

fn recode_all(envelopes: &mut [Bytes]) -> Result<(), DecodeError> {
    for envelope in envelopes {
        *envelope = recode::<OriginatorEnvelope>(envelope.clone())?.into();
    }
    Ok(())
}

fn recode_list(bytes: Bytes) -> Result<Vec<u8>, DecodeError> {
    recode_with::<api::subscribe_originators_response::Envelopes>(bytes, |message| {
        recode_all(&mut message.envelopes)
    })
}

fn recode_in_topics(message: &mut api::SubscribeTopicsResponse) -> Result<(), DecodeError> {
    match &mut message.response {
        Some(api::subscribe_topics_response::Response::Envelopes(list)) => {
            recode_all(&mut list.envelopes)
        }
        _ => Ok(()),
    }
}

fn recode_in_frame(message: &mut api::subscribe_response::V1) -> Result<(), DecodeError> {
    match &mut message.response {
        Some(api::subscribe_response::v1::Response::Envelopes(list)) => {
            recode_all(&mut list.envelopes)
        }
        _ => Ok(()),
    }
}

/// The messages in which the generated types have envelopes as bytes, and those around them.
fn with_envelopes() -> [(String, Recode); 9] {
    use api::{subscribe_originators_response, subscribe_response, subscribe_topics_response};

    fn named<M: Name>(recode: Recode) -> (String, Recode) {
        (M::full_name(), recode)
    }
    [
        named::<api::QueryEnvelopesResponse>(|bytes| {
            recode_with::<api::QueryEnvelopesResponse>(bytes, |it| recode_all(&mut it.envelopes))
        }),
        named::<api::SubscribeEnvelopesResponse>(|bytes| {
            recode_with::<api::SubscribeEnvelopesResponse>(bytes, |it| {
                recode_all(&mut it.envelopes)
            })
        }),
        named::<subscribe_originators_response::Envelopes>(recode_list),
        named::<api::SubscribeOriginatorsResponse>(|bytes| {
            recode_with::<api::SubscribeOriginatorsResponse>(bytes, |it| {
                let Some(subscribe_originators_response::Response::Envelopes(list)) =
                    &mut it.response
                else {
                    return Ok(());
                };
                *list = recode_list(list.clone())?.into();
                Ok(())
            })
        }),
        named::<subscribe_topics_response::Envelopes>(|bytes| {
            recode_with::<subscribe_topics_response::Envelopes>(bytes, |it| {
                recode_all(&mut it.envelopes)
            })
        }),
        named::<api::SubscribeTopicsResponse>(|bytes| recode_with(bytes, recode_in_topics)),
        named::<subscribe_response::v1::Envelopes>(|bytes| {
            recode_with::<subscribe_response::v1::Envelopes>(bytes, |it| {
                recode_all(&mut it.envelopes)
            })
        }),
        named::<subscribe_response::V1>(|bytes| recode_with(bytes, recode_in_frame)),
        named::<api::SubscribeResponse>(|bytes| {
            recode_with::<api::SubscribeResponse>(bytes, |it| match &mut it.version {
                Some(subscribe_response::Version::V1(frame)) => recode_in_frame(frame),
                None => Ok(()),
            })
        }),
    ]
}

macro_rules! table {
    ($($($package:ident)::+ { $($($message:ident)::+,)+ })+) => {
        fn generated() -> BTreeMap<String, Recode> {
            let mut table = BTreeMap::new();
            $({
                use $($package)::+ as package;
                $(
                    let name = package::$($message)::+::full_name();
                    let function: Recode = recode::<package::$($message)::+>;
                    assert!(table.insert(name, function).is_none());
                )+
            })+
            table
        }
    };
}

table! {
    xmtp::identity {
        MlsCredential,
    }
    xmtp::identity::api::v1 {
        GetIdentityUpdatesRequest,
        GetIdentityUpdatesResponse,
        GetInboxIdsRequest,
        GetInboxIdsResponse,
        PublishIdentityUpdateRequest,
        PublishIdentityUpdateResponse,
        VerifySmartContractWalletSignatureRequestSignature,
        VerifySmartContractWalletSignaturesRequest,
        VerifySmartContractWalletSignaturesResponse,
        get_identity_updates_request::Request,
        get_identity_updates_response::IdentityUpdateLog,
        get_identity_updates_response::Response,
        get_inbox_ids_request::Request,
        get_inbox_ids_response::Response,
        verify_smart_contract_wallet_signatures_response::ValidationResponse,
    }
    xmtp::identity::associations {
        AddAssociation,
        AssociationState,
        AssociationStateDiff,
        ChangeRecoveryAddress,
        CreateInbox,
        IdentityAction,
        IdentityUpdate,
        LegacyDelegatedSignature,
        Member,
        MemberIdentifier,
        MemberMap,
        Passkey,
        RecoverableEcdsaSignature,
        RecoverableEd25519Signature,
        RecoverablePasskeySignature,
        RevokeAssociation,
        Signature,
        SmartContractWalletSignature,
    }
    xmtp::message_contents {
        Signature,
        SignedPublicKey,
        UnsignedPublicKey,
        signature::EcdsaCompact,
        signature::WalletEcdsaCompact,
        unsigned_public_key::Secp256k1Uncompressed,
    }
    xmtp::migration::api::v1 {
        FetchD14nCutoverResponse,
    }
    xmtp::mls::api::v1 {
        BatchPublishCommitLogRequest,
        BatchQueryCommitLogRequest,
        BatchQueryCommitLogResponse,
        FetchKeyPackagesRequest,
        FetchKeyPackagesResponse,
        GetIdentityUpdatesRequest,
        GetIdentityUpdatesResponse,
        GetNewestGroupMessageRequest,
        GetNewestGroupMessageResponse,
        GroupMessage,
        GroupMessageInput,
        KeyPackageUpload,
        PagingInfo,
        Ping,
        Pong,
        PublishCommitLogRequest,
        QueryCommitLogRequest,
        QueryCommitLogResponse,
        QueryGroupMessagesRequest,
        QueryGroupMessagesResponse,
        QueryWelcomeMessagesRequest,
        QueryWelcomeMessagesResponse,
        RegisterInstallationRequest,
        RegisterInstallationResponse,
        RevokeInstallationRequest,
        SendGroupMessagesRequest,
        SendWelcomeMessagesRequest,
        SubscribeGroupMessagesRequest,
        SubscribeRequest,
        SubscribeResponse,
        SubscribeWelcomeMessagesRequest,
        UploadKeyPackageRequest,
        WelcomeMessage,
        WelcomeMessageInput,
        WelcomeMetadata,
        fetch_key_packages_response::KeyPackage,
        get_identity_updates_response::NewInstallationUpdate,
        get_identity_updates_response::RevokedInstallationUpdate,
        get_identity_updates_response::Update,
        get_identity_updates_response::WalletUpdates,
        get_newest_group_message_response::Response,
        group_message::V1,
        group_message_input::V1,
        subscribe_group_messages_request::Filter,
        subscribe_request::V1,
        subscribe_request::v1::Mutate,
        subscribe_request::v1::mutate::Subscription,
        subscribe_response::V1,
        subscribe_response::v1::CatchupComplete,
        subscribe_response::v1::Messages,
        subscribe_response::v1::Started,
        subscribe_response::v1::TopicsLive,
        subscribe_welcome_messages_request::Filter,
        welcome_message::V1,
        welcome_message::WelcomePointer,
        welcome_message_input::V1,
        welcome_message_input::WelcomePointer,
    }
    xmtp::mls::message_contents {
        CommitLogEntry,
        PlaintextCommitLogEntry,
        WelcomePointeeEncryptionAeadTypesExtension,
        WelcomePointer,
        WelcomeWrapperEncryption,
        welcome_pointer::WelcomeV1Pointer,
    }
    xmtp::mls_validation::v1 {
        GetAssociationStateRequest,
        GetAssociationStateResponse,
        ValidateGroupMessagesRequest,
        ValidateGroupMessagesResponse,
        ValidateInboxIdKeyPackagesRequest,
        ValidateInboxIdKeyPackagesResponse,
        ValidateKeyPackagesRequest,
        ValidateKeyPackagesResponse,
        validate_group_messages_request::GroupMessage,
        validate_group_messages_response::ValidationResponse,
        validate_inbox_id_key_packages_request::KeyPackage,
        validate_inbox_id_key_packages_response::Response,
        validate_key_packages_request::KeyPackage,
        validate_key_packages_response::ValidationResponse,
    }
    xmtp::xmtpv4::envelopes {
        AuthenticatedData,
        BlockchainProof,
        ClientEnvelope,
        Cursor,
        NodeSignature,
        OriginatorEnvelope,
        PayerEnvelope,
        PayerReport,
        PayerReportAttestation,
        UnsignedOriginatorEnvelope,
    }
    xmtp::xmtpv4::message_api {
        EnvelopesQuery,
        GetInboxIdsRequest,
        GetInboxIdsResponse,
        GetNewestEnvelopeRequest,
        GetNewestEnvelopeResponse,
        LivenessFailure,
        MisbehaviorReport,
        Ping,
        Pong,
        PublishPayerEnvelopesRequest,
        PublishPayerEnvelopesResponse,
        QueryEnvelopesRequest,
        QueryEnvelopesResponse,
        QueryMisbehaviorReportsRequest,
        QueryMisbehaviorReportsResponse,
        SafetyFailure,
        SubmitMisbehaviorReportRequest,
        SubmitMisbehaviorReportResponse,
        SubscribeAllEnvelopesRequest,
        SubscribeEnvelopesRequest,
        SubscribeEnvelopesResponse,
        SubscribeOriginatorsRequest,
        SubscribeOriginatorsResponse,
        SubscribeRequest,
        SubscribeResponse,
        SubscribeTopicsRequest,
        SubscribeTopicsResponse,
        UnsignedMisbehaviorReport,
        get_inbox_ids_request::Request,
        get_inbox_ids_response::Response,
        get_newest_envelope_response::Response,
        subscribe_originators_request::OriginatorFilter,
        subscribe_originators_response::Envelopes,
        subscribe_request::V1,
        subscribe_request::v1::Mutate,
        subscribe_request::v1::mutate::Subscription,
        subscribe_response::V1,
        subscribe_response::v1::CatchupComplete,
        subscribe_response::v1::Envelopes,
        subscribe_response::v1::Started,
        subscribe_response::v1::TopicsLive,
        subscribe_topics_request::TopicFilter,
        subscribe_topics_response::Envelopes,
        subscribe_topics_response::StatusUpdate,
    }
    xmtp::xmtpv4::metadata_api {
        GetPayerInfoRequest,
        GetPayerInfoResponse,
        GetSyncCursorRequest,
        GetSyncCursorResponse,
        GetVersionRequest,
        GetVersionResponse,
        get_payer_info_response::PayerInfo,
        get_payer_info_response::PeriodSummary,
    }
    xmtp::xmtpv4::payer_api {
        GetNodesRequest,
        GetNodesResponse,
        PublishClientEnvelopesRequest,
        PublishClientEnvelopesResponse,
    }
}
