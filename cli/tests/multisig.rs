//! A contract deploys a network: the calls that `hawser contracts deploy --multisig` prints are sent in that contract's
//! name, as the members of a multisig would do, and nothing else is sent.

use alloy::primitives::{Address, Bytes, U256, address, keccak256};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::artifact;
use hawser_chain::send::{Call, Chain};
use hawser_devchain::control::DevChain;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_devchain::relay::{RELAYER, Relay, RelayPolicy};
use serde_json::{Value, json};

use crate::support::{self, hawser, stderr};

/// The multisig: an account with code on both chains, and without a key.
const MULTISIG: Address = address!("0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
/// An account without code.
const STRANGER: Address = address!("0x5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b");
/// Ids that no deployed network has, and no development chain.
const IDS: [u64; 2] = [700_003, 700_004];
/// Rounds until a network is complete: creations, which are interrupted once, configuration, tokens, the bridge, the
/// rest, prices.
const ROUNDS: usize = 7;

/// Two chains without contracts but the multisig and the deployer of deterministic deployments.
struct EmptyChains {
    runtime: tokio::runtime::Runtime,
    _running: [EmbeddedChain; 2],
    rpc: [String; 2],
    folder: tempfile::TempDir,
}

impl EmptyChains {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let start = |id: u64| {
            // STOP: it takes any call.
            let code = vec![(MULTISIG, Bytes::from_static(&[0]))];
            let settings = EmbeddedSettings {
                genesis: Genesis { code, ..Genesis::default() },
                ..EmbeddedSettings::new(id)
            };
            runtime.block_on(EmbeddedChain::start(settings)).unwrap()
        };
        let running = IDS.map(start);
        let rpc = running.each_ref().map(|chain| format!("http://{}", chain.local_addr()));
        Self { runtime, _running: running, rpc, folder: tempfile::tempdir().unwrap() }
    }

    fn deploy(&self, more: &[&str]) -> (Option<i32>, String, Value) {
        let mut command = hawser();
        command.args(["contracts", "deploy", "--json", "--stand-in-token", "--multisig"]);
        command.args(["--rpc-url", &self.rpc[0], "--app-rpc-url", &self.rpc[1]]);
        command.args(["--chain-id", &IDS[0].to_string(), "--app-chain-id", &IDS[1].to_string()]);
        command.args(["--stand-in-inbox", &RELAYER.to_string()]);
        command.arg("--out").arg(self.folder.path().join("chain.json")).args(more);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let printed = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), stderr(&output), printed)
    }

    /// The next round, as the command prints it.
    fn round(&self) -> Value {
        let (code, text, printed) = self.deploy(&["--calldata", "--from", &MULTISIG.to_string()]);
        assert_eq!(code, Some(0), "{text}");
        printed
    }

    /// Sends a printed call. Returns false if the chain refuses it.
    fn send(&self, from: Address, step: &Value) -> bool {
        let id = step["chain_id"].as_u64().unwrap();
        let at = IDS.iter().position(|it| *it == id).unwrap();
        let call = Call {
            to: Some(step["to"].as_str().unwrap().parse().unwrap()),
            data: step["data"].as_str().unwrap().parse().unwrap(),
            value: U256::ZERO,
        };
        self.runtime.block_on(async {
            let chain = Chain::connect(&self.rpc[at], id).await.unwrap();
            DevChain(&chain).send_as(from, &call).await.is_ok()
        })
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

/// The calls of a round that are left.
fn left(round: &Value) -> Vec<Value> {
    let creations = round["steps"].as_array().unwrap().iter();
    let creations = creations.filter(|step| step["is_there"] == false).cloned();
    creations.chain(round["result"]["calls"].as_array().unwrap().iter().cloned()).collect()
}

/// The call for prices, which any account may send.
fn prices(addresses: &Addresses) -> Value {
    let data = format!("0x{}", hex::encode(&keccak256("updateRates()")[..4]));
    let to = addresses.rate_registry.to_string();
    json!({ "chain_id": IDS[0], "to": to, "data": data })
}

#[test]
fn a_creation_that_was_sent_twice_is_noticed() {
    let chains = EmptyChains::start();
    let first = left(&chains.round());
    // The creator, and the factory's code twice: the second one takes the place of its proxy.
    for step in [&first[0], &first[1], &first[1]] {
        assert!(chains.send(MULTISIG, step), "{step}");
    }
    let (code, text, _) = chains.deploy(&["--calldata", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("is not Factory, proxy: a creation was sent twice"), "{text}");
}

#[test]
fn a_factory_that_would_put_contracts_elsewhere_is_noticed() {
    let chains = EmptyChains::start();
    let first = left(&chains.round());
    assert!(chains.send(MULTISIG, &first[0]) && chains.send(MULTISIG, &first[1]));
    // A proxy in front of the factory's code that is not initialised: its first creation can be any.
    let implementation: Address = first[1]["address"].as_str().unwrap().parse().unwrap();
    let code = &artifact::named("Proxy").unwrap().creation_code;
    let data = Bytes::from([&code[..], &implementation.into_word()[..]].concat());
    let bare = json!({ "chain_id": first[2]["chain_id"], "to": first[2]["to"], "data": data });
    assert!(chains.send(MULTISIG, &bare));
    assert!(chains.send(STRANGER, &first[3]), "any account may use it");
    let (code, text, _) = chains.deploy(&["--calldata", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("would put contracts elsewhere"), "{text}");
}

#[test]
fn a_multisig_deploys_a_network_by_the_calls_that_are_printed_for_it() {
    let chains = EmptyChains::start();
    let first = left(&chains.round());
    assert!(first.len() > 30 && first.iter().all(|step| step["to"].is_string()), "{first:?}");
    let file = chains.folder.path().join("chain.json");
    let addresses = Addresses::read(&file).unwrap();
    assert_eq!(addresses.deployer, Some(MULTISIG));

    // Any account may bring the creator about, and nothing but the multisig creates by it.
    assert!(chains.send(STRANGER, &first[0]), "{}", first[0]);
    assert!(!chains.send(STRANGER, &first[1]), "{}", first[1]);
    // Any account may make the factory create contracts once it exists. This changes no address.
    for step in &first[1..3] {
        assert!(chains.send(MULTISIG, step), "{step}");
    }
    assert!(chains.send(STRANGER, &first[3]), "{}", first[3]);
    // The first run is interrupted.
    for step in &first[4..9] {
        assert!(chains.send(MULTISIG, step), "{step}");
    }
    let mut rounds = 1;
    loop {
        let round = chains.round();
        if round["result"]["is_complete"] == true {
            assert_eq!(left(&round), Vec::<Value>::new());
            assert_eq!(round["result"]["addresses"], addresses.to_json(), "as before the first");
            break;
        }
        rounds += 1;
        assert!(rounds <= ROUNDS, "{round}");
        // Any account may call for prices when the registry is there: that completes nothing.
        if rounds == 3 {
            assert!(chains.send(STRANGER, &prices(&addresses)));
        }
        let calls = left(&round);
        assert!(!calls.is_empty() && (rounds > 2 || calls.len() == first.len() - 9), "{round}");
        for step in &calls {
            assert!(chains.send(MULTISIG, step), "{step}");
        }
        if calls.iter().any(|step| step["name"] == "sendParameters") {
            chains.relay(&addresses);
        }
    }

    let at = |command: &[&str]| {
        let urls = ["--rpc-url", &chains.rpc[0], "--app-rpc-url", &chains.rpc[1]];
        let file = ["--chain-json", file.to_str().unwrap(), "--json"];
        support::json(&[command, &urls, &file].concat())
    };
    let listed = at(&["contracts", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 16, "{listed}");
    assert!(listed.as_array().unwrap().iter().all(|row| row["code"] == "this build"), "{listed}");
    let rates = at(&["registry", "rates", "list"]);
    let fees: Vec<_> = rates.as_array().unwrap().iter().map(|it| &it["messageFee"]).collect();
    assert_eq!(fees, [0, 100], "the stranger's, and those of the network");
    let size = "xmtp.groupMessageBroadcaster.maxPayloadSize";
    assert_eq!(at(&["registry", "params", "get", size])[0]["applied"], "262144");
}

#[test]
fn a_deployer_that_is_no_contract_is_refused_and_so_is_sending_for_one() {
    let chains = EmptyChains::start();
    let (code, text, _) = chains.deploy(&["--calldata", "--from", &STRANGER.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no contract at"), "{text}");
    assert!(!chains.folder.path().join("chain.json").exists());
    let (code, text, _) = chains.deploy(&["--calldata"]);
    assert_eq!(code, Some(2), "whose name: {text}");
    let (code, text, _) = chains.deploy(&["--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(2), "a key sends: {text}");
    let (code, text, shown) = chains.deploy(&["--dry-run", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(shown["result"], Value::Null, "{shown}");
}
