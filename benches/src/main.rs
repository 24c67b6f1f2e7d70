//! `hawser-bench` measures a real node from outside, and in the same run the limits of the machine.
//!
//! In reading order: [`workload`] makes signed envelopes, [`rpc`] and [`load`] send them, [`network`] starts nodes as
//! processes, [`link`] is a way between two of them that can be cut, [`log_server`] plays a chain, [`limits`] measures
//! the machine, [`scenario`] has one file for each figure, [`flood`] attacks a node beside one of them, or a [`sink`]
//! instead, [`results`] keeps figures, [`verdict`] compares them with what is promised, and [`report`] writes them up.
//! [`micro`], [`identity`], [`key_package`], [`strand`], [`prune`] and [`streams`] measure parts of a node by
//! themselves. [`seeded_history`] and [`expired`] write strands that no publisher can make, and [`rebuild_part`] is a
//! process that rebuilds and may be cut off.

mod args;
mod child;
mod cli;
mod error;
mod expired;
mod flood;
mod http;
mod identity;
mod idle_server;
mod key_package;
mod limits;
mod link;
mod load;
mod log_server;
mod micro;
mod network;
mod process;
mod prune;
mod rebuild_part;
mod redis;
mod report;
mod results;
mod rpc;
mod run;
mod scenario;
mod seeded_history;
mod sink;
mod stats;
mod strand;
mod streams;
mod verdict;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command};
use crate::error::BenchError;
use crate::results::Run;

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hawser-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<(), BenchError> {
    // Some commands open databases in this process, and a node that lacks instructions could not say so.
    hawser_storage::check_processor()?;
    match command {
        Command::IdleServer { answer_len } => {
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(idle_server::run(answer_len))
        }
        Command::Sink => Builder::new_current_thread().enable_all().build()?.block_on(sink::run()),
        Command::RebuildPart { folder, part } => rebuild_part::run(&folder, part),
        Command::Micro { data, payload_size } => micro::run(&data.path(), payload_size),
        Command::Identity => identity::run(),
        Command::KeyPackage => key_package::run(),
        Command::Strand { keep: Some(folder), .. } => strand::run_kept(&folder),
        Command::Strand { data, stored, payers, payload_size, keep: None } => {
            strand::run(&data.path(), stored, payers, payload_size)
        }
        Command::Prune { data, stored, payload_size } => {
            prune::run(&data.path(), stored, payload_size)
        }
        Command::Streams { data, listeners } => streams::run(&data.path(), listeners),
        Command::Report { results, document } => {
            let runs = results.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
            match document {
                Some(document) => report::write(&document, &runs),
                None => {
                    print!("{}", report::figures(&runs)?);
                    Ok(())
                }
            }
        }
        // The generator uses one thread and leaves the rest of the machine to the node.
        command => Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut terminated = signal(SignalKind::terminate())?;
            // Every way to end drops the started values, and with them all child processes.
            tokio::select! {
                ended = run::run(command) => ended,
                _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
                _ = terminated.recv() => Err("terminated".into()),
            }
        }),
    }
}
