//! State of a gap search.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use super::parts::ReceivedTotal;

/// Duration of a gap search. Specified (`docs/protocol/replication.md`, Gaps).
pub(super) const SEARCH_FOR: Duration = Duration::from_secs(60);
/// Pause before a peer that did not have the missing range is asked again, and the least time that peers have after
/// this node was too busy to look at what they sent. A guess: several attempts fit into one search.
pub(super) const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Pace of searches that ask all peers at once. The peers beside the source are asked later in a search that begins
/// sooner after such a one. Specified (same page).
pub(super) const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// Envelopes, or their bytes, that let a search go on for [`SEARCH_FOR`] more. Specified (same page).
const FOUND_ENVELOPES_MIN: u64 = 1024;
const FOUND_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// A gap search: the places after `accepted` and up to `through` that the source did not send.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) through: SequenceId,
    /// The peer that has left the places out.
    pub(super) left_out_by: OriginatorId,
    /// The time at which the search ends, unless it goes on.
    pub(super) until: Instant,
    /// At least one peer has said that it does not hold them. Without an answer nothing is marked
    /// missing, because the node may simply be cut off from all peers that do.
    pub(super) answered: bool,
    /// The envelopes of the range that were accepted within the last [`SEARCH_FOR`].
    pub(super) found: ReceivedTotal,
    /// The envelope behind them is old enough.
    pub(super) can_have_expired: bool,
    /// The places that each peer says have expired.
    pub(super) expired: BTreeMap<OriginatorId, (SequenceId, SequenceId)>,
}

impl Search {
    /// True if no places may be marked missing yet: no peer has answered, or peers are sending the range.
    pub(super) fn goes_on(&self) -> bool {
        let ReceivedTotal { envelopes, bytes } = self.found;
        !self.answered || envelopes >= FOUND_ENVELOPES_MIN || bytes >= FOUND_BYTES_MIN
    }
}
