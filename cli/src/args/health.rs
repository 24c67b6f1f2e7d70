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
    /// ./hawser-dev, or else 127.0.0.1:8008].
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

/// Variables that name the address of the metrics, or a file with settings.
const METRICS_VARIABLES: [&str; 3] =
    ["XMTPD_METRICS_METRICS_ADDRESS", "XMTPD_METRICS_METRICS_PORT", "HAWSER_CONFIG"];

impl HealthArgs {
    /// Returns true if a flag, or a variable of the environment, names the address of the metrics or a file with
    /// settings.
    #[must_use]
    pub(crate) fn names_metrics(&self) -> bool {
        let is_given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let by_flag = self.metrics.is_some() || self.config.is_some();
        by_flag || METRICS_VARIABLES.into_iter().any(is_given)
    }

    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        let file = self.config.clone().map(|path| ("config".to_owned(), path));
        SettingSources::new(file, environment())
    }
}
