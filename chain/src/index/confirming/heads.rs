//! The newest blocks of the endpoints beside the one in use, and the way in which these go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::index::walk::BlockHeader;

/// The time for which other endpoints are waited for that answer and lack the block, while their newest block stays the
/// same. Guess: longer than the pauses between the blocks of a chain in use.
pub(super) const STILL_MAX: Duration = Duration::from_secs(10);
/// The age of an endpoint's newest block, in seconds by the own clock, from which it is behind, even if it goes on.
/// Guess: an endpoint that syncs anew passes many blocks and is hours behind.
const OLD_S: u64 = 60;

/// The state of the endpoints beside the one in use that show no block at the height of an open one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// At least one endpoint goes on with the chain below that height: it may still come to another block there.
    Below,
    /// All that go on have come to that height and tell nothing about it, so another block there is not to be expected.
    Past,
    /// No endpoint goes on.
    Still,
}

/// The newest blocks of the endpoints beside the one in use, by host and port.
#[derive(Debug, Default)]
pub(super) struct OtherHeads(BTreeMap<String, OtherHead>);

/// The newest block of one endpoint.
#[derive(Debug, Clone, Copy)]
struct OtherHead {
    number: u64,
    time_s: u64,
    /// The last time at which a higher block than before was seen.
    grew_at: Option<Instant>,
}

impl OtherHeads {
    /// Notes the newest blocks that endpoints state now. An endpoint that does not answer keeps its last block.
    pub(super) fn note(&mut self, heads: Vec<(String, BlockHeader)>, now: Instant) {
        for (endpoint, BlockHeader { block, time_s, .. }) in heads {
            let before = self.0.get(&endpoint);
            let grew_at = match before {
                Some(before) if block.number > before.number => Some(now),
                Some(before) => before.grew_at,
                None => None,
            };
            self.0.insert(endpoint, OtherHead { number: block.number, time_s, grew_at });
        }
    }

    /// Returns how far the endpoints have come that show no block at the height `open`. One goes on if its newest block
    /// is recent by the clock, and has grown within [`STILL_MAX`].
    pub(super) fn progress(&self, open: u64, now: Instant, unix_time_s: u64) -> Progress {
        let goes_on = |head: &&OtherHead| {
            let is_recent = head.time_s.saturating_add(OLD_S) >= unix_time_s;
            is_recent && head.grew_at.is_some_and(|at| now.duration_since(at) < STILL_MAX)
        };
        match self.0.values().filter(goes_on).map(|head| head.number).min() {
            Some(lowest) if lowest < open => Progress::Below,
            Some(_) => Progress::Past,
            None => Progress::Still,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;
    use crate::index::event::BlockRef;

    const SECOND: Duration = Duration::from_secs(1);

    fn head(number: u64, time_s: u64) -> BlockHeader {
        BlockHeader {
            block: BlockRef { number, hash: B256::ZERO },
            parent: B256::ZERO,
            time_s,
            may_have_logs: false,
        }
    }

    #[test]
    fn an_endpoint_goes_on_while_its_newest_block_grows_and_is_recent() {
        let (mut heads, start) = (OtherHeads::default(), Instant::now());
        let note = |heads: &mut OtherHeads, number, time_s, at| {
            heads.note(vec![("one".to_owned(), head(number, time_s))], at);
        };
        note(&mut heads, 5, 1000, start);
        assert_eq!(heads.progress(9, start, 1000), Progress::Still, "one block is known of it");
        note(&mut heads, 5, 1000, start + SECOND);
        assert_eq!(heads.progress(9, start + SECOND, 1000), Progress::Still);
        let grown = start + 2 * SECOND;
        note(&mut heads, 6, 1001, grown);
        assert_eq!(heads.progress(9, grown, 1001), Progress::Below);
        assert_eq!(heads.progress(9, grown, 1001 + OLD_S), Progress::Below);
        assert_eq!(heads.progress(9, grown, 1002 + OLD_S), Progress::Still, "it is far behind");
        note(&mut heads, 6, 1001, grown + STILL_MAX);
        assert_eq!(heads.progress(9, grown + STILL_MAX, 1001), Progress::Still, "again");
    }

    /// By hiding one block, one of two endpoints could otherwise stop the reader of a node for good.
    #[test]
    fn an_endpoint_that_has_come_to_a_height_and_shows_no_block_there_is_not_waited_for_long() {
        let (mut heads, start) = (OtherHeads::default(), Instant::now());
        for number in [8, 9] {
            heads.note(vec![("hides".to_owned(), head(number, 1000))], start);
        }
        assert_eq!(heads.progress(10, start, 1000), Progress::Below);
        assert_eq!(heads.progress(9, start, 1000), Progress::Past);
        for number in [6, 7] {
            heads.note(vec![("behind".to_owned(), head(number, 1000))], start);
        }
        assert_eq!(heads.progress(9, start, 1000), Progress::Below, "another one may come to it");
    }
}
