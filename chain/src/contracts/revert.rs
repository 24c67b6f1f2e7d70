//! Decodes the errors of reverted calls, over all contracts.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use alloy::dyn_abi::JsonAbiExt as _;
use alloy::json_abi::Error;
use alloy::primitives::{Bytes, Selector};
use alloy::sol_types::{Panic, PanicKind, Revert as ErrorText, SolError};

use super::artifact;
use super::description::Description;

/// The reason why a call was reverted. Displayed by name and arguments, or as hex data if
/// no contract declares the error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// The data that the contract returned.
    pub data: Bytes,
    /// The meaning of the data.
    pub reason: RevertReason,
}

/// The meaning of a revert's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevertReason {
    /// An error that one of the contracts declares, known by its selector. Its arguments may not decode.
    Named(Description),
    /// A check that the compiler inserted: overflow, index out of range.
    Panic(PanicKind),
    /// `revert("…")` or `require(…, "…")`.
    Text(String),
    /// No data: an unknown function, an inner call out of gas, or undecodable arguments.
    Nothing,
    /// An error that none of the contracts declares.
    Unknown,
}

/// The longest data within an error that is described as an error too, in bytes. Each level of nested errors takes more
/// than 36 bytes, so this bounds the stack: an endpoint could nest errors as deep as an answer is long. A guess: the
/// errors of the contracts are much shorter.
const NESTED_LEN_BYTES_MAX: usize = 1024;
/// The longest displayed text, in bytes; the rest is cut off. A guess: far longer than that of the contracts' errors.
const TEXT_LEN_BYTES_MAX: usize = 4096;

/// Errors of deployed contracts that the current ABIs no longer declare.
const FORMER: [&str; 1] =
    ["error WithdrawalNotReady(uint32 timestamp, uint32 withdrawableTimestamp)"];

static ERRORS: LazyLock<HashMap<Selector, Error>> = LazyLock::new(|| {
    let present = artifact::all().iter().flat_map(|artifact| artifact.abi.errors().cloned());
    let former = FORMER.iter().map(|text| Error::parse(text).expect("it is a declaration"));
    present.chain(former).map(|error| (error.selector(), error)).collect()
});

impl Revert {
    /// Decodes the data that a contract returned. Data of an unknown error is kept undecoded.
    #[must_use]
    pub fn decode(data: &[u8]) -> Self {
        Self { data: data.to_vec().into(), reason: reason(data) }
    }

    /// Returns the error's name without arguments; `Panic` and `Error` for the two built-in errors.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.reason {
            RevertReason::Named(error) => Some(&error.name),
            RevertReason::Panic(_) => Some("Panic"),
            RevertReason::Text(_) => Some("Error"),
            RevertReason::Nothing | RevertReason::Unknown => None,
        }
    }

    /// Returns the error as type `E`, if it is that one.
    #[must_use]
    pub fn as_error<E: SolError>(&self) -> Option<E> {
        E::abi_decode(&self.data).ok()
    }
}

/// Describes bytes that are an ABI-encoded error: some errors carry the revert data of an inner call. Returns `None`
/// for other bytes, and for more than [`NESTED_LEN_BYTES_MAX`].
pub(super) fn nested_revert(bytes: &[u8]) -> Option<String> {
    if bytes.len() > NESTED_LEN_BYTES_MAX {
        return None;
    }
    let revert = Revert::decode(bytes);
    revert.name().is_some().then(|| revert.to_string())
}

fn reason(data: &[u8]) -> RevertReason {
    if data.is_empty() {
        return RevertReason::Nothing;
    }
    if let Some(kind) = Panic::abi_decode(data).ok().and_then(|panic| panic.kind()) {
        return RevertReason::Panic(kind);
    }
    if let Ok(text) = ErrorText::abi_decode(data) {
        return RevertReason::Text(text.reason);
    }
    named(data).map_or(RevertReason::Unknown, RevertReason::Named)
}

/// Describes an error by its selector, because some endpoints show no more of it.
fn named(data: &[u8]) -> Option<Description> {
    let (selector, arguments) = data.split_first_chunk::<4>()?;
    let error = ERRORS.get(selector)?;
    Some(match error.abi_decode_input(arguments) {
        Ok(values) => Description::new(&error.name, &error.inputs, &values, nested_revert),
        Err(_) => Description::of_undecoded(&error.name, arguments),
    })
}

