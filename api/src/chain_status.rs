//! The status of chains for `/status`.

use hawser_serve::ChainListReport;
use serde::Serialize;

use crate::views::{ChainAccount, ChainState, ReadingState};

/// A chain in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChainReport {
    name: &'static str,
    head: Option<u64>,
    /// Seconds since the chain's endpoints last returned a head.
    unseen_s: Option<f64>,
    /// True if an endpoint pushes new heads over a WebSocket.
    pushed: bool,
    endpoints: Vec<EndpointReport>,
    contracts: Vec<ContractReport>,
    lists: Vec<ChainListReport>,
    /// Absent if this node has no account there.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountReport>,
}

/// This node's account on a chain in `/status`: the values of the last read. The page makes no call to the chain.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AccountReport {
    address: String,
    /// Balance of the chain's native token, wei. A text, because many JSON readers keep only 53 bits of a number.
    /// Absent before the first read, like all fields below except `fault`.
    native_wei: Option<String>,
    /// Balance of the fee token; also absent on a chain without one, or if it could not be read.
    fee_token_microdollars: Option<u64>,
    /// The block in whose state it was read.
    block: Option<u64>,
    /// Time of the reading.
    read_unix_s: Option<i64>,
    /// The error of the last attempt.
    fault: Option<String>,
}

impl From<&ChainAccount> for AccountReport {
    fn from(account: &ChainAccount) -> Self {
        let read = account.balances;
        let fee_token = read.and_then(|read| read.fee_token_microdollars);
        Self {
            address: account.address.clone(),
            native_wei: read.map(|read| read.native_wei.to_string()),
            fee_token_microdollars: fee_token.map(|it| u64::try_from(it).unwrap_or(u64::MAX)),
            block: read.map(|read| read.block),
            read_unix_s: read.map(|read| read.read_unix_s),
            fault: account.fault.clone(),
        }
    }
}

/// An RPC endpoint in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndpointReport {
    endpoint: String,
    active: bool,
    fault: Option<String>,
}

/// A contract in `/status`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ContractReport {
    contract: String,
    originator_id: Option<u32>,
    state: &'static str,
    reason: Option<String>,
    read_block: Option<u64>,
    /// `None` if it is unknown, or if the contract cannot be paused.
    paused: Option<bool>,
    /// The block in whose state it was read.
    paused_read_block: Option<u64>,
    lag_blocks: u64,
    lag_s: f64,
}

impl From<&ChainState> for ChainReport {
    fn from(chain: &ChainState) -> Self {
        let endpoints = chain.endpoints.iter().map(|it| EndpointReport {
            endpoint: it.shown.clone(),
            active: it.active,
            fault: it.fault.clone(),
        });
        let contracts = chain.contracts.iter().map(|it| {
            let (state, reason) = match &it.state {
                ReadingState::Starting => ("starting", None),
                ReadingState::CatchingUp => ("catching_up", None),
                ReadingState::AtHead => ("at_head", None),
                ReadingState::Stuck(reason) => ("stuck", Some(reason.clone())),
                ReadingState::Halted(reason) => ("halted", Some(reason.clone())),
            };
            ContractReport {
                contract: it.contract.clone(),
                originator_id: it.originator.map(|id| id.0),
                state,
                reason,
                read_block: it.read_block,
                paused: it.pause.map(|pause| pause.is_paused),
                paused_read_block: it.pause.map(|pause| pause.block),
                lag_blocks: it.lag_blocks(),
                lag_s: it.behind_for.map_or(0.0, |behind| behind.as_secs_f64()),
            }
        });
        Self {
            name: chain.name,
            lists: chain.lists.iter().map(ChainListReport::from).collect(),
            head: chain.head,
            unseen_s: chain.unseen_for.map(|unseen| unseen.as_secs_f64()),
            pushed: chain.pushed,
            endpoints: endpoints.collect(),
            contracts: contracts.collect(),
            account: chain.account.as_ref().map(AccountReport::from),
        }
    }
}
