//! Arguments of `hawser health`.

use clap::{Args, ValueEnum};
use hawser_node::settings::SettingSources;

use super::environment;

/// `hawser health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Purpose of the readiness.
    #[arg(long = "for", value_name = "WHAT", value_enum, default_value_t)]
    pub(crate) purpose: HealthPurpose,
    /// Address of the node's metrics, `host:port` [default: that of its settings, or else of the first node of
    /// ./hawser-dev if no variable is about metrics or a data folder, or else 127.0.0.1:8008].
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// File with the node's settings [env: HAWSER_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

/// A purpose of readiness. Each needs all conditions of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum HealthPurpose {
    /// Database, registry and rates are loaded.
    Start,
    /// Answers queries and serves streams.
    #[default]
    Read,
    /// Accepts publishes.
    Publish,
}

impl HealthPurpose {
    /// Returns the word for command line and URL.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Read => "read",
            Self::Publish => "publish",
        }
    }
}

/// Variables that are about the metrics, or name a file with settings or the node's data folder: each is set only where
/// a node has settings of its own.
const NODE_VARIABLES: [&str; 5] = [
    "XMTPD_METRICS_ENABLE",
    "XMTPD_METRICS_METRICS_ADDRESS",
    "XMTPD_METRICS_METRICS_PORT",
    "HAWSER_CONFIG",
    "HAWSER_DATA_DIR",
];

/// Returns true if the environment is that of a node with settings of its own. Such a node is asked at its own address,
/// which may be the default one, whatever the current folder holds.
#[must_use]
pub(crate) fn is_beside_a_node() -> bool {
    is_of_a_node(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Returns true for the environment of a node. `is_given` tells of each variable if it has a value.
fn is_of_a_node(is_given: impl Fn(&str) -> bool) -> bool {
    NODE_VARIABLES.into_iter().any(is_given)
}

impl HealthArgs {
    /// Returns true if a flag names the node that is asked, or the environment is that of a node.
    #[must_use]
    pub(crate) fn names_node(&self) -> bool {
        self.metrics.is_some() || self.config.is_some() || is_beside_a_node()
    }

    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        let file = self.config.clone().map(|path| ("config".to_owned(), path));
        SettingSources::new(file, environment())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The image of the program names its data folder and no port, and a network of `hawser dev` leaves its folder
    /// when it ends.
    #[test]
    fn a_data_folder_or_a_setting_of_metrics_tells_of_a_node() {
        for name in [
            "HAWSER_DATA_DIR",
            "HAWSER_CONFIG",
            "XMTPD_METRICS_ENABLE",
            "XMTPD_METRICS_METRICS_ADDRESS",
            "XMTPD_METRICS_METRICS_PORT",
        ] {
            assert!(is_of_a_node(|given| given == name), "{name}");
        }
        assert!(!is_of_a_node(|_| false));
        assert!(!is_of_a_node(|given| given == "XMTPD_API_PORT"));
    }
}
