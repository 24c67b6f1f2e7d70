//! Watches the contracts without privileges: reads the chains, and judges the result.
//!
//! [`look()`] makes a bounded number of requests, regardless of the answers; [`judge()`] is a function of its
//! result. A lying endpoint can raise or hide an alarm, and nothing else: the watcher sends no transaction and has no
//! key.

mod judge;
mod look;

use std::collections::BTreeMap;

use alloy::primitives::Address;

use super::contract::Contract;
use super::fees::OnchainReport;
use super::rates::RateEntry;

pub use judge::{Alarm, AlarmKind, WatchLimits, judge};
pub use look::{REPORTS_LOOKED_AT, look};

/// The accounts that are watched.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Payers with a balance in the payer registry.
    pub payers: Vec<Address>,
    /// Accounts that send transactions and need ether: those of nodes and gateways.
    pub senders: Vec<Address>,
    /// Accounts that send transactions on the app chain and need its native token: those of gateways.
    pub app_senders: Vec<Address>,
}

/// The state of the contracts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The time of the settlement chain's newest block, unix seconds.
    pub chain_time: u64,
    /// The settlement chain's gas price, wei.
    pub gas_price_wei: u128,
    /// Balances of payers, microdollars.
    pub payers: Vec<(Address, i128)>,
    /// Balances of senders on the settlement chain, wei.
    pub senders: Vec<(Address, u128)>,
    /// Balances of senders on the app chain, wei of its native token.
    pub app_senders: Vec<(Address, u128)>,
    /// The newest reports about each node, and about each strand of the older network that has any: in the contract's
    /// order, with the number of all.
    pub reports: BTreeMap<u32, (u64, Vec<OnchainReport>)>,
    /// The price list, ascending by start.
    pub rates: Vec<RateEntry>,
    /// True for contracts that are paused, by contract that can be.
    pub paused: BTreeMap<Contract, bool>,
    /// The code behind each contract that can be upgraded.
    pub implementations: BTreeMap<Contract, Address>,
}
