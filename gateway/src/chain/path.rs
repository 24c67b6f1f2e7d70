//! Sends payloads to the chain and follows each one until nodes show it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_chain::admin::WeiPerGas;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::dropped::DropCheck;
use super::following::{AfterAttempt, FollowedPayload};
use super::item::{ChainItem, ChainResult, strand_of};
use super::known::KnownOnChain;
use super::progress::{PayloadAttempt, Progress};
use super::recent::{PayloadKey, RecentPayloads, payload_key};
use super::record::{ChainRecord, ChainRecordError, ChainRecordPlace};
use super::topic_turns::{TopicTurn, TopicTurns};
use super::waiting::{WaitGuard, Waiting};
use super::writer::{ChainPublishError, ChainWriter, OnChain, UnawaitedPayload};
use crate::fair::{CallerGate, CallerPass, GateFullError};
use crate::identity::TenantIdentity;
use crate::landed::{ClientKey, LandedEnvelope, client_key};
use crate::metrics::GatewayMetrics;
use crate::nodes::{
    AskOrder, ChainStrands, ExpectedEnvelope, Nodes, query_place, with_own_buffers,
};
use crate::policy::CallerId;
use crate::routing::ChainTopic;
use crate::running::RunningTasks;

/// Bytes of an originator envelope around the payload, with room to spare.
const ANSWER_OVERHEAD_BYTES: usize = 512;
/// Largest number of remembered payloads on the chain. A guess: at about 120 bytes each they take 30 MB.
const ON_CHAIN_MAX: usize = 250_000;
/// Largest number of payloads at the writer; further ones wait, and callers take turns. A guess: twice the number
/// of open transactions.
const WRITING_MAX: usize = 64;
/// Least time between two attempts to learn the outcome of a transaction. A guess: about the time of a block.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bounds on looking for payloads that are on the chain already: the nodes that are asked for each, the time for each
/// node, and the payloads of a request that are looked for at once. Guesses.
const ASKED_MAX: usize = 3;
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASKS_MAX: usize = 16;
/// Time for a request to find payloads that are on the chain already. A guess: two silent nodes cost the first request
/// twice [`ASK_TIMEOUT`] and leave time for the next one, and clients wait longer than this.
const RECALL_TIMEOUT: Duration = Duration::from_secs(3);

/// A payload that has to be sent, with the channel for its progress.
struct NewPayload {
    item: ChainItem,
    key: PayloadKey,
    progress: watch::Sender<Progress>,
    /// Progress of the payload before it in the same topic and request.
    previous: Option<watch::Receiver<Progress>>,
    caller: CallerId,
    waiting: Waiting,
}

/// A payload that a request waits for.
struct Started {
    index: usize,
    progress: watch::Receiver<Progress>,
    _waits: WaitGuard,
}

/// One payload of a topic, in the order of its request. `new` is `None` if an earlier request has sent an equal
/// payload.
struct TopicStep {
    progress: watch::Receiver<Progress>,
    new: Option<NewPayload>,
}

/// Publishes through the chain. Clones share all state.
#[derive(Clone)]
pub(crate) struct ChainPath {
    writer: Option<Arc<dyn ChainWriter>>,
    nodes: Nodes,
    strands: ChainStrands,
    identity: Option<Arc<TenantIdentity>>,
    /// The latest attempt of each payload, which requests with an equal payload join.
    progress: Arc<Mutex<RecentPayloads<PayloadAttempt>>>,
    /// Payloads that are on the chain, for any time: every reader of a topic can send them again. Kept apart from
    /// `progress`, because an attempt is forgotten after some minutes and its payload must still not be sent twice.
    on_chain: Arc<Cache<PayloadKey, KnownOnChain>>,
    /// The file with the payloads of `on_chain`, which is read after a restart.
    record: Option<Arc<Mutex<ChainRecord>>>,
    metrics: Arc<GatewayMetrics>,
    /// Time for a node to show an envelope after its transaction was mined.
    shown_timeout: Duration,
    /// Lets one payload of each topic go to the writer at a time.
    topics: TopicTurns,
    /// Bounds the payloads at the writer.
    gate: CallerGate,
    /// Counts the payloads at the writer, for which a shutdown waits.
    running: RunningTasks,
}

