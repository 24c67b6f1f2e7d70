//! Arguments of `hawser chain-watcher`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::Address;
use clap::Args;
use hawser_chain::admin::{Contract, MicroDollars};
use hawser_node::settings;

use super::network_watcher::{
    POLLS, also_from_watcher_variables, metrics_address, time_above_zero, without_effect,
};
use super::onchain::{NetworkArgs, address, amount};

/// The port of the metrics. That of the reference implementation's watcher.
const METRICS_PORT: u16 = 8008;

/// `hawser chain-watcher`. See `docs/chain-watcher.md`.
#[derive(Debug, Args)]
pub(crate) struct ChainWatcherArgs {
    /// Look once, print alarms, and exit with 8 if there are any.
    #[arg(long, conflicts_with_all = ["table", "listen", "metrics_port"])]
    pub(crate) once: bool,
    /// Print a table after each look, and serve no metrics.
    #[arg(long, conflicts_with_all = ["listen", "metrics_port"])]
    table: bool,
    /// Serve metrics at /metrics and an answer to health checks at /health, `host:port` [default: 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve them at this port, on all addresses of this machine [env: METRICS_PORT].
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    metrics_port: Option<u16>,
    /// Time since the end of its last report for which an originator counts as active.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "150m",
        env = "ACTIVE_ORIGINATOR_WINDOW",
        value_parser = time
    )]
    pub(crate) active_originator_window: Duration,
    /// Block of the settlement chain from which events are counted, such as that of the contracts' deployment; without
    /// effect with --once [default: the first one after the start].
    #[arg(long, alias = "deploy-block", value_name = "BLOCK", env = "DEPLOYMENT_BLOCK")]
    pub(crate) deployment_block: Option<u64>,
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_above_zero)]
    pub(crate) every: Duration,
    /// Payer whose balance is watched; may be given several times.
    #[arg(long = "payer", value_name = "ADDRESS", value_parser = address)]
    pub(crate) payers: Vec<Address>,
    /// Account whose ether on the settlement chain is watched, such as a node's; may be given several times.
    #[arg(long = "sender", value_name = "ADDRESS", value_parser = address)]
    pub(crate) senders: Vec<Address>,
    /// Account whose native token on the app chain is watched, such as a gateway's; may be given several times.
    #[arg(long = "app-sender", value_name = "ADDRESS", value_parser = address)]
    pub(crate) app_senders: Vec<Address>,
    /// File with the code behind each contract, as it was accepted last, and the time since which nodes have no report.
    /// Written if it does not exist; remove it to accept an upgrade [default: the code of the first look is accepted].
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// WebSocket of the settlement chain, which command lines of the reference implementation's watcher name. It has no
    /// effect.
    #[arg(long, hide = true, value_name = "URL")]
    wss_url: Option<String>,
    /// The bounds.
    #[command(flatten)]
    pub(crate) limits: WatchLimitArgs,
    /// Chains and contracts.
    #[command(flatten)]
    network: NetworkArgs,
}

impl ChainWatcherArgs {
    /// Returns the address of the metrics; `None` if there are none.
    ///
    /// # Errors
    /// When the variable is no port.
    pub(crate) fn listen(&self) -> Result<Option<SocketAddr>, String> {
        metrics_address(self.once || self.table, self.listen, self.metrics_port, METRICS_PORT)
    }

    /// Returns a line for each flag and each variable of the environment that changes nothing.
    pub(crate) fn without_effect(&self) -> Vec<String> {
        let flag = self.wss_url.as_ref().map(|_| format!("--wss-url has no effect: {POLLS}"));
        flag.into_iter().chain(without_effect()).collect()
    }

    /// Returns the chain, also as the variables of the reference implementation's watcher name it.
    pub(crate) fn network(&mut self) -> &NetworkArgs {
        also_from_watcher_variables(
            &mut self.network,
            &[
                (Contract::PayerReportManager, "PAYER_REPORT_MANAGER_ADDRESS"),
                (Contract::PayerRegistry, "PAYER_REGISTRY_ADDRESS"),
            ],
        );
        &self.network
    }
}

/// The bounds beyond which the watcher raises an alarm.
#[derive(Debug, Args)]
pub(crate) struct WatchLimitArgs {
    /// The least balance of a payer, dollars.
    #[arg(long, value_name = "DOLLARS", default_value = "10", value_parser = amount)]
    pub(crate) payer_min: MicroDollars,
    /// The least balance of a sender, wei.
    #[arg(long, value_name = "WEI", default_value_t = 10_000_000_000_000_000)]
    pub(crate) sender_min: u128,
    /// The least balance of a sender on the app chain, wei of its native token.
    #[arg(long, value_name = "WEI", default_value_t = 1_000_000_000_000_000_000)]
    pub(crate) app_sender_min: u128,
    /// The highest gas price of the settlement chain, wei.
    #[arg(long, value_name = "WEI", default_value_t = 100_000_000_000)]
    pub(crate) gas_price_max: u128,
    /// The highest gas price of the app chain, wei of its native token.
    #[arg(long, value_name = "WEI", default_value_t = 100_000_000_000)]
    pub(crate) app_gas_price_max: u128,
    /// The time after the end of a report until the next one is on the chain, and for which a node may have none.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub(crate) report_age_max: Duration,
    /// The time after the end of a report until it is settled.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub(crate) settle_age_max: Duration,
    /// The time without a new block.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = time)]
    pub(crate) block_age_max: Duration,
    /// The largest factor between a price and the one before it.
    #[arg(long, value_name = "FACTOR", default_value_t = 10)]
    pub(crate) rate_factor_max: u64,
}

fn time(text: &str) -> Result<Duration, String> {
    settings::duration(text).ok_or_else(|| "a duration, such as 90s or 24h".to_owned())
}
