//! From a published envelope to fees that a node's owner can withdraw, with real nodes and the real contracts.
//!
//! A program of its own, because it runs longest and has a machine to itself as far as it can: its tests run one by
//! one.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test binary: it fails by panicking, and has no users"
)]

mod changes;
mod network;
mod pages;
mod publishing;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use hawser_chain::admin::{fees, payers};
use hawser_proto::Signature;
use serde_json::{Value, json};

use network::{MoneyNetwork, MoneySettings, NODES, next_minute};

/// The deposit of each payer, microdollars.
const DEPOSIT: i128 = 10_000 * 1_000_000;

/// Amounts by payer, picodollars.
type Amounts = BTreeMap<String, u64>;

/// The fees that the envelopes of an originator state up to a place, as a node shows them.
fn fees_of_log(network: &MoneyNetwork, at: usize, originator: u32, through: u64) -> Amounts {
    let mut amounts = Amounts::new();
    for envelope in network.strand(at, originator) {
        let statement = envelope.unsigned();
        let is_own = statement.payer().client().topic().kind().is_reserved();
        if is_own || envelope.id().sequence.0 > through {
            continue;
        }
        let payer = statement.payer();
        let signature = Signature::from_bytes(payer.signature_bytes().unwrap()).unwrap();
        let address =
            signature.recover(payer.digest()).unwrap().address().to_string().to_lowercase();
        *amounts.entry(address).or_default() +=
            statement.base_fee().0 + statement.congestion_fee().0;
    }
    amounts
}

/// An amount in JSON, which is text: a program may read numbers as doubles.
fn number<N: std::str::FromStr<Err: std::fmt::Debug>>(amount: &Value) -> N {
    amount.as_str().unwrap_or_else(|| panic!("no text: {amount}")).parse().unwrap()
}

/// The leaves of a report, as a node that comes to the same report shows them.
fn leaves(network: &MoneyNetwork, at: usize, id: &str) -> (Amounts, Amounts) {
    let shown = support::json(&["report", "show", id, "--json", "--metrics", &network.metrics(at)]);
    let of = |field: &str| {
        let payers = shown["payers"].as_array().unwrap().iter();
        let amount =
            |it: &Value| (it["payer"].as_str().unwrap().to_lowercase(), number(&it[field]));
        payers.map(amount).collect()
    };
    (of("picodollars"), of("settled_microdollars"))
}

/// The amounts that the chain took for a report, microdollars: those that a node computes itself.
fn taken(network: &MoneyNetwork, at: usize, id: &str) -> Amounts {
    let metrics = network.metrics(at);
    let shown = network.as_owner(&["report", "settled", id, "--metrics", &metrics]);
    let amount = |it: &Value| {
        assert_eq!(it["taken_microdollars"], it["own_microdollars"], "{shown}");
        (it["payer"].as_str().unwrap().to_lowercase(), number(&it["taken_microdollars"]))
    };
    shown["payers"].as_array().unwrap().iter().map(amount).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (payer, amount) in more {
        *sum.entry(payer.clone()).or_default() += amount;
    }
}

/// Takes a report about each originator from its draft to its settlement. Each step is taken by another node, and one
/// is killed before each step. Two of the three nodes are asked to attest.
fn report_all(network: &mut MoneyNetwork) {
    for (at, about) in NODES.into_iter().enumerate() {
        let (code, would) = network.step(at, "generate", about, &["--dry-run"]);
        assert_eq!((code, &would[0]["state"]), (0, &"would".into()), "{would:?}");
        network.kill(at);
        network.until_done(at, "generate", about);
        let (code, again) = network.step(at, "generate", about, &[]);
        assert_eq!((code, &again[0]["state"]), (0, &"nothing".into()), "{again:?}");
        network.kill((at + 1) % 3);
        network.replicate();
        for attester in [0, 1] {
            network.until_done(attester, "attest", about);
        }
        network.kill(1);
        network.replicate();
        network.until_done(0, "submit", about);
        network.kill(0);
        network.until_done(1, "settle", about);
        let (code, again) = network.step(1, "settle", about, &[]);
        assert_eq!(code, 0, "{again:?}");
        let is_settled = |at: usize| {
            let reports = network.reports(at, about);
            !reports.is_empty() && reports.iter().all(|report| report["state"] == "settled")
        };
        support::until("every node has seen the settlement", || (0..3).all(is_settled));
    }
}