impl ChainPath {
    /// Publishes through `writer`; without one each payload fails with [`ChainPublishError::NoChain`]. A node has
    /// to show a payload within `shown_timeout` after its transaction was mined. Results are kept for
    /// `results_kept`.
    pub(crate) fn new(
        writer: Option<Arc<dyn ChainWriter>>,
        nodes: Nodes,
        strands: ChainStrands,
        identity: Option<Arc<TenantIdentity>>,
        metrics: Arc<GatewayMetrics>,
        shown_timeout: Duration,
        results_kept: Duration,
    ) -> Self {
        let progress = Arc::new(Mutex::new(RecentPayloads::new(results_kept)));
        let on_chain = Arc::new(Cache::new(ON_CHAIN_MAX));
        let (topics, gate) = (TopicTurns::default(), CallerGate::new(WRITING_MAX));
        let running = RunningTasks::default();
        Self {
            writer,
            nodes,
            strands,
            identity,
            progress,
            on_chain,
            record: None,
            metrics,
            shown_timeout,
            topics,
            gate,
            running,
        }
    }

    /// Remembers payloads on the chain in a file, too. Those that it has already are not sent again.
    ///
    /// # Errors
    /// [`ChainRecordError`] if the file cannot be used.
    pub(crate) fn recorded_at(self, place: &ChainRecordPlace) -> Result<Self, ChainRecordError> {
        let (record, known) = ChainRecord::open(place, ON_CHAIN_MAX)?;
        for (key, place) in known {
            self.on_chain.insert(key, KnownOnChain::new(place));
        }
        Ok(Self { record: Some(Arc::new(Mutex::new(record))), ..self })
    }

    /// Counts payloads at the writer in `running`.
    pub(crate) fn counted_in(self, running: RunningTasks) -> Self {
        Self { running, ..self }
    }

    /// Returns true if the gateway has sent the payload or knows that it is on the chain, and does not know that it
    /// has failed.
    pub(crate) fn knows(&self, payload: &Bytes) -> bool {
        let (key, now) = (payload_key(payload), std::time::Instant::now());
        let progress = self.progress.lock().get(&key, now);
        match progress {
            Some(attempt) => !matches!(*attempt.progress.borrow(), Progress::Done(Err(_))),
            None => self.on_chain.get(&key).is_some_and(|known| !known.is_lost()),
        }
    }

    /// Records that a payload is on the chain as this envelope. Requests with the payload are answered with it.
    pub(crate) fn record_found(&self, payload: &Bytes, envelope: OriginatorEnvelope) {
        let (_, progress) = watch::channel(Progress::Done(Ok(with_own_buffers(&envelope))));
        let attempt = PayloadAttempt { progress, waiting: Waiting::default(), is_followed: false };
        self.remember(payload, payload_key(payload), attempt);
    }

    /// Looks for payloads that this gateway has put on the chain long ago, and for those that other gateways have put
    /// there, at the ids that these gateways have shared (`shared`). If a node shows such an envelope, requests are
    /// answered with it. Other payloads, and those that are not found within [`RECALL_TIMEOUT`], are sent like new
    /// ones. If this gateway knows their transactions, it waits for these instead.
    ///
    /// Every reader of a topic can repeat its payloads, and a repetition costs its caller nothing. So only a few are
    /// looked for at once, each at one node after another, and not at all nodes.
    pub(crate) async fn recall(
        &self,
        payloads: Vec<(ChainTopic, &Bytes)>,
        shared: &[(ClientKey, LandedEnvelope)],
    ) {
        if payloads.is_empty() {
            return; // most requests are for nodes alone, which share thousands of ids
        }
        let shared: BTreeMap<ClientKey, LandedEnvelope> = shared.iter().copied().collect();
        let known: BTreeMap<PayloadKey, (ChainTopic, &Bytes, LandedEnvelope)> = payloads
            .into_iter()
            .filter_map(|(topic, payload)| {
                let key = payload_key(payload);
                Some((key, (topic, payload, self.landed(topic, payload, &key, &shared)?)))
            })
            .collect();
        if known.is_empty() {
            return;
        }
        let known: Vec<_> = known.into_iter().collect();
        let order = self.nodes.ask_order();
        let recalled = async {
            for known in known.chunks(ASKS_MAX) {
                let asked = known.iter().map(async |(key, (topic, payload, landed))| {
                    match self.shown_at(payload, *landed, &order).await {
                        Some(envelope) => self.record_found(payload, envelope),
                        None => self.find_shared(*key, *topic, payload, *landed).await,
                    }
                });
                futures_util::future::join_all(asked).await;
            }
        };
        if timeout(RECALL_TIMEOUT, recalled).await.is_err() {
            tracing::debug!("payloads that are on the chain were not found in time");
        }
    }