/// The name and arguments, of at most 4 KiB: a contract or an endpoint chooses the data.
impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.reason {
            RevertReason::Named(error) => error.to_string(),
            RevertReason::Panic(kind) => {
                format!("Panic({:#04x}): {}", *kind as u32, kind.as_str())
            }
            RevertReason::Text(text) => format!("Error({text:?})"),
            RevertReason::Nothing => "reverted without saying why".to_owned(),
            RevertReason::Unknown => {
                format!("an error that no known contract declares: {}", self.data)
            }
        };
        let end = text.floor_char_boundary(TEXT_LEN_BYTES_MAX);
        let dots = if end < text.len() { "…" } else { "" };
        write!(f, "{}{dots}", &text[..end])
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};

    use super::super::{PayerRegistry, SettlementChainParameterRegistry};
    use super::*;

    #[test]
    fn errors_show_name_and_arguments() {
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
    fn an_inner_error_is_shown_too() {
        let inner = SettlementChainParameterRegistry::NotAdmin {}.abi_encode();
        let outer = SettlementChainParameterRegistry::MigrationFailed {
            migrator_: Address::ZERO,
            revertData_: inner.into(),
        };
        let text = Revert::decode(&outer.abi_encode()).to_string();
        assert!(text.starts_with("MigrationFailed(migrator: 0x0000"), "{text}");
        assert!(text.ends_with("(NotAdmin()))"), "{text}");
    }

    /// Without a bound, each level would take stack until the process ends.
    #[test]
    fn errors_nested_as_deep_as_an_answer_is_long_are_not_followed() {
        let mut data = SettlementChainParameterRegistry::NotAdmin {}.abi_encode();
        for _ in 0..4000 {
            let failed = SettlementChainParameterRegistry::MigrationFailed {
                migrator_: Address::ZERO,
                revertData_: data.into(),
            };
            data = failed.abi_encode();
        }
        let RevertReason::Named(error) = Revert::decode(&data).reason else {
            panic!("the contract declares it");
        };
        let inner = &error.arguments[1].value;
        assert!(inner.len() > 2 * NESTED_LEN_BYTES_MAX && !inner.contains('('), "{inner:.100}");
    }

    #[test]
    fn the_text_of_an_error_is_bounded() {
        let text = ErrorText { reason: "é".repeat(100_000) }.abi_encode();
        for data in [text, vec![9; 100_000]] {
            let shown = Revert::decode(&data).to_string();
            let is_cut = shown.ends_with('…') && shown.len() <= TEXT_LEN_BYTES_MAX + '…'.len_utf8();
            assert!(is_cut, "{} bytes: {shown:.100}", shown.len());
        }
    }

    #[test]
    fn built_in_errors_are_known() {
        let panic = Panic { code: U256::from(0x32) }.abi_encode();
        assert_eq!(Revert::decode(&panic).to_string(), "Panic(0x32): array out-of-bounds access");
        let text = ErrorText { reason: "not \"you\"".into() }.abi_encode();
        assert_eq!(Revert::decode(&text).to_string(), r#"Error("not \"you\"")"#);
        assert_eq!(Revert::decode(&[]).reason, RevertReason::Nothing);
    }

    #[test]
    fn an_error_of_an_older_deployment_is_known() {
        let data = [&alloy::hex!("8f8db830")[..], &[0; 63], &[7]].concat();
        let text = Revert::decode(&data).to_string();
        assert_eq!(text, "WithdrawalNotReady(timestamp: 0, withdrawableTimestamp: 7)");
    }

    #[test]
    fn unknown_data_stays_digits() {
        let selector = PayerRegistry::InsufficientDeposit::SELECTOR;
        for data in [&[1, 2][..], &[9, 9, 9, 9], &selector[..3]] {
            let revert = Revert::decode(data);
            assert_eq!(revert.reason, RevertReason::Unknown);
            assert!(revert.to_string().ends_with(&revert.data.to_string()));
        }
    }

    #[test]
    fn an_error_has_its_name_by_its_selector_alone() {
        let part: [u8; 32] = [7; 32];
        for (len, shown) in [(0, "0x)"), (2, "0x0707)"), (32, "0x070707")] {
            let selector = PayerRegistry::InsufficientDeposit::SELECTOR;
            let data = [&selector[..], &part[..len]].concat();
            let revert = Revert::decode(&data);
            assert_eq!(revert.name(), Some("InsufficientDeposit"));
            let text = revert.to_string();
            assert!(text.starts_with(&format!("InsufficientDeposit({shown}")), "{text}");
            assert_eq!(revert.as_error::<PayerRegistry::InsufficientDeposit>(), None);
        }
    }

    #[test]
    fn every_selector_of_the_vectors_is_known() {
        let text = include_str!("../../../tests/vectors/contracts/revert_selectors.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let of = |part: &str| vectors[part].as_object().unwrap().iter();
        for (selector, error) in of("selectors").chain(of("legacy")) {
            let selector: Selector = selector.parse().unwrap();
            let known = ERRORS.get(&selector).map(Error::signature);
            let builtin = [Panic::SELECTOR, ErrorText::SELECTOR].contains(&selector.0);
            assert!(builtin || known.as_deref() == error["signature"].as_str(), "{error}");
        }
    }
}
