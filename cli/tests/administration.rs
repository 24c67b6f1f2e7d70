//! The commands that change contracts, through the binary, on chains that `hawser chain dev` runs.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::chains::{ADMIN, Chains, STRANGER, functions, write_key};
use crate::support::{free_base, stderr, stdout, until};

const OWNER: &str = "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef";
const PUBLIC_KEY: &str = "0x049e2e8c096d46c3ffd87a21f2f438bf277c5a65bc8d342001ed9a6fe11e312a92\
                          54e9f2fa32be10392db7ebe694ca16ec2039b2e471b6ef3f5c021f8041d51673";

const ADD: [&str; 9] = [
    "registry",
    "node",
    "add",
    "--owner",
    OWNER,
    "--public-key",
    PUBLIC_KEY,
    "--http-address",
    "http://localhost:5050",
];

#[test]
fn a_node_is_registered_once_chosen_and_listed() {
    let chains = Chains::start();
    let text = chains.failure(STRANGER, 1, &[&ADD[..], &["--dry-run"]].concat());
    assert!(text.contains("would be reverted: NotAdmin()"), "{text}");
    let before = chains.transactions_of(ADMIN);
    let tried = chains.json(ADMIN, &[&ADD[..], &["--dry-run"]].concat());
    assert_eq!(tried["result"], Value::Null);
    assert!(tried["steps"][0]["estimate"]["gas_limit"].as_u64().unwrap() > 100_000, "{tried}");
    assert_eq!(chains.transactions_of(ADMIN), before, "a dry run sends nothing");

    let done = chains.json(ADMIN, &ADD);
    assert_eq!(functions(&done), ["addNode"]);
    assert_eq!(done["steps"][0]["arguments"][0]["value"], OWNER);
    assert_eq!(done["result"]["nodeId"], 100);
    let events = done["steps"][0]["receipt"]["events"].as_array().unwrap();
    let added = events.iter().find(|event| event["event"] == "NodeAdded").unwrap();
    assert_eq!(added["arguments"][0]["value"], "100");
    let again = chains.json(ADMIN, &ADD);
    assert!(functions(&again).is_empty(), "{again}");
    assert_eq!(again["result"], done["result"]);
    let mut elsewhere = ADD;
    elsewhere[8] = "http://localhost:6060";
    let text = chains.failure(ADMIN, 3, &elsewhere);
    assert!(text.contains("node 100 has this key already"), "{text}");

    let chosen = chains.json(ADMIN, &["registry", "canonical", "add", "100"]);
    assert_eq!(chosen["result"]["isCanonical"], true);
    let again = chains.json(ADMIN, &["registry", "canonical", "add", "100"]);
    assert!(functions(&again).is_empty());
    chains.failure(ADMIN, 4, &["registry", "canonical", "remove", "200"]);
    let text = chains.failure(
        ADMIN,
        1,
        &["registry", "node", "update-http", "100", "https://moved.example"],
    );
    assert!(text.contains("NotNodeOwner()"), "{text}");
    let listed = chains.json(ADMIN, &["registry", "node", "list"]);
    assert_eq!(listed[0]["signingPublicKey"], PUBLIC_KEY);
    assert_eq!(listed[0]["owner"], OWNER);
    let file = chains.json(ADMIN, &["registry", "node", "list", "--registry-file"]);
    assert_eq!(file["nodes"].as_array().unwrap().len(), listed.as_array().unwrap().len());
    assert_eq!(file["nodes"][0]["signingPublicKey"], PUBLIC_KEY);
    assert!(file["source"]["block"].as_u64().is_some_and(|block| block > 0), "{file}");
    assert!(file["source"]["contract"].as_str().unwrap().starts_with("0x"), "{file}");
    assert_eq!(file["nodes"][0]["absences"], Value::Null);
    for step in ["remove", "add"] {
        chains.json(ADMIN, &["registry", "canonical", step, "100"]);
        let file = chains.json(ADMIN, &["registry", "node", "list", "--registry-file"]);
        let absence = &file["nodes"][0]["absences"][0];
        let (from, until) = (absence["from"].as_u64().unwrap(), absence["until"].as_u64());
        assert_eq!(until.is_some_and(|until| until > from), step == "add", "{file}");
        let registry = hawser_node::files::registry::parse(&file.to_string()).unwrap();
        let read = registry.absences(hawser_proto::OriginatorId(100)).iter().next().unwrap();
        assert_eq!((read.from_s, read.until_s), (from, until));
    }
    let without =
        chains.json(ADMIN, &["registry", "node", "list", "--registry-file", "--no-absences"]);
    assert_eq!(without["nodes"][0]["absences"], Value::Null);
    let text = stdout(&chains.run(ADMIN, &["registry", "node", "list"]));
    assert!(text.contains("nodeId: 100") && text.contains("http://localhost:5050"), "{text}");
}

