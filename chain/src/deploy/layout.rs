//! The addresses of a deployment, computed before the first transaction.
//!
//! The deployer's first two creations are the factory and its proxy. An account with a key creates them by its
//! transactions; a contract sends none of its own and uses its creator. The factory's first creation is the
//! implementation with which new proxies start. All other addresses depend on code and salts (CREATE2, EIP-1014).

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::sol_types::SolValue as _;

use super::{creator, factory_proxy};
use crate::contracts::artifact::{self, Artifact};
use crate::send::Call;

/// The account that deploys a network and becomes its administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeployerAccount {
    /// An account with a key. Its first two transactions on each chain create the factory.
    Key(Address),
    /// A contract, such as a multisig, with this address on both chains. It can only make calls.
    Contract(Address),
}

impl DeployerAccount {
    /// Returns the address.
    #[must_use]
    pub fn address(self) -> Address {
        match self {
            Self::Key(address) | Self::Contract(address) => address,
        }
    }
}

/// The addresses of one chain on which all others depend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) deployer: Address,
    /// The contract that creates the factory for a deployer that is a contract.
    pub(super) creator: Option<Address>,
    /// The implementation of the factory, the first creation.
    pub(super) factory_implementation: Address,
    /// The factory's proxy, the second creation.
    pub(super) factory: Address,
    /// The implementation that new proxies start with.
    pub(super) initializable: Address,
}

/// A contract that has to exist before the factory deploys others.
pub(super) struct FirstContract {
    pub(super) name: &'static str,
    pub(super) address: Address,
    pub(super) call: Call,
    /// The length of its deployed code in bytes.
    pub(super) deployed_len: usize,
}

impl Layout {
    pub(super) fn new(account: DeployerAccount) -> Self {
        // A contract's first nonce is 1 (EIP-161); that of an account with a key is 0.
        let (deployer, creator, from, first) = match account {
            DeployerAccount::Key(deployer) => (deployer, None, deployer, 0),
            DeployerAccount::Contract(deployer) => {
                let creator = creator::address(deployer);
                (deployer, Some(creator), creator, 1)
            }
        };
        let factory = from.create(first + 1);
        Self {
            deployer,
            creator,
            factory_implementation: from.create(first),
            factory,
            initializable: factory.create(1),
        }
    }

    /// Returns the contracts that precede all others, in order. The creation of the last one includes
    /// the factory's own first creation.
    pub(super) fn first_contracts(&self, registry: Address) -> Vec<FirstContract> {
        let create = |init_code: Bytes| match self.creator {
            Some(creator) => creator::create_by(creator, init_code),
            None => Call::create(init_code),
        };
        let len = |name: &str| contract(name).deployed_code.len();
        let of_creator = self.creator.map(|address| FirstContract {
            name: "Creator",
            address,
            call: creator::creation(self.deployer),
            deployed_len: creator::CODE_LEN_BYTES,
        });
        let factory = FirstContract {
            name: "Factory",
            address: self.factory_implementation,
            call: create(factory_code(registry)),
            deployed_len: len("Factory"),
        };
        let proxy = FirstContract {
            name: "Factory, proxy",
            address: self.factory,
            call: create(factory_proxy::init_code(self.factory_implementation)),
            deployed_len: len("Proxy"),
        };
        of_creator.into_iter().chain([factory, proxy]).collect()
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

/// Returns the init code of a proxy for an implementation.
pub(super) fn proxy_code(implementation: Address) -> Bytes {
    contract("Proxy").init_code(&(implementation,))
}

/// Returns the init code of the factory, which reads its parameters from a registry that is deployed later.
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
        assert_eq!(
            Layout::new(DeployerAccount::Key(deployer)).factory.to_string(),
            expected.as_str().unwrap()
        );
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