    /// Returns the id of a payload on the chain, if nodes have to be asked for its envelope: this gateway has put it
    /// there and has forgotten the result, or another gateway has shared the id.
    fn landed(
        &self,
        topic: ChainTopic,
        payload: &Bytes,
        key: &PayloadKey,
        shared: &BTreeMap<ClientKey, LandedEnvelope>,
    ) -> Option<LandedEnvelope> {
        let attempt = self.progress.lock().get(key, std::time::Instant::now());
        let own = match attempt {
            Some(attempt) if !matches!(*attempt.progress.borrow(), Progress::Done(Err(_))) => {
                return None;
            }
            Some(_) => None,
            None => self.on_chain.get(key).filter(|known| !known.is_lost()),
        };
        let own = own.map(|known| LandedEnvelope {
            id: EnvelopeId::new(strand_of(topic), known.place.sequence_id),
            transaction: Some(known.place.transaction_hash),
        });
        if own.is_some() || shared.is_empty() {
            return own;
        }
        shared.get(&client_key(payload)).copied()
    }

    /// Returns the envelope of a payload if a node shows it at this id, from this transaction.
    async fn shown_at(
        &self,
        payload: &Bytes,
        landed: LandedEnvelope,
        order: &AskOrder,
    ) -> Option<OriginatorEnvelope> {
        let transaction_hash = landed.transaction?;
        // Only the choice among several matching envelopes uses the block's time.
        let (id, payload, block_time_s) = (landed.id, payload.clone(), 0);
        let expected = ExpectedEnvelope { id, payload, transaction_hash, block_time_s };
        for node in order.nodes().into_iter().take(ASKED_MAX) {
            match timeout(ASK_TIMEOUT, query_place(&node, id, &expected.payload)).await {
                Ok(Ok(Some(shown))) if expected.matches(&shown).is_some() => return Some(shown),
                Ok(_) => {}
                Err(_) => order.put_last(&node),
            }
        }
        None
    }

    /// Looks at the chain for a payload that another gateway has put there, and that no node shows where Redis has it:
    /// a reorganisation may have moved it, or no node can be asked. The chain has to show it in its transaction.
    async fn find_shared(
        &self,
        key: PayloadKey,
        topic: ChainTopic,
        payload: &Bytes,
        landed: LandedEnvelope,
    ) {
        let (Some(writer), Some(transaction)) = (&self.writer, landed.transaction) else { return };
        if self.on_chain.get(&key).is_some() {
            return; // this gateway has put it there itself
        }
        if let Some(place) = writer.find(topic, payload.clone(), transaction).await {
            self.on_chain.insert(key, KnownOnChain::new(place));
        }
    }

    /// Returns the current price of gas; 0 without a chain.
    pub(crate) fn gas_price(&self) -> WeiPerGas {
        self.writer.as_ref().map_or(WeiPerGas(0), |writer| writer.gas_price())
    }

    /// Publishes all items and returns one result for each, with its index in the request. Payloads of one topic get on
    /// the chain in the order of the request. If a payload fails, the later payloads of its topic are not sent. If the
    /// future is dropped, payloads that were not sent yet are cancelled, unless another request waits for them.
    pub(crate) async fn publish(
        &self,
        caller: &CallerId,
        items: Vec<ChainItem>,
    ) -> Vec<(usize, ChainResult)> {
        let mut topics: BTreeMap<ChainTopic, Vec<ChainItem>> = BTreeMap::new();
        for item in items {
            topics.entry(item.topic).or_default().push(item);
        }
        // All payloads start before the first one is awaited, so that they can share a block.
        let started: Vec<_> =
            topics.into_values().flat_map(|items| self.start(caller, items)).collect();
        let waiting = started.into_iter().map(async |mut started| {
            let index = started.index;
            let done = started.progress.wait_for(|progress| progress.result().is_some()).await;
            let result = done.ok().and_then(|progress| progress.result());
            // The task that follows the payload has ended without a result, perhaps after it had sent it.
            let lost = || Err(ChainPublishError::Open("the gateway follows it no more".into()));
            (index, result.unwrap_or_else(lost))
        });
        futures_util::future::join_all(waiting).await
    }

