//! Everything that a stream still owes its reader, as a plain value without I/O and clock.
//!
//! Inputs of a feed: committed envelopes (`handle_live`), the loss of some of them
//! (`handle_overflow`), the notice that a chain strand has reached a place (`handle_reached`), and pages
//! from disk (`handle_page`). Outputs: the next read (`poll_read`), the next delivery (`poll_event`),
//! and the places of chain strands for which the feed wants that notice (`awaited`).
//!
//! A stream has no gap because three things happen in this order: the hub registers the listener;
//! then the heads are read; then disk is read up to those heads. An envelope that is committed in
//! between comes both ways and is delivered once.
//!
//! - `outbox`: deliveries, in batches;
//! - `holds`: originators that wait for a chain envelope;
//! - `tail`: envelopes that were committed while their topics were being read from disk;
//! - `catch_up`: a set of topics that is read from disk, and the cause;
//! - `released`: originators that go on after their wait;
//! - `topics`: streams by topic; `log`: streams of whole strands.

mod catch_up;
mod holds;
mod log;
mod outbox;
mod released;
mod tail;
mod topics;

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, Topic};

use super::limits::BatchLimits;
use super::log_page::{EnvelopeEntries, LogPage, LogRange};
use super::page::PageRow;
use super::plan::PagePlan;
use crate::committed::Committed;

pub(crate) use log::LogFeed;
pub(crate) use topics::TopicFeed;

/// Names a set of topics that was added to a stream at once, and is caught up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaveId(pub u64);

impl WaveId {
    /// The topics that the stream was opened with.
    pub const INITIAL: Self = Self(0);
}

/// An event of a stream, for its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// Envelopes in the order of delivery, at least one.
    Envelopes {
        /// The wave that they bring up to date; `None` for envelopes that were committed since, and
        /// for those that had to wait for a chain envelope.
        wave: Option<WaveId>,
        /// Signed originator envelopes, as stored. Bounded in number and bytes, except that a
        /// single envelope always fits.
        envelopes: Vec<Bytes>,
    },
    /// Stored envelopes of a single strand as the entries of a message, on streams that were opened for entries.
    Entries {
        /// The wave that they bring up to date; `None` after an overflow.
        wave: Option<WaveId>,
        /// The envelopes, at least one, in the bounds of a batch.
        entries: EnvelopeEntries,
    },
    /// The topics of a wave that are still in the stream, in the order in which they were added: their
    /// live envelopes follow. Of a wave of history, all its topics. Comes right before
    /// [`CaughtUp`](Self::CaughtUp) if there are any, on streams that were opened without topics. Comes several times
    /// if the names of the topics need more bytes than a batch of envelopes has.
    TopicsLive {
        /// The wave.
        wave: WaveId,
        /// Topics of the query; at least one.
        topics: Vec<Topic>,
    },
    /// The reader has every envelope that was there when the wave began, except for those that wait
    /// for a chain envelope. Comes once for each wave.
    CaughtUp(WaveId),
}

/// The next read from disk.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next page of a plan, which comes back with it.
    Topics(CatchUpId, Box<PagePlan>),
    /// Read one page from the beginning of these ranges.
    Log(Vec<LogRange>),
}

/// A page that was read.
#[derive(Debug)]
pub(crate) enum PageRead {
    Topics {
        catch_up: CatchUpId,
        plan: Box<PagePlan>,
        /// In the order of delivery.
        envelopes: Vec<(PageRow, Bytes)>,
        finished: bool,
    },
    Log(LogPage),
}

/// Names a catch-up within one feed. Never zero, and of four bytes, so that the state of a topic takes little room for
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CatchUpId(NonZeroU32);

impl CatchUpId {
    /// Before the first catch-up.
    pub(crate) const BEGIN: Self = Self(NonZeroU32::MIN);

    /// Returns the next name. After the last one they begin anew.
    fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(NonZeroU32::MIN))
    }
}

/// A selection of committed envelopes that the hub routes to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The envelopes of one topic.
    Topic(Topic),
    /// The envelopes of one strand.
    Originator(OriginatorId),
    /// Every envelope.
    Everything,
}

/// The two kinds of streams.
#[derive(Debug)]
pub(crate) enum Feed {
    Topics(Box<TopicFeed>),
    Log(Box<LogFeed>),
}

impl Feed {
    /// Returns the topics and strands that the hub has to route to this feed.
    #[cfg(test)]
    pub(crate) fn interests(&self) -> Vec<Interest> {
        let mut interests = Vec::new();
        self.for_each_interest(|interest| interests.push(interest));
        interests
    }

