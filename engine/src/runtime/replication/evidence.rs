//! Evidence against the originators of followed strands: what is stored of it, and when.
//!
//! Two statements for one place, wrong times, broken rules and gaps show at once. The thread that commits the strand
//! records them before it commits. If the process is killed in between, the same envelopes come again and show the same
//! evidence. After the commit the strand would have moved on, and nothing would show the evidence again.
//!
//! Most fees are judged later: an envelope is newer than the price list for as long as its source has not confirmed it
//! again.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use hawser_rules::RateTable;
use hawser_rules::misbehavior::{DependencyState, StrandLoad, dependency_state};
use hawser_storage::{
    Change, CommitError, Evidence, InvalidRule, LogEntry, Misbehavior, ReadError, SkipReason,
    Snapshot, SuspectedDependency, Validity,
};

use super::dependencies::{DependencyWatch, is_never_decided};
use super::doubted::name_doubted;
use super::record::{in_parts, record, record_broken};
use super::state::ReplicationState;
use super::suspected::{KnownPlaces, is_about};
use super::unreadable::is_tried_again;
use crate::fee_watch::{FeeCheck, FeeWatch};
use crate::misbehavior::{FeeVerdict, StrandTimes, TimeFault, is_ahead, is_evidence, judge_fees};
use crate::overcharge::overcharge;
use crate::reports::LoggedChain;
use crate::runtime::stop::StopSignal;
use crate::runtime::stoppable::blocking;

/// Envelopes that are judged at a time. A guess.
const JUDGED_AT_ONCE: usize = 256;

/// Pause between two looks at suspected dependencies. A guess: chains have a block in each second at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A fault that an envelope shows as soon as it is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StrandFault {
    /// The envelope's time is wrong.
    Time(TimeFault),
    /// The envelope breaks this rule.
    Invalid(InvalidRule),
    /// The envelope is free, and states fees.
    Fee,
    /// The envelope depends on a place that its chain did not have yet.
    Dependency,
    /// No peer has the places between the envelope and this earlier one. That is a claim unless they are declared void.
    Gap {
        /// The earlier place.
        before: EnvelopeId,
    },
}

/// A fault, and the place that shows it.
pub(super) type LocatedFault = (EnvelopeId, StrandFault);

/// Largest number of faults of one strand that wait for the disk. A guess: more prove nothing more.
const UNRECORDED_MAX: usize = 1024;

/// The times, fees and dependencies of one strand, and the faults in it that are not recorded yet. Bounded.
#[derive(Debug, Default)]
pub(super) struct StrandWatch {
    pub(super) times: StrandTimes,
    fees: FeeWatch,
    /// The missing places at the end of the changes looked at so far: the place before them, and the last one.
    gap: Option<(EnvelopeId, EnvelopeId)>,
    /// Places of the chains that are older than the strand.
    chain_places: KnownPlaces,
    /// The faults that are not recorded yet, with the commits since an envelope of theirs could not be read.
    unrecorded: Vec<(LocatedFault, u32)>,
    /// Comparisons in a row that failed because something could not be read.
    pub(super) unread_comparisons: u32,
}

/// A state of a [`StrandWatch`] to go back to.
pub(super) struct WatchMark {
    times: StrandTimes,
    fees: FeeWatch,
    gap: Option<(EnvelopeId, EnvelopeId)>,
    /// The number of faults that were not recorded yet.
    unrecorded: usize,
}

impl StrandWatch {
    /// Continues after the times, the load and the missing places at the end of a strand.
    pub(super) fn new(
        times: StrandTimes,
        load: StrandLoad,
        gap: Option<(EnvelopeId, EnvelopeId)>,
    ) -> Self {
        Self { times, fees: FeeWatch::new(load), gap, ..Self::default() }
    }

    /// Returns the state before changes are looked at.
    pub(super) fn mark(&self) -> WatchMark {
        let Self { times, fees, gap, .. } = *self;
        WatchMark { times, fees, gap, unrecorded: self.unrecorded.len() }
    }

    /// Goes back to a state, because the changes were not written. Evidence of them that was recorded stays: their
    /// originator has signed them.
    pub(super) fn go_back(&mut self, mark: WatchMark) {
        (self.times, self.fees, self.gap) = (mark.times, mark.fees, mark.gap);
        // It is not certain which of the changes come again.
        self.fees.lose();
        self.unrecorded.truncate(mark.unrecorded);
    }

