//! One strand that readers may be shown before it is verified: decides the order of showing and verifying.
//!
//! Runs that the strand's node has signed as a whole are shown at once, and verified behind, from the log. All
//! other arrivals wait until every shown place is verified, and are then verified as usual. So the unverified
//! places are always the end of the strand.
//!
//! Peers can lie about all of it, and the strand's node can sign invalid envelopes. A lie costs time: the shown
//! places stay the end of the strand until each has a verdict, and are requested again until some peer sends the
//! envelopes that the originator has signed.

use std::time::{Duration, Instant};

use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::{Bytes, OriginatorId, PublicKey, SequenceId};
use hawser_storage::CommitError;
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};

use super::follower::Follower;
use super::link::{StrandItem, WantResponse};
use super::signed_runs::{AcceptedRun, RunJudge, SignedRuns};
use crate::pauses::RetryPauses;

/// Approximate upper bound of the places of one strand that readers are shown before they are verified. Beyond it,
/// no envelopes are accepted from peers until more places are verified. Shown places are on disk, so this does not
/// bound memory. It bounds the places that may be withdrawn, and the time that peers wait for them. A guess: a
/// minute of verification on two cores.
const AHEAD_MAX: u64 = 1 << 21;
/// Time for which pages have the cores to themselves, counted from the first place that is shown. A guess: a node on
/// two cores takes about as long to show half of [`AHEAD_MAX`], so a backlog of a million places is shown no later.
const PAGES_FIRST_FOR: Duration = Duration::from_secs(15);

/// Time for which a strand that is asked for again may wait for its places, before envelopes among them that break a
/// rule are withdrawn from readers. A guess: an honest peer sends most backlogs within it, and verified places need no
/// second look.
const WITHDRAW_AFTER: Duration = Duration::from_secs(15);

/// Number of places that peers have to bring again for one with a bad outer layer, if so many are shown. Those behind
/// them are verified from the log. A guess: as many as are verified together, so that bad places one behind the other
/// cost each place one more check at most, and a single one costs no strand.
const AGAIN_PLACES: u64 = 4096;

/// Bounds of what readers are shown of one strand before it is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownLimits {
    /// Places that are shown ahead of their verification, at about most.
    pub ahead_max: u64,
    /// Time for which shown places may be asked for again, before envelopes among them that break a rule are withdrawn
    /// from readers.
    pub withdraw_after: Duration,
    /// Number of places that peers have to bring again for one with a bad outer layer, if so many are shown.
    pub again_places: u64,
}

impl Default for ShownLimits {
    fn default() -> Self {
        Self { ahead_max: AHEAD_MAX, withdraw_after: WITHDRAW_AFTER, again_places: AGAIN_PLACES }
    }
}

/// The stage of a strand. It changes only while nothing of the strand is checked or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownStage {
    /// Everything accepted is verified.
    Verified,
    /// Readers get envelopes before they are verified; a job verifies them afterwards.
    Shown {
        /// Everything up to this place is verified.
        verified: SequenceId,
    },
    /// An unverified place has a bad outer layer, so the unverified places are requested again from there, and verified
    /// on arrival, until [so many](ShownLimits::again_places) have come.
    AskedAgain {
        /// The last place that readers are shown.
        head: SequenceId,
    },
}

/// The work that a response calls for.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// The response is verified as usual.
    Verify(WantResponse<Bytes>),
    /// The judge decides if the response may be shown first: [`ShownStrand::accept`], or [`ShownStrand::refuse`].
    Judge(Box<RunJudge>, WantResponse<Bytes>),
}

/// The part of a strand that peers are to be asked for again: see [`ShownStrand::ask_again`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskAgain {
    /// The last place that is verified; `None` if the log has to be asked.
    pub verified: Option<SequenceId>,
    /// The last place that readers are shown.
    pub head: SequenceId,
}

/// The look at places that were asked for again and have not come.
#[derive(Debug, Clone, Copy)]
struct Withdrawal {
    /// The time at which places were first asked for again, or the last look failed. Places that come do not move it,
    /// and neither do those that are verified from the log between two requests: a peer could send them one by one.
    since: Instant,
    /// Envelopes that break a rule are withdrawn from readers up to this place.
    through: SequenceId,
}

/// A response that waits until everything shown is verified.
#[derive(Debug)]
struct ParkedResponse {
    response: WantResponse<Bytes>,
    /// True if the response must not be shown before it is verified, even with a proof.
    is_refused: bool,
}

