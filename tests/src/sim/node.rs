//! One simulated node: its log, and its followers while it runs.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use hawser_engine::liveness::LivenessWatch;
use hawser_engine::misbehavior::{
    Evidence, FeeVerdict, Misbehavior, StrandTimes, TimeFault, difference, judge_fees, stated_ns,
};
use hawser_engine::replication::{CheckpointWatch, Follower, PeerClock, SplitLimits, StrandWrite};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absences, RateTable};
use hawser_storage::{Change, CommitError, LogEntry, LogItem, Store, StoreIdentity, Validity};

use super::checkpoints::Checkpoints;
use super::scripted::Naming;
use super::strands::key;

/// Bounds at which the short backlogs of a run are split.
pub(super) const SPLIT_LIMITS: SplitLimits =
    SplitLimits { backlog_min: 4, first_part_places: 1, part_places_max: 3, held_bytes_max: 8192 };

/// One followed strand of a running node.
pub(super) struct Following {
    pub(super) follower: Follower,
    /// Times of what was written.
    pub(super) times: StrandTimes,
    /// Accepted and not yet on its way to disk.
    pub(super) waiting: Vec<StrandWrite>,
    /// On its way to disk, to tell at a crash whether it got there.
    pub(super) writing: Option<Vec<StrandWrite>>,
    /// The earliest timer that is planned.
    pub(super) armed: Option<Instant>,
}

impl Following {
    fn new(follower: Follower) -> Self {
        let times = StrandTimes::default();
        Self { follower, times, waiting: Vec::new(), writing: None, armed: None }
    }
}

pub(super) struct Node {
    pub(super) id: OriginatorId,
    pub(super) store: Store,
    /// The node that the strands of the older network are taken from, if there is one.
    pub(super) older_source: Option<OriginatorId>,
    pub(super) incarnation: u64,
    pub(super) is_running: bool,
    /// By originator; empty while the node is down.
    pub(super) following: BTreeMap<OriginatorId, Following>,
    /// Claims of each peer; empty while the node is down.
    pub(super) clocks: BTreeMap<OriginatorId, PeerClock>,
    /// The absences of the node that leaves, as far as this node knows; empty before.
    pub(super) absences: Absences,
    /// Writes may be on their way that were judged without them.
    pub(super) is_outdated: bool,
    /// Second statements that were met for a place.
    pub(super) conflicts: u64,
    /// Records evidence, which costs a write.
    pub(super) keeps_evidence: bool,
    /// The prices by which fees are judged; `None` to judge none.
    pub(super) rates: Option<RateTable>,
    /// Time by which the node's clock is ahead of the true time.
    pub(super) clock_offset_ns: i64,
    /// Checkpoints and trees; only in networks with a script.
    pub(super) checkpoints: Checkpoints,
    /// Its decision about others that do not answer.
    pub(super) liveness: LivenessWatch,
    /// The last time that it ended a connection for a rule that a peer broke.
    pub(super) sent_away: BTreeMap<OriginatorId, Instant>,
    /// The last time that the connection to a server ended.
    pub(super) lost: BTreeMap<OriginatorId, Instant>,
    /// The nodes that this one has named since they were last taken, and for what.
    pub(super) namings: Vec<(OriginatorId, Naming)>,
}

impl Node {
    pub(super) fn new(id: OriginatorId) -> Self {
        let public_key = key(id).public_key();
        let identity = StoreIdentity { network: "sim".to_owned(), node: id, public_key };
        let store = Store::in_memory(identity, hawser_engine::price::price).unwrap();
        Self {
            id,
            store,
            older_source: None,
            incarnation: 0,
            is_running: false,
            following: BTreeMap::new(),
            clocks: BTreeMap::new(),
            absences: Absences::NONE,
            is_outdated: false,
            conflicts: 0,
            keeps_evidence: false,
            rates: None,
            clock_offset_ns: 0,
            checkpoints: Checkpoints::default(),
            liveness: LivenessWatch::default(),
            sent_away: BTreeMap::new(),
            lost: BTreeMap::new(),
            namings: Vec::new(),
        }
    }

    pub(super) fn head(&self, originator: OriginatorId) -> SequenceId {
        self.store.snapshot().head(originator).unwrap()
    }

    /// A whole strand, as the log tells it.
    pub(super) fn log(&self, originator: OriginatorId, after: SequenceId) -> Vec<LogItem> {
        let snapshot = self.store.snapshot();
        let head = snapshot.head(originator).unwrap();
        snapshot.log(EnvelopeId::new(originator, after), head).map(Result::unwrap).collect()
    }

