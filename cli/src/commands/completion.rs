//! `hawser completion`: scripts with which shells complete commands and flags.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::output;

/// Prints the script of a shell.
pub(super) fn run(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
}
