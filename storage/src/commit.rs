//! Commits a group of changes as one synced write, all or none.
//!
//! A group is staged first: each change is checked against its strand's head and against the changes
//! before it, and rows gather in one batch. The heads stay locked from the check until the write is
//! durable, so no other commit can take the same places.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use parking_lot::MutexGuard;
use rocksdb::{ColumnFamily, WriteBatch};

use crate::change::{ChainCommit, Change, Facts, LogEntry, SkipReason, Validity};
use crate::database::Database;
use crate::error::{CommitError, ReadError};
use crate::expired_ends::ExpiredEnds;
use crate::family::Family;
use crate::hashed::HashedEnvelope;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, CursorName, encode_position};
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::meta::MetaKey;
use crate::keys::topic::BESIDE_LEN_BYTES_MAX;
use crate::projection::Projection;
use crate::projection_rows::ProjectionRows;
use crate::store::Store;
use crate::tallies::{Pricing, TallyReport};
use crate::trees::{Growths, leaves_of};

impl Store {
    /// Writes all changes, in order, with their projection rows, as one RocksDB write. Returns when it is durable;
    /// readers see it only then. If any change is refused, nothing is written.
    ///
    /// A [`Change::Append`] above the head must be the next place. At or below the head it has no effect if the
    /// same statement is stored, and is stored if the place is marked missing or expired.
    ///
    /// Invariant: each strand has one writer at a time. Calls for the same strand wait for one
    /// another; calls for different strands run in parallel and share syncs. All wait for a running
    /// rebuild.
    ///
    /// # Errors
    /// [`CommitError::Conflict`], [`CommitError::Gap`] and [`CommitError::OutOfRange`] refuse a
    /// change. [`CommitError::NoRoom`] refuses all until the disk has room. After
    /// [`CommitError::Write`] the store is poisoned.
    pub fn commit(&self, changes: &[Change]) -> Result<(), CommitError> {
        self.database().commit(changes, |_| Ok(()))
    }

    /// Commits like [`Store::commit`], without the changes that conflict with stored statements, or that cannot be
    /// compared with them, because the disk has damaged what is stored. Returns the indexes of these, ascending. There
    /// is one write for any number of conflicts, so a peer that sends conflicts cannot cause further syncs.
    ///
    /// A read that fails without damage may succeed later, so it refuses the commit, unless `gives_up` returns true for
    /// the place: its change is left out then, like one whose place is damaged.
    ///
    /// If there are any such indexes, `before_write` gets them before anything is written, so that its own writes are
    /// durable before the other changes are. It is called without a lock, because other commits must not wait for its
    /// syncs, and called again if the commit then leaves out further changes.
    ///
    /// # Errors
    /// As [`Store::commit`], except [`CommitError::Conflict`], and the error of `before_write`, after which nothing is
    /// written.
    pub fn commit_around_conflicts(
        &self,
        changes: &[Change],
        gives_up: impl Fn(EnvelopeId) -> bool,
        mut before_write: impl FnMut(&[usize]) -> Result<(), CommitError>,
    ) -> Result<Vec<usize>, CommitError> {
        let mut noted: BTreeSet<usize> = BTreeSet::new();
        // Each turn but the last one notes a further change.
        loop {
            let is_noted = |left_out: &[usize]| left_out.iter().all(|it| noted.contains(it));
            let conflicts = Conflicts::LeftOut(&gives_up);
            let left_out = self.database().commit_by(
                CommittedChanges::of(changes),
                conflicts,
                |_, left_out| Ok(is_noted(left_out)),
            )?;
            if is_noted(&left_out) {
                return Ok(left_out);
            }
            before_write(&left_out)?;
            noted.extend(left_out);
        }
    }

    /// Writes a commit to a chain strand: its changes, the verdicts on waiting envelopes and the chain reader's
    /// position, all or none. Otherwise like [`Store::commit`].
    ///
    /// # Errors
    /// The errors of [`Store::commit`], and [`CommitError::NotWaiting`].
    ///
    /// # Panics
    /// If a change or a verdict belongs to another strand, or a verdict leaves its envelope waiting.
    pub fn commit_chain(&self, commit: &ChainCommit) -> Result<(), CommitError> {
        let is_own = |originator| originator == commit.originator;
        assert!(
            commit.changes.iter().all(|it| is_own(it.originator())),
            "a chain commit is for one strand"
        );
        let is_verdict =
            |it: &LogEntry| is_own(it.id.originator) && it.validity != Validity::Waiting;
        assert!(commit.resolved.iter().all(is_verdict), "a verdict ends the waiting");
        let database = self.database();
        database.commit(&commit.changes, |group| group.stage_chain(commit))?;
        database.recent.note_verdicts(&commit.resolved);
        Ok(())
    }
}

