//! The storing half of a contract's reader.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::rpc::types::Filter;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::confirming::events_of;
use super::context::{FoundGap, NumberedBatch, RETRY_MAX, RETRY_MIN, ReaderContext, blocking};
use super::event::{ContractEvent, EventSource, IndexedEvent};
use super::fetch;
use super::recheck_requests::LOGS_MAX;
use super::sink::SinkError;
use super::status::ReaderState;
use super::walk::{EventBatch, NEAR, PageResponse, WalkSettings};
use crate::backoff::Pauses;
use crate::endpoints::Endpoints;

/// Stores batches in order, and retries each until the sink accepts it.
pub(super) struct BatchWriter {
    context: ReaderContext,
    /// The channel that passes gaps to the requesting half.
    gaps: mpsc::Sender<FoundGap>,
    /// The pass of the last received batch, and the first block of the next batch of this pass.
    expected: Option<(u64, u64)>,
    /// The first block that is not rechecked, as the sink has noted it.
    noted: Option<u64>,
    /// The last block with an event of the batch that the sink has refused; `None` once it is stored.
    refused: Option<u64>,
    endpoints: Endpoints,
    source: EventSource,
    address: Address,
    filter: Filter,
    /// Pauses after batches on which endpoints disagree.
    contradictions: Pauses,
}

impl BatchWriter {
    pub(super) fn new(
        context: ReaderContext,
        endpoints: Endpoints,
        settings: &WalkSettings,
        gaps: mpsc::Sender<FoundGap>,
    ) -> Self {
        Self {
            context,
            gaps,
            expected: None,
            noted: None,
            refused: None,
            endpoints,
            source: settings.source,
            address: settings.address,
            filter: settings.source.filter(settings.address),
            contradictions: Pauses::new(RETRY_MIN, RETRY_MAX),
        }
    }

    /// Stores batches until it is stopped or the sink refuses permanently.
    pub(super) async fn run(mut self, mut batches: mpsc::Receiver<NumberedBatch>) {
        let mut stop = self.context.stop.clone();
        loop {
            let received = tokio::select! {
                received = batches.recv() => received,
                _ = stop.changed() => None,
            };
            let Some(numbered) = received else { return };
            self.check_contiguous(&numbered);
            let NumberedBatch { batch, first_block, pass, is_confirmed, giver } = numbered;
            if pass != self.context.pass() {
                continue;
            }
            self.note_recheck_from(first_block).await;
            if !self.store(Arc::new(batch), is_confirmed, &giver, &mut stop).await {
                return;
            }
        }
    }

    /// Checks that the batches of one pass cover the chain without a gap. Balance events carry no sequence id, so a
    /// sink could not notice that a gap here omits them.
    fn check_contiguous(&mut self, numbered: &NumberedBatch) {
        let NumberedBatch { batch, first_block, pass, .. } = numbered;
        assert!(batch.from_block <= batch.position.number, "a batch covers at least one block");
        if let Some((_, next)) = self.expected.filter(|(last, _)| last == pass) {
            assert_eq!(*first_block, next, "batches of one pass are contiguous by block");
        }
        self.expected = Some((*pass, batch.position.number + 1));
    }

    /// Has the sink note the first block that is not rechecked. Blocks that are read again are not, which is noted
    /// before their batch is stored. No block after `first_block`, the first one that is not stored, is noted: if the
    /// recheck of the batch has ended already, a crash may still lose the batch and leave the note.
    async fn note_recheck_from(&mut self, first_block: u64) {
        let recheck_from = self.context.recheck_from.load(Ordering::Acquire).min(first_block);
        if self.noted == Some(recheck_from) {
            return;
        }
        let noted =
            blocking(&self.context.sink, move |sink| sink.note_recheck_from(recheck_from)).await;
        // After a failure it is noted with the next batch.
        self.noted = noted.is_ok().then_some(recheck_from);
    }

