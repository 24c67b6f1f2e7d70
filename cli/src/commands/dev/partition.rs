//! `hawser dev partition` and `heal`: has each node keep apart from those of other groups.
//!
//! Each node is asked over the socket in its own data folder, so this also works for a node that was started by hand.

use std::path::Path;

use hawser_node::admin::{self, AdminRequest, PartitionRequest};
use hawser_node::error::RunError;
use serde_json::{Value, json};

use super::folder;
use crate::args::dev::{DevFolderArgs, DevPartitionArgs, NodeGroup};
use crate::network_file::{self, NetworkFile, NetworkNode};
use crate::output;

/// Cuts the connections between the groups.
///
/// # Errors
/// When a group names a node twice or one that the network does not have, when there is only one group, or when no node
/// runs.
pub(super) fn cut(args: &DevPartitionArgs, as_json: bool) -> Result<(), RunError> {
    let network = read(&args.folder.data_dir)?;
    let ids: Vec<u32> = network.nodes.iter().map(|node| node.node_id).collect();
    let sides = sides(&args.groups, &ids)?;
    let for_s = args.lasts.as_secs();
    let request = |node: &NetworkNode| {
        let is_other = |side: &&Vec<u32>| !side.contains(&node.node_id);
        let peers = sides.iter().filter(is_other).flatten().copied().collect();
        vec![PartitionRequest::End, PartitionRequest::Keep { peers, for_s }]
    };
    order(&network, request, as_json)
}

/// Ends a partition.
///
/// # Errors
/// When no node runs.
pub(super) fn heal(args: &DevFolderArgs, as_json: bool) -> Result<(), RunError> {
    let network = read(&args.data_dir)?;
    order(&network, |_| vec![PartitionRequest::End], as_json)
}

/// Reads the description of the network in a folder.
fn read(data_dir: &Path) -> Result<NetworkFile, RunError> {
    let path = data_dir.join(network_file::FILE_NAME);
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            RunError::not_found(format!("no network runs in {}", data_dir.display()))
        }
        _ => RunError::failed(format!("{}: {error}", path.display())),
    })?;
    NetworkFile::parse(&text)
        .map_err(|error| RunError::failed(format!("{}: {error}", path.display())))
}

/// Returns the sides of a partition: the groups, and the nodes that none of them names.
fn sides(groups: &[NodeGroup], ids: &[u32]) -> Result<Vec<Vec<u32>>, RunError> {
    let mut rest = ids.to_vec();
    for id in groups.iter().flat_map(|group| &group.0) {
        if !ids.contains(id) {
            return Err(folder::unknown(*id));
        }
        let before = rest.len();
        rest.retain(|other| other != id);
        if rest.len() == before {
            return Err(RunError::usage(format!("node {id} is named twice")));
        }
    }
    let named = groups.iter().map(|group| group.0.clone());
    let sides: Vec<_> = named.chain([rest]).filter(|side| !side.is_empty()).collect();
    if sides.len() < 2 {
        return Err(RunError::usage(
            "a partition has two sides: leave a node out, or name two groups",
        ));
    }
    Ok(sides)
}

/// Gives each node its orders, and prints what it keeps apart from then.
fn order(
    network: &NetworkFile,
    orders: impl Fn(&NetworkNode) -> Vec<PartitionRequest>,
    as_json: bool,
) -> Result<(), RunError> {
    let mut nodes = Vec::new();
    for node in &network.nodes {
        let mut apart = None;
        for order in orders(node) {
            let request = AdminRequest::Apart(order);
            let done = admin::ask(&node.data_dir, &request, &mut |_| {});
            apart =
                done.map_err(|error| error.while_doing(format_args!("node {}", node.node_id)))?;
        }
        // A node that does not run is apart from all others, until it starts.
        let apart = apart.map_or(Value::Null, |mut done| done["apart"].take());
        nodes.push(json!({ "node_id": node.node_id, "apart": apart }));
    }
    if nodes.iter().all(|node| node["apart"].is_null()) {
        return Err(RunError::not_found("no node of the network runs"));
    }
    if as_json {
        output::line(json!({ "nodes": nodes }));
    } else {
        nodes.iter().for_each(|node| output::line(text(node)));
    }
    Ok(())
}

fn text(node: &Value) -> String {
    let id = &node["node_id"];
    let Some(apart) = node["apart"].as_array() else {
        return format!("node {id} does not run, and will know of no partition when it starts");
    };
    let others: Vec<_> = apart.iter().map(|other| other["node_id"].to_string()).collect();
    match apart.first() {
        None => format!("node {id} connects to all others"),
        Some(first) => {
            format!("node {id} stays apart from {}, for {} s", others.join(", "), first["left_s"])
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;

    use super::*;

    #[test]
    fn nodes_that_no_group_names_are_one_more_side() {
        let group = |ids: &[u32]| NodeGroup(ids.to_vec());
        let of = |groups: &[NodeGroup]| sides(groups, &[100, 200, 300]);
        assert_eq!(of(&[group(&[200])]), Ok(vec![vec![200], vec![100, 300]]));
        assert_eq!(of(&[group(&[100, 300]), group(&[200])]), Ok(vec![vec![100, 300], vec![200]]));
        let apart = [group(&[100]), group(&[200]), group(&[300])];
        assert_eq!(of(&apart), Ok(vec![vec![100], vec![200], vec![300]]));
        let kind = |groups: &[NodeGroup]| of(groups).unwrap_err().kind;
        assert_eq!(kind(&[group(&[100, 200, 300])]), RunErrorKind::Usage, "one side");
        assert_eq!(kind(&[group(&[100]), group(&[100, 200])]), RunErrorKind::Usage, "twice");
        assert_eq!(kind(&[group(&[400])]), RunErrorKind::NotFound);
    }
}
