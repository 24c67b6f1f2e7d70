//! Places of envelopes that evidence needs and that the disk has damaged, or has failed to read for long.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;

/// Places that are named and counted. A guess: more lines tell an operator nothing more.
const PLACES_MAX: usize = 1024;
/// Times that a strand has waited for the disk in vain, until none waits any more. A guess: a disk that was waited for
/// so often, some two minutes in all, fails for good. Peers choose the places, so they could hold a strand up for
/// hours.
const WAITS_MAX: u32 = 16;

/// The unreadable places that were named in the log. Peers may send envelopes for one over and over. Bounded by
/// [`PLACES_MAX`].
#[derive(Debug, Default)]
pub(super) struct UnreadablePlaces {
    named: Mutex<BTreeSet<EnvelopeId>>,
    waits: AtomicU32,
}

impl UnreadablePlaces {
    /// Adds a place. Returns true if it is to be named: it is new, and there is room.
    pub(super) fn insert(&self, at: EnvelopeId) -> bool {
        let mut places = self.named.lock();
        places.len() < PLACES_MAX && places.insert(at)
    }

    /// Notes that a strand has waited for places which the disk could then not read.
    pub(super) fn note_wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns true if a place has been added, so that no work waits for it again. While there is no room for others,
    /// or after [`WAITS_MAX`] waits, it may be any place.
    pub(super) fn is_given_up(&self, at: EnvelopeId) -> bool {
        if self.waits.load(Ordering::Relaxed) >= WAITS_MAX {
            return true;
        }
        let places = self.named.lock();
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
    fn peers_that_send_for_one_unreadable_place_after_the_other_hold_a_strand_up_a_few_times() {
        let places = UnreadablePlaces::default();
        let at = |place| EnvelopeId::new(OriginatorId(300), SequenceId(place));
        let waits = (1..=10_000).filter(|&place| {
            let waits = !places.is_given_up(at(place));
            if waits {
                places.note_wait();
            }
            places.insert(at(place));
            waits
        });
        assert_eq!(waits.count(), 16);
        assert!(places.is_given_up(at(20_000)), "a disk that fails so often makes no strand wait");
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
