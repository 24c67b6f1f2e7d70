//! The latest events of a chain, which subscriptions and filters read at their own pace.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy::primitives::B256;

use super::block::Block;

/// The number of events kept for readers that are behind. A guess: several seconds of the
/// fastest block production in tests.
const KEPT_MAX: usize = 16_384;

/// One event of a chain.
#[derive(Debug, Clone)]
pub(super) enum FeedEvent {
    /// The block is the new head.
    BlockAdded(Arc<Block>),
    /// The block was the head, and a rollback removed it.
    BlockRemoved(Arc<Block>),
    /// The transaction with this hash entered the pool.
    TransactionPending(B256),
}

/// Error of a reader that is behind the oldest kept event and has missed some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too far behind: more than {KEPT_MAX} events happened since the last read")]
pub(super) struct LaggedError;

/// The latest events, numbered from the start of the process.
#[derive(Debug, Default)]
pub(super) struct EventFeed {
    kept: VecDeque<FeedEvent>,
    first: u64,
}

impl EventFeed {
    /// Adds an event. If the feed is full, the oldest one is removed.
    pub(super) fn push(&mut self, notice: FeedEvent) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(notice);
        debug_assert!(self.kept.len() <= KEPT_MAX, "the oldest event made room");
    }

    /// Returns the number of the next event.
    pub(super) fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Returns at most `count_max` events from number `from` on.
    pub(super) fn read(&self, from: u64, count_max: usize) -> Result<Vec<FeedEvent>, LaggedError> {
        let skip = from.checked_sub(self.first).ok_or(LaggedError)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Ok(self.kept.iter().skip(skip).take(count_max).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_reads_what_is_kept_or_learns_that_it_missed_something() {
        let mut feed = EventFeed::default();
        for number in 0..KEPT_MAX as u64 + 3 {
            feed.push(FeedEvent::TransactionPending(B256::from(alloy::primitives::U256::from(
                number,
            ))));
        }
        assert_eq!(feed.end(), KEPT_MAX as u64 + 3);
        assert!(feed.read(2, 1).is_err());
        let [FeedEvent::TransactionPending(hash)] = feed.read(3, 1).unwrap()[..] else { panic!() };
        assert_eq!(hash[31], 3);
        assert_eq!(feed.read(feed.end() - 2, 10).unwrap().len(), 2);
        assert!(feed.read(feed.end(), 10).unwrap().is_empty());
    }
}
