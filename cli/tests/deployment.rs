//! `hawser contracts deploy`, through the binary, on two chains without contracts.

use alloy::primitives::{Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::addresses::Addresses;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;
use hawser_devchain::embedded::Genesis;
use serde_json::Value;

use crate::empty_chains::EmptyChains;
use crate::support::chains::write_key;
use crate::support::{hawser, stderr};

/// An address without code.
const OTHER: &str = "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef";

/// Creates a contract that answers every call with the number 18.
const EIGHTEEN: &[u8] = &[
    0x69, 0x60, 0x12, 0x60, 0, 0x52, 0x60, 0x20, 0x60, 0, 0xf3, 0x60, 0, 0x52, 0x60, 0x0a, 0x60,
    0x16, 0xf3,
];

/// Ids that no deployed network has, and no development chain.
const IDS: [u64; 2] = [700_001, 700_002];

/// Starts chains on which the deployer has a balance, and writes its key, and that of an account without a balance.
fn start() -> EmptyChains {
    let deployer = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
    let balances = [(deployer.address(), deploy::NATIVE_BALANCE)].into_iter().collect();
    let chains = EmptyChains::start(IDS, &Genesis { balances, ..Genesis::default() });
    write_key(chains.folder.path().join("deployer"), &"07".repeat(32));
    write_key(chains.folder.path().join("poor"), &"08".repeat(32));
    chains
}

/// Deploys with the key in this file.
fn deploy_with(chains: &EmptyChains, key: &str, more: &[&str]) -> (Option<i32>, String, Value) {
    let key = chains.folder.path().join(key);
    let with_key = ["--yes", "--timeout", "1s", "--key-file", key.to_str().unwrap()];
    chains.deploy(&[&with_key[..], more].concat())
}

#[test]
fn a_network_is_deployed_on_two_empty_chains_and_an_interrupted_run_goes_on() {
    let chains = start();
    let (code, text, shown) = deploy_with(&chains, "deployer", &["--dry-run"]);
    assert_eq!(code, Some(0), "{text}");
    let steps = shown["steps"].as_array().unwrap();
    assert!(steps.len() > 30 && steps.iter().all(|step| step["is_there"] == false), "{shown}");
    assert!(shown["chains"][0]["gas_least"].as_u64().unwrap() > 10_000_000, "{shown}");
    let file = chains.file();
    assert!(!file.exists(), "a dry run writes nothing");
    let (code, _, for_hand) = deploy_with(&chains, "deployer", &["--calldata"]);
    assert_eq!(code, Some(0));
    assert_eq!(for_hand["steps"][0]["to"], Value::Null, "the factory is created by itself");
    assert_eq!(for_hand["steps"][2]["to"], for_hand["steps"][1]["address"], "then it creates");
    assert!(for_hand["steps"][2]["data"].as_str().unwrap().len() > 1000);

    let (code, text, _) = deploy_with(&chains, "poor", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("needs at least") && !file.exists(), "{text}");
    let (code, text, begun) = deploy_with(&chains, "deployer", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the parameters have not arrived on the app chain"), "{text}");
    let mined = begun["mined"].as_array().unwrap();
    assert!(mined.len() > 30 && begun["result"].is_null(), "also if it fails: {begun}");
    assert_eq!(mined[0]["name"], "deploying the factory", "{begun}");
    assert_eq!(mined[0]["chain_id"], IDS[0], "{begun}");
    assert_eq!(mined[0]["transaction"].as_str().unwrap().len(), 66, "{begun}");
    let addresses = Addresses::read(&file).unwrap();
    chains.relay(&addresses);
    // Endpoints that had stated newest blocks far ahead: nodes would begin behind all events.
    let (settlement_chain_deployment_block, app_chain_deployment_block) = (1 << 40, 1 << 40);
    let late = Addresses {
        settlement_chain_deployment_block,
        app_chain_deployment_block,
        ..addresses.clone()
    };
    std::fs::write(&file, late.to_json().to_string()).unwrap();
    let (code, text, done) = deploy_with(&chains, "deployer", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(done["steps"].as_array().unwrap().iter().all(|step| step["is_there"] == true));
    assert_eq!(done["result"]["addresses"], addresses.to_json());
    assert_eq!(Addresses::read(&file).unwrap(), addresses, "block 0, as on empty chains");
    let (code, text, again) = deploy_with(&chains, "deployer", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(again["result"], done["result"]);
    assert!(!done["mined"].as_array().unwrap().is_empty(), "{done}");
    assert!(again["mined"].as_array().unwrap().is_empty(), "it was complete: {again}");

    // The file is lost, and the contracts have had events in blocks that no other file names.
    std::fs::remove_file(&file).unwrap();
    let (code, text, anew) = deploy_with(&chains, "deployer", &[]);
    assert_eq!(code, Some(0), "{text}");
    for key in ["settlementChainDeploymentBlock", "appChainDeploymentBlock"] {
        assert_eq!(anew["result"]["addresses"][key], 0, "{anew}");
    }

    assert_eq!(chains.fees_of_complete_network()[0], 100);
}

#[test]
fn a_deployment_that_cannot_be_what_it_says_is_refused() {
    let chains = start();
    let with = |more: &[&str]| {
        let (code, text, _) = deploy_with(&chains, "deployer", more);
        (code, text)
    };
    let (code, text) = with(&["--underlying", OTHER]);
    assert_eq!(code, Some(2), "two tokens: {text}");
    let mut command = hawser();
    command.args(["contracts", "deploy", "--rpc-url", &chains.rpc[0], "--app-rpc-url"]);
    command.args([&chains.rpc[1], "--underlying", OTHER, "--inbox", OTHER, "--dry-run"]);
    command.args(["--chain-id", "700001", "--from", OTHER, "--app-chain-id"]);
    let outcome = |command: &mut std::process::Command, id: &str| {
        let output = command.arg(id).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, text) = outcome(&mut command, "700002");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
    let other_id = |id: &str| {
        let mut command = hawser();
        command.args(["contracts", "deploy", "--rpc-url", &chains.rpc[0], "--app-rpc-url"]);
        command.args([&chains.rpc[1], "--stand-in-token", "--stand-in-inbox", OTHER, "--dry-run"]);
        command.args(["--chain-id", "700001", "--from", OTHER, "--app-chain-id"]);
        outcome(&mut command, id)
    };
    let (code, text) = other_id("700003");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is chain 700002, and chain 700003 was expected"), "{text}");
    let (code, text) = other_id("700001");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("the two chains need different ids"), "{text}");

    let file = chains.file();
    let of_another = Addresses::of_environment("testnet").unwrap().to_json().to_string();
    std::fs::write(&file, &of_another).unwrap();
    let (code, text) = with(&[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("has the addresses of another deployment"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), of_another);

    // Its first transaction is another one, so the addresses would be others.
    let key = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
    let to_itself = Call { to: Some(key.address()), data: Bytes::new(), value: U256::ZERO };
    chains.runtime.block_on(async {
        let chain = Chain::connect(&chains.rpc[1], IDS[1]).await.unwrap();
        Sender::new(chain, key.clone()).send(&to_itself).await.unwrap();
    });
    let (code, text) = with(&["--dry-run"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("has sent 1 transactions on chain 700002"), "{text}");

    let token = key.address().create(0).to_string();
    let creation = Call { to: None, data: Bytes::from_static(EIGHTEEN), value: U256::ZERO };
    chains.runtime.block_on(async {
        let chain = Chain::connect(&chains.rpc[0], IDS[0]).await.unwrap();
        Sender::new(chain, key).send(&creation).await.unwrap();
    });
    let mut command = hawser();
    command.args(["contracts", "deploy", "--rpc-url", &chains.rpc[0], "--app-rpc-url"]);
    command.args([&chains.rpc[1], "--underlying", &token, "--inbox", &token, "--dry-run"]);
    command.args(["--chain-id", "700001", "--from", OTHER, "--app-chain-id"]);
    let (code, text) = outcome(&mut command, "700002");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("has 18 decimals, and a network counts with 6"), "{text}");
}
