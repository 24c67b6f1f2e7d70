//! Watches the contracts without privileges: reads the chains and computes alarms.
//!
//! [`look()`] makes a bounded number of requests, whatever an endpoint answers; [`judge()`] is a pure function of the
//! result. [`EventFollower`] counts events. A lying endpoint can raise or suppress alarms and do nothing else, because
//! the watcher sends no transaction and holds no key.

mod events;
mod judge;
mod look;
mod older;

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::Address;
use hawser_proto::OriginatorId;
use hawser_rules::Rate;

use super::contract::Contract;
use super::fees::OnchainReport;
use super::{SignedMicroDollars, Wei, WeiPerGas};

pub use events::{EventCounts, EventFollower, WatchedEvent};
pub use judge::{Alarm, AlarmKind, WatchLimits, judge};
pub use look::{REPORTS_LOOKED_AT, look};
pub use older::OlderReports;

/// The accounts whose balances are watched.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Payers with a balance in the payer registry.
    pub payers: Vec<Address>,
    /// Accounts of nodes and gateways that send transactions on the settlement chain and need ether.
    pub senders: Vec<Address>,
    /// Accounts of gateways that send transactions on the app chain and need its native token.
    pub app_senders: Vec<Address>,
}

/// The state of the contracts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The time of the settlement chain's newest block, unix seconds.
    pub chain_time: u64,
    /// The settlement chain's gas price.
    pub gas_price: WeiPerGas,
    /// The app chain's gas price; `None` if that chain is not connected.
    pub app_gas_price: Option<WeiPerGas>,
    /// Balances of payers.
    pub payers: Vec<(Address, SignedMicroDollars)>,
    /// Balances of senders on the settlement chain.
    pub senders: Vec<(Address, Wei)>,
    /// Balances of senders on the app chain, of its native token.
    pub app_senders: Vec<(Address, Wei)>,
    /// The newest reports by originator: each node of the canonical network, and each other originator that has
    /// reports. Each value is the count of all reports and the newest ones in ascending index order.
    pub reports: BTreeMap<OriginatorId, (u64, Vec<OnchainReport>)>,
    /// The unsettled reports by originator that are older than those, in ascending index order, as far as they are
    /// known.
    pub older_open: BTreeMap<OriginatorId, Vec<OnchainReport>>,
    /// The nodes of `reports` that are not in the canonical network: no further report about them is due.
    pub left: BTreeSet<OriginatorId>,
    /// The time since which each node without any report is known to have none, unix seconds. Not read: the caller
    /// remembers it.
    pub unreported_since: BTreeMap<OriginatorId, u64>,
    /// The rates, ascending by start time.
    pub rates: Vec<Rate>,
    /// The rate that the parameters make and the registry has not adopted yet. Any account can have it adopted.
    pub rate_to_adopt: Option<Rate>,
    /// True if the address of the rate registry is not known: no rates were read then, and none are judged.
    pub lacks_rates: bool,
    /// True for each pausable contract that is paused.
    pub paused: BTreeMap<Contract, bool>,
    /// The implementation address of each upgradable contract.
    pub implementations: BTreeMap<Contract, Address>,
}

impl Observation {
    /// Returns true if a further report about an originator is due after its last one: not if it has left the network.
    /// Logs migrated from the older network end when the migration is complete.
    #[must_use]
    pub fn is_report_due(&self, originator: OriginatorId) -> bool {
        originator.is_node() && !self.left.contains(&originator)
    }

    /// Returns the number of known reports about an originator that are not settled.
    #[must_use]
    pub fn open_reports(&self, originator: OriginatorId) -> usize {
        let newest = self.reports.get(&originator).into_iter().flat_map(|(_, newest)| newest);
        let older = self.older_open.get(&originator).map_or(0, Vec::len);
        newest.filter(|report| !report.is_settled).count() + older
    }
}
