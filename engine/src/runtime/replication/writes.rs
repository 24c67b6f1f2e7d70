//! What a strand has accepted, on its way to disk.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

use hawser_proto::SequenceId;
use hawser_storage::{Change, CommitError, LogEntry, SkipReason, Validity};

use super::Shared;
use crate::replication::StrandWrite;

/// A commit, and a batch to be checked, stop growing at this many envelopes.
const ENVELOPES_MAX: usize = 2000;
/// A commit, and a batch to be checked, stop growing at this many bytes.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    envelopes: usize,
    bytes: usize,
}

impl Load {
    pub(super) fn of<B: AsRef<[u8]>>(envelopes: impl IntoIterator<Item = B>) -> Self {
        envelopes.into_iter().fold(Self::default(), |load, envelope| Self {
            envelopes: load.envelopes + 1,
            bytes: load.bytes + envelope.as_ref().len(),
        })
    }

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

fn load_of(write: &StrandWrite) -> Load {
    match write {
        StrandWrite::Append { changes, .. } => {
            Load::of(changes.iter().filter_map(|change| match change {
                Change::Append(entry) => Some(&entry.bytes),
                Change::Skip { .. } => None,
            }))
        }
        StrandWrite::Compare(entries) => Load::of(entries.iter().map(|entry| &entry.bytes)),
    }
}

/// The steps that wait, in order.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: VecDeque<(StrandWrite, Load)>,
    load: Load,
}

impl Steps {
    /// True while so much waits that nothing more is to be checked.
    pub(super) fn is_full(&self) -> bool {
        self.load.is_full()
    }

    pub(super) fn push(&mut self, write: StrandWrite) {
        let load = load_of(&write);
        self.load += load;
        self.waiting.push_back((write, load));
    }

    /// As much as goes into one write; empty when nothing waits.
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

/// Does the writes in order; returns up to where the strand is now durable, if it grew. Blocks for
/// a sync of the disk.
pub(super) fn commit(
    shared: &Shared,
    writes: Vec<StrandWrite>,
) -> Result<Option<SequenceId>, CommitError> {
    let (mut pending, mut durable) = (Vec::new(), None);
    for write in writes {
        match write {
            StrandWrite::Append { changes, through } => {
                changes.iter().for_each(|change| count(shared, change));
                pending.extend(changes);
                durable = Some(through);
            }
            StrandWrite::Compare(entries) => {
                append(shared, std::mem::take(&mut pending))?;
                compare(shared, entries)?;
            }
        }
    }
    append(shared, pending)?;
    Ok(durable)
}

fn append(shared: &Shared, changes: Vec<Change>) -> Result<(), CommitError> {
    let envelopes = changes.iter().filter(|it| matches!(it, Change::Append(_))).count();
    shared.committer.commit(changes)?;
    shared.counters.stored.add(envelopes as u64);
    Ok(())
}

fn count(shared: &Shared, change: &Change) {
    match change {
        Change::Append(LogEntry { id, validity: Validity::Invalid(rule), .. }) => {
            tracing::warn!(envelope = %id, rule = rule.0, "an originator signed what breaks a rule");
            shared.counted.invalid.add(1);
        }
        Change::Append(_) => {}
        Change::Skip { originator, from, through, reason } => {
            if *reason == SkipReason::Missing {
                tracing::warn!(%originator, %from, %through, "no peer has these: marked missing");
                shared.counters.missing.add(through.0 - from.0 + 1);
            }
        }
    }
}

/// Written past the committer: streams that are open do not go back, so neither subscribers nor
/// heads are told.
fn compare(shared: &Shared, entries: Vec<LogEntry>) -> Result<(), CommitError> {
    shared.counters.compared.add(entries.len() as u64);
    let changes: Vec<Change> = entries.into_iter().map(Change::Append).collect();
    match shared.store.commit(&changes) {
        Err(CommitError::Conflict { .. }) => {}
        result => return result,
    }
    for change in &changes {
        match shared.store.commit(std::slice::from_ref(change)) {
            Err(CommitError::Conflict { at }) => {
                tracing::error!(envelope = %at, "an originator signed two statements for one place");
                shared.counters.conflicts.add(1);
            }
            result => result?,
        }
    }
    Ok(())
}