impl Database {
    pub(crate) fn commit(
        &self,
        changes: &[Change],
        stage_more: impl FnOnce(&mut Group<'_>) -> Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        self.commit_whole(CommittedChanges::of(changes), stage_more)
    }

    /// Commits all changes, or none.
    pub(crate) fn commit_whole(
        &self,
        changes: CommittedChanges<'_>,
        stage_more: impl FnOnce(&mut Group<'_>) -> Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        let left_out = self
            .commit_by(changes, Conflicts::Refused, |group, _| stage_more(group).map(|()| true))?;
        assert!(left_out.is_empty(), "a commit is written as a whole");
        Ok(())
    }

    /// Returns the indexes of the changes that were left out. `stage_more` gets them before anything is written, and
    /// returns false if nothing is to be written. It makes no write of its own: all commits may wait for it.
    fn commit_by(
        &self,
        committed: CommittedChanges<'_>,
        conflicts: Conflicts<'_>,
        stage_more: impl FnOnce(&mut Group<'_>, &[usize]) -> Result<bool, CommitError>,
    ) -> Result<Vec<usize>, CommitError> {
        self.check_writable()?;
        let CommittedChanges { changes, hashed, .. } = committed;
        // A chain's reader also commits when the chain has nothing new.
        let _running = (!changes.is_empty()).then(|| self.lasting.last_commit.begin());
        let leaves = leaves_of(changes, hashed);
        let _no_rebuild = self.gate.read();
        // Ascending by originator, so that two commits to the same strands take their locks in one order.
        let strands = self.strands.of(changes);
        let mut heads: Vec<StagedHead<'_>> = strands
            .iter()
            .map(|(originator, head)| StagedHead::new(*originator, head.lock()))
            .collect();
        // Held until the write, so that a rate that is recorded meanwhile finds the new rows and corrects them.
        // Taken after the heads, because a commit that waits for one strand's writer must not block rates, and with
        // them all commits.
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut group = Group::new(self, changes, pricing).leaving_out(committed);
        let left_out = group.stage_all(&mut heads, conflicts)?;
        if !stage_more(&mut group, &left_out)? {
            return Ok(left_out);
        }
        let moves_ends = group.marks.values().any(|it| ExpiredEnds::are_moved_by(it.as_ref()));
        let (mut batch, tallies) = group.finish()?;
        put_heads(self, &heads, &mut batch);
        let mut trees = Growths::new(self, heads.iter().map(StagedHead::durable))?;
        trees.stage(self, changes, &leaves, &mut batch);
        let is_staged = |end: EnvelopeId| {
            let mut of_strand = heads.iter().filter(|head| head.originator == end.originator);
            of_strand.all(|head| end.sequence <= head.staged)
        };
        // Checkpoints would cover places without envelopes.
        assert!(trees.ends().all(is_staged), "no tree ends above the head of its strand");
        if batch.is_empty() {
            return Ok(left_out);
        }
        let writing = moves_ends.then(|| self.expired_ends.writing());
        self.write_change(batch)?;
        drop(writing);
        let written = without(changes, &left_out);
        match committed.are_remembered {
            true => self.recent.note(&written),
            false => self.recent.pass_over(&written),
        }
        self.note(tallies, strands.iter().map(|(originator, _)| *originator));
        trees.done(&self.trees);
        self.advance(&mut heads);
        log_durable(&written);
        Ok(left_out)
    }

    /// Moves heads to the staged places, which are durable now.
    fn advance(&self, heads: &mut [StagedHead<'_>]) {
        for head in heads {
            *head.durable = head.staged;
            if let Some(host) = self.lasting.host.get()
                && head.originator == self.identity.node
            {
                host.note_head(head.staged);
            }
        }
    }

    /// Updates the memory of the store after a batch for these strands became durable. The caller holds
    /// their heads.
    pub(crate) fn note(&self, tallies: TallyReport, strands: impl Iterator<Item = OriginatorId>) {
        if !tallies.differing.is_empty() {
            let mut all = self.differing_fees.lock();
            for (originator, envelopes) in tallies.differing {
                *all.entry(originator).or_default() += envelopes;
            }
        }
        if tallies.has_marked {
            self.repricing.lock().forget(strands);
            self.unpriced.store(true, Ordering::Release);
        }
    }
}

/// The changes of a commit, with the facts that the caller has computed about them.
#[derive(Clone, Copy)]
pub(crate) struct CommittedChanges<'a> {
    pub(crate) changes: &'a [Change],
    /// Their envelopes with their leaves, in their order, as far as they are hashed already.
    pub(crate) hashed: &'a [HashedEnvelope],
    /// True if table files of the database have their rows of the log and of topics.
    pub(crate) are_filed: bool,
    /// True if their places are unverified.
    pub(crate) are_shown: bool,
    /// True if their topics are remembered for readers who lack little.
    pub(crate) are_remembered: bool,
}

impl<'a> CommittedChanges<'a> {
    /// Describes changes that are verified, and go to the log with all their rows.
    pub(crate) fn of(changes: &'a [Change]) -> Self {
        let (are_filed, are_shown, are_remembered) = (false, false, true);
        Self { changes, hashed: &[], are_filed, are_shown, are_remembered }
    }
}

/// The treatment of changes that conflict with stored statements.
#[derive(Clone, Copy)]
enum Conflicts<'a> {
    /// The first conflict refuses the whole group.
    Refused,
    /// The group is written without the conflicting changes, and without those whose places the disk has damaged. The
    /// function returns true for places that are left out too if they cannot be read for another reason.
    LeftOut(&'a dyn Fn(EnvelopeId) -> bool),
}

impl Conflicts<'_> {
    /// Returns true if a change is left out because its place could not be read.
    fn leaves_out_unread(self, change: &Change, error: &ReadError) -> bool {
        match self {
            Self::Refused => false,
            Self::LeftOut(gives_up) => error.is_damage() || gives_up(change.start()),
        }
    }
}

/// A strand's head while a group is staged. `staged` is ahead of `durable` until the write is done.
struct StagedHead<'a> {
    originator: OriginatorId,
    durable: MutexGuard<'a, SequenceId>,
    staged: SequenceId,
}

impl<'a> StagedHead<'a> {
    fn new(originator: OriginatorId, durable: MutexGuard<'a, SequenceId>) -> Self {
        Self { originator, staged: *durable, durable }
    }

