//! Reads one contract: pages are fetched while the ones before them are being stored.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::rpc::types::Filter;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::event::{Event, Mark, Said, Subject};
use super::fetch;
use super::head::Pulse;
use super::sink::{Sink, SinkError};
use super::status::{Doing, Shared};
use super::walk::{Ask, Batch, Verdict, Walk, WalkSettings};
use crate::endpoints::Endpoints;
use crate::send::RpcFault;

/// Pages that are fetched ahead of what is being stored.
const AHEAD: usize = 2;
/// How soon a question is asked again whose answer was of no use.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// So many useless answers one after another are the endpoint's fault.
const USELESS_MAX: u32 = 8;
/// So many tries at a page without an answer, while the chain answers else, and the page is too
/// much to ask.
const UNANSWERED_MAX: u32 = 2;
/// A position without events is not worth a write more often than this.
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// As long as no contract is said to have spoken, new blocks are read this often.
const QUIET: Duration = Duration::from_secs(1);

/// A page on its way to the sink.
struct Parcel {
    batch: Batch,
    /// Which reading of the chain it belongs to.
    reading: u64,
}

/// What both halves of a strand know.
#[derive(Clone)]
struct Common {
    name: &'static str,
    status: Shared,
    /// Goes up whenever reading begins again somewhere: what was read before is not stored.
    reading: Arc<AtomicU64>,
    /// Storing is being tried again.
    held_up: Arc<AtomicBool>,
    stop: watch::Receiver<()>,
}

/// Reads until it is stopped, or the sink says that somebody has to decide.
pub(super) async fn run(
    endpoints: Endpoints,
    pulse: watch::Receiver<Pulse>,
    settings: WalkSettings,
    sink: Arc<dyn Sink>,
    status: Shared,
    stop: watch::Receiver<()>,
) {
    let name = settings.subject.label();
    let common = Common { name, status, reading: Arc::default(), held_up: Arc::default(), stop };
    let start = common.told(&sink, |sink| Ok((sink.position()?, sink.last_place()?)));
    let Some((position, last_sequence)) = start.await else { return };
    common.status.lock().stored = position;
    let (parcels, to_store) = mpsc::channel(AHEAD);
    let (gaps, gap_found) = mpsc::channel(1);
    let (subject, contract, first_block) =
        (settings.subject, settings.address, settings.first_block);
    let filter = settings.subject.filter(settings.address);
    let walk = Walk::new(settings, position);
    tracing::info!(strand = name, from_block = walk.unread(), "reading the chain");
    let reader = Reader {
        common: common.clone(),
        endpoints,
        pulse,
        filter,
        walk,
        parcels,
        gap_found,
        first_block,
        subject,
        contract,
        last_sequence,
        rewound: 0,
        gap_after: None,
        useless: 0,
        unanswered: 0,
        last_page: None,
    };
    let writer = Writer { common: common.clone(), sink, gaps, stored_at: None };
    let mut stop = common.stop.clone();
    let reader = tokio::spawn(async move {
        tokio::select! {
            () = reader.run() => {}
            _ = stop.changed() => {}
        }
    });
    writer.run(to_store).await;
    reader.abort();
}

impl Common {
    /// What the sink says; `None` when this is to stop before that is known.
    async fn told<T: Send + 'static>(
        &self,
        sink: &Arc<dyn Sink>,
        ask: fn(&dyn Sink) -> Result<T, SinkError>,
    ) -> Option<T> {
        let mut stop = self.stop.clone();
        loop {
            match blocking(sink, ask).await {
                Ok(told) => return Some(told),
                Err(error) => self.stuck(&error.to_string()),
            }
            tokio::select! {
                () = sleep(AGAIN_MAX) => {}
                _ = stop.changed() => return None,
            }
        }
    }

    /// Says once what is in the way.
    fn stuck(&self, reason: &str) {
        let before = self.status.lock().doing.clone();
        if before != Doing::Stuck(reason.to_owned()) {
            tracing::warn!(strand = self.name, "reading the chain is held up: {reason}");
        }
        self.status.doing(Doing::Stuck(reason.to_owned()));
    }
}

