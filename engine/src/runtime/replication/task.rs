//! The task that follows one strand: checks on all cores, commits in order, and does what its
//! [`Follower`] decides.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::{Bytes, OriginatorId, PublicKey, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{CommitError, HashedEnvelope};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::behind::{BehindStep, CheckedBehind};
use super::catch_up::CatchUp;
use super::checking::{Checked, check_all, envelope};
use super::counters::StrandCounters;
use super::evidence::StrandWatch;
use super::membership;
use super::peers::{ConnectedPeer, PeerTable};
use super::refused::name_refused;
use super::state::{self, ReplicationState, now};
use super::strand_read::{MissingRead, StrandRange, read_strand};
use super::writes::{FailedWritesError, Load, StageOfWrites, WriteQueue, commit};
use crate::pauses::RetryPauses;
use crate::replication::{
    Effect, EnvelopeVerifier, Follower, LinkCommand, ShownStage, ShownStrand, StrandItem,
    StrandWrite, VerifyResult, WantResponse,
};
use crate::runtime::stop::StopSignal;

/// Interval at which the clocks of peers are looked at. Guessed: half of the interval at which peers send them.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Time after which a strand is judged again that could not be read as a whole. A guess: as long as to the next scrub
/// after damage, which may repair it.
const JUDGE_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Attempts to judge a strand that fail because the disk cannot read something, until the strand goes on without. A
/// guess: seven seconds with the pauses between them.
const JUDGINGS_MAX: u32 = 4;

/// A followed strand with all pending work of its task.
pub(super) struct StrandTask {
    pub(super) state: Arc<ReplicationState>,
    pub(super) originator: OriginatorId,
    pub(super) key: PublicKey,
    pub(super) follower: Follower,
    inbox: mpsc::Receiver<WantResponse<Bytes>>,
    pub(super) peers: watch::Receiver<PeerTable>,
    /// Held while the backlog is split.
    split_permit: Option<OwnedSemaphorePermit>,
    /// The peers that the follower knows of.
    pub(super) connected: PeerTable,
    pub(super) writes: WriteQueue,
    /// Envelopes of the writes that were hashed before, in the order of the writes. No more than these have.
    pub(super) hashed: VecDeque<HashedEnvelope>,
    /// Writes that failed, and the time from which they are tried again.
    failed: Option<(Vec<StrandWrite>, Instant)>,
    /// Envelopes that have arrived are being checked.
    pub(super) is_checking: bool,
    pauses: RetryPauses,
    pub(super) counters: Arc<StrandCounters>,
    /// The searches of the follower that are counted.
    pub(super) counted_searches: u64,
    pub(super) registry: watch::Receiver<Arc<Registry>>,
    /// The absences by which envelopes are judged.
    absences: Absences,
    /// The marks on disk may follow other absences or rules. No envelope is checked until the strand is judged again.
    is_outdated: bool,
    /// Attempts in a row to judge the strand again that have failed.
    failed_judgings: u32,
    /// The time from which the strand is judged again, because a part of it could not be read.
    judge_at: Option<Instant>,
    /// Times of the strand, for the one commit under way.
    pub(super) watch: Arc<Mutex<StrandWatch>>,
    /// The state of what readers are shown before it is verified.
    pub(super) ahead: ShownStrand,
    /// Verdicts on shown envelopes, which were made while those before them were written.
    pub(super) checked_behind: Option<CheckedBehind>,
    /// The running read of further ranges that are marked missing.
    reading_missing: Option<JoinHandle<MissingRead>>,
    /// Missing places that the strand's own node states to have expired.
    pub(super) expired: Vec<StrandRange>,
    /// The running marking of such places.
    pub(super) expiring: Option<JoinHandle<Vec<StrandRange>>>,
}

/// The work of one strand that is under way, one of each kind.
#[derive(Default)]
pub(super) struct Jobs {
    /// The running check of envelopes that have arrived.
    checking: Option<JoinHandle<Checked>>,
    /// The running write of accepted envelopes.
    committing: Option<JoinHandle<CommitResult>>,
    /// The running verification of envelopes that readers were shown.
    behind: Option<JoinHandle<BehindStep>>,
}

