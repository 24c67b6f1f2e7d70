//! Drives a feed: pages from disk on threads that may block, the hub's queue, and the heads.

use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use hawser_proto::{Cursor, Topic};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::sleep_until;

use super::access::LogAccess;
use super::awaited::AwaitedPlaces;
use super::listener::Listener;
use super::page_threads::JobSize;
use super::pages::{self, MemoryRetry, TopicsRead, TurnOutcome};
use crate::read::error::QueryError;
use crate::read::feed::{Feed, Interest, PageRead, Read, SubscriptionEvent, TopicFeed, WaveId};
use crate::read::limits::BatchLimits;
use crate::read::memory::HeldMemory;
use crate::read::queue::PopOutcome;

/// Topics that are checked, added or removed in one turn. A guess: a turn takes less than a millisecond.
const TURN_TOPICS: usize = 1024;

/// Bytes of live envelopes that a stream holds without a charge, so that it goes on while its reader has no memory. A
/// guess: a few messages, as many as its queue may hold in any case.
const UNCHARGED_BYTES: usize = 4 * 1024;

/// A stream that waits for its first turn.
pub(super) type Opening =
    Pin<Box<dyn Future<Output = Result<Box<Subscription>, QueryError>> + Send>>;

type ReadingFuture = Pin<Box<dyn Future<Output = Result<(PageRead, usize), QueryError>> + Send>>;

/// The past envelopes that a wave delivers of its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryMode {
    /// The stored envelopes, and live ones after them.
    ThenLive,
    /// The stored envelopes alone. The topics are not in the stream then. The hub does not know them,
    /// and those that wait for a chain envelope are left out.
    Only,
}

/// A stream of envelopes, without gap or repeat, that never ends by itself.
///
/// Its memory is bounded, however slow its reader is: a few MiB of committed envelopes, one page, or two of whole
/// strands, and a few rows for each topic while it catches up. When its queue overflows, it goes on from disk.
/// Dropping it ends it.
pub struct Subscription {
    log: LogAccess,
    listener: Arc<Listener>,
    feed: Feed,
    /// Stored envelopes of a single strand come as entries of messages.
    in_entries: bool,
    awaited: AwaitedPlaces,
    /// The wait for the first turn. The stream has no topics before it.
    opening: Option<Opening>,
    reading: Option<ReadingFuture>,
    /// Memory of pages whose envelopes are not all delivered.
    taken_bytes: usize,
    /// The charge for topics and cursors, if the stream has waited for its first turn. Others are charged by their
    /// users.
    held: Option<HeldMemory>,
    /// The charge of a user that has ended the stream.
    users: Option<Box<dyn Send>>,
    /// The charge for envelopes that were taken out of the queue, until they are delivered or pages have come, and for
    /// lanes that wait.
    kept: HeldMemory,
    /// The charge for live topics while they are read again after an overflow.
    reread: HeldMemory,
    /// The retry of that charge while there is no memory for it. Nothing is read before.
    uncharged: Option<MemoryRetry>,
    failed: Option<QueryError>,
}

/// The event that a subscription has waited for.
enum Wakeup {
    Read(Result<(PageRead, usize), QueryError>),
    Filled,
    /// It is time to try a charge again.
    Retry,
}

impl Subscription {
    /// Creates a stream that the hub knows from now on.
    pub(super) fn listening(log: LogAccess, mut feed: Feed) -> Self {
        let listener = log.hub.listener_within(log.queue);
        feed.bound_tails(log.queue);
        feed.for_each_interest(|interest| log.hub.listen(interest, &listener));
        let [kept, reread] = [(); 2].map(|()| HeldMemory::lasting(Arc::clone(&log.memory)));
        Self {
            log,
            listener,
            feed,
            in_entries: false,
            awaited: AwaitedPlaces::default(),
            opening: None,
            reading: None,
            taken_bytes: 0,
            held: None,
            users: None,
            kept,
            reread,
            uncharged: None,
            failed: None,
        }
    }

