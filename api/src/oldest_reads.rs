//! Reads which envelopes have expired, for the headers of streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::EnvelopeId;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Longest wait of a stream's headers for a read of what has expired. A guess: the read takes milliseconds on a disk
/// that works, and clients give up a stream without headers after two minutes.
const OLDEST_WAIT_MAX: Duration = Duration::from_secs(1);

/// Reads which envelopes have expired, one read at a time, on a thread that no query uses. Streams that open during a
/// read share the result of the next one.
#[derive(Debug, Clone, Default)]
pub(crate) struct OldestReads(Arc<Mutex<Option<OldestRead>>>);

/// The last read of what has expired.
#[derive(Debug)]
struct OldestRead {
    began: Instant,
    /// `None` if it has failed.
    oldest: Option<Arc<[EnvelopeId]>>,
}

impl OldestReads {
    /// Returns the result of a `read` that begins after this call; `None` if the read fails or takes longer than
    /// [`OLDEST_WAIT_MAX`]. A read that hangs occupies one thread, and later callers wait for it. If it fails, it fails
    /// for all waiting callers.
    pub(crate) async fn ask(
        &self,
        read: impl FnOnce() -> Option<Arc<[EnvelopeId]>> + Send + 'static,
    ) -> Option<Arc<[EnvelopeId]>> {
        let (asked, last) = (Instant::now(), Arc::clone(&self.0));
        let answered = async move {
            let mut last = last.lock_owned().await;
            if let Some(shared) = last.as_ref().filter(|it| it.began >= asked) {
                return shared.oldest.clone();
            }
            let reading = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let oldest = read();
                // A failure is shared, too: otherwise a disk that fails is read, and named in the log, for each stream.
                *last = Some(OldestRead { began, oldest: oldest.clone() });
                oldest
            });
            reading.await.ok().flatten()
        };
        timeout(OLDEST_WAIT_MAX, answered).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    fn id(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_open_at_once_share_a_read_and_a_later_one_has_its_own() {
        let reads = OldestReads::default();
        let read = |place| move || Some(Arc::<[EnvelopeId]>::from([id(100, place)]));
        let held = Arc::clone(&reads.0).lock_owned().await;
        let (first, second) = (reads.ask(read(5)), reads.ask(read(6)));
        let opened = async { tokio::join!(first, second) };
        let release = async { drop(held) };
        let ((first, second), ()) = tokio::join!(opened, release);
        assert_eq!(
            (first.as_deref(), second.as_deref()),
            (Some(&[id(100, 5)][..]), first.as_deref())
        );
        assert_eq!(reads.ask(read(7)).await.as_deref(), Some(&[id(100, 7)][..]));
        assert_eq!(reads.ask(|| None).await, None, "a read that fails");
    }

    /// Played by a disk that fails while many streams open.
    #[tokio::test(start_paused = true)]
    async fn streams_that_open_at_once_share_a_read_that_fails() {
        let reads = OldestReads::default();
        let held = Arc::clone(&reads.0).lock_owned().await;
        let first = reads.ask(|| None);
        let second = reads.ask(|| Some(Arc::<[EnvelopeId]>::from([id(100, 5)])));
        let opened = async { tokio::join!(first, second) };
        let release = async { drop(held) };
        let (both, ()) = tokio::join!(opened, release);
        assert_eq!(both, (None, None), "the disk is read once");
    }

    /// Played by a disk that hangs while it reads what has expired.
    #[tokio::test(start_paused = true)]
    async fn a_read_that_hangs_holds_no_headers_up() {
        let reads = OldestReads::default();
        let _hangs = Arc::clone(&reads.0).lock_owned().await;
        assert_eq!(reads.ask(|| Some(Arc::<[EnvelopeId]>::from([id(100, 5)]))).await, None);
    }
}