    fn durable(&self) -> EnvelopeId {
        EnvelopeId::new(self.originator, *self.durable)
    }
}

/// One group of changes being staged into one batch.
pub(crate) struct Group<'a> {
    pub(crate) store: &'a Database,
    pub(crate) changes: &'a [Change],
    /// Changed rows of `mark`; `None` deletes one. They overlay the stored rows until the end, because
    /// a late find may fill a range that the same group marks.
    pub(crate) marks: BTreeMap<EnvelopeId, Option<Mark>>,
    /// Index in `changes` of the first occurrence of each envelope. Built for the first change below
    /// a head, since most groups have none.
    pub(crate) first: Option<HashMap<EnvelopeId, usize>>,
    pub(crate) rows: ProjectionRows<'a>,
    pub(crate) batch: WriteBatch,
    /// `None` if table files have the rows of the log.
    log: Option<&'a ColumnFamily>,
}

impl<'a> Group<'a> {
    /// Creates a group without rows. The caller holds the heads of its strands.
    pub(crate) fn new(store: &'a Database, changes: &'a [Change], pricing: Pricing<'a>) -> Self {
        Self {
            store,
            changes,
            marks: BTreeMap::new(),
            first: None,
            rows: ProjectionRows::new(store, pricing),
            batch: WriteBatch::with_capacity_bytes(batch_len_bytes(changes)),
            log: Some(store.family(Family::Log)),
        }
    }

    /// Leaves out the rows of these changes that table files have, or that their verdicts write.
    fn leaving_out(mut self, changes: CommittedChanges<'_>) -> Self {
        if changes.are_filed {
            self.rows = self.rows.without(Projection::Topic);
            (self.batch, self.log) = (WriteBatch::default(), None);
        }
        if changes.are_shown {
            // The verdict has the payer, who is in the row.
            self.rows = self.rows.without(Projection::Expiry);
        }
        self
    }

