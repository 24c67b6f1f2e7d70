//! `hawser scrub`: reads everything back that a node's database holds.

use std::ops::ControlFlow;

use hawser_node::admin::{self, AdminRequest};
use hawser_node::backup;
use hawser_node::error::RunError;
use hawser_node::service::projections;
use hawser_node::settings;
use serde_json::Value;

use super::backup as backups;
use super::rebuild;
use crate::args::backup::ScrubArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When something is damaged, or not everything could be read.
pub(super) fn run(args: &ScrubArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let bytes_per_s = u64::from(args.rate) << 20;
    let bar = backups::bar("scrub");
    let request = AdminRequest::Scrub { bytes_per_s };
    let done = match admin::ask(&data_dir, &request, &mut |bytes| bar.set_position(bytes))? {
        Some(done) => done,
        None => {
            let (store, _) = projections::open_existing(&data_dir).map_err(rebuild::refusal)?;
            let report = store.scrub(&mut |bytes| {
                bar.inc(bytes);
                ControlFlow::Continue(())
            });
            backup::json_of_scrub(&report.map_err(RunError::failed)?)
        }
    };
    bar.finish_and_clear();
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64);
    let damages = done.get("damages").and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        output::line(&done);
    } else {
        for damage in &damages {
            let text = |name: &str| damage.get(name).and_then(Value::as_str).unwrap_or("-");
            let place = |name: &str| {
                number(damage, name).map_or_else(|| "?".to_owned(), |it| it.to_string())
            };
            output::line(format_args!(
                "{} {}  strand {} from {} to {}: {}",
                text("family"),
                text("file"),
                place("originator"),
                place("first"),
                place("last"),
                text("cause"),
            ));
        }
        let (rows, bytes) = (number(&done, "rows"), number(&done, "bytes"));
        output::line(format_args!(
            "read {} rows, {}",
            rows.unwrap_or_default(),
            backups::size(bytes.unwrap_or_default())
        ));
    }
    if damages.is_empty() {
        return Ok(());
    }
    let found = damages.len() as u64 + number(&done, "further").unwrap_or_default();
    Err(RunError::failed(format!(
        "{found} damaged parts: keep the folder, replace the disk, and follow docs/runbooks/disk.md"
    )))
}
