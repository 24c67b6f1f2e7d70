//! Arguments that commands of `hawser-bench` have in common, or that are too many for a list of commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use hawser_proto::OriginatorId;

use crate::error::BenchError;
use crate::limits::LoadShape;

/// Output of the figures.
#[derive(Debug, Clone, Args)]
pub(crate) struct Output {
    /// Write the result to this file instead of printing it.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
    /// Leave out the limits of the machine. There is nothing to compare the figures with then.
    #[arg(long)]
    pub(crate) without_limits: bool,
}

impl Output {
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data.path()
    }
}

/// The place of what is written while something is measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDir {
    /// Data is written to new folders in here, and removed afterwards [default: the system's
    /// folder for temporary files].
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    pub(crate) fn path(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// The program under measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct Hawser {
    /// The program to start nodes with [default: `hawser` beside this program].
    #[arg(long)]
    hawser: Option<PathBuf>,
}

impl Hawser {
    pub(crate) fn program(&self) -> PathBuf {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("hawser"));
        self.hawser.clone().or_else(beside).unwrap_or_else(|| "hawser".into())
    }
}

/// The node under measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    /// A node that runs already, instead of new ones.
    #[arg(long, requires = "originator")]
    pub(crate) node: Option<SocketAddr>,
    /// The id of that node.
    #[arg(long, requires = "node")]
    pub(crate) originator: Option<u32>,
}

/// The certificate of a node that is measured with TLS.
#[derive(Debug, Clone, Args)]
pub(crate) struct TlsFiles {
    /// The certificate for localhost that the node shows, PEM. It is trusted for itself.
    #[arg(long, requires = "tls_key", conflicts_with_all = ["node", "followers"])]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsFiles {
    /// Returns certificate and key, if the node is to speak TLS.
    pub(crate) fn named(self) -> Option<(PathBuf, PathBuf)> {
        self.tls_cert.zip(self.tls_key)
    }
}

/// Shape of the load: requests in flight, connections, envelopes in each request.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// HTTP/2 connections that the requests in flight share.
    #[arg(long, default_value_t = 2)]
    pub(crate) connections: usize,
    /// Requests that wait for their answer at any time.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Length of the MLS message in each envelope, in bytes.
    #[arg(long, default_value_t = 512)]
    pub(crate) payload_size: usize,
}

impl From<Shape> for LoadShape {
    fn from(shape: Shape) -> Self {
        Self {
            connections: shape.connections,
            in_flight: shape.in_flight,
            payload_len: shape.payload_size,
        }
    }
}

/// Content and duration of a publish run.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Accounts that pay, in turn.
    #[arg(long, default_value_t = 64)]
    pub(crate) payers: u32,
    /// Topics that envelopes are spread over at random.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) topics: u64,
    /// Duration after a warm-up of two seconds. Shorter when memory does not suffice for envelopes
    /// signed in advance.
    #[arg(long, default_value_t = 15)]
    pub(crate) seconds: u64,
}

/// Reading of pages.
#[derive(Debug, Clone, Args)]
pub(crate) struct Pages {
    /// Envelopes in a page.
    #[arg(long, default_value_t = 100)]
    pub(crate) page: u32,
    /// Pages that are asked for, one after the other and by all clients together.
    #[arg(long, default_value_t = 5000)]
    pub(crate) queries: u64,
    /// Clients that ask for pages at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
}

/// Measurements on a node that holds much.
#[derive(Debug, Clone, Args)]
pub(crate) struct Large {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Envelopes that are stored first.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) stored: u64,
    /// Topics that these are spread over: few enough that each has more than a page.
    #[arg(long, default_value_t = 5000)]
    pub(crate) stored_topics: u64,
    #[command(flatten)]
    pub(crate) pages: Pages,
    /// Grow the node in this folder and keep it: later runs go on with what it holds, and only add what is
    /// missing of `--stored`. The folder belongs to one number of topics and one size of payload.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Subscriptions that are open while memory is looked at.
    #[arg(long, default_value_t = 1000)]
    pub(crate) subscriptions: u64,
}

/// The node's memory for what its database has read.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseCache {
    /// The node's memory for what its database has read, once it has grown: a size such as `1GiB`, or `twentieth` of
    /// the bytes in its folder [default: the node's own].
    #[arg(long, value_name = "SIZE")]
    database_cache: Option<String>,
}

impl DatabaseCache {
    /// Returns the flags of a node whose folder has `folder_bytes`.
    pub(crate) fn flags(&self, folder_bytes: u64) -> Vec<String> {
        let size = match self.database_cache.as_deref() {
            None => return Vec::new(),
            Some("twentieth") => {
                let bytes = (folder_bytes / 20).max(hawser_storage::CACHE_BYTES_MIN as u64);
                format!("{}KiB", bytes >> 10)
            }
            Some(size) => size.to_owned(),
        };
        eprintln!("  the node gets a database cache of {size}");
        vec!["--database-cache".to_owned(), size]
    }
}

