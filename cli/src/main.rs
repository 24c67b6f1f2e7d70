//! `hawser`: the command line of nodes, gateways and their administration. In reading order:
//!
//! - [`args`]: the command tree; [`commands`]: one file per command;
//! - [`logging`]: the log lines of `hawser node` and `hawser gateway`;
//! - [`output`]: what commands print; [`output_file`]: files for results; [`render`]: one envelope as text or JSON;
//! - [`exit_codes`]: exit codes of verdicts;
//! - [`client`]: calls to a running node; [`network_file`]: the network that `hawser dev` runs; [`clock`]: the time;
//! - [`metrics_server`]: the page of metrics of a watcher.
//!
//! Settings, start and stop order are in `hawser-node`. Without the default feature `dev` the
//! program has no `hawser dev` and no `hawser chain`, and links no EVM.

mod args;
mod client;
mod clock;
mod commands;
mod exit_codes;
mod logging;
mod metrics_server;
mod network_file;
mod output;
mod output_file;
mod render;

use std::process::ExitCode;

use clap::Parser as _;
use hawser_node::environment;
use hawser_node::error::RunError;

use crate::args::{Cli, Command};

/// The allocator of the whole process, RocksDB included (`docs/decisions/0084-one-allocator-that-returns-memory.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The commit that the program was built from; empty if it is not known. `build.rs` finds it.
const COMMIT: &str = env!("HAWSER_COMMIT");

/// Client envelopes that published clients made.
#[cfg(test)]
const VECTORS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");

fn main() -> ExitCode {
    // Before a key is read. Watchers and the commands of payers and administrators have keys, too.
    environment::forbid_core_dumps();
    let cli = Cli::try_parse().unwrap_or_else(|error| unparsed(&error));
    let as_json = cli.json;
    let checked = check_processor(&cli.command).and_then(|()| args::require_readable_environment());
    match checked.and_then(|()| commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure, as_json);
            ExitCode::from(output::exit_code(failure.kind))
        }
    }
}

/// Ends the program after a command line that is wrong, or that asks for help. A program that asks for JSON gets the
/// fault in the form of all other errors.
fn unparsed(error: &clap::Error) -> ! {
    let as_json = std::env::args_os().any(|word| word == "--json");
    if !as_json || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    output::failure(&RunError::usage(text), true);
    std::process::exit(error.exit_code())
}

/// Refuses to run where RocksDB would end the program with an illegal instruction. `hawser doctor` opens no database,
/// and has this as one of its checks.
fn check_processor(command: &Command) -> Result<(), RunError> {
    match command {
        Command::Doctor(_) => Ok(()),
        _ => hawser_storage::check_processor().map_err(RunError::failed),
    }
}
