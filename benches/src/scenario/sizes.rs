//! The same measurements on nodes of several sizes, whose folders are kept.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::args::DatabaseCache;
use crate::error::BenchError;
use crate::limits::LoadShape;
use crate::network::{Network, Node};
use crate::past::SeededHistory;
use crate::process;
use crate::rebuild_part::CUT_OFF;
use crate::scenario::expensive::{self, Expensive, ExpensiveReads};
use crate::scenario::fill::{self, Grown};
use crate::scenario::publish::{self, Published};
use crate::scenario::query::{self, Queried, Server};
use crate::stats::{self, grouped};

/// Originators that share the crowded topics. Specified in the protocol's limits: a cursor has at most as many.
const CROWD: u32 = 100;
/// Publishing is measured for this time. Short, because what is published stays in the folder.
const PUBLISH_SECONDS: u64 = 5;
/// The part of the envelopes after which a rebuild is cut off, in percent.
const CUT_OFF_AT: u64 = 50;
/// File with the parts in which the node was grown so far, beside its folder.
const GROWN_FILE: &str = "grown.json";

/// The parameters of a run, the same for all sizes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) hawser: PathBuf,
    pub(crate) keep: PathBuf,
    pub(crate) shape: LoadShape,
    pub(crate) per_topic: u64,
    pub(crate) page: u32,
    pub(crate) queries: u64,
    pub(crate) clients: usize,
    pub(crate) minutes: u64,
    pub(crate) crowded_topics: u64,
    pub(crate) marks: u64,
    pub(crate) cache: DatabaseCache,
    pub(crate) rebuilds: bool,
}

/// The figures of one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Envelopes that were asked for.
    pub(crate) at: u64,
    /// Envelopes in the log when pages were asked for: with those of the past and of earlier runs.
    pub(crate) rows: u64,
    /// The parts in which the node was grown, over all runs.
    pub(crate) grown: Vec<Grown>,
    /// Bytes in the folder when pages were asked for.
    pub(crate) disk_bytes: u64,
    /// From the start of the process until it takes publishes, after it was stopped.
    pub(crate) start_s: f64,
    /// From the start of the process until it takes publishes, after it was killed while it published.
    pub(crate) start_killed_s: f64,
    pub(crate) query: Queried,
    #[serde(flatten)]
    pub(crate) reads: ExpensiveReads,
    /// Resident memory after all that was read.
    pub(crate) resident_kib: u64,
    pub(crate) publish: Published,
    pub(crate) rebuild: Option<Rebuilt>,
}

/// A rebuild that was cut off once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rebuilt {
    /// Until it was cut off.
    pub(crate) first_s: f64,
    /// From its second start to its end.
    pub(crate) second_s: f64,
    /// User and system time of both, in seconds.
    pub(crate) cpu_s: f64,
}

/// Measures one size.
pub(crate) async fn run(plan: &Plan, at: u64) -> Result<Size, BenchError> {
    eprintln!("at {} envelopes", grouped(stats::float(at)));
    let folder = plan.keep.join(at.to_string());
    // Without peers: a start waits for one that does not answer, which is no cost of the log.
    let network = Network::kept(&plan.hawser, &folder, 1)?;
    let topics = (at / plan.per_topic.max(1)).max(1);
    let past = SeededHistory {
        minutes: plan.minutes,
        crowd: CROWD,
        crowded_topics: plan.crowded_topics,
        marks: plan.marks,
    };
    let grown = grow(plan, &network, past, at, topics).await?;
    let disk_bytes = process::folder_bytes(&network.data_dir(0));

    let flags = plan.cache.flags(disk_bytes);
    let (node, start_s) = timed_start(&network, &flags).await?;
    let server = Server { api: node.api(), originator: node.id(), node: Some(&node) };
    let queries = query::Plan {
        topics,
        page: plan.page,
        queries: plan.queries.max(1),
        clients: plan.clients,
    };
    let query = query::run(&server, queries).await?;
    let rows = query.stored + past.rows();
    let reads = expensive::run(&node, topics, plan.crowded_topics, plan.page).await?;
    let resident_kib = node.memory()?.resident_kib;

    let load = publish::Plan {
        shape: plan.shape.clone(),
        per_request: 20,
        payers: 64,
        topics,
        seconds: PUBLISH_SECONDS,
    };
    let publish = publish::run(&load, &node, &[]).await?;
    node.kill();
    let (node, start_killed_s) = timed_start(&network, &flags).await?;
    node.stop();
    let rebuild = plan.rebuilds.then(|| rebuild(&network.data_dir(0))).transpose()?;
    Ok(Size {
        at,
        rows,
        grown,
        disk_bytes,
        start_s,
        start_killed_s,
        query,
        reads,
        resident_kib,
        publish,
        rebuild,
    })
}

