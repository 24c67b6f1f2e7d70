//! Catch-up of some topics of a stream from disk.

use std::sync::Arc;

use hawser_proto::{Cursor, Topic};

use super::WaveId;
use super::tail::Tail;
use crate::read::plan::PagePlan;

/// Topics of a stream that are read from disk together, up to the heads at the start.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) cause: CatchUpCause,
    pub(super) topics: Vec<Topic>,
    pub(super) reading: CatchUpProgress,
    pub(super) tail: Tail,
}

impl CatchUp {
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
/// of thousands of topics keeps a few cursors.
pub(super) struct CursorMerger {
    with: Arc<Cursor>,
    last: Option<(Arc<Cursor>, Arc<Cursor>)>,
}

impl CursorMerger {
    pub(super) fn new(with: Arc<Cursor>) -> Self {
        Self { with, last: None }
    }

    pub(super) fn merge(&mut self, cursor: &Arc<Cursor>) -> Arc<Cursor> {
        if let Some((_, merged)) = self.last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, cursor)) {
            return Arc::clone(merged);
        }
        let merged = if cursor.iter().all(|id| self.with.covers(id)) {
            Arc::clone(&self.with)
        } else {
            let mut merged = Cursor::clone(cursor);
            merged.merge(&self.with);
            Arc::new(merged)
        };
        self.last = Some((Arc::clone(cursor), Arc::clone(&merged)));
        merged
    }
}
