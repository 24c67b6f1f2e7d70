//! Where each client envelope of a request belongs, and whether it is one that anybody would take.
//!
//! Everything is judged before anything is sent, so a request is refused as a whole. The bytes of
//! a client envelope stay as they came: what is parsed here is looked at and not encoded again.

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload};
use hawser_proto::mls::{self, MlsParseError};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::mls::api::v1 as mls_api;
use hawser_proto::{Bytes, EnvelopeId, TOPIC_LEN_BYTES_MAX, Topic};

/// What an envelope is, as far as the gateway tells envelopes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An application message of a group.
    Message,
    /// A commit or a proposal of a group.
    Commit,
    /// An invitation.
    Welcome,
    /// A key package.
    KeyPackage,
    /// A change to an inbox.
    IdentityUpdate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Message, Self::Commit, Self::Welcome, Self::KeyPackage, Self::IdentityUpdate];

    /// As policies write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Commit => "commit",
            Self::Welcome => "welcome",
            Self::KeyPackage => "key_package",
            Self::IdentityUpdate => "identity_update",
        }
    }
}

/// Whose order an envelope needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A node's.
    Node,
    /// That of the app chain.
    Chain(ChainTopic),
}

/// What the contracts of the app chain call a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainTopic {
    /// A group id.
    Group([u8; 16]),
    /// An inbox id.
    Inbox([u8; 32]),
}

/// A client envelope and where it goes.
#[derive(Debug, Clone)]
pub struct Routed {
    /// Exactly as it came.
    pub bytes: Bytes,
    /// Its topic.
    pub topic: Topic,
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub route: Route,
    /// What an identity update says.
    pub identity_update: Option<Box<IdentityUpdate>>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("envelope {index}: {fault}")]
pub struct RouteError {
    /// Which envelope, counted from 0.
    pub index: usize,
    /// What is wrong with it.
    pub fault: RouteFault,
}

/// What is wrong with a client envelope.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RouteFault {
    /// It is no client envelope.
    #[error("invalid client envelope: {0}")]
    Layer(#[from] LayerError),
    /// The kind of the topic and the payload do not belong together.
    #[error("topic does not match payload")]
    TopicMismatch,
    /// Nobody could query it.
    #[error("topic has {0} bytes, at most {TOPIC_LEN_BYTES_MAX} are allowed")]
    TopicTooLong(usize),
    /// Reports and attestations come from nodes.
    #[error("reserved topics cannot be published to by gateways")]
    Reserved,
    /// Only what a chain has ordered can be depended on.
    #[error("a message can not depend on a non-commit: originator {}", .0.originator)]
    DependsOnNode(EnvelopeId),
    /// There is no MLS message in it.
    #[error("invalid group message: no data")]
    GroupMessageEmpty,
    /// What is in it is no MLS message, or not exactly one.
    #[error("invalid group message: {0}")]
    GroupMessage(MlsParseError),
    /// There is no key package in it.
    #[error("key package validation failed: there is none in the upload")]
    KeyPackageEmpty,
    /// What is in it is no key package.
    #[error("key package validation failed: {0}")]
    KeyPackage(MlsParseError),
    /// The chain knows groups by 16 bytes.
    #[error("a group id on the chain has 16 bytes, this one has {0}")]
    GroupIdLen(usize),
    /// The chain knows inboxes by 32 bytes.
    #[error("an inbox id has 32 bytes, this one has {0}")]
    InboxIdLen(usize),
    /// An update of one inbox in the log of another.
    #[error("the identity update is for another inbox than its topic")]
    OtherInbox,
    /// The chain would not take it.
    #[error("a payload of {len} bytes is too long for the chain: {max} bytes are the most")]
    TooLongForChain {
        /// Its length.
        len: usize,
        /// The most.
        max: usize,
    },
}

