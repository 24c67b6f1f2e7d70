//! The amount of evidence about each node.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;

use crate::keys::misbehavior::{EvidenceTime, Share};

/// The evidence that is kept about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvidenceCounts {
    claims: Amount,
    faults: Amount,
    equivocations: Amount,
}

/// Pieces of evidence and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub(crate) pieces: u64,
    pub(crate) bytes: u64,
}

impl EvidenceCounts {
    /// Returns the number of facts that anyone can verify.
    #[must_use]
    pub fn proven(self) -> u64 {
        self.faults.pieces + self.equivocations.pieces
    }

    /// Returns the number of facts that rest on this node's clock.
    #[must_use]
    pub fn claims(self) -> u64 {
        self.claims.pieces
    }

    pub(crate) fn add(&mut self, share: Share, len_bytes: u32) {
        let amount = self.of(share);
        amount.pieces += 1;
        amount.bytes += u64::from(len_bytes);
    }

    pub(crate) fn remove(&mut self, share: Share, len_bytes: u32) {
        let amount = self.of(share);
        amount.pieces = amount.pieces.saturating_sub(1);
        amount.bytes = amount.bytes.saturating_sub(u64::from(len_bytes));
    }

    /// Returns the amount of evidence in one share.
    pub(crate) fn of(&mut self, share: Share) -> &mut Amount {
        match share {
            Share::Claims => &mut self.claims,
            Share::Faults => &mut self.faults,
            Share::Equivocations => &mut self.equivocations,
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
