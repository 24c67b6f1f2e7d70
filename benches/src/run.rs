//! Runs the scenarios of a command, and saves their figures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;

use crate::args::{
    Accounting, FalseReports, Hawser, Large, LoadArgs, Output, Readers, Reconnect, Shape, Sizes,
    Target, ThreeNodes, Turns, Upkeep,
};
use crate::cli::{Command, GrownCommand};
use crate::error::BenchError;
use crate::limits::{self, LoadShape, PER_REQUEST};
use crate::network::{Network, Node};
use crate::results::Run;
use crate::rpc;
use crate::scenario::fill::Grown;
use crate::scenario::publish::{self, Published};
use crate::scenario::{
    accounting, backup, balances, bill, bootstrap, catch_up, chain_index, checkpoint_upkeep,
    delivery, export, failover, false_reports, fill, floods, gateway, memory, million_topics,
    query, readers, rebuild, reconnect, replay, restarts, running_node, size_table, sizes, sources,
    tls, upkeep,
};
use crate::verdict::verdicts;
use crate::{process, stats};

/// Topics of the delivery measurement: few enough for one subscription to name them all.
const DELIVERY_TOPICS: u64 = 100;

/// Runs a command that needs the runtime, and saves its figures.
pub(crate) async fn run(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Limits { output, shape } => start(&output, &shape.into()).await?.finish(&output),
        Command::Publish { output, target, shape, load, envelopes_per_request, followers, tls } => {
            let mut run = start(&output, &shape.clone().into()).await?;
            let plan = plan(&shape.into(), &load, envelopes_per_request);
            run.publish.push(match tls.named() {
                None => publish(&plan, &target, &output, followers).await?,
                Some(files) => publish_encrypted(&plan, &target, &output, files).await?,
            });
            run.finish(&output)
        }
        Command::Latency { output, target, shape, load } => {
            one_by_one(&output, &target, &shape.into(), &load).await
        }
        Command::Delivery { output, hawser, shape, rate, seconds } => {
            let mut run = start(&output, &shape.clone().into()).await?;
            run.delivery = Some(deliver(&output, &hawser, &shape, rate, seconds).await?);
            run.finish(&output)
        }
        Command::Gateway { output, hawser, gateways, redis, shape, load } => {
            let plan = plan(&shape.into(), &load, 1);
            let (hawser, data_dir) = (hawser.program(), output.data_dir());
            gateway::run(&plan, &hawser, &data_dir, gateways, redis.as_deref()).await
        }
        Command::Floods { output, hawser, payload_size, seconds } => {
            beside_floods(&output, &hawser, payload_size, seconds.max(1)).await
        }
        Command::FalseReports(args) => beside_reports(&args).await,
        Command::ChainIndex { output, hawser, events, per_block } => {
            let plan = chain_index::Plan { events: events.max(1), per_block };
            chain_index::run(plan, &hawser.program(), &output.data_dir()).await
        }
        Command::CatchUp { large, both: true, .. } => catch_up_both(&large).await,
        Command::CatchUp { large, checkpoints, .. } => catch_up_with(&large, checkpoints).await,
        Command::Query { large, node, originator } => {
            pages(&large, node.zip(originator.map(OriginatorId))).await
        }
        Command::Tls(turns) => encrypt(&turns).await,
        Command::Balances(turns) => check_balances(&turns).await,
        Command::Accounting(args) => account(&args).await,
        Command::Checkpoints(args) => keep_trees(&args).await,
        Command::Upkeep(args) => keep_up(&args).await,
        Command::Sizes(args) => at_sizes(&args).await,
        Command::Readers(args) => read(&args).await,
        Command::Reconnect(args) => come_back(&args).await,
        Command::All(large) => all(&large).await,
        Command::Grown(command) => run_grown(command).await,
        Command::Failover { nodes, rate } => lose_link(&nodes, rate).await,
        Command::Restarts { nodes, kill } => start_again(&nodes, kill).await,
        Command::MillionTopics { data, hawser } => {
            million_topics::run(&hawser.program(), &data.path()).await
        }
        Command::Micro { .. }
        | Command::Identity
        | Command::KeyPackage
        | Command::Report { .. }
        | Command::Strand { .. }
        | Command::Prune { .. }
        | Command::Streams { .. }
        | Command::RebuildPart { .. }
        | Command::IdleServer { .. }
        | Command::Sink => Err("this command needs no runtime".into()),
    }
}

