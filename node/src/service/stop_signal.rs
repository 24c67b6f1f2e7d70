//! Reasons to stop a process: signals, or the end of its parent process.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The time within which a repeated signal counts as the same one. timeout(1), for example, signals a process and its
/// group, so the process receives the signal twice. A guess.
const SAME_WITHIN: Duration = Duration::from_millis(500);

/// A reason to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// One of INT, TERM, HUP and QUIT.
    Signal(&'static str),
    /// The standard input has ended, and thus the parent process.
    Parent,
}

/// The events that stop a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOn {
    /// The signals INT, TERM, HUP and QUIT.
    Signals,
    /// The same signals, and the end of the standard input, which a parent process holds open as long as it lives.
    SignalsAndParent,
}

impl StopOn {
    /// Returns the events by the flag `--exit-with-parent`.
    #[must_use]
    pub fn of_flag(exit_with_parent: bool) -> Self {
        if exit_with_parent { Self::SignalsAndParent } else { Self::Signals }
    }
}

/// A receiver of all reasons to stop.
#[derive(Debug)]
pub struct StopSignals {
    receiver: mpsc::Receiver<StopReason>,
    last: LastReason,
}

/// The last reason, to recognise its repetition.
#[derive(Debug, Default)]
struct LastReason(Option<(StopReason, Instant)>);

impl LastReason {
    /// Records a reason. Returns false if it repeats the last one within [`SAME_WITHIN`].
    fn record(&mut self, end: StopReason, now: Instant) -> bool {
        let same = |(last, at): (StopReason, Instant)| {
            last == end && now.saturating_duration_since(at) < SAME_WITHIN
        };
        let is_new = !self.0.is_some_and(same);
        if is_new {
            self.0 = Some((end, now));
        }
        is_new
    }
}

impl StopSignals {
    /// Installs signal handlers, so that no signal ends the process by itself. Needs a tokio runtime.
    ///
    /// # Errors
    /// Fails when the system refuses a handler.
    pub fn listen(on: StopOn) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(8);
        let kinds = [
            ("SIGINT", SignalKind::interrupt()),
            ("SIGTERM", SignalKind::terminate()),
            ("SIGHUP", SignalKind::hangup()),
            ("SIGQUIT", SignalKind::quit()),
        ];
        for (name, kind) in kinds {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // A full queue already contains enough reasons.
                    let _ = sender.try_send(StopReason::Signal(name));
                }
            });
        }
        if on == StopOn::SignalsAndParent {
            watch_parent(sender)?;
        }
        Ok(Self { receiver, last: LastReason::default() })
    }

    /// Waits for the next reason. A signal that is repeated at once counts once.
    pub async fn next(&mut self) -> StopReason {
        while let Some(end) = self.receiver.recv().await {
            if self.last.record(end, Instant::now()) {
                return end;
            }
        }
        std::future::pending().await
    }

    /// Waits for the next signal. The end of the parent is ignored, because it may accompany the first signal.
    pub(crate) async fn next_signal(&mut self) -> &'static str {
        loop {
            if let StopReason::Signal(name) = self.next().await {
                return name;
            }
        }
    }
}

/// Watches the standard input on its own thread, because reading it cannot be interrupted.
fn watch_parent(sender: mpsc::Sender<StopReason>) -> io::Result<()> {
    let watch = move || {
        let mut buffer = [0; 64];
        // The content of the input is ignored.
        while io::stdin().read(&mut buffer).is_ok_and(|len| len > 0) {}
        let _ = sender.blocking_send(StopReason::Parent);
    };
    std::thread::Builder::new().name("parent".into()).spawn(watch).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one() {
        let (mut last, start) = (LastReason::default(), Instant::now());
        let mut is_new = |end, after_ms| last.record(end, start + Duration::from_millis(after_ms));
        let (term, int) = (StopReason::Signal("SIGTERM"), StopReason::Signal("SIGINT"));
        assert!(is_new(term, 0));
        assert!(!is_new(term, 1));
        assert!(!is_new(term, 499));
        assert!(is_new(int, 499), "another one");
        assert!(is_new(int, 1000), "again, and later");
        assert!(is_new(StopReason::Parent, 1000));
    }
}
