//! The commands that pause, upgrade and hand over contracts, through the binary, on chains that `hawser chain dev`
//! runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use alloy::primitives::{Address, Bytes, U256, keccak256};
use hawser_chain::contracts::{Factory, FeeToken, artifact};
use hawser_chain::send::Call;
use hawser_devchain::deploy;
use hawser_devchain::devnet::{APP_ID, SETTLEMENT_ID};
use hawser_proto::SecretKey;
use serde_json::{Value, json};

use crate::support::chains::{ADMIN, Chains, STRANGER, functions};
use crate::support::{self, Running, run, signal, stderr, stdout};

const OTHER: &str = "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef";

/// The row of a contract in the list of all.
fn listed(chains: &Chains, name: &str) -> Value {
    let all = chains.json(ADMIN, &["contracts", "list"]);
    let rows = all.as_array().unwrap();
    rows.iter()
        .find(|row| row["contract"] == name)
        .unwrap_or_else(|| panic!("{name}: {all}"))
        .clone()
}

fn dry<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &["--dry-run"]].concat()
}

/// Deploys the code of a contract at another address than that of the network's own: bytes behind the constructor's
/// arguments change the address and nothing else.
fn deploy_variant(chains: &Chains, name: &str, arguments: &[&str]) -> Address {
    let arguments: Vec<_> = arguments.iter().map(|key| chains.contract(key)).collect();
    deploy_code(chains, name, &arguments)
}

fn deploy_code(chains: &Chains, name: &str, arguments: &[Address]) -> Address {
    let artifact = if name.ends_with("Factory") { "Factory" } else { name };
    let code = &artifact::named(artifact).unwrap().creation_code;
    let words = arguments.iter().map(|argument| argument.into_word());
    let words: Vec<u8> = words.flat_map(|word| word.0).collect();
    let bytecode_: Bytes = [&code[..], &words, b"variant"].concat().into();
    let is_of_app = name.contains("Broadcaster") || name.starts_with("AppChain");
    let (rpc, id, key) = match is_of_app {
        true => (&chains.app, APP_ID, "appChainFactory"),
        false => (&chains.settlement, SETTLEMENT_ID, "settlementChainFactory"),
    };
    let (factory, hash) = (chains.contract(key), keccak256(&bytecode_));
    let deploy = Factory::deployImplementationCall { bytecode_ };
    chains.send(rpc, id, STRANGER, &Call::new(factory, &deploy));
    factory.create2(hash, hash)
}

