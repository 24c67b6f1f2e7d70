//! The second look at blocks that were read, beside the requests for new ones.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tokio::time::sleep;

use super::PageReader;
use crate::index::context::RETRY_MAX;
use crate::index::event::BlockRef;
use crate::index::event_set::RecheckPage;
use crate::index::look::MISSED_BLOCKS_MAX;
use crate::index::looking::{LookAnswer, LookError, LookOutcome, look};

impl PageReader {
    /// Starts a second look at blocks that are now deep, concurrently with reading. Blocks are read again
    /// if an endpoint has more events.
    pub(super) fn look_again(&mut self, head: BlockRef) {
        if let Some(done) = self.look.try_join_next() {
            self.looked(done);
        }
        if !self.look.is_empty() {
            return;
        }
        let unread = self.walk.unread();
        let depth_head = self.depth_head(head);
        let due = self.walk.look().due(depth_head, unread);
        let Some(due) = due.filter(|due| self.can_compare(due)) else {
            return self.release_unread(unread);
        };
        // A previous finding needs time to be resolved, and a silent endpoint needs time to come back. Endpoints that
        // refuse because of too many requests must not be asked again at once.
        let waits = self.silences.is_waiting() && !self.walk.look().is_far_behind(unread);
        let is_repeated = self.walk.look().looks() > 0 || self.walk.look().has_failed();
        let is_again = self.held.is_some() || is_repeated || waits;
        let pause = if is_again { RETRY_MAX } else { Duration::ZERO };
        let (endpoints, filter) = (self.endpoints.clone(), self.filter.clone());
        let (settings, sink) = (self.settings.clone(), self.context.sink.clone());
        let held = self.held.as_ref().map(|(places, _)| places.clone()).unwrap_or_default();
        self.look.spawn(async move {
            sleep(pause).await;
            let outcome = look(&endpoints, &sink, &settings, &filter, &due, &held).await;
            LookAnswer { blocks: due.blocks, outcome }
        });
    }

    /// Resumes reading if the blocks at which it was held are to be read again, such as after a gap was found. Their
    /// second look comes after they are read. So no look is due now whose result could end the hold. No look may be
    /// running.
    fn release_unread(&mut self, unread: u64) {
        if self.held.is_none() {
            return;
        }
        // A look that only waits for a higher head, or for the storing half, is still due: the hold stays.
        let due = self.walk.look().due(u64::MAX, unread);
        let read = self.context.status.lock().read;
        if due.is_none_or(|due| due.known.is_none() && read <= Some(*due.blocks.end())) {
            self.held = None;
        }
    }

    /// Returns true if the events that were read of these blocks are remembered, or are stored and can be looked up.
    ///
    /// After a start, events can be looked up only once a page has followed the stored blocks: a reorganisation may
    /// have replaced these, and the next page shows whether the last one is still on the chain.
    fn can_compare(&self, due: &RecheckPage) -> bool {
        let (last, status) = (Some(*due.blocks.end()), self.context.status.lock());
        let is_stored = status.stored.map(|block| block.number) >= last && status.read > last;
        due.known.is_some() || is_stored
    }

    /// Tells the storing half the first block that is not rechecked. This precedes each page, so that a page which is
    /// read again is not stored while its blocks count as looked at.
    pub(super) fn share_recheck_from(&mut self) {
        let unread = self.walk.unread();
        let recheck_from = self.walk.look().recheck_from(unread);
        let recent = recheck_from.saturating_sub(MISSED_BLOCKS_MAX);
        let missed = self.silences.first_missed().map_or(recheck_from, |first| first.max(recent));
        self.context.recheck_from.store(recheck_from.min(missed), Ordering::Release);
    }

    /// Handles the end of a second look.
    pub(super) fn looked(&mut self, done: Result<LookAnswer, JoinError>) {
        let LookAnswer { blocks, outcome } = done.expect("a panic ends the process");
        let (outcome, silent) = match outcome {
            Ok(answer) => answer,
            Err(error) => return self.not_looked(&blocks, &error),
        };
        self.silences.note(silent.clone(), Instant::now());
        match outcome {
            LookOutcome::Nothing => {
                self.held = None;
                let unread = self.walk.unread();
                // The endpoint that alone has more events may have failed for a moment.
                if !self.silences.is_waiting() || self.walk.look().is_far_behind(unread) {
                    self.walk.look().end(&blocks);
                    self.silences.miss(&silent, *blocks.start());
                    self.look_back(&silent);
                }
            }
            LookOutcome::Open { block, claimants } => {
                self.held = None;
                if !self.walk.look().found() {
                    let wrong = "and endpoints that could confirm them do not answer";
                    self.hold(block, claimants, wrong);
                }
            }
            LookOutcome::Proven { block, lacking } => {
                self.held = None;
                // As at the first look, those that are silent for long leave the decision to the others. The branch of
                // the block is not confirmed, so it replaces no deep blocks that another endpoint has.
                if !self.walk.look().found() {
                    self.logs_came_late(block, &lacking);
                }
            }
            LookOutcome::More { block, lacking } => {
                self.held = None;
                self.is_moving = true;
                self.logs_came_late(block, &lacking);
            }
            LookOutcome::Contradicted { block, claimants } => {
                self.hold(block, claimants, "and others have another branch of the chain there");
            }
        }
    }

