//! Replaces the code of a contract through its migrator, and checks the result.
//!
//! ```text
//! plan(&network, contract, ..)   → Upgrade: code, migrator and parameter, as far as they are missing
//!                                  (a contract of the app chain: the bridge carries the parameter)
//! upgrade.migrate(..)            → the call of migrate()
//! upgrade.verify(&network)       → code and immutables are those that were planned
//! ```

use alloy::primitives::{Address, Bytes, keccak256};

use super::installed::{self, InstalledContract};
use super::{AdminError, ChainRole, Contract, Network, Plan, PlanStep, parameters};
use crate::contracts::artifact::{self, Artifact};
use crate::contracts::parameter::of_address;
use crate::contracts::{Factory, NodeRegistry};
use crate::send::ViewError;

/// The number of characters of a contract's name that are compared. A guess: twice the longest name.
const NAME_LEN_MAX: usize = 64;

/// The code to install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewCode {
    /// The code in this program, constructed with the known neighbouring contracts. It is deployed if it is missing.
    ThisBuild,
    /// Code at an address where it is already deployed.
    At(Address),
}

/// The migrator that installs the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigratorChoice {
    /// A migrator that replaces the currently installed code and refuses any other.
    Exact,
    /// A migrator that also fills the node registry's set of canonical nodes from the records.
    Backfill,
    /// A migrator that is already deployed. Its effect can be checked only after the upgrade.
    At(Address),
}

/// A planned upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The contract.
    pub contract: Contract,
    /// The code that is installed.
    pub from: Address,
    /// The code to install.
    pub to: Address,
    /// The migrator.
    pub migrator: Address,
    /// The name of the parameter that holds the migrator's address.
    pub parameter: String,
    /// The steps that come before `migrate()`, or before the message over the bridge.
    pub prepare: Plan,
    identity: Identity,
}

/// The part of a contract that an upgrade must not change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    name: String,
    /// The getters of immutables with the expected addresses, which come from the operator and not from an endpoint.
    immutables: Vec<(&'static str, Address)>,
}

/// A constructor argument: its getter, and the contract whose address it is.
type ConstructorArgument = (&'static str, Contract);

/// Returns the constructor's arguments in order; `None` if the contract cannot be upgraded by a parameter.
fn constructor(contract: Contract) -> Option<&'static [ConstructorArgument]> {
    const REGISTRY: ConstructorArgument =
        ("parameterRegistry", Contract::SettlementChainParameterRegistry);
    const APP_REGISTRY: ConstructorArgument =
        ("parameterRegistry", Contract::AppChainParameterRegistry);
    const NODES: ConstructorArgument = ("nodeRegistry", Contract::NodeRegistry);
    const PAYERS: ConstructorArgument = ("payerRegistry", Contract::PayerRegistry);
    const REPORTS: ConstructorArgument = ("payerReportManager", Contract::PayerReportManager);
    const FEES: ConstructorArgument = ("feeToken", Contract::FeeToken);
    const UNDERLYING: ConstructorArgument = ("underlying", Contract::UnderlyingFeeToken);
    const GATEWAY: ConstructorArgument =
        ("settlementChainGateway", Contract::SettlementChainGateway);
    const APP_GATEWAY: ConstructorArgument = ("appChainGateway", Contract::AppChainGateway);
    Some(match contract {
        Contract::NodeRegistry | Contract::RateRegistry | Contract::SettlementChainFactory => {
            &[REGISTRY]
        }
        Contract::GroupMessageBroadcaster
        | Contract::IdentityUpdateBroadcaster
        | Contract::AppChainFactory => &[APP_REGISTRY],
        Contract::PayerRegistry => &[REGISTRY, FEES],
        Contract::PayerReportManager => &[REGISTRY, NODES, PAYERS],
        Contract::DistributionManager => &[REGISTRY, NODES, REPORTS, PAYERS, FEES],
        Contract::SettlementChainGateway => &[REGISTRY, APP_GATEWAY, FEES],
        Contract::FeeToken => &[REGISTRY, UNDERLYING],
        Contract::AppChainGateway => &[APP_REGISTRY, GATEWAY],
        Contract::SettlementChainParameterRegistry | Contract::AppChainParameterRegistry => &[],
        Contract::UnderlyingFeeToken | Contract::DepositSplitter => return None,
    })
}