    /// Starts to send the payloads of one topic, or joins earlier attempts of equal payloads.
    fn start(&self, caller: &CallerId, items: Vec<ChainItem>) -> Vec<Started> {
        let mut started = Vec::with_capacity(items.len());
        let mut steps = Vec::with_capacity(items.len());
        let mut previous = None;
        for item in items {
            let (index, key) = (item.index, payload_key(&item.payload));
            let (step, waits) = self.join_or_create(caller, item, key, previous);
            previous = Some(step.progress.clone());
            started.push(Started { index, progress: step.progress.clone(), _waits: waits });
            steps.push(step);
        }
        tokio::spawn(self.clone().send_in_order(steps));
        started
    }

    fn join_or_create(
        &self,
        caller: &CallerId,
        item: ChainItem,
        key: PayloadKey,
        previous: Option<watch::Receiver<Progress>>,
    ) -> (TopicStep, WaitGuard) {
        let now = std::time::Instant::now();
        // One lock for the look-up and the entry: of two equal payloads at the same time only one is sent.
        let mut recent = self.progress.lock();
        if let Some(PayloadAttempt { progress, waiting, .. }) = recent.get(&key, now) {
            self.metrics.chain_repeats.inc();
            return (TopicStep { progress, new: None }, waiting.wait());
        }
        let (sender, progress) = watch::channel(Progress::Sending);
        let waiting = Waiting::default();
        let attempt = PayloadAttempt {
            progress: progress.clone(),
            waiting: waiting.clone(),
            is_followed: false,
        };
        recent.put(key, attempt, weight_of(&item.payload), now);
        let (caller, waits) = (caller.clone(), waiting.wait());
        let new = Some(NewPayload { item, key, progress: sender, previous, caller, waiting });
        (TopicStep { progress, new }, waits)
    }

    /// Sends the new payloads of one topic, each when the one before it is on the chain. If a payload does not get
    /// there, or its outcome is unknown, the later ones are not sent: an equal request must still be able to put
    /// them on the chain in their order.
    async fn send_in_order(self, steps: Vec<TopicStep>) {
        let mut all_on_chain = true;
        for TopicStep { mut progress, new } in steps {
            match new {
                Some(new) if all_on_chain => {
                    tokio::spawn(self.clone().carry(new));
                }
                Some(NewPayload { key, progress, .. }) => {
                    let reason = "an earlier payload of the request did not get onto the chain";
                    self.progress.lock().remove(&key);
                    progress.send_replace(Progress::Done(Err(self.unsent(reason))));
                }
                None => {}
            }
            if all_on_chain {
                let sent = progress.wait_for(|now| !matches!(now, Progress::Sending)).await;
                all_on_chain = sent.is_ok_and(|progress| progress.is_on_chain());
            }
        }
    }

    /// Follows a payload until its outcome is known, even if no request waits for it any more. While the outcome of a
    /// transaction is open, the waiting requests get that answer, and later requests wait for the next attempt.
    async fn carry(self, mut new: NewPayload) {
        let mut following = FollowedPayload::default();
        // Held between attempts too, so that a shutdown waits for a transaction that is followed.
        let mut running = None;
        loop {
            // Counted from the start of the attempt, so that a writer that answers at once is not asked in a busy
            // loop.
            let retry_at = Instant::now() + RETRY_AFTER;
            let result = self.send(&new, following.is_first()).await;
            let known = self.on_chain.get(&new.key);
            let known = known.map(|known| known.after(&result, Instant::now()));
            if let Some(lost) = known.filter(KnownOnChain::is_lost) {
                self.on_chain.insert(new.key, lost);
            }
            if result.as_ref().is_err_and(ChainPublishError::may_be_published) {
                new.item.bill.leave_open();
            }
            match following.next(result, Instant::now()) {
                AfterAttempt::Follow(result) => {
                    let (next, progress) = watch::channel(Progress::Sending);
                    let waiting = new.waiting.clone();
                    let attempt = PayloadAttempt { progress, waiting, is_followed: true };
                    self.remember(&new.item.payload, new.key, attempt);
                    let answered = std::mem::replace(&mut new.progress, next);
                    answered.send_replace(Progress::Done(result));
                    running.get_or_insert_with(|| self.running.begin());
                }
                AfterAttempt::TryAgain => {}
                AfterAttempt::End { result, is_kept } => {
                    if !is_kept {
                        // The next request starts a new attempt. `on_chain` still keeps payloads that are on the
                        // chain from being sent again.
                        self.progress.lock().remove(&new.key);
                    }
                    new.progress.send_replace(Progress::Done(result));
                    return;
                }
            }
            sleep_until(retry_at).await;
        }
    }

