//! Describes calls and events by name and arguments instead of hex data.

use alloy::dyn_abi::{EventExt as _, JsonAbiExt as _};
use alloy::json_abi::{EventParam, Function, Param};
use alloy::primitives::LogData;

use super::artifact::Artifact;
use super::revert::nested_revert;

pub use super::description::{Argument, Description};

/// Describes a call of one of the contract's functions. Returns `None` if the contract has no such
/// function, or if the arguments do not decode.
#[must_use]
pub fn call(contract: &Artifact, data: &[u8]) -> Option<Description> {
    let (selector, arguments) = data.split_first_chunk::<4>()?;
    let matches = |function: &&Function| function.selector() == *selector;
    let function = contract.abi.functions().find(matches)?;
    let values = function.abi_decode_input(arguments).ok()?;
    Some(Description::new(&function.name, &function.inputs, &values, nested_revert))
}

/// Describes an event of the contract. Returns `None` if the contract has no such event. An indexed string is shown as
/// its hash, because the log does not contain the string.
#[must_use]
pub fn event(contract: &Artifact, log: &LogData) -> Option<Description> {
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
    Some(Description::new(&event.name, &params, &values?, nested_revert))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use alloy::sol_types::SolCall as _;

    use super::super::{NodeRegistry, SettlementChainGateway, artifact};
    use super::*;

    #[test]
    fn a_call_shows_its_arguments() {
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
    fn events_show_indexed_arguments_too() {
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
        let foreign = LogData::new_unchecked(vec![[7; 32].into()], [].into());
        assert_eq!(event(artifact::named("NodeRegistry").unwrap(), &foreign), None);
    }

    #[test]
    fn lists_are_shown_as_lists() {
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
