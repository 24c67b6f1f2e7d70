//! The task that owns the account's nonces: it carries out the decisions of [`Nonces`] and reports their outcome to it.

mod ending;
mod polling;
mod resume;
mod sharing;

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::local::PrivateKeySigner;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::error::BroadcastError;
use super::heads::EndpointHeads;
use super::jobs::{Jobs, Waiter};
use super::nonces::{Nonces, PRICE_FACTOR_MAX};
use super::outcome::{BroadcastReceipt, BroadcastResult, BroadcastStatus, ResumedPayload};
use super::payload::{BroadcasterContracts, PayloadTopic};
use super::poll::{Heads, PollResponse};
use super::receipts::MinedPayload;
use super::record::{NonceRecord, RecordEntry};
use super::shared::BroadcasterState;
use super::sharing::{FinishedNonce, Sharing, SyncResponse};
use super::signing::{FILLER_GAS, TransactionSigner, UnsignedTransaction};
use super::slots::{
    DueTransaction, JobId, NoncePurpose, Recorded, SendOutcome, SignRequest, SignedTransaction,
    SlotId, SlotOutcome, Timeouts,
};
use super::submission;
use crate::admin::{Wei, WeiPerGas};
use crate::redis_link::RedisLinkError;
use crate::send::RequestError;
use crate::spending::{CeilingError, Spending, SpendingLimits, present_minute};

/// The number of payloads whose gas is estimated concurrently. Guess.
const ESTIMATES_MAX: usize = 32;
/// Interval at which the contracts' payload bounds are read. Guess: an administrator changes them a
/// few times a year.
const BOUNDS_EVERY: Duration = Duration::from_secs(60);

/// A message from a caller to the task.
#[derive(Debug)]
pub(super) enum DriverCommand {
    /// Broadcast a payload.
    Send { topic: PayloadTopic, payload: Bytes, waiter: Waiter },
    /// A caller has waited for this time and waits no longer. The reply is the result, if it has come, or the present
    /// knowledge about the payload.
    GaveUp {
        topic: PayloadTopic,
        digest: B256,
        waited: Duration,
        /// The caller's end of the channel for the result. Closed by the task, so that no result is lost in between.
        outcome: oneshot::Receiver<BroadcastResult>,
        reply: Waiter,
    },
    /// End the task.
    Stop { stopped: oneshot::Sender<()> },
}

/// The result of a request that ran concurrently with the task.
enum RequestResult {
    /// The gas limit of a payload's call.
    GasEstimated(JobId, Result<u64, BroadcastError>),
    /// The response to the transaction with this nonce and purpose. `is_slow` is true if it took long.
    Sent { nonce: u64, purpose: NoncePurpose, sent: SendOutcome, is_slow: bool },
    /// The state of the account.
    Polled(Result<PollResponse, RequestError>),
    /// The reason why a mined transaction failed.
    Failed(JobId, BroadcastError),
    /// The contracts' payload bounds have been read.
    Bounds,
    /// The result of synchronizing shared nonces. The ends in the list were not reported to Redis.
    Synced(Vec<FinishedNonce>, Result<SyncResponse, RedisLinkError>),
    /// The receipt of a payload that another process has broadcast.
    FoundElsewhere(JobId, Option<MinedPayload>, Heads),
}

