//! The order in which one request asks nodes for what each of them can answer.

use std::sync::Arc;

use parking_lot::Mutex;

use super::node::Node;

/// The nodes that one request asks for its envelopes: in a given order at first, and those that kept silent last.
///
/// A request asks for hundreds of envelopes, some at a time, and a silent node costs the whole time of a question. With
/// an order for each envelope, it would be the first one for an envelope of each part, and no time would be left for
/// the last parts, whose envelopes are then paid for again.
pub(crate) struct AskOrder(Mutex<Vec<Arc<Node>>>);

impl AskOrder {
    pub(super) fn new(nodes: Vec<Arc<Node>>) -> Self {
        Self(Mutex::new(nodes))
    }

    /// Returns the nodes in their present order.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.0.lock().clone()
    }

    /// Moves a node that has not answered in time to the end, and has other requests ask it after the others, too.
    pub(crate) fn put_last(&self, silent: &Node) {
        silent.record_silence();
        let mut nodes = self.0.lock();
        if let Some(place) = nodes.iter().position(|node| node.id() == silent.id()) {
            nodes[place..].rotate_left(1);
        }
    }
}
