//! The state of a strand on disk, as the task that follows the strand reads it.

use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_rules::misbehavior::StrandLoad;
use hawser_storage::{Misbehavior, ReadError, Snapshot, StoredEvidence};

use super::former_keys::is_signed_by;
use super::state::ReplicationState;
use crate::fee_watch::load_at;
use crate::misbehavior::{StrandTimes, is_ahead};
use crate::pauses::RetryPauses;
use crate::replication::RANGES_MAX;
use crate::runtime::stoppable::blocking;

/// Attempts to read the whole state of a strand, until it is followed without the unreadable part. A guess: seven
/// seconds with the pauses between them, in which a scrub may have repaired the strand's end.
const TRIES_MAX: u32 = 4;
/// Steps back of one strand that are added up. A guess: a tenth of those that are kept, whose signatures are checked in
/// a tenth of a second. A node with more of them is never believed about expired places.
const STEPS_MAX: usize = 1024;

/// The state of a strand on disk.
pub(super) struct ReadStrand {
    /// The highest ranges that are marked missing, as many as a follower keeps.
    pub(super) missing: Vec<(SequenceId, SequenceId)>,
    /// The missing places at the verified end: the place before them, and the last one.
    pub(super) gap: Option<(EnvelopeId, EnvelopeId)>,
    /// The time at the last place that is verified.
    pub(super) times: StrandTimes,
    /// The time at the last place, verified or not, if it has come.
    pub(super) latest_ns: Option<i64>,
    /// The sum of the steps by which the strand's node has dated envelopes back, by the evidence that is kept, in
    /// nanoseconds.
    pub(super) stepped_back_ns: i64,
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
    let key = state.ports.registry.borrow().node(originator).map(|record| record.public_key);
    let stepped_back = stepped_back_ns(&snapshot, originator, key);
    let stepped_back_ns = or_nothing(stepped_back, is_last, originator)?;
    let latest_ns = time_at(state, EnvelopeId::new(originator, state.heads.get().get(originator)));
    // Without this record the strand is still followed, and less is known about its node.
    let shown_by = snapshot.shown_by(originator).ok().flatten();
    let times = StrandTimes::after(last);
    let load = load_at(&snapshot, end, last.map(|(ns, _)| ns));
    // What this node left out of its own strand is no fault that it claims.
    let gap = gap_at(&missing, end).filter(|_| originator != state.own);
    Ok(ReadStrand { missing, gap, times, latest_ns, stepped_back_ns, load, verified, shown_by })
}

/// Returns the time at a place, unix nanoseconds. `None` if the place holds no envelope that can be read, or if the
/// time is in the future: it decides nothing before it has come.
pub(super) fn time_at(state: &ReplicationState, place: EnvelopeId) -> Option<i64> {
    let envelope = state.store.snapshot().get(place).ok().flatten()?;
    let at_ns = OriginatorEnvelope::stated_ns(&envelope)?;
    (!is_ahead(at_ns, state.ports.clock.now_ns())).then_some(at_ns)
}

/// Returns the sum of the steps by which a strand's node has dated envelopes back, by the evidence that is kept; the
/// greatest number if there are more than [`STEPS_MAX`]. `key` is that of the node now: steps in what another node
/// signed that had the id before do not count.
fn stepped_back_ns(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    key: Option<PublicKey>,
) -> Result<i64, ReadError> {
    let (mut steps, mut sum_ns) = (0, 0_i64);
    snapshot.each_evidence_about(originator, Misbehavior::TimeBack, |piece| {
        let is_of_key = |it: &Bytes| key.is_some_and(|key| is_signed_by(it, &key));
        if piece.evidence.envelopes.iter().all(is_of_key) {
            steps += 1;
            sum_ns = sum_ns.saturating_add(step_ns(&piece));
        }
        if steps <= STEPS_MAX {
            return ControlFlow::Continue(());
        }
        sum_ns = i64::MAX;
        ControlFlow::Break(())
    })?;
    Ok(sum_ns)
}

/// Returns the time by which the later one of two envelopes is dated before the earlier one, in nanoseconds. The way
/// back from a time in the future does not count: it makes no place look older than it is.
fn step_ns(stored: &StoredEvidence) -> i64 {
    let noted_ns = i64::try_from(stored.at.server_time_ns).unwrap_or(i64::MAX);
    let times = stored.evidence.envelopes.iter().filter_map(OriginatorEnvelope::stated_ns);
    match times.collect::<Vec<_>>()[..] {
        [earlier_ns, later_ns] => earlier_ns.min(noted_ns).saturating_sub(later_ns).max(0),
        _ => 0,
    }
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
