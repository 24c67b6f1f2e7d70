//! The memory that the HTTP/2 library keeps of a connection for frames that wait: those of requests that no call has
//! read, and those of answers that are not written.
//!
//! The library has a table for each of the two. A table has room for the most frames that waited at one time, and keeps
//! it until the connection ends. The bytes of a frame may be far fewer than its place in the table, so they do not pay
//! for it: a peer could fill the tables of thousands of connections with frames of one byte, have them dropped, and
//! leave the connections open. So a connection is charged for the room until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Memory of a frame of an answer besides its data, in bytes. From the types: its place in the table takes 310.
const ANSWER_FRAME_BYTES: usize = 320;
/// Memory of a frame of a request besides its data, in bytes. From the types: its place in the table takes 250. The
/// rest is for its head and its padding, which the window of its stream does not count once the frame is here.
const REQUEST_FRAME_BYTES: usize = 512;
/// Frames in each table that the charge of every connection covers. Calculated: they take 9 KiB in both tables, and an
/// idle connection takes that much less than its charge.
const FREE_FRAMES: usize = 16;
/// The same for each stream that the connection had at one time. Calculated from the charge of a stream's state.
const FREE_FRAMES_OF_STREAM: usize = 4;
/// The most frames of requests that wait. Calculated: the library lets frames of less than 256 bytes wait until they
/// lack half of the connection's window together, a MiB, to this length each. Their bytes, and those of longer ones,
/// have the window.
const UNREAD_FRAMES_MAX: usize = 12 * 1024;

/// The frames of one connection that wait, and the room that the connection is charged for.
#[derive(Debug, Default)]
pub(crate) struct KeptFrames {
    /// The most streams that the connection had at one time.
    streams: AtomicUsize,
    /// Frames of answers that wait to be written.
    queued: AtomicUsize,
    /// The most of them beyond those that are free.
    queued_paid: AtomicUsize,
    /// Frames of requests that have come since the turn began, or since a call leaves some unread, and that no call has
    /// read. Those that were dropped unread count too, until no call leaves any unread.
    unread: AtomicUsize,
    /// The most of them beyond those that are free.
    unread_paid: AtomicUsize,
    /// Calls that leave frames unread.
    unread_calls: AtomicUsize,
}

impl KeptFrames {
    /// Records the most streams that the connection had at one time.
    pub(crate) fn streams_are(&self, most: usize) {
        self.streams.fetch_max(most, Relaxed);
    }

    /// Counts a frame of an answer, which the library is given to write. Returns the bytes that the connection has to
    /// keep for its place.
    #[must_use]
    pub(crate) fn queue(&self) -> usize {
        let queued = self.queued.fetch_add(1, Relaxed) + 1;
        self.owed(&self.queued_paid, queued) * ANSWER_FRAME_BYTES
    }

    /// Records that a frame of an answer was written, or dropped.
    pub(crate) fn leave_queue(&self) {
        self.queued.fetch_sub(1, Relaxed);
    }

    /// Counts frames of requests. Returns the bytes that the connection has to keep for their places.
    #[must_use]
    pub(crate) fn arrive(&self, frames: usize) -> usize {
        let unread = self.unread.fetch_add(frames, Relaxed).saturating_add(frames);
        self.owed(&self.unread_paid, unread.min(UNREAD_FRAMES_MAX)) * REQUEST_FRAME_BYTES
    }

    /// Records that a call has read a frame of its request. One that came before the turn is not counted any more.
    pub(crate) fn leave_unread(&self) {
        let _ = self.unread.try_update(Relaxed, Relaxed, |unread| unread.checked_sub(1));
    }

    /// Records that calls have their turn, in which they read what has come, unless one of them leaves frames unread.
    pub(crate) fn end_turn(&self) {
        if self.unread_calls.load(Relaxed) == 0 {
            self.unread.store(0, Relaxed);
        }
    }

