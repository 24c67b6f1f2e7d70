//! Search of peers for envelopes that this node's disk has damaged.
//!
//! Peers are asked one after the other, each for all places that are still wanted, in an order that is drawn for each
//! search. Nodes choose their ids, and hostile ones that came first each time could use up the time of every search. A
//! peer may send anything: an envelope that its originator has not signed ends the connection, and one that is not in
//! the strand's tree is dropped, so that the next peer is asked for its place. A peer that has not proved its id may
//! pass on the strand of another node unchecked, as in the follower (`follower::passed_on`): only its want ends.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::merkle::{TreeHash, envelope_leaf};
use hawser_proto::{Bytes, OriginatorId, SequenceId};

use super::link::{PeerViolation, RequestId, RequestIds, StrandItem, Want, WantResponse};
use super::verify::VerifyResult;

/// Time within which a peer has to send something, before the next one is asked. As long as a follower waits for the
/// source of a strand.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Time that a peer has for its whole answer, however often it sends something. A guess: an honest one sends a damaged
/// block in a second.
const WANT_WITHIN: Duration = Duration::from_secs(60);
/// Time that a search takes at most, because the strand's follower rests meanwhile. A guess: ten peers may use up all
/// of their time.
const SEARCH_WITHIN: Duration = Duration::from_secs(600);
/// The maximum number of bytes of envelopes that are held. A guess: a damaged block has some ten thousand.
const HELD_BYTES_MAX: usize = 64 << 20;

/// An action that a [`MendSearch`] asks of its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MendEffect {
    /// Send a want to a peer.
    Want {
        /// The peer.
        peer: OriginatorId,
        /// Comes back with the answer.
        request: RequestId,
        /// The places to ask for.
        want: Want,
    },
    /// Take the want back.
    Stop {
        /// The peer.
        peer: OriginatorId,
    },
    /// Close the connection.
    Disconnect {
        /// The peer.
        peer: OriginatorId,
        /// The rule that it broke.
        violation: PeerViolation,
    },
}

/// A search for envelopes of one strand. Does no I/O and reads no clock.
///
/// After each `handle_*`, drain [`poll_effect`](Self::poll_effect). It is over when no want is open.
#[derive(Debug)]
pub struct MendSearch {
    originator: OriginatorId,
    /// The places, each with its leaf if the strand's tree has one.
    wanted: BTreeMap<SequenceId, Option<TreeHash>>,
    found: BTreeMap<SequenceId, Bytes>,
    held_bytes: usize,
    /// There was no room for an envelope. The strand's follower rests meanwhile, and what other peers send would have
    /// no room either.
    is_full: bool,
    /// Peers that have been asked, or that are being asked.
    asked: BTreeSet<OriginatorId>,
    /// Connected peers that have proved their ids.
    proven: BTreeSet<OriginatorId>,
    open: Option<OpenMend>,
    /// End of the search; `None` before its begin.
    ends_at: Option<Instant>,
    requests: RequestIds,
    /// Decides the order in which peers are asked.
    order: u64,
    /// Number of correctly signed envelopes that are not in the strand's tree.
    refused: u64,
    effects: Vec<MendEffect>,
}

/// The want that is open.
#[derive(Debug, Clone, Copy)]
struct OpenMend {
    peer: OriginatorId,
    request: RequestId,
    /// The last place that came, or the one before the first that is wanted.
    position: SequenceId,
    up_to: SequenceId,
    /// Time at which it ends if nothing comes.
    until: Instant,
    /// Time at which it ends, even if places are still arriving.
    ends_at: Instant,
}

impl MendSearch {
    /// Begins a search. `requests` are those of a turn that no other search and no follower has had. `order` decides
    /// the order in which peers are asked: a number that no peer can guess, and another one for each search.
    #[must_use]
    pub fn new(
        originator: OriginatorId,
        wanted: BTreeMap<SequenceId, Option<TreeHash>>,
        requests: RequestIds,
        order: u64,
    ) -> Self {
        Self {
            originator,
            wanted,
            found: BTreeMap::new(),
            held_bytes: 0,
            is_full: false,
            asked: BTreeSet::new(),
            proven: BTreeSet::new(),
            open: None,
            ends_at: None,
            requests,
            order,
            refused: 0,
            effects: Vec::new(),
        }
    }

    /// Notes the connected peers that have proved their ids. They run this software, and check what they relay.
    pub fn note_proven(&mut self, proven: BTreeSet<OriginatorId>) {
        self.proven = proven;
    }

    /// Notes the connected peers, with the head of the strand that each claims. Asks one that was not asked before,
    /// unless one is being asked or the time of the search is over.
    pub fn handle_peers(&mut self, now: Instant, peers: &[(OriginatorId, SequenceId)]) {
        if let Some(open) = self.open
            && !peers.iter().any(|(peer, _)| *peer == open.peer)
        {
            self.open = None;
        }
        let (Some((&first, _)), Some((&last, _))) =
            (self.wanted.first_key_value(), self.wanted.last_key_value())
        else {
            return;
        };
        // From the first call with something wanted on: peers that come and go do not prolong the search.
        let search_ends_at = *self.ends_at.get_or_insert(now + SEARCH_WITHIN);
        if self.open.is_some() || self.is_full || search_ends_at <= now {
            return;
        }
        let holds = |(peer, head): &&(OriginatorId, SequenceId)| {
            *head >= first && !self.asked.contains(peer)
        };
        let next = peers.iter().filter(holds).min_by_key(|(peer, _)| rank(self.order, *peer));
        let Some(&(peer, _)) = next else { return };
        self.asked.insert(peer);
        let (request, position) = (self.requests.next(), first.previous());
        let ends_at = search_ends_at.min(now + WANT_WITHIN);
        let until = ends_at.min(now + ANSWER_WITHIN);
        self.open = Some(OpenMend { peer, request, position, up_to: last, until, ends_at });
        let want = Want::envelopes(self.originator, position, Some(last));
        self.effects.push(MendEffect::Want { peer, request, want });
    }

