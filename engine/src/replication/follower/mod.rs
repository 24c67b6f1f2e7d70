//! One strand of another node, as this node follows it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, Fault};
use hawser_storage::{Change, LogEntry, SkipReason};

use super::link::{PeerViolation, RequestId, StrandItem, Want, WantResponse};
use super::ranges::Ranges;
use super::verify::{VerifyError, VerifyResult};

/// How long a gap is looked for before the strand goes on without it.
pub const SEARCH_FOR: Duration = Duration::from_secs(60);
/// A peer that did not have what was asked for is asked again after this time. Guessed.
const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A strand that ended although it has no end is asked for again after this time. Guessed.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A source that is known to be ahead and sends nothing is asked anew after this time. Guessed.
pub const STALL_AFTER: Duration = Duration::from_secs(10);
/// An envelope whose price cannot be judged yet is asked for again after this time. Guessed.
pub const DECIDE_AFTER: Duration = Duration::from_secs(5);
/// Connected peers are asked again for what was marked missing. Guessed.
const FILL_EVERY: Duration = Duration::from_secs(600);

/// A write to one strand that a [`Follower`] wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandWrite {
    /// Commit these, in this order and after everything before them; then call
    /// [`Follower::handle_durable`] with `through`.
    Append {
        /// The next steps of the strand, without a hole.
        changes: Vec<Change>,
        /// The place of the last one.
        through: SequenceId,
    },
    /// Hold these against what is stored, after all appends before them: the same statement is
    /// nothing, another one is a conflict, and a place marked missing is filled.
    Compare(Vec<LogEntry>),
}

/// What a [`Follower`] wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write to the log, in the order of the effects.
    Write(StrandWrite),
    /// Ask a peer. What it answers comes back under `request`.
    Want {
        /// Whom.
        peer: OriginatorId,
        /// Names the answer.
        request: RequestId,
        /// What for.
        want: Want,
    },
    /// Take back what was asked of a peer.
    Stop {
        /// Whom.
        peer: OriginatorId,
    },
    /// End the connection to a peer.
    Disconnect {
        /// Whose.
        peer: OriginatorId,
        /// What it did.
        violation: PeerViolation,
    },
}

/// One remote originator's strand as this node follows it. Does no I/O and reads no clock.
///
/// After each `handle_*`, drain [`poll_effect`](Self::poll_effect) and arm the timer from
/// [`poll_timeout`](Self::poll_timeout). `now` never decreases between calls.
///
/// The strand is taken from its originator's own node, unless another peer is named. What that one
/// cannot give is looked for at every connected peer, and what nobody gives for [`SEARCH_FOR`] is
/// marked missing. No place is passed over on a peer's word: a gap counts once a signed envelope
/// stands behind it.
///
/// Invariant: `durable <= accepted`. The strand is asked for from `durable`.
#[derive(Debug)]
pub struct Follower {
    originator: OriginatorId,
    /// The peer that the strand is taken from.
    source: OriginatorId,
    accepted: SequenceId,
    durable: SequenceId,
    peers: BTreeMap<OriginatorId, Peer>,
    search: Option<Search>,
    /// The next place, when somebody has sent its envelope and it could not be judged yet.
    undecided: Option<SequenceId>,
    missing: Ranges,
    requests: u64,
    heard_at: Instant,
    effects: VecDeque<Effect>,
}

/// A connected peer.
#[derive(Debug)]
struct Peer {
    /// What it is being asked for now: one want at a time, as in the protocol.
    lane: Option<Lane>,
    /// It is not asked before this.
    quiet_until: Instant,
    /// How far it says that it holds the strand.
    head: SequenceId,
    /// Where the walk over the missing ranges is; what is above has not been asked of it.
    filled: SequenceId,
}

/// A want and how far its answer has come.
#[derive(Debug)]
struct Lane {
    request: RequestId,
    up_to: Option<SequenceId>,
    last: SequenceId,
    /// Just before `last`, the peer named these places as expired.
    expired: Option<(SequenceId, SequenceId)>,
}

/// Places after `accepted` that the source did not send.
#[derive(Debug)]
struct Search {
    through: SequenceId,
    until: Instant,
    /// Somebody said that it does not have them. Until then, nobody could be asked.
    answered: bool,
}