    /// Handles a look without a result. Blocks that are given up count as missed by all endpoints: they get another
    /// look when an endpoint answers again, or after a start. While reading is held, no blocks are given up.
    fn not_looked(&mut self, blocks: &RangeInclusive<u64>, error: &LookError) {
        let (strand, unread) = (self.context.name, self.walk.unread());
        tracing::debug!(strand, "blocks cannot be read a second time now: {error}");
        let given_up = if matches!(error, LookError::Refused(_)) && self.held.is_none() {
            self.walk.look().refused(blocks, unread)
        } else {
            self.walk.look().failed(blocks);
            None
        };
        let Some(given_up) = given_up else { return };
        let (from_block, to_block) = (*given_up.blocks.start(), *given_up.blocks.end());
        self.silences.miss(&self.endpoints.display_urls().collect(), from_block);
        if given_up.is_first {
            tracing::warn!(
                code = "chain_look_refused",
                strand,
                from_block,
                to_block,
                "endpoints refuse the logs of blocks that were read before, and none answers, so later blocks are \
                 looked at first: {error}"
            );
        }
    }

    /// Schedules another look at blocks whose look ended without the answer of an endpoint that answers now: that
    /// endpoint may be the only one that has an event. `silent` are the endpoints that do not answer.
    fn look_back(&mut self, silent: &BTreeSet<String>) {
        let (unread, page_blocks) = (self.walk.unread(), self.settings.page_blocks);
        if self.walk.look().may_go_back(unread)
            && let Some(first) = self.silences.back(silent)
        {
            self.walk.look().go_back_to(first, unread, page_blocks);
        }
    }

    /// Stops reading, because an endpoint has events that cannot be confirmed and must not be lost.
    fn hold(&mut self, block: u64, claimants: BTreeSet<usize>, wrong: &str) {
        let all = self.endpoints.status();
        let names = claimants.iter().filter_map(|place| all.get(*place));
        let names: Vec<_> = names.map(|endpoint| endpoint.display_url.as_str()).collect();
        let reason = format!(
            "endpoints contradict each other: {} has events from block {block} on that were not read, {wrong}. \
             Reading goes on when they agree, or when those that are wrong are taken out of the settings",
            names.join(", ")
        );
        if self.held.is_none() {
            let strand = self.context.name;
            tracing::error!(code = "chain_endpoints_contradict", strand, block, "{reason}");
        }
        self.held = Some((claimants, reason));
    }

