//! The embedded development chain: an EVM behind the part of the Ethereum JSON-RPC that clients call.
//!
//! It is for development and tests: one process decides every block, nothing is finalised by anybody
//! else, and whoever reaches its port can set any balance. All control goes by RPC as well, under the
//! names that other development chains use, so that the same tests run on those unchanged.
//!
//! Modules in reading order: `settings` (what it is started with), `core` (the chain as a plain
//! value) on `block`, `state`, `history`, `pool` and `feed`; `draft`, `evm`, `simulate` and `admission`
//! (what runs and what is let in); `record` and `journal` (how it is kept); `node` (readers and the
//! writer), `rpc` (the methods), `protocol` and `session` (JSON-RPC itself), `server` (the listener) or
//! `offline` (none).
//!
//! How it differs from a public chain, so that nobody has to find out:
//! - The rules are those of the Prague fork. A block takes 60 million gas, and there are no blobs.
//! - The base fee follows EIP-1559 but never falls below 0.1 gwei, where it stays unless blocks are
//!   more than half full. Fees go to the zero address.
//! - `stateRoot` is a hash over everything that ever changed in the state, not a trie: it differs when
//!   the state does, but nothing can be proven from it, and `eth_getProof` does not exist.
//! - Times grow from block to block by at least a second, so that many blocks on demand lead the clock.
//!   Payloads that are put on the chain within one second so keep their order in time, too.
//! - `safe` and `finalized` are 32 and 64 blocks behind the head.
//! - The state of every block is kept, as are all blocks. All of it is in memory, too.
//! - With a data folder a block is written before anybody is told of it, and survives the end of the
//!   process at any moment. What waits for a block, snapshots and who is impersonated do not.

mod admission;
mod block;
mod builder;
mod core;
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
mod versioned;

pub use genesis::CREATE2_DEPLOYER;
pub use journal::JournalError;
pub use offline::OfflineChain;
pub use server::EmbeddedChain;
pub use settings::{BlockProduction, EmbeddedSettings, EmbeddedStartError, Genesis};