/// Measurements at several sizes of a node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sizes {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Sizes, in envelopes that are published.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000])]
    pub(crate) at: Vec<u64>,
    /// Grow a node for each size in a folder of its own below this one, and keep it: later runs only add what is
    /// missing.
    #[arg(long, required_unless_present = "node")]
    pub(crate) keep: Option<PathBuf>,
    /// Measure a node of this protocol that runs already, also one of other software. It is grown by publishing to it.
    /// May be given several times, and beside `--keep`: the nodes of a run share a table, with the ratio of the last
    /// one to the first.
    #[arg(long, requires = "originator")]
    node: Vec<SocketAddr>,
    /// The id of that node, once for each of them and in the same order.
    #[arg(long, requires = "node")]
    originator: Vec<u32>,
    /// Envelopes on each topic, on average.
    #[arg(long, default_value_t = 200)]
    pub(crate) per_topic: u64,
    #[command(flatten)]
    pub(crate) pages: Pages,
    /// Minutes in which one payer was busy, at an originator of the past.
    #[arg(long, default_value_t = 525_600)]
    pub(crate) minutes: u64,
    /// Topics in which 100 originators of the past have an envelope each.
    #[arg(long, default_value_t = 1000)]
    pub(crate) crowded_topics: u64,
    /// Marks of places without envelopes, in the strand of a node that has left.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) marks: u64,
    #[command(flatten)]
    pub(crate) cache: DatabaseCache,
    /// Leave out the streams.
    #[arg(long)]
    pub(crate) without_streams: bool,
    /// Start an empty follower, too: once with the default, and once with `--catch-up checkpoints`. It takes as much
    /// room on the disk as the node, until it has been measured.
    #[arg(long, requires = "keep")]
    pub(crate) catch_up: bool,
    /// Leave out the rebuild, which takes the longest.
    #[arg(long)]
    pub(crate) without_rebuild: bool,
}

impl Sizes {
    /// Returns address and id of each node that runs already.
    ///
    /// # Errors
    /// If an id is missing, or if several nodes are to be compared at several sizes: a table has one ratio.
    pub(crate) fn running(&self) -> Result<Vec<(SocketAddr, OriginatorId)>, BenchError> {
        if self.node.len() != self.originator.len() {
            return Err("each --node needs an --originator, in the same order".into());
        }
        if self.at.len() > 1 && self.node.len() + usize::from(self.keep.is_some()) > 1 {
            return Err("several nodes are compared at one size: name it with --at".into());
        }
        let ids = self.originator.iter().copied().map(OriginatorId);
        Ok(self.node.iter().copied().zip(ids).collect())
    }
}

/// Readers of a node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Readers {
    #[command(flatten)]
    pub(crate) large: Large,
    /// Streams that are open at once.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) streams: u64,
    /// Topics of each of them.
    #[arg(long, default_value_t = 100)]
    pub(crate) topics_each: u64,
    /// Seconds for which the idle node is looked at.
    #[arg(long, default_value_t = 60)]
    pub(crate) idle_seconds: u64,
}

/// Publishing, several times.
#[derive(Debug, Clone, Args)]
pub(crate) struct Turns {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Envelopes in each request.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub(crate) envelopes_per_request: u64,
    /// Duration of each run after a warm-up of two seconds.
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u64,
    /// Times that each way is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

/// Publishing beside false reports.
#[derive(Debug, Clone, Args)]
pub(crate) struct FalseReports {
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Reports that are submitted in a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) reports_per_second: u32,
}

/// Measurements on a network of three nodes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ThreeNodes {
    #[command(flatten)]
    pub(crate) data: DataDir,
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    /// Length of the MLS message in each envelope, in bytes.
    #[arg(long, default_value_t = 512)]
    pub(crate) payload_size: usize,
    /// Times that it is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

/// Accounting, or checkpoints, beside publishing.
#[derive(Debug, Clone, Args)]
pub(crate) struct Accounting {
    #[command(flatten)]
    pub(crate) turns: Turns,
    /// Envelopes that are written in each round, with their charges or trees and without.
    #[arg(long, default_value_t = 150_000)]
    pub(crate) written: u64,
}

/// Upkeep of a busy node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Upkeep {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) hawser: Hawser,
    /// Length of the MLS message in each envelope, in bytes.
    #[arg(long, default_value_t = 512)]
    pub(crate) payload_size: usize,
    /// Publishes of one envelope each, per second.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Duration of each measurement without upkeep, in seconds.
    #[arg(long, default_value_t = 6)]
    pub(crate) seconds: u64,
    /// Envelopes that have expired, which are backed up and then pruned.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) expired: u64,
}

/// Streams that come back after a restart.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reconnect {
    #[command(flatten)]
    pub(crate) large: Large,
    /// Streams that come back.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) streams: u64,
    /// Topics of each of them.
    #[arg(long, default_value_t = 100)]
    pub(crate) topics_each: u64,
    /// Envelopes that were published while they were away.
    #[arg(long, default_value_t = 1000)]
    pub(crate) missed: u64,
    #[command(flatten)]
    pub(crate) cache: DatabaseCache,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_size_or_a_part_of_the_folder() {
        let flags = |text: Option<&str>, folder_bytes| {
            DatabaseCache { database_cache: text.map(str::to_owned) }.flags(folder_bytes)
        };
        assert_eq!(flags(None, 1 << 40), Vec::<String>::new());
        assert_eq!(flags(Some("1GiB"), 1 << 40), ["--database-cache", "1GiB"]);
        assert_eq!(flags(Some("twentieth"), 20 << 30), ["--database-cache", "1048576KiB"]);
        let least = format!("{}KiB", hawser_storage::CACHE_BYTES_MIN >> 10);
        assert_eq!(flags(Some("twentieth"), 0), ["--database-cache", &least]);
    }
}
