//! The parts of the engine that queries and subscriptions read from.

use std::ops::Deref;
use std::sync::Arc;

use hawser_proto::Cursor;
use hawser_storage::{Snapshot, Store};

use super::hub::Hub;
use super::page_threads::PageThreads;
use crate::read::feed::Feed;
use crate::read::limits::BatchLimits;
use crate::read::{ReadMemory, Unlimited};
use crate::runtime::Heads;
use crate::runtime::counters::ReadCounters;

/// Access to the log for one reader and its subscriptions. Cheap to clone: every query does it.
#[derive(Debug, Clone)]
pub(super) struct LogAccess {
    parts: Arc<LogParts>,
    /// The memory that answers are read into.
    pub(super) memory: Arc<dyn ReadMemory>,
    /// The bounds of each of the two queues of a stream.
    pub(super) queue: BatchLimits,
}

/// The parts that all readers of a log share.
#[derive(Debug, Clone)]
pub(super) struct LogParts {
    pub(super) store: Store,
    pub(super) heads: Heads,
    /// The heads as far as strands are verified: the ends of whole strands for their readers, other nodes among them.
    pub(super) verified: Heads,
    pub(super) hub: Hub,
    /// The threads that read pages for streams.
    pub(super) page_threads: PageThreads,
    pub(super) counters: Arc<ReadCounters>,
}

impl Deref for LogAccess {
    type Target = LogParts;

    fn deref(&self) -> &LogParts {
        &self.parts
    }
}

impl LogAccess {
    pub(super) fn new(store: Store, heads: Heads, hub: Hub) -> Self {
        let parts = LogParts {
            store,
            verified: heads.clone(),
            heads,
            hub,
            page_threads: PageThreads::new(),
            counters: Arc::default(),
        };
        Self { parts: Arc::new(parts), memory: Arc::new(Unlimited), queue: BatchLimits::QUEUE }
    }

    /// Returns the same access with these verified heads.
    pub(super) fn with_verified(self, verified: Heads) -> Self {
        let parts = LogParts { verified, ..(*self.parts).clone() };
        Self { parts: Arc::new(parts), ..self }
    }

    /// Returns the same access for a caller whose answers take `memory`.
    pub(super) fn charged_to(&self, memory: Arc<dyn ReadMemory>) -> Self {
        Self { parts: Arc::clone(&self.parts), memory, queue: self.queue }
    }

    /// Returns the same access, whose streams have queues with these bounds.
    pub(super) fn queueing(self, queue: BatchLimits) -> Self {
        Self { queue, ..self }
    }

    /// Returns the heads as announced, and a view that has every place up to them.
    ///
    /// The order decides: heads that are announced after the view was taken may be those of rows that it lacks. An
    /// envelope that a caller knows from an answer or a stream was announced before.
    pub(super) fn heads_and_view(&self) -> (Arc<Cursor>, Snapshot<'_>) {
        let heads = self.heads.get();
        (heads, self.store.snapshot())
    }

    /// Returns the heads up to which a feed may read.
    pub(super) fn heads_for(&self, feed: &Feed) -> Arc<Cursor> {
        match feed {
            Feed::Topics(_) => self.heads.get(),
            Feed::Log(_) => self.verified.get(),
        }
    }
}
