//! Puts payloads on the app chain: group commits and identity updates, in one order for everybody.
//!
//! A [`Broadcaster`] is the one owner of an account's nonces on that chain. Every payload given to
//! it gets on the chain once or not at all, exactly as it was given, and whoever gave it hears
//! which. Many are under way at once; those of one topic one after another, so that their order is
//! kept whatever happens.
//!
//! ```text
//! group_message ─▶ jobs ── tried out, its topic's turn ─▶ nonces ─▶ signed ─▶ record ─▶ sent
//!      ▲                                                    ▲                            │
//!      └──────────── mined ◀────────────── watch ◀──────────┴────────────────────────────┘
//! ```
//!
//! A transaction is recorded before it is sent. After a crash the next broadcaster with the same
//! record finds out what became of each, sends it again or signs it anew, as if nothing had
//! happened.
//!
//! Modules in reading order: `payload`, `jobs`, `nonces` (what to do next, as a plain value),
//! `record`, `price`, `watch` (the requests), `seek` (who has used a nonce), `driver` (the task).

mod driver;
mod error;
mod jobs;
mod nonces;
mod payload;
mod price;
mod record;
mod seek;
mod settings;
#[cfg(test)]
mod simulation;
mod submission;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::contracts::{GroupMessageBroadcaster, IdentityUpdateBroadcaster};
use crate::endpoints::Endpoints;
use crate::send::{Chain, ViewError};
use driver::{Command, Driver};
pub use error::{BroadcastError, StartError};
use jobs::Outcome;
use payload::{Contracts, Topic};
use price::GasPrice;
use record::Record;
pub use settings::{BroadcastSettings, IN_FLIGHT, IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX, WAIT_MAX};

/// How many calls wait to be taken up before further ones are refused.
const CALLS_MAX: usize = 1024;
/// A record that is further ahead of the chain than this is not of this chain.
const AHEAD_MAX: u64 = 1000;

/// A payload that is on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BroadcastReceipt {
    /// Its number among all payloads of its contract.
    pub sequence_id: u64,
    /// The transaction.
    pub transaction_hash: B256,
    /// The block.
    pub block_number: u64,
    /// The block's time, in unix seconds.
    pub block_time_s: u64,
}

/// How long payloads may be so that both contracts take them, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadBounds {
    /// The shortest.
    pub min: usize,
    /// The longest.
    pub max: usize,
}

/// What a broadcaster has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BroadcastStatus {
    /// Nonces that are in use.
    pub in_flight: usize,
    /// Payloads that have none yet.
    pub waiting: usize,
}

/// Sends for one account. Cheap to clone; all clones are one. It ends with the last of them.
#[derive(Clone)]
pub struct Broadcaster {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    wait_max: Duration,
}

/// What the callers and the task share.
struct Shared {
    account: Address,
    endpoints: Endpoints,
    price: GasPrice,
    in_flight_max: usize,
    payload_bytes_max: usize,
    bounds: tokio::sync::watch::Sender<PayloadBounds>,
    status: tokio::sync::watch::Sender<BroadcastStatus>,
}

impl fmt::Debug for Broadcaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broadcaster({} on {:?})", self.account(), self.shared.endpoints)
    }
}

