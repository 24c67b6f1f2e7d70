//! `hawser completion`: scripts with which shells complete commands and flags.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::output;

/// Prints the script of a shell.
pub(super) fn run(shell: Shell, as_json: bool) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = script.trim_end();
    if as_json {
        output::line(json!({ "shell": shell.to_string(), "script": script }));
    } else {
        output::line(script);
    }
}
