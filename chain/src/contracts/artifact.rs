//! The compiled contracts by name: ABI and code of the committed artifacts.

use std::sync::LazyLock;

use alloy::json_abi::{ContractObject, JsonAbi};
use alloy::primitives::Bytes;
use alloy::sol_types::abi::TokenSeq;
use alloy::sol_types::{SolType, SolValue};
use serde::Deserialize;

use super::SOURCES;

/// A compiled contract.
#[derive(Debug)]
pub struct Artifact {
    /// The name in the source: `NodeRegistry`.
    pub name: &'static str,
    /// Functions, events and errors.
    pub abi: JsonAbi,
    /// The code that creates the contract, without constructor arguments.
    pub creation_code: Bytes,
    /// The deployed code, with zeros in place of the immutables.
    pub deployed_code: Bytes,
    /// The positions of the immutables in the deployed code.
    immutables: Vec<Immutable>,
}

/// The position of an immutable value in deployed code, in bytes.
#[derive(Debug, Deserialize)]
struct Immutable {
    start: usize,
    length: usize,
}

/// The part of an artifact that [`ContractObject`] does not parse.
#[derive(Debug, Deserialize)]
struct References {
    #[serde(default, rename = "immutableReferences")]
    immutables: Vec<Immutable>,
}

static ALL: LazyLock<Vec<Artifact>> = LazyLock::new(|| {
    let parsed = SOURCES.iter().map(|(name, text)| Artifact::parse(name, text));
    parsed.collect()
});

/// Returns all contracts in alphabetical order.
#[must_use]
pub fn all() -> &'static [Artifact] {
    &ALL
}

/// Returns the contract with this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Artifact> {
    ALL.iter().find(|artifact| artifact.name == name)
}

impl Artifact {
    fn parse(name: &'static str, text: &str) -> Self {
        let object: ContractObject =
            serde_json::from_str(text).expect("the bindings were compiled from the same text");
        let References { immutables } =
            serde_json::from_str(text).expect("the bindings were compiled from the same text");
        Self {
            name,
            abi: object.abi.expect("the bindings were compiled from the same interface"),
            creation_code: object.bytecode.unwrap_or_default(),
            deployed_code: object.deployed_bytecode.unwrap_or_default(),
            immutables,
        }
    }

    /// Returns true if `code` is the deployed code of this contract with any values of its immutables.
    #[must_use]
    pub(crate) fn is_code(&self, code: &[u8]) -> bool {
        if code.is_empty() || code.len() != self.deployed_code.len() {
            return false;
        }
        let mut masked = code.to_vec();
        for Immutable { start, length } in &self.immutables {
            let Some(place) = masked.get_mut(*start..start + length) else { return false };
            place.fill(0);
        }
        masked == self.deployed_code
    }

    /// Returns the creation code followed by these constructor arguments.
    #[must_use]
    pub fn init_code<A: SolValue>(&self, arguments: &A) -> Bytes
    where
        for<'a> <A::SolType as SolType>::Token<'a>: TokenSeq<'a>,
    {
        [&self.creation_code[..], &arguments.abi_encode_params()].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_is_found_by_its_name() {
        for artifact in all() {
            assert!(named(artifact.name).is_some_and(|found| found.abi == artifact.abi));
            assert!(!artifact.abi.is_empty(), "{}", artifact.name);
        }
        assert!(named("Nothing").is_none());
    }

    #[test]
    fn constructor_arguments_follow_the_code() {
        let artifact = named("Proxy").expect("Proxy is a contract");
        let code = artifact.init_code(&(alloy::primitives::Address::repeat_byte(7),));
        let arguments = code.strip_prefix(&artifact.creation_code[..]).expect("the code is first");
        assert_eq!(arguments, [[0; 12].as_slice(), &[7; 20]].concat());
    }

    #[test]
    fn code_is_recognised_by_all_but_its_immutables() {
        let migrator = named("Migrator").expect("Migrator is a contract");
        let mut code = migrator.deployed_code.to_vec();
        assert!(migrator.is_code(&code));
        let Immutable { start, length } = migrator.immutables[0];
        code[start..start + length].fill(7);
        assert!(migrator.is_code(&code), "an immutable is no part of the code");
        for other in [&[][..], &code[1..], &[&code[..], &[0]].concat()] {
            assert!(!migrator.is_code(other));
        }
        code[0] ^= 1;
        assert!(!migrator.is_code(&code));
    }
}
