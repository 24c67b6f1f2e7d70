//! Identity updates on their way into the log: each inbox by itself, each update against the valid
//! ones before it, and the updates whose verdict is not known yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use hawser_proto::{EnvelopeId, InboxId, SequenceId};
use hawser_storage::{ChainCommit, Change, LogEntry, ReadError, Snapshot, Store, Validity};

use super::error::ChainAppendError;
use super::new_events::{NewEntry, append_invalid, append_valid};
use super::parts::ChainAppenderParts;
use super::replay::{
    InboxReplay, JudgeParts, Preparation, PreparedInbox, ReadBudget, ReadLimit, ReplayEnd,
    ResolvedInbox, STRAND, StoredUpdate, look_ahead, prepare, resolve_waiting, update_of,
};
use crate::chain_strand::ChainEnvelope;
use crate::ports::{IdentityJudge, InboxJudge};
use crate::runtime::Priority;
use crate::runtime::counters::Counters;

/// Inboxes that are judged at once. Guessed: few enough that publishes do not wait long for a core.
const INBOXES_AT_ONCE: usize = 32;

/// The cost of the logs that are read while a batch of events waits for them, besides the small part that each inbox
/// has. A guess: some 60 ms of one core. An update that makes nodes read such a log costs its author almost nothing,
/// and a batch may hold hundreds of them.
const BATCH_BYTES_MAX: usize = 2 << 20;

/// Bytes of waiting updates that are judged while an append has to wait, besides one update of each inbox. A guess:
/// some 0.4 s of one core. In hours, an attacker can gather hundreds of megabytes of updates behind one that waits for
/// a contract wallet, which all become due at once.
const RESOLVED_BYTES_MAX: usize = 1 << 20;

/// Verdicts on identity updates that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JudgedUpdates {
    /// Updates that readers get now.
    pub valid: u64,
    /// Updates that readers never get.
    pub invalid: u64,
    /// Updates that still wait.
    pub waiting: u64,
}

/// Identity updates that wait for their verdict, by inbox. While an update waits, all later updates of the same inbox
/// wait too.
#[derive(Debug, Default)]
pub(super) struct WaitingUpdates {
    by_inbox: BTreeMap<InboxId, BTreeSet<SequenceId>>,
    /// Waiting updates that could not be read, so that their inboxes are not known. No update behind the first of them
    /// is judged, because it may be of the same inbox.
    unread: BTreeSet<SequenceId>,
    /// Counts how often the log was read again. Results that were prepared in an earlier generation are dropped.
    generation: u64,
}

/// New events with their verdicts.
#[derive(Default)]
pub(super) struct JudgedBatch {
    /// Changes for the log, in no order.
    pub(super) changes: Vec<Change>,
    /// The identity updates among them that wait.
    pub(super) waiting: Vec<(InboxId, SequenceId)>,
    /// Number of valid identity updates.
    pub(super) valid: u64,
    /// Number of invalid identity updates.
    pub(super) invalid: u64,
    /// The judges of the inboxes, to be kept when the batch is committed.
    pub(super) judges: Vec<Box<dyn InboxJudge>>,
    /// An inbox waits until its log is read.
    pub(super) is_behind: bool,
}

/// Inboxes that are judged next, with their logs read.
pub(super) struct PreparedInboxes {
    inboxes: Vec<PreparedInbox>,
    generation: u64,
    /// Inboxes whose logs have to be read at another time.
    pub(super) left: Vec<InboxId>,
}

/// The new updates of one inbox, in order.
struct InboxBatch {
    inbox: InboxId,
    envelopes: Vec<ChainEnvelope>,
    /// Earlier updates of the inbox wait.
    waits: bool,
}