    /// Stores one batch, which the endpoint `giver` gave. Returns false if nothing more is to be stored.
    async fn store(
        &mut self,
        batch: Arc<EventBatch>,
        is_confirmed: bool,
        giver: &str,
        stop: &mut watch::Receiver<()>,
    ) -> bool {
        let mut pauses = Pauses::new(RETRY_MIN, RETRY_MAX);
        loop {
            let (to_store, began) = (batch.clone(), Instant::now());
            let stored = blocking(&self.context.sink, move |sink| sink.store(&to_store)).await;
            let context = &self.context;
            match stored {
                Ok(()) => {
                    context.is_storing_stuck.store(false, Ordering::Release);
                    // Earlier blocks are stored again. At the head, the chain has no such event any more.
                    let is_open = |at: &u64| batch.position.number < *at && !batch.is_at_head;
                    self.refused = self.refused.filter(is_open);
                    context.is_refused.store(self.refused.is_some(), Ordering::Release);
                    self.note(&batch, began.elapsed());
                    return true;
                }
                Err(SinkError::Stop(reason)) => {
                    if let Some(doubt) = self.doubt(&batch).await {
                        context.is_storing_stuck.store(true, Ordering::Release);
                        self.refused = last_event_block(&batch);
                        context.is_refused.store(true, Ordering::Release);
                        context.stuck(&format!("{doubt}, and one of them: {reason}"));
                        if !is_confirmed {
                            let reason = "not all endpoints show its events";
                            self.endpoints.distrust_named(giver, reason);
                        }
                        self.read_again(giver).await;
                        tokio::select! {
                            () = sleep(self.contradictions.next()) => return true,
                            _ = stop.changed() => return false,
                        }
                    }
                    tracing::error!(
                        code = "chain_strand_halted",
                        strand = context.name,
                        block = batch.position.number,
                        "the chain is not read any further: {reason}"
                    );
                    context.status.set_state(ReaderState::Halted(reason));
                    return false;
                }
                Err(SinkError::Gap(reason)) => {
                    self.refused = last_event_block(&batch);
                    context.is_refused.store(true, Ordering::Release);
                    context.stuck(&reason);
                    context.status.lock().counts.gaps += 1;
                    self.read_again(giver).await;
                    return true;
                }
                Err(SinkError::Retry(reason)) => {
                    context.is_storing_stuck.store(true, Ordering::Release);
                    context.stuck(&reason);
                }
            }
            context.status.lock().counts.retries += 1;
            tokio::select! {
                () = sleep(pauses.next()) => {}
                _ = stop.changed() => return false,
            }
        }
    }

    /// Requests that the blocks after the stored ones are read again, and not from the endpoint `giver` at first.
    async fn read_again(&self, giver: &str) {
        // Batches that are under way follow the one that was not stored, so they must not be stored either.
        self.context.begin_pass();
        let after = self.context.status.lock().stored.map(|block| block.number);
        // An error means that the requesting half has been stopped.
        let _ = self.gaps.send(FoundGap { after, giver: giver.to_owned() }).await;
    }

    /// Asks every endpoint for the blocks of a batch that contradicts the stored events, in parts if it accepts only
    /// short ranges: otherwise it would count as silent for ever. Returns the reason not to halt: an endpoint did not
    /// answer, or it has another last block, other events there or other times of these, so one endpoint lies or lags
    /// behind. Returns `None` if all endpoints confirm the batch, because the chain then contradicts the stored log.
    async fn doubt(&self, batch: &EventBatch) -> Option<String> {
        let (blocks, filter) = (&(batch.from_block..=batch.position.number), &self.filter);
        let headers = &timed_blocks(batch);
        let answers = self
            .endpoints
            .each_within(LOGS_MAX, |chain| async move {
                fetch::page_in_parts(&chain, filter, blocks, headers).await
            })
            .await;
        let is_equal = |shown| is_shown(batch, shown, self.source, self.address);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.ok().map(is_equal)).collect();
        let names = self.endpoints.status().into_iter().map(|endpoint| endpoint.display_url);
        doubt_of(&answers, names)
    }

    fn note(&mut self, batch: &EventBatch, took: Duration) {
        let mut status = self.context.status.lock();
        status.stored = Some(batch.position);
        status.times.batches_s.observe(took.as_secs_f64());
        let counts = &mut status.counts;
        counts.storing += took;
        counts.events += batch.events.len() as u64;
        counts.bytes += batch.events.iter().map(payload_bytes).sum::<u64>();
    }
}

/// Returns the reason not to halt, given for each endpoint whether it confirms the batch: `None` for one that
/// did not answer. A missing answer is not agreement: a lying endpoint may wait until the others do not answer.
fn doubt_of(answers: &[Option<bool>], names: impl IntoIterator<Item = String>) -> Option<String> {
    if answers.contains(&Some(false)) {
        return Some("endpoints contradict each other".into());
    }
    let is_silent = |(answer, name): (&Option<bool>, String)| answer.is_none().then_some(name);
    let silent: Vec<_> = answers.iter().zip(names).filter_map(is_silent).collect();
    (!silent.is_empty())
        .then(|| format!("not all endpoints answer ({} did not)", silent.join(", ")))
}

