//! What the tests stand on. In reading order:
//!
//! - [`chain`]: chains to test on;
//! - [`net`]: sending, reading, and expecting refusals on one of them, with [`tx`];
//! - [`actors`]: who acts;
//! - [`bytecode`]: contracts that no compiler has made;
//! - [`world`]: the contracts, deployed and configured;
//! - [`money`], [`report`] with [`merkle`]: payers, nodes and their reports;
//! - [`cases`]: a behaviour becomes a test on each kind of chain;
//! - [`coverage`]: what was exercised of the interface.

pub(crate) mod actors;
pub(crate) mod bytecode;
pub(crate) mod cases;
#[path = "../../../devchain/tests/pair/running.rs"]
pub(crate) mod chain;
pub(crate) mod coverage;
pub(crate) mod merkle;
pub(crate) mod money;
pub(crate) mod net;
pub(crate) mod report;
pub(crate) mod tx;
pub(crate) mod vectors;
pub(crate) mod world;
