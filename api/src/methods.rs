//! The services and methods of the node by their full names.

use hawser_serve::readiness::Purpose;
use hawser_serve::{FieldCost, MethodKind, RpcMethod};
use tonic::Status;

use crate::error::{CallError, into_status};
use crate::limits::{
    FILTERS, IDENTIFIERS_MAX, LimitError, PAYERS_MAX, PUBLISHED_MAX, QUERY_TOPICS, SELECTED_MAX,
    TOPICS,
};
use crate::stream_error::{ADDS_MAX, MutateError, StreamError};

use MethodKind::{Bidi, ServerStream, Unary};

const REPLICATION: &str = "xmtp.xmtpv4.message_api.ReplicationApi";
const QUERY: &str = "xmtp.xmtpv4.message_api.QueryApi";
const NOTIFICATION: &str = "xmtp.xmtpv4.message_api.NotificationApi";
const METADATA: &str = "xmtp.xmtpv4.metadata_api.MetadataApi";
const CHECKPOINT: &str = "hawser.checkpoint_api.CheckpointApi";
const PUBLISH: &str = "xmtp.xmtpv4.message_api.PublishApi";
const MISBEHAVIOR: &str = "xmtp.xmtpv4.message_api.MisbehaviorApi";

/// The services with their purposes, as [`services`] returns them.
const SERVICES: [(&str, Purpose); 7] = [
    (QUERY, Purpose::Read),
    (REPLICATION, Purpose::Read),
    (NOTIFICATION, Purpose::Read),
    (METADATA, Purpose::Read),
    (CHECKPOINT, Purpose::Read),
    (MISBEHAVIOR, Purpose::Read),
    (PUBLISH, Purpose::Publish),
];

/// Returns the services of this node, each with the purpose that makes it SERVING in health checks. Only that of
/// reports of misbehaviour can be switched off.
pub(crate) fn services(with_reports: bool) -> impl Iterator<Item = (&'static str, Purpose)> {
    SERVICES.into_iter().filter(move |(name, _)| with_reports || *name != MISBEHAVIOR)
}

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
    Subscribe,
    Publish,
    All,
}

impl EnvelopeMethod {
    /// All methods with envelopes, in the order of their discriminants.
    pub(crate) const ALL: [Self; 12] = [
        Self::ReplicationQuery,
        Self::ReplicationNewest,
        Self::ReplicationTopics,
        Self::ReplicationEnvelopes,
        Self::ReplicationOriginators,
        Self::ReplicationPublish,
        Self::Query,
        Self::QueryNewest,
        Self::QueryTopics,
        Self::Subscribe,
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
            Self::Subscribe => "/xmtp.xmtpv4.message_api.QueryApi/Subscribe",
            Self::Publish => "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes",
            Self::All => "/xmtp.xmtpv4.message_api.NotificationApi/SubscribeAllEnvelopes",
        }
    }

    /// Returns the memory cost of each repeated field of a decoded request.
    fn fields(self) -> &'static [FieldCost] {
        match self {
            Self::ReplicationPublish | Self::Publish => PUBLISH_FIELDS,
            Self::ReplicationQuery | Self::Query => QUERY_FIELDS,
            Self::ReplicationEnvelopes => SUBSCRIPTION_FIELDS,
            Self::ReplicationNewest | Self::QueryNewest => NEWEST_FIELDS,
            Self::ReplicationTopics | Self::QueryTopics => TOPICS_FIELDS,
            Self::ReplicationOriginators => ORIGINATORS_FIELDS,
            Self::Subscribe => SUBSCRIBE_FIELDS,
            Self::All => &[],
        }
    }

    fn method(self) -> RpcMethod {
        let kind = match self {
            Self::ReplicationTopics
            | Self::ReplicationEnvelopes
            | Self::ReplicationOriginators
            | Self::QueryTopics
            | Self::All => ServerStream,
            Self::Subscribe => Bidi,
            Self::ReplicationQuery
            | Self::ReplicationNewest
            | Self::ReplicationPublish
            | Self::Query
            | Self::QueryNewest
            | Self::Publish => Unary,
        };
        let method = RpcMethod::new(self.path(), kind).decoding(self.fields());
        // The handler reads requests as they arrive, and charges those that must wait.
        if self == Self::Subscribe { method.taking_messages() } else { method }
    }
}

