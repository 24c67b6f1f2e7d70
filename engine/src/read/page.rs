//! A page of topics, as planned and while it is filled.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_storage::TopicRow;

use super::limits::{BatchLimits, BatchSize};

/// Memory that a page takes for a row while it is filled, in bytes. Counted from the types, twice, since vectors grow
/// by doubling.
const ROW_BYTES: usize = 128;

/// One page of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedPage {
    /// Topics, by their places in the plan, and envelopes, in the order of delivery.
    pub(crate) rows: Vec<(usize, EnvelopeId)>,
    /// The envelopes that came with their rows, in the same order. The others are in the log.
    pub(crate) envelopes: Vec<Option<Bytes>>,
    /// Bytes of the envelopes on the wire.
    pub(crate) len_bytes: usize,
    /// The plan has reached its ceiling, except for originators that are held.
    pub(crate) finished: bool,
}

impl PlannedPage {
    /// Returns a page without envelopes.
    pub(super) fn empty(finished: bool) -> Self {
        Self { rows: Vec::new(), envelopes: Vec::new(), len_bytes: 0, finished }
    }

    /// Drops the envelopes that came with their rows, so that the page takes little memory while it waits.
    pub(crate) fn drop_envelopes(&mut self) {
        self.envelopes.fill(None);
    }
}

/// A page while it is filled, in one turn or in several.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    pub(super) size: BatchSize,
    pub(super) finished: bool,
    rows: Vec<(usize, EnvelopeId)>,
    envelopes: Vec<Option<Bytes>>,
    /// The shares of strands, if a node's may not fill more than half of the page.
    pub(super) shares: Option<Shares>,
}

/// The parts of a page that strands of nodes have so far.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) sizes: BTreeMap<OriginatorId, BatchSize>,
    /// Strands that have their half.
    pub(super) served: BTreeSet<OriginatorId>,
}

impl Filling {
    /// Begins a page of which no node's strand fills more than half while another strand has an envelope left.
    pub(crate) fn shared() -> Self {
        Self { shares: Some(Shares::default()), ..Self::default() }
    }

    /// Adds the next row, which has been counted already.
    pub(super) fn push(&mut self, topic: usize, row: TopicRow) {
        self.rows.push((topic, row.id));
        self.envelopes.push(row.envelope);
    }

    /// Returns the number of rows that there is room for, and one more, which shows if there is more.
    pub(super) fn wanted(&self, limits: BatchLimits) -> usize {
        self.size.room(limits).saturating_add(1)
    }

    /// Returns an estimate of the memory of its rows, in bytes, without the envelopes that came with them.
    pub(crate) fn held_bytes(&self) -> usize {
        self.rows.len() * ROW_BYTES
    }

    /// Returns the bytes of the envelopes that came with its rows.
    #[cfg(test)]
    pub(crate) fn beside_bytes(&self) -> usize {
        self.envelopes.iter().flatten().map(Bytes::len).sum()
    }

    /// Returns the page.
    pub(crate) fn into_page(self) -> PlannedPage {
        let Self { size, finished, rows, envelopes, .. } = self;
        PlannedPage { rows, envelopes, len_bytes: size.len_bytes(), finished }
    }
}
