//! Scans that pass over rows which the disk has damaged: scans of evidence and of reports in the order of their times,
//! and of topics.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::behind_damage::end_of_damage;
use crate::error::{DatabaseError, ReadError};
use crate::fact_index::IndexedFacts;
use crate::facts::each_fact;
use crate::keys::Key;
use crate::keys::fact::Fact;
use crate::snapshot::Snapshot;

/// Times that are held at once to find the end of a damaged block. A guess: a block has a few dozen records.
const KNOWN_MAX: usize = 1024;

impl Snapshot<'_> {
    /// Calls `each` with the records that were stored after `after`, oldest first, until it returns `Break`. `each`
    /// returns `None` for bytes that this code never writes: their row is passed over.
    ///
    /// A block that the disk has damaged costs the records in it. The index of facts has the time of each record, so
    /// the scan tries the next records one by one, names the unreadable ones, and continues at the first readable one.
    ///
    /// # Errors
    /// When the database fails, and not because of damage.
    pub(crate) fn each_record<F: Fact>(
        &self,
        index: &IndexedFacts<F>,
        after: F::Time,
        mut each: impl FnMut(F::Time, &[u8]) -> Option<ControlFlow<()>>,
    ) -> Result<(), ReadError> {
        let mut rows = self.rows(F::Time::FAMILY, ReadOptions::default());
        // The last time that was read or tried.
        let mut last = after;
        rows.seek(after.encode());
        loop {
            while let Some((key, value)) = rows.item() {
                let at = F::Time::decode(key);
                if at.is_none_or(|at| at > after) {
                    match at.and_then(|at| each(at, value)) {
                        Some(ControlFlow::Break(())) => return Ok(()),
                        Some(ControlFlow::Continue(())) => {}
                        None => {
                            let error = ReadError::corrupt(F::Time::FAMILY, key);
                            index.lock().note_unreadable(key, &error);
                        }
                    }
                }
                last = at.map_or(last, |at| at.max(last));
                rows.next();
            }
            let Err(error) = rows.status().map_err(DatabaseError::from) else { return Ok(()) };
            if !error.is_corruption() {
                return Err(error.into());
            }
            match self.seek_known(index, &mut rows, last, &error.into())? {
                Some(at) => last = at,
                None => return Ok(()),
            }
        }
    }

    /// Moves an iterator that a damaged block has ended to the first record after `last` that a fact names and that can
    /// be read. Returns its time; `None` if there is none. The iterator only moves forward.
    fn seek_known<F: Fact>(
        &self,
        index: &IndexedFacts<F>,
        rows: &mut DBRawIterator<'_>,
        mut last: F::Time,
        cause: &ReadError,
    ) -> Result<Option<F::Time>, ReadError> {
        let mut known = self.known_after(index, last)?;
        if known.is_empty() {
            // The records of the block are not known, only the one before it.
            index.lock().note_unreadable(last.encode().as_ref(), cause);
        }
        while !known.is_empty() {
            for at in known {
                rows.seek(at.encode());
                match rows.status().map_err(DatabaseError::from) {
                    Ok(()) => return Ok(Some(at)),
                    Err(error) if error.is_corruption() => {
                        index.lock().note_unreadable(at.encode().as_ref(), &error.into());
                    }
                    Err(error) => return Err(error.into()),
                }
                last = at;
            }
            known = self.known_after(index, last)?;
        }
        Ok(None)
    }

    /// Returns the times of the next [`KNOWN_MAX`] records after `last` that facts name.
    fn known_after<F: Fact>(
        &self,
        index: &IndexedFacts<F>,
        last: F::Time,
    ) -> Result<BTreeSet<F::Time>, ReadError> {
        let mut known = BTreeSet::new();
        let open = || self.rows(F::FAMILY, ReadOptions::default());
        each_fact::<F>(&self.database().db, open, &[], |key, fact| {
            match fact {
                Ok((_, row)) if row.at > last => {
                    known.insert(row.at);
                    if known.len() > KNOWN_MAX {
                        known.pop_last();
                    }
                }
                Ok(_) => {}
                Err(error) => index.lock().note_unreadable(key, &error),
            }
            ControlFlow::Continue(())
        })?;
        Ok(known)
    }

    /// Returns the first place of a strand from which rows of a topic can be read again; `None` if there is none up to
    /// the head. `damaged` is the first place from which none can be read. If there are several damaged rows or blocks,
    /// the result is the end of one of them: sound rows before it may be missed.
    ///
    /// # Errors
    /// When the database fails, and not because of damage.
    pub fn topic_readable_behind(
        &self,
        topic: &[u8],
        damaged: EnvelopeId,
    ) -> Result<Option<EnvelopeId>, ReadError> {
        let EnvelopeId { originator, sequence } = damaged;
        let at = |distance: u128| {
            let distance = u64::try_from(distance).unwrap_or(u64::MAX);
            EnvelopeId::new(originator, SequenceId(sequence.0.saturating_add(distance)))
        };
        let left = self.head(originator)?.0.saturating_sub(sequence.0);
        let end = end_of_damage(left.into(), |distance| {
            match self.topics().seek(topic, at(distance)) {
                Err(ReadError::Database(error)) if !error.is_corruption() => Err(error),
                // Rows that are being rebuilt are no damage. The next read says so.
                read => Ok(!read.is_err_and(|error| error.is_damage())),
            }
        })?;
        Ok(end.map(at))
    }
}
