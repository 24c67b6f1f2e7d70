//! Arguments of `hawser query`.

use clap::{Args, Subcommand};

/// `hawser query`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueryCommand {
    /// Print the stored envelopes of topics, page by page.
    Topics {
        #[command(flatten)]
        of: TopicsArgs,
        #[command(flatten)]
        pages: PagesArgs,
    },
    /// Print the stored envelopes of originators, page by page.
    Originators {
        /// Ids of originators.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        pages: PagesArgs,
    },
    /// Print how far the node holds each originator.
    Cursors(NodeAddress),
    /// Print the newest envelope of each topic.
    Newest {
        #[command(flatten)]
        of: TopicsArgs,
        #[command(flatten)]
        to: NodeAddress,
    },
    /// Print the inbox of each address.
    Inbox {
        /// Addresses of accounts.
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<String>,
        #[command(flatten)]
        to: NodeAddress,
    },
}

/// The node to ask.
#[derive(Debug, Args)]
pub(crate) struct NodeAddress {
    /// API of the node: `host:port`, `http://…` or `https://…`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) node: String,
}

/// The topics of a question.
#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    /// Topics: kind byte and identifier, hex.
    #[arg(value_name = "TOPIC", required = true)]
    pub(crate) topics: Vec<String>,
}

/// Questions that are answered page by page.
#[derive(Debug, Args)]
pub(crate) struct PagesArgs {
    #[command(flatten)]
    pub(crate) to: NodeAddress,
    /// Start: `start`, or the last known ids, such as `0:12,100:7`.
    #[arg(long, value_name = "WHERE", default_value = "start")]
    pub(crate) from: String,
    /// End after N envelopes [default: all that the node shows].
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}
