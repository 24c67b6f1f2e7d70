//! The task that follows one strand: checks on all cores, commits in order, and does what its
//! [`Follower`] decides.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{CommitError, ReadError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::counters::StrandCounters;
use super::evidence::TimeWatch;
use super::membership;
use super::peers::{ConnectedPeer, PeerTable};
use super::state::{self, ReplicationState};
use super::stop::StopSignal;
use super::writes::{FailedWrites, Load, WriteQueue, commit};
use crate::misbehavior::{StrandTimes, stated_ns};
use crate::replication::{
    Effect, EnvelopeVerifier, Follower, LinkCommand, PeerViolation, RANGES_MAX, StrandItem,
    StrandWrite, VerifyResult, WantResponse,
};
use crate::runtime::Priority;
use crate::runtime::pauses::RetryPauses;

/// Envelopes that one core checks at a time: 2 to 5 ms of work, so that more urgent work does not wait for
/// long. Signatures that are checked together get hardly cheaper beyond this number (measured,
/// `docs/performance.md`).
const CHUNK_ENVELOPES: usize = 128;
/// Interval at which the clocks of peers are looked at. Guessed: half of the interval at which peers send them.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One followed strand and everything that its task waits for.
pub(super) struct StrandTask {
    state: Arc<ReplicationState>,
    originator: OriginatorId,
    key: PublicKey,
    follower: Follower,
    inbox: mpsc::Receiver<WantResponse<Bytes>>,
    peers: watch::Receiver<PeerTable>,
    /// Held while the backlog is split.
    split_permit: Option<OwnedSemaphorePermit>,
    /// The peers that the follower knows of.
    connected: PeerTable,
    writes: WriteQueue,
    /// Writes that failed, and the time from which they are tried again.
    failed: Option<(Vec<StrandWrite>, Instant)>,
    /// Envelopes that have arrived are being checked.
    is_checking: bool,
    pauses: RetryPauses,
    counters: Arc<StrandCounters>,
    registry: watch::Receiver<Arc<Registry>>,
    /// The absences by which envelopes are judged.
    absences: Absences,
    /// The marks on disk may follow other absences. Nothing is checked until they have been set anew.
    is_outdated: bool,
    /// Times of the strand, for the one commit under way.
    watch: Arc<Mutex<TimeWatch>>,
}

