//! Broadcasts group commits and identity updates on the app chain, which decides their order.
//!
//! A [`Broadcaster`] owns an account's nonces on that chain. Each payload is mined once or not at all, byte for byte as
//! the caller passed it, and the caller learns which. Many payloads are in flight at once. Payloads of one topic follow
//! one another, so their order holds through failures and restarts.
//!
//! ```text
//! group_message ─▶ jobs ── gas estimated, its turn ─▶ nonces ─▶ signed ─▶ record ─▶ sent
//!      ▲                                                ▲                            │
//!      └──────────── mined ◀────────────── poll ◀───────┴────────────────────────────┘
//! ```
//!
//! A transaction is recorded before it is sent. After a crash, the next broadcaster with the same record finds out the
//! outcome of each transaction, and sends it again or replaces it where necessary.
//!
//! Modules in reading order: `payload`, `jobs`, `slots`, `agreement` and `nonces` (the decisions, as plain values),
//! `record`, `sharing` (the nonces that several processes share), `price`, `spending` (the cost ceilings), `submission`
//! and `poll` (the requests), `seek` (finds the transaction that used a nonce), `signing`, `times` (what metrics show),
//! `driver` (the task), `shared` (what callers share with it); `confirming` and `heads` (endpoints that lie or lag),
//! `receipts` (single requests); `witnesses` (the outcome of a transaction that another sender has sent).

mod agreement;
mod confirming;
mod driver;
mod error;
mod heads;
mod jobs;
mod nonces;
mod outcome;
mod payload;
mod poll;
mod price;
mod receipts;
mod record;
mod seek;
mod settings;
mod shared;
mod sharing;
mod signing;
#[cfg(test)]
mod simulation;
mod slots;
mod submission;
mod times;
mod witnesses;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use hawser_proto::{GroupId, InboxId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::admin::WeiPerGas;
use crate::endpoints::Endpoints;
use crate::spending::CeilingError;
use driver::{Driver, DriverCommand};
pub use error::{BroadcastError, BroadcastStartError};
use heads::EndpointHeads;
pub(crate) use nonces::{PRICE_FACTOR_MAX, replacement_price};
use outcome::BroadcastResult;
pub use outcome::{
    BroadcastReceipt, BroadcastStatus, GasPriceReading, GasPriceReadings, PayloadBounds,
    ResumedPayload,
};
use payload::{BroadcasterContracts, PayloadTopic};
use poll::PollRequest;
use receipts::MinedPayload;
use record::NonceRecord;
pub use settings::{BroadcastSettings, IN_FLIGHT, IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX, WAIT_MAX};
use shared::BroadcasterState;
use sharing::{SharedNonces, Sharing};
pub(crate) use submission::is_too_cheap;
pub use times::TransactionTimes;
pub use witnesses::Witnesses;
pub(crate) use witnesses::{TransmitOutcome, UnsettledNonce, WitnessedOutcome};

/// The number of calls that may wait for the task before further ones are refused. Guess: with the
/// longest payloads they hold 200 MB.
const CALLS_MAX: usize = 1024;
/// The time for which a ceiling is reported after it has stopped a transaction. A guess: long enough to appear in a
/// metrics scrape. Ceilings are checked anew for each transaction.
const CEILING_SHOWN_FOR: Duration = Duration::from_secs(60);
/// The number of nonces by which a record may be ahead of the chain. A record further ahead belongs to another chain. A
/// guess far above the nonces by which an endpoint may lag behind.
const AHEAD_MAX: u64 = 1000;

/// A broadcaster for one account. Cheap to clone; all clones share one task, which ends with the last clone.
#[derive(Clone)]
pub struct Broadcaster {
    state: Arc<BroadcasterState>,
    contracts: BroadcasterContracts,
    commands: mpsc::Sender<DriverCommand>,
    resumed: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<ResumedPayload>>>,
    wait_max: Duration,
    /// Other processes may send with the account's nonces, which they share through Redis.
    shares_nonces: bool,
}

impl fmt::Debug for Broadcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broadcaster({} on {:?})", self.account(), self.state.endpoints)
    }
}

