//! Files by strand and day, which are written again by each run and replaced if they have changed.

use std::path::{Path, PathBuf};

use hawser_proto::OriginatorId;

use super::error::ExportError;
use super::manifest::{TallyPart, tally_path};
use super::part::{FileDigest, FinishedPart, PartWriter};
use super::table::{Table, Value};

/// Minutes of a day.
const DAY_MINUTES: u32 = 24 * 60;

/// Writes the rows of one strand, a file for each day.
pub(super) struct DayWriter<'a> {
    folder: &'a Path,
    table: &'static Table,
    originator: OriginatorId,
    open: Option<(u32, PartWriter)>,
    finished: Vec<(u32, FinishedPart)>,
    /// The latest minute.
    minute: u32,
    /// The first error. Later rows are ignored.
    error: Option<ExportError>,
}

impl<'a> DayWriter<'a> {
    pub(super) fn new(folder: &'a Path, table: &'static Table, originator: OriginatorId) -> Self {
        let (open, finished) = (None, Vec::new());
        Self { folder, table, originator, open, finished, minute: 0, error: None }
    }

    pub(super) fn push(&mut self, minute: u32, row: impl FnOnce() -> Vec<Value>) {
        if self.error.is_none()
            && let Err(error) = self.try_push(minute / DAY_MINUTES, row())
        {
            self.error = Some(error);
        }
    }

    /// Adds a row. If its minute is earlier than that of the previous row, because a clock was set back, the row counts
    /// for the previous minute.
    pub(super) fn push_late(&mut self, minute: u32, row: impl FnOnce(u32) -> Vec<Value>) {
        self.minute = self.minute.max(minute);
        let minute = self.minute;
        self.push(minute, || row(minute));
    }

    fn path(&self, day: u32) -> PathBuf {
        tally_path(self.folder, self.table.name, self.originator, day)
    }

    fn try_push(&mut self, day: u32, row: Vec<Value>) -> Result<(), ExportError> {
        if self.open.as_ref().is_some_and(|(open, _)| *open != day) {
            self.end_day()?;
        }
        let path = self.path(day);
        let (_, part) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert((day, PartWriter::create(self.folder, &path, self.table)?)),
        };
        part.push(row)
    }

    fn end_day(&mut self) -> Result<(), ExportError> {
        if let Some((day, part)) = self.open.take() {
            self.finished.push((day, part.finish()?));
        }
        Ok(())
    }

    /// Removes the written files.
    pub(super) fn discard(self) -> Result<(), ExportError> {
        self.finished.into_iter().try_for_each(|(_, file)| file.discard())
    }

    /// Records new files in the manifest, and returns those that are not in place yet. A day that no longer has tallies
    /// gets a file without rows.
    pub(super) fn end(
        mut self,
        parts: &mut Vec<TallyPart>,
    ) -> Result<Vec<FinishedPart>, ExportError> {
        self.end_day()?;
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut finished = std::mem::take(&mut self.finished);
        let id = self.originator;
        for part in parts.iter().filter(|part| part.originator_id == id) {
            if !finished.iter().any(|(day, _)| *day == part.day) {
                let empty = PartWriter::create(self.folder, &self.path(part.day), self.table)?;
                finished.push((part.day, empty.finish()?));
            }
        }
        let mut changed = Vec::new();
        for (day, file) in finished {
            let at = parts.binary_search_by_key(&(id, day), |part| (part.originator_id, part.day));
            let at = at.unwrap_or_else(|at| {
                parts.insert(at, TallyPart { originator_id: id, day, file: None, next: None });
                at
            });
            let part = &mut parts[at];
            let is_same = |old: &FileDigest| *old == file.digest;
            if part.file.as_ref().is_some_and(is_same) {
                file.discard()?;
            } else {
                part.next = Some(file.digest.clone());
                changed.push(file);
            }
        }
        Ok(changed)
    }
}