impl WaitingUpdates {
    /// Reads the updates that wait. Has the judge look ahead for the updates that wait behind an earlier update of
    /// their inbox.
    pub(super) fn load(
        snapshot: &Snapshot<'_>,
        judge: &dyn IdentityJudge,
    ) -> Result<Self, ReadError> {
        let mut waiting = Self::default();
        for id in snapshot.waiting(STRAND)? {
            waiting.read(snapshot, judge, id);
        }
        Ok(waiting)
    }

    /// Reads an update that waits.
    fn read(&mut self, snapshot: &Snapshot<'_>, judge: &dyn IdentityJudge, id: EnvelopeId) {
        let Some(StoredUpdate { inbox, update, event_ns }) = stored_update(snapshot, id) else {
            self.unread.insert(id.sequence);
            return;
        };
        let places = self.by_inbox.entry(inbox).or_default();
        if !places.is_empty() {
            look_ahead(judge, inbox, &update, event_ns);
        }
        places.insert(id.sequence);
    }

    /// Reads the unread updates again. The disk may have been repaired.
    pub(super) fn read_again(&mut self, store: &Store, judge: &dyn IdentityJudge) {
        for sequence in std::mem::take(&mut self.unread) {
            self.read(&store.snapshot(), judge, EnvelopeId::new(STRAND, sequence));
        }
    }

    /// Returns the number of inboxes with updates that wait. Each update that could not be read counts as one.
    pub(super) fn inboxes(&self) -> u64 {
        (self.by_inbox.len() + self.unread.len()) as u64
    }

    /// Returns the number of updates that wait.
    pub(super) fn updates(&self) -> u64 {
        let read = self.by_inbox.values().map(|places| places.len() as u64).sum::<u64>();
        read + self.unread.len() as u64
    }

    /// Adds updates that wait from now on.
    pub(super) fn add(&mut self, waiting: Vec<(InboxId, SequenceId)>) {
        for (inbox, sequence) in waiting {
            self.by_inbox.entry(inbox).or_default().insert(sequence);
        }
    }

    /// Judges new events: inboxes on all cores, the updates of each inbox in order.
    pub(super) fn judge(
        &self,
        parts: &ChainAppenderParts,
        entries: Vec<NewEntry>,
    ) -> Result<JudgedBatch, ChainAppendError> {
        let mut batch = JudgedBatch::default();
        let mut inboxes = self.group_by_inbox(entries, &mut batch.changes);
        let budget = Arc::new(ReadBudget::new(BATCH_BYTES_MAX));
        while !inboxes.is_empty() {
            let rest = inboxes.split_off(inboxes.len().min(INBOXES_AT_ONCE));
            let (store, judge, counters) = shared(parts);
            let budget = budget.clone();
            let judged = parts.workers.map(Priority::Normal, inboxes, move |inboxes| {
                let counters = &counters.identities;
                let parts = JudgeParts { store: &store, judge: &*judge, counters };
                inboxes.into_iter().map(|inbox| inbox.judge(parts, &budget)).collect()
            });
            for judged in judged {
                batch.extend(judged?);
            }
            inboxes = rest;
        }
        Ok(batch)
    }

    /// Groups updates by inbox. Entries without an update need no judge: they become `changes`.
    fn group_by_inbox(&self, entries: Vec<NewEntry>, changes: &mut Vec<Change>) -> Vec<InboxBatch> {
        let mut places: HashMap<InboxId, usize> = HashMap::new();
        let mut batches: Vec<InboxBatch> = Vec::new();
        for entry in entries {
            let NewEntry::Envelope(envelope) = entry else {
                changes.push(entry.into_change());
                continue;
            };
            let Some(inbox) = envelope.inbox else {
                changes.push(append_valid(*envelope));
                continue;
            };
            let place = *places.entry(inbox).or_insert_with(|| {
                let waits = self.by_inbox.contains_key(&inbox) || !self.unread.is_empty();
                batches.push(InboxBatch { inbox, envelopes: Vec::new(), waits });
                batches.len() - 1
            });
            batches[place].envelopes.push(*envelope);
        }
        batches
    }

