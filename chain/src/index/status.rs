//! The status of a contract's reader, for operators and metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::histogram::Histogram;

use super::event::{BlockRef, EventSource};
use super::walk::Anomalies;

/// The state of a contract's reader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReaderState {
    /// The stored position has not been read yet.
    #[default]
    Starting,
    /// The reader is reading blocks below the head.
    CatchingUp,
    /// The reader has read every block up to the head.
    AtHead,
    /// The reader is blocked for the given reason and keeps retrying.
    Stuck(String),
    /// The reader has stopped until an operator decides.
    Halted(String),
}

/// The depth of a reorganisation, in classes used as metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReorgDepth {
    /// One block.
    One,
    /// Two to six blocks.
    Few,
    /// Seven to 64 blocks.
    Many,
    /// More than 64 blocks.
    Deep,
}

impl ReorgDepth {
    /// All classes, shallow first.
    pub const ALL: [Self; 4] = [Self::One, Self::Few, Self::Many, Self::Deep];

    fn of(blocks: u64) -> Self {
        match blocks {
            0 | 1 => Self::One,
            2..=6 => Self::Few,
            7..=64 => Self::Many,
            _ => Self::Deep,
        }
    }

    /// Returns the label for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Few => "2-6",
            Self::Many => "7-64",
            Self::Deep => "65+",
        }
    }
}

/// A snapshot of one contract's reader.
#[derive(Debug, Clone)]
pub struct ReaderStatus {
    /// The contract's kind.
    pub source: EventSource,
    /// The contract's address.
    pub address: Address,
    /// The reader's state.
    pub state: ReaderState,
    /// The last block that was read.
    pub read: Option<u64>,
    /// The last block whose events are stored together with those of all blocks before it.
    pub stored: Option<BlockRef>,
    /// The chain's head when the reader last checked it.
    pub head: Option<u64>,
    /// The time since when there are unread blocks; `None` at the head.
    pub behind_since: Option<Instant>,
    /// The current page size in blocks.
    pub page_blocks: u64,
    /// Totals since the start.
    pub counts: ReaderCounts,
    /// Durations since the start.
    pub times: ReaderTimes,
}

/// Durations of one contract's reader since the start. The bounds include those of the network's reference node. The
/// finer ones are guesses, for a development chain.
#[derive(Debug, Clone)]
pub struct ReaderTimes {
    /// Log queries, milliseconds.
    pub queries_ms: Histogram,
    /// Batches of events that were stored, seconds.
    pub batches_s: Histogram,
}

impl Default for ReaderTimes {
    fn default() -> Self {
        let queries_ms = [1.0, 10.0, 50.0, 100.0, 500.0, 1e3, 5e3, 1e4, 5e4, 1e5];
        let batches_s = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Self { queries_ms: Histogram::new(queries_ms), batches_s: Histogram::new(batches_s) }
    }
}

/// Totals of one contract's reader since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReaderCounts {
    /// The number of stored events, including repeated ones.
    pub events: u64,
    /// The number of payload bytes in these events.
    pub bytes: u64,
    /// Pages that an endpoint answered.
    pub pages: u64,
    /// Pages that no endpoint answered.
    pub failed_pages: u64,
    /// The total duration of page requests.
    pub asking: Duration,
    /// The total duration of storing.
    pub storing: Duration,
    /// Attempts to store that were repeated.
    pub retries: u64,
    /// Gaps that the sink found in a provider's events.
    pub gaps: u64,
    /// Reorganisations, indexed as [`ReorgDepth::ALL`].
    pub reorganisations: [u64; 4],
    /// Anomalies in the providers' responses.
    pub anomalies: Anomalies,
}

impl ReaderStatus {
    /// Returns the number of blocks between the last read block and the head.
    #[must_use]
    pub fn lag_blocks(&self) -> u64 {
        self.head.unwrap_or(0).saturating_sub(self.read.unwrap_or(0))
    }
}

/// A status with one writer, the reader, and any number of observers.
#[derive(Debug, Clone)]
pub(super) struct StatusCell(Arc<Mutex<ReaderStatus>>);

impl StatusCell {
    pub(super) fn new(source: EventSource, address: Address) -> Self {
        Self(Arc::new(Mutex::new(ReaderStatus {
            source,
            address,
            state: ReaderState::Starting,
            read: None,
            stored: None,
            head: None,
            behind_since: Some(Instant::now()),
            page_blocks: 0,
            counts: ReaderCounts::default(),
            times: ReaderTimes::default(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReaderStatus> {
        self.0.lock()
    }

    /// Sets the state. A halted reader remains halted.
    pub(super) fn set_state(&self, state: ReaderState) {
        let mut status = self.lock();
        if matches!(status.state, ReaderState::Halted(_)) {
            return;
        }
        match state {
            ReaderState::AtHead => status.behind_since = None,
            ReaderState::Starting
            | ReaderState::CatchingUp
            | ReaderState::Stuck(_)
            | ReaderState::Halted(_) => {
                status.behind_since.get_or_insert_with(Instant::now);
            }
        }
        status.state = state;
    }

    /// Counts a reorganisation.
    pub(super) fn reorganised(&self, blocks: u64) {
        let depth = ReorgDepth::of(blocks);
        self.lock().counts.reorganisations[depth as usize] += 1;
    }
}
