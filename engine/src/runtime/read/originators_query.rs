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

/// A page of strands that is being made: see [`Reader::originators_query`](super::Reader::originators_query).
///
/// It reads each strand by one ordered scan, up to the last place that was verified in its first turn. The data
/// that it keeps between turns, the page so far and one envelope of each strand, is charged to its reader's memory.
pub struct OriginatorsQuery {
    log: LogAccess,
    /// The last place of each strand that the reader has.
    from: Vec<EnvelopeId>,
    limits: BatchLimits,
    with_marked: bool,
    /// The page so far; `None` before the first turn.
    filling: Option<LogFilling>,
}

impl OriginatorsQuery {
    /// Creates a query of the places after `from`, which names each strand once.
    pub(super) fn new(log: LogAccess, from: Vec<EnvelopeId>, limit: usize) -> Self {
        let limits = BatchLimits::of_query(limit);
        Self { log, from, limits, with_marked: false, filling: None }
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
        let page = self.filling(&snapshot)?.fill(&snapshot, ROWS_PER_TURN)?;
        Ok(page.map(|page| page.envelopes.into_iter().map(|(_, bytes)| bytes).collect()))
    }

    /// Returns the page so far. The first turn's heads are its end.
    fn filling(&mut self, snapshot: &Snapshot<'_>) -> Result<&mut LogFilling, QueryError> {
        let filling = match self.filling.take() {
            Some(filling) => filling,
            None => {
                // Other nodes read strands by this call, too, and take them for verified.
                let range = |&after: &EnvelopeId| -> Result<_, QueryError> {
                    let through = snapshot.verified_head(after.originator)?;
                    Ok(LogRange { after, through })
                };
                let ranges = self.from.iter().map(range).collect::<Result<Vec<_>, _>>()?;
                let memory = PageMemory::new(Arc::clone(&self.log.memory), 0);
                let filling = LogFilling::new(ranges, self.limits, memory);
                if self.with_marked { filling.with_marked() } else { filling }
            }
        };
        Ok(self.filling.insert(filling))
    }
}

#[cfg(test)]
#[path = "originators_query_tests.rs"]
mod tests;