/// Work that blocks for the disk. A panic in it goes on here.
async fn blocking<T: Send + 'static>(
    sink: &Arc<dyn Sink>,
    work: impl FnOnce(&dyn Sink) -> T + Send + 'static,
) -> T {
    let sink = sink.clone();
    match tokio::task::spawn_blocking(move || work(sink.as_ref())).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The half that asks.
struct Reader {
    common: Common,
    endpoints: Endpoints,
    pulse: watch::Receiver<Pulse>,
    filter: Filter,
    walk: Walk,
    parcels: mpsc::Sender<Parcel>,
    gap_found: mpsc::Receiver<Option<u64>>,
    first_block: u64,
    subject: Subject,
    contract: Address,
    /// The highest place that was seen.
    last_sequence: u64,
    /// How often reading has begun again because of the same gap.
    rewound: u32,
    /// After which block that was.
    gap_after: Option<u64>,
    useless: u32,
    /// Tries at the page that got no answer at all.
    unanswered: u32,
    last_page: Option<Instant>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            while let Ok(block) = self.gap_found.try_recv() {
                self.rewind(block);
            }
            let pulse = self.pulse.borrow_and_update().clone();
            let Some(head) = pulse.head else {
                self.hold_up(pulse.fault.as_deref()).await;
                continue;
            };
            self.common.status.lock().head = Some(head.number);
            match self.walk.next(head) {
                Ask::Wait => self.wait(&pulse).await,
                Ask::Page { blocks, headers } => {
                    if self.is_quiet(&pulse, &blocks) {
                        self.wait(&pulse).await;
                        continue;
                    }
                    if !self.page(head, &blocks, headers).await {
                        return;
                    }
                }
                Ask::Headers(numbers) => self.compare(numbers).await,
            }
        }
    }

    /// Whether the few new blocks can wait, since nobody says that there is something in them.
    fn is_quiet(&self, pulse: &Pulse, blocks: &RangeInclusive<u64>) -> bool {
        let few = blocks.end() - blocks.start() < 16;
        let lately = self.last_page.is_some_and(|at| at.elapsed() < QUIET);
        pulse.pushed && few && lately && pulse.rung < *blocks.start()
    }

    async fn hold_up(&mut self, fault: Option<&str>) {
        if let Some(fault) = fault {
            self.common.stuck(fault);
        }
        self.changed(AGAIN_MAX).await;
    }

    async fn wait(&mut self, pulse: &Pulse) {
        match &pulse.fault {
            Some(fault) => self.common.stuck(fault),
            None if self.common.held_up.load(Ordering::Acquire) => {}
            None => self.common.status.doing(Doing::AtHead),
        }
        self.changed(QUIET).await;
    }

    /// Until something is new, or for so long.
    async fn changed(&mut self, longest: Duration) {
        tokio::select! {
            changed = self.pulse.changed() => if changed.is_err() {
                sleep(longest).await; // the head is not followed any more: this ends soon
            },
            Some(block) = self.gap_found.recv() => self.rewind(block),
            () = sleep(longest) => {}
        }
    }

    /// False when nobody takes what is read.
    async fn page(&mut self, head: Mark, blocks: &RangeInclusive<u64>, headers: Vec<u64>) -> bool {
        if blocks.end() < &head.number {
            self.common.status.doing(Doing::CatchingUp);
        }
        self.last_page = Some(Instant::now());
        let asked = Instant::now();
        let (filter, wanted) = (&self.filter, &headers);
        let answer = self
            .endpoints
            .ask(|chain| async move { fetch::page(&chain, filter, blocks, wanted).await });
        let answer = answer.await;
        self.note_page(answer.is_ok(), asked.elapsed());
        match answer {
            Ok(answer) => {
                self.unanswered = 0;
                match self.walk.answered(blocks, answer) {
                    Verdict::Take(batch) => return self.hand_over(batch).await,
                    Verdict::Again(reason) => self.useless(reason).await,
                    Verdict::Moved => {}
                }
            }
            Err(fault) => self.not_answered(&fault).await,
        }
        true
    }

    /// Asks for less where that may help.
    async fn not_answered(&mut self, fault: &RpcFault) {
        let refusal = fetch::is_refusal(fault);
        if self.is_too_much(refusal) {
            let page_blocks = self.walk.page_blocks();
            tracing::debug!(strand = self.common.name, page_blocks, "{fault}");
            return;
        }
        self.common.stuck(&fault.to_string());
        self.pause().await;
        if refusal.is_some() {
            self.endpoints.distrust("it refuses the smallest question for events");
        }
    }

    /// Whether a smaller page may be answered; the next one is smaller then. Some providers do not
    /// refuse what is too much for them, but end the connection or take too long.
    fn is_too_much(&mut self, refusal: Option<&str>) -> bool {
        if let Some(message) = refusal {
            self.unanswered = 0;
            return self.walk.refused(message);
        }
        self.unanswered += 1;
        if self.unanswered < UNANSWERED_MAX || self.pulse.borrow().fault.is_some() {
            return false;
        }
        self.unanswered = 0;
        self.walk.refused("")
    }

    fn note_page(&self, answered: bool, took: Duration) {
        let mut status = self.common.status.lock();
        let counts = &mut status.counts;
        counts.asking += took;
        if answered {
            counts.pages += 1;
        } else {
            counts.failed_pages += 1;
        }
        status.page_blocks = self.walk.page_blocks();
        status.counts.oddities = self.walk.oddities();
    }

    async fn hand_over(&mut self, mut batch: Batch) -> bool {
        if !self.mark_bootstrapped(&mut batch).await {
            // The chain may be another one by now: nothing is held on to.
            self.walk.rewind(batch.from_block);
            return true;
        }
        self.useless = 0;
        self.common.status.lock().read = Some(batch.position.number);
        let reading = self.common.reading.load(Ordering::Acquire);
        self.parcels.send(Parcel { batch, reading }).await.is_ok()
    }

    /// Finds out of payloads that are not in the next place whether that was meant. False if that
    /// could not be found out, after a pause.
    async fn mark_bootstrapped(&mut self, batch: &mut Batch) -> bool {
        let Some(selector) = self.subject.bootstrap_selector() else { return true };
        let mut last = self.last_sequence;
        let mut doubtful = BTreeSet::new();
        for event in &batch.events {
            let Said::Payload { sequence_id, .. } = event.said else { continue };
            if last.checked_add(1) != Some(sequence_id) {
                doubtful.insert(event.transaction);
            }
            last = last.max(sequence_id);
        }
        if !doubtful.is_empty() {
            let (hashes, contract) = (&doubtful, self.contract);
            let calling = self.endpoints.ask(|chain| async move {
                fetch::calling(&chain, hashes, contract, selector).await
            });
            let calling = match calling.await {
                Ok(Some(calling)) => calling,
                Ok(None) => {
                    self.useless("a transaction that has emitted an event is not known").await;
                    return false;
                }
                Err(fault) => {
                    self.common.stuck(&fault.to_string());
                    self.pause().await;
                    return false;
                }
            };
            for event in &mut batch.events {
                if let Said::Payload { bootstrapped, .. } = &mut event.said {
                    *bootstrapped = calling.contains(&event.transaction);
                }
            }
        }
        self.last_sequence = last;
        true
    }

    /// Another endpoint is chosen last: it is asked next, before the first one gets its turn again.
    async fn useless(&mut self, reason: &str) {
        let is_its_fault = self.useless >= USELESS_MAX;
        if is_its_fault {
            self.common.stuck(reason);
        }
        self.pause().await;
        if is_its_fault {
            self.endpoints.distrust(reason);
        }
    }

    /// Longer each time it was for nothing.
    async fn pause(&mut self) {
        let pause = AGAIN_MIN.saturating_mul(1 << self.useless.min(10)).min(AGAIN_MAX);
        self.useless = self.useless.saturating_add(1);
        sleep(pause).await;
    }

    async fn compare(&mut self, numbers: Vec<u64>) {
        let numbers = &numbers;
        let headers =
            self.endpoints.ask(|chain| async move { fetch::headers(&chain, numbers, None).await });
        let headers = match headers.await {
            Ok(headers) => headers,
            Err(fault) => {
                self.common.stuck(&fault.to_string());
                return self.pause().await;
            }
        };
        match self.walk.compared(&headers) {
            Some(depth) => {
                let from_block = self.walk.unread();
                tracing::warn!(
                    code = "chain_reorganised",
                    strand = self.common.name,
                    depth,
                    from_block,
                    "the chain was reorganised: reading again"
                );
                self.common.status.reorganised(depth);
                self.begin_again();
            }
            None => self.pause().await,
        }
    }

    /// What was read and is not stored belongs to another chain, or is not whole: it is read again.
    fn begin_again(&mut self) {
        self.last_sequence = 0;
        self.common.reading.fetch_add(1, Ordering::AcqRel);
        let mut status = self.common.status.lock();
        let stored = status.stored.map_or(self.first_block, |mark| mark.number + 1);
        self.walk.rewind(stored);
        status.read = self.walk.unread().checked_sub(1);
    }

    /// Events were missing after `block`: looks there again, and further back each time.
    fn rewind(&mut self, block: Option<u64>) {
        let last = self.walk.unread();
        if block > self.gap_after {
            (self.gap_after, self.rewound) = (block, 0);
        }
        let back = self.walk.page_blocks().saturating_mul(1 << self.rewound.min(40)) - 1;
        let block = block.unwrap_or(last).saturating_sub(back).max(self.first_block);
        self.rewound += 1;
        self.walk.rewind(block);
        self.begin_again();
        self.endpoints.distrust("events are missing in what it answers");
    }
}

