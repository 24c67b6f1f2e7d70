//! The compiled contracts by name: interface and code as committed.

use std::sync::LazyLock;

use alloy::json_abi::{ContractObject, JsonAbi};
use alloy::primitives::Bytes;
use alloy::sol_types::abi::TokenSeq;
use alloy::sol_types::{SolType, SolValue};

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
    /// The code on the chain afterwards, with immutables at zero.
    pub deployed_code: Bytes,
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
        Self {
            name,
            abi: object.abi.expect("the bindings were compiled from the same interface"),
            creation_code: object.bytecode.unwrap_or_default(),
            deployed_code: object.deployed_bytecode.unwrap_or_default(),
        }
    }

    /// Returns the code that creates the contract with these constructor arguments.
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
}
