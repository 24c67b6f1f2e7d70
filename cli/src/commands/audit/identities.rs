//! `hawser audit identities`: identity updates with a used signature.

use hawser_audit::identity_repeats::{IdentityRepeats, UsedSignature, identity_repeats};
use hawser_node::error::RunError;
use serde_json::json;

use super::source;
use crate::args::audit::AuditIdentitiesArgs;
use crate::{exit_codes, output};

/// Runs the command.
///
/// # Errors
/// When the log cannot be read; and with an exit code of its own if readers get an update with a used signature.
pub(super) fn run(args: &AuditIdentitiesArgs, as_json: bool) -> Result<(), RunError> {
    let opened = source::open(&args.from)?;
    let view = opened.view()?;
    let found = identity_repeats(&*view)
        .map_err(|error| RunError::failed(format!("{}: {error}", args.from)))?;
    match as_json {
        true => output::line(json!(found)),
        false => print(&found),
    }
    if found.delivered == 0 {
        return Ok(());
    }
    Err(exit_codes::answer(exit_codes::FAULTS, ""))
}

fn print(found: &IdentityRepeats) {
    for UsedSignature { inbox_id, first, again, other_form, delivered } in &found.kept {
        let form = if *other_form { " in another form" } else { "" };
        let delivery = if *delivered { "" } else { "; readers do not get it" };
        output::line(format_args!(
            "inbox {inbox_id}: 1:{again} has a signature that 1:{first} has used{form}{delivery}"
        ));
    }
    let (updates, count, delivered) = (found.updates, found.count, found.delivered);
    output::line(format_args!(
        "{}, {count} with a used signature; readers get {delivered} of these",
        output::count(updates, "update")
    ));
    if found.unreadable > 0 {
        let unreadable = output::count(found.unreadable, "envelope");
        output::line(format_args!("{unreadable} without a readable update"));
    }
    if found.not_compared > 0 {
        output::line(format_args!(
            "{} not remembered, with which later ones were not compared",
            output::count(found.not_compared, "signature")
        ));
    }
}
