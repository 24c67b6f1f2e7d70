//! A new deposit splitter beside the present one. A splitter cannot be upgraded: it is a plain contract without a
//! proxy, a migrator or a parameter. It holds nothing between two calls, so the new splitter takes the place of the
//! present one as soon as payers name it.

use alloy::primitives::{Address, U256};

use super::{AdminError, Contract, Network, Plan, upgrades};
use crate::contracts::artifact;

/// Plans to deploy the splitter of this program for the contracts of `network`, with the settlement chain's factory.
/// Returns its address, which follows from its code (CREATE2, EIP-1014), with the plan. The plan has no step if it is
/// there already.
///
/// # Errors
/// [`AdminError`] if an address is not known, there is no factory, or the chain cannot be read.
pub async fn plan(network: &Network) -> Result<(Address, Plan), AdminError> {
    const SPLITTER: Contract = Contract::DepositSplitter;
    let token = network.at(Contract::FeeToken)?;
    let payers = network.at(Contract::PayerRegistry)?;
    let gateway = network.at(Contract::SettlementChainGateway)?;
    let artifact = artifact::named(SPLITTER.interface()).expect("every contract has an artifact");
    let code = artifact.init_code(&(token, payers, gateway, U256::from(network.app_id)));
    let mut plan = Plan::default();
    let address = upgrades::deploy(network, SPLITTER, code, &mut plan).await?;
    let plan = match plan.steps.is_empty() {
        true => plan
            .note(format!("this program's splitter for these contracts is at {address} already")),
        false => plan,
    };
    let plan = match network.at(SPLITTER) {
        Ok(present) if present == address => plan,
        Ok(present) => plan
            .note(format!(
                "{address} as `depositSplitter` in chain.json takes the place of {present}"
            ))
            .note(format!(
                "allowances that payers gave to {present} stay until the payers revoke them"
            )),
        Err(_) => plan.note(format!("write {address} as `depositSplitter` into chain.json")),
    };
    Ok((address, plan))
}