    /// Creates a stream without topics, which becomes the one that `opening` makes.
    pub(super) fn waiting(log: LogAccess, opening: Opening) -> Self {
        let no_topics = Feed::Topics(Box::new(TopicFeed::changing()));
        let mut stream = Self::listening(log, no_topics);
        stream.opening = Some(opening);
        stream
    }

    /// Has stored envelopes of a single strand come as [`SubscriptionEvent::Entries`], for which each is copied once.
    /// Live envelopes, and stored envelopes of several strands, come one by one. To be called before anything else.
    #[must_use]
    pub fn in_entries(mut self) -> Self {
        self.in_entries = true;
        self
    }

    /// Begins at the heads instead of reading from disk. To be called before anything else.
    pub(super) fn skip_to_heads(&mut self) {
        // Read after the registration: an envelope that is committed before the hub knows the listener lies below
        // them, and a later one reaches the listener.
        let heads = self.log.heads_for(&self.feed);
        self.feed.skip_to(&heads);
    }

    /// Keeps the charge for topics and cursors.
    pub(super) fn hold(&mut self, held: HeldMemory) {
        self.held = Some(held);
    }

    /// Reads the first page on this thread, which may block.
    ///
    /// # Errors
    /// [`QueryError`] if the log cannot be read.
    pub(super) fn read_first(&mut self) -> Result<(), QueryError> {
        let heads = self.log.heads_for(&self.feed);
        let Some(Read::Topics(catch_up, plan)) = self.feed.poll_read(&heads) else { return Ok(()) };
        match TopicsRead::new(catch_up, plan).turn(&self.log)? {
            TurnOutcome::Read(page, taken_bytes) => {
                self.taken_bytes += taken_bytes;
                self.feed.handle_page(page);
                self.settle()?;
            }
            TurnOutcome::NoMemory(read, _) => {
                let reading: ReadingFuture = Box::pin(pages::read_topics(self.log.clone(), read));
                self.reading = Some(reading);
            }
        }
        Ok(())
    }