/// Plans an upgrade: deploys implementation and migrator and sets the parameter, leaving out finished steps. The plan
/// is empty if the code is already installed. The addresses of neighbouring contracts are those in `network`.
///
/// # Errors
/// [`AdminError::OtherImplementation`] if the code is not for this contract. [`AdminError::OtherBeside`] if the
/// installed code names other neighbouring contracts than `network` does. Other errors if a contract cannot be read,
/// its address is not known, or there is no factory.
pub async fn plan(
    network: &Network,
    contract: Contract,
    new: NewCode,
    choice: MigratorChoice,
) -> Result<Upgrade, AdminError> {
    let arguments = constructor(contract).ok_or(AdminError::NotUpgradable(contract))?;
    if choice == MigratorChoice::Backfill && contract != Contract::NodeRegistry {
        return Err(AdminError::BackfillOfOther(contract));
    }
    let proxy = network.at(contract)?;
    let chain = network.chain(contract.chain())?;
    let from = installed::implementation_of(chain, proxy).await?;
    let from = from.ok_or(AdminError::NotUpgradable(contract))?;
    let identity = identity(network, contract, proxy, arguments).await?;
    let mut prepare = Plan::default();
    let to = match new {
        NewCode::At(code) => code,
        NewCode::ThisBuild => {
            let values: Vec<_> = identity.immutables.iter().map(|(_, value)| *value).collect();
            let code = init_code(named(contract.interface()), &values);
            deploy(network, contract, code, &mut prepare).await?
        }
    };
    let parameter = parameters::key_of(contract, "migrator");
    if from == to {
        let prepare = Plan::nothing(format!("{contract} has the code at {to} already"));
        let migrator = Address::ZERO;
        return Ok(Upgrade { contract, from, to, migrator, parameter, prepare, identity });
    }
    if prepare.steps.is_empty() {
        fits(network, contract, to, &identity).await?;
    }
    if let Some(other) = other_factory(contract) {
        guard_other_factory(network, other, (from, to), new, choice, &mut prepare).await?;
    }
    let migrator = match choice {
        MigratorChoice::At(migrator) => require_code(network, contract, migrator).await?,
        MigratorChoice::Exact => {
            let code = init_code(named("Migrator"), &[from, to]);
            deploy(network, contract, code, &mut prepare).await?
        }
        MigratorChoice::Backfill => {
            let code = init_code(named("NodeRegistryBackfillMigrator"), &[to]);
            deploy(network, contract, code, &mut prepare).await?
        }
    };
    let word = of_address(migrator);
    if parameters::values(network, std::slice::from_ref(&parameter)).await? != [word] {
        let set = parameters::setting(network, &[(parameter.clone(), word)])?;
        prepare.steps.extend(set.steps);
    }
    let kept = identity.immutables.iter();
    prepare.notes.extend(kept.map(|(getter, value)| format!("{contract}: {getter} stays {value}")));
    let prepare = prepare
        .note(format!("{contract}: the code at {from} becomes the one at {to}"))
        .note("once the parameter is there, any account can call migrate()");
    Ok(Upgrade { contract, from, to, migrator, parameter, prepare, identity })
}

impl Upgrade {
    /// Returns true if the code is already installed and nothing remains to be done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.from == self.to
    }

    /// Returns true if the bridge has to carry the parameter to the app chain.
    #[must_use]
    pub fn needs_bridge(&self) -> bool {
        !self.is_done() && self.contract.chain() == ChainRole::App
    }

    /// Plans the call that installs the code. The plan is empty if the code is installed: any account may have made the
    /// call since the upgrade was planned. `is_there` is true if the parameter has reached the contract's chain, so
    /// that the call can be tried before it is sent.
    ///
    /// # Errors
    /// Fails when the contract's address is not known, or its chain does not answer.
    pub async fn migrate(&self, network: &Network, is_there: bool) -> Result<Plan, AdminError> {
        if self.is_done() {
            return Ok(Plan::default());
        }
        let chain = network.chain(self.contract.chain())?;
        let present = installed::implementation_of(chain, network.at(self.contract)?).await?;
        if present == Some(self.to) {
            return Ok(Plan::nothing(format!(
                "another account has called {}.migrate()",
                self.contract
            )));
        }
        // All contracts have the same `migrate()` function.
        let step = network.step(self.contract, &NodeRegistry::migrateCall {})?;
        let plan = Plan::of([step]);
        Ok(if is_there { plan } else { plan.waiting() })
    }

    /// Checks that the planned code is installed and has the planned immutables.
    ///
    /// # Errors
    /// [`AdminError::OtherImplementation`] with the first difference, and an error if a contract cannot be read.
    pub async fn verify(&self, network: &Network) -> Result<InstalledContract, AdminError> {
        let contract = self.contract;
        let found = installed::get(network, contract).await?;
        let at = found.implementation.unwrap_or_default();
        if at != self.to {
            return Err(AdminError::NotUpgraded { contract, expected: self.to, found: at });
        }
        fits(network, contract, network.at(contract)?, &self.identity).await?;
        Ok(found)
    }
}

