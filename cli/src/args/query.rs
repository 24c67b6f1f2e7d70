//! Arguments of `hawser query`.

use clap::{Args, Subcommand};

/// `hawser query`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueryCommand {
    /// Print the stored envelopes of topics, page by page.
    Topics(PagesArgs),
    /// Print the stored envelopes of originators, page by page.
    Originators(PagesArgs),
    /// Print how far the node holds each originator.
    Cursors(NodeAddress),
    /// Print the newest envelope of each topic.
    Newest(NamesArgs),
    /// Print the inbox of each address.
    Inbox(NamesArgs),
}

/// The node to ask.
#[derive(Debug, Args)]
pub(crate) struct NodeAddress {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
}

/// Questions by name.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    #[command(flatten)]
    pub(crate) to: NodeAddress,
    /// For `newest`: topics as kind byte and identifier, hex. For `inbox`: addresses of accounts.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// Questions that are answered page by page.
#[derive(Debug, Args)]
pub(crate) struct PagesArgs {
    #[command(flatten)]
    pub(crate) to: NodeAddress,
    /// For `topics`: topics as kind byte and identifier, hex. For `originators`: ids, such as 100.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Start: `start`, or the last known ids, such as `0:12,100:7`.
    #[arg(long, value_name = "WHERE", default_value = "start")]
    pub(crate) from: String,
    /// End after N envelopes [default: all that the node shows].
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}
