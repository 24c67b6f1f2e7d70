//! The requesting half of a contract's reader.

mod anew;
mod fork_votes;
mod forks;
mod handing_over;
mod lagging;
mod rechecking;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alloy::rpc::types::Filter;
use fork_votes::ForkVotes;
use hawser_proto::SequenceId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::bootstrap;
use super::confirming::{Asked, Confirmation, Confirmer, Contradiction};
use super::context::{FoundGap, NumberedBatch, RETRY_MAX, RETRY_MIN, ReaderContext};
use super::disputes::Disputes;
use super::empty_pages::EmptyPages;
use super::event::BlockRef;
use super::fetch;
use super::gap_search::GapSearch;
use super::head::HeadStatus;
use super::lag::{BEHIND_BLOCKS_MAX, EndpointLag};
use super::recheck_requests::{RecheckAnswer, RecheckSilences};
use super::status::ReaderState;
use super::turns::ReadingTurns;
use super::walk::{EventBatch, NEAR, PageOutcome, Walk, WalkAction, WalkSettings};
use crate::backoff::Pauses;
use crate::endpoints::{Endpoints, is_rate_limit};
use crate::send::{Chain, RequestError};

/// The number of consecutive useless responses after which the endpoint is distrusted. Guess.
const USELESS_MAX: u32 = 8;
/// The number of unanswered requests for one page after which the page is considered too large, as long as other
/// requests are answered. Guess: a single lost connection is common.
const UNANSWERED_MAX: u32 = 2;
/// The interval at which new blocks are read while no log is announced, and the number of blocks
/// that can wait for it. Guesses.
const QUIET: Duration = Duration::from_secs(1);
/// The time for which an endpoint's own head replaces an announced one that it does not serve yet. Guess: short
/// compared with the block interval, long compared with a request.
const SERVED_FOR: Duration = Duration::from_millis(250);
const FEW_BLOCKS: u64 = 16;
/// The reason for which nothing is read while too many blocks wait for a recheck that no endpoint answers.
const RECHECKS_FAIL: &str = "no endpoint answers for the logs of older blocks, of which too many wait to be compared a second time";

/// Requests pages in the order that [`Walk`] decides, and passes verified batches to the storing half.
pub(super) struct PageReader {
    context: ReaderContext,
    endpoints: Endpoints,
    head: watch::Receiver<HeadStatus>,
    settings: WalkSettings,
    filter: Filter,
    walk: Walk,
    batches: mpsc::Sender<NumberedBatch>,
    /// The pass of the blocks that are read. It is behind the context's from the time at which the storing half finds
    /// a gap until this half turns back: what is read meanwhile must not be stored.
    pass: u64,
    /// The highest sequence id of this pass.
    last_sequence_id: SequenceId,
    gap: GapSearch,
    /// Pauses after useless responses.
    pauses: Pauses,
    /// The number of requests for the current page that no endpoint answered.
    unanswered: u32,
    last_page: Option<Instant>,
    /// The endpoint that gave the last page, by scheme, host and port. Other requests, also of other readers, go to
    /// other endpoints meanwhile: an endpoint that fails at them on purpose must not have these left for its pages.
    giver: Option<String>,
    /// The endpoint's own head while it does not serve the announced one, and the time of that answer.
    served: Option<(BlockRef, Instant)>,
    /// The time since when pages have ended at the endpoint's own head below the announced one.
    ahead_since: Option<Instant>,
    /// The lag of the endpoint in use behind the announced head.
    lag: EndpointLag,
    turns: ReadingTurns,
    fork_votes: ForkVotes,
    /// The running recheck.
    recheck: JoinSet<RecheckAnswer>,
    silences: RecheckSilences,
    confirmer: Confirmer,
    disputes: Disputes,
    empty: EmptyPages<Chain>,
    /// The host and port of the endpoint whose newest blocks others contradicted last.
    contradicted: Option<String>,
    /// The indices of endpoints that have events on another branch than others, and the message about them.
    /// Nothing is read while this is set.
    held: Option<(BTreeSet<usize>, String)>,
    /// The endpoints whose events turned out to be wrong, by scheme, host and port, from that time until the next page.
    /// Meanwhile a reorganisation of any depth is accepted from each other endpoint, and not from these.
    leaving: Option<BTreeSet<String>>,
}

