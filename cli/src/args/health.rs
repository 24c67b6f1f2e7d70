//! Arguments of `hawser health`.

use clap::{Args, ValueEnum};
use hawser_node::settings::SettingSources;

use super::sources_of;

/// `hawser health`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 the node is ready, 1 it is not or cannot be asked, 2 usage.")]
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

impl HealthArgs {
    /// Returns true if a flag names a file with settings.
    #[must_use]
    pub(crate) fn has_settings(&self) -> bool {
        self.config.is_some()
    }

    /// Returns the flags together with the environment.
    #[must_use]
    pub(crate) fn sources(&self) -> SettingSources {
        sources_of([("config", &self.config)])
    }
}
