//! The part of a client envelope that nodes act on: its topic, and the envelopes that it depends on.

use crate::ids::{EnvelopeId, OriginatorId, SequenceId};
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::topic::{Topic, TopicError};

/// A client envelope without its payload, which is skipped and not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClientWithoutPayload {
    /// The part that nodes act on.
    #[prost(message, optional, tag = "1")]
    pub(crate) aad: Option<pb::AuthenticatedData>,
}

/// Returns the topic that a client names, and the envelopes that its envelope depends on, by originator ascending.
///
/// # Errors
/// Returns an error if the topic is malformed.
pub(crate) fn topic_and_dependencies(
    aad: pb::AuthenticatedData,
) -> Result<(Topic, Vec<EnvelopeId>), TopicError> {
    let topic = Topic::parse(aad.target_topic)?;
    let entries = aad.depends_on.map(|cursor| cursor.node_id_to_sequence_id).unwrap_or_default();
    let id =
        |(originator, sequence)| EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
    Ok((topic, entries.into_iter().map(id).collect()))
}