impl PageReader {
    pub(super) fn new(
        context: ReaderContext,
        endpoints: Endpoints,
        head: watch::Receiver<HeadStatus>,
        settings: WalkSettings,
        walk: Walk,
        last_sequence_id: SequenceId,
        batches: mpsc::Sender<NumberedBatch>,
    ) -> Self {
        let stored = context.status.lock().stored.map(|block| block.number);
        Self {
            pass: context.pass(),
            context,
            endpoints,
            head,
            filter: settings.source.filter(settings.address),
            settings,
            walk,
            batches,
            last_sequence_id,
            gap: GapSearch::default(),
            pauses: Pauses::new(RETRY_MIN, RETRY_MAX),
            unanswered: 0,
            last_page: None,
            giver: None,
            served: None,
            ahead_since: None,
            lag: EndpointLag::default(),
            turns: ReadingTurns::default(),
            fork_votes: ForkVotes::default(),
            recheck: JoinSet::new(),
            silences: RecheckSilences::default(),
            confirmer: Confirmer::default(),
            disputes: Disputes::default(),
            empty: EmptyPages::new(stored),
            contradicted: None,
            held: None,
            leaving: None,
        }
    }

    /// Reads until the storing half has ended.
    pub(super) async fn run(mut self, mut gap_found: mpsc::Receiver<FoundGap>) {
        loop {
            while let Ok(gap) = gap_found.try_recv() {
                self.search_gap(gap);
            }
            if let Some(pause) = self.gap.take_pause() {
                sleep(pause).await;
            }
            let status = self.head.borrow_and_update().clone();
            let Some(announced) = status.head else {
                if let Some(error) = &status.error {
                    self.context.stuck(error);
                }
                self.changed(RETRY_MAX, &mut gap_found).await;
                continue;
            };
            self.context.status.lock().head = Some(announced.number);
            let head = self.served_head(announced);
            let read = self.walk.unread().saturating_sub(1);
            if read > announced.number.saturating_add(BEHIND_BLOCKS_MAX)
                && let Some(stating) = self.endpoints.active_url()
            {
                self.note_lag(&stating, announced.number, read).await;
            }
            self.start_recheck(head);
            self.share_recheck_from();
            if let Some((_, reason)) = &self.held {
                self.context.stuck(reason);
                self.changed(QUIET, &mut gap_found).await;
                continue;
            }
            if !self.hand_over_empty().await {
                return;
            }
            let unread = self.walk.unread();
            if self.walk.rechecks().is_far_behind(unread) {
                if self.walk.rechecks().has_failed() {
                    self.context.stuck(RECHECKS_FAIL);
                }
                self.changed(SERVED_FOR, &mut gap_found).await;
                continue;
            }
            match self.walk.next(head) {
                WalkAction::Wait => self.wait(&status, &mut gap_found).await,
                WalkAction::Page { blocks, headers } => {
                    if self.is_quiet(&status, &blocks) {
                        self.wait(&status, &mut gap_found).await;
                        continue;
                    }
                    if !self.page(head, &blocks, headers).await {
                        return;
                    }
                }
                WalkAction::Headers(numbers) => self.compare(numbers).await,
            }
        }
    }

    /// Returns true if the few new blocks can wait, because the WebSocket has announced no log in them.
    fn is_quiet(&self, status: &HeadStatus, blocks: &RangeInclusive<u64>) -> bool {
        let are_few = blocks.end() - blocks.start() < FEW_BLOCKS;
        let is_recent = self.last_page.is_some_and(|at| at.elapsed() < QUIET);
        are_few && is_recent && status.announces_no_log_from(*blocks.start())
    }

