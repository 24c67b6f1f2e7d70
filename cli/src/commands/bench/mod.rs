//! `hawser bench`: the load that a node of this or other software bears, measured by a client. In reading order:
//!
//! - [`load`]: calls one after the other; [`streams`]: the tests of streams; [`mix`]: calls as daily users make them;
//!   [`dau`]: the same of topics of their own, beside streams; [`diag`]: single calls and connections without load;
//!   [`figures`]: their outcomes.
//!
//! **The node is not trusted.** Each call has a time limit, answers are bounded before they are decoded, and figures
//! take a fixed amount of memory.

mod dau;
mod diag;
mod figures;
mod load;
mod mix;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use hawser_conformance::connection::Connection;
use hawser_conformance::http::TargetAddress;
use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_proto::OriginatorId;
use serde_json::{Value, json};

use crate::args::bench::{BenchArgs, BenchTest};
use crate::{client, output, output_file};
use figures::BenchFigures;
use load::{BenchCall, BenchPayer, BenchPublisher, BenchTarget, PUBLISH_MAX, READ_MAX};

/// Runs the command.
///
/// # Errors
/// When arguments are wrong, the node cannot be reached, or a test had no answer.
pub(super) async fn run(args: &BenchArgs, as_json: bool) -> Result<(), RunError> {
    let mode = mode(args)?;
    let target = Arc::new(target(args).await?);
    if target.publisher.is_some() && mode.publishes() {
        confirm(args)?;
    }
    if !as_json {
        output::line(BenchFigures::head());
    }
    let mut results = Vec::new();
    let mut note = |name: &str, figures: &BenchFigures, took: Duration| {
        if !as_json {
            output::line(figures.row(name, took));
        }
        results.push(figures.json(name, took));
    };
    let silent = match mode {
        BenchMode::Tests(tests) => each(args, &target, tests, &mut note).await,
        mode => mixed(&mode, &target, &mut note).await.into_iter().collect(),
    };
    let result = result(args, results);
    if as_json {
        output::line(&result);
    }
    if let Some(path) = &args.out {
        output_file::write(path, format!("{result:#}\n").as_bytes())?;
    }
    match silent.is_empty() {
        true => Ok(()),
        false => Err(RunError::failed(format!("no call succeeded: {}", silent.join(", ")))),
    }
}

/// The measurement of one run.
enum BenchMode {
    /// These tests one after the other.
    Tests(Vec<BenchTest>),
    /// The calls of this many daily users.
    Mix(u64),
    /// The calls of the mix, without a pause.
    Blast,
    /// The calls of this many daily users of topics of their own, beside streams.
    Dau(u64),
    /// Single calls without load.
    Diag,
    /// The steps of connections.
    DiagConnect,
}

impl BenchMode {
    fn publishes(&self) -> bool {
        match self {
            Self::Tests(tests) => tests.iter().any(|it| it.publishes()),
            Self::Mix(_) | Self::Blast | Self::Dau(_) | Self::Diag => true,
            Self::DiagConnect => false,
        }
    }
}

fn mode(args: &BenchArgs) -> Result<BenchMode, RunError> {
    Ok(match (args.mix, args.dau) {
        (Some(users), _) => BenchMode::Mix(users),
        (None, Some(users)) => BenchMode::Dau(users),
        (None, None) if args.blast => BenchMode::Blast,
        (None, None) if args.diag => BenchMode::Diag,
        (None, None) if args.diag_connect => BenchMode::DiagConnect,
        (None, None) => BenchMode::Tests(selected(args)?),
    })
}

/// Runs tests one after the other, and returns the names of those without a call that succeeded.
async fn each(
    args: &BenchArgs,
    target: &Arc<BenchTarget>,
    tests: Vec<BenchTest>,
    note: &mut impl FnMut(&str, &BenchFigures, Duration),
) -> Vec<String> {
    let mut silent = Vec::new();
    let mut publishing = tests.iter().filter(|it| it.publishes()).count() as u64;
    for test in tests {
        if let Some(publisher) = target.publisher.as_ref().filter(|_| test.publishes()) {
            publisher.begin_test(publishing);
            publishing -= 1;
        }
        let begun = Instant::now();
        let figures = run_test(target, test, args.publish_rate).await;
        note(&test.name(), &figures, begun.elapsed());
        if figures.count() == 0 {
            silent.push(test.name());
        }
    }
    silent
}

