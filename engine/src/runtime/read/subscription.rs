//! Drives a feed: pages from disk on threads that may block, the hub's queue, and the heads.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hawser_proto::{Cursor, Topic};

use super::access::LogAccess;
use super::awaited::AwaitedPlaces;
use super::listener::Listener;
use super::pages;
use crate::read::error::QueryError;
use crate::read::feed::{Feed, Interest, PageRead, SubscriptionEvent, WaveId};
use crate::read::limits::BatchLimits;
use crate::read::queue::Popped;

type Reading = Pin<Box<dyn Future<Output = Result<(PageRead, usize), QueryError>> + Send>>;

/// A stream of envelopes, without gap or repeat, that never ends by itself.
///
/// Its memory is bounded, however slow its reader is: a few MiB of committed envelopes, one page, and
/// a few rows for each topic while it catches up. When its queue overflows, it goes on from disk.
/// Dropping it ends it.
pub struct Subscription {
    log: LogAccess,
    listener: Arc<Listener>,
    feed: Feed,
    awaited: AwaitedPlaces,
    reading: Option<Reading>,
    /// Memory of pages whose envelopes are not all delivered.
    taken_bytes: usize,
    failed: Option<QueryError>,
}

/// The event that a subscription has waited for.
enum Wakeup {
    Read(Result<(PageRead, usize), QueryError>),
    Filled,
}

impl Subscription {
    /// Creates a stream whose listener the hub has registered.
    pub(super) fn new(log: LogAccess, listener: Arc<Listener>, feed: Feed) -> Self {
        let awaited = AwaitedPlaces::default();
        Self { log, listener, feed, awaited, reading: None, taken_bytes: 0, failed: None }
    }

    /// Waits for the next event. Cancel safe.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read. Every later call returns the same error: the stream
    /// is over, since going on would leave a gap.
    pub async fn next(&mut self) -> Result<SubscriptionEvent, QueryError> {
        loop {
            if let Some(event) = self.feed.poll_event() {
                return Ok(event);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            // The reader asks for more, and nothing is left: it has what was read.
            self.log.memory.give_back(std::mem::take(&mut self.taken_bytes));
            self.awaited.update(&self.feed, &self.log.hub, &self.listener);
            self.start_reading();
            let wakeup = self.wakeup().await;
            self.log.hub.counters().wakeups.inc();
            match wakeup {
                Wakeup::Read(Ok((page, taken_bytes))) => {
                    self.reading = None;
                    self.taken_bytes += taken_bytes;
                    self.feed.handle_page(page);
                }
                Wakeup::Read(Err(error)) => {
                    self.reading = None;
                    self.failed = Some(error);
                }
                Wakeup::Filled => match self.listener.pop(BatchLimits::STREAM) {
                    Popped::Items(items, reached) => {
                        self.feed.handle_live(&items);
                        reached.into_iter().for_each(|place| self.feed.handle_reached(place));
                    }
                    Popped::Overflowed => {
                        self.feed.handle_overflow();
                        self.awaited.ask_again(&self.log.hub, &self.listener);
                    }
                },
            }
        }
    }

    /// Returns the memory that this stream holds for its topics and cursors, in bytes: less once it has
    /// caught up. Envelopes that wait do not count, nor does a stream of whole strands. Costs a look at each
    /// topic.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.feed {
            Feed::Topics(feed) => feed.held_bytes(),
            Feed::Log(_) => 0,
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

    fn start_reading(&mut self) {
        if self.reading.is_none() {
            // Read after the queue was emptied: everything that was dropped from it lies below.
            let heads = self.log.heads.get();
            self.reading = self.feed.poll_read(&heads).map(|read| {
                let page: Reading = Box::pin(pages::read(self.log.clone(), read));
                page
            });
        }
    }

    async fn wakeup(&mut self) -> Wakeup {
        let reading = &mut self.reading;
        let reads = reading.is_some();
        tokio::select! {
            page = async { reading.as_mut().expect("checked before").await }, if reads => {
                Wakeup::Read(page)
            }
            () = self.listener.filled() => Wakeup::Filled,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for interest in self.feed.interests() {
            self.log.hub.unlisten(&interest, &self.listener);
        }
        self.awaited.leave(&self.log.hub, &self.listener);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("failed", &self.failed).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