/// Returns the blocks of a batch whose headers are fetched for the times of its events: all of them if there are at
/// most [`NEAR`], as in a page near the head, and the last one of a longer page.
fn timed_blocks(batch: &EventBatch) -> Vec<u64> {
    let last = batch.position.number;
    let is_near = last.saturating_sub(batch.from_block) < NEAR;
    let first = if is_near { batch.from_block } else { last };
    (first..=last).collect()
}

/// Returns true if an endpoint shows the last block of a batch, and in its blocks the same events at the same times.
///
/// A time is that of a header or that of the log itself: the batch may have been read with fewer headers, or may be a
/// part of its page. An endpoint that gives two times would otherwise contradict what it has shown itself.
fn is_shown(
    batch: &EventBatch,
    shown: PageResponse,
    source: EventSource,
    address: Address,
) -> bool {
    let has_last = shown.headers.iter().any(|header| header.block == batch.position);
    let logs_alone = PageResponse { logs: shown.logs.clone(), headers: Vec::new() };
    let by_log = events_of(logs_alone, source, address);
    let by_header = events_of(shown, source, address);
    let is_there = |event: &IndexedEvent| {
        let (place, expected) = ((event.block, event.log_index), plain(event.clone()));
        let shown = [&by_header, &by_log].into_iter().filter_map(|events| events.get(&place));
        shown.cloned().any(|event| plain(event) == expected)
    };
    // No two events of a batch have one place.
    has_last && by_header.len() == batch.events.len() && batch.events.iter().all(is_there)
}

/// Returns the event without the field that is not part of its log.
fn plain(mut event: IndexedEvent) -> IndexedEvent {
    if let ContractEvent::Payload { bootstrapped, .. } = &mut event.decoded {
        *bootstrapped = false;
    }
    event
}

fn last_event_block(batch: &EventBatch) -> Option<u64> {
    batch.events.last().map(|event| event.block.number)
}