/// The state of one strand. Does no I/O and reads no clock. Holds at most one response, and none of the envelopes that
/// readers were shown.
#[derive(Debug)]
pub struct ShownStrand {
    /// The operator wants it, and the strand is a registered node's.
    is_on: bool,
    originator: OriginatorId,
    stage: ShownStage,
    runs: SignedRuns,
    /// The last checkpoint of a run that the exchange of checkpoints has taken.
    handed_over: Option<SignedCheckpoint>,
    /// The response that was put aside. While it waits, no other response is taken from peers.
    parked: Option<ParkedResponse>,
    /// A bad outer layer was found, or no peer has sent what takes its place: the strand is asked for again as soon as
    /// nothing is under way.
    asks_again: bool,
    /// The registry was looked at: verdicts follow the absences of the strand's node.
    knows_absences: bool,
    limits: ShownLimits,
    /// The place up to which peers have to bring what was asked for again.
    again_through: SequenceId,
    /// `None` unless some of the unverified places were asked for again.
    withdrawal: Option<Withdrawal>,
    /// The time at which the first place was shown since everything was verified; `None` if an earlier process has
    /// shown it.
    shown_since: Option<Instant>,
    /// Verifying failed by the disk, or asking again did, and is not tried before this time.
    retry_at: Option<Instant>,
    pauses: RetryPauses,
}

impl ShownStrand {
    /// Creates the state of a strand that is verified up to `verified`, and stored up to `stored`. `key` is that of its
    /// node. No run is shown before it is verified, unless [`with_runs_shown_first`](Self::with_runs_shown_first) is
    /// called.
    #[must_use]
    pub fn new(
        originator: OriginatorId,
        key: PublicKey,
        verified: SequenceId,
        stored: SequenceId,
    ) -> Self {
        let is_shown = verified < stored;
        Self {
            is_on: false,
            originator,
            stage: if is_shown { ShownStage::Shown { verified } } else { ShownStage::Verified },
            runs: SignedRuns::new(originator, key),
            handed_over: None,
            parked: None,
            asks_again: false,
            knows_absences: false,
            limits: ShownLimits::default(),
            again_through: verified,
            withdrawal: None,
            shown_since: None,
            retry_at: None,
            pauses: RetryPauses::default(),
        }
    }

    /// Shows runs that the strand's node has signed before they are verified.
    #[must_use]
    pub fn with_runs_shown_first(self) -> Self {
        Self { is_on: true, ..self }
    }

    /// Takes over the proof by which an earlier process has shown the unverified places.
    #[must_use]
    pub fn shown_by(mut self, prefix: Option<SignedPrefix>) -> Self {
        prefix.into_iter().for_each(|prefix| self.runs.remember(prefix));
        self
    }

