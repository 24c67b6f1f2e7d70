//! Bytes of an answer that have arrived before the answer is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Interval at which the follower is told that more of an answer has arrived. A guess: a quarter of the shortest time
/// for which a peer may show nothing.
pub(super) const TOLD_EVERY: Duration = Duration::from_millis(250);
/// Bytes that have to arrive until the follower is told. A guess: half of what a link of 64 KiB/s brings in
/// [`TOLD_EVERY`]. A peer that sends byte by byte shows nothing.
const TOLD_BYTES: usize = 8 * 1024;

/// Counter of bytes that have arrived. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ArrivedBytes(Arc<AtomicUsize>);

impl ArrivedBytes {
    /// Counts bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns true if enough bytes have arrived since it last did.
    pub(super) fn take_enough(&self) -> bool {
        let is_enough = self.0.load(Ordering::Relaxed) >= TOLD_BYTES;
        if is_enough {
            self.0.store(0, Ordering::Relaxed);
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_follower_is_told_of_each_few_kilobytes_and_of_no_single_bytes() {
        let arrived = ArrivedBytes::default();
        let counted = arrived.clone();
        assert!(!arrived.take_enough());
        for _ in 0..3 {
            counted.add(TOLD_BYTES - 1);
            assert!(!arrived.take_enough());
            counted.add(1);
            assert!(arrived.take_enough());
            assert!(!arrived.take_enough(), "nothing has come since");
        }
    }
}