/// The call data of the vectors, by function.
fn vector(function: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/calldata.json");
    let vectors: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = vectors["cases"].as_array().unwrap().iter();
    let mut with_name = cases.filter(|case| case["function"] == function);
    with_name.next().unwrap()["calldata"].clone()
}

#[test]
fn call_data_for_a_multisig_is_that_of_the_vectors() {
    let chains = Chains::start();
    let calldata = |args: &[&str]| {
        let mut command = chains.command(ADMIN, &[args, &["--calldata", "--json"]].concat());
        let output = command.env_remove("HAWSER_KEY_FILE").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let added = calldata(&ADD);
    assert_eq!(added["steps"][0]["data"], vector("addNode(address,bytes,string)"));
    assert_eq!(added["steps"][0]["chain_id"], 31337);
    assert_eq!(added["steps"][0]["value"], "0");
    chains.json(ADMIN, &ADD);
    let chosen = calldata(&["registry", "canonical", "add", "100"]);
    assert_eq!(chosen["steps"][0]["data"], vector("addToNetwork(uint32)"));
    let set = calldata(&["registry", "params", "set", "xmtp.payerRegistry.paused=true"]);
    assert_eq!(set["steps"][0]["data"], vector("set(string,bytes32)"));
    let word = |digit: u8| format!("0x{digit:064}");
    let (a, b) = (format!("a={}", word(1)), format!("b={}", word(2)));
    let set = calldata(&["registry", "params", "set", &a, &b]);
    assert_eq!(set["steps"][0]["data"], vector("set(string[],bytes32[])"));
    let deposit = calldata(&["payer", "deposit", "--payer", OWNER, "--amount", "25"]);
    assert_eq!(functions(&deposit), ["approve", "deposit"], "a multisig signs no permits");
    assert_eq!(deposit["steps"][1]["data"], vector("deposit(address,uint96)"));

    let output = chains.run(ADMIN, &["registry", "canonical", "add", "100", "--calldata"]);
    let text = stdout(&output);
    assert!(text.contains("value  0"), "{text}");
    let data = vector("addToNetwork(uint32)");
    assert!(text.contains(&format!("data   {}", data.as_str().unwrap())), "{text}");
}

#[test]
fn rates_that_were_set_and_not_taken_over_are_finished_by_the_same_command() {
    let chains = Chains::start();
    let add = [
        "registry",
        "rates",
        "add",
        "--message-fee",
        "101",
        "--storage-fee",
        "202",
        "--congestion-fee",
        "303",
        "--target-rate-per-minute",
        "6000",
        "--start-time",
        "4000000000",
    ];
    let text = chains.failure(ADMIN, 3, &add);
    assert!(text.contains("more than a year"), "{text}");
    let add = &add[..add.len() - 2];
    let set = |name: &str, value: u64| format!("xmtp.rateRegistry.{name}={value}");
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let start = start.as_secs() + 5000;
    // The effect of the first of its two steps.
    let cut_short = [
        set("messageFee", 101),
        set("storageFee", 202),
        set("congestionFee", 303),
        set("ratesInEffectAfter", start),
    ];
    let cut_short: Vec<&str> = cut_short.iter().map(String::as_str).collect();
    chains.json(ADMIN, &[&["registry", "params", "set"], &cut_short[..]].concat());
    let done = chains.json(ADMIN, add);
    assert_eq!(functions(&done), ["updateRates"]);
    assert_eq!(done["result"]["startTime"], start);
    assert_eq!(done["result"]["messageFee"], 101);
    let again = chains.json(ADMIN, add);
    assert!(functions(&again).is_empty(), "{again}");
    let listed = chains.json(ADMIN, &["registry", "rates", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[1]["congestionFee"], 303);
    // The file that auditors take names the time of the newest block.
    let file = chains.json(ADMIN, &["registry", "rates", "list", "--rates-file"]);
    let read = hawser_node::files::rates::parse_for_judging(&file.to_string()).unwrap();
    assert_eq!(read.rates().len(), 2);
    assert_eq!(read.rates()[1].congestion_fee.0, 303);
    assert!(file["completeUntil"].as_u64().unwrap() > 0, "{file}");
    let early = (start - 1).to_string();
    let cheaper = ["--message-fee", "1", "--storage-fee", "1", "--congestion-fee", "1"];
    let cheaper = [&["registry", "rates", "add"], &cheaper[..]].concat();
    let rest = ["--target-rate-per-minute", "1", "--start-time", &early, "--dry-run"];
    let text = chains.failure(ADMIN, 1, &[&cheaper[..], &rest].concat());
    assert!(text.contains(&format!("InvalidStartTime(startTime: {early}")), "{text}");
}

#[test]
fn parameters_reach_the_contracts_of_both_chains() {
    let chains = Chains::start();
    let minimum = "xmtp.payerRegistry.minimumDeposit";
    let set = ["registry", "params", "set", "xmtp.payerRegistry.minimumDeposit=5000000"];
    let done = chains.json(ADMIN, &[&set[..], &["--apply"]].concat());
    assert_eq!(functions(&done), ["set", "updateMinimumDeposit"]);
    assert_eq!(done["result"][0]["applied"], "5000000");
    let again = chains.json(ADMIN, &[&set[..], &["--apply"]].concat());
    assert!(functions(&again).is_empty(), "{again}");
    let seen = chains.json(ADMIN, &["registry", "params", "get", minimum]);
    assert_eq!(seen[0]["value"], "5000000");
    assert!(seen[0]["word"].as_str().unwrap().ends_with("4c4b40"), "{seen}");

    let mistyped = ["registry", "params", "get", minimum, "xmtp.payerregistry.minimumDeposit"];
    let text = chains.failure(ADMIN, 4, &mistyped);
    assert!(text.contains(&format!("the nearest name is {minimum}")), "{text}");

    let paused = "xmtp.groupMessageBroadcaster.paused";
    chains.json(ADMIN, &["registry", "params", "set", &format!("{paused}=true")]);
    let done = chains.json(ADMIN, &["registry", "params", "bridge", paused, "--apply"]);
    assert_eq!(functions(&done), ["sendParametersWithPermit", "updatePauseStatus"]);
    assert_eq!(done["steps"][1]["chain_id"], 31338);
    let result = &done["result"][0];
    assert_eq!((&result["on_app_chain"], &result["applied"]), (&json!("true"), &json!("true")));
    let again = chains.json(ADMIN, &["registry", "params", "bridge", paused, "--apply"]);
    assert!(functions(&again).is_empty(), "{again}");

    let all = chains.json(ADMIN, &["registry", "params", "get"]);
    assert!(all.as_array().unwrap().len() > 30, "{all}");
    for wrong in ["xmtp.payerRegistry.minimumDeposit=-1", "xmtp.payerRegistry.x=1", "x", paused] {
        chains.failure(ADMIN, 2, &["registry", "params", "set", wrong]);
    }
    let twice = ["registry", "params", "set", "xmtp.payerRegistry.paused=true"];
    chains.failure(ADMIN, 2, &[&twice[..], &twice[3..]].concat());
}

/// An operator ends a command that waits, and repeats it. Both payments would be mined.
#[test]
fn a_payment_that_may_be_under_way_is_not_made_a_second_time() {
    let chains = Chains::start();
    let deposit = ["payer", "deposit", "--amount", "25", "--yes"];
    let count = |block: &str| {
        chains.rpc("eth_getTransactionCount", json!([chains.accounts[STRANGER], block]))
    };
    chains.rpc("evm_setAutomine", json!([false]));
    let mut ended = chains.command(STRANGER, &deposit).stdout(Stdio::piped()).spawn().unwrap();
    until("the payment is under way", || count("pending") != count("latest"));
    ended.kill().unwrap();
    let told = stdout(&ended.wait_with_output().unwrap());
    let hash = told.lines().find_map(|line| line.strip_prefix("  as transaction ")).unwrap();

    let mut repeated = chains.command(STRANGER, &deposit);
    let repeated = repeated.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It waits until nothing is under way. Nothing tells that it does, so this is enough time for its start.
    std::thread::sleep(std::time::Duration::from_secs(5));
    chains.rpc("evm_mine", json!([]));
    let refused = repeated.wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("nothing was sent"), "{}", stderr(&refused));
    assert_eq!(chains.rpc("eth_getTransactionReceipt", json!([hash]))["status"], "0x1", "{told}");
    assert_eq!(count("pending"), count("latest"));

    chains.rpc("evm_setAutomine", json!([true]));
    let again = chains.json(STRANGER, &deposit);
    assert_eq!(again["result"]["balance"]["usd"], "50", "now it is meant: {again}");
}

/// A script ends a command that waits, and looks for its transaction before it repeats it.
#[test]
fn a_script_hears_of_a_transaction_before_it_is_mined() {
    let chains = Chains::start();
    let deposit = ["payer", "deposit", "--amount", "25", "--yes", "--json"];
    let count = |block: &str| {
        chains.rpc("eth_getTransactionCount", json!([chains.accounts[STRANGER], block]))
    };
    chains.rpc("evm_setAutomine", json!([false]));
    let mut waiting = chains.command(STRANGER, &deposit);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the payment is under way", || count("pending") != count("latest"));
    waiting.kill().unwrap();
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!(stdout(&ended), "", "there is no result yet");
    let told = stderr(&ended);
    let lines = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let hashes: Vec<_> = lines.map(|line| line["transaction"].clone()).collect();
    chains.rpc("evm_mine", json!([]));
    let [hash] = hashes.as_slice() else { panic!("one transaction: {told}") };
    assert_eq!(chains.rpc("eth_getTransactionReceipt", json!([hash]))["status"], "0x1", "{told}");
}

#[test]
fn money_goes_in_waits_and_comes_out() {
    let chains = Chains::start();
    let payer = chains.accounts[STRANGER].clone();
    let deposit = chains.json(STRANGER, &["payer", "deposit", "--amount", "25"]);
    assert_eq!(functions(&deposit), ["depositWithPermit"]);
    let balance =
        |field: &str| chains.json(ADMIN, &["payer", "balance", "--payer", &payer])[field].clone();
    assert_eq!(balance("balance"), json!({ "microdollars": "25000000", "usd": "25" }));
    assert_eq!(balance("minimum_deposit")["usd"], "10");
    let block = balance("block").as_u64().unwrap();
    chains.rpc("evm_mine", json!([]));
    assert_eq!(balance("block"), block + 1, "what is shown is of one block, and it is named");
    let text = stdout(&chains.run(STRANGER, &["payer", "balance"]));
    assert!(text.contains("25 USD (25000000 µ$)"), "{text}");
    let text = chains.failure(STRANGER, 1, &["payer", "deposit", "--amount", "9.5", "--dry-run"]);
    assert!(
        text.contains("InsufficientDeposit(amount: 9500000, minimumDeposit: 10000000)"),
        "{text}"
    );
    let text = chains.failure(STRANGER, 1, &["payer", "deposit", "--amount", "99999", "--dry-run"]);
    assert!(text.contains("ERC20InsufficientBalance(sender: "), "{text}");
    assert!(
        text.contains("too few; --from-underlying wraps them"),
        "what to do is said too: {text}"
    );
    chains.failure(STRANGER, 2, &["payer", "deposit", "--amount", "1.0000001"]);

    let request = ["payer", "withdraw", "request", "--amount", "5.5"];
    let asked = chains.json(STRANGER, &request);
    assert_eq!(asked["result"]["withdrawal"]["usd"], "5.5");
    assert!(asked["result"]["withdrawal_ready_in_seconds"].as_u64().unwrap() > 172_000);
    let text = chains.failure(STRANGER, 1, &request);
    assert!(text.contains("PendingWithdrawalExists()"), "{text}");
    let text = chains.failure(STRANGER, 1, &["payer", "withdraw", "finalize"]);
    assert!(text.contains("WithdrawalNotReady(timestamp: "), "{text}");
    assert!(text.contains(": 5.5 USD (5500000 µ$), ready in 17"), "and how long it takes: {text}");
    let cancelled = chains.json(STRANGER, &["payer", "withdraw", "cancel"]);
    assert_eq!(cancelled["result"]["balance"]["usd"], "25");
    chains.json(STRANGER, &request);
    chains.rpc("evm_increaseTime", json!([172_800 + 3600]));
    chains.rpc("evm_mine", json!([]));
    let finalize = ["payer", "withdraw", "finalize", "--recipient", OWNER, "--into-underlying"];
    let paid = chains.json(STRANGER, &finalize);
    assert_eq!(paid["result"]["balance"]["usd"], "19.5");
    assert_eq!(paid["result"].get("withdrawal"), None);
    assert_eq!(functions(&paid), ["finalizeWithdrawalIntoUnderlying"]);
}

/// A wrong address of a token that the transactions do not need plays a chain that fails behind the receipt. A script
/// that saw a failure would pay twice.
#[test]
fn what_was_paid_is_printed_although_the_balance_cannot_be_read() {
    let chains = Chains::start();
    let underlying = "--contracts.settlement-chain.underlying-fee-token-address";
    let deposit = ["payer", "deposit", "--amount", "25", underlying, OWNER];
    let unwrap = ["payer", "unwrap", "--amount", "1", underlying, OWNER];
    for (args, function) in [(deposit, "depositWithPermit"), (unwrap, "withdrawTo")] {
        let done = chains.json(STRANGER, &args);
        assert_eq!(functions(&done), [function]);
        assert!(done["steps"][0]["receipt"].is_object(), "{done}");
        assert_eq!(done["result"], Value::Null, "{done}");
        let reason = done["result_error"].as_str().unwrap();
        assert!(reason.contains("0x74f3"), "{reason}");
    }
    let output = chains.run(STRANGER, &deposit);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("note: the transactions are mined, and the result"), "{text}");
    let shown = chains.json(STRANGER, &["payer", "balance"]);
    assert_eq!(shown["balance"]["usd"], "50", "each was sent once");
    let failed = chains.failure(STRANGER, 1, &["payer", "balance", underlying, OWNER]);
    assert!(failed.contains("0x74f3"), "{failed}");
}

