//! Handles appends at or below the head: repeats, conflicts and late finds.

use std::collections::HashMap;

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, SequenceId};

use crate::change::{Change, LogEntry, Validity};
use crate::commit::Group;
use crate::error::CommitError;
use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::{nearest_mark, stored};
use crate::trees::leaf_of;

impl Group<'_> {
    /// Ignores a repeat of a stored statement, stages an envelope for a place marked missing or expired, and
    /// refuses all other envelopes. A conflict stages nothing.
    pub(crate) fn stage_below_head(
        &mut self,
        index: usize,
        entry: &LogEntry,
    ) -> Result<(), CommitError> {
        if let Some(held) = self.held(index, entry.id)? {
            #[cfg(feature = "faults")]
            if crate::faults::is_on(crate::faults::SeededFault::HiddenConflict) {
                return Ok(());
            }
            return if is_same_statement(&held, &entry.bytes) {
                Ok(())
            } else {
                Err(CommitError::Conflict { at: entry.id })
            };
        }
        match self.mark_over(entry.id)? {
            Some((first, mark @ (Mark::Missing { .. } | Mark::Expired { .. }))) => {
                self.split_range(first, mark, entry.id);
                self.rows.expect_out_of_order();
                Ok(self.put(entry)?)
            }
            Some((_, Mark::Void { .. })) => Err(CommitError::Conflict { at: entry.id }),
            Some((_, Mark::Pruned { .. })) => self.compare_with_pruned(entry),
            // Every place up to the head must be stored or marked, so the database is damaged.
            Some((_, Mark::Invalid(_) | Mark::Waiting)) | None => {
                Err(ReadError::corrupt(Family::Log, &EnvelopeKey(entry.id).encode()).into())
            }
        }
    }

    /// Compares an envelope with the one that this node has pruned. An equal one is not stored again: any peer may
    /// send it, and it would be pruned again.
    fn compare_with_pruned(&self, entry: &LogEntry) -> Result<(), CommitError> {
        match self.store.pruned_leaf(entry.id)? == leaf_of(&entry.bytes) {
            true => Ok(()),
            false => Err(CommitError::Conflict { at: entry.id }),
        }
    }

    /// Stages the verdict on an envelope that is [`Validity::Waiting`].
    pub(crate) fn stage_resolved(&mut self, entry: &LogEntry) -> Result<(), CommitError> {
        let id = entry.id;
        if !matches!(self.mark_over(id)?, Some((at, Mark::Waiting)) if at == id) {
            return Err(CommitError::NotWaiting { at: id });
        }
        let bytes = self.held(self.changes.len(), id)?;
        let bytes =
            bytes.ok_or_else(|| ReadError::corrupt(Family::Log, &EnvelopeKey(id).encode()))?;
        if bytes != entry.bytes {
            return Err(CommitError::Conflict { at: id });
        }
        let mark = match entry.validity {
            Validity::Valid => None,
            Validity::Invalid(rule) => Some(Mark::Invalid(rule)),
            Validity::Waiting => Some(Mark::Waiting),
        };
        self.marks.insert(id, mark);
        if let Some(facts) = &entry.facts {
            self.put_rows(id, &bytes, facts)?;
        }
        Ok(())
    }

    /// Returns the envelope at `id`: stored, or from a change of this group before `index`.
    pub(crate) fn held(
        &mut self,
        index: usize,
        id: EnvelopeId,
    ) -> Result<Option<Bytes>, ReadError> {
        let stored = self
            .store
            .db
            .get_pinned_cf(self.store.family(Family::Log), EnvelopeKey(id).encode())
            .map_err(DatabaseError::from)?;
        if let Some(bytes) = stored {
            return Ok(Some(Bytes::copy_from_slice(&bytes)));
        }
        let changes = self.changes;
        let first = self.first.get_or_insert_with(|| first_places(changes));
        let earlier = first.get(&id).copied().filter(|&first| first < index);
        Ok(earlier.and_then(|first| match &changes[first] {
            Change::Append(entry) => Some(entry.bytes.clone()),
            Change::Skip { .. } => None,
        }))
    }

    /// Returns true if the envelope, mark or leaf that this change is compared with cannot be read: `is_such` returns
    /// true for the failures that count. It is stored at the change's place, which is not above `head`. Nothing is
    /// staged of a change before it is compared.
    pub(crate) fn is_compared_with_unread(
        &self,
        change: &Change,
        head: SequenceId,
        is_such: impl Fn(&ReadError) -> bool,
    ) -> bool {
        let Change::Append(LogEntry { id, .. }) = change else { return false };
        if id.sequence > head {
            return false;
        }
        if stored(&self.store.db, EnvelopeKey(*id), |_| Some(())).is_err_and(|it| is_such(&it)) {
            return true;
        }
        match self.mark_over(*id) {
            Ok(Some((_, Mark::Pruned { .. }))) => {
                self.store.pruned_leaf(*id).is_err_and(|error| is_such(&error))
            }
            mark => mark.is_err_and(|error| is_such(&error)),
        }
    }

    /// Records that this change is staged, in a group that leaves out conflicting changes.
    pub(crate) fn note_staged(&mut self, index: usize, change: &Change) {
        if let (Change::Append(entry), Some(first)) = (change, &mut self.first) {
            first.entry(entry.id).or_insert(index);
        }
    }

    /// Returns the mark that covers `id`, with this group's marks over the stored ones.
    fn mark_over(&self, id: EnvelopeId) -> Result<Option<(EnvelopeId, Mark)>, ReadError> {
        let mut rows = self.store.db.raw_iterator_cf(self.store.family(MarkKey::FAMILY));
        let mut below = id;
        loop {
            let stored = nearest_mark(&mut rows, below)?;
            let staged = self.marks.range(..=below).next_back().map(|(&at, &mark)| (at, mark));
            let nearest = match (stored, staged) {
                (Some((at, _)), Some(staged)) if staged.0 >= at => staged,
                (Some((at, mark)), _) => (at, Some(mark)),
                (None, Some(staged)) => staged,
                (None, None) => return Ok(None),
            };
            match nearest {
                (at, Some(mark)) => {
                    let covers = at.originator == id.originator && mark.end(at) >= id.sequence;
                    return Ok(covers.then_some((at, mark)));
                }
                // Deleted by this group: the covering row, if any, has a lower key.
                (at, None) if at.originator == id.originator => {
                    below = EnvelopeId { sequence: at.sequence.previous(), ..at };
                }
                (_, None) => return Ok(None),
            }
        }
    }

    /// Splits the range that begins at `first` into the parts below and above `hole`.
    fn split_range(&mut self, first: EnvelopeId, range: Mark, hole: EnvelopeId) {
        let end = range.end(first);
        let covers = first.originator == hole.originator && first <= hole && hole.sequence <= end;
        assert!(covers, "the range from {first} to {end} covers {hole}");
        let before =
            (first.sequence < hole.sequence).then(|| range.truncated(hole.sequence.previous()));
        self.marks.insert(first, before);
        if hole.sequence < end {
            let after = EnvelopeId { sequence: hole.sequence.next(), ..hole };
            self.marks.insert(after, Some(range));
        }
    }
}

/// Returns the index of each envelope's first occurrence.
fn first_places(changes: &[Change]) -> HashMap<EnvelopeId, usize> {
    let mut first = HashMap::new();
    for (index, change) in changes.iter().enumerate() {
        if let Change::Append(entry) = change {
            first.entry(entry.id).or_insert(index);
        }
    }
    first
}

/// Compares two envelopes by the signed bytes, not by the proof: equal bytes signed twice are one
/// statement.
pub(crate) fn is_same_statement(a: &Bytes, b: &Bytes) -> bool {
    a == b
        || match (OriginatorEnvelope::open(a.clone()), OriginatorEnvelope::open(b.clone())) {
            (Ok((a, _)), Ok((b, _))) => a == b,
            _ => false,
        }
}
