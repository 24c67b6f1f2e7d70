//! The timeout of an HTTP/1.1 request head. It starts with the head's first byte, because a connection that waits
//! for its next request is idle and may wait longer.
//!
//! hyper starts one sleep per head as soon as the previous head is complete. The timer here makes that sleep count
//! from the first byte instead. A client that sends a head byte by byte still has only
//! [`head_timeout`](crate::ServeSettings::head_timeout) in total.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The time at which the current head of a connection began to arrive. Cheap to clone; clones share state.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeadClock(Arc<Mutex<HeadTimes>>);

#[derive(Debug, Default)]
struct HeadTimes {
    begun: Option<Instant>,
    /// True once the connection has begun to wait for its first head.
    waited: bool,
}

impl HeadClock {
    /// Records that bytes have arrived.
    pub(crate) fn arrived(&self) {
        self.0.lock().begun.get_or_insert_with(Instant::now);
    }

    fn begun(&self) -> Option<Instant> {
        self.0.lock().begun
    }

    /// Waits for the next head. Bytes of the first head were already read, to find the version of HTTP. Bytes of a
    /// later head that came together with the previous request do not count: its time begins with the next byte.
    fn wait(&self) {
        let mut heads = self.0.lock();
        if std::mem::replace(&mut heads.waited, true) {
            heads.begun = None;
        }
    }
}

/// The timer of one HTTP/1.1 connection.
#[derive(Debug, Clone)]
pub(crate) struct HeadTimer {
    clock: HeadClock,
    head_timeout: Duration,
}

impl HeadTimer {
    pub(crate) fn new(clock: HeadClock, head_timeout: Duration) -> Self {
        Self { clock, head_timeout }
    }

    fn wait(&self) -> Pin<Box<dyn Sleep>> {
        self.clock.wait();
        let (clock, head_timeout) = (self.clock.clone(), self.head_timeout);
        Box::pin(HeadSleep { clock, head_timeout, timer: None })
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.wait()
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.wait()
    }
}

/// A sleep that ends when a head has taken too long since its first byte. Without a byte it never ends: idle
/// connections are closed elsewhere. hyper polls it whenever bytes arrive.
struct HeadSleep {
    clock: HeadClock,
    head_timeout: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(begun) = self.clock.begun() else { return Poll::Pending };
        let until = begun + self.head_timeout;
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll(cx)
    }
}

impl Sleep for HeadSleep {}
