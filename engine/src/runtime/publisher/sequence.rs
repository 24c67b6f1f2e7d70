//! The thread that assigns places: prices, signs, and answers repeated publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender};
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
use hawser_rules::retention::EXPIRY_NEVER;
use hawser_rules::{RateTable, is_free};
use hawser_storage::{Charge, Facts, LogEntry};

use super::commit::{Generation, SignedGroup};
use super::earlier::LookUp;
use super::error::{ANSWER_LEN_BYTES_MAX, PublishError, STATEMENT_OVERHEAD_BYTES};
use super::in_flight::{HeldReceipts, Receipt};
use super::large::{LargeRequest, LargeRequests};
use super::own_end::{newest_held, resume};
use super::request::{PendingReply, Published, Request};
use super::settings::PublishSettings;
use super::size::{GROUP_MAX, PublishSize};
use super::state::PublisherState;
use crate::admission::AdmissionError;
use crate::facts;
use crate::runtime::Priority;
use crate::runtime::counters::Stopwatch;
use crate::sequencer::{Admitted, Sequenced, Sequencer, UnpricedError};

/// A step of the clock back from the strand's latest time that is logged. Specified (`docs/protocol/rules.md`, Expiry
/// and time).
const STEP_BACK_NS_MAX: i64 = 5_000_000_000;

/// The state of the thread that gives out sequence ids.
pub(super) struct SequencerThread {
    state: Arc<PublisherState>,
    settings: PublishSettings,
    sequencer: Sequencer,
    /// The last place that was signed, or the end of the strand when it was last read.
    signed: SequenceId,
    /// The clock was behind the strand when the last group was made.
    is_clock_back: bool,
    /// The number of times that signing had begun when `sequencer` was read from the log.
    releases: u64,
    large: LargeRequests,
    /// Requests for whose earlier publishes another thread has to look again.
    outdated: Vec<Request>,
    generation: Generation,
    /// Number of times that the end of the strand has been read again after a failure.
    epoch: u64,
    to_committer: Sender<SignedGroup>,
}

/// Source of the answer for one envelope of a request.
enum AnswerSource {
    /// The envelope is the `usize`th that is sequenced in this group.
    Group(usize),
    /// An earlier publish has been answered, or will be, with these bytes.
    Earlier(Bytes),
}

/// A request whose answer is complete once its group is signed.
struct PlannedReply {
    reply: PendingReply,
    answer: PlannedAnswer,
}

/// A piece of a large request. The request goes on, or its answer is complete, once its group is signed.
struct PlannedPiece {
    request: LargeRequest,
    answer: PlannedAnswer,
}

/// The answer of a request, or of a piece of one, before its group is signed.
struct PlannedAnswer {
    sources: Vec<AnswerSource>,
    /// The number of envelopes that the request adds to the strand.
    added: usize,
    /// Bound of the answer's length, in bytes.
    len_bytes: usize,
}

/// The envelopes of the group that is being made.
struct OpenGroup {
    sequenced: Vec<(Sequenced, Admitted)>,
    by_receipt: HashMap<Receipt, usize>,
    held: Vec<HeldReceipts>,
}

impl SequencerThread {
    pub(super) fn new(
        state: Arc<PublisherState>,
        settings: PublishSettings,
        sequencer: Sequencer,
        to_committer: Sender<SignedGroup>,
        piece_max: PublishSize,
    ) -> Self {
        let large = LargeRequests::new(piece_max);
        let (releases, signed) = (0, sequencer.last());
        Self {
            state,
            settings,
            sequencer,
            signed,
            is_clock_back: false,
            releases,
            large,
            outdated: Vec::new(),
            generation: 0,
            epoch: 0,
            to_committer,
        }
    }

    /// Runs until every sender of requests is gone. `writes` brings a message after groups have been written.
    pub(super) fn run(mut self, requests: &Receiver<Request>, writes: &Receiver<()>) {
        while let Some(group) = self.next_group(requests, writes) {
            self.sequence_group(group);
            for request in self.take_outdated() {
                let (state, caller) = (self.state.clone(), request.caller);
                // As in admission: the receipts of a large request are so many that small ones must not wait for them.
                let priority = match request.is_large {
                    true => Priority::LargeOfCaller(caller),
                    false => Priority::LookUp(caller),
                };
                self.state.workers.spawn(priority, move || state.look_up_again(request));
            }
        }
    }

