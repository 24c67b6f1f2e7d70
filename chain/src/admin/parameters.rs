//! Parameters: what is set in the registry, what has been brought to the app chain, and what the
//! contracts have taken over.

mod known;

use std::collections::BTreeSet;

use alloy::primitives::{B256, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use futures_util::future::try_join_all;

use super::{AdminError, ChainRole, Contract, Network, Plan, Step};
use crate::contracts::{AppChainParameterRegistry, SettlementChainParameterRegistry, artifact};
use crate::send::{Call, ViewError};

pub use known::{Kind, Parameter, known, names};

/// A parameter as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its name.
    pub key: String,
    /// What is set on the settlement chain; zero if nothing is.
    pub value: B256,
    /// What the app chain has of it, if that chain was asked and reads it.
    pub on_app_chain: Option<B256>,
    /// What the contract goes by, if it can be asked.
    pub applied: Option<B256>,
    /// What is known about it.
    pub parameter: Option<Parameter>,
}

impl State {
    /// The value as people write it.
    #[must_use]
    pub fn shown(&self, word: B256) -> String {
        self.parameter.as_ref().map_or(word.to_string(), |parameter| parameter.kind.show(word))
    }

    fn side(&self) -> ChainRole {
        self.parameter.as_ref().map_or(ChainRole::Settlement, |parameter| parameter.reader.side())
    }

    /// The chain that reads it has it.
    fn is_there(&self) -> bool {
        self.side() == ChainRole::Settlement || self.on_app_chain == Some(self.value)
    }

    /// The parameter, if its contract has to be told and has not taken it over.
    fn to_apply(&self) -> Option<&Parameter> {
        let parameter = self.parameter.as_ref()?;
        (parameter.poke.is_some() && self.applied != Some(self.value)).then_some(parameter)
    }
}

/// A parameter and the value it shall have.
pub type Assignment = (String, B256);

/// Reads `KEY=VALUE`. The value of a known parameter is an address, `true` or `false`, or a
/// decimal number; that of any parameter may be 32 bytes, `0x` and 64 digits.
///
/// # Errors
/// When the name is not known, or the contract would not take the value.
pub fn assignment(key: &str, value: &str) -> Result<Assignment, AdminError> {
    let word = value.parse::<B256>().ok().filter(|_| value.len() == 66);
    let Some(parameter) = known(key) else {
        let unknown = || AdminError::UnknownParameter { key: key.into(), near: known::near(key) };
        return word.map(|word| (key.to_owned(), word)).ok_or_else(unknown);
    };
    let read = match word {
        Some(word) => parameter.kind.takes(word).then_some(word),
        None => parameter.kind.read(value),
    };
    let fault = || AdminError::Value {
        key: key.into(),
        expected: parameter.kind.expected(),
        given: value.into(),
    };
    read.map(|word| (key.to_owned(), word)).ok_or_else(fault)
}

/// How parameters stand, in the order of their names here.
///
/// # Errors
/// When a registry or a contract cannot be read.
pub async fn get(network: &Network, keys: &[String]) -> Result<Vec<State>, AdminError> {
    let values = values(network, keys).await?;
    let states = keys.iter().zip(values).map(|(key, value)| state(network, key, value));
    try_join_all(states).await
}

/// What is set on the settlement chain.
pub(super) async fn values(network: &Network, keys: &[String]) -> Result<Vec<B256>, AdminError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let get = SettlementChainParameterRegistry::get_1Call { keys_: keys.to_vec() };
    network.view(Contract::SettlementChainParameterRegistry, &get).await
}

/// What the app chain has.
pub(super) async fn on_app_chain(
    network: &Network,
    keys: &[String],
) -> Result<Vec<B256>, AdminError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let get = AppChainParameterRegistry::get_1Call { keys_: keys.to_vec() };
    network.view(Contract::AppChainParameterRegistry, &get).await
}

async fn state(network: &Network, key: &str, value: B256) -> Result<State, AdminError> {
    let parameter = known(key);
    let is_reached = |parameter: &Parameter| {
        network.chain(parameter.reader.side()).is_ok() && network.at(parameter.reader).is_ok()
    };
    let (mut on_app_chain, mut applied) = (None, None);
    if let Some(parameter) = parameter.as_ref().filter(|parameter| is_reached(parameter)) {
        if parameter.reader.side() == ChainRole::App {
            let get = AppChainParameterRegistry::get_0Call { key_: key.to_owned() };
            on_app_chain = Some(network.view(Contract::AppChainParameterRegistry, &get).await?);
        }
        if let Some(data) = parameter.getter_data() {
            applied = word(network, parameter.reader, data).await?;
        }
    }
    Ok(State { key: key.to_owned(), value, on_app_chain, applied, parameter })
}

