//! Parameters: their values in the registries of both chains, and the values that contracts have adopted.

mod known;

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use alloy::sol_types::SolCall as _;
use futures_util::future::try_join_all;

use super::{AdminError, ChainRole, Contract, Network, Plan, PlanStep};
use crate::contracts::{AppChainParameterRegistry, SettlementChainParameterRegistry, artifact};
use crate::send::{Call, Chain, ViewError, revert_of};

pub(super) use known::key_of;
pub use known::{Parameter, ParameterKind, known, names};

/// The state of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterState {
    /// The name.
    pub key: String,
    /// The value on the settlement chain; zero if none is set.
    pub value: B256,
    /// The value on the app chain, if that chain reads the parameter and is connected.
    pub on_app_chain: Option<B256>,
    /// The value that the contract has adopted, if it has a getter.
    pub applied: Option<B256>,
    /// The parameter's declaration, if a contract reads it.
    pub parameter: Option<Parameter>,
}

impl ParameterState {
    /// Formats a value in the notation that operators write; see [`assignment`].
    #[must_use]
    pub fn shown(&self, word: B256) -> String {
        self.parameter.as_ref().map_or(word.to_string(), |parameter| parameter.kind.show(word))
    }

    /// Checks that the name is in use: a contract reads the parameter, or it has a value. A mistyped name has neither.
    ///
    /// # Errors
    /// [`AdminError::UnsetParameter`] with the nearest name.
    pub fn check_name(&self) -> Result<(), AdminError> {
        if self.parameter.is_some() || !self.value.is_zero() {
            return Ok(());
        }
        let (key, near) = (self.key.clone(), known::near(&self.key));
        Err(AdminError::UnsetParameter { key, near })
    }

    fn chain(&self) -> ChainRole {
        self.parameter.as_ref().map_or(ChainRole::Settlement, |parameter| parameter.reader.chain())
    }

    /// Returns true if the chain whose contract reads the parameter has the current value.
    fn is_there(&self) -> bool {
        self.chain() == ChainRole::Settlement || self.on_app_chain == Some(self.value)
    }

    /// Returns the parameter's declaration if its contract needs a call to adopt the value and has not adopted it yet.
    fn to_apply(&self) -> Option<&Parameter> {
        let parameter = self.parameter.as_ref()?;
        (parameter.update.is_some() && self.applied != Some(self.value)).then_some(parameter)
    }
}

/// The treatment of values that a contract has to adopt by a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The plan includes the calls.
    Planned,
    /// A note names the calls, which remain to be made.
    Noted,
}

/// A parameter's name with its new value.
pub type ParameterAssignment = (String, B256);

/// Parses the value of a parameter. A known parameter takes an address, `true` or `false`, or a decimal number, as its
/// declaration says. Any parameter takes 32 bytes as `0x` and 64 hex digits.
///
/// # Errors
/// [`AdminError::UnknownParameter`] if the name is not known, [`AdminError::Value`] if the
/// contract would refuse the value.
pub fn assignment(key: &str, value: &str) -> Result<ParameterAssignment, AdminError> {
    let word = value.parse::<B256>().ok().filter(|_| value.len() == 66);
    let Some(parameter) = known(key) else {
        let unknown = || AdminError::UnknownParameter { key: key.into(), near: known::near(key) };
        return word.map(|word| (key.to_owned(), word)).ok_or_else(unknown);
    };
    let read = match word {
        Some(word) => parameter.kind.takes(word).then_some(word),
        None => parameter.kind.read(value),
    };
    let error = || AdminError::Value {
        key: key.into(),
        expected: parameter.kind.expected(),
        given: value.into(),
    };
    read.map(|word| (key.to_owned(), word)).ok_or_else(error)
}

/// Returns the states of parameters, in the order of `keys`.
///
/// # Errors
/// Fails when a registry or a contract cannot be read.
pub async fn get(network: &Network, keys: &[String]) -> Result<Vec<ParameterState>, AdminError> {
    let values = values(network, keys).await?;
    let states = keys.iter().zip(values).map(|(key, value)| state(network, key, value));
    try_join_all(states).await
}

/// Returns the values on the settlement chain.
pub(super) async fn values(network: &Network, keys: &[String]) -> Result<Vec<B256>, AdminError> {
    in_registry(network, Contract::SettlementChainParameterRegistry, keys).await
}

