//! Checks of a node as people and programs read them.

use hawser_node::service::doctor::DoctorCheck;
use serde_json::{Value, json};

use crate::output;

/// Returns a check as programs read it.
pub(super) fn as_value(checked: &DoctorCheck) -> Value {
    let DoctorCheck { name, result, found, remedy } = checked;
    json!({ "check": name, "result": result.label(), "found": found, "remedy": remedy })
}

/// Prints a check, and the step to take.
pub(super) fn print(checked: &DoctorCheck) {
    let DoctorCheck { name, result, found, remedy } = checked;
    output::line(format_args!("{:<4}  {name}: {found}", result.label()));
    if let Some(remedy) = remedy {
        output::line(format_args!("      do: {remedy}"));
    }
}

/// Returns a check with the step to take in one line.
pub(super) fn in_a_line(checked: &DoctorCheck) -> String {
    let DoctorCheck { name, found, remedy, .. } = checked;
    let remedy = remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
    format!("{name}: {found}{remedy}")
}
