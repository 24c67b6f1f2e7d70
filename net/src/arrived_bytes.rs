//! Bytes of an answer that have arrived before the answer is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hawser_engine::replication::RequestId;
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::OriginatorId;
use tokio::time::sleep;

/// Interval at which the follower is told that more of an answer has arrived. A guess: a quarter of the shortest time
/// for which a peer may show nothing.
pub(crate) const TOLD_EVERY: Duration = Duration::from_millis(250);
/// Bytes that have to arrive until the follower is told. A guess: half of what a link of 64 KiB/s brings in
/// [`TOLD_EVERY`]. A peer that sends byte by byte shows nothing.
const TOLD_BYTES: usize = 8 * 1024;

/// Counter of bytes that have arrived. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArrivedBytes(Arc<AtomicUsize>);

impl ArrivedBytes {
    /// Counts bytes.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns true if enough bytes have arrived since it last did.
    pub(crate) fn take_enough(&self) -> bool {
        let is_enough = self.0.load(Ordering::Relaxed) >= TOLD_BYTES;
        if is_enough {
            self.0.store(0, Ordering::Relaxed);
        }
        is_enough
    }

    /// Waits for a page, and tells the follower meanwhile when more bytes have arrived: over a slow link, a page of
    /// long envelopes takes longer than a peer may show nothing. A response without items tells it.
    pub(crate) async fn told_to<T>(
        &self,
        sink: &ResponseSink,
        (originator, request): (OriginatorId, RequestId),
        page: impl Future<Output = T>,
    ) -> T {
        let tell = async {
            loop {
                sleep(TOLD_EVERY).await;
                if self.take_enough()
                    && sink.deliver(originator, request, Vec::new()).await.is_err()
                {
                    break; // the follower takes no more
                }
            }
        };
        tokio::pin!(page);
        tokio::select! {
            biased;
            page = &mut page => page,
            () = tell => page.await,
        }
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
