//! The calls with which a deployer without a key configures a network, in rounds.

use super::deployer::{DeployError, is_no_change};
use super::parameters::{
    app_updates, have_parameters_arrived, inbox_update, parameters_to_set, price_update,
    settlement_updates,
};
use super::plan::DeploymentPlan;
use super::update::Update;
use crate::admin::ChainRole;
use crate::send::{Call, Chain};

/// One call of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCall {
    /// The chain.
    pub chain: ChainRole,
    /// The function's name, or a sentence about the call.
    pub name: String,
    /// The call, to be sent by the deployer.
    pub call: Call,
}

/// The next round of a configuration. Later rounds are known only after its calls are mined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigurationLeft {
    /// These calls, in their order on each chain.
    Calls(Vec<PlannedCall>),
    /// The parameters of [`bridged_parameters`](super::bridged_parameters) have to be sent to the app chain.
    Bridge,
    /// Nothing is left: the network is complete.
    Nothing,
}

/// Returns the next round for a network whose contracts all exist. Finished calls are left out.
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
        // The simulation can show which further calls are needed only once these values are set.
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
    // The two chains have no order between them, so all remaining calls of the first chain come before those of the
    // second. The call that sets prices comes last. Any account may make this call, so existing prices do not prove
    // that the rest is done.
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

/// Returns the updates that would change a value.
async fn undone(
    plan: &DeploymentPlan,
    chain: &Chain,
    updates: Vec<Update>,
) -> Result<Vec<Update>, DeployError> {
    let mut left: Vec<Update> = Vec::new();
    for update in updates {
        // An update that follows an earlier update of its contract may depend on the earlier one being mined.
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
