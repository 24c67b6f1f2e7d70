//! Calls and errors in words: the name and the arguments instead of hexadecimal digits.

use std::fmt;

use alloy::dyn_abi::{DynSolValue, EventExt as _, JsonAbiExt as _};
use alloy::json_abi::{EventParam, Function, Param};
use alloy::primitives::LogData;

use super::artifact::Artifact;
use super::revert::Revert;

/// A call or an error by its name, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `addNode`
    pub name: String,
    /// In the order of the declaration.
    pub arguments: Vec<Argument>,
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// As in the interface, without the underscore at its end; empty when it has none.
    pub name: String,
    /// The Solidity type: `uint96`, `(uint32,bytes)[]`.
    pub kind: String,
    /// Numbers in decimal, bytes and addresses in hex, text as it is.
    pub value: String,
    /// The value is text, and is shown in quotes.
    pub is_text: bool,
}

/// `name(argument: value, …)`.
impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, argument) in self.arguments.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{argument}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{}: ", self.name)?;
        }
        if self.is_text { write!(f, "{:?}", self.value) } else { f.write_str(&self.value) }
    }
}

/// A call of one of the contract's functions. `None` if it has no such function, or if the
/// arguments are not encoded as the function takes them.
#[must_use]
pub fn call(contract: &Artifact, data: &[u8]) -> Option<Described> {
    let (selector, arguments) = data.split_first_chunk::<4>()?;
    let matches = |function: &&Function| function.selector() == *selector;
    let function = contract.abi.functions().find(matches)?;
    let values = function.abi_decode_input(arguments).ok()?;
    Some(described(&function.name, &function.inputs, &values))
}

/// What a contract has logged. `None` if it has no such event. Of an indexed text the chain keeps
/// only the hash.
#[must_use]
pub fn event(contract: &Artifact, log: &LogData) -> Option<Described> {
    let topic = log.topics().first()?;
    let event = contract.abi.events().find(|event| event.selector() == *topic)?;
    let decoded = event.decode_log(log).ok()?;
    let (mut indexed, mut body) = (decoded.indexed.into_iter(), decoded.body.into_iter());
    let next = |param: &EventParam| if param.indexed { indexed.next() } else { body.next() };
    let values: Option<Vec<_>> = event.inputs.iter().map(next).collect();
    let param = |param: &EventParam| Param {
        ty: param.ty.clone(),
        name: param.name.clone(),
        components: param.components.clone(),
        internal_type: None,
    };
    let params: Vec<_> = event.inputs.iter().map(param).collect();
    Some(described(&event.name, &params, &values?))
}

/// Joins a declaration with the values that belong to it.
pub(super) fn described(name: &str, params: &[Param], values: &[DynSolValue]) -> Described {
    let argument = |(param, value): (&Param, &DynSolValue)| {
        let is_text = matches!(value, DynSolValue::String(_));
        Argument {
            name: param.name.trim_end_matches('_').to_owned(),
            kind: param.selector_type().into_owned(),
            value: if is_text { value.as_str().unwrap_or_default().into() } else { text(value) },
            is_text,
        }
    };
    let arguments = params.iter().zip(values).map(argument).collect();
    Described { name: name.to_owned(), arguments }
}

fn text(value: &DynSolValue) -> String {
    match value {
        DynSolValue::Bool(value) => value.to_string(),
        DynSolValue::Int(value, _) => value.to_string(),
        DynSolValue::Uint(value, _) => value.to_string(),
        DynSolValue::FixedBytes(word, len) => format!("0x{}", alloy::hex::encode(&word[..*len])),
        DynSolValue::Address(address) => address.to_string(),
        DynSolValue::Function(function) => function.to_string(),
        DynSolValue::Bytes(bytes) => bytes_text(bytes),
        DynSolValue::String(text) => format!("{text:?}"),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) => {
            format!("[{}]", list(values))
        }
        DynSolValue::Tuple(values) => format!("({})", list(values)),
    }
}

/// Errors carry what was reverted inside as bytes: those are an error in their turn.
fn bytes_text(bytes: &[u8]) -> String {
    let hex = format!("0x{}", alloy::hex::encode(bytes));
    let revert = Revert::decode(bytes);
    if revert.name().is_some() { format!("{hex} ({revert})") } else { hex }
}

fn list(values: &[DynSolValue]) -> String {
    values.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use alloy::sol_types::SolCall as _;

    use super::super::{NodeRegistry, SettlementChainGateway, artifact};
    use super::*;

    #[test]
    fn a_call_is_told_with_its_arguments() {
        let call_data = NodeRegistry::addNodeCall {
            owner_: Address::repeat_byte(1),
            signingPublicKey_: vec![4, 5].into(),
            httpAddress_: "http://a \"b\"".into(),
        }
        .abi_encode();
        let registry = artifact::named("NodeRegistry").unwrap();
        let described = call(registry, &call_data).unwrap();
        assert_eq!(
            described.to_string(),
            "addNode(owner: 0x0101010101010101010101010101010101010101, signingPublicKey: 0x0405, \
             httpAddress: \"http://a \\\"b\\\"\")"
        );
        assert_eq!(described.arguments[2].value, "http://a \"b\"");
        assert_eq!(call(registry, &call_data[..40]), None);
        assert_eq!(call(registry, &[0; 4]), None);
        assert_eq!(call(registry, &[]), None);
    }

    #[test]
    fn events_are_told_with_what_is_indexed() {
        let text = include_str!("../../../tests/vectors/contracts/event_logs.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let words = case["topics"].as_array().unwrap().iter();
            let topics = words.map(|word| word.as_str().unwrap().parse().unwrap()).collect();
            let data = case["data"].as_str().unwrap().parse().unwrap();
            let contract = artifact::named(case["contract"].as_str().unwrap()).unwrap();
            let described = event(contract, &LogData::new_unchecked(topics, data)).unwrap();
            let signature = case["event"].as_str().unwrap();
            assert!(signature.starts_with(&format!("{}(", described.name)), "{described}");
            for argument in &described.arguments {
                let Some(expected) = case["decoded"][&argument.name].as_str() else { continue };
                assert!(argument.value.eq_ignore_ascii_case(expected), "{case}: {described}");
            }
        }
        let nobody_s = LogData::new_unchecked(vec![[7; 32].into()], [].into());
        assert_eq!(event(artifact::named("NodeRegistry").unwrap(), &nobody_s), None);
    }

    #[test]
    fn lists_are_told_as_lists() {
        let call_data = SettlementChainGateway::sendParametersCall {
            chainIds_: vec![U256::from(1), U256::from(2)],
            keys_: vec!["a.b".into()],
            gasLimit_: U256::from(3),
            maxFeePerGas_: U256::ZERO,
            amountToSend_: U256::from(5),
        }
        .abi_encode();
        let gateway = artifact::named("SettlementChainGateway").unwrap();
        assert_eq!(
            call(gateway, &call_data).unwrap().to_string(),
            "sendParameters(chainIds: [1, 2], keys: [\"a.b\"], gasLimit: 3, maxFeePerGas: 0, \
             amountToSend: 5)"
        );
    }
}
