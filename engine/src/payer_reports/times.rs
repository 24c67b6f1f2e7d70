//! The times of places in a strand.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, minute_of};
use hawser_storage::{Mark, ReadError, Snapshot};

/// Returns the minute of an envelope, also of one that this node has pruned; `None` if it was never held.
///
/// A report on the chain can be false, or be withdrawn: an envelope that was pruned because of it may be the start or
/// the end of a later report.
pub(crate) fn minute_at(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Result<Option<u32>, ReadError> {
    if let Some(bytes) = snapshot.get(at)? {
        return Ok(OriginatorEnvelope::stated_ns(&bytes).map(minute_of));
    }
    if !matches!(snapshot.mark(at)?, Some(Mark::Pruned { .. })) {
        return Ok(None);
    }
    let record = snapshot.pruned(at.originator, at.sequence, at.sequence).next().transpose()?;
    Ok(record.map(|(_, it)| minute_of(it.originator_ns)))
}
