//! Ranges of sequence ids that are marked missing and still searched for.

use hawser_proto::SequenceId;

/// Upper bound of ranges kept in memory, 16 KiB. A guess: most strands have fewer gaps. Beyond it the lowest ranges
/// have to be read from disk again.
pub(crate) const RANGES_MAX: usize = 1024;

/// The first and the last place of a range, both included.
pub(super) type Places = (SequenceId, SequenceId);

/// Bounded set of disjoint ranges, ascending, both ends included.
///
/// Invariant: each range starts after the one before it has ended, and none is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges {
    ranges: Vec<Places>,
    /// A range was dropped.
    is_cut: bool,
}

impl Ranges {
    /// Returns true if there is no range.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the number of ranges.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Returns true if there may be ranges that these lack: one was dropped, or no more had room.
    pub(super) fn may_lack_some(&self) -> bool {
        self.is_cut || self.ranges.len() >= RANGES_MAX
    }

    /// Returns the last place; [`SequenceId::NONE`] without a range.
    pub(super) fn last(&self) -> SequenceId {
        self.ranges.last().map_or(SequenceId::NONE, |(_, last)| *last)
    }

    /// Returns the first range, or the rest of one, that lies after `after`.
    pub(super) fn next_after(&self, after: SequenceId) -> Option<Places> {
        let index = self.ranges.partition_point(|(_, to)| *to <= after);
        self.ranges.get(index).map(|&(from, to)| (from.max(after.next()), to))
    }

    /// Returns the ranges that end at `end` or before it.
    pub(super) fn up_to(&self, end: SequenceId) -> Self {
        let ends = self.ranges.partition_point(|(_, to)| *to <= end);
        Self { ranges: self.ranges[..ends].to_vec(), is_cut: self.is_cut }
    }

    /// Adds a range above all others. Drops the lowest one if there are too many.
    pub(super) fn push(&mut self, from: SequenceId, to: SequenceId) {
        debug_assert!(from <= to, "a range has at least one place");
        debug_assert!(self.is_empty() || self.last() < from, "ranges ascend");
        self.ranges.push((from, to));
        self.keep_bound();
    }

    /// Removes one id that has been found. Splits the range that contains it, if there is one, and
    /// drops the lowest range if there are too many then. Returns false if no range contains it.
    pub(super) fn remove(&mut self, id: SequenceId) -> bool {
        let index = self.ranges.partition_point(|(_, to)| *to < id);
        let Some(&(from, to)) = self.ranges.get(index).filter(|(from, _)| *from <= id) else {
            return false;
        };
        let below = (from < id).then(|| (from, id.previous()));
        let above = (id < to).then(|| (id.next(), to));
        self.ranges.splice(index..=index, below.into_iter().chain(above));
        self.keep_bound();
        true
    }

    /// Removes the places from `first` to `last`, both included. Drops the lowest range if there are too many then.
    pub(super) fn remove_all(&mut self, first: SequenceId, last: SequenceId) {
        let start = self.ranges.partition_point(|(_, to)| *to < first);
        let end = self.ranges.partition_point(|(from, _)| *from <= last);
        if first > last || start >= end {
            return;
        }
        let ((from, _), (_, to)) = (self.ranges[start], self.ranges[end - 1]);
        let below = (from < first).then(|| (from, first.previous()));
        let above = (last < to).then(|| (last.next(), to));
        self.ranges.splice(start..end, below.into_iter().chain(above));
        self.keep_bound();
    }

    fn keep_bound(&mut self) {
        if self.ranges.len() > RANGES_MAX {
            self.ranges.remove(0);
            self.is_cut = true;
        }
        debug_assert!(self.ranges.len() <= RANGES_MAX, "one call adds one range at most");
    }
}

impl FromIterator<Places> for Ranges {
    /// Takes disjoint ranges that ascend. Keeps the highest ones if there are too many.
    fn from_iter<I: IntoIterator<Item = Places>>(ascending: I) -> Self {
        let mut ranges = Self::default();
        ascending.into_iter().for_each(|(from, to)| ranges.push(from, to));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bound_holds_while_ranges_are_added_and_split() {
        let mut ranges = Ranges::default();
        for n in 0..2000 {
            ranges.push(SequenceId(n * 10 + 1), SequenceId(n * 10 + 9));
            ranges.remove(SequenceId(n * 10 + 5));
            assert!(ranges.len() <= RANGES_MAX);
            assert_eq!(ranges.may_lack_some(), n >= 511, "{n}");
        }
        let highest = (SequenceId(19_996), SequenceId(19_999));
        assert_eq!(ranges.ranges.last(), Some(&highest), "the lowest ranges go");
        while let Some((from, to)) = ranges.next_after(SequenceId::NONE) {
            for place in from.0..=to.0 {
                ranges.remove(SequenceId(place));
            }
        }
        assert!(ranges.may_lack_some(), "those that went are somewhere else");
    }

    proptest! {
        #[test]
        fn ranges_behave_like_the_set_of_their_members(
            widths in proptest::collection::vec((1u64..4, 1u64..5), 1..8),
            removed in proptest::collection::vec(0u64..60, 0..60),
            (first, last) in (0u64..60, 0u64..60),
            after in 0u64..60,
        ) {
            let (mut ranges, mut model, mut at) = (Ranges::default(), BTreeSet::new(), 0);
            for (gap, width) in widths {
                ranges.push(SequenceId(at + gap), SequenceId(at + gap + width - 1));
                model.extend(at + gap..at + gap + width);
                at += gap + width;
            }
            for id in removed {
                prop_assert_eq!(ranges.remove(SequenceId(id)), model.remove(&id));
            }
            ranges.remove_all(SequenceId(first), SequenceId(last));
            model.retain(|id| *id < first || *id > last);
            prop_assert_eq!(ranges.is_empty(), model.is_empty());
            let first = model.range(after + 1..).next().copied();
            prop_assert_eq!(ranges.next_after(SequenceId(after)).map(|(from, _)| from.0), first);
            prop_assert_eq!(ranges.last().0, model.last().copied().unwrap_or_default());
            let lower = ranges.up_to(SequenceId(after));
            prop_assert!(lower.last().0 <= after);
            let next = ranges.next_after(lower.last()).map(|(_, to)| to.0);
            prop_assert!(next.is_none_or(|to| to > after), "only whole ranges are left out");
            let mut listed = BTreeSet::new();
            let mut last = SequenceId::NONE;
            while let Some((from, to)) = ranges.next_after(last) {
                listed.extend(from.0..=to.0);
                last = to;
            }
            prop_assert_eq!(listed, model);
        }
    }
}
