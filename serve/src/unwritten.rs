//! The bytes of one answer that wait to be written.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Bytes of an answer for a client behind a proxy that may wait to be written when there is more of it. A guess: a
/// proxy gives each call a window of 64 KiB and more, so that fewer bytes do not wait for their client.
pub(crate) const UNWRITTEN_BYTES_MAX: usize = 16 * 1024;

/// The bytes of one answer that wait to be written.
#[derive(Default)]
pub(crate) struct UnwrittenBytes {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl UnwrittenBytes {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Records that `bytes` were written, or dropped.
    pub(crate) fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn are_few(&self) -> bool {
        self.bytes.load(Ordering::Acquire) <= UNWRITTEN_BYTES_MAX
    }

    /// Completes when few bytes wait.
    pub(crate) fn poll_few(&self, cx: &Context<'_>) -> Poll<()> {
        if self.are_few() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // They may have been written before the waker was there.
        if self.are_few() { Poll::Ready(()) } else { Poll::Pending }
    }
}
