//! Exit codes of verdicts. Lower ones are those of [errors](crate::output::exit_code).

use hawser_node::error::{RunError, RunErrorKind};

/// The command has found claims only, which may name an innocent party.
pub(crate) const CLAIM: u8 = 5;
/// The evidence decides nothing.
pub(crate) const INCONCLUSIVE: u8 = 6;
/// The statement is refuted.
pub(crate) const REFUTED: u8 = 7;
/// Faults, alarms or differences were found.
pub(crate) const FAULTS: u8 = 8;
/// None were found, and not everything could be read or compared.
pub(crate) const INCOMPLETE: u8 = 9;

/// Returns the error that ends the program with the exit code of a verdict. An empty text is not printed.
pub(crate) fn answer(code: u8, text: impl Into<String>) -> RunError {
    RunError { kind: RunErrorKind::Answer(code), text: text.into() }
}
