//! Queries of whole strands, answered in turns: each turn does a bounded amount of work, over a view of its own.

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::EnvelopeId;
use hawser_storage::Snapshot;

use super::access::LogAccess;
use super::queries::ROWS_PER_TURN;
use crate::read::error::QueryError;
use crate::read::limits::BatchLimits;
use crate::read::log_page::{LogFilling, LogRange};
use crate::read::memory::PageMemory;
use crate::read::rows::ROWS_PER_SEEK;

/// A page of strands that is being made: see [`Reader::originators_query`](super::Reader::originators_query).
///
/// It looks the end of each strand up first, in several turns if there are thousands: the last place that is verified
/// then. After that it reads each strand up to its end by one ordered scan. The data that it keeps between turns, the
/// page so far and one short envelope of each strand, is charged to its reader's memory.
pub struct OriginatorsQuery {
    log: LogAccess,
    /// The last place that the reader has of each strand whose end is still to be looked up.
    from: Vec<EnvelopeId>,
    /// The strands with a known end that have something behind the reader's place, up to that end.
    ranges: Vec<LogRange>,
    limits: BatchLimits,
    with_marked: bool,
    /// The page so far; `None` before the ends of all strands are known.
    filling: Option<LogFilling>,
}

impl OriginatorsQuery {
    /// Creates a query of the places after `from`, which names each strand once.
    pub(super) fn new(log: LogAccess, from: Vec<EnvelopeId>, limit: usize) -> Self {
        let (ranges, limits) = (Vec::new(), BatchLimits::of_query(limit));
        Self { log, from, ranges, limits, with_marked: false, filling: None }
    }

    /// Makes the page contain also envelopes of nodes that this node has marked invalid. A follower judges them itself;
    /// readers must not get them.
    #[must_use]
    pub fn with_marked(mut self) -> Self {
        self.with_marked = true;
        self
    }

    /// Does one turn. Returns the page when it is complete; until then there is more to do. After that, or an error,
    /// the query is over.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read, or the reader may not have the memory.
    pub fn turn(&mut self) -> Result<Option<Vec<Bytes>>, QueryError> {
        let counters = Arc::clone(&self.log.counters);
        counters.query_originators.measure(|| self.work())
    }

    fn work(&mut self) -> Result<Option<Vec<Bytes>>, QueryError> {
        let store = self.log.store.clone();
        let snapshot = store.snapshot();
        let Some(left) = self.look_up_ends(&snapshot)? else { return Ok(None) };
        let page = self.filling().fill(&snapshot, left)?;
        Ok(page.map(|page| page.envelopes.into_iter().map(|(_, bytes)| bytes).collect()))
    }

    /// Looks up the ends of strands, as many as a turn may: a caller can name thousands that do not exist. Returns the
    /// work that the turn has left, in rows; `None` if it has none.
    fn look_up_ends(&mut self, snapshot: &Snapshot<'_>) -> Result<Option<usize>, QueryError> {
        let mut left = ROWS_PER_TURN;
        while let Some(after) = self.from.pop() {
            // Other nodes read strands by this call, too, and take them for verified.
            let through = snapshot.verified_head(after.originator)?;
            if after.sequence < through {
                self.ranges.push(LogRange { after, through });
            }
            left = left.saturating_sub(ROWS_PER_SEEK);
            if left == 0 {
                return Ok(None);
            }
        }
        Ok(Some(left))
    }

    /// Returns the page so far. To be called when the ends of all strands are known.
    fn filling(&mut self) -> &mut LogFilling {
        let Self { log, ranges, limits, with_marked, filling, .. } = self;
        filling.get_or_insert_with(|| {
            let memory = PageMemory::new(Arc::clone(&log.memory), 0);
            let begun = LogFilling::new(std::mem::take(ranges), *limits, memory);
            if *with_marked { begun.with_marked() } else { begun }
        })
    }
}

#[cfg(test)]
#[path = "originators_query_tests.rs"]
mod tests;
