//! The state of a strand on disk, as the task that follows the strand reads it.

use std::sync::Arc;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::StrandLoad;
use hawser_storage::{Misbehavior, ReadError};

use super::state::ReplicationState;
use crate::fee_watch::load_at;
use crate::misbehavior::StrandTimes;
use crate::pauses::RetryPauses;
use crate::replication::RANGES_MAX;
use crate::runtime::stoppable::blocking;

/// Attempts to read the whole state of a strand, until it is followed without the unreadable part. A guess: seven
/// seconds with the pauses between them, in which a scrub may have repaired the strand's end.
const TRIES_MAX: u32 = 4;

/// The state of a strand on disk.
pub(super) struct ReadStrand {
    /// The highest ranges that are marked missing, as many as a follower keeps.
    pub(super) missing: Vec<(SequenceId, SequenceId)>,
    /// The missing places at the verified end: the place before them, and the last one.
    pub(super) gap: Option<(EnvelopeId, EnvelopeId)>,
    /// The time at the last place that is verified.
    pub(super) times: StrandTimes,
    /// This node keeps evidence that the strand's node has dated envelopes back.
    pub(super) is_dated_back: bool,
    /// The load up to that place.
    pub(super) load: StrandLoad,
    /// The last place that is verified.
    pub(super) verified: SequenceId,
    /// The proof that allows showing the following envelopes before they are verified.
    pub(super) shown_by: Option<SignedPrefix>,
}

/// Reads the state of a strand. Tries again until it can be read. After some attempts it omits the newest envelope and
/// the ranges that are marked missing. The consequence is that a time that steps back there is no evidence, and that
/// the node searches for these places only after its next start.
pub(super) async fn read_strand(
    state: &Arc<ReplicationState>,
    originator: OriginatorId,
) -> ReadStrand {
    let (mut pauses, mut tries) = (RetryPauses::default(), 0);
    loop {
        tries += 1;
        let (state, is_last) = (state.clone(), tries >= TRIES_MAX);
        match blocking(move || read_once(&state, originator, is_last)).await {
            Ok(read) => return read,
            Err(error) => {
                tracing::error!(code = "strand_unreadable", originator_id = %originator, %error, "a strand cannot be read now");
                tokio::time::sleep(pauses.next()).await;
            }
        }
    }
}

/// Reads the state of a strand, in the last attempt without what cannot be read and is not needed.
///
/// # Errors
/// When the verified end cannot be read, or before the last attempt something else.
fn read_once(
    state: &ReplicationState,
    originator: OriginatorId,
    is_last: bool,
) -> Result<ReadStrand, ReadError> {
    let snapshot = state.store.snapshot();
    let verified = snapshot.verified_head(originator)?;
    let end = EnvelopeId::new(originator, verified);
    let last = or_nothing(snapshot.get(end), is_last, originator)?;
    let last = last.and_then(|bytes| Some((OriginatorEnvelope::stated_ns(&bytes)?, end)));
    let missing = or_nothing(snapshot.last_missing(originator, RANGES_MAX), is_last, originator)?;
    let dated_back = snapshot.evidence_about(originator, Misbehavior::TimeBack, 1);
    let is_dated_back = !or_nothing(dated_back, is_last, originator)?.is_empty();
    // Without this record the strand is still followed, and less is known about its node.
    let shown_by = snapshot.shown_by(originator).ok().flatten();
    let times = StrandTimes::after(last);
    let load = load_at(&snapshot, end, last.map(|(ns, _)| ns));
    // What this node left out of its own strand is no fault that it claims.
    let gap = gap_at(&missing, end).filter(|_| originator != state.own);
    Ok(ReadStrand { missing, gap, times, is_dated_back, load, verified, shown_by })
}

/// Returns the missing places that end at `end`: the place before them, and the last one. Ranges side by side are one.
/// `None` if there are none, or if they begin the strand: places before its first envelope may have been pruned
/// everywhere.
fn gap_at(missing: &[StrandRange], end: EnvelopeId) -> Option<(EnvelopeId, EnvelopeId)> {
    let mut before = end.sequence;
    for &(from, through) in missing.iter().rev().skip_while(|(from, _)| *from > end.sequence) {
        if through != before {
            break;
        }
        before = from.previous();
    }
    let is_gap = before != end.sequence && before != SequenceId::NONE;
    is_gap.then(|| (EnvelopeId::new(end.originator, before), end))
}

/// Returns the result of a read. In the last attempt, a failed read counts as empty.
fn or_nothing<T: Default>(
    read: Result<T, ReadError>,
    is_last: bool,
    originator: OriginatorId,
) -> Result<T, ReadError> {
    match read {
        Err(error) if is_last => {
            tracing::error!(code = "strand_unreadable", originator_id = %originator, %error, "a part of a strand cannot be read: it is followed without");
            Ok(T::default())
        }
        read => read,
    }
}

/// The first and the last place of a range.
pub(super) type StrandRange = (SequenceId, SequenceId);

/// Ranges that are marked missing, and the place below which they were read; `None` for the highest ones.
pub(super) type MissingRead = (Option<SequenceId>, Result<Vec<StrandRange>, ReadError>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_at_the_end_of_a_strand_joins_ranges_side_by_side() {
        let id = |place| EnvelopeId::new(OriginatorId(300), SequenceId(place));
        let gap = |ranges: &[(u64, u64)], end| {
            let ranges: Vec<StrandRange> =
                ranges.iter().map(|&(from, to)| (SequenceId(from), SequenceId(to))).collect();
            gap_at(&ranges, id(end))
        };
        assert_eq!(gap(&[], 4), None);
        assert_eq!(gap(&[(2, 3)], 4), None, "an envelope is behind it");
        assert_eq!(gap(&[(2, 2), (4, 5), (6, 6)], 6), Some((id(3), id(6))));
        assert_eq!(
            gap(&[(2, 3), (5, 9)], 3),
            Some((id(1), id(3))),
            "what is behind is not verified"
        );
        assert_eq!(gap(&[(1, 1), (2, 3)], 3), None, "it begins the strand");
    }
}
