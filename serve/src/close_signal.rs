//! The signal that a connection, or a call on a proxy's connection, has to end.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

/// Time for the calls of a connection that holds too much to end with a status. Its memory is needed meanwhile. A
/// guess: a round trip.
pub(crate) const CLOSED_GRACE: Duration = Duration::from_millis(250);

/// A signal that is given once. Each charge of memory asks whether it was given, so that is an atomic. Each call that
/// waits for its answer waits for the signal, too: a `CancellationToken` would take five locks for that, which all
/// calls of a connection share, and this takes two.
#[derive(Debug, Default)]
pub(crate) struct CloseSignal {
    is_given: AtomicBool,
    waiting: Notify,
}

impl CloseSignal {
    /// Gives the signal.
    pub(crate) fn cancel(&self) {
        self.is_given.store(true, Relaxed);
        self.waiting.notify_waiters();
    }

    /// Returns true if the signal was given.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_given.load(Relaxed)
    }

    /// Completes when the signal is given.
    pub(crate) async fn cancelled(&self) {
        // Made first: a signal that is given from here on ends the wait, and one that was given before is seen below.
        let given = self.waiting.notified();
        if !self.is_cancelled() {
            given.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waits_from_before_and_after_the_signal_end() {
        let signal = CloseSignal::default();
        let (mut first, mut second) = (Box::pin(signal.cancelled()), Box::pin(signal.cancelled()));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        drop(second);
        let unpolled = signal.cancelled();
        signal.cancel();
        first.await;
        unpolled.await;
        signal.cancelled().await;
        assert!(signal.is_cancelled());
    }
}
