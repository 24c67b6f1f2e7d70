//! `hawser prune`: removes expired envelopes, or prints which would be removed. See `docs/protocol/pruning.md`.

use std::ops::ControlFlow;

use hawser_node::admin::AdminRequest;
use hawser_node::error::RunError;
use hawser_node::prune;
use hawser_node::service::projections;
use hawser_node::settings;
use serde_json::Value;

use super::backup as backups;
use super::rebuild;
use crate::args::running_node::PruneArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When not all removable envelopes could be removed. The next run continues.
pub(super) fn run(args: &PruneArgs, as_json: bool) -> Result<(), RunError> {
    let sources = args.data.sources();
    let data_dir = settings::data_dir(&sources).map_err(RunError::usage)?;
    // A setting that keeps everything also counts for this command.
    let dry_run = settings::prune_dry_run(&sources).map_err(RunError::usage)? || args.dry_run;
    let request = AdminRequest::Prune { dry_run };
    let done = backups::node_or("prune", &data_dir, &request, |bar| {
        let (store, _) = projections::open_existing(&data_dir).map_err(rebuild::refusal)?;
        prune::of_stopped(&store, dry_run, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        })
    })?;
    if as_json {
        output::line(&done);
    } else {
        show(&done);
    }
    Ok(())
}

fn show(done: &Value) {
    let is_dry = done["dry_run"] == true;
    let number = |of: &Value| of.as_u64().unwrap_or_default();
    let verb = if is_dry { "would go" } else { "removed" };
    for strand in done["strands"].as_array().into_iter().flatten() {
        output::line(format_args!(
            "strand {}: {} {verb}, {}",
            number(&strand["originator"]),
            output::count(number(&strand["pruned"]), "envelope"),
            output::size(number(&strand["bytes"])),
        ));
        for (why, count) in strand["stays"].as_object().into_iter().flatten() {
            output::line(format_args!("  {} stay: {}", number(count), reason(why)));
        }
        if is_dry {
            output::line(format_args!("  {} stay: not expired", number(&strand["not_expired"])));
        }
    }
    match number(&done["compared_with_unix_s"]) {
        0 => output::line(
            "the folder knows of no payer report on the settlement chain, so nothing goes",
        ),
        // The time is hours behind the clock: that of the reports on the chain.
        compared_s => output::line(format_args!(
            "{} {verb} in all, of those that had expired at {}",
            output::count(number(&done["pruned"]), "envelope"),
            output::time(i64::try_from(compared_s).unwrap_or(i64::MAX).saturating_mul(SECOND_NS)),
        )),
    }
    // A node of an earlier version says nothing of its disk.
    if let (false, Some(before)) = (is_dry, done["disk_bytes_before"].as_u64()) {
        show_disk(before, number(&done["disk_bytes"]), done["compacted"] == true);
    }
}

fn show_disk(before: u64, after: u64, is_compacted: bool) {
    let (before, after) = (output::size(before), output::size(after));
    output::line(format_args!("the database takes {after} on the disk, and took {before} before"));
    if !is_compacted {
        output::line(
            "its files shrink in the background, the last of them after a month: this command gives the room back \
            at once when the node is stopped",
        );
    }
}

const SECOND_NS: i64 = 1_000_000_000;

/// Returns the sentence for the name of a reason.
fn reason(name: &str) -> &str {
    match name {
        "chain" => "expired, of a chain: kept for ever",
        "no_report" => "expired, and no payer report about the strand is on the settlement chain",
        "not_reported" => "expired, and behind the last payer report about the strand",
        "report_ends" => "expired, and a payer report that is not settled begins or ends there",
        "later" => "expired, for the next run",
        "refused" => "expired by the index, and their bytes or marks do not let them go",
        other => other,
    }
}
