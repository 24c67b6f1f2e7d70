//! `hawser import`: data of nodes of other software.

use clap::{Args, Subcommand};

use super::NodeArgs;

/// `hawser import`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Read the database of a stopped xmtpd node into an empty data folder. Repeat the command after an interruption:
    /// it continues where it stopped.
    Xmtpd(ImportXmtpdArgs),
}

/// `hawser import xmtpd`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct ImportXmtpdArgs {
    /// Connection string of the database, as xmtpd has it.
    #[arg(
        long,
        value_name = "URL",
        env = "XMTPD_DB_WRITER_CONNECTION_STRING",
        hide_env_values = true
    )]
    pub(crate) postgres: String,
    /// Settings of the node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
