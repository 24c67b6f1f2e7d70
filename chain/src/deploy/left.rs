//! The calls by which a deployer that has no key configures a network, round by round.

use super::deployer::{DeployError, is_no_change};
use super::parameters::{
    app_updates, have_parameters_arrived, inbox_update, parameters_to_set, price_update,
    settlement_updates,
};
use super::plan::DeploymentPlan;
use super::update::Update;
use crate::admin::ChainRole;
use crate::send::{Call, Chain};

/// A call of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCall {
    /// The chain.
    pub chain: ChainRole,
    /// The function, or a sentence.
    pub name: String,
    /// The call, from the deployer.
    pub call: Call,
}

/// The next round of a configuration. The rounds after it are known once its calls are mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationLeft {
    /// These calls, in their order on each chain.
    Calls(Vec<PlannedCall>),
    /// The parameters of [`bridged_parameters`](super::bridged_parameters) are to be brought to the app chain.
    Bridge,
    /// Nothing: the network is complete.
    Nothing,
}

/// Returns the next round of a network whose contracts are all there. Calls that are done are left out.
///
/// # Errors
/// Fails when a chain does not answer, or a contract would refuse a call.
pub async fn configuration_left(
    plan: &DeploymentPlan,
    settlement: &Chain,
    app: &Chain,
) -> Result<ConfigurationLeft, DeployError> {
    let on_settlement = |Update { name, call }| PlannedCall {
        chain: ChainRole::Settlement,
        name: name.to_owned(),
        call,
    };
    let mut calls = Vec::new();
    if let Some(set) = parameters_to_set(plan, settlement).await? {
        // Contracts can be tried with these values only when they are there.
        calls.push(on_settlement(set));
        calls.extend(settlement_updates(plan).into_iter().map(on_settlement));
    } else {
        let left = undone(plan, settlement, settlement_updates(plan)).await?;
        calls.extend(left.into_iter().map(on_settlement));
    }
    calls.extend(inbox_update(plan, settlement).await?.map(on_settlement));
    if !calls.is_empty() {
        return Ok(ConfigurationLeft::Calls(calls));
    }
    if !have_parameters_arrived(plan, app).await? {
        return Ok(ConfigurationLeft::Bridge);
    }
    let on_app =
        |Update { name, call }| PlannedCall { chain: ChainRole::App, name: name.to_owned(), call };
    // The chains have no order between them, so the remaining calls of one come before all of the other. Prices come
    // last:
    // any account may make that call, so prices do not show that the other steps are done.
    calls.extend(undone(plan, app, app_updates(plan)).await?.into_iter().map(on_app));
    if calls.is_empty() {
        let prices = undone(plan, settlement, vec![price_update(plan)]).await?;
        calls.extend(prices.into_iter().map(on_settlement));
    }
    Ok(match calls.is_empty() {
        true => ConfigurationLeft::Nothing,
        false => ConfigurationLeft::Calls(calls),
    })
}

/// Returns the updates that would change something.
async fn undone(
    plan: &DeploymentPlan,
    chain: &Chain,
    updates: Vec<Update>,
) -> Result<Vec<Update>, DeployError> {
    let mut left: Vec<Update> = Vec::new();
    for update in updates {
        // One that follows another of its contract may need it to be mined.
        let follows = left.last().is_some_and(|last| last.call.to == update.call.to);
        match chain.quote_without_fee(plan.layout.deployer, &update.call).await {
            Ok(_) => left.push(update),
            Err(error) if is_no_change(&error) => {}
            Err(error) if follows && error.revert().is_some() => left.push(update),
            Err(error) => return Err(DeployError::Step { what: update.name.to_owned(), error }),
        }
    }
    Ok(left)
}