    /// Notes faults that changes show.
    fn note(&mut self, faults: Vec<LocatedFault>) {
        let room = UNRECORDED_MAX.saturating_sub(self.unrecorded.len());
        self.unrecorded.extend(faults.into_iter().take(room).map(|fault| (fault, 0)));
    }
}

/// Looks at changes of one strand that are about to be written, in their order, and records the faults that they show,
/// and the fees that have to be judged. To be called before they are written. Faults that cannot be recorded now are
/// recorded with later changes.
pub(super) fn watch_and_record(
    state: &ReplicationState,
    watched: &mut StrandWatch,
    changes: &[Change],
) {
    let faults = watch(state, watched, changes);
    watched.note(faults);
    let broken = record_broken(state, &state.voids.look_at(changes));
    let recorded = broken.and(record_faults(state, watched, changes));
    if let Err(error) = recorded.and(state.doubted.record(&state.store)) {
        tracing::error!(code = "evidence_failed", %error, "evidence against an originator cannot be recorded now");
    }
}

/// Looks at changes that are about to be written, in their order. Returns the faults that they show, and notes
/// envelopes whose fees have to be judged.
fn watch(
    state: &ReplicationState,
    watched: &mut StrandWatch,
    changes: &[Change],
) -> Vec<LocatedFault> {
    let now_ns = latest_ns(state);
    let rates = state.ports.rates.borrow().clone();
    let dependencies = DependencyWatch::new(state);
    let mut faults = Vec::new();
    for change in changes {
        if change.originator().is_migrated() {
            continue; // no node has signed it, and the times are those of taking over
        }
        let entry = match change {
            Change::Append(entry) => entry,
            Change::Skip { originator, from, through, reason } => {
                watched.fees.lose();
                // The places before the first one may have been pruned everywhere.
                let is_gap = *reason == SkipReason::Missing && from.0 > 1;
                let last = EnvelopeId::new(*originator, from.previous());
                // After one search, a node can leave out the place that it showed behind it, and so on.
                let earlier = watched.gap.filter(|(_, through)| *through == last);
                let before = earlier.map_or(last, |(before, _)| before);
                let through = EnvelopeId::new(*originator, *through);
                watched.gap = is_gap.then_some((before, through));
                continue;
            }
        };
        let LogEntry { id, bytes, facts, validity } = entry;
        if let Some((before, through)) = watched.gap.take()
            && through.sequence.next() == id.sequence
        {
            faults.push((*id, StrandFault::Gap { before }));
        }
        if let Validity::Invalid(rule) = validity
            && is_evidence(*rule, bytes)
        {
            faults.push((*id, StrandFault::Invalid(*rule)));
        }
        let of_facts = facts.as_ref().map(|facts| facts.originator_ns);
        let ns = of_facts.or_else(|| hawser_proto::envelope::OriginatorEnvelope::stated_ns(bytes));
        let found = ns.map(|ns| watched.times.next(*id, ns, now_ns)).unwrap_or_default();
        faults.extend(found.into_iter().map(|fault| (*id, StrandFault::Time(fault))));
        match watched.fees.check(entry, ns, &rates) {
            FeeCheck::Explained => {}
            FeeCheck::Wrong => faults.push((*id, StrandFault::Fee)),
            FeeCheck::Doubted { most } => {
                if state.doubted.push(*id, most) {
                    name_doubted(*id);
                }
            }
        }
        let shown = facts.as_ref().filter(|_| *validity == Validity::Valid);
        // A time in the future is a fault by itself, and no chain reaches it.
        if let Some(facts) = shown.filter(|it| !is_ahead(it.originator_ns, now_ns)) {
            let places = &mut watched.chain_places;
            if dependencies.find_fault(places, *id, facts.originator_ns, &facts.depends_on) {
                faults.push((*id, StrandFault::Dependency));
            }
        }
    }
    faults
}