impl Broadcaster {
    /// Connects to the chain, resumes the recorded transactions, and starts to broadcast for the account of this key.
    /// If other senders use the account, throughput drops, but no payload is lost or mined twice; see
    /// [`BroadcastSettings::redis`] and [`BroadcastSettings::stand_back`].
    ///
    /// # Errors
    /// Fails when no endpoint serves the chain, a contract does not exist, or the record cannot be used.
    pub async fn start(
        settings: BroadcastSettings,
        key: PrivateKeySigner,
    ) -> Result<Self, BroadcastStartError> {
        let in_flight_max = settings.in_flight_max;
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight_max) {
            let text = format!("{in_flight_max} in flight: it must be 1 to {IN_FLIGHT_MAX}");
            return Err(BroadcastStartError::Setting(text));
        }
        let endpoints = Endpoints::new("app", &settings.urls, settings.chain_id)?;
        let contracts = BroadcasterContracts {
            groups: settings.group_message_broadcaster,
            identities: settings.identity_update_broadcaster,
        };
        let account = key.address();
        let state = Arc::new(BroadcasterState {
            account,
            endpoints,
            price: Arc::default(),
            in_flight_max,
            payload_bytes_max: settings.payload_bytes_max,
            bounds: tokio::sync::watch::Sender::new(PayloadBounds { min: 0, max: 0 }),
            status: tokio::sync::watch::Sender::default(),
            ceiling: parking_lot::Mutex::default(),
            // Processes that share nonces coordinate through Redis, so no process stands back for another.
            stand_back: settings.stand_back.filter(|_| settings.redis.is_none()),
            halt: parking_lot::Mutex::default(),
            times: settings.times,
        });
        state.bounds.send_replace(state.read_bounds(contracts).await?);
        let record = match &settings.nonce_record {
            Some(path) => Some(NonceRecord::open(path, settings.chain_id, account)?),
            None => None,
        };
        if let Some(record) = &record {
            require_near(&state, record).await?;
        }
        let sharing = match &settings.redis {
            Some(access) => {
                let shared = SharedNonces::connect(access, settings.chain_id, account).await?;
                Some(Sharing::new(shared))
            }
            None => None,
        };
        let (commands, receiver) = mpsc::channel(CALLS_MAX);
        // What it holds is paid for: payloads from the record and from Redis, and those whose callers have given up.
        let (tell_resumed, resumed) = mpsc::unbounded_channel();
        let shares_nonces = sharing.is_some();
        let (shared, limits) = (state.clone(), settings.spending);
        let driver = Driver::new(shared, contracts, key, record, sharing, limits, tell_resumed);
        tokio::spawn(driver.run(receiver));
        let resumed = Arc::new(tokio::sync::Mutex::new(resumed));
        let wait_max = settings.wait_max;
        Ok(Self { state, contracts, commands, resumed, wait_max, shares_nonces })
    }

    /// Returns the account that sends the transactions.
    #[must_use]
    pub fn account(&self) -> Address {
        self.state.account
    }

    /// Returns the accepted payload lengths. They are read from the contracts once a minute.
    #[must_use]
    pub fn payload_bounds(&self) -> PayloadBounds {
        *self.state.bounds.borrow()
    }

    /// Returns the current load.
    #[must_use]
    pub fn status(&self) -> BroadcastStatus {
        *self.state.status.borrow()
    }

    /// Returns the last known gas price plus a tenth.
    #[must_use]
    pub fn gas_price(&self) -> WeiPerGas {
        self.state.price.last().lower
    }

    /// Returns the gas prices that were read, as the chain stated them.
    #[must_use]
    pub fn gas_price_readings(&self) -> GasPriceReadings {
        self.state.price.readings()
    }

    /// Returns the ceiling that a transaction has reached within the last minute, if any.
    #[must_use]
    pub fn ceiling_reached(&self) -> Option<CeilingError> {
        let last = *self.state.ceiling.lock();
        last.filter(|(at, _)| at.elapsed() < CEILING_SHOWN_FOR).map(|(_, ceiling)| ceiling)
    }

    /// Returns the reason why nothing is sent at present; `None` if sending is possible. Either Redis with the shared
    /// nonces does not answer, or another sender uses the account.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        self.state.halt.lock().clone()
    }

    /// Broadcasts a payload of a group and waits until it is mined.
    ///
    /// Payloads of one group are mined in the order in which these futures are first polled. A
    /// payload that is in flight already, or was mined or given up as unknown within the last ten
    /// minutes, is not sent again: the call returns the result of the first one.
    ///
    /// Dropping the future withdraws the payload only if it is not signed yet.
    ///
    /// # Errors
    /// Each variant states whether the payload may still be mined.
    pub async fn group_message(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        self.send(PayloadTopic::Group(group), payload).await
    }

    /// Broadcasts an identity update of an inbox; see [`group_message`](Self::group_message).
    ///
    /// # Errors
    /// Each variant states whether the payload may still be mined.
    pub async fn identity_update(
        &self,
        inbox: InboxId,
        payload: Bytes,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        self.send(PayloadTopic::Inbox(inbox), payload).await
    }

    /// Waits for the next payload that is mined although no caller waits for it here: an earlier process has sent it,
    /// as the record or Redis says, or its callers have given up. It is not sent again for ten minutes; after that only
    /// a caller that remembers it keeps it from being paid for twice. Returns `None` after the task has ended.
    pub async fn next_resumed(&self) -> Option<ResumedPayload> {
        self.resumed.lock().await.recv().await
    }

    /// Looks for a payload of a group in a transaction of an earlier result. A reorganisation of the chain may have
    /// moved it. Returns its present place, if two endpoints show it there, or the only one that is configured.
    pub async fn find_group_message(
        &self,
        group: GroupId,
        payload: Bytes,
        transaction: B256,
    ) -> Option<BroadcastReceipt> {
        self.find(PayloadTopic::Group(group), payload, transaction).await
    }

    /// Looks for an identity update of an inbox; see [`find_group_message`](Self::find_group_message).
    pub async fn find_identity_update(
        &self,
        inbox: InboxId,
        payload: Bytes,
        transaction: B256,
    ) -> Option<BroadcastReceipt> {
        self.find(PayloadTopic::Inbox(inbox), payload, transaction).await
    }

    async fn find(
        &self,
        topic: PayloadTopic,
        payload: Bytes,
        transaction_hash: B256,
    ) -> Option<BroadcastReceipt> {
        let Self { state, contracts, .. } = self;
        // Those that have stopped count too: one alone must not keep a payload off the chain for ever.
        let all = EndpointHeads::new(state.endpoints.display_urls()).following();
        let (shown, _) = poll::mined(&state.endpoints, transaction_hash, &all).await;
        let Some(MinedPayload::Receipt { receipt, block_time_s }) = shown else { return None };
        let call = contracts.call(topic, payload);
        let sequence_id = contracts.sequence_id(topic, &call, &receipt)?;
        let block_number = receipt.block_number.unwrap_or_default();
        Some(BroadcastReceipt { sequence_id, transaction_hash, block_number, block_time_s })
    }

    /// Stops the task at once and releases the record. The next broadcaster with the same record
    /// resumes the transactions in flight.
    pub async fn stop(self) {
        let (stopped, has_stopped) = oneshot::channel();
        if self.commands.send(DriverCommand::Stop { stopped }).await.is_ok() {
            // An error means that the task has already ended.
            let _ = has_stopped.await;
        }
    }

    async fn send(&self, topic: PayloadTopic, payload: Bytes) -> BroadcastResult {
        let (bytes, max) = (payload.len(), self.state.payload_bytes_max);
        if max > 0 && bytes > max {
            return Err(BroadcastError::TooLong { bytes, max });
        }
        let digest = keccak256(&payload);
        let (waiter, mut outcome) = oneshot::channel();
        let command = DriverCommand::Send { topic, payload, waiter };
        self.commands.try_send(command).map_err(|refused| {
            let error = match refused {
                mpsc::error::TrySendError::Full(_) => BroadcastError::Busy { waiting: CALLS_MAX },
                mpsc::error::TrySendError::Closed(_) => BroadcastError::Ended,
            };
            match self.shares_nonces {
                true => BroadcastError::Unasked { reason: error.to_string() },
                false => error,
            }
        })?;
        // A task that ends without an answer may have sent the payload.
        let stopped = |_| Err(BroadcastError::stopped(None));
        let waited = self.wait_max;
        if let Ok(result) = timeout(waited, &mut outcome).await {
            return result.unwrap_or_else(stopped);
        }
        let (reply, result) = oneshot::channel();
        let command = DriverCommand::GaveUp { topic, digest, waited, outcome, reply };
        // An error means that the task has ended, so there is no reply.
        let _ = self.commands.send(command).await;
        result.await.unwrap_or_else(stopped)
    }
}

