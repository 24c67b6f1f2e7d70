//! The memory of HTTP/2 streams besides their messages: the heads of requests and answers, and the state of the
//! library.
//!
//! An answer without a body, such as that to a preflight, is counted nowhere else: the budget charges requests until
//! they are answered, and bodies until they are written. And the library keeps the state of as many streams as a
//! connection had at one time until the connection ends, so one burst of small requests would make it large for good.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::budget::ConnectionShare;

/// Memory of the head of a request, and then of its answer, in bytes. A guess: some short headers.
const HEAD_BYTES: usize = 512;
/// Memory that the library keeps for each stream that a connection had at one time, in bytes. Measured, with the heads:
/// 1.3 KiB for each of 750,000; twice that covers what the allocator keeps of connections that are closed meanwhile.
const STREAM_STATE_BYTES: usize = 2560;

/// The streams of a connection whose answers have not begun, or wait to be written. Cheap to clone; clones share state.
#[derive(Clone, Default)]
pub(crate) struct UnflushedHeads(Arc<Mutex<Heads>>);

#[derive(Default)]
struct Heads {
    /// The share that is charged for the library's state; `None` if nothing is charged.
    connection: Option<Arc<ConnectionShare>>,
    /// The most streams that a connection may have at one time.
    streams_max: usize,
    /// Heads that were read since the last flush and have not arrived at the service.
    read: usize,
    /// Requests that have arrived and whose answers have not begun.
    arrived: usize,
    /// Answers that wait to be written, each with the share of its call.
    answered: Vec<Arc<ConnectionShare>>,
    /// The most streams that there were at one time.
    most: usize,
}

impl Heads {
    /// Charges the library's state for streams beyond the most that there were before.
    fn count(&mut self) {
        let streams = (self.read + self.arrived + self.answered.len()).min(self.streams_max);
        if let Some(connection) = &self.connection
            && let Some(more) = streams.checked_sub(self.most).filter(|more| *more > 0)
        {
            connection.keep(more * STREAM_STATE_BYTES);
            self.most = streams;
        }
    }
}

impl UnflushedHeads {
    /// Begins without streams. `connection` is charged for the library's state.
    pub(crate) fn new(connection: Arc<ConnectionShare>, streams_max: u32) -> Self {
        let streams_max = usize::try_from(streams_max).unwrap_or(usize::MAX);
        let connection = Some(connection);
        Self(Arc::new(Mutex::new(Heads { connection, streams_max, ..Heads::default() })))
    }

    /// Counts heads that were read from the connection.
    pub(crate) fn read(&self, heads: usize) {
        if heads > 0 {
            let mut state = self.0.lock();
            state.read += heads;
            state.count();
        }
    }

    /// Charges the head of a request, which has arrived, to the share of its call.
    pub(crate) fn arrived(&self, call: Arc<ConnectionShare>) -> ArrivedHead {
        call.take_anyway(HEAD_BYTES);
        let mut state = self.0.lock();
        state.read = state.read.saturating_sub(1);
        state.arrived += 1;
        state.count();
        drop(state);
        ArrivedHead { call: Some(call), heads: self.clone() }
    }

    /// Gives back the memory of all heads: the connection has written everything that it could.
    ///
    /// An answer that was added after the last write and before this call counts as written too early. A peer that
    /// reads nothing gains nothing by it: no flush of its connection completes.
    pub(crate) fn flushed(&self) {
        let mut state = self.0.lock();
        state.read = 0;
        let written = std::mem::take(&mut state.answered);
        drop(state);
        for call in written {
            call.wrote();
            call.written(HEAD_BYTES);
        }
    }
}

/// A request whose answer has not begun.
pub(crate) struct ArrivedHead {
    call: Option<Arc<ConnectionShare>>,
    heads: UnflushedHeads,
}

impl ArrivedHead {
    /// Keeps the head charged, now that of the answer, until the connection has written it.
    pub(crate) fn answered(mut self) {
        if let Some(call) = self.call.take() {
            call.waits(HEAD_BYTES);
            let mut state = self.heads.0.lock();
            state.arrived -= 1;
            state.answered.push(call);
        }
    }
}

impl Drop for ArrivedHead {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.heads.0.lock().arrived -= 1;
            call.give_back(HEAD_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::MemoryBudget;

    #[test]
    fn heads_are_charged_until_they_are_written_and_streams_until_the_connection_ends() {
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account()).unwrap();
        let idle = budget.used_bytes();
        let used = || budget.used_bytes() - idle;
        let heads = UnflushedHeads::new(connection.clone(), 3);
        heads.read(2);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES);
        let [first, second] = [(); 2].map(|()| heads.arrived(connection.clone()));
        assert_eq!(
            used(),
            2 * (STREAM_STATE_BYTES + HEAD_BYTES),
            "they were counted when they were read"
        );
        first.answered();
        drop(second);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES + HEAD_BYTES);
        heads.flushed();
        assert_eq!(used(), 2 * STREAM_STATE_BYTES);
        heads.read(2);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES, "their state is there already");
        heads.read(50);
        assert_eq!(used(), 3 * STREAM_STATE_BYTES, "more are refused");
        drop((heads, connection));
        assert_eq!(budget.used_bytes(), 0);
    }
}