/// Records faults that are not recorded yet. Their envelopes are in the log, or in these changes. A fault whose
/// envelopes cannot be read holds up no other fault.
fn record_faults(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    changes: &[Change],
) -> Result<(), CommitError> {
    if watch.unrecorded.is_empty() {
        return Ok(());
    }
    let snapshot = state.store.snapshot();
    let mut waiting = Vec::new();
    let found = watch.unrecorded.iter().map(|&((at, fault), commits)| {
        let later = ((at, fault), commits.saturating_add(1));
        if !is_tried_again(commits) {
            waiting.push(later);
            return Ok(None);
        }
        // A node that declares places void says itself that it left them out: there is nothing to claim.
        let (node, through) = (at.originator, at.sequence.previous());
        if let StrandFault::Gap { before } = fault
            && state.voids.explain_all(&snapshot, node, before.sequence.next(), through)
        {
            return Ok(None);
        }
        let (misbehavior, places) = match fault {
            StrandFault::Time(TimeFault::Back { earlier }) => {
                (Misbehavior::TimeBack, vec![earlier, at])
            }
            StrandFault::Time(TimeFault::Ahead) => (Misbehavior::TimeAhead, vec![at]),
            StrandFault::Invalid(InvalidRule(rule)) => (Misbehavior::Invalid(rule), vec![at]),
            StrandFault::Fee => (Misbehavior::Fee, vec![at]),
            StrandFault::Dependency => (Misbehavior::Dependency, vec![at]),
            StrandFault::Gap { before } => (Misbehavior::Gap, vec![before, at]),
        };
        let mut envelopes: Vec<Bytes> = Vec::new();
        for place in &places {
            let held = match envelope_in(changes, *place) {
                Some(bytes) => Ok(Some(bytes)),
                None => snapshot.get(*place),
            };
            match held {
                Ok(bytes) => envelopes.extend(bytes),
                Err(error) => {
                    if note_unreadable(state, *place, &error) {
                        waiting.push(later);
                    }
                    return Ok(None);
                }
            }
        }
        let is_whole = envelopes.len() == places.len();
        Ok(is_whole.then_some(Evidence { misbehavior, at, from: None, envelopes }))
    });
    in_parts(found, |part| record(state, part))?;
    watch.unrecorded = waiting;
    Ok(())
}

/// Returns the envelope of a place from changes of its strand, which are in the order of their places.
fn envelope_in(changes: &[Change], at: EnvelopeId) -> Option<Bytes> {
    let behind = changes.partition_point(|change| change.start().sequence <= at.sequence);
    match changes.get(behind.checked_sub(1)?)? {
        Change::Append(entry) if entry.id == at => Some(entry.bytes.clone()),
        Change::Append(_) | Change::Skip { .. } => None,
    }
}

/// Judges doubted fees: those of `earlier` runs, and all whenever the price list is confirmed.
pub(super) async fn judge_doubted(
    state: Arc<ReplicationState>,
    earlier: Vec<EnvelopeId>,
    mut stopped: StopSignal,
) {
    let mut rates = state.ports.rates.clone();
    let mut doubted = earlier;
    loop {
        if !doubted.is_empty() {
            let state = state.clone();
            if let Err(error) = blocking(move || judge_some(&state, &doubted)).await {
                tracing::error!(code = "evidence_failed", %error, "evidence about fees cannot be recorded");
            }
        }
        tokio::select! {
            () = stopped.stopped() => return,
            changed = rates.changed() => if changed.is_err() {
                // The list stays as it is, so nothing that waits can be decided any more.
                return stopped.stopped().await;
            },
        }
        doubted = state.doubted.all();
    }
}