/// Refuses a record of another chain. A chain that was started anew expects low nonces; otherwise the old transactions
/// would be sent again once it reaches their nonces. An entry that the account has not signed is never sent, and does
/// not prevent the start.
async fn require_near(
    state: &BroadcasterState,
    record: &NonceRecord,
) -> Result<(), BroadcastStartError> {
    let is_own = |nonce: u64, raw: &Bytes| {
        let read = signing::read(raw, nonce);
        read.is_some_and(|it| signing::is_of_account(&it, state.account, state.endpoints.id()))
    };
    let Some(nonce) = record.live().first_nonce(is_own) else { return Ok(()) };
    let request = PollRequest { wants_pending: true, wants_all: true, ..PollRequest::default() };
    let account = poll::poll(&state.endpoints, state.account, &request).await?.state;
    // An endpoint that lags behind or lies must not prevent the start while another one
    // knows the record's transactions.
    let next = account
        .counts
        .iter()
        .map(|it| it.pending.map_or(it.mined, |pending| pending.max(it.mined)));
    let next = next.max().unwrap_or(0);
    if nonce > next.saturating_add(AHEAD_MAX) {
        let path = record.path().to_owned();
        return Err(BroadcastStartError::RecordAhead { path, nonce, next });
    }
    Ok(())
}
