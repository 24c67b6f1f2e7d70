//! The cursors that live topics have been brought to.

use std::sync::{Arc, Weak};

use hawser_proto::Cursor;

/// Memory of a cursor besides its entries, in bytes. Calculated: 48 bytes, with what the allocator adds.
pub(super) const CURSOR_BYTES: usize = 64;
/// The least number of cursors at which those that no topic has any more are looked for. A guess.
const SEARCH_LEN_MIN: usize = 8;

/// The heads at which the waves of a stream have ended: each wave brings its topics to one cursor, with an entry for
/// each strand, which lasts as long as one of these topics. Counts them, because a client can add topics one by one.
#[derive(Debug, Default)]
pub(super) struct LiveFloors {
    floors: Vec<Weak<Cursor>>,
    /// Memory of the cursors that the last search has found, and of all that were added since.
    bytes: usize,
    /// The number of cursors that the last search has found.
    found: usize,
}

impl LiveFloors {
    /// Counts a cursor that topics have been brought to. O(1) on average: the others are searched when their number has
    /// doubled.
    pub(super) fn add(&mut self, floor: &Arc<Cursor>) {
        let is_it = |last: &Weak<Cursor>| std::ptr::eq(last.as_ptr(), Arc::as_ptr(floor));
        if self.floors.last().is_some_and(is_it) {
            return;
        }
        if self.floors.len() >= SEARCH_LEN_MIN.max(2 * self.found) {
            self.floors.retain(|floor| floor.strong_count() > 0);
            self.floors.shrink_to_fit();
            self.found = self.floors.len();
            let there = self.floors.iter().filter_map(Weak::upgrade);
            self.bytes = there.map(|floor| cursor_bytes(&floor)).sum();
        }
        self.floors.push(Arc::downgrade(floor));
        self.bytes += cursor_bytes(floor);
    }

    /// Returns the most memory that the cursors take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.floors.capacity() * size_of::<Weak<Cursor>>()
    }
}

/// Returns the memory that a cursor takes.
pub(super) fn cursor_bytes(cursor: &Cursor) -> usize {
    CURSOR_BYTES + cursor.entries_bytes()
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

    use super::*;

    fn heads(sequence: u64) -> Arc<Cursor> {
        let place = |originator| EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
        Arc::new((100..203).map(place).collect())
    }

    #[test]
    fn cursors_count_while_they_are_there_and_equal_ones_once() {
        let one = cursor_bytes(&heads(1));
        let mut floors = LiveFloors::default();
        let kept: Vec<_> = (1..=100).map(heads).collect();
        for floor in &kept {
            (0..3).for_each(|_| floors.add(floor));
        }
        assert!((100 * one..101 * one).contains(&floors.bytes()), "{}", floors.bytes());
        drop(kept);
        // A client that adds a topic and removes it, without end.
        (1..=1000).for_each(|sequence| floors.add(&heads(sequence)));
        assert!(floors.bytes() <= 201 * one, "{}", floors.bytes());
        (1..=1000).for_each(|sequence| floors.add(&heads(sequence)));
        assert!(floors.bytes() <= (SEARCH_LEN_MIN + 1) * one, "{}", floors.bytes());
    }
}
