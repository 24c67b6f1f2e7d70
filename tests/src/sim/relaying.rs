//! A hostile node as a relay: what it claims of other nodes' strands, what it leaves out of them, and which wants it
//! does not answer.
//!
//! It leaves a place out for all peers and at all times. Otherwise a place of a node that is gone, which only the
//! hostile one holds, could reach one honest node so late that the others have just asked that one in vain.

use bytes::Bytes;
use hawser_engine::replication::{StrandItem, Want};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use super::hostile::{Behaviour, Hostility};
use super::members::LIAR;
use super::wire::Path;
use super::world::Sim;

/// The place that it claims from the beginning: about as many as a strand has at the end of a run.
const EARLY_HEAD: SequenceId = SequenceId(28);
/// It leaves out one place of this number.
const LEFT_OUT_ONE_IN: u64 = 3;

impl Hostility {
    /// Returns its claim about a strand of which it holds the places up to `head`.
    pub(super) fn early_claim(&self, head: EnvelopeId) -> EnvelopeId {
        match self.claims_early(head) {
            true => EnvelopeId { sequence: EARLY_HEAD, ..head },
            false => head,
        }
    }

    /// Returns true if it claims more of this strand than these places, which are all that it holds.
    pub(super) fn claims_early(&self, head: EnvelopeId) -> bool {
        let is_early = head.originator != LIAR && head.sequence < EARLY_HEAD;
        is_early && self.does(Behaviour::EarlyClaims)
    }

    /// Returns true if it sends this place of another node's strand to no peer.
    pub(super) fn leaves_out(&self, originator: OriginatorId, sequence: SequenceId) -> bool {
        let number = self.seed.wrapping_add(u64::from(originator.0 / 100) + sequence.0);
        let is_chosen = originator != LIAR && number.is_multiple_of(LEFT_OUT_ONE_IN);
        is_chosen && self.does(Behaviour::LeftOutPlaces)
    }
}

impl Sim {
    /// Returns true if node 300 answers a want for a part of another node's strand as if it held none of the next
    /// places, which are these.
    pub(super) fn denies(&mut self, path: Path, want: Want, held: &[StrandItem<Bytes>]) -> bool {
        if !self.does_for_part(Behaviour::EmptyAnswers, path, want) {
            return false;
        }
        let has_some = held.iter().any(|item| matches!(item, StrandItem::Envelope(_)));
        if self.is_searched(path, want) && has_some {
            self.meet(Behaviour::EmptyAnswers);
        }
        true
    }

    /// Lets these nodes claim all places of others' strands from now on, and send nothing of them.
    pub fn mute(&mut self, relays: &[OriginatorId]) {
        self.mute.extend(relays);
        for &relay in relays {
            for originator in self.members.clone() {
                self.plan_clocks(relay, originator);
            }
        }
    }

    /// Returns true if a node claims all places of a strand, and sends nothing of it.
    pub(super) fn is_mute(&self, server: OriginatorId, originator: OriginatorId) -> bool {
        self.mute.contains(&server) && server != originator
    }

    /// Returns true if a node does not answer the want that is open for a strand.
    pub(super) fn stays_silent(&mut self, path: Path, originator: OriginatorId) -> bool {
        if self.is_mute(path.server, originator) {
            return true;
        }
        let stream = self.connections[&path].streams.get(&originator);
        let Some(want) = stream.map(|stream| stream.want) else { return false };
        if !self.does_for_part(Behaviour::NoAnswers, path, want) {
            return false;
        }
        if self.is_searched(path, want) {
            self.meet(Behaviour::NoAnswers);
        }
        true
    }

    /// Returns true if node 300 does this with a want, which is for a part of another node's strand.
    fn does_for_part(&self, behaviour: Behaviour, path: Path, want: Want) -> bool {
        let is_relay = path.server == LIAR && want.originator != LIAR;
        let hostility = self.hostility.as_ref().filter(|_| is_relay && want.up_to().is_some());
        hostility.is_some_and(|it| it.does(behaviour))
    }

    fn is_searched(&self, path: Path, want: Want) -> bool {
        let following = self.nodes[&path.follower].following.get(&want.originator);
        following.is_some_and(|it| it.follower.is_searching())
    }

    /// Notes that a node has begun to search for places that `from` has left out. Counts those that node 300 keeps to
    /// itself, and that their own node has acknowledged.
    pub(super) fn note_search(
        &mut self,
        node: OriginatorId,
        from: OriginatorId,
        originator: OriginatorId,
    ) {
        *self.begun_searches.entry((node, originator)).or_default() += 1;
        let next = self.nodes[&node].following[&originator].follower.accepted().next();
        let keeps = |it: &Hostility| it.leaves_out(originator, next);
        let is_kept = from == LIAR && self.hostility.as_ref().is_some_and(keeps);
        let of_strand = self.acknowledged.get(&originator);
        if is_kept && of_strand.is_some_and(|places| places.contains_key(&next)) {
            self.meet(Behaviour::LeftOutPlaces);
        }
    }

    /// Returns the number of searches that a node has begun in a strand.
    #[must_use]
    pub fn begun_searches(&self, node: OriginatorId, originator: OriginatorId) -> usize {
        self.begun_searches.get(&(node, originator)).copied().unwrap_or(0)
    }
}
