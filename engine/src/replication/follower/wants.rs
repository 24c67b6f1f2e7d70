//! Wants: which one a peer gets, and how each ends: answered, refused, or taken back.

use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};

use super::effect::Effect;
use super::further::FurtherForm;
use super::open_want::OpenWant;
use super::search::SEARCH_AGAIN_AFTER;
use super::{Follower, PeerProgress, RETRY_AFTER};
use crate::replication::link::{GapWants, Want, WantedItems};

impl Follower {
    /// Sends a want to every idle peer that may be asked now.
    pub(super) fn send_wants(&mut self, now: Instant) {
        let is_due = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            peer.open.is_none() && self.asked_at(**id, peer) <= now
        };
        let due: Vec<_> = self.peers.iter().filter(is_due).map(|(id, _)| *id).collect();
        for id in due {
            // Looked at again, because a peer that was asked before may have taken the turn.
            let peer = self.peers.get(&id).filter(|peer| self.asked_at(id, peer) <= now);
            let want =
                peer.and_then(|peer| Some((self.next_want(id, peer)?, self.is_for_fill(id, peer))));
            let Some((want, is_fill)) = want else { continue };
            self.note_part_asked(now, id);
            self.note_turn(now, id);
            self.send_want(now, id, want, is_fill);
        }
    }

    /// Opens a want at an idle peer. `is_fill` says that it is for places marked missing, or of a dispute.
    pub(super) fn send_want(&mut self, now: Instant, id: OriginatorId, want: Want, is_fill: bool) {
        if id == self.choice.source {
            self.choice.progress_at = now;
        }
        let is_owed = is_fill && self.note_fill_want(id, want);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let request = self.requests.next();
        peer.note_asked(now, want, is_fill && !is_owed);
        peer.open = Some(OpenWant::new(request, now, want, is_fill));
        self.note_search_asked(now, id);
        self.effects.push_back(Effect::Want { peer: id, request, want });
    }

    /// Returns the want for an idle peer: the places of the search if there is one, else the strand
    /// if the peer is its source or tried beside it, else the next range that is marked missing, or the
    /// places of a dispute with the peer.
    pub(super) fn next_want(&self, id: OriginatorId, peer: &PeerProgress) -> Option<Want> {
        let want = |after, up_to| Want::envelopes(self.originator, after, up_to);
        if self.choice.is_relayed && id == self.originator {
            return None;
        }
        if let Some(search) = &self.search {
            let gap = WantedItems::Envelopes(Some(search.asked_through_of(id)));
            let (after, items) = search.further.asked_of(id).unwrap_or((self.accepted, gap));
            return Some(Want { originator: self.originator, after, items });
        }
        if self.is_for_parts(id, peer) {
            return self.next_part(id, peer);
        }
        if self.choice.is_asked(id) {
            return Some(want(self.durable, None));
        }
        let (_, (from, to)) = self.next_beside(id, peer)?;
        Some(want(from.previous(), Some(to)))
    }

    /// Closes a want whose answer has ended, and sets the time to ask again. `is_answered` is false if the peer has
    /// refused it, or its stream broke.
    pub(super) fn finish_want(&mut self, now: Instant, id: OriginatorId, is_answered: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(open) = peer.open.take() else { return };
        if open.is_fill {
            // The source is asked for what comes next again, another peer for the next range, or for the places of a
            // search that has begun meanwhile, at its pace.
            peer.ask_at = if is_answered { peer.ask_at.max(now) } else { now + RETRY_AFTER };
            if is_answered {
                self.disputes.end(id, &open);
            }
            return;
        }
        let is_own = id == self.originator;
        let search = self.search.as_mut().filter(|_| is_answered);
        let goes_on = search.is_some_and(|search| {
            let asked_through = search.asked_through_of(id);
            let form = match peer.gap_wants {
                GapWants::None => FurtherForm::Single,
                GapWants::Ranges => FurtherForm::Several,
                // A relay can claim places that the node has yet to sign. It would say that it lacks them.
                GapWants::All if is_own && search.left_out_by != id => {
                    FurtherForm::Gaps(peer.claims.head())
                }
                GapWants::All => FurtherForm::Gaps(SequenceId::MAX),
            };
            search.further.note_answered(now, id, asked_through, form)
        });
        peer.ask_at = match is_answered {
            true if goes_on => now,
            true => now + SEARCH_AGAIN_AFTER,
            false => now + RETRY_AFTER,
        };
        self.forget_stalls(id);
        if open.up_to.is_none() {
            self.note_refusal(now, id);
        }
    }

    /// Ends all wants at the beginning or the end of a search, except for those of disputes which still have time.
    pub(super) fn cancel_all_wants(&mut self, now: Instant) {
        let is_ended = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            peer.open.is_some() && self.undisturbed_until(**id, peer).is_none_or(|at| at <= now)
        };
        let busy: Vec<_> = self.peers.iter().filter(is_ended).map(|(id, _)| *id).collect();
        busy.into_iter().for_each(|id| self.cancel_want(id));
        self.choice.end_trials();
    }

    /// Forgets the requests to a peer, whose connection has ended.
    pub(super) fn drop_peer(&mut self, now: Instant, peer: OriginatorId) {
        self.release_part(peer);
        self.forget_stalls(peer);
        self.note_lost(now, peer);
        self.peers.remove(&peer);
    }

    /// Ends the open want of a peer, if there is one, with a `Stop` to the peer.
    pub(super) fn cancel_want(&mut self, id: OriginatorId) {
        self.release_part(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(open) = peer.open.take() else { return };
        if open.is_fill && !self.disputes.is_for_dispute(id, &open) {
            peer.note_fill_stopped(&open);
        }
        self.effects.push_back(Effect::Stop { peer: id });
    }

    pub(super) fn open_want(&self, peer: OriginatorId) -> Option<&OpenWant> {
        self.peers.get(&peer)?.open.as_ref()
    }

    pub(super) fn open_want_mut(&mut self, peer: OriginatorId) -> &mut OpenWant {
        let open = self.peers.get_mut(&peer).and_then(|peer| peer.open.as_mut());
        open.expect("items are handled only while their want is open")
    }
}
