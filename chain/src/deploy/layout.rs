//! Addresses of a deployment, computed before the first transaction.
//!
//! The deployer's first two transactions create the factory and its proxy. The factory's first creation is the
//! implementation that new proxies start with. All other addresses follow from code and salts (CREATE2, EIP-1014).

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::sol_types::SolValue as _;

use crate::contracts::artifact::{self, Artifact};

/// The addresses of one chain from which all others follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) deployer: Address,
    /// Created by the deployer's transaction with nonce 0.
    pub(super) factory_implementation: Address,
    /// A proxy, created by the deployer's transaction with nonce 1.
    pub(super) factory: Address,
    /// The implementation that new proxies start with.
    initializable: Address,
}

impl Layout {
    pub(super) fn new(deployer: Address) -> Self {
        let factory = deployer.create(1);
        Self {
            deployer,
            factory_implementation: deployer.create(0),
            factory,
            initializable: factory.create(1),
        }
    }

    /// Returns the address of an implementation with this init code.
    pub(super) fn implementation(&self, init_code: &[u8]) -> Address {
        let hash = keccak256(init_code);
        self.factory.create2(hash, hash)
    }

    /// Returns the address of the deployer's proxy with this salt.
    pub(super) fn proxy(&self, salt: B256) -> Address {
        let salt = keccak256((self.deployer, salt).abi_encode());
        self.factory.create2(salt, keccak256(proxy_code(self.initializable)))
    }
}

/// Returns the init code of a proxy in front of an implementation.
pub(super) fn proxy_code(implementation: Address) -> Bytes {
    contract("Proxy").init_code(&(implementation,))
}

/// Returns the init code of the factory, which reads its parameters from a registry that it deploys later.
pub(super) fn factory_code(registry: Address) -> Bytes {
    contract("Factory").init_code(&(registry,))
}

/// Returns the artifact of a contract. Panics for an unknown name.
pub(super) fn contract(name: &str) -> &'static Artifact {
    artifact::named(name).expect("the deployment names contracts that exist")
}

/// Returns a name as a salt.
pub(super) fn salt(name: &str) -> B256 {
    B256::right_padding_from(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;

    use super::*;

    fn vectors() -> serde_json::Value {
        let text = include_str!("../../../tests/vectors/contracts/addresses.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn salts_of_proxies_are_those_of_the_vectors() {
        for case in vectors()["proxy_salt"]["cases"].as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap();
            let salt = salt(text("salt_text"));
            assert_eq!(salt, text("salt").parse::<B256>().unwrap());
            let caller: Address = text("caller").parse().unwrap();
            let create2 = keccak256((caller, salt).abi_encode());
            assert_eq!(create2, text("create2_salt").parse::<B256>().unwrap());
        }
    }

    #[test]
    fn the_factory_lies_where_deployed_ones_lie() {
        let deployer = address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let environments = include_str!("../../../tests/vectors/contracts/environments.json");
        let environments: serde_json::Value = serde_json::from_str(environments).unwrap();
        let expected = &environments["environments"]["anvil"]["node"]["appChainFactory"];
        assert_eq!(Layout::new(deployer).factory.to_string(), expected.as_str().unwrap());
    }

    #[test]
    fn code_and_salt_decide_an_address() {
        let case = &vectors()["create2_example"];
        let text = |key: &str| case[key].as_str().unwrap();
        let factory: Address = text("factory").parse().unwrap();
        let salt: B256 = text("salt").parse().unwrap();
        let hash: B256 = text("init_code_hash").parse().unwrap();
        assert_eq!(factory.create2(salt, hash), text("address").parse::<Address>().unwrap());
    }
}