    /// Reads blocks again, because an endpoint has confirmed or proven events that others lacked.
    fn logs_came_late(&mut self, block: u64, lacking: &BTreeSet<usize>) {
        tracing::warn!(
            code = "chain_logs_late",
            strand = self.context.name,
            block,
            "an endpoint shows more events than were read: the blocks are read again"
        );
        self.context.status.lock().counts.gaps += 1;
        self.walk.look().found();
        for place in lacking {
            self.endpoints.distrust_at(*place, "events are missing in its responses");
        }
        // The endpoints that have the events may refuse pages of this length. The endpoint that lacks the events would
        // then answer each page again, without end. So pages become shorter with each look that finds more events.
        for _ in 1..self.walk.look().looks() {
            self.walk.refused("");
        }
        self.walk.rewind(block);
        self.begin_pass();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::task::JoinSet;

    use super::*;
    use crate::index::reading::tests::{block, reader};
    use crate::index::walk::Walk;
    use crate::send::RequestError;

    const HEAD: BlockRef = block(1000);

    /// Has a reader stop for a block below 100, and begin the next look at it, which then ends without an answer.
    fn hold(reader: &mut PageReader) {
        reader.hold(50, BTreeSet::from([1]), "and others do not");
        reader.look_again(HEAD);
        assert!(reader.held.is_some() && reader.look.len() == 1, "it looks again");
        reader.look = JoinSet::new();
    }

    /// Has all endpoints refuse so many looks at the first block that its page is given up, if it may be.
    fn refuse(reader: &mut PageReader) {
        for _ in 0..120 {
            let refused = RequestError::Refused {
                endpoint: "http://127.0.0.1:1".into(),
                method: "eth_getLogs",
                code: -32000,
                message: "pruned".into(),
            };
            let outcome = Err(LookError::Refused(refused));
            reader.looked(Ok(LookAnswer { blocks: 0..=0, outcome }));
        }
    }

    #[tokio::test]
    async fn blocks_whose_look_is_given_up_are_noted_and_looked_at_again() {
        let mut reader = reader();
        for first in [0, 50] {
            reader.walk.look().read_page(&(first..=first + 49), &BTreeMap::new());
        }
        let first = reader.walk.look().due(1000, 100).map(|due| due.blocks);
        assert_eq!(first, Some(0..=49));
        refuse(&mut reader);
        assert_eq!(reader.walk.look().recheck_from(100), 50);
        reader.context.recheck_from.store(50, Ordering::Release);
        reader.share_recheck_from();
        assert_eq!(reader.context.recheck_from.load(Ordering::Acquire), 0, "for a start");
        let outcome = Ok((LookOutcome::Nothing, BTreeSet::new()));
        reader.looked(Ok(LookAnswer { blocks: 50..=99, outcome }));
        assert_eq!(reader.walk.look().recheck_from(100), 0, "an endpoint answers");
    }

    #[tokio::test]
    async fn no_look_is_given_up_while_the_reader_holds() {
        let mut reader = reader();
        reader.walk.look().read_page(&(0..=99), &BTreeMap::new());
        hold(&mut reader);
        refuse(&mut reader);
        assert_eq!((reader.walk.look().recheck_from(100), reader.held.is_some()), (0, true));
    }

    /// Of two endpoints, the one in use leaves an event out and keeps silent about its receipts and its block.
    #[tokio::test]
    async fn a_proven_event_is_read_although_the_endpoint_that_could_confirm_it_stays_silent() {
        let mut reader = reader();
        reader.walk.look().read_page(&(0..=99), &BTreeMap::new());
        for look in 1..=8 {
            let is_held = reader.held.is_some();
            assert_eq!((reader.walk.unread(), is_held), (100, false), "before look {look}");
            let outcome = LookOutcome::Proven { block: 50, lacking: BTreeSet::from([0]) };
            let outcome = Ok((outcome, BTreeSet::new()));
            reader.looked(Ok(LookAnswer { blocks: 0..=99, outcome }));
        }
        assert_eq!((reader.walk.unread(), reader.held.is_some()), (50, false), "it is read again");
        assert!(reader.endpoints.status()[0].error.is_some(), "from the other endpoint");
        assert!(!reader.is_moving, "deep blocks are replaced only if no endpoint has them");
        let outcome = LookOutcome::More { block: 50, lacking: BTreeSet::new() };
        reader.looked(Ok(LookAnswer { blocks: 0..=99, outcome: Ok((outcome, BTreeSet::new())) }));
        assert!(reader.is_moving, "or if the events of the other branch are confirmed");
    }

    /// The storing half may have batches left, and find a gap in them. No page would be read and none be looked at.
    #[tokio::test]
    async fn a_reader_that_holds_goes_on_when_the_blocks_are_to_be_read_again() {
        let mut reader = reader();
        reader.walk.look().read_page(&(0..=99), &BTreeMap::new());
        hold(&mut reader);
        reader.look_again(BlockRef { number: 90, ..HEAD });
        assert!(reader.held.is_some(), "the head comes back");
        reader.context.status.lock().stored = None;
        reader.search_gap(Some(20));
        assert_eq!(reader.walk.unread(), 0);
        reader.look_again(HEAD);
        assert!(reader.held.is_none() && reader.look.is_empty());
    }

    /// As many pages wait for their look as may, and the storing half finds that events before all of them are missing.
    /// No look is due at pages that are not read, so the reader has to read on.
    #[tokio::test]
    async fn a_reader_whose_looks_are_far_behind_searches_a_gap_before_them() {
        let mut reader = reader();
        let settings = reader.settings.clone();
        reader.walk = Walk::new(settings, Some(block(100_099)));
        for first in (100..100_100).step_by(10) {
            reader.walk.look().read_page(&(first..=first + 9), &BTreeMap::new());
        }
        let is_far_behind = |reader: &mut PageReader| {
            let unread = reader.walk.unread();
            reader.walk.look().is_far_behind(unread)
        };
        assert!(is_far_behind(&mut reader));
        reader.search_gap(Some(99));
        assert_eq!(reader.walk.unread(), 90);
        reader.look_again(BlockRef { number: 200_000, ..HEAD });
        assert!(reader.look.is_empty(), "none is due");
        assert!(!is_far_behind(&mut reader), "it reads");
    }

    /// After a start, a page has to follow the stored blocks before these are compared.
    #[tokio::test]
    async fn a_reader_that_holds_for_stored_blocks_goes_on_to_the_page_after_them() {
        let mut reader = reader();
        reader.context.status.lock().read = Some(109);
        hold(&mut reader);
        reader.context.status.lock().stored = Some(block(50));
        reader.look_again(HEAD);
        assert!(
            reader.held.is_some() && reader.look.is_empty(),
            "the others are about to be stored"
        );
        reader.context.status.lock().stored = Some(block(99));
        reader.search_gap(Some(109));
        assert_eq!(reader.context.status.lock().read, Some(99), "that page is to be read again");
        reader.look_again(HEAD);
        assert!(reader.held.is_none());
    }
}
