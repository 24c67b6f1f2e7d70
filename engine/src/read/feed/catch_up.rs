//! Catch-up of some topics of a stream from disk.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_proto::{Cursor, Topic};

use super::WaveId;
use super::tail::Tail;
use crate::read::plan::PagePlan;

/// Topics of a stream that are read from disk together, up to the heads at the start.
#[derive(Debug)]
pub(super) struct TopicCatchUp {
    pub(super) cause: CatchUpCause,
    pub(super) topics: Vec<Topic>,
    pub(super) reading: CatchUpProgress,
    pub(super) tail: Tail,
}

impl TopicCatchUp {
    /// Returns true if its topics are never live.
    pub(super) fn is_history(&self) -> bool {
        matches!(self.cause, CatchUpCause::History(_))
    }
}

/// The cause of a catch-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CatchUpCause {
    /// The topics are new.
    Wave(WaveId),
    /// The topics are read to the heads and are never live.
    History(WaveId),
    /// The listener's queue overflowed: envelopes of the topics were dropped.
    Overflow,
}

impl CatchUpCause {
    /// Returns the wave that the catch-up belongs to.
    pub(super) fn wave(self) -> Option<WaveId> {
        match self {
            Self::Wave(wave) | Self::History(wave) => Some(wave),
            Self::Overflow => None,
        }
    }
}

/// Progress of a catch-up.
#[derive(Debug)]
pub(super) enum CatchUpProgress {
    /// No row has been read. The ceiling will be the heads at the start, which cover every envelope that is committed
    /// before it.
    NotStarted,
    /// Between two pages.
    Paused(Box<PagePlan>),
    /// A page is being read up to this ceiling.
    Page(Arc<Cursor>),
    /// All pages up to this ceiling have been delivered, but the topics cannot be live yet.
    Parked(Arc<Cursor>),
}

impl CatchUpProgress {
    /// Returns the heads up to which the topics are read; `None` before the start.
    pub(super) fn ceiling(&self) -> Option<&Arc<Cursor>> {
        match self {
            Self::NotStarted => None,
            Self::Paused(plan) => Some(plan.ceiling()),
            Self::Page(ceiling) | Self::Parked(ceiling) => Some(ceiling),
        }
    }
}

/// Merges one cursor into many that are mostly the same. Equal results share their memory: a stream
/// of thousands of topics keeps a few cursors, in whatever order its topics come.
pub(super) struct CursorMerger {
    with: Arc<Cursor>,
    last: Option<(Arc<Cursor>, Arc<Cursor>)>,
    /// The cursors that were ahead, by their memory addresses, with their results. The map keeps them alive, so that no
    /// other cursor gets one of these addresses.
    ahead: HashMap<usize, (Arc<Cursor>, Arc<Cursor>)>,
}

impl CursorMerger {
    pub(super) fn new(with: Arc<Cursor>) -> Self {
        Self { with, last: None, ahead: HashMap::new() }
    }

    pub(super) fn merge(&mut self, cursor: &Arc<Cursor>) -> Arc<Cursor> {
        if let Some((_, merged)) = self.last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, cursor)) {
            return Arc::clone(merged);
        }
        let merged = if cursor.iter().all(|id| self.with.covers(id)) {
            Arc::clone(&self.with)
        } else {
            let merge = || {
                let mut merged = Cursor::clone(cursor);
                merged.merge(&self.with);
                (Arc::clone(cursor), Arc::new(merged))
            };
            let (_, merged) = self.ahead.entry(Arc::as_ptr(cursor).addr()).or_insert_with(merge);
            Arc::clone(merged)
        };
        self.last = Some((Arc::clone(cursor), Arc::clone(&merged)));
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::testing::cursor;

    /// A reader chooses names so that topics of two cursors alternate. It is charged for two.
    #[test]
    fn cursors_that_alternate_give_as_many_results_as_there_are_cursors() {
        let [first, second, behind] =
            [&[(100, 9), (300, 1)], &[(200, 9), (300, 2)], &[(100, 1), (200, 1)]]
                .map(|entries| Arc::new(cursor(entries)));
        let heads = Arc::new(cursor(&[(100, 4), (200, 4)]));
        let mut merger = CursorMerger::new(Arc::clone(&heads));
        let results: Vec<_> = (0..100)
            .flat_map(|_| [&first, &second, &behind].map(|cursor| merger.merge(cursor)))
            .collect();
        assert_eq!(*results[0], cursor(&[(100, 9), (200, 4), (300, 1)]));
        assert_eq!(*results[1], cursor(&[(100, 4), (200, 9), (300, 2)]));
        for (place, result) in results.iter().enumerate() {
            let expected = if place % 3 == 2 { &heads } else { &results[place % 3] };
            assert!(Arc::ptr_eq(result, expected), "{place}");
        }
    }
}
