//! One simulated node: its log, and its followers while it runs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use hawser_engine::facts;
use hawser_engine::liveness::LivenessWatch;
use hawser_engine::misbehavior::{
    Evidence, FeeVerdict, Misbehavior, StrandTimes, TimeFault, difference, judge_fees,
};
use hawser_engine::overcharge::overcharge;
use hawser_engine::replication::{
    CheckpointWatch, Follower, PeerClock, ShownLimits, ShownStage, ShownStrand, SplitLimits,
    StrandWrite, WantResponse,
};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absences, RateTable};
use hawser_storage::{Change, CommitError, LogEntry, LogItem, SkipReason, Validity};

use super::checkpoints::Checkpoints;
use super::node_store::NodeStore;
use super::scripted::Naming;
use super::strands::public_key;

/// Places that readers are shown before they are verified, but for one run: few enough that simulated strands reach
/// them.
pub(super) const AHEAD_MAX: u64 = 8;
/// Places that peers have to bring again for one with a bad outer layer: fewer than are shown.
const AGAIN_PLACES: u64 = 2;
/// Bounds at which the short backlogs of a run are split.
pub(super) const SPLIT_LIMITS: SplitLimits =
    SplitLimits { backlog_min: 4, first_part_places: 1, part_places_max: 3, held_bytes_max: 8192 };

/// One followed strand of a running node.
pub(super) struct Following {
    pub(super) follower: Follower,
    /// Decides when readers are shown parts of it that are not verified yet.
    pub(super) ahead: ShownStrand,
    /// Responses that have arrived and were not taken yet.
    pub(super) inbox: VecDeque<WantResponse<Bytes>>,
    /// True while a part of the shown envelopes is being verified.
    pub(super) is_verifying: bool,
    /// The followers that came before this one.
    pub(super) turns: u32,
    /// Times of the written envelopes.
    pub(super) times: StrandTimes,
    /// Accepted writes that have not begun.
    pub(super) waiting: Vec<StrandWrite>,
    /// The running write: a crash keeps it or loses it.
    pub(super) writing: Option<Vec<StrandWrite>>,
    /// The earliest timer that is planned.
    pub(super) armed: Option<Instant>,
}

impl Following {
    fn new(follower: Follower, ahead: ShownStrand) -> Self {
        Self {
            follower,
            ahead,
            inbox: VecDeque::new(),
            is_verifying: false,
            turns: 0,
            times: StrandTimes::default(),
            waiting: Vec::new(),
            writing: None,
            armed: None,
        }
    }

    /// Returns true if no received item is waiting for the log.
    pub(super) fn is_idle(&self) -> bool {
        self.writing.is_none() && (self.waiting.is_empty() || self.ahead.asks_later())
    }
}

pub(super) struct Node {
    pub(super) id: OriginatorId,
    pub(super) store: NodeStore,
    /// The node that the strands of the older network are taken from, if there is one.
    pub(super) older_source: Option<OriginatorId>,
    pub(super) incarnation: u64,
    pub(super) is_running: bool,
    /// Readers are shown what strands' nodes have signed as a whole, before it is verified.
    pub(super) shows_first: bool,
    /// Envelopes that readers were shown first, and of these the ones that they get no more.
    pub(super) shown: u64,
    pub(super) withdrawn: u64,
    /// By originator; empty while the node is down.
    pub(super) following: BTreeMap<OriginatorId, Following>,
    /// Claims of each peer; empty while the node is down.
    pub(super) clocks: BTreeMap<OriginatorId, PeerClock>,
    /// The absences of the node that leaves, as far as this node knows; empty before.
    pub(super) absences: Absences,
    /// True while writes may be running that were judged without these absences.
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
    /// The nodes that this one has accused since they were last taken, each with the reason.
    pub(super) namings: Vec<(OriginatorId, Naming)>,
}