    /// Begins to follow `others` from what is on disk.
    pub(super) fn start(&mut self, others: &[OriginatorId], now: Instant) {
        self.is_running = true;
        self.incarnation += 1;
        for &originator in others.iter().filter(|id| **id != self.id) {
            let missing = self.store.snapshot().missing(originator).unwrap();
            let mut follower = Follower::new(originator, self.head(originator), missing, now)
                .with_split_limits(SPLIT_LIMITS);
            follower.handle_membership(now, !self.knows_departure_of(originator));
            self.following.insert(originator, Following::new(follower));
        }
        if let Some(source) = self.older_source {
            self.follow_older(source, now);
        }
    }

    /// Begins to follow the strands of the older network, which `source` took over.
    pub(super) fn follow_older(&mut self, source: OriginatorId, now: Instant) {
        self.older_source = Some(source);
        if source == self.id {
            return;
        }
        for originator in OriginatorId::MIGRATED {
            let missing = self.store.snapshot().missing(originator).unwrap();
            let follower = Follower::new(originator, self.head(originator), missing, now);
            let mut follower = follower.with_source(source).of_older_network();
            // No registry names these originators.
            follower.handle_membership(now, false);
            self.following.insert(originator, Following::new(follower));
        }
    }

    /// Loses everything that is not on disk.
    pub(super) fn crash(&mut self) {
        self.is_running = false;
        self.incarnation += 1;
        self.following.clear();
        self.clocks.clear();
        self.checkpoints.watch = CheckpointWatch::default();
        self.liveness = LivenessWatch::default();
        self.sent_away.clear();
        self.lost.clear();
    }

    /// Does the writes to one strand at `true_ns`, and tells up to where it grew.
    pub(super) fn write(&mut self, true_ns: i64, writes: &[StrandWrite]) -> Option<SequenceId> {
        let now_ns = true_ns + self.clock_offset_ns;
        let mut durable = None;
        for write in writes {
            match write {
                StrandWrite::Append { changes, through } => {
                    self.store.commit(changes).unwrap();
                    self.judge_times(now_ns, changes);
                    self.judge_rest(now_ns, changes);
                    durable = Some(*through);
                }
                StrandWrite::Compare { from, entries } => {
                    for entry in entries {
                        match self.store.commit(&[Change::Append(entry.clone())]) {
                            Ok(()) => {}
                            Err(CommitError::Conflict { at }) => {
                                self.conflicts += 1;
                                self.record_conflict(now_ns, *from, at, entry);
                            }
                            Err(error) => panic!("{}: {error}", self.id),
                        }
                    }
                }
            }
        }
        durable
    }

    fn judge_times(&mut self, now_ns: i64, changes: &[Change]) {
        for change in changes {
            let Change::Append(entry) = change else { continue };
            let Some(following) = self.following.get_mut(&entry.id.originator) else { continue };
            let ns = stated_ns(&entry.bytes).unwrap();
            for fault in following.times.next(entry.id, ns, now_ns) {
                let misbehavior = match fault {
                    TimeFault::Back { .. } => Misbehavior::TimeBack,
                    TimeFault::Ahead => Misbehavior::TimeAhead,
                };
                self.record(now_ns, misbehavior, entry.id, None, vec![entry.bytes.clone()]);
            }
        }
    }

    /// Judges fees, if the prices are known, and notes marks.
    fn judge_rest(&mut self, now_ns: i64, changes: &[Change]) {
        let Some(rates) = self.rates.clone() else { return };
        for change in changes {
            let Change::Append(LogEntry { id, bytes, validity, .. }) = change else { continue };
            if let Validity::Invalid(rule) = validity {
                self.namings.push((id.originator, Naming::Mark(rule.0)));
            } else if judge_fees(bytes, &rates) == FeeVerdict::Wrong {
                self.record(now_ns, Misbehavior::Fee, *id, None, vec![bytes.clone()]);
            }
        }
    }

    fn record_conflict(
        &mut self,
        now_ns: i64,
        from: OriginatorId,
        at: EnvelopeId,
        other: &LogEntry,
    ) {
        let Some(held) = self.store.snapshot().get(at).unwrap() else { return };
        let severity = difference(&held, &other.bytes).expect("it is a conflict");
        let misbehavior = Misbehavior::TwoStatements(severity);
        self.record(now_ns, misbehavior, at, Some(from), vec![held, other.bytes.clone()]);
    }

    fn record(
        &mut self,
        now_ns: i64,
        misbehavior: Misbehavior,
        at: EnvelopeId,
        from: Option<OriginatorId>,
        envelopes: Vec<Bytes>,
    ) {
        if self.keeps_evidence {
            self.namings.push((at.originator, Naming::Evidence(misbehavior)));
            let evidence = Evidence { misbehavior, at, from, envelopes };
            self.store.record_evidence(now_ns.unsigned_abs(), &[evidence]).unwrap();
        }
    }
}