impl StrandTask {
    /// Goes on from what is on disk, and follows the strand until it is stopped. `source` is the peer that this
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
        task.run(stopped).await;
    }

    async fn resume(
        state: Arc<ReplicationState>,
        originator: OriginatorId,
        key: PublicKey,
        source: OriginatorId,
        inbox: mpsc::Receiver<WantResponse<Bytes>>,
    ) -> Self {
        let (missing, times) = read_strand(&state, originator).await;
        let stored = state.heads.get().get(originator);
        let mut registry = state.ports.registry.clone();
        registry.mark_changed();
        let follower = Follower::new(originator, stored, missing, now());
        let follower = follower.with_requests(state.begin_turn());
        let is_own = originator == state.own;
        Self {
            registry,
            absences: Absences::NONE,
            is_outdated: false,
            originator,
            key,
            follower: if is_own {
                follower.with_source(source).reporting_finds()
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
            failed: None,
            is_checking: false,
            pauses: RetryPauses::default(),
            watch: Arc::new(Mutex::new(TimeWatch::new(times))),
            counters: state.strand(originator),
            state,
        }
    }

    #[tracing::instrument(level = "debug", skip_all, fields(originator = %self.originator))]
    async fn run(mut self, mut stopped: StopSignal) {
        // While one batch is on its way to disk, the next one is being checked.
        let (mut verifying, mut committing) = (None, None);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.route_effects();
            if committing.is_none() {
                committing = self.start_commit();
            }
            let is_idle = committing.is_none() && verifying.is_none() && self.failed.is_none();
            if self.is_outdated && is_idle {
                // Everything that was judged before is on disk, and nothing is under way.
                self.is_outdated = false;
                committing = Some(self.start_judging());
            }
            let may_verify = verifying.is_none() && !self.writes.is_full() && !self.is_outdated;
            let retry_at = self.retry_at().filter(|_| committing.is_none());
            tokio::select! {
                biased;
                () = stopped.stopped() => break,
                committed = finished(&mut committing) => match self.take_committed(committed) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::error!(%error, "the log takes no more of this strand");
                        return;
                    }
                },
                verified = finished(&mut verifying) => self.take(verified),
                () = state::changed(&mut self.registry) => self.update_membership(),
                _ = self.peers.changed() => self.update_peers(),
                response = self.inbox.recv(), if may_verify => match response {
                    Some(response) => verifying = self.start_verifying(response),
                    None => break,
                },
                () = sleep_until(self.follower.poll_timeout()) => self.tick(),
                _ = looks.tick() => self.tick(),
                // The next turn begins the commit.
                () = sleep_until(retry_at) => {}
            }
        }
        if let Some(committing) = committing {
            // The result is of no use any more, but the store must not close under the commit.
            let _ = committing.await;
        }
    }

    /// Takes over the result of a commit. Writes that failed by the disk are kept: what stands behind them
    /// waits, and then the peer.
    ///
    /// # Errors
    /// An error that no other try can end.
    fn take_committed(&mut self, committed: CommitResult) -> Result<(), CommitError> {
        let FailedWrites { error, writes } = match committed {
            Ok(through) => {
                self.pauses = RetryPauses::default();
                through.into_iter().for_each(|through| self.follower.handle_durable(through));
                return Ok(());
            }
            Err(failed) => failed,
        };
        if !error.is_of_disk() {
            return Err(error);
        }
        let pause = self.pauses.next();
        tracing::error!(
            code = "strand_commit_failed",
            originator = %self.originator,
            %error,
            retry_s = pause.as_secs(),
            "a followed strand cannot be stored now"
        );
        // Without writes it was the judging that failed.
        self.is_outdated |= writes.is_empty();
        self.failed = Some((writes, now() + pause));
        Ok(())
    }

    fn retry_at(&self) -> Option<Instant> {
        self.failed.as_ref().map(|(_, at)| *at)
    }

    fn take(&mut self, verified: Vec<WantResponse<VerifyResult>>) {
        self.is_checking = false;
        let is_forged = |item: &StrandItem<VerifyResult>| {
            matches!(item, StrandItem::Envelope(Err(PeerViolation::ForgedSignature)))
        };
        if self.originator.is_migrated() && verified.iter().any(|it| it.items.iter().any(is_forged))
        {
            tracing::warn!(
                code = "migrated_strand_refused",
                originator = %self.originator,
                "a strand of the older network is signed by another key than migration-key names"
            );
        }
        self.follower.note_wall(self.state.ports.clock.now_ns());
        for response in verified {
            self.note_times(&response);
            for item in &response.items {
                if let StrandItem::Envelope(result) = item {
                    self.count(result);
                }
            }
            self.follower.handle_response(now(), response);
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
        let is_behind = self.is_checking || self.is_outdated || self.writes.is_full();
        if is_behind || self.failed.is_some() {
            self.follower.handle_backlog(now());
        }
        for (id, peer) in &self.connected {
            self.follower.handle_head(now(), *id, peer.head(self.originator));
        }
        self.follower.handle_timeout(now());
        self.split();
    }

    /// Splits a long backlog among peers while fewer than [`SPLITS_MAX`](super::state::SPLITS_MAX) strands do.
    fn split(&mut self) {
        if self.follower.is_split() {
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
            if peer.is_proven {
                self.follower.handle_proven(now(), *id);
            }
        }
        self.connected = table;
    }

    /// Takes over what the registry says of the strand's node. A node that it no longer names keeps its
    /// absences, and counts as one that has left.
    fn update_membership(&mut self) {
        let registry = self.registry.borrow_and_update().clone();
        let is_own = self.originator == self.state.own;
        let is_member = is_own || registry.member(self.originator).is_some();
        self.follower.handle_membership(now(), is_member);
        if registry.node(self.originator).is_none() {
            return;
        }
        let absences = registry.absences(self.originator);
        let store = &self.state.store;
        let is_outdated = membership::is_outdated(store, self.originator, absences);
        // If that cannot be read, judging anew says why.
        if *absences != self.absences || is_outdated.unwrap_or(true) {
            self.absences = absences.clone();
            self.is_outdated = true;
        }
    }

    /// Judges the strand anew by the present absences.
    fn start_judging(&self) -> JoinHandle<CommitResult> {
        let (store, originator) = (self.state.store.clone(), self.originator);
        let absences = self.absences.clone();
        tokio::task::spawn_blocking(move || {
            let judged = membership::judge(&store, originator, &absences);
            judged.map(|_| None).map_err(|error| FailedWrites { error, writes: Vec::new() })
        })
    }

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
                Effect::Disconnect { peer, violation } => {
                    self.state.liveness.note_sent_away(peer, now());
                    self.command(peer, LinkCommand::Disconnect { violation });
                }
            }
        }
        if self.follower.take_stalled() {
            self.state.liveness.note_stalled(originator, now());
        }
        self.counters.show_source(self.follower.source());
    }

    /// Gives a command to a connection. Returns false if the connection is gone or takes no more.
    fn command(&self, peer: OriginatorId, command: LinkCommand) -> bool {
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
        let work = move || {
            let mut watch = watch.lock();
            commit(&state, &mut watch, writes)
        };
        (!is_empty).then(|| tokio::task::spawn_blocking(work))
    }

    /// Has `first` checked on all cores, together with everything else that has arrived. Leaves out
    /// answers to wants that no longer stand: a check costs two signatures.
    fn start_verifying(
        &mut self,
        first: WantResponse<Bytes>,
    ) -> Option<JoinHandle<Vec<WantResponse<VerifyResult>>>> {
        let (mut responses, mut size) = (Vec::new(), Load::default());
        let mut next = Some(first);
        while let Some(response) = next {
            if self.follower.awaits(response.peer, response.request) {
                size += Load::of(response.items.iter().filter_map(envelope));
                responses.push(response);
            }
            next = if size.is_full() { None } else { self.inbox.try_recv().ok() };
        }
        let verifier = EnvelopeVerifier {
            originator: self.originator,
            key: self.key,
            own: self.state.own,
            absences: self.absences.clone(),
        };
        self.is_checking = size != Load::default();
        (!responses.is_empty())
            .then(|| tokio::spawn(verify_all(self.state.clone(), Arc::new(verifier), responses)))
    }
}

