//! Arguments of the commands that a running node carries out.

use std::time::Duration;

use clap::Args;
use hawser_node::settings;

use super::backup::DataDirArgs;

/// `hawser prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only print which envelopes would be removed, and why the others stay; as with the setting prune.dry-run
    /// [env: XMTPD_PRUNE_DRY_RUN].
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser log-level`.
#[derive(Debug, Args)]
pub(crate) struct LogLevelArgs {
    /// Level for all loggers (off, error, warn, info, debug, trace), or levels of single loggers, or both:
    /// info,hawser_net=debug [default: print the filter in force].
    #[arg(value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Time after which the level of the settings returns; at most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    pub(crate) lasts: Duration,
    /// Return to the level of the settings.
    #[arg(long, conflicts_with = "filter")]
    pub(crate) reset: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser peers`.
#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    /// Keep the node apart from these peers, with commas between their ids: it ends its sessions with them, and neither
    /// dials nor admits them [default: print the peers that it stays apart from].
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) apart: Vec<u32>,
    /// Time after which the node dials them again; at most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    pub(crate) lasts: Duration,
    /// Let the node dial all peers again.
    #[arg(long, conflicts_with = "apart")]
    pub(crate) together: bool,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    settings::duration(text).ok_or_else(|| "a duration, such as 90s or 10m".to_owned())
}
