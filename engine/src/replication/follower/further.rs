//! The further ranges of a search, and how far each peer has come with them.
//!
//! A peer answers one want for a strand at a time, so after its answer for the gap of the search it is asked for one
//! further range after the other. Only the gap of the search decides when that may end: for the answers about further
//! ranges it is put off by a second at most, in which no other search could ask all peers anyway.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use crate::replication::ranges::Places;

/// Time for which a search waits for a peer's answers about further ranges, from its first answer on. Specified
/// (`docs/protocol/replication.md`, Gaps): the shortest time between two searches that ask all peers at once.
const FURTHER_WITHIN: Duration = Duration::from_secs(1);

/// The further ranges of a search.
#[derive(Debug, Default)]
pub(super) struct FurtherRanges {
    ranges: Vec<Places>,
    /// The steps of the peers that have answered once. Bounded by the nodes of the registry, as peers are.
    steps: BTreeMap<OriginatorId, FurtherStep>,
}

/// The step that a peer has reached.
#[derive(Debug)]
struct FurtherStep {
    /// The index of the range that it is asked for; `None` if that is the gap of the search.
    index: Option<usize>,
    /// The time up to which the search waits for it. A peer that is asked for all ranges again has no more time.
    until: Instant,
}

impl FurtherRanges {
    /// Returns these ranges, of which no peer has been asked for one.
    pub(super) fn new(ranges: Vec<Places>) -> Self {
        Self { ranges, steps: BTreeMap::new() }
    }

    /// Returns the further range that a peer is asked for now; `None` if it is asked for the gap of the search.
    pub(super) fn asked_of(&self, peer: OriginatorId) -> Option<Places> {
        let step = self.steps.get(&peer)?;
        self.ranges.get(step.index?).copied()
    }

    /// Notes that a peer has answered what it was asked for; its first want went up to `asked_through`. Returns true if
    /// a further range follows.
    pub(super) fn note_answered(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        asked_through: SequenceId,
    ) -> bool {
        let begin = self.ranges.partition_point(|(_, last)| *last <= asked_through);
        if begin == self.ranges.len() {
            return false;
        }
        let first = FurtherStep { index: None, until: now + FURTHER_WITHIN };
        let step = self.steps.entry(peer).or_insert(first);
        let next = step.index.map_or(begin, |index| index + 1);
        step.index = (next < self.ranges.len()).then_some(next);
        step.index.is_some()
    }

    /// Notes that a peer has come or gone: it is asked for the gap of the search first.
    pub(super) fn note_changed(&mut self, peer: OriginatorId) {
        if let Some(step) = self.steps.get_mut(&peer) {
            step.index = None;
        }
    }

    /// Returns the time up to which the search waits for answers about further ranges; `None` if none is due.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        let due = self.steps.values().filter(|step| step.index.is_some());
        due.map(|step| step.until).max()
    }
}
