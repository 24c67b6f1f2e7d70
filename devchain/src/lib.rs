//! Development chains: an embedded EVM behind JSON-RPC, anvil, the relay of the bridge, and funded accounts.
//!
//! None of this is for production. In reading order:
//!
//! - [`embedded`]: an EVM behind the usual JSON-RPC, in this process; [`anvil`]: another one, as a process of its own;
//! - [`control`]: the requests that only a development chain answers;
//! - [`deploy`]: a deployment with funded accounts; [`relay`]: carries messages between the two chains;
//! - [`devnet`]: all of this in one process.

#![warn(missing_docs)]

pub mod anvil;
pub mod control;
pub mod deploy;
pub mod devnet;
pub mod embedded;
pub mod relay;
