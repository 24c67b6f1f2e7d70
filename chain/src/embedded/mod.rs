//! The embedded development chain: an EVM behind the part of the Ethereum JSON-RPC that clients call.
//!
//! It is for development and tests: one process decides every block, nothing is finalised by anybody
//! else, and whoever reaches its port can set any balance. All control goes by RPC as well, under the
//! names that other development chains use, so that the same tests run on those unchanged.

mod server;
mod settings;

pub use server::EmbeddedChain;
pub use settings::{Blocks, Genesis, Settings, StartError};
