//! `hawser audit compare`: the places at which logs differ, and the differences.

use hawser_audit::compare::{ComparedBy, ComparedPlaces, Side, StrandDifference, compare};
use hawser_node::error::{RunError, RunErrorKind};
use serde_json::json;

use super::replay::{FAULTS_EXIT_CODE, INCOMPLETE_EXIT_CODE};
use super::source::{self, OpenLog};
use crate::args::audit::AuditCompareArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a log cannot be read; and with an exit code of its own if logs differ, or if nothing of two logs was there to
/// be compared.
pub(in super::super) fn run(args: &AuditCompareArgs, as_json: bool) -> Result<(), RunError> {
    let [first, others @ ..] = &args.logs[..] else {
        return Err(RunError::usage("give at least two logs"));
    };
    if others.is_empty() {
        return Err(RunError::usage("give at least two logs"));
    }
    let opened = args.logs.iter().map(|log| source::open(log)).collect::<Result<Vec<_>, _>>()?;
    let views = opened.iter().map(OpenLog::view).collect::<Result<Vec<_>, _>>()?;
    let by = if args.quick { ComparedBy::StoredTrees } else { ComparedBy::Rows };
    let (mut are_equal, mut not_compared) = (true, None);
    for (other, view) in others.iter().zip(&views[1..]) {
        let found = compare(&*views[0], &**view, by)
            .map_err(|error| RunError::failed(format!("{first} and {other}: {error}")))?;
        let is_equal = found.iter().all(StrandDifference::is_equal);
        are_equal &= is_equal;
        let mut compared = ComparedPlaces::default();
        found.iter().for_each(|strand| compared.add(strand.compared));
        // Two nodes that show nothing are not equal for that.
        let is_nothing = is_equal && compared == ComparedPlaces::default();
        if is_nothing {
            not_compared = not_compared.or(Some(other));
        }
        if as_json {
            let differing: Vec<_> = found.iter().filter(|it| !it.is_equal()).collect();
            output::line(json!({
                "first": first,
                "second": other,
                "equal": is_equal && !is_nothing,
                "compared_by": by,
                "compared": compared,
                "strands": found.len(),
                "differing": differing,
            }));
            continue;
        }
        found.iter().filter(|it| !it.is_equal()).for_each(|it| print(it, first, other));
        let strands = output::count(found.len(), "strand");
        let verdict = match (is_equal, is_nothing) {
            (false, _) => "different",
            (true, false) => "equal",
            (true, true) => "not compared",
        };
        let evidence = evidence(compared);
        output::line(format_args!("{first} and {other}: {strands}, {verdict}: {evidence}"));
    }
    let (code, text) = match (are_equal, not_compared) {
        (true, None) => return Ok(()),
        (true, Some(other)) => {
            (INCOMPLETE_EXIT_CODE, format!("{first} and {other}: there was nothing to compare"))
        }
        (false, _) => (FAULTS_EXIT_CODE, String::new()),
    };
    Err(RunError { kind: RunErrorKind::Answer(code), text })
}

/// Returns the basis of a verdict, for people.
fn evidence(compared: ComparedPlaces) -> String {
    let ComparedPlaces { envelopes, stored_leaves, by_stored_trees, dated_otherwise } = compared;
    let count =
        |number: u64, thing| output::count(usize::try_from(number).unwrap_or(usize::MAX), thing);
    let mut text = format!("{} compared", count(envelopes, "envelope"));
    if dated_otherwise > 0 {
        text += &format!(
            ", {dated_otherwise} of them of chains with the same content and another time"
        );
    }
    if stored_leaves > 0 {
        let places = count(stored_leaves, "place");
        text += &format!(", {places} without an envelope by the leaves that the logs have stored");
    }
    if by_stored_trees > 0 {
        let places = count(by_stored_trees, "place");
        text += &format!(
            ", {places} by stored trees alone, which need not be those of the envelopes (--quick)"
        );
    }
    text
}

fn print(found: &StrandDifference, first: &str, second: &str) {
    let strand = found.originator_id;
    let name = |side| if side == Side::First { first } else { second };
    if found.heads.0 != found.heads.1 {
        let (mine, other) = found.heads;
        output::line(format_args!("strand {strand}: to {mine} in {first}, to {other} in {second}"));
    }
    if let Some(place) = found.first_other_leaf {
        output::line(format_args!("strand {strand}: the stored trees differ from {place} on"));
    }
    for lacking in &found.lacking {
        let (from, through, of) = (lacking.from, lacking.through, name(lacking.lacking));
        output::line(format_args!("{strand}:{from} to {through}  not in {of}"));
    }
    for stated in &found.stated_void {
        let (from, through, of) = (stated.from, stated.through, name(stated.kept_by));
        output::line(format_args!(
            "{strand}:{from} to {through}  declared void by the node, as a statement in {of} says; \
             its signature was not checked (audit replay)"
        ));
    }
    for other in &found.other {
        let (place, what, text) = (other.sequence_id, other.what, &other.text);
        output::line(format_args!("{strand}:{place}  other {what}: {text}"));
    }
    for it in &found.other_checkpoints {
        let ((mine, other), size) = (&it.roots, it.size);
        output::line(format_args!(
            "strand {strand}: two roots of {size} places that its node has signed, {mine} in {first} and {other} in \
             {second}; neither signature was checked (audit replay)"
        ));
    }
    let (lacking, other) = (output::count(found.lacking_count, "place"), found.other_count);
    output::line(format_args!("strand {strand}: {lacking} in one log only, {other} different"));
    for (side, error) in &found.unreadable {
        output::line(format_args!("strand {strand} in {}: {error}", name(*side)));
    }
}