    /// Handles the response of a peer, whose signatures have been checked.
    pub fn handle_response(&mut self, now: Instant, response: WantResponse<VerifyResult>) {
        let is_awaited = self.awaits(response.peer, response.request);
        if let Some(open) = self.open.as_mut().filter(|_| is_awaited && response.items.is_empty()) {
            // Bytes of a long envelope have arrived: over a slow link it takes longer than a peer may send nothing.
            open.until = open.ends_at.min(now + ANSWER_WITHIN);
        }
        for item in response.items {
            let Some(open) = self.open.as_mut() else { return };
            if (open.peer, open.request) != (response.peer, response.request) {
                return;
            }
            open.until = open.ends_at.min(now + ANSWER_WITHIN);
            match item {
                StrandItem::Envelope(Ok(entry)) => {
                    if entry.id.originator != self.originator {
                        return self.refuse(PeerViolation::WrongOriginator);
                    }
                    let place = entry.id.sequence;
                    if place <= open.position || place > open.up_to {
                        return self.refuse(PeerViolation::OutOfOrder);
                    }
                    open.position = place;
                    self.take(place, entry.bytes);
                    if self.wanted.is_empty() || self.is_full {
                        return self.stop();
                    }
                }
                StrandItem::Envelope(Err(violation)) => return self.refuse(violation),
                StrandItem::Gap { from, to, .. } => {
                    if to < from || from <= open.position || from > open.up_to {
                        return self.refuse(PeerViolation::OutOfOrder);
                    }
                    // It may reach beyond the end of the want: the sender names what its log has.
                    open.position = to.min(open.up_to);
                }
                StrandItem::Prefix(_) | StrandItem::Second(_) => {}
                StrandItem::End | StrandItem::Closed => self.open = None,
            }
        }
    }

    /// Takes back a want without an answer for too long, or whose answer takes too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.open.is_some_and(|open| open.until <= now) {
            self.stop();
        }
    }

    /// Notes that a want could not be sent.
    pub fn handle_unsent(&mut self) {
        self.open = None;
    }

    /// Returns the next effect, oldest first.
    pub fn poll_effect(&mut self) -> Option<MendEffect> {
        (!self.effects.is_empty()).then(|| self.effects.remove(0))
    }

    /// Returns the time at which to call [`handle_timeout`](Self::handle_timeout); `None` when no want is open.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.open.map(|open| open.until)
    }

    /// Returns true if `request` is the open want at this peer. An answer to any other request need not be checked.
    #[must_use]
    pub fn awaits(&self, peer: OriginatorId, request: RequestId) -> bool {
        self.open.is_some_and(|open| (open.peer, open.request) == (peer, request))
    }

    /// Returns the number of correctly signed envelopes that are not in the strand's tree.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns the envelopes that were found.
    #[must_use]
    pub fn into_found(self) -> BTreeMap<SequenceId, Bytes> {
        self.found
    }

    fn take(&mut self, place: SequenceId, bytes: Bytes) {
        let Some(leaf) = self.wanted.get(&place) else { return };
        if leaf.is_some_and(|leaf| envelope_leaf(&bytes) != Some(leaf)) {
            self.refused += 1;
            return;
        }
        if self.held_bytes.saturating_add(bytes.len()) > HELD_BYTES_MAX {
            self.is_full = true;
            return;
        }
        self.held_bytes += bytes.len();
        self.wanted.remove(&place);
        self.found.insert(place, bytes);
    }

    fn stop(&mut self) {
        if let Some(open) = self.open.take() {
            self.effects.push(MendEffect::Stop { peer: open.peer });
        }
    }

    /// Ends the connection of the peer that is being asked, or only its want if another node may have made what it
    /// sent.
    fn refuse(&mut self, violation: PeerViolation) {
        let Some(open) = self.open.take() else { return };
        let peer = open.peer;
        let is_relay = peer != self.originator && !self.proven.contains(&peer);
        // The operator may have named another key than that of the older network.
        let is_other_key =
            self.originator.is_migrated() && violation == PeerViolation::ForgedSignature;
        let is_passed_on = violation.is_originator_fault() && is_relay;
        self.effects.push(match is_passed_on || is_other_key {
            true => MendEffect::Stop { peer },
            false => MendEffect::Disconnect { peer, violation },
        });
    }
}

/// Returns the rank of a peer in a search. The lowest one is asked first.
fn rank(order: u64, peer: OriginatorId) -> [u8; 32] {
    let mut drawn = [0; 12];
    drawn[..8].copy_from_slice(&order.to_be_bytes());
    drawn[8..].copy_from_slice(&peer.0.to_be_bytes());
    *blake3::hash(&drawn).as_bytes()
}
