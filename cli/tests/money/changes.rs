//! Five nodes and three payers while everything changes: prices within a range, the members of the network, and a
//! payer's balance; one node is silent, and the endpoint of another one answers late. Payers publish all the time, and
//! nodes are killed between steps. The chains are anvil's.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::network::{MoneyNetwork, MoneySettings, next_minute};
use crate::support::until;
use crate::{Amounts, Books, books, the_chain_distributes};

/// The node that is registered and joins between two ranges.
const JOINS: usize = 4;
/// The node that does nothing for reports, and then ends.
const SILENT: usize = 3;
/// The nodes that do the work.
const WORKERS: [usize; 3] = [0, 1, 2];

/// Takes a report about each of these originators to its settlement by the work of three of five nodes, under load. A
/// node is killed before one of its steps, for each report before another one.
fn report_all(network: &mut MoneyNetwork, places: &[usize]) {
    let ids = network.ids();
    let load = network.load_at(&format!("meanwhile, {places:?}"), &WORKERS);
    for (turn, about) in places.iter().map(|at| ids[*at]).enumerate() {
        let kill_before = |network: &mut MoneyNetwork, step: usize, at: usize| {
            if turn % 4 == step {
                network.kill(at);
            }
        };
        kill_before(network, 0, 0);
        network.until_done(0, "generate", about);
        network.replicate_from(&WORKERS, &WORKERS);
        kill_before(network, 1, 2);
        for at in WORKERS {
            network.until_done(at, "attest", about);
        }
        network.replicate_from(&WORKERS, &WORKERS);
        kill_before(network, 2, 1);
        network.until_done(1, "submit", about);
        kill_before(network, 3, 2);
        network.until_done(2, "settle", about);
        until("each worker has seen the settlement", || {
            WORKERS.iter().all(|at| {
                let reports = network.reports(*at, about);
                !reports.is_empty() && reports.iter().all(|report| report["state"] == "settled")
            })
        });
    }
    load.stop();
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn each_fee_is_settled_once_while_prices_members_and_balances_change() {
    let mut network = MoneyNetwork::start(MoneySettings {
        nodes: 5,
        joins_later: Some(JOINS),
        late: Some(1),
        anvil: true,
        ..MoneySettings::default()
    });
    // Prices that begin within the first range. Each node knows them before: it reads the list when it starts.
    let start = (now_s() / 60 + 2) * 60;
    let add = ["registry", "rates", "add", "--message-fee", "5000", "--storage-fee", "70"];
    let rest = ["--congestion-fee", "300", "--target-rate-per-minute", "6000", "--start-time"];
    network.as_admin(&[&add[..], &rest, &[&start.to_string(), "--yes"]].concat());
    for at in [0, 1, 2, SILENT] {
        network.kill(at);
    }
    let members = [0, 1, 2, SILENT];
    network.traffic_at("old prices", &members);
    while now_s() < start {
        next_minute();
    }
    network.traffic_at("new prices", &members);
    next_minute();
    network.traffic_at("behind the first range", &members);
    network.replicate_from(&members, &members);

    // A payer takes money out while its fees are on their way.
    network.as_payer(2, &["payer", "withdraw", "request", "--amount", "1000", "--yes"]);
    network.end(SILENT);
    report_all(&mut network, &members);

    // A node joins, publishes, and leaves before the reports about it are written.
    let joins = network.ids()[JOINS].to_string();
    network.as_admin(&["registry", "canonical", "add", &joins, "--yes"]);
    // It reads the members of the network when it starts.
    network.kill(JOINS);
    let running = [0, 1, 2, JOINS];
    next_minute();
    network.traffic_at("of the new node", &running);
    next_minute();
    network.traffic_at("and after", &running);
    network.replicate_from(&running, &WORKERS);
    network.as_admin(&["registry", "canonical", "remove", &joins, "--yes"]);
    // So do they.
    for at in WORKERS {
        network.kill(at);
    }
    report_all(&mut network, &running);

    let leaves = network.payers[2].address.to_string().to_lowercase();
    let withdrawn: Amounts = [(leaves, 1_000_000_000)].into();
    let Books { reports, settled, .. } = books(&network, &WORKERS, &withdrawn);
    assert_eq!(reports, 8, "four ranges of members before, and four after");
    the_chain_distributes(&network, settled.values().sum());
    network.stop();
}
