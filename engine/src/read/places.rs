//! Places on which envelopes depend: whether a topic has an envelope there.

use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{LogItem, ReadError, SkipReason, Snapshot, Validity};

use super::error::QueryError;
use super::limits::is_deliverable;
use super::rows::is_awaited;

/// The owner of a place below the strands of nodes, as the readers of a topic see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceOwner {
    /// The topic has an envelope there that its readers get.
    Topic,
    /// The place certainly is no envelope that they get: it is one of another topic, or one that breaks a rule, or the
    /// chain's rules leave the place empty, or this node lacks it and no chain orders its strand.
    Elsewhere,
    /// Neither is certain.
    Unknown,
}

/// Returns the owner of a place, for the readers of `topic`: one of a chain, which this view has, or one of another
/// strand, which it may lack. The older network has no commits, so no member of a group depends on a place of it that
/// is not in the topic.
///
/// A place that cannot be read in the log is not certain. Any payer can name it in any topic, and its readers must not
/// fail with it.
///
/// Costs a seek, and two more if the topic has no such envelope.
pub(crate) fn owner_of(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    place: EnvelopeId,
) -> Result<PlaceOwner, QueryError> {
    let row = match snapshot.topics().seek(topic.as_bytes(), place) {
        Ok(row) => row,
        // The log tells the place, and not its topic.
        Err(ReadError::Rebuilding { .. }) => return Ok(PlaceOwner::Unknown),
        Err(error) => return Err(error.into()),
    };
    if row.is_some_and(|row| row.id == place && is_deliverable(row.len_bytes as usize)) {
        return Ok(PlaceOwner::Topic);
    }
    let after = EnvelopeId { sequence: place.sequence.previous(), ..place };
    let has_no_commits = !is_awaited(place);
    let is_elsewhere = match snapshot.log(after, place.sequence).next() {
        Some(Ok(LogItem::Envelope { validity, .. })) => validity != Validity::Waiting,
        Some(Ok(LogItem::Skipped { reason, .. })) => reason == SkipReason::Void || has_no_commits,
        Some(Err(_)) => false,
        None => has_no_commits,
    };
    Ok(if is_elsewhere { PlaceOwner::Elsewhere } else { PlaceOwner::Unknown })
}
