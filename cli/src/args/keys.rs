//! Arguments of `hawser keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::onchain::NetworkArgs;

/// `hawser keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Generate a random key.
    Generate {
        /// File for the key, readable by its owner only [default: print the key]. Never replaces a
        /// file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print address and public key of a key file.
    Show {
        /// Path of the key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make the key of a new node that replaces an existing one, and print the remaining steps. Sends no transaction.
    Rotate(KeysRotateArgs),
}

/// `hawser keys rotate`. See `docs/runbooks/rotate-a-key.md`.
#[derive(Debug, Args)]
#[command(
    after_help = "The registry lets no key be changed, so a new key means a new node beside the old one. Exit codes: 0 the steps were printed, or with --check all are done; 9 with --check: some are left or not known."
)]
pub(crate) struct KeysRotateArgs {
    /// File with the old node's key. Only its public key is used.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// File for the new node's key [default: the old name and `.new`]. Never replaced: an existing key is used.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// URL of the new node's API: http://host:port or https://host.
    #[arg(long, value_name = "URL")]
    pub(crate) http_address: Option<String>,
    /// Write nothing. Only print which steps are done, according to the registry and both nodes, and exit with 9 if
    /// some are left.
    #[arg(long)]
    pub(crate) check: bool,
    /// Chains and contracts.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}