/// Sum of fees in the log = sum of usage = sum of leaves = settled on the chain, for each payer, and = the shares of
/// nodes and protocol: also when nodes are killed between any two steps.
#[test]
fn fees_of_the_log_reach_the_owners_of_nodes() {
    let mut network = MoneyNetwork::start(MoneySettings::default());
    network.traffic("first");
    next_minute();
    network.traffic("second");
    network.replicate();
    report_all(&mut network);
    next_minute();
    network.traffic("third");
    network.replicate();
    report_all(&mut network);

    let Books { reports, of_leaves, settled } = books(&network, &[0, 1, 2], &Amounts::new());
    assert_eq!(reports, 6, "two reports of each originator");
    bills_are_proven(&network, &of_leaves);
    the_watcher_tells_of_what_is_wrong(&network);
    the_chain_distributes(&network, settled.values().sum());
    a_payer_without_a_deposit_is_refused(&mut network);
    network.stop();
}

/// A node whose operator has set it so takes publishes from payers who can pay for them, and from no others.
fn a_payer_without_a_deposit_is_refused(network: &mut MoneyNetwork) {
    network.restart_with(0, &["--api.require-payer-positive-balance=true"]);
    network.traffic_at("paid from a deposit", &[0]);
    let refused = network.poor_publisher(0).publish("not paid for");
    assert_eq!(refused.status.code(), Some(3), "{}", support::stderr(&refused));
    let told: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(told["published"], 0, "{told}");
    assert_eq!(told["refused"][0]["status"], "FAILED_PRECONDITION", "{told}");
}

/// The sums of all reports.
struct Books {
    reports: usize,
    /// Leaves, picodollars.
    of_leaves: Amounts,
    /// Leaves, each rounded up, microdollars.
    settled: Amounts,
}

/// Checks that the fees of the log are those of the leaves, and that they were taken from each payer as these nodes and
/// the chain say. `withdrawn` are microdollars that a payer has asked for.
fn books(network: &MoneyNetwork, asked: &[usize], withdrawn: &Amounts) -> Books {
    let (mut of_log, mut of_leaves, mut settled) = (Amounts::new(), Amounts::new(), Amounts::new());
    let mut reports = 0;
    for about in network.ids() {
        let of_originator = network.reports(asked[0], about);
        let ends = of_originator.iter().map(|it| it["end_sequence_id"].as_u64().unwrap());
        let last = asked[asked.len() - 1];
        add(&mut of_log, &fees_of_log(network, last, about, ends.max().unwrap()));
        for report in &of_originator {
            assert_eq!(report["state"], "settled", "{report}");
            let id = report["id"].as_str().unwrap();
            let (exact, rounded) = leaves(network, asked[1], id);
            assert_eq!(taken(network, asked[1], id), rounded, "the chain names the same amounts");
            add(&mut of_leaves, &exact);
            add(&mut settled, &rounded);
            for (payer, amount) in &exact {
                assert_eq!(rounded[payer], amount.div_ceil(1_000_000), "rounded up by leaf");
            }
            reports += 1;
        }
    }
    assert_eq!(of_log.len(), network.payers.len());
    assert_eq!(of_leaves, of_log, "the leaves are the fees of the log");
    let contracts = network.contracts();
    for payer in &network.payers {
        let address = payer.address.to_string().to_lowercase();
        let withdrawn = withdrawn.get(&address).copied().unwrap_or_default();
        let balance = DEPOSIT - i128::from(settled[&address]) - i128::from(withdrawn);
        for at in asked {
            let metrics = network.metrics(*at);
            let usage =
                || support::json(&["payer", "usage", &address, "--json", "--metrics", &metrics]);
            support::until("the ledger has all settlements", || {
                number::<i128>(&usage()["balance_picodollars"]) == balance * 1_000_000
            });
            let usage = usage();
            let reported: u64 = number(&usage["settled_picodollars"]);
            assert_eq!(reported, of_leaves[&address], "node {at}: {usage}");
            let unsettled: i128 = number(&usage["unsettled_picodollars"]);
            let available = balance * 1_000_000 - unsettled;
            assert_eq!(number::<i128>(&usage["available_picodollars"]), available);
            let text = support::run(&["payer", "usage", &address, "--metrics", &metrics]);
            assert!(support::stdout(&text).contains(" USD ("), "{text:?}");
        }
        let on_chain = network.runtime.block_on(payers::balance(&contracts, payer.address));
        assert_eq!(on_chain.unwrap().balance.0.to_string(), balance.to_string());
    }
    Books { reports, of_leaves, settled }
}

