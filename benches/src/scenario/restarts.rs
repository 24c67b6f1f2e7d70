//! Restarts in a network of three nodes: the time from the start of a process until its node acknowledges a publish.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::error::BenchError;
use crate::load::{self, Load};
use crate::network::{Network, Node};
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::stats::verdict;
use crate::workload::Workload;

/// Promised time until a node acknowledges a publish.
const READY_MAX: Duration = Duration::from_secs(2);
const NODES: usize = 3;
const TOPICS: u64 = 100;
/// Envelopes of each node before the first restart.
const BEFORE: u64 = 1000;
/// Time in which the nodes exchange what they have before a restart.
const PAUSE: Duration = Duration::from_secs(2);
/// A node that acknowledges nothing for this long has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Pause between two tries, which is the resolution of the times.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// True to kill nodes instead of stopping them in order.
    pub(crate) kill: bool,
    pub(crate) rounds: u32,
    pub(crate) payload_len: usize,
}

/// Prints a line for each restart, and the verdicts. The node that restarts alone is another one from round to round.
pub(crate) async fn run(plan: Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, u32::try_from(NODES)?)?;
    let mut nodes = network.start_all().await?;
    let mut workloads = Vec::new();
    for node in &nodes {
        let workload = Workload::new(node.id(), 64, TOPICS, plan.payload_len, seed())?;
        let load = Load::once(workload.requests(0, BEFORE, 1), WAIT_MAX);
        load::run(&load, &[Connection::open(node.api()).await?], 16).await?;
        workloads.push(workload);
    }
    let end = |node: Node| if plan.kill { node.kill() } else { node.stop() };
    let (mut one, mut all) = (Duration::ZERO, Duration::ZERO);
    for round in 0..plan.rounds {
        let number = BEFORE + 2 * u64::from(round);
        let index = usize::try_from(round)? % NODES;
        sleep(PAUSE).await;
        end(nodes.remove(index));
        let alone = index..index + 1;
        let (started, longest) = start(&network, alone, &workloads, number).await?;
        started.into_iter().for_each(|node| nodes.insert(index, node));
        one = one.max(longest);

        sleep(PAUSE).await;
        nodes.drain(..).for_each(end);
        let (started, longest) = start(&network, 0..NODES, &workloads, number + 1).await?;
        nodes = started;
        all = all.max(longest);
    }
    nodes.drain(..).for_each(Node::stop);
    for (which, longest) in [("one of three nodes", one), ("all three nodes", all)] {
        println!(
            "promised: a publish is acknowledged within {} s of {} restarts of {which}: {}, {:.2} s",
            READY_MAX.as_secs(),
            plan.rounds,
            verdict(longest <= READY_MAX),
            longest.as_secs_f64()
        );
    }
    Ok(())
}

/// Starts these nodes at once, and publishes one envelope at each, the one of this number. Returns the nodes, and the
/// longest time from the start of a process until its node acknowledged the envelope.
async fn start(
    network: &Network,
    which: Range<usize>,
    workloads: &[Workload],
    number: u64,
) -> Result<(Vec<Node>, Duration), BenchError> {
    let (mut nodes, mut tries) = (Vec::new(), JoinSet::new());
    for index in which {
        let request = workloads[index].request(number, 1);
        let began = Instant::now();
        let node = network.launch(index, &[])?;
        tries.spawn(first_answer(node.api(), request, began));
        nodes.push(node);
    }
    let (count, mut longest) = (nodes.len(), Duration::ZERO);
    while let Some(answered) = tries.join_next().await {
        longest = longest.max(answered??);
    }
    println!("{count} of {NODES} started again: {:.2} s", longest.as_secs_f64());
    Ok((nodes, longest))
}

/// Sends a publish again and again until it is acknowledged. Returns the time since `began`.
async fn first_answer(
    api: SocketAddr,
    request: Bytes,
    began: Instant,
) -> Result<Duration, BenchError> {
    let mut connection = None;
    loop {
        match publish(&mut connection, api, request.clone()).await {
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > WAIT_MAX => {
                return Err(
                    format!("a node that has started again takes no publish: {error}").into()
                );
            }
            Err(_) => sleep(TRY_EVERY).await,
        }
    }
}

/// Publishes once, over a connection that stays for the next try.
async fn publish(
    connection: &mut Option<Connection>,
    api: SocketAddr,
    request: Bytes,
) -> Result<(), BenchError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(api).await?),
    };
    let answer = timeout(WAIT_MAX, connection.call(rpc::PUBLISH, request)).await??;
    match rpc::count_entries(&answer) {
        Some(1) => Ok(()),
        _ => Err("one envelope sent, but not one answered".into()),
    }
}