#[test]
fn fees_are_shown_and_only_owed_fees_are_paid() {
    let chains = Chains::start();
    chains.json(ADMIN, &ADD);
    let shown = chains.json(ADMIN, &["fees", "show"]);
    assert_eq!(shown["nodes"][0]["owed"]["microdollars"], "0");
    assert_eq!(shown["reports"], json!([]));
    let claimed = chains.json(ADMIN, &["fees", "claim", "--node", "100"]);
    assert!(functions(&claimed).is_empty(), "{claimed}");
    let withdraw = ["fees", "withdraw", "--node", "100", "--from", OWNER, "--dry-run"];
    let mut command = chains.command(ADMIN, &withdraw);
    let output = command.env_remove("HAWSER_KEY_FILE").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("NoFeesOwed()"), "{}", stderr(&output));
    let text = chains.failure(ADMIN, 1, &["fees", "withdraw", "--protocol"]);
    assert!(text.contains("ZeroProtocolFeeRecipient()"), "{text}");
    let recipient = format!("xmtp.distributionManager.protocolFeesRecipient={OWNER}");
    let named = chains.json(ADMIN, &["registry", "params", "set", &recipient, "--apply"]);
    assert_eq!(functions(&named), ["set", "updateProtocolFeesRecipient"]);
    let text = chains.failure(ADMIN, 1, &["fees", "withdraw", "--protocol"]);
    assert!(text.contains("NoFeesOwed()"), "{text}");
    chains.failure(ADMIN, 4, &["fees", "claim", "--node", "200"]);
    chains.failure(ADMIN, 2, &["fees", "claim"]);
    chains.failure(ADMIN, 2, &["fees", "claim", "--node", "100", "--protocol"]);
}

