//! Drives a feed: pages from disk on threads that may block, the hub's queue, and the heads.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, Topic};
use tokio::task::JoinError;

use super::access::LogAccess;
use super::awaited::AwaitedPlaces;
use super::listener::Listener;
use crate::read::error::ReadError;
use crate::read::feed::{Feed, Interest, PageRead, Read, SubscriptionEvent, WaveId};
use crate::read::limits::BatchLimits;
use crate::read::log_page::read_log;
use crate::read::memory::{PageMemory, ReadMemory, answer_bytes};
use crate::read::queue::Popped;

type Reading = Pin<Box<dyn Future<Output = Result<(PageRead, usize), ReadError>> + Send>>;

/// Time for which a page waits for memory before its stream ends. A guess: callers that read nothing
/// lose theirs within it.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(60);
/// First pause of a page that waits for memory; doubled up to the last. Guesses.
const MEMORY_PAUSE_MIN: Duration = Duration::from_millis(20);
const MEMORY_PAUSE_MAX: Duration = Duration::from_secs(2);

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
    failed: Option<ReadError>,
}

/// The event that a subscription has waited for.
enum Wakeup {
    Read(Result<(PageRead, usize), ReadError>),
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
            self.reading = self.feed.poll_read(&heads).map(|read| self.read(read));
        }
    }

    fn read(&self, read: Read) -> Reading {
        let log = self.log.clone();
        Box::pin(async move {
            let taken_bytes = take_memory(&*log.memory).await?;
            let turn = Arc::clone(&log.stream_pages).acquire_owned().await;
            let page = tokio::task::spawn_blocking(move || {
                let _turn = turn.expect("the semaphore is never closed");
                let mut memory = PageMemory::new(&*log.memory, taken_bytes);
                let page = log.counters.stream_page.measure(|| read_page(&log, read, &mut memory));
                page.map(|page| (page, memory.taken_bytes()))
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

/// Topics whose beginnings a stream reads in one turn. Turns of all streams alternate, so a stream of
/// few topics does not wait until one of many has found its first page. Guessed: a turn takes about as
/// long as a page.
const TURN_TOPICS_MAX: usize = 256;

/// Takes the memory of a page before it is known how much it needs. Waits for it.
async fn take_memory(memory: &dyn ReadMemory) -> Result<usize, ReadError> {
    let BatchLimits { envelopes, len_bytes } = BatchLimits::STREAM;
    let bytes = answer_bytes(envelopes, len_bytes);
    let (mut waited, mut pause) = (Duration::ZERO, MEMORY_PAUSE_MIN);
    while !memory.take(bytes) {
        if waited >= MEMORY_WAIT_MAX {
            return Err(ReadError::NoMemory(bytes));
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (2 * pause).min(MEMORY_PAUSE_MAX);
    }
    Ok(bytes)
}

/// Reads one page for a feed, or a part of what comes before its first page. Blocks on the disk.
pub(super) fn read_page(
    log: &LogAccess,
    read: Read,
    memory: &mut PageMemory<'_>,
) -> Result<PageRead, ReadError> {
    let snapshot = log.store.snapshot();
    match read {
        Read::Topics(catch_up, mut plan) => {
            let page =
                plan.next_turn(&mut snapshot.topics(), BatchLimits::STREAM, TURN_TOPICS_MAX)?;
            memory.add(page.rows.len(), page.len_bytes)?;
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
        Read::Log(ranges) => {
            Ok(PageRead::Log(read_log(&snapshot, ranges, BatchLimits::STREAM, memory)?))
        }
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
