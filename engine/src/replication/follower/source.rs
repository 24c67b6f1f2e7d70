//! The peer that a strand is taken from when its own node has left the network.

use std::time::Instant;

use hawser_proto::OriginatorId;

use super::Follower;

impl Follower {
    /// Notes if the strand's node is in the network. While it is not, the follower asks it for nothing, and
    /// takes the strand from another peer at a time: one that claims to hold more, and the next one when
    /// that sends nothing.
    pub fn handle_membership(&mut self, now: Instant, is_member: bool) {
        if self.is_relayed != is_member {
            return;
        }
        self.is_relayed = !is_member;
        self.cancel_want(self.originator);
        if is_member {
            self.set_source(now, self.originator);
        } else {
            self.choose_source(now, false);
        }
        self.send_wants(now);
    }

    /// Chooses the source of a strand whose node has left. `is_stalled` says that the present one claims
    /// more and sends nothing.
    pub(super) fn choose_source(&mut self, now: Instant, is_stalled: bool) {
        if !self.is_relayed {
            return;
        }
        let others = || self.peers.iter().filter(|(id, _)| **id != self.originator);
        let ahead: Vec<OriginatorId> = others()
            .filter(|(_, peer)| peer.claimed_head > self.accepted)
            .map(|(id, _)| *id)
            .collect();
        let is_connected = others().any(|(id, _)| *id == self.source);
        let is_good = ahead.is_empty() || (ahead.contains(&self.source) && !is_stalled);
        if is_connected && is_good {
            return;
        }
        let candidates =
            if ahead.is_empty() { others().map(|(id, _)| *id).collect() } else { ahead };
        // In turns, so that no peer holds the strand up by claims.
        let next = candidates.iter().find(|id| **id > self.source).or(candidates.first());
        self.set_source(now, next.copied().unwrap_or(self.originator));
    }

    fn set_source(&mut self, now: Instant, source: OriginatorId) {
        if source == self.source {
            return;
        }
        let is_endless = self.open_want(self.source).is_some_and(|open| open.up_to.is_none());
        if is_endless {
            self.cancel_want(self.source);
        }
        self.source = source;
        self.source_heard_at = now;
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.ask_at = now;
        }
    }
}
