//! What a stream still owes its reader, as plain values: no I/O, no clock, no randomness.
//!
//! A feed is told what was committed (`handle_live`), that some of it was dropped
//! (`handle_overflow`), how far the node is (`handle_heads`) and what was read from disk
//! (`handle_page`). It says what to read (`poll_read`) and what to deliver (`poll_event`).
//!
//! Three things have to happen in this order for a stream to be without gap: the hub knows the
//! listener; then the heads are read; then disk is read up to those heads. Whatever is committed
//! in between comes both ways and is delivered once.
//!
//! - `outbox`: what is to be delivered next, in batches;
//! - `holds`: originators that wait for a chain envelope;
//! - `tail`: what was committed while its topics were being read from disk;
//! - `round`: reading some topics from disk, and why;
//! - `topics`: streams by topic; `log`: streams of whole strands.

mod holds;
mod log;
mod outbox;
mod round;
mod tail;
mod topics;

use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, Topic};

use super::log_page::{LogPage, Stretch};
use super::plan::Plan;
use crate::committed::Committed;

pub(crate) use log::LogFeed;
pub(crate) use topics::TopicFeed;

/// A set of topics that was added to a stream at once, and is caught up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaveId(pub u64);

impl WaveId {
    /// What the stream was opened with.
    pub const INITIAL: Self = Self(0);
}

/// What a stream tells its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionEvent {
    /// Envelopes in the order of delivery, at least one.
    Envelopes {
        /// The wave that they bring up to date; `None` for what was committed since, and for what
        /// had to wait for a chain envelope.
        wave: Option<WaveId>,
        /// Signed originator envelopes, as stored. Bounded in number and bytes, except that a
        /// single envelope always fits.
        envelopes: Vec<Bytes>,
    },
    /// The reader has everything that was there when the wave began, except for what waits for a
    /// chain envelope. Told once for each wave.
    CaughtUp(WaveId),
}

/// What to read from disk next.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next page of a plan, which comes back with it.
    Topics(RoundId, Box<Plan>),
    /// The beginning of these stretches.
    Log(Vec<Stretch>),
}

/// What was read.
#[derive(Debug)]
pub(crate) enum PageRead {
    Topics {
        round: RoundId,
        plan: Box<Plan>,
        /// Topics by their places in the plan.
        envelopes: Vec<(usize, EnvelopeId, Bytes)>,
        finished: bool,
    },
    Log(LogPage),
}

/// Names a round of reading from disk within one feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RoundId(u64);

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
    Log(LogFeed),
}

impl Feed {
    /// Returns what the hub has to route to this feed.
    pub(crate) fn interests(&self) -> Vec<Interest> {
        match self {
            Self::Topics(feed) => feed.topics().cloned().map(Interest::Topic).collect(),
            Self::Log(feed) => match feed.wanted() {
                Some(wanted) => wanted.iter().copied().map(Interest::Originator).collect(),
                None => vec![Interest::Everything],
            },
        }
    }

    /// Begins at `heads`, without reading from disk. Before anything else.
    pub(crate) fn skip_to(&mut self, heads: &Arc<Cursor>) {
        match self {
            Self::Topics(feed) => feed.skip_to(heads),
            Self::Log(feed) => feed.skip_to(heads),
        }
    }

    /// The next thing to deliver. To be drained before anything more is handed in.
    pub(crate) fn poll_event(&mut self) -> Option<SubscriptionEvent> {
        match self {
            Self::Topics(feed) => feed.poll_event(),
            Self::Log(feed) => feed.poll_event(),
        }
    }

    /// What to read next, if anything. One read at a time; its page is handed in before the next
    /// is asked for. `heads` are read after everything that was popped so far.
    pub(crate) fn poll_read(&mut self, heads: &Arc<Cursor>) -> Option<Read> {
        match self {
            Self::Topics(feed) => feed.poll_read(heads),
            Self::Log(feed) => feed.poll_read(heads),
        }
    }

    /// Takes what was read.
    pub(crate) fn handle_page(&mut self, page: PageRead) {
        match (self, page) {
            (Self::Topics(feed), PageRead::Topics { round, plan, envelopes, finished }) => {
                feed.handle_page(round, plan, envelopes, finished);
            }
            (Self::Log(feed), PageRead::Log(page)) => feed.handle_page(page),
            (feed, page) => panic!("a page of another feed: {page:?} for {feed:?}"),
        }
    }

    /// Takes what was committed, in the order of commits: each strand ascends.
    pub(crate) fn handle_live(&mut self, items: &[Arc<Committed>]) {
        match self {
            Self::Topics(feed) => feed.handle_live(items),
            Self::Log(feed) => feed.handle_live(items),
        }
    }

    /// Some of what was committed was dropped.
    pub(crate) fn handle_overflow(&mut self) {
        match self {
            Self::Topics(feed) => feed.handle_overflow(),
            Self::Log(feed) => feed.handle_overflow(),
        }
    }

    /// Whether heads should be handed in, because something waits for them.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Topics(feed) if feed.waits())
    }

    /// How far the node is now.
    pub(crate) fn handle_heads(&mut self, heads: &Cursor) {
        if let Self::Topics(feed) = self {
            feed.handle_heads(heads);
        }
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