/// Routes all envelopes of a request. `chain_payload_bytes_max` bounds what goes to the chain; 0
/// leaves that to the contracts.
///
/// # Errors
/// The first envelope that cannot be taken; then none of them is.
pub fn route(
    envelopes: Vec<Bytes>,
    chain_payload_bytes_max: usize,
) -> Result<Vec<Routed>, RouteError> {
    let routed = envelopes.into_iter().enumerate().map(|(index, bytes)| {
        route_one(bytes, chain_payload_bytes_max).map_err(|fault| RouteError { index, fault })
    });
    routed.collect()
}

fn route_one(bytes: Bytes, chain_payload_bytes_max: usize) -> Result<Routed, RouteFault> {
    let client = ClientEnvelope::parse(bytes)?;
    check_topic(&client)?;
    let (kind, route) = judge(&client)?;
    let len = client.as_bytes().len();
    if matches!(route, Route::Chain(_))
        && chain_payload_bytes_max > 0
        && len > chain_payload_bytes_max
    {
        return Err(RouteFault::TooLongForChain { len, max: chain_payload_bytes_max });
    }
    let identity_update = match client.payload() {
        Payload::IdentityUpdate(update) => Some(Box::new(update.clone())),
        _ => None,
    };
    let (bytes, topic) = (client.as_bytes().clone(), client.topic().clone());
    Ok(Routed { bytes, topic, kind, route, identity_update })
}

fn check_topic(client: &ClientEnvelope) -> Result<(), RouteFault> {
    if client.topic().kind() != client.payload_kind() {
        return Err(RouteFault::TopicMismatch);
    }
    if client.topic().kind().is_reserved() {
        return Err(RouteFault::Reserved);
    }
    match client.topic().as_bytes().len() {
        len if len > TOPIC_LEN_BYTES_MAX => return Err(RouteFault::TopicTooLong(len)),
        _ => {}
    }
    match client.depends_on().iter().find(|id| id.originator.is_node()) {
        Some(id) => Err(RouteFault::DependsOnNode(*id)),
        None => Ok(()),
    }
}

fn judge(client: &ClientEnvelope) -> Result<(Kind, Route), RouteFault> {
    let identifier = client.topic().identifier();
    match client.payload() {
        Payload::GroupMessage(message) => group_message(message, identifier),
        Payload::WelcomeMessage(_) => Ok((Kind::Welcome, Route::Node)),
        Payload::UploadKeyPackage(upload) => {
            let package = upload.key_package.as_ref().ok_or(RouteFault::KeyPackageEmpty)?;
            mls::parse_key_package(&package.key_package_tls_serialized)
                .map_err(RouteFault::KeyPackage)?;
            Ok((Kind::KeyPackage, Route::Node))
        }
        Payload::IdentityUpdate(update) => {
            let inbox: [u8; 32] =
                identifier.try_into().map_err(|_| RouteFault::InboxIdLen(identifier.len()))?;
            if !update.inbox_id.eq_ignore_ascii_case(&hex::encode(inbox)) {
                return Err(RouteFault::OtherInbox);
            }
            Ok((Kind::IdentityUpdate, Route::Chain(ChainTopic::Inbox(inbox))))
        }
        Payload::PayerReport(_) | Payload::PayerReportAttestation(_) => Err(RouteFault::Reserved),
    }
}

fn group_message(
    message: &mls_api::GroupMessageInput,
    group: &[u8],
) -> Result<(Kind, Route), RouteFault> {
    let Some(mls_api::group_message_input::Version::V1(v1)) = &message.version else {
        return Err(RouteFault::GroupMessageEmpty);
    };
    let frame = mls::parse_group_message(&v1.data).map_err(RouteFault::GroupMessage)?;
    if !frame.is_chain_bound() {
        return Ok((Kind::Message, Route::Node));
    }
    let group = group.try_into().map_err(|_| RouteFault::GroupIdLen(group.len()))?;
    Ok((Kind::Commit, Route::Chain(ChainTopic::Group(group))))
}

#[cfg(test)]
mod tests;
