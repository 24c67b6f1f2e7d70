//! The nodes of the simulated network.

use hawser_proto::OriginatorId;

/// The honest nodes.
pub(in crate::sim) const HONEST: [OriginatorId; 2] = [OriginatorId(100), OriginatorId(200)];
/// The one that may lie.
pub(in crate::sim) const LIAR: OriginatorId = OriginatorId(300);
/// Every node.
pub(in crate::sim) const ALL: [OriginatorId; 3] = [HONEST[0], HONEST[1], LIAR];