/// Judges doubted fees. Those that the price list does not decide yet stay, and so do those whose evidence cannot be
/// recorded now. None waits for another one.
fn judge_some(state: &ReplicationState, doubted: &[EnvelopeId]) -> Result<(), CommitError> {
    let mut failure = None;
    for part in doubted.chunks(JUDGED_AT_ONCE) {
        match judge_fees_of(state, part) {
            Ok(decided) => state.doubted.remove(&decided),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    state.doubted.record(&state.store)?;
    failure.map_or(Ok(()), Err)
}

/// Judges the fees of some envelopes, and records those that are wrong. Returns the places that are decided, or that
/// the disk has damaged.
fn judge_fees_of(
    state: &ReplicationState,
    doubted: &[EnvelopeId],
) -> Result<Vec<EnvelopeId>, CommitError> {
    let rates = state.ports.rates.borrow().clone();
    // Taken before the snapshot: an envelope up to its head can be read.
    let heads = state.heads.get();
    let snapshot = state.store.snapshot();
    let mut decided = Vec::new();
    let found = doubted.iter().map(|&at| {
        let bytes = match snapshot.get(at) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                // The commit of one above the head may still be under way.
                if at.sequence <= heads.get(at.originator) {
                    decided.push(at);
                }
                return Ok(None);
            }
            Err(error) => {
                if !note_unreadable(state, at, &error) {
                    decided.push(at);
                }
                return Ok(None);
            }
        };
        match judge_fee(state, &snapshot, &rates, (at, bytes)) {
            Ok(JudgedFee::Waits) => Ok(None),
            Ok(JudgedFee::Decided(evidence)) => {
                decided.push(at);
                Ok(evidence)
            }
            Err(error) => {
                if !note_unreadable(state, at, &error) {
                    decided.push(at);
                }
                Ok(None)
            }
        }
    });
    in_parts(found, |part| record(state, part))?;
    Ok(decided)
}

/// The judgement on a doubted fee.
enum JudgedFee {
    /// The price list does not decide yet, or the envelope is not verified yet.
    Waits,
    /// It is decided, with evidence if the fee is wrong.
    Decided(Option<Evidence>),
}

/// Judges the fees of an envelope of the log: first by the rates alone, and then the congestion fee by the envelopes
/// before it.
fn judge_fee(
    state: &ReplicationState,
    snapshot: &Snapshot<'_>,
    rates: &RateTable,
    (at, bytes): (EnvelopeId, Bytes),
) -> Result<JudgedFee, ReadError> {
    let verdict = judge_fees(&bytes, rates);
    if verdict == FeeVerdict::Wrong {
        let (misbehavior, envelopes) = (Misbehavior::Fee, vec![bytes]);
        let evidence = Evidence { misbehavior, at, from: None, envelopes };
        return Ok(JudgedFee::Decided(Some(evidence)));
    }
    let stated_ns = hawser_proto::envelope::OriginatorEnvelope::stated_ns(&bytes);
    if stated_ns.is_some_and(|ns| !rates.is_complete_at(ns)) {
        // A time in the future is evidence by itself.
        let is_ahead = is_ahead_of(state, &bytes);
        return Ok(if is_ahead { JudgedFee::Decided(None) } else { JudgedFee::Waits });
    }
    if at.sequence > snapshot.verified_head(at.originator)? {
        return Ok(JudgedFee::Waits);
    }
    let most = state.doubted.most(at);
    let held = |earlier| snapshot.get(earlier);
    Ok(JudgedFee::Decided(overcharge(held, at, &bytes, most, rates)?))
}

/// Notes that an envelope that is evidence cannot be read. Returns true if a later attempt may succeed: the disk has
/// not damaged it. A damaged one is named and counted once, and nothing waits for it.
pub(super) fn note_unreadable(state: &ReplicationState, at: EnvelopeId, error: &ReadError) -> bool {
    if !error.is_damage() {
        tracing::debug!(envelope = %at, %error, "an envelope that is evidence cannot be read now");
        return true;
    }
    name_unreadable(state, at, error);
    false
}

/// Names and counts, once, an envelope for which nothing waits any more, because the disk has damaged it or has failed
/// to read it for long.
pub(super) fn name_unreadable(state: &ReplicationState, at: EnvelopeId, error: &ReadError) {
    if state.unreadable.insert(at) {
        state.engine_counters.evidence_unreadable.inc();
        tracing::error!(
            code = "evidence_unreadable",
            envelope = %at,
            %error,
            "an envelope cannot be read from the disk: nothing is compared with it, and it becomes no evidence"
        );
    }
}

