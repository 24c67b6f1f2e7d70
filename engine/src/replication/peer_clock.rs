//! The heads that one peer claims to hold.
//!
//! A claim costs the peer 12 bytes and nothing proves it, so a peer can invent any number of originators. Claims about
//! originators that this node knows are bounded by their number. Of the others a few are kept: a peer whose registry is
//! newer may speak of a node before this one has heard of it.

use hawser_proto::{Cursor, OriginatorId, SequenceId};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};

/// Claims about unknown originators that are kept of one peer. Guess: more nodes than enter a registry between two
/// readings, and 4 KiB at most.
const UNKNOWN_MAX: usize = 256;

/// The claims of one peer. Each entry only rises.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerClock {
    claims: Cursor,
    /// The peer has sent its heads at least once.
    has_stated_heads: bool,
}

impl PeerClock {
    /// Adds claims, each if its originator is known or there is room among the unknown ones.
    pub fn merge(&mut self, entries: &Cursor, is_known: impl Fn(OriginatorId) -> bool) {
        self.has_stated_heads = true;
        let unknown = self.claims.iter().filter(|id| !is_known(id.originator)).count();
        // Above the bound when originators that were known are no longer.
        let mut room = UNKNOWN_MAX.saturating_sub(unknown);
        #[cfg(feature = "faults")]
        if faults::is_on(SeededFault::UnboundedClaims) {
            room = usize::MAX;
        }
        for id in entries.iter() {
            let is_new = self.claims.get(id.originator) == SequenceId::NONE;
            if is_new && !is_known(id.originator) {
                let Some(left) = room.checked_sub(1) else { continue };
                room = left;
            }
            #[cfg(feature = "faults")]
            let id = if faults::is_on(SeededFault::ClaimTooHigh) {
                hawser_proto::EnvelopeId { sequence: id.sequence.next(), ..id }
            } else {
                id
            };
            self.claims.advance(id);
        }
    }

    /// Returns the claimed head of a strand; 0 without a claim.
    #[must_use]
    pub fn head(&self, originator: OriginatorId) -> SequenceId {
        self.claims.get(originator)
    }

    /// Returns the claimed head of a strand. `None` if the peer has not sent any heads: it may hold any place.
    #[must_use]
    pub fn stated_head(&self, originator: OriginatorId) -> Option<SequenceId> {
        self.has_stated_heads.then(|| self.head(originator))
    }

    /// Returns the claims about known originators, for metrics and status.
    #[must_use]
    pub fn known(&self, is_known: impl Fn(OriginatorId) -> bool) -> Cursor {
        self.claims.iter().filter(|id| is_known(id.originator)).collect()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::EnvelopeId;

    use super::*;

    fn clock(originators: impl Iterator<Item = u32>, head: u64) -> Cursor {
        originators.map(|id| EnvelopeId::new(OriginatorId(id), SequenceId(head))).collect()
    }

    fn is_known(originator: OriginatorId) -> bool {
        [100, 200].map(OriginatorId).contains(&originator)
    }

    #[test]
    fn invented_originators_neither_take_room_without_bound_nor_show() {
        let mut peer = PeerClock::default();
        for start in (1_000..1_001_000).step_by(4_096) {
            peer.merge(&clock(start..start + 4_096, 7), is_known);
        }
        assert_eq!(peer.claims.len(), UNKNOWN_MAX);
        assert_eq!(peer.known(is_known), Cursor::new());
        peer.merge(&clock([100, 200].into_iter(), 9), is_known);
        assert_eq!(peer.claims.len(), UNKNOWN_MAX + 2);
        assert_eq!(peer.known(is_known), clock([100, 200].into_iter(), 9));
    }

    #[test]
    fn a_claim_that_came_before_the_registry_counts_from_then_on() {
        let mut peer = PeerClock::default();
        peer.merge(&clock(200..201, 5), |_| false);
        assert_eq!(peer.known(|_| false), Cursor::new());
        assert_eq!(peer.head(OriginatorId(200)), SequenceId(5));
        assert_eq!(peer.known(is_known), clock(200..201, 5));
    }

    #[test]
    fn entries_only_rise() {
        let mut peer = PeerClock::default();
        for head in [5, 9, 2] {
            peer.merge(&clock(100..101, head), is_known);
        }
        assert_eq!(peer.head(OriginatorId(100)), SequenceId(9));
        assert_eq!(peer.head(OriginatorId(200)), SequenceId::NONE);
    }

    #[test]
    fn a_peer_that_has_told_nothing_does_not_claim_to_hold_nothing() {
        let mut peer = PeerClock::default();
        assert_eq!(peer.stated_head(OriginatorId(100)), None);
        peer.merge(&Cursor::new(), is_known);
        assert_eq!(peer.stated_head(OriginatorId(100)), Some(SequenceId::NONE));
    }

    #[test]
    fn originators_that_are_no_longer_known_take_the_room_of_unknown_ones() {
        let mut peer = PeerClock::default();
        peer.merge(&clock(1_000..2_000, 1), |_| true);
        peer.merge(&clock(3_000..3_001, 1), |_| false);
        assert_eq!(peer.claims.len(), 1_000);
        // A claim that is held rises still.
        peer.merge(&clock(1_000..1_001, 8), |_| false);
        assert_eq!(peer.head(OriginatorId(1_000)), SequenceId(8));
    }
}