    /// Stages all changes. Returns the indexes of those that were left out.
    fn stage_all(
        &mut self,
        heads: &mut [StagedHead<'_>],
        conflicts: Conflicts<'_>,
    ) -> Result<Vec<usize>, CommitError> {
        let (changes, mut left_out) = (self.changes, Vec::new());
        let leaves_out = matches!(conflicts, Conflicts::LeftOut(_));
        if leaves_out {
            // Changes that are left out must not count as stored, so this index has only staged ones.
            self.first = Some(HashMap::new());
        }
        for (index, change) in changes.iter().enumerate() {
            let at = heads
                .binary_search_by_key(&change.originator(), |head| head.originator)
                .expect("heads were taken for all changes");
            let head = heads[at].staged;
            match self.stage(index, change, &mut heads[at].staged) {
                Err(CommitError::Conflict { .. }) if leaves_out => left_out.push(index),
                Err(CommitError::Read(error)) if conflicts.leaves_out_unread(change, &error) => {
                    // The error may be that of another row, which the change adds to.
                    let is_left_out = |it: &ReadError| conflicts.leaves_out_unread(change, it);
                    if !self.is_compared_with_unread(change, head, is_left_out) {
                        return Err(error.into());
                    }
                    left_out.push(index);
                }
                Err(error) => return Err(error),
                Ok(()) if leaves_out => self.note_staged(index, change),
                Ok(()) => {}
            }
        }
        Ok(left_out)
    }

    fn stage(
        &mut self,
        index: usize,
        change: &Change,
        head: &mut SequenceId,
    ) -> Result<(), CommitError> {
        match change {
            Change::Append(entry) => {
                require_place(entry.id)?;
                if entry.id.sequence <= *head {
                    return self.stage_below_head(index, entry);
                }
                if entry.id.sequence > head.next() {
                    return Err(CommitError::Gap { after: *head, got: entry.id });
                }
                assert_eq!(entry.id.sequence, head.next(), "a strand is contiguous");
                *head = entry.id.sequence;
                Ok(self.put(entry)?)
            }
            &Change::Skip { originator, from, through, reason } => {
                self.stage_skip(EnvelopeId::new(originator, from), through, reason, head)
            }
        }
    }

    fn stage_chain(&mut self, commit: &ChainCommit) -> Result<(), CommitError> {
        for entry in &commit.resolved {
            self.stage_resolved(entry)?;
        }
        if let Some(position) = commit.position {
            let key = CursorKey { name: CursorName::Chain, originator: commit.originator };
            let family = self.store.family(CursorKey::FAMILY);
            self.batch.put_cf(family, key.encode(), encode_position(position));
        }
        Ok(())
    }

    fn stage_skip(
        &mut self,
        from: EnvelopeId,
        through: SequenceId,
        reason: SkipReason,
        head: &mut SequenceId,
    ) -> Result<(), CommitError> {
        assert_ne!(reason, SkipReason::Pruned, "only pruning makes such marks");
        require_place(from)?;
        let last = EnvelopeId { sequence: through, ..from };
        require_place(last)?;
        if through < from.sequence {
            return Err(CommitError::OutOfRange { at: last });
        }
        if from.sequence > head.next() {
            return Err(CommitError::Gap { after: *head, got: from });
        }
        if through > *head {
            let first = EnvelopeId { sequence: head.next(), ..from };
            let marked = through;
            #[cfg(feature = "faults")]
            let marked = shortened_if_faulty(first.sequence, marked);
            self.marks.insert(first, Some(Mark::range(reason, marked)));
            *head = through;
        }
        Ok(())
    }

    /// Stages an envelope for a place that was found to be free.
    pub(crate) fn put(&mut self, entry: &LogEntry) -> Result<(), ReadError> {
        #[cfg(feature = "faults")]
        let entry = &changed_if_faulty(entry);
        assert!(
            entry.is_kept_from_readers(),
            "{} is not valid, and readers would get it",
            entry.id
        );
        if let Some(log) = self.log {
            self.batch.put_cf(log, EnvelopeKey(entry.id).encode(), &entry.bytes);
        }
        #[cfg(feature = "faults")]
        if is_seeded(crate::faults::SeededFault::LostEnvelope, entry) {
            let log = self.store.family(Family::Log);
            self.batch.delete_cf(log, EnvelopeKey(entry.id).encode());
        }
        match entry.validity {
            Validity::Valid => {}
            Validity::Invalid(rule) => _ = self.marks.insert(entry.id, Some(Mark::Invalid(rule))),
            Validity::Waiting => _ = self.marks.insert(entry.id, Some(Mark::Waiting)),
        }
        match &entry.facts {
            Some(facts) => self.put_rows(entry.id, &entry.bytes, facts),
            None => Ok(()),
        }
    }

    /// Stages the projection rows of an envelope that is stored as `bytes`.
    pub(crate) fn put_rows(
        &mut self,
        id: EnvelopeId,
        bytes: &[u8],
        facts: &Facts,
    ) -> Result<(), ReadError> {
        self.rows.put(&mut self.batch, id, bytes, facts)
    }

    /// Completes the batch with marks and counters.
    pub(crate) fn finish(self) -> Result<(WriteBatch, TallyReport), CommitError> {
        let Self { store, marks, rows, mut batch, .. } = self;
        let tallies = rows.finish(&mut batch)?;
        put_marks(store, &marks, &mut batch);
        Ok((batch, tallies))
    }
}

/// Returns the changes without those that were left out.
fn without<'a>(changes: &'a [Change], left_out: &[usize]) -> Cow<'a, [Change]> {
    if left_out.is_empty() {
        return Cow::Borrowed(changes);
    }
    let numbered = changes.iter().enumerate();
    let written = numbered.filter(|(index, _)| left_out.binary_search(index).is_err());
    Cow::Owned(written.map(|(_, change)| change.clone()).collect())
}

