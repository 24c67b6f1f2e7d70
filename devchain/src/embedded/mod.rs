//! The embedded development chain: an EVM behind the commonly used part of the Ethereum JSON-RPC.
//!
//! The chain is for development and tests. One process decides every block, there is no consensus, and any client that
//! reaches the port can set any balance. Clients also control the chain by RPC, with the method names of other
//! development chains, so that the same tests run on those unchanged.
//!
//! Modules in reading order:
//!
//! - `settings`: the settings of a chain;
//! - `chain_core`: the chain as a plain value, on `block`, `state`, `trie`, `history`, `pool`, `pooled` and `feed`;
//! - `builder`, `evm`, `simulate`, `admission`: execution, and the checks before a transaction enters the pool;
//! - `record`, `journal`: the bytes of a step, and the file of steps;
//! - `node`, `versioned`: many readers and one writer of a chain;
//! - `rpc`: the methods; `protocol`, `session`: JSON-RPC itself;
//! - `server`: the listener; `offline`: a chain without one.
//!
//! Differences from a public chain:
//! - The rules are those of the Prague fork. A block takes 60 million gas, and there are no blobs.
//! - The base fee follows EIP-1559 but never falls below 0.1 gwei, where it stays unless blocks are
//!   more than half full. Fees go to the zero address.
//! - A state that a control method changed is named by the `stateRoot` of the next block. Until then the latest root
//!   is that of the block as it was made, and `eth_getProof` proves the state at that root.
//! - Block times grow by at least a second from block to block, so many blocks on demand run ahead of the
//!   clock. Payloads that reach the chain within one second therefore keep their order in time, too.
//! - `safe` and `finalized` are 32 and 64 blocks behind the head.
//! - The chain keeps all blocks and the state after each of them, in memory.
//! - With a data folder the chain writes a block before any client sees it, so a block survives the end of the
//!   process at any moment. The transaction pool, snapshots and impersonated accounts do not survive.

mod admission;
mod block;
mod builder;
mod chain_core;
mod evm;
mod feed;
mod filters;
mod genesis;
mod history;
mod journal;
mod node;
mod offline;
mod pool;
mod pooled;
mod protocol;
mod record;
mod rpc;
mod server;
mod session;
mod settings;
mod simulate;
mod state;
mod trie;
mod versioned;

pub use journal::JournalError;
pub use offline::OfflineChain;
pub use server::EmbeddedChain;
pub use settings::{BlockProduction, EmbeddedSettings, EmbeddedStartError, Genesis};
