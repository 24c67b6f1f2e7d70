//! What a broadcaster is started with.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::Address;

use crate::addresses::Addresses;

/// The longest payload that is sent, unless told otherwise. The contracts take somewhat more.
pub const PAYLOAD_BYTES_MAX: usize = 200_000;
/// How many transactions are under way at once, unless told otherwise.
pub const IN_FLIGHT: usize = 32;
/// The most that can be asked for: chains keep few transactions of one account.
pub const IN_FLIGHT_MAX: usize = 64;
/// How long a caller waits, unless told otherwise.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// Which chain, which contracts, and how much at once.
#[derive(Debug, Clone)]
pub struct BroadcastSettings {
    /// `http://…` or `https://…` of the app chain, the preferred one first.
    pub urls: Vec<String>,
    /// The app chain's id.
    pub chain_id: u64,
    /// The contract that orders group messages.
    pub group_message_broadcaster: Address,
    /// The contract that orders identity updates.
    pub identity_update_broadcaster: Address,
    /// Where transactions are recorded before they are sent. Without it, a restart forgets what
    /// was under way.
    pub nonce_record: Option<PathBuf>,
    /// The longest payload that is sent, in bytes; 0 leaves it to the contracts.
    pub payload_bytes_max: usize,
    /// How many transactions are under way at once, from 1 to [`IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// How long a caller waits for its payload to be on the chain.
    pub wait_max: Duration,
}

impl BroadcastSettings {
    /// The usual settings, with no record.
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
        }
    }
}