/// Runs a command that grows a node first.
async fn run_grown(command: GrownCommand) -> Result<(), BenchError> {
    match command {
        GrownCommand::Sources(large) => {
            let (network, leader, _) = filled_among(&large, sources::NODES).await?;
            sources::run(&network, leader).await
        }
        GrownCommand::Grow(large) => grow(&large).await,
        GrownCommand::Memory(large) => subscribed(&large).await,
        GrownCommand::Replay(large) => replay_log(&large).await,
        GrownCommand::Rebuild(large) => rebuild_rows(&large).await,
        GrownCommand::Bill(large) => bill_payer(&large).await,
        GrownCommand::Export(large) => export_log(&large).await,
        GrownCommand::Backup(large) => back_up(&large).await,
        GrownCommand::Bootstrap(large) => bootstrap_another(&large).await,
    }
}

/// One client, one envelope at a time.
async fn one_by_one(
    output: &Output,
    target: &Target,
    shape: &LoadShape,
    load: &LoadArgs,
) -> Result<(), BenchError> {
    let mut run = start(output, shape).await?;
    let one = LoadShape { connections: 1, in_flight: 1, ..shape.clone() };
    run.latency = Some(publish(&plan(&one, load, 1), target, output, 0).await?);
    run.finish(output)
}

/// An empty follower of a node that holds much.
async fn catch_up_with(large: &Large, checkpoints: bool) -> Result<(), BenchError> {
    let mut run = start(&large.output, &large.shape.clone().into()).await?;
    let (network, leader, _) = filled(large).await?;
    let caught_up = catch_up::run_with(&network, &leader, 1, checkpoints).await?;
    *(if checkpoints { &mut run.catch_up_shown } else { &mut run.catch_up }) = Some(caught_up);
    leader.stop();
    run.finish(&large.output)
}

/// Two empty followers of a node that holds much, one after the other.
async fn catch_up_both(large: &Large) -> Result<(), BenchError> {
    let mut run = start(&large.output, &large.shape.clone().into()).await?;
    let (network, leader, _) = filled_among(large, 3).await?;
    run.catch_up = Some(catch_up::run_with(&network, &leader, 1, false).await?);
    run.catch_up_shown = Some(catch_up::run_with(&network, &leader, 2, true).await?);
    leader.stop();
    run.finish(&large.output)
}

/// Subscriptions at a node that holds much.
async fn subscribed(large: &Large) -> Result<(), BenchError> {
    let mut run = start(&large.output, &large.shape.clone().into()).await?;
    let (_network, node, _) = filled(large).await?;
    run.memory = Some(resident(large, &node).await?);
    node.stop();
    run.finish(&large.output)
}

/// A log that is checked again, beside the signatures alone.
async fn replay_log(large: &Large) -> Result<(), BenchError> {
    let run = start(&large.output, &large.shape.clone().into()).await?;
    let (network, node, grown) = filled(large).await?;
    node.stop();
    let one_by_one = run.limits.as_ref().map(limits::Limits::catch_up_per_second);
    replay::run(&network, grown.before + grown.added, one_by_one)
}

/// Rebuilds the projections of a stopped node.
async fn rebuild_rows(large: &Large) -> Result<(), BenchError> {
    let run = start(&large.output, &large.shape.clone().into()).await?;
    let (network, node, grown) = filled(large).await?;
    node.stop();
    rebuild::run(&network, grown.before + grown.added, run.limits.as_ref())
}