impl StrandTask {
    /// Continues from the state on disk, and follows the strand until it is stopped. `source` is the peer that this
    /// node's own strand and those of the older network are taken from; other strands choose theirs.
    pub(super) async fn follow(
        state: Arc<ReplicationState>,
        originator: OriginatorId,
        key: PublicKey,
        source: OriginatorId,
        inbox: mpsc::Receiver<WantResponse<Bytes>>,
        mut stopped: StopSignal,
    ) {
        let task = tokio::select! {
            () = stopped.stopped() => return,
            task = Self::resume(state, originator, key, source, inbox) => task,
        };
        if originator == task.state.own {
            task.state.own_strand.note_asking();
        }
        task.run(stopped).await;
    }

    async fn resume(
        state: Arc<ReplicationState>,
        originator: OriginatorId,
        key: PublicKey,
        source: OriginatorId,
        inbox: mpsc::Receiver<WantResponse<Bytes>>,
    ) -> Self {
        let read = read_strand(&state, originator).await;
        let stored = state.heads.get().get(originator);
        let mut registry = state.ports.registry.clone();
        registry.mark_changed();
        let follower = Follower::new(originator, stored, read.missing, now())
            .with_requests(state.begin_turn())
            .behind_time(read.latest_ns)
            .stepped_back(read.stepped_back_ns);
        let is_own = originator == state.own;
        let can_be_ahead = !is_own && originator.is_node();
        let ahead = ShownStrand::new(originator, key, read.verified, stored)
            .shown_by(read.shown_by)
            .with_limits(state.shown_limits);
        let ahead = match can_be_ahead && state.catch_up == CatchUp::Checkpoints {
            true => ahead.with_runs_shown_first(),
            false => ahead,
        };
        Self {
            ahead,
            checked_behind: None,
            registry,
            absences: Absences::NONE,
            is_outdated: false,
            failed_judgings: 0,
            judge_at: None,
            originator,
            key,
            follower: if is_own {
                follower.with_source(source).reporting_finds(state.others())
            } else if originator.is_migrated() {
                follower.with_source(source).of_older_network()
            } else {
                follower
            },
            inbox,
            peers: state.peers.subscribe(),
            split_permit: None,
            connected: BTreeMap::new(),
            writes: WriteQueue::default(),
            hashed: VecDeque::new(),
            failed: None,
            is_checking: false,
            pauses: RetryPauses::default(),
            watch: Arc::new(Mutex::new(StrandWatch::new(read.times, read.load, read.gap))),
            counters: state.strand(originator),
            counted_searches: 0,
            reading_missing: None,
            expired: Vec::new(),
            expiring: None,
            state,
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(originator = %self.originator))]
    async fn run(mut self, mut stopped: StopSignal) {
        // While a batch is on its way to disk, the next batch is being checked.
        let mut jobs = Jobs::default();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.hand_over();
        let error = loop {
            self.begin(&mut jobs).await;
            let may_check = jobs.checking.is_none()
                && !self.writes.is_full()
                && !self.is_outdated
                && !self.ahead.is_waiting(&self.follower);
            let retry_at = self.retry_at().filter(|_| jobs.committing.is_none());
            tokio::select! {
                biased;
                () = stopped.stopped() => break None,
                committed = finished(&mut jobs.committing) => match self.take_committed(committed) {
                    Ok(()) => {}
                    Err(error) => break Some(error),
                },
                checked = finished(&mut jobs.checking) => self.take_checked(checked),
                verified = finished(&mut jobs.behind) => match self.take_verified(verified) {
                    Ok(()) => {}
                    Err(error) => break Some(error),
                },
                read = finished(&mut self.reading_missing) => self.take_missing(read),
                marked = finished(&mut self.expiring) => self.take_expired(marked),
                () = state::changed(&mut self.registry) => self.update_membership(),
                _ = self.peers.changed() => self.update_peers(),
                response = self.inbox.recv(), if may_check => match response {
                    Some(response) => {
                        let is_idle = self.is_idle(&jobs);
                        jobs.checking = self.start_checking(response, is_idle);
                    }
                    None => break None,
                },
                () = sleep_until(self.follower.poll_timeout()) => self.tick(),
                _ = looks.tick() => self.tick(),
                // The next turn begins the commit.
                () = sleep_until(retry_at) => {}
            }
        };
        if let Some(error) = error {
            tracing::error!(code = "strand_not_followed", originator_id = %self.originator, %error,
                "the log accepts no more envelopes of this strand");
        }
        // The results are no longer needed, but the store must not close during a commit.
        if let Some(committing) = jobs.committing {
            let _ = committing.await;
        }
        if let Some(behind) = jobs.behind {
            let _ = behind.await;
        }
        if let Some(expiring) = self.expiring {
            let _ = expiring.await;
        }
    }

