//! The order in which one request asks nodes for what each of them can answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawser_proto::OriginatorId;
use parking_lot::Mutex;

use super::node::Node;

/// The nodes that one request asks for its envelopes: in random order at first, and those that kept silent last.
///
/// A request asks for hundreds of envelopes, some at a time, and a silent node costs the whole time of a question. With
/// an order for each envelope, it would be the first one for an envelope of each part, and no time would be left for
/// the last parts, whose envelopes are then paid for again.
pub(crate) struct AskOrder(Mutex<AskState>);

struct AskState {
    /// All nodes, those that kept silent last.
    nodes: Vec<Arc<Node>>,
    /// The nodes that have not answered in time, also those that are not among `nodes`.
    silent: BTreeSet<OriginatorId>,
}

impl AskOrder {
    pub(super) fn new(nodes: Vec<Arc<Node>>) -> Self {
        Self(Mutex::new(AskState { nodes, silent: BTreeSet::new() }))
    }

    /// Returns the nodes in their present order.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.0.lock().nodes.clone()
    }

    /// Returns true if a node has not answered a question of this request in time.
    pub(crate) fn has_kept_silent(&self, node: OriginatorId) -> bool {
        self.0.lock().silent.contains(&node)
    }

    /// Moves a node that has not answered in time to the end.
    pub(crate) fn put_last(&self, silent: OriginatorId) {
        let mut state = self.0.lock();
        state.silent.insert(silent);
        let nodes = &mut state.nodes;
        if let Some(place) = nodes.iter().position(|node| node.id() == silent) {
            nodes[place..].rotate_left(1);
        }
    }
}