fn payload_bytes(event: &IndexedEvent) -> u64 {
    match &event.decoded {
        ContractEvent::Payload { payload, .. } => payload.len() as u64,
        ContractEvent::BalanceChanged { .. }
        | ContractEvent::MembershipChanged { .. }
        | ContractEvent::ReportSubmitted(_)
        | ContractEvent::ReportSettled { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};
    use alloy::rpc::types::Log;
    use alloy::sol_types::SolEvent as _;
    use hawser_proto::SequenceId;

    use super::super::event::BlockRef;
    use super::super::walk::{BlockHeader, PageOutcome, Walk, WalkAction};
    use super::*;
    use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::MessageSent;

    const ADDRESS: Address = Address::repeat_byte(7);
    const SOURCE: EventSource = EventSource::GroupMessages;
    const POSITION: BlockRef = BlockRef { number: 9, hash: B256::repeat_byte(9) };

    /// Returns the log of an event in the last block, which carries this time.
    fn log(time_s: u64) -> Log {
        let sent = MessageSent {
            groupId: [3; 16].into(),
            message: Bytes::from_static(b"payload"),
            sequenceId: 5,
        };
        Log {
            inner: alloy::primitives::Log { address: ADDRESS, data: sent.encode_log_data() },
            block_hash: Some(POSITION.hash),
            block_number: Some(POSITION.number),
            block_timestamp: Some(time_s),
            transaction_hash: Some(B256::repeat_byte(1)),
            log_index: Some(0),
            ..Log::default()
        }
    }

    /// Returns an answer with the header of a block at this time.
    fn shown(block: BlockRef, time_s: u64, logs: Vec<Log>) -> PageResponse {
        let header = BlockHeader { block, parent: B256::ZERO, time_s, may_have_logs: true };
        PageResponse { logs, headers: vec![header] }
    }

    /// An endpoint that lies about a block's time has the sink refuse what the strand has, while others are silent.
    /// They answer a moment later, and show the same log at another time.
    #[test]
    fn a_batch_is_shown_only_with_its_events_at_their_times() {
        let answer = shown(POSITION, 100, vec![log(100)]);
        let mut events: Vec<_> = events_of(answer, SOURCE, ADDRESS).into_values().collect();
        let ContractEvent::Payload { sequence_id, bootstrapped, .. } = &mut events[0].decoded
        else {
            panic!("a payload")
        };
        assert_eq!(*sequence_id, SequenceId(5));
        *bootstrapped = true;
        let batch = EventBatch { from_block: 8, events, position: POSITION, is_at_head: false };
        let is_shown = |shown| is_shown(&batch, shown, SOURCE, ADDRESS);
        assert!(is_shown(shown(POSITION, 100, vec![log(100)])));
        assert!(!is_shown(shown(POSITION, 101, vec![log(101)])), "at another time");
        assert!(!is_shown(shown(POSITION, 100, vec![])), "without the event");
        let other = BlockRef { hash: B256::repeat_byte(8), ..POSITION };
        assert!(!is_shown(shown(other, 100, vec![log(100)])), "with another last block");
    }

    /// Such an endpoint would contradict its own batch for ever, and the strand would never halt.
    #[test]
    fn a_batch_of_an_endpoint_with_two_times_is_shown_by_that_endpoint() {
        let settings = WalkSettings {
            source: SOURCE,
            address: ADDRESS,
            first_block: POSITION.number,
            page_blocks: 1,
            confirmations: 0,
        };
        let mut walk = Walk::new(settings, None);
        let WalkAction::Page { blocks, headers } = walk.next(POSITION) else { panic!("a page") };
        let answer = || shown(POSITION, 100, vec![log(101)]);
        let PageOutcome::Accepted(batch) = walk.answered(&blocks, answer()) else {
            panic!("accepted")
        };
        assert_eq!(batch.events[0].block_time_s, 100);
        assert_eq!(timed_blocks(&batch), headers, "the same headers decide");
        assert!(is_shown(&batch, answer(), SOURCE, ADDRESS));
    }

    /// A page far from the head is read with the header of its last block alone, and may be stored in parts.
    #[test]
    fn a_far_batch_of_an_endpoint_with_two_times_is_shown_by_that_endpoint() {
        let earlier = BlockRef { number: POSITION.number - 1, hash: B256::repeat_byte(8) };
        let header = |block, time_s| BlockHeader {
            block,
            parent: B256::ZERO,
            time_s,
            may_have_logs: block == earlier,
        };
        let of_earlier = |time_s| Log {
            block_hash: Some(earlier.hash),
            block_number: Some(earlier.number),
            ..log(time_s)
        };
        let answer = |time_s, headers| PageResponse { logs: vec![of_earlier(time_s)], headers };
        let settings = WalkSettings {
            source: SOURCE,
            address: ADDRESS,
            first_block: earlier.number,
            page_blocks: 2,
            confirmations: 0,
        };
        let mut walk = Walk::new(settings, None);
        let head = BlockRef { number: POSITION.number + NEAR, ..POSITION };
        let WalkAction::Page { blocks, headers } = walk.next(head) else { panic!("a page") };
        assert_eq!((blocks.clone(), headers), (earlier.number..=POSITION.number, vec![9]));
        let first = answer(101, vec![header(POSITION, 102)]);
        let PageOutcome::Accepted(mut batch) = walk.answered(&blocks, first) else {
            panic!("accepted")
        };
        assert_eq!(batch.events[0].block_time_s, 101, "the log's");
        assert_eq!(timed_blocks(&batch), [8, 9]);
        let again = |time_s| answer(time_s, vec![header(earlier, 99), header(POSITION, 102)]);
        assert!(is_shown(&batch, again(101), SOURCE, ADDRESS));
        assert!(!is_shown(&batch, again(100), SOURCE, ADDRESS), "at neither time");
        assert!(batch.split_after(earlier).is_some());
        assert_eq!(timed_blocks(&batch), [8]);
        let part = answer(101, vec![header(earlier, 99)]);
        assert!(is_shown(&batch, part, SOURCE, ADDRESS));
    }

    #[test]
    fn a_batch_is_compared_by_few_headers_however_long_it_is() {
        let of_blocks = |from_block, last| {
            let position = BlockRef { number: last, ..POSITION };
            timed_blocks(&EventBatch { from_block, events: vec![], position, is_at_head: true })
        };
        assert_eq!(of_blocks(8, 10), [8, 9, 10]);
        assert_eq!(of_blocks(1, NEAR).len() as u64, NEAR);
        assert_eq!(of_blocks(0, NEAR), [NEAR]);
    }

    #[test]
    fn a_strand_halts_only_if_every_endpoint_answers_and_tells_the_same() {
        let doubt = |answers: &[Option<bool>]| {
            doubt_of(answers, ["http://a:1", "http://b:2"].map(str::to_owned))
        };
        assert_eq!(doubt(&[Some(true), Some(true)]), None);
        let contradicted = doubt(&[Some(true), Some(false)]).unwrap();
        assert_eq!(contradicted, "endpoints contradict each other");
        assert_eq!(doubt(&[Some(false), None]), Some(contradicted));
        let silent = "not all endpoints answer (http://b:2 did not)";
        assert_eq!(doubt(&[Some(true), None]).as_deref(), Some(silent));
        assert!(doubt(&[None, None]).is_some(), "silence is no agreement");
    }
}