    fn remember(&self, payload: &Bytes, key: PayloadKey, attempt: PayloadAttempt) {
        let now = std::time::Instant::now();
        self.progress.lock().put(key, attempt, weight_of(payload), now);
    }

    /// Makes one attempt, from sending until a node shows the envelope. `is_first` is true if no earlier attempt
    /// has sent the payload.
    async fn send(&self, new: &NewPayload, is_first: bool) -> ChainResult {
        let NewPayload { item, progress, previous, caller, .. } = new;
        let since = Instant::now();
        let originator = strand_of(item.topic);
        let on_chain = self.put(new, is_first).await?;
        progress.send_replace(Progress::OnChain);
        let OnChain { sequence_id, transaction_hash, block_time_s } = on_chain;
        let id = EnvelopeId::new(originator, sequence_id);
        tracing::debug!(envelope = %id, transaction = %transaction_hash, "durable on the chain");
        let payload = item.payload.clone();
        let expected = ExpectedEnvelope { id, payload, transaction_hash, block_time_s };
        let judge = DropCheck {
            identity: self.identity.as_deref(),
            nodes: &self.nodes,
            caller,
            strands: &self.strands,
            retry_after: RETRY_AFTER,
        };
        let is_settled = || previous.as_ref().is_none_or(|previous| previous.borrow().is_settled());
        let envelope =
            judge.shown_or_dropped(item, &is_settled, &expected, self.shown_timeout).await?;
        self.metrics.of(originator).count_published(since.elapsed(), 1, 0);
        Ok(envelope)
    }

    /// Puts a payload on the chain, unless this gateway knows that it is there, and enters it in the bill.
    async fn put(&self, new: &NewPayload, is_first: bool) -> Result<OnChain, ChainPublishError> {
        let NewPayload { item: ChainItem { topic, payload, bill, .. }, key, .. } = new;
        let before = self.on_chain.get(key);
        if let Some(known) = before.filter(|known| !known.is_lost()) {
            return Ok(known.place);
        }
        let writer = self.writer.as_ref().ok_or(ChainPublishError::NoChain)?;
        let pass = if is_first { Some(self.enter(new).await?) } else { None };
        let _running = self.running.begin();
        // It may still be there, or a reorganisation may have moved it. Another transaction would be paid for, too.
        let present = match before.filter(|_| is_first) {
            Some(known) => {
                let transaction = known.place.transaction_hash;
                let found = writer.find(*topic, payload.clone(), transaction).await;
                found.filter(|found| known.may_be_shown_at(found.sequence_id))
            }
            None => None,
        };
        let on_chain = match present {
            Some(present) => present,
            None => {
                let since = Instant::now();
                let written = writer.publish(*topic, payload.clone()).await;
                // A further attempt joins the earlier transaction, so its time would not be that of a payload.
                if is_first {
                    self.metrics.written(*topic).observe(since.elapsed().as_secs_f64());
                }
                written?
            }
        };
        drop(pass);
        // If several gateways wait for the same transaction, the gateway that shares it first bills it.
        let is_billed_elsewhere = self.keep_place(strand_of(*topic), payload, on_chain, true).await;
        // A transaction costs gas once, even if a reorganisation gives its payload another sequence id.
        let is_billed_here =
            before.is_some_and(|known| known.place.transaction_hash == on_chain.transaction_hash);
        if is_billed_elsewhere || is_billed_here {
            bill.give_back().await;
        } else {
            bill.enter_on_chain();
        }
        Ok(on_chain)
    }

