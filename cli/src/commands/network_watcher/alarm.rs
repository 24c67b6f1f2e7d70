//! The alarms of the network watcher.

use super::state::{NODES_MAX, NetworkView, NodeView};
use crate::output;

/// The kind of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkAlarmKind {
    /// A node of the network cannot be asked.
    NodeDown,
    /// Two nodes are far apart in a strand.
    Divergence,
    /// A node's cursor has decreased in a strand.
    WentBack,
    /// A node's cursor names strands that do not exist.
    UnknownOriginators,
    /// A node's cursor has a sequence id that no envelope can have.
    ImpossibleIds,
    /// Nodes hold different envelopes at one place of a strand.
    Content,
    /// The registry could not be read the last time, has no nodes to watch, or more than are watched.
    Registry,
}

impl NetworkAlarmKind {
    pub(super) const ALL: [Self; 7] = [
        Self::NodeDown,
        Self::Divergence,
        Self::WentBack,
        Self::UnknownOriginators,
        Self::ImpossibleIds,
        Self::Content,
        Self::Registry,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NodeDown => "node_down",
            Self::Divergence => "divergence",
            Self::WentBack => "went_back",
            Self::UnknownOriginators => "unknown_originators",
            Self::ImpossibleIds => "impossible_ids",
            Self::Content => "content",
            Self::Registry => "registry",
        }
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkAlarm {
    pub(super) kind: NetworkAlarmKind,
    pub(super) text: String,
}

impl NetworkView {
    /// Returns the alarms. Nodes outside the canonical network raise none.
    pub(super) fn judge(&self, divergence_max: u64) -> Vec<NetworkAlarm> {
        let mut alarms = Vec::new();
        let mut raise = |kind, text| alarms.push(NetworkAlarm { kind, text });
        if let Some(fault) = &self.registry_fault {
            raise(NetworkAlarmKind::Registry, fault.clone());
        }
        if self.has_registry() && self.canonical().next().is_none() {
            // Without this alarm, a chain endpoint that leaves all nodes out would make the watcher report no alarm.
            let text = "the registry has no node in the canonical network: nothing is watched";
            raise(NetworkAlarmKind::Registry, text.to_owned());
        }
        if self.unwatched > 0 {
            let unwatched = output::count(self.unwatched, "node");
            let text = format!("not watched: {unwatched} above the first {NODES_MAX}");
            raise(NetworkAlarmKind::Registry, text);
        }
        for (id, node) in self.canonical() {
            let NodeView { address, last_fault, unknown, impossible, went_back, .. } = node;
            if !node.is_up {
                let why = if last_fault.is_empty() { "no answer yet" } else { last_fault };
                raise(
                    NetworkAlarmKind::NodeDown,
                    format!("node {id} at {}: {why}", output::plain(address)),
                );
            }
            if *went_back > 0 {
                let times = output::count(*went_back, "time");
                let text = format!("node {id} stated a lower head than before, {times}");
                raise(NetworkAlarmKind::WentBack, text);
            }
            if *unknown > 0 {
                let originators = output::count(*unknown, "unknown originator");
                let text = format!("node {id} lists {originators}");
                raise(NetworkAlarmKind::UnknownOriginators, text);
            }
            if *impossible > 0 {
                let ids = output::count(*impossible, "sequence id");
                let text = format!("node {id} stated {ids} that no envelope can have");
                raise(NetworkAlarmKind::ImpossibleIds, text);
            }
        }
        for finding in self.findings.values() {
            raise(NetworkAlarmKind::Content, finding.to_string());
        }
        for &originator in &self.originators {
            let Some([(low, least), (high, most)]) = self.range(originator) else { continue };
            if self.lacked(originator, least, most) > divergence_max {
                let own = self.places(originator).find(|(node, _)| *node == originator);
                let own = own.map(|(_, own)| format!("; at the originator itself {own}"));
                let text = format!(
                    "originator {originator}: the head at node {high} is {most}, at node {low} {least}{}",
                    own.unwrap_or_default()
                );
                raise(NetworkAlarmKind::Divergence, text);
            }
        }
        alarms
    }
}
