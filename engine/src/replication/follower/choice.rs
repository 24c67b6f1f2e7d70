//! State of the choice of a source: the source, the peer that is tried beside it, and the pauses of peers that showed
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use super::parts::ReceivedTotal;

/// Time without a new envelope after which a peer that claims more is asked beside the source. Guessed: several round
/// trips and writes, so that a node under load is not taken for a dead one. Together with the interval of clocks it is
/// below the two seconds of `docs/protocol/replication.md`, What the follower does.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_millis(600);
/// Time that a peer gets to show an envelope beside the source. It doubles each time the peer shows none, up to
/// 2^[`DOUBLINGS_MAX`] of it. Guessed: a round trip and a page from a cold disk; the doubling makes up for slow links.
pub(super) const TRIAL: Duration = Duration::from_secs(1);
/// Time without a new envelope after which further peers are tried beside those that are. Specified
/// (`docs/protocol/replication.md`, What the follower does): a quarter of [`TRIAL`], and mostly a round trip and a
/// page, so that an honest holder is seldom asked beside another one.
pub(super) const NEXT_TRIAL_AFTER: Duration = Duration::from_millis(250);
/// Peers that are tried at once, if one of them was doubted before. Specified (same page): each may be sending the same
/// large envelope over this node's link, and leaves the source less of it.
pub(super) const TRIALS_MAX: usize = 4;
/// Peers that are tried at once, if none of them was doubted before. Specified (same page): rounds of 1, 2, 4 and 8. A
/// first trial takes [`TRIAL`], so the link is free again soon, and no peer has a second one.
pub(super) const FIRST_TRIALS_MAX: usize = 15;
/// Time in which a source has to send a least amount while another peer claims far more. Specified
/// (`docs/protocol/replication.md`, What the follower does).
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(10);
/// Time for which bytes that arrive from the source count as a part of its next envelope. Specified (same page): the
/// longest envelope takes 400 s over a link of 64 KiB/s.
pub(super) const ENVELOPE_WITHIN: Duration = Duration::from_secs(600);
/// Time by which the judgement of a source is put off while a write is under way. A guess: most writes take less. Each
/// envelope of the source begins a write, so with a long time it could put the judgement off for ever.
pub(super) const STORED_WITHIN: Duration = Duration::from_millis(100);
/// Places beyond the accepted ones that another peer then claims at least. Specified (same page).
pub(super) const FAR_PLACES_MIN: u64 = 256;
/// Envelopes, or their bytes, that are enough. Specified (same page): a link of 64 KiB/s carries as much.
const ENOUGH_ENVELOPES: u64 = 256;
const ENOUGH_BYTES: u64 = 512 * 1024;
/// Doublings of [`TRIAL`]. Guessed: 8 s carry a batch over a link of 64 KiB/s.
const DOUBLINGS_MAX: u32 = 3;
/// First pause after a peer has shown nothing. It doubles each time, five times at most. Specified
/// (`docs/protocol/replication.md`, What the follower does).
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(2);
const PAUSE_DOUBLINGS_MAX: u32 = 5;
/// Time after a pause until the peer is trusted again, if it gives no reason for another pause meanwhile. Specified
/// (same page).
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Age of the head that a peer has to claim to be current. Guessed: twice the interval of clocks over gRPC, so
/// that a peer which is up to date does not look behind because its clock is on its way.
const CURRENT_WITHIN: Duration = Duration::from_secs(2);

/// The state of the choice.
#[derive(Debug)]
pub(super) struct Choice {
    /// The peer that the strand is taken from.
    pub(super) source: OriginatorId,
    /// The source was named by the caller, and stays.
    pub(super) is_fixed: bool,
    /// The strand's own node has left the network: it is asked for nothing.
    pub(super) is_relayed: bool,
    /// The peers that are tried beside the source, at most [`FIRST_TRIALS_MAX`], in the order in which they were asked.
    /// While a slow source continues to send, only one peer is tried.
    pub(super) trials: Vec<SourceTrial>,
    /// Bounded by the number of nodes in the registry: an entry is made for peers that were connected.
    pub(super) doubts: BTreeMap<OriginatorId, DoubtedPeer>,
    /// Places accepted some time ago.
    pub(super) passed: Passed,
    /// The last time that a place was accepted or the source was asked.
    pub(super) progress_at: Instant,
    /// Since when the source claims more than was accepted.
    pub(super) owing_since: Option<Instant>,
    /// Since when another peer claims more than was accepted.
    pub(super) ahead_since: Option<Instant>,
    /// The amount that the source sends; `None` while no other peer claims far more than was accepted.
    pub(super) pace: Option<SourcePace>,
    /// The strand's own node, which has proved its id, claimed more and sent nothing for long; until it is taken.
    pub(super) is_stalled: bool,
    /// Times in a row that it did so, on one connection and without an end of the stream.
    pub(super) stalls: u32,
}