impl Broadcaster {
    /// Connects to the chain and sends for the account of this key from now on, beginning with
    /// what the record says is under way. Somebody else who sends for the account makes this
    /// slower, and nothing worse.
    ///
    /// # Errors
    /// When no endpoint is the chain that is meant, the contracts are not there, or the record
    /// cannot be used.
    pub async fn start(
        settings: BroadcastSettings,
        key: PrivateKeySigner,
    ) -> Result<Self, StartError> {
        let in_flight_max = settings.in_flight_max;
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight_max) {
            let text = format!("{in_flight_max} in flight: it must be 1 to {IN_FLIGHT_MAX}");
            return Err(StartError::Setting(text));
        }
        let endpoints = Endpoints::new("app", &settings.urls, settings.chain_id)?;
        let contracts = Contracts {
            groups: settings.group_message_broadcaster,
            identities: settings.identity_update_broadcaster,
        };
        let account = key.address();
        let shared = Arc::new(Shared {
            account,
            endpoints,
            price: GasPrice::default(),
            in_flight_max,
            payload_bytes_max: settings.payload_bytes_max,
            bounds: tokio::sync::watch::Sender::new(PayloadBounds { min: 0, max: 0 }),
            status: tokio::sync::watch::Sender::default(),
        });
        shared.bounds.send_replace(shared.bounds_of(contracts).await?);
        let record = match &settings.nonce_record {
            Some(path) => Some(Record::open(path, settings.chain_id, account)?),
            None => None,
        };
        if let Some(record) = &record {
            shared.require_near(record).await?;
        }
        let (commands, receiver) = mpsc::channel(CALLS_MAX);
        tokio::spawn(Driver::new(shared.clone(), contracts, key, record).run(receiver));
        Ok(Self { shared, commands, wait_max: settings.wait_max })
    }

    /// Whose transactions they are.
    #[must_use]
    pub fn account(&self) -> Address {
        self.shared.account
    }

    /// How long payloads may be, as the contracts have said not long ago.
    #[must_use]
    pub fn payload_bounds(&self) -> PayloadBounds {
        *self.shared.bounds.borrow()
    }

    /// What there is to do.
    #[must_use]
    pub fn status(&self) -> BroadcastStatus {
        *self.shared.status.borrow()
    }

    /// Puts a payload of a group on the chain. What one caller sends of one group gets there in
    /// the order in which these futures were polled first. Who sends a payload that is under way
    /// already gets the answer of that one, and so does who sends one again within ten minutes
    /// after it was mined, or was given up as unknown.
    ///
    /// Dropping the future takes the payload back only if it was not signed yet.
    ///
    /// # Errors
    /// Each variant says whether the payload may still get on the chain.
    pub async fn group_message(
        &self,
        group: [u8; 16],
        payload: Bytes,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        self.send(Topic::Group(group), payload).await
    }

    /// Puts an update of an inbox on the chain; as [`group_message`](Self::group_message).
    ///
    /// # Errors
    /// Each variant says whether the payload may still get on the chain.
    pub async fn identity_update(
        &self,
        inbox: [u8; 32],
        payload: Bytes,
    ) -> Result<BroadcastReceipt, BroadcastError> {
        self.send(Topic::Inbox(inbox), payload).await
    }

    /// Ends at once and lets go of the record. What is under way is followed up by the next
    /// broadcaster with the same record.
    pub async fn stop(self) {
        let (stopped, has_stopped) = oneshot::channel();
        if self.commands.send(Command::Stop { stopped }).await.is_ok() {
            // An error says that it has ended anyway.
            let _ = has_stopped.await;
        }
    }

    async fn send(&self, topic: Topic, payload: Bytes) -> Outcome {
        let (bytes, max) = (payload.len(), self.shared.payload_bytes_max);
        if max > 0 && bytes > max {
            return Err(BroadcastError::TooLong { bytes, max });
        }
        let digest = keccak256(&payload);
        let (waiter, mut outcome) = oneshot::channel();
        let command = Command::Send { topic, payload, waiter };
        self.commands.try_send(command).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => BroadcastError::Busy { waiting: CALLS_MAX },
            mpsc::error::TrySendError::Closed(_) => BroadcastError::Ended,
        })?;
        if let Ok(told) = timeout(self.wait_max, &mut outcome).await {
            return told.unwrap_or(Err(BroadcastError::Ended));
        }
        outcome.close();
        let (reply, transaction) = oneshot::channel();
        let asked = self.commands.send(Command::GaveUp { topic, digest, reply }).await;
        let transaction = transaction.await;
        // It may have been mined at the last moment.
        if let Ok(told) = outcome.try_recv() {
            return told;
        }
        let waited = self.wait_max;
        match (asked, transaction) {
            (Ok(()), Ok(Some(hash))) => Err(BroadcastError::NotMined { hash, waited }),
            (Ok(()), Ok(None)) => Err(BroadcastError::NotSent { waited }),
            _ => Err(BroadcastError::Ended),
        }
    }
}

impl Shared {
    async fn read_bounds(&self, contracts: Contracts) {
        match self.bounds_of(contracts).await {
            Ok(bounds) => {
                self.bounds.send_if_modified(|known| std::mem::replace(known, bounds) != bounds);
            }
            Err(error) => tracing::warn!(%error, "the limits of payloads are not known anew"),
        }
    }

    async fn bounds_of(&self, contracts: Contracts) -> Result<PayloadBounds, ViewError> {
        let bounds = self.endpoints.ask(|chain| async move { bounds_at(&chain, contracts).await });
        let PayloadBounds { min, max } = bounds.await?;
        let own = if self.payload_bytes_max == 0 { usize::MAX } else { self.payload_bytes_max };
        Ok(PayloadBounds { min, max: max.min(own) })
    }

    /// A chain that was begun anew expects low nonces, and a record of its former life would make
    /// nonsense of it.
    async fn require_near(&self, record: &Record) -> Result<(), StartError> {
        let Some(nonce) = record.live().first_nonce() else { return Ok(()) };
        let watched = submission::Watched { wants_pending: true, ..Default::default() };
        let asked = submission::poll(&self.endpoints, self.account, &watched).await;
        let (polled, _) = asked?;
        let next = polled.pending.unwrap_or(polled.mined);
        if nonce > next.saturating_add(AHEAD_MAX) {
            let path = record.path().to_owned();
            return Err(StartError::RecordAhead { path, nonce, next });
        }
        Ok(())
    }
}

async fn bounds_at(chain: &Chain, contracts: Contracts) -> Result<PayloadBounds, ViewError> {
    let Contracts { groups, identities } = contracts;
    let (group_min, group_max, identity_min, identity_max) = tokio::try_join!(
        chain.view(groups, &GroupMessageBroadcaster::minPayloadSizeCall {}),
        chain.view(groups, &GroupMessageBroadcaster::maxPayloadSizeCall {}),
        chain.view(identities, &IdentityUpdateBroadcaster::minPayloadSizeCall {}),
        chain.view(identities, &IdentityUpdateBroadcaster::maxPayloadSizeCall {}),
    )?;
    let (min, max) = (group_min.max(identity_min), group_max.min(identity_max));
    Ok(PayloadBounds { min: min as usize, max: max as usize })
}
