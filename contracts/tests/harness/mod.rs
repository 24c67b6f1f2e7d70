//! The harness of the contract tests. In reading order:
//!
//! - [`chain`]: chains to test on;
//! - [`test_chain`]: sends, reads and expects reverts on one of them, with [`tx`];
//! - [`actors`]: accounts with keys;
//! - [`bytecode`]: contracts in machine code;
//! - [`network`]: the contracts, deployed and configured;
//! - [`money`], [`report`] with [`merkle`]: payers, nodes and their reports;
//! - [`cases`]: runs a behaviour as a test on each kind of chain;
//! - [`coverage`]: compares the met functions, events and errors with the interface.

pub(crate) mod actors;
pub(crate) mod bytecode;
pub(crate) mod cases;
#[path = "../../../devchain/tests/pair/running.rs"]
pub(crate) mod chain;
pub(crate) mod coverage;
pub(crate) mod merkle;
pub(crate) mod money;
pub(crate) mod network;
pub(crate) mod report;
pub(crate) mod test_chain;
pub(crate) mod tx;
pub(crate) mod vectors;