/// Sets parameters on the settlement chain; what is set so already is left out. With `apply`, the
/// contracts that have not taken the values over are told to.
///
/// # Errors
/// When a registry or a contract cannot be read.
pub async fn set(
    network: &Network,
    assignments: &[Assignment],
    apply: bool,
) -> Result<Plan, AdminError> {
    let keys: Vec<_> = assignments.iter().map(|(key, _)| key.clone()).collect();
    let mut states = get(network, &keys).await?;
    let is_new = |(state, (_, word)): &(&State, &Assignment)| state.value != *word;
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
    plan = plan.then(taking_over(network, &states, apply)?);
    if plan.steps.is_empty() {
        plan = plan.note("everything is set so already");
    }
    Ok(plan)
}

/// Tells contracts to take over what is set and, for the app chain, has arrived there.
///
/// # Errors
/// When a registry or a contract cannot be read.
pub async fn apply(network: &Network, keys: &[String]) -> Result<Plan, AdminError> {
    taking_over(network, &get(network, keys).await?, true)
}

/// One transaction that sets all of them; none if there are none.
pub(super) fn setting(network: &Network, changes: &[Assignment]) -> Result<Plan, AdminError> {
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

fn taking_over(network: &Network, states: &[State], apply: bool) -> Result<Plan, AdminError> {
    let mut plan = Plan::default();
    let mut pokes = Vec::new();
    for state in states {
        let Some(parameter) = state.to_apply() else {
            plan.notes.extend(state.parameter.as_ref().and_then(Parameter::hint));
            continue;
        };
        let (key, poke) = (&state.key, parameter.poke_name());
        if !state.is_there() {
            plan = plan.note(format!(
                "the app chain reads {key}: bring it there with `params bridge {key} --apply`"
            ));
        } else if apply {
            pokes.push((state, parameter));
        } else {
            plan = plan.note(format!("{key} takes effect after {poke}: --apply calls it"));
        }
    }
    let lowered = lowered_limits(&pokes);
    pokes.sort_by_key(|(_, parameter)| parameter.rank(lowered.contains(&parameter.reader)));
    for (_, parameter) in pokes {
        let to = network.at(parameter.reader)?;
        let data = parameter.poke_data().expect("only what has a poke is to be applied");
        let call = Call { to: Some(to), data, value: U256::ZERO };
        plan.steps.push(Step { contract: parameter.reader, call, waits: false });
    }
    Ok(plan)
}

/// Broadcasters whose new upper limit is below the lower limit they go by: they take the lower one
/// over first. Otherwise the upper one comes first.
fn lowered_limits(pokes: &[(&State, &Parameter)]) -> BTreeSet<Contract> {
    let upper = pokes.iter().filter(|(_, parameter)| parameter.is_upper_limit());
    let is_lowered = |(state, parameter): &&(&State, &Parameter)| {
        pokes.iter().any(|(other, lower)| {
            lower.is_lower_limit()
                && lower.reader == parameter.reader
                && other.applied.is_some_and(|applied| state.value < applied)
        })
    };
    upper.filter(is_lowered).map(|(_, parameter)| parameter.reader).collect()
}

/// The one word that a getter returns; nothing if the contract refuses.
async fn word(
    network: &Network,
    contract: Contract,
    data: Bytes,
) -> Result<Option<B256>, AdminError> {
    let chain = network.chain(contract.side())?;
    let address = network.at(contract)?;
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
        Err(error) if error.as_error_resp().is_some_and(|said| said.as_revert_data().is_some()) => {
            Ok(None)
        }
        Err(error) => Err(chain.fault("eth_call", error).into()),
    }
}

/// Call data of a function of a contract, by name, with one word or none.
fn call_data(contract: Contract, function: &str, argument: Option<U256>) -> Bytes {
    let artifact = artifact::named(contract.interface()).expect("every contract has an artifact");
    let declared = artifact.abi.function(function).and_then(|same_name| same_name.first());
    let selector = declared.expect("the table names functions of the interface").selector();
    let argument = argument.map(|word| word.to_be_bytes::<32>());
    let argument = argument.as_ref().map_or(&[][..], |word| &word[..]);
    [selector.as_slice(), argument].concat().into()
}
