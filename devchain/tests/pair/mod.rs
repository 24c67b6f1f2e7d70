//! Two chains for tests. They end with the test program, even if it is killed.

#![allow(dead_code, reason = "each test binary uses a part of it")]

mod running;

use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use hawser_chain::send::{Chain, Sender};
use hawser_devchain::deploy::{self, Deployment};

pub(crate) use running::ChainBackend;
use running::RunningChain;

pub(crate) const SETTLEMENT_ID: u64 = 31337;
pub(crate) const APP_ID: u64 = 31338;

/// Runs a test on each kind of chain.
#[macro_export]
macro_rules! on_both_kinds_of_chain {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::pair::ChainBackend::Embedded).await;
            })*
        }
        mod anvil {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::pair::ChainBackend::Anvil).await;
            })*
        }
    };
}

/// Two chains that run until this value is dropped.
pub(crate) struct Pair {
    pub(crate) settlement: Chain,
    pub(crate) app: Chain,
    _running: [RunningChain; 2],
}

impl Pair {
    /// Starts both chains.
    pub(crate) async fn start(kind: ChainBackend) -> Self {
        let (settlement, first) = connected(kind, SETTLEMENT_ID).await;
        let (app, second) = connected(kind, APP_ID).await;
        Self { settlement, app, _running: [first, second] }
    }

    /// Starts both chains and deploys all contracts.
    pub(crate) async fn deployed(kind: ChainBackend) -> (Self, Deployment) {
        let pair = Self::start(kind).await;
        let deployment = pair.deploy().await;
        (pair, deployment)
    }

    pub(crate) async fn deploy(&self) -> Deployment {
        deploy::deploy(&self.settlement, &self.app, &deploy::deployer()).await.unwrap()
    }
}

async fn connected(kind: ChainBackend, chain_id: u64) -> (Chain, RunningChain) {
    let running = kind.start(chain_id).await;
    (Chain::connect(&running.url, chain_id).await.unwrap(), running)
}

/// Returns a sender for one of the known accounts.
pub(crate) fn sender(chain: &Chain, account: usize) -> Sender {
    Sender::new(chain.clone(), deploy::accounts().swap_remove(account))
}

pub(crate) async fn native_balance(chain: &Chain, account: Address) -> U256 {
    chain.provider().get_balance(account).await.unwrap()
}