    /// Calls `each` with everything that the hub routes to this feed.
    pub(crate) fn for_each_interest(&self, mut each: impl FnMut(Interest)) {
        match self {
            Self::Topics(feed) => feed.topics().map(Interest::Topic).for_each(each),
            Self::Log(feed) => match feed.routed() {
                Some(routed) => routed.iter().copied().map(Interest::Originator).for_each(each),
                None => each(Interest::Everything),
            },
        }
    }

    /// Bounds what is kept of committed envelopes while pages are read. To be called before anything is kept.
    pub(crate) fn bound_tails(&mut self, queue: BatchLimits) {
        match self {
            Self::Topics(feed) => feed.bound_tails(queue),
            Self::Log(feed) => feed.bound_tails(queue),
        }
    }

    /// Returns the bytes of committed envelopes that are kept until pages have come, as on the wire.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Self::Topics(feed) => feed.kept_bytes(),
            Self::Log(feed) => feed.kept_bytes(),
        }
    }

    /// Returns the memory of lanes of topics that wait for envelopes of chains, in bytes.
    pub(crate) fn held_lanes_bytes(&self) -> usize {
        match self {
            Self::Topics(feed) => feed.held_lanes_bytes(),
            Self::Log(_) => 0,
        }
    }

    /// Drops the envelopes that are kept, because there is no memory for them. They are read from disk.
    pub(crate) fn lose_tails(&mut self) {
        match self {
            Self::Topics(feed) => feed.lose_tails(),
            Self::Log(feed) => feed.lose_tails(),
        }
    }

    /// Begins at `heads` instead of reading from disk. To be called before anything else.
    pub(crate) fn skip_to(&mut self, heads: &Arc<Cursor>) {
        match self {
            Self::Topics(feed) => feed.skip_to(heads),
            Self::Log(feed) => feed.skip_to(heads),
        }
    }

    /// Returns the next delivery. To be drained before the next input.
    pub(crate) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        match self {
            Self::Topics(feed) => feed.poll_event(),
            Self::Log(feed) => feed.poll_event(),
        }
    }

    /// Returns the next read, if there is one. One read at a time: its page is an input before the
    /// next call. The caller reads `heads` after it has popped everything handed in so far.
    pub(crate) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        match self {
            Self::Topics(feed) => feed.poll_read(heads),
            Self::Log(feed) => feed.poll_read(heads),
        }
    }

    /// Returns true if the next read is known before the page of the last one is delivered: the stream is one of
    /// whole strands, and is on its way to the heads that its catch-up has begun with.
    pub(crate) fn reads_ahead(&self) -> bool {
        matches!(self, Self::Log(feed) if feed.has_ceiling())
    }

    /// Takes a page.
    pub(crate) fn handle_page(&mut self, page: PageRead) {
        match (self, page) {
            (Self::Topics(feed), PageRead::Topics { catch_up, plan, envelopes, finished }) => {
                feed.handle_page(catch_up, plan, envelopes, finished);
            }
            (Self::Log(feed), PageRead::Log(page)) => feed.handle_page(page),
            (feed, page) => panic!("a page of another feed: {page:?} for {feed:?}"),
        }
    }

    /// Takes committed envelopes in the order of commits: each strand ascends.
    pub(crate) fn handle_live(&mut self, items: &[Arc<Committed>]) {
        match self {
            Self::Topics(feed) => feed.handle_live(items),
            Self::Log(feed) => feed.handle_live(items),
        }
    }

    /// Notes that committed envelopes were dropped before they could be handed in.
    pub(crate) fn handle_overflow(&mut self) {
        match self {
            Self::Topics(feed) => feed.handle_overflow(),
            Self::Log(feed) => feed.handle_overflow(),
        }
    }

    /// Returns the places of chain strands that this feed waits for: for each strand, the lowest one
    /// that an originator waits for. The hub notifies the feed when the strand reaches it.
    pub(crate) fn awaited(&self) -> Vec<EnvelopeId> {
        match self {
            Self::Topics(feed) => feed.awaited(),
            Self::Log(_) => Vec::new(),
        }
    }

    /// Notes that a chain strand has reached `reached`. The hub has handed in all envelopes of this
    /// feed up to there.
    pub(crate) fn handle_reached(&mut self, reached: EnvelopeId) {
        if let Self::Topics(feed) = self {
            feed.handle_reached(reached);
        }
    }
}

#[cfg(test)]
mod lanes;
#[cfg(test)]
mod sim;
#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
#[cfg(test)]
mod waiting_tests;
