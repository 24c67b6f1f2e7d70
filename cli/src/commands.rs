//! One file per command. Each takes its arguments and prints its result on the standard output.

mod asked_node;
mod audit;
mod backup;
mod backup_signatures;
mod backup_verify;
mod bench;
#[cfg(feature = "dev")]
mod chain;
mod chain_watcher;
mod checks;
mod completion;
mod config;
mod conformance;
mod contracts;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod fees;
mod gateway;
mod health;
mod import;
mod keys;
mod keys_rotate;
mod log_level;
mod manual;
mod misbehavior;
mod misbehavior_pages;
mod misbehavior_reports;
mod network_watcher;
mod node;
pub(crate) mod onchain;
mod payer;
mod payer_bill;
mod payer_funds;
mod payer_usage;
mod peers;
mod promote;
mod prune;
mod publish;
mod query;
mod rebuild;
mod registry;
mod report;
mod restore;
mod rollback;
mod scrub;
mod size;
mod snapshot;
mod status;
mod tail;
mod truncate_strand;

use std::future::Future;
use std::path::Path;

use hawser_node::error::RunError;
use tokio::runtime::Builder;

use crate::args::backup::BackupCommand;
use crate::args::payer::PayerCommand;
use crate::args::{Cli, Command};

/// Runs the command of the command line.
///
/// # Errors
/// When the command fails; the kind decides the exit code.
pub(crate) fn run(cli: Cli) -> Result<(), RunError> {
    let json = cli.json;
    match cli.command {
        #[cfg(feature = "dev")]
        Command::Dev(args) => blocking(dev::run(args, json)),
        #[cfg(feature = "dev")]
        Command::Chain { command } => on_threads(chain::run(command, json)),
        Command::Node(args) => node::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Config { command } => blocking(config::run(command, json)),
        Command::Doctor(args) => blocking(doctor::run(args, json)),
        Command::Keys { command } => blocking(keys::run(&command, json)),
        Command::Publish(args) => blocking(publish::run(args, json)),
        Command::Query { command } => blocking(query::run(command, json)),
        Command::Conformance(args) => blocking(conformance::run(args, json)),
        Command::Bench(args) => on_threads(bench::run(&args, json)),
        Command::Tail(args) => blocking(tail::run(args, json)),
        Command::Status(args) => blocking(status::run(args, json)),
        Command::Audit { command } => audit::run(command, json),
        Command::Misbehavior { command } => blocking(misbehavior::run(command, json)),
        Command::Report { command } => blocking(report::run(command, json)),
        Command::ChainWatcher(args) => blocking(chain_watcher::run(args, json)),
        Command::NetworkWatcher(args) => blocking(network_watcher::run(args, json)),
        Command::Health(args) => blocking(health::run(args, json)),
        Command::Rebuild(args) => rebuild::run(&args, json),
        Command::Size(args) => {
            size::run(&args, json);
            Ok(())
        }
        Command::Backup { command } => run_backup(command, json),
        Command::Snapshot { command } => snapshot::run(command, json),
        Command::Scrub(args) => scrub::run(&args, json),
        Command::Prune(args) => prune::run(&args, json),
        Command::LogLevel(args) => log_level::run(&args, json),
        Command::Peers(args) => peers::run(&args, json),
        Command::Restore(args) => restore::run(args, json),
        Command::Promote(args) => promote::run(&args, json),
        Command::Rollback(args) => rollback::run(&args, json),
        Command::Import { command } => blocking(import::run(command, json)),
        Command::TruncateStrand(args) => truncate_strand::run(args, json),
        Command::Registry { command } => blocking(registry::run(command, json)),
        Command::Contracts { command } => blocking(contracts::run(command, json)),
        Command::Completion { shell } => {
            completion::run(shell, json);
            Ok(())
        }
        Command::Manual { folder } => manual::run(&folder, json),
        // It reads a log, on threads of its own.
        Command::Payer { command: PayerCommand::Usage(args) } if args.verify => {
            payer_bill::run(&args, json)
        }
        Command::Payer { command } => blocking(payer::run(command, json)),
        Command::Fees { command } => blocking(fees::run(command, json)),
    }
}

fn run_backup(command: BackupCommand, json: bool) -> Result<(), RunError> {
    match command {
        BackupCommand::Create(args) => backup::create(&args, json),
        BackupCommand::Verify(args) => backup_verify::run(&args, json),
        BackupCommand::List(args) => backup::list(&args, json),
        BackupCommand::Prune(args) => backup::prune(&args, json),
    }
}

/// Runs a command that waits for sockets or processes, on one thread.
fn blocking<T>(command: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    run_on(Builder::new_current_thread(), command)
}

/// Runs a command that computes beside its waits, on a thread for each core.
fn on_threads<T>(command: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    run_on(Builder::new_multi_thread(), command)
}

fn run_on<T>(
    mut threads: Builder,
    command: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    let runtime = threads.enable_all().build().map_err(|error| {
        RunError::failed(format!("the threads of the program cannot be started: {error}"))
    })?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

/// Returns the error of a command that asks the node on a data folder, if none runs there.
fn no_node_on(data_dir: &Path) -> RunError {
    let folder = data_dir.display();
    RunError::not_found(format!(
        "no node runs on {folder}: start it, or name the data folder of one that runs (--data-dir)"
    ))
}