/// Measures the computation of a payer's bill, and the check of its signatures alone for comparison.
async fn bill_payer(large: &Large) -> Result<(), BenchError> {
    let run = start(&large.output, &large.shape.clone().into()).await?;
    let (network, node, _) = filled(large).await?;
    node.stop();
    bill::run(&network, run.limits.as_ref().map(limits::Limits::catch_up_per_second))
}

/// Publishing over TLS and without.
async fn encrypt(turns: &Turns) -> Result<(), BenchError> {
    let (hawser, data_dir) = (turns.hawser.program(), turns.output.data_dir());
    tls::run(&load_of(turns), turns.rounds, &hawser, &data_dir).await
}

/// Publishing with checks of balances and without.
async fn check_balances(turns: &Turns) -> Result<(), BenchError> {
    let (hawser, data_dir) = (turns.hawser.program(), turns.output.data_dir());
    balances::run(&load_of(turns), turns.rounds, &hawser, &data_dir).await
}

/// Measures the share of accounting in the cost of a published envelope.
async fn account(args: &Accounting) -> Result<(), BenchError> {
    let turns = &args.turns;
    accounting::run(&parts_of(args), &turns.hawser.program(), &turns.output.data_dir()).await
}

/// Measures the share of trees and checkpoints in the cost of a published envelope.
async fn keep_trees(args: &Accounting) -> Result<(), BenchError> {
    let (hawser, data_dir) = (args.turns.hawser.program(), args.turns.output.data_dir());
    checkpoint_upkeep::run(&parts_of(args), &hawser, &data_dir).await
}

fn parts_of(args: &Accounting) -> accounting::Plan {
    let (publish, rounds) = (load_of(&args.turns), args.turns.rounds);
    accounting::Plan { publish, envelopes: args.written, rounds }
}

/// A busy node beside its own upkeep.
async fn keep_up(args: &Upkeep) -> Result<(), BenchError> {
    let plan = upkeep::Plan {
        rate: args.rate,
        alone: Duration::from_secs(args.seconds.max(1)),
        expired: args.expired,
        payload_len: args.payload_size,
    };
    upkeep::run(plan, &args.hawser.program(), &args.output.data_dir()).await
}

fn load_of(turns: &Turns) -> publish::Plan {
    let load = LoadArgs { payers: 64, topics: 10_000, seconds: turns.seconds };
    plan(&turns.shape.clone().into(), &load, turns.envelopes_per_request)
}

async fn export_log(large: &Large) -> Result<(), BenchError> {
    let (network, node, grown) = filled(large).await?;
    node.stop();
    export::run(&network, grown.before + grown.added)
}

/// A node that is backed up while it is idle.
async fn back_up(large: &Large) -> Result<(), BenchError> {
    let (network, node, _) = filled(large).await?;
    backup::run(&network)?;
    node.stop();
    Ok(())
}

/// A node, and another one that is filled from a snapshot of it.
async fn bootstrap_another(large: &Large) -> Result<(), BenchError> {
    let (network, node, grown) = filled(large).await?;
    bootstrap::run(&network, grown.before + grown.added)?;
    node.stop();
    Ok(())
}

/// A node that grows, and stays where the operator wants it.
async fn grow(large: &Large) -> Result<(), BenchError> {
    let mut run = start(&large.output, &large.shape.clone().into()).await?;
    let (_network, node, grown) = filled(large).await?;
    run.grown = Some(grown);
    node.stop();
    run.finish(&large.output)
}

/// A publisher at an idle node, and beside each of some floods.
async fn beside_floods(
    output: &Output,
    hawser: &Hawser,
    payload_size: usize,
    seconds: u64,
) -> Result<(), BenchError> {
    let network = Network::new(&hawser.program(), &output.data_dir(), 1)?;
    let node = network.start(0).await?;
    floods::run(&node, payload_size, seconds).await?;
    node.stop();
    Ok(())
}

/// A strand that is read at a node which loses its link to the strand's own node.
async fn lose_link(nodes: &ThreeNodes, rate: u32) -> Result<(), BenchError> {
    let plan = failover::Plan { rate, rounds: nodes.rounds, payload_len: nodes.payload_size };
    failover::run(plan, &nodes.hawser.program(), &nodes.data.path()).await
}

