//! The same measurements on nodes of several sizes, whose folders are kept.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::args::{DatabaseCache, Sizes};
use crate::error::BenchError;
use crate::limits::LoadShape;
use crate::network::{Network, Node};
use crate::process;
use crate::rebuild_part::CUT_OFF;
use crate::scenario::catch_up::{self, CaughtUp};
use crate::scenario::expensive::{self, ExpensiveReads};
use crate::scenario::fill::{self, Grown};
use crate::scenario::publish::{self, Published};
use crate::scenario::query::{self, Queried, Server};
use crate::scenario::readers::{self, Heard, StrandRead};
use crate::scenario::reconnect::{self, CameBack};
use crate::seeded_history::SeededHistory;
use crate::stats::{self, Quantiles, grouped};

/// Originators that share the crowded topics. Specified in the protocol's limits: a cursor has at most as many.
const CROWD: u32 = 100;
/// Publishing is measured for this time. Short, because what is published stays in the folder.
const PUBLISH_SECONDS: u64 = 5;
/// The part of the envelopes after which a rebuild is cut off, in percent.
const CUT_OFF_AT: u64 = 50;
/// Streams that come back after a restart, the topics of each, and the envelopes that were published meanwhile. Their
/// cursors name the node alone, so the strands of the past are news to them. With as many strands, an address has
/// memory for some 9,500 such streams by default.
const STREAMS: u64 = 9000;
const STREAM_TOPICS: u64 = 100;
const MISSED: u64 = 1000;
/// Topics that these streams share. The same at each size, so that an envelope has as many readers.
const STREAMED_TOPICS: u64 = 5000;
/// File with the parts in which the node was grown so far, beside its folder.
const GROWN_FILE: &str = "grown.json";

/// The parameters of a run, the same for all sizes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    hawser: PathBuf,
    pub(crate) shape: LoadShape,
    per_topic: u64,
    pub(crate) page: u32,
    queries: u64,
    clients: usize,
    minutes: u64,
    crowded_topics: u64,
    marks: u64,
    cache: DatabaseCache,
    streams: bool,
    catch_up: bool,
    rebuilds: bool,
}

impl Plan {
    pub(crate) fn new(args: &Sizes) -> Self {
        Self {
            hawser: args.hawser.program(),
            shape: args.shape.clone().into(),
            per_topic: args.per_topic.max(1),
            page: args.pages.page,
            queries: args.pages.queries.max(1),
            clients: args.pages.clients,
            minutes: args.minutes,
            crowded_topics: args.crowded_topics,
            marks: args.marks,
            cache: args.cache.clone(),
            streams: !args.without_streams,
            catch_up: args.catch_up,
            rebuilds: !args.without_rebuild,
        }
    }

    /// Returns the number of topics of a node with `at` envelopes.
    pub(crate) fn topics(&self, at: u64) -> u64 {
        (at / self.per_topic).max(1)
    }

    /// Returns the questions for pages. Envelopes are spread at random, so a topic surely has a page if topics have
    /// two of them on average.
    pub(crate) fn pages(&self, topics: u64) -> query::Plan {
        let full = self.per_topic >= 2 * u64::from(self.page);
        let Self { page, queries, clients, .. } = *self;
        query::Plan { topics, page, full, queries, clients }
    }

    /// Returns the load of publishing.
    pub(crate) fn publishing(&self, topics: u64) -> publish::Plan {
        let shape = self.shape.clone();
        publish::Plan { shape, per_request: 20, payers: 64, topics, seconds: PUBLISH_SECONDS }
    }

    fn past(&self) -> SeededHistory {
        let Self { minutes, crowded_topics, marks, .. } = *self;
        SeededHistory { minutes, crowd: CROWD, crowded_topics, marks }
    }
}

/// The figures of one size. A node that ran already has those alone that its API shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Envelopes that were asked for.
    pub(crate) at: u64,
    /// The address of a node that ran already; `None` for a node of this program.
    #[serde(default)]
    pub(crate) node: Option<SocketAddr>,
    /// Envelopes in the log when pages were asked for: with those of the past and of earlier runs.
    pub(crate) rows: u64,
    /// The parts in which the node was grown, over all runs.
    pub(crate) grown: Vec<Grown>,
    /// Bytes in the folder when pages were asked for.
    pub(crate) disk_bytes: Option<u64>,
    /// From the start of the process until it takes publishes, after it was stopped.
    pub(crate) start_s: Option<f64>,
    /// From the start of the process until it takes publishes, after it was killed while it published.
    pub(crate) start_killed_s: Option<f64>,
    pub(crate) query: Queried,
    #[serde(flatten)]
    pub(crate) reads: ExpensiveReads,
    /// Resident memory after all that was read.
    pub(crate) resident_kib: Option<u64>,
    pub(crate) publish: Published,
    #[serde(default)]
    pub(crate) streams: Option<StreamFigures>,
    /// An empty follower that verifies first.
    #[serde(default)]
    pub(crate) catch_up: Option<CaughtUp>,
    /// An empty follower with `--catch-up checkpoints`.
    #[serde(default)]
    pub(crate) catch_up_shown: Option<CaughtUp>,
    pub(crate) rebuild: Option<Rebuilt>,
}