#[test]
fn every_contract_is_listed_with_its_version_and_its_code() {
    let chains = Chains::start();
    let all = chains.json(ADMIN, &["contracts", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 16, "{all}");
    for row in all.as_array().unwrap() {
        assert_eq!(row["code"], "this build", "{row}");
        let has_version = row["contract"] != "UnderlyingFeeToken";
        assert_eq!(row["version"].is_string(), has_version, "{row}");
    }
    let reports = listed(&chains, "PayerReportManager");
    assert_eq!(reports["version"], "1.0.1");
    assert_eq!(reports["address"], chains.address_of("payerReportManager"));
    assert_eq!(reports["paused"], Value::Null, "it cannot be paused");
    assert_eq!(listed(&chains, "PayerRegistry")["paused"], false);
    let text = stdout(&chains.run(ADMIN, &["contracts", "list"]));
    assert!(
        text.contains("contract: RateRegistry, chain: settlement chain, address: 0x"),
        "{text}"
    );

    let settlement = chains.settlement.clone();
    let text = chains.failure(ADMIN, 1, &["contracts", "list", "--app-rpc-url", &settlement]);
    assert!(text.contains("is chain 31337, and chain 31338 was expected"), "{text}");
    let registry = "--contracts.settlement-chain.node-registry-address";
    let text = chains.failure(ADMIN, 1, &["contracts", "list", registry, OTHER]);
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
}

#[test]
fn a_contract_of_the_settlement_chain_is_paused_and_resumed() {
    let chains = Chains::start();
    let pause = ["contracts", "pause", "payer-registry"];
    let text = chains.failure(STRANGER, 1, &pause);
    assert!(text.contains("NotAdmin()"), "{text}");
    assert_eq!(functions(&chains.json(ADMIN, &dry(&pause))), ["set", "updatePauseStatus"]);
    assert_eq!(listed(&chains, "PayerRegistry")["paused"], false, "a dry run changes nothing");
    let done = chains.json(ADMIN, &pause);
    assert_eq!(functions(&done), ["set", "updatePauseStatus"]);
    assert_eq!(done["result"]["paused"], true);
    let text = chains.failure(STRANGER, 1, &["payer", "deposit", "--amount", "25"]);
    assert!(text.contains("Paused()"), "{text}");
    let again = chains.json(ADMIN, &pause);
    assert!(functions(&again).is_empty() && again["notes"][0] == "PayerRegistry is paused already");

    // The parameter was set, and the contract has not adopted it yet.
    chains.json(ADMIN, &["registry", "params", "set", "xmtp.payerRegistry.paused=false"]);
    let rest = chains.json(STRANGER, &["contracts", "unpause", "PayerRegistry"]);
    assert_eq!(functions(&rest), ["updatePauseStatus"], "any account may finish it");
    assert_eq!(rest["result"]["paused"], false);
    chains.json(STRANGER, &["payer", "deposit", "--amount", "25"]);

    let text = chains.failure(ADMIN, 3, &["contracts", "pause", "NodeRegistry"]);
    assert!(text.contains("NodeRegistry cannot be paused: only PayerRegistry, "), "{text}");
    let text = chains.failure(ADMIN, 2, &["contracts", "pause", "Registry"]);
    assert!(text.contains("expected one of NodeRegistry, "), "{text}");
}

#[test]
fn a_contract_of_the_app_chain_is_paused_over_the_bridge() {
    let chains = Chains::start();
    let pause = ["contracts", "pause", "GroupMessageBroadcaster"];
    let steps = ["set", "sendParametersWithPermit", "updatePauseStatus"];
    assert_eq!(functions(&chains.json(ADMIN, &dry(&pause))), steps);
    let done = chains.json(ADMIN, &pause);
    assert_eq!(functions(&done), steps);
    assert_eq!(done["steps"][2]["chain_id"], 31338);
    assert_eq!(done["result"]["paused"], true);

    let mut command = chains.command(ADMIN, &["contracts", "unpause", "GroupMessageBroadcaster"]);
    let output =
        command.args(["--calldata", "--json"]).env_remove("HAWSER_KEY_FILE").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let for_multisig: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        functions(&for_multisig),
        ["set", "approve", "sendParameters", "updatePauseStatus"],
        "a multisig signs no permits"
    );
    assert_eq!(listed(&chains, "GroupMessageBroadcaster")["paused"], true);

    // The paused gateway would leave the work half done, so it does not begin.
    chains.json(ADMIN, &["contracts", "pause", "SettlementChainGateway"]);
    let before = chains.transactions_of(ADMIN);
    let unpause = ["contracts", "unpause", "GroupMessageBroadcaster"];
    let text = chains.failure(ADMIN, 1, &unpause);
    assert!(text.contains("SettlementChainGateway would revert: Paused()"), "{text}");
    assert_eq!(chains.transactions_of(ADMIN), before, "nothing was sent");
    chains.json(ADMIN, &["contracts", "unpause", "SettlementChainGateway"]);
    assert_eq!(chains.json(ADMIN, &unpause)["result"]["paused"], false);

    let mut command = chains.command(ADMIN, &pause);
    let output = command.env_remove("XMTPD_APP_CHAIN_RPC_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("the RPC URL of the app chain is required (--app-rpc-url)"));
}

#[test]
fn the_code_of_a_contract_is_replaced_and_its_state_stays() {
    let chains = Chains::start();
    chains.json(STRANGER, &["payer", "deposit", "--amount", "25"]);
    let before = listed(&chains, "PayerRegistry")["implementation"].clone();
    let own = ["parameterRegistry", "feeToken"].map(|key| match key {
        "parameterRegistry" => "settlementChainParameterRegistry",
        other => other,
    });
    let other = deploy_variant(&chains, "PayerRegistry", &own).to_string();
    let upgrade = ["contracts", "upgrade", "PayerRegistry"];
    let to_other = [&upgrade[..], &["--implementation", &other]].concat();
    let steps = ["deployImplementation", "set", "migrate"];
    let nonce = chains.transactions_of(ADMIN);
    assert_eq!(functions(&chains.json(ADMIN, &dry(&to_other))), steps);
    let text = chains.failure(STRANGER, 1, &to_other);
    assert!(text.contains("step 2 of 2, SettlementChainParameterRegistry.set"), "{text}");
    assert!(text.contains("NotAdmin()"), "{text}");
    assert_eq!(chains.transactions_of(ADMIN), nonce);
    let done = chains.json(ADMIN, &to_other);
    assert_eq!(functions(&done), steps);
    assert_eq!(done["result"]["implementation"], other);
    let events = done["steps"][2]["receipt"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "Migrated"), "{done}");
    let balance = chains.json(STRANGER, &["payer", "balance"]);
    assert_eq!(balance["balance"]["usd"], "25");
    assert!(functions(&chains.json(ADMIN, &to_other)).is_empty(), "it is done");

    let back = chains.json(ADMIN, &upgrade);
    assert_eq!(functions(&back), steps, "the code of this build is there; its migrator is another");
    assert_eq!(back["result"]["implementation"], before);
    assert_eq!(back["result"]["code"], "this build");
    let forth = chains.json(ADMIN, &to_other);
    assert_eq!(functions(&forth), ["set", "migrate"], "its migrator is there");
}

