//! The recheck of blocks that were read, beside the requests for new ones.

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
use crate::index::recheck::MISSED_BLOCKS_MAX;
use crate::index::recheck_requests::{RecheckAnswer, RecheckError, RecheckOutcome, recheck};

impl PageReader {
    /// Starts a recheck of blocks that are now deep, concurrently with reading. Blocks are read again
    /// if an endpoint has more events.
    pub(super) fn start_recheck(&mut self, head: BlockRef) {
        if let Some(done) = self.recheck.try_join_next() {
            self.handle_recheck(done);
        }
        if !self.recheck.is_empty() {
            return;
        }
        let unread = self.walk.unread();
        let depth_head = self.depth_head(head);
        let due = self.walk.rechecks().due(depth_head, unread);
        let Some(due) = due.filter(|due| self.can_compare(due)) else {
            return self.release_unread(unread);
        };
        // A previous finding needs time to be resolved, and a silent endpoint needs time to come back. Endpoints that
        // refuse because of too many requests must not be asked again at once.
        let waits = self.silences.is_waiting() && !self.walk.rechecks().is_far_behind(unread);
        let is_repeated = self.walk.rechecks().attempts() > 0 || self.walk.rechecks().has_failed();
        let is_again = self.held.is_some() || is_repeated || waits;
        let pause = if is_again { RETRY_MAX } else { Duration::ZERO };
        let (endpoints, filter) = (self.endpoints.clone(), self.filter.clone());
        let (settings, sink) = (self.settings.clone(), self.context.sink.clone());
        let held = self.held.as_ref().map(|(places, _)| places.clone()).unwrap_or_default();
        self.recheck.spawn(async move {
            sleep(pause).await;
            let outcome = recheck(&endpoints, &sink, &settings, &filter, &due, &held).await;
            RecheckAnswer { blocks: due.blocks, outcome }
        });
    }

    /// Resumes reading if the blocks at which it was held are to be read again, such as after a gap was found. Their
    /// recheck comes after they are read. So no recheck is due now whose result could end the hold. No recheck may be
    /// running.
    fn release_unread(&mut self, unread: u64) {
        if self.held.is_none() {
            return;
        }
        // A recheck that only waits for a higher head, or for the storing half, is still due: the hold stays.
        let due = self.walk.rechecks().due(u64::MAX, unread);
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
    /// read again is not stored while its blocks count as rechecked.
    pub(super) fn share_recheck_from(&mut self) {
        let unread = self.walk.unread();
        let recheck_from = self.walk.rechecks().recheck_from(unread);
        let recent = recheck_from.saturating_sub(MISSED_BLOCKS_MAX);
        let missed = self.silences.first_missed().map_or(recheck_from, |first| first.max(recent));
        self.context.recheck_from.store(recheck_from.min(missed), Ordering::Release);
    }

    /// Handles the end of a recheck.
    pub(super) fn handle_recheck(&mut self, done: Result<RecheckAnswer, JoinError>) {
        let RecheckAnswer { blocks, outcome } = done.expect("a panic ends the process");
        let (outcome, silent) = match outcome {
            Ok(answer) => answer,
            Err(error) => return self.handle_failed_recheck(&blocks, &error),
        };
        self.silences.note(silent.clone(), Instant::now());
        match outcome {
            RecheckOutcome::Nothing => {
                self.held = None;
                let unread = self.walk.unread();
                // The endpoint that alone has more events may have failed for a moment.
                if !self.silences.is_waiting() || self.walk.rechecks().is_far_behind(unread) {
                    self.walk.rechecks().end(&blocks);
                    self.silences.miss(&silent, *blocks.start());
                    self.recheck_missed(&silent);
                }
            }
            RecheckOutcome::Open { block, claimants } => {
                self.held = None;
                if !self.walk.rechecks().found() {
                    let wrong = "and endpoints that could confirm them do not answer";
                    self.hold(block, claimants, wrong);
                }
            }
            RecheckOutcome::Proven { block, lacking } => {
                self.held = None;
                // As at the confirmation, those that are silent for long leave the decision to the others. The branch
                // of the block is not confirmed, so it replaces no deep blocks that another endpoint has.
                if !self.walk.rechecks().found() {
                    self.logs_came_late(block, &lacking);
                }
            }
            RecheckOutcome::More { block, lacking, is_of_others } => {
                self.held = None;
                if is_of_others {
                    let urls = self.endpoints.display_urls().enumerate();
                    let left = urls.filter(|(place, _)| lacking.contains(place));
                    self.leaving = Some(left.map(|(_, url)| url).collect());
                }
                self.logs_came_late(block, &lacking);
            }
            RecheckOutcome::Contradicted { block, claimants } => {
                self.hold(block, claimants, "and others have another branch of the chain there");
            }
        }
    }

    /// Handles a recheck without a result. Blocks that are given up count as missed by all endpoints: they get another
    /// recheck when an endpoint answers again, or after a start. While reading is held, no blocks are given up.
    fn handle_failed_recheck(&mut self, blocks: &RangeInclusive<u64>, error: &RecheckError) {
        let (strand, unread) = (self.context.name, self.walk.unread());
        tracing::debug!(strand, "blocks cannot be read a second time now: {error}");
        let given_up = if matches!(error, RecheckError::Refused(_)) && self.held.is_none() {
            self.walk.rechecks().refused(blocks, unread)
        } else {
            self.walk.rechecks().failed(blocks);
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
                 rechecked first: {error}"
            );
        }
    }

