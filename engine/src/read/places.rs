//! Places of chains on which envelopes depend: whether a topic has an envelope there.

use hawser_proto::{EnvelopeId, Topic};
use hawser_storage::{LogItem, ReadError, SkipReason, Snapshot, Validity};

use super::error::QueryError;
use super::limits::is_deliverable;

/// Returns true if a place of a chain, which this view has, certainly is no envelope that readers of `topic` get: it is
/// one of another topic, or one that breaks a rule, or the chain's rules leave the place empty.
///
/// A place that cannot be read in the log is not certain. Any payer can name it in any topic, and its readers must not
/// fail with it.
///
/// Costs a seek, and two more if the topic has no such envelope.
pub(crate) fn is_elsewhere(
    snapshot: &Snapshot<'_>,
    topic: &Topic,
    place: EnvelopeId,
) -> Result<bool, QueryError> {
    let row = match snapshot.topics().seek(topic.as_bytes(), place) {
        Ok(row) => row,
        // The log tells the place, and not its topic.
        Err(ReadError::Rebuilding { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if row.is_some_and(|row| row.id == place && is_deliverable(row.len_bytes as usize)) {
        return Ok(false);
    }
    let after = EnvelopeId { sequence: place.sequence.previous(), ..place };
    Ok(match snapshot.log(after, place.sequence).next() {
        Some(Ok(LogItem::Envelope { validity, .. })) => validity != Validity::Waiting,
        Some(Ok(LogItem::Skipped { reason, .. })) => reason == SkipReason::Void,
        Some(Err(_)) | None => false,
    })
}