/// Looks at the suspicions whenever a chain has grown, beginning with those of earlier runs, and records those that
/// stay.
pub(super) async fn judge_suspected(state: Arc<ReplicationState>, mut stopped: StopSignal) {
    let mut recorded = read_suspected(&state).await;
    recorded.iter().for_each(|suspicion| state.suspected.push(*suspicion));
    let mut heads = state.heads.subscribe();
    let mut judged_at = None;
    loop {
        let ends = {
            let heads = heads.borrow_and_update();
            OriginatorId::CHAINS.map(|chain| heads.get(chain))
        };
        if judged_at != Some(ends) && !state.suspected.is_empty() {
            let state = state.clone();
            match blocking(move || judge_all(&state)).await {
                Ok(()) => judged_at = Some(ends),
                Err(error) => {
                    tracing::error!(code = "evidence_failed", %error, "evidence about dependencies cannot be recorded");
                }
            }
        }
        recorded = record_suspected(&state, recorded).await;
        tokio::select! {
            () = stopped.stopped() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        tokio::select! {
            () = stopped.stopped() => break,
            changed = heads.changed() => if changed.is_err() {
                stopped.stopped().await;
                break;
            },
        }
    }
    record_suspected(&state, recorded).await;
}

/// Reads the suspicions of earlier runs. If that fails, the evidence of those is lost, and nothing else.
async fn read_suspected(state: &Arc<ReplicationState>) -> Vec<SuspectedDependency> {
    let state = state.clone();
    let read = blocking(move || state.store.suspected()).await;
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "the suspected dependencies of earlier runs cannot be read");
        Vec::new()
    })
}

/// Records the present suspicions if they differ from the recorded suspicions. Returns the recorded suspicions.
async fn record_suspected(
    state: &Arc<ReplicationState>,
    recorded: Vec<SuspectedDependency>,
) -> Vec<SuspectedDependency> {
    let present = state.suspected.all();
    if present == recorded {
        return recorded;
    }
    let state = state.clone();
    blocking(move || match state.store.record_suspected(&present) {
        Ok(()) => present,
        // Tried again at the next look.
        Err(error) => {
            tracing::debug!(%error, "suspected dependencies cannot be recorded now");
            recorded
        }
    })
    .await
}

/// Judges all suspicions. Those that the chains do not decide yet stay.
fn judge_all(state: &ReplicationState) -> Result<(), CommitError> {
    let suspicions = state.suspected.take();
    // Taken after the suspicions and before the snapshot: an envelope up to its head can be read.
    let heads = state.heads.get();
    let snapshot = state.store.snapshot();
    let chain = LoggedChain(&snapshot);
    let found = suspicions.iter().map(|&suspicion| {
        let SuspectedDependency { at, needed, originator_ns } = suspicion;
        // The commit of the envelope may still be under way, and the verification of one that is shown.
        let is_held = at.sequence <= heads.get(at.originator);
        match dependency_state(&chain, needed, originator_ns) {
            DependencyState::Existed { .. } => Ok(None),
            DependencyState::Later { .. } | DependencyState::Absent { .. } if is_held => {
                let held = match snapshot.get(at) {
                    Ok(held) => held.filter(|bytes| is_about(&suspicion, bytes)),
                    Err(error) => {
                        if note_unreadable(state, at, &error) {
                            state.suspected.push(suspicion);
                        }
                        None
                    }
                };
                Ok(held.map(|bytes| Evidence {
                    misbehavior: Misbehavior::Dependency,
                    at,
                    from: None,
                    envelopes: vec![bytes],
                }))
            }
            DependencyState::Unknown if is_never_decided(&snapshot, needed) => Ok(None),
            _ => {
                state.suspected.push(suspicion);
                Ok(None)
            }
        }
    });
    let judged = in_parts(found, |part| record(state, part));
    if judged.is_err() {
        // One that is recorded already is recorded once.
        suspicions.into_iter().for_each(|suspicion| state.suspected.push(suspicion));
    }
    judged
}

/// Returns the latest time that honest nodes give now. They give an envelope that depends on a commit a later time than
/// the commit's, even if the chain's clock is ahead. If this node's clock is behind most others, the fault is its own.
fn latest_ns(state: &ReplicationState) -> i64 {
    let wall_ns = state.ports.clock.now_ns();
    state.chain_clock.ahead_of(state.publisher.own_clock().majority_time_ns(wall_ns))
}

fn is_ahead_of(state: &ReplicationState, bytes: &Bytes) -> bool {
    hawser_proto::envelope::OriginatorEnvelope::stated_ns(bytes)
        .is_some_and(|ns| is_ahead(ns, latest_ns(state)))
}
