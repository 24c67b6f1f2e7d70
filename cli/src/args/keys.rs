//! Arguments of `hawser keys`.

use std::path::PathBuf;

use clap::Subcommand;

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
}
