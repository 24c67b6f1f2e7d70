//! The pace at which two nodes show each other checkpoints.
//!
//! The cost of a checkpoint is that of its signatures, which the receiver checks. A sender shows half of what a
//! receiver takes, so that bursts after a stall are not lost.
//!
//! No library of rate limits: one checkpoint may cost a sender more than it has left, which the next ones wait for.
//! A property test checks the bound on what a receiver takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;

/// Signatures that a peer may show in a second. Specified (`docs/protocol/replication.md`); their check takes about a
/// sixtieth of a core.
const TAKEN_PER_S: u32 = 256;
/// Signatures that a peer may show at once. Specified (same page): more than the longest checkpoint has.
const TAKEN_AT_ONCE: u32 = 1024;
/// Signatures that are shown to a peer in a second. Specified (same page).
const SHOWN_PER_S: u32 = 128;
/// Time after which a peer is shown all checkpoints again. Specified (same page): it repeats those that were lost on
/// the way or were ahead of the peer's trees.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Returns the number of signatures of a checkpoint.
fn cost(checkpoint: &CosignedCheckpoint) -> u32 {
    let count = 1 + checkpoint.cosignatures.len() + checkpoint.witnesses.len();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// An amount that fills up with time, in signatures.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, now: Instant, per_s: u32, max: u32) {
        let passed = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * f64::from(per_s)).min(f64::from(max));
        self.at = self.at.max(now);
    }
}

/// The signatures that one node may still make this node check, over all its connections.
#[derive(Debug)]
pub struct CheckpointAllowance(Bucket);

impl CheckpointAllowance {
    /// Begins with a full allowance.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Bucket { left: f64::from(TAKEN_AT_ONCE), at: now })
    }

    /// Takes the cost of a checkpoint that the peer has shown. Returns false if it is to be dropped.
    pub fn take(&mut self, now: Instant, checkpoint: &CosignedCheckpoint) -> bool {
        self.0.fill(now, TAKEN_PER_S, TAKEN_AT_ONCE);
        let cost = f64::from(cost(checkpoint));
        let is_within = cost <= self.0.left;
        if is_within {
            self.0.left -= cost;
        }
        is_within
    }

    /// Returns true if the allowance is that of a node that has shown nothing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        let mut filled = self.0;
        filled.fill(now, TAKEN_PER_S, TAKEN_AT_ONCE);
        filled.left >= f64::from(TAKEN_AT_ONCE)
    }
}

/// The number of an offer that only the node that signed it is shown. Its strand was cut since, so others would take
/// the node for a liar. The node itself may have lost it, and must sign no other tree of that size.
pub const SHOWN_TO_SIGNER: u8 = 3;

/// The key of an offer: the node that signed, the strand, and a number that distinguishes checkpoints of one strand.
pub type OfferKey = (OriginatorId, OriginatorId, u8);

/// The checkpoints that a node shows its peers. An entry is replaced when it has changed, and is the same value
/// otherwise.
pub type CheckpointOffers = BTreeMap<OfferKey, Arc<CosignedCheckpoint>>;

/// The checkpoints that one peer was shown.
#[derive(Debug)]
pub struct OfferedCheckpoints {
    shown: CheckpointOffers,
    /// The last one; the next search begins behind it, so that each has its turn.
    last: Option<OfferKey>,
    since: Instant,
    pace: Bucket,
}

impl OfferedCheckpoints {
    /// Begins with nothing shown.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let pace = Bucket { left: f64::from(SHOWN_PER_S), at: now };
        Self { shown: CheckpointOffers::new(), last: None, since: now, pace }
    }

    /// Returns the checkpoints to show `peer` now, and counts them as shown.
    pub fn next(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        offers: &CheckpointOffers,
    ) -> Vec<Arc<CosignedCheckpoint>> {
        if now.saturating_duration_since(self.since) >= AGAIN_AFTER {
            (self.since, self.shown) = (now, CheckpointOffers::new());
        }
        self.shown.retain(|key, _| offers.contains_key(key));
        self.pace.fill(now, SHOWN_PER_S, SHOWN_PER_S);
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let to = self.last.map_or(Bound::Excluded(LOWEST), Bound::Included);
        let behind = offers.range((from, Bound::Unbounded));
        let all = behind.chain(offers.range((Bound::Unbounded, to)));
        let mut next = Vec::new();
        for (key, offer) in all {
            let (signer, _, number) = *key;
            if number == SHOWN_TO_SIGNER && signer != peer {
                continue;
            }
            if self.pace.left <= 0.0 {
                break;
            }
            if self.shown.get(key).is_some_and(|shown| Arc::ptr_eq(shown, offer)) {
                continue;
            }
            // A long one may take more than is left: the next ones wait for it.
            self.pace.left -= f64::from(cost(offer));
            self.shown.insert(*key, offer.clone());
            self.last = Some(*key);
            next.push(offer.clone());
        }
        next
    }
}

/// The key below all others.
const LOWEST: OfferKey = (OriginatorId(0), OriginatorId(0), 0);

#[cfg(test)]
mod tests;
