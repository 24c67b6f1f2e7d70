//! Accounts with keys. The same name always gives the same account.

use alloy::primitives::{Address, B256, Bytes, Signature, keccak256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;

use super::tx::Tx;

/// An account with a key.
#[derive(Debug, Clone)]
pub(crate) struct Actor(PrivateKeySigner);

/// Returns the account of this name.
pub(crate) fn actor(name: &str) -> Actor {
    Actor(PrivateKeySigner::from_bytes(&keccak256(name)).expect("a hash is a key"))
}

/// Returns the account that deploys contracts and has no role in them.
pub(crate) fn deployer() -> Actor {
    actor("deployer")
}

/// Returns the account that sets parameters and administers the node registry.
pub(crate) fn admin() -> Actor {
    actor("admin")
}

/// Returns an account without any role.
pub(crate) fn anyone() -> Actor {
    actor("anyone")
}

/// Returns the account whose fee tokens fund the others.
pub(crate) fn patron() -> Actor {
    actor("patron")
}

/// Returns the owner of a node.
pub(crate) fn owner(node_id: u32) -> Actor {
    actor(&format!("owner of {node_id}"))
}

/// Returns the signing key of a node.
pub(crate) fn signer(node_id: u32) -> Actor {
    actor(&format!("signer of {node_id}"))
}

/// Returns one of the payers.
pub(crate) fn payer(number: usize) -> Actor {
    actor(&format!("payer {number}"))
}

impl Actor {
    /// Returns the public key in the form of the node registry: 65 bytes, the first is 4.
    pub(crate) fn public_key(&self) -> Bytes {
        [&[4], self.0.public_key().as_slice()].concat().into()
    }

    pub(crate) fn sign(&self, digest: B256) -> Signature {
        self.0.sign_hash_sync(&digest).expect("a key signs")
    }
}

/// A sender of transactions. Contracts are senders as well, because development chains need no key.
pub(crate) trait Caller {
    fn address(&self) -> Address;

    /// Returns a call of a contract's function from this sender.
    fn calls<C: SolCall>(&self, to: Address, call: C) -> Tx {
        Tx::call(self.address(), to, &call)
    }
}

impl Caller for Actor {
    fn address(&self) -> Address {
        self.0.address()
    }
}

impl Caller for Address {
    fn address(&self) -> Address {
        *self
    }
}