/// Multiple of the elements which a handler takes that is decoded. More are refused before, with the status of the
/// handler: decoding hundreds of thousands of them takes a thread of the runtime for many milliseconds.
const DECODED: usize = 2;

fn too_many_envelopes(count: usize) -> Status {
    into_status(CallError::Request(LimitError::TooManyPublished(count)))
}

fn too_many_queried(count: usize) -> Status {
    into_status(CallError::Query(LimitError::TooMany(count, QUERY_TOPICS)))
}

fn too_many_newest(count: usize) -> Status {
    into_status(CallError::Query(LimitError::TooMany(count, TOPICS)))
}

fn too_many_subscribed(count: usize) -> Status {
    into_status(CallError::of_subscription(LimitError::TooMany(count, QUERY_TOPICS)))
}

fn too_many_filters(count: usize) -> Status {
    into_status(CallError::of_subscription(LimitError::TooMany(count, FILTERS)))
}

fn too_many_adds(count: usize) -> Status {
    into_status(StreamError::Mutate(MutateError::TooManyAdds(count)))
}

fn too_many_identifiers(count: usize) -> Status {
    into_status(CallError::Request(LimitError::TooManyIdentifiers(count)))
}

fn too_many_payers(count: usize) -> Status {
    into_status(CallError::Request(LimitError::TooManyPayers(count)))
}

/// Entries of a cursor, each of a hash table when it is decoded, and of a tree after that.
const CURSOR: &[FieldCost] = &[FieldCost::each(1, 48, &[])];

/// Payer envelopes, each with its client envelope: its dependencies, and the payloads that decode into many small
/// messages. The costs are counted from the types, with room to spare.
const PUBLISH_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    1024,
    &[FieldCost::each(
        1,
        0,
        &[
            FieldCost::each(1, 0, &[FieldCost::each(3, 192, CURSOR)]),
            FieldCost::by_length(5, 300),
            FieldCost::each(6, 600, &[FieldCost::by_length(6, 16)]),
            FieldCost::by_length(7, 300),
        ],
    )
    .decoded_apart()],
)
.at_most(DECODED * PUBLISHED_MAX, too_many_envelopes)];

/// Topics, each with its place in a plan and first rows; originators; a cursor.
const QUERY_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    0,
    &[TOPIC.at_most(DECODED * SELECTED_MAX, too_many_queried), ORIGINATORS, LAST_SEEN],
)];

/// The fields of [`QUERY_FIELDS`] in a subscription. A subscription is refused with another status, and registers each
/// originator.
const SUBSCRIPTION_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    0,
    &[
        TOPIC.at_most(DECODED * SELECTED_MAX, too_many_subscribed),
        FieldCost::by_length(2, REGISTERED_BYTES),
        LAST_SEEN,
    ],
)];

/// A topic of an `EnvelopesQuery`.
const TOPIC: FieldCost = FieldCost::each(1, 1024, &[]);
/// The originators of an `EnvelopesQuery`.
const ORIGINATORS: FieldCost = FieldCost::by_length(2, 16);
/// The cursor of an `EnvelopesQuery`.
const LAST_SEEN: FieldCost = FieldCost::each(3, 192, CURSOR);

/// Topics, each with its row.
const NEWEST_FIELDS: &[FieldCost] =
    &[FieldCost::each(1, 512, &[]).at_most(DECODED * SELECTED_MAX, too_many_newest)];

/// Topics, each with its registrations and its cursor, charged until the stream ends. Measured: a
/// topic with a cursor of five entries takes 540 bytes.
const TOPICS_FIELDS: &[FieldCost] = &[FieldCost::each(1, 256, &[FieldCost::each(2, 192, CURSOR)])
    .at_most(DECODED * SELECTED_MAX, too_many_filters)];

/// The adds of a Mutate, each with its cursor and its place in the checks, and the removes. The memory that the
/// stream keeps is charged separately. Calculated from the types: an add takes 64 bytes and 43 in a table; the tree of
/// its cursor takes 144 for up to 11 entries, and at most 40 for each further one. So an add with one entry takes 251
/// of its 280.
const SUBSCRIBE_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    64,
    &[FieldCost::each(
        1,
        64,
        &[
            FieldCost::each(1, 144, &[FieldCost::each(2, 96, &[FieldCost::each(1, 40, &[])])])
                .at_most(DECODED * ADDS_MAX, too_many_adds),
            FieldCost::each(2, 160, &[]),
        ],
    )],
)];