impl Follower {
    /// Goes on after `stored`, the strand's head on disk. `missing` are the places below it that
    /// are marked missing, ascending and disjoint, both ends included.
    #[must_use]
    pub fn new(
        originator: OriginatorId,
        stored: SequenceId,
        missing: impl IntoIterator<Item = (SequenceId, SequenceId)>,
        now: Instant,
    ) -> Self {
        let mut ranges = Ranges::default();
        missing.into_iter().for_each(|(from, to)| ranges.push(from, to));
        Self {
            originator,
            source: originator,
            accepted: stored,
            durable: stored,
            peers: BTreeMap::new(),
            search: None,
            undecided: None,
            missing: ranges,
            requests: 0,
            heard_at: now,
            effects: VecDeque::new(),
        }
    }

    /// Takes the strand from this peer instead of its originator's own node.
    #[must_use]
    pub fn with_source(mut self, source: OriginatorId) -> Self {
        self.source = source;
        self
    }

    /// The highest place that was handed over for storing.
    #[must_use]
    pub fn accepted(&self) -> SequenceId {
        self.accepted
    }

    /// The highest place known to be on disk.
    #[must_use]
    pub fn durable(&self) -> SequenceId {
        self.durable
    }

    /// True while a gap holds the strand up.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Whether an answer is still waited for. What comes for any other need not be checked.
    #[must_use]
    pub fn awaits(&self, peer: OriginatorId, request: RequestId) -> bool {
        self.lane(peer).is_some_and(|lane| lane.request == request)
    }

    /// A peer is connected, anew if it was before.
    pub fn handle_peer_up(&mut self, now: Instant, peer: OriginatorId) {
        let fresh =
            Peer { lane: None, quiet_until: now, head: SequenceId::NONE, filled: SequenceId::NONE };
        self.peers.insert(peer, fresh);
        self.ask(now);
    }

    /// A peer is no longer connected.
    pub fn handle_peer_down(&mut self, now: Instant, peer: OriginatorId) {
        self.peers.remove(&peer);
        self.ask(now);
    }

