//! The findings of a scrub, and the state of a running one.

use std::ops::ControlFlow;

use hawser_proto::{Cursor, EnvelopeId, SequenceId};

use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::open_error::OpenError;
use crate::projection::Projection;
use crate::prune::StrandPlaces;

/// Largest number of damages in a report; further ones are only counted. A guess: with more, the operator replaces
/// the disk.
const DAMAGES_MAX: usize = 1000;
/// Bytes between two calls of the caller's `pace`. A guess: a disk reads this much in a millisecond.
const STEP_BYTES: u64 = 256 << 10;

/// The families from which a rebuild derives projections.
const REBUILT_FROM: [Family; 6] =
    [Family::Log, Family::Mark, Family::Pruned, Family::Rate, Family::Cursor, Family::Meta];

/// A damaged part of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The name of the column family on disk.
    pub family: &'static str,
    /// The first place that is affected, for rows that belong to a strand.
    pub first: Option<EnvelopeId>,
    /// The last place that is affected, for rows that belong to a strand.
    pub last: Option<EnvelopeId>,
    /// The file, if RocksDB's error names it.
    pub file: Option<String>,
    /// The fault as RocksDB or the comparison describes it, for people.
    pub cause: String,
}

impl Damage {
    /// Returns true if the rows are derived from the log and can be rebuilt.
    #[must_use]
    pub fn is_of_projection(&self) -> bool {
        Projection::ALL.into_iter().any(|it| it.name() == self.family)
    }

    /// Returns true if projections are derived from these rows, so that they cannot be rebuilt before this part is
    /// repaired.
    #[must_use]
    pub fn stops_rebuilds(&self) -> bool {
        REBUILT_FROM.into_iter().any(|it| it.name() == self.family)
    }

    /// Returns the damaged places of each strand, by originator ascending; `None` if the first or the last one is
    /// unknown.
    pub(super) fn strands(&self, heads: &Cursor) -> Option<Vec<StrandPlaces>> {
        let (first, last) = (self.first?, self.last?);
        let part = |head: EnvelopeId| {
            let originator = head.originator;
            let is_first = originator == first.originator;
            let from = if is_first { first.sequence.max(SequenceId(1)) } else { SequenceId(1) };
            let is_last = originator == last.originator;
            let through = if is_last { last.sequence.min(head.sequence) } else { head.sequence };
            (from <= through).then_some(StrandPlaces { originator, from, through })
        };
        let affected = first.originator..=last.originator;
        Some(heads.iter().filter(|it| affected.contains(&it.originator)).filter_map(part).collect())
    }

    /// Returns the table file, and the offset and the length of the block in it, if RocksDB's error text has them.
    pub(super) fn block(&self) -> Option<(&str, u64, u64)> {
        let file = self.file.as_deref().filter(|file| file.ends_with(".sst"))?;
        let (_, at) = self.cause.split_once(file)?;
        let (offset, rest) = at.strip_prefix(" offset ")?.split_once(" size ")?;
        let digits = rest.split(|it: char| !it.is_ascii_digit()).next()?;
        Some((file, offset.parse().ok()?, digits.parse().ok()?))
    }
}

/// The outcome of reading everything back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Number of rows that were read.
    pub rows: u64,
    /// Length of these rows together, in bytes.
    pub bytes: u64,
    /// The damaged parts, up to a thousand.
    pub damages: Vec<Damage>,
    /// Number of damaged parts beyond these.
    pub further: u64,
}

/// The reason for which a scrub did not read everything.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The database is in memory.
    #[error("a database in memory has no files")]
    InMemory,
    /// Another scrub is under way.
    #[error("another scrub is running: wait until it has ended")]
    Busy,
    /// The caller has cancelled the work.
    #[error("the scrub was stopped before it was done")]
    Stopped,
    /// The remains of an earlier scrub cannot be removed.
    #[error("{0}")]
    Folder(#[from] std::io::Error),
    /// The checkpoint to read could not be created.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The checkpoint cannot be opened: the database is damaged as a whole.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A row about the strands cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The state of a running scrub.
pub(super) struct Scrub<'a> {
    pub(super) report: ScrubReport,
    pub(super) pace: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    /// Bytes read since the last report to the caller.
    pub(super) untold: u64,
}

impl Scrub<'_> {
    /// Counts a row.
    pub(super) fn count(&mut self, len: usize) {
        self.report.rows += 1;
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.report.bytes = self.report.bytes.saturating_add(len);
    }

    /// Pauses if it is time, after `len` bytes.
    pub(super) fn read(&mut self, len: usize) -> Result<(), ScrubError> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.untold = self.untold.saturating_add(len);
        if self.untold < STEP_BYTES { Ok(()) } else { self.pause() }
    }

    /// Pauses at once: also after a read that has failed, which may have taken the disk seconds.
    pub(super) fn pause(&mut self) -> Result<(), ScrubError> {
        match (self.pace)(std::mem::take(&mut self.untold)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ScrubError::Stopped),
        }
    }

    /// Returns the last place, in the strand of `at`, of the damaged parts of the log that were found there; `None` if
    /// there are none with a known end.
    pub(super) fn end_of_damage(&self, at: EnvelopeId) -> Option<SequenceId> {
        let of_log = self.report.damages.iter().filter(|it| it.family == Family::Log.name());
        let parts = of_log.filter_map(|it| it.first.zip(it.last));
        let there = parts.filter(|(first, last)| *first <= at && at <= *last);
        let is_its = |last: EnvelopeId| last.originator == at.originator;
        there.map(|(_, last)| if is_its(last) { last.sequence } else { SequenceId::MAX }).max()
    }

    pub(super) fn found(&mut self, damage: Damage) {
        if self.report.damages.len() < DAMAGES_MAX {
            self.report.damages.push(damage);
        } else {
            self.report.further += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_out_of_the_words_of_rocksdb() {
        let damage = |file: Option<&str>, cause: &str| Damage {
            family: "log",
            first: None,
            last: None,
            file: file.map(ToOwned::to_owned),
            cause: cause.to_owned(),
        };
        let words = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in \
                     /data/of 1 node/000012.sst offset 8123 size 8190, block_type = kData";
        let found = damage(Some("000012.sst"), words);
        assert_eq!(found.block(), Some(("000012.sst", 8123, 8190)));
        assert_eq!(damage(None, words).block(), None);
        assert_eq!(damage(Some("000012.sst"), "IO error in 000012.sst").block(), None);
        assert_eq!(damage(Some("000012.blob"), "000012.blob offset 1 size 2").block(), None);
        let huge = "000012.sst offset 99999999999999999999999 size 1";
        assert_eq!(damage(Some("000012.sst"), huge).block(), None);
    }
}
