//! Decides which nodes this node reports because they do not answer as they should.
//!
//! No signature proves the answer to a request, so a report of this kind is a claim, and the reports of many nodes
//! are judged together ([`quorum`]). Four facts are checked for each other node of the network:
//!
//! - there is no connection to it: no answer;
//! - it was asked for its own strand, claims envelopes, and sends none: no answer either;
//! - it is connected, and for a minute has claimed less of its own strand than others have sent long before: it is
//!   slow;
//! - a request to it ended with an error that blames no caller.
//!
//! The claim of one peer about another decides nothing here: a liar could make this node accuse the other. Envelopes
//! that are held are signed.
//!
//! A node that is itself cut off, that has slept, or whose clock is wrong reports no other node: the fault is its own.
//! It takes a minute after that for all connections to be back.
//!
//! A node that was sent no request has left none without an answer. So a node does not report another one while it ends
//! its connections with that one, for a broken rule or by an order of its operator. Nor does it report one that it
//! dials at no address of its record.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::misbehavior::{MisbehaviorKind, quorum};

/// Time without an answer after which a node is out of reach. Specified (`docs/protocol/misbehavior.md`).
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Lag of a node with its own strand, behind what others have sent of it. Specified (same page).
const LAG_MAX: Duration = Duration::from_secs(10);
/// Time for which the lag is above that, after which the node is slow. Specified (same page).
const SLOW_AFTER: Duration = Duration::from_secs(60);
/// Time for which the silence of another node proves nothing after this node had a fault itself, disconnected the other
/// node, did not dial it, or kept it apart. Equal to the longest pause between two attempts to reach a peer.
const SETTLE: Duration = Duration::from_secs(60);
/// Time after an attempt to reach a node in which the node counts as dialled. A guess: twice the longest pause between
/// two attempts.
const DIALLED_WITHIN: Duration = Duration::from_secs(120);
/// Pause between two looks that shows that this node has slept. Equal to the silence that is a fault of others.
const SLEPT_AFTER: Duration = Duration::from_secs(10);
/// Age up to which notes about a node are looked at. Equal to the pause that means sleep, so that no note is lost
/// between two looks.
const NOTED_WITHIN: Duration = Duration::from_secs(10);
/// Time between two reports of one kind about one node. Specified (same page).
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Another node of the network, as this node sees it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OtherNode {
    /// There is a connection to it.
    pub is_connected: bool,
    /// The last time that a connection to it ended. A connection that came and went between two looks is seen by this
    /// alone.
    pub lost_at: Option<Instant>,
    /// The head of its own strand that it claims to hold; 0 if it claims nothing.
    pub claimed: SequenceId,
    /// The head of its strand that is held here.
    pub held: SequenceId,
    /// The last time that this node ended the connection, for a rule that the other one broke.
    pub sent_away_at: Option<Instant>,
    /// The last time that this node did not dial an address of it, by a rule or a setting of its own.
    pub not_dialled_at: Option<Instant>,
    /// The last time that this node dialled an address that its record names, and no session came of it.
    pub dialled_at: Option<Instant>,
    /// The last time that it had claimed envelopes of its strand, was asked for them, and had sent nothing.
    pub stalled_at: Option<Instant>,
    /// The time until which the operator keeps this node apart from the other one, if the operator named a time.
    pub partitioned_until: Option<Instant>,
    /// The last request that ended with an error: when, and after which time.
    pub failed: Option<(Instant, Duration)>,
}

/// A node that does not answer as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    /// The node.
    pub accused: OriginatorId,
    /// Kind of the report; its evidence is a failed request.
    pub kind: MisbehaviorKind,
    /// The time for which this node has waited.
    pub waited: Duration,
}

/// State of the decision. Reads no clock itself: `now` is a moment of the monotonic clock, `wall_ns` is this node's
/// wall clock in unix nanoseconds.
#[derive(Debug, Default)]
pub struct LivenessWatch {
    looked_at: Option<Instant>,
    /// Failures up to this time do not count, because this node itself was at fault.
    excused_until: Option<Instant>,
    /// State of each watched node. Bounded by the registry.
    nodes: BTreeMap<OriginatorId, WatchedNode>,
}

/// State of one other node.
#[derive(Debug)]
struct WatchedNode {
    /// The end of the last connection, or a time in the future while it need not be connected yet.
    silent_since: Instant,
    /// A place of its strand that is held here and that it does not claim yet, and the time since when that is so.
    behind: Option<(SequenceId, Instant)>,
    /// The time since when its lag is above [`LAG_MAX`].
    lagging_since: Option<Instant>,
    /// The last report of each kind: when, and in which slot.
    reported: BTreeMap<i32, (Instant, i64)>,
}