    /// A peer says how far it holds the strand. Decides only when to ask anew.
    pub fn handle_head(&mut self, peer: OriginatorId, head: SequenceId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.head = head;
        }
    }

    /// What a peer sent, after [`EnvelopeVerifier::check`](super::EnvelopeVerifier::check).
    pub fn handle_response(&mut self, now: Instant, response: WantResponse<VerifyResult>) {
        let WantResponse { peer, request, items } = response;
        let mut taken = Taken::default();
        for item in items {
            // Checked each time: a item may have ended the lane.
            if !self.awaits(peer, request) {
                break;
            }
            if peer == self.source {
                self.heard_at = now;
            }
            if let Err(violation) = self.take(now, peer, item, &mut taken) {
                self.peers.remove(&peer);
                self.effects.push_back(Effect::Disconnect { peer, violation });
            }
        }
        self.store(taken);
        self.ask(now);
    }

    /// Everything up to `to` is on disk.
    ///
    /// # Panics
    /// When `to` was never handed over.
    pub fn handle_durable(&mut self, to: SequenceId) {
        assert!(to <= self.accepted, "storage confirmed what it was never given");
        self.durable = self.durable.max(to);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. Does nothing before.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.search.as_ref().is_some_and(|search| search.until <= now) {
            self.give_up(now);
        }
        if self.stalls_at().is_some_and(|at| at <= now) {
            self.heard_at = now;
            if self.is_stalled() {
                self.drop_lane(self.source);
            }
        }
        self.ask(now);
    }

    /// The next thing to be done, oldest first.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next, if at all.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = |(id, peer): (&OriginatorId, &Peer)| {
            (peer.lane.is_none() && self.next_want(*id, peer).is_some()).then_some(peer.quiet_until)
        };
        self.search
            .as_ref()
            .map(|search| search.until)
            .into_iter()
            .chain(self.peers.iter().filter_map(waiting))
            .chain(self.stalls_at())
            .min()
    }

    fn take(
        &mut self,
        now: Instant,
        from: OriginatorId,
        item: StrandItem<VerifyResult>,
        taken: &mut Taken,
    ) -> Result<(), PeerViolation> {
        match item {
            StrandItem::Envelope(Ok(entry)) => {
                self.take_envelope(now, from, entry.id, Some(entry), taken)
            }
            StrandItem::Envelope(Err(VerifyError::Undecided(id))) => {
                self.take_envelope(now, from, id, None, taken)
            }
            StrandItem::Envelope(Err(VerifyError::Peer(violation))) => Err(violation),
            StrandItem::Gap { from: first, to, expired } => {
                let is_own_word = from == self.originator;
                self.lane_mut(from).note_gap(first, to, expired && is_own_word)
            }
            StrandItem::End => {
                if let Some(search) = &mut self.search {
                    search.answered = true;
                }
                self.end_lane(now, from, SEARCH_AGAIN_AFTER);
                Ok(())
            }
            StrandItem::Closed => {
                self.end_lane(now, from, RETRY_AFTER);
                Ok(())
            }
        }
    }

    /// `entry` is `None` for an envelope that cannot be judged yet.
    fn take_envelope(
        &mut self,
        now: Instant,
        from: OriginatorId,
        id: EnvelopeId,
        entry: Option<LogEntry>,
        taken: &mut Taken,
    ) -> Result<(), PeerViolation> {
        if id.originator != self.originator {
            return Err(PeerViolation::WrongOriginator);
        }
        let sequence = id.sequence;
        let expired = self.lane_mut(from).advance(sequence)?;
        let next = self.accepted.next();
        if sequence < next {
            if let Some(entry) = entry {
                #[cfg(feature = "faults")]
                if faults::is_on(Fault::DroppedLateEnvelope) {
                    return Ok(());
                }
                self.missing.remove(sequence);
                // Re-sent, or a late find. Storage knows by its bytes.
                taken.compare.push(entry);
            }
            return Ok(());
        }
        #[cfg(feature = "faults")]
        let next =
            if faults::is_on(Fault::SkippedPlace) && sequence > next { next.next() } else { next };
        if expired.is_some_and(|(from, to)| from <= next && to == sequence.previous()) {
            // Its own node no longer keeps these, and nobody else needs to: no search.
            let skip = self.skip(next, sequence.previous(), SkipReason::Expired);
            self.accept(now, skip, sequence.previous(), taken);
        } else if sequence > next {
            self.meet_gap(now, sequence.previous());
            return Ok(());
        }
        match entry {
            Some(entry) => self.accept(now, Change::Append(entry), sequence, taken),
            None => self.hold_up(now, from, sequence),
        }
        Ok(())
    }

    /// The strand goes no further until the envelope at `next` can be judged.
    fn hold_up(&mut self, now: Instant, from: OriginatorId, next: SequenceId) {
        self.undecided = Some(next);
        self.drop_lane(from);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.quiet_until = now + DECIDE_AFTER;
        }
    }

    fn accept(&mut self, now: Instant, change: Change, through: SequenceId, taken: &mut Taken) {
        taken.append.push(change);
        self.accepted = through;
        #[cfg(feature = "faults")]
        if faults::is_on(Fault::AcceptedIsDurable) {
            self.durable = through;
        }
        self.undecided = None;
        if self.search.as_ref().is_some_and(|search| search.through <= through) {
            // The gap is closed: nobody needs to answer any more, and the source goes on.
            self.search = None;
            self.drop_lanes();
            if let Some(source) = self.peers.get_mut(&self.source) {
                source.quiet_until = now;
            }
        }
    }

    /// A signed envelope stands behind places up to `through` that were not sent.
    fn meet_gap(&mut self, now: Instant, through: SequenceId) {
        match &mut self.search {
            // A part of what is searched for has been found further up.
            Some(search) => search.through = search.through.min(through),
            None => {
                self.search = Some(Search { through, until: now + SEARCH_FOR, answered: false });
                self.drop_lanes();
                self.peers.values_mut().for_each(|peer| peer.quiet_until = now);
            }
        }
    }

    fn give_up(&mut self, now: Instant) {
        let Some(search) = &mut self.search else { return };
        // What somebody has is not missing, only because it cannot be judged yet.
        if !search.answered || self.undecided.take() == Some(self.accepted.next()) {
            search.until = now + SEARCH_FOR;
            return;
        }
        let (from, through) = (self.accepted.next(), search.through);
        for (_, peer) in self.peers.iter_mut().filter(|(id, _)| **id != self.source) {
            peer.quiet_until = now + FILL_EVERY; // it has just been asked
        }
        let mut taken = Taken::default();
        let skip = self.skip(from, through, SkipReason::Missing);
        self.accept(now, skip, through, &mut taken);
        self.missing.push(from, through);
        self.store(taken);
    }

    fn skip(&self, from: SequenceId, through: SequenceId, reason: SkipReason) -> Change {
        Change::Skip { originator: self.originator, from, through, reason }
    }

    fn store(&mut self, taken: Taken) {
        // Places at or below `accepted` may still be on their way to disk, so this order.
        if !taken.append.is_empty() {
            let through = self.accepted;
            let append = StrandWrite::Append { changes: taken.append, through };
            self.effects.push_back(Effect::Write(append));
        }
        if !taken.compare.is_empty() {
            self.effects.push_back(Effect::Write(StrandWrite::Compare(taken.compare)));
        }
    }

    /// Asks every idle peer for what it may be asked for now.
    fn ask(&mut self, now: Instant) {
        let due: Vec<(OriginatorId, Want)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.lane.is_none() && peer.quiet_until <= now)
            .filter_map(|(id, peer)| Some((*id, self.next_want(*id, peer)?)))
            .collect();
        for (id, want) in due {
            self.requests += 1;
            let request = RequestId(self.requests);
            if id == self.source {
                self.heard_at = now;
            }
            let peer = self.peers.get_mut(&id).expect("listed above");
            peer.lane = Some(Lane { request, up_to: want.up_to, last: want.after, expired: None });
            self.effects.push_back(Effect::Want { peer: id, request, want });
        }
    }

    /// What an idle peer is to be asked for: what is searched for, else the strand if it is the
    /// peer's own, else what has been missing for longer.
    fn next_want(&self, id: OriginatorId, peer: &Peer) -> Option<Want> {
        let want = |after, up_to| Want { originator: self.originator, after, up_to };
        if let Some(search) = &self.search {
            return Some(want(self.accepted, Some(search.through)));
        }
        if id == self.source {
            return Some(want(self.durable, None));
        }
        let from_start = || self.missing.next_after(SequenceId::NONE);
        let (from, to) = self.missing.next_after(peer.filled).or_else(from_start)?;
        Some(want(from.previous(), Some(to)))
    }

    /// The peer has answered all it will; it is asked again later.
    fn end_lane(&mut self, now: Instant, id: OriginatorId, pause: Duration) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(lane) = peer.lane.take() else { return };
        if id == self.source || self.search.is_some() {
            peer.quiet_until = now + pause;
            return;
        }
        let asked = lane.up_to.unwrap_or(SequenceId::NONE);
        (peer.filled, peer.quiet_until) = match self.missing.next_after(asked) {
            Some(_) => (asked, now),
            None => (SequenceId::NONE, now + FILL_EVERY),
        };
    }

    fn drop_lanes(&mut self) {
        let busy = self.peers.iter().filter(|(_, peer)| peer.lane.is_some());
        let busy: Vec<OriginatorId> = busy.map(|(id, _)| *id).collect();
        busy.into_iter().for_each(|id| self.drop_lane(id));
    }

    fn drop_lane(&mut self, id: OriginatorId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.lane.take().is_some() {
            self.effects.push_back(Effect::Stop { peer: id });
        }
    }

    /// When it is time to look whether the source has gone quiet.
    fn stalls_at(&self) -> Option<Instant> {
        let lane = self.lane(self.source)?;
        lane.up_to.is_none().then_some(self.heard_at + STALL_AFTER)
    }

    fn is_stalled(&self) -> bool {
        let ahead = |peer: &Peer| peer.head > self.accepted;
        // While something is on its way to disk, the source may be waiting for us.
        self.durable == self.accepted && self.peers.get(&self.source).is_some_and(ahead)
    }

    fn lane(&self, peer: OriginatorId) -> Option<&Lane> {
        self.peers.get(&peer)?.lane.as_ref()
    }

    fn lane_mut(&mut self, peer: OriginatorId) -> &mut Lane {
        let lane = self.peers.get_mut(&peer).and_then(|peer| peer.lane.as_mut());
        lane.expect("a item is taken only while its lane stands")
    }
}