/// Nodes that start again.
async fn start_again(nodes: &ThreeNodes, kill: bool) -> Result<(), BenchError> {
    let plan = restarts::Plan { kill, rounds: nodes.rounds, payload_len: nodes.payload_size };
    restarts::run(plan, &nodes.hawser.program(), &nodes.data.path()).await
}

/// A busy publisher, alone and beside false reports of misbehaviour.
async fn beside_reports(args: &FalseReports) -> Result<(), BenchError> {
    let &FalseReports { ref turns, reports_per_second: per_second } = args;
    let plan = false_reports::Plan { publish: load_of(turns), rounds: turns.rounds, per_second };
    false_reports::run(&plan, &turns.hawser.program(), &turns.output.data_dir()).await
}

/// Readers of a node that holds much.
async fn read(args: &Readers) -> Result<(), BenchError> {
    let &Readers { ref large, streams, topics_each, idle_seconds } = args;
    let (_network, node, _) = filled_among(large, 1).await?;
    let plan = readers::Plan {
        streams,
        topics_each,
        idle: Duration::from_secs(idle_seconds.max(1)),
        topics: large.stored_topics.max(1),
        payload_len: large.shape.payload_size,
    };
    readers::run(&node, plan).await?;
    node.stop();
    Ok(())
}

/// Streams that come back to a node which was started again.
async fn come_back(args: &Reconnect) -> Result<(), BenchError> {
    let &Reconnect { ref large, streams, topics_each, missed, ref cache } = args;
    let (network, node, _) = filled_among(large, 1).await?;
    let topics = large.stored_topics.max(1);
    let payload_len = large.shape.payload_size;
    let plan = reconnect::Plan { streams, topics_each, missed, topics, payload_len };
    let flags = cache.flags(process::folder_bytes(&network.data_dir(0)));
    reconnect::run(&network, node, &flags, plan).await
}

/// Nodes of several sizes, each measured in its own folder, and nodes that run already. The table is printed after
/// each of them.
async fn at_sizes(args: &Sizes) -> Result<(), BenchError> {
    let running = args.running()?;
    let mut run = start(&args.output, &args.shape.clone().into()).await?;
    let plan = sizes::Plan::new(args);
    for &at in &args.at {
        if let Some(keep) = &args.keep {
            run.sizes.push(sizes::run(&plan, keep, at).await?);
            eprintln!("{}", size_table::table(&run.sizes)?);
        }
        for &(api, originator) in &running {
            run.sizes.push(running_node::run(&plan, at, api, originator).await?);
            eprintln!("{}", size_table::table(&run.sizes)?);
        }
    }
    run.finish(&args.output)
}

/// Pages of a node that this program grows, or of one that runs already.
async fn pages(large: &Large, other: Option<(SocketAddr, OriginatorId)>) -> Result<(), BenchError> {
    let mut run = start(&large.output, &large.shape.clone().into()).await?;
    if let Some((api, originator)) = other {
        run.query = Some(ask_other(large, api, originator).await?);
        return run.finish(&large.output);
    }
    let (_network, node, grown) = filled(large).await?;
    run.grown = Some(grown);
    run.query = Some(ask(large, &node).await?);
    node.stop();
    run.finish(&large.output)
}

/// Everything, with the defaults that the promises name.
async fn all(large: &Large) -> Result<(), BenchError> {
    let Large { output, hawser, shape, .. } = large;
    let load_shape = LoadShape::from(shape.clone());
    let mut run = start(output, &load_shape).await?;
    let target = Target { hawser: hawser.clone(), node: None, originator: None };
    let load = LoadArgs { payers: 64, topics: 10_000, seconds: 15 };
    for followers in [0, 2] {
        for per_request in PER_REQUEST {
            let plan = plan(&load_shape, &load, per_request);
            run.publish.push(publish(&plan, &target, output, followers).await?);
        }
    }
    let one = LoadShape { connections: 1, in_flight: 1, ..load_shape };
    run.latency = Some(publish(&plan(&one, &load, 1), &target, output, 0).await?);
    run.delivery = Some(deliver(output, hawser, shape, 1000, 30).await?);
    let (network, node, grown) = filled(large).await?;
    run.grown = Some(grown);
    run.query = Some(ask(large, &node).await?);
    run.memory = Some(resident(large, &node).await?);
    eprintln!("catch-up of {} envelopes", large.stored);
    run.catch_up = Some(catch_up::run(&network, &node, 1).await?);
    node.stop();
    run.finish(output)
}

