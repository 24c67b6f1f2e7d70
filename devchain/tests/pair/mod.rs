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
        Self::of(kind.start(SETTLEMENT_ID).await, kind.start(APP_ID).await).await
    }

    async fn of(first: RunningChain, second: RunningChain) -> Self {
        let settlement = Chain::connect(&first.url, SETTLEMENT_ID).await.unwrap();
        let app = Chain::connect(&second.url, APP_ID).await.unwrap();
        Self { settlement, app, _running: [first, second] }
    }

    /// Starts both chains and deploys all contracts.
    pub(crate) async fn deployed(kind: ChainBackend) -> (Self, Deployment) {
        let pair = Self::start(kind).await;
        let deployment = pair.deploy().await;
        (pair, deployment)
    }

    /// Starts embedded chains whose block 0 has this time, in unix seconds, and deploys all contracts. If that time is
    /// in the future, each block is a second after the one before it, however long the deployment takes. Two pairs
    /// that begin at the same time then have the same state, including the start of the first prices.
    pub(crate) async fn deployed_at(genesis_time: u64) -> (Self, Deployment) {
        let first = RunningChain::embedded(SETTLEMENT_ID, Some(genesis_time)).await;
        let second = RunningChain::embedded(APP_ID, Some(genesis_time)).await;
        let pair = Self::of(first, second).await;
        let deployment = pair.deploy().await;
        (pair, deployment)
    }

    pub(crate) async fn deploy(&self) -> Deployment {
        deploy::deploy(&self.settlement, &self.app, &deploy::deployer()).await.unwrap()
    }
}

/// Returns a sender for one of the known accounts.
pub(crate) fn sender(chain: &Chain, account: usize) -> Sender {
    Sender::new(chain.clone(), deploy::accounts().swap_remove(account))
}

pub(crate) async fn native_balance(chain: &Chain, account: Address) -> U256 {
    chain.provider().get_balance(account).await.unwrap()
}