/// What one response brought for the disk.
#[derive(Default)]
struct Taken {
    append: Vec<Change>,
    compare: Vec<LogEntry>,
}

impl Lane {
    /// Moves on to an envelope; gives the places before it that the peer named as expired.
    fn advance(
        &mut self,
        to: SequenceId,
    ) -> Result<Option<(SequenceId, SequenceId)>, PeerViolation> {
        self.bounded(to)?;
        self.last = to;
        Ok(self.expired.take())
    }

    fn note_gap(
        &mut self,
        from: SequenceId,
        to: SequenceId,
        expired: bool,
    ) -> Result<(), PeerViolation> {
        if to < from {
            return Err(PeerViolation::OutOfOrder);
        }
        self.bounded(from)?;
        self.expired = match self.expired {
            _ if !expired => None,
            Some((first, last)) if last.next() == from => Some((first, to)),
            _ => Some((from, to)),
        };
        self.last = self.up_to.map_or(to, |up_to| to.min(up_to));
        Ok(())
    }

    fn bounded(&self, to: SequenceId) -> Result<(), PeerViolation> {
        let beyond = self.up_to.is_some_and(|up_to| to > up_to);
        if to <= self.last || beyond { Err(PeerViolation::OutOfOrder) } else { Ok(()) }
    }
}