/// A payer who trusts no node computes its bill from what one shows, and finds its leaves in the reports of the chain.
fn bills_are_proven(network: &MoneyNetwork, of_leaves: &Amounts) {
    for payer in &network.payers {
        let address = payer.address.to_string().to_lowercase();
        let from = network.api(2);
        let bill = network.as_owner(&["payer", "usage", &address, "--verify", "--from", &from]);
        assert_eq!(bill["verdict"], "proven", "{bill}");
        assert_eq!(number::<u64>(&bill["settled_picodollars"]), of_leaves[&address], "{bill}");
        let parts = bill["originators"].as_array().unwrap().iter();
        assert_eq!(parts.map(|it| it["reports"].as_array().unwrap().len()).sum::<usize>(), 6);
    }
}

/// A watcher without a key sees the same chain: quiet while all is well, and loud about a payer with less than is
/// wanted.
fn the_watcher_tells_of_what_is_wrong(network: &MoneyNetwork) {
    let payer = network.payers[0].address.to_string();
    let state = network.file("known.json");
    let once = ["chain-watcher", "--once", "--payer", &payer, "--state", &state];
    let quiet = network.as_owner(&once);
    assert_eq!(quiet["alarms"], Value::from(Vec::<Value>::new()), "{quiet}");
    assert!(quiet["implementations"].as_object().unwrap().len() > 5, "{quiet}");
    assert!(quiet["payers"][0]["microdollars"].is_string(), "{quiet}");
    let mut originators = quiet["originators"].as_array().unwrap().iter();
    let of_node = originators.find(|it| it["originator_id"] == 100).unwrap();
    assert_eq!((&of_node["reports"], &of_node["open"]), (&json!(2), &json!(0)), "{quiet}");
    let output = network.owner(&[&once[..], &["--payer-min", "20000"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(8));
    let loud: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(loud["alarms"][0]["alarm"], "payer_low", "{loud}");

    let known = std::fs::read_to_string(&state).unwrap();
    let mut known: Value = serde_json::from_str(&known).unwrap();
    known["PayerRegistry"] = Value::from(payer.as_str());
    std::fs::write(&state, known.to_string()).unwrap();
    let output = network.owner(&once).output().unwrap();
    let upgraded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(upgraded["alarms"][0]["alarm"], "upgraded", "{upgraded}");

    let address = format!("127.0.0.1:{}", support::free_base(0));
    let from_start = ["--deployment-block", "0"];
    let args = ["chain-watcher", "--listen", &address, "--every", "1s"];
    let command = network.owner(&[&args[..], &from_start].concat());
    let mut watcher = support::Running::start(command, true);
    watcher.line("address", |line| line.contains("/metrics"));
    support::until("the first look", || support::page(&address, "/health").contains("200 OK"));
    let page = support::page(&address, "/metrics");
    assert!(
        page.contains("xmtp_chain_report_submitted_total{originator_id=\"100\"} 2\n"),
        "{page}"
    );
    assert!(page.contains("xmtp_chain_watcher_alarms{kind=\"report_stuck\"} 0\n"), "{page}");
    let events = || support::page(&address, "/metrics");
    let submitted = "xmtp_chain_events_processed_total{event_type=\"PayerReportSubmitted\"} 6\n";
    support::until("the events are counted", || events().contains(submitted));
    let page = events();
    let value = |name: &str| -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {page}")).parse().unwrap()
    };
    let settled = value("xmtp_chain_events_processed_total{event_type=\"UsageSettled\"}");
    assert!(settled > 0, "{page}");
    assert_eq!(value("xmtp_chain_usage_settled_total"), settled);
    let attesting = value("xmtp_chain_attesting_node_count{originator_id=\"100\"}");
    assert!((2..=3).contains(&attesting), "a majority of three: {page}");
    assert_eq!(value("xmtp_chain_watcher_event_failures_total"), 0);
    assert!(support::page(&address, "/else").contains("404"));
    support::signal(watcher.pid(), "TERM");
    assert!(watcher.end().success());
}

/// The shares that nodes and protocol claim are the settled amount, to the last microdollar.
fn the_chain_distributes(network: &MoneyNetwork, settled: u64) {
    let contracts = network.contracts();
    let on_chain = network.runtime.block_on(fees::reports(&contracts, &[])).unwrap();
    let all: u128 = on_chain.iter().map(|report| report.fees_settled.get()).sum();
    assert_eq!(all, u128::from(settled), "settled on the chain");
    let shares = on_chain.iter().map(|report| {
        report.share_of_node().get() * report.node_ids.len() as u128
            + report.share_of_protocol().get()
    });
    assert_eq!(shares.sum::<u128>(), all);
    // The contract refuses a claim that has a report twice.
    let node = network.ids().into_iter().next().unwrap().to_string();
    let twice = ["--originator", &node, "--originator", &node];
    let shown = network.as_owner(&[&["fees", "show"][..], &twice].concat());
    let once = network.as_owner(&["fees", "show", "--originator", &node]);
    assert_eq!(shown["reports"], once["reports"], "an originator named twice");
    assert!(!shown["reports"].as_array().unwrap().is_empty(), "{shown}");
    network.as_owner(&[&["fees", "claim", "--node", &node, "--yes"][..], &twice].concat());
    for node in network.ids() {
        network.as_owner(&["fees", "claim", "--node", &node.to_string(), "--yes"]);
    }
    network.as_owner(&["fees", "claim", "--protocol", "--yes"]);
    let owed = network.runtime.block_on(fees::owed(&contracts)).unwrap();
    let of_nodes: u128 = owed.nodes.iter().map(|(_, amount)| amount.get()).sum();
    assert_eq!(of_nodes + owed.protocol.get(), all, "distributed + protocol share");
    assert!(owed.excess.get() + owed.available.get() >= all, "the tokens are there");
}

/// A node that charges by prices of its own reports amounts that no other node computes: it gets no attestation and is
/// named, and the others report its strand by the prices of the chain.
#[test]
fn a_node_that_lies_in_its_report_is_named_and_its_price_is_not_paid() {
    let liar = 2;
    let mut network =
        MoneyNetwork::start(MoneySettings { liar: Some(liar), ..MoneySettings::default() });
    network.traffic("first");
    next_minute();
    network.traffic("second");
    network.replicate();
    network.until_done(liar, "generate", NODES[liar]);
    network.until_done(liar, "attest", NODES[liar]);
    network.replicate();
    for honest in [0, 1] {
        let (code, outcomes) = network.judged(honest, NODES[liar]);
        assert_eq!(code, 3, "{outcomes:?}");
        assert_eq!(outcomes[0]["state"], "refused");
        let named = network.log_line(honest, "refusal", |it| it.contains("payer_report_refused"));
        assert!(named.contains("300"), "{named}");
    }
    let lie = network.reports(0, NODES[liar]).remove(0);
    assert_eq!((&lie["state"], &lie["written_by"]), (&"refused".into(), &vec![300].into()));
    let explained = ["report", "explain", lie["id"].as_str().unwrap(), "--json", "--metrics"];
    let metrics = network.metrics(0);
    let explained = support::run(&[&explained[..], &[&metrics]].concat());
    assert_eq!(explained.status.code(), Some(3));
    let (_, waits) = network.step(liar, "submit", NODES[liar], &[]);
    assert_eq!(waits[0]["state"], "waiting", "its own attestation is no majority");

    network.until_done(0, "generate", NODES[liar]);
    network.replicate();
    for honest in [0, 1] {
        network.until_done(honest, "attest", NODES[liar]);
    }
    network.replicate();
    network.until_done(1, "submit", NODES[liar]);
    network.until_done(0, "settle", NODES[liar]);
    support::until("every honest node has seen the settlement", || {
        [0, 1].iter().all(|at| network.reports(*at, NODES[liar])[0]["state"] == "settled")
    });
    let report = network.reports(0, NODES[liar]).remove(0);
    assert_eq!(report["written_by"], Value::from(vec![100]));
    let (exact, _) = leaves(&network, 1, report["id"].as_str().unwrap());
    let end = report["end_sequence_id"].as_u64().unwrap();
    let charged = fees_of_log(&network, 1, NODES[liar], end);
    let payer = network.payers[0].address.to_string();
    let bill = network.bill(1, &payer);
    assert_eq!(bill.0, 8, "the fees that the liar states are no rate's: {}", bill.1);
    let mut of_originators = bill.1["originators"].as_array().unwrap().iter();
    let of_liar = of_originators.find(|it| it["originator_id"] == NODES[liar]).unwrap();
    assert_eq!(of_liar["reports"][0]["verdict"], "proven", "the report charges by the rates");
    assert!(of_liar["faults"]["fee"].as_u64().unwrap() > 0, "{of_liar}");
    assert_eq!(exact.len(), charged.len());
    assert!(exact.iter().all(|(payer, amount)| *amount < charged[payer]), "{exact:?} {charged:?}");
    network.stop();
}
