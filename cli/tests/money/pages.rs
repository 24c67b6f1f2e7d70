//! The runbooks about money are run: every command of their pages, in its order, on a network that has settled a
//! report.

use crate::network::{MoneyNetwork, MoneySettings, NODES, next_minute};
use crate::support;
use crate::support::runbooks::{PageNetwork, Places};

/// Settles a report about the first node.
fn settle_one(network: &mut MoneyNetwork) -> String {
    network.traffic("first");
    next_minute();
    network.traffic("second");
    network.replicate();
    network.until_done(0, "generate", NODES[0]);
    network.replicate();
    for at in 0..NODES.len() {
        network.until_done(at, "attest", NODES[0]);
    }
    network.replicate();
    network.until_done(0, "submit", NODES[0]);
    network.until_done(1, "settle", NODES[0]);
    support::until("the settlement is seen", || {
        let reports = network.reports(0, NODES[0]);
        reports.iter().any(|report| report["state"] == "settled")
    });
    let report = network.reports(0, NODES[0]).remove(0);
    report["id"].as_str().unwrap().to_owned()
}

/// The status of a node counts the report, and shows what its account has on both chains.
fn the_status_shows_reports_and_accounts(network: &MoneyNetwork) {
    let metrics = network.metrics(0);
    let status = || support::json(&["status", "--json", "--metrics", &metrics])[0]["status"].take();
    support::until("the settlement is counted", || {
        let status = status();
        let stages = status["payer_reports"]["stages"].as_array().into_iter().flatten();
        let mut settled = stages.filter(|row| row["stage"] == "settled");
        settled.any(|row| row["reports"] == 1)
    });
    let account = |chain: &str| {
        let status = status();
        let mut chains = status["chains"].as_array().unwrap().iter();
        chains.find(|it| it["name"] == chain).unwrap()["account"].clone()
    };
    let wei = |chain: &str| account(chain)["native_wei"].as_str().map(str::to_owned);
    for chain in ["app", "settlement"] {
        support::until("the account is read", || wei(chain).is_some());
        assert_eq!(account(chain)["address"].as_str().unwrap().len(), 42);
    }
    assert_ne!(wei("settlement").unwrap(), "0", "it has paid for the report");
    let tokens = || account("settlement")["fee_token_microdollars"].is_u64();
    support::until("the fee token is read", tokens);
}

#[test]
fn each_command_of_the_runbooks_does_what_the_page_says() {
    let mut network = MoneyNetwork::start(MoneySettings::default());
    let report = settle_one(&mut network);
    the_status_shows_reports_and_accounts(&network);
    let places = Places {
        payer: network.owner_address(),
        key_file: network.file("key-0"),
        report,
        metrics: network.metrics(0),
        apis: [network.api(0), network.api(1)],
    };
    let pages = PageNetwork {
        places,
        data_dir: network.data_dir(0),
        owner: &|words| network.owner_text(words),
        pass_time: &|seconds| network.pass_time(seconds),
    };
    pages.run_pages();
    network.stop();
}