/// A peer that is asked for the strand beside the source.
#[derive(Debug)]
pub(super) struct SourceTrial {
    pub(super) peer: OriginatorId,
    /// The time at which it began.
    pub(super) since: Instant,
    pub(super) until: Instant,
    /// The trial began beside a source that sends too little, or beside such a trial. Envelopes of the source do not
    /// end it.
    pub(super) beside_slow: bool,
    /// The envelopes of the peer that were accepted, if it has to send enough of them to take the place of the source,
    /// and not only the first one.
    pub(super) received: Option<ReceivedTotal>,
}

/// The amount that the source has sent since some time.
#[derive(Debug)]
pub(super) struct SourcePace {
    received: ReceivedTotal,
    /// The time at which the source counts as slow if it has not sent enough by then.
    judged_at: Instant,
}

impl SourcePace {
    fn new(now: Instant) -> Self {
        Self { received: ReceivedTotal::default(), judged_at: now + SLOW_AFTER }
    }

    fn is_enough(&self) -> bool {
        is_enough(self.received)
    }
}

/// Returns true if a source that sends so much in ten seconds, or a peer that does in a trial beside it, is not slow.
fn is_enough(received: ReceivedTotal) -> bool {
    let ReceivedTotal { envelopes, bytes } = received;
    envelopes >= ENOUGH_ENVELOPES || bytes >= ENOUGH_BYTES
}

/// The record of a peer that claimed to hold envelopes and sent none, or was slower than another one.
#[derive(Debug, Clone)]
pub(super) struct DoubtedPeer {
    /// Number of claims without an envelope.
    pub(super) times: u32,
    /// The end of the last pause.
    pub(super) until: Instant,
    /// The pause is not over.
    pub(super) is_paused: bool,
    /// The peer was silent as the source, and nothing has come from it since it was left.
    is_silent: bool,
    /// The time of its trials that ended because another peer sent first, since it last sent an envelope itself.
    outrun_for: Duration,
}

impl DoubtedPeer {
    fn new(now: Instant) -> Self {
        let outrun_for = Duration::ZERO;
        Self { times: 0, until: now, is_paused: false, is_silent: false, outrun_for }
    }

    /// Begins the count again if the last pause was long ago.
    fn forget(&mut self, now: Instant) {
        if self.until + FORGET_AFTER <= now {
            self.times = 0;
        }
    }
}

/// The place that had been accepted [`CURRENT_WITHIN`] ago, or a lower one.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) older: SequenceId,
    pub(super) newer: SequenceId,
    pub(super) at: Instant,
}

/// Worth of a peer as a source; lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SourceRank {
    /// The strand's own node, which is current.
    Own,
    /// Another peer whose claimed head covers what was accepted two seconds ago.
    Current,
    /// The strand's own node, which is behind or was silent: it may send again.
    OwnBehind,
    /// Another peer with a lower claimed head, or one that was silent.
    Behind,
    /// A peer that sent none of the envelopes that it claimed, or claims none.
    Doubted,
}

impl Choice {
    pub(super) fn new(source: OriginatorId, stored: SequenceId, now: Instant) -> Self {
        Self {
            source,
            is_fixed: false,
            is_relayed: false,
            trials: Vec::new(),
            doubts: BTreeMap::new(),
            passed: Passed { older: stored, newer: stored, at: now },
            progress_at: now,
            owing_since: None,
            ahead_since: None,
            pace: None,
            is_stalled: false,
            stalls: 0,
        }
    }

    /// Returns the number of peers with a record of unmet claims.
    pub(super) fn len(&self) -> usize {
        self.doubts.len()
    }

