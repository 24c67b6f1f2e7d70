//! Decides when the operator hears of contradictions about new events. A plain value.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The time after which a contradiction about a block is one for the operator. Guess: as long as other endpoints are
/// waited for that stand still. Honest endpoints contradict each other for a moment too, when the newest block is
/// replaced, or when logs and receipts come after their block.
const LASTS_MIN: Duration = Duration::from_secs(10);
/// The number of blocks that are remembered. Guess: each endpoint has a first block of its own that others contradict.
const BLOCKS_MAX: usize = 64;

/// The blocks about whose events endpoints contradict each other, with the time of the first contradiction; `None` once
/// the operator has heard of it.
#[derive(Debug, Default)]
pub(super) struct Disputes(BTreeMap<u64, Option<Instant>>);

impl Disputes {
    /// Notes a contradiction about the events of a block at `now`. Returns true, once for each block, if they have
    /// contradicted each other about it [`LASTS_MIN`] ago or earlier too.
    pub(super) fn note(&mut self, block: u64, now: Instant) -> bool {
        if self.0.len() >= BLOCKS_MAX && !self.0.contains_key(&block) {
            self.0.pop_first();
        }
        let since = self.0.entry(block).or_insert(Some(now));
        let lasts = since.is_some_and(|since| now.duration_since(since) >= LASTS_MIN);
        if lasts {
            *since = None;
        }
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_that_lasts_is_told_once_for_each_block() {
        let (mut disputes, start) = (Disputes::default(), Instant::now());
        let moment = Duration::from_millis(1);
        assert!(!disputes.note(5, start), "the newest block may be replaced");
        assert!(!disputes.note(5, start + LASTS_MIN.saturating_sub(moment)));
        // The next endpoint has its first events in another block.
        assert!(!disputes.note(6, start + LASTS_MIN));
        assert!(disputes.note(5, start + LASTS_MIN));
        assert!(!disputes.note(5, start + 3 * LASTS_MIN), "it is told already");
        assert!(disputes.note(6, start + 3 * LASTS_MIN));
    }

    #[test]
    fn contradictions_about_ever_more_blocks_use_little_memory() {
        let (mut disputes, start) = (Disputes::default(), Instant::now());
        for block in 0..1000 {
            assert!(!disputes.note(block, start));
        }
        assert_eq!(disputes.0.len(), BLOCKS_MAX);
        assert!(disputes.note(999, start + LASTS_MIN));
    }
}
