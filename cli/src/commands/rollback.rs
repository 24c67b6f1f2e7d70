//! `hawser rollback`: returns the database of a stopped node to its format before an upgrade. See
//! `docs/runbooks/upgrade.md`.

use std::io;

use hawser_node::error::RunError;
use hawser_node::service::projections;
use hawser_node::settings;
use hawser_storage::{RollbackError, discard_copies, kept_format};
use serde_json::json;

use crate::args::backup::RollbackArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When there is no copy, when the operator does not confirm, when a node holds the database, or when a file cannot be
/// moved. The next run goes on.
pub(super) fn run(args: &RollbackArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let shown = data_dir.display();
    let found = kept_format(&data_dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RunError::not_found(format!(
            "there is no folder {shown}: name the data folder of the node (--data-dir)"
        )),
        _ => RunError::failed(format!("{shown}: {error}")),
    })?;
    if let Some(format) = found.filter(|_| !args.yes) {
        let question = match args.discard {
            true => {
                format!("Remove the copy of format {format}, without which there is no return?")
            }
            false => format!(
                "Return to format {format}? What was written since the upgrade stays in a folder of its own."
            ),
        };
        output::confirm(question, "nothing was changed")?;
    }
    if args.discard {
        let removed = discard_copies(&data_dir).map_err(refusal)?;
        print(
            as_json,
            json!({ "removed": removed }),
            &format!("{} removed", output::count(removed, "folder")),
        );
        return Ok(());
    }
    let done = projections::roll_back(&data_dir).map_err(refusal)?;
    let text = format!(
        "The database has format {} again. Start the earlier version of the program: the node waits in quarantine until it \
         has the end of its strand from its peers. The newer database is in {}: remove it when peers hold all that the \
         node had published.",
        done.format,
        done.newer.display()
    );
    print(as_json, json!({ "format": done.format, "newer": done.newer }), &text);
    Ok(())
}

fn print(as_json: bool, json: serde_json::Value, text: &str) {
    if as_json {
        output::line(json);
    } else {
        output::line(text);
    }
}

fn refusal(error: RollbackError) -> RunError {
    match error {
        RollbackError::NoCopy { .. } => RunError::not_found(error),
        RollbackError::Held { .. }
        | RollbackError::NewerInTheWay { .. }
        | RollbackError::Unfinished { .. } => RunError::refused(error),
        RollbackError::Copy { .. } | RollbackError::Files { .. } => RunError::failed(error),
    }
}
