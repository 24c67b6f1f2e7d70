//! The second look at blocks that were read, beside the requests for new ones.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tokio::time::sleep;

use super::PageReader;
use crate::index::context::RETRY_MAX;
use crate::index::event::BlockRef;
use crate::index::look::{Due, MISSED_BLOCKS_MAX};
use crate::index::looking::{LookAnswer, LookOutcome, look};

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
        let Some(due) = due.filter(|due| self.can_compare(due)) else { return };
        // A previous finding needs time to be resolved, and a silent endpoint needs time to come back. Endpoints that
        // refuse because of too many requests must not be asked again at once.
        let waits = self.silences.is_waiting() && !self.walk.look().is_far_behind();
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

    /// Returns true if the events that were read of these blocks are remembered, or are stored and can be looked up.
    ///
    /// After a start a page has to follow the stored blocks first: they may have been replaced, which is found by the
    /// last one of them.
    fn can_compare(&self, due: &Due) -> bool {
        let (last, status) = (Some(*due.blocks.end()), self.context.status.lock());
        let is_stored = status.stored.map(|block| block.number) >= last && status.read > last;
        due.known.is_some() || is_stored
    }

    /// Tells the storing half the first block without a second look. This precedes each page, so that a page which is
    /// read again is not stored while its blocks count as looked at.
    pub(super) fn tell_unlooked(&mut self) {
        let unread = self.walk.unread();
        let unlooked = self.walk.look().unlooked(unread);
        let recent = unlooked.saturating_sub(MISSED_BLOCKS_MAX);
        let missed = self.silences.first_missed().map_or(unlooked, |first| first.max(recent));
        self.context.unlooked.store(unlooked.min(missed), Ordering::Release);
    }

    /// Handles the end of a second look.
    pub(super) fn looked(&mut self, done: Result<LookAnswer, JoinError>) {
        let LookAnswer { blocks, outcome } = done.expect("a panic ends the process");
        let (outcome, silent) = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.walk.look().failed(&blocks);
                let strand = self.context.name;
                tracing::debug!(strand, "blocks cannot be read a second time now: {error}");
                return;
            }
        };
        self.silences.note(silent.clone(), Instant::now());
        match outcome {
            LookOutcome::Nothing => {
                self.held = None;
                // The endpoint that alone has more events may have failed for a moment.
                if !self.silences.is_waiting() || self.walk.look().is_far_behind() {
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
            LookOutcome::More { block, lacking } => {
                self.held = None;
                self.logs_came_late(block, &lacking);
            }
            LookOutcome::Contradicted { block, claimants } => {
                self.hold(block, claimants, "and others have another branch of the chain there");
            }
        }
    }

    /// Has blocks looked at once more whose look has ended without an endpoint that answers now: it may be the only one
    /// that has an event. `silent` are the endpoints that do not answer.
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

    /// Reads blocks again, because an endpoint has confirmed events that others lacked.
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
        // The endpoints that have the events may answer for fewer blocks only: the same endpoint that lacks them would
        // then give each page again, without end.
        for _ in 1..self.walk.look().looks() {
            self.walk.refused("");
        }
        self.is_moving = true;
        self.walk.rewind(block);
        self.begin_pass();
    }
}