/// Grows the node to its planned size, beginning with what an earlier run has left. Stops it, and returns all parts
/// in which it was grown.
async fn grow(
    plan: &Plan,
    network: &Network,
    past: SeededHistory,
    at: u64,
    topics: u64,
) -> Result<Vec<Grown>, BenchError> {
    if !network.data_dir(0).exists() {
        network.start(0).await?.stop();
    }
    let start = Instant::now();
    past.write(&network.data_dir(0))?;
    eprintln!("  a past of {} envelopes in {:.0} s", past.rows(), start.elapsed().as_secs_f64());
    let file = network.folder().join(GROWN_FILE);
    let mut grown: Vec<Grown> = match fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(_) => Vec::new(),
    };
    let node = network.start(0).await?;
    let payload_len = plan.shape.payload_len;
    let part = fill::grow(&node, &network.data_dir(0), at, topics, payload_len).await?;
    node.stop();
    if part.added > 0 {
        grown.push(part);
        fs::write(file, serde_json::to_vec_pretty(&grown)?)?;
    }
    Ok(grown)
}

async fn timed_start(network: &Network, flags: &[String]) -> Result<(Node, f64), BenchError> {
    let start = Instant::now();
    let node = network.start_flagged(0, flags).await?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("  started in {seconds:.2} s");
    Ok((node, seconds))
}