    /// Schedules another recheck of blocks whose recheck ended without the answer of an endpoint that answers now: that
    /// endpoint may be the only one that has an event. `silent` are the endpoints that do not answer.
    fn recheck_missed(&mut self, silent: &BTreeSet<String>) {
        let (unread, page_blocks) = (self.walk.unread(), self.settings.page_blocks);
        if self.walk.rechecks().may_go_back(unread)
            && let Some(first) = self.silences.back(silent)
        {
            self.walk.rechecks().go_back_to(first, unread, page_blocks);
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
        self.walk.rechecks().found();
        for place in lacking {
            self.endpoints.distrust_at(*place, "events are missing in its responses");
        }
        // The endpoints that have the events may refuse pages of this length. The endpoint that lacks the events would
        // then answer each page again, without end. So pages become shorter with each recheck that finds more events.
        for _ in 1..self.walk.rechecks().attempts() {
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
    use crate::index::event_set::EventSet;
    use crate::index::reading::tests::{block, gap_after, reader};
    use crate::index::recheck::RecheckQueue;
    use crate::index::walk::Walk;
    use crate::send::RequestError;

    const HEAD: BlockRef = block(1000);

    /// Has a reader stop for a block below 100, and begin the next recheck of it, which then ends without an answer.
    fn hold(reader: &mut PageReader) {
        reader.hold(50, BTreeSet::from([1]), "and others do not");
        reader.start_recheck(HEAD);
        assert!(reader.held.is_some() && reader.recheck.len() == 1, "it checks again");
        reader.recheck = JoinSet::new();
    }

    /// Has all endpoints refuse so many rechecks of the first block that its page is given up, if it may be.
    fn refuse(reader: &mut PageReader) {
        for _ in 0..120 {
            let refused = RequestError::Refused {
                endpoint: "http://127.0.0.1:1".into(),
                method: "eth_getLogs",
                code: -32000,
                message: "pruned".into(),
            };
            let outcome = Err(RecheckError::Refused(refused));
            reader.handle_recheck(Ok(RecheckAnswer { blocks: 0..=0, outcome }));
        }
    }

    #[tokio::test]
    async fn blocks_whose_recheck_is_given_up_are_noted_and_rechecked_again() {
        let mut reader = reader();
        for first in [0, 50] {
            reader.walk.rechecks().read_page(&(first..=first + 49), &BTreeMap::new());
        }
        let first = reader.walk.rechecks().due(1000, 100).map(|due| due.blocks);
        assert_eq!(first, Some(0..=49));
        refuse(&mut reader);
        assert_eq!(reader.walk.rechecks().recheck_from(100), 50);
        reader.context.recheck_from.store(50, Ordering::Release);
        reader.share_recheck_from();
        assert_eq!(reader.context.recheck_from.load(Ordering::Acquire), 0, "for a start");
        let outcome = Ok((RecheckOutcome::Nothing, BTreeSet::new()));
        reader.handle_recheck(Ok(RecheckAnswer { blocks: 50..=99, outcome }));
        assert_eq!(reader.walk.rechecks().recheck_from(100), 0, "an endpoint answers");
    }

    #[tokio::test]
    async fn no_recheck_is_given_up_while_the_reader_holds() {
        let mut reader = reader();
        reader.walk.rechecks().read_page(&(0..=99), &BTreeMap::new());
        hold(&mut reader);
        refuse(&mut reader);
        assert_eq!((reader.walk.rechecks().recheck_from(100), reader.held.is_some()), (0, true));
    }

    /// Of two endpoints, the one in use leaves an event out and keeps silent about its receipts and its block.
    #[tokio::test]
    async fn a_proven_event_is_read_although_the_endpoint_that_could_confirm_it_stays_silent() {
        let mut reader = reader();
        reader.walk.rechecks().read_page(&(0..=99), &BTreeMap::new());
        for recheck in 1..=8 {
            let is_held = reader.held.is_some();
            assert_eq!((reader.walk.unread(), is_held), (100, false), "before recheck {recheck}");
            let outcome = RecheckOutcome::Proven { block: 50, lacking: BTreeSet::from([0]) };
            let outcome = Ok((outcome, BTreeSet::new()));
            reader.handle_recheck(Ok(RecheckAnswer { blocks: 0..=99, outcome }));
        }
        assert_eq!((reader.walk.unread(), reader.held.is_some()), (50, false), "it is read again");
        assert!(reader.endpoints.status()[0].error.is_some(), "from the other endpoint");
        assert_eq!(reader.leaving, None, "deep blocks are replaced only if no endpoint has them");
    }

    /// An endpoint in use makes an event up while a request to the other one fails, and turns to a branch of its own.
    #[tokio::test]
    async fn events_that_the_endpoint_in_use_shows_alone_let_it_replace_no_deep_blocks() {
        let mut reader = reader();
        let left = |name: &str| Some(BTreeSet::from([name.to_owned()]));
        let cases = [(false, None), (true, left("http://127.0.0.1:1"))];
        for (is_of_others, expected) in cases {
            reader.walk.rechecks().read_page(&(0..=99), &BTreeMap::new());
            let lacking = BTreeSet::from([0]);
            let outcome = RecheckOutcome::More { block: 50, lacking, is_of_others };
            let outcome = Ok((outcome, BTreeSet::new()));
            reader.handle_recheck(Ok(RecheckAnswer { blocks: 0..=99, outcome }));
            assert_eq!(reader.leaving, expected);
        }
    }

    /// The storing half may have batches left, and find a gap in them. No page would be read and none be rechecked.
    #[tokio::test]
    async fn a_reader_that_holds_goes_on_when_the_blocks_are_to_be_read_again() {
        let mut reader = reader();
        reader.walk.rechecks().read_page(&(0..=99), &BTreeMap::new());
        hold(&mut reader);
        reader.start_recheck(BlockRef { number: 90, ..HEAD });
        assert!(reader.held.is_some(), "the head comes back");
        reader.context.status.lock().stored = None;
        reader.search_gap(gap_after(20));
        assert_eq!(reader.walk.unread(), 0);
        reader.start_recheck(HEAD);
        assert!(reader.held.is_none() && reader.recheck.is_empty());
    }

    /// As many pages wait for their recheck as may, and the storing half finds that events before all of them are
    /// missing. No recheck is due at pages that are not read, so the reader has to read on.
    #[tokio::test]
    async fn a_reader_whose_rechecks_are_far_behind_searches_a_gap_before_them() {
        let mut reader = reader();
        let settings = reader.settings.clone();
        reader.walk = Walk::new(settings, Some(block(100_099)));
        for first in (100..100_100).step_by(10) {
            reader.walk.rechecks().read_page(&(first..=first + 9), &BTreeMap::new());
        }
        let is_far_behind = |reader: &mut PageReader| {
            let unread = reader.walk.unread();
            reader.walk.rechecks().is_far_behind(unread)
        };
        assert!(is_far_behind(&mut reader));
        reader.search_gap(gap_after(99));
        assert_eq!(reader.walk.unread(), 90);
        reader.start_recheck(BlockRef { number: 200_000, ..HEAD });
        assert!(reader.recheck.is_empty(), "none is due");
        assert!(!is_far_behind(&mut reader), "it reads");
    }

    /// Endpoints answer for new blocks, and never for those that are deep. The events of all blocks would be kept.
    #[test]
    fn blocks_near_the_head_whose_rechecks_fail_keep_the_reader_from_reading_on() {
        let (mut rechecks, mut unread) = (RecheckQueue::default(), 0);
        while !rechecks.is_far_behind(unread) {
            assert!(unread <= 20_000, "no number of blocks is too large");
            rechecks.read(unread, EventSet::default());
            unread += 1;
        }
        let due = rechecks.due(unread, unread).expect("they are deep");
        rechecks.failed(&due.blocks);
        assert!(rechecks.is_far_behind(unread) && rechecks.has_failed());
        assert!(!rechecks.is_far_behind(5000), "from there on they are read again");
        let due = rechecks.due(unread, unread).expect("they are deep");
        rechecks.end(&due.blocks);
        assert!(!rechecks.is_far_behind(unread) && !rechecks.has_failed(), "an endpoint answers");
    }

    /// After a start, a page has to follow the stored blocks before these are compared.
    #[tokio::test]
    async fn a_reader_that_holds_for_stored_blocks_goes_on_to_the_page_after_them() {
        let mut reader = reader();
        reader.context.status.lock().read = Some(109);
        hold(&mut reader);
        reader.context.status.lock().stored = Some(block(50));
        reader.start_recheck(HEAD);
        assert!(
            reader.held.is_some() && reader.recheck.is_empty(),
            "the others are about to be stored"
        );
        reader.context.status.lock().stored = Some(block(99));
        reader.search_gap(gap_after(109));
        assert_eq!(reader.context.status.lock().read, Some(99), "that page is to be read again");
        reader.start_recheck(HEAD);
        assert!(reader.held.is_none());
    }
}
