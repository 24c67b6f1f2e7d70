//! Coverage: the functions, events and errors that tests met, compared with the interface of the deployed contracts.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use alloy::primitives::B256;
use parking_lot::Mutex;
use serde_json::Value;

use super::cases::{Case, outcome};
use super::chain::ChainBackend;

/// A part of a contract's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// A function that was called, with success.
    Function([u8; 4]),
    /// An event that was logged.
    Event(B256),
    /// An error that a call returned.
    Error([u8; 4]),
}

/// A met entry: kind of chain, contract, entry.
type Met = (ChainBackend, &'static str, Entry);

static EXERCISED: LazyLock<Mutex<BTreeSet<Met>>> = LazyLock::new(Mutex::default);

pub(crate) fn note(kind: ChainBackend, contract: &'static str, entry: Entry) {
    EXERCISED.lock().insert((kind, contract, entry));
}

/// Runs every case that has not run, and compares the met entries with the interface.
pub(crate) fn check(kind: ChainBackend, cases: impl Iterator<Item = Case>) {
    let failed = cases.filter(|case| outcome(kind, *case).is_err()).count();
    assert_eq!(failed, 0, "what is exercised is known once all tests succeed");

    let exercised = EXERCISED.lock().clone();
    let mut faults = Vec::new();
    for (contract, signature, entry) in interface() {
        let is_met = exercised
            .iter()
            .any(|(on, name, met)| (*on, *name, *met) == (kind, contract.as_str(), entry));
        let reason = unreachable_reason(&contract, &signature);
        match (is_met, reason) {
            (false, None) => faults.push(format!("{contract}.{signature} is not exercised")),
            (true, Some(reason)) => {
                faults.push(format!(
                    "{contract}.{signature} was met, but is listed as unreachable: {reason}"
                ));
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Every function, event and error of every deployed contract.
fn interface() -> Vec<(String, String, Entry)> {
    let text = include_str!("../../../tests/vectors/contracts/abi.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let mut entries = Vec::new();
    for (contract, interface) in vectors["contracts"].as_object().unwrap() {
        let mut take = |list: &str, key: &str, entry: fn(&str) -> Entry| {
            for item in interface[list].as_array().unwrap() {
                let signature = item["signature"].as_str().unwrap().to_owned();
                entries.push((contract.clone(), signature, entry(item[key].as_str().unwrap())));
            }
        };
        take("functions", "selector", |text| Entry::Function(bytes(text)));
        take("events", "topic0", |text| Entry::Event(bytes(text).into()));
        take("errors", "selector", |text| Entry::Error(bytes(text)));
    }
    entries
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    alloy::hex::decode_to_array(hex).unwrap()
}

/// Returns the reason why no call can reach this part of an interface, if there is one.
pub(crate) fn unreachable_reason(contract: &str, signature: &str) -> Option<&'static str> {
    let is_it =
        |row: &&(&str, &str, &str)| (row.0 == contract || row.0 == EVERY) && row.1 == signature;
    UNREACHABLE.iter().find(is_it).map(|row| row.2)
}

const EVERY: &str = "*";
const NO_ALLOWANCE: &str = "the fee token is never allowed to take the underlying tokens";
const OF_A_LIBRARY: &str = "belongs to a library function that is not used so";

/// Unreachable entries: contract, signature, reason.
const UNREACHABLE: &[(&str, &str, &str)] = &[
    (EVERY, "NotInitializing()", "initialisers are called as such only"),
    (EVERY, "EIP712DomainChanged()", "domains do not change"),
    (EVERY, "NoKeyComponents()", "keys are always joined from something"),
    (EVERY, "StringsInsufficientHexLength(uint256,uint256)", OF_A_LIBRARY),
    (EVERY, "ECDSAInvalidSignatureLength(uint256)", "permits take signatures in three parts"),
    (EVERY, "InvalidAccountNonce(address,uint256)", OF_A_LIBRARY),
    ("Factory", "Paused()", "no function takes over the parameter"),
    ("NodeRegistry", "ERC721InvalidSender(address)", "each id is minted once"),
    ("NodeRegistry", "FailedToAddNodeToCanonicalNetwork()", "a set does not fail"),
    ("NodeRegistry", "FailedToRemoveNodeFromCanonicalNetwork()", "a set does not fail"),
    ("PayerRegistry", "depositFromUnderlying(address,uint96)", NO_ALLOWANCE),
    (
        "PayerRegistry",
        "depositFromUnderlyingWithPermit(address,uint96,uint256,uint8,bytes32,bytes32)",
        NO_ALLOWANCE,
    ),
    ("PayerReportManager", "InvalidLeafCount()", "such a proof has failed before"),
    ("PayerReportManager", "PayerFeesLengthTooLong()", "nothing throws it"),
    ("SettlementChainGateway", "ZeroBalance()", "nothing throws it"),
    (
        "SettlementChainGateway",
        "depositFromUnderlying(uint256,address,uint256,uint256,uint256)",
        NO_ALLOWANCE,
    ),
    (
        "SettlementChainGateway",
        "depositFromUnderlyingWithPermit(uint256,address,uint256,uint256,uint256,uint256,uint8,\
         bytes32,bytes32)",
        NO_ALLOWANCE,
    ),
    (
        "SettlementChainGateway",
        "sendParametersFromUnderlying(uint256[],string[],uint256,uint256,uint256)",
        NO_ALLOWANCE,
    ),
    (
        "SettlementChainGateway",
        "sendParametersFromUnderlyingWithPermit(uint256[],string[],uint256,uint256,uint256,\
         uint256,uint8,bytes32,bytes32)",
        NO_ALLOWANCE,
    ),
];