/// Rebuilds the projections of a stopped node in two processes, the first of which is cut off.
fn rebuild(folder: &Path) -> Result<Rebuilt, BenchError> {
    let before = process::children_cpu_time()?;
    let timed = |part: u64, signal: Option<i32>| -> Result<f64, BenchError> {
        let start = Instant::now();
        let ended = Command::new(std::env::current_exe()?)
            .args(["rebuild-part", "--part", &part.to_string(), "--folder"])
            .arg(folder)
            .status()?;
        if ended.signal() != signal || (signal.is_none() && !ended.success()) {
            return Err(format!("a rebuild has ended with {ended}").into());
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let (first_s, second_s) = (timed(CUT_OFF_AT, Some(CUT_OFF))?, timed(100, None)?);
    let cpu_s = (process::children_cpu_time()? - before).as_secs_f64();
    eprintln!("  rebuilt: {first_s:.1} s until it was cut off, {second_s:.1} s to the end");
    Ok(Rebuilt { first_s, second_s, cpu_s })
}

impl Size {
    fn written_per_stored(&self) -> f64 {
        let sum = |of: fn(&Grown) -> u64| stats::float(self.grown.iter().map(of).sum());
        sum(|grown| grown.written_bytes) / sum(|grown| grown.envelope_bytes).max(1.0)
    }

    fn grow_cpu_us(&self) -> f64 {
        let sum = |of: fn(&Grown) -> f64| self.grown.iter().map(of).sum::<f64>();
        sum(|grown| grown.node_cpu_us * stats::float(grown.added))
            / sum(|grown| stats::float(grown.added)).max(1.0)
    }

    fn rebuilt_per_second(&self) -> f64 {
        let rate = |it: Rebuilt| stats::float(self.rows) / (it.first_s + it.second_s);
        self.rebuild.map_or(f64::NAN, rate)
    }
}

/// A line of the table: its name, digits behind the point, and the figure of a size.
type Line = (&'static str, usize, fn(&Size) -> f64);

const LINES: [Line; 30] = [
    ("envelopes in the log", 0, |it| stats::float(it.rows)),
    ("bytes in the folder for each of them", 0, |it| {
        stats::float(it.disk_bytes) / stats::float(it.rows.max(1))
    }),
    ("bytes written to disk for each byte stored, while growing", 2, Size::written_per_stored),
    ("CPU time of a stored envelope while growing, µs", 1, Size::grow_cpu_us),
    ("start after a stop, s", 2, |it| it.start_s),
    ("start after a kill, s", 2, |it| it.start_killed_s),
    ("a page alone, p50 ms", 2, |it| it.query.client.p50_us / 1e3),
    ("a page alone, p99 ms", 2, |it| it.query.client.p99_us / 1e3),
    ("a page alone, CPU ms of the node", 3, |it| it.query.server_cpu_us / 1e3),
    ("pages/s, many clients", 0, |it| at_once(it, |it| it.pages_per_second)),
    ("a page, many clients, p99 ms", 2, |it| at_once(it, |it| it.client.p99_us / 1e3)),
    ("a page, many clients, CPU ms of the node", 3, |it| {
        at_once(it, |it| it.server_cpu_us.unwrap_or(f64::NAN) / 1e3)
    }),
    ("newest envelopes of 10,000 topics, p50 ms", 1, |it| it.reads.newest.client.p50_us / 1e3),
    ("the same, CPU ms of the node", 1, |it| it.reads.newest.server_cpu_us / 1e3),
    ("newest envelopes of the crowded topics, p50 ms", 1, |it| {
        it.reads.newest_crowded.client.p50_us / 1e3
    }),
    ("the same, CPU ms of the node", 1, |it| it.reads.newest_crowded.server_cpu_us / 1e3),
    ("usage of the busy payer, p50 ms", 1, |it| it.reads.payer_info.client.p50_us / 1e3),
    ("the same, CPU ms of the node", 1, |it| it.reads.payer_info.server_cpu_us / 1e3),
    ("a page of 10,000 topics from 0, p50 ms", 1, |it| p50_ms(it.reads.planned.as_ref())),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned.as_ref())),
    ("a page of 10,000 topics from just below the head, p50 ms", 1, |it| {
        p50_ms(it.reads.planned_below_head.as_ref())
    }),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned_below_head.as_ref())),
    ("a page of the crowded topics from 0, p50 ms", 1, |it| {
        p50_ms(it.reads.planned_crowded.as_ref())
    }),
    ("the same, CPU ms of the node", 1, |it| cpu_ms(it.reads.planned_crowded.as_ref())),
    ("resident after reading, MiB", 0, |it| stats::float(it.resident_kib) / 1024.0),
    ("published/s, 20 in a request", 0, |it| it.publish.envelopes_per_second),
    ("a published envelope, CPU µs of the node", 1, |it| {
        it.publish.node_cpu_us.unwrap_or(f64::NAN)
    }),
    ("rebuild until it was cut off, s", 1, |it| it.rebuild.map_or(f64::NAN, |it| it.first_s)),
    ("rebuild from there to the end, s", 1, |it| it.rebuild.map_or(f64::NAN, |it| it.second_s)),
    ("rebuilt envelopes/s", 0, Size::rebuilt_per_second),
];

fn p50_ms(read: Option<&Expensive>) -> f64 {
    read.map_or(f64::NAN, |it| it.client.p50_us / 1e3)
}

fn cpu_ms(read: Option<&Expensive>) -> f64 {
    read.map_or(f64::NAN, |it| it.server_cpu_us / 1e3)
}

fn at_once(size: &Size, of: impl Fn(&query::AskedAtOnce) -> f64) -> f64 {
    size.query.at_once.as_ref().map_or(f64::NAN, of)
}

/// Returns the figures of all sizes as a Markdown table, with the last size's ratio to the first.
pub(crate) fn table(sizes: &[Size]) -> Result<String, BenchError> {
    let mut out = String::new();
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return Ok(out) };
    write!(out, "| published envelopes")?;
    for size in sizes {
        write!(out, " | {}", grouped(stats::float(size.at)))?;
    }
    writeln!(out, " | ratio |\n|---|{}--:|", "--:|".repeat(sizes.len()))?;
    for (name, digits, figure) in LINES {
        write!(out, "| {name}")?;
        for size in sizes {
            write!(out, " | {}", number(figure(size), digits))?;
        }
        writeln!(out, " | {} |", number(figure(last) / figure(first), 2))?;
    }
    Ok(out)
}

fn number(value: f64, digits: usize) -> String {
    match digits {
        _ if !value.is_finite() => "–".to_owned(),
        0 => grouped(value),
        digits => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        assert_eq!(number(f64::NAN, 2), "–");
        assert_eq!(number(1234.5, 0), "1 234");
        assert_eq!(number(1.0 / 3.0, 2), "0.33");
        assert_eq!(table(&[]).unwrap(), "");
    }
}
