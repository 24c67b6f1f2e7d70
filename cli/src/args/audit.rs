//! Arguments of `hawser audit`, and those of `hawser misbehavior` that it shares.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::NodeArgs;
use super::onchain::NetworkArgs;

/// The largest number of threads. A guess: more than the cores of a machine. A system may refuse to start more.
const THREADS_MAX: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=THREADS_MAX) => Ok(number),
        _ => Err(format!("it is no number from 1 to {THREADS_MAX}")),
    }
}

/// Checks a position of evidence.
pub(super) fn position(text: &str) -> Result<String, String> {
    match evidence_position(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("it is no position of the list, such as 1750000000000000000.0".to_owned()),
    }
}

/// Reads a position of evidence: a time in unix nanoseconds, and a counter. Without the counter it is behind all of
/// that time.
pub(crate) fn evidence_position(text: &str) -> Option<(u64, u16)> {
    let (time, counter) = text.split_once('.').unwrap_or((text, "65535"));
    Some((time.parse().ok()?, counter.parse().ok()?))
}

/// `hawser audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Run a replica: follow nodes without being one, verify everything, and serve reads. Takes the settings of
    /// `hawser node`, and reads no node's key.
    Watch(NodeArgs),
    /// Judge reports of misbehaviour, of an evidence file or of a node. Exits with 0 if one is proven, else with 5 if
    /// one is a claim, 6 if one is inconclusive, 7 if all are refuted. The app chain is asked only if a flag names it,
    /// at all of its endpoints, and a verdict that needs it rests on their word.
    #[command(visible_alias = "verify-evidence")]
    Report(AuditReportArgs),
    /// Check a whole log again, from its bytes: signatures, order, rules, fees, tallies, trees and checkpoints. Exits
    /// with 0 if it is clean, with 8 if it has faults, with 5 if all of these are claims, and with 9 if it has no
    /// others and was not shown as a whole. The settlement chain is asked for its rates only if a flag names it. Of
    /// several endpoints, more have to show the same rates than others.
    Replay(AuditReplayArgs),
    /// Print the places at which logs differ, and the differences. The first one is compared with each of the others,
    /// envelope by envelope. Exits with 0 if they are equal, with 8 if they differ, and with 9 if two of them have
    /// shown nothing that could be compared.
    Compare(AuditCompareArgs),
    /// List identity updates with a signature that an earlier update of their inbox has used, also in another form.
    /// Exits with 8 if readers get one of them.
    Identities(AuditIdentitiesArgs),
    /// Write a proof that an envelope is part of its strand: a file that can be verified with the nodes' keys alone. If
    /// the log has no envelope there, write the statement of the node that the place is void.
    Prove(AuditProveArgs),
    /// Verify a proof. Exits with 0 if the keys prove it, with 5 if only keys that stand in the proof itself do, and
    /// with 7 if it is refuted.
    Verify(AuditVerifyArgs),
    /// Write the log and its tallies as Parquet files, for engines that read them on many machines. A later run adds
    /// new envelopes.
    Export(AuditExportArgs),
    /// Check a part of an exported log: signatures, order, rules, fees, marks. Prints each fault and a summary, which
    /// `merge` joins with those of other parts.
    CheckPartition(AuditCheckPartitionArgs),
    /// Join the summaries of `check-partition` to one verdict. Exits as `replay` does.
    Merge(AuditMergeArgs),
    /// Collect the reports that all nodes of a network keep, and judge each fact once. Exits with 8 if a fault is
    /// proven, and otherwise with 9 if a node was not read to its end, after judging the part that was read.
    Network(AuditNetworkArgs),
}

/// `hawser audit report`, and `hawser misbehavior verify`.
#[derive(Debug, Args)]
pub(crate) struct AuditReportArgs {
    /// Evidence file, or API of a node: `http://host:port`.
    #[arg(value_name = "FILE|URL")]
    pub(crate) source: String,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// The app chain to ask, and its contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// The keys and rates to judge by.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Keys of the nodes: a registry file, a `network.json`, or an evidence file [default: those in the evidence
    /// or proof that is judged, on trust; for anything else those of ./hawser-dev].
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
    /// History of rates: a rates file [default: that in the evidence file, if its keys are used; without one nothing
    /// about fees is proven].
    #[arg(long, value_name = "FILE")]
    pub(crate) rates: Option<PathBuf>,
}