#[test]
fn the_code_of_both_factories_is_replaced_and_they_create_further_contracts() {
    let chains = Chains::start();
    let (settlement, app) = ("SettlementChainFactory", "AppChainFactory");
    // The first code has its address by the deployer's nonce. That of this build comes to both chains.
    let planned = chains.json(ADMIN, &dry(&["contracts", "upgrade", settlement]));
    let deploy = "deployImplementation";
    assert_eq!(functions(&planned), [deploy, deploy, deploy, "set", "migrate"]);
    let on_chains: Vec<_> = (0..3).map(|step| &planned["steps"][step]["chain_id"]).collect();
    assert_eq!(on_chains, [31337, 31338, 31337]);

    let other = deploy_variant(&chains, settlement, &["settlementChainParameterRegistry"]);
    let text = other.to_string();
    let upgrade = |factory| ["contracts", "upgrade", factory, "--implementation", &text];
    // Any account could have the other factory, which reads the same parameter, take the address.
    let before = chains.transactions_of(ADMIN);
    let refused = chains.failure(ADMIN, 1, &upgrade(settlement));
    assert!(refused.contains("there is no contract at 0x"), "{refused}");
    assert_eq!(chains.transactions_of(ADMIN), before);
    assert_eq!(deploy_variant(&chains, app, &["appChainParameterRegistry"]), other);

    let here = [deploy, "set", "migrate"];
    let there = [deploy, "set", "sendParametersWithPermit", "migrate"];
    for (factory, steps) in [(settlement, &here[..]), (app, &there)] {
        let done = chains.json(ADMIN, &upgrade(factory));
        assert_eq!(functions(&done), steps, "{factory}");
        assert_eq!(done["result"]["implementation"], text.as_str());
        assert!(functions(&chains.json(ADMIN, &upgrade(factory))).is_empty(), "it is done");
        // Code and migrator come from the factory with the other code. The code goes to both chains at once: the
        // parameter of before can bring the other factory to the replaced code at any time.
        let back = chains.json(ADMIN, &["contracts", "upgrade", factory]);
        let codes = if factory == settlement { &[deploy, deploy][..] } else { &[] };
        assert_eq!(functions(&back), [codes, steps].concat(), "{factory}");
        assert_eq!(back["result"]["code"], "this build");
    }
    let elsewhere = deploy_variant(&chains, settlement, &["rateRegistry"]).to_string();
    let upgrade = ["contracts", "upgrade", settlement, "--implementation", &elsewhere];
    let text = chains.failure(ADMIN, 3, &upgrade);
    assert!(text.contains("its parameterRegistry is "), "{text}");
}