    /// Begins the work that is due.
    async fn begin(&mut self, jobs: &mut Jobs) {
        self.route_effects();
        self.start_expiring();
        if jobs.committing.is_none() && !self.ahead.asks_later() {
            let verified = self.verified_through();
            self.writes.release(verified);
            jobs.committing = self.start_commit();
        }
        if self.is_idle(jobs) {
            if jobs.behind.is_none() {
                self.settle().await;
            }
            // Everything that was judged before is on disk, and nothing is under way. Judging ends at the last
            // place that is verified. Places that are shown beyond it are judged when their signatures are
            // verified. Envelopes that are requested again arrive only after this, because the inbox is closed
            // until then.
            if self.is_outdated && !matches!(self.ahead.stage(), ShownStage::Shown { .. }) {
                (self.is_outdated, self.judge_at) = (false, None);
                jobs.committing = Some(self.start_judging());
            } else {
                jobs.checking = self.start_parked();
            }
        }
        // A core that verifies is taken from the page that readers wait for.
        if jobs.behind.is_none() {
            let is_idle = self.is_idle(jobs);
            jobs.behind = self.start_behind(is_idle).or_else(|| self.start_withdrawing());
        }
    }

    /// True if nothing that has come is on its way to the log.
    fn is_idle(&self, jobs: &Jobs) -> bool {
        jobs.committing.is_none() && jobs.checking.is_none() && self.failed.is_none()
    }

    /// Takes over the result of a commit. Writes that failed by the disk are kept: later writes wait for
    /// them, and then the peer does.
    ///
    /// # Errors
    /// An error that no other try can end.
    fn take_committed(&mut self, committed: CommitResult) -> Result<(), CommitError> {
        let FailedWritesError { error, mut writes } = match committed {
            Ok(through) => {
                (self.pauses, self.failed_judgings) = (RetryPauses::default(), 0);
                through.into_iter().for_each(|through| self.follower.handle_durable(through));
                return Ok(());
            }
            Err(failed) => failed,
        };
        if self.ask_later(&error, &mut writes) {
            return Ok(());
        }
        if !error.is_of_disk() {
            return Err(error);
        }
        // Without writes it was the judging that failed.
        if writes.is_empty() && self.judges_later(&error) {
            return Ok(());
        }
        let pause = self.pauses.next();
        tracing::error!(
            code = "strand_commit_failed",
            originator_id = %self.originator,
            %error,
            retry_s = pause.as_secs(),
            "a followed strand cannot be stored now"
        );
        self.is_outdated |= writes.is_empty();
        self.failed = Some((writes, now() + pause));
        Ok(())
    }

    /// Lets the strand go on if it cannot be judged anew, because the disk has damaged a part of it, or has failed to
    /// read it several times. New envelopes are judged by the present absences and rules when they come; the others
    /// when the whole strand can be read. Returns false for other errors.
    fn judges_later(&mut self, error: &CommitError) -> bool {
        let CommitError::Read(unread) = error else { return false };
        self.failed_judgings += 1;
        if !unread.is_damage() && self.failed_judgings < JUDGINGS_MAX {
            return false;
        }
        tracing::error!(
            code = "absences_unjudged",
            originator_id = %self.originator,
            %error,
            retry_s = JUDGE_AGAIN_AFTER.as_secs(),
            "a part of a strand cannot be read: not all of its marks follow the registry and the rules of now"
        );
        self.judge_at = Some(now() + JUDGE_AGAIN_AFTER);
        true
    }

    fn retry_at(&self) -> Option<Instant> {
        self.failed.as_ref().map(|(_, at)| *at)
    }

    fn take_checked(&mut self, checked: Checked) {
        self.is_checking = false;
        match checked {
            Checked::Verified(verified) => self.take(verified),
            Checked::Run(response, run) => self.take_run(response, run),
        }
    }

    fn take(&mut self, verified: Vec<WantResponse<VerifyResult>>) {
        name_refused(&self.state, self.originator, &self.connected, &verified);
        self.follower.note_wall(self.state.ports.clock.now_ns());
        for response in WantResponse::joined(verified) {
            self.note_times(&response);
            let mut is_refused = false;
            for item in &response.items {
                if let StrandItem::Envelope(result) = item {
                    self.count(result);
                    is_refused |=
                        result.as_ref().is_err_and(|violation| violation.is_originator_fault());
                }
            }
            let peer = response.peer;
            self.follower.handle_response(now(), response);
            if is_refused {
                self.counters.note_refused(self.follower.accepted(), peer);
            }
        }
    }

