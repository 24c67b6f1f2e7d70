//! `hawser report`: payer reports as a running node sees them.

use clap::{Args, Subcommand};
use hawser_node::settings::SettingSources;

use super::environment;

/// `hawser report`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Lists payer reports: those on the chain, and those that wait for attestations or their submission.
    List(ReportNodeArgs),
    /// Shows one report, with the amount of each payer if the node comes to the same ones.
    Show(ReportIdArgs),
    /// Says why a node does not attest a report. Exits with 3 if the node comes to another report.
    Explain(ReportIdArgs),
}

/// The node that is asked.
#[derive(Debug, Args)]
pub(crate) struct ReportNodeArgs {
    /// Address of the node's metrics, `host:port` [default: that of the settings in the environment].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
}

impl ReportNodeArgs {
    /// Returns the settings in the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        SettingSources::new([], environment())
    }
}

/// `hawser report show` and `hawser report explain`.
#[derive(Debug, Args)]
pub(crate) struct ReportIdArgs {
    /// Id of the report: 32 bytes in hex.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The node.
    #[command(flatten)]
    pub(crate) node: ReportNodeArgs,
}