async fn start(output: &Output, shape: &LoadShape) -> Result<Run, BenchError> {
    let mut run = Run::new(&output.data_dir());
    if !output.without_limits {
        run.limits = Some(limits::measure(&output.data_dir(), shape).await?);
    }
    Ok(run)
}

impl Run {
    /// Prints the results, and saves them.
    fn finish(self, output: &Output) -> Result<(), BenchError> {
        for verdict in verdicts(&self) {
            let kept = if verdict.is_kept() { "reached" } else { "MISSED" };
            let (measured, required) = (&verdict.measured, &verdict.required);
            eprintln!("{kept}: {}: {measured}, required {required}", verdict.promise);
        }
        self.save(output.out.as_deref())
    }
}

fn plan(shape: &LoadShape, load: &LoadArgs, per_request: u64) -> publish::Plan {
    publish::Plan {
        shape: shape.clone(),
        per_request: per_request.max(1),
        payers: load.payers,
        topics: load.topics,
        seconds: load.seconds.max(1),
    }
}

/// Publishes to a node with this certificate and key.
async fn publish_encrypted(
    plan: &publish::Plan,
    target: &Target,
    output: &Output,
    (certificate, key): (PathBuf, PathBuf),
) -> Result<Published, BenchError> {
    eprintln!(
        "publish over TLS, {} in flight, {} per request",
        plan.shape.in_flight, plan.per_request
    );
    let network = Network::new(&target.hawser.program(), &output.data_dir(), 1)?;
    let flags =
        [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let node = network.start_flagged(0, &flags).await?;
    rpc::speak_tls(Some(&std::fs::read(certificate)?));
    let published = publish::run(plan, &node, &[]).await?;
    node.stop();
    print_figures(&published);
    Ok(published)
}

async fn publish(
    plan: &publish::Plan,
    target: &Target,
    output: &Output,
    followers: u32,
) -> Result<Published, BenchError> {
    let (in_flight, n) = (plan.shape.in_flight, plan.per_request);
    eprintln!("publish, {in_flight} in flight, {n} per request, {followers} followers");
    let published = match (target.node, target.originator) {
        (Some(address), Some(originator)) => {
            publish::run_against(plan, address, OriginatorId(originator)).await?
        }
        _ => {
            let program = target.hawser.program();
            let network = Network::new(&program, &output.data_dir(), 1 + followers)?;
            let mut nodes = network.start_all().await?;
            let published = publish::run(plan, &nodes[0], &nodes[1..]).await?;
            nodes.drain(..).for_each(Node::stop);
            published
        }
    };
    print_figures(&published);
    Ok(published)
}

/// Prints the speed, the latencies and the CPU time of a run.
fn print_figures(published: &Published) {
    let latency = published.latency;
    eprintln!(
        "  {:.0} envelopes/s, latency p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, CPU us an \
         envelope: generator {:.1}, node {:.1}, followers {:.1}",
        published.envelopes_per_second,
        latency.p50_us / 1e3,
        latency.p99_us / 1e3,
        latency.p999_us / 1e3,
        published.generator_cpu_us,
        published.node_cpu_us.unwrap_or(f64::NAN),
        published.followers_cpu_us.unwrap_or(f64::NAN),
    );
}

async fn deliver(
    output: &Output,
    hawser: &Hawser,
    shape: &Shape,
    rate: u64,
    seconds: u64,
) -> Result<delivery::Delivered, BenchError> {
    eprintln!("delivery at another node, {rate}/s");
    let network = Network::new(&hawser.program(), &output.data_dir(), 2)?;
    let mut nodes = network.start_all().await?;
    let plan = delivery::Plan {
        rate: rate.max(1),
        seconds: seconds.max(1),
        payload_len: shape.payload_size,
        topics: DELIVERY_TOPICS,
        connections: shape.connections,
    };
    let delivered = delivery::run(&plan, &nodes[0], &nodes[1]).await?;
    nodes.drain(..).for_each(Node::stop);
    let latency = delivered.delivery;
    eprintln!("  p50 {:.2} ms, p99 {:.2} ms", latency.p50_us / 1e3, latency.p99_us / 1e3);
    Ok(delivered)
}

/// A network of two, of which the first node runs and holds much, and the second has not run yet.
async fn filled(large: &Large) -> Result<(Network, Node, Grown), BenchError> {
    filled_among(large, 2).await
}

async fn filled_among(large: &Large, nodes: u32) -> Result<(Network, Node, Grown), BenchError> {
    eprintln!("storing {} envelopes", large.stored);
    let program = large.hawser.program();
    let network = match &large.keep {
        Some(folder) => Network::kept(&program, folder, nodes)?,
        None => Network::new(&program, &large.output.data_dir(), nodes)?,
    };
    let began = Instant::now();
    let node = network.start(0).await?;
    eprintln!("  started in {:.2} s", began.elapsed().as_secs_f64());
    let (topics, payload_len) = (large.stored_topics.max(1), large.shape.payload_size);
    let grown = fill::grow(&node, network.folder(), large.stored, topics, payload_len).await?;
    Ok((network, node, grown))
}

async fn ask(large: &Large, node: &Node) -> Result<query::Queried, BenchError> {
    let server = query::Server { api: node.api(), originator: node.id(), node: Some(node) };
    ask_server(large, &server).await
}

/// Asks a node that this program has not started.
async fn ask_other(
    large: &Large,
    api: SocketAddr,
    originator: OriginatorId,
) -> Result<query::Queried, BenchError> {
    eprintln!("storing {} envelopes", large.stored);
    let (topics, payload_len) = (large.stored_topics.max(1), large.shape.payload_size);
    fill::fill(api, originator, large.stored, topics, payload_len).await?;
    ask_server(large, &query::Server { api, originator, node: None }).await
}

async fn ask_server(
    large: &Large,
    server: &query::Server<'_>,
) -> Result<query::Queried, BenchError> {
    eprintln!("queries");
    let plan = query::Plan {
        topics: large.stored_topics.max(1),
        page: large.pages.page,
        full: true,
        queries: large.pages.queries.max(1),
        clients: large.pages.clients,
    };
    let queried = query::run(server, plan).await?;
    eprintln!(
        "  one after the other: p50 {:.2} ms, p99 {:.2} ms, server {:.0} µs CPU",
        queried.client.p50_us / 1e3,
        queried.client.p99_us / 1e3,
        queried.server_cpu_us
    );
    if let Some(at_once) = &queried.at_once {
        eprintln!(
            "  {} clients: {:.0} pages/s, p50 {:.2} ms, p99 {:.2} ms, µs CPU: server {:.0}, generator {:.0}",
            at_once.clients,
            at_once.pages_per_second,
            at_once.client.p50_us / 1e3,
            at_once.client.p99_us / 1e3,
            at_once.server_cpu_us.unwrap_or(f64::NAN),
            at_once.generator_cpu_us
        );
    }
    Ok(queried)
}

async fn resident(large: &Large, node: &Node) -> Result<memory::Resident, BenchError> {
    eprintln!("memory with {} subscriptions", large.subscriptions);
    let topics = large.stored_topics.max(1);
    let resident = memory::run(node, large.subscriptions, topics, large.shape.payload_size).await?;
    let mib = stats::float(resident.after.resident_kib) / 1024.0;
    eprintln!("  {mib:.0} MiB resident");
    Ok(resident)
}
