//! The turn of a connection that has more to read.

use std::task::Context;

/// Bytes that are read from a socket before all that waits has its turn. Calls then take what came for them, which
/// charges it: without turns, the flow-control windows of all connections could fill before the first of their bytes
/// is charged. A guess: a few frames of the largest size, or three thousand TLS records without content.
pub(crate) const TURN_BYTES: usize = 64 * 1024;

/// The bytes that a connection has read in its turn. A peer that sends without end would otherwise keep a thread of the
/// runtime: reads that find data do not yield by themselves.
#[derive(Debug, Default)]
pub(crate) struct ReadTurn {
    bytes: usize,
}

impl ReadTurn {
    /// Returns true if the turn is over. The task will be woken again, and has to return `Pending` now.
    pub(crate) fn is_over(&mut self, cx: &Context<'_>) -> bool {
        let is_over = self.bytes >= TURN_BYTES;
        if is_over {
            self.bytes = 0;
            cx.waker().wake_by_ref();
        }
        is_over
    }

    /// Notes a read, in bytes or in what its work costs beside them.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Notes that nothing waits to be read: the next read begins a turn.
    pub(crate) fn end(&mut self) {
        self.bytes = 0;
    }
}