/// The half that stores.
struct Writer {
    common: Common,
    sink: Arc<dyn Sink>,
    /// Tells the other half after which block something is missing.
    gaps: mpsc::Sender<Option<u64>>,
    stored_at: Option<Instant>,
}

impl Writer {
    async fn run(mut self, mut parcels: mpsc::Receiver<Parcel>) {
        let mut stop = self.common.stop.clone();
        loop {
            let parcel = tokio::select! {
                parcel = parcels.recv() => parcel,
                _ = stop.changed() => None,
            };
            let Some(parcel) = parcel else { return };
            let is_late = parcel.reading != self.common.reading.load(Ordering::Acquire);
            if is_late || self.is_not_worth_it(&parcel.batch) {
                continue;
            }
            if !self.store(Arc::new(parcel.batch), &mut stop).await {
                return;
            }
        }
    }

    fn is_not_worth_it(&self, batch: &Batch) -> bool {
        let lately = self.stored_at.is_some_and(|at| at.elapsed() < POSITION_EVERY);
        let stored = self.common.status.lock().stored.map_or(0, |mark| mark.number);
        batch.events.is_empty() && batch.from_block > stored && lately
    }

    /// False when nothing more is stored.
    async fn store(&mut self, batch: Arc<Batch>, stop: &mut watch::Receiver<()>) -> bool {
        let mut pause = AGAIN_MIN;
        loop {
            let (taken, began) = (batch.clone(), Instant::now());
            let done = blocking(&self.sink, move |sink| sink.take(&taken)).await;
            match done {
                Ok(()) => {
                    self.common.held_up.store(false, Ordering::Release);
                    self.note(&batch, began.elapsed());
                    return true;
                }
                Err(SinkError::Stop(reason)) => {
                    tracing::error!(
                        code = "chain_strand_halted",
                        strand = self.common.name,
                        block = batch.position.number,
                        "the chain is not read any further: {reason}"
                    );
                    self.common.status.doing(Doing::Halted(reason));
                    return false;
                }
                Err(SinkError::Gap(reason)) => {
                    self.common.stuck(&reason);
                    self.common.status.lock().counts.gaps += 1;
                    self.common.reading.fetch_add(1, Ordering::AcqRel);
                    let after = self.common.status.lock().stored.map(|mark| mark.number);
                    let _ = self.gaps.send(after).await;
                    return true;
                }
                Err(SinkError::Retry(reason)) => {
                    self.common.held_up.store(true, Ordering::Release);
                    self.common.stuck(&reason);
                }
            }
            self.common.status.lock().counts.retries += 1;
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(AGAIN_MAX),
                _ = stop.changed() => return false,
            }
        }
    }

    fn note(&mut self, batch: &Batch, took: Duration) {
        self.stored_at = Some(Instant::now());
        let mut status = self.common.status.lock();
        status.stored = Some(batch.position);
        let counts = &mut status.counts;
        counts.storing += took;
        counts.events += batch.events.len() as u64;
        counts.bytes += batch.events.iter().map(payload_bytes).sum::<u64>();
    }
}

fn payload_bytes(event: &Event) -> u64 {
    match &event.said {
        Said::Payload { payload, .. } => payload.len() as u64,
        Said::Booked { .. } => 0,
    }
}

/// For logs.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}
