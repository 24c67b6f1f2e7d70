//! What tells a node to stop: signals, or the end of its parent.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Whoever sends a signal to a process and to its group, as timeout(1) does, sends it twice. What
/// comes again within this time is the same signal.
const SAME_WITHIN: Duration = Duration::from_millis(500);

/// A reason to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// One of INT, TERM, HUP and QUIT.
    Signal(&'static str),
    /// The standard input has ended, and with it whoever started this node.
    Parent,
}

/// Hears every reason to stop.
#[derive(Debug)]
pub struct Ends {
    receiver: mpsc::Receiver<End>,
    last: Last,
}

/// The reason that was heard last.
#[derive(Debug, Default)]
struct Last(Option<(End, Instant)>);

impl Last {
    /// Whether this is another one, and not the same once more.
    fn is_new(&mut self, end: End, now: Instant) -> bool {
        let same = |(last, at): (End, Instant)| {
            last == end && now.saturating_duration_since(at) < SAME_WITHIN
        };
        let is_new = !self.0.is_some_and(same);
        if is_new {
            self.0 = Some((end, now));
        }
        is_new
    }
}

impl Ends {
    /// Listens from now on, so that no signal ends the process by itself any more. To be called
    /// within a tokio runtime. `parent`: the end of the standard input counts as well.
    ///
    /// # Errors
    /// When the system takes no handler.
    pub fn listen(parent: bool) -> io::Result<Self> {
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
                    // What does not fit is one of many that say the same.
                    let _ = sender.try_send(End::Signal(name));
                }
            });
        }
        if parent {
            watch_parent(sender)?;
        }
        Ok(Self { receiver, last: Last::default() })
    }

    /// The next reason. A signal that comes twice at once is one.
    pub async fn next(&mut self) -> End {
        while let Some(end) = self.receiver.recv().await {
            if self.last.is_new(end, Instant::now()) {
                return end;
            }
        }
        std::future::pending().await
    }

    /// The next signal. The parent's end does not count: it may come together with one signal.
    pub async fn next_signal(&mut self) -> &'static str {
        loop {
            if let End::Signal(name) = self.next().await {
                return name;
            }
        }
    }
}

/// A thread of its own: reading the standard input cannot be interrupted.
fn watch_parent(sender: mpsc::Sender<End>) -> io::Result<()> {
    let watch = move || {
        let mut buffer = [0; 64];
        // What is written there does not matter.
        while io::stdin().read(&mut buffer).is_ok_and(|len| len > 0) {}
        let _ = sender.blocking_send(End::Parent);
    };
    std::thread::Builder::new().name("parent".into()).spawn(watch).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_twice_at_once_is_one() {
        let (mut last, start) = (Last::default(), Instant::now());
        let mut is_new = |end, after_ms| last.is_new(end, start + Duration::from_millis(after_ms));
        let (term, int) = (End::Signal("SIGTERM"), End::Signal("SIGINT"));
        assert!(is_new(term, 0));
        assert!(!is_new(term, 1));
        assert!(!is_new(term, 499));
        assert!(is_new(int, 499), "another one");
        assert!(is_new(int, 1000), "again, and later");
        assert!(is_new(End::Parent, 1000));
    }
}
