//! Where each client envelope of a request belongs, and whether it is one that anybody would take.
//!
//! Everything is judged before anything is sent, so a request is refused as a whole. The bytes of
//! a client envelope stay as they came: what is parsed here is looked at and not encoded again.

use hawser_proto::envelope::{ClientEnvelope, LayerError, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, Topic};
use hawser_rules::{
    PayloadClass, Violation, check_dependencies_on_chains, check_topic, key_package_form,
    payload_class,
};

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
    pub kind: PayloadClass,
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
    /// It breaks a rule that every node would refuse it for.
    #[error(transparent)]
    Violation(#[from] Violation),
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
    check_dependencies_on_chains(&client)?;
    let kind = payload_class(&client, key_package_form)?;
    let route = route_of(&client, kind)?;
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

/// The chain's contracts know groups and inboxes by ids of a fixed length, nodes by any bytes.
fn route_of(client: &ClientEnvelope, class: PayloadClass) -> Result<Route, RouteFault> {
    let identifier = client.topic().identifier();
    match class {
        PayloadClass::Message | PayloadClass::Welcome | PayloadClass::KeyPackage => Ok(Route::Node),
        PayloadClass::Commit => {
            let group =
                identifier.try_into().map_err(|_| RouteFault::GroupIdLen(identifier.len()))?;
            Ok(Route::Chain(ChainTopic::Group(group)))
        }
        PayloadClass::IdentityUpdate => {
            let inbox: [u8; 32] =
                identifier.try_into().map_err(|_| RouteFault::InboxIdLen(identifier.len()))?;
            match client.payload() {
                Payload::IdentityUpdate(update)
                    if update.inbox_id.eq_ignore_ascii_case(&hex::encode(inbox)) =>
                {
                    Ok(Route::Chain(ChainTopic::Inbox(inbox)))
                }
                _ => Err(RouteFault::OtherInbox),
            }
        }
    }
}

#[cfg(test)]
mod tests;
