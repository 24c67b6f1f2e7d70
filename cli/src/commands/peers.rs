//! `hawser peers`: shows and changes which peers a running node stays apart from.

use hawser_node::admin::{self, AdminRequest, PartitionRequest};
use hawser_node::error::RunError;
use serde_json::Value;

use super::asked_node;
use crate::args::running_node::PeersArgs;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When no node runs on the folder, or it refuses the order.
pub(super) fn run(args: &PeersArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = asked_node::data_dir(&args.data, None)?;
    let request = match &*args.apart {
        _ if args.together => PartitionRequest::End,
        [] => PartitionRequest::Show,
        peers => PartitionRequest::Keep { peers: peers.to_vec(), for_s: args.lasts.as_secs() },
    };
    let done = admin::ask(&data_dir, &AdminRequest::Apart(request), &mut |_| {})?;
    let Some(done) = done else { return Err(super::no_node_on(&data_dir)) };
    if as_json {
        output::line(&done);
        return Ok(());
    }
    let apart = done["apart"].as_array().map(Vec::as_slice).unwrap_or_default();
    if apart.is_empty() {
        output::line("the node stays apart from no peer");
    }
    apart.iter().for_each(|peer| output::line(text(peer)));
    Ok(())
}

fn text(peer: &Value) -> String {
    format!("apart from node {}, for another {} s", peer["node_id"], peer["left_s"])
}
