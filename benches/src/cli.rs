//! The command line of `hawser-bench`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::args::{
    Accounting, DataDir, FalseReports, Hawser, Large, LoadArgs, Output, Readers, Reconnect, Shape,
    Sizes, Target, ThreeNodes, TlsFiles, Turns, Upkeep,
};

/// Measures a node from outside, and what this machine could do at best.
///
/// The node is a process of its own, on the same machine. To measure on fewer cores than there
/// are, start this program with `taskset`.
#[derive(Debug, Parser)]
#[command(name = "hawser-bench", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measures the limits of this machine: disk, signatures, calls.
    Limits {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        shape: Shape,
    },
    /// Publish as fast as the node takes it.
    Publish {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        load: LoadArgs,
        /// Envelopes in each request.
        #[arg(short = 'n', long, default_value_t = 20)]
        envelopes_per_request: u64,
        /// Nodes that follow meanwhile, on the same cores.
        #[arg(long, default_value_t = 0, conflicts_with = "node")]
        followers: u32,
        #[command(flatten)]
        tls: TlsFiles,
    },
    /// One client, one envelope at a time.
    Latency {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Publish at one node, subscribe at another.
    Delivery {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        hawser: Hawser,
        #[command(flatten)]
        shape: Shape,
        /// Envelopes per second.
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// Duration of the run, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Publish single envelopes through a gateway to one node, and next to it to the node alone; or with
    /// `--gateways` through several gateways to as many nodes, and next to it through one. Prints text.
    Gateway {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        hawser: Hawser,
        /// Gateways with one payer key, and nodes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
        gateways: u32,
        /// The Redis that several gateways share, such as redis://127.0.0.1:6379/0 [default: a `redis-server` for this
        /// run].
        #[arg(long, value_name = "URL")]
        redis: Option<String>,
        #[command(flatten)]
        shape: Shape,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Publish single envelopes, one at a time, at an idle node and beside each of some floods. Prints text.
    Floods {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        hawser: Hawser,
        /// Length of the MLS message in each envelope, in bytes.
        #[arg(long, default_value_t = 512)]
        payload_size: usize,
        /// Duration of each measurement, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Publish beside a flood of false reports of misbehaviour from many addresses and without, in turns. Prints text.
    FalseReports(FalseReports),
    /// Read commits off a chain from its first block, and next to it merely fetch them. Prints
    /// text.
    ChainIndex {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        hawser: Hawser,
        /// Commits on the chain.
        #[arg(long, default_value_t = 30_000)]
        events: u64,
        /// Commits in each block.
        #[arg(long, default_value_t = 4)]
        per_block: usize,
    },
    /// Start an empty follower of a node with a long strand.
    CatchUp {
        #[command(flatten)]
        large: Large,
        /// Have the follower show what the leader has signed as a whole, and verify it behind. Both rates are measured.
        #[arg(long)]
        checkpoints: bool,
        /// Measure both, one after the other, with an empty follower each: first with the default, then with
        /// `--checkpoints`.
        #[arg(long, conflicts_with = "checkpoints")]
        both: bool,
    },
    /// Ask for pages of one topic out of a large log.
    Query {
        #[command(flatten)]
        large: Large,
        /// A node of this protocol that runs already, also one of other software, instead of a new one. It is
        /// grown by publishing to it.
        #[arg(long, requires = "originator", conflicts_with = "keep")]
        node: Option<SocketAddr>,
        /// The id of that node.
        #[arg(long, requires = "node")]
        originator: Option<u32>,
    },
    /// Grow a node to each of some sizes, keep it, and measure reading, starting, publishing, streams and rebuilding
    /// there. Or measure nodes that run already, side by side.
    Sizes(Sizes),
    /// Grow a node, start it again, and have many streams come back that lack little. Prints text.
    Reconnect(Reconnect),
    /// Grow a node, and measure many open subscriptions, many listeners of one topic, the opening of a stream of 10,000
    /// topics, and its strand as a stream beside a plain one. Prints text.
    Readers(Readers),
    /// The limits, and then `publish`, `latency`, `delivery`, `query`, `memory` and `catch-up`, one after the other.
    All(Large),
    // Has no line of its own in the help.
    #[command(flatten)]
    Grown(GrownCommand),
    /// Publish at a steady rate to one of three nodes, and cut the link between it and a node with a reader, until the
    /// third node brings the envelopes. Prints text.
    Failover {
        #[command(flatten)]
        nodes: ThreeNodes,
        /// Publishes of one envelope each, per second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
    },
    /// End one of three nodes and start it again, then all of them, and publish at each that starts. Prints text.
    Restarts {
        #[command(flatten)]
        nodes: ThreeNodes,
        /// Kill the nodes instead of stopping them in order.
        #[arg(long)]
        kill: bool,
    },
    /// Run the case of `hawser conformance` whose stream has as many topics as one may have, and look at the node's
    /// memory. Prints text.
    MillionTopics {
        #[command(flatten)]
        data: DataDir,
        #[command(flatten)]
        hawser: Hawser,
    },
    /// Parts of a node by themselves: signatures, layers, commits. Prints text.
    Micro {
        #[command(flatten)]
        data: DataDir,
        /// Length of the MLS message in each envelope, in bytes.
        #[arg(long, default_value_t = 512)]
        payload_size: usize,
    },
    /// Fill a strand, and measure what is computed from it: inclusion proofs, and the payer report about all of
    /// it. Prints text.
    Strand {
        #[command(flatten)]
        data: DataDir,
        /// Envelopes of the strand.
        #[arg(long, default_value_t = 1_000_000)]
        stored: u64,
        /// Payers of these envelopes.
        #[arg(long, default_value_t = 10_000)]
        payers: u64,
        /// Length of the MLS message in each envelope, in bytes.
        #[arg(long, default_value_t = 64)]
        payload_size: usize,
        /// Fill no strand, and measure proofs alone: in a folder that `grow` has kept, or in one of a size of `sizes`.
        #[arg(long, conflicts_with = "stored")]
        keep: Option<PathBuf>,
    },
    /// Prune a strand that has expired, without a node and a publisher. Prints text.
    Prune {
        #[command(flatten)]
        data: DataDir,
        /// Envelopes of the strand.
        #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(2..))]
        stored: u64,
        /// Length of the MLS message in each envelope, in bytes.
        #[arg(long, default_value_t = 512)]
        payload_size: usize,
    },
    /// Measures commits without streams, and beside many that listen to all envelopes. Prints text.
    Streams {
        #[command(flatten)]
        data: DataDir,
        /// Streams of all envelopes, within one process.
        #[arg(long, default_value_t = 10_000)]
        listeners: usize,
    },
    /// Measures what identity updates cost a node for the gas that they cost, in the most expensive shapes. Prints a
    /// table.
    Identity,
    /// Measures how many key packages one core validates, beside the signature checks alone. Prints text.
    KeyPackage,
    /// Publish over TLS and without, in turns. Prints text.
    Tls(Turns),
    /// Publish to a node that checks the balances of payers and to one that does not, in turns. Prints text.
    Balances(Turns),
    /// Publish, and measure how much of an envelope's cost is accounting. Prints text.
    Accounting(Accounting),
    /// Publish, and measure how much of an envelope's cost are its tree and checkpoints. Prints text.
    Checkpoints(Accounting),
    /// Publish at a steady rate to a node, and beside its own backup and pruning. Prints text.
    Upkeep(Upkeep),
    /// Put the figures of earlier runs into a document, or print them.
    Report {
        /// Result files of earlier runs.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// A Markdown file with a place for figures.
        #[arg(long)]
        document: Option<PathBuf>,
    },
    /// Rebuilds the projections of a folder and may end in the middle; started by `sizes`.
    #[command(hide = true)]
    RebuildPart {
        #[arg(long)]
        folder: PathBuf,
        /// The percentage after which the process ends as if it were killed.
        #[arg(long, default_value_t = 100)]
        part: u64,
    },
    /// A server that only answers; started by `limits`.
    #[command(hide = true)]
    IdleServer {
        #[arg(long)]
        answer_len: usize,
    },
    /// A server that drops what comes; started by `floods`.
    #[command(hide = true)]
    Sink,
}

/// Commands that measure a node which this program has grown first.
#[derive(Debug, Subcommand)]
pub(crate) enum GrownCommand {
    /// Start empty followers of a node with a long strand, one after the other: beside one peer over QUIC, beside two,
    /// and over gRPC. Prints text.
    Sources(Large),
    /// Grow a node and keep it: bytes and CPU time of each envelope.
    Grow(Large),
    /// See what is resident with a large log and many subscriptions.
    Memory(Large),
    /// Grow a node, stop it, and check its log again. Prints text.
    Replay(Large),
    /// Grow a node, stop it, and make its projections anew. Prints text.
    Rebuild(Large),
    /// Grow a node, stop it, and compute the bill of one of its payers from its log. Prints text.
    Bill(Large),
    /// Grow a node, stop it, and export its log with payers and without. Prints text.
    Export(Large),
    /// Grow a node, and back it up while it is idle. Prints text.
    Backup(Large),
    /// Grow a node, and fill another one from a snapshot of it. Prints text.
    Bootstrap(Large),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Programs that measure promises, too.
    const OTHERS: [&str; 2] = ["latency.mjs", "tests/beside/run"];

    #[test]
    fn nodes_that_run_are_compared_at_one_size() {
        let running = |line: &str| {
            let parsed = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
            let Command::Sizes(args) = parsed.command else { panic!("{line}") };
            args.running().map(|nodes| nodes.len()).map_err(|error| error.to_string())
        };
        let (one, two) = ("--node 127.0.0.1:1 --originator 100", "--node 127.0.0.1:2");
        let sizes = "hawser-bench sizes";
        assert_eq!(running(&format!("{sizes} --keep /f")), Ok(0));
        assert_eq!(running(&format!("{sizes} {one}")), Ok(1));
        assert_eq!(running(&format!("{sizes} {one} {two} --originator 300 --at 5")), Ok(2));
        assert_eq!(running(&format!("{sizes} --keep /f {one} --at 5")), Ok(1));
        assert!(running(&format!("{sizes} {one} {two} --at 5")).is_err(), "an id is missing");
        assert!(running(&format!("{sizes} {one} {two} --originator 300")).is_err(), "two sizes");
        assert!(running(&format!("{sizes} --keep /f {one}")).is_err(), "two sizes, two columns");
        assert!(running(sizes).is_err(), "neither a folder nor a node");
        assert!(running(&format!("{sizes} {one} --catch-up")).is_err(), "no folder of its own");
    }

    #[test]
    fn each_promise_names_a_command_that_exists() {
        let page = include_str!("../../docs/performance.md");
        let (_, rows) = page.split_once("| area | what | command |").unwrap();
        let commands = Cli::command();
        let mut found = 0;
        for row in rows.lines().skip(1).take_while(|line| line.starts_with('|')) {
            let cell = row.split('|').nth(3).unwrap().trim();
            let name = cell.strip_prefix('`').and_then(|rest| rest.split([' ', '`']).next());
            let Some(name) = name.filter(|name| !OTHERS.contains(name)) else { continue };
            assert!(commands.find_subcommand(name).is_some(), "{row}");
            found += 1;
        }
        assert!(found > 50, "the promises are found: {found}");
    }
}
