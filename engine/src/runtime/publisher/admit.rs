//! Admission of one request: all cores check its chunks, and the thread that finishes the last chunk concludes the
//! request.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_rules::fees::base_fee;
use hawser_rules::{PriceError, is_free};
use parking_lot::Mutex;

use super::earlier::LookUp;
use super::error::{ANSWER_LEN_BYTES_MAX, PublishError, STATEMENT_OVERHEAD_BYTES};
use super::in_flight::{HeldReceipts, Receipt};
use super::request::{PendingReply, Published, Request};
use super::size::{CHUNK_MAX, LARGE_FROM, PublishSize};
use super::state::PublisherState;
use crate::admission::{self, AdmissionContext, AdmissionError, EnvelopeAdmissionError, Writer};
use crate::runtime::workers::WorkerBefore;
use crate::runtime::{Priority, PublishCaller};
use crate::sequencer::{Admitted, is_too_far_ahead};

/// The envelopes of a chunk that have been checked.
type AdmittedChunk = Vec<Result<Admitted, EnvelopeAdmissionError>>;

/// The same, and their earlier publishes.
type CheckedChunk = (AdmittedChunk, Result<LookUp, PublishError>);

/// A request whose chunks are being checked.
pub(super) struct AdmissionJob {
    state: Arc<PublisherState>,
    writer: Writer,
    caller: PublishCaller,
    /// A large request keeps all cores busy for long, so workers of a lower priority (nice +5 on Linux) check it, and
    /// not those that also sign.
    is_large: bool,
    /// The chunks that are checked, by place.
    chunks: Mutex<Vec<Option<CheckedChunk>>>,
    /// Chunks that are not checked yet.
    missing: AtomicUsize,
    reply: Mutex<Option<PendingReply>>,
}

impl AdmissionJob {
    /// Spreads the envelopes over the workers, in the turns of the caller. The thread that finishes last hands the
    /// request to the sequencing thread, or answers it if it is refused or only repeats what is stored.
    pub(super) fn start(
        state: &Arc<PublisherState>,
        writer: Writer,
        caller: PublishCaller,
        envelopes: Vec<pb::PayerEnvelope>,
        reply: PendingReply,
    ) {
        let lengths = envelopes.iter().map(|envelope| envelope.unsigned_client_envelope.len());
        let is_large = PublishSize::of(lengths).reaches(LARGE_FROM);
        let priority = match is_large {
            true => Priority::LargeOfCaller(caller),
            false => Priority::Caller(caller),
        };
        let chunks = chunks_of(envelopes);
        let job = Arc::new(Self {
            state: state.clone(),
            writer,
            caller,
            is_large,
            chunks: Mutex::new((0..chunks.len()).map(|_| None).collect()),
            missing: AtomicUsize::new(chunks.len()),
            reply: Mutex::new(Some(reply)),
        });
        for (index, chunk) in chunks.into_iter().enumerate() {
            let job = job.clone();
            state.workers.spawn_told(priority, move |before| job.admit(before, index, chunk));
        }
    }

    fn admit(self: &Arc<Self>, before: WorkerBefore, index: usize, chunk: Vec<pb::PayerEnvelope>) {
        if before == WorkerBefore::Slept
            && let Some(reply) = self.reply.lock().as_mut()
        {
            // Chunks wait at the same time.
            reply.thread_wait = reply.thread_wait.max(reply.queued.elapsed());
        }
        let state = &self.state;
        let validator = &state.ports.validator;
        let now_ns = state.ports.clock.now_ns();
        let context = AdmissionContext {
            node: state.node,
            writer: self.writer,
            seen: &state.heads.get(),
            key_package: &|bytes| validator.key_package(bytes),
            later_ns: &|ids| state.chain_clock.latest_ns(ids, now_ns),
        };
        let admitted = admission::admit(&context, chunk);
        let held = match state.none_in_memory(state.hold(receipts(&admitted))) {
            Ok(none) => return self.note_checked(index, admitted, Ok(none)),
            Err(held) => held,
        };
        if self.is_large {
            // Workers of a lower priority read the disk in the same turn. Other callers pass between turns.
            return self.look_up(index, admitted, held);
        }
        // Any caller can send old envelopes again. The workers go on with new envelopes while other threads read the
        // disk for the old ones.
        let job = self.clone();
        let look_up = move || job.look_up(index, admitted, held);
        state.workers.spawn(Priority::LookUp(self.caller), look_up);
    }

    /// Looks on the disk for earlier publishes of a chunk. Blocks on it.
    fn look_up(self: &Arc<Self>, index: usize, admitted: AdmittedChunk, held: HeldReceipts) {
        let earlier = self.state.look_up(held);
        self.note_checked(index, admitted, earlier);
    }

