//! Arguments of `hawser network-watcher`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hawser_chain::admin::Contract;
use hawser_node::settings;
use hawser_node::settings::table::chains;

use super::onchain::NetworkArgs;

/// The port of the metrics. That of the reference implementation's watcher.
const METRICS_PORT: u16 = 8009;
/// Variables of the reference implementation's watchers and of nodes that change nothing in a watcher, with the reason.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    ("SETTLEMENT_CHAIN_WSS_URL", POLLS),
    ("XMTPD_SETTLEMENT_CHAIN_WSS_URL", POLLS),
    ("XMTPD_APP_CHAIN_WSS_URL", POLLS),
    ("MAX_CHAIN_DISCONNECT_TIME", "a watcher reports a chain that does not answer, and goes on"),
    ("BACKFILL_BLOCK_PAGE_SIZE", "the pages of events adapt to the endpoint"),
];
/// The reason for which WebSockets have no effect.
pub(super) const POLLS: &str =
    "a watcher asks the endpoints of the RPC URLs at intervals, and opens no WebSocket";

/// `hawser network-watcher`. See `docs/network-watcher.md`.
#[derive(Debug, Args)]
pub(crate) struct NetworkWatcherArgs {
    /// Ask each node once, print alarms, and exit with 8 if there are any.
    #[arg(long, conflicts_with_all = ["table", "listen", "metrics_port"])]
    pub(crate) once: bool,
    /// Print a table repeatedly, and serve no metrics.
    #[arg(long, conflicts_with_all = ["listen", "metrics_port"])]
    table: bool,
    /// Serve metrics at /metrics and an answer to health checks at /health, `host:port` [default: 127.0.0.1:8009].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve them at this port, on all addresses of this machine [env: METRICS_PORT].
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    metrics_port: Option<u16>,
    /// Time between two tables.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time_above_zero)]
    pub(crate) every: Duration,
    /// Time between two comparisons of the nodes' contents.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_above_zero)]
    pub(crate) compare_every: Duration,
    /// File with the secret key of a payer. Its account pays for probes: short envelopes that are published at one node
    /// after another [default: no probes].
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub(crate) probe_key_file: Option<PathBuf>,
    /// Time between two probes.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_above_zero)]
    pub(crate) probe_every: Duration,
    /// Places of one strand that two nodes may be apart.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) divergence_max: u64,
    /// File with the records of the nodes, instead of the registry on the chain.
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    pub(crate) registry_file: Option<PathBuf>,
    /// Call nodes whose addresses in the registry, or in that file, lie in private networks, too.
    #[arg(long)]
    pub(crate) allow_private_nodes: bool,
    /// Time between two readings of the registry.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        env = "NODE_REGISTRY_REFRESH_INTERVAL",
        value_parser = time_above_zero
    )]
    pub(crate) node_registry_refresh_interval: Duration,
    /// First pause before a node is asked again; each further one is twice as long.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        env = "RECONNECT_MIN_BACKOFF",
        value_parser = time_above_zero
    )]
    pub(crate) reconnect_min_backoff: Duration,
    /// Longest pause before a node is asked again.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        env = "RECONNECT_MAX_BACKOFF",
        value_parser = time_above_zero
    )]
    pub(crate) reconnect_max_backoff: Duration,
    /// Chains and contracts.
    #[command(flatten)]
    network: NetworkArgs,
}

impl NetworkWatcherArgs {
    /// Returns the address of the metrics; `None` if there are none.
    ///
    /// # Errors
    /// When the variable is no port.
    pub(crate) fn listen(&self) -> Result<Option<SocketAddr>, String> {
        metrics_address(self.once || self.table, self.listen, self.metrics_port, METRICS_PORT)
    }

    /// Returns the chain, also as the variables of the reference implementation's watcher name it.
    pub(crate) fn network(&mut self) -> &NetworkArgs {
        also_from_watcher_variables(
            &mut self.network,
            &[(Contract::NodeRegistry, "NODE_REGISTRY_ADDRESS")],
        );
        &self.network
    }
}

/// Lets the watched chain and contracts be set also by the variables of the reference implementation's watchers.
pub(super) fn also_from_watcher_variables(
    network: &mut NetworkArgs,
    contracts: &[(Contract, &str)],
) {
    network.also_from(&chains::SETTLEMENT_RPC, "SETTLEMENT_CHAIN_RPC_URL");
    for (contract, variable) in contracts {
        let single = chains::SINGLE.iter().find(|(it, _)| it == contract);
        if let Some((_, setting)) = single {
            network.also_from(setting, variable);
        }
    }
}

/// Returns a line for each variable of the environment that changes nothing in a watcher.
pub(crate) fn without_effect() -> Vec<String> {
    let is_given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let given = WITHOUT_EFFECT.into_iter().filter(|(name, _)| is_given(name));
    given.map(|(name, reason)| format!("{name} has no effect: {reason}")).collect()
}

/// Returns the address of a watcher's metrics: the one that is given, or the given port, or that of the variable
/// `METRICS_PORT`, on all addresses of this machine. Otherwise `default_port`, for this machine alone. A watcher that
/// `prints` serves none.
///
/// # Errors
/// When the variable is no port.
pub(super) fn metrics_address(
    prints: bool,
    listen: Option<SocketAddr>,
    port: Option<u16>,
    default_port: u16,
) -> Result<Option<SocketAddr>, String> {
    const PORT: &str = "METRICS_PORT";
    if prints {
        return Ok(None);
    }
    let of_variable = std::env::var(PORT).ok().filter(|text| !text.is_empty());
    let of_variable = of_variable.filter(|_| listen.is_none() && port.is_none());
    let number = |text: String| {
        text.parse::<u16>().map_err(|_| format!("{PORT}={text}: must be a port from 1 to 65535"))
    };
    let port = port.or(of_variable.map(number).transpose()?);
    Ok(Some(address(listen, port, default_port)))
}

/// Returns the address that is given, or the port on all addresses of this machine, or the default.
fn address(listen: Option<SocketAddr>, port: Option<u16>, default_port: u16) -> SocketAddr {
    let all = port.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    listen.or(all).unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, default_port)))
}

/// Parses a time that is not zero: a watcher without a pause would load the chains and nodes that it asks.
pub(super) fn time_above_zero(text: &str) -> Result<Duration, String> {
    let above_zero = settings::duration(text).filter(|time| !time.is_zero());
    above_zero.ok_or_else(|| "a duration above 0, such as 90s or 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_for_all_and_the_default_for_this_machine() {
        let listen = "192.0.2.1:9000".parse().ok();
        let text = |listen, port| address(listen, port, METRICS_PORT).to_string();
        assert_eq!(text(None, None), "127.0.0.1:8009");
        assert_eq!(text(None, Some(9001)), "0.0.0.0:9001");
        assert_eq!(text(listen, Some(9001)), "192.0.2.1:9000");
        assert_eq!(metrics_address(true, listen, None, METRICS_PORT), Ok(None), "it prints");
    }
}
