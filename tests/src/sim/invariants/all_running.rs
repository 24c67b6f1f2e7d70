//! No honest node has stopped: each one runs, and what it publishes reaches every other one.

use std::time::Duration;

use crate::sim::world::Sim;

/// Time within which the publishes must arrive: longer than a search for a gap, and than a peer is avoided.
const SOON: Duration = Duration::from_secs(200);

impl Sim {
    /// Lets each honest node publish once more, with the hostile node still at work.
    ///
    /// # Panics
    /// Panics if a node has stopped, or an envelope does not reach all others.
    pub fn assert_all_running(&mut self) {
        for node in self.honest() {
            assert!(self.nodes[&node].is_running, "{node} has stopped");
            self.add_to_strand(node);
        }
        self.run_for(SOON);
        for originator in self.honest() {
            let head = self.nodes[&originator].head(originator);
            for node in self.honest() {
                let reached = self.nodes[&node].head(originator);
                assert_eq!(reached, head, "{node} does not reach the end of {originator}");
            }
        }
    }
}
