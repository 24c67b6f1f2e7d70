//! Guards this node's own strand: asks peers for its end, takes over what they show, and puts the
//! decisions of [`OwnStrandGuard`] into effect.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::SequenceId;
use hawser_proto::void::{SignedVoid, VoidStatement};
use hawser_storage::{Change, FolderStanding, SkipReason, UnknownFolder};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::state::ReplicationState;
use super::{mend, voids};
use crate::own_strand::{
    OwnStrandGuard, OwnStrandStatus, Release, StrandObservation, gap_of_start,
};
use crate::runtime::LastFailure;
use crate::runtime::own_strand::{OwnStrandError, Shown};
use crate::runtime::stop::{self, StopSender, StopSignal};
use crate::runtime::stoppable::blocking;

/// Pause between two looks at the clocks of peers while nothing else happens. Guessed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a write that failed. Guessed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The guard as it runs.
pub(super) struct GuardTask {
    state: Arc<ReplicationState>,
    guard: OwnStrandGuard,
    shown_status: OwnStrandStatus,
    fetching: Option<Fetching>,
    /// True while no publish is under way: every assigned id is on disk.
    is_idle: bool,
    /// True if no place of the strand was missing at the last look.
    is_whole: bool,
    /// The highest place and the latest time of this node's envelopes, checkpoints and statements that were shown.
    shown: Shown,
    /// Statements of this node that peers have shown, and that are not recorded yet. They count already.
    unrecorded: Vec<SignedVoid>,
    /// The reason, not yet written to the host marker, for which the next start must not sign.
    unknown_reason: Option<UnknownFolder>,
    /// The failure to write it.
    mark_failure: LastFailure,
}

/// A task that takes places of the own strand from peers.
struct Fetching {
    /// The peer that the strand is taken from; `None` if only missing places are looked for.
    source: Option<hawser_proto::OriginatorId>,
    /// True since a look that came after the follower had read the strand: from then on it asks peers.
    is_asking: bool,
    stop: StopSender,
    task: JoinHandle<()>,
}

/// The pause before the next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// No pause: another action is due at once.
    None,
    /// Until something happens, or a look is due.
    Event,
    /// [`RETRY_AFTER`], whatever happens meanwhile: a write has failed.
    Retry,
}

impl GuardTask {
    /// Closes the gate, unless there is no peer to ask.
    pub(super) fn new(state: Arc<ReplicationState>) -> Self {
        let now_ns = state.ports.clock.now_ns();
        let (standing, host_head) = (state.store.standing(), state.store.host_head());
        let gap = gap_of_start(&state.store.incarnation(), now_ns);
        let guard = OwnStrandGuard::new(standing, host_head, Instant::now().into_std(), now_ns);
        let mut guard = guard.with_gap(gap);
        // A peer has shown it in an earlier run: the places behind it may be signed.
        guard.note_declared(state.voids.through(state.own), i64::MIN);
        let mut task = Self {
            shown_status: state.own_strand.status(),
            state,
            guard,
            fetching: None,
            is_idle: false,
            is_whole: false,
            shown: Shown::default(),
            unrecorded: Vec::new(),
            unknown_reason: None,
            mark_failure: LastFailure::default(),
        };
        task.look();
        let is_alone = task.guard.release(Instant::now().into_std()).is_some();
        if is_alone && task.state.store.standing() == FolderStanding::Newest {
            task.guard.note_released();
        }
        task.shown_status = task.guard.status();
        task.state.own_strand.set(task.shown_status);
        task
    }

    /// Waits until it is known how the folder relates to what this host wrote last. Without that, nothing
    /// that peers say lets this node sign.
    async fn judged(self) -> Self {
        if self.state.store.standing() != FolderStanding::Unjudged {
            return self;
        }
        while self.state.store.is_poisoned() {
            sleep(LOOK_EVERY).await;
        }
        Self::new(self.state)
    }

    /// Runs until it is stopped.
    pub(super) async fn run(self, mut stopped: StopSignal) {
        let mut task = tokio::select! {
            () = stopped.stopped() => return,
            task = self.judged() => task,
        };
        task.guard_until(stopped).await;
        task.stop_fetching().await;
        // No repair waits for a guard that has ended.
        task.state.own_taken.send_replace(false);
    }

