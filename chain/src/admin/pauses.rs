//! Pauses and resumes contracts: sets a parameter, and plans the call by which the contract adopts it.

use alloy::primitives::B256;
use alloy::sol_types::SolError as _;

use super::parameters::{self, ParameterState};
use super::{AdminError, ChainRole, Contract, Network, Plan};
use crate::contracts::PayerRegistry;
use crate::contracts::parameter::of_bool;
use crate::contracts::revert::Revert;

/// A change of the parameter that pauses a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseChange {
    /// The contract refuses calls.
    Pause,
    /// The contract runs again.
    Resume,
}

impl PauseChange {
    /// Returns the value of the parameter.
    #[must_use]
    pub fn word(self) -> B256 {
        of_bool(self == Self::Pause)
    }

    /// Returns the state after the change, as a word of a sentence.
    fn state(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "running",
        }
    }

    /// Returns what the change does, as a verb.
    fn verb(self) -> &'static str {
        match self {
            Self::Pause => "pauses",
            Self::Resume => "resumes",
        }
    }
}

/// Returns the name of the parameter that pauses a contract.
///
/// # Errors
/// [`AdminError::NotPausable`] if the contract cannot be paused.
pub fn parameter_of(contract: Contract) -> Result<String, AdminError> {
    if Contract::PAUSABLE.contains(&contract) {
        Ok(parameters::key_of(contract, "paused"))
    } else {
        Err(AdminError::NotPausable(contract))
    }
}

/// Plans to pause or resume a contract by its parameter. A contract of the settlement chain adopts the value in the
/// same plan. For a contract of the app chain, the bridge has to carry the value first; then use [`adopt`].
///
/// # Errors
/// [`AdminError::NotPausable`], and an error if the bridge is paused or a contract cannot be read.
pub async fn set(
    network: &Network,
    contract: Contract,
    change: PauseChange,
) -> Result<Plan, AdminError> {
    let key = parameter_of(contract)?;
    network.chain(contract.chain())?;
    let word = change.word();
    let state = state(network, &key).await?;
    let (is_set, is_adopted) = (state.value == word, state.applied == Some(word));
    if is_set && is_adopted {
        return Ok(Plan::nothing(format!("{contract} is {} already", change.state())));
    }
    let is_of_app = contract.chain() == ChainRole::App;
    if is_of_app && state.on_app_chain != Some(word) {
        refuse_without_bridge(network).await?;
    }
    let mut plan = if is_set {
        Plan::default()
    } else {
        let note = format!("{} {contract}", change.verb());
        parameters::setting(network, &[(key, word)])?.note(note)
    };
    if contract == Contract::SettlementChainGateway && change == PauseChange::Pause {
        plan = plan.note("while it is paused no parameter and no deposit reaches the app chain");
    }
    if is_of_app || is_adopted {
        return Ok(plan);
    }
    Ok(plan.then(poke(network, contract)?))
}

/// Plans the call by which a contract of the app chain adopts the parameter. `is_there` is true if the value has
/// reached the app chain, so that the call can be tried before it is sent.
///
/// # Errors
/// Fails when a contract cannot be read.
pub async fn adopt(
    network: &Network,
    contract: Contract,
    change: PauseChange,
    is_there: bool,
) -> Result<Plan, AdminError> {
    let key = parameter_of(contract)?;
    if state(network, &key).await?.applied == Some(change.word()) {
        return Ok(Plan::default());
    }
    let plan = poke(network, contract)?;
    Ok(if is_there { plan } else { plan.waiting() })
}

fn poke(network: &Network, contract: Contract) -> Result<Plan, AdminError> {
    // All pausable contracts have the same `updatePauseStatus()` function.
    let update = PayerRegistry::updatePauseStatusCall {};
    Ok(Plan::of([network.step(contract, &update)?]))
}

async fn state(network: &Network, key: &str) -> Result<ParameterState, AdminError> {
    let states = parameters::get(network, &[key.to_owned()]).await?;
    let state = states.into_iter().next();
    Ok(state.expect("there is one state for each name"))
}

/// Refuses the operation if the gateway is paused, because a paused gateway sends no parameters.
async fn refuse_without_bridge(network: &Network) -> Result<(), AdminError> {
    const GATEWAY: Contract = Contract::SettlementChainGateway;
    if network.view(GATEWAY, &PayerRegistry::pausedCall {}).await? {
        let revert = Revert::decode(&PayerRegistry::Paused {}.abi_encode());
        return Err(AdminError::WouldRevert { contract: GATEWAY, revert });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_without_the_parameter_is_not_paused() {
        let key = parameter_of(Contract::PayerRegistry).unwrap();
        assert_eq!(key, crate::contracts::parameter::PAYER_REGISTRY_PAUSED);
        for contract in Contract::ALL.into_iter().chain(Contract::OPTIONAL) {
            let is_known = parameters::known(&parameters::key_of(contract, "paused")).is_some();
            assert_eq!(parameter_of(contract).is_ok(), is_known, "{contract}");
        }
        let error = parameter_of(Contract::NodeRegistry).unwrap_err().to_string();
        assert!(error.contains("PayerRegistry, DistributionManager"), "{error}");
        assert!(PauseChange::Resume.word().is_zero(), "an unset parameter means running");
    }
}
