//! Publishing to a node that takes envelopes only from payers who can pay, and to one that does not ask, in turns. Both
//! read the deposits of the payers from a chain that answers from memory.

use std::path::Path;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::primitives::aliases::U96;
use alloy::sol_types::SolEvent as _;
use hawser_chain::contracts::PayerRegistry::Deposit;
use hawser_proto::PayerAddress;
use tokio::time::sleep;

use crate::error::BenchError;
use crate::log_server::{CHAIN_ID, LogServer};
use crate::network::{Network, Node};
use crate::scenario::publish;
use crate::stats::{self, verdict};
use crate::workload::Workload;

const PAYER_REGISTRY: Address = Address::repeat_byte(0x73);
const REPORT_MANAGER: Address = Address::repeat_byte(0x74);
const GROUP_MESSAGES: Address = Address::repeat_byte(0x71);
const IDENTITY_UPDATES: Address = Address::repeat_byte(0x72);
/// The deposit of each payer, microdollars: a million dollars, more than any run costs.
const DEPOSIT: u64 = 1_000_000_000_000;
/// The share of the node's CPU time for an envelope that counts as no cost. A guess: runs differ by that.
const COST_MAX: f64 = 0.03;
/// Upper bound on the time until a node has read the deposits.
const READ_MAX: Duration = Duration::from_secs(60);

/// The figures of one way.
#[derive(Default)]
struct BalanceFigures {
    per_second: Vec<f64>,
    /// CPU time of an envelope in the node, microseconds.
    node_cpu_us: Vec<f64>,
}

/// Prints a line for each way, and the verdict. The ways change places from round to round, since a machine may become
/// slower meanwhile.
pub(crate) async fn run(
    plan: &publish::Plan,
    rounds: u32,
    hawser: &Path,
    data_dir: &Path,
) -> Result<(), BenchError> {
    let free = Network::new(hawser, data_dir, 1)?;
    let asking = Network::new(hawser, data_dir, 1)?;
    let payers = Workload::new(free.id(0), plan.payers, 1, plan.shape.payload_len, [0; 32])?;
    let payers: Vec<_> = payers.payers().collect();
    let deposits = payers.iter().map(|payer| {
        let (payer, amount) = (Address::from(payer.0), U96::from(DEPOSIT));
        Deposit { payer, amount }.encode_log_data()
    });
    let server = LogServer::start(PAYER_REGISTRY, deposits, payers.len().max(1))?;
    let mut nodes = Vec::new();
    for (network, asks) in [(&free, false), (&asking, true)] {
        let node = network.start_flagged(0, &flags(&server, asks)).await?;
        for payer in &payers {
            until_read(&node, *payer).await?;
        }
        nodes.push(node);
    }
    let mut ways = [BalanceFigures::default(), BalanceFigures::default()];
    for round in 0..rounds {
        let first = usize::from(!round.is_multiple_of(2));
        for at in [first, 1 - first] {
            let published = publish::run(plan, &nodes[at], &[]).await?;
            ways[at].per_second.push(published.envelopes_per_second);
            ways[at].node_cpu_us.push(published.node_cpu_us.unwrap_or(f64::NAN));
        }
    }
    nodes.into_iter().for_each(Node::stop);
    let [without, with] =
        ways.map(|way| [way.per_second, way.node_cpu_us].map(|it| stats::median(&it)));
    for (name, [per_second, cpu_us]) in [("not asked", without), ("checked", with)] {
        println!(
            "balances {name}: {per_second:.0} envelopes/s, {cpu_us:.1} us CPU of the node each (medians of {rounds} \
             rounds)"
        );
    }
    let cost = with[1] / without[1] - 1.0;
    let (promised, kept) = (100.0 * COST_MAX, verdict(cost < COST_MAX));
    println!("promised: less than {promised:.0} % more CPU: {kept}, {:.1} %", 100.0 * cost);
    Ok(())
}

fn flags(server: &LogServer, asks: bool) -> Vec<String> {
    let url = server.url();
    vec![
        format!("--contracts.settlement-chain.rpc-url={url}"),
        format!("--contracts.settlement-chain.chain-id={CHAIN_ID}"),
        format!("--contracts.settlement-chain.payer-registry-address={PAYER_REGISTRY}"),
        format!("--contracts.settlement-chain.payer-report-manager-address={REPORT_MANAGER}"),
        format!("--contracts.app-chain.rpc-url={url}"),
        format!("--contracts.app-chain.chain-id={CHAIN_ID}"),
        format!("--contracts.app-chain.group-message-broadcaster-address={GROUP_MESSAGES}"),
        format!("--contracts.app-chain.identity-update-broadcaster-address={IDENTITY_UPDATES}"),
        format!("--api.require-payer-positive-balance={asks}"),
    ]
}

/// Waits until a node has booked the deposit of a payer.
async fn until_read(node: &Node, payer: PayerAddress) -> Result<(), BenchError> {
    let path = format!("/payer-reports?payer={payer}");
    let until = Instant::now() + READ_MAX;
    loop {
        let (status, page) = node.page(&path).await?;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        // Text, or a number of a program of an earlier version.
        let balance = page["balance_picodollars"].to_string();
        if status == 200 && balance.trim_matches('"').parse().is_ok_and(|it: i128| it > 0) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(
                format!("the node has no balance of {payer}: status {status}, {page}").into()
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
}
