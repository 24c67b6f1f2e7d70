//! Broken rules, and envelopes that a peer passes on without having checked them.
//!
//! Other software relays the strand of a node as it got it, and checks no signature of that node. So a hostile node can
//! have it pass on what no node takes. If that cost the relay its connection, its own strand would be held up as well,
//! each time it is asked for the other one. It is taken for a peer that holds no more of the strand.
//!
//! Peers that have proved their ids run this software, and check what they relay.

use std::time::Instant;

use hawser_proto::OriginatorId;

use super::search::SEARCH_FOR;
use super::{Effect, Follower};
use crate::replication::link::PeerViolation;

impl Follower {
    /// Handles a rule that is broken in what a peer has sent: it loses its connection, or if another node may have made
    /// the envelope, its want.
    pub(super) fn handle_violation(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        violation: PeerViolation,
    ) {
        if self.may_be_passed_on(peer, violation) {
            return self.end_passed_on(now, peer);
        }
        self.note_violation(now, peer);
        self.release_part(peer);
        self.peers.remove(&peer);
        self.note_peer_changed(now, peer);
        self.effects.push_back(Effect::Disconnect { peer, violation });
    }

    /// Notes that a peer has sent an envelope that readers were shown, with an outer layer that its originator has not
    /// signed. The peer gets a pause, as for each rule that it breaks.
    pub fn note_forged(&mut self, now: Instant, peer: OriginatorId) {
        self.choice.doubt(now, peer);
    }

    /// True if the peer may have got what it has sent from another node.
    fn may_be_passed_on(&self, id: OriginatorId, violation: PeerViolation) -> bool {
        let is_unproven = self.peers.get(&id).is_some_and(|peer| !peer.is_proven);
        violation.is_originator_fault() && is_unproven && id != self.originator
    }

    /// Ends the want of such a peer, which has told all that it can. It would send the same envelope again, so it is
    /// not asked for everything that follows for a minute, unless it becomes the source anew. A part of a backlog it
    /// loses like one in which it names a gap.
    fn end_passed_on(&mut self, now: Instant, peer: OriginatorId) {
        if self.sends_part(peer) {
            return self.note_left_out(peer);
        }
        let has_end = self.open_want(peer).is_some_and(|open| open.up_to.is_some());
        self.effects.push_back(Effect::Stop { peer });
        if has_end {
            self.note_answered(now, peer);
        }
        self.finish_want(now, peer, has_end);
        if !has_end {
            self.peers.entry(peer).and_modify(|peer| peer.ask_at = now + SEARCH_FOR);
        }
    }
}