/// The figures of streams.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamFigures {
    pub(crate) came_back: CameBack,
    /// The time until the first page of a stream of 10,000 topics.
    pub(crate) first_page: Quantiles,
    pub(crate) heard: Heard,
    pub(crate) strand: StrandRead,
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

/// Measures one size, in its own folder below `keep`.
pub(crate) async fn run(plan: &Plan, keep: &Path, at: u64) -> Result<Size, BenchError> {
    eprintln!("at {} envelopes", grouped(stats::float(at)));
    let folder = keep.join(at.to_string());
    // Without peers: a start waits for one that does not answer, which is no cost of the log.
    let network = Network::kept(&plan.hawser, &folder, 1)?;
    let topics = plan.topics(at);
    let grown = grow(plan, &network, at).await?;
    let disk_bytes = process::folder_bytes(&network.data_dir(0));

    let flags = plan.cache.flags(disk_bytes);
    let (node, start_s) = timed_start(&network, &flags).await?;
    let server = Server { api: node.api(), originator: node.id(), node: Some(&node) };
    let query = query::run(&server, plan.pages(topics)).await?;
    let reads = expensive::run(&server, plan.crowded_topics, plan.page).await?;
    let resident_kib = node.memory()?.resident_kib;

    let publish = publish::run(&plan.publishing(topics), &node, &[]).await?;
    node.kill();
    let (mut node, start_killed_s) = timed_start(&network, &flags).await?;
    let mut streams = None;
    if plan.streams {
        let (figures, again) = with_streams(plan, &network, node, &flags, topics).await?;
        (streams, node) = (Some(figures), again);
    }
    node.stop();
    let (catch_up, catch_up_shown) = match plan.catch_up {
        true => follow(plan, &folder, &flags).await.map(|it| (Some(it.0), Some(it.1)))?,
        false => (None, None),
    };
    let rebuild = plan.rebuilds.then(|| rebuild(&network.data_dir(0))).transpose()?;
    Ok(Size {
        at,
        node: None,
        rows: query.stored + plan.past().rows(),
        grown,
        disk_bytes: Some(disk_bytes),
        start_s: Some(start_s),
        start_killed_s: Some(start_killed_s),
        query,
        reads,
        resident_kib: Some(resident_kib),
        publish,
        streams,
        catch_up,
        catch_up_shown,
        rebuild,
    })
}

/// Measures streams. The node is started again with `flags` meanwhile, and runs afterwards.
async fn with_streams(
    plan: &Plan,
    network: &Network,
    node: Node,
    flags: &[String],
    topics: u64,
) -> Result<(StreamFigures, Node), BenchError> {
    eprintln!("  {STREAMS} streams of {STREAM_TOPICS} topics, and as many of one topic");
    let payload_len = plan.shape.payload_len;
    let streams = reconnect::Plan {
        streams: STREAMS,
        topics_each: STREAM_TOPICS,
        missed: MISSED,
        topics: topics.min(STREAMED_TOPICS),
        payload_len,
    };
    let (came_back, node) = reconnect::come_back(network, node, flags, streams).await?;
    let first_page = readers::first_page(&node).await?;
    let heard = readers::listeners(&node, STREAMS, payload_len).await?;
    eprintln!("  the strand as one stream");
    let strand = readers::strand(&node).await?;
    Ok((StreamFigures { came_back, first_page, heard, strand }, node))
}

/// Has an empty follower take what a stopped node holds, with the default, and with `--catch-up checkpoints`.
async fn follow(
    plan: &Plan,
    folder: &Path,
    flags: &[String],
) -> Result<(CaughtUp, CaughtUp), BenchError> {
    eprintln!("  two empty followers, one after the other");
    let network = Network::kept_with_follower(&plan.hawser, folder)?;
    let leader = network.start_flagged(0, flags).await?;
    let verified = catch_up::run_with(&network, &leader, 1, false).await?;
    let shown = catch_up::run_with(&network, &leader, 1, true).await?;
    leader.stop();
    network.remove_data(1)?;
    Ok((verified, shown))
}

/// Grows the node to its planned size, beginning with what an earlier run has left. Stops it, and returns all parts
/// in which it was grown.
async fn grow(plan: &Plan, network: &Network, at: u64) -> Result<Vec<Grown>, BenchError> {
    let past = plan.past();
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
    let (folder, topics) = (network.data_dir(0), plan.topics(at));
    let part = fill::grow(&node, &folder, at, topics, payload_len).await?;
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
