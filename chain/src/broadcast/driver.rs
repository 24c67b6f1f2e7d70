//! The task that owns the account's nonces: does what [`Nonces`] says, and tells it what happened.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::{SignableTransaction as _, Transaction as _, TxEnvelope, TxLegacy};
use alloy::eips::Decodable2718 as _;
use alloy::eips::Encodable2718 as _;
use alloy::network::TxSignerSync as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::signers::local::PrivateKeySigner;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::error::BroadcastError;
use super::jobs::{Jobs, Outcome, Stage, Waiter};
use super::nonces::{Done, JobId, Nonces, Patience, Polled, Sent, Signed, ToSign, Work, replacing};
use super::payload::{Contracts, Topic};
use super::record::{Entry, Live, Record};
use super::seek::Wanted;
use super::submission::{self, Mined, Watched};
use super::{BroadcastReceipt, Shared};
use crate::send::RequestError;

/// The first look at the chain comes at once, the next ones ever later, up to this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);
/// As long as the chain does not answer.
const LOOK_EVERY_SILENT: Duration = Duration::from_millis(500);
/// How many payloads are tried at once.
const TRIED_AT_ONCE: usize = 32;
/// A replacement costs at most so many times what gas costs now.
const PRICE_FACTOR_MAX: u128 = 8;
/// What a transaction that does nothing needs; chains with fees for data want some more.
const FILLER_GAS: u64 = 100_000;
/// How often the contracts are asked for their limits.
const BOUNDS_EVERY: Duration = Duration::from_secs(60);

/// What callers want.
#[derive(Debug)]
pub(super) enum Command {
    /// A payload on the chain.
    Send { topic: Topic, payload: Bytes, waiter: Waiter },
    /// A caller does not wait any more: which transaction may still be mined, if one may?
    GaveUp { topic: Topic, digest: B256, reply: oneshot::Sender<Option<B256>> },
    /// The end.
    Stop { stopped: oneshot::Sender<()> },
}

/// Something that was done beside the task.
enum Event {
    Tried(JobId, Result<u64, BroadcastError>),
    Sent(u64, Sent),
    Polled(Result<(Polled, HashMap<B256, Mined>), RequestError>),
    Failed(JobId, BroadcastError),
    Bounds,
}

