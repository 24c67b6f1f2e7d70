//! Watches the balance of a payer in the payer registry.

use std::time::{Duration, Instant};

use alloy::eips::BlockId;
use alloy::primitives::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::newest::NewestReading;
use crate::admin::SignedMicroDollars;
use crate::contracts::PayerRegistry;
use crate::endpoints::Endpoints;
use crate::send::{Chain, ViewError};

/// The time between two readings. A guess: usage is settled every few hours.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Keeps the balance of a payer up to date until it is dropped. An endpoint can lie about it, so it is only shown to
/// the operator and decides nothing.
pub struct DepositWatcher {
    balance: watch::Receiver<Option<SignedMicroDollars>>,
    task: JoinHandle<()>,
}

impl DepositWatcher {
    /// Starts to read. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(endpoints: Endpoints, registry: Address, payer: Address) -> Self {
        let (sender, balance) = watch::channel(None);
        let mut newest = NewestReading::default();
        let task = tokio::spawn(async move {
            let call = &PayerRegistry::getBalanceCall { payer_: payer };
            loop {
                let read = |chain: Chain| async move {
                    let block = chain.newest_block().await?;
                    let balance = chain.view_at(registry, call, BlockId::number(block)).await?;
                    Ok::<_, ViewError>((balance, block))
                };
                match endpoints.ask(read).await {
                    Ok((balance, block)) => match newest.take(block, Instant::now()) {
                        Ok(()) => {
                            let balance = i128::try_from(balance).expect("104 bits fit into 128");
                            sender.send_replace(Some(SignedMicroDollars(balance)));
                        }
                        Err(error) => tracing::debug!("the payer's balance stays: {error}"),
                    },
                    Err(error) => {
                        tracing::warn!(code = "deposit_unread", %error, "the payer's balance cannot be read");
                        sender.send_replace(None);
                    }
                }
                tokio::time::sleep(READ_EVERY).await;
            }
        });
        Self { balance, task }
    }

    /// Returns a receiver of the balance. `None` before the first reading and while readings fail. No reading at a
    /// lower block replaces it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<SignedMicroDollars>> {
        self.balance.clone()
    }
}

impl Drop for DepositWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
