//! Writes of one strand that wait for the disk, and the commits that they become.

use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    Change, CommitError, HashedEnvelope, InvalidRule, LogEntry, Mark, SkipReason, Validity,
};

use super::conflicts;
use super::evidence::{self, StrandWatch};
use super::record::record_broken;
use super::state::{ReplicationState, now};
use crate::facts;
use crate::replication::{ShownStage, StrandWrite};

/// Envelopes at which a commit, and a batch to be checked, stops growing. Guessed: enough that a
/// sync is shared by many, and little enough that a strand in catch-up holds the log for a short
/// time.
const ENVELOPES_MAX: usize = 2000;
/// Envelopes at which a batch to be checked stops growing if readers are shown them already. A guess: two cores check
/// as many together as makes each one cheapest.
const BEHIND_ENVELOPES_MAX: usize = 4096;
/// Bytes at which a commit, and a batch to be checked, stops growing. Guessed, as above.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Comparisons that fail in a row because the disk cannot read something, until they go on without it. A guess: with
/// the pauses between them that is seven seconds, and a bus that is being reset answers again within that time.
const COMPARISONS_MAX: u32 = 4;

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

    /// Returns true if a batch of this load stops growing, and readers do not wait for it.
    pub(super) fn is_full_behind(self) -> bool {
        self.envelopes >= BEHIND_ENVELOPES_MAX || self.bytes >= BYTES_MAX
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
/// Bounded by its user: while it [is full](Self::is_full), nothing more is checked, so the queue grows at most by the
/// batch that is being checked.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    waiting: VecDeque<(StrandWrite, Load)>,
    load: Load,
    /// Comparisons of places that are asked for again, with the peers that sent them. As many as one commit takes, and
    /// one write more.
    kept: Vec<(OriginatorId, Vec<LogEntry>)>,
    kept_load: Load,
}

impl WriteQueue {
    /// Returns true while so much waits that nothing more is to be checked.
    pub(super) fn is_full(&self) -> bool {
        self.load.is_full()
    }

    /// Returns true if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts a write behind the others.
    pub(super) fn push(&mut self, write: StrandWrite) {
        let load = Load::of_write(&write);
        self.load += load;
        self.waiting.push_back((write, load));
    }

    /// Keeps the comparisons among writes that are void, because their places are asked for again: they may be
    /// evidence that no peer sends again. Drops those beyond the bound.
    pub(super) fn keep(&mut self, writes: impl IntoIterator<Item = StrandWrite>) {
        for write in writes {
            let load = Load::of_write(&write);
            if let StrandWrite::Compare { from, entries } = write
                && !self.kept_load.is_full()
            {
                self.kept_load += load;
                self.kept.push((from, entries));
            }
        }
    }

    /// Drops all that waits but comparisons, which are kept.
    pub(super) fn begin_anew(&mut self) {
        self.load = Load::default();
        let waiting = std::mem::take(&mut self.waiting);
        self.keep(waiting.into_iter().map(|(write, _)| write));
    }

