//! One strand of another node, as this node follows it.
//!
//! # Gap search
//!
//! A gap is one peer's claim and proves nothing: a peer that could move the follower's head by a claim could make it
//! lose envelopes for good. So a gap counts only once a signed envelope follows it. Then the strand stops, and every
//! connected peer is asked for exactly the missing range. Places that no peer has shown for [`SEARCH_FOR`] are marked
//! missing, provided that at least one peer has answered, and that no peers are still sending the range.
//!
//! If every connected peer has answered, this time counts from the first claim of what follows, by the peer that has
//! passed the places over: many such gaps do not add up to hours. One peer that does not answer holds the strand up for
//! a minute in ten, and the gaps that follow are asked for in the same search. If a relay has passed the places over,
//! the search also lasts until the envelope that follows is one or two minutes old.
//!
//! One claim is believed: the strand's own node may say that the retention of its envelopes ran out. No other node
//! needs to keep what that node dropped.

mod allowance;
mod answers;
mod asked_ranges;
mod choice;
mod claims;
mod disputes;
mod disputing;
mod effect;
mod expiry;
mod filling;
mod further;
mod open_want;
mod options;
mod parts;
mod passed_on;
mod range_answer;
mod search;
mod searching;
mod second;
mod source;
mod split;
#[cfg(test)]
mod tests;
mod waiting;
mod wants;

pub use effect::{Effect, StrandWrite};
pub use expiry::can_have_expired;
pub use parts::SplitLimits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};
use hawser_storage::{Change, LogEntry, SkipReason};

use super::link::{GapWants, PeerViolation, RequestId, RequestIds, StrandItem, WantResponse};
use super::ranges::Ranges;
use super::verify::VerifyResult;
use allowance::WaitAllowances;
use choice::Choice;
use claims::ClaimTimes;
use disputes::Disputes;
use open_want::OpenWant;
use parts::Split;
use range_answer::RangeAnswers;
use search::{PlaceSearch, SEARCH_FOR};

/// Pause before a want without an end is sent again after its stream ended. A guess: long enough
/// that a peer which refuses at once is not flooded.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Silence after which a source that claims a higher head is asked again. Specified
/// (`docs/protocol/replication.md`, What the follower does).
const STALL_AFTER: Duration = Duration::from_secs(10);

/// State machine that follows one remote originator's strand. Does no I/O and reads no clock.
///
/// After each `handle_*`, drain [`poll_effect`](Self::poll_effect) and arm the timer from
/// [`poll_timeout`](Self::poll_timeout). `now` never decreases between calls.
///
/// The strand is taken from one peer, the source, which the module `source` chooses. Places that the source does not
/// send are searched for at every connected peer (see the module's documentation). A follower advances only on signed
/// envelopes, never on a peer's claim.
///
/// Invariant: `durable <= accepted`. Wants for the strand start at `durable`, so that a crash or a
/// broken commit loses nothing.
#[derive(Debug)]
pub struct Follower {
    originator: OriginatorId,
    /// The choice of the peer that the strand is taken from.
    choice: Choice,
    /// The other canonical nodes, if the strand is this node's own: places that peers show and it lacks are reported.
    own_beside: Option<BTreeSet<OriginatorId>>,
    /// The strand was taken over from the older network.
    is_migrated: bool,
    /// This node's wall clock, unix nanoseconds, as it was last noted.
    wall_ns: Option<i64>,
    /// The latest time of the envelopes before the next place since the last step back, as far as it has come.
    latest_ns: Option<i64>,
    /// The sum of the steps by which the strand's times have gone back, in nanoseconds.
    stepped_back_ns: i64,
    /// The highest place handed over for storing.
    accepted: SequenceId,
    /// The highest place known to be on disk.
    durable: SequenceId,
    /// Connected peers; bounded by the nodes of the registry.
    peers: BTreeMap<OriginatorId, PeerProgress>,
    search: Option<PlaceSearch>,
    /// The time for which searches may wait for each peer.
    allowances: WaitAllowances,
    searches: u64,
    /// The time at which a search asked all peers at once.
    all_asked_at: Option<Instant>,
    /// The backlog, while several peers send parts of it.
    split: Option<Split>,
    split_limits: SplitLimits,
    /// The place to reach before a backlog is split again.
    split_after: SequenceId,
    /// Places that the source has sent alone, or is to send, after the last part that no peer sent; 0 before it.
    split_alone: u64,
    /// Places below `accepted` that are marked missing: all, or a window of them.
    missing: Ranges,
    /// The time at which the next window of them is read; `None` if these are all.
    window_at: Option<Instant>,
    /// Places that peers are to be asked for because they hold another tree of them.
    disputes: Disputes,
    requests: RequestIds,
    /// Drained by the driver after each `handle_*` call, so it holds what one call makes: a few effects for each peer.
    effects: VecDeque<Effect>,
}