#[test]
fn a_migrator_that_installs_something_else_is_noticed() {
    let chains = Chains::start();
    let own = ["settlementChainParameterRegistry"];
    let wanted = deploy_variant(&chains, "RateRegistry", &own).to_string();
    let nodes = listed(&chains, "NodeRegistry")["implementation"].as_str().unwrap().to_owned();
    let hostile = deploy_code(&chains, "GenericEIP1967Migrator", &[nodes.parse().unwrap()]);
    let upgrade = ["contracts", "upgrade", "RateRegistry", "--implementation", &wanted];
    let hostile = hostile.to_string();
    let args = [&upgrade[..], &["--migrator", &hostile, "--json"]].concat();
    let output = chains.run(ADMIN, &args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("has the code at {nodes} now, and not the one at")), "{text}");
    // The check behind both plans has failed, and what they have sent is mined.
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(functions(&done), ["set", "migrate"]);
    assert!((0..2).all(|step| done["steps"][step]["receipt"].is_object()), "{done}");
    assert_eq!(done["result"], Value::Null, "{done}");
}

#[test]
fn code_that_does_not_fit_is_refused_before_anything_is_sent() {
    let chains = Chains::start();
    let before = chains.transactions_of(ADMIN);
    let refused = |code: i32, args: &[&str]| {
        chains.failure(ADMIN, code, &[&["contracts", "upgrade"], args].concat())
    };
    let rates = listed(&chains, "RateRegistry")["implementation"].as_str().unwrap().to_owned();
    let text = refused(3, &["PayerRegistry", "--implementation", &rates]);
    assert!(text.contains(r#"its name is "RateRegistry", and must be "PayerRegistry""#), "{text}");
    let text = refused(1, &["PayerRegistry", "--implementation", OTHER]);
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
    let own = ["settlementChainParameterRegistry"];
    let rates = deploy_variant(&chains, "RateRegistry", &own).to_string();
    let text = refused(1, &["RateRegistry", "--migrator", OTHER, "--implementation", &rates]);
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
    let elsewhere = ["settlementChainParameterRegistry", "rateRegistry", "payerRegistry"];
    let elsewhere = deploy_variant(&chains, "PayerReportManager", &elsewhere).to_string();
    let text = refused(3, &["PayerReportManager", "--implementation", &elsewhere]);
    assert!(text.contains("its nodeRegistry is "), "{text}");
    let text = refused(3, &["DepositSplitter"]);
    assert!(text.contains("not upgraded through a parameter"), "{text}");
    let text = refused(3, &["PayerRegistry", "--backfill"]);
    assert!(text.contains("only NodeRegistry is backfilled"), "{text}");
    assert_eq!(chains.transactions_of(ADMIN), before);
}

#[test]
fn the_code_of_a_broadcaster_and_of_the_node_registry_is_replaced() {
    let chains = Chains::start();
    let own = ["appChainParameterRegistry"];
    let other = deploy_variant(&chains, "IdentityUpdateBroadcaster", &own).to_string();
    let upgrade =
        ["contracts", "upgrade", "identity-update-broadcaster", "--implementation", &other];
    let done = chains.json(ADMIN, &upgrade);
    let steps = ["deployImplementation", "set", "sendParametersWithPermit", "migrate"];
    assert_eq!(functions(&done), steps);
    assert_eq!(done["steps"][0]["chain_id"], 31338);
    assert_eq!(done["result"]["implementation"], other);

    let key = deploy::accounts().swap_remove(2);
    let public_key = format!("0x04{}", alloy::hex::encode(key.public_key()));
    let owner = chains.accounts[STRANGER].clone();
    let add = ["registry", "node", "add", "--owner", &owner, "--public-key", &public_key];
    chains.json(ADMIN, &[&add[..], &["--http-address", "http://localhost:5050"]].concat());
    chains.json(ADMIN, &["registry", "canonical", "add", "100"]);
    let own = ["settlementChainParameterRegistry"];
    let other = deploy_variant(&chains, "NodeRegistry", &own).to_string();
    let upgrade =
        ["contracts", "upgrade", "NodeRegistry", "--backfill", "--implementation", &other];
    let done = chains.json(ADMIN, &upgrade);
    assert_eq!(functions(&done), ["deployImplementation", "set", "migrate"]);
    assert_eq!(done["result"]["implementation"], other);
    let node = chains.json(ADMIN, &["registry", "node", "get", "100"]);
    assert_eq!((&node["isCanonical"], &node["owner"]), (&json!(true), &json!(owner)));
}

#[test]
fn a_node_goes_to_another_owner() {
    let chains = Chains::start();
    let (admin, owner) = (chains.accounts[ADMIN].clone(), chains.accounts[STRANGER].clone());
    let key = deploy::accounts().swap_remove(2);
    let public_key = format!("0x04{}", alloy::hex::encode(key.public_key()));
    let add = ["registry", "node", "add", "--owner", &owner, "--public-key", &public_key];
    chains.json(ADMIN, &[&add[..], &["--http-address", "http://localhost:5050"]].concat());

    let to_admin = ["registry", "node", "transfer", "100", "--to", &admin];
    let text = chains.failure(ADMIN, 1, &to_admin);
    assert!(text.contains("ERC721InsufficientApproval(operator: "), "{text}");
    let approve = ["registry", "node", "approve", "100", "--to", &admin];
    let approved = chains.json(STRANGER, &approve);
    assert_eq!(approved["result"]["approved"], admin);
    assert!(functions(&chains.json(STRANGER, &approve)).is_empty());
    let done = chains.json(ADMIN, &to_admin);
    assert_eq!(functions(&done), ["safeTransferFrom"]);
    assert!(done["notes"][0].as_str().unwrap().contains("or the account that it has approved"));
    assert_eq!(done["result"]["owner"], admin);
    assert!(functions(&chains.json(ADMIN, &to_admin)).is_empty());
    let node = chains.json(STRANGER, &["registry", "node", "get", "100"]);
    assert_eq!(
        (&node["owner"], &node["approved"]),
        (&json!(admin), &json!(Address::ZERO.to_string()))
    );

    let registry = chains.address_of("rateRegistry");
    let into_contract = ["registry", "node", "transfer", "100", "--to", &registry];
    let text = chains.failure(ADMIN, 1, &into_contract);
    assert!(text.contains("ERC721InvalidReceiver("), "it could never come out again: {text}");
    let nowhere = Address::ZERO.to_string();
    chains.failure(ADMIN, 2, &["registry", "node", "transfer", "100", "--to", &nowhere]);
    chains.failure(ADMIN, 4, &["registry", "node", "transfer", "200", "--to", &admin]);
    chains.failure(ADMIN, 4, &["registry", "node", "get", "200"]);

    let uri = |uri: &str| ["registry", "node", "base-uri", uri].map(str::to_owned);
    let [good, bad] = [uri("https://nodes.example/"), uri("https://nodes.example")];
    let words = |args: &[String]| args.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let text = chains.failure(ADMIN, 1, &words(&bad).split(' ').collect::<Vec<_>>());
    assert!(text.contains("InvalidURI()"), "{text}");
    let text = chains.failure(STRANGER, 1, &words(&good).split(' ').collect::<Vec<_>>());
    assert!(text.contains("NotAdmin()"), "{text}");
    let done = chains.json(ADMIN, &words(&good).split(' ').collect::<Vec<_>>());
    assert_eq!(functions(&done), ["setBaseURI"]);
}

#[test]
fn the_excess_of_the_payer_registry_is_sent_on() {
    let chains = Chains::start();
    let none = chains.json(STRANGER, &["fees", "excess"]);
    assert!(functions(&none).is_empty(), "{none}");
    // Tokens that belong to no payer are excess, as those of settled fees are.
    let transfer =
        FeeToken::transferCall { to: chains.contract("payerRegistry"), value: U256::from(7) };
    let token = Call::new(chains.contract("feeToken"), &transfer);
    chains.send(&chains.settlement, SETTLEMENT_ID, STRANGER, &token);
    let sent = chains.json(STRANGER, &["fees", "excess"]);
    assert_eq!(functions(&sent), ["sendExcessToFeeDistributor"]);
    assert_eq!(sent["result"]["available"]["microdollars"], "7");
    assert_eq!(sent["result"]["excess_of_payers"]["microdollars"], "0");
}

#[test]
fn money_goes_to_both_chains_at_once_and_comes_back() {
    let chains = Chains::start();
    let recipient = "0x00000000000000000000000000000000000000aa";
    let to_app = ["payer", "fund", "--app-amount", "5", "--app-recipient", recipient];
    let fund = [&to_app[..], &["--registry-amount", "25"]].concat();
    assert_eq!(functions(&chains.json(STRANGER, &dry(&fund))), ["depositWithPermit"]);
    let done = chains.json(STRANGER, &fund);
    assert_eq!(functions(&done), ["depositWithPermit"]);
    assert_eq!(done["result"]["registry_microdollars"], "25000000");
    support::until("the bridge has delivered it", || {
        let shown = chains.json(ADMIN, &["payer", "balance", "--payer", recipient]);
        let wei = shown["app_chain_wei"].as_str().unwrap().parse::<u128>().unwrap();
        wei > 4_990_000_000_000_000_000
    });
    let contract = deploy_variant(&chains, "RateRegistry", &["settlementChainParameterRegistry"]);
    let contract = contract.to_string();
    let to_contract = ["payer", "fund", "--app-amount", "5", "--payer", &contract];
    let text = chains.failure(STRANGER, 3, &to_contract);
    assert!(text.contains("name the recipient with --app-recipient"), "{text}");
    let text = chains.failure(STRANGER, 1, &["payer", "fund", "--app-amount", "0.000001"]);
    assert!(text.contains("InsufficientAmount(appChainAmount: 1000000000000, "), "{text}");
    let text = chains.failure(STRANGER, 1, &["payer", "fund", "--registry-amount", "9"]);
    assert!(text.contains("InsufficientDeposit(amount: 9000000, "), "{text}");
    let text = chains.failure(STRANGER, 2, &["payer", "fund"]);
    assert!(text.contains("name an amount: --registry-amount"), "{text}");
    chains.json(ADMIN, &["contracts", "pause", "SettlementChainGateway"]);
    let text = chains.failure(STRANGER, 1, &to_app);
    assert!(text.contains("SettlementChainGateway would revert: Paused()"), "{text}");

    let tokens = |done: &Value| {
        done["result"]["fee_tokens"]["microdollars"].as_str().unwrap().parse::<u64>().unwrap()
    };
    let unwrapped = chains.json(STRANGER, &["payer", "unwrap", "--amount", "30"]);
    assert_eq!(functions(&unwrapped), ["withdrawTo"]);
    let wrapped = chains.json(STRANGER, &["payer", "wrap", "--amount", "10"]);
    assert_eq!(functions(&wrapped), ["approve", "deposit"]);
    assert_eq!(tokens(&wrapped), tokens(&unwrapped) + 10_000_000);
    let text = chains.failure(STRANGER, 1, &["payer", "unwrap", "--amount", "999999999"]);
    assert!(text.contains("ERC20InsufficientBalance("), "{text}");
    let text = chains.failure(STRANGER, 1, &["payer", "wrap", "--amount", "999999999999"]);
    assert!(text.contains("of UnderlyingFeeToken and needs"), "{text}");

    let leave = ["payer", "leave-app", "--amount", "2"];
    let left = chains.json(STRANGER, &leave);
    assert_eq!(functions(&left), ["withdraw"]);
    assert_eq!(left["steps"][0]["value"], "2000000000000000000");
    support::until("the bridge has released it", || {
        let shown = chains.json(STRANGER, &["payer", "balance"]);
        let has = shown["fee_tokens"]["microdollars"].as_str().unwrap().parse::<u64>().unwrap();
        has == tokens(&wrapped) + 2_000_000
    });
}

/// A payer of a network without a token of value funds itself without another tool.
#[test]
fn tokens_of_a_stand_in_are_made_by_any_account() {
    let chains = Chains::start();
    let recipient = "0x00000000000000000000000000000000000000aa";
    let mint = ["payer", "mint", "--amount", "7.5", "--recipient", recipient];
    assert_eq!(functions(&chains.json(STRANGER, &dry(&mint))), ["mint"]);
    for made in ["7500000", "15000000"] {
        let done = chains.json(STRANGER, &mint);
        assert_eq!(functions(&done), ["mint"]);
        assert_eq!(done["steps"][0]["contract"], "UnderlyingFeeToken");
        assert_eq!(done["result"]["underlying_tokens"]["microdollars"], made);
    }
    let shown = chains.json(STRANGER, &["payer", "balance", "--payer", recipient]);
    assert_eq!(shown["underlying_tokens"]["microdollars"], "15000000");
    assert_eq!(shown["settlement_chain_wei"], "0", "no transaction can be paid for");
    let none = "0x0000000000000000000000000000000000000000";
    let to_none = ["payer", "mint", "--amount", "1", "--recipient", none];
    let text = chains.failure(STRANGER, 1, &to_none);
    assert!(text.contains("ERC20InvalidReceiver("), "{text}");

    // The members of a multisig pay for gas. Here a contract without native tokens takes its place.
    let multisig = chains.address_of("distributionManager");
    let of_multisig = dry(&[&mint[..], &["--from", &multisig]].concat());
    assert_eq!(functions(&chains.json(STRANGER, &of_multisig)), ["mint"]);
    let token = ["--contracts.settlement-chain.underlying-fee-token-address", OTHER];
    let text = chains.failure(STRANGER, 1, &[&of_multisig[..], &token].concat());
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
    let text = chains.failure(STRANGER, 1, &dry(&[&mint[..], &["--from", recipient]].concat()));
    assert!(text.contains("of the native token on chain"), "{text}");
}

#[test]
fn each_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completion", shell]);
        assert!(output.status.success(), "{shell}: {}", stderr(&output));
        let script = stdout(&output);
        for word in ["contracts", "upgrade", "calldata"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let value = support::json(&["completion", shell, "--json"]);
        assert_eq!(value["shell"], shell);
        assert!(value["script"].as_str().unwrap().contains("calldata"), "{shell}");
    }
    assert_eq!(run(&["completion", "cmd"]).status.code(), Some(2));
}

#[test]
fn the_watcher_tells_of_an_account_without_gas_on_the_app_chain() {
    let chains = Chains::start();
    let rich = chains.accounts[STRANGER].clone();
    let once = ["chain-watcher", "--once", "--app-sender"];
    let quiet = chains.json(ADMIN, &[&once[..], &[&rich]].concat());
    assert_eq!(quiet["alarms"], json!([]), "{quiet}");
    let output = chains.run(ADMIN, &[&once[..], &[OTHER, "--sender", &rich, "--json"]].concat());
    assert_eq!(output.status.code(), Some(8), "{}", stderr(&output));
    let loud: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(loud["alarms"][0]["alarm"], "app_sender_low", "{loud}");
    assert_eq!(loud["alarms"].as_array().unwrap().len(), 1, "{loud}");
    let mut command = chains.command(ADMIN, &[&once[..], &[&rich]].concat());
    let output = command.env_remove("XMTPD_APP_CHAIN_RPC_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

/// Operators start watchers from units and scripts of the reference implementation.
#[test]
fn watchers_take_the_command_lines_of_the_reference() {
    let address = |digit: &str| format!("0x{}", digit.repeat(40));
    let watcher = |name: &str, more: &[&str]| {
        let chain = ["--once", "--contracts-env", "testnet", "--rpc-url", "http://127.0.0.1:1"];
        run(&[&[name][..], &chain, more].concat())
    };
    let (manager, payers, nodes) = (address("1"), address("2"), address("3"));
    let watched = ["--prm-address", &manager, "--pr-address", &payers, "--deploy-block", "7"];
    let push = ["--wss-url", "ws://127.0.0.1:1"];
    let once = watcher("chain-watcher", &[&watched[..], &push].concat());
    assert_eq!(once.status.code(), Some(1), "it has an endpoint, which is away: {once:?}");
    assert!(stderr(&once).contains("--wss-url has no effect: "), "{once:?}");
    let once = watcher("network-watcher", &["--node-registry-address", &nodes]);
    assert_eq!(once.status.code(), Some(1), "it has an endpoint, which is away: {once:?}");
    let wrong = watcher("network-watcher", &["--node-registry-address", "moon"]);
    assert_eq!(wrong.status.code(), Some(2), "it is that setting: {wrong:?}");
    assert!(stderr(&wrong).contains("node-registry-address"), "{wrong:?}");
}

/// Starts an endpoint that names its chain and refuses all other requests, as one does whose account is used up.
fn refusing_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A caller may hang up.
            let _ = refuse(stream);
        }
    });
    url
}

