//! The nodes of the simulated network.

use hawser_proto::OriginatorId;

/// The one that may lie, or be hostile. All others are honest.
pub(in crate::sim) const LIAR: OriginatorId = OriginatorId(300);

/// The nodes of a network of so many: 100, 200, and so on.
pub(in crate::sim) fn members(count: u32) -> Vec<OriginatorId> {
    (1..=count).map(|number| OriginatorId(number * 100)).collect()
}
