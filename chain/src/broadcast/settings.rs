//! The settings of a broadcaster.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::Address;

use super::times::TransactionTimes;
use crate::addresses::Addresses;
use crate::redis_link::RedisAccess;
use crate::spending::SpendingLimits;

/// Default of the longest payload, in bytes. The contracts accept up to 262,144.
pub const PAYLOAD_BYTES_MAX: usize = 200_000;
/// Default number of transactions in flight. Guess: half of the number that nodes keep for one account.
pub const IN_FLIGHT: usize = 32;
/// Upper bound of the transactions in flight: go-ethereum keeps 64 queued transactions of one
/// account (`--txpool.accountqueue`).
pub const IN_FLIGHT_MAX: usize = 64;
/// Default time that a caller waits until its payload is mined. Guess.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The chain, the contracts and the limits of a broadcaster.
#[derive(Debug, Clone)]
pub struct BroadcastSettings {
    /// RPC URLs of the app chain, `http://…` or `https://…`, the preferred one first.
    pub urls: Vec<String>,
    /// The chain id of the app chain.
    pub chain_id: u64,
    /// The contract that orders group messages.
    pub group_message_broadcaster: Address,
    /// The contract that orders identity updates.
    pub identity_update_broadcaster: Address,
    /// The file in which transactions are recorded before they are sent. Without it, a restart forgets the transactions
    /// in flight, and a payload that a caller sends again may be mined twice.
    pub nonce_record: Option<PathBuf>,
    /// The longest accepted payload, in bytes; 0 leaves the bound to the contracts.
    pub payload_bytes_max: usize,
    /// Transactions in flight at once, from 1 to [`IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// The longest time that a caller waits until its payload is mined.
    pub wait_max: Duration,
    /// The cost ceilings of gas.
    pub spending: SpendingLimits,
    /// The Redis through which several processes share the nonces of the account. Transactions are then recorded there
    /// and not in `nonce_record`; unfinished transactions in `nonce_record` are resumed.
    pub redis: Option<RedisAccess>,
    /// The time for which another sender of the account has to be quiet before this one sends again; without effect
    /// with a Redis. `None` allows several senders at the same time, which slow one another down.
    pub stand_back: Option<Duration>,
    /// Adds the durations of transactions to these. Broadcasters may share them.
    pub times: TransactionTimes,
}

impl BroadcastSettings {
    /// Returns the default settings, without a record.
    #[must_use]
    pub fn new(urls: Vec<String>, addresses: &Addresses) -> Self {
        Self {
            urls,
            chain_id: addresses.app_chain_id,
            group_message_broadcaster: addresses.group_message_broadcaster,
            identity_update_broadcaster: addresses.identity_update_broadcaster,
            nonce_record: None,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            in_flight_max: IN_FLIGHT,
            wait_max: WAIT_MAX,
            spending: SpendingLimits::default(),
            redis: None,
            stand_back: None,
            times: TransactionTimes::default(),
        }
    }
}
