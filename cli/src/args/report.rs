//! Arguments of `hawser report`: payer reports as a running node sees them, and its work on them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hawser_node::settings::SettingSources;

use super::backup::DataDirArgs;
use super::onchain::NetworkArgs;
use super::sources_of;

/// `hawser report`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// List payer reports: those on the chain, and those that wait for attestations or their submission. Exits with 9
    /// if the node cannot read all reports about an originator.
    List(ReportListArgs),
    /// Show one report, with the amount of each payer by the node's own figures.
    Show(ReportIdArgs),
    /// Explain why a node does not attest a report. Exits with 3 if the node computes another report, and with 9 if it
    /// cannot compute the report yet.
    Explain(ReportIdArgs),
    /// Print the amounts that the chain took from the payers of a report, beside the node's own. Exits with 3 if one of
    /// them differs, and with 9 if not all could be compared.
    Settled(ReportSettledArgs),
    /// Write the reports that are due, on the running node. Its worker does so once an hour.
    Generate(ReportStepArgs),
    /// Sign the reports of other nodes that the node computes as well. Its worker does so every minute.
    Attest(ReportStepArgs),
    /// Submit the reports that a majority has attested. The worker does so once an hour.
    Submit(ReportStepArgs),
    /// Settle the unsettled parts of the reports on the chain. The worker does so once an hour.
    Settle(ReportStepArgs),
}

/// `hawser report generate`, `attest`, `submit` and `settle`.
#[derive(Debug, Args)]
pub(crate) struct ReportStepArgs {
    /// Originator that the reports are about [default: all].
    #[arg(long, value_name = "ID")]
    pub(crate) about: Option<u32>,
    /// Only print the expected outcome for each report, with reasons.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// File in which `hawser dev` describes its network, whose first node is asked [default: that of ./hawser-dev, if
    /// there is one, no setting names a data folder, no variable is about metrics, and there is no ./hawser-data].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "config"])]
    pub(crate) network: Option<PathBuf>,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// The node that is asked.
#[derive(Debug, Args)]
pub(crate) struct ReportNodeArgs {
    /// Address of the node's metrics, `host:port` [default: that of the first node of --network, or else of the
    /// settings in the environment, or else of the first node of ./hawser-dev if no variable is about metrics or a data
    /// folder, or else 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
}

impl ReportNodeArgs {
    /// Returns the settings in the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([])
    }
}

/// `hawser report list`, and the node of `hawser report show` and `hawser report explain`.
#[derive(Debug, Args)]
pub(crate) struct ReportListArgs {
    /// The node.
    #[command(flatten)]
    pub(crate) node: ReportNodeArgs,
    /// File in which `hawser dev` describes its network.
    #[arg(long, value_name = "FILE", conflicts_with = "metrics")]
    pub(crate) network: Option<PathBuf>,
}

/// `hawser report settled`.
#[derive(Debug, Args)]
pub(crate) struct ReportSettledArgs {
    /// Id of the report: 32 bytes in hex.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Number of blocks of the settlement chain to search, the newest ones.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) blocks: u64,
    /// The node.
    #[command(flatten)]
    pub(crate) node: ReportNodeArgs,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// `hawser report show` and `hawser report explain`.
#[derive(Debug, Args)]
pub(crate) struct ReportIdArgs {
    /// Id of the report: 32 bytes in hex.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The node.
    #[command(flatten)]
    pub(crate) node: ReportListArgs,
}
