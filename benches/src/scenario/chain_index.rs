//! A node that reads what is on the app chain from its first block, next to merely fetching it.

use std::path::Path;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, FixedBytes, LogData};
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent as _;
use hawser_chain::contracts::group_message_broadcaster::GroupMessageBroadcaster::MessageSent;
use hawser_chain::send::Chain;
use hawser_proto::envelope::ClientEnvelope;
use hawser_proto::{Bytes, OriginatorId};
use tokio::time::sleep;

use crate::error::BenchError;
use crate::log_server::{CHAIN_ID, LogServer};
use crate::network::{self, Network};
use crate::rpc::Connection;
use crate::stats;

/// Envelopes captured from a real client.
const CAPTURE: &str = include_str!("../../../tests/vectors/client/envelopes.jsonl");
const GROUP_MESSAGES: Address = Address::repeat_byte(0x71);
const IDENTITY_UPDATES: Address = Address::repeat_byte(0x72);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A node that stores nothing for this long has failed.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Promised on two cores, in commits per second.
const PER_SECOND_MIN: f64 = 5000.0;

/// Events on the chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Commits in all.
    pub(crate) events: u64,
    /// In each block.
    pub(crate) per_block: usize,
}

/// Prints text.
pub(crate) async fn run(plan: Plan, program: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let commits = commits()?;
    let bytes = commits.iter().map(|commit| commit.message.len()).sum::<usize>() / commits.len();
    let events = commits.iter().cycle().zip(1..=plan.events);
    let events = events.map(|(commit, place)| encode(commit, place));
    let server = LogServer::start(GROUP_MESSAGES, events, plan.per_block.max(1))?;
    println!("{} commits of clients, {bytes} bytes each on average", plan.events);

    let network = Network::new(program, data_dir, 1)?;
    let node = network.start_reading(0, &flags(&server)).await?;
    let stored = until_stored(node.api(), plan.events).await?;
    let asked = server.asked();
    let first = asked.first.ok_or("the node has not asked for events")?;
    let cpu_us = node.cpu_time()?.as_secs_f64() * 1e6 / stats::float(plan.events);
    let per_second = stats::per_second(plan.events, stored - first);
    node.stop();

    let chain = Chain::connect(&server.url(), CHAIN_ID).await?;
    let (start, mut fetched) = (Instant::now(), 0);
    for page in &asked.pages {
        let filter = Filter::new().address(GROUP_MESSAGES);
        let filter = filter.from_block(*page.start()).to_block(*page.end());
        fetched += chain.provider().get_logs(&filter).await?.len() as u64;
    }
    let merely = stats::per_second(fetched, start.elapsed());
    println!(
        "indexed by a node, from the first question to the last event stored: {per_second:.0}/s"
    );
    println!("  {cpu_us:.0} us of CPU for each, with the start of the node");
    println!(
        "the same {} pages fetched and parsed, nothing else: {merely:.0}/s",
        asked.pages.len()
    );
    let verdict = if per_second >= PER_SECOND_MIN { "reached" } else { "NOT reached" };
    println!("promised: {PER_SECOND_MIN:.0}/s on two cores: {verdict}");
    Ok(())
}

/// A commit, and the group whose it is.
struct Commit {
    group: FixedBytes<16>,
    message: Bytes,
}

fn commits() -> Result<Vec<Commit>, BenchError> {
    let mut commits = Vec::new();
    for line in CAPTURE.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if line["expect_route"] == "chain:group" {
            let message = Bytes::from(hex::decode(line["hex"].as_str().ok_or("no hex")?)?);
            let envelope = ClientEnvelope::parse(message.clone())?;
            let group = FixedBytes::from_slice(envelope.topic().identifier());
            commits.push(Commit { group, message });
        }
    }
    Ok(commits)
}

fn encode(commit: &Commit, place: u64) -> LogData {
    let message = commit.message.clone().into();
    MessageSent { groupId: commit.group, message, sequenceId: place }.encode_log_data()
}

fn flags(server: &LogServer) -> Vec<String> {
    vec![
        format!("--contracts.app-chain.rpc-url={}", server.url()),
        format!("--contracts.app-chain.chain-id={CHAIN_ID}"),
        format!("--contracts.app-chain.group-message-broadcaster-address={GROUP_MESSAGES}"),
        format!("--contracts.app-chain.identity-update-broadcaster-address={IDENTITY_UPDATES}"),
    ]
}

/// Returns the time at which the node had all envelopes.
async fn until_stored(api: std::net::SocketAddr, events: u64) -> Result<Instant, BenchError> {
    let mut connection = Connection::open(api).await?;
    let (mut held, mut moved) = (0, Instant::now());
    while held < events {
        let now = network::head(&mut connection, OriginatorId::GROUP_MESSAGES).await?;
        if now > held {
            (held, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALL_MAX {
            return Err(format!("the node stands still at {held} of {events}").into());
        } else {
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(moved)
}
