//! The nodes as text or JSON.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use hawser_proto::merkle::TreeHash;
use serde_json::{Value, json};

use super::finding::{ContentFinding, ContentSide};
use super::page::WatcherPage;
use super::state::{NetworkView, NodeView};
use crate::clock::now_unix_s;
use crate::output;

/// Prints the state of the nodes, and returns the number of alarms.
pub(super) fn print(watch: &WatcherPage, as_json: bool) -> usize {
    let WatcherPage { view, divergence_max, .. } = watch;
    let alarms = view.judge(*divergence_max);
    if as_json {
        output::line(as_value(watch));
        return alarms.len();
    }
    if std::io::stdout().is_terminal() {
        // Clears the screen, so that the table stays in its place.
        output::styled_line("\u{1b}[2J\u{1b}[H");
    }
    let now = now_unix_s();
    for (id, node) in &view.nodes {
        let state = if node.is_up { "up" } else { "down" };
        let state =
            if node.is_canonical { state.to_owned() } else { format!("{state}, not canonical") };
        let age = match node.updated_unix_s {
            0 => "no cursor yet".to_owned(),
            at => format!("cursor of {} s ago", now.saturating_sub(at)),
        };
        output::line(format_args!("node {id} at {}: {state}, {age}", output::plain(&node.address)));
    }
    for &originator in &view.originators {
        let Some([_, (_, most)]) = view.range(originator).filter(|range| range[1].1 > 0) else {
            continue;
        };
        let held = held(view, originator, most);
        output::line(format_args!("originator {originator}: {most}, {held}"));
    }
    for alarm in &alarms {
        output::line(format_args!("ALARM {}: {}", alarm.kind.name(), alarm.text));
    }
    if alarms.is_empty() {
        output::line("no alarm");
    }
    alarms.len()
}

/// Names the nodes that lack places of a strand up to `most`, for people.
pub(super) fn held(view: &NetworkView, originator: u32, most: u64) -> String {
    let lacked = |(node, place)| (node, view.lacked(originator, place, most));
    let behind = view.places(originator).map(lacked).filter(|(_, lacked)| *lacked > 0);
    let behind: Vec<_> =
        behind.map(|(node, lacked)| format!("node {node} lacks {lacked}")).collect();
    if !behind.is_empty() {
        return behind.join(", ");
    }
    match view.places(originator).all(|(_, place)| place >= most) {
        true => "all nodes".to_owned(),
        false => "all nodes, except for void places".to_owned(),
    }
}

/// Returns a difference with the statements of both sides.
fn difference(finding: &ContentFinding) -> Value {
    let side = |ContentSide { nodes, content }: &ContentSide| {
        json!({
            "nodes": nodes,
            "leaf": content.leaf.to_string(),
            "root": content.root.map(|root| root.to_string()),
            "checkpoint": (!content.checkpoint.is_empty()).then(|| hex::encode(&content.checkpoint)),
        })
    };
    let leaf =
        |(node, leaf): &(u32, TreeHash)| json!({ "node_id": node, "leaf": leaf.to_string() });
    json!({
        "originator_id": finding.place.originator.0,
        "sequence_id": finding.place.sequence.0,
        "sides": finding.sides.iter().map(side).collect::<Vec<_>>(),
        "first_sequence_id": finding.first_place,
        "first_leaves": finding.first_leaves.iter().map(leaf).collect::<Vec<_>>(),
    })
}

fn as_value(WatcherPage { view, divergence_max, .. }: &WatcherPage) -> Value {
    let alarms = view.judge(*divergence_max).into_iter();
    let alarms = alarms.map(|it| json!({ "alarm": it.kind.name(), "text": it.text }));
    let node = |(id, node): (&u32, &NodeView)| {
        let faults = node.faults.iter().map(|(fault, count)| (fault.name(), *count));
        json!({
            "node_id": id,
            "address": node.address,
            "canonical": node.is_canonical,
            "up": node.is_up,
            "cursor": node.cursor,
            "updated_unix_s": node.updated_unix_s,
            "unknown_originators": node.unknown,
            "impossible_ids": node.impossible,
            "went_back": node.went_back,
            "stream_errors": faults.collect::<BTreeMap<_, _>>(),
            "last_error": Some(&node.last_fault).filter(|it| !it.is_empty()),
            "content_errors": node.content_faults,
            "last_content_error": Some(&node.last_content_fault).filter(|it| !it.is_empty()),
        })
    };
    let originator = |id: &u32| {
        let [(_, least), (_, most)] = view.range(*id)?;
        let compared = view.compared.get(id).copied().unwrap_or_default();
        let divergence = view.lacked(*id, least, most);
        Some(json!({
            "originator_id": id, "max": most, "divergence": divergence, "compared": compared,
        }))
    };
    json!({
        "alarms": alarms.collect::<Vec<_>>(),
        "nodes": view.nodes.iter().map(node).collect::<Vec<_>>(),
        "differences": view.findings.values().map(difference).collect::<Vec<_>>(),
        "originators": view.originators.iter().filter_map(originator).collect::<Vec<_>>(),
    })
}
