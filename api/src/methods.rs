//! The services and methods of the node by their full names.

use hawser_serve::readiness::Purpose;
use hawser_serve::{MethodKind, RpcMethod};

use MethodKind::{Bidi, ServerStream, Unary};

const REPLICATION: &str = "xmtp.xmtpv4.message_api.ReplicationApi";
const QUERY: &str = "xmtp.xmtpv4.message_api.QueryApi";
const NOTIFICATION: &str = "xmtp.xmtpv4.message_api.NotificationApi";
const METADATA: &str = "xmtp.xmtpv4.metadata_api.MetadataApi";
const PUBLISH: &str = "xmtp.xmtpv4.message_api.PublishApi";

/// The services of health checks, each with the purpose that makes it SERVING.
pub(crate) const HEALTH: [(&str, Purpose); 5] = [
    (QUERY, Purpose::Read),
    (REPLICATION, Purpose::Read),
    (NOTIFICATION, Purpose::Read),
    (METADATA, Purpose::Read),
    (PUBLISH, Purpose::Publish),
];
/// The services that reflection lists, besides itself.
pub(crate) const SERVICES: [&str; 6] =
    [QUERY, REPLICATION, NOTIFICATION, METADATA, PUBLISH, "grpc.health.v1.Health"];

/// A method that hands out envelopes. Envelopes are counted by method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnvelopeMethod {
    ReplicationQuery,
    ReplicationNewest,
    ReplicationTopics,
    ReplicationEnvelopes,
    ReplicationOriginators,
    ReplicationPublish,
    Query,
    QueryNewest,
    QueryTopics,
    Publish,
    All,
}

impl EnvelopeMethod {
    /// All of them, in the order of their discriminants.
    pub(crate) const ALL: [Self; 11] = [
        Self::ReplicationQuery,
        Self::ReplicationNewest,
        Self::ReplicationTopics,
        Self::ReplicationEnvelopes,
        Self::ReplicationOriginators,
        Self::ReplicationPublish,
        Self::Query,
        Self::QueryNewest,
        Self::QueryTopics,
        Self::Publish,
        Self::All,
    ];

    /// Returns the path of its requests.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::ReplicationQuery => "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes",
            Self::ReplicationNewest => "/xmtp.xmtpv4.message_api.ReplicationApi/GetNewestEnvelope",
            Self::ReplicationTopics => "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeTopics",
            Self::ReplicationEnvelopes => {
                "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes"
            }
            Self::ReplicationOriginators => {
                "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators"
            }
            Self::ReplicationPublish => {
                "/xmtp.xmtpv4.message_api.ReplicationApi/PublishPayerEnvelopes"
            }
            Self::Query => "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes",
            Self::QueryNewest => "/xmtp.xmtpv4.message_api.QueryApi/GetNewestEnvelope",
            Self::QueryTopics => "/xmtp.xmtpv4.message_api.QueryApi/SubscribeTopics",
            Self::Publish => "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes",
            Self::All => "/xmtp.xmtpv4.message_api.NotificationApi/SubscribeAllEnvelopes",
        }
    }

    fn method(self) -> RpcMethod {
        let kind = match self {
            Self::ReplicationTopics
            | Self::ReplicationEnvelopes
            | Self::ReplicationOriginators
            | Self::QueryTopics
            | Self::All => ServerStream,
            Self::ReplicationQuery
            | Self::ReplicationNewest
            | Self::ReplicationPublish
            | Self::Query
            | Self::QueryNewest
            | Self::Publish => Unary,
        };
        RpcMethod::new(self.path(), kind)
    }
}

/// Methods that hand out no envelopes.
const OTHERS: [RpcMethod; 11] = [
    RpcMethod::new("/xmtp.xmtpv4.message_api.ReplicationApi/GetInboxIds", Unary),
    RpcMethod::new("/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds", Unary),
    RpcMethod::new("/xmtp.xmtpv4.message_api.QueryApi/Subscribe", Bidi),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor", Unary),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/SubscribeSyncCursor", ServerStream),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion", Unary),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo", Unary),
    RpcMethod::new("/grpc.health.v1.Health/Check", Unary),
    RpcMethod::new("/grpc.health.v1.Health/Watch", ServerStream),
    RpcMethod::new("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Bidi),
    RpcMethod::new("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Bidi),
];

/// Returns every method with metrics of its own.
pub(crate) fn all() -> Vec<RpcMethod> {
    EnvelopeMethod::ALL.into_iter().map(EnvelopeMethod::method).chain(OTHERS).collect()
}
