//! The votes of endpoints on a reorganisation near the head. A plain value.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::index::event::BlockRef;

/// The time for which the vote of an endpoint counts that has a replaced block and shows no new one. Without it,
/// endpoints that have stopped on a branch which the chain has left would stop the reader for as long. A guess: longer
/// than the pauses between the blocks of a chain in use.
const STILL_MAX: Duration = Duration::from_secs(120);

/// The vote of the endpoints with one host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ForkVote {
    /// True if one of them has the replaced block, and false if they have another one at its height.
    pub(super) has_replaced: bool,
    /// The number of their newest block.
    pub(super) head: u64,
}

impl ForkVote {
    /// Adds the vote of another endpoint with the same host and port.
    pub(super) fn add(&mut self, other: Self) {
        self.has_replaced |= other.has_replaced;
        self.head = self.head.max(other.head);
    }
}

/// The endpoints that have the block which was to be replaced last.
#[derive(Debug, Default)]
pub(super) struct ForkVotes {
    replaced: Option<BlockRef>,
    /// The highest block of each, and the time since when it is known.
    heads: BTreeMap<String, (u64, Instant)>,
}

impl ForkVotes {
    /// Returns true if more endpoints have a block than another one at its height, among those that count. One that has
    /// it does not count while it has shown no new block for [`STILL_MAX`].
    pub(super) fn refuse(
        &mut self,
        replaced: BlockRef,
        votes: &BTreeMap<String, ForkVote>,
        now: Instant,
    ) -> bool {
        if self.replaced != Some(replaced) {
            *self = Self { replaced: Some(replaced), heads: BTreeMap::new() };
        }
        let (mut having, mut lacking) = (0_usize, 0_usize);
        for (host, vote) in votes {
            if !vote.has_replaced {
                lacking += 1;
                continue;
            }
            let known = self.heads.entry(host.clone()).or_insert((vote.head, now));
            if vote.head > known.0 {
                *known = (vote.head, now);
            }
            having += usize::from(now.saturating_duration_since(known.1) < STILL_MAX);
        }
        having > lacking
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    const REPLACED: BlockRef = BlockRef { number: 7, hash: B256::ZERO };

    /// Returns the votes of three endpoints: the first one has another block, and the others have the replaced one and
    /// these newest blocks.
    fn votes(heads: [u64; 2]) -> BTreeMap<String, ForkVote> {
        let having = |head| ForkVote { has_replaced: true, head };
        [
            ("a".to_owned(), ForkVote { has_replaced: false, head: 9 }),
            ("b".to_owned(), having(heads[0])),
            ("c".to_owned(), having(heads[1])),
        ]
        .into()
    }

    #[test]
    fn endpoints_that_go_on_keep_a_block_that_one_of_three_replaces() {
        let (mut known, start) = (ForkVotes::default(), Instant::now());
        for seconds in 0..500 {
            let now = start + Duration::from_secs(seconds);
            assert!(known.refuse(REPLACED, &votes([7 + seconds, 8 + seconds]), now), "{seconds}");
        }
    }

    /// The two have not followed a reorganisation of the chain, and show the last block of the branch that it has left.
    #[test]
    fn two_of_three_endpoints_that_stand_still_stop_no_reader() {
        let (mut known, start) = (ForkVotes::default(), Instant::now());
        let refuses = |known: &mut ForkVotes, heads: [u64; 2], after: Duration| {
            known.refuse(REPLACED, &votes(heads), start + after)
        };
        let late = STILL_MAX.saturating_sub(Duration::from_nanos(1));
        assert!(refuses(&mut known, [7, 7], Duration::ZERO));
        assert!(refuses(&mut known, [7, 7], late), "they may be behind");
        assert!(!refuses(&mut known, [7, 7], STILL_MAX));
        // A lower block is no new one.
        assert!(!refuses(&mut known, [6, 7], STILL_MAX));
        // One alone that goes on is no more than the one that replaces the block.
        assert!(!refuses(&mut known, [8, 7], STILL_MAX));
        assert!(refuses(&mut known, [8, 8], STILL_MAX), "both go on");
        let other = BlockRef { number: 8, ..REPLACED };
        assert!(known.refuse(other, &votes([8, 8]), start + 3 * STILL_MAX), "it is another block");
    }

    #[test]
    fn as_many_endpoints_on_each_branch_follow_the_one_in_use() {
        let (mut known, now) = (ForkVotes::default(), Instant::now());
        let mut two = votes([9, 9]);
        two.remove("c");
        assert!(!known.refuse(REPLACED, &two, now));
        assert!(!known.refuse(REPLACED, &BTreeMap::new(), now));
    }

    #[test]
    fn endpoints_of_one_host_have_one_vote() {
        let mut vote = ForkVote::default();
        vote.add(ForkVote { has_replaced: true, head: 5 });
        vote.add(ForkVote { has_replaced: false, head: 4 });
        assert_eq!(vote, ForkVote { has_replaced: true, head: 5 });
    }
}
