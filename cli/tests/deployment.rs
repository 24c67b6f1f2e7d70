//! `hawser contracts deploy`, through the binary, on two chains without contracts.

use alloy::primitives::{Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::addresses::Addresses;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_devchain::relay::{RELAYER, Relay, RelayPolicy};
use serde_json::Value;

use crate::support::chains::write_key;
use crate::support::{self, hawser, stderr};

/// An address without code.
const OTHER: &str = "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef";

/// Two chains without contracts, in this process.
struct EmptyChains {
    runtime: tokio::runtime::Runtime,
    _running: [EmbeddedChain; 2],
    rpc: [String; 2],
    folder: tempfile::TempDir,
}

/// Ids that no deployed network has, and no development chain.
const IDS: [u64; 2] = [700_001, 700_002];

impl EmptyChains {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let deployer = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
        let start = |id: u64| {
            let balances = [(deployer.address(), deploy::NATIVE_BALANCE)].into_iter().collect();
            let settings = EmbeddedSettings {
                genesis: Genesis { balances, ..Genesis::default() },
                ..EmbeddedSettings::new(id)
            };
            runtime.block_on(EmbeddedChain::start(settings)).unwrap()
        };
        let running = IDS.map(start);
        let rpc = running.each_ref().map(|chain| format!("http://{}", chain.local_addr()));
        let folder = tempfile::tempdir().unwrap();
        write_key(folder.path().join("deployer"), &"07".repeat(32));
        write_key(folder.path().join("poor"), &"08".repeat(32));
        Self { runtime, _running: running, rpc, folder }
    }

    fn deploy(&self, key: &str, more: &[&str]) -> (Option<i32>, String, Value) {
        let mut command = hawser();
        command.args(["contracts", "deploy", "--json", "--timeout", "1s", "--stand-in-token"]);
        command.args(["--rpc-url", &self.rpc[0], "--app-rpc-url", &self.rpc[1]]);
        command.args(["--chain-id", "700001", "--app-chain-id", "700002"]);
        command.args(["--stand-in-inbox", &RELAYER.to_string()]);
        command.arg("--out").arg(self.folder.path().join("chain.json"));
        command.arg("--key-file").arg(self.folder.path().join(key)).args(more);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let outcome = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), stderr(&output), outcome)
    }

    /// Delivers everything that waits at the inbox, as the bridge of a rollup does in its time.
    fn relay(&self, addresses: &Addresses) {
        self.runtime.block_on(async {
            let settlement = Chain::connect(&self.rpc[0], IDS[0]).await.unwrap();
            let app = Chain::connect(&self.rpc[1], IDS[1]).await.unwrap();
            let mut relay = Relay::of(&settlement, &app, addresses).await.unwrap();
            relay.step(RelayPolicy::default()).await.unwrap();
        });
    }
}

#[test]
fn a_network_is_deployed_on_two_empty_chains_and_an_interrupted_run_goes_on() {
    let chains = EmptyChains::start();
    let (code, text, shown) = chains.deploy("deployer", &["--dry-run"]);
    assert_eq!(code, Some(0), "{text}");
    let steps = shown["steps"].as_array().unwrap();
    assert!(steps.len() > 30 && steps.iter().all(|step| step["is_there"] == false), "{shown}");
    assert!(shown["chains"][0]["gas_least"].as_u64().unwrap() > 10_000_000, "{shown}");
    let file = chains.folder.path().join("chain.json");
    assert!(!file.exists(), "a dry run writes nothing");
    let (code, _, for_hand) = chains.deploy("deployer", &["--calldata"]);
    assert_eq!(code, Some(0));
    assert_eq!(for_hand["steps"][0]["to"], Value::Null, "the factory is created by itself");
    assert_eq!(for_hand["steps"][2]["to"], for_hand["steps"][1]["address"], "then it creates");
    assert!(for_hand["steps"][2]["data"].as_str().unwrap().len() > 1000);

    let (code, text, _) = chains.deploy("poor", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("needs at least") && !file.exists(), "{text}");
    let (code, text, _) = chains.deploy("deployer", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the parameters have not arrived on the app chain"), "{text}");
    let addresses = Addresses::read(&file).unwrap();
    chains.relay(&addresses);
    let (code, text, done) = chains.deploy("deployer", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(done["steps"].as_array().unwrap().iter().all(|step| step["is_there"] == true));
    assert_eq!(done["result"]["addresses"], addresses.to_json());
    let (code, text, again) = chains.deploy("deployer", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(again["result"], done["result"]);

    let at = |command: &[&str]| {
        let urls = ["--rpc-url", &chains.rpc[0], "--app-rpc-url", &chains.rpc[1]];
        let file = ["--chain-json", file.to_str().unwrap(), "--json"];
        support::json(&[command, &urls, &file].concat())
    };
    let listed = at(&["contracts", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 16, "{listed}");
    assert!(listed.as_array().unwrap().iter().all(|row| row["code"] == "this build"), "{listed}");
    assert_eq!(at(&["registry", "rates", "list"])[0]["messageFee"], 100);
    let size = "xmtp.groupMessageBroadcaster.maxPayloadSize";
    assert_eq!(at(&["registry", "params", "get", size])[0]["applied"], "262144");
}

#[test]
fn a_deployment_that_cannot_be_what_it_says_is_refused() {
    let chains = EmptyChains::start();
    let with = |more: &[&str]| {
        let (code, text, _) = chains.deploy("deployer", more);
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

    let file = chains.folder.path().join("chain.json");
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
        Sender::new(chain, key).send(&to_itself).await.unwrap();
    });
    let (code, text) = with(&["--dry-run"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("has sent 1 transactions on chain 700002"), "{text}");
}