    /// Queues the kept comparisons of places up to `verified`.
    pub(super) fn release(&mut self, verified: SequenceId) {
        let is_ready = |entry: &LogEntry| entry.id.sequence <= verified;
        if !self.kept.iter().any(|(_, entries)| entries.iter().any(is_ready)) {
            return;
        }
        for (from, entries) in std::mem::take(&mut self.kept) {
            let (ready, later): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_ready);
            if !later.is_empty() {
                self.kept.push((from, later));
            }
            if !ready.is_empty() {
                self.push(StrandWrite::Compare { from, entries: ready });
            }
        }
        let left = self.kept.iter().flat_map(|(_, entries)| entries);
        self.kept_load = Load::of(left.map(|entry| &entry.bytes));
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

/// Writes of which some have failed. All may be repeated: a change that is durable already has no further effect.
pub(super) struct FailedWritesError {
    pub(super) error: CommitError,
    pub(super) writes: Vec<StrandWrite>,
}

/// The stage in which writes were made, with the facts that the stage has about them.
pub(super) struct StageOfWrites {
    pub(super) stage: ShownStage,
    /// The proof by which they are shown if they are not verified.
    pub(super) by: Option<SignedPrefix>,
    /// Their envelopes, in their order, as far as these are hashed.
    pub(super) hashed: Vec<HashedEnvelope>,
}

/// Does the writes: all appends in their order, then all comparisons. Returns the new head if the strand has grown.
/// Blocks for syncs of the disk, of which there are few however the writes alternate: peers decide about that. `watch`
/// is that of the strand.
///
/// # Errors
/// [`FailedWritesError`]; some of the writes may be durable.
pub(super) fn commit(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    shown: StageOfWrites,
    writes: Vec<StrandWrite>,
) -> Result<Option<SequenceId>, FailedWritesError> {
    let (mut pending, mut durable, mut compared) = (Vec::new(), None, Vec::new());
    for write in writes {
        match write {
            StrandWrite::Append { changes, through } => {
                pending.extend(changes);
                durable = Some(through);
            }
            // Its places are before those of all later appends.
            StrandWrite::Compare { from, entries } => compared.push((from, entries)),
        }
    }
    // An envelope to compare may repeat one of the pending changes, so those are written first.
    let (error, changes) = match append_in(state, watch, &shown, pending) {
        Ok(()) => match compare(state, watch, &compared) {
            Ok(()) => return Ok(durable),
            Err(error) => (error, Vec::new()),
        },
        Err(failed) => failed,
    };
    // The new head is reported after them even if nothing of it is left to write.
    let appended = durable.map(|through| StrandWrite::Append { changes, through });
    let compared =
        compared.into_iter().map(|(from, entries)| StrandWrite::Compare { from, entries });
    Err(FailedWritesError { error, writes: appended.into_iter().chain(compared).collect() })
}

/// Appends the changes as the stage of the strand demands. Gives back those that are to be appended again.
fn append_in(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    shown: &StageOfWrites,
    changes: Vec<Change>,
) -> Result<(), (CommitError, Vec<Change>)> {
    match shown.stage {
        ShownStage::Verified => append(state, watch, changes),
        // Faults show when the signatures are checked, since evidence has to bear a signature.
        ShownStage::Shown { .. } => {
            let counts = CommitCounts::of(state, &changes);
            state.committer.try_commit_shown(changes, shown.by.as_ref(), &shown.hashed)?;
            counts.note(state);
            Ok(())
        }
        ShownStage::AskedAgain { head } => append_again(state, watch, head, changes),
    }
}

/// Takes changes over as verdicts on what readers are shown, up to `head`, and appends the others.
fn append_again(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    head: SequenceId,
    changes: Vec<Change>,
) -> Result<(), (CommitError, Vec<Change>)> {
    let shown = changes.partition_point(|change| change.start().sequence <= head);
    if let Err(error) = judge_shown(state, watch, &changes[..shown]) {
        return Err((error, changes));
    }
    // A range may begin with shown places and end behind them.
    let beyond = shown.checked_sub(1).and_then(|last| match changes[last] {
        Change::Skip { originator, through, reason, .. } if through > head => {
            Some(Change::Skip { originator, from: head.next(), through, reason })
        }
        Change::Skip { .. } | Change::Append(_) => None,
    });
    append(state, watch, beyond.into_iter().chain(changes.into_iter().skip(shown)).collect())
}

/// Takes changes over as verdicts on places that readers are shown.
fn judge_shown(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    changes: &[Change],
) -> Result<(), CommitError> {
    let mut entries = Vec::new();
    for change in changes {
        let (id, through) = match change {
            Change::Append(entry) => {
                entries.push(entry.clone());
                continue;
            }
            Change::Skip { through, .. } => (change.start(), *through),
        };
        take_verdicts(state, watch, std::mem::take(&mut entries))?;
        if !matches!(change, Change::Skip { reason: SkipReason::Expired, .. }) {
            // No peer has it as its originator would have signed it. It stays as it is, and so does everything behind
            // it.
            return Err(CommitError::Gap { after: id.sequence.previous(), got: id });
        }
        prune_shown(state, id.originator, through)?;
    }
    take_verdicts(state, watch, entries)
}

fn take_verdicts(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    entries: Vec<LogEntry>,
) -> Result<(), CommitError> {
    let Some(of) = entries.first().map(|entry| entry.id.originator) else { return Ok(()) };
    let sent: Vec<_> = entries.iter().map(|it| (it.id, it.bytes.clone())).collect();
    let result = commit_verified(state, watch, of, entries);
    if let Err(CommitError::Conflict { at }) = &result
        && let Some((at, other)) = sent.into_iter().find(|(id, _)| id == at)
        && let Err(error) = conflicts::record_other_than_shown(state, at, other)
    {
        // The strand continues with another source anyway, and the next peer that sends it gives evidence again.
        tracing::error!(code = "evidence_failed", %error, "evidence against an originator cannot be recorded now");
    }
    result.map(|_| ())
}

/// Removes places that readers are shown, which their own node keeps no more: no peer has to have what verifies them.
fn prune_shown(
    state: &ReplicationState,
    originator: OriginatorId,
    through: SequenceId,
) -> Result<(), CommitError> {
    let own = state.own;
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
    let now_unix_s = u64::try_from(state.ports.clock.now_ns() / 1_000_000_000).unwrap_or(0);
    let mut before = None;
    let verified = loop {
        let verified = state.store.prune_shown(originator, through, now_unix_s, &derive)?;
        state.committer.announce_verified(EnvelopeId::new(originator, verified), Vec::new());
        // The head may be below the end of the expired range.
        if verified >= through || before.replace(verified) == Some(verified) {
            break verified;
        }
    };
    let head = state.heads.get().get(originator);
    if verified < through.min(head) {
        // By its own statement the next one is kept for longer. It stays as it is, and so does everything behind it.
        return Err(CommitError::Gap {
            after: verified,
            got: EnvelopeId::new(originator, verified.next()),
        });
    }
    tracing::info!(
        originator_id = %originator,
        %through,
        "the originator no longer keeps envelopes that readers were shown: they are pruned without having been \
         verified"
    );
    Ok(())
}

/// Takes over verdicts on the next places that readers are shown, after the faults that they show are recorded. Returns
/// the last place that is verified. Blocks for a sync of the disk.
///
/// # Errors
/// No verdict was written. See [`hawser_storage::Store::commit_verified`].
pub(super) fn commit_verified(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    originator: OriginatorId,
    entries: Vec<LogEntry>,
) -> Result<SequenceId, CommitError> {
    let own = state.own;
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
    let before = watch.mark();
    let changes: Vec<Change> = entries.into_iter().map(Change::Append).collect();
    evidence::watch_and_record(state, watch, &changes);
    let entry = |change: Change| match change {
        Change::Append(entry) => Some(entry),
        Change::Skip { .. } => None,
    };
    let entries: Vec<LogEntry> = changes.into_iter().filter_map(entry).collect();
    let done = match state.store.commit_verified(originator, &entries, &derive) {
        Ok(done) => done,
        Err(error) => {
            watch.go_back(before);
            return Err(error);
        }
    };
    let verified = EnvelopeId::new(originator, done.through);
    state.counters.verified_behind.inc_by(entries.len() as u64);
    state.engine_counters.invalid.inc_by(done.invalid);
    note_withdrawn(state, verified, done.withdrawn);
    // After the watch: envelopes that peers are sent count as examined.
    state.committer.announce_verified(verified, entries);
    Ok(done.through)
}

/// Takes envelopes at unverified places of a strand from readers, which break these rules. They become evidence when
/// they are verified: nothing proves yet that their originator signed them. Blocks for a sync of the disk.
///
/// # Errors
/// Nothing was written.
pub(super) fn withdraw_shown(
    state: &ReplicationState,
    originator: OriginatorId,
    broken: &[(SequenceId, InvalidRule)],
) -> Result<(), CommitError> {
    let own = state.own;
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
    let withdrawn = state.store.withdraw_shown(originator, broken, &derive)?;
    let through = broken.last().map(|(place, _)| *place).unwrap_or_default();
    note_withdrawn(state, EnvelopeId::new(originator, through), withdrawn);
    Ok(())
}

/// Counts envelopes that readers got, up to a place, and no longer get.
fn note_withdrawn(state: &ReplicationState, through: EnvelopeId, withdrawn: u64) {
    if withdrawn == 0 {
        return;
    }
    state.engine_counters.withdrawn.inc_by(withdrawn);
    tracing::error!(
        code = "shown_envelopes_withdrawn",
        originator_id = %through.originator,
        through = %through.sequence,
        withdrawn,
        "an originator signed a tree with envelopes that break a rule: readers were shown them, and no longer get them"
    );
}

/// Records the faults that changes show, and appends the changes. Gives back those that are to be appended again.
pub(super) fn append(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    changes: Vec<Change>,
) -> Result<(), (CommitError, Vec<Change>)> {
    let follows = |pair: &[Change]| pair[1].start().sequence == pair[0].end().sequence.next();
    assert!(changes.windows(2).all(follows), "a strand is contiguous before it is appended");
    let before = watch.mark();
    let counts = CommitCounts::of(state, &changes);
    evidence::watch_and_record(state, watch, &changes);
    if let Err(failed) = state.committer.try_commit(changes) {
        watch.go_back(before);
        return Err(failed);
    }
    counts.note(state);
    Ok(())
}

/// Additions of a commit to the counters, once it is durable.
struct CommitCounts {
    envelopes: u64,
    missing: u64,
    invalid: u64,
}

impl CommitCounts {
    /// Counts the changes. Logs ranges that are marked missing, and one line for all envelopes that break a rule.
    fn of(state: &ReplicationState, changes: &[Change]) -> Self {
        let mut counts = Self { envelopes: 0, missing: 0, invalid: 0 };
        let (mut first, now) = (None, now());
        for change in changes {
            match change {
                Change::Append(LogEntry { id, validity, .. }) => {
                    counts.envelopes += 1;
                    if let Validity::Invalid(rule) = validity {
                        first.get_or_insert((id, rule.0));
                        counts.invalid += 1;
                    }
                }
                Change::Skip { originator, from, through, reason } => {
                    if *reason == SkipReason::Missing {
                        state.fault_lines.name_missing(now, *originator, (*from, *through));
                        counts.missing += through.0 - from.0 + 1;
                    }
                }
            }
        }
        // One line for a commit, and few in a minute: an originator can fill it with such envelopes, and the disk with
        // lines about each.
        if let Some((id, rule)) = first
            && let Some(left_out) = state.fault_lines.count(now, id.originator, "invalid")
        {
            tracing::warn!(envelope = %id, rule, invalid = counts.invalid, left_out, "an originator signed what breaks a \
                rule");
        }
        counts
    }

