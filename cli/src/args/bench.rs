//! Arguments of `hawser bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hawser_node::settings;

/// `hawser bench`. See `docs/bench.md`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --payer-key-file or --gateway it only reads. With one of them, each published envelope costs its payer the network's fee, and stays on the nodes until its retention has passed.\n\nExit codes: 0 each test had an answer, 1 the node cannot be reached or a test had none, 2 usage, 3 not confirmed."
)]
pub(crate) struct BenchArgs {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) target: String,
    /// File with the secret key of the payer who pays for published envelopes.
    #[arg(long, value_name = "FILE", requires = "node_id")]
    pub(crate) payer_key_file: Option<PathBuf>,
    /// API of a gateway that publishes, and pays.
    #[arg(long, value_name = "ADDR", conflicts_with = "payer_key_file")]
    pub(crate) gateway: Option<String>,
    /// Id of the target in the registry. The payer signs for no other node.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<u32>,
    /// Tests to run, comma separated [default: all; without a payer those that read].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) tests: Vec<BenchTest>,
    /// Make the calls of this many daily users at their pace, in place of the tests.
    #[arg(long, value_name = "USERS", conflicts_with = "tests", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) mix: Option<u64>,
    /// Make the same calls from all workers without a pause, in place of the tests.
    #[arg(long, conflicts_with_all = ["tests", "mix"])]
    pub(crate) blast: bool,
    /// Make the calls of this many daily users at their pace, of 500 topics that are filled before and of 10,000
    /// inboxes, beside streams of all envelopes, in place of the tests.
    #[arg(long, value_name = "USERS", conflicts_with_all = ["tests", "mix", "blast"], value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) dau: Option<u64>,
    /// Make each kind of call 50 times without load, one after the other, in place of the tests.
    #[arg(long, conflicts_with_all = ["tests", "mix", "blast", "dau"])]
    pub(crate) diag: bool,
    /// Open 20 connections and measure their steps, in place of the tests.
    #[arg(long, conflicts_with_all = ["tests", "mix", "blast", "dau", "diag"])]
    pub(crate) diag_connect: bool,
    /// Calls at a time.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) concurrency: u16,
    /// Connections that the calls share.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connections: u16,
    /// Time for each test, for the mixed calls, or at most for each kind of single call.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) duration: Duration,
    /// Envelopes a second that the test of live streams publishes.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) publish_rate: u32,
    /// The maximum number of envelopes that all tests together publish. A test that has published its equal part is
    /// over.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub(crate) publishes_max: u64,
    /// Retention of published envelopes, in days, 2 to 365.
    #[arg(long, value_name = "DAYS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=365))]
    pub(crate) retention_days: u32,
    /// Publish without asking. Without a terminal nothing is published unless it is given.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Write the result as JSON to a file; text is still printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// A test, with the name of the reference implementation's load program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchTest {
    /// Five envelopes of the node's own strand.
    #[value(name = "QueryEnvelopes")]
    QueryEnvelopes,
    /// The inbox of one address.
    #[value(name = "GetInboxIds")]
    GetInboxIds,
    /// The newest envelope of one topic.
    #[value(name = "GetNewestEnvelope")]
    GetNewestEnvelope,
    /// Publish a welcome of 256 bytes.
    #[value(name = "Welcome")]
    Welcome,
    /// Publish a group message of 256 bytes.
    #[value(name = "GroupMessage-256B")]
    Group256,
    /// Publish a group message of 512 bytes.
    #[value(name = "GroupMessage-512B")]
    Group512,
    /// Publish a group message of 1 KiB.
    #[value(name = "GroupMessage-1KB")]
    Group1K,
    /// Publish a group message of 5 KiB.
    #[value(name = "GroupMessage-5KB")]
    Group5K,
    /// Time from publishing to a live stream.
    #[value(name = "SubscribeTopics")]
    SubscribeTopics,
    /// Time to read the history of a topic on a new stream.
    #[value(name = "SubscribeTopics-Catchup")]
    CatchUp,
}

impl BenchTest {
    /// Returns true if the test publishes.
    #[must_use]
    pub(crate) fn publishes(self) -> bool {
        !matches!(self, Self::QueryEnvelopes | Self::GetInboxIds | Self::GetNewestEnvelope)
    }

    /// Returns the name for command line and result.
    #[must_use]
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|it| it.get_name().to_owned()).unwrap_or_default()
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let within = |time: &Duration| (1..=3600).contains(&time.as_secs());
    let time = settings::duration(text).filter(within);
    time.ok_or_else(|| "a duration from 1s to 1h, such as 30s".to_owned())
}