/// `hawser audit replay`.
#[derive(Debug, Args)]
pub(crate) struct AuditReplayArgs {
    /// The log: the data folder of a stopped node, a folder or bucket (s3://…) of backups, the API of a node that runs
    /// (`http://host:port`), or `snapshot:` and the folder, bucket or URL of snapshots.
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE")]
    pub(crate) from: String,
    /// Name of the backup in a folder or bucket of backups, or of the snapshot [default: the newest one].
    #[arg(long, value_name = "NAME")]
    pub(crate) backup: Option<String>,
    /// With a bucket of backups: the folder into which the backup is copied meanwhile. It needs room for the database.
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// A second source, of the same kinds as the log except buckets of backups: the newest checkpoints that it shows
    /// judge the log too, so that the log's keeper cannot hide envelopes together with the checkpoints that have them.
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE")]
    pub(crate) checkpoints_from: Option<String>,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// File with the place reached: a replay that was interrupted continues there, and a log that has grown is checked
    /// from there [default: none is written].
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Threads that check [default: one for each core].
    #[arg(long, value_name = "NUMBER", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Write the report as one page of HTML too. Replaces the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// The settlement chain whose rates judge fees, in place of those of a file, and its contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Parquet.
    Parquet,
}

/// `hawser audit export`.
#[derive(Debug, Args)]
pub(crate) struct AuditExportArgs {
    /// The log: the data folder of a stopped node, a folder of backups, the API of a node that runs
    /// (`http://host:port`), or `snapshot:` and the folder, bucket (s3://…) or URL of snapshots.
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE")]
    pub(crate) from: String,
    /// Name of the backup in a folder of backups, or of the snapshot [default: the newest one].
    #[arg(long, value_name = "NAME")]
    pub(crate) backup: Option<String>,
    /// Keys of the nodes, by which the signature of each envelope is judged: a registry file, a `network.json`, or an
    /// evidence file [default: none are judged; for a node that runs the keys of ./hawser-dev].
    #[arg(long, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
    /// History of rates, by which tallies are derived from the log of a source that has none: a rates file [default:
    /// that in the evidence file, or those that the folder has recorded].
    #[arg(long, value_name = "FILE")]
    pub(crate) rates: Option<PathBuf>,
    /// The form of the files.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "parquet")]
    pub(crate) format: ExportFormat,
    /// The folder of the export: an empty one, or that of an earlier run. Or s3://BUCKET/PREFIX, to which the missing
    /// files of the export in --work are copied.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) to: PathBuf,
    /// With s3://…: the folder in which the export is made. Keep it for the next run, which adds to it [default: a
    /// folder below $XDG_STATE_HOME/hawser/exports, or $HOME/.local/state/hawser/exports, that is named after --to].
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,
    /// Leave the column `payer` empty. Each payer costs a signature recovery.
    #[arg(long)]
    pub(crate) without_payers: bool,
    /// Threads that read envelopes [default: one for each core].
    #[arg(long, value_name = "NUMBER", value_parser = threads)]
    pub(crate) threads: Option<usize>,
}

/// `hawser audit check-partition`.
#[derive(Debug, Args)]
pub(crate) struct AuditCheckPartitionArgs {
    /// Files of the table `log`, ascending; or `-` for rows as lines of JSON on the standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) files: Vec<PathBuf>,
    /// The source of the keys and rates.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Accept rows whose column `payer` is empty: the export was made with --without-payers [default: such a row is a
    /// fault].
    #[arg(long)]
    pub(crate) without_payers: bool,
    /// Output of `check-partition --json` for all rows of the chains' strands, originators 0 and 1, of the same export:
    /// their times judge dependencies [default: dependencies on places of chains are not judged].
    #[arg(long, value_name = "FILE")]
    pub(crate) chains: Option<PathBuf>,
    /// Threads that check [default: one for each core].
    #[arg(long, value_name = "NUMBER", value_parser = threads)]
    pub(crate) threads: Option<usize>,
}

