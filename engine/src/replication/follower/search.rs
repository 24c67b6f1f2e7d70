//! State of a gap search.

use std::collections::BTreeMap;
use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};

/// A gap search: the places after `accepted` and up to `through` that the source did not send.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) through: SequenceId,
    pub(super) until: Instant,
    /// At least one peer has said that it does not hold them. Without an answer nothing is marked
    /// missing, because the node may simply be cut off from all peers that do.
    pub(super) answered: bool,
    /// The envelope behind them is old enough.
    pub(super) can_have_expired: bool,
    /// The places that each peer says have expired.
    pub(super) expired: BTreeMap<OriginatorId, (SequenceId, SequenceId)>,
}
