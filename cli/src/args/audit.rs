//! `hawser audit`: commands for those who do not believe their node.

use clap::Subcommand;

use super::NodeArgs;

/// `hawser audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Run a replica: follow nodes without being one, verify everything, and serve reads. Takes the settings of
    /// `hawser node`, and reads no node's key.
    Watch(NodeArgs),
}