/// The state of requests to a connected peer.
#[derive(Debug)]
struct PeerProgress {
    /// The open want; the protocol allows one at a time for each strand.
    open: Option<OpenWant>,
    /// The peer is not asked before this time.
    ask_at: Instant,
    /// Its clock has named the strand in this connection. Sent envelopes count as claims, too.
    has_claimed: bool,
    /// The peer's claims of what it holds of the strand. They decide only which peer is asked, and when.
    claims: ClaimTimes,
    /// Its last answers in searches.
    answers: RangeAnswers,
    /// Position in the walk over the missing ranges; the peer has not been asked for those above.
    fill_position: SequenceId,
    /// The peer was asked for the missing ranges up to this place after it had claimed to have passed them.
    asked_until: SequenceId,
    /// The peer is asked for no missing range before this time.
    fill_at: Instant,
    /// The next walk does not begin before this time.
    walk_at: Instant,
    /// The peer has proved its id.
    is_proven: bool,
    gap_wants: GapWants,
    /// The peer is asked for no part before this time.
    part_at: Instant,
    /// Places of the next part that it is asked for, at most.
    part_places: u64,
}

/// Changes and entries that one response brought, in the order of its items.
#[derive(Default)]
struct PendingWrites {
    append: Vec<Change>,
    compare: Vec<LogEntry>,
    /// The highest place that was not held, and the latest time of such places.
    found: Option<(SequenceId, Option<i64>)>,
}

impl Follower {
    /// Resumes after `stored`, the strand's head on disk. `missing` are the places below it that
    /// are marked missing: ascending and disjoint ranges, both ends included.
    #[must_use]
    pub fn new(
        originator: OriginatorId,
        stored: SequenceId,
        missing: impl IntoIterator<Item = (SequenceId, SequenceId)>,
        now: Instant,
    ) -> Self {
        let mut follower = Self {
            originator,
            choice: Choice::new(originator, stored, now),
            own_beside: None,
            is_migrated: false,
            wall_ns: None,
            latest_ns: None,
            stepped_back_ns: 0,
            accepted: stored,
            durable: stored,
            peers: BTreeMap::new(),
            search: None,
            allowances: WaitAllowances::new(now),
            searches: 0,
            all_asked_at: None,
            split: None,
            split_limits: SplitLimits::default(),
            split_after: SequenceId::NONE,
            split_alone: 0,
            missing: missing.into_iter().collect(),
            window_at: None,
            disputes: Disputes::default(),
            requests: RequestIds::default(),
            effects: VecDeque::new(),
        };
        follower.note_window(now);
        follower
    }

    /// Returns the highest place that was handed over for storing.
    #[must_use]
    pub fn accepted(&self) -> SequenceId {
        self.accepted
    }

    /// Returns the highest place known to be on disk.
    #[must_use]
    pub fn durable(&self) -> SequenceId {
        self.durable
    }