/// Makes mixed or single calls. Returns their name if none succeeded.
async fn mixed(
    mode: &BenchMode,
    target: &Arc<BenchTarget>,
    note: &mut impl FnMut(&str, &BenchFigures, Duration),
) -> Option<String> {
    let begun = Instant::now();
    let named = |figures: mix::MixFigures| -> Vec<(String, BenchFigures)> {
        let is_made = |test: BenchTest| target.publisher.is_some() || !test.publishes();
        let made = figures.into_iter().filter(|(test, _)| is_made(*test));
        made.map(|(test, figures)| (test.name(), figures)).collect()
    };
    if let (BenchMode::Mix(_) | BenchMode::Blast, Some(publisher)) = (mode, &target.publisher) {
        publisher.begin_test(1);
    }
    let owned = |rows: Vec<(&str, BenchFigures)>| -> Vec<(String, BenchFigures)> {
        rows.into_iter().map(|(name, figures)| (name.to_owned(), figures)).collect()
    };
    let (what, has_sum, rows) = match mode {
        BenchMode::Mix(users) => ("the mixed calls", true, named(mix::mixed(target, *users).await)),
        BenchMode::Dau(users) => {
            ("the calls of daily users", true, owned(dau::daily(target, *users).await))
        }
        BenchMode::Diag => ("the single calls", false, owned(diag::alone(target).await)),
        BenchMode::DiagConnect => ("the connections", false, owned(diag::connecting(target).await)),
        BenchMode::Blast | BenchMode::Tests(_) => {
            ("the mixed calls", true, named(mix::unpaced(target).await))
        }
    };
    let took = begun.elapsed();
    let mut all = BenchFigures::new();
    for (name, figures) in rows {
        // Single calls follow one another, and those of each kind have their own time.
        note(&name, &figures, if has_sum { took } else { figures.sum() });
        all.add(&figures);
    }
    if has_sum {
        note("all", &all, took);
    }
    (all.count() == 0).then(|| what.to_owned())
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
    let has_payer = args.payer_key_file.is_some() || args.gateway.is_some();
    if args.tests.is_empty() {
        let all = BenchTest::value_variants().iter().copied();
        return Ok(all.filter(|test| has_payer || !test.publishes()).collect());
    }
    match args.tests.iter().find(|test| test.publishes() && !has_payer) {
        None => Ok(args.tests.clone()),
        Some(test) => {
            let text = format!(
                "{} publishes, so it needs a payer: give --payer-key-file or --gateway",
                test.name()
            );
            Err(RunError::usage(text))
        }
    }
}

async fn target(args: &BenchArgs) -> Result<BenchTarget, RunError> {
    let payer = match (&args.payer_key_file, &args.gateway) {
        (Some(path), _) => {
            let key = key::read(path).map_err(|error| error.at(path))?;
            Some(BenchPayer::Key(key, args.retention_days))
        }
        (None, Some(_)) => Some(BenchPayer::Gateway),
        (None, None) => None,
    };
    let writer = args.gateway.as_ref().unwrap_or(&args.target);
    Ok(BenchTarget {
        readers: open(args, &args.target, READ_MAX).await?,
        writers: open(args, writer, PUBLISH_MAX).await?,
        node: args.node_id.map_or(OriginatorId::FIRST_NODE, OriginatorId),
        publisher: payer.map(|payer| BenchPublisher::new(payer, args.publishes_max)),
        concurrency: args.concurrency.into(),
        duration: args.duration,
    })
}

/// Opens the connections to an address whose calls share a time limit.
async fn open(args: &BenchArgs, text: &str, limit: Duration) -> Result<Vec<Connection>, RunError> {
    let wrong = || client::no_address(text);
    let mut address = TargetAddress::parse(text).ok_or_else(wrong)?;
    if address.tls {
        address.authorities = client::authorities()?.map(hawser_proto::Bytes::from);
    }
    // Reports once why the address cannot be reached, instead of with each call.
    drop(client::connect(text).await?);
    let one = |_| Connection::new(address.clone(), limit).map_err(|_| wrong());
    (0..args.connections).map(one).collect()
}

/// Prints the payer and the cost of publishing, and asks.
fn confirm(args: &BenchArgs) -> Result<(), RunError> {
    let most = output::count(args.publishes_max, "envelope");
    match (&args.payer_key_file, &args.gateway) {
        (Some(path), _) => {
            let account = key::read(path).map_err(|error| error.at(path))?.public_key().address();
            output::note(format_args!(
                "this publishes up to {most} at {}. Each costs the payer {account} the network's fee, \
                 and stays on the nodes for {} days.",
                args.target, args.retention_days
            ));
        }
        (None, gateway) => output::note(format_args!(
            "this publishes up to {most} through the gateway {}, which pays the network's fee for each, \
             and chooses how many days they stay on the nodes.",
            gateway.as_deref().unwrap_or_default()
        )),
    }
    if args.yes {
        return Ok(());
    }
    output::confirm("publish?", "nothing was published")
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
