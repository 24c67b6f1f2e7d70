//! Deploys all contracts of a network on its two chains, at the same addresses on every fresh pair of chains.
//!
//! The order follows the dependencies of the contracts: factory, parameter registry, tokens, registries, gateways; then
//! the parameters and the contracts' copies of them. Before the parameters are set, the caller gives the deployer fee
//! tokens; after [`send_parameters`], the bridge has to carry them to the app chain. Every step first checks whether it
//! is done, so a run continues an incomplete deployment and leaves a complete one unchanged.
//!
//! A deployer that is a contract, such as a multisig, sends the calls of [`DeploymentPlan::places`] itself, and then
//! those of [`configuration_left`], in rounds.
//!
//! A plan without [`Foundations`] deploys an underlying token without value and an inbox from which one
//! account releases withdrawals. These are for development. A settlement chain that already has a token and
//! an inbox is described by [`Foundations`].

mod creator;
mod deployer;
mod factory_proxy;
mod layout;
mod left;
mod parameters;
mod plan;
mod update;

pub use creator::CREATE2_DEPLOYER;
pub use deployer::{ChainDeployer, DeployError, MinedStep};
pub use layout::DeployerAccount;
pub use left::{ConfigurationLeft, PlannedCall, configuration_left};
pub use parameters::{
    bridged_parameters, configure_settlement, has_prices, have_parameters_arrived, publish_prices,
    send_parameters, update_app_contracts,
};
pub use plan::{DeploymentPlan, FoundationInbox, Foundations, PlannedPlace};

/// Deploys the factories and all contracts, leaving out those that exist.
///
/// # Errors
/// [`DeployError::SameChain`] before anything is sent, or the error of the step that
/// failed. A second run continues there.
///
/// # Panics
/// Panics for a plan whose deployer is a contract, because it has no key to send with.
pub async fn deploy_contracts(
    plan: &DeploymentPlan,
    settlement: &mut ChainDeployer,
    app: &mut ChainDeployer,
) -> Result<(), DeployError> {
    assert!(plan.layout.creator.is_none(), "a contract deploys by calls that others send");
    let app_id = app.chain().id();
    if settlement.chain().id() == app_id {
        return Err(DeployError::SameChain(app_id));
    }
    let registry = plan.addresses.app_chain_parameter_registry;
    settlement.deploy(&plan.layout, registry, &plan.settlement).await?;
    app.deploy(&plan.layout, registry, &plan.app).await
}
