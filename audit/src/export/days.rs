//! Files by strand and day, which are written again by each run and replaced if they have changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hawser_proto::OriginatorId;

use super::error::ExportError;
use super::manifest::{TallyPart, tally_path};
use super::part::{FileDigest, FinishedPart, PartWriter};
use super::table::{Table, Value};

/// Minutes of a day.
const DAY_MINUTES: u32 = 24 * 60;
/// The most days of one strand and table that get files. A guess: 27 years. A node dates its checkpoints and envelopes,
/// and a keeper those that it makes up, over as many days as it likes.
const DAYS_MAX: usize = 10_000;
/// The reason why the rows of a strand are not exported.
pub(super) const TOO_MANY_DAYS: &str = "they are dated over more than 10,000 days";

/// Writes the rows of one strand, a file for each day.
pub(super) struct DayWriter<'a> {
    folder: &'a Path,
    table: &'static Table,
    originator: OriginatorId,
    open: Option<(u32, PartWriter)>,
    finished: Vec<(u32, FinishedPart)>,
    days_max: usize,
    /// True if there are rows of more days. Later rows are ignored.
    has_too_many_days: bool,
    /// The latest minute.
    minute: u32,
    /// The first error. Later rows are ignored.
    error: Option<ExportError>,
}

impl<'a> DayWriter<'a> {
    pub(super) fn new(folder: &'a Path, table: &'static Table, originator: OriginatorId) -> Self {
        Self {
            folder,
            table,
            originator,
            open: None,
            finished: Vec::new(),
            days_max: DAYS_MAX,
            has_too_many_days: false,
            minute: 0,
            error: None,
        }
    }

    pub(super) fn push(&mut self, minute: u32, row: impl FnOnce() -> Vec<Value>) {
        if self.error.is_none()
            && !self.has_too_many_days
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

    /// Returns true if there are rows of more days than get files.
    pub(super) fn has_too_many_days(&self) -> bool {
        self.has_too_many_days
    }

    fn path(&self, day: u32) -> PathBuf {
        tally_path(self.folder, self.table.name, self.originator, day)
    }

    fn try_push(&mut self, day: u32, row: Vec<Value>) -> Result<(), ExportError> {
        if self.open.as_ref().is_some_and(|(open, _)| *open != day) {
            self.end_day()?;
        }
        if self.open.is_none() && self.finished.len() >= self.days_max {
            self.has_too_many_days = true;
            return Ok(());
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
    /// gets a file without rows. If there are rows of too many days, the files of earlier runs stay, and `notes` gets a
    /// sentence for people.
    pub(super) fn end(
        mut self,
        parts: &mut Vec<TallyPart>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<FinishedPart>, ExportError> {
        self.end_day()?;
        if let Some(error) = self.error {
            return Err(error);
        }
        let id = self.originator;
        if self.has_too_many_days {
            let table = self.table.name;
            notes.push(format!("{table} of strand {id}: {TOO_MANY_DAYS}; earlier ones are left"));
            return self.discard().map(|()| Vec::new());
        }
        let mut finished = std::mem::take(&mut self.finished);
        let written: BTreeSet<u32> = finished.iter().map(|(day, _)| *day).collect();
        for part in parts.iter().filter(|part| part.originator_id == id) {
            if !written.contains(&part.day) {
                let empty = PartWriter::create(self.folder, &self.path(part.day), self.table)?;
                finished.push((part.day, empty.finish()?));
            }
        }
        add_days(parts, id, &written);
        let mut changed = Vec::new();
        for (day, file) in finished {
            let at = parts.partition_point(|part| place_of(part) < (id, day));
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

/// Returns what the files of a table are ordered by in the manifest.
fn place_of(part: &TallyPart) -> (OriginatorId, u32) {
    (part.originator_id, part.day)
}

/// Adds the days of a strand that have no file yet. All at once: each insertion would move all later files.
fn add_days(parts: &mut Vec<TallyPart>, originator_id: OriginatorId, days: &BTreeSet<u32>) {
    let is_new = |day: &u32| parts.binary_search_by_key(&(originator_id, *day), place_of).is_err();
    let part = |day: u32| TallyPart { originator_id, day, file: None, next: None };
    let new: Vec<_> = days.iter().copied().filter(is_new).map(part).collect();
    parts.extend(new);
    parts.sort_by_key(place_of);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::table::CONGESTION;
    use super::*;

    const NODE: OriginatorId = OriginatorId(100);

    fn push(days: &mut DayWriter<'_>, day: u32) {
        let row = [NODE.0, day * DAY_MINUTES, 1].map(|it| Value::int(u64::from(it)));
        days.push(day * DAY_MINUTES, || row.to_vec());
    }

    #[test]
    fn new_days_are_in_order_and_days_without_rows_get_a_file_without() {
        let folder = tempfile::tempdir().unwrap();
        let part = |originator, day| TallyPart {
            originator_id: OriginatorId(originator),
            day,
            file: None,
            next: None,
        };
        let mut parts = vec![part(NODE.0, 2), part(NODE.0, 5), part(200, 1)];
        let mut days = DayWriter::new(folder.path(), &CONGESTION, NODE);
        [1, 2, 2, 7].into_iter().for_each(|day| push(&mut days, day));
        let mut notes = Vec::new();
        assert_eq!(days.end(&mut parts, &mut notes).unwrap().len(), 4);
        let rows = |part: &TallyPart| part.next.as_ref().map(|file| file.rows);
        let found: Vec<_> =
            parts.iter().map(|part| (part.originator_id.0, part.day, rows(part))).collect();
        let of_node = [(1, 1), (2, 2), (5, 0), (7, 1)]
            .map(|(day, rows): (u32, u64)| (NODE.0, day, Some(rows)));
        assert_eq!(found, [&of_node[..], &[(200, 1, None)]].concat());
        assert!(notes.is_empty());
    }

    /// A node may date its checkpoints over a hundred thousand days, each of which would get a file.
    #[test]
    fn rows_of_too_many_days_get_no_files_and_earlier_ones_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut days = DayWriter::new(folder.path(), &CONGESTION, NODE);
        days.days_max = 3;
        [1, 2, 2, 7].into_iter().for_each(|day| push(&mut days, day));
        assert!(!days.has_too_many_days());
        [8, 9].into_iter().for_each(|day| push(&mut days, day));
        assert!(days.has_too_many_days());
        let (mut parts, mut notes) = (Vec::new(), Vec::new());
        assert!(days.end(&mut parts, &mut notes).unwrap().is_empty());
        assert!(parts.is_empty());
        assert_eq!(notes.len(), 1, "{notes:?}");
        let files = tally_path(folder.path(), CONGESTION.name, NODE, 1);
        assert_eq!(fs::read_dir(files.parent().unwrap()).unwrap().count(), 0);
    }
}
