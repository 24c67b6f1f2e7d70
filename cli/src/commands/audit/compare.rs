//! `hawser audit compare`: the places at which logs differ, and the differences.

use hawser_audit::compare::{Side, StrandDifference, compare};
use hawser_node::error::{RunError, RunErrorKind};
use serde_json::json;

use super::replay::FAULTS_EXIT_CODE;
use super::source::{self, OpenLog};
use crate::args::audit::AuditCompareArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a log cannot be read; and with an exit code of its own if logs differ.
pub(in super::super) fn run(args: &AuditCompareArgs, as_json: bool) -> Result<(), RunError> {
    let [first, others @ ..] = &args.logs[..] else {
        return Err(RunError::usage("give at least two logs"));
    };
    if others.is_empty() {
        return Err(RunError::usage("give at least two logs"));
    }
    let opened = args.logs.iter().map(|log| source::open(log)).collect::<Result<Vec<_>, _>>()?;
    let views = opened.iter().map(OpenLog::view).collect::<Result<Vec<_>, _>>()?;
    let mut are_equal = true;
    for (other, view) in others.iter().zip(&views[1..]) {
        let found = compare(&*views[0], &**view, args.whole)
            .map_err(|error| RunError::failed(format!("{first} and {other}: {error}")))?;
        let is_equal = found.iter().all(StrandDifference::is_equal);
        are_equal &= is_equal;
        if as_json {
            let differing: Vec<_> = found.iter().filter(|it| !it.is_equal()).collect();
            output::line(json!({
                "first": first,
                "second": other,
                "equal": is_equal,
                "strands": found.len(),
                "differing": differing,
            }));
            continue;
        }
        found.iter().filter(|it| !it.is_equal()).for_each(|it| tell(it, first, other));
        let strands = output::count(found.len(), "strand");
        let verdict = if is_equal { "equal" } else { "different" };
        output::line(format_args!("{first} and {other}: {strands}, {verdict}"));
    }
    if are_equal {
        return Ok(());
    }
    Err(RunError { kind: RunErrorKind::Answer(FAULTS_EXIT_CODE), text: String::new() })
}

fn tell(found: &StrandDifference, first: &str, second: &str) {
    let strand = found.originator_id;
    let name = |side| if side == Side::First { first } else { second };
    if found.heads.0 != found.heads.1 {
        let (mine, other) = found.heads;
        output::line(format_args!("strand {strand}: to {mine} in {first}, to {other} in {second}"));
    }
    if let Some(place) = found.first_other_leaf {
        output::line(format_args!("strand {strand}: the trees differ from {place} on"));
    }
    for lacking in &found.lacking {
        let (from, through, of) = (lacking.from, lacking.through, name(lacking.lacking));
        output::line(format_args!("{strand}:{from} to {through}  not in {of}"));
    }
    for other in &found.other {
        let (place, what, text) = (other.sequence_id, other.what, &other.text);
        output::line(format_args!("{strand}:{place}  other {what}: {text}"));
    }
    let (lacking, other) = (found.lacking_count, found.other_count);
    output::line(format_args!(
        "strand {strand}: {lacking} places are in one log only, and {other} differ"
    ));
    for (side, error) in &found.unreadable {
        output::line(format_args!("strand {strand} in {}: {error}", name(*side)));
    }
}
