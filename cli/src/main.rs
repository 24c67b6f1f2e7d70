//! `hawser`: reads the command line, does what it says, and ends with the exit code that belongs
//! to the outcome.

use std::process::ExitCode;

use clap::Parser as _;
use hawser_node::cli::Cli;
use hawser_node::{commands, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let as_json = cli.json;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure, as_json);
            ExitCode::from(failure.reason.exit_code())
        }
    }
}
