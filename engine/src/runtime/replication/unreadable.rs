//! Places of envelopes that the disk has damaged and that evidence needs.

use std::collections::BTreeSet;

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;

/// Places that are named and counted. A guess: more lines tell an operator nothing more.
const PLACES_MAX: usize = 1024;

/// The damaged places that were named in the log. Peers may send envelopes for one over and over. Bounded by
/// [`PLACES_MAX`].
#[derive(Debug, Default)]
pub(super) struct UnreadablePlaces(Mutex<BTreeSet<EnvelopeId>>);

impl UnreadablePlaces {
    /// Adds a place. Returns true if it is to be named: it is new, and there is room.
    pub(super) fn insert(&self, at: EnvelopeId) -> bool {
        let mut places = self.0.lock();
        places.len() < PLACES_MAX && places.insert(at)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    #[test]
    fn a_place_is_named_once_and_a_flood_of_places_is_bounded() {
        let places = UnreadablePlaces::default();
        let at = |place| EnvelopeId::new(OriginatorId(300), SequenceId(place));
        assert!(places.insert(at(1)));
        assert!(!places.insert(at(1)));
        let named = (1..=10_000).filter(|&place| places.insert(at(place))).count();
        assert_eq!(named, PLACES_MAX - 1);
    }
}
