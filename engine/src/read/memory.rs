//! Memory for the answers of one reader.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::QueryError;

/// A reader of streams, by numbers. Its turns on disk alternate with turns of other sites, then of other addresses of
/// its site, then of other connections of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReaderId {
    /// Number of the site, equal for all its addresses: an IPv4 address, or an IPv6 /48.
    pub site: usize,
    /// Number of the address, equal for all connections from it.
    pub address: usize,
    /// Number of the connection.
    pub connection: u64,
}

/// The memory that a reader may take. It is taken before envelopes are read, so that a reader without memory costs
/// no read either.
pub trait ReadMemory: Send + Sync + fmt::Debug {
    /// Takes `bytes` for this reader. Returns false, and takes nothing, if the reader must not have them now.
    fn take(&self, bytes: usize) -> bool;

    /// Gives back `bytes` that a stream has taken and delivered. The implementor gives back the bytes of a query
    /// when its answer is made.
    fn give_back(&self, bytes: usize);

    /// Takes `bytes` for state that lasts as long as a stream. Returns false, and takes nothing, if the reader must not
    /// have them now.
    fn take_lasting(&self, bytes: usize) -> bool {
        self.take(bytes)
    }

    /// Takes `bytes` as [`take_lasting`](Self::take_lasting) does, but only if that leaves enough for answers and for
    /// other readers. A stream that can wait asks for its memory so.
    fn take_spare(&self, bytes: usize) -> bool {
        self.take_lasting(bytes)
    }

    /// Gives back `bytes` of such state.
    fn give_back_lasting(&self, bytes: usize) {
        self.give_back(bytes);
    }

    /// Called by a thread before it works for this reader. Returns the time that the thread has worked in all, for
    /// [`end_work`](Self::end_work).
    fn begin_work(&self) -> Duration {
        Duration::ZERO
    }

    /// Called by the same thread after its work. `began` is what [`begin_work`](Self::begin_work) has returned.
    fn end_work(&self, _began: Duration) {}

    /// Returns the reader to which the memory is charged.
    fn reader(&self) -> ReaderId {
        ReaderId::default()
    }
}

/// The memory of readers inside this process, which bound themselves.
#[derive(Debug, Clone, Copy)]
pub struct Unlimited;

impl ReadMemory for Unlimited {
    fn take(&self, _: usize) -> bool {
        true
    }

    fn give_back(&self, _: usize) {}
}

/// Memory that an envelope takes in an answer besides its bytes: its handle, and the parsed outer
/// layer. Counted from the types, with room to spare.
const ENVELOPE_BYTES: usize = 256;

/// Room that the copies of a page's envelopes may leave in the memory that they share, in bytes: its longest piece.
/// Pieces before the last one are full to three quarters, so they take less than two copies of their envelopes.
const SHARED_ROOM_BYTES: usize = 64 * 1024;

/// Returns the memory of `envelopes` of `len_bytes` together, in bytes: as they are read, and once more in the
/// encoded answer.
pub(crate) fn answer_bytes(envelopes: usize, len_bytes: usize) -> usize {
    2 * len_bytes + envelopes * ENVELOPE_BYTES
}

/// The memory of one page.
#[derive(Debug)]
pub(crate) struct PageMemory {
    memory: Arc<dyn ReadMemory>,
    taken_bytes: usize,
    used_bytes: usize,
}

impl PageMemory {
    /// Begins a page for which `taken_bytes` have been taken already.
    pub(crate) fn new(memory: Arc<dyn ReadMemory>, taken_bytes: usize) -> Self {
        Self { memory, taken_bytes, used_bytes: 0 }
    }

    /// Takes the memory that `envelopes` of `len_bytes` together need beyond that.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`].
    pub(crate) fn add(&mut self, envelopes: usize, len_bytes: usize) -> Result<(), QueryError> {
        self.used_bytes += answer_bytes(envelopes, len_bytes);
        let more = self.used_bytes.saturating_sub(self.taken_bytes);
        if more > 0 {
            if !self.memory.take(more) {
                return Err(QueryError::NoMemory(self.used_bytes));
            }
            self.taken_bytes += more;
        }
        Ok(())
    }

    /// Gives back what was taken and is not used, except for the room in the memory that envelopes share.
    pub(crate) fn give_back_unused(&mut self) {
        let rest = self.taken_bytes.saturating_sub(self.used_bytes + SHARED_ROOM_BYTES);
        self.memory.give_back(rest);
        self.taken_bytes -= rest;
    }

    /// Returns the bytes taken for the page.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }
}

/// Memory that a read holds between its turns, or a stream as long as it lasts. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct HeldMemory {
    memory: Arc<dyn ReadMemory>,
    bytes: usize,
    /// The charge is for the state of a stream.
    lasts: bool,
}

impl HeldMemory {
    /// Begins with nothing.
    pub(crate) fn new(memory: Arc<dyn ReadMemory>) -> Self {
        Self { memory, bytes: 0, lasts: false }
    }

    /// Begins with nothing, for the state of a stream.
    pub(crate) fn lasting(memory: Arc<dyn ReadMemory>) -> Self {
        Self { memory, bytes: 0, lasts: true }
    }

    /// Charges or releases memory until exactly `bytes` are held.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`]. The charge is then as before.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), QueryError> {
        match self.lasts {
            true => self.change(bytes, |memory, more| memory.take_lasting(more)),
            false => self.change(bytes, |memory, more| memory.take(more)),
        }
    }

    /// Does what [`hold`](Self::hold) does, if that leaves enough for answers and for other readers.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`]. The charge is then as before.
    pub(crate) fn hold_spare(&mut self, bytes: usize) -> Result<(), QueryError> {
        self.change(bytes, |memory, more| memory.take_spare(more))
    }

    fn change(
        &mut self,
        bytes: usize,
        take: impl FnOnce(&dyn ReadMemory, usize) -> bool,
    ) -> Result<(), QueryError> {
        if bytes > self.bytes && !take(&*self.memory, bytes - self.bytes) {
            return Err(QueryError::NoMemory(bytes));
        }
        self.shrink(bytes);
        self.bytes = bytes;
        Ok(())
    }

    /// Releases memory until at most `bytes` are held.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }

    fn give_back(&self, bytes: usize) {
        match self.lasts {
            true => self.memory.give_back_lasting(bytes),
            false => self.memory.give_back(bytes),
        }
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}
