//! A page of topics, as planned and while it is filled.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_storage::TopicRow;

use super::limits::{BatchLimits, BatchSize};

/// Memory that a page takes for a row while it is filled, in bytes. Counted from the types, twice, since vectors grow
/// by doubling.
const ROW_BYTES: usize = 128;
/// Memory that a page takes for a dependency of a row while it is filled, in bytes. Counted in the same way.
const DEPENDENCY_BYTES: usize = 48;

/// An envelope of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRow {
    /// Its topic, by the place in the plan.
    pub(crate) topic: usize,
    pub(crate) id: EnvelopeId,
    /// The originator's time, unix nanoseconds.
    pub(crate) originator_ns: i64,
}

impl PageRow {
    /// Returns its strand and time.
    pub(super) fn dated(&self) -> (OriginatorId, i64) {
        (self.id.originator, self.originator_ns)
    }
}

/// One page of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlannedPage {
    /// In the order of delivery.
    pub(crate) rows: Vec<PageRow>,
    /// The envelopes that came with their rows, in the same order. The others are in the log.
    pub(crate) envelopes: Vec<Option<Bytes>>,
    /// The chain envelopes that commits and envelopes of nodes depend on, by the places of these in `rows`.
    pub(super) depends_on: Vec<(usize, EnvelopeId)>,
    /// Bytes of the envelopes on the wire, or more if envelopes were removed.
    pub(crate) len_bytes: usize,
    /// The plan has reached its ceiling, except for originators that are held.
    pub(crate) finished: bool,
}

impl PlannedPage {
    /// Returns a page without envelopes.
    pub(super) fn empty(finished: bool) -> Self {
        let (rows, envelopes, depends_on) = (Vec::new(), Vec::new(), Vec::new());
        Self { rows, envelopes, depends_on, len_bytes: 0, finished }
    }

    /// Drops the envelopes that came with their rows, so that the page takes little memory while it waits.
    pub(crate) fn drop_envelopes(&mut self) {
        self.envelopes.fill(None);
    }

    /// Removes the rest of each node's strand from the first envelope on that the node has dated before an earlier one
    /// of the page.
    ///
    /// Clients sort a page by time, and pass over an envelope whose place is below one that they have. If two are dated
    /// the wrong way round, they would lose the earlier one for good. The rest comes with the next page, since
    /// the reader's cursor ends at what it has. Strands of chains stay whole: envelopes of nodes depend on them, and
    /// no block is dated before its parent.
    pub(crate) fn end_strands_at_steps_back(&mut self) {
        let mut times: BTreeMap<OriginatorId, i64> = BTreeMap::new();
        let mut ended: BTreeSet<OriginatorId> = BTreeSet::new();
        let stays = self.rows.iter().map(|row| {
            let originator = row.id.originator;
            let last_ns = times.insert(originator, row.originator_ns);
            if originator.is_node() && last_ns.is_some_and(|last_ns| row.originator_ns < last_ns) {
                ended.insert(originator);
            }
            !ended.contains(&originator)
        });
        let stays: Vec<bool> = stays.collect();
        if ended.is_empty() {
            return;
        }
        self.keep(&stays);
        self.finished = false;
    }

    /// Keeps the envelopes at the places that stay.
    pub(super) fn keep(&mut self, stays: &[bool]) {
        let (mut of_rows, mut of_envelopes) = (stays.iter(), stays.iter());
        self.rows.retain(|_| of_rows.next().is_some_and(|stays| *stays));
        self.envelopes.retain(|_| of_envelopes.next().is_some_and(|stays| *stays));
    }
}

/// A page while it is filled, in one turn or in several.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    pub(super) size: BatchSize,
    pub(super) finished: bool,
    rows: Vec<PageRow>,
    envelopes: Vec<Option<Bytes>>,
    depends_on: Vec<(usize, EnvelopeId)>,
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
        let originator = row.id.originator;
        if originator.is_node() || originator == OriginatorId::GROUP_MESSAGES {
            let place = self.rows.len();
            let chains = row.depends_on.iter().filter(|on| !on.originator.is_node());
            self.depends_on.extend(chains.map(|&on| (place, on)));
        }
        self.rows.push(PageRow { topic, id: row.id, originator_ns: row.originator_ns });
        self.envelopes.push(row.envelope);
    }

    /// Returns the number of rows that there is room for, and one more, which shows if there is more.
    pub(super) fn wanted(&self, limits: BatchLimits) -> usize {
        self.size.room(limits).saturating_add(1)
    }

    /// Returns an estimate of the memory of its rows and their dependencies, in bytes, without the envelopes that came
    /// with them.
    pub(crate) fn held_bytes(&self) -> usize {
        self.rows.len() * ROW_BYTES + self.depends_on.len() * DEPENDENCY_BYTES
    }

    /// Returns the bytes of the envelopes that came with its rows.
    #[cfg(test)]
    pub(crate) fn beside_bytes(&self) -> usize {
        self.envelopes.iter().flatten().map(Bytes::len).sum()
    }

    /// Returns the page.
    pub(crate) fn into_page(self) -> PlannedPage {
        let Self { size, finished, rows, envelopes, depends_on, .. } = self;
        PlannedPage { rows, envelopes, depends_on, len_bytes: size.len_bytes(), finished }
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
