//! Watches the pause states of contracts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::eips::BlockId;
use alloy::primitives::Address;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::newest::NewestReading;
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::pausedCall;
use crate::endpoints::Endpoints;
use crate::send::{Chain, ViewError};

/// The time between two readings. A guess, half the interval of the node registry: the
/// state is only shown to operators.
const READ_EVERY: Duration = Duration::from_secs(30);

/// The pause state of a contract at a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseState {
    /// True if the network's operators have paused it.
    pub is_paused: bool,
    /// The block at whose state it was read.
    pub block: u64,
}

/// Keeps the pause states of some contracts of one chain up to date until it is dropped. All contracts
/// must have the function `paused()`.
pub struct PauseWatcher {
    states: Arc<Mutex<BTreeMap<Address, PauseState>>>,
    task: JoinHandle<()>,
}

impl PauseWatcher {
    /// Starts to read. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(endpoints: Endpoints, contracts: Vec<Address>) -> Self {
        let states = Arc::new(Mutex::new(BTreeMap::new()));
        let known = states.clone();
        let mut newest = NewestReading::default();
        let task = tokio::spawn(async move {
            loop {
                let contracts = &contracts;
                let read = endpoints.ask(|chain| async move { read(&chain, contracts).await });
                match read.await {
                    Ok((states, block)) => match newest.take(block, Instant::now()) {
                        Ok(()) => *known.lock() = states,
                        Err(error) => tracing::debug!("pauses stay as they are: {error}"),
                    },
                    // The last reading is kept, with its block. The status of the chain
                    // shows that it cannot be reached.
                    Err(error) => tracing::debug!("pauses cannot be read: {error}"),
                }
                tokio::time::sleep(READ_EVERY).await;
            }
        });
        Self { states, task }
    }

    /// Returns the contract's last known state; `None` if it was never read.
    #[must_use]
    pub fn state(&self, contract: Address) -> Option<PauseState> {
        self.states.lock().get(&contract).copied()
    }
}

impl Drop for PauseWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the pause state of every contract at the newest block, and returns the states with its number.
async fn read(
    chain: &Chain,
    contracts: &[Address],
) -> Result<(BTreeMap<Address, PauseState>, u64), ViewError> {
    let block = chain.newest_block().await?;
    let mut states = BTreeMap::new();
    for contract in contracts {
        let is_paused = chain.view_at(*contract, &pausedCall {}, BlockId::number(block)).await?;
        states.insert(*contract, PauseState { is_paused, block });
    }
    Ok((states, block))
}