    /// Carries out one due action after the other, and waits for the next event, until it is stopped.
    async fn guard_until(&mut self, mut stopped: StopSignal) {
        let state = self.state.clone();
        let mut peers = self.state.peers.subscribe();
        let mut heads = self.state.heads.subscribe();
        let mut reports = self.state.own_strand.reports();
        if let OwnStrandStatus::Quarantined(_) = self.shown_status {
            self.log_status();
        }
        loop {
            match self.act().await {
                Pause::None => continue,
                Pause::Event => {}
                Pause::Retry => match timeout(RETRY_AFTER, stopped.stopped()).await {
                    Ok(()) => break,
                    Err(_) => continue,
                },
            }
            let next = Instant::now() + LOOK_EVERY;
            let next = self.guard.poll_timeout().map_or(next, |at| next.min(at.into()));
            let is_fetching = self.fetching.as_ref().is_some_and(|it| it.source.is_some());
            tokio::select! {
                () = stopped.stopped() => break,
                _ = peers.changed() => {}
                _ = reports.changed() => {}
                () = state.voids.own_shown() => {}
                // Without a source, the strand grows by this node's own envelopes.
                _ = heads.changed(), if is_fetching => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Carries out the next due action. Never sleeps: only the caller hears when the task has to end.
    async fn act(&mut self) -> Pause {
        self.look();
        if self.guard.status() != OwnStrandStatus::Ready {
            // Before anything that may wait for the disk. The gate opens only after that.
            self.show_status();
            self.mark_unknown().await;
        }
        let is_recorded = self.record_own_voids().await;
        self.look();
        let now = Instant::now().into_std();
        let source = self.guard.source();
        // A repair of the strand ends for it.
        self.state.own_taken.send_if_modified(|is_taken| {
            std::mem::replace(is_taken, source.is_some()) != source.is_some()
        });
        if self.guard.status() != OwnStrandStatus::Ready {
            // To stop fetching may wait for the disk as well.
            self.show_status();
        }
        let is_other = self.fetching.as_ref().is_some_and(|it| it.source != source);
        if is_other || (self.fetching.is_some() && self.guard.release(now).is_some()) {
            // Everything that it has found counts before the gate opens.
            self.stop_fetching().await;
            self.look();
        }
        self.show_status();
        self.mark_unknown().await;
        if let Some(release) = self.guard.release(Instant::now().into_std()) {
            if release.skip_through.is_some() && self.is_clock_ahead() {
                // The statement about the gap would be dated ahead, and every place behind it later. The condition
                // `clock` tells the operator.
                return Pause::Event;
            }
            return if self.carry_out(release).await { Pause::None } else { Pause::Retry };
        }
        if self.guard.status() == OwnStrandStatus::Ready {
            self.is_idle = false;
        } else if !self.is_idle {
            // Requests that were taken before have places already, and go to disk before the strand's
            // head is read: otherwise they would look like what a peer claims.
            self.state.publisher.idle().await;
            self.is_idle = true;
            return Pause::None;
        }
        if self.fetching.is_none() && !(self.is_whole && self.guard.source().is_none()) {
            self.start_fetching().await;
        }
        if is_recorded { Pause::Event } else { Pause::Retry }
    }

    /// Waits for work at the disk while the gate may be open. The disk may hang for minutes, and what peers show or
    /// claim meanwhile closes the gate at once.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let state = self.state.clone();
        let (mut peers, mut reports) = (state.peers.subscribe(), state.own_strand.reports());
        let mut work = pin!(work);
        loop {
            self.look();
            if self.guard.status() != OwnStrandStatus::Ready {
                self.show_status();
            }
            tokio::select! {
                done = &mut work => return done,
                _ = peers.changed() => {}
                _ = reports.changed() => {}
                () = state.voids.own_shown() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Passes the present state of the node to the state machine.
    fn look(&mut self) {
        self.note_own_voids();
        let state = &self.state;
        let now = Instant::now().into_std();
        // Claims are read before this node's head: every place that a peer has learned from this node is then durable
        // here.
        let mut claims = state.peers.stated_heads(state.own);
        let unsettled = state.peers.unsettled();
        // Read after both: what a settled peer has shown about this node is among them, or taken.
        let waiting = state.voids.own_waiting();
        let held = self.held();
        for (peer, claim) in &mut claims {
            // A peer that may yet show a statement about this node has not answered. It is asked for what it claims.
            let is_early = unsettled.contains(peer) || waiting.contains(peer);
            *claim = claim.filter(|head| *head > held || !is_early);
        }
        let source = self.guard.source();
        let is_asked = self.fetching.as_ref().is_some_and(|it| it.is_asking && it.source == source);
        if !is_asked {
            // The disk hangs, or a repair has the strand. No claim may run out by that.
            self.guard.note_unasked(now);
        }
        // Takes the reports after the head: a place is reported before it is stored, so the guard gets a report of
        // every place up to that head.
        let reports = state.own_strand.take_reports();
        if let Some(fetching) = &mut self.fetching {
            fetching.is_asking |= reports.is_asking;
        }
        for (peer, shown) in reports.shown {
            self.shown.add(shown.sequence, shown.originator_ns);
            self.guard.note_shown(now, peer, shown.sequence, shown.originator_ns);
        }
        reports.arriving.into_iter().for_each(|peer| self.guard.note_arriving(now, peer));
        if let Some(confirmation) = reports.confirmation {
            self.guard.note_confirmation(now, state.ports.clock.now_ns(), confirmation);
        }
        let seen = StrandObservation {
            held,
            has_signed: state.engine_counters.published.get() > 0,
            others: state.others(),
            claims,
        };
        self.guard.observe(now, seen);
    }

    /// Takes the statements about this node that peers have shown, and that it has signed. They count at once.
    fn note_own_voids(&mut self) {
        for signed in voids::take_own(&self.state) {
            let VoidStatement { through, time_ns, .. } = signed.statement;
            let time_ns = i64::try_from(time_ns).unwrap_or(i64::MAX);
            self.shown.add(through, Some(time_ns));
            self.guard.note_declared(through, time_ns);
            if !self.unrecorded.contains(&signed) {
                self.unrecorded.push(signed);
            }
        }
    }

    /// Records the statements that count already. Returns false if that failed: it is to be tried again.
    async fn record_own_voids(&mut self) -> bool {
        if self.unrecorded.is_empty() {
            return true;
        }
        let (state, statements) = (self.state.clone(), self.unrecorded.clone());
        let count = statements.len();
        let record = blocking(move || state.voids.record(&state.store, statements).map(drop));
        let recorded = self.beside(record).await;
        match &recorded {
            // Those that came meanwhile are behind them.
            Ok(()) => drop(self.unrecorded.drain(..count)),
            Err(error) => {
                tracing::error!(code = "void_statements_failed", %error, "statements about this node's own strand cannot be \
                    stored: tried again");
            }
        }
        recorded.is_ok()
    }

    fn held(&self) -> SequenceId {
        self.state.heads.get().get(self.state.own)
    }

    fn is_clock_ahead(&self) -> bool {
        let now_ns = self.state.ports.clock.now_ns();
        self.state.publisher.own_clock().check(now_ns).is_err()
    }

    /// Shows the status to publishers and operators. A status that must outlast this process is to go to
    /// the host marker.
    fn show_status(&mut self) {
        let status = self.guard.status();
        if status == self.shown_status {
            return;
        }
        self.state.own_strand.set(status);
        let is_new = !status.is_as(&self.shown_status);
        self.shown_status = status;
        if !is_new {
            return;
        }
        self.log_status();
        let lasting = match status {
            OwnStrandStatus::Stopped => Some(UnknownFolder::Stopped),
            OwnStrandStatus::Quarantined(it) => {
                Some(it.reason).filter(|reason| *reason == UnknownFolder::Contradicted)
            }
            OwnStrandStatus::Ready | OwnStrandStatus::Asking | OwnStrandStatus::Claimed { .. } => {
                None
            }
        };
        self.unknown_reason = lasting.or(self.unknown_reason);
    }

    /// Makes a status outlast this process. Tried again at every look until the disk takes it: a restart
    /// before that might sign.
    async fn mark_unknown(&mut self) {
        let Some(reason) = self.unknown_reason else { return };
        let store = self.state.store.clone();
        let written = blocking(move || store.mark_unknown(reason)).await;
        if self.mark_failure.note(written.as_ref().err())
            && let Err(error) = &written
        {
            tracing::error!(code = "host_marker_unwritable", %error, "the host marker cannot be written: after a restart this node might publish");
        }
        if written.is_ok() {
            self.unknown_reason = None;
        }
    }

    fn log_status(&self) {
        let status = self.shown_status;
        let reason = OwnStrandError(status);
        match status {
            OwnStrandStatus::Ready => {
                tracing::info!(head = %self.held(), "this node publishes after the end of its own strand");
            }
            OwnStrandStatus::Asking => {}
            OwnStrandStatus::Claimed { .. } => tracing::warn!("{reason}"),
            OwnStrandStatus::Quarantined(_) => {
                tracing::warn!(code = "own_strand_quarantined", "{reason}");
            }
            OwnStrandStatus::Stopped => tracing::error!(code = "own_strand_stopped", "{reason}"),
        }
    }

    /// Leaves out the places of a release, makes the folder the one that this host wrote last, and opens
    /// the gate. Returns false if that failed.
    async fn carry_out(&mut self, release: Release) -> bool {
        if let Some(through) = release.skip_through {
            let (state, from, shown) = (self.state.clone(), self.held().next(), self.shown);
            // Before the statement: after an error it may be on disk, and peers may have it.
            self.guard.note_declaring(through);
            let left_out = blocking(move || {
                let (originator, reason) = (state.own, SkipReason::Missing);
                // The statement first: a crash in between leaves no gap without one, and the next start continues above
                // the places that it names.
                voids::declare(&state, from, through, shown)?;
                tracing::warn!(%from, %through, "places of this node's own strand that no node has shown are recorded as missing");
                state.committer.commit(vec![Change::Skip { originator, from, through, reason }])
            });
            if let Err(error) = left_out.await {
                tracing::error!(code = "own_strand_release_failed", %error, "the gap in this node's own strand, or the statement about it, cannot be written: tried again");
                return false;
            }
            self.guard.note_left_out();
        }
        let store = self.state.store.clone();
        let is_known = store.standing() == FolderStanding::Newest;
        let adopted = blocking(move || if is_known { Ok(()) } else { store.adopt() }).await;
        if let Err(error) = adopted {
            tracing::error!(code = "own_strand_release_failed", %error, "the host marker cannot be written, so this node cannot publish: tried again");
            return false;
        }
        self.guard.note_released();
        // The operator has confirmed since, or the adoption above contradicts it.
        self.unknown_reason = None;
        self.is_whole = false;
        true
    }

    /// Takes the strand from its source, or looks for missing places of it at all peers. Does nothing while damaged
    /// places of it are fetched: the next look tries again.
    async fn start_fetching(&mut self) {
        let (state, source) = (self.state.clone(), self.guard.source());
        let own = state.own;
        if source.is_none() {
            let store = state.store.clone();
            let missing = blocking(move || store.snapshot().last_missing(own, 1));
            let missing = self.beside(missing).await;
            self.is_whole = missing.is_ok_and(|missing| missing.is_empty());
            if self.is_whole {
                return;
            }
        }
        let Some(inbox) = state.open_inbox(own) else { return };
        let key = state.store.identity().public_key;
        let (stop, stopped) = stop::channel();
        // A strand whose source is its own node, which is no peer, asks for missing places only.
        let from = source.unwrap_or(own);
        let task = tokio::spawn(mend::follow(state, own, (key, from), inbox, stopped));
        self.fetching = Some(Fetching { source, is_asking: false, stop, task });
    }

    async fn stop_fetching(&mut self) {
        let Some(Fetching { stop, task, .. }) = self.fetching.take() else { return };
        stop.stop();
        if let Err(error) = task.await {
            std::panic::resume_unwind(error.into_panic());
        }
        self.is_whole = false;
    }
}