/// Returns the values on the app chain.
pub(super) async fn on_app_chain(
    network: &Network,
    keys: &[String],
) -> Result<Vec<B256>, AdminError> {
    in_registry(network, Contract::AppChainParameterRegistry, keys).await
}

async fn in_registry(
    network: &Network,
    contract: Contract,
    keys: &[String],
) -> Result<Vec<B256>, AdminError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (chain, registry) = (network.chain(contract.chain())?, network.at(contract)?);
    let found = values_at(chain, registry, keys.to_vec()).await;
    found.map_err(|source| AdminError::View { contract, source })
}

/// Returns the values in the parameter registry at an address: one for each name, however many an endpoint returns.
///
/// # Errors
/// Fails when the registry cannot be read, and [`ViewError::OtherContract`] for another number of values.
pub(crate) async fn values_at(
    chain: &Chain,
    registry: Address,
    keys: Vec<String>,
) -> Result<Vec<B256>, ViewError> {
    let names = keys.len();
    // The registries of both chains have the same function.
    let get = SettlementChainParameterRegistry::get_1Call { keys_: keys };
    let found = chain.view(registry, &get).await?;
    if found.len() == names {
        return Ok(found);
    }
    Err(ViewError::OtherContract {
        address: registry,
        chain_id: chain.id(),
        function: SettlementChainParameterRegistry::get_1Call::SIGNATURE,
        reason: format!("it returns {} values for {names} names", found.len()),
    })
}

async fn state(network: &Network, key: &str, value: B256) -> Result<ParameterState, AdminError> {
    let parameter = known(key);
    let is_reached = |parameter: &Parameter| {
        network.chain(parameter.reader.chain()).is_ok() && network.at(parameter.reader).is_ok()
    };
    let (mut on_app_chain, mut applied) = (None, None);
    if let Some(parameter) = parameter.as_ref().filter(|parameter| is_reached(parameter)) {
        if parameter.reader.chain() == ChainRole::App {
            let get = AppChainParameterRegistry::get_0Call { key_: key.to_owned() };
            on_app_chain = Some(network.view(Contract::AppChainParameterRegistry, &get).await?);
        }
        if let Some(data) = parameter.getter_data() {
            let address = network.at(parameter.reader)?;
            applied = word_at(network, parameter.reader, address, data).await?;
        }
    }
    Ok(ParameterState { key: key.to_owned(), value, on_app_chain, applied, parameter })
}

/// Plans to set parameters on the settlement chain, except those that already have the value.
///
/// # Errors
/// Fails when a registry or a contract cannot be read.
pub async fn set(
    network: &Network,
    assignments: &[ParameterAssignment],
    adoption: Adoption,
) -> Result<Plan, AdminError> {
    let keys: Vec<_> = assignments.iter().map(|(key, _)| key.clone()).collect();
    let mut states = get(network, &keys).await?;
    let is_new =
        |(state, (_, word)): &(&ParameterState, &ParameterAssignment)| state.value != *word;
    let changes: Vec<_> = states
        .iter()
        .zip(assignments)
        .filter(is_new)
        .map(|(_, assignment)| assignment.clone())
        .collect();
    let mut plan = setting(network, &changes)?;
    for (state, (key, word)) in states.iter_mut().zip(assignments) {
        if state.value != *word {
            let (before, after) = (state.shown(state.value), state.shown(*word));
            plan = plan.note(format!("{key}: {before} becomes {after}"));
        }
        state.value = *word;
    }
    plan = plan.then(adopting(network, &states, adoption)?);
    if plan.steps.is_empty() {
        plan = plan.note("everything is set so already");
    }
    Ok(plan)
}

/// Plans the calls that make contracts adopt the current values, for values that have
/// already reached the contract's chain.
///
/// # Errors
/// Fails when a registry or a contract cannot be read.
pub async fn apply(network: &Network, keys: &[String]) -> Result<Plan, AdminError> {
    adopting(network, &get(network, keys).await?, Adoption::Planned)
}

