//! What an embedded chain is started with, and why it may not start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};

use super::journal::JournalError;

/// Everything that decides what an embedded chain is.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// What `eth_chainId` answers and what signatures have to name.
    pub chain_id: u64,
    /// Where JSON-RPC is served, HTTP and WebSocket on the one port. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allows a `listen` address that other machines reach. Whoever reaches it controls the chain.
    pub allow_remote: bool,
    /// When blocks are made.
    pub blocks: BlockProduction,
    /// Where the chain is kept. Without a folder it ends with the process.
    pub data_dir: Option<PathBuf>,
    /// What is there before the first block.
    pub genesis: Genesis,
}

impl EmbeddedSettings {
    /// A chain in memory, on a free port of the loopback interface, with blocks on demand.
    #[must_use]
    pub fn new(chain_id: u64) -> Self {
        Self {
            chain_id,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            blocks: BlockProduction::OnDemand,
            data_dir: None,
            genesis: Genesis::default(),
        }
    }
}

/// When blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockProduction {
    /// Each accepted transaction makes a block at once, and sending it answers after that.
    OnDemand,
    /// One block at each interval, with or without transactions.
    Every(Duration),
}

/// What is there before the first block.
#[derive(Debug, Clone, Default)]
pub struct Genesis {
    /// Accounts with a native balance, in wei.
    pub balances: Vec<(Address, U256)>,
    /// Accounts with code that no transaction deployed; [`super::CREATE2_DEPLOYER`] always has its own.
    pub code: Vec<(Address, Bytes)>,
    /// The time of block 0 in seconds since 1970; the time of the first start if there is none.
    pub time: Option<u64>,
}

/// Why an embedded chain did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedStartError {
    /// The address is one that other machines reach.
    #[error(
        "{address} is not a loopback address: whoever reaches an embedded chain controls it, so \
         listen on 127.0.0.1 or allow remote access explicitly"
    )]
    Remote {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another chain running there?")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Blocks were asked for at an interval of nothing.
    #[error(
        "blocks cannot be made at an interval of 0 s: give a longer one, or make them on demand"
    )]
    NoInterval,
    /// An account of the genesis has code that begins like a delegation (EIP-7702) and is none.
    #[error("the genesis code of {address} is malformed")]
    GenesisCode {
        /// The account.
        address: Address,
    },
    /// The genesis lies too far in the future for blocks to follow.
    #[error("the genesis time {time} is no time in seconds since 1970")]
    GenesisTime {
        /// The time asked for.
        time: u64,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] JournalError),
}
