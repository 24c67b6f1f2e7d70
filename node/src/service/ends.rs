//! What tells a node to stop: signals, or the end of its parent.

use std::io::{self, Read as _};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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
        Ok(Self { receiver })
    }

    /// The next reason.
    pub async fn next(&mut self) -> End {
        match self.receiver.recv().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
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
