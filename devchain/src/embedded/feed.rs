//! What happened lately, for those who follow: subscriptions and filters read it at their own pace.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy::primitives::B256;

use super::block::Block;

/// How much is kept for those who are behind.
const KEPT_MAX: usize = 16_384;

/// Something that followers hear of.
#[derive(Debug, Clone)]
pub(super) enum FeedEvent {
    /// A block is the new head.
    BlockAdded(Arc<Block>),
    /// The head was taken back.
    BlockRemoved(Arc<Block>),
    /// A transaction waits for a block.
    TransactionPending(B256),
}

/// More happened than is kept: what the follower missed cannot be told any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too far behind: more than {KEPT_MAX} events happened since the last read")]
pub(super) struct LaggedError;

/// The latest notices, numbered from the start of the process.
#[derive(Debug, Default)]
pub(super) struct Feed {
    kept: VecDeque<FeedEvent>,
    first: u64,
}

impl Feed {
    pub(super) fn push(&mut self, notice: FeedEvent) {
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(notice);
    }

    /// The number that the next notice gets.
    pub(super) fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// At most `count_max` notices from number `from` on.
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
        let mut feed = Feed::default();
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
