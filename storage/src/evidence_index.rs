//! The amount of evidence about each node.

use std::collections::BTreeMap;
use std::fmt::Debug;

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
    pub(crate) left_out: LeftOut<Share>,
}

/// The number of pieces about each node that were not stored since the start because there was no room in their share.
/// Logged once for each node and share: proven faults make no room again.
#[derive(Debug)]
pub(crate) struct LeftOut<S>(BTreeMap<(OriginatorId, S), u64>);

impl<S> Default for LeftOut<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S: Ord + Copy + Debug> LeftOut<S> {
    /// Counts a piece. `piece` names it for the log.
    pub(crate) fn note(&mut self, accused: OriginatorId, share: S, piece: &str) {
        let count = self.0.entry((accused, share)).or_default();
        *count = count.saturating_add(1);
        if *count == 1 {
            tracing::warn!(
                code = "misbehavior_left_out",
                %accused,
                ?share,
                piece,
                "there is no room for more proof against this node: what follows is counted and not stored"
            );
        }
    }

    /// Returns the number of pieces about each node.
    pub(crate) fn by_node(&self) -> BTreeMap<OriginatorId, u64> {
        let mut sums = BTreeMap::new();
        for (&(accused, _), &count) in &self.0 {
            let sum: &mut u64 = sums.entry(accused).or_default();
            *sum = sum.saturating_add(count);
        }
        sums
    }
}
