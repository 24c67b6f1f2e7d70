//! The ids of chain envelopes that nodes have shown just now. Plain values; time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hawser_proto::EnvelopeId;

/// Time for which an id counts as new. Nodes of the reference implementation refresh their view of the chain
/// strands every 100 ms, a busy node later; the rest is a guess.
const NEW_FOR: Duration = Duration::from_secs(2);
/// Largest number of ids. A guess: more than a chain makes in that time.
const PLACES_MAX: usize = 1024;

/// Ids with the time at which the first node has shown them, oldest first.
#[derive(Debug, Default)]
pub(super) struct FreshPlaces(VecDeque<(EnvelopeId, Instant)>);

impl FreshPlaces {
    /// Records that a node shows an id. Only the first node that shows it sets its time.
    pub(super) fn record(&mut self, id: EnvelopeId, now: Instant) {
        let old = |(_, since): &(EnvelopeId, Instant)| now.duration_since(*since) >= NEW_FOR;
        while self.0.front().is_some_and(old) || self.0.len() >= PLACES_MAX {
            self.0.pop_front();
        }
        if self.0.iter().all(|(known, _)| *known != id) {
            self.0.push_back((id, now));
        }
    }

    /// Returns true if one of the ids is new.
    pub(super) fn any_new(&self, ids: &[EnvelopeId], now: Instant) -> bool {
        self.0.iter().any(|(id, since)| now.duration_since(*since) < NEW_FOR && ids.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    fn id(sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId::GROUP_MESSAGES, SequenceId(sequence))
    }

    #[test]
    fn a_place_is_new_for_a_while_after_the_first_node_has_shown_it() {
        let mut places = FreshPlaces::default();
        let start = Instant::now();
        places.record(id(1), start);
        places.record(id(1), start + NEW_FOR / 2);
        let last = start + NEW_FOR - Duration::from_nanos(1);
        assert!(places.any_new(&[id(9), id(1)], last));
        assert!(!places.any_new(&[id(1)], start + NEW_FOR));
        assert!(!places.any_new(&[id(2)], start) && !places.any_new(&[], start));
    }

    #[test]
    fn the_oldest_places_leave_first() {
        let mut places = FreshPlaces::default();
        let now = Instant::now();
        for sequence in 0..=PLACES_MAX as u64 {
            places.record(id(sequence), now);
        }
        assert_eq!(places.0.len(), PLACES_MAX);
        assert!(!places.any_new(&[id(0)], now) && places.any_new(&[id(1)], now));
    }
}