    /// Returns the number of things that the follower keeps in memory: peers, their disputes, ranges that it searches
    /// for, and effects that were not taken yet.
    #[must_use]
    pub fn size(&self) -> usize {
        let of_peers = self.peers.len() + self.allowances.len() + self.choice.len();
        of_peers + self.disputes.len() + self.missing.len() + self.effects.len()
    }

    /// Returns true if this request is still open at the peer. Responses to other requests change nothing,
    /// so their signatures need no check.
    #[must_use]
    pub fn awaits(&self, peer: OriginatorId, request: RequestId) -> bool {
        self.open_want(peer).is_some_and(|open| open.request == request)
    }

    /// Notes that a peer has connected, which claims to hold the strand up to `head`. The state of an earlier
    /// connection of the peer is dropped.
    pub fn handle_peer_up(&mut self, now: Instant, peer: OriginatorId, head: SequenceId) {
        self.drop_peer(now, peer);
        let fresh = PeerProgress {
            open: None,
            ask_at: now,
            has_claimed: head != SequenceId::NONE,
            claims: ClaimTimes::begin(now, head),
            answers: RangeAnswers::default(),
            fill_position: SequenceId::NONE,
            asked_until: SequenceId::NONE,
            fill_at: now,
            walk_at: now,
            is_proven: false,
            gap_wants: GapWants::None,
            part_at: now,
            part_places: self.split_limits.first_part_places,
        };
        self.peers.insert(peer, fresh);
        self.choice.note_life(peer);
        self.note_peer_changed(now, peer);
        self.look(now);
        self.send_wants(now);
    }

    /// Notes that a peer is no longer connected.
    pub fn handle_peer_down(&mut self, now: Instant, peer: OriginatorId) {
        self.drop_peer(now, peer);
        self.note_peer_changed(now, peer);
        self.look(now);
        self.send_wants(now);
    }

    /// Notes the head that a connected peer claims to hold; claims only rise. A claim decides only which peer is asked,
    /// and when.
    pub fn handle_head(&mut self, now: Instant, peer: OriginatorId, head: SequenceId) {
        let Some(progress) = self.peers.get_mut(&peer) else { return };
        progress.has_claimed |= head != SequenceId::NONE;
        if !progress.claims.note(now, head) {
            return;
        }
        self.choice.note_life(peer);
        self.look(now);
        self.send_wants(now);
    }

    /// Handles a part of a response after
    /// [`EnvelopeVerifier::check`](super::EnvelopeVerifier::check). A violation disconnects the
    /// peer, unless it only passes on what another node has made; the items before it count.
    pub fn handle_response(&mut self, now: Instant, response: WantResponse<VerifyResult>) {
        let WantResponse { peer, request, items } = response;
        let mut writes = PendingWrites::default();
        let mut is_sound = self.awaits(peer, request);
        if is_sound && items.is_empty() {
            self.note_arrival(now, peer);
        }
        let mut items = items.into_iter();
        while let Some(item) = items.next() {
            // Checked for each item, because the one before may have ended the want.
            if !self.awaits(peer, request) {
                // Its last place may have another statement.
                let StrandItem::Second(Ok(entry)) = item else { break };
                if is_sound {
                    self.compare_second(entry, &mut writes);
                }
                continue;
            }
            // This node, too, may have ended the stream, and a second statement is none of what was asked for.
            if !matches!(item, StrandItem::Closed | StrandItem::Second(_)) {
                self.choice.note_life(peer);
            }
            let was_searching = self.search.is_some();
            if let Err(violation) = self.handle_item(now, peer, item, &mut writes) {
                is_sound = false;
                if self.is_migrated && violation == PeerViolation::ForgedSignature {
                    self.cancel_want(peer);
                    self.peers.entry(peer).and_modify(|peer| peer.ask_at = now + SEARCH_FOR);
                } else {
                    self.handle_violation(now, peer, violation);
                }
            }
            if !was_searching {
                self.widen_search(items.as_slice());
            }
        }
        self.emit(peer, writes);
        self.conclude_answered(now);
        self.look(now);
        self.send_wants(now);
    }

