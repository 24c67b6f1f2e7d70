//! Reading some topics of a stream from disk.

use std::sync::Arc;

use hawser_proto::{Cursor, Topic};

use super::WaveId;
use super::tail::Tail;
use crate::read::plan::Plan;

/// Topics of a stream that are read from disk together.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) cause: Cause,
    pub(super) topics: Vec<Topic>,
    pub(super) reading: Reading,
    pub(super) tail: Tail,
}

/// Why topics are read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// They are new.
    Wave(WaveId),
    /// What was committed to them was dropped.
    Overflow,
    /// What they waited for has come.
    Chain,
}

impl Cause {
    pub(super) fn wave(self) -> Option<WaveId> {
        match self {
            Self::Wave(wave) => Some(wave),
            Self::Overflow | Self::Chain => None,
        }
    }
}

/// How far the reading is.
#[derive(Debug)]
pub(super) enum Reading {
    /// Its ceiling will be the heads at the start, which what is committed before is below.
    NotStarted,
    /// Between two pages.
    Paused(Box<Plan>),
    /// A page is being read up to this ceiling.
    Page(Arc<Cursor>),
    /// All pages up to this ceiling have come, but its topics cannot be live yet.
    Parked(Arc<Cursor>),
}

impl Reading {
    pub(super) fn ceiling(&self) -> Option<&Arc<Cursor>> {
        match self {
            Self::NotStarted => None,
            Self::Paused(plan) => Some(plan.ceiling()),
            Self::Page(ceiling) | Self::Parked(ceiling) => Some(ceiling),
        }
    }
}

/// Merges one cursor into many that are mostly the same, so that they stay one in memory.
pub(super) struct Merger {
    with: Arc<Cursor>,
    last: Option<(Arc<Cursor>, Arc<Cursor>)>,
}

impl Merger {
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