/// Reads the places that are marked missing, and the time at the head. Tries again until they can be read.
pub(super) async fn read_strand(
    state: &Arc<ReplicationState>,
    originator: OriginatorId,
) -> (Vec<(SequenceId, SequenceId)>, StrandTimes) {
    let mut pauses = RetryPauses::default();
    loop {
        let state = state.clone();
        let read = move || -> Result<_, ReadError> {
            let snapshot = state.store.snapshot();
            let head = EnvelopeId::new(originator, snapshot.head(originator)?);
            let last = snapshot.get(head)?.and_then(|bytes| Some((stated_ns(&bytes)?, head)));
            Ok((snapshot.last_missing(originator, RANGES_MAX)?, StrandTimes::after(last)))
        };
        let read = tokio::task::spawn_blocking(read).await;
        match read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(read) => return read,
            Err(error) => {
                tracing::error!(%originator, %error, "a strand cannot be read now");
                tokio::time::sleep(pauses.next()).await;
            }
        }
    }
}

type CommitResult = Result<Option<SequenceId>, FailedWrites>;

fn envelope(item: &StrandItem<Bytes>) -> Option<&Bytes> {
    match item {
        StrandItem::Envelope(bytes) => Some(bytes),
        StrandItem::Gap { .. } | StrandItem::End | StrandItem::Closed => None,
    }
}

/// Checks responses on all cores; their order and that of their items is kept.
async fn verify_all(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    responses: Vec<WantResponse<Bytes>>,
) -> Vec<WantResponse<VerifyResult>> {
    let envelopes: Vec<Bytes> =
        responses.iter().flat_map(|it| it.items.iter().filter_map(envelope)).cloned().collect();
    let mut chunks = Vec::new();
    for chunk in envelopes.chunks(CHUNK_ENVELOPES) {
        let (verifier, chunk, (done, verified)) =
            (verifier.clone(), chunk.to_vec(), oneshot::channel());
        state.workers.spawn(Priority::Normal, move || {
            // After a stop, no task receives the results.
            let _ = done.send(verifier.check(chunk));
        });
        chunks.push(verified);
    }
    let mut results = Vec::with_capacity(envelopes.len());
    for chunk in chunks {
        results.extend(chunk.await.expect("a worker that panics ends the process"));
    }
    let mut results = results.into_iter();
    let mut next = || results.next().expect("one result for each envelope");
    let verified = |response: WantResponse<Bytes>| WantResponse {
        peer: response.peer,
        request: response.request,
        items: response.items.into_iter().map(|item| item.map(|_| next())).collect(),
    };
    responses.into_iter().map(verified).collect()
}

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

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