impl LivenessWatch {
    /// Looks at all other nodes of the network. Returns those to report now: of each kind about each node the first
    /// at once, and one for each further [slot](quorum::SLOT_NS) of the wall clock.
    ///
    /// `is_fit` is false while this node's own clock is wrong, or it is not in the network itself.
    pub fn look(
        &mut self,
        now: Instant,
        wall_ns: i64,
        is_fit: bool,
        others: &BTreeMap<OriginatorId, OtherNode>,
    ) -> Vec<Complaint> {
        let has_slept = self.looked_at.is_none_or(|at| now.duration_since(at) > SLEPT_AFTER);
        self.looked_at = Some(now);
        let reached = others.values().filter(|other| other.is_connected).count();
        if has_slept || !is_fit || 2 * reached < others.len() {
            self.excused_until = Some(now + SETTLE);
        }
        self.nodes.retain(|id, _| others.contains_key(id));
        let mut complaints = Vec::new();
        for (&id, other) in others {
            let watched = self.nodes.entry(id).or_insert_with(|| WatchedNode::new(now));
            watched.follow(now, other);
            if self.excused_until.is_some_and(|until| now < until) {
                continue;
            }
            let found = watched.faults(now, self.excused_until, other);
            let due =
                found.into_iter().filter(|(kind, _)| watched.note_if_due(*kind, now, wall_ns));
            let complaint = |(kind, waited)| Complaint { accused: id, kind, waited };
            complaints.extend(due.map(complaint));
        }
        complaints
    }
}

impl WatchedNode {
    /// A node that was just learned of has to be dialled first.
    fn new(now: Instant) -> Self {
        let reported = BTreeMap::new();
        Self { silent_since: now + SETTLE, behind: None, lagging_since: None, reported }
    }

    fn follow(&mut self, now: Instant, other: &OtherNode) {
        if other.is_connected {
            self.silent_since = now;
        } else if let Some(at) = other.lost_at {
            self.silent_since = self.silent_since.max(at);
        }
        // An address that is not dialled excuses no silence at another one, or nodes could hide behind it.
        let is_dialled =
            other.dialled_at.is_some_and(|at| now.saturating_duration_since(at) <= DIALLED_WITHIN);
        let not_dialled_at = other.not_dialled_at.filter(|_| !is_dialled);
        for at in [other.sent_away_at, not_dialled_at].into_iter().flatten() {
            self.silent_since = self.silent_since.max(at + SETTLE);
        }
        if other.partitioned_until.is_some_and(|until| now < until) {
            self.silent_since = self.silent_since.max(now + SETTLE);
        }
        // A node of other software may claim nothing and hold everything.
        let is_behind =
            other.is_connected && other.claimed != SequenceId::NONE && other.claimed < other.held;
        let same = self.behind.filter(|(place, _)| other.claimed < *place);
        self.behind = is_behind.then(|| same.unwrap_or((other.held, now)));
        let is_lagging = self.behind.is_some_and(|(_, since)| now.duration_since(since) > LAG_MAX);
        self.lagging_since = is_lagging.then(|| self.lagging_since.unwrap_or(now));
    }

    /// Returns the kinds of faults that show now, each with the time that was waited.
    fn faults(
        &self,
        now: Instant,
        excused_until: Option<Instant>,
        other: &OtherNode,
    ) -> Vec<(MisbehaviorKind, Duration)> {
        let since =
            |at: Instant| now.saturating_duration_since(excused_until.map_or(at, |it| it.max(at)));
        let is_new = |at: Instant| {
            excused_until.is_none_or(|until| until <= at)
                && now.saturating_duration_since(at) <= NOTED_WITHIN
        };
        let mut faults = Vec::new();
        let silent_for = since(self.silent_since);
        if silent_for >= SILENT_AFTER {
            faults.push((MisbehaviorKind::UnresponsiveNode, silent_for));
        } else if other.is_connected && other.stalled_at.is_some_and(is_new) {
            faults.push((MisbehaviorKind::UnresponsiveNode, SILENT_AFTER));
        }
        if let Some(lagging_for) = self.lagging_since.map(since).filter(|it| *it >= SLOW_AFTER) {
            faults.push((MisbehaviorKind::SlowNode, lagging_for));
        }
        if let Some((_, took)) = other.failed.filter(|(at, _)| is_new(*at)) {
            faults.push((MisbehaviorKind::FailedRequest, took));
        }
        faults
    }

    /// Notes a report of a kind, if it is time for one. Returns true then.
    fn note_if_due(&mut self, kind: MisbehaviorKind, now: Instant, wall_ns: i64) -> bool {
        let slot_ns = i64::try_from(quorum::SLOT_NS).unwrap_or(i64::MAX);
        let slot = wall_ns.div_euclid(slot_ns);
        let last = self.reported.get(&i32::from(kind));
        let is_due = last.is_none_or(|(at, last)| {
            *last != slot && now.saturating_duration_since(*at) >= REPORT_EVERY
        });
        if is_due {
            self.reported.insert(i32::from(kind), (now, slot));
        }
        is_due
    }
}
