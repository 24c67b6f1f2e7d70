//! The answers that a connection still has to write, and its progress with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::kept_frames::KeptFrames;

/// Answers that a connection still has to write, and the room of its frames.
#[derive(Default)]
pub(crate) struct Writing {
    /// The frames that wait, also those of requests.
    pub(crate) frames: Arc<KeptFrames>,
    /// Bytes of answers that were handed to the connection and not written yet.
    unwritten_bytes: AtomicUsize,
    /// Counter that changes whenever some of these bytes are written.
    progress: AtomicUsize,
}

impl Writing {
    /// Records that `bytes` wait to be written.
    pub(crate) fn waits(&self, bytes: usize) {
        if self.unwritten_bytes.fetch_add(bytes, Relaxed) == 0 {
            self.wrote();
        }
    }

    /// Records that `bytes` were written, or dropped.
    pub(crate) fn written(&self, bytes: usize) {
        self.unwritten_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Records that a part of the waiting bytes was written.
    pub(crate) fn wrote(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// Returns a number that changes whenever some of the bytes are written.
    pub(crate) fn progress(&self) -> usize {
        self.progress.load(Relaxed)
    }

    /// Sets `seen` to the current progress. Returns true if answers wait and the progress was the same before.
    pub(crate) fn note_unread(&self, seen: &mut usize) -> bool {
        let before = std::mem::replace(seen, self.progress());
        self.unwritten_bytes.load(Relaxed) > 0 && before == *seen
    }
}
