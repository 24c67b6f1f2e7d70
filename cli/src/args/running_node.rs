//! Arguments of the commands that a running node carries out.

use std::time::Duration;

use clap::Args;
use hawser_node::admin::ORDER_LASTS_MAX;
use hawser_node::log_control::LogFilter;
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
    #[arg(value_name = "FILTER", value_parser = filter)]
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

/// Parses the time for which an order to a running node lasts.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time =
        settings::duration(text).filter(|time| time.as_secs() > 0 && *time <= ORDER_LASTS_MAX);
    time.ok_or_else(|| "a duration from 1s to 24h, such as 90s or 10m".to_owned())
}

/// Checks a log filter. The node parses the text again.
fn filter(text: &str) -> Result<String, String> {
    LogFilter::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_lasts_from_a_second_to_a_day() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!(
            [seconds("1s"), seconds("1h30m"), seconds("24h")],
            [Ok(1), Ok(5400), Ok(86_400)]
        );
        for wrong in ["", "0", "0s", "999ms", "24h1s", "100h", "10", "ten"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_that_no_node_reads_is_a_wrong_argument() {
        assert_eq!(filter("info,hawser_net=debug"), Ok("info,hawser_net=debug".to_owned()));
        for wrong in ["", "loud", "[a{b=c}]=info", "info,debug"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
