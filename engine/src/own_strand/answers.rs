//! The answers of peers about this node's own strand: the heads that they claim, and the envelopes
//! that they have shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

/// The time for which a peer's claim keeps the node from signing while the peer sends none of the claimed envelopes. A
/// guess: an answer takes milliseconds, and a busy disk some seconds.
const SHOW_FOR: Duration = Duration::from_secs(10);
/// The time of such a claim by a peer that has shown a place beyond a gap, because the follower searches for the gap
/// first (`docs/protocol/replication.md`, Gaps). Also the longest time of a claim while bytes of an answer arrive: a
/// link of 64 KiB/s carries 4 MiB in it. The longest envelope may take longer, but a peer may send any bytes.
const SEARCH_FOR: Duration = Duration::from_secs(75);
/// The least that a turn in which a peer shows nothing takes from that time, for any end of the turn. A guess: a
/// claim that is fulfilled by envelopes on their way to the disk blocks publishers for a moment only, so such
/// claims must not be repeatable for ever.
const TURN_COSTS: Duration = Duration::from_secs(1);
/// The longest turn of one peer while another one could be asked. A guess: a gap search fits into it.
const TURN_FOR: Duration = Duration::from_secs(120);

/// The answers of all peers, and the peer that is asked now.
#[derive(Debug, Default)]
pub(super) struct Answers {
    peers: BTreeMap<OriginatorId, PeerAnswer>,
    /// Head of the strand on disk.
    held: SequenceId,
    /// The highest sequence id for which a peer has shown an envelope.
    shown: SequenceId,
    asked: Option<Asked>,
    /// The peer whose turn ended last.
    last: Option<OriginatorId>,
}

/// The answer of one peer. It is kept when the peer disconnects, so that a peer gains nothing by reconnecting.
#[derive(Debug, Default)]
struct PeerAnswer {
    is_connected: bool,
    /// True if the peer states the heads that it holds. A peer that states none may hold any place, and has not
    /// answered.
    has_heads: bool,
    claimed: SequenceId,
    /// The highest sequence id for which it has shown an envelope.
    shown: SequenceId,
    /// The time for which it was asked since it last showed something new.
    waited: Duration,
    /// The peer has answered: it claimed no more than this node holds, has sent everything that it
    /// claimed, or has shown nothing new for as long as it is asked.
    has_answered: bool,
}

/// The peer that is asked for the places that it claims to hold.
#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: OriginatorId,
    /// Time at which the turn of this peer began.
    began: Instant,
    /// It was asked, or has shown something, at this time.
    since: Instant,
    /// Bytes of its answer have arrived at this time.
    arrived_at: Option<Instant>,
}

impl Answers {
    /// Updates the held place and the claims of peers, and decides which peer is asked.
    pub(super) fn update(
        &mut self,
        now: Instant,
        held: SequenceId,
        claims: BTreeMap<OriginatorId, Option<SequenceId>>,
    ) {
        self.held = held;
        for (peer, answer) in &mut self.peers {
            answer.is_connected = claims.contains_key(peer);
        }
        for (peer, claimed) in claims {
            let answer = self.peers.entry(peer).or_default();
            (answer.is_connected, answer.has_heads) = (true, claimed.is_some());
            answer.claimed = claimed.unwrap_or_default();
        }
        self.end_question(now);
        for answer in self.peers.values_mut().filter(|answer| answer.is_connected) {
            answer.has_answered |= answer.has_heads && !answer.may_be_asked(held);
        }
        if self.asked.is_none() {
            self.asked = self.next(now);
        }
    }

    /// Notes that a peer has shown an envelope of a place.
    pub(super) fn note_shown(&mut self, now: Instant, peer: OriginatorId, sequence: SequenceId) {
        let answer = self.peers.entry(peer).or_default();
        if sequence > answer.shown {
            answer.shown = sequence;
            answer.waited = Duration::ZERO;
            if let Some(asked) = self.asked.as_mut().filter(|asked| asked.peer == peer) {
                asked.since = now;
            }
        }
        self.shown = self.shown.max(sequence);
    }

