//! `hawser scrub`: reads a node's whole database back, and makes a running node repair it.

use std::ops::ControlFlow;

use hawser_node::admin::AdminRequest;
use hawser_node::backup;
use hawser_node::error::RunError;
use hawser_node::service::projections;
use hawser_node::settings;
use serde_json::{Value, json};

use super::backup as backups;
use super::rebuild;
use crate::args::backup::ScrubArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When a damaged part was not repaired, or not everything could be read.
pub(super) fn run(args: &ScrubArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let (bytes_per_s, repair) = (u64::from(args.rate) << 20, args.repair);
    let request = AdminRequest::Scrub { bytes_per_s, repair };
    let mut is_stopped = false;
    let done = backups::node_or("scrub", &data_dir, &request, |bar| {
        is_stopped = true;
        if repair {
            return Err(RunError::not_found(format!(
                "no node runs on {}, and only a running one has peers: start it, then repeat the command",
                data_dir.display()
            )));
        }
        let (store, _) = projections::open_existing(&data_dir).map_err(rebuild::refusal)?;
        // A projection with a table that cannot be opened has just been dropped, so the scrub does not meet it.
        let missing = store.stale_projections();
        let report = store.scrub(&mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        let mut done = backup::json_of_scrub(&report.map_err(RunError::failed)?);
        done["missing"] = json!(missing);
        Ok(done)
    })?;
    if as_json {
        output::line(&done);
    } else {
        show(&done);
    }
    if done.get("whole").and_then(Value::as_bool) == Some(true) {
        return match list(&done, "missing").len() {
            0 => Ok(()),
            missing => Err(RunError::failed(format!(
                "{} not read: follow docs/runbooks/disk.md, *Damage that a start meets*",
                output::count(missing as u64, "projection")
            ))),
        };
    }
    let left = list(&done, if repair { "left" } else { "damages" }).len() as u64;
    let left = left + number(&done, "further").unwrap_or_default();
    Err(RunError::failed(advice(left, repair, is_stopped)))
}

/// Returns the error for damaged parts, with the step to take. Only a running node has peers that can supply them.
fn advice(left: u64, repair: bool, is_stopped: bool) -> String {
    let left = output::count(left, "damaged part");
    match (repair, is_stopped) {
        (true, _) => format!("{left} could not be repaired: follow docs/runbooks/disk.md"),
        (false, true) => format!(
            "{left}: start the node, repeat the command with --repair, and follow docs/runbooks/disk.md"
        ),
        (false, false) => {
            format!("{left}: repeat the command with --repair, and follow docs/runbooks/disk.md")
        }
    }
}

/// Prints the outcome for people.
fn show(done: &Value) {
    for damage in list(done, "damages") {
        line_of(damage, "cause");
    }
    for damage in list(done, "left") {
        line_of(damage, "reason");
    }
    for projection in list(done, "missing").iter().filter_map(Value::as_str) {
        output::line(format_args!(
            "{projection}  missing: the node makes it anew from its log when it starts"
        ));
    }
    let (rows, bytes) = (number(done, "rows"), number(done, "bytes"));
    let size = output::size(bytes.unwrap_or_default());
    let repaired = number(done, "repaired");
    let repaired = repaired.map(|it| format!(", put back {}", output::count(it, "damaged part")));
    let (rows, repaired) = (rows.unwrap_or_default(), repaired.unwrap_or_default());
    output::line(format_args!("read {}, {size}{repaired}", output::count(rows, "row")));
}

fn line_of(damage: &Value, why: &str) {
    let text = |name: &str| damage.get(name).and_then(Value::as_str).unwrap_or("-");
    let place =
        |name: &str| number(damage, name).map_or_else(|| "?".to_owned(), |it| it.to_string());
    let prefix = if why == "reason" { "left: " } else { "" };
    output::line(format_args!(
        "{prefix}{} {}  strand {} from {} to {}: {}",
        text("family"),
        text("file"),
        place("originator"),
        place("first"),
        place("last"),
        text(why),
    ));
}

fn number(of: &Value, name: &str) -> Option<u64> {
    of.get(name).and_then(Value::as_u64)
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command with --repair is refused there, which is one step more for an operator under pressure.
    #[test]
    fn a_stopped_node_is_to_be_started_before_the_repair() {
        assert!(advice(1, false, true).starts_with("1 damaged part: start the node, repeat"));
        assert!(advice(2, false, false).starts_with("2 damaged parts: repeat the command"));
        assert!(advice(2, true, false).starts_with("2 damaged parts could not be repaired"));
    }
}