    /// Adjusts the charges for topics and cursors to what they take, once the stream has caught up.
    fn settle(&mut self) -> Result<(), QueryError> {
        let reread_bytes = self.topics().map_or(0, TopicFeed::reread_bytes);
        self.reread.shrink(reread_bytes);
        match (&mut self.held, &self.feed) {
            (Some(held), Feed::Topics(feed)) if !feed.is_catching_up() => {
                held.hold(feed.held_bytes())
            }
            _ => Ok(()),
        }
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
            if let Some(opening) = &mut self.opening {
                let begun = opening.as_mut().await;
                self.opening = None;
                match begun {
                    Ok(stream) => *self = *stream,
                    Err(error) => self.failed = Some(error),
                }
                continue;
            }
            // The reader asks for more, and nothing is left: it has what was read.
            self.log.memory.give_back(std::mem::take(&mut self.taken_bytes));
            self.charge_kept();
            self.awaited.update(&self.feed, &self.log.hub, &self.listener);
            match self.charge_reread() {
                Ok(true) => self.start_reading(),
                Ok(false) => {}
                Err(error) => {
                    self.failed = Some(error);
                    continue;
                }
            }
            let wakeup = self.wakeup().await;
            self.log.hub.counters().wakeups.inc();
            match wakeup {
                Wakeup::Read(Ok((page, taken_bytes))) => {
                    self.reading = None;
                    self.taken_bytes += taken_bytes;
                    let was_catching_up = self.is_catching_up();
                    self.work(|feed| feed.handle_page(page));
                    self.read_ahead().await;
                    if was_catching_up && let Err(error) = self.settle() {
                        self.failed = Some(error);
                    }
                }
                Wakeup::Read(Err(error)) => {
                    self.reading = None;
                    self.failed = Some(error);
                }
                Wakeup::Retry => {}
                Wakeup::Filled => match self.pop() {
                    PopOutcome::Items(items, reached) => {
                        self.feed.handle_live(&items);
                        reached.into_iter().for_each(|place| self.feed.handle_reached(place));
                    }
                    PopOutcome::Overflowed => {
                        self.work(Feed::handle_overflow);
                        self.awaited.ask_again(&self.log.hub, &self.listener);
                        self.uncharged.get_or_insert_with(MemoryRetry::now);
                    }
                },
            }
        }
    }

    /// Returns the memory that this stream holds for its topics and cursors, in bytes. Envelopes that wait do not
    /// count, nor does a stream of whole strands. Costs a look at each topic. A stream that was opened to wait for its
    /// turn charges its reader itself.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.feed {
            Feed::Topics(feed) => feed.held_bytes(),
            Feed::Log(_) => 0,
        }
    }

    /// Returns true if an event is ready: [`next`](Self::next) returns it at once.
    #[must_use]
    pub fn has_events(&self) -> bool {
        matches!(&self.feed, Feed::Topics(feed) if feed.has_events())
    }

    /// Returns the number of topics, without those whose history alone is being read.
    #[must_use]
    pub fn topics_len(&self) -> usize {
        self.topics().map_or(0, TopicFeed::len)
    }

    /// Returns true if the topic is live in the stream, or becomes so.
    #[must_use]
    pub fn contains(&self, topic: &Topic) -> bool {
        self.topics().is_some_and(|feed| feed.contains(topic))
    }

    /// Returns true if the history of the topic is being read.
    #[must_use]
    pub fn reads_history(&self, topic: &Topic) -> bool {
        self.topics().is_some_and(|feed| feed.reads_history(topic))
    }

    /// Returns the most memory that one more topic with a name of `name_len` bytes takes until it is live,
    /// in bytes, besides its cursor.
    #[must_use]
    pub fn topic_bytes(name_len: usize) -> usize {
        TopicFeed::topic_bytes(name_len)
    }

    /// Returns the part of [`topic_bytes`](Self::topic_bytes) for a name of unusual length that lasts as long as the
    /// topic, in bytes.
    #[must_use]
    pub fn long_name_bytes(name_len: usize) -> usize {
        TopicFeed::long_name_bytes(name_len)
    }

    /// Returns the most memory that one more cursor takes, in bytes. Topics may share a cursor. A cursor that
    /// is ahead of `heads` grows when it is merged with later heads.
    #[must_use]
    pub fn cursor_bytes(cursor: &Cursor, heads: &Cursor) -> usize {
        TopicFeed::cursor_bytes(cursor.iter(), heads)
    }

    /// Ends the stream, as dropping it does. `charge` is dropped once all registrations of its topics are undone: they
    /// take memory until then, and those of many topics wait for a thread.
    pub fn end(mut self, charge: impl Send + 'static) {
        self.users = Some(Box::new(charge));
    }

    /// Returns the memory of cursors that this stream keeps besides those of topics that are ahead of this node, in
    /// bytes: each wave brings its topics to the heads, with an entry for each strand.
    #[must_use]
    pub fn live_cursors_bytes(&self) -> usize {
        self.topics().map_or(0, TopicFeed::live_cursors_bytes)
    }

    /// Returns the memory that this stream holds for topics, in bytes, without cursors, and without what copies of
    /// names of unusual length take while they are read.
    #[must_use]
    pub fn topics_bytes(&self) -> usize {
        self.topics().map_or(0, TopicFeed::topics_bytes)
    }

    /// Removes topics. Their envelopes that are ready for delivery still come, and no others. Topics that
    /// are not in the stream do not count. Works in turns, so that other tasks are not delayed. Returns the
    /// number of topics that were removed.
    ///
    /// # Panics
    /// If the stream is not one of topics with their own cursors.
    pub async fn remove<R>(&mut self, topics: R) -> usize
    where
        R: IntoIterator<Item = Topic, IntoIter: Send> + Send,
    {
        let mut removed = 0;
        for (place, topic) in topics.into_iter().enumerate() {
            end_of_topics_turn(place).await;
            if self.changing().remove(&topic) {
                self.log.hub.unlisten(&Interest::Topic(topic), &self.listener);
                removed += 1;
            }
        }
        removed
    }

    /// Adds topics, which catch up from their own cursors as one wave while the other topics continue.
    /// [`SubscriptionEvent::CaughtUp`] ends the wave, even if no topic was added. A topic that is
    /// already there stays unchanged, and a topic that is named twice counts once.
    ///
    /// Works in turns, so that other tasks are not delayed. If the future is dropped before it ends, the
    /// stream must not be used again.
    ///
    /// # Panics
    /// If the stream is not one of topics with their own cursors.
    pub async fn add<A>(&mut self, wave: WaveId, history: HistoryMode, adds: A)
    where
        A: IntoIterator<Item = (Topic, Arc<Cursor>), IntoIter: Send> + Send,
    {
        let begun = self.changing().begin(wave, history == HistoryMode::Only);
        for (place, (topic, from)) in adds.into_iter().enumerate() {
            end_of_topics_turn(place).await;
            if history == HistoryMode::ThenLive && !self.contains(&topic) {
                self.log.hub.listen(Interest::Topic(topic.clone()), &self.listener);
            }
            self.changing().add_to(begun, topic, from);
        }
        self.changing().end(begun);
    }

    fn topics(&self) -> Option<&TopicFeed> {
        match &self.feed {
            Feed::Topics(feed) => Some(feed),
            Feed::Log(_) => None,
        }
    }

    fn is_catching_up(&self) -> bool {
        self.topics().is_some_and(TopicFeed::is_catching_up)
    }

    fn changing(&mut self) -> &mut TopicFeed {
        assert!(self.opening.is_none(), "a stream that waits for its topics does not change them");
        let Feed::Topics(feed) = &mut self.feed else { panic!("streams of strands do not change") };
        assert!(feed.has_cursor_per_topic(), "one cursor cannot take in another topic's past");
        feed
    }

    /// Takes the charge for topics that are read again after an overflow. Returns false if the reader may not have the
    /// memory yet: a client that reads slowly on purpose would have that of a catch-up without a charge.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`] if the stream has waited long enough.
    fn charge_reread(&mut self) -> Result<bool, QueryError> {
        let bytes = self.topics().map_or(0, TopicFeed::reread_bytes);
        let Some(retry) = &mut self.uncharged else { return Ok(true) };
        let is_charged = retry.attempt(|| self.reread.hold_spare(bytes))?;
        if is_charged {
            self.uncharged = None;
        }
        Ok(is_charged)
    }

    /// Gives back the charge for what was delivered. Takes that of lanes that wait, whether live envelopes or pages
    /// brought them, if there is memory for it: they stay without it, because what they wait for may never come.
    fn charge_kept(&mut self) {
        let lanes_bytes = self.feed.held_lanes_bytes();
        let bytes = self.feed.kept_bytes() + lanes_bytes;
        self.kept.shrink(bytes);
        if lanes_bytes > UNCHARGED_BYTES {
            // Tried again at the next event.
            let _ = self.kept.hold_spare(bytes);
        }
    }

    /// Takes envelopes out of the queue, as many as the reader may hold until they are delivered, or until pages have
    /// come. If it may hold no more, takes a few, and drops those that are kept for pages. Otherwise clients that read
    /// slowly on purpose would have memory without a charge: each stream a part of all envelopes since it was opened.
    fn pop(&mut self) -> PopOutcome {
        let waiting_bytes = self.listener.len_bytes().min(BatchLimits::STREAM.len_bytes);
        let bytes = self.feed.kept_bytes() + waiting_bytes;
        let lanes_bytes = self.feed.held_lanes_bytes();
        let may_hold =
            bytes <= UNCHARGED_BYTES || self.kept.hold_spare(bytes + lanes_bytes).is_ok();
        if !may_hold {
            self.feed.lose_tails();
            self.kept.shrink(lanes_bytes);
        }
        let len_bytes = if may_hold { waiting_bytes } else { UNCHARGED_BYTES };
        self.listener.pop(BatchLimits { len_bytes, ..BatchLimits::STREAM })
    }

    fn start_reading(&mut self) {
        if self.reading.is_none() {
            // Read after the queue was emptied: everything that was dropped from it lies below.
            let heads = self.log.heads_for(&self.feed);
            let read = match self.is_catching_up() {
                true => self.work(|feed| feed.poll_read(&heads)),
                false => self.feed.poll_read(&heads),
            };
            self.reading = read.map(|read| {
                let read = pages::read(self.log.clone(), read, self.in_entries);
                let page: ReadingFuture = Box::pin(read);
                page
            });
        }
    }

    /// Starts to read the page after the one that is about to be delivered, so that the disk and the reader work at
    /// the same time. Returns at once: one poll hands the read to its thread.
    async fn read_ahead(&mut self) {
        if !self.feed.reads_ahead() {
            return;
        }
        self.start_reading();
        let Some(reading) = &mut self.reading else { return };
        if let Poll::Ready(read) =
            poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await
        {
            self.reading = Some(Box::pin(ready(read)));
        }
    }

    /// Works on the feed where that may take a look at each topic. A look at many topics would hold up the other tasks
    /// of this thread, so these move to another thread meanwhile.
    fn work<T>(&mut self, work: impl FnOnce(&mut Feed) -> T) -> T {
        let many = matches!(&self.feed, Feed::Topics(feed) if feed.held_topics() > TURN_TOPICS);
        let on_many_threads = || {
            Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread)
        };
        let feed = &mut self.feed;
        match many && on_many_threads() {
            true => tokio::task::block_in_place(|| work(feed)),
            false => work(feed),
        }
    }

    async fn wakeup(&mut self) -> Wakeup {
        let reading = &mut self.reading;
        let reads = reading.is_some();
        let retry_at = self.uncharged.as_ref().map(MemoryRetry::at);
        tokio::select! {
            page = async { reading.as_mut().expect("checked before").await }, if reads => {
                Wakeup::Read(page)
            }
            () = self.listener.filled() => Wakeup::Filled,
            () = async { sleep_until(retry_at.expect("checked before")).await }, if retry_at.is_some() => {
                Wakeup::Retry
            }
        }
    }
}

