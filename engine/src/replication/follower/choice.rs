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
/// Time without a new envelope after which a further peer is tried beside those that are. Specified
/// (`docs/protocol/replication.md`, What the follower does): a quarter of [`TRIAL`], and mostly a round trip and a
/// page, so that an honest holder is seldom asked beside another one.
pub(super) const NEXT_TRIAL_AFTER: Duration = Duration::from_millis(250);
/// Peers that are tried at once. Specified (same page): each may be sending the same large envelope over this node's
/// link, and leaves the source less of it.
pub(super) const TRIALS_MAX: usize = 4;
/// Time in which a source has to send a least amount while another peer claims far more. Specified
/// (`docs/protocol/replication.md`, What the follower does).
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(10);
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
/// Time after a pause in which a peer that gives no new reason for one is trusted again. A guess.
const FORGET_AFTER: Duration = Duration::from_secs(600);
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
    /// The peers that are tried beside the source, at most [`TRIALS_MAX`], in the order in which they were asked. One
    /// that is tried beside a slow source is alone.
    pub(super) trials: Vec<Trial>,
    /// Bounded by the number of nodes in the registry: an entry is made for peers that were connected.
    pub(super) doubts: BTreeMap<OriginatorId, Doubt>,
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
pub(super) struct Trial {
    pub(super) peer: OriginatorId,
    /// The time at which it began.
    pub(super) since: Instant,
    pub(super) until: Instant,
    /// The envelopes of the peer that were accepted, if the source sends too little. The peer then has to send enough,
    /// and what the source sends does not end the trial.
    pub(super) beside_slow: Option<ReceivedTotal>,
}

/// The amount that the source has sent since some time.
#[derive(Debug)]
pub(super) struct SourcePace {
    received: ReceivedTotal,
    /// The time from which on it counts as slow if that is not enough.
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

/// The record of a peer that claimed to hold envelopes and sent none.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    /// Number of times.
    pub(super) times: u32,
    /// The end of the last pause.
    pub(super) until: Instant,
    /// The pause is not over.
    pub(super) is_paused: bool,
    /// The peer was silent as the source, and nothing has come from it since it was left.
    is_silent: bool,
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

    /// Notes that this node was too busy to look at what the source has sent.
    pub(super) fn excuse_pace(&mut self, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.judged_at = pace.judged_at.max(now + TRIAL);
        }
    }

    /// Notes that a peer has sent an envelope of this length, which was accepted.
    pub(super) fn note_sent(&mut self, from: OriginatorId, len_bytes: usize) {
        if let Some(pace) = self.pace.as_mut().filter(|_| from == self.source) {
            pace.received.add(len_bytes);
        }
        let trial = self.trials.iter_mut().find(|trial| trial.peer == from);
        let received = trial.and_then(|trial| trial.beside_slow.as_mut());
        received.into_iter().for_each(|received| received.add(len_bytes));
    }

    /// True while a peer that is tried beside a slow source has not sent enough. The first envelope shows nothing
    /// there: the source is not silent, and might have sent it a moment later.
    pub(super) fn is_undecided(&self) -> bool {
        let mut received = self.trials.iter().filter_map(|trial| trial.beside_slow);
        received.any(|received| !is_enough(received))
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

    /// Returns the tried peer that was doubted most often, if that is more often than `rival` was.
    pub(super) fn outranked_by(&self, rival: OriginatorId) -> Option<OriginatorId> {
        let tried = self.trials.iter().map(|trial| trial.peer);
        let most = tried.max_by_key(|peer| self.times(*peer))?;
        (self.times(most) > self.times(rival)).then_some(most)
    }

    pub(super) fn is_paused(&self, peer: OriginatorId) -> bool {
        self.doubts.get(&peer).is_some_and(|doubt| doubt.is_paused)
    }

    /// Records that a peer sent none of the envelopes that it claimed. It is passed over for a pause that doubles each
    /// time.
    pub(super) fn doubt(&mut self, now: Instant, peer: OriginatorId) {
        let fresh = Doubt { times: 0, until: now, is_paused: false, is_silent: false };
        let doubt = self.doubts.entry(peer).or_insert(fresh);
        if doubt.until + FORGET_AFTER <= now {
            doubt.times = 0;
        }
        let pause = FIRST_PAUSE * 2u32.pow(doubt.times.min(PAUSE_DOUBLINGS_MAX));
        (doubt.times, doubt.until, doubt.is_paused) = (doubt.times + 1, now + pause, true);
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

    /// Returns how long a peer may take to show something.
    pub(super) fn trial_for(&self, peer: OriginatorId) -> Duration {
        TRIAL * 2u32.pow(self.times(peer).min(DOUBLINGS_MAX))
    }

    /// Ends pauses that are over, and notes the accepted place.
    pub(super) fn pass_time(&mut self, now: Instant, accepted: SequenceId) {
        for doubt in self.doubts.values_mut() {
            doubt.is_paused &= doubt.until > now;
        }
        if self.passed.at + CURRENT_WITHIN <= now {
            self.passed = Passed { older: self.passed.newer, newer: accepted, at: now };
        }
    }
}
