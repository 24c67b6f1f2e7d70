//! Wants of a search behind its own gap, and how far each peer has come with them.
//!
//! A peer answers one want for a strand at a time. So after its answer for the gap of the search, it is asked for one
//! further range after the other. A peer that answers wants for gaps alone gets one such want instead, for all gaps
//! behind that of the search and for no envelopes. Then neither the bytes between the gaps nor the number of gaps that
//! this node knows bounds how many are searched for together. Over gRPC each range is a call, and calls need not wait
//! for each other: one want asks for the gaps of a few ranges.
//!
//! Only the gap of the search decides when the search may end. It waits at most one more second for answers about the
//! ranges behind that gap. This delays nothing, because no other search could ask all peers within that second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use crate::replication::link::{GapRanges, WantedItems};
use crate::replication::ranges::Places;

/// Time for which a search waits for a peer's answers about further ranges, from its first answer on. Specified
/// (`docs/protocol/replication.md`, Gaps): the shortest time between two searches that ask all peers at once.
const FURTHER_WITHIN: Duration = Duration::from_secs(1);

/// The form in which a peer is asked for further ranges.
#[derive(Debug, Clone, Copy)]
pub(super) enum FurtherForm {
    /// One range with each want.
    Single,
    /// The gaps of a few ranges with each want.
    Several,
    /// All gaps up to this place with one want, as far as the source has claimed so much. Otherwise one range with each
    /// want.
    Gaps(SequenceId),
}

/// The further ranges of a search.
#[derive(Debug, Default)]
pub(super) struct FurtherRanges {
    ranges: Vec<Places>,
    /// The last place that the source has claimed or shown. Peers that name gaps are asked for gaps up to it.
    claimed: SequenceId,
    /// The steps of the peers that have answered once. Bounded by the nodes of the registry, as peers are.
    steps: BTreeMap<OriginatorId, FurtherStep>,
}

/// The step that a peer has reached.
#[derive(Debug)]
struct FurtherStep {
    /// The want that the peer has; `None` if that is the gap of the search.
    asked: Option<FurtherWant>,
    /// The time up to which the search waits for it. A peer that is asked for all ranges again has no more time.
    until: Instant,
}

/// A want that a peer has behind the gap of the search.
#[derive(Debug, Clone, Copy)]
enum FurtherWant {
    /// The range with this index.
    Range(usize),
    /// The gaps of some ranges, from this index on.
    Ranges(usize),
    /// The gaps among these places.
    Gaps(Places),
}

impl FurtherRanges {
    /// Returns these ranges as ranges that no peer has been asked for yet. The source has claimed or shown the strand
    /// up to `claimed`.
    pub(super) fn new(ranges: Vec<Places>, claimed: SequenceId) -> Self {
        Self { ranges, claimed: claimed.min(SequenceId::MAX), steps: BTreeMap::new() }
    }

    /// Returns the items that a peer is asked for now, with the place behind which they are. `None` if it is asked for
    /// the gap of the search.
    pub(super) fn asked_of(&self, peer: OriginatorId) -> Option<(SequenceId, WantedItems)> {
        let (first, items) = match self.steps.get(&peer)?.asked? {
            FurtherWant::Range(index) => {
                let (first, last) = *self.ranges.get(index)?;
                (first, WantedItems::Envelopes(Some(last)))
            }
            FurtherWant::Ranges(begin) => {
                let ranges = GapRanges::first_of(self.ranges.get(begin..)?)?;
                (ranges.span().0, WantedItems::GapsOf(ranges))
            }
            FurtherWant::Gaps((first, last)) => (first, WantedItems::Gaps(last)),
        };
        Some((first.previous(), items))
    }

    /// Notes that a peer has answered what it was asked for; its first want went up to `asked_through`. Returns true if
    /// a further want follows, which has this form.
    pub(super) fn note_answered(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        asked_through: SequenceId,
        form: FurtherForm,
    ) -> bool {
        let begin = self.ranges.partition_point(|(_, last)| *last <= asked_through);
        let known = |index: usize| (index < self.ranges.len()).then_some(index);
        // The place right after the peer's answer has an envelope.
        let from = asked_through.next().next();
        let first = match form {
            FurtherForm::Gaps(through) if from <= self.claimed.min(through) => {
                Some(FurtherWant::Gaps((from, self.claimed.min(through))))
            }
            FurtherForm::Several => known(begin).map(FurtherWant::Ranges),
            FurtherForm::Single | FurtherForm::Gaps(_) => known(begin).map(FurtherWant::Range),
        };
        let Some(first) = first else { return false };
        let next = match self.steps.get(&peer).and_then(|step| step.asked) {
            None => Some(first),
            Some(FurtherWant::Range(index)) => known(index + 1).map(FurtherWant::Range),
            Some(FurtherWant::Ranges(index)) => {
                known(index + GapRanges::MAX).map(FurtherWant::Ranges)
            }
            Some(FurtherWant::Gaps(_)) => None,
        };
        let begun = FurtherStep { asked: None, until: now + FURTHER_WITHIN };
        self.steps.entry(peer).or_insert(begun).asked = next;
        next.is_some()
    }

    /// Notes that a peer has come or gone: it is asked for the gap of the search first.
    pub(super) fn note_changed(&mut self, peer: OriginatorId) {
        if let Some(step) = self.steps.get_mut(&peer) {
            step.asked = None;
        }
    }

    /// Returns the time up to which the search waits for answers about further ranges; `None` if none is due.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        let due = self.steps.values().filter(|step| step.asked.is_some());
        due.map(|step| step.until).max()
    }
}