/// The task of a broadcaster.
pub(super) struct Driver {
    state: Arc<BroadcasterState>,
    contracts: BroadcasterContracts,
    signer: TransactionSigner,
    jobs: Jobs,
    nonces: Nonces,
    /// The file of signed transactions; kept until the task ends, so that no other process opens it meanwhile.
    record: Option<Arc<Mutex<NonceRecord>>>,
    /// The nonces shared with other processes; replaces the record.
    sharing: Option<Sharing>,
    /// The end of the time for which this task stops sending because another sender uses the account.
    rival_until: Option<Instant>,
    spending: Spending,
    /// The slots of mined payloads that are still on record, with the times since which they are mined, oldest first.
    mined_on_record: VecDeque<(Duration, SlotId)>,
    /// Takes the payloads that are mined without a caller.
    resumed: mpsc::UnboundedSender<ResumedPayload>,
    requests: JoinSet<RequestResult>,
    estimates: Arc<Semaphore>,
    /// The nonce of the transaction that was sent last.
    last_nonce: Option<u64>,
    /// The lowest nonce in use, and the time since which it is.
    lowest: Option<(u64, Instant)>,
    is_sending: bool,
    is_polling: bool,
    /// The time of the next poll, and the pause after it.
    poll_at: Instant,
    pause: Duration,
    /// The earliest time at which an endpoint is asked again to prove a count.
    prove_at: Instant,
    /// The transaction whose receipt is contested, and the time since which it is.
    contested: Option<(B256, Instant)>,
    /// The earliest time of the next warning about a contested receipt.
    warn_at: Instant,
    heads: EndpointHeads,
    started: Instant,
}

