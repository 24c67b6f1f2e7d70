//! Drives a feed: pages from disk on threads that may block, the hub's queue, and the heads.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic};
use tokio::sync::watch;
use tokio::task::JoinError;

use super::access::LogAccess;
use super::listener::Listener;
use crate::read::error::ReadError;
use crate::read::feed::{Feed, Interest, PageRead, Read, SubscriptionEvent, WaveId};
use crate::read::limits::BatchLimits;
use crate::read::log_page::read_log;
use crate::read::queue::Popped;

type Reading = Pin<Box<dyn Future<Output = Result<PageRead, ReadError>> + Send>>;

/// A stream of envelopes, without gap or repeat, that never ends by itself.
///
/// Its memory is bounded, however slow its reader is: a few MiB of committed envelopes, one page, and
/// a few rows for each topic while it catches up. When its queue overflows, it goes on from disk.
/// Dropping it ends it.
pub struct Subscription {
    log: LogAccess,
    listener: Arc<Listener>,
    feed: Feed,
    heads: watch::Receiver<Arc<Cursor>>,
    reading: Option<Reading>,
    failed: Option<ReadError>,
}

/// The event that a subscription has waited for.
enum Wakeup {
    Read(Result<PageRead, ReadError>),
    Filled,
    HeadsMoved,
}

impl Subscription {
    /// Creates a stream whose listener the hub has registered.
    pub(super) fn new(log: LogAccess, listener: Arc<Listener>, feed: Feed) -> Self {
        let heads = log.heads.subscribe();
        Self { log, listener, feed, heads, reading: None, failed: None }
    }

    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError`] if the log cannot be read. Every later call returns the same error: the stream
    /// is over, since going on would leave a gap.
    pub async fn next(&mut self) -> Result<SubscriptionEvent, ReadError> {
        loop {
            if let Some(event) = self.feed.poll_event() {
                return Ok(event);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            self.update_heads();
            self.start_reading();
            match self.wakeup().await {
                Wakeup::Read(Ok(page)) => {
                    self.reading = None;
                    self.feed.handle_page(page);
                }
                Wakeup::Read(Err(error)) => {
                    self.reading = None;
                    self.failed = Some(error);
                }
                Wakeup::Filled => match self.listener.pop(BatchLimits::STREAM) {
                    Popped::Items(items) => self.feed.handle_live(&items),
                    Popped::Overflowed => self.feed.handle_overflow(),
                },
                Wakeup::HeadsMoved => {}
            }
        }
    }

    /// Changes the set of topics: first `removes`, then `adds`, so that a topic in both begins anew.
    ///
    /// Added topics catch up from their own cursors as one wave, while the others go on;
    /// [`SubscriptionEvent::CaughtUp`] ends the wave, also if no topic was added. A topic that is
    /// there already stays as it is, and one that is named twice counts once. Envelopes of a removed
    /// topic that were ready for delivery still come.
    ///
    /// # Panics
    /// If the stream is not one of topics with their own cursors.
    pub fn change(
        &mut self,
        wave: WaveId,
        adds: impl IntoIterator<Item = (Topic, Cursor)>,
        removes: impl IntoIterator<Item = Topic>,
    ) {
        let Feed::Topics(feed) = &mut self.feed else { panic!("streams of strands do not change") };
        assert!(feed.has_cursor_per_topic(), "one cursor cannot take in another topic's past");
        let hub = &self.log.hub;
        for topic in removes {
            if feed.remove(&topic) {
                hub.unlisten(&Interest::Topic(topic), &self.listener);
            }
        }
        let mut fresh = HashMap::new();
        for (topic, from) in adds {
            if !feed.contains(&topic) && !fresh.contains_key(&topic) {
                hub.listen(Interest::Topic(topic.clone()), &self.listener);
                fresh.insert(topic, Arc::new(from));
            }
        }
        feed.add(wave, fresh);
    }

    /// Hands in the heads if an originator waits for a chain envelope.
    fn update_heads(&mut self) {
        if self.feed.waits() {
            let heads = Arc::clone(&self.heads.borrow_and_update());
            self.feed.handle_heads(&heads);
        }
    }

    fn start_reading(&mut self) {
        if self.reading.is_none() {
            // Read after the queue was emptied: everything that was dropped from it lies below.
            let heads = self.log.heads.get();
            self.reading = self.feed.poll_read(&heads).map(|read| self.read(read));
        }
    }

    fn read(&self, read: Read) -> Reading {
        let log = self.log.clone();
        Box::pin(async move {
            let turn = Arc::clone(&log.stream_pages).acquire_owned().await;
            let page = tokio::task::spawn_blocking(move || {
                let _turn = turn.expect("the semaphore is never closed");
                log.counters.stream_page.measure(|| read_page(&log, read))
            });
            match page.await.map_err(JoinError::try_into_panic) {
                Ok(page) => page,
                Err(Ok(panicked)) => std::panic::resume_unwind(panicked),
                // The tokio runtime shuts down, and this stream with it.
                Err(Err(_cancelled)) => std::future::pending().await,
            }
        })
    }

    async fn wakeup(&mut self) -> Wakeup {
        let (reading, waits) = (&mut self.reading, self.feed.waits());
        let reads = reading.is_some();
        tokio::select! {
            page = async { reading.as_mut().expect("checked before").await }, if reads => {
                Wakeup::Read(page)
            }
            () = self.listener.filled() => Wakeup::Filled,
            _ = self.heads.changed(), if waits => Wakeup::HeadsMoved,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for interest in self.feed.interests() {
            self.log.hub.unlisten(&interest, &self.listener);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// Reads one page for a feed. Blocks on the disk.
pub(super) fn read_page(log: &LogAccess, read: Read) -> Result<PageRead, ReadError> {
    let snapshot = log.store.snapshot();
    match read {
        Read::Topics(catch_up, mut plan) => {
            let page = plan.next_page(&mut snapshot.topics(), BatchLimits::STREAM)?;
            let ids: Vec<EnvelopeId> = page.rows.iter().map(|&(_, id)| id).collect();
            let envelopes = snapshot.get_many(&ids)?;
            // The plan may know a row from an earlier view, and its envelope has expired since.
            let envelopes: Vec<(usize, EnvelopeId, Bytes)> = page
                .rows
                .into_iter()
                .zip(envelopes)
                .filter_map(|((topic, id), bytes)| Some((topic, id, bytes?)))
                .collect();
            Ok(PageRead::Topics { catch_up, plan, envelopes, finished: page.finished })
        }
        Read::Log(ranges) => Ok(PageRead::Log(read_log(&snapshot, ranges, BatchLimits::STREAM)?)),
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