    fn note(&self, state: &ReplicationState) {
        state.counters.stored.inc_by(self.envelopes);
        state.counters.missing.inc_by(self.missing);
        state.engine_counters.invalid.inc_by(self.invalid);
    }
}

/// Compares envelopes for places that the strand has passed with the stored ones. Takes a write for each few MiB of
/// evidence, and then one.
///
/// A comparison whose rows cannot be read is made again with the next call, [`COMPARISONS_MAX`] times in all. Then its
/// places are named and left out, in each later comparison at once: the strand waits no longer for a part of the disk
/// that stays unreadable, however often peers send envelopes for it. After some waits in vain no strand waits for any.
///
/// These writes bypass the committer: open streams do not go back, so neither subscribers nor heads are
/// notified of a late find.
fn compare<'a>(
    state: &ReplicationState,
    watch: &mut StrandWatch,
    compared: &'a [(OriginatorId, Vec<LogEntry>)],
) -> Result<(), CommitError> {
    let of_peer = |(from, entries): &'a (OriginatorId, Vec<LogEntry>)| {
        let from = *from;
        entries.iter().map(move |entry| (from, entry))
    };
    let sent: Vec<(OriginatorId, &LogEntry)> = compared.iter().flat_map(of_peer).collect();
    if sent.is_empty() {
        return Ok(());
    }
    let changes: Vec<Change> =
        sent.iter().map(|&(_, entry)| Change::Append(entry.clone())).collect();
    state.counters.compared.inc_by(changes.len() as u64);
    // Before the finds among them are stored: after a kill in between, no peer would be asked for these places again.
    let mut unreadable = 0;
    let is_last = watch.unread_comparisons >= COMPARISONS_MAX - 1;
    let gives_up = |at| is_last || state.unreadable.is_given_up(at);
    let record = |conflicting: &[usize]| {
        unreadable = conflicts::record_conflicts(state, &sent, conflicting, gives_up)?;
        Ok(())
    };
    let fills = fills_unheld(state, &sent);
    let done = state.store.commit_around_conflicts(&changes, gives_up, record);
    watch.unread_comparisons = match &done {
        Ok(_) => 0,
        Err(CommitError::Read(_)) => watch.unread_comparisons.saturating_add(1),
        Err(_) => watch.unread_comparisons,
    };
    let left_out = done?;
    if let Some((_, entry)) = sent.first().filter(|_| fills) {
        state.found.lock().insert(entry.id.originator);
    }
    if is_last && unreadable > 0 {
        state.unreadable.note_wait();
    }
    if let Err(error) = record_broken(state, &state.voids.look_at(&changes)) {
        tracing::error!(code = "evidence_failed", %error, "evidence against an originator cannot be recorded now");
    }
    state.counters.conflicts.inc_by(left_out.len().saturating_sub(unreadable) as u64);
    Ok(())
}

