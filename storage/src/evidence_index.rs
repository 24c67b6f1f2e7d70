//! The amount of evidence about each node.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;

use crate::keys::misbehavior::EvidenceTime;

/// The evidence that is kept about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvidenceCounts {
    /// Facts that anyone can verify.
    pub proven: u64,
    /// Facts that rest on this node's clock.
    pub claims: u64,
    proven_bytes: u64,
    claim_bytes: u64,
}

impl EvidenceCounts {
    pub(crate) fn claim_bytes(self) -> u64 {
        self.claim_bytes
    }

    pub(crate) fn add(&mut self, is_claim: bool, len_bytes: u32) {
        let (count, bytes) = self.of(is_claim);
        *count += 1;
        *bytes += u64::from(len_bytes);
    }

    pub(crate) fn remove(&mut self, is_claim: bool, len_bytes: u32) {
        let (count, bytes) = self.of(is_claim);
        *count = count.saturating_sub(1);
        *bytes = bytes.saturating_sub(u64::from(len_bytes));
    }

    /// Returns number and bytes of one of the two sorts.
    pub(crate) fn of(&mut self, is_claim: bool) -> (&mut u64, &mut u64) {
        match is_claim {
            true => (&mut self.claims, &mut self.claim_bytes),
            false => (&mut self.proven, &mut self.proven_bytes),
        }
    }
}

/// The number of pieces about each node, and the last position. An entry for each accused node, which
/// the registry bounds.
#[derive(Debug, Default)]
pub(crate) struct EvidenceIndex {
    pub(crate) last: EvidenceTime,
    pub(crate) counts: BTreeMap<OriginatorId, EvidenceCounts>,
}