    /// True if this peer is asked for everything that comes next.
    pub(super) fn is_asked(&self, peer: OriginatorId) -> bool {
        peer == self.source || self.is_tried(peer)
    }

    pub(super) fn is_tried(&self, peer: OriginatorId) -> bool {
        self.trials.iter().any(|trial| trial.peer == peer)
    }

    /// Looks at the pace of the source. `is_far` says that another peer claims far more than was accepted.
    pub(super) fn look_at_pace(&mut self, now: Instant, is_far: bool) {
        let goes_on = |pace: &SourcePace| pace.judged_at > now || !pace.is_enough();
        let pace = self.pace.take().filter(goes_on);
        self.pace = is_far.then(|| pace.unwrap_or_else(|| SourcePace::new(now)));
    }

    /// Returns the time from which on the source counts as slow, if it has not sent enough by now.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.pace.as_ref().filter(|pace| !pace.is_enough()).map(|pace| pace.judged_at)
    }

    /// Gives the source this much more time, because this node was too busy to examine its envelopes.
    pub(super) fn excuse_pace(&mut self, now: Instant, time: Duration) {
        if let Some(pace) = &mut self.pace {
            pace.judged_at = pace.judged_at.max(now + time);
        }
    }

    /// Notes that a peer has sent an envelope of this length, which was accepted.
    pub(super) fn note_sent(&mut self, from: OriginatorId, len_bytes: usize) {
        if let Some(pace) = self.pace.as_mut().filter(|_| from == self.source) {
            pace.received.add(len_bytes);
        }
        let trial = self.trials.iter_mut().find(|trial| trial.peer == from);
        let received = trial.and_then(|trial| trial.received.as_mut());
        received.into_iter().for_each(|received| received.add(len_bytes));
        if let Some(doubt) = self.doubts.get_mut(&from) {
            doubt.outrun_for = Duration::ZERO;
        }
    }

    /// True if an envelope of this peer ends no trial: it is tried beside a slow source and has not sent enough, or it
    /// is not tried, and another peer is tried beside a slow source. The first envelope shows nothing there: the source
    /// is not silent, and might have sent it a moment later.
    pub(super) fn is_undecided_by(&self, from: OriginatorId) -> bool {
        match self.trials.iter().find(|trial| trial.peer == from) {
            Some(trial) => trial.received.is_some_and(|received| !is_enough(received)),
            None => self.trials.iter().any(|trial| trial.beside_slow),
        }
    }

    /// Ends all trials without a verdict. Returns the peers that were tried.
    pub(super) fn end_trials(&mut self) -> Vec<OriginatorId> {
        std::mem::take(&mut self.trials).into_iter().map(|trial| trial.peer).collect()
    }

    /// Ends the trial of a peer without a verdict. Returns false if it is not tried.
    pub(super) fn end_trial_of(&mut self, peer: OriginatorId) -> bool {
        let index = self.trials.iter().position(|trial| trial.peer == peer);
        index.map(|index| self.trials.remove(index)).is_some()
    }

    /// Ends a trial whose time is over, and doubts its peer, which is returned; `None` if there is no such trial.
    pub(super) fn fail_trial(&mut self, now: Instant) -> Option<OriginatorId> {
        let peer = self.trials.iter().find(|trial| trial.until <= now)?.peer;
        self.end_trial_of(peer);
        self.doubt(now, peer);
        Some(peer)
    }

    /// Returns the tried peer that was doubted most often, if that is more often than `rival`. Among equal ones it is
    /// the peer whose trial has lasted longest.
    pub(super) fn outranked_by(&self, rival: OriginatorId) -> Option<OriginatorId> {
        let newest_first = self.trials.iter().rev().map(|trial| trial.peer);
        // Of equal ones this is the last.
        let most = newest_first.max_by_key(|peer| self.times(*peer))?;
        (self.times(most) > self.times(rival)).then_some(most)
    }

    /// Returns the time after the last trial at which this rival is tried, too; `None` while there is no place for it.
    /// Peers that were never doubted are tried in rounds, each of one peer more than all rounds before it.
    pub(super) fn next_trial_after(&self, rival: OriginatorId) -> Option<Duration> {
        if self.times(rival) > 0 {
            let has_place = self.trials.len() < TRIALS_MAX || self.outranked_by(rival).is_some();
            return has_place.then_some(NEXT_TRIAL_AFTER);
        }
        let first = self.trials.iter().filter(|trial| self.times(trial.peer) == 0).count();
        let begins_round = (first + 1).is_power_of_two();
        let after = if begins_round { NEXT_TRIAL_AFTER } else { Duration::ZERO };
        (first < FIRST_TRIALS_MAX).then_some(after)
    }

    pub(super) fn is_paused(&self, peer: OriginatorId) -> bool {
        self.doubts.get(&peer).is_some_and(|doubt| doubt.is_paused)
    }

    /// Records that a peer sent none of the envelopes that it claimed. It is passed over for a pause that doubles each
    /// time.
    pub(super) fn doubt(&mut self, now: Instant, peer: OriginatorId) {
        self.doubt_with(now, peer, PAUSE_DOUBLINGS_MAX);
    }

    /// Records the same of a peer whose connection has ended. Its link may be the cause, so the pause is the first one
    /// each time.
    pub(super) fn doubt_shortly(&mut self, now: Instant, peer: OriginatorId) {
        self.doubt_with(now, peer, 0);
    }

    fn doubt_with(&mut self, now: Instant, peer: OriginatorId, doublings_max: u32) {
        let doubt = self.doubts.entry(peer).or_insert_with(|| DoubtedPeer::new(now));
        doubt.forget(now);
        let pause = FIRST_PAUSE * 2u32.pow(doubt.times.min(doublings_max));
        let until = doubt.until.max(now + pause);
        (doubt.times, doubt.until, doubt.is_paused) = (doubt.times + 1, until, true);
    }

    /// Notes that a doubted peer was left as the source because it was silent. A link can die while its connection
    /// stays open. What the peer claimed before proves no life, and looks current for seconds after the pause.
    pub(super) fn note_silence(&mut self, peer: OriginatorId) {
        if let Some(doubt) = self.doubts.get_mut(&peer) {
            doubt.is_silent = true;
        }
    }

    /// Notes that something has come from a peer.
    pub(super) fn note_life(&mut self, peer: OriginatorId) {
        if let Some(doubt) = self.doubts.get_mut(&peer) {
            doubt.is_silent = false;
        }
    }

    /// True if a peer was left as the source because it was silent, and nothing has come from it since.
    pub(super) fn is_silent(&self, peer: OriginatorId) -> bool {
        self.doubts.get(&peer).is_some_and(|doubt| doubt.is_silent)
    }

    /// Returns the number of times that a peer sent none of the envelopes that it claimed.
    pub(super) fn times(&self, peer: OriginatorId) -> u32 {
        self.doubts.get(&peer).map_or(0, |doubt| doubt.times)
    }

    /// Notes that the trial of a peer ended because another one sent first. That may be a better link, so it brings no
    /// pause. Silent liars would lead the next search for a source again, so others come before it.
    pub(super) fn note_outrun(&mut self, now: Instant, trial: &SourceTrial) {
        let doubt = self.doubts.entry(trial.peer).or_insert_with(|| DoubtedPeer::new(now));
        let time = now.duration_since(trial.since);
        doubt.outrun_for = doubt.outrun_for.saturating_add(time);
    }

    /// Returns the worth of a peer that is not paused, lower is better: how often it was doubted, and then for how long
    /// it was tried when others sent first.
    pub(super) fn record(&self, peer: OriginatorId) -> (u32, Duration) {
        let doubt = self.doubts.get(&peer);
        doubt.map_or((0, Duration::ZERO), |doubt| (doubt.times, doubt.outrun_for))
    }

    /// Returns how long a peer may take to show something.
    pub(super) fn trial_for(&self, peer: OriginatorId) -> Duration {
        TRIAL * 2u32.pow(self.times(peer).min(DOUBLINGS_MAX))
    }

    /// Ends pauses that are over, forgets those of long ago, and notes the accepted place.
    pub(super) fn pass_time(&mut self, now: Instant, accepted: SequenceId) {
        for doubt in self.doubts.values_mut() {
            doubt.is_paused &= doubt.until > now;
            doubt.forget(now);
        }
        if self.passed.at + CURRENT_WITHIN <= now {
            self.passed = Passed { older: self.passed.newer, newer: accepted, at: now };
        }
    }
}