/// Stages the heads that have moved.
fn put_heads(store: &Database, heads: &[StagedHead<'_>], batch: &mut WriteBatch) {
    assert!(heads.iter().all(|head| head.staged >= *head.durable), "a head never falls");
    for head in heads.iter().filter(|head| head.staged > *head.durable) {
        put_head(store, head, batch);
    }
}

fn put_marks(store: &Database, marks: &BTreeMap<EnvelopeId, Option<Mark>>, batch: &mut WriteBatch) {
    let family = store.family(MarkKey::FAMILY);
    let mut value = Vec::new();
    for (&id, mark) in marks {
        let key = MarkKey(id).encode();
        match mark {
            Some(mark) => {
                assert!(mark.end(id) >= id.sequence, "the mark at {id} ends before it begins");
                mark.encode_into(&mut value);
                batch.put_cf(family, key, &value);
            }
            None => batch.delete_cf(family, key),
        }
    }
}

/// Stages a strand's head. The own strand's head is also the highest issued sequence id.
fn put_head(store: &Database, head: &StagedHead<'_>, batch: &mut WriteBatch) {
    assert!(head.staged <= SequenceId::MAX, "changes have places up to the highest one");
    let sequence = head.staged.0.to_be_bytes();
    let key = CursorKey { name: CursorName::Head, originator: head.originator };
    batch.put_cf(store.family(CursorKey::FAMILY), key.encode(), sequence);
    if head.originator == store.identity.node {
        batch.put_cf(store.family(MetaKey::FAMILY), MetaKey::HighestSequence.encode(), sequence);
    }
}

/// Refuses ids outside of 1 to [`SequenceId::MAX`].
fn require_place(at: EnvelopeId) -> Result<(), CommitError> {
    if at.sequence == SequenceId::NONE || at.sequence > SequenceId::MAX {
        return Err(CommitError::OutOfRange { at });
    }
    Ok(())
}

/// Logs each durable change, at debug level.
fn log_durable(changes: &[Change]) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        for change in changes {
            match change {
                Change::Append(entry) => tracing::debug!(envelope = %entry.id, "durable"),
                Change::Skip { originator, from, through, reason } => {
                    tracing::debug!(originator_id = %originator, %from, %through, ?reason, "skipped range durable");
                }
            }
        }
    }
}

/// Estimates the size of a batch in bytes, so that its buffer is not moved while it grows.
fn batch_len_bytes(changes: &[Change]) -> usize {
    /// The rows of one envelope without its own bytes. Calculated: 392 bytes in the own strand, with a payer, a topic
    /// of 17 bytes and one dependency.
    const ROWS: usize = 416;
    let envelopes = changes.iter().map(|change| match change {
        Change::Append(entry) => {
            let len_bytes = entry.bytes.len();
            let beside = if len_bytes <= BESIDE_LEN_BYTES_MAX { len_bytes } else { 0 };
            len_bytes + beside + ROWS
        }
        Change::Skip { .. } => ROWS,
    });
    envelopes.fold(ROWS, usize::saturating_add)
}

/// Returns true if a fault of every seventh place is on, and this is such a place.
#[cfg(feature = "faults")]
fn is_seeded(fault: crate::faults::SeededFault, entry: &LogEntry) -> bool {
    crate::faults::is_on(fault) && entry.id.sequence.0 % 7 == 3
}

#[cfg(feature = "faults")]
fn changed_if_faulty(entry: &LogEntry) -> LogEntry {
    let mut changed = entry.clone();
    if is_seeded(crate::faults::SeededFault::ChangedBytes, entry) {
        changed.bytes = [&entry.bytes[..], &[0]].concat().into();
    }
    changed
}

/// Returns the end of the mark of places up to `through`, which begins at `first`.
#[cfg(feature = "faults")]
fn shortened_if_faulty(first: SequenceId, through: SequenceId) -> SequenceId {
    match crate::faults::is_on(crate::faults::SeededFault::ShortMark) {
        true => through.previous().max(first),
        false => through,
    }
}