impl Driver {
    pub(super) fn new(
        state: Arc<BroadcasterState>,
        contracts: BroadcasterContracts,
        key: PrivateKeySigner,
        record: Option<NonceRecord>,
        sharing: Option<Sharing>,
        limits: SpendingLimits,
        resumed: mpsc::UnboundedSender<ResumedPayload>,
    ) -> Self {
        let mut nonces = Nonces::new(Timeouts::new(state.in_flight_max));
        if sharing.is_some() {
            nonces.share();
        }
        let heads = EndpointHeads::new(state.endpoints.display_urls());
        let mut driver = Self {
            signer: TransactionSigner::new(key, state.endpoints.id()),
            state,
            contracts,
            jobs: Jobs::default(),
            nonces,
            record: None,
            sharing,
            rival_until: None,
            spending: Spending::new(limits),
            mined_on_record: VecDeque::new(),
            resumed,
            requests: JoinSet::new(),
            estimates: Arc::new(Semaphore::new(ESTIMATES_MAX)),
            last_nonce: None,
            lowest: None,
            is_sending: false,
            is_polling: false,
            poll_at: Instant::now(),
            pause: polling::POLL_MIN,
            prove_at: Instant::now(),
            contested: None,
            warn_at: Instant::now(),
            heads,
            started: Instant::now(),
        };
        if let Some(record) = record {
            driver.spending = Spending::resume(limits, present_minute(), record.spent_before());
            driver.recover(record.live());
            driver.record = Some(Arc::new(Mutex::new(record)));
        }
        driver.update_status();
        driver
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn account(&self) -> Address {
        self.signer.account()
    }

    /// Runs until it gets the signal to stop, or the last [`Broadcaster`](super::Broadcaster) is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<DriverCommand>) {
        self.refresh_bounds_later();
        let stopped = loop {
            self.make_way_for_rivals().await;
            self.sync();
            self.sign().await;
            self.send();
            self.poll();
            self.record_mined_over().await;
            self.update_status();
            let rest = self.rest();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(DriverCommand::Stop { stopped }) => break Some(stopped),
                    Some(command) => self.take(command),
                    None => break None,
                },
                Some(result) = self.requests.join_next(), if !self.requests.is_empty() => {
                    match result {
                        Ok(result) => self.handle(result).await,
                        // The panic hook has reported the panic. The same request is made again.
                        Err(_) => (self.is_sending, self.is_polling) = (false, false),
                    }
                }
                () = rest => {}
            }
        };
        self.requests.shutdown().await;
        self.end_all();
        self.leave().await;
        drop(self.record.take());
        if let Some(stopped) = stopped {
            // An error means that the caller no longer waits.
            let _ = stopped.send(());
        }
    }

    fn update_status(&mut self) {
        let lowest = self.nonces.lowest();
        if lowest != self.lowest.map(|(nonce, _)| nonce) {
            self.lowest = lowest.map(|nonce| (nonce, Instant::now()));
        }
        let in_flight = self.nonces.in_flight();
        let now = BroadcastStatus {
            in_flight,
            waiting: self.jobs.len().saturating_sub(in_flight),
            last_nonce: self.last_nonce,
            lowest_since: self.lowest.map(|(_, since)| since),
        };
        self.state.status.send_if_modified(|status| std::mem::replace(status, now) != now);
    }

    /// Waits until the next transaction, poll or entry of the record is due.
    fn rest(&self) -> impl Future<Output = ()> + use<> {
        let send = self.nonces.wake_at().filter(|_| !self.is_sending);
        let send = send.map(|at| at.saturating_sub(self.now()));
        let poll = (self.must_watch() && !self.is_polling)
            .then(|| self.poll_at.saturating_duration_since(Instant::now()));
        let sync = self.sync_at().map(|at| at.saturating_duration_since(Instant::now()));
        let over = self.mined_over_at().map(|at| at.saturating_sub(self.now()));
        let pause = send.into_iter().chain(poll).chain(sync).chain(over).min();
        async move {
            match pause {
                Some(pause) => sleep(pause).await,
                None => pending().await,
            }
        }
    }

    fn must_watch(&self) -> bool {
        !self.nonces.is_idle() || self.nonces.must_poll() || self.rival_until.is_some()
    }

    fn take(&mut self, command: DriverCommand) {
        match command {
            DriverCommand::Send { topic, payload, waiter } => {
                let now = self.now();
                let waiter = self.jobs.answer_from_memory(topic, &payload, waiter, now);
                let Some(waiter) = waiter else { return };
                let call = || self.contracts.call(topic, payload.clone());
                if let Some(id) = self.jobs.add(topic, &payload, Some(waiter), call) {
                    self.estimate_gas(id);
                }
            }
            DriverCommand::GaveUp { topic, digest, waited, mut outcome, reply } => {
                let result = outcome.try_recv().unwrap_or_else(|_| {
                    outcome.close();
                    Err(self.gave_up(topic, digest, waited))
                });
                // An error means that the caller no longer waits.
                let _ = reply.send(result);
            }
            DriverCommand::Stop { .. } => {}
        }
    }

    /// Starts to estimate a payload's gas and refreshes the gas price.
    fn estimate_gas(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let (state, estimates, call) =
            (self.state.clone(), self.estimates.clone(), job.call.clone());
        let account = self.account();
        self.requests.spawn(async move {
            let _permit = estimates.acquire_owned().await;
            let (gas_limit, _) = tokio::join!(
                submission::gas_limit(&state.endpoints, account, &call),
                state.price.current(&state.endpoints),
            );
            RequestResult::GasEstimated(id, gas_limit)
        });
    }

    /// Signs the transactions that are due and puts all of them on record with one sync. Returns when they are
    /// recorded, or when Redis has not answered in time.
    async fn sign(&mut self) {
        let jobs = &self.jobs;
        let is_wanted = |id| jobs.get(id).is_some_and(|job| !job.is_abandoned());
        for id in self.nonces.withdraw_unwanted(is_wanted) {
            self.finish(id, &Err(BroadcastError::Ended));
        }
        let to_sign = self.nonces.assign();
        if to_sign.is_empty() {
            return;
        }
        if to_sign.iter().any(|it| it.over.is_some()) {
            self.state.price.current(&self.state.endpoints).await;
        }
        let (prices, price_max) = (self.state.price.last(), self.spending.gas_price_max());
        let (mut signed, mut costs, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let taken = self.now();
        let mut ceiling: Option<BroadcastError> = None;
        for it in to_sign {
            // A cheaper transaction with a higher nonce could not be mined either, because this nonce stays unused.
            let stopped = ceiling.clone().filter(|_| it.over.is_none());
            let is_replacement = it.over.is_some() && !it.follows;
            let price = if is_replacement { prices.up_to(price_max) } else { prices.lower };
            match stopped.map_or_else(|| self.signed(&it, price, taken), Err) {
                Ok(Some((transaction, cost))) => {
                    signed.push((it, transaction));
                    costs.push(cost);
                }
                Ok(None) => failed.push((it, None)),
                Err(error) => {
                    ceiling =
                        Some(error.clone()).filter(|it| matches!(it, BroadcastError::Ceiling(_)));
                    failed.push((it, Some(error)));
                }
            }
        }
        self.not_signed(failed).await;
        let recorded = self.put_on_record(&signed, &costs, taken).await;
        let (now, mut failed) = (self.now(), Vec::new());
        for ((it, transaction), recorded) in signed.into_iter().zip(recorded) {
            match recorded {
                Recorded::Yes => self.nonces.signed(it.nonce, transaction, prices.lower, now),
                Recorded::No(error) => failed.push((it, Some(error))),
                Recorded::Maybe => self.nonces.maybe_recorded(it.nonce, transaction, now),
            }
        }
        self.not_signed(failed).await;
    }

    /// Returns the signed transaction and the cost that it adds; `None` if its price would exceed [`PRICE_FACTOR_MAX`]
    /// times the current one.
    fn signed(
        &mut self,
        it: &SignRequest,
        price: WeiPerGas,
        taken: Duration,
    ) -> Result<Option<(SignedTransaction, Wei)>, BroadcastError> {
        if it.price_min > price.times(PRICE_FACTOR_MAX) {
            return Ok(None);
        }
        let gas_price = price.max(it.price_min);
        let (to, input, gas_limit) = match it.purpose {
            NoncePurpose::Filler => (self.account(), Bytes::new(), FILLER_GAS),
            NoncePurpose::Payload(id) => {
                let job = self.jobs.get(id).ok_or(BroadcastError::Ended)?;
                let to = job.call.to.unwrap_or(self.account());
                (to, job.call.data.clone(), job.gas_limit)
            }
        };
        // At most one of the transactions with a nonce is ever paid for, so a replacement adds only the difference. The
        // arithmetic saturates because an endpoint may report any price.
        let added = gas_price.less(it.over.unwrap_or_default()).cost_of(gas_limit);
        let within = self.spending.take(gas_price, added, taken);
        within.map_err(|ceiling| self.stopped_by(ceiling))?;
        let nonce = it.nonce;
        let unsigned = UnsignedTransaction { nonce, gas_price, gas_limit, to, input };
        self.signer.sign(unsigned).map(|signed| Some((signed, added)))
    }

    /// Remembers the ceiling that stops a transaction and returns it as an error.
    fn stopped_by(&self, ceiling: CeilingError) -> BroadcastError {
        *self.state.ceiling.lock() = Some((Instant::now(), ceiling));
        BroadcastError::Ceiling(ceiling)
    }

    /// Gives up the payloads of these transactions, unless a node may have an earlier transaction of them. The requests
    /// ascend by nonce.
    async fn not_signed(&mut self, failed: Vec<(SignRequest, Option<BroadcastError>)>) {
        let too_expensive = || BroadcastError::Refused {
            reason: format!(
                "a replacement would cost over {PRICE_FACTOR_MAX} times the price of gas"
            ),
        };
        let (mut over, mut refused) = (Vec::new(), Vec::new());
        // Descending order, because only the highest nonce can be given back.
        for (it, error) in failed.into_iter().rev() {
            if let Some(SlotOutcome::Refused { job, .. }) =
                self.nonces.not_signed(it.nonce, self.now())
            {
                over.extend([it.slot].into_iter().chain(it.instead_of));
                refused.push((job, error.unwrap_or_else(too_expensive)));
            }
        }
        // A restart would send what was signed before for it, although its caller gets the answer that nothing was
        // sent.
        self.record_over(over, true).await;
        for (job, error) in refused {
            self.finish(job, &Err(self.unsent(job, error)));
        }
    }

    /// Records that slots are over, in Redis with the next sync; with `durable`, syncs the file, if there is one,
    /// before it returns. Logs a failure.
    async fn record_over(&mut self, slots: Vec<SlotId>, durable: bool) {
        if slots.is_empty() {
            return;
        }
        if let Some(sharing) = &mut self.sharing {
            let mined = slots.iter().filter_map(|slot| sharing.mined.remove(slot));
            sharing.finished.extend(mined);
        }
        let entries: Vec<_> = slots.into_iter().map(|slot| RecordEntry::Over { slot }).collect();
        if let Err(error) = self.with_record(move |record| record.append(&entries, durable)).await {
            tracing::error!(code = "transaction_record_failed", %error, "a transaction's outcome cannot be recorded");
        }
    }

    /// Runs a task with the record, if there is one, on a thread that may wait for the disk.
    async fn with_record(
        &mut self,
        task: impl FnOnce(&mut NonceRecord) -> io::Result<()> + Send + 'static,
    ) -> Result<(), BroadcastError> {
        let Some(record) = self.record.clone() else { return Ok(()) };
        let path = record.lock().path().to_owned();
        let failed = |reason: String| BroadcastError::Record { path: path.clone(), reason };
        let written = tokio::task::spawn_blocking(move || {
            let mut record = record.lock();
            task(&mut record)
        });
        let written = written.await.map_err(|error| failed(error.to_string()))?;
        written.map_err(|error| failed(error.to_string()))
    }

    /// Sends the next due transaction, unless one is being sent; see [`Nonces::due`].
    fn send(&mut self) {
        if self.is_sending {
            return;
        }
        let Some(due) = self.nonces.due(self.now()) else { return };
        let DueTransaction { nonce, purpose, signed, recipients } = due;
        (self.is_sending, self.last_nonce) = (true, Some(nonce));
        let (state, since) = (self.state.clone(), Instant::now());
        let topic = match purpose {
            NoncePurpose::Payload(id) => self.jobs.get(id).map(|job| job.topic),
            NoncePurpose::Filler => None,
        };
        self.requests.spawn(async move {
            let sent = submission::send(&state.endpoints, &signed.raw, recipients).await;
            let is_slow = since.elapsed() >= submission::FIRST_MAX;
            tracing::debug!(nonce, hash = %signed.hash, ?sent, "a transaction was sent");
            if let Some(topic) = topic {
                state.times.add_sent(topic, &sent, since.elapsed());
            }
            RequestResult::Sent { nonce, purpose, sent, is_slow }
        });
    }

    async fn handle(&mut self, result: RequestResult) {
        match result {
            RequestResult::GasEstimated(id, Ok(gas_limit)) => {
                if self.jobs.tried(id, gas_limit) {
                    if self.nonces.is_idle() {
                        self.heads.resume(self.now());
                    }
                    self.submit(id);
                }
            }
            // A payload that was taken over from another process meanwhile needs no estimate.
            RequestResult::GasEstimated(id, Err(_)) if !self.jobs.is_trying(id) => {}
            RequestResult::GasEstimated(id, Err(error)) => {
                let told = self.unsent(id, error);
                self.finish(id, &Err(told));
            }
            RequestResult::Failed(id, error) => self.finish(id, &Err(error)),
            RequestResult::Sent { nonce, purpose, sent, is_slow } => {
                self.is_sending = false;
                if is_slow {
                    self.nonces.spread(self.now());
                }
                if let NoncePurpose::Payload(id) = purpose
                    && sent.may_be_out()
                {
                    self.jobs.note_sent(id, self.now());
                }
                let done = self.nonces.sent(nonce, sent, self.now());
                self.done(done.into_iter().collect(), &HashMap::new()).await;
                (self.poll_at, self.pause) = (Instant::now(), polling::POLL_MIN);
            }
            RequestResult::Polled(polled) => self.polled(polled).await,
            RequestResult::Bounds => self.refresh_bounds_later(),
            RequestResult::Synced(finished, synced) => self.synced(finished, synced).await,
            RequestResult::FoundElsewhere(id, found, heads) => {
                self.note_heads(&heads);
                self.found_elsewhere(id, found);
            }
        }
    }

    fn submit(&mut self, id: JobId) {
        self.nonces.submit(id);
        if self.nonces.must_poll() {
            self.poll_at = Instant::now();
        }
    }

    /// Records the end of slots and answers the callers of their payloads.
    async fn done(&mut self, done: Vec<SlotOutcome>, payloads: &HashMap<B256, MinedPayload>) {
        if done.is_empty() {
            return;
        }
        // Mined transactions need no sync, because a restart finds them by polling. A refused payload does: a restart
        // would send it again although its caller got the answer that nothing was sent.
        let durable = done.iter().any(|done| matches!(done, SlotOutcome::Refused { .. }));
        self.end_shared(&done, payloads).await;
        let over = self.over_now(&done);
        self.record_over(over, durable).await;
        for done in done {
            match done {
                SlotOutcome::Mined { purpose: NoncePurpose::Payload(job), hash, .. } => {
                    if let Some(mined) = payloads.get(&hash) {
                        self.mined(job, mined);
                    }
                }
                SlotOutcome::Refused { job, reason, .. } => {
                    let chain_id = self.state.endpoints.id();
                    let error = submission::refused(self.account(), chain_id, reason);
                    self.finish(job, &Err(self.unsent(job, error)));
                }
                SlotOutcome::Unknown { job, hash, .. } => {
                    tracing::warn!(%hash, "no endpoint shows the outcome of a transaction");
                    self.finish(job, &Err(BroadcastError::Unknown { hash }));
                }
                SlotOutcome::Mined { purpose: NoncePurpose::Filler, .. }
                | SlotOutcome::Void { .. } => {}
            }
        }
    }

    fn mined(&mut self, id: JobId, mined: &MinedPayload) {
        let Some(job) = self.jobs.get(id) else { return };
        let (receipt, block_time_s) = match mined {
            MinedPayload::Receipt { receipt, block_time_s } => (receipt, *block_time_s),
            MinedPayload::Event { receipt, .. } => return self.finish(id, &Ok(*receipt)),
        };
        let (hash, contract) = (receipt.transaction_hash, self.contracts.of(job.topic));
        if !receipt.status() {
            let (state, account) = (self.state.clone(), self.account());
            let (call, receipt) = (job.call.clone(), receipt.clone());
            self.requests.spawn(async move {
                let reason = submission::reason(&state.endpoints, account, &call, &receipt).await;
                RequestResult::Failed(id, BroadcastError::Reverted { hash, reason })
            });
            return;
        }
        // Redis may have named the transaction, and lies if it is that of another payload.
        let sequence_id = self.contracts.sequence_id(job.topic, &job.call, receipt);
        let outcome =
            sequence_id.map_or(Err(BroadcastError::NoEvent { hash, contract }), |sequence_id| {
                Ok(BroadcastReceipt {
                    sequence_id,
                    transaction_hash: hash,
                    block_number: receipt.block_number.unwrap_or_default(),
                    block_time_s,
                })
            });
        self.finish(id, &outcome);
    }

    fn finish(&mut self, id: JobId, outcome: &BroadcastResult) {
        if let Some(since) = self.jobs.get(id).and_then(|job| job.out_since) {
            self.state.times.add_waited(outcome.is_ok(), self.now().saturating_sub(since));
        }
        if let Ok(receipt) = outcome {
            self.tell_resumed(id, *receipt);
        }
        if let Some(next) = self.jobs.finish(id, outcome, self.now()) {
            self.submit(next);
        }
    }

    /// Starts a read of the contracts' payload bounds after [`BOUNDS_EVERY`].
    fn refresh_bounds_later(&mut self) {
        let (state, contracts) = (self.state.clone(), self.contracts);
        self.requests.spawn(async move {
            sleep(BOUNDS_EVERY).await;
            state.refresh_bounds(contracts).await;
            RequestResult::Bounds
        });
    }
}

#[cfg(test)]
mod tests;
