//! Places of envelopes that evidence needs and that the disk has damaged, or has failed to read for long.

use std::collections::BTreeSet;

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;

/// Places that are named and counted. A guess: more lines tell an operator nothing more.
const PLACES_MAX: usize = 1024;

/// The unreadable places that were named in the log. Peers may send envelopes for one over and over. Bounded by
/// [`PLACES_MAX`].
#[derive(Debug, Default)]
pub(super) struct UnreadablePlaces(Mutex<BTreeSet<EnvelopeId>>);

impl UnreadablePlaces {
    /// Adds a place. Returns true if it is to be named: it is new, and there is room.
    pub(super) fn insert(&self, at: EnvelopeId) -> bool {
        let mut places = self.0.lock();
        places.len() < PLACES_MAX && places.insert(at)
    }

    /// Returns true if a place has been added, so that no work waits for it again. While there is no room for others,
    /// it may be any place.
    pub(super) fn is_given_up(&self, at: EnvelopeId) -> bool {
        let places = self.0.lock();
        places.len() >= PLACES_MAX || places.contains(&at)
    }
}

/// Returns true if an envelope that could not be read is tried again after this number of commits of its strand. The
/// tries become ever rarer: each one may take a failing disk seconds, for which the strand waits.
pub(super) fn is_tried_again(commits: u32) -> bool {
    commits == 0 || commits.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    #[test]
    fn a_million_commits_wait_for_few_tries() {
        assert!((0..=2).all(is_tried_again));
        assert_eq!((0..1_000_000).filter(|&commits| is_tried_again(commits)).count(), 21);
    }

    #[test]
    fn a_place_is_named_once_and_a_flood_of_places_is_bounded() {
        let places = UnreadablePlaces::default();
        let at = |place| EnvelopeId::new(OriginatorId(300), SequenceId(place));
        assert!(!places.is_given_up(at(1)));
        assert!(places.insert(at(1)));
        assert!(!places.insert(at(1)));
        assert!(places.is_given_up(at(1)) && !places.is_given_up(at(2)));
        let named = (1..=10_000).filter(|&place| places.insert(at(place))).count();
        assert_eq!(named, PLACES_MAX - 1);
        assert!(places.is_given_up(at(20_000)), "a disk with so many makes no strand wait");
    }
}