/// Originators and a cursor.
const ORIGINATORS_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    0,
    &[FieldCost::by_length(1, REGISTERED_BYTES), FieldCost::each(2, 192, CURSOR)],
)];

/// Memory that an originator of a stream takes until the stream ends, for each byte of its id in the request.
/// Calculated from the types: its place in the set of the stream, and its entry in the table of registrations, take
/// some 110 bytes if one other stream has registered it, too, and less otherwise. A stream of more than 256 strands
/// takes less, because the engine registers none of them. Only 128 ids have fewer than two bytes.
const REGISTERED_BYTES: usize = 64;

/// Identifiers, each with its result.
const IDENTIFIERS_FIELDS: &[FieldCost] = &[FieldCost::each(1, 512, &[FieldCost::by_length(1, 3)])
    .at_most(DECODED * IDENTIFIERS_MAX, too_many_identifiers)];

/// Payers, each with a copy of the text that names it, which may have any length.
const PAYERS_FIELDS: &[FieldCost] =
    &[FieldCost::with_length(1, 256, 1, &[]).at_most(DECODED * PAYERS_MAX, too_many_payers)];

/// A report: a failed request, which is a subscription, a query or a publish, or signed envelopes.
const REPORT_FIELDS: &[FieldCost] = &[FieldCost::each(
    1,
    256,
    &[
        FieldCost::each(
            4,
            192,
            &[
                FieldCost::each(2, 192, REPORTED_QUERY),
                FieldCost::each(3, 192, REPORTED_QUERY),
                FieldCost::each(4, 192, ENVELOPES),
            ],
        ),
        FieldCost::each(5, 64, ENVELOPES),
    ],
)];
/// The query of a failed request, which is not run.
const REPORTED_QUERY: &[FieldCost] =
    &[FieldCost::each(1, 192, &[FieldCost::each(1, 96, &[]), ORIGINATORS, LAST_SEEN])];
/// Envelopes of a report, each decoded in its outer layer.
const ENVELOPES: &[FieldCost] = &[FieldCost::each(1, 192, &[])];

/// The path of submissions of reports of misbehaviour.
pub(crate) const SUBMIT_REPORT: &str =
    "/xmtp.xmtpv4.message_api.MisbehaviorApi/SubmitMisbehaviorReport";

/// Methods that hand out no envelopes.
const OTHERS: [RpcMethod; 15] = [
    RpcMethod::new("/hawser.checkpoint_api.CheckpointApi/GetCheckpoint", Unary),
    RpcMethod::new("/hawser.checkpoint_api.CheckpointApi/GetInclusion", Unary),
    RpcMethod::new("/hawser.checkpoint_api.CheckpointApi/GetConsistency", Unary),
    RpcMethod::new(SUBMIT_REPORT, Unary).decoding(REPORT_FIELDS),
    RpcMethod::new("/xmtp.xmtpv4.message_api.MisbehaviorApi/QueryMisbehaviorReports", Unary),
    RpcMethod::new("/xmtp.xmtpv4.message_api.ReplicationApi/GetInboxIds", Unary)
        .decoding(IDENTIFIERS_FIELDS),
    RpcMethod::new("/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds", Unary)
        .decoding(IDENTIFIERS_FIELDS),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor", Unary),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/SubscribeSyncCursor", ServerStream),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion", Unary),
    RpcMethod::new("/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo", Unary)
        .decoding(PAYERS_FIELDS),
    RpcMethod::new("/grpc.health.v1.Health/Check", Unary),
    RpcMethod::new("/grpc.health.v1.Health/Watch", ServerStream),
    RpcMethod::new("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Bidi),
    RpcMethod::new("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Bidi),
];

/// Returns every method with metrics of its own.
pub(crate) fn all() -> Vec<RpcMethod> {
    EnvelopeMethod::ALL.into_iter().map(EnvelopeMethod::method).chain(OTHERS).collect()
}
