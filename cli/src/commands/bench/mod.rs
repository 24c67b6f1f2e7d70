//! `hawser bench`: the load that a node of this or other software bears, seen by a client. In reading order:
//!
//! - [`load`]: calls one after the other; [`streams`]: the tests of streams; [`figures`]: what came of them.
//!
//! **The node is not trusted.** Each call has a time limit, answers are bounded before they are decoded, and figures take a
//! fixed amount of memory.

mod figures;
mod load;
mod streams;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use hawser_conformance::connection::Connection;
use hawser_conformance::http::Address;
use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_proto::OriginatorId;
use serde_json::{Value, json};

use crate::args::bench::{BenchArgs, BenchTest};
use crate::{client, output};
use figures::BenchFigures;
use load::{BenchCall, BenchPayer, BenchTarget};

/// Time limits of reads and of publishes. Those of the reference implementation's load program.
const READ_MAX: Duration = Duration::from_secs(5);
const PUBLISH_MAX: Duration = Duration::from_secs(30);

/// Runs the command, on threads of its own.
///
/// # Errors
/// When arguments are wrong, the node cannot be reached, or a test had no answer.
pub(super) fn run(args: &BenchArgs, as_json: bool) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::failed(format!("no runtime: {error}")))?;
    let done = runtime.block_on(run_tests(args, as_json));
    runtime.shutdown_background();
    done
}

async fn run_tests(args: &BenchArgs, as_json: bool) -> Result<(), RunError> {
    let tests = selected(args)?;
    let target = Arc::new(target(args).await?);
    if let Some(payer) = target.payer.as_ref().filter(|_| tests.iter().any(|it| it.publishes())) {
        confirm(args, payer)?;
    }
    if !as_json {
        output::line(BenchFigures::head());
    }
    let mut results = Vec::new();
    let mut silent = Vec::new();
    let mut publishing = tests.iter().filter(|it| it.publishes()).count() as u64;
    for test in tests {
        if let Some(payer) = target.payer.as_ref().filter(|_| test.publishes()) {
            payer.begin_test(publishing);
            publishing -= 1;
        }
        let begun = Instant::now();
        let figures = run_test(&target, test, args.publish_rate).await;
        let took = begun.elapsed();
        let name = test.name();
        if !as_json {
            output::line(figures.row(&name, took));
        }
        results.push(figures.json(&name, took));
        if figures.count() == 0 {
            silent.push(name);
        }
    }
    let result = result(args, results);
    if as_json {
        output::line(&result);
    }
    if let Some(path) = &args.out {
        let failed = |error| RunError::failed(format!("{}: {error}", path.display()));
        std::fs::write(path, format!("{result:#}\n")).map_err(failed)?;
    }
    match silent.is_empty() {
        true => Ok(()),
        false => Err(RunError::failed(format!("no call succeeded: {}", silent.join(", ")))),
    }
}

fn result(args: &BenchArgs, tests: Vec<Value>) -> Value {
    json!({
        "target": args.target,
        "seconds": args.duration.as_secs_f64(),
        "concurrency": args.concurrency,
        "connections": args.connections,
        "tests": tests,
    })
}

/// Returns the tests to run: all that were named, or all that can be run.
fn selected(args: &BenchArgs) -> Result<Vec<BenchTest>, RunError> {
    let has_payer = args.payer_key_file.is_some();
    if args.tests.is_empty() {
        let all = BenchTest::value_variants().iter().copied();
        return Ok(all.filter(|test| has_payer || !test.publishes()).collect());
    }
    match args.tests.iter().find(|test| test.publishes() && !has_payer) {
        None => Ok(args.tests.clone()),
        Some(test) => {
            let text = format!("{} publishes: name who pays with --payer-key-file", test.name());
            Err(RunError::usage(text))
        }
    }
}

async fn target(args: &BenchArgs) -> Result<BenchTarget, RunError> {
    let payer = match &args.payer_key_file {
        Some(path) => Some(key::read(path).map_err(|error| error.at(path))?),
        None => None,
    };
    let wrong = || {
        let target = &args.target;
        RunError::usage(format!("{target:?} is no address: host:port, http://… or https://…"))
    };
    let mut address = Address::parse(&args.target).ok_or_else(wrong)?;
    if address.tls {
        address.authorities = client::authorities()?.map(hawser_proto::Bytes::from);
    }
    // Says why a node cannot be reached, before each call would.
    drop(client::connect(&args.target).await?);
    let open = |limit: Duration| -> Result<Vec<Connection>, RunError> {
        let one = |_| Connection::new(address.clone(), limit).map_err(|_| wrong());
        (0..args.connections).map(one).collect()
    };
    Ok(BenchTarget {
        readers: open(READ_MAX)?,
        writers: open(PUBLISH_MAX)?,
        node: args.node_id.map_or(OriginatorId::FIRST_NODE, OriginatorId),
        payer: payer.map(|key| BenchPayer::new(key, args.retention_days, args.publishes_max)),
        concurrency: args.concurrency.into(),
        duration: args.duration,
    })
}

/// Says what publishing costs whom, and asks at a terminal.
fn confirm(args: &BenchArgs, payer: &BenchPayer) -> Result<(), RunError> {
    let account = payer.key.public_key().address();
    let (most, days) = (args.publishes_max, args.retention_days);
    eprintln!(
        "this publishes up to {most} envelopes at {}. Each costs the payer {account} the network's fee, \
         and stays on the nodes for {days} days.",
        args.target
    );
    if args.yes || !std::io::stdin().is_terminal() || output::ask("publish?")? {
        return Ok(());
    }
    Err(RunError::refused("nothing was published"))
}

async fn run_test(target: &Arc<BenchTarget>, test: BenchTest, publish_rate: u32) -> BenchFigures {
    let call = match test {
        BenchTest::QueryEnvelopes => BenchCall::Query,
        BenchTest::GetInboxIds => BenchCall::Inbox,
        BenchTest::GetNewestEnvelope => BenchCall::Newest,
        BenchTest::Welcome => BenchCall::Welcome,
        BenchTest::Group256 => BenchCall::Group(256),
        BenchTest::Group512 => BenchCall::Group(512),
        BenchTest::Group1K => BenchCall::Group(1024),
        BenchTest::Group5K => BenchCall::Group(5 * 1024),
        BenchTest::SubscribeTopics => return streams::live(target, publish_rate).await,
        BenchTest::CatchUp => return streams::catch_up(target).await,
    };
    load::load(target, call).await
}