    /// Reports the times of envelopes that come from their originator itself: they show its clock.
    fn note_times(&self, response: &WantResponse<VerifyResult>) {
        if response.peer != self.originator {
            return;
        }
        let time = |item: &StrandItem<VerifyResult>| match item {
            StrandItem::Envelope(Ok(entry)) => {
                Some((entry.id.sequence, entry.facts.as_ref()?.originator_ns))
            }
            _ => None,
        };
        let times = response.items.iter().filter_map(time);
        self.state.publisher.own_clock().note_envelopes(response.peer, times);
    }

    fn count(&self, result: &VerifyResult) {
        self.counters.received.inc();
        let counters = &self.state.counters;
        match result {
            Ok(_) => counters.verified.inc(),
            Err(_) => counters.forged.inc(),
        };
    }

    fn tick(&mut self) {
        self.is_outdated |= self.judge_at.take_if(|at| *at <= now()).is_some();
        let is_behind = self.is_checking
            || self.is_outdated
            || self.writes.is_full()
            || self.ahead.is_waiting(&self.follower);
        if is_behind || self.failed.is_some() {
            self.follower.handle_backlog(now());
        }
        for (id, peer) in &self.connected {
            self.follower.handle_head(now(), *id, peer.head(self.originator));
        }
        for (holder, tree) in self.state.disputed.take(self.originator) {
            self.follower.handle_disputed(now(), holder, tree.agreed, tree.disputed);
        }
        self.follower.handle_timeout(now());
        self.split();
        // It finds no room while others have shown too much.
        self.hand_over();
    }

    /// Splits a long backlog among peers while fewer than [`SPLITS_MAX`](super::state::SPLITS_MAX) strands do.
    fn split(&mut self) {
        // Only envelopes that arrive in order can be shown before they are verified. The sources of a replica are nodes
        // over gRPC, from which one stream may bring more than parts.
        let is_replica = self.state.own == OriginatorId::REPLICA;
        if self.follower.is_split() || self.ahead.is_on() || is_replica {
            return;
        }
        self.split_permit = None;
        if self.follower.can_split() {
            self.split_permit = self.state.splits.clone().try_acquire_owned().ok();
        }
        if self.split_permit.is_some() {
            self.follower.start_split(now());
        }
    }

    fn update_peers(&mut self) {
        let table = self.peers.borrow_and_update().clone();
        let holds = |table: &PeerTable, id: &OriginatorId, peer: &ConnectedPeer| {
            table.get(id).is_some_and(|other| other.generation == peer.generation)
        };
        for (id, _) in self.connected.iter().filter(|(id, peer)| !holds(&table, id, peer)) {
            self.follower.handle_peer_down(now(), *id);
        }
        for (id, peer) in table.iter().filter(|(id, peer)| !holds(&self.connected, id, peer)) {
            self.follower.handle_peer_up(now(), *id, peer.head(self.originator));
            if peer.kind.is_proven {
                self.follower.handle_proven(*id);
            }
            self.follower.handle_gap_wants(*id, peer.kind.gap_wants);
        }
        self.connected = table;
    }

    /// Applies the registry's present record of the strand's node. A node that the registry no longer names keeps its
    /// absences, and counts as a node that has left. A strand of the older network has no node, and no absences.
    fn update_membership(&mut self) {
        let registry = self.registry.borrow_and_update().clone();
        self.ahead.note_absences_known();
        let is_own = self.originator == self.state.own;
        let is_member = is_own || registry.member(self.originator).is_some();
        self.follower.handle_membership(now(), is_member);
        if registry.node(self.originator).is_none() && !self.originator.is_migrated() {
            return;
        }
        let absences = registry.absences(self.originator);
        let store = &self.state.store;
        let is_outdated = membership::is_outdated(store, self.originator, absences);
        // If this cannot be read, the strand is judged again, which reports the error.
        if *absences != self.absences || is_outdated.unwrap_or(true) {
            self.absences = absences.clone();
            self.is_outdated = true;
        }
    }

    /// Judges the strand again by the present absences and rules.
    fn start_judging(&self) -> JoinHandle<CommitResult> {
        let (store, originator, key) = (self.state.store.clone(), self.originator, self.key);
        let absences = self.absences.clone();
        tokio::task::spawn_blocking(move || {
            let judged = membership::judge(&store, originator, key, &absences);
            judged.map(|()| None).map_err(|error| FailedWritesError { error, writes: Vec::new() })
        })
    }

