//! The turn of a connection that has more to read.

use std::task::Context;

/// Bytes that a connection reads from its socket before waiting tasks have a turn. In that turn calls read their data,
/// which charges it. Without turns, the flow-control windows of all connections could fill before any of their bytes is
/// charged. A guess: a few frames of the largest size, or three thousand TLS records without content.
pub(crate) const TURN_BYTES: usize = 64 * 1024;

/// The bytes that a connection has read in its current turn. Reads that find data do not yield by themselves, so a peer
/// that sends without pause would otherwise occupy a thread of the runtime.
#[derive(Debug, Default)]
pub(crate) struct ReadTurn {
    bytes: usize,
}

impl ReadTurn {
    /// Ends the turn and returns true if it has read its share. The caller then has to return `Pending`; the task is
    /// already scheduled to wake.
    pub(crate) fn yield_if_over(&mut self, cx: &Context<'_>) -> bool {
        let is_over = self.bytes >= TURN_BYTES;
        if is_over {
            self.bytes = 0;
            cx.waker().wake_by_ref();
        }
        is_over
    }

    /// Adds the bytes of a read, or the equivalent cost of other work, to the turn.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Ends the turn because no data is waiting: the next read begins a new one.
    pub(crate) fn end(&mut self) {
        self.bytes = 0;
    }
}