/// Plans one transaction that sets all `changes`; an empty plan if there are none.
pub(super) fn setting(
    network: &Network,
    changes: &[ParameterAssignment],
) -> Result<Plan, AdminError> {
    const REGISTRY: Contract = Contract::SettlementChainParameterRegistry;
    let step = match changes {
        [] => return Ok(Plan::default()),
        [(key, word)] => {
            let set =
                SettlementChainParameterRegistry::set_0Call { key_: key.clone(), value_: *word };
            network.step(REGISTRY, &set)?
        }
        many => {
            let (keys_, values_) = many.iter().cloned().unzip();
            network
                .step(REGISTRY, &SettlementChainParameterRegistry::set_1Call { keys_, values_ })?
        }
    };
    Ok(Plan::of([step]))
}

fn adopting(
    network: &Network,
    states: &[ParameterState],
    adoption: Adoption,
) -> Result<Plan, AdminError> {
    let mut plan = Plan::default();
    let mut adoptions = Vec::new();
    for state in states {
        let key = &state.key;
        let Some(parameter) = state.to_apply() else {
            if !state.is_there() {
                plan = plan.note(format!(
                    "the app chain reads {key}: bring it there with `params bridge {key}`"
                ));
            }
            plan.notes.extend(state.parameter.as_ref().and_then(Parameter::hint));
            continue;
        };
        let update = parameter.update_name();
        if !state.is_there() {
            plan = plan.note(format!(
                "the app chain reads {key}: bring it there with `params bridge {key} --apply`"
            ));
        } else if adoption == Adoption::Planned {
            adoptions.push((state, parameter));
        } else {
            plan = plan.note(format!("{key} takes effect after {update}: --apply calls it"));
        }
    }
    let lowered = lowered_limits(&adoptions);
    adoptions.sort_by_key(|(_, parameter)| parameter.rank(lowered.contains(&parameter.reader)));
    for (_, parameter) in adoptions {
        let to = network.at(parameter.reader)?;
        let data =
            parameter.update_data().expect("only parameters with an update function are adopted");
        let call = Call { to: Some(to), data, value: U256::ZERO };
        // A contract may refuse a value until it has adopted another one, as broadcasters do with their limits.
        let contract = parameter.reader;
        let waits = plan.steps.iter().any(|earlier| earlier.contract == contract);
        plan.steps.push(PlanStep { contract, call, waits });
    }
    Ok(plan)
}

/// Returns the broadcasters whose new upper limit is below their adopted lower limit. Such a broadcaster
/// has to adopt its new lower limit first, because it refuses an upper limit below its lower one. All
/// others adopt the upper limit first.
fn lowered_limits(adoptions: &[(&ParameterState, &Parameter)]) -> BTreeSet<Contract> {
    let upper = adoptions.iter().filter(|(_, parameter)| parameter.is_upper_limit());
    let is_lowered = |(state, parameter): &&(&ParameterState, &Parameter)| {
        adoptions.iter().any(|(other, lower)| {
            lower.is_lower_limit()
                && lower.reader == parameter.reader
                && other.applied.is_some_and(|applied| state.value < applied)
        })
    };
    upper.filter(is_lowered).map(|(_, parameter)| parameter.reader).collect()
}

/// Returns the word that a getter of the contract at this address returns; `None` if the call reverts.
pub(super) async fn word_at(
    network: &Network,
    contract: Contract,
    address: Address,
    data: Bytes,
) -> Result<Option<B256>, AdminError> {
    let chain = network.chain(contract.chain())?;
    let request = TransactionRequest {
        to: Some(address.into()),
        input: TransactionInput::new(data),
        ..TransactionRequest::default()
    };
    match chain.provider().call(request).await {
        Ok(returned) if returned.len() == 32 => Ok(Some(B256::from_slice(&returned))),
        Ok(_) => {
            let source = ViewError::NoCode { address, chain_id: chain.id() };
            Err(AdminError::View { contract, source })
        }
        Err(error) if revert_of(&error).is_some() => Ok(None),
        Err(error) => Err(chain.request_error("eth_call", error).into()),
    }
}

/// Encodes a call of a contract's function by name, with at most one word as argument.
pub(super) fn call_data(contract: Contract, function: &str, argument: Option<U256>) -> Bytes {
    let artifact = artifact::named(contract.interface()).expect("every contract has an artifact");
    let declared = artifact.abi.function(function).and_then(|same_name| same_name.first());
    let selector = declared.expect("the table names functions of the interface").selector();
    let argument = argument.map(|word| word.to_be_bytes::<32>());
    let argument = argument.as_ref().map_or(&[][..], |word| &word[..]);
    [selector.as_slice(), argument].concat().into()
}
