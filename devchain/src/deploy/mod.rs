//! Deploys all contracts on two development chains, distributes test tokens, and carries
//! the parameters over the bridge.
//!
//! [`hawser_chain::deploy`] plans and sends the contracts and their configuration. This module adds what only a
//! development network has: funded accounts with public keys, tokens without value, and the relay in place of a
//! rollup's bridge. The administrator of all contracts is [`deployer`].

mod accounts;
mod nodes;
mod payers;
mod tokens;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;

use crate::control::DevChain;
use crate::relay::{ARB_SYS, DeliveryOutcome, RELAYER, Relay, RelayError, RelayPolicy};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::artifact;
use hawser_chain::deploy::{
    ChainDeployer, DeployError, DeploymentPlan, configure_settlement, deploy_contracts, has_prices,
    have_parameters_arrived, publish_prices, send_parameters, update_app_contracts,
};
use hawser_chain::send::{Chain, RequestError, ViewError};

pub use accounts::{NATIVE_BALANCE, accounts, deployer};
pub use nodes::{NodeRegistration, RegisterError, register_nodes};
pub use payers::{FundError, fund_payer};

/// A complete deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Addresses of the contracts.
    pub addresses: Addresses,
    /// The inbox in which the settlement chain's gateway leaves messages for the app chain.
    pub inbox: Address,
    /// The number of transactions that this run sent; 0 if the deployment was complete.
    pub transactions: u64,
}

/// Error of deploying a development network. A second run continues it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DevDeployError {
    /// A contract is not deployed or not configured.
    #[error(transparent)]
    Contracts(#[from] DeployError),
    /// The parameters did not arrive on the app chain.
    #[error("parameters have not arrived on the app chain: {deliveries}")]
    NotBridged {
        /// The results of the messages.
        deliveries: String,
    },
    /// A contract could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
    /// The relay failed.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Deploys all missing contracts on two development chains.
///
/// The caller must have exclusive use of the deployer's account: any other transaction would change the addresses.
///
/// # Errors
/// The error of the step that failed. A second run continues there.
pub async fn deploy(
    settlement: &Chain,
    app: &Chain,
    deployer: &PrivateKeySigner,
) -> Result<Deployment, DevDeployError> {
    let plan = DeploymentPlan::new(deployer.address(), settlement.id(), app.id(), RELAYER);
    let mut on_settlement = ChainDeployer::new(settlement, deployer).await?;
    let mut on_app = ChainDeployer::new(app, deployer).await?;
    deploy_contracts(&plan, &mut on_settlement, &mut on_app).await?;
    if !app.has_code(ARB_SYS).await? {
        let arb_sys = artifact::named("ArbSys").expect("the artifact is in the repository");
        DevChain(app).set_code(ARB_SYS, &arb_sys.deployed_code).await?;
    }
    // Later changes by the administrator are kept.
    if !has_prices(&plan, on_settlement.chain()).await? {
        configure_settlement(&plan, &mut on_settlement).await?;
        tokens::distribute_test_tokens(&plan, &mut on_settlement).await?;
        bridge_parameters(&plan, &mut on_settlement, &on_app).await?;
        update_app_contracts(&plan, &mut on_app).await?;
        publish_prices(&plan, &mut on_settlement).await?;
    }
    let transactions = (on_settlement.mined().len() + on_app.mined().len()) as u64;
    Ok(Deployment { addresses: plan.addresses, inbox: plan.inbox, transactions })
}

/// Sends parameters to the app chain and relays them.
async fn bridge_parameters(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
    app: &ChainDeployer,
) -> Result<(), DevDeployError> {
    let gateway = plan.addresses.app_chain_gateway;
    let mut relay = Relay::between(settlement.chain(), app.chain(), plan.inbox, gateway).await?;
    // Messages of an earlier run may still be waiting.
    relay.step(RelayPolicy::default()).await?;
    if have_parameters_arrived(plan, app.chain()).await? {
        return Ok(());
    }
    send_parameters(plan, settlement).await?;
    let deliveries = relay.step(RelayPolicy::default()).await?;
    if have_parameters_arrived(plan, app.chain()).await? {
        return Ok(());
    }
    let missed = deliveries
        .iter()
        .filter(|delivery| !matches!(delivery.outcome, DeliveryOutcome::Delivered(_)))
        .map(ToString::to_string);
    Err(DevDeployError::NotBridged { deliveries: missed.collect::<Vec<_>>().join("; ") })
}
