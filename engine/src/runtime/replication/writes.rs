//! Writes of one strand that wait for the disk, and the commits that they become.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, CommitError, LogEntry, SkipReason, Validity};

use super::evidence;
use super::state::ReplicationState;
use crate::misbehavior::StrandTimes;
use crate::replication::StrandWrite;

/// Envelopes at which a commit, and a batch to be checked, stops growing. Guessed: enough that a
/// sync is shared by many, and little enough that a strand in catch-up holds the log for a short
/// time.
const ENVELOPES_MAX: usize = 2000;
/// Bytes at which a commit, and a batch to be checked, stops growing. Guessed, as above.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Number and size of some envelopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    envelopes: usize,
    bytes: usize,
}

impl Load {
    /// Returns the load of `envelopes`.
    pub(super) fn of<B: AsRef<[u8]>>(envelopes: impl IntoIterator<Item = B>) -> Self {
        envelopes.into_iter().fold(Self::default(), |load, envelope| Self {
            envelopes: load.envelopes + 1,
            bytes: load.bytes + envelope.as_ref().len(),
        })
    }

    fn of_write(write: &StrandWrite) -> Self {
        match write {
            StrandWrite::Append { changes, .. } => {
                Self::of(changes.iter().filter_map(|change| match change {
                    Change::Append(entry) => Some(&entry.bytes),
                    Change::Skip { .. } => None,
                }))
            }
            StrandWrite::Compare { entries, .. } => {
                Self::of(entries.iter().map(|entry| &entry.bytes))
            }
        }
    }

    /// Returns true if a batch of this load stops growing.
    pub(super) fn is_full(self) -> bool {
        self.envelopes >= ENVELOPES_MAX || self.bytes >= BYTES_MAX
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.envelopes += other.envelopes;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.envelopes -= other.envelopes;
        self.bytes -= other.bytes;
    }
}

/// Queue of writes that wait for the disk, in order.
///
/// Bounded by its user: while it [is full](Self::is_full), nothing more is checked, so it grows by
/// the one batch that is being checked at most.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    waiting: VecDeque<(StrandWrite, Load)>,
    load: Load,
}

impl WriteQueue {
    /// Returns true while so much waits that nothing more is to be checked.
    pub(super) fn is_full(&self) -> bool {
        self.load.is_full()
    }

    /// Puts a write behind the others.
    pub(super) fn push(&mut self, write: StrandWrite) {
        let load = Load::of_write(&write);
        self.load += load;
        self.waiting.push_back((write, load));
    }

    /// Takes out as much as goes into one commit; empty when nothing waits.
    pub(super) fn take(&mut self) -> Vec<StrandWrite> {
        let (mut taken, mut size) = (Vec::new(), Load::default());
        while !size.is_full() {
            let Some((write, load)) = self.waiting.pop_front() else { break };
            size += load;
            self.load -= load;
            taken.push(write);
        }
        taken
    }
}

/// Does the writes in order. Returns the new head if the strand has grown. Blocks for a sync of the
/// disk. `times` are those of the strand.
///
/// # Errors
/// Writes before the failed one may be durable.
pub(super) fn commit(
    state: &ReplicationState,
    times: &mut StrandTimes,
    writes: Vec<StrandWrite>,
) -> Result<Option<SequenceId>, CommitError> {
    let (mut pending, mut durable) = (Vec::new(), None);
    for write in writes {
        match write {
            StrandWrite::Append { changes, through } => {
                changes.iter().for_each(|change| count(state, change));
                pending.extend(changes);
                durable = Some(through);
            }
            StrandWrite::Compare { from, entries } => {
                // What is compared may be a repeat of what stands before it.
                append(state, times, std::mem::take(&mut pending))?;
                compare(state, from, entries)?;
            }
        }
    }
    append(state, times, pending)?;
    Ok(durable)
}

fn append(
    state: &ReplicationState,
    times: &mut StrandTimes,
    changes: Vec<Change>,
) -> Result<(), CommitError> {
    let follows = |pair: &[Change]| pair[1].start().sequence == pair[0].end().sequence.next();
    assert!(changes.windows(2).all(follows), "a strand is contiguous before it is appended");
    let envelopes = changes.iter().filter(|change| matches!(change, Change::Append(_))).count();
    let faults = evidence::watch(state, times, &changes);
    state.committer.commit(changes)?;
    state.counters.stored.inc_by(envelopes as u64);
    evidence::record_times(state, faults)
}

fn count(state: &ReplicationState, change: &Change) {
    match change {
        Change::Append(LogEntry { id, validity: Validity::Invalid(rule), .. }) => {
            tracing::warn!(envelope = %id, rule = rule.0, "an originator signed what breaks a rule");
            state.engine_counters.invalid.inc();
        }
        Change::Append(_) => {}
        Change::Skip { originator, from, through, reason } => {
            if *reason == SkipReason::Missing {
                tracing::warn!(%originator, %from, %through, "no peer has these: marked missing");
                state.counters.missing.inc_by(through.0 - from.0 + 1);
            }
        }
    }
}

/// Holds envelopes for places that the strand has passed against what is stored.
///
/// This goes past the committer: open streams do not go back, so neither subscribers nor heads are
/// told of a late find.
fn compare(
    state: &ReplicationState,
    from: OriginatorId,
    entries: Vec<LogEntry>,
) -> Result<(), CommitError> {
    state.counters.compared.inc_by(entries.len() as u64);
    let changes: Vec<Change> = entries.into_iter().map(Change::Append).collect();
    match state.store.commit(&changes) {
        Err(CommitError::Conflict { .. }) => {}
        result => return result,
    }
    // One conflict refuses the whole commit, so the others are written one by one.
    for change in &changes {
        match state.store.commit(std::slice::from_ref(change)) {
            Err(CommitError::Conflict { at }) => {
                state.counters.conflicts.inc();
                let Change::Append(entry) = change else { continue };
                evidence::record_conflict(state, from, at, entry.bytes.clone())?;
            }
            result => result?,
        }
    }
    Ok(())
}
