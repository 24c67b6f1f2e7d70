//! The parts of the engine that appending to chain strands uses.

use std::sync::Arc;

use hawser_storage::Store;

use crate::ports::IdentityJudge;
use crate::runtime::chain_clock::ChainClock;
use crate::runtime::counters::Counters;
use crate::runtime::{Committer, Workers};

/// The parts of a chain appender.
pub(in crate::runtime) struct ChainAppenderParts {
    pub(in crate::runtime) store: Store,
    pub(in crate::runtime) committer: Committer,
    pub(in crate::runtime) workers: Workers,
    pub(in crate::runtime) clock: ChainClock,
    pub(in crate::runtime) judge: Arc<dyn IdentityJudge>,
    pub(in crate::runtime) counters: Arc<Counters>,
}