    /// Notes a chunk that is checked. The last one concludes the request.
    fn note_checked(
        self: &Arc<Self>,
        index: usize,
        admitted: AdmittedChunk,
        earlier: Result<LookUp, PublishError>,
    ) {
        self.chunks.lock()[index] = Some((admitted, earlier));
        // Release and acquire: the worker that counts to zero sees the chunks of all others.
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.conclude();
        }
    }

    /// Joins the chunks, and hands the request on, or answers it.
    fn conclude(self: &Arc<Self>) {
        let chunks = std::mem::take(&mut *self.chunks.lock());
        let reply = self.reply.lock().take();
        let reply = reply.expect("concluded once, by the last chunk");
        let (admitted, looked_up): (Vec<_>, Vec<_>) = chunks.into_iter().flatten().unzip();
        let envelopes = match admission::conclude(joined(admitted)) {
            Ok(envelopes) => envelopes,
            Err(refusal) => return reply.send(Err(PublishError::Refused(refusal))),
        };
        let earlier = match LookUp::of_parts(looked_up) {
            Ok(earlier) => earlier,
            Err(error) => return reply.send(Err(error)),
        };
        let head = || self.state.heads.get().get(self.state.node);
        if let Some(stored) = earlier.all_stored(head, envelopes.iter().map(|it| it.receipt)) {
            return self.answer_repeats(stored, reply);
        }
        if let Err(error) = self.check_times(&envelopes) {
            return reply.send(Err(error));
        }
        for admitted in &envelopes {
            // The envelope has no id yet. `sequenced` names both.
            let receipt = blake3::Hash::from_bytes(admitted.receipt);
            tracing::debug!(%receipt, "admitted");
        }
        if let Some(refusal) = earlier.refused_as_expired(&envelopes) {
            return reply.send(Err(PublishError::Refused(refusal)));
        }
        if self.is_large || self.knows_balance(&envelopes) {
            return self.hand_over(envelopes, earlier, reply);
        }
        // Any caller can publish with payers who have nothing, each of whom is read once.
        let job = self.clone();
        let hand_over = move || job.hand_over(envelopes, earlier, reply);
        self.state.workers.spawn(Priority::LookUp(self.caller), hand_over);
    }

    /// Hands the request to the sequencing thread, or answers it if the payer's limits refuse it. Blocks on the disk if
    /// the payer's balance has to be read.
    fn hand_over(&self, envelopes: Vec<Admitted>, earlier: LookUp, mut reply: PendingReply) {
        let checked = self
            .take_from_rate(&envelopes, &earlier)
            .and_then(|()| self.read_balance(&envelopes))
            .and_then(|()| self.check_large(&envelopes, &earlier));
        if let Err(error) = checked {
            return reply.send(Err(error));
        }
        reply.stage.lap(&self.state.counters.admit_seconds);
        (reply.admitted, reply.queued) = (reply.stage, reply.stage);
        let Self { caller, is_large, .. } = *self;
        self.state.send_to_sequencer(Request { caller, is_large, envelopes, earlier, reply });
    }

    /// Answers a request that adds nothing. The sequencing thread and the commit thread, behind which all publishers
    /// wait, have nothing to do for it: a flood of large repeats would hold both up for milliseconds each.
    fn answer_repeats(&self, envelopes: Vec<Bytes>, mut reply: PendingReply) {
        let lengths = envelopes.iter().map(|bytes| bytes.len() + STATEMENT_OVERHEAD_BYTES);
        if lengths.sum::<usize>() > ANSWER_LEN_BYTES_MAX {
            return reply.send(Err(PublishError::AnswerTooLarge));
        }
        let counters = &self.state.counters;
        reply.stage.lap(&counters.admit_seconds);
        counters.replayed.inc_by(envelopes.len() as u64);
        reply.send(Ok(Published::of(envelopes, 0)));
    }

    /// Takes a publish from the rate of the request's one payer. A request that only repeats earlier publishes takes
    /// none: a payer's envelopes are public, so any reader could use up that payer's rate.
    fn take_from_rate(&self, envelopes: &[Admitted], earlier: &LookUp) -> Result<(), PublishError> {
        let is_new = |admitted: &Admitted| earlier.get(&admitted.receipt).is_none();
        match (&self.state.payer_rates, envelopes.iter().find(|it| is_new(it))) {
            (Some(rates), Some(new)) if self.writer == Writer::Payer => rates.take(new.payer),
            _ => Ok(()),
        }
    }

    /// Checks that no envelope would be dated long before the chain envelope that it depends on. Peers could prove
    /// that as a fault of this node, whose clock may merely be behind.
    fn check_times(&self, envelopes: &[Admitted]) -> Result<(), PublishError> {
        let Some(chain_ns) = envelopes.iter().filter_map(|it| it.depends_on_ns).max() else {
            return Ok(());
        };
        let now_ns = self.state.ports.clock.now_ns();
        match is_too_far_ahead(chain_ns, now_ns) {
            true => Err(PublishError::of_chain_ahead(chain_ns - now_ns)),
            false => Ok(()),
        }
    }

    /// Returns true if the balance of the request's one payer need not be read.
    fn knows_balance(&self, envelopes: &[Admitted]) -> bool {
        let state = &self.state;
        let (Some(balances), Some(first)) = (&state.balances, envelopes.first()) else {
            return true;
        };
        self.writer == Writer::ThisNode || balances.know(first.payer, state.ports.clock.now_ns())
    }

    /// Reads the balance of the request's one payer, if the node asks for balances.
    fn read_balance(&self, envelopes: &[Admitted]) -> Result<(), PublishError> {
        let state = &self.state;
        let (Some(balances), Some(first)) = (&state.balances, envelopes.first()) else {
            return Ok(());
        };
        if self.writer == Writer::ThisNode {
            return Ok(()); // it pays nothing on reserved topics
        }
        let now_ns = state.ports.clock.now_ns();
        balances.refresh(state.node, first.payer, now_ns)
    }

    /// Checks all of a large request before its first piece gets places: the answer's length, prices, and that the
    /// payer can pay the base fees. For a smaller one, the sequencing thread does so.
    fn check_large(&self, envelopes: &[Admitted], earlier: &LookUp) -> Result<(), PublishError> {
        let (true, Some(first)) = (self.is_large, envelopes.first()) else { return Ok(()) };
        let state = &*self.state;
        let (mut answer_len, mut prices, mut seen) = (0, Vec::new(), HashSet::new());
        let now_ns = state.ports.clock.now_ns();
        let rates = state.ports.rates.borrow().clone();
        for (index, admitted) in envelopes.iter().enumerate() {
            let stored = earlier.get(&admitted.receipt);
            let bytes = stored.unwrap_or(admitted.envelope.as_bytes());
            answer_len += bytes.len() + STATEMENT_OVERHEAD_BYTES;
            let is_repeat = stored.is_some() || state.idempotent && !seen.insert(admitted.receipt);
            if is_repeat || is_free(admitted.envelope.client().topic().kind()) {
                prices.push(None);
                continue;
            }
            let (size, days) = (bytes.len() as u64, admitted.envelope.retention_days());
            let price = rates.at(now_ns).and_then(|rate| base_fee(rate, size, days));
            prices.push(Some(price.map_err(|error| {
                PublishError::Refused(AdmissionError::of_price(index, PriceError::Base(error)))
            })?));
        }
        if answer_len > ANSWER_LEN_BYTES_MAX {
            return Err(PublishError::AnswerTooLarge);
        }
        match &state.balances {
            Some(balances) => balances.check(first.payer, &prices).map(drop),
            None => Ok(()),
        }
    }
}

