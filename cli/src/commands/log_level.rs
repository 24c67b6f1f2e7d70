//! `hawser log-level`: shows and changes what a running node logs.

use hawser_node::admin::{self, AdminRequest, LogRequest};
use hawser_node::error::RunError;
use serde_json::Value;

use super::asked_node;
use crate::args::running_node::LogLevelArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When no node runs on the folder, or it refuses the filter.
pub(super) fn run(args: &LogLevelArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = asked_node::data_dir(&args.data, None)?;
    let request = match &args.filter {
        _ if args.reset => LogRequest::Reset,
        None => LogRequest::Show,
        Some(filter) => LogRequest::Set { filter: filter.clone(), for_s: args.lasts.as_secs() },
    };
    let done = admin::ask(&data_dir, &AdminRequest::LogLevel(request), &mut |_| {})?;
    let Some(done) = done else { return Err(super::no_node_on(&data_dir)) };
    if as_json {
        output::line(&done);
    } else {
        show(&done);
    }
    Ok(())
}

fn show(done: &Value) {
    match (done["filter"].as_str(), done["left_s"].as_u64()) {
        (Some(filter), Some(left_s)) => {
            output::line(format_args!("{filter}, for another {left_s} s"));
        }
        _ => output::line("the level of the settings"),
    }
}
