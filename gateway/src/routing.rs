//! Decides for each client envelope whether a node or the chain orders it, and refuses envelopes that neither
//! accepts.
//!
//! All envelopes are checked before the first one is sent, so a request with a bad envelope is refused as a whole.
//! A client envelope's bytes are passed on as received: the parsed view is read only and never encoded again.

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, EnvelopeId, GroupId, InboxId, Topic};
use hawser_rules::{
    PayloadClass, Violation, check_dependencies_on_chains, check_topic, key_package_form,
    payload_class,
};

/// The originator that orders an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A node.
    Node,
    /// A contract of the app chain.
    Chain(ChainTopic),
}

/// A topic in the form that the contracts of the app chain use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainTopic {
    /// A group id.
    Group(GroupId),
    /// An inbox id.
    Inbox(InboxId),
}

/// A client envelope with its route.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The client envelope, as received.
    pub bytes: Bytes,
    /// Topic of the envelope.
    pub topic: Topic,
    /// The envelopes of chains that this one depends on.
    pub depends_on: Vec<EnvelopeId>,
    /// Class of the payload.
    pub kind: PayloadClass,
    /// The originator that orders it.
    pub route: Route,
    /// The identity update, if the payload is one.
    pub identity_update: Option<Box<IdentityUpdate>>,
}

/// The refusal of a request: the indexes of its bad envelopes, from 0, ascending, with the rules that they break. It
/// has at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingError(pub Vec<(usize, RouteError)>);

/// The reason for which a client envelope is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The bytes do not decode as a client envelope.
    #[error("invalid client envelope: {0}")]
    Layer(#[from] LayerError),
    /// The envelope breaks a rule of the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The group id is not 16 bytes long, as the chain's contract requires.
    #[error("a group id must have 16 bytes to be published on the chain, and this one has {0}")]
    GroupIdLen(usize),
    /// The inbox id is not 32 bytes long, as the chain's contract requires.
    #[error("an inbox id must have 32 bytes, and this one has {0}")]
    InboxIdLen(usize),
    /// The identity update has no actions: it would cost gas and change nothing.
    #[error("the identity update has no actions")]
    NoActions,
    /// The inbox in the identity update is not the inbox of its topic.
    #[error("the identity update is for another inbox than its topic")]
    OtherInbox,
    /// The client envelope is longer than the limit for payloads on the chain.
    #[error("a payload of {len} bytes is too long for the chain: at most {max} bytes are allowed")]
    TooLongForChain {
        /// Length in bytes.
        len: usize,
        /// Largest length in bytes.
        max: usize,
    },
}

impl RouteError {
    /// Returns the name of the rule, a constant that programs can match.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Layer(_) => "UNDECODABLE",
            Self::Violation(violation) => violation.name(),
            Self::GroupIdLen(_) => "GROUP_ID_LENGTH",
            Self::InboxIdLen(_) => "INBOX_ID_LENGTH",
            Self::NoActions => "NO_ACTIONS",
            Self::OtherInbox => "OTHER_INBOX",
            Self::TooLongForChain { .. } => "TOO_LONG_FOR_CHAIN",
        }
    }
}

/// Routes all envelopes of a request. `chain_payload_bytes_max` bounds client envelopes for the chain, bytes; 0 is
/// no bound.
///
/// # Errors
/// [`RoutingError`] for all envelopes that break a rule.
pub fn route(
    envelopes: Vec<Bytes>,
    chain_payload_bytes_max: usize,
) -> Result<Vec<Routed>, RoutingError> {
    let (mut all, mut refused) = (Vec::with_capacity(envelopes.len()), Vec::new());
    for (index, bytes) in envelopes.into_iter().enumerate() {
        match route_one(bytes, chain_payload_bytes_max) {
            Ok(routed) => all.push(routed),
            Err(error) => refused.push((index, error)),
        }
    }
    if refused.is_empty() { Ok(all) } else { Err(RoutingError(refused)) }
}

fn route_one(bytes: Bytes, chain_payload_bytes_max: usize) -> Result<Routed, RouteError> {
    let client = ClientEnvelope::parse(bytes)?;
    check_topic(&client)?;
    check_dependencies_on_chains(&client)?;
    let kind = payload_class(&client, key_package_form)?;
    let route = route_of(&client, kind)?;
    let len = client.as_bytes().len();
    if matches!(route, Route::Chain(_))
        && chain_payload_bytes_max > 0
        && len > chain_payload_bytes_max
    {
        return Err(RouteError::TooLongForChain { len, max: chain_payload_bytes_max });
    }
    let identity_update = match client.payload() {
        Payload::IdentityUpdate(update) => Some(Box::new(update.clone())),
        _ => None,
    };
    let (bytes, topic) = (client.as_bytes().clone(), client.topic().clone());
    let depends_on = client.depends_on().to_vec();
    Ok(Routed { bytes, topic, depends_on, kind, route, identity_update })
}

/// Returns the route of an envelope of this class. The chain's contracts require ids of a fixed length; nodes
/// accept identifiers of any length.
fn route_of(client: &ClientEnvelope, class: PayloadClass) -> Result<Route, RouteError> {
    let identifier = client.topic().identifier();
    match class {
        PayloadClass::Message | PayloadClass::Welcome | PayloadClass::KeyPackage => Ok(Route::Node),
        PayloadClass::Commit => {
            let group =
                GroupId::from_slice(identifier).ok_or(RouteError::GroupIdLen(identifier.len()))?;
            Ok(Route::Chain(ChainTopic::Group(group)))
        }
        PayloadClass::IdentityUpdate => {
            let inbox =
                InboxId::from_slice(identifier).ok_or(RouteError::InboxIdLen(identifier.len()))?;
            match client.payload() {
                Payload::IdentityUpdate(update) if update.actions.is_empty() => {
                    Err(RouteError::NoActions)
                }
                // Nodes mark an update whose inbox is written in other digits than the topic's as invalid.
                Payload::IdentityUpdate(update) if update.inbox_id == inbox.to_string() => {
                    Ok(Route::Chain(ChainTopic::Inbox(inbox)))
                }
                _ => Err(RouteError::OtherInbox),
            }
        }
    }
}

#[cfg(test)]
mod tests;