/// Returns the receipts of the envelopes of a chunk that are not refused.
fn receipts(chunk: &[Result<Admitted, EnvelopeAdmissionError>]) -> impl Iterator<Item = Receipt> {
    chunk.iter().flatten().map(|admitted| admitted.receipt)
}

/// Joins chunks, in their order. The only one of a request is not copied.
fn joined(chunks: Vec<AdmittedChunk>) -> AdmittedChunk {
    let all = chunks.into_iter().reduce(|mut all, next| {
        all.extend(next);
        all
    });
    all.unwrap_or_default()
}

/// Cuts the envelopes of a request into chunks, in their order.
fn chunks_of(envelopes: Vec<pb::PayerEnvelope>) -> Vec<Vec<pb::PayerEnvelope>> {
    let lengths = envelopes.iter().map(|envelope| envelope.unsigned_client_envelope.len());
    if !PublishSize::of(lengths).reaches(CHUNK_MAX) {
        return vec![envelopes]; // most requests
    }
    let (mut chunks, mut chunk, mut size) = (Vec::new(), Vec::new(), PublishSize::default());
    for envelope in envelopes {
        size.add(std::iter::once(envelope.unsigned_client_envelope.len()));
        chunk.push(envelope);
        if size.reaches(CHUNK_MAX) {
            chunks.push(std::mem::take(&mut chunk));
            size = PublishSize::default();
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_a_caller_is_bounded_by_envelopes_and_by_their_bytes() {
        let lengths = |lengths: &[usize]| -> Vec<usize> {
            let envelope = |len: &usize| pb::PayerEnvelope {
                unsigned_client_envelope: vec![0; *len].into(),
                ..Default::default()
            };
            let chunks = chunks_of(lengths.iter().map(envelope).collect());
            let all: usize = chunks.iter().map(Vec::len).sum();
            assert_eq!(all, lengths.len());
            chunks.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&[700; 40]), [32, 8]);
        assert_eq!(lengths(&[30 << 10; 7]), [2, 2, 2, 1]);
        assert_eq!(lengths(&[100 << 10; 2]), [1, 1]);
        assert_eq!(lengths(&[0]), [1]);
    }
}
