//! The places that envelopes of a peer's answers have taken, to tell repeats from second statements.

use std::collections::VecDeque;
use std::sync::Arc;

use hawser_proto::SequenceId;
use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use parking_lot::Mutex;

/// The last envelopes with which repeated ones are compared. A guess: a page, in 4 kB for each want, and for each peer.
const TAKEN_MAX: usize = 100;

/// The last places of one strand that a peer's answers have taken. Clones share them.
///
/// A node that lies, or that was set back to a backup, may send another statement for a place in a later answer. So the
/// answers that share these places are compared with one another. Whether a statement differs from that of the log is
/// decided there: a place may be noted here whose envelope was never stored.
#[derive(Debug, Clone, Default)]
pub(super) struct AnsweredPlaces(Arc<Mutex<VecDeque<(SequenceId, TreeHash)>>>);

impl AnsweredPlaces {
    /// Notes the statement that has taken a place. Forgets this place and those above it of earlier answers: the
    /// follower has asked for them again, because it has not stored them.
    pub(super) fn note(&self, place: SequenceId, statement: &[u8]) {
        // Other outer bytes and other signatures do not change the leaf.
        let leaf = leaf_hash(LeafData::Signed(statement));
        let mut last = self.0.lock();
        while last.back().is_some_and(|(taken, _)| *taken >= place) {
            last.pop_back();
        }
        if last.len() >= TAKEN_MAX {
            last.pop_front();
        }
        last.push_back((place, leaf));
    }

    /// Returns true if a place is known, and a statement differs from the one that has taken it.
    pub(super) fn has_other(&self, place: SequenceId, statement: &[u8]) -> bool {
        let taken = {
            let last = self.0.lock();
            let at = last.binary_search_by_key(&place, |(taken, _)| *taken);
            at.ok().map(|at| last[at].1)
        };
        taken.is_some_and(|taken| taken != leaf_hash(LeafData::Signed(statement)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_known_with_the_statement_that_was_sent_last() {
        let places = AnsweredPlaces::default();
        let shared = places.clone();
        let has_other = |place: u64| shared.has_other(SequenceId(place), b"other");
        (1..=200).for_each(|place| places.note(SequenceId(place), b"one"));
        assert!(!has_other(100) && has_other(101) && has_other(200) && !has_other(201));
        assert!(!shared.has_other(SequenceId(200), b"one"));
        // The follower has asked again, behind place 149.
        places.note(SequenceId(150), b"other");
        assert!(has_other(149) && !has_other(150) && !has_other(151));
        assert!(shared.has_other(SequenceId(150), b"one"));
    }
}