pub(super) struct Driver {
    shared: Arc<Shared>,
    contracts: Contracts,
    key: PrivateKeySigner,
    jobs: Jobs,
    nonces: Nonces,
    record: Option<Record>,
    beside: JoinSet<Event>,
    tries: Arc<Semaphore>,
    is_sending: bool,
    is_polling: bool,
    /// When the chain is looked at next, and the pause after that.
    look_at: Instant,
    pause: Duration,
    begun: Instant,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        contracts: Contracts,
        key: PrivateKeySigner,
        record: Option<Record>,
    ) -> Self {
        let nonces = Nonces::new(Patience::new(shared.in_flight_max));
        let mut driver = Self {
            shared,
            contracts,
            key,
            jobs: Jobs::default(),
            nonces,
            record: None,
            beside: JoinSet::new(),
            tries: Arc::new(Semaphore::new(TRIED_AT_ONCE)),
            is_sending: false,
            is_polling: false,
            look_at: Instant::now(),
            pause: LOOK_AGAIN_AFTER,
            begun: Instant::now(),
        };
        if let Some(record) = record {
            driver.recover(record.live());
            driver.record = Some(record);
        }
        driver.tell();
        driver
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn account(&self) -> Address {
        self.key.address()
    }

    /// Takes up what an earlier process has left.
    fn recover(&mut self, live: &Live) {
        for (slot, (nonce, raws)) in &live.0 {
            let mut work = Work::Filler;
            let mut signed = Vec::new();
            for raw in raws {
                let Ok(tx) = TxEnvelope::decode_2718_exact(raw) else { continue };
                let price = tx.max_fee_per_gas();
                signed.push(Signed { hash: *tx.tx_hash(), price, raw: raw.clone() });
                let read = tx.to().and_then(|to| self.contracts.read(to, tx.input()));
                if let Some((topic, payload)) = read {
                    let call = || self.contracts.call(topic, payload.clone());
                    if let Some(id) = self.jobs.add(topic, &payload, None, call) {
                        self.jobs.is_under_way(id, tx.gas_limit());
                        work = Work::Payload(id);
                    }
                }
            }
            tracing::info!(nonce, "following up a transaction of an earlier run");
            if !signed.is_empty() {
                self.nonces.recover(*slot, *nonce, work, signed);
            }
        }
    }

    /// Runs until it is told to stop, or nobody is left who could want something.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.watch_bounds();
        let stopped = loop {
            self.sign().await;
            self.send();
            self.look();
            self.tell();
            let rest = self.rest();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop { stopped }) => break Some(stopped),
                    Some(command) => self.take(command),
                    None => break None,
                },
                Some(event) = self.beside.join_next(), if !self.beside.is_empty() => {
                    match event {
                        Ok(event) => self.happened(event).await,
                        // A panic was told by the runtime; what it was about is asked again.
                        Err(_) => (self.is_sending, self.is_polling) = (false, false),
                    }
                }
                () = rest => {}
            }
        };
        self.beside.shutdown().await;
        let now = self.now();
        self.jobs.finish_all(&Err(BroadcastError::Ended), now);
        drop(self.record.take());
        if let Some(stopped) = stopped {
            // Who has stopped it may have gone.
            let _ = stopped.send(());
        }
    }

    fn tell(&self) {
        self.shared.status.send_if_modified(|status| {
            let in_flight = self.nonces.in_flight();
            let waiting = self.jobs.len().saturating_sub(in_flight);
            let changed = (status.in_flight, status.waiting) != (in_flight, waiting);
            (status.in_flight, status.waiting) = (in_flight, waiting);
            changed
        });
    }

    /// Waits for the next thing to do by time.
    fn rest(&self) -> impl Future<Output = ()> + use<> {
        let send = self.nonces.wake_at().filter(|_| !self.is_sending);
        let send = send.map(|at| at.saturating_sub(self.now()));
        let look = (self.is_watching() && !self.is_polling)
            .then(|| self.look_at.saturating_duration_since(Instant::now()));
        let pause = send.into_iter().chain(look).min();
        async move {
            match pause {
                Some(pause) => sleep(pause).await,
                None => pending().await,
            }
        }
    }

    fn is_watching(&self) -> bool {
        !self.nonces.is_idle() || self.nonces.must_ask()
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Send { topic, payload, waiter } => {
                let now = self.now();
                let waiter = self.jobs.answer_from_past(topic, &payload, waiter, now);
                let Some(waiter) = waiter else { return };
                let call = || self.contracts.call(topic, payload.clone());
                if let Some(id) = self.jobs.add(topic, &payload, Some(waiter), call) {
                    self.try_out(id);
                }
            }
            Command::GaveUp { topic, digest, reply } => {
                let transaction = self.gave_up(topic, digest);
                // Who asks has already waited too long.
                let _ = reply.send(transaction);
            }
            Command::Stop { .. } => {}
        }
    }

    fn gave_up(&mut self, topic: Topic, digest: B256) -> Option<B256> {
        let id = self.jobs.find(topic, digest)?;
        let job = self.jobs.get(id)?;
        if job.is_abandoned() && (job.stage != Stage::Submitted || self.nonces.withdraw(id)) {
            self.finish(id, &Err(BroadcastError::Ended));
            return None;
        }
        self.nonces.latest(id)
    }

    /// Counts a payload's gas beside everything else.
    fn try_out(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        let (shared, tries, call) = (self.shared.clone(), self.tries.clone(), job.call.clone());
        let account = self.account();
        self.beside.spawn(async move {
            let _permit = tries.acquire_owned().await;
            let (gas_limit, _) = tokio::join!(
                submission::gas_limit(&shared.endpoints, account, &call),
                shared.price.current(&shared.endpoints),
            );
            Event::Tried(id, gas_limit)
        });
    }

    /// Signs what is to be signed, and returns when all of it is on record.
    async fn sign(&mut self) {
        let jobs = &self.jobs;
        let is_wanted = |id| jobs.get(id).is_some_and(|job| !job.is_abandoned());
        for id in self.nonces.withdraw_unwanted(is_wanted) {
            self.finish(id, &Err(BroadcastError::Ended));
        }
        let to_sign = self.nonces.hand_out();
        if to_sign.is_empty() {
            return;
        }
        if to_sign.iter().any(|it| it.over.is_some()) {
            self.shared.price.current(&self.shared.endpoints).await;
        }
        let price = self.shared.price.last();
        let mut signed = Vec::new();
        for it in to_sign {
            match self.signed(&it, price) {
                Ok(Some(transaction)) => signed.push((it, transaction)),
                Ok(None) => self.not_signed(it.nonce, None),
                Err(error) => self.not_signed(it.nonce, Some(error)),
            }
        }
        let entries = signed.iter().map(|(it, signed)| Entry::Signed {
            slot: it.slot,
            instead_of: it.instead_of,
            nonce: it.nonce,
            raw: signed.raw.clone(),
        });
        let recorded = self.write(entries.collect(), true).await;
        let now = self.now();
        // From the last one on: so each nonce can be given back.
        for (it, transaction) in signed.into_iter().rev() {
            match &recorded {
                Ok(()) => self.nonces.signed(it.nonce, transaction, now),
                Err(error) => self.not_signed(it.nonce, Some(error.clone())),
            }
        }
    }

    /// The transaction; nothing if it would be too dear.
    fn signed(&self, it: &ToSign, price: u128) -> Result<Option<Signed>, BroadcastError> {
        let least = it.over.map_or(0, replacing);
        if least > price.saturating_mul(PRICE_FACTOR_MAX) {
            return Ok(None);
        }
        let gas_price = price.max(least);
        let (to, input, gas_limit) = match it.work {
            Work::Filler => (self.account(), Bytes::new(), FILLER_GAS),
            Work::Payload(id) => {
                let job = self.jobs.get(id).ok_or(BroadcastError::Ended)?;
                let to = job.call.to.unwrap_or(self.account());
                (to, job.call.data.clone(), job.gas_limit)
            }
        };
        let mut transaction = TxLegacy {
            chain_id: Some(self.shared.endpoints.id()),
            nonce: it.nonce,
            gas_price,
            gas_limit,
            to: TxKind::Call(to),
            value: U256::ZERO,
            input,
        };
        let signature = self.key.sign_transaction_sync(&mut transaction).map_err(|error| {
            BroadcastError::Key { account: self.account(), reason: error.to_string() }
        })?;
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        let (hash, raw) = (*envelope.tx_hash(), envelope.encoded_2718().into());
        Ok(Some(Signed { hash, price: gas_price, raw }))
    }

    fn not_signed(&mut self, nonce: u64, error: Option<BroadcastError>) {
        let dear = || BroadcastError::Refused {
            said: format!("gas costs more than {PRICE_FACTOR_MAX} times what the chain says"),
        };
        if let Some(Done::Refused { job, .. }) = self.nonces.not_signed(nonce, self.now()) {
            self.finish(job, &Err(error.unwrap_or_else(dear)));
        }
    }

    /// Puts entries on record, where there is one. With `durable` they survive whatever happens.
    async fn write(&mut self, entries: Vec<Entry>, durable: bool) -> Result<(), BroadcastError> {
        let Some(mut record) = self.record.take().filter(|_| !entries.is_empty()) else {
            return Ok(());
        };
        let path = record.path().to_owned();
        let written = tokio::task::spawn_blocking(move || {
            let written = record.append(&entries, durable);
            (record, written)
        });
        let failed = |reason: String| BroadcastError::Record { path: path.clone(), reason };
        let (record, written) = written.await.map_err(|error| failed(error.to_string()))?;
        self.record = Some(record);
        written.map_err(|error| failed(error.to_string()))
    }

    /// Sends the next transaction. One at a time: so nodes get them in their order, and a nonce
    /// that is refused can be given back before the next one is out.
    fn send(&mut self) {
        if self.is_sending {
            return;
        }
        let Some((nonce, signed)) = self.nonces.due(self.now()) else { return };
        self.is_sending = true;
        let shared = self.shared.clone();
        self.beside.spawn(async move {
            let sent = submission::send(&shared.endpoints, &signed.raw).await;
            tracing::debug!(nonce, hash = %signed.hash, ?sent, "broadcaster");
            Event::Sent(nonce, sent)
        });
    }

    /// Looks what became of all transactions, when it is time.
    fn look(&mut self) {
        if self.is_polling || !self.is_watching() || Instant::now() < self.look_at {
            return;
        }
        self.is_polling = true;
        let (shared, account) = (self.shared.clone(), self.account());
        let (looks, contracts) = (self.nonces.watched(self.now()), self.contracts);
        let wanted = looks.iter().filter(|look| look.seeks).filter_map(|look| {
            let Work::Payload(id) = look.work else { return None };
            let job = self.jobs.get(id)?;
            let (topic, call) = (job.topic, job.call.clone());
            Some((look.slot, Wanted { contracts, topic, call }))
        });
        let watched = Watched {
            asked_at: self.now(),
            wanted: wanted.collect(),
            looks,
            wants_pending: self.nonces.wants_pending(),
        };
        self.beside.spawn(async move {
            Event::Polled(submission::poll(&shared.endpoints, account, &watched).await)
        });
    }

    async fn happened(&mut self, event: Event) {
        match event {
            Event::Tried(id, Ok(gas_limit)) => {
                if self.jobs.tried(id, gas_limit) {
                    self.submit(id);
                }
            }
            Event::Tried(id, Err(error)) | Event::Failed(id, error) => {
                self.finish(id, &Err(error));
            }
            Event::Sent(nonce, sent) => {
                self.is_sending = false;
                let done = self.nonces.sent(nonce, sent, self.now());
                self.done(done.into_iter().collect(), &HashMap::new()).await;
                (self.look_at, self.pause) = (Instant::now(), LOOK_AGAIN_AFTER);
            }
            Event::Polled(polled) => {
                self.is_polling = false;
                self.look_at = Instant::now() + self.pause;
                match polled {
                    Ok((polled, details)) => {
                        let done = self.nonces.polled(&polled, self.now());
                        self.pause = (self.pause * 3 / 2).min(LOOK_EVERY_MAX);
                        self.done(done, &details).await;
                    }
                    Err(fault) => {
                        tracing::debug!(%fault, "the app chain does not say what is mined");
                        self.pause = LOOK_EVERY_SILENT;
                    }
                }
            }
            Event::Bounds => self.watch_bounds(),
        }
    }

    fn submit(&mut self, id: JobId) {
        self.nonces.submit(id);
        if self.nonces.must_ask() {
            self.look_at = Instant::now();
        }
    }

    /// Records and tells what is over.
    async fn done(&mut self, done: Vec<Done>, details: &HashMap<B256, Mined>) {
        if done.is_empty() {
            return;
        }
        let entries = done.iter().map(|done| match done {
            Done::Mined { slot, .. }
            | Done::Refused { slot, .. }
            | Done::Void { slot }
            | Done::Unknown { slot, .. } => Entry::Over { slot: *slot },
        });
        // What is mined will be found to be again; what was refused must not be sent again.
        let durable = done.iter().any(|done| matches!(done, Done::Refused { .. }));
        if let Err(error) = self.write(entries.collect(), durable).await {
            tracing::error!(%error, "the broadcaster's record is behind");
        }
        for done in done {
            match done {
                Done::Mined { work: Work::Payload(job), hash, .. } => {
                    if let Some(mined) = details.get(&hash) {
                        self.mined(job, mined);
                    }
                }
                Done::Refused { job, said, .. } => {
                    let chain_id = self.shared.endpoints.id();
                    let error = submission::refused(self.account(), chain_id, said);
                    self.finish(job, &Err(error));
                }
                Done::Unknown { job, hash, .. } => {
                    tracing::warn!(%hash, "no endpoint says what became of a transaction");
                    self.finish(job, &Err(BroadcastError::Unknown { hash }));
                }
                Done::Mined { work: Work::Filler, .. } | Done::Void { .. } => {}
            }
        }
    }

    fn mined(&mut self, id: JobId, mined: &Mined) {
        let Some(job) = self.jobs.get(id) else { return };
        let (receipt, block_time_s) = match mined {
            Mined::Receipt { receipt, block_time_s } => (receipt, *block_time_s),
            Mined::Event(broadcasted) => return self.finish(id, &Ok(*broadcasted)),
        };
        let (hash, contract) = (receipt.transaction_hash, self.contracts.of(job.topic));
        if !receipt.status() {
            let (shared, account) = (self.shared.clone(), self.account());
            let (call, receipt) = (job.call.clone(), receipt.clone());
            self.beside.spawn(async move {
                let reason = submission::reason(&shared.endpoints, account, &call, &receipt).await;
                Event::Failed(id, BroadcastError::Reverted { hash, reason })
            });
            return;
        }
        let sequence_id = self.contracts.sequence_id(job.topic, receipt);
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

    fn finish(&mut self, id: JobId, outcome: &Outcome) {
        if let Some(next) = self.jobs.finish(id, outcome, self.now()) {
            self.submit(next);
        }
    }

    /// Asks the contracts for their limits now and then.
    fn watch_bounds(&mut self) {
        let (shared, contracts) = (self.shared.clone(), self.contracts);
        self.beside.spawn(async move {
            sleep(BOUNDS_EVERY).await;
            shared.read_bounds(contracts).await;
            Event::Bounds
        });
    }
}