    /// Takes the requests for whose earlier publishes another thread has to look again, with
    /// [`PublisherState::look_up_again`]. A request is one of them again only if the end of the strand was read again
    /// meanwhile.
    pub(super) fn take_outdated(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.outdated)
    }

    /// Waits until a request can get places. Returns all small requests that wait, or none if it is the turn of a large
    /// one; `None` when all requests have been answered and no more will come.
    pub(super) fn next_group(
        &mut self,
        requests: &Receiver<Request>,
        writes: &Receiver<()>,
    ) -> Option<Vec<Request>> {
        let mut group = Vec::new();
        let mut size = PublishSize::default();
        loop {
            while !size.reaches(GROUP_MAX)
                && let Ok(next) = requests.try_recv()
            {
                group.extend(self.take(next, &mut size));
            }
            self.large.forget_written(self.written());
            if !group.is_empty() || self.large.can_go_on() {
                return Some(group);
            }
            if self.large.is_empty() {
                group.extend(self.take_awake(requests.recv().ok()?, &mut size));
                continue;
            }
            // The large requests wait for a write.
            crossbeam_channel::select! {
                recv(requests) -> next => match next {
                    Ok(next) => group.extend(self.take_awake(next, &mut size)),
                    // The path drains: they are finished first.
                    Err(_) => writes.recv().ok()?,
                },
                recv(writes) -> write => write.ok()?,
            }
        }
    }

    /// Takes a request that has woken the thread.
    fn take_awake(&mut self, mut request: Request, size: &mut PublishSize) -> Option<Request> {
        request.reply.thread_wait += request.reply.queued.elapsed();
        self.take(request, size)
    }

    /// Takes a request. Returns a small request. A large request waits for its turns.
    pub(super) fn take(&mut self, request: Request, size: &mut PublishSize) -> Option<Request> {
        if request.is_large {
            self.large.push(request);
            return None;
        }
        size.add(request.envelopes.iter().map(|admitted| admitted.envelope.as_bytes().len()));
        Some(request)
    }

    /// Returns the newest group that is written, or has failed.
    fn written(&self) -> Generation {
        self.state.stored.load(Ordering::Acquire)
    }

    /// Assigns places to small requests and, at its turn, to a piece of a large request. Passes them to the committing
    /// thread.
    pub(super) fn sequence_group(&mut self, requests: Vec<Request>) {
        let now_ns = self.state.ports.clock.now_ns();
        // Checked here too: a claim of a peer may have come after the request was taken, and the
        // places that it speaks of must not be given out twice. The clock may have jumped since then, and
        // the node may have left the network.
        let checked = self
            .check_own_strand()
            .and_then(|()| self.state.check_world(now_ns))
            .and_then(|()| self.recover());
        if let Err(error) = checked {
            self.large.fail_all(&error);
            return requests.into_iter().for_each(|it| it.reply.send(Err(error.clone())));
        }
        self.generation += 1;
        // A peer may have shown later envelopes of this strand, or places of a gap, since the end of the strand was
        // read.
        self.sequencer.date_after(self.state.own_strand.shown_ns());
        self.watch_steps_back(now_ns);
        let count = requests.iter().map(|request| request.envelopes.len()).sum::<usize>();
        let sequenced = Vec::with_capacity(count);
        let held = Vec::with_capacity(requests.len() + 1);
        let mut group = OpenGroup { sequenced, by_receipt: HashMap::new(), held };
        let mut planned = Vec::with_capacity(requests.len());
        let rates = self.state.ports.rates.borrow().clone();
        for request in requests {
            if !request.earlier.is_complete(self.state.round()) {
                self.outdated.push(request);
                continue;
            }
            let Request { envelopes, earlier, reply, .. } = request;
            match self.sequence_request(now_ns, &rates, envelopes, &earlier, 0, &mut group) {
                Ok(answer) => {
                    group.held.push(earlier.held);
                    planned.push(PlannedReply { reply, answer });
                }
                Err(error) => reply.send(Err(error)),
            }
        }
        let piece = self.sequence_piece(now_ns, &rates, !planned.is_empty(), &mut group);
        let group = self.seal_group(group, planned, piece);
        // The committing thread ends only after this sender is gone.
        let _ = self.to_committer.send(group);
    }

    /// Gives places to the next piece of a large request, if it is its turn.
    fn sequence_piece(
        &mut self,
        now_ns: i64,
        rates: &RateTable,
        is_among_others: bool,
        group: &mut OpenGroup,
    ) -> Option<PlannedPiece> {
        let written = self.written();
        let (mut request, envelopes) =
            self.large.take_piece(self.generation, written, is_among_others)?;
        if !request.earlier.is_complete(self.state.round()) {
            // It has no places: requests that had some failed when the end of the strand was read again.
            self.outdated.push(request.back(envelopes));
            return None;
        }
        let held = request.earlier.held.split_first(envelopes.len());
        let (earlier, before) = (&request.earlier, request.answer_len);
        match self.sequence_request(now_ns, rates, envelopes, earlier, before, group) {
            Ok(answer) => {
                group.held.push(held);
                Some(PlannedPiece { request, answer })
            }
            Err(error) => {
                request.fail(error);
                None
            }
        }
    }

    /// Checks that this node may sign. Reads the end of the strand anew when signing has begun again: it
    /// may have grown without this thread.
    fn check_own_strand(&mut self) -> Result<(), PublishError> {
        let releases = self.state.own_strand.check()?;
        if releases != self.releases {
            self.resume()?;
            self.releases = releases;
        }
        Ok(())
    }

    /// Warns once when the clock has stepped back to before the strand's latest time. Times keep increasing
    /// by nanoseconds until the clock has caught up.
    fn watch_steps_back(&mut self, now_ns: i64) {
        let back_ns = self.sequencer.last_ns().saturating_sub(now_ns);
        let is_back = back_ns > STEP_BACK_NS_MAX;
        if is_back && !self.is_clock_back {
            let back_s = back_ns / 1_000_000_000;
            tracing::warn!(
                code = "clock_stepped_back",
                back_s,
                "this node's clock is behind its own strand, whose times go on from the latest one"
            );
        }
        self.is_clock_back = is_back;
    }

    /// Goes on after a group that could not be stored: reads the end of the strand anew, once the disk can be
    /// written to.
    fn recover(&mut self) -> Result<(), PublishError> {
        if !self.state.broken.load(Ordering::Acquire) {
            return Ok(());
        }
        self.state.check_disk()?;
        self.resume()?;
        self.epoch += 1;
        self.state.broken.store(false, Ordering::Release);
        Ok(())
    }

    /// Reads the end of the strand anew, once no group is on its way to the disk: its places would be given out again.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`]; nothing has changed then.
    fn resume(&mut self) -> Result<(), PublishError> {
        if self.written() != self.generation {
            return Err(PublishError::of_disk("earlier publishes are still being written"));
        }
        let PublisherState { store, node, balances, own_end, own_strand, .. } = &*self.state;
        let resumed = resume(store, *node).and_then(|it| Ok((it, newest_held(store, *node)?)));
        let (sequencer, held) = own_end.note(resumed)?;
        own_strand.note_held(held);
        self.sequencer = sequencer;
        self.signed = self.sequencer.last();
        if let Some(balances) = balances {
            balances.forget_after(self.sequencer.last());
        }
        // The log may hold envelopes whose write seemed to fail, and lack envelopes that were signed.
        self.state.envelopes.forget_signed();
        self.state.rounds.fetch_add(1, Ordering::Release);
        let lost = PublishError::of_disk("the end of this node's own strand was read anew");
        self.large.fail_begun(&lost);
        Ok(())
    }

    /// Sequences the new envelopes of a request, or of a piece of one, and finds the repeated ones. The answer to the
    /// earlier pieces has `answered_len` bytes.
    fn sequence_request(
        &mut self,
        now_ns: i64,
        rates: &RateTable,
        envelopes: Vec<Admitted>,
        earlier: &LookUp,
        answered_len: usize,
        group: &mut OpenGroup,
    ) -> Result<PlannedAnswer, PublishError> {
        let first_index = group.sequenced.len();
        let (answer, fresh) = self.find_repeats(envelopes, earlier, group);
        // Before anything is sequenced: the answer is the payer's only proof of what was charged.
        if answered_len + answer.len_bytes > ANSWER_LEN_BYTES_MAX {
            return Err(PublishError::AnswerTooLarge);
        }
        if !self.sequencer.has_room_for(fresh.len()) {
            let reason = "this node's strand has no place or no time left: it needs a new key";
            return Err(PublishError::broken(reason));
        }
        // Returns the index in the request of its `fresh`th new envelope, not counting repeats.
        let index_of = |fresh: usize| {
            let is_source = |it: &AnswerSource| matches!(it, AnswerSource::Group(at) if *at == first_index + fresh);
            answer.sources.iter().position(is_source).unwrap_or_default()
        };
        let refused = |UnpricedError { index, error }: UnpricedError| {
            PublishError::Refused(AdmissionError::of_price(index_of(index), error))
        };
        let payer = fresh.first().map(|admitted| admitted.payer);
        let mut checked = None;
        if let Some((balances, payer)) = self.state.balances.as_ref().zip(payer) {
            let prices = self.sequencer.prices(now_ns, rates, &fresh).map_err(refused)?;
            let is_owed = |it: &Admitted| !is_free(it.envelope.client().topic().kind());
            let owed = fresh.iter().zip(prices).map(|(it, price)| is_owed(it).then_some(price));
            let check = balances.check(payer, &owed.collect::<Vec<_>>());
            checked = Some(check.map_err(|error| error.at_place(index_of))?);
        }
        let places = self.sequencer.sequence(now_ns, rates, &fresh).map_err(refused)?;
        if let Some(checked) = checked {
            checked.charge(&places);
        }
        let receipts = fresh.iter().map(|admitted| admitted.receipt);
        group.by_receipt.extend(receipts.zip(first_index..));
        group.sequenced.extend(places.into_iter().zip(fresh));
        Ok(answer)
    }

    /// Finds where the answer for each envelope comes from, and returns those that are new.
    fn find_repeats(
        &self,
        envelopes: Vec<Admitted>,
        earlier: &LookUp,
        group: &OpenGroup,
    ) -> (PlannedAnswer, Vec<Admitted>) {
        let first_index = group.sequenced.len();
        // Most requests have one envelope, which no other one of the request can repeat: they need no map.
        let may_repeat_itself = envelopes.len() > 1;
        let mut fresh: Vec<Admitted> = Vec::with_capacity(envelopes.len());
        let mut fresh_receipts: HashMap<Receipt, usize> = HashMap::new();
        let mut sources = Vec::with_capacity(envelopes.len());
        let mut len_bytes = 0;
        for admitted in envelopes {
            let receipt = admitted.receipt;
            let len = admitted.envelope.as_bytes().len();
            let in_group =
                || group.by_receipt.get(&receipt).or(fresh_receipts.get(&receipt)).copied();
            if self.settings.idempotent {
                if let Some(index) = in_group() {
                    len_bytes += len + STATEMENT_OVERHEAD_BYTES;
                    sources.push(AnswerSource::Group(index));
                    continue;
                }
                let signed = self.state.envelopes.signed(&receipt);
                if let Some(bytes) = signed.or_else(|| earlier.get(&receipt).cloned()) {
                    len_bytes += bytes.len() + STATEMENT_OVERHEAD_BYTES;
                    sources.push(AnswerSource::Earlier(bytes));
                    continue;
                }
            }
            let index = first_index + fresh.len();
            if may_repeat_itself {
                fresh_receipts.insert(receipt, index);
            }
            len_bytes += len + STATEMENT_OVERHEAD_BYTES;
            sources.push(AnswerSource::Group(index));
            fresh.push(admitted);
        }
        let added = fresh.len();
        (PlannedAnswer { sources, added, len_bytes }, fresh)
    }

    /// Signs the sequenced envelopes on all cores, and puts the answers together.
    fn seal_group(
        &mut self,
        group: OpenGroup,
        planned: Vec<PlannedReply>,
        piece: Option<PlannedPiece>,
    ) -> SignedGroup {
        let OpenGroup { sequenced, held, .. } = group;
        let key = self.state.key.clone();
        let node = self.state.node;
        let sealed = self.state.workers.map(Priority::Urgent, sequenced, move |part| {
            part.into_iter().map(|(place, admitted)| seal(&key, node, place, &admitted)).collect()
        });
        let follows = |pair: &[LogEntry]| pair[1].id.sequence == pair[0].id.sequence.next();
        assert!(sealed.windows(2).all(follows), "a group is contiguous before it is appended");
        if let Some((first, last)) = sealed.first().zip(sealed.last()) {
            // Two statements about one place would be proof against this node.
            assert_eq!(first.id.sequence, self.signed.next(), "a place is signed once");
            self.signed = last.id.sequence;
        }
        let mut replayed = 0;
        let mut bytes_of = |sources: Vec<AnswerSource>| -> Vec<Bytes> {
            let bytes = sources.into_iter().map(|source| match source {
                AnswerSource::Group(index) => sealed[index].bytes.clone(),
                AnswerSource::Earlier(bytes) => {
                    replayed += 1;
                    bytes
                }
            });
            bytes.collect()
        };
        let of_piece = piece.as_ref().map(|piece| piece.request.in_flight());
        let mut answers = Vec::with_capacity(planned.len() + 1);
        for PlannedReply { reply, answer: PlannedAnswer { sources, added, .. } } in planned {
            answers.push((reply, Published::of(bytes_of(sources), added)));
        }
        if let Some(PlannedPiece { mut request, answer }) = piece {
            request.add(bytes_of(answer.sources), answer.added, answer.len_bytes);
            answers.extend(self.large.put_back(request));
        }
        let now = Stopwatch::start();
        for (reply, _) in &mut answers {
            reply.stage.lap_at(now, &self.state.counters.sequence_seconds);
            reply.queued = now;
        }
        if self.settings.idempotent {
            for entry in &sealed {
                if let Some(receipt) = entry.facts.as_ref().and_then(|facts| facts.receipt) {
                    self.state.envelopes.note_signed(&receipt, &entry.bytes);
                }
            }
        }
        SignedGroup {
            generation: self.generation,
            epoch: self.epoch,
            fresh: sealed.len() as u64,
            entries: sealed,
            answers,
            _of_piece: of_piece,
            _held: held,
            replayed,
            counters: self.state.counters.clone(),
        }
    }
}

/// Signs one envelope, once: the answer, every stream and every peer get these bytes.
fn seal(key: &SecretKey, node: OriginatorId, place: Sequenced, admitted: &Admitted) -> LogEntry {
    let client = admitted.envelope.client();
    let counted = !is_free(client.topic().kind());
    assert_eq!(place.id.originator, node, "a node signs its own strand only");
    tracing::debug!(
        envelope = %place.id,
        receipt = %blake3::Hash::from_bytes(admitted.receipt),
        "sequenced"
    );
    let facts = Facts {
        topic: Some(client.topic().clone()),
        originator_ns: place.originator_ns,
        depends_on: facts::chain_dependencies(node, client.depends_on()),
        expiry_unix_s: Some(place.expiry_unix_s).filter(|&expiry| expiry < EXPIRY_NEVER),
        receipt: Some(admitted.receipt),
        charge: counted.then(|| Charge {
            payer: admitted.payer,
            size_bytes: admitted.envelope.as_bytes().len() as u64,
            retention_days: admitted.envelope.retention_days(),
            stated_picodollars: place.picodollars,
        }),
        counts_for_congestion: counted,
        addresses: Vec::new(),
    };
    LogEntry::valid(place.id, place.unsealed.seal(key), facts)
}