/// `hawser audit merge`.
#[derive(Debug, Args)]
pub(crate) struct AuditMergeArgs {
    /// Output of `check-partition --json`; or `-` for the standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) files: Vec<PathBuf>,
    /// The folder of the export, whose manifest names all rows. Missing rows make the verdict incomplete [default: it
    /// is not checked that all rows are there].
    #[arg(long, value_name = "DIR")]
    pub(crate) export: Option<PathBuf>,
}

/// `hawser audit compare`.
#[derive(Debug, Args)]
pub(crate) struct AuditCompareArgs {
    /// Data folders of stopped nodes, folders of backups, APIs of nodes that run (`http://host:port`), or `snapshot:`
    /// and the place of snapshots. At least two.
    #[arg(value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE", required = true, num_args = 2..)]
    pub(crate) logs: Vec<String>,
    /// Believe the trees that folders have stored, and read envelopes only where these differ: faster, but a folder
    /// that stores the tree of another log passes for it, and other signatures and marks are not found.
    #[arg(long)]
    pub(crate) quick: bool,
}

/// `hawser audit identities`.
#[derive(Debug, Args)]
pub(crate) struct AuditIdentitiesArgs {
    /// The log: the data folder of a stopped node, a folder of backups, the API of a node that runs
    /// (`http://host:port`), or `snapshot:` and the place of snapshots.
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE")]
    pub(crate) from: String,
}

/// `hawser audit prove`.
#[derive(Debug, Args)]
pub(crate) struct AuditProveArgs {
    /// The envelope: `ORIGINATOR:SEQUENCE`.
    #[arg(value_name = "ENVELOPE-ID")]
    pub(crate) envelope_id: String,
    /// The log: the data folder of a stopped node, a folder of backups, or the API of a node that runs:
    /// `http://host:port`; for a statement also `snapshot:` and the place of snapshots.
    #[arg(long, value_name = "DATA-DIR|BACKUPS|URL|snapshot:PLACE")]
    pub(crate) from: String,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// Write the statement of the node that the place is void, also if the log has an envelope there: both show whether
    /// the node has dated the envelope afterwards, or had lost it.
    #[arg(long)]
    pub(crate) void: bool,
    /// The proof file to write [default: the standard output]. Never replaces a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `hawser audit verify`.
#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// The proof file.
    #[arg(value_name = "PROOF")]
    pub(crate) proof: PathBuf,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
}

/// `hawser audit network`.
#[derive(Debug, Args)]
pub(crate) struct AuditNetworkArgs {
    /// The source of the keys. A registry file or a `network.json` also names the nodes to ask.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    /// APIs of the nodes to ask, `http://host:port`, with commas [default: those of the registry].
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Call nodes whose addresses in the registry lie in private networks, too.
    #[arg(long)]
    pub(crate) allow_private_nodes: bool,
    /// The app chain to ask, and its contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser misbehavior show`.
#[derive(Debug, Args)]
pub(crate) struct MisbehaviorShowArgs {
    /// API of the node that keeps the report: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// Time of the report at the node, unix nanoseconds: `server_time_ns` of `hawser --json audit report URL`.
    #[arg(value_name = "SERVER_TIME_NS")]
    pub(crate) server_time_ns: u64,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
}

/// `hawser misbehavior submit`.
#[derive(Debug, Args)]
pub(crate) struct MisbehaviorSubmitArgs {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// Evidence file. Each of its reports is submitted.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `hawser misbehavior export`.
#[derive(Debug, Args)]
pub(crate) struct MisbehaviorExportArgs {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
    /// Export reports that the node stored after this time, unix nanoseconds.
    #[arg(long, value_name = "SERVER_TIME_NS", default_value_t = 0)]
    pub(crate) after: u64,
    /// The operators' port of the node, `host:port`: evidence that rests on signed trees is exported too. Only this
    /// port has it.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// The evidence file to write [default: the standard output]. Never replaces a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The source of the keys.
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
}
