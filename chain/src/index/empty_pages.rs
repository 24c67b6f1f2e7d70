//! Pages without events on their way to the storing half, of which another endpoint has to have the last block.
//!
//! Such a page becomes the stored position alone, so an endpoint that makes up blocks above the chain's could have
//! events of the chain wait until it is as high. Pages are held in memory until one is due for a commit. Then the other
//! endpoints are asked once about its last block. A page whose last block no other endpoint has is not committed. If
//! the other endpoints go on below that block for [`LACKED_MAX`], everything that is not stored yet is read again from
//! another endpoint.

use std::time::{Duration, Instant};

use super::confirming::PositionAnswer;
use super::event::BlockRef;
use super::walk::EventBatch;

/// The shortest interval between commits of a position without events. Guess: after a restart, ten seconds
/// of empty blocks are read again.
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// The interval at which other endpoints are asked about a block that they lacked. Guess.
const LACKED_AGAIN_EVERY: Duration = Duration::from_secs(2);
/// The time after which a block counts as made up that other endpoints lack although they go on. Guess: endpoints of
/// one chain are rarely further apart than a few blocks.
const LACKED_MAX: Duration = Duration::from_secs(10);

/// The pages without events that are read and not handed over, and the pace of handing them over. A plain value. `G` is
/// the endpoint that gave a page.
pub(super) struct EmptyPages<G> {
    held: Option<HeldPages<G>>,
    /// The last time at which a page was handed over, or other endpoints were asked about one.
    asked_at: Option<Instant>,
    /// The pass in which a page that ends at the head of the chain was handed over last.
    head_told_in: Option<u64>,
    /// The highest block that was handed over.
    handed: Option<u64>,
    /// The time since when other endpoints lack the blocks that they are asked about. A new pass does not end it: an
    /// endpoint that takes its blocks back again and again would otherwise never be left.
    lacked_since: Option<Instant>,
}

/// Contiguous pages of one pass.
struct HeldPages<G> {
    pass: u64,
    /// The first block of the first page.
    first_block: u64,
    /// The end of the page about which other endpoints are asked: of the newest one, until they lack its block.
    asked: PageEnd<G>,
    newest: PageEnd<G>,
}

#[derive(Clone)]
struct PageEnd<G> {
    position: BlockRef,
    is_at_head: bool,
    giver: G,
}

/// Held pages that are due for a commit.
pub(super) struct DuePages<G> {
    pub(super) batch: EventBatch,
    pub(super) giver: G,
    /// True if the storing half waits for a commit.
    pub(super) is_wanted: bool,
}

/// The verdict on pages that were due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DueVerdict {
    Store,
    Hold,
    /// The last block is made up.
    Refute,
}

impl<G: Clone> EmptyPages<G> {
    /// Starts after the last stored block.
    pub(super) fn new(stored: Option<u64>) -> Self {
        Self { held: None, asked_at: None, head_told_in: None, handed: stored, lacked_since: None }
    }

    /// Holds the next page.
    pub(super) fn hold(&mut self, page: &EventBatch, pass: u64, giver: G) {
        let (position, is_at_head) = (page.position, page.is_at_head);
        let newest = PageEnd { position, is_at_head, giver };
        match &mut self.held {
            Some(held) if held.pass == pass => {
                held.newest = newest;
                if self.lacked_since.is_none() {
                    held.asked.clone_from(&held.newest);
                }
            }
            // Pages of an earlier pass are read again.
            _ => {
                let asked = newest.clone();
                let first_block = page.from_block;
                self.held = Some(HeldPages { pass, first_block, asked, newest });
            }
        }
    }

    /// Drops the held pages, because a page that begins with `from_block` follows them and is handed over. Returns the
    /// first block after those that were handed over before.
    pub(super) fn skip(&mut self, from_block: u64, pass: u64) -> u64 {
        let skipped = self.held.take().filter(|held| held.pass == pass);
        skipped.map_or(from_block, |held| held.first_block)
    }

    /// Returns the highest block that was handed over.
    pub(super) fn handed(&self) -> Option<u64> {
        self.handed
    }

