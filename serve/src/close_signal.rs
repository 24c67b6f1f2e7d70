//! The signal that a connection, or a call on a proxy's connection, has to end.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// A signal that is given once. Each charge of memory asks whether it was given, so that is an atomic: the token alone
/// takes a lock, which all calls of a connection share.
#[derive(Debug, Default)]
pub(crate) struct CloseSignal {
    is_given: AtomicBool,
    token: CancellationToken,
}

impl CloseSignal {
    /// Gives the signal.
    pub(crate) fn cancel(&self) {
        self.is_given.store(true, Relaxed);
        self.token.cancel();
    }

    /// Returns true if the signal was given.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_given.load(Relaxed)
    }

    /// Completes when the signal is given.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }
}