    async fn wait(&mut self, status: &HeadStatus, gap_found: &mut mpsc::Receiver<FoundGap>) {
        match &status.error {
            Some(error) => self.context.stuck(error),
            None if self.context.is_storing_stuck.load(Ordering::Acquire) => {}
            None if self.context.is_refused.load(Ordering::Acquire) => {}
            None => match self.reason_above(status) {
                Some(reason) => self.context.stuck(&reason),
                None => self.context.status.set_state(ReaderState::AtHead),
            },
        }
        let longest = if self.served.is_some() { SERVED_FOR } else { QUIET };
        self.changed(longest, gap_found).await;
    }

    /// Returns the reason for which nothing can be read while the head is far below the first unread block. That is no
    /// state at the head: the events below are those of another chain, or of another time. Endpoints behind one URL may
    /// differ by some blocks. The text does not name the head, which moves.
    fn reason_above(&self, status: &HeadStatus) -> Option<String> {
        let (head, unread) = (status.head?.number, self.walk.unread());
        let read = unread.checked_sub(1).filter(|read| *read > head.saturating_add(NEAR))?;
        Some(match unread == self.settings.first_block {
            true => format!(
                "the newest block of the chain is far below block {unread}, from which on its events are read: the \
                 endpoints are behind, or the setting of the first block is wrong"
            ),
            false => format!(
                "the newest block of the chain is far below block {read}, which was read before: the endpoints are \
                 behind, or the chain was started anew"
            ),
        })
    }

    /// Waits until the head changes, a gap is found, a recheck ends, or the time has passed.
    async fn changed(&mut self, longest: Duration, gap_found: &mut mpsc::Receiver<FoundGap>) {
        tokio::select! {
            changed = self.head.changed() => if changed.is_err() {
                sleep(longest).await; // the head watcher has ended, and this reader is about to
            },
            Some(gap) = gap_found.recv() => self.search_gap(gap),
            Some(done) = self.recheck.join_next() => self.handle_recheck(done),
            () = sleep(longest) => {}
        }
    }

    /// Requests a page. Returns false when the storing half has ended.
    async fn page(
        &mut self,
        head: BlockRef,
        blocks: &RangeInclusive<u64>,
        headers: Vec<u64>,
    ) -> bool {
        let is_refused = self.context.is_refused.load(Ordering::Acquire);
        if blocks.end() < &head.number && !is_refused {
            self.context.status.set_state(ReaderState::CatchingUp);
        }
        self.last_page = Some(Instant::now());
        let began = Instant::now();
        let (filter, wanted) = (&self.filter, &headers);
        let order = self.endpoints.order_preferring(|endpoint| self.gap.prefers(endpoint));
        let response = self.endpoints.ask_in(order, |chain| async move {
            let page = fetch::page(&chain, filter, blocks, wanted).await?;
            Ok::<_, RequestError>((page, chain))
        });
        let response = response.await;
        self.note_page(response.is_ok(), began.elapsed());
        match response {
            Ok((response, giver)) => {
                self.unanswered = 0;
                self.giver = Some(giver.endpoint().to_owned());
                match self.walk.answered(blocks, response) {
                    PageOutcome::Accepted(batch) => return self.hand_over(batch, &giver).await,
                    PageOutcome::Retry(reason) => self.useless(reason, &giver).await,
                    PageOutcome::Missing => self.missing(head, &giver).await,
                    PageOutcome::Reorganised => {}
                }
            }
            Err(error) => self.not_answered(&error).await,
        }
        true
    }

    /// Reduces the page size if a smaller page may be answered, and pauses otherwise.
    async fn not_answered(&mut self, error: &RequestError) {
        let refusal = fetch::refusal_message(error);
        if !is_rate_limit(error) && self.reduce_page(refusal) {
            let page_blocks = self.walk.page_blocks();
            tracing::debug!(strand = self.context.name, page_blocks, "{error}");
            return;
        }
        self.context.stuck(&error.to_string());
        sleep(self.pauses.next()).await;
        if let RequestError::Refused { endpoint, .. } = error
            && refusal.is_some()
        {
            self.endpoints.distrust_named(endpoint, "it refuses the smallest request for logs");
        }
    }

