//! Streams of this node's cursor.

use std::sync::Arc;
use std::time::Duration;

use hawser_engine::runtime::Heads;
use hawser_proto::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::CallError;

/// Time after which an unchanged cursor is sent again. Specified in `docs/protocol/api.md`.
const CURSOR_REPEATED_AFTER: Duration = Duration::from_secs(30);
/// Least time between two cursors of a stream: a busy log moves the cursor a thousand times in a
/// second. Specified in `docs/protocol/api.md`.
const CURSOR_SENT_EVERY: Duration = Duration::from_millis(100);
/// Least time between two cursors for each stream that gets them, so that no number of streams takes more than a tenth
/// of a core. Specified in `docs/protocol/api.md`; a guess.
const PAUSE_PER_STREAM: Duration = Duration::from_micros(50);

/// Wakes the streams of the cursor when it has moved, at most ten times per second, and less often if there are
/// thousands.
///
/// A commit wakes one task, and that task wakes the streams. Callers can open thousands of them, and the thread that
/// commits answers publishers only after it has announced the heads.
#[derive(Clone)]
pub(crate) struct CursorMoves {
    heads: Heads,
    moved: Arc<watch::Sender<()>>,
}

impl CursorMoves {
    /// Starts the task, which ends with `stop`.
    pub(crate) fn start(heads: Heads, stop: CancellationToken) -> Self {
        let moved = Arc::new(watch::Sender::new(()));
        tokio::spawn(pass_on(heads.subscribe(), moved.clone(), stop));
        Self { heads, moved }
    }

    /// Returns the cursor as it is now.
    pub(crate) fn now(&self) -> pb::GetSyncCursorResponse {
        response(&self.heads.get())
    }

    /// Returns a stream of the cursor to one caller, which ends with `stop`.
    pub(crate) fn follow(&self, stop: CancellationToken) -> CursorFollower {
        let (heads, moves) = (self.heads.clone(), self.moved.subscribe());
        CursorFollower { heads, moves, sent: None, stop }
    }
}

/// A stream of this node's cursor to one caller.
pub(crate) struct CursorFollower {
    heads: Heads,
    /// Changes when the cursor has moved.
    moves: watch::Receiver<()>,
    /// The last cursor, and the time at which it was sent.
    sent: Option<(Instant, Arc<Cursor>)>,
    stop: CancellationToken,
}

impl CursorFollower {
    /// Returns the first cursor at once, later ones after a change or a pause.
    ///
    /// # Errors
    /// [`CallError::ShuttingDown`].
    pub(crate) async fn next(&mut self) -> Result<pb::GetSyncCursorResponse, CallError> {
        if let Some((sent_at, sent)) = &self.sent {
            tokio::select! {
                () = sleep(CURSOR_REPEATED_AFTER) => {}
                () = wait_for_move(&mut self.moves, &self.heads, *sent_at, sent) => {}
                () = self.stop.cancelled() => return Err(CallError::ShuttingDown),
            }
        }
        let newest = self.heads.get();
        let answer = response(&newest);
        self.sent = Some((Instant::now(), newest));
        Ok(answer)
    }
}

/// Passes on that the heads have moved, and then rests, until the engine has stopped or `stop` is cancelled.
async fn pass_on(
    mut heads: watch::Receiver<Arc<Cursor>>,
    moved: Arc<watch::Sender<()>>,
    stop: CancellationToken,
) {
    let passing = async {
        while heads.changed().await.is_ok() {
            moved.send_replace(());
            sleep(pause_for(moved.receiver_count())).await;
        }
    };
    tokio::select! {
        () = passing => {}
        () = stop.cancelled() => {}
    }
}

/// Returns the time between two cursors for a number of streams.
fn pause_for(streams: usize) -> Duration {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    CURSOR_SENT_EVERY.max(PAUSE_PER_STREAM.saturating_mul(streams))
}

/// Waits until the cursor differs from `sent` and the least time since `sent` has passed.
async fn wait_for_move(
    moves: &mut watch::Receiver<()>,
    heads: &Heads,
    sent_at: Instant,
    sent: &Arc<Cursor>,
) {
    loop {
        if moves.changed().await.is_err() {
            // The service has ended, and with it the task that passes changes on.
            std::future::pending::<()>().await;
        }
        sleep_until(sent_at + CURSOR_SENT_EVERY).await;
        if heads.get() != *sent {
            return;
        }
    }
}

fn response(cursor: &Cursor) -> pb::GetSyncCursorResponse {
    pb::GetSyncCursorResponse { latest_sync: Some(cursor.to_pb()) }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

    use super::*;

    /// The number of times that a task was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn place(cursor: &pb::GetSyncCursorResponse) -> u64 {
        cursor.latest_sync.as_ref().unwrap().node_id_to_sequence_id[&100]
    }

    #[test]
    fn a_flood_of_streams_gets_the_cursor_less_often() {
        let pauses = [0, 1, 2_000, 20_000].map(|streams| pause_for(streams).as_millis());
        assert_eq!(pauses, [100, 100, 100, 1_000]);
        assert!(pause_for(usize::MAX) > Duration::from_secs(3600), "it does not overflow");
    }

    /// On a runtime of one thread, no other task runs while a test does not wait.
    #[tokio::test]
    async fn a_commit_itself_wakes_no_follower() {
        let heads = Heads::new(Cursor::new());
        let commit = |place| heads.announce(EnvelopeId::new(OriginatorId(100), SequenceId(place)));
        commit(1);
        let moves = CursorMoves::start(heads.clone(), CancellationToken::new());
        tokio::task::yield_now().await;
        let mut follower = moves.follow(CancellationToken::new());
        assert_eq!(place(&follower.next().await.unwrap()), 1);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        {
            let mut next = pin!(follower.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            commit(2);
            commit(3);
            assert_eq!(woken.0.load(Ordering::SeqCst), 0, "the thread that commits has not");
            while woken.0.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(place(&follower.next().await.unwrap()), 3);
    }
}
