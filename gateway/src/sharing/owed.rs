//! The places of payloads on the chain that Redis has not taken yet.

use std::collections::VecDeque;

use crate::landed::{ClientKey, LandedEnvelope, PLACES_PER_CALL};

/// Largest number of places that wait for Redis; beyond it the oldest ones are forgotten. A guess: they take some 10
/// MB, and the gas for so many payloads costs far more than an hour's ceiling.
const OWED_MAX: usize = 100_000;

/// A place that Redis has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwedPlace {
    pub(super) place: (ClientKey, LandedEnvelope),
    /// The payload is in a bill of this gateway.
    pub(super) is_billed: bool,
}

/// The places that wait until Redis takes them, oldest first.
#[derive(Debug, Default)]
pub(super) struct OwedPlaces {
    places: VecDeque<OwedPlace>,
    /// A task is running that tells them.
    is_telling: bool,
}

impl OwedPlaces {
    /// Adds a place. Returns true if the caller has to start the task that tells places.
    pub(super) fn add(&mut self, place: OwedPlace) -> bool {
        self.places.push_back(place);
        self.forget_oldest();
        !std::mem::replace(&mut self.is_telling, true)
    }

    /// Removes the places of the next call. If there are none, the task that tells them has to end.
    pub(super) fn take_next(&mut self) -> Vec<OwedPlace> {
        let count = self.places.len().min(PLACES_PER_CALL);
        self.is_telling = count > 0;
        self.places.drain(..count).collect()
    }

    /// Puts back places that Redis has not taken.
    pub(super) fn put_back(&mut self, places: Vec<OwedPlace>) {
        places.into_iter().rev().for_each(|place| self.places.push_front(place));
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        let excess = self.places.len().saturating_sub(OWED_MAX);
        self.places.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

    use super::*;

    fn place(number: u64) -> OwedPlace {
        let id = EnvelopeId::new(OriginatorId(0), SequenceId(number));
        OwedPlace { place: ([0; 16], LandedEnvelope { id, transaction: None }), is_billed: true }
    }

    #[test]
    fn what_redis_does_not_take_is_told_again_before_later_places() {
        let mut owed = OwedPlaces::default();
        assert!(owed.add(place(0)), "a task has to start");
        for number in 1..=PLACES_PER_CALL as u64 {
            assert!(!owed.add(place(number)), "it is running");
        }
        let first = owed.take_next();
        assert_eq!((first.len(), first[0]), (PLACES_PER_CALL, place(0)));
        owed.put_back(first.clone());
        assert_eq!(owed.take_next(), first);
        assert_eq!(owed.take_next(), [place(PLACES_PER_CALL as u64)]);
        assert!(owed.take_next().is_empty());
        assert!(owed.add(place(0)), "the task has ended");
    }

    #[test]
    fn what_waits_for_redis_is_bounded() {
        let mut owed = OwedPlaces::default();
        for number in 0..OWED_MAX as u64 + 2 {
            owed.add(place(number));
        }
        let oldest = owed.take_next();
        assert_eq!(oldest[0], place(2));
        owed.add(place(0));
        owed.put_back(oldest);
        assert_eq!(owed.places.len(), OWED_MAX);
    }
}