    /// Returns how many of this many frames are neither free nor `paid` for. They are paid for then.
    fn owed(&self, paid: &AtomicUsize, frames: usize) -> usize {
        let free = FREE_FRAMES + FREE_FRAMES_OF_STREAM * self.streams.load(Relaxed);
        let not_free = frames.saturating_sub(free);
        not_free.saturating_sub(paid.fetch_max(not_free, Relaxed))
    }
}

/// A call that leaves frames of its request unread, as long as this is held: frames of its connection that come
/// meanwhile count as unread until a call has read them.
#[derive(Debug)]
#[must_use = "frames count as unread for as long as this is held"]
pub struct UnreadRequests(Arc<KeptFrames>);

impl UnreadRequests {
    pub(crate) fn begin(frames: Arc<KeptFrames>) -> Self {
        frames.unread_calls.fetch_add(1, Relaxed);
        Self(frames)
    }
}

impl Drop for UnreadRequests {
    fn drop(&mut self) {
        self.0.unread_calls.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;

    use super::*;
    use crate::budget::MemoryBudget;
    use crate::call_share::Outgoing;

    /// A peer has thousands of answers of a few bytes wait, reads them, and keeps its connection open.
    #[test]
    fn the_room_of_waiting_answers_is_charged_until_the_connection_ends() {
        const PAID: usize = 100;
        const LEN_BYTES: usize = 12;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let idle_bytes = budget.used_bytes();
        let answers = |count: usize| -> Vec<Outgoing> {
            let answer = || Outgoing::new(Bytes::from_static(&[7; LEN_BYTES]), connection.clone());
            std::iter::repeat_with(answer).take(count).collect()
        };
        drop(answers(FREE_FRAMES));
        assert_eq!(budget.used_bytes(), idle_bytes, "a few take no more than an idle connection");
        for _ in 0..2 {
            let waiting = answers(FREE_FRAMES + PAID);
            let bytes = waiting.len() * LEN_BYTES + PAID * ANSWER_FRAME_BYTES;
            assert_eq!(budget.used_bytes(), idle_bytes + bytes);
            drop(waiting);
            assert_eq!(
                budget.used_bytes(),
                idle_bytes + PAID * ANSWER_FRAME_BYTES,
                "the room stays"
            );
        }
        connection.writing.frames.streams_are(PAID);
        drop(answers(FREE_FRAMES + PAID * FREE_FRAMES_OF_STREAM));
        assert_eq!(
            budget.used_bytes(),
            idle_bytes + PAID * ANSWER_FRAME_BYTES,
            "streams have theirs"
        );
        drop(connection);
        assert_eq!(budget.used_bytes(), 0);
    }

    /// A peer sends a long request in frames of one byte, to calls that read it, and to one that does not.
    #[test]
    fn the_room_of_unread_frames_is_charged_until_the_connection_ends() {
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let idle_bytes = budget.used_bytes();
        let paid = || (budget.used_bytes() - idle_bytes) / REQUEST_FRAME_BYTES;
        let frames = connection.writing.frames.clone();
        let turns = |count: usize| {
            for _ in 0..count {
                connection.keep(frames.arrive(FREE_FRAMES));
                frames.end_turn();
            }
        };
        turns(1000);
        assert_eq!(paid(), 0, "they are read between two turns");
        let unread = UnreadRequests::begin(frames.clone());
        for _ in 0..1000 {
            connection.keep(frames.arrive(1));
            frames.leave_unread();
            frames.end_turn();
        }
        assert_eq!(paid(), 0, "other calls of the connection read theirs");
        turns(10);
        assert_eq!(paid(), 9 * FREE_FRAMES);
        turns(UNREAD_FRAMES_MAX);
        assert_eq!(paid(), UNREAD_FRAMES_MAX - FREE_FRAMES, "the library takes no more");
        drop(unread);
        frames.end_turn();
        turns(1000);
        assert_eq!(paid(), UNREAD_FRAMES_MAX - FREE_FRAMES, "the room stays, and suffices");
        drop(connection);
        assert_eq!(budget.used_bytes(), 0);
    }
}
