//! Everything that is served, by its full name.

use hawser_serve::{Method, MethodKind};

use MethodKind::{Bidi, ServerStream, Unary};

const REPLICATION: &str = "xmtp.xmtpv4.message_api.ReplicationApi";
const QUERY: &str = "xmtp.xmtpv4.message_api.QueryApi";
const NOTIFICATION: &str = "xmtp.xmtpv4.message_api.NotificationApi";
const METADATA: &str = "xmtp.xmtpv4.metadata_api.MetadataApi";
const PUBLISH: &str = "xmtp.xmtpv4.message_api.PublishApi";

/// Services that are as healthy as reading is.
pub(crate) const READING_SERVICES: [&str; 4] = [QUERY, REPLICATION, NOTIFICATION, METADATA];
/// The service that is as healthy as publishing is.
pub(crate) const PUBLISHING_SERVICE: &str = PUBLISH;
/// What reflection lists, besides itself.
pub(crate) const SERVICES: [&str; 6] =
    [QUERY, REPLICATION, NOTIFICATION, METADATA, PUBLISH, "grpc.health.v1.Health"];

/// A method that hands out envelopes, which are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlet {
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

impl Outlet {
    /// All of them, in the order of their numbers.
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

    /// The path of its requests.
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

    fn method(self) -> Method {
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
        Method::new(self.path(), kind)
    }
}

/// The other methods.
const OTHERS: [Method; 11] = [
    Method::new("/xmtp.xmtpv4.message_api.ReplicationApi/GetInboxIds", Unary),
    Method::new("/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds", Unary),
    Method::new("/xmtp.xmtpv4.message_api.QueryApi/Subscribe", Bidi),
    Method::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor", Unary),
    Method::new("/xmtp.xmtpv4.metadata_api.MetadataApi/SubscribeSyncCursor", ServerStream),
    Method::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion", Unary),
    Method::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo", Unary),
    Method::new("/grpc.health.v1.Health/Check", Unary),
    Method::new("/grpc.health.v1.Health/Watch", ServerStream),
    Method::new("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Bidi),
    Method::new("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Bidi),
];

/// Every method that is counted by itself.
pub(crate) fn all() -> Vec<Method> {
    Outlet::ALL.into_iter().map(Outlet::method).chain(OTHERS).collect()
}
