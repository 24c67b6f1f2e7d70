//! The installed contracts: version, implementation, and whether they are paused.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider as _;

use super::{AdminError, Contract, Network};
use crate::contracts::{IMPLEMENTATION_SLOT, NodeRegistry, PayerRegistry, artifact};
use crate::send::{Chain, RequestError, ViewError};

/// The longest version text that is shown, in characters. A guess: several times the longest deployed one. The bound is
/// needed because an endpoint may return any text.
const VERSION_LEN_MAX: usize = 32;

/// The installed state of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledContract {
    /// The contract.
    pub contract: Contract,
    /// Its address.
    pub address: Address,
    /// The version that the contract returns; `None` if it has none.
    pub version: Option<String>,
    /// The implementation address, if the contract is a proxy.
    pub implementation: Option<Address>,
    /// True if its code is the code that this program would deploy.
    pub is_this_build: bool,
    /// True while it is paused; `None` if it cannot be paused.
    pub paused: Option<bool>,
}

/// Returns the contracts whose addresses are known and whose chain is connected.
///
/// # Errors
/// [`AdminError`] if an address has no contract, or a chain does not answer.
pub async fn list(network: &Network) -> Result<Vec<InstalledContract>, AdminError> {
    let mut all = Vec::new();
    for contract in Contract::ALL.into_iter().chain(Contract::OPTIONAL) {
        if network.contracts.get(contract).is_some() && network.chain(contract.chain()).is_ok() {
            all.push(get(network, contract).await?);
        }
    }
    Ok(all)
}

/// Returns one contract.
///
/// # Errors
/// [`AdminError`] if the address is not known or has no contract, or if the chain does not answer.
pub async fn get(network: &Network, contract: Contract) -> Result<InstalledContract, AdminError> {
    let (address, chain) = (network.at(contract)?, network.chain(contract.chain())?);
    let implementation = implementation_of(chain, address).await?;
    let code = code_at(chain, implementation.unwrap_or(address)).await?;
    if code.is_empty() {
        let address = implementation.unwrap_or(address);
        let source = ViewError::NoCode { address, chain_id: chain.id() };
        return Err(AdminError::View { contract, source });
    }
    let paused = if Contract::PAUSABLE.contains(&contract) {
        Some(network.view(contract, &PayerRegistry::pausedCall {}).await?)
    } else {
        None
    };
    let version = version(network, contract).await?;
    let is_this_build = is_this_build(contract, &code);
    Ok(InstalledContract { contract, address, version, implementation, is_this_build, paused })
}

/// Returns the implementation address of a proxy; `None` if the contract is not a proxy.
pub(super) async fn implementation_of(
    chain: &Chain,
    address: Address,
) -> Result<Option<Address>, RequestError> {
    let slot = U256::from_be_bytes(IMPLEMENTATION_SLOT.0);
    let stored = chain.provider().get_storage_at(address, slot).await;
    let stored = stored.map_err(|error| chain.request_error("eth_getStorageAt", error))?;
    let code = Address::from_word(B256::from(stored));
    Ok((!code.is_zero()).then_some(code))
}

/// Returns the code at an address; empty for an account without code.
pub(super) async fn code_at(chain: &Chain, address: Address) -> Result<Bytes, RequestError> {
    let code = chain.provider().get_code_at(address).await;
    code.map_err(|error| chain.request_error("eth_getCode", error))
}

/// Returns true if the code is the one that this program would deploy for the contract.
pub(super) fn is_this_build(contract: Contract, code: &[u8]) -> bool {
    artifact::named(contract.interface()).is_some_and(|artifact| artifact.is_code(code))
}

/// Returns the version that a contract reports. A third-party contract may have none.
async fn version(network: &Network, contract: Contract) -> Result<Option<String>, AdminError> {
    // All contracts have the same `version()` function.
    match network.view(contract, &NodeRegistry::versionCall {}).await {
        Ok(version) => Ok(printable(version)),
        Err(AdminError::View {
            source: ViewError::Reverted(_) | ViewError::OtherContract { .. },
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns `None` for a text that is not a plausible version: it comes from an endpoint and is printed to a terminal.
fn printable(text: String) -> Option<String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (!text.is_empty() && text.len() <= VERSION_LEN_MAX && is_plain).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_could_write_on_a_terminal_is_not_shown() {
        assert_eq!(printable("1.0.0-rc2".into()).as_deref(), Some("1.0.0-rc2"));
        for text in ["", "1.0 ", "\u{1b}[2J", "１.0", &"1".repeat(33)] {
            assert_eq!(printable(text.into()), None, "{text:?}");
        }
    }
}
