//! The nodes of the simulated network.

use hawser_proto::OriginatorId;

/// The node that may lie or be hostile. All others are honest.
pub(in crate::sim) const LIAR: OriginatorId = OriginatorId(300);

/// Returns the ids of a network of `count` nodes: 100, 200, and so on.
pub(in crate::sim) fn members(count: u32) -> Vec<OriginatorId> {
    (1..=count).map(|number| OriginatorId(number * 100)).collect()
}
