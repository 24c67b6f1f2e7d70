//! Who acts in the tests: accounts with keys, always the same ones for the same names.

use alloy::primitives::{Address, B256, Bytes, Signature, keccak256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;

use super::tx::Tx;

/// Somebody with a key.
#[derive(Debug, Clone)]
pub(crate) struct Actor(PrivateKeySigner);

/// The account of this name.
pub(crate) fn actor(name: &str) -> Actor {
    Actor(PrivateKeySigner::from_bytes(&keccak256(name)).expect("a hash is a key"))
}

/// Deploys contracts, and has no role in them.
pub(crate) fn deployer() -> Actor {
    actor("deployer")
}

/// Sets parameters, and is the admin of the node registry.
pub(crate) fn admin() -> Actor {
    actor("admin")
}

/// Somebody without any role.
pub(crate) fn anyone() -> Actor {
    actor("anyone")
}

/// Owns fee tokens without end, and gives.
pub(crate) fn patron() -> Actor {
    actor("patron")
}

/// The owner of a node.
pub(crate) fn owner(node_id: u32) -> Actor {
    actor(&format!("owner of {node_id}"))
}

/// The key that a node signs with.
pub(crate) fn signer(node_id: u32) -> Actor {
    actor(&format!("signer of {node_id}"))
}

/// One of the payers.
pub(crate) fn payer(number: usize) -> Actor {
    actor(&format!("payer {number}"))
}

impl Actor {
    /// As node registries take it: 65 bytes that start with 4.
    pub(crate) fn public_key(&self) -> Bytes {
        [&[4], self.0.public_key().as_slice()].concat().into()
    }

    pub(crate) fn sign(&self, digest: B256) -> Signature {
        self.0.sign_hash_sync(&digest).expect("a key signs")
    }
}

/// Whoever can be the sender of a transaction. Contracts can: development chains ask for no key.
pub(crate) trait Calls {
    fn address(&self) -> Address;

    /// A call of a contract's function in this name.
    fn calls<C: SolCall>(&self, to: Address, call: C) -> Tx {
        Tx::call(self.address(), to, &call)
    }
}

impl Calls for Actor {
    fn address(&self) -> Address {
        self.0.address()
    }
}

impl Calls for Address {
    fn address(&self) -> Address {
        *self
    }
}
