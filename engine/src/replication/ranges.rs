//! Ranges of sequence ids that are still looked for.

use hawser_proto::SequenceId;

/// The most ranges that are kept; beyond it the lowest are no longer looked for.
const RANGES_MAX: usize = 1024;

/// Disjoint ranges, ascending, both ends included.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges(Vec<(SequenceId, SequenceId)>);

impl Ranges {
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range, or part of one, that begins after `after`.
    pub(super) fn next_after(&self, after: SequenceId) -> Option<(SequenceId, SequenceId)> {
        self.0.iter().find(|(_, to)| *to > after).map(|&(from, to)| (from.max(after.next()), to))
    }

    /// Adds a range above all others.
    pub(super) fn push(&mut self, from: SequenceId, to: SequenceId) {
        debug_assert!(from <= to && self.0.last().is_none_or(|(_, last)| *last < from));
        self.0.push((from, to));
        if self.0.len() > RANGES_MAX {
            self.0.remove(0);
        }
    }

    /// Takes out one id that has been found.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let index = self.0.partition_point(|(_, to)| *to < id);
        let Some(&(from, to)) = self.0.get(index).filter(|(from, _)| *from <= id) else {
            return;
        };
        let below = (from < id).then(|| (from, id.previous()));
        let above = (id < to).then(|| (id.next(), to));
        self.0.splice(index..=index, below.into_iter().chain(above));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_behave_like_the_set_of_their_members(
            widths in proptest::collection::vec((1u64..4, 1u64..5), 1..8),
            removed in proptest::collection::vec(0u64..60, 0..60),
            after in 0u64..60,
        ) {
            let (mut ranges, mut model, mut at) = (Ranges::default(), BTreeSet::new(), 0);
            for (gap, width) in widths {
                ranges.push(SequenceId(at + gap), SequenceId(at + gap + width - 1));
                model.extend(at + gap..at + gap + width);
                at += gap + width;
            }
            for id in removed {
                ranges.remove(SequenceId(id));
                model.remove(&id);
            }
            prop_assert_eq!(ranges.is_empty(), model.is_empty());
            let first = model.range(after + 1..).next().copied();
            prop_assert_eq!(ranges.next_after(SequenceId(after)).map(|(from, _)| from.0), first);
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
