//! Raw calls, logs and selectors of the golden vectors, against the committed interfaces. This
//! needs no chain.

use std::collections::BTreeSet;

use alloy::dyn_abi::{DynSolType, DynSolValue, EventExt as _, JsonAbiExt as _, Specifier as _};
use alloy::json_abi::{Event, Function, JsonAbi, Param};
use alloy::primitives::{B256, Bytes};
use hawser_chain::contracts::artifact;
use serde_json::Value;

use crate::harness::vectors::{field, list, scalars, vectors};

fn interface(contract: &str) -> &'static JsonAbi {
    let name = contract.split(' ').next().unwrap();
    &artifact::named(name).unwrap_or_else(|| panic!("there is a contract {name}")).abi
}

fn function(case: &Value) -> &'static Function {
    let signature = case["function"].as_str().unwrap();
    let abi = interface(case["contract"].as_str().unwrap());
    abi.functions().find(|it| it.signature() == signature).unwrap()
}

fn event(case: &Value) -> &'static Event {
    let signature = case["event"].as_str().unwrap();
    let abi = interface(case["contract"].as_str().unwrap());
    abi.events().find(|it| it.signature() == signature).unwrap()
}

/// Converts a JSON value into a value of this type.
fn value(kind: &DynSolType, json: &Value) -> DynSolValue {
    match (kind, json) {
        (DynSolType::Array(kind), Value::Array(items)) => {
            DynSolValue::Array(items.iter().map(|item| value(kind, item)).collect())
        }
        (DynSolType::Tuple(kinds), Value::Array(items)) => {
            let items = kinds.iter().zip(items);
            DynSolValue::Tuple(items.map(|(kind, item)| value(kind, item)).collect())
        }
        (DynSolType::String, Value::String(text)) => DynSolValue::String(text.clone()),
        (kind, Value::String(text)) => kind.coerce_str(text).unwrap(),
        (kind, other) => kind.coerce_str(&other.to_string()).unwrap(),
    }
}

#[test]
fn calls_are_encoded_as_in_the_vectors() {
    for case in list(&vectors("calldata"), "cases") {
        let function = function(case);
        let kinds = function.inputs.iter().map(|input: &Param| input.resolve().unwrap());
        let arguments: Vec<DynSolValue> =
            kinds.zip(list(case, "args")).map(|(kind, json)| value(&kind, json)).collect();
        assert_eq!(arguments.len(), function.inputs.len());
        let encoded = function.abi_encode_input(&arguments).unwrap();
        assert_eq!(Bytes::from(encoded), field::<Bytes>(case, "calldata"), "{case}");
    }
}

#[test]
fn logs_are_decoded_as_in_the_vectors() {
    for case in list(&vectors("event_logs"), "cases") {
        let event = event(case);
        let topics: Vec<B256> = scalars(case, "topics");
        assert_eq!(topics[0], event.selector());
        let data: Bytes = field(case, "data");
        let log = event.decode_log_parts(topics, &data).unwrap();
        let mut indexed = log.indexed.into_iter();
        let mut body = log.body.into_iter();
        for input in &event.inputs {
            let decoded = if input.indexed { indexed.next() } else { body.next() };
            let decoded = decoded.unwrap();
            // A topic holds only the hash of a value of dynamic length.
            let kind = decoded.as_type().unwrap();
            let expected = &case["decoded"][&input.name];
            assert_eq!(decoded, value(&kind, expected), "{}: {case}", input.name);
        }
        assert_eq!((indexed.next(), body.next()), (None, None));
    }
}

#[test]
fn errors_have_the_selectors_of_the_vectors() {
    let selectors = vectors("revert_selectors");
    let mut covered = BTreeSet::new();
    for (selector, error) in selectors["selectors"].as_object().unwrap() {
        let signature = error["signature"].as_str().unwrap();
        for contract in list(error, "contracts").iter().filter_map(Value::as_str) {
            if contract == "solidity built-in" {
                continue;
            }
            let found = interface(contract).errors().find(|it| it.signature() == signature);
            let found = found.unwrap_or_else(|| panic!("{contract} has {signature}"));
            assert_eq!(&found.selector().to_string(), selector);
            covered.insert((contract.to_owned(), signature.to_owned()));
        }
    }
    let abi = vectors("abi");
    for (contract, interface) in abi["contracts"].as_object().unwrap() {
        for error in list(interface, "errors") {
            let signature = error["signature"].as_str().unwrap().to_owned();
            assert!(
                covered.contains(&(contract.clone(), signature.clone())),
                "{contract} {signature}"
            );
        }
    }
}