    /// Reads again which updates wait, after the log was read again.
    pub(super) fn reload(
        &mut self,
        snapshot: &Snapshot<'_>,
        judge: &dyn IdentityJudge,
    ) -> Result<(), ReadError> {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::load(snapshot, judge)? };
        Ok(())
    }

    /// Returns the first inboxes of a range with waiting updates, in order.
    pub(super) fn some(&self, range: (Bound<InboxId>, Bound<InboxId>)) -> UnpreparedInboxes {
        let inboxes = self.by_inbox.range(range).take(INBOXES_AT_ONCE);
        let inboxes = inboxes.map(|(&inbox, _)| inbox).collect();
        UnpreparedInboxes { inboxes, generation: self.generation }
    }

    /// Judges the waiting updates of these inboxes, and commits the verdicts that are known then.
    pub(super) fn judge_waiting(
        &mut self,
        parts: &ChainAppenderParts,
        prepared: PreparedInboxes,
    ) -> Result<JudgedUpdates, ChainAppendError> {
        if prepared.generation != self.generation {
            return Ok(JudgedUpdates::default());
        }
        let judged: Vec<InboxId> = prepared.inboxes.iter().map(|inbox| inbox.inbox).collect();
        let end = self.unread.first().copied().unwrap_or(SequenceId(u64::MAX));
        let with_places = prepared.inboxes.into_iter().map(|inbox| {
            let places = self.by_inbox.get(&inbox.inbox).into_iter().flatten().copied();
            (inbox, places.take_while(|place| *place < end).collect::<Vec<_>>())
        });
        let (store, judge, counters) = shared(parts);
        let budget = Arc::new(ReadBudget::new(RESOLVED_BYTES_MAX));
        let inboxes: Vec<_> = with_places.collect();
        let resolved = parts.workers.map(Priority::Normal, inboxes, move |inboxes| {
            let counters = &counters.identities;
            let parts = JudgeParts { store: &store, judge: &*judge, counters };
            let resolve = |(inbox, places)| resolve_waiting(parts, inbox, places, &budget);
            inboxes.into_iter().map(resolve).collect()
        });
        let resolved: Vec<ResolvedInbox> = resolved.into_iter().collect::<Result<_, _>>()?;
        let (resolved, ends): (Vec<_>, Vec<_>) =
            resolved.into_iter().map(|inbox| (inbox.entries, inbox.end)).unzip();
        let mut resolved: Vec<LogEntry> = resolved.into_iter().flatten().collect();
        // The hub passes on ascending places only.
        resolved.sort_by_key(|entry| entry.id);
        let known: Vec<SequenceId> = resolved.iter().map(|entry| entry.id.sequence).collect();
        let is_invalid = |entry: &&LogEntry| matches!(entry.validity, Validity::Invalid(_));
        let invalid = resolved.iter().filter(is_invalid).count() as u64;
        let (originator, changes) = (STRAND, Vec::new());
        let commit = ChainCommit { originator, changes, resolved, position: None };
        parts.committer.commit_chain(commit)?;
        let is_behind = ends.iter().any(|end| end.is_behind);
        ends.into_iter().filter_map(|end| end.judge).for_each(InboxJudge::keep);
        if is_behind {
            parts.judge.judge_soon();
        }
        self.remove(&judged, &known);
        Ok(JudgedUpdates { valid: known.len() as u64 - invalid, invalid, waiting: 0 })
    }

    /// Removes the updates of these inboxes whose verdict is known now. Looks at no other inbox, because there may be
    /// very many.
    fn remove(&mut self, inboxes: &[InboxId], known: &[SequenceId]) {
        let known: BTreeSet<SequenceId> = known.iter().copied().collect();
        for inbox in inboxes {
            let Some(places) = self.by_inbox.get_mut(inbox) else { continue };
            places.retain(|sequence| !known.contains(sequence));
            if places.is_empty() {
                self.by_inbox.remove(inbox);
            }
        }
    }
}