    /// Reduces the page size after a refusal or after repeated silence. Returns false if it stays unchanged.
    ///
    /// Some providers do not refuse a page that is too large: they close the connection or take too long.
    fn reduce_page(&mut self, refusal: Option<&str>) -> bool {
        if let Some(message) = refusal {
            self.unanswered = 0;
            return self.walk.refused(message);
        }
        self.unanswered += 1;
        if self.unanswered < UNANSWERED_MAX || self.head.borrow().error.is_some() {
            return false;
        }
        self.unanswered = 0;
        self.walk.refused("")
    }

    fn note_page(&self, answered: bool, took: Duration) {
        let mut status = self.context.status.lock();
        status.times.queries_ms.observe(took.as_secs_f64() * 1e3);
        let counts = &mut status.counts;
        counts.asking += took;
        if answered {
            counts.pages += 1;
        } else {
            counts.failed_pages += 1;
        }
        status.page_blocks = self.walk.page_blocks();
        status.counts.anomalies = self.walk.anomalies();
    }

    /// Passes a batch, which the endpoint `giver` gave, to the storing half. Returns false when that half has ended.
    async fn hand_over(&mut self, mut batch: EventBatch, giver: &Chain) -> bool {
        let stored = self.context.status.lock().stored.map(|block| block.number);
        self.gap.note_page(giver.endpoint(), stored);
        let confirmed = self.confirm(&batch, giver).await;
        // The ids of events that are not stored must not count as the last ones.
        let is_marked = confirmed.is_some() && self.mark_bootstrapped(&mut batch, giver).await;
        let (Some(is_confirmed), true) = (confirmed, is_marked) else {
            // The chain may be reorganised during the pause, so the page is requested again.
            self.walk.rewind(batch.from_block);
            return true;
        };
        self.pauses.reset();
        self.leaving = None;
        batch.is_at_head = batch.is_at_head && self.note_read_head(Instant::now());
        if self.served.is_none() {
            self.lag.note_going_on();
        }
        self.context.status.lock().read = Some(batch.position.number);
        self.pass_on(batch, giver, is_confirmed).await
    }

    /// Asks other endpoints about the events of a batch. Returns true if they confirm them, and false if none of them
    /// knows; `None`, after a pause, if the batch must not be stored.
    async fn confirm(&mut self, batch: &EventBatch, giver: &Chain) -> Option<bool> {
        let (endpoints, settings) = (&self.endpoints, &self.settings);
        let asked = Asked { endpoints, settings, filter: &self.filter, giver, batch };
        match self.confirmer.confirm(&asked).await {
            Confirmation::Confirmed => Some(true),
            Confirmation::Unanswered => Some(false),
            Confirmation::Refuted(_) => {
                // Blocks without events that the endpoint gave before may belong to its branch.
                self.leaving = Some(BTreeSet::from([giver.endpoint().to_owned()]));
                sleep(self.pauses.next()).await;
                None
            }
            Confirmation::Contradicted(contradiction) => {
                self.contradicted(contradiction, giver).await;
                None
            }
        }
    }

    /// Leaves the endpoint `giver`, because others contradict its newest blocks, and pauses.
    async fn contradicted(&mut self, contradiction: Contradiction, giver: &Chain) {
        self.note_contradiction(contradiction);
        if let Contradiction::Ahead(_) = contradiction {
            // Blocks without events that the endpoint gave before may be invented too, and the chain that
            // others show would be read only once it reaches them.
            self.begin_pass();
            self.contradicted = Some(giver.endpoint().to_owned());
        }
        self.context.stuck(&contradiction.to_string());
        // Of three, two may agree.
        self.endpoints.distrust_asked(giver, "other endpoints contradict its newest blocks");
        sleep(self.pauses.next()).await;
    }