/// A second chain with the same id and contracts plays an endpoint that does not show the command's transaction.
#[test]
fn an_outcome_that_one_of_two_endpoints_shows_is_not_believed() {
    let (chains, other) = (Chains::start(), Chains::start());
    let both = format!("{},{}", chains.settlement, other.settlement);
    let args = [&ADD[..], &["--rpc-url", &both, "--timeout", "2s"]].concat();
    let text = chains.failure(ADMIN, 1, &args);
    assert!(text.contains("one endpoint alone shows the outcome"), "{text}");
    let listed = chains.json(ADMIN, &["registry", "node", "list"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "it was sent: {listed}");
}

#[test]
fn errors_say_what_to_do() {
    let chains = Chains::start();
    let list = ["registry", "node", "list"];
    let with = |more: &[&str]| -> Vec<String> {
        list.iter().chain(more).map(|text| (*text).to_owned()).collect()
    };
    let failure = |code: i32, args: &[String]| {
        chains.failure(ADMIN, code, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let text = failure(1, &with(&["--rpc-url", &chains.app]));
    assert!(text.contains("is chain 31338, and chain 31337 was expected"), "{text}");
    let closed = format!("http://127.0.0.1:{}", free_base(0));
    let text = failure(1, &with(&["--rpc-url", &closed]));
    assert!(text.contains("does not answer") && text.contains(&closed), "{text}");
    let both = format!("{closed},{}", chains.settlement);
    let args = with(&["--rpc-url", &both, "--json"]);
    let output = chains.run(ADMIN, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "the second of two URLs answers: {}", stderr(&output));
    let registry = "--contracts.settlement-chain.node-registry-address";
    let text = failure(1, &with(&[registry, OWNER]));
    assert!(text.contains("there is no contract at 0x74f3"), "{text}");
    let text = failure(1, &with(&[registry, &chains.address_of("rateRegistry")]));
    assert!(text.contains("NodeRegistry: "), "{text}");
    failure(4, &with(&["--chain-json", "nowhere.json"]));
    failure(2, &with(&["--rpc-url", "ws://127.0.0.1:1"]));
    let text = failure(2, &with(&["--chain-json", "config://moon"]));
    assert!(text.contains("mainnet"), "{text}");
    let text = failure(1, &with(&["--chain-json", "config://anvil"]));
    assert!(text.contains("there is no contract at 0xd19F"), "{text}");

    let without_key = |args: &[&str]| {
        let output = chains.command(ADMIN, args).env_remove("HAWSER_KEY_FILE").output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, text) = without_key(&ADD);
    assert_eq!(code, Some(2));
    assert!(text.contains("--key-file"), "{text}");
    assert_eq!(without_key(&[&ADD[..], &["--from", OWNER]].concat()).0, Some(2));
    let poor = chains.folder.path().join("poor");
    write_key(poor.clone(), &format!("{:064}", 7));
    let deposit = ["payer", "withdraw", "request", "--amount", "1", "--key-file"];
    let text = chains.failure(ADMIN, 1, &[&deposit[..], &[poor.to_str().unwrap()]].concat());
    assert!(text.contains("InsufficientBalance()"), "{text}");
    let apply = ["registry", "params", "set", "xmtp.payerRegistry.paused=true"];
    chains.json(ADMIN, &apply);
    let poke = [&apply[..], &["--apply", "--key-file", poor.to_str().unwrap()]].concat();
    let text = chains.failure(ADMIN, 1, &poke);
    assert!(text.contains("of the native token") && text.contains("send it some"), "{text}");
    fs::set_permissions(&poor, fs::Permissions::from_mode(0o644)).unwrap();
    chains.failure(ADMIN, 3, &poke);
}

#[test]
fn a_transaction_that_is_not_mined_is_waited_for_in_bounds_and_not_sent_twice() {
    let chains = Chains::start();
    chains.rpc("evm_setAutomine", json!([false]));
    let text = chains.failure(ADMIN, 1, &[&ADD[..], &["--timeout", "1s"]].concat());
    assert!(text.contains("was not mined within 1 s"), "{text}");
    let text = chains.failure(ADMIN, 1, &[&ADD[..], &["--timeout", "1s"]].concat());
    assert!(text.contains("wait to be mined"), "{text}");
    chains.rpc("evm_mine", json!([]));
    let done = chains.json(ADMIN, &ADD);
    assert!(functions(&done).is_empty(), "the first one was mined: {done}");
    assert_eq!(done["result"]["nodeId"], 100);
}

#[test]
fn a_user_at_a_terminal_is_asked() {
    let chains = Chains::start();
    let answered = |answer: &str| {
        let command = chains.command(ADMIN, &ADD);
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let line: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        // `script` gives the command a terminal.
        let mut terminal = Command::new("script");
        terminal
            .args(["-qec", &line.join(" "), "/dev/null"])
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        terminal.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        terminal.wait_with_output().unwrap()
    };
    let before = chains.transactions_of(ADMIN);
    let refused = answered("n\n");
    assert_eq!(refused.status.code(), Some(3), "{}", stdout(&refused));
    assert!(stdout(&refused).contains("Send 1 transaction? [y/N]"), "{}", stdout(&refused));
    assert_eq!(chains.transactions_of(ADMIN), before);
    let agreed = answered("y\n");
    assert!(agreed.status.success(), "{}", stdout(&agreed));
    assert!(stdout(&agreed).contains("NodeAdded(nodeId: 100"), "{}", stdout(&agreed));
}

/// A script has no terminal: a question there would be answered by what happens to stand at its input.
#[test]
fn without_a_terminal_nothing_is_sent_that_is_not_confirmed() {
    let chains = Chains::start();
    let before = chains.transactions_of(ADMIN);
    for input in ["", "y\n"] {
        let mut command = chains.command(ADMIN, &[&ADD[..], &["--json"]].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        // The command may end without reading it.
        let _ = running.stdin.take().unwrap().write_all(input.as_bytes());
        let refused = running.wait_with_output().unwrap();
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("nothing was sent: "), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("--yes"), "{}", stderr(&refused));
        assert_eq!(stdout(&refused), "", "no result");
    }
    for shows in ["--dry-run", "--calldata"] {
        let shown = chains.command(ADMIN, &[&ADD[..], &[shows]].concat()).output().unwrap();
        assert!(shown.status.success(), "{shows}: {}", stderr(&shown));
    }
    assert_eq!(chains.transactions_of(ADMIN), before);
    let done = chains.json(ADMIN, &[&ADD[..], &["--yes"]].concat());
    assert_eq!(functions(&done), ["addNode"]);
    // There is nothing left to confirm.
    let again = chains.command(ADMIN, &ADD).output().unwrap();
    assert!(again.status.success(), "{}", stderr(&again));
}