    /// Notes that all places up to `to` are on disk.
    ///
    /// # Panics
    /// If `to` was never handed over for storing.
    pub fn handle_durable(&mut self, to: SequenceId) {
        assert!(to <= self.accepted, "storage confirmed what it was never given");
        self.durable = self.durable.max(to);
    }

    /// Handles the timer that [`poll_timeout`](Self::poll_timeout) asked for. Does nothing before
    /// that time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.search.as_ref().is_some_and(|search| search.ends_at() <= now) {
            self.conclude_search(now);
        }
        self.conclude_answered(now);
        if self.stalls_at().is_some_and(|at| at <= now) {
            if self.is_stalled() {
                self.turn_from_stalled(now);
            }
            self.choice.progress_at = now;
        }
        self.look(now);
        self.send_wants(now);
    }

    /// Returns the next effect, oldest first.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Returns the time at which to call [`handle_timeout`](Self::handle_timeout); `None` if only
    /// an event can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next_ask = |(id, peer): (&OriginatorId, &PeerProgress)| {
            let is_idle = peer.open.is_none() && self.next_want(*id, peer).is_some();
            is_idle.then(|| self.asked_at(*id, peer))
        };
        self.search
            .as_ref()
            .map(PlaceSearch::ends_at)
            .into_iter()
            .chain(self.peers.iter().filter_map(next_ask))
            .chain(self.answered_until())
            .chain(self.stalls_at())
            .chain(self.look_at())
            .chain(self.split_at())
            .chain(self.fill_timeout())
            .min()
    }

    fn handle_item(
        &mut self,
        now: Instant,
        from: OriginatorId,
        item: StrandItem<VerifyResult>,
        writes: &mut PendingWrites,
    ) -> Result<(), PeerViolation> {
        match item {
            StrandItem::Envelope(Ok(entry)) => self.handle_envelope(now, from, entry, writes),
            StrandItem::Envelope(Err(violation)) => Err(violation),
            StrandItem::Second(Ok(entry)) => {
                self.compare_second(entry, writes);
                Ok(())
            }
            StrandItem::Prefix(_) | StrandItem::Second(Err(_)) => Ok(()),
            StrandItem::Gap { from: first, to, expired } => {
                // Only the strand's own node can know which places it has stopped keeping.
                let is_own_claim = from == self.originator;
                self.open_want_mut(from).note_gap(first, to, expired && is_own_claim)?;
                if expired && is_own_claim {
                    self.note_missing_expired(first, to);
                }
                if expired {
                    self.note_expired(now, from, (first, to), writes);
                }
                if self.sends_part(from) {
                    self.note_left_out(from);
                }
                Ok(())
            }
            StrandItem::End if self.sends_part(from) => {
                self.note_left_out(from);
                Ok(())
            }
            StrandItem::Closed if self.sends_part(from) => {
                self.note_part_closed(now, from);
                Ok(())
            }
            StrandItem::End => {
                self.note_answered(now, from);
                self.finish_want(now, from, true);
                Ok(())
            }
            StrandItem::Closed => {
                self.finish_want(now, from, false);
                Ok(())
            }
        }
    }

    /// Handles a signed envelope.
    fn handle_envelope(
        &mut self,
        now: Instant,
        from: OriginatorId,
        entry: LogEntry,
        writes: &mut PendingWrites,
    ) -> Result<(), PeerViolation> {
        let id = entry.id;
        if id.originator != self.originator {
            return Err(PeerViolation::WrongOriginator);
        }
        let sequence = id.sequence;
        let open = self.open_want_mut(from);
        let is_second = open.has_taken(sequence);
        let expired = match open.advance(sequence) {
            Ok(expired) => expired,
            Err(violation) if is_second => {
                self.compare_second(entry, writes);
                return Err(violation);
            }
            Err(violation) => return Err(violation),
        };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.claims.note(now, sequence);
        }
        if self.sends_part(from) {
            self.handle_part(now, from, entry, writes);
            return Ok(());
        }
        let next = self.accepted.next();
        if sequence < next {
            #[cfg(feature = "faults")]
            if faults::is_on(SeededFault::DroppedLateEnvelope) {
                return Ok(());
            }
            if self.missing.remove(sequence) {
                self.note_find(&entry, writes);
            }
            // Sent again, or a late find. Storage distinguishes the two by comparing the statements.
            let len_bytes = entry.bytes.len();
            writes.compare.push(entry);
            self.note_compared(now, from, sequence, len_bytes);
            return Ok(());
        }
        self.note_find(&entry, writes);
        #[cfg(feature = "faults")]
        let next = if faults::is_on(SeededFault::SkippedPlace) && sequence > next {
            next.next()
        } else {
            next
        };
        let has_expired = sequence > next
            && self.can_have_expired_before(&entry)
            && expired.is_some_and(|(from, to)| from <= next && to == sequence.previous());
        let is_unused = self.is_migrated && from == self.choice.source && sequence > next;
        if has_expired || is_unused {
            // The strand's own node no longer keeps these, and no other node needs to: no search.
            let skip = self.skip(next, sequence.previous(), SkipReason::Expired);
            self.accept(now, skip, writes);
        } else if sequence > next && !self.passes_over(now, from, &entry, writes) {
            self.start_or_narrow_search(now, from, &entry);
            self.end_expired_search(now, writes);
            return Ok(());
        }
        let (left_out_by, len_bytes) = (self.left_out_by(), entry.bytes.len());
        self.accept(now, Change::Append(entry), writes);
        self.note_filled(now, from, left_out_by);
        self.note_progress(now, from, len_bytes);
        Ok(())
    }

    /// Notes an envelope that was requested and is not held. One that is held, or that this follower did not
    /// request, proves nothing about this node's knowledge of the strand.
    fn note_find(&self, entry: &LogEntry, writes: &mut PendingWrites) {
        if self.own_beside.is_none() {
            return;
        }
        let time = entry.facts.as_ref().map(|facts| facts.originator_ns);
        let (sequence, latest) = writes.found.unwrap_or((SequenceId::NONE, None));
        writes.found = Some((sequence.max(entry.id.sequence), latest.max(time)));
    }

    /// Hands the next change over for storing.
    ///
    /// # Panics
    /// If the change does not start right after `accepted`: an append with a hole would lose the
    /// places in it for good.
    fn accept(&mut self, now: Instant, change: Change, writes: &mut PendingWrites) {
        let (first, through, len_bytes) = match &change {
            Change::Append(entry) => (entry.id.sequence, entry.id.sequence, entry.bytes.len()),
            Change::Skip { from, through, .. } => (*from, *through, 0),
        };
        assert_eq!(first, self.accepted.next(), "a strand is appended without a hole");
        assert!(first <= through, "a skip has at least one place");
        self.note_time(&change);
        writes.append.push(change);
        self.accepted = through;
        #[cfg(feature = "faults")]
        if faults::is_on(SeededFault::AcceptedIsDurable) {
            self.durable = through;
        }
        self.note_passed(now, through, len_bytes);
    }

    fn emit(&mut self, from: OriginatorId, writes: PendingWrites) {
        // Appends first: places at or below `accepted` may still be on their way to disk, and a
        // comparison reads what is stored.
        if !writes.append.is_empty() {
            let through = self.accepted;
            let append = StrandWrite::Append { changes: writes.append, through };
            self.effects.push_back(Effect::Write(append));
        }
        if !writes.compare.is_empty() {
            let compare = StrandWrite::Compare { from, entries: writes.compare };
            self.effects.push_back(Effect::Write(compare));
        }
        if let Some((sequence, originator_ns)) = writes.found {
            self.effects.push_back(Effect::Found { peer: from, sequence, originator_ns });
        }
    }
}