impl Node {
    pub(super) fn new(id: OriginatorId) -> Self {
        Self {
            id,
            store: NodeStore::new(id),
            older_source: None,
            incarnation: 0,
            is_running: false,
            shows_first: false,
            shown: 0,
            withdrawn: 0,
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

    /// The last verified place of a strand. Other nodes are sent the strand up to it.
    pub(super) fn verified_head(&self, originator: OriginatorId) -> SequenceId {
        self.store.snapshot().verified_head(originator).unwrap()
    }

    /// A whole strand, as the log has it.
    pub(super) fn log(&self, originator: OriginatorId, after: SequenceId) -> Vec<LogItem> {
        self.log_items(originator, after, usize::MAX)
    }

    /// The next items of a strand, as the log has them.
    pub(super) fn log_items(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        items_max: usize,
    ) -> Vec<LogItem> {
        let snapshot = self.store.snapshot();
        let head = snapshot.head(originator).unwrap();
        let scan = snapshot.log(EnvelopeId::new(originator, after), head);
        scan.take(items_max).map(Result::unwrap).collect()
    }

    /// Begins to follow `others` from the state on disk.
    pub(super) fn start(&mut self, others: &[OriginatorId], now: Instant) {
        self.is_running = true;
        self.incarnation += 1;
        for &originator in others.iter().filter(|id| **id != self.id) {
            let missing = self.store.snapshot().missing(originator).unwrap();
            let mut follower = Follower::new(originator, self.head(originator), missing, now)
                .with_split_limits(SPLIT_LIMITS);
            follower.handle_membership(now, !self.knows_departure_of(originator));
            let ahead = self.ahead(self.shows_first, originator);
            self.following.insert(originator, Following::new(follower, ahead));
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
            let ahead = self.ahead(false, originator);
            self.following.insert(originator, Following::new(follower, ahead));
        }
    }

    fn ahead(&self, is_on: bool, originator: OriginatorId) -> ShownStrand {
        let (verified, stored) = (self.verified_head(originator), self.head(originator));
        let ahead = ShownStrand::new(originator, public_key(originator), verified, stored);
        let ahead = if is_on { ahead.with_runs_shown_first() } else { ahead };
        let (ahead_max, again_places) = (AHEAD_MAX, AGAIN_PLACES);
        let limits = ShownLimits { ahead_max, again_places, ..ShownLimits::default() };
        let mut ahead = ahead.with_limits(limits);
        ahead.note_absences_known();
        ahead
    }

    /// Loses all state that is not on disk.
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

    /// Does the writes to one strand at `true_ns` as its stage says, and returns the place up to which it grew.
    ///
    /// # Errors
    /// Peers have sent something else than what is shown, or nothing.
    pub(super) fn write(
        &mut self,
        true_ns: i64,
        stage: ShownStage,
        writes: &[StrandWrite],
    ) -> Result<Option<SequenceId>, CommitError> {
        let now_ns = true_ns + self.clock_offset_ns;
        let mut durable = None;
        for write in writes {
            match write {
                StrandWrite::Append { changes, through } => {
                    self.append(now_ns, stage, changes)?;
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
        Ok(durable)
    }

    fn append(
        &mut self,
        now_ns: i64,
        stage: ShownStage,
        changes: &[Change],
    ) -> Result<(), CommitError> {
        let changes = match stage {
            ShownStage::Verified => changes,
            ShownStage::Shown { .. } => {
                self.store.commit_shown(changes).unwrap();
                self.shown += changes.len() as u64;
                return Ok(());
            }
            ShownStage::AskedAgain { head } => {
                let shown = changes.partition_point(|change| change.start().sequence <= head);
                self.judge_shown(now_ns, &changes[..shown])?;
                if let Some(Change::Skip { originator, through, reason, .. }) =
                    changes[..shown].last()
                    && *through > head
                {
                    let (originator, through, reason) = (*originator, *through, *reason);
                    let beyond = Change::Skip { originator, from: head.next(), through, reason };
                    self.store.commit(&[beyond]).unwrap();
                }
                &changes[shown..]
            }
        };
        self.store.commit(changes).unwrap();
        self.judge_times(now_ns, changes);
        self.judge_rest(now_ns, changes);
        Ok(())
    }

    /// Takes over what peers have sent for places that readers are shown.
    fn judge_shown(&mut self, now_ns: i64, changes: &[Change]) -> Result<(), CommitError> {
        let mut entries = Vec::new();
        for change in changes {
            let got = change.start();
            match change {
                Change::Append(entry) => entries.push(entry.clone()),
                Change::Skip { through, reason: SkipReason::Expired, .. } => {
                    self.commit_verified(now_ns, std::mem::take(&mut entries))?;
                    let own = self.id;
                    let derive =
                        |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
                    let now_unix_s = u64::try_from(now_ns / 1_000_000_000).unwrap_or(0);
                    let of = got.originator;
                    let gone = self.store.prune_shown(of, *through, now_unix_s, &derive)?;
                    if gone < self.head(of).min(*through) {
                        let got = EnvelopeId::new(of, gone.next());
                        return Err(CommitError::Gap { after: gone, got });
                    }
                }
                Change::Skip { .. } => {
                    self.commit_verified(now_ns, entries)?;
                    return Err(CommitError::Gap { after: got.sequence.previous(), got });
                }
            }
        }
        self.commit_verified(now_ns, entries)
    }

    /// Takes over verdicts on the next places that readers are shown.
    pub(super) fn commit_verified(
        &mut self,
        now_ns: i64,
        entries: Vec<LogEntry>,
    ) -> Result<(), CommitError> {
        let Some(originator) = entries.first().map(|entry| entry.id.originator) else {
            return Ok(());
        };
        let own = self.id;
        let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
        let done = self.store.commit_verified(originator, &entries, &derive)?;
        self.withdrawn += done.withdrawn;
        let changes: Vec<Change> = entries.into_iter().map(Change::Append).collect();
        self.judge_times(now_ns, &changes);
        self.judge_rest(now_ns, &changes);
        Ok(())
    }

    fn judge_times(&mut self, now_ns: i64, changes: &[Change]) {
        for change in changes {
            let Change::Append(entry) = change else { continue };
            let Some(following) = self.following.get_mut(&entry.id.originator) else { continue };
            let ns = OriginatorEnvelope::stated_ns(&entry.bytes).unwrap();
            for fault in following.times.next(entry.id, ns, now_ns) {
                let (misbehavior, before) = match fault {
                    TimeFault::Back { earlier } => (Misbehavior::TimeBack, Some(earlier)),
                    TimeFault::Ahead => (Misbehavior::TimeAhead, None),
                };
                let before = before.map(|earlier| self.store.snapshot().get(earlier).unwrap());
                let mut envelopes: Vec<Bytes> = before.flatten().into_iter().collect();
                envelopes.push(entry.bytes.clone());
                self.record(now_ns, misbehavior, entry.id, None, envelopes);
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
                continue;
            }
            if judge_fees(bytes, &rates) == FeeVerdict::Wrong {
                self.record(now_ns, Misbehavior::Fee, *id, None, vec![bytes.clone()]);
                continue;
            }
            let found = {
                let snapshot = self.store.snapshot();
                overcharge(|earlier| snapshot.get(earlier), *id, bytes, None, &rates)
            };
            if let Some(Evidence { misbehavior, envelopes, .. }) = found.unwrap() {
                self.record(now_ns, misbehavior, *id, None, envelopes);
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