    /// Takes note that a page is handed over.
    pub(super) fn note_handed(&mut self, page: &EventBatch, pass: u64, now: Instant) {
        self.asked_at = Some(now);
        self.handed = self.handed.max(Some(page.position.number));
        if page.is_at_head {
            self.head_told_in = Some(pass);
        }
        // Others have confirmed its events, so this is another time.
        if !page.events.is_empty() {
            self.lacked_since = None;
        }
    }

    /// Returns the held pages if they are due: at the pace of [`POSITION_EVERY`], or sooner while the sink has not been
    /// told in this pass that it has come to the head, or if a commit ends a stuck state.
    pub(super) fn due(&self, pass: u64, is_stuck: bool, now: Instant) -> Option<DuePages<G>> {
        let held = self.held.as_ref().filter(|held| held.pass == pass)?;
        let PageEnd { position, is_at_head, giver } = held.asked.clone();
        // While the chain makes no further block, no later page would tell the sink that it has come to the head.
        let is_wanted = is_stuck || (is_at_head && self.head_told_in != Some(pass));
        let pause = match self.lacked_since {
            Some(_) => LACKED_AGAIN_EVERY,
            None if is_wanted => Duration::ZERO,
            None => POSITION_EVERY,
        };
        let is_early = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < pause);
        let from_block = held.first_block;
        let batch = EventBatch { from_block, events: Vec::new(), position, is_at_head };
        (!is_early).then_some(DuePages { batch, giver, is_wanted })
    }

    /// Returns what to do with pages that were due, given what other endpoints say about their last block. While all
    /// are silent, only pages that the storing half waits for are stored, so a node becomes ready without them.
    pub(super) fn judge(
        &mut self,
        answer: PositionAnswer,
        is_wanted: bool,
        now: Instant,
    ) -> DueVerdict {
        self.asked_at = Some(now);
        let Some(held) = &mut self.held else { return DueVerdict::Hold };
        match answer {
            PositionAnswer::Shown => DueVerdict::Store,
            PositionAnswer::Silent if is_wanted && self.lacked_since.is_none() => DueVerdict::Store,
            PositionAnswer::Silent => DueVerdict::Hold,
            PositionAnswer::Differs => {
                self.lacked_since = None;
                held.asked.clone_from(&held.newest);
                DueVerdict::Hold
            }
            PositionAnswer::Lacked { goes_on } => {
                let since = *self.lacked_since.get_or_insert(now);
                let is_long = now.saturating_duration_since(since) >= LACKED_MAX;
                if !(goes_on && is_long) {
                    return DueVerdict::Hold;
                }
                self.lacked_since = None;
                DueVerdict::Refute
            }
        }
    }

    /// Drops the pages up to the one that other endpoints were asked about, because they are handed over.
    pub(super) fn take_asked(&mut self) {
        self.lacked_since = None;
        let Some(held) = &mut self.held else { return };
        if held.asked.position == held.newest.position {
            self.held = None;
            return;
        }
        held.first_block = held.asked.position.number + 1;
        held.asked.clone_from(&held.newest);
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn page(from_block: u64, last: u64, is_at_head: bool) -> EventBatch {
        let position = BlockRef { number: last, hash: B256::repeat_byte(1) };
        EventBatch { from_block, events: Vec::new(), position, is_at_head }
    }

    /// Returns the blocks of the held pages that are due in the first pass.
    fn due(pages: &EmptyPages<&'static str>, now: Instant) -> Option<(u64, u64)> {
        let due = pages.due(0, false, now)?;
        Some((due.batch.from_block, due.batch.position.number))
    }

    /// Returns pages of which those up to block 9, the head, are stored.
    fn at_head(now: Instant) -> EmptyPages<&'static str> {
        let mut pages = EmptyPages::new(Some(5));
        pages.hold(&page(6, 9, true), 0, "giver");
        assert_eq!(due(&pages, now), Some((6, 9)), "the sink learns of the head at once");
        assert_eq!(pages.judge(PositionAnswer::Shown, true, now), DueVerdict::Store);
        pages.take_asked();
        pages.note_handed(&page(6, 9, true), 0, now);
        pages
    }

    #[test]
    fn positions_without_events_are_asked_about_at_the_pace_of_commits() {
        let start = Instant::now();
        let mut pages = at_head(start);
        for block in 10..20 {
            pages.hold(&page(block, block, true), 0, "giver");
            assert_eq!(due(&pages, start + SECOND), None);
        }
        assert_eq!(due(&pages, start + POSITION_EVERY), Some((10, 19)), "one question");
        assert!(pages.due(1, false, start + POSITION_EVERY).is_none(), "another pass has begun");
        assert!(pages.due(0, true, start).is_some(), "a commit ends the stuck state");
        assert_eq!(pages.skip(20, 0), 10, "a page with events covers them");
        assert_eq!(due(&pages, start + POSITION_EVERY), None);
    }

    #[test]
    fn a_block_that_others_lack_is_not_stored_and_is_refuted_while_they_go_on() {
        let start = Instant::now();
        let mut pages = at_head(start);
        let lacked = |goes_on| PositionAnswer::Lacked { goes_on };
        pages.hold(&page(10, 400, true), 0, "inventor");
        let asked = start + POSITION_EVERY;
        assert_eq!(pages.judge(lacked(true), false, asked), DueVerdict::Hold);
        pages.hold(&page(401, 401, true), 0, "inventor");
        assert_eq!(due(&pages, asked + SECOND), None);
        let again = asked + LACKED_AGAIN_EVERY;
        assert_eq!(due(&pages, again), Some((10, 400)), "no newer block replaces it");
        assert_eq!(pages.judge(PositionAnswer::Silent, true, again), DueVerdict::Hold);
        let long = asked + LACKED_MAX;
        assert_eq!(pages.judge(lacked(false), true, long), DueVerdict::Hold, "others stand still");
        assert_eq!(pages.judge(lacked(true), true, long), DueVerdict::Refute);
    }

    #[test]
    fn an_endpoint_that_takes_back_its_blocks_gains_no_time() {
        let start = Instant::now();
        let mut pages = at_head(start);
        let lacked = PositionAnswer::Lacked { goes_on: true };
        pages.hold(&page(10, 400, true), 0, "inventor");
        assert_eq!(pages.judge(lacked, false, start), DueVerdict::Hold);
        pages.hold(&page(10, 401, true), 1, "inventor");
        assert_eq!(pages.judge(PositionAnswer::Silent, true, start + SECOND), DueVerdict::Hold);
        pages.note_handed(&page(5, 9, false), 1, start + SECOND);
        assert_eq!(pages.judge(lacked, true, start + LACKED_MAX), DueVerdict::Refute);
        pages.hold(&page(10, 402, true), 2, "inventor");
        let later = start + LACKED_MAX + SECOND;
        assert_eq!(pages.judge(lacked, true, later), DueVerdict::Hold, "its time begins anew");
    }

    #[test]
    fn a_block_to_which_others_come_is_stored_and_the_newer_one_is_asked_about_later() {
        let start = Instant::now();
        let mut pages = at_head(start);
        pages.hold(&page(10, 11, true), 0, "ahead");
        let asked = start + POSITION_EVERY;
        let lacked = PositionAnswer::Lacked { goes_on: true };
        assert_eq!(pages.judge(lacked, false, asked), DueVerdict::Hold);
        pages.hold(&page(12, 12, true), 0, "ahead");
        let later = asked + LACKED_AGAIN_EVERY;
        assert_eq!(pages.judge(PositionAnswer::Shown, false, later), DueVerdict::Store);
        pages.take_asked();
        assert_eq!(due(&pages, later), None);
        assert_eq!(due(&pages, later + POSITION_EVERY), Some((12, 12)));
        let differs = PositionAnswer::Differs;
        assert_eq!(pages.judge(differs, false, later + POSITION_EVERY), DueVerdict::Hold);
    }

    #[test]
    fn a_node_becomes_ready_while_all_other_endpoints_are_silent() {
        let now = Instant::now();
        let mut pages = EmptyPages::new(None);
        pages.hold(&page(0, 9, true), 0, "alone");
        let is_wanted = pages.due(0, false, now).unwrap().is_wanted;
        assert_eq!(pages.judge(PositionAnswer::Silent, is_wanted, now), DueVerdict::Store);
        assert_eq!(pages.judge(PositionAnswer::Silent, false, now), DueVerdict::Hold);
    }
}
