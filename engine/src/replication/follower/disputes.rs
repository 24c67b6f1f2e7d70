//! Places of which a peer holds another tree than this node.
//!
//! Two trees of a strand prove nothing: the strand's node has sent two histories, or one of the holders lies. The
//! envelopes decide. So the peer is asked for the places since the last tree that both agreed on, and its envelopes are
//! compared with the log. A second statement that the strand's node has signed is proof against that node. A peer that
//! sends none has proved nothing, and nothing follows.
//!
//! A peer can dispute any tree, and need not answer. So it is asked as for places that are marked missing: never while
//! a search, a part of a backlog or a new envelope waits. The places, the bytes and the wants of a dispute are bounded,
//! and so are the disputes of a peer, in a minute and in all. The strand's node, which may be the one at fault, can
//! begin a search at any time: a search leaves a want of a dispute that is under way two seconds, and one that it takes
//! back is sent again. That node can also have a follower replaced, so the next one takes the disputes over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use super::open_want::OpenWant;
use crate::replication::link::Want;
use crate::replication::ranges::Places;

/// Time between two disputes with a peer. Specified (`docs/protocol/replication.md`, Disputed trees).
pub(super) const DISPUTE_EVERY: Duration = Duration::from_secs(60);
/// Places that a peer is asked for in a dispute. Specified (same page): observers sign every five seconds, so these are
/// all places since the last agreed tree for a strand of 200 envelopes per second.
pub(super) const DISPUTED_PLACES_MAX: u64 = 1_024;
/// Bytes of envelopes that a peer may send in a dispute. Specified (same page). One envelope may exceed it.
pub(super) const DISPUTED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Disputes with a peer until the strand is followed from the disk again. Specified (same page): a peer that holds a
/// long history of its own shows four parts of it, and one that disputes without end costs no more.
pub(super) const DISPUTES_MAX: usize = 4;
/// Wants of a dispute. Specified (same page): the first one, and three if searches or the link end it.
pub(super) const DISPUTE_WANTS_MAX: usize = 4;

/// The disputes with peers, of each peer the last one. Bounded by the nodes of the registry.
#[derive(Debug, Clone, Default)]
pub(super) struct Disputes(BTreeMap<OriginatorId, Dispute>);

#[derive(Debug, Clone)]
struct Dispute {
    /// The number of disputes with the peer, with this one.
    number: usize,
    /// The last place on which both agree, or which the peer has sent.
    after: SequenceId,
    /// The last place that the peer is asked for.
    through: SequenceId,
    /// The time before which the peer is not asked; `None` if it may be asked at once.
    paced_until: Option<Instant>,
    /// The time from which the peer may be asked in the next dispute.
    next_at: Instant,
    wants_left: usize,
    bytes_left: usize,
    /// The places of the last want.
    asked: Option<Places>,
}

impl Dispute {
    /// Returns the places that the peer is still to be asked for; `None` once the dispute is over.
    fn places(&self) -> Option<Places> {
        let is_open = self.wants_left > 0 && self.bytes_left > 0 && self.after < self.through;
        is_open.then_some((self.after.next(), self.through))
    }
}

impl Disputes {
    /// Returns the number of peers that have disputed a tree.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Begins a dispute about the places behind `agreed` and up to `disputed`, without those that the peer has sent in
    /// earlier ones. Does nothing while the last dispute with the peer is not over, or if there were too many.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        agreed: SequenceId,
        disputed: SequenceId,
    ) {
        let last = self.0.get(&peer);
        let before = last.map_or(0, |last| last.number);
        if before >= DISPUTES_MAX || last.is_some_and(|last| last.places().is_some()) {
            return;
        }
        let after = last.map_or(agreed, |last| last.after.max(agreed));
        let paced_until = last.map(|last| last.next_at).filter(|at| *at > now);
        let through = SequenceId(after.0.saturating_add(DISPUTED_PLACES_MAX)).min(disputed);
        if after >= through {
            return;
        }
        let dispute = Dispute {
            number: before + 1,
            after,
            through,
            paced_until,
            next_at: paced_until.unwrap_or(now) + DISPUTE_EVERY,
            wants_left: DISPUTE_WANTS_MAX,
            bytes_left: DISPUTED_BYTES_MAX,
            asked: None,
        };
        self.0.insert(peer, dispute);
    }

    /// Returns the places that a peer is still to be asked for, and the time before which it is not asked; no time if
    /// it may be asked at once.
    pub(super) fn places(&self, peer: OriginatorId) -> Option<(Option<Instant>, Places)> {
        let dispute = self.0.get(&peer)?;
        Some((dispute.paced_until, dispute.places()?))
    }

    /// Notes that a want is sent to a peer. Returns true if it is for the places of a dispute.
    pub(super) fn note_asked(&mut self, peer: OriginatorId, want: Want) -> bool {
        let Some(up_to) = want.up_to() else { return false };
        let asked = Some((want.after.next(), up_to));
        let Some(dispute) = self.0.get_mut(&peer).filter(|it| it.places() == asked) else {
            return false;
        };
        dispute.wants_left -= 1;
        dispute.asked = asked;
        true
    }

    /// True if a want that a peer has is for the places of a dispute.
    pub(super) fn is_for_dispute(&self, peer: OriginatorId, open: &OpenWant) -> bool {
        let asked = open.up_to.map(|up_to| (open.after.next(), up_to));
        open.is_fill && asked.is_some() && self.0.get(&peer).is_some_and(|it| it.asked == asked)
    }

    /// Ends the dispute with a peer that has answered this want, if the want is for its places.
    pub(super) fn end(&mut self, peer: OriginatorId, answered: &OpenWant) {
        if self.is_for_dispute(peer, answered)
            && let Some(dispute) = self.0.get_mut(&peer)
        {
            dispute.wants_left = 0;
        }
    }

    /// Notes an envelope of a peer that answers this want. Returns true if the want is for the places of a dispute, and
    /// the peer has sent as many bytes as it may.
    pub(super) fn note_sent(
        &mut self,
        peer: OriginatorId,
        open: &OpenWant,
        sequence: SequenceId,
        len_bytes: usize,
    ) -> bool {
        if !self.is_for_dispute(peer, open) {
            return false;
        }
        let Some(dispute) = self.0.get_mut(&peer) else { return false };
        dispute.after = dispute.after.max(sequence);
        dispute.bytes_left = dispute.bytes_left.saturating_sub(len_bytes);
        dispute.bytes_left == 0
    }
}