/// Answers one request.
fn refuse(stream: TcpStream) -> std::io::Result<()> {
    let (mut reader, mut len) = (BufReader::new(stream), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut answer = json!({ "jsonrpc": "2.0", "id": asked["id"] });
    if asked["method"] == "eth_chainId" {
        answer["result"] = json!(format!("0x{SETTLEMENT_ID:x}"));
    } else {
        answer["error"] = json!({ "code": -32000, "message": "the account is used up" });
    }
    let (answer, head) = (answer.to_string(), "HTTP/1.1 200 OK\r\nconnection: close\r\n");
    let len = answer.len();
    write!(
        reader.get_mut(),
        "{head}content-type: application/json\r\ncontent-length: {len}\r\n\r\n{answer}"
    )
}

#[test]
fn a_watcher_leaves_an_endpoint_that_refuses_its_questions() {
    let chains = Chains::start();
    let urls = format!("{},{}", refusing_endpoint(), chains.settlement);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap().public_key();
    let key = format!("0x{}", hex::encode(key.as_bytes()));
    let owner = chains.accounts[STRANGER].as_str();
    let look = |watcher: &str, pauses: &[&str], seen: &str| {
        let table = [watcher, "--table", "--json", "--every", "100ms", "--rpc-url", &urls];
        let command = chains.command(ADMIN, &[&table[..], pauses].concat());
        let mut watcher = Running::start(command, false);
        watcher.line("look", |line| line.contains(seen));
        signal(watcher.pid(), "TERM");
        assert!(watcher.end().success());
    };
    look("chain-watcher", &[], "\"alarms\":[]");
    let once = |watcher| chains.run(ADMIN, &[watcher, "--once", "--rpc-url", &urls]);
    assert!(once("chain-watcher").status.success(), "{:?}", once("chain-watcher"));
    // The registry names no node.
    let verdict = once("network-watcher");
    assert_eq!(verdict.status.code(), Some(8), "{verdict:?}");

    let add = ["registry", "node", "add", "--owner", owner, "--public-key", &key];
    chains.json(ADMIN, &[&add[..], &["--http-address", "http://localhost:5050"]].concat());
    let pauses = ["--reconnect-min-backoff", "100ms", "--reconnect-max-backoff", "200ms"];
    look("network-watcher", &pauses, "\"node_id\":100");
}

#[test]
fn a_table_of_the_chains_is_printed_after_each_look() {
    let chains = Chains::start();
    let rich = chains.accounts[STRANGER].as_str();
    let table = ["chain-watcher", "--table", "--every", "100ms", "--app-sender", rich];
    let mut watcher = Running::start(chains.command(ADMIN, &table), false);
    for _ in 0..2 {
        let row = format!("sender {rich} ");
        let row = watcher.line("row of the account", |line| line.starts_with(&row));
        assert!(row.ends_with(" wei on the app chain"), "{row}");
        watcher.line("number of contracts", |line| line.ends_with(" contracts paused"));
        watcher.line("verdict", |line| line == "no alarm");
    }
    signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());
}