    /// Tells the operator of a contradiction that may need a change of the settings. An endpoint that is behind needs
    /// none, and neither do endpoints that soon agree.
    fn note_contradiction(&mut self, contradiction: Contradiction) {
        if let Contradiction::Events(block) = contradiction
            && self.disputes.note(block, Instant::now())
        {
            let strand = self.context.name;
            tracing::error!(code = "chain_endpoints_contradict", strand, "{contradiction}");
        }
    }

    /// Marks payloads whose sequence id the contract's operator chose. Returns false, after a pause, if the
    /// transactions could not be read.
    ///
    /// A sequence id that does not follow the previous one means either that the provider omitted
    /// events or that a bootstrap call skipped ids on purpose. Every endpoint is asked which, because
    /// ids skipped on purpose are void for good. If they contradict each other, events are searched for first.
    async fn mark_bootstrapped(&mut self, batch: &mut EventBatch, giver: &Chain) -> bool {
        let Some(selector) = self.settings.source.bootstrap_selector() else { return true };
        let (doubtful, last) = bootstrap::doubtful(&batch.events, self.last_sequence_id);
        if !doubtful.is_empty() {
            let found =
                bootstrap::find_all(&self.endpoints, &doubtful, self.settings.address, selector);
            let findings = match found.await {
                Ok(findings) if findings.is_empty() => {
                    self.useless("the transaction of an event is not known", giver).await;
                    return false;
                }
                Ok(findings) => findings,
                Err(error) => {
                    self.context.stuck(&error.to_string());
                    sleep(self.pauses.next()).await;
                    return false;
                }
            };
            let stored = self.context.status.lock().stored.map(|block| block.number);
            if doubtful.values().any(|block| Some(*block) > stored) {
                self.gap.came_through(stored);
            }
            let has_searched = self.gap.has_asked(self.endpoints.display_urls(), stored);
            if let Err(block) =
                bootstrap::mark(&mut batch.events, &doubtful, &findings, has_searched)
            {
                self.context.stuck(&format!(
                    "no endpoint tells if the contract was paused in block {block}, so if events are \
                     missing before one of that block: an endpoint with the state of old blocks is needed"
                ));
                sleep(self.pauses.next()).await;
                return false;
            }
        }
        self.last_sequence_id = last;
        true
    }

    /// Pauses after a useless response of the endpoint `giver`, and switches to another endpoint after several.
    async fn useless(&mut self, reason: &str, giver: &Chain) {
        let is_endpoints_fault = self.pauses.taken() >= USELESS_MAX;
        if is_endpoints_fault {
            self.context.stuck(reason);
        }
        sleep(self.pauses.next()).await;
        // This follows the pause, so that the next request goes to another endpoint even if
        // this endpoint's pause is short.
        if is_endpoints_fault && self.endpoints.has_other_than(giver) {
            self.endpoints.distrust_asked(giver, reason);
            self.pauses.reset(); // the next endpoint has as many attempts
        }
    }

    /// Starts a new pass after the last stored block. Batches that are read and not stored yet belong to another branch
    /// or follow a gap, so the storing half drops them and their blocks are read again.
    fn begin_pass(&mut self) {
        self.last_sequence_id = SequenceId::NONE; // so the next batch looks up its first transaction
        self.pass = self.context.begin_pass();
        let mut status = self.context.status.lock();
        let stored = status.stored.map_or(self.settings.first_block, |block| block.number + 1);
        self.walk.rewind(stored);
        status.read = self.walk.unread().checked_sub(1);
    }

    /// Reads again because events are missing: first from the last stored block on, then from twice as far back with
    /// each further search for the same gap. The missing events may precede the stored position, if the provider
    /// omitted them earlier and the sink could not notice.
    fn search_gap(&mut self, FoundGap { after: block, giver }: FoundGap) {
        let last = self.walk.unread();
        let searches = self.gap.begin(block);
        let back = self.walk.page_blocks().saturating_mul(1 << searches.min(40)) - 1;
        let from = block.unwrap_or(last).saturating_sub(back).max(self.settings.first_block);
        self.walk.rewind(from);
        self.begin_pass();
        self.endpoints.distrust_named(&giver, "events are missing in its responses");
    }
}