    /// Sets other bounds than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: ShownLimits) -> Self {
        Self { limits, ..self }
    }

    /// Returns true if readers may be shown runs before they are verified.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Returns the stage of the strand, which decides how accepted envelopes are written.
    #[must_use]
    pub fn stage(&self) -> ShownStage {
        self.stage
    }

    /// Returns true while nothing more may be taken from peers.
    #[must_use]
    pub fn is_waiting(&self, follower: &Follower) -> bool {
        self.parked.is_some() || self.asks_again || self.is_far_ahead(follower)
    }

    /// True if so many places are shown that others wait until more of them are verified.
    fn is_far_ahead(&self, follower: &Follower) -> bool {
        self.places_ahead(follower).is_some_and(|places| places >= self.limits.ahead_max)
    }

    /// True if verification no longer waits for a gap between pages: half of the bound is shown, or places have been
    /// shown for [`PAGES_FIRST_FOR`] and were never all verified. Otherwise a peer that sends pages without a pause,
    /// however small, would keep verification away.
    fn is_overdue(&self, now: Instant, follower: &Follower) -> bool {
        let is_old = self.shown_since.is_none_or(|since| now >= since + PAGES_FIRST_FOR);
        let half = self.limits.ahead_max / 2;
        is_old || self.places_ahead(follower).is_some_and(|places| places >= half)
    }

    /// Returns the number of places that are shown and not verified; `None` if the strand is not in that stage.
    fn places_ahead(&self, follower: &Follower) -> Option<u64> {
        let ShownStage::Shown { verified } = self.stage else { return None };
        Some(follower.accepted().0.saturating_sub(verified.0))
    }

    /// Returns true if peers were asked again and have sent other envelopes than the shown ones, which are dropped.
    #[must_use]
    pub fn asks_later(&self) -> bool {
        self.asks_again && matches!(self.stage, ShownStage::AskedAgain { .. })
    }

    /// Notes that the registry was looked at.
    pub fn note_absences_known(&mut self) {
        self.knows_absences = true;
    }

    /// Takes a response, or puts it aside until the shown places are verified. `is_idle` is true if nothing is on
    /// its way to the log. To be called only while it [does not wait](Self::is_waiting). The follower may have effects
    /// afterwards.
    pub fn take(
        &mut self,
        now: Instant,
        follower: &mut Follower,
        response: WantResponse<Bytes>,
        is_idle: bool,
    ) -> Option<Incoming> {
        if !follower.awaits(response.peer, response.request) {
            return None;
        }
        let is_run = self.is_run(&response) && !follower.is_searching();
        let goes_on = self.runs.end_at(follower.accepted());
        match self.stage {
            // It only says that more arrives: there is nothing to check, and the source is not silent.
            ShownStage::Shown { .. } if response.items.is_empty() => {
                let WantResponse { peer, request, .. } = response;
                follower.handle_response(now, WantResponse { peer, request, items: Vec::new() });
                None
            }
            // What follows is verified from the log, once these places are written.
            ShownStage::AskedAgain { head } if self.has_again(follower.accepted(), head) => None,
            ShownStage::AskedAgain { .. } => Some(Incoming::Verify(response)),
            ShownStage::Verified if !is_run => Some(Incoming::Verify(response)),
            ShownStage::Verified if is_idle => Some(self.judge(follower, response)),
            ShownStage::Shown { .. } if is_run && goes_on => Some(self.judge(follower, response)),
            ShownStage::Verified | ShownStage::Shown { .. } => {
                self.park(response, false);
                None
            }
        }
    }

    /// Takes the response that was put aside, if all shown places are verified. To be called while nothing is on
    /// its way to the log.
    pub fn take_parked(&mut self, now: Instant, follower: &mut Follower) -> Option<Incoming> {
        if self.stage != ShownStage::Verified {
            return None;
        }
        let ParkedResponse { response, is_refused } = self.parked.take()?;
        match is_refused {
            true => Some(Incoming::Verify(response)),
            false => self.take(now, follower, response, true),
        }
    }

    /// Puts a response aside that has come behind one that is to be verified now, and might be shown first. Gives
    /// others back.
    pub fn park_run(&mut self, response: WantResponse<Bytes>) -> Option<WantResponse<Bytes>> {
        if self.stage == ShownStage::Verified && self.is_run(&response) {
            self.park(response, false);
            return None;
        }
        Some(response)
    }

    /// Takes over a run that its judge has accepted. The follower then has the writes for it. Drops a run whose peer
    /// has gone meanwhile: with its tree noted, the next run would not follow, and would wait for verification.
    pub fn accept(
        &mut self,
        now: Instant,
        follower: &mut Follower,
        response: WantResponse<Bytes>,
        run: AcceptedRun,
    ) {
        let WantResponse { peer, request, .. } = response;
        if !follower.awaits(peer, request) {
            return;
        }
        let before = follower.accepted();
        let entries = self.runs.note(peer, run).into_iter();
        let items = entries.map(|entry| StrandItem::Envelope(Ok(entry))).collect();
        follower.handle_response(now, WantResponse { peer, request, items });
        if self.stage == ShownStage::Verified && follower.accepted() > before {
            self.stage = ShownStage::Shown { verified: before };
            self.shown_since = Some(now);
        }
    }

    /// Puts aside a response that its judge has refused: it is verified once nothing is shown ahead.
    pub fn refuse(&mut self, response: WantResponse<Bytes>) {
        self.park(response, true);
    }

    /// Returns the proof that everything shown was accepted by.
    #[must_use]
    pub fn trusted(&self) -> Option<SignedPrefix> {
        self.runs.trusted().cloned()
    }

    /// Returns the checkpoint that the last run was accepted by, until [it is handed over](Self::note_handed_over).
    #[must_use]
    pub fn to_hand_over(&self) -> Option<SignedCheckpoint> {
        let signed = self.runs.trusted()?.signed;
        (self.handed_over != Some(signed)).then_some(signed)
    }

    /// Notes that the exchange of checkpoints has taken a checkpoint.
    pub fn note_handed_over(&mut self, signed: SignedCheckpoint) {
        self.handed_over = Some(signed);
    }

    /// Returns the places to verify next: behind the first, up to the second one. `is_idle` is true if nothing is on
    /// its way to the log: pages that arrive have the cores to themselves, up to a bound in places and in time.
    #[must_use]
    pub fn next_behind(
        &self,
        now: Instant,
        follower: &Follower,
        is_idle: bool,
    ) -> Option<(SequenceId, SequenceId)> {
        let ShownStage::Shown { verified } = self.stage else { return None };
        let durable = follower.durable();
        #[cfg(feature = "faults")]
        let durable =
            if faults::is_on(SeededFault::UnverifiedEnd) { durable.previous() } else { durable };
        let has_turn = is_idle || self.is_overdue(now, follower);
        let is_ready = has_turn && self.is_due(now) && self.knows_absences && !self.asks_again;
        (verified < durable && is_ready).then_some((verified, durable))
    }

    /// Notes that everything up to a place is verified, and that the verdicts are durable.
    pub fn note_verified(&mut self, through: SequenceId) {
        if let ShownStage::Shown { verified } = &mut self.stage {
            *verified = through;
        }
        self.runs.note_verified(through);
        self.retry_at = None;
        self.pauses = RetryPauses::default();
    }

    /// Notes the same, and that the next place has an outer layer that its originator has not signed. Returns the peer
    /// that sent it, if the peer is known. That peer gets a pause: the follower that asks again would otherwise choose
    /// its peers as if it knew none of them.
    #[must_use]
    pub fn note_forged(
        &mut self,
        now: Instant,
        follower: &mut Follower,
        through: SequenceId,
    ) -> Option<OriginatorId> {
        self.note_verified(through);
        self.asks_again = true;
        let sender = self.runs.sender_of(through.next());
        if let Some(peer) = sender {
            follower.note_forged(now, peer);
        }
        sender
    }

    /// Returns the places in which envelopes that break a rule are to be withdrawn from readers: after the first place,
    /// up to the second one. Returns places only while those that were asked for again do not come. Otherwise a node
    /// could sign a tree with a place that no peer can verify, and readers would keep all envelopes after that place
    /// for ever.
    pub fn next_withdrawal(
        &mut self,
        now: Instant,
        follower: &Follower,
    ) -> Option<(SequenceId, SequenceId)> {
        let ShownStage::AskedAgain { head } = self.stage else { return None };
        let verified = follower.durable();
        let first = Withdrawal { since: now, through: verified };
        let withdrawal = self.withdrawal.get_or_insert(first);
        withdrawal.through = withdrawal.through.max(verified);
        let is_due = now >= withdrawal.since + self.limits.withdraw_after;
        (is_due && withdrawal.through < head).then_some((withdrawal.through, head))
    }

    /// Notes that envelopes which break a rule are withdrawn from readers up to a place.
    pub fn note_withdrawn(&mut self, through: SequenceId) {
        if let Some(withdrawal) = &mut self.withdrawal {
            withdrawal.through = withdrawal.through.max(through);
        }
    }

    /// Notes that this has failed. It is tried again as late as the first time.
    pub fn note_not_withdrawn(&mut self, now: Instant) {
        if let Some(withdrawal) = &mut self.withdrawal {
            withdrawal.since = now;
        }
    }

    /// Notes that the disk has failed. Returns the pause until the next attempt.
    pub fn note_failed(&mut self, now: Instant) -> Duration {
        let pause = self.pauses.next();
        self.retry_at = Some(now + pause);
        pause
    }

    /// Schedules a new request of the strand after a pause, if an error of a commit calls for it: peers have sent
    /// something else for a place that is shown, or claim that there is nothing. A single peer can cause that, and
    /// another one can end it, so the strand waits on. Returns the pause; `None` for all other errors.
    pub fn ask_later(&mut self, now: Instant, error: &CommitError) -> Option<Duration> {
        let is_other = matches!(error, CommitError::Gap { .. } | CommitError::Conflict { .. });
        if !is_other || !matches!(self.stage, ShownStage::AskedAgain { .. }) {
            return None;
        }
        self.asks_again = true;
        Some(self.note_failed(now))
    }

    /// Moves to the next stage if all shown places are verified. Returns the part that has to be requested again.
    /// To be called while nothing of the strand is under way.
    pub fn settle(&mut self, now: Instant, follower: &Follower) -> Option<AskAgain> {
        match self.stage {
            ShownStage::Shown { verified } if self.asks_again => {
                return Some(AskAgain { verified: Some(verified), head: follower.durable() });
            }
            // A part may have been verified before it failed.
            ShownStage::AskedAgain { head } if self.asks_again => {
                return self.is_due(now).then_some(AskAgain { verified: None, head });
            }
            ShownStage::Shown { verified } if verified >= follower.accepted() => self.finish(),
            ShownStage::AskedAgain { head } if follower.durable() >= head => self.finish(),
            ShownStage::Verified | ShownStage::Shown { .. } | ShownStage::AskedAgain { .. } => {}
        }
        None
    }

    /// Returns the follower that asks for everything behind `verified` again, in place of `before`. It is verified as
    /// it comes, and up to `head` compared with the shown envelopes. It knows neither the peers nor the registry yet,
    /// nor [the time](Follower::behind_time) at `verified`. Envelopes that the earlier follower has accepted and not
    /// written are void.
    #[must_use]
    pub fn ask_again(
        &mut self,
        now: Instant,
        before: &Follower,
        verified: SequenceId,
        head: SequenceId,
    ) -> Follower {
        let follower = Follower::new(self.originator, verified, [], now).with_missing_of(before);
        let follower = follower.with_disputes_of(before).stepped_back(before.stepped_back_ns());
        let follower = match self.stage {
            ShownStage::AskedAgain { .. } => follower.after_failed(before, now),
            ShownStage::Verified | ShownStage::Shown { .. } => follower.with_doubts_of(before),
        };
        (self.parked, self.asks_again) = (None, false);
        self.again_through = SequenceId(verified.0.saturating_add(self.limits.again_places));
        self.stage = ShownStage::AskedAgain { head };
        follower
    }

    /// Returns the follower that asks for what is behind the shown places, in place of `before`, once enough of these
    /// have come again. The others are verified from the log: a single bad outer layer must not have all of them sent
    /// again. The follower knows neither the peers nor the registry yet, nor [the time](Follower::behind_time) at the
    /// last shown place. To be called while nothing of the strand is under way.
    #[must_use]
    pub fn go_on(&mut self, now: Instant, before: &Follower) -> Option<Follower> {
        let ShownStage::AskedAgain { head } = self.stage else { return None };
        let verified = before.durable();
        if self.asks_again || !self.has_again(verified, head) {
            return None;
        }
        self.runs.note_verified(verified);
        self.stage = ShownStage::Shown { verified };
        let follower = Follower::new(self.originator, head, [], now);
        let follower = follower.with_missing_of(before).with_doubts_of(before);
        Some(follower.with_disputes_of(before).stepped_back(before.stepped_back_ns()))
    }

    /// True if peers have brought enough of what was asked for again, which ends at `through`, and shown places are
    /// left behind it.
    fn has_again(&self, through: SequenceId, head: SequenceId) -> bool {
        (self.again_through..head).contains(&through)
    }

    /// Returns true if a response comes with a signed tree of the strand's node that covers it as a whole.
    fn is_run(&self, response: &WantResponse<Bytes>) -> bool {
        self.is_on && matches!(response.items.first(), Some(StrandItem::Prefix(_)))
    }

    fn judge(&mut self, follower: &Follower, response: WantResponse<Bytes>) -> Incoming {
        if self.stage == ShownStage::Verified {
            // The first run begins at the tree that is stored.
            self.runs.clear();
        }
        Incoming::Judge(Box::new(self.runs.judge(follower.accepted())), response)
    }

    fn park(&mut self, response: WantResponse<Bytes>, is_refused: bool) {
        debug_assert!(self.parked.is_none(), "nothing is taken while a response waits");
        self.parked = Some(ParkedResponse { response, is_refused });
    }

    /// Returns true if enough time has passed since the last failure.
    fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Notes that everything is verified.
    fn finish(&mut self) {
        self.stage = ShownStage::Verified;
        (self.retry_at, self.pauses) = (None, RetryPauses::default());
        self.withdrawal = None;
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests;
