//! Missing places of a followed strand that its own node no longer keeps: they are marked expired, and no peer is asked
//! for them any more. A place whose envelope another peer holds is still filled when it comes.
//!
//! The strand's own node may lie. It harms its own strand alone, and only places that are old enough: before, other
//! peers were asked for them for two days. What a node has dated back may be younger than it states, by as much.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{CommitError, Mark, Snapshot};

use super::state::ReplicationState;
use super::strand_read::StrandRange;
use super::task::StrandTask;
use crate::replication::{RANGES_MAX, can_have_expired};

impl StrandTask {
    /// Notes the statement that these places have expired. If too many wait, it is left out: the node makes it again in
    /// the next walk over the missing places.
    pub(super) fn note_expired(&mut self, from: SequenceId, through: SequenceId) {
        if self.expired.len() < RANGES_MAX {
            self.expired.push((from, through));
        }
    }

    /// Begins to mark the places that wait, unless others are being marked.
    pub(super) fn start_expiring(&mut self) {
        if self.expiring.is_none() && !self.expired.is_empty() {
            let stated = std::mem::take(&mut self.expired);
            let (state, originator) = (self.state.clone(), self.originator);
            let stepped_back_ns = self.follower.stepped_back_ns();
            let work = move || expire(&state, originator, stated, stepped_back_ns);
            self.expiring = Some(tokio::task::spawn_blocking(work));
        }
    }

    /// Passes places that are marked to the follower.
    pub(super) fn take_expired(&mut self, marked: Vec<StrandRange>) {
        for (from, through) in marked {
            self.follower.handle_expired(from, through);
        }
    }
}

/// Marks those of the places that can have expired. Returns them. The others stay missing. `stepped_back_ns` is the sum
/// by which the strand's times have gone back.
fn expire(
    state: &ReplicationState,
    originator: OriginatorId,
    stated: Vec<StrandRange>,
    stepped_back_ns: i64,
) -> Vec<StrandRange> {
    let now_ns = state.ports.clock.now_ns().saturating_sub(stepped_back_ns);
    let snapshot = state.store.snapshot();
    let mut marked = Vec::new();
    for (from, through) in stated {
        match expire_range(state, &snapshot, (EnvelopeId::new(originator, from), through), now_ns) {
            Ok(true) => marked.push((from, through)),
            Ok(false) => {}
            Err(error) => {
                // They stay missing, and are asked for again.
                tracing::debug!(originator_id = %originator, %from, %error, "expired places cannot be marked now");
            }
        }
    }
    marked
}

/// Marks places expired if the envelope behind them is old enough at `now_ns`. Returns true if they are marked then.
fn expire_range(
    state: &ReplicationState,
    snapshot: &Snapshot<'_>,
    (from, through): (EnvelopeId, SequenceId),
    now_ns: i64,
) -> Result<bool, CommitError> {
    let end = match snapshot.mark(from)? {
        Some(Mark::Missing { through: end }) => end,
        // Stated twice.
        Some(Mark::Expired { through: end }) => return Ok(through <= end),
        _ => return Ok(false),
    };
    let behind = EnvelopeId { sequence: end.next(), ..from };
    let is_old = match snapshot.get(behind)? {
        Some(envelope) => {
            OriginatorEnvelope::stated_ns(&envelope).is_some_and(|ns| can_have_expired(ns, now_ns))
        }
        // A place that has expired itself is not younger.
        None => {
            let mark = snapshot.mark(behind)?;
            matches!(mark, Some(Mark::Expired { .. } | Mark::Pruned { .. }))
        }
    };
    if is_old { state.store.expire_missing(from, through) } else { Ok(false) }
}