/// Inboxes with waiting updates whose logs are not read yet.
pub(super) struct UnpreparedInboxes {
    inboxes: Vec<InboxId>,
    generation: u64,
}

impl UnpreparedInboxes {
    /// Returns the last one.
    pub(super) fn last(&self) -> Option<InboxId> {
        self.inboxes.last().copied()
    }

    /// Reads the logs of the inboxes as far as their remembered states do not have them, until the budget is used
    /// up. To be called without a lock for which an append waits.
    pub(super) fn prepare(
        self,
        parts: &ChainAppenderParts,
        budget: &Arc<ReadBudget>,
    ) -> Result<PreparedInboxes, ReadError> {
        let Self { inboxes, generation } = self;
        let (store, judge, counters) = shared(parts);
        let budget = budget.clone();
        let prepared = parts.workers.map(Priority::Normal, inboxes, move |inboxes| {
            let counters = &counters.identities;
            let parts = JudgeParts { store: &store, judge: &*judge, counters };
            inboxes.into_iter().map(|inbox| prepare(parts, inbox, &budget)).collect()
        });
        let mut all = PreparedInboxes { inboxes: Vec::new(), generation, left: Vec::new() };
        for prepared in prepared {
            match prepared? {
                Preparation::Ready(inbox) => all.inboxes.push(inbox),
                Preparation::Left(inbox) => all.left.push(inbox),
                Preparation::Unreadable => {} // it waits until a later call
            }
        }
        Ok(all)
    }
}

/// Reads an update that waits, and tells the operator if that fails.
fn stored_update(snapshot: &Snapshot<'_>, id: EnvelopeId) -> Option<StoredUpdate> {
    let error = match snapshot.get(id).map(|bytes| bytes.and_then(update_of)) {
        Ok(Some(stored)) => return Some(stored),
        Ok(None) => ReadError::unreadable_envelope(id),
        Err(error) => error,
    };
    tracing::error!(
        code = "identity_log_unreadable",
        "the identity updates of all inboxes wait from one on that waits and cannot be read: {error}"
    );
    None
}

/// Returns the store, the judge and the counters that the judging threads share.
fn shared(parts: &ChainAppenderParts) -> (Store, Arc<dyn IdentityJudge>, Arc<Counters>) {
    (parts.store.clone(), Arc::clone(&parts.judge), Arc::clone(&parts.counters))
}

impl JudgedBatch {
    fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.waiting.extend(other.waiting);
        self.valid += other.valid;
        self.invalid += other.invalid;
        self.judges.extend(other.judges);
        self.is_behind |= other.is_behind;
    }
}

impl InboxBatch {
    fn judge(self, parts: JudgeParts<'_>, budget: &ReadBudget) -> Result<JudgedBatch, ReadError> {
        let mut batch = JudgedBatch::default();
        let limit = ReadLimit::OfBatch(budget);
        let mut replay = InboxReplay::new(parts, self.inbox, self.waits, limit);
        for envelope in self.envelopes {
            let id = envelope.id;
            let decoded = update_of(envelope.bytes.clone());
            let StoredUpdate { update, event_ns, .. } =
                decoded.ok_or_else(|| ReadError::unreadable_envelope(id))?;
            batch.changes.push(match replay.next(id, &update, event_ns)? {
                Validity::Valid => {
                    batch.valid += 1;
                    append_valid(envelope)
                }
                Validity::Invalid(_) => {
                    batch.invalid += 1;
                    append_invalid(envelope)
                }
                Validity::Waiting => {
                    batch.waiting.push((self.inbox, id.sequence));
                    Change::Append(LogEntry::waiting(id, envelope.bytes))
                }
            });
        }
        let ReplayEnd { judge, is_behind } = replay.end();
        batch.judges.extend(judge);
        batch.is_behind = is_behind;
        Ok(batch)
    }
}