    /// Records that a payload is on the chain, so that it is not sent again: remembers it, writes it to the file, and
    /// shares its place with other gateways. `is_billed` says that this gateway bills it. Returns true if another
    /// gateway has it in a bill already.
    async fn keep_place(
        &self,
        strand: OriginatorId,
        payload: &Bytes,
        at: OnChain,
        is_billed: bool,
    ) -> bool {
        let key = payload_key(payload);
        self.on_chain.insert(key, KnownOnChain::new(at));
        self.record(key, at).await;
        let id = EnvelopeId::new(strand, at.sequence_id);
        let landed = LandedEnvelope { id, transaction: Some(at.transaction_hash) };
        match self.nodes.share() {
            Some(share) => share.tell_payload((client_key(payload), landed), is_billed).await,
            None => false,
        }
    }

    /// Records payloads that get on the chain although no attempt here follows them, such as those of earlier
    /// processes, so that they are not sent again. Runs until `end`.
    pub(crate) async fn keep_resumed(self, end: CancellationToken) {
        let Some(writer) = &self.writer else { return };
        loop {
            let resumed = tokio::select! {
                () = end.cancelled() => return,
                resumed = writer.next_resumed() => resumed,
            };
            let Some(resumed) = resumed else { return };
            self.keep_unawaited(resumed).await;
        }
    }

    /// Records a payload on the chain, so that it is not sent again, unless an attempt has recorded it or follows it:
    /// that attempt also bills it.
    async fn keep_unawaited(&self, resumed: UnawaitedPayload) {
        let UnawaitedPayload { originator, payload, on_chain } = resumed;
        let key = payload_key(&payload);
        let attempt = self.progress.lock().get(&key, std::time::Instant::now());
        let is_followed = attempt.is_some_and(|it| it.is_followed && it.is_open());
        if is_followed || self.on_chain.get(&key).is_some_and(|known| known.place == on_chain) {
            return; // it may be between two questions for its outcome
        }
        // Not billed here: a gateway that only stood still, while another one took its transaction over, may still
        // follow the payload and bill it.
        self.keep_place(originator, &payload, on_chain, false).await;
        // An earlier attempt has ended with an unknown outcome: its result is out of date now.
        let mut recent = self.progress.lock();
        if recent.get(&key, std::time::Instant::now()).is_some_and(|it| !it.is_open()) {
            recent.remove(&key);
        }
    }

    /// Writes a payload on the chain to the file, on a thread that may wait for the disk.
    async fn record(&self, key: PayloadKey, at: OnChain) {
        let Some(record) = self.record.clone() else { return };
        let written = tokio::task::spawn_blocking(move || record.lock().add(&key, &at));
        let _ = written.await; // it fails only while the runtime ends
    }

    /// Waits for the turn of the payload's topic, and for a place at the writer. Gives up if no request waits for the
    /// payload any more: nothing was sent yet.
    async fn enter(&self, new: &NewPayload) -> Result<(CallerPass, TopicTurn), ChainPublishError> {
        let gone = || self.unsent("its caller hung up before it was sent");
        let entered = async {
            // Before the place: a payload that waits for its turn takes no place from other topics.
            let turn = self.topics.enter(new.item.topic, &new.caller).await?;
            Ok::<_, GateFullError>((self.gate.enter(&new.caller).await?, turn))
        };
        let entered = tokio::select! {
            entered = entered => entered,
            () = new.waiting.abandoned() => return Err(gone()),
        };
        let entered = entered.map_err(|full| self.unsent(full))?;
        if new.waiting.is_abandoned() { Err(gone()) } else { Ok(entered) }
    }

    /// Returns the error of a payload that was not passed to the writer. Another gateway that shares the payer's Redis
    /// may be sending it: its caller may have asked that one before.
    fn unsent(&self, reason: impl ToString) -> ChainPublishError {
        match self.nodes.share() {
            Some(_) => ChainPublishError::NotSentHere(reason.to_string()),
            None => ChainPublishError::NotSent(reason.to_string()),
        }
    }
}

fn weight_of(payload: &Bytes) -> usize {
    payload.len() + ANSWER_OVERHEAD_BYTES
}