    /// Carries out the follower's decisions in their order: queues writes, sends commands to connections, and passes on
    /// the facts that peers have shown about this node and about themselves.
    fn route_effects(&mut self) {
        let originator = self.originator;
        while let Some(effect) = self.follower.poll_effect() {
            match effect {
                Effect::Write(write) => self.writes.push(write),
                Effect::Want { peer, request, want } => {
                    if !self.command(peer, LinkCommand::Want { request, want }) {
                        // As if the peer had not answered: it is asked again later.
                        let items = vec![StrandItem::Closed];
                        self.follower.handle_response(now(), WantResponse { peer, request, items });
                    }
                }
                Effect::Stop { peer } => {
                    self.command(peer, LinkCommand::Stop { originator });
                }
                // Of this node's own strand: this node, or another process with its key, has signed more
                // than the folder holds.
                Effect::Found { peer, sequence, originator_ns } => {
                    self.state.own_strand.note_shown(peer, sequence, originator_ns);
                }
                Effect::Arriving { peer } => self.state.own_strand.note_arriving(peer),
                Effect::ReadMissing { below } => {
                    self.reading_missing = Some(self.read_missing(below));
                }
                Effect::Expired { from, through } => self.note_expired(from, through),
                Effect::Disconnect { peer, violation } => {
                    self.command(peer, LinkCommand::Disconnect { violation });
                }
            }
        }
        if self.follower.take_stalled() {
            self.state.liveness.note_stalled(originator, now());
        }
        self.counters.show_source(self.follower.source());
        self.counters.show_search(self.follower.searched_through());
        let searches = self.follower.searches();
        self.counters.searches.inc_by(searches - self.counted_searches);
        self.counted_searches = searches;
    }

    /// Sends a command to a connection. Returns false if the connection has ended or its queue is full.
    pub(super) fn command(&self, peer: OriginatorId, command: LinkCommand) -> bool {
        self.connected.get(&peer).is_some_and(|peer| peer.commands.try_send(command).is_ok())
    }

    fn start_commit(&mut self) -> Option<JoinHandle<CommitResult>> {
        let writes = match self.failed.take() {
            Some((writes, at)) if at <= now() && !writes.is_empty() => writes,
            Some((_, at)) if at <= now() => self.writes.take(),
            Some(later) => {
                self.failed = Some(later);
                return None;
            }
            None => self.writes.take(),
        };
        let is_empty = writes.is_empty();
        let (state, watch) = (self.state.clone(), self.watch.clone());
        let hashed = self.take_hashed(&writes);
        let shown = StageOfWrites { stage: self.ahead.stage(), by: self.ahead.trusted(), hashed };
        let work = move || {
            let mut watch = watch.lock();
            commit(&state, &mut watch, shown, writes)
        };
        (!is_empty).then(|| tokio::task::spawn_blocking(work))
    }

    /// Starts the check of `first`, with everything else that has arrived, on all cores. Leaves out answers to wants
    /// that are no longer open: a check costs two signatures.
    pub(super) fn start_verifying(
        &mut self,
        first: WantResponse<Bytes>,
    ) -> Option<JoinHandle<Checked>> {
        let (mut responses, mut size) = (Vec::new(), Load::default());
        let mut next = Some(first);
        while let Some(response) = next {
            if self.follower.awaits(response.peer, response.request) {
                size += Load::of(response.items.iter().filter_map(envelope));
                responses.push(response);
            }
            next = if size.is_full() { None } else { self.inbox.try_recv().ok() };
            next = next.and_then(|it| self.ahead.park_run(it));
        }
        self.is_checking = size != Load::default();
        (!responses.is_empty())
            .then(|| tokio::spawn(check_all(self.state.clone(), self.verifier(), responses)))
    }

    /// Returns the verifier of the strand with the present registry, rates and heads.
    pub(super) fn verifier(&self) -> Arc<EnvelopeVerifier> {
        Arc::new(EnvelopeVerifier {
            originator: self.originator,
            key: self.key,
            own: self.state.own,
            absences: self.absences.clone(),
        })
    }
}

type CommitResult = Result<Option<SequenceId>, FailedWritesError>;

/// Returns the result of a task and removes it; waits for ever if there is none. Cancel safe.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> T {
    let Some(handle) = task else { return pending().await };
    let result = handle.await;
    *task = None;
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
