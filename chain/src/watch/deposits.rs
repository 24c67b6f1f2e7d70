//! Watches the balance of a payer in the payer registry.

use std::time::Duration;

use alloy::primitives::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::contracts::PayerRegistry;
use crate::endpoints::Endpoints;
use crate::send::Chain;

/// The time between two readings. A guess: usage is settled every few hours.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Keeps the balance of a payer up to date until it is dropped. An endpoint can lie about it, so it is only shown to
/// the operator and decides nothing.
pub struct DepositWatcher {
    balance: watch::Receiver<Option<i128>>,
    task: JoinHandle<()>,
}

impl DepositWatcher {
    /// Starts to read. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(endpoints: Endpoints, registry: Address, payer: Address) -> Self {
        let (sender, balance) = watch::channel(None);
        let task = tokio::spawn(async move {
            let call = &PayerRegistry::getBalanceCall { payer_: payer };
            loop {
                let read = |chain: Chain| async move { chain.view(registry, call).await };
                let read = endpoints.ask(read).await;
                if let Err(error) = &read {
                    tracing::warn!(code = "deposit_unread", %error, "the payer's balance cannot be read");
                }
                let balance =
                    read.ok().map(|it| i128::try_from(it).expect("104 bits fit into 128"));
                sender.send_replace(balance);
                tokio::time::sleep(READ_EVERY).await;
            }
        });
        Self { balance, task }
    }

    /// Returns a receiver of the balance in millionths of a dollar; it is negative if the payer owes more than was
    /// deposited. `None` before the first reading and while readings fail.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<i128>> {
        self.balance.clone()
    }
}

impl Drop for DepositWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