/// Returns true if one of these envelopes is for a place that this node has not held.
fn fills_unheld(state: &ReplicationState, sent: &[(OriginatorId, &LogEntry)]) -> bool {
    let snapshot = state.store.snapshot();
    let mut marks = sent.iter().map(|(_, entry)| snapshot.mark(entry.id));
    marks.any(|mark| matches!(mark, Ok(Some(Mark::Missing { .. } | Mark::Expired { .. }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: OriginatorId = OriginatorId(300);

    fn entry(sequence: u64) -> LogEntry {
        let id = EnvelopeId::new(OriginatorId(200), SequenceId(sequence));
        LogEntry { id, bytes: Bytes::from_static(b"x"), validity: Validity::Valid, facts: None }
    }

    fn compare(sequences: impl IntoIterator<Item = u64>) -> StrandWrite {
        let entries = sequences.into_iter().map(entry).collect();
        StrandWrite::Compare { from: PEER, entries }
    }

    fn append(sequence: u64) -> StrandWrite {
        let changes = vec![Change::Append(entry(sequence))];
        StrandWrite::Append { changes, through: SequenceId(sequence) }
    }

    #[test]
    fn comparisons_of_places_that_are_asked_for_again_wait_until_these_are_verified() {
        let mut queue = WriteQueue::default();
        queue.keep([append(3), compare([1, 3])]);
        queue.push(append(4));
        queue.push(compare([2]));
        queue.begin_anew();
        assert!(queue.is_empty() && queue.load == Load::default(), "appends are void");
        queue.release(SequenceId::NONE);
        assert!(queue.is_empty());
        queue.release(SequenceId(2));
        assert_eq!(queue.take(), [compare([1]), compare([2])]);
        queue.release(SequenceId(2));
        assert!(queue.is_empty(), "once");
        queue.release(SequenceId(3));
        assert_eq!(queue.take(), [compare([3])]);
        assert_eq!(queue.kept_load, Load::default());
    }

    /// A peer chooses how many there are, and whether the places ever come.
    #[test]
    fn few_comparisons_wait_for_places_that_are_asked_for_again() {
        let mut queue = WriteQueue::default();
        (1..).step_by(100).take(1000).for_each(|from| queue.keep([compare(from..from + 100)]));
        let kept: usize = queue.kept.iter().map(|(_, entries)| entries.len()).sum();
        assert_eq!(kept, ENVELOPES_MAX);
        queue.release(SequenceId::MAX);
        assert_eq!((queue.kept.len(), queue.kept_load), (0, Load::default()));
        queue.keep([compare([1])]);
        assert_eq!(queue.kept.len(), 1, "there is room again");
    }
}