    /// Notes that bytes of an answer of a peer have arrived, of which nothing is whole yet.
    pub(super) fn note_arriving(&mut self, now: Instant, peer: OriginatorId) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.peer == peer) {
            asked.arrived_at = Some(now);
        }
    }

    /// Notes that the peer whose turn it is could not be asked until now.
    pub(super) fn note_unasked(&mut self, now: Instant) {
        if let Some(asked) = &mut self.asked {
            (asked.began, asked.since) = (now, now);
        }
    }

    /// Notes a place that another folder of this node has left out. No peer is asked for it.
    pub(super) fn note_declared(&mut self, through: SequenceId) {
        self.shown = self.shown.max(through);
    }

    /// Returns the highest sequence id for which a peer has shown an envelope, or that was left out.
    pub(super) fn shown(&self) -> SequenceId {
        self.shown
    }

    /// Returns the peer that is asked, and the highest place that it claims.
    pub(super) fn source(&self) -> Option<(OriginatorId, SequenceId)> {
        let asked = self.asked?;
        let claimed = self.peers.get(&asked.peer).map(|answer| answer.claimed);
        Some((asked.peer, claimed.unwrap_or_default()))
    }

    /// Returns true if the peer has answered completely.
    pub(super) fn has_answered(&self, peer: OriginatorId) -> bool {
        self.peers.get(&peer).is_some_and(|answer| answer.has_answered)
    }

    /// Returns the time at which the peer that is asked has waited for long enough.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked?;
        Some(self.peers.get(&asked.peer)?.spent_at(&asked, self.held))
    }

    /// Ends the question to a peer that has shown everything, has disconnected, or shows nothing. A slow peer makes
    /// room for another one after its turn.
    fn end_question(&mut self, now: Instant) {
        let Some(asked) = self.asked else { return };
        let held = self.held;
        let answer = self.peers.get(&asked.peer).expect("only peers are asked");
        let is_spent = now >= answer.spent_at(&asked, held);
        let is_over = is_spent || !answer.may_be_asked(held);
        let is_turn_over = now >= asked.began + TURN_FOR
            && self.peers.iter().any(|(peer, it)| *peer != asked.peer && it.may_be_asked(held));
        if is_over || is_turn_over {
            self.end_turn(now, asked);
        }
    }

    /// Ends a turn. A peer that has shown nothing in it has less time left.
    fn end_turn(&mut self, now: Instant, asked: Asked) {
        let answer = self.peers.get_mut(&asked.peer).expect("only peers are asked");
        let has_shown = asked.since > asked.began;
        let least = if has_shown { Duration::ZERO } else { TURN_COSTS };
        answer.waited += now.saturating_duration_since(asked.since).max(least);
        self.asked = None;
        self.last = Some(asked.peer);
    }

    /// Returns the next peer to ask. Prefers a peer other than the last one, then a peer that has shown envelopes which
    /// this node lacks, then the highest claim.
    fn next(&self, now: Instant) -> Option<Asked> {
        let open = self.peers.iter().filter(|(_, it)| it.may_be_asked(self.held));
        let best = open
            .max_by_key(|(peer, it)| (Some(**peer) != self.last, it.shown > self.held, it.claimed));
        best.map(|(peer, _)| Asked { peer: *peer, began: now, since: now, arrived_at: None })
    }
}

impl PeerAnswer {
    /// Returns true if the peer may hold more than this node, and its claim still counts.
    fn may_be_asked(&self, held: SequenceId) -> bool {
        let has_more = self.claimed > held || self.shown > held;
        self.is_connected && has_more && self.waited < self.limit(held)
    }

    /// Returns the time at which the peer has been asked for long enough, if it shows nothing before. Bytes that arrive
    /// prolong it, within a bound.
    fn spent_at(&self, asked: &Asked, held: SequenceId) -> Instant {
        let after = |limit: Duration| asked.since + limit.saturating_sub(self.waited);
        let arriving = asked.arrived_at.map(|at| (at + SHOW_FOR).min(after(SEARCH_FOR)));
        arriving.map_or(after(self.limit(held)), |until| until.max(after(self.limit(held))))
    }

    /// Returns the time for which the peer may be asked without showing anything new.
    fn limit(&self, held: SequenceId) -> Duration {
        if self.shown > held { SEARCH_FOR } else { SHOW_FOR }
    }
}
