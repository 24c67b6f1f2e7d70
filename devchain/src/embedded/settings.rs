//! Settings of an embedded chain, and the errors of its start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;

use super::journal::JournalError;

/// Settings of an embedded chain.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// The chain id: the result of `eth_chainId`, and the id that signatures must contain.
    pub chain_id: u64,
    /// The address of the JSON-RPC listener, HTTP and WebSocket on one port. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// Allows a `listen` address that other machines reach. Any client that reaches it controls the chain.
    pub allow_remote: bool,
    /// The rule by which blocks are made.
    pub blocks: BlockProduction,
    /// The folder of the chain's journal. If `None`, the chain is lost when the process ends.
    pub data_dir: Option<PathBuf>,
    /// The state of block 0.
    pub genesis: Genesis,
    /// The private keys with which the chain signs for clients. `eth_accounts` lists their addresses.
    pub signers: Vec<PrivateKeySigner>,
}

impl EmbeddedSettings {
    /// Returns settings for a chain in memory, on a free port of the loopback interface, with blocks on demand.
    #[must_use]
    pub fn new(chain_id: u64) -> Self {
        Self {
            chain_id,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            blocks: BlockProduction::OnDemand,
            data_dir: None,
            genesis: Genesis::default(),
            signers: Vec::new(),
        }
    }
}

/// The rule by which blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockProduction {
    /// Each accepted transaction makes a block at once. The request that sent it is answered after the block.
    OnDemand,
    /// One block at each interval, with or without transactions.
    Every(Duration),
}

/// The state of block 0.
#[derive(Debug, Clone, Default)]
pub struct Genesis {
    /// Accounts with a native balance, in wei.
    pub balances: Vec<(Address, U256)>,
    /// Accounts with initial code. [`CREATE2_DEPLOYER`](hawser_chain::deploy::CREATE2_DEPLOYER) always has its code.
    pub code: Vec<(Address, Bytes)>,
    /// The time of block 0 in unix seconds; `None` uses the time of the first start.
    pub time: Option<u64>,
}

/// Error of starting an embedded chain.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedStartError {
    /// Other machines can reach the address, and the settings do not allow that.
    #[error(
        "{address} is not a loopback address: any client that reaches an embedded chain controls it, so \
         listen on 127.0.0.1 or allow remote access explicitly"
    )]
    Remote {
        /// The address in the settings.
        address: SocketAddr,
    },
    /// The system cannot listen on the address.
    #[error("cannot listen on {address}: {source}; is another chain running there?")]
    Listen {
        /// The address in the settings.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The interval between blocks is zero.
    #[error(
        "blocks cannot be made at an interval of 0 s: give a longer one, or make them on demand"
    )]
    NoInterval,
    /// The code of a genesis account begins like a delegation (EIP-7702) and is malformed.
    #[error("the genesis code of {address} is malformed")]
    GenesisCode {
        /// The account.
        address: Address,
    },
    /// The genesis time is too far in the future for further blocks.
    #[error("the genesis time {time} is no time in seconds since 1970")]
    GenesisTime {
        /// The time in the settings.
        time: u64,
    },
    /// The data folder is unusable.
    #[error(transparent)]
    Store(#[from] JournalError),
}
