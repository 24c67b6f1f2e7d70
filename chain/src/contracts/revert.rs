//! What a failed call says: the error's name and arguments, over all contracts.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use alloy::dyn_abi::JsonAbiExt as _;
use alloy::json_abi::Error;
use alloy::primitives::{Bytes, Selector};
use alloy::sol_types::{Panic, PanicKind, Revert as ErrorText, SolError};

use super::artifact;
use super::describe::{Described, described};

/// Why a call was reverted. Shown by name and arguments; as digits only when nobody knows the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// What the contract returned.
    pub data: Bytes,
    /// What that means.
    pub reason: Reason,
}

/// What the data of a revert means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// An error that one of the contracts declares.
    Named(Described),
    /// A check of the compiler: overflow, index out of range.
    Panic(PanicKind),
    /// `revert("…")` or `require(…, "…")`.
    Text(String),
    /// Nothing was said: no such function, out of gas in an inner call, undecodable arguments.
    Nothing,
    /// An error that no contract here declares.
    Unknown,
}

/// Errors of deployed contracts that the present ones don't have any more.
const FORMER: [&str; 1] =
    ["error WithdrawalNotReady(uint32 timestamp, uint32 withdrawableTimestamp)"];

static ERRORS: LazyLock<HashMap<Selector, Error>> = LazyLock::new(|| {
    let present = artifact::all().iter().flat_map(|artifact| artifact.abi.errors().cloned());
    let former = FORMER.iter().map(|text| Error::parse(text).expect("it is a declaration"));
    present.chain(former).map(|error| (error.selector(), error)).collect()
});

impl Revert {
    /// Reads what a contract returned. Never fails: what is not known stays digits.
    #[must_use]
    pub fn decode(data: &[u8]) -> Self {
        Self { data: data.to_vec().into(), reason: reason(data) }
    }

    /// The error's name without arguments; `Panic` and `Error` for those that need no declaration.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.reason {
            Reason::Named(error) => Some(&error.name),
            Reason::Panic(_) => Some("Panic"),
            Reason::Text(_) => Some("Error"),
            Reason::Nothing | Reason::Unknown => None,
        }
    }

    /// The error as its type, when it is that one.
    #[must_use]
    pub fn as_error<E: SolError>(&self) -> Option<E> {
        E::abi_decode(&self.data).ok()
    }
}

fn reason(data: &[u8]) -> Reason {
    if data.is_empty() {
        return Reason::Nothing;
    }
    if let Some(kind) = Panic::abi_decode(data).ok().and_then(|panic| panic.kind()) {
        return Reason::Panic(kind);
    }
    if let Ok(text) = ErrorText::abi_decode(data) {
        return Reason::Text(text.reason);
    }
    named(data).map_or(Reason::Unknown, Reason::Named)
}

fn named(data: &[u8]) -> Option<Described> {
    let (selector, arguments) = data.split_first_chunk::<4>()?;
    let error = ERRORS.get(selector)?;
    let values = error.abi_decode_input(arguments).ok()?;
    Some(described(&error.name, &error.inputs, &values))
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Named(error) => error.fmt(f),
            Reason::Panic(kind) => {
                write!(f, "Panic({:#04x}): {}", *kind as u32, kind.as_str())
            }
            Reason::Text(text) => write!(f, "Error({text:?})"),
            Reason::Nothing => f.write_str("reverted without saying why"),
            Reason::Unknown => write!(f, "an error that no known contract declares: {}", self.data),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};

    use super::super::{PayerRegistry, SettlementChainParameterRegistry};
    use super::*;

    #[test]
    fn errors_are_told_by_name_and_arguments() {
        let error = PayerRegistry::InsufficientDeposit {
            amount: "5".parse().unwrap(),
            minimumDeposit: "10000000".parse().unwrap(),
        };
        let revert = Revert::decode(&error.abi_encode());
        assert_eq!(revert.name(), Some("InsufficientDeposit"));
        assert_eq!(revert.to_string(), "InsufficientDeposit(amount: 5, minimumDeposit: 10000000)");
        assert_eq!(revert.as_error(), Some(error));
        assert_eq!(revert.as_error::<SettlementChainParameterRegistry::NotAdmin>(), None);
    }

    #[test]
    fn what_was_reverted_inside_is_told_too() {
        let inner = SettlementChainParameterRegistry::NotAdmin {}.abi_encode();
        let outer = SettlementChainParameterRegistry::MigrationFailed {
            migrator_: Address::ZERO,
            revertData_: inner.into(),
        };
        let text = Revert::decode(&outer.abi_encode()).to_string();
        assert!(text.starts_with("MigrationFailed(migrator: 0x0000"), "{text}");
        assert!(text.ends_with("(NotAdmin()))"), "{text}");
    }

    #[test]
    fn what_needs_no_declaration_is_known() {
        let panic = Panic { code: U256::from(0x32) }.abi_encode();
        assert_eq!(Revert::decode(&panic).to_string(), "Panic(0x32): array out-of-bounds access");
        let text = ErrorText { reason: "not \"you\"".into() }.abi_encode();
        assert_eq!(Revert::decode(&text).to_string(), r#"Error("not \"you\"")"#);
        assert_eq!(Revert::decode(&[]).reason, Reason::Nothing);
    }

    #[test]
    fn an_error_of_an_older_deployment_is_known() {
        let data = [&alloy::hex!("8f8db830")[..], &[0; 63], &[7]].concat();
        let text = Revert::decode(&data).to_string();
        assert_eq!(text, "WithdrawalNotReady(timestamp: 0, withdrawableTimestamp: 7)");
    }

    #[test]
    fn what_is_not_known_stays_digits() {
        for data in [&[1, 2][..], &[9, 9, 9, 9], &PayerRegistry::InsufficientDeposit::SELECTOR] {
            let revert = Revert::decode(data);
            assert_eq!(revert.reason, Reason::Unknown);
            assert!(revert.to_string().ends_with(&revert.data.to_string()));
        }
    }

    #[test]
    fn every_selector_of_the_vectors_is_known() {
        let text = include_str!("../../../tests/vectors/contracts/revert_selectors.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for (selector, error) in vectors["selectors"].as_object().unwrap() {
            let selector: Selector = selector.parse().unwrap();
            let known = ERRORS.get(&selector).map(Error::signature);
            let builtin = [Panic::SELECTOR, ErrorText::SELECTOR].contains(&selector.0);
            assert!(builtin || known.as_deref() == error["signature"].as_str(), "{error}");
        }
    }
}
