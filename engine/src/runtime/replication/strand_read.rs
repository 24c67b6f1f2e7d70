//! The state of a strand on disk, as the task that follows the strand reads it.

use std::sync::Arc;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::StrandLoad;
use hawser_storage::ReadError;

use super::state::ReplicationState;
use crate::fee_watch::load_at;
use crate::misbehavior::{StrandTimes, stated_ns};
use crate::pauses::RetryPauses;
use crate::replication::RANGES_MAX;

/// The state of a strand on disk.
pub(super) struct ReadStrand {
    /// The highest ranges that are marked missing, as many as a follower keeps.
    pub(super) missing: Vec<(SequenceId, SequenceId)>,
    /// The time at the last place that is verified.
    pub(super) times: StrandTimes,
    /// The load up to that place.
    pub(super) load: StrandLoad,
    /// The last place that is verified.
    pub(super) verified: SequenceId,
    /// The proof that allows showing the following envelopes before they are verified.
    pub(super) shown_by: Option<SignedPrefix>,
}

/// Reads the state of a strand. Tries again until it can be read.
pub(super) async fn read_strand(
    state: &Arc<ReplicationState>,
    originator: OriginatorId,
) -> ReadStrand {
    let mut pauses = RetryPauses::default();
    loop {
        let state = state.clone();
        let read = move || -> Result<_, ReadError> {
            let snapshot = state.store.snapshot();
            let verified = snapshot.verified_head(originator)?;
            let end = EnvelopeId::new(originator, verified);
            let last = snapshot.get(end)?.and_then(|bytes| Some((stated_ns(&bytes)?, end)));
            let missing = snapshot.last_missing(originator, RANGES_MAX)?;
            // Without this record the strand is still followed, and less is known about its node.
            let shown_by = snapshot.shown_by(originator).ok().flatten();
            let times = StrandTimes::after(last);
            let load = load_at(&snapshot, end, last.map(|(ns, _)| ns));
            Ok(ReadStrand { missing, times, load, verified, shown_by })
        };
        let read = tokio::task::spawn_blocking(read).await;
        match read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(read) => return read,
            Err(error) => {
                tracing::error!(code = "strand_unreadable", %originator, %error, "a strand cannot be read now");
                tokio::time::sleep(pauses.next()).await;
            }
        }
    }
}

/// The first and the last place of a range.
pub(super) type StrandRange = (SequenceId, SequenceId);

/// Ranges that are marked missing, and the place below which they were read; `None` for the highest ones.
pub(super) type MissingRead = (Option<SequenceId>, Result<Vec<StrandRange>, ReadError>);