/// Yields to other tasks if the topic at `place`, counted from 0, is the last one of a turn. For loops over the topics
/// of a caller, who may send as many as a request holds.
pub async fn end_of_topics_turn(place: usize) {
    if place % TURN_TOPICS == TURN_TOPICS - 1 {
        tokio::task::yield_now().await;
    }
}

/// Registrations that a stream has to undo at its end.
struct Leaving {
    /// Held until all registrations are undone, together with the memory that it is charged for.
    log: LogAccess,
    listener: Arc<Listener>,
    feed: Feed,
    _held: Option<HeldMemory>,
    /// The memory that the feed keeps besides: envelopes, lanes that wait, and topics that are read again.
    _kept: [HeldMemory; 2],
    _users: Option<Box<dyn Send>>,
}

impl Leaving {
    fn leave(self) {
        self.feed.for_each_interest(|interest| self.log.hub.unlisten(&interest, &self.listener));
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.awaited.leave(&self.log.hub, &self.listener);
        let feed = std::mem::replace(&mut self.feed, Feed::Topics(Box::new(TopicFeed::changing())));
        let topics = match &feed {
            Feed::Topics(feed) => feed.len(),
            Feed::Log(_) => 0,
        };
        let (log, listener) = (self.log.clone(), self.listener.clone());
        let (held, users) = (self.held.take(), self.users.take());
        let kept = [&mut self.kept, &mut self.reread].map(|charge| {
            std::mem::replace(charge, HeldMemory::lasting(Arc::clone(&self.log.memory)))
        });
        let leaving = Leaving { log, listener, feed, _held: held, _kept: kept, _users: users };
        if topics <= TURN_TOPICS {
            leaving.leave();
            return;
        }
        // The hub knows it until then, and hands it envelopes that nothing would take out.
        self.listener.end();
        // A million topics take a while, which is not this thread's to give. Callers may end any number of such streams
        // at once, so few threads do that, in the callers' turns.
        let memory = Arc::clone(&self.log.memory);
        let (reader, size) = (memory.reader(), JobSize::of_topics(topics));
        self.log.page_threads.run(reader, size, move || {
            let began = memory.begin_work();
            leaving.leave();
            memory.end_work(began);
        });
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
