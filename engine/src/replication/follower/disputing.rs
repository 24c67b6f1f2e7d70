//! Asking for the places of a dispute, and the comparison of what the peer sends.

use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};

use super::allowance::ANSWER_WITHIN;
use super::effect::Effect;
use super::{Follower, PeerProgress};
use crate::replication::ranges::Places;

impl Follower {
    /// Notes that a peer holds another tree than this node of the places up to `disputed`, and that both agree on the
    /// tree of those up to `agreed`. The peer is asked for the places between, once nothing else waits. Has no effect
    /// for the strand's own node, and on strands whose second statements are no evidence.
    pub fn handle_disputed(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        agreed: SequenceId,
        disputed: SequenceId,
    ) {
        let is_judged = self.originator.is_node() && self.own_beside.is_none();
        if is_judged && peer != self.originator {
            // Of later places, an envelope would begin a search.
            self.disputes.begin(now, peer, agreed, disputed.min(self.accepted));
        }
        self.look(now);
        self.send_wants(now);
    }

    /// Takes over the disputes of an earlier follower of the strand. Their places are asked for once this one has
    /// passed them.
    #[must_use]
    pub fn with_disputes_of(mut self, before: &Self) -> Self {
        self.disputes = before.disputes.clone();
        self
    }

    /// Returns the places of a dispute with a peer in place of these that are marked missing, unless the missing ones
    /// may be asked for earlier; with the time.
    pub(super) fn disputed_or(
        &self,
        id: OriginatorId,
        peer: &PeerProgress,
        missing: Option<(Instant, Places)>,
    ) -> Option<(Instant, Places)> {
        let disputed = self.disputes.places(id).filter(|(_, (_, to))| *to <= self.accepted);
        let disputed = disputed.map(|(paced_until, places)| {
            (paced_until.map_or(peer.fill_at, |at| at.max(peer.fill_at)), places)
        });
        // Of equal times the first one: a dispute is short.
        disputed.into_iter().chain(missing).min_by_key(|(at, _)| *at)
    }

    /// Returns the time up to which searches leave the want of a peer alone; `None` unless it is for the places of a
    /// dispute, and the peer is not the source, which has to send the strand.
    ///
    /// The strand's node, which may be the one at fault, can begin and end searches as fast as it likes. They would
    /// take each such want back before its answer comes, and so use up those that a dispute has.
    pub(super) fn undisturbed_until(
        &self,
        id: OriginatorId,
        peer: &PeerProgress,
    ) -> Option<Instant> {
        let open = peer.open.as_ref().filter(|_| id != self.choice.source)?;
        self.disputes.is_for_dispute(id, open).then_some(open.asked_at + ANSWER_WITHIN)
    }

    /// Returns the next time at which the want of a dispute is taken back for a search; `None` if there is none.
    pub(super) fn disputes_end_at(&self) -> Option<Instant> {
        self.search.as_ref()?;
        self.peers.iter().filter_map(|(id, peer)| self.undisturbed_until(*id, peer)).min()
    }

    /// Takes back the wants of disputes for which a search has waited long enough.
    pub(super) fn end_disputes_in_search(&mut self, now: Instant) {
        if self.disputes_end_at().is_none_or(|at| at > now) {
            return;
        }
        let is_over = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            self.undisturbed_until(**id, peer).is_some_and(|at| at <= now)
        };
        let over: Vec<_> = self.peers.iter().filter(is_over).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.cancel_want(id));
    }

    /// Notes that a peer has sent an envelope of a place that was passed. Ends its want if that is for the places of a
    /// dispute, and the peer has sent as many bytes as it may.
    pub(super) fn note_compared(
        &mut self,
        now: Instant,
        from: OriginatorId,
        sequence: SequenceId,
        len_bytes: usize,
    ) {
        let open = self.peers.get(&from).and_then(|peer| peer.open.as_ref());
        let Some(open) = open else { return };
        if self.disputes.note_sent(from, open, sequence, len_bytes) {
            self.effects.push_back(Effect::Stop { peer: from });
            self.finish_want(now, from, true);
        }
    }
}