fn named(name: &str) -> &'static Artifact {
    artifact::named(name).expect("every contract has an artifact")
}

/// Returns the creation code of a contract whose constructor takes addresses.
fn init_code(artifact: &Artifact, arguments: &[Address]) -> Bytes {
    let words = arguments.iter().map(|argument| argument.into_word());
    let words: Vec<u8> = words.flat_map(|word| word.0).collect();
    [&artifact.creation_code[..], &words].concat().into()
}

/// Adds the step that deploys code with the chain's factory, unless the code is already there. Returns its address,
/// which is computed from the code (CREATE2, EIP-1014) and not taken from an endpoint.
pub(super) async fn deploy(
    network: &Network,
    contract: Contract,
    init_code: Bytes,
    plan: &mut Plan,
) -> Result<Address, AdminError> {
    let factory = match contract.chain() {
        ChainRole::Settlement => Contract::SettlementChainFactory,
        ChainRole::App => Contract::AppChainFactory,
    };
    let hash = keccak256(&init_code);
    let address = network.at(factory)?.create2(hash, hash);
    if !network.chain(contract.chain())?.has_code(address).await? {
        let deploy = Factory::deployImplementationCall { bytecode_: init_code };
        let step: PlanStep = network.step(factory, &deploy)?;
        plan.steps.push(step);
    }
    Ok(address)
}

/// Returns the factory of the other chain, which reads the same parameter.
fn other_factory(contract: Contract) -> Option<Contract> {
    match contract {
        Contract::SettlementChainFactory => Some(Contract::AppChainFactory),
        Contract::AppChainFactory => Some(Contract::SettlementChainFactory),
        _ => None,
    }
}

/// Ensures that the factory of the other chain cannot be migrated to an address without code. Both factories read
/// the same parameter and may have the same code at the same address. Any account can bring the parameter to the
/// other chain, create the migrator there and call `migrate()`. Therefore the right code has to be on the other
/// chain before the parameter is set.
async fn guard_other_factory(
    network: &Network,
    other: Contract,
    (from, to): (Address, Address),
    new: NewCode,
    choice: MigratorChoice,
    prepare: &mut Plan,
) -> Result<(), AdminError> {
    let proxy = network.at(other)?;
    let chain = network.chain(other.chain())?;
    let present = installed::implementation_of(chain, proxy).await?;
    if present == Some(to) {
        return Ok(());
    }
    // Any account may have brought the parameter of an earlier upgrade there. It can still lead this factory to `from`
    // if that code exists on its chain.
    if choice == MigratorChoice::Exact && present != Some(from) && !chain.has_code(from).await? {
        return Ok(()); // the migrator does nothing to it
    }
    let arguments = constructor(other).ok_or(AdminError::NotUpgradable(other))?;
    let identity = identity(network, other, proxy, arguments).await?;
    prepare.notes.push(format!("{other} reads the same parameter: any account can upgrade it too"));
    if new == NewCode::ThisBuild {
        let values: Vec<_> = identity.immutables.iter().map(|(_, value)| *value).collect();
        let (code, before) = (init_code(named(other.interface()), &values), prepare.steps.len());
        if deploy(network, other, code, prepare).await? == to && prepare.steps.len() > before {
            return Ok(());
        }
    }
    fits(network, other, to, &identity).await
}

