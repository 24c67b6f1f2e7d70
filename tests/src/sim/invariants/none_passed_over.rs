//! While each honest node stays up, no other honest one passes over what it has acknowledged, whatever a hostile relay
//! claims and leaves out, and all of it arrives within two minutes for each place that its node has left empty.

use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::LogItem;

use crate::sim::world::Sim;

/// The longest search for a gap: that of a node which does not reach the strand's own.
const SEARCHED_FOR: Duration = Duration::from_secs(120);
/// Time within which all else arrives.
const MINUTE: Duration = Duration::from_secs(60);

impl Sim {
    /// Asserts that no honest node has marked a place missing that its own node has acknowledged.
    ///
    /// # Panics
    /// Panics if one has.
    pub fn assert_none_passed_over(&self) {
        for node in self.honest() {
            for originator in self.honest() {
                for (from, through) in self.passed_over(node, originator) {
                    let acknowledged = self.acknowledged.get(&originator);
                    let lost = acknowledged.and_then(|it| it.range(from..=through).next());
                    let place = lost.map(|(place, _)| *place);
                    assert_eq!(place, None, "{node} has passed over a place of {originator}");
                }
            }
        }
    }

    /// Lets the time of a search pass for each place that an honest strand has left empty, and a minute more, and
    /// asserts that honest nodes hold what all of them have acknowledged.
    ///
    /// # Panics
    /// Panics if one does not.
    pub fn assert_lag_bounded(&mut self) {
        let gaps = |originator: &OriginatorId| self.passed_over(*originator, *originator).len();
        let most = self.honest().iter().map(gaps).max().unwrap_or(0);
        self.run_for(SEARCHED_FOR * u32::try_from(most).unwrap() + MINUTE);
        self.assert_acknowledged_everywhere();
    }

    /// Lets so much time pass, and asserts that honest nodes hold what all of them have acknowledged.
    ///
    /// # Panics
    /// Panics if one does not.
    pub fn assert_caught_up_after(&mut self, duration: Duration) {
        self.run_for(duration);
        self.assert_acknowledged_everywhere();
    }

    /// Returns the ranges of a strand that a node does not hold and has passed over.
    fn passed_over(
        &self,
        node: OriginatorId,
        originator: OriginatorId,
    ) -> Vec<(SequenceId, SequenceId)> {
        let items = self.nodes[&node].log(originator, SequenceId::NONE).into_iter();
        let range = |item| match item {
            LogItem::Skipped { from, through, .. } => Some((from, through)),
            LogItem::Envelope { .. } => None,
        };
        items.filter_map(range).collect()
    }
}
