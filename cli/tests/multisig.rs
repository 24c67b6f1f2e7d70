//! A contract deploys a network: the calls that `hawser contracts deploy --multisig` prints are sent in that contract's
//! name, as the members of a multisig would do, and nothing else is sent.

use alloy::primitives::{Address, Bytes, U256, address, keccak256};
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::artifact;
use hawser_chain::send::{Call, Chain};
use hawser_devchain::control::DevChain;
use hawser_devchain::embedded::Genesis;
use serde_json::{Value, json};

use crate::empty_chains::EmptyChains;

/// The multisig: an account with code on both chains, and without a key.
const MULTISIG: Address = address!("0x5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a");
/// An account without code.
const STRANGER: Address = address!("0x5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b");
/// Ids that no deployed network has, and no development chain.
const IDS: [u64; 2] = [700_003, 700_004];
/// Rounds until a network is complete: creations, which are interrupted once, configuration, tokens, the bridge, the
/// rest, prices.
const ROUNDS: usize = 7;

/// Starts chains with the multisig and the deployer of deterministic deployments.
fn start() -> EmptyChains {
    // STOP: it takes any call.
    let code = vec![(MULTISIG, Bytes::from_static(&[0]))];
    EmptyChains::start(IDS, &Genesis { code, ..Genesis::default() })
}

/// Deploys in the name of a contract.
fn deploy(chains: &EmptyChains, more: &[&str]) -> (Option<i32>, String, Value) {
    chains.deploy(&[&["--multisig"][..], more].concat())
}

/// The next round, as the command prints it.
fn round(chains: &EmptyChains) -> Value {
    let (code, text, printed) = deploy(chains, &["--calldata", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(0), "{text}");
    printed
}

/// Sends a printed call. Returns false if the chain refuses it.
fn send(chains: &EmptyChains, from: Address, step: &Value) -> bool {
    let id = step["chain_id"].as_u64().unwrap();
    let at = IDS.iter().position(|it| *it == id).unwrap();
    let call = Call {
        to: Some(step["to"].as_str().unwrap().parse().unwrap()),
        data: step["data"].as_str().unwrap().parse().unwrap(),
        value: U256::ZERO,
    };
    chains.runtime.block_on(async {
        let chain = Chain::connect(&chains.rpc[at], id).await.unwrap();
        DevChain(&chain).send_as(from, &call).await.is_ok()
    })
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
    let chains = start();
    let first = left(&round(&chains));
    // The creator, and the factory's code twice: the second one takes the place of its proxy.
    for step in [&first[0], &first[1], &first[1]] {
        assert!(send(&chains, MULTISIG, step), "{step}");
    }
    let (code, text, _) = deploy(&chains, &["--calldata", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("is not Factory, proxy: a creation was sent twice"), "{text}");
}

#[test]
fn a_factory_that_would_put_contracts_elsewhere_is_noticed() {
    let chains = start();
    let first = left(&round(&chains));
    assert!(send(&chains, MULTISIG, &first[0]) && send(&chains, MULTISIG, &first[1]));
    // A proxy in front of the factory's code that is not initialised: its first creation can be any.
    let implementation: Address = first[1]["address"].as_str().unwrap().parse().unwrap();
    let code = &artifact::named("Proxy").unwrap().creation_code;
    let data = Bytes::from([&code[..], &implementation.into_word()[..]].concat());
    let bare = json!({ "chain_id": first[2]["chain_id"], "to": first[2]["to"], "data": data });
    assert!(send(&chains, MULTISIG, &bare));
    assert!(send(&chains, STRANGER, &first[3]), "any account may use it");
    let (code, text, _) = deploy(&chains, &["--calldata", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("would put contracts elsewhere"), "{text}");
}

#[test]
fn a_multisig_deploys_a_network_by_the_calls_that_are_printed_for_it() {
    let chains = start();
    let first = left(&round(&chains));
    assert!(first.len() > 30 && first.iter().all(|step| step["to"].is_string()), "{first:?}");
    let file = chains.file();
    let addresses = Addresses::read(&file).unwrap();
    assert_eq!(addresses.deployer, Some(MULTISIG));

    // Any account may bring the creator about, and nothing but the multisig creates by it.
    assert!(send(&chains, STRANGER, &first[0]), "{}", first[0]);
    assert!(!send(&chains, STRANGER, &first[1]), "{}", first[1]);
    // Any account may make the factory create contracts once it exists. This changes no address.
    for step in &first[1..3] {
        assert!(send(&chains, MULTISIG, step), "{step}");
    }
    assert!(send(&chains, STRANGER, &first[3]), "{}", first[3]);
    // The first run is interrupted.
    for step in &first[4..9] {
        assert!(send(&chains, MULTISIG, step), "{step}");
    }
    let mut rounds = 1;
    loop {
        let round = round(&chains);
        if round["result"]["is_complete"] == true {
            assert_eq!(left(&round), Vec::<Value>::new());
            assert_eq!(round["result"]["addresses"], addresses.to_json(), "as before the first");
            break;
        }
        rounds += 1;
        assert!(rounds <= ROUNDS, "{round}");
        // Any account may call for prices when the registry is there: that completes nothing.
        if rounds == 3 {
            assert!(send(&chains, STRANGER, &prices(&addresses)));
        }
        let calls = left(&round);
        assert!(!calls.is_empty() && (rounds > 2 || calls.len() == first.len() - 9), "{round}");
        for step in &calls {
            assert!(send(&chains, MULTISIG, step), "{step}");
        }
        if calls.iter().any(|step| step["name"] == "sendParameters") {
            chains.relay(&addresses);
        }
    }

    let fees = chains.fees_of_complete_network();
    assert_eq!(fees, [0, 100], "the stranger's, and those of the network");
}

#[test]
fn a_deployer_that_is_no_contract_is_refused_and_so_is_sending_for_one() {
    let chains = start();
    let (code, text, _) = deploy(&chains, &["--calldata", "--from", &STRANGER.to_string()]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no contract at"), "{text}");
    assert!(!chains.file().exists());
    let (code, text, _) = deploy(&chains, &["--calldata"]);
    assert_eq!(code, Some(2), "whose name: {text}");
    let (code, text, _) = deploy(&chains, &["--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(2), "a key sends: {text}");
    let (code, text, shown) = deploy(&chains, &["--dry-run", "--from", &MULTISIG.to_string()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(shown["result"], Value::Null, "{shown}");
}