/// Reads the name of the installed code and checks its immutables. They become constructor arguments of new code, so an
/// endpoint must not choose them: each has to equal the address that the operator knows.
async fn identity(
    network: &Network,
    contract: Contract,
    proxy: Address,
    arguments: &[ConstructorArgument],
) -> Result<Identity, AdminError> {
    let name = name_at(network, contract, proxy).await?;
    let mut immutables = Vec::new();
    for &(getter, beside) in arguments {
        let expected = network.at(beside)?;
        let found = immutable_at(network, contract, proxy, getter).await?;
        if found != expected {
            return Err(AdminError::OtherBeside { contract, getter, beside, expected, found });
        }
        immutables.push((getter, expected));
    }
    Ok(Identity { name, immutables })
}

/// Returns the contract name that the code reports; empty if it reports none.
async fn name_at(network: &Network, contract: Contract, at: Address) -> Result<String, AdminError> {
    // All contracts have the same `contractName()` function.
    let name = network.chain(contract.chain())?.view(at, &NodeRegistry::contractNameCall {}).await;
    let name = match name {
        Ok(name) => name,
        Err(ViewError::Rpc(error)) => return Err(error.into()),
        Err(_) => String::new(),
    };
    // The name comes from an endpoint and is printed to a terminal.
    Ok(name.chars().take(NAME_LEN_MAX).filter(char::is_ascii_alphanumeric).collect())
}

async fn immutable_at(
    network: &Network,
    contract: Contract,
    at: Address,
    getter: &'static str,
) -> Result<Address, AdminError> {
    let data = parameters::call_data(contract, getter, None);
    if let Some(word) = parameters::word_at(network, contract, at, data).await? {
        return Ok(Address::from_word(word));
    }
    let chain_id = network.chain(contract.chain())?.id();
    let reason = "it reverts".to_owned();
    let source = ViewError::OtherContract { address: at, chain_id, function: getter, reason };
    Err(AdminError::View { contract, source })
}

/// Checks that code belongs to the contract and was deployed for the same neighbouring contracts. Other code would
/// take over the contract's state and could not be replaced again.
async fn fits(
    network: &Network,
    contract: Contract,
    at: Address,
    expected: &Identity,
) -> Result<(), AdminError> {
    require_code(network, contract, at).await?;
    let different = |field, expected, found| {
        Err(AdminError::OtherImplementation { contract, at, field, expected, found })
    };
    let name = name_at(network, contract, at).await?;
    if expected.name != name {
        return different("name", expected.name.clone(), name);
    }
    for &(field, expected) in &expected.immutables {
        let found = immutable_at(network, contract, at, field).await?;
        if expected != found {
            return different(field, expected.to_string(), found.to_string());
        }
    }
    Ok(())
}

/// Refuses an address without code.
async fn require_code(
    network: &Network,
    contract: Contract,
    address: Address,
) -> Result<Address, AdminError> {
    let chain = network.chain(contract.chain())?;
    if chain.has_code(address).await? {
        return Ok(address);
    }
    let source = ViewError::NoCode { address, chain_id: chain.id() };
    Err(AdminError::View { contract, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constructor_of_each_contract_takes_what_the_table_says() {
        for contract in Contract::ALL.into_iter().chain(Contract::OPTIONAL) {
            let Some(arguments) = constructor(contract) else { continue };
            let getters: Vec<_> = arguments.iter().map(|(getter, _)| *getter).collect();
            let abi = &named(contract.interface()).abi;
            let inputs = abi.constructor().map(|it| it.inputs.clone()).unwrap_or_default();
            let names: Vec<_> = inputs.iter().map(|it| it.name.trim_end_matches('_')).collect();
            assert_eq!(names, getters, "{contract}");
            assert!(inputs.iter().all(|it| it.ty == "address"), "{contract}");
            for (getter, beside) in arguments {
                assert!(abi.function(getter).is_some(), "{contract}.{getter}");
                let of_same_chain = beside.chain() == contract.chain();
                assert_eq!(of_same_chain, !getter.ends_with("ChainGateway"), "{contract}.{getter}");
                let (name, getter) = (beside.name().to_lowercase(), getter.to_lowercase());
                assert!(name.contains(&getter), "{contract}.{getter} is {beside}");
            }
            let key = parameters::key_of(contract, "migrator");
            assert!(parameters::known(&key).is_some(), "{key}");
        }
    }
}
