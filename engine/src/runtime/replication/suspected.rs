//! Envelopes that depend on places which their chain did not have yet (`docs/protocol/misbehavior.md`, kind 6).
//!
//! A chain proves such an envelope by itself: by the time of the event at the place, or by a later event while the
//! place has none. Until then an envelope that names a place beyond the chain's head is a suspicion only: honest nodes
//! may have read the chain before this one.

use std::collections::{BTreeMap, VecDeque};

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_storage::SuspectedDependency;
use parking_lot::Mutex;

/// Suspicions about one originator. A guess: an honest one has some while this node is behind with the chain. Further
/// envelopes are not suspected: each of the kept ones becomes a proof when the chain advances, and more proofs add
/// nothing.
const OF_ORIGINATOR_MAX: usize = 256;

/// Returns true if this envelope is the suspected one. The commit of the suspected envelope may have failed, and its
/// originator may have signed another one for the place.
pub(super) fn is_about(suspicion: &SuspectedDependency, envelope: &Bytes) -> bool {
    let Ok(envelope) = OriginatorEnvelope::parse(envelope.clone()) else { return false };
    let statement = envelope.unsigned();
    statement.originator_ns() == suspicion.originator_ns
        && statement.payer().client().depends_on().contains(&suspicion.needed)
}

/// The suspicions of all strands. Bounded by [`OF_ORIGINATOR_MAX`] for each node that the registry names.
#[derive(Debug, Default)]
pub(super) struct SuspectedDependencies(
    Mutex<BTreeMap<OriginatorId, VecDeque<SuspectedDependency>>>,
);

impl SuspectedDependencies {
    pub(super) fn push(&self, suspicion: SuspectedDependency) {
        let mut all = self.0.lock();
        let of_originator = all.entry(suspicion.at.originator).or_default();
        // A commit that failed is looked at again.
        let is_known = of_originator.contains(&suspicion);
        if !is_known && of_originator.len() < OF_ORIGINATOR_MAX {
            of_originator.push_back(suspicion);
        }
    }

    pub(super) fn take(&self) -> Vec<SuspectedDependency> {
        std::mem::take(&mut *self.0.lock()).into_values().flatten().collect()
    }

    /// Returns all of them, which stay.
    pub(super) fn all(&self) -> Vec<SuspectedDependency> {
        self.0.lock().values().flatten().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// The places of the chains up to which one strand's dependencies are known to be old enough, with their times. Times
/// of a chain never descend, so a strand that depends on one commit after another costs one read for each commit.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct KnownPlaces(pub(super) [Option<(SequenceId, i64)>; OriginatorId::CHAINS.len()]);

#[cfg(test)]
mod tests {
    use hawser_proto::EnvelopeId;

    use super::*;

    fn suspicion(originator: u32, sequence: u64) -> SuspectedDependency {
        let at = EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
        let needed = EnvelopeId::new(OriginatorId::GROUP_MESSAGES, SequenceId(9));
        SuspectedDependency { at, needed, originator_ns: 5 }
    }

    #[test]
    fn a_strand_of_suspicions_takes_no_room_from_others_and_none_is_held_twice() {
        let suspected = SuspectedDependencies::default();
        for sequence in (1..=10_000).chain(1..=10) {
            suspected.push(suspicion(300, sequence));
        }
        suspected.push(suspicion(200, 1));
        let kept = suspected.all();
        let taken = suspected.take();
        assert_eq!(taken, kept);
        assert_eq!(taken.len(), OF_ORIGINATOR_MAX + 1);
        assert_eq!(taken[0], suspicion(200, 1));
        assert_eq!(taken[1], suspicion(300, 1), "the first ones stay");
        assert!(suspected.is_empty());
    }
}
