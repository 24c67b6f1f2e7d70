//! What a strand has accepted, on its way to disk.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use hawser_proto::SequenceId;
use hawser_storage::{Change, CommitError, Entry, SkipReason, Standing};

use super::Shared;
use crate::committed::Committed;
use crate::runtime::Addition;

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

/// Something on its way to disk.
#[derive(Debug)]
pub(super) enum Step {
    /// The next places of the strand, up to `through`.
    Append { changes: Vec<Change>, through: SequenceId },
    /// Places that the strand has passed.
    Compare(Vec<Entry>),
}

impl Step {
    fn load(&self) -> Load {
        let entry = |change: &Change| match change {
            Change::Append(entry) => Some(entry.bytes.clone()),
            Change::Skip { .. } => None,
        };
        match self {
            Self::Append { changes, .. } => Load::of(changes.iter().filter_map(entry)),
            Self::Compare(entries) => Load::of(entries.iter().map(|entry| &entry.bytes)),
        }
    }
}

/// The steps that wait, in order.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: VecDeque<(Step, Load)>,
    load: Load,
}

impl Steps {
    /// True while so much waits that nothing more is to be checked.
    pub(super) fn is_full(&self) -> bool {
        self.load.is_full()
    }

    pub(super) fn push(&mut self, step: Step) {
        let load = step.load();
        self.load += load;
        self.waiting.push_back((step, load));
    }

    /// As much as goes into one write; empty when nothing waits.
    pub(super) fn take(&mut self) -> Vec<Step> {
        let (mut taken, mut size) = (Vec::new(), Load::default());
        while !size.is_full() {
            let Some((step, load)) = self.waiting.pop_front() else { break };
            size += load;
            self.load -= load;
            taken.push(step);
        }
        taken
    }
}

/// Writes the steps in order; tells up to where the strand is now durable, if it grew. Blocks for
/// a sync of the disk.
pub(super) fn commit(shared: &Shared, steps: Vec<Step>) -> Result<Option<SequenceId>, CommitError> {
    let (mut additions, mut durable) = (Vec::new(), None);
    for step in steps {
        match step {
            Step::Append { changes, through } => {
                additions.extend(changes.into_iter().map(|change| addition(shared, change)));
                durable = Some(through);
            }
            Step::Compare(entries) => {
                append(shared, std::mem::take(&mut additions))?;
                compare(shared, entries)?;
            }
        }
    }
    append(shared, additions)?;
    Ok(durable)
}

fn append(shared: &Shared, additions: Vec<Addition>) -> Result<(), CommitError> {
    let envelopes = additions.iter().filter(|a| !matches!(a, Addition::Skip { .. })).count();
    shared.committer.commit(additions)?;
    shared.counters.stored.add(envelopes as u64);
    Ok(())
}

fn addition(shared: &Shared, change: Change) -> Addition {
    match change {
        Change::Append(Entry { id, bytes, facts: Some(facts), .. }) => Addition::Envelope {
            committed: Arc::new(Committed {
                id,
                topic: facts.topic.clone(),
                originator_ns: facts.originator_ns,
                depends_on: facts.depends_on.clone(),
                bytes,
            }),
            facts,
        },
        Change::Append(Entry { id, bytes, standing, facts: None }) => {
            let Standing::Invalid(rule) = standing else {
                unreachable!("an entry of a node without facts is one that breaks a rule")
            };
            tracing::warn!(envelope = %id, rule = rule.0, "an originator signed what breaks a rule");
            shared.counted.invalid.add(1);
            Addition::Invalid { id, bytes, rule }
        }
        Change::Skip { originator, from, through, reason } => {
            if reason == SkipReason::Missing {
                tracing::warn!(%originator, %from, %through, "nobody has these: marked missing");
                shared.counters.missing.add(through.0 - from.0 + 1);
            }
            Addition::Skip { originator, from, through, reason }
        }
    }
}

/// Written past the committer: streams that are open do not go back, so neither subscribers nor
/// heads are told.
fn compare(shared: &Shared, entries: Vec<Entry>) -> Result<(), CommitError> {
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
