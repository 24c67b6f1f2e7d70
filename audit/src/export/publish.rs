//! Copying an export to another place: the files that the place lacks, in the order in which they are written.
//!
//! Readers may use the place at any time. So a file of the log is written before a manifest names it, and a manifest
//! names the old and the new file of a day before the new one replaces the old one.

use std::collections::BTreeSet;

use super::error::ExportError;
use super::manifest::{
    FILE_NAME, LEN_BYTES_MAX, Manifest, StrandParts, TallyPart, log_name, tally_name,
};
use super::part::FileDigest;
use super::table::TABLES;

/// One file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// Its name below the folder of the export, and below the place.
    pub name: String,
    /// Its content.
    pub digest: FileDigest,
}

/// The files that a place lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// New files of the log, to be copied first.
    pub log: Vec<PublishedFile>,
    /// The manifest that goes before the files of tallies; `None` if none of them is replaced.
    pub interim: Option<Manifest>,
    /// Files of tallies that are new or have changed.
    pub tallies: Vec<PublishedFile>,
}

impl Publication {
    /// Name of the manifest, which is written last.
    pub const MANIFEST: &str = FILE_NAME;
    /// The longest manifest that is read, in bytes.
    pub const MANIFEST_LEN_BYTES_MAX: u64 = LEN_BYTES_MAX;

    /// Returns the folders of an export.
    #[must_use]
    pub fn folders() -> [&'static str; 6] {
        TABLES.map(|table| table.name)
    }

    /// Compares an export with the copy at a place; `there` is the place's manifest, which is untrusted.
    ///
    /// # Errors
    /// When the place holds the export of another log, or more of this one than the export.
    pub fn plan(here: &Manifest, there: Option<&Manifest>) -> Result<Self, ExportError> {
        if let Some(there) = there {
            require_same_log(here, there)?;
        }
        let (mut log, mut tallies) = (Vec::new(), Vec::new());
        let mut interim = there.cloned();
        for strand in &here.strands {
            let held = there.and_then(|it| it.strand(strand.originator_id));
            let held = held.map_or(0, |strand| strand.parts.len());
            log.extend(files_of(strand).skip(held));
        }
        // Both manifests have the same tables in the same order.
        for (at, (table, parts)) in here.tables().into_iter().enumerate() {
            for part in parts {
                let Some(digest) = &part.file else { continue };
                let mut tables = interim.as_mut().map(Manifest::tables_mut);
                let held = tables.as_mut().map(|tables| &mut *tables[at].1);
                if !note_next(held, part, digest) {
                    let name = tally_name(table, part.originator_id, part.day);
                    tallies.push(PublishedFile { name, digest: digest.clone() });
                }
            }
        }
        let interim = interim.filter(|_| !tallies.is_empty());
        Ok(Self { log, interim, tallies })
    }

    /// Adds the files that the place should have by its manifest, and has lost or holds with another length: others can
    /// remove them, and so can a rule of a bucket. `len_of` returns the length of a file that the place holds.
    #[must_use]
    pub fn with_lost(mut self, here: &Manifest, len_of: impl Fn(&str) -> Option<u64>) -> Self {
        let planned = self.log.iter().chain(&self.tallies).map(|file| file.name.clone());
        let planned: BTreeSet<String> = planned.collect();
        let is_lost = |file: &PublishedFile| {
            !planned.contains(&file.name) && len_of(&file.name) != Some(file.digest.len_bytes)
        };
        self.log.extend(here.strands.iter().flat_map(files_of).filter(is_lost));
        self.tallies.extend(tally_files(here).filter(is_lost));
        self
    }
}

/// Returns the files of a strand in the table `log`.
fn files_of(strand: &StrandParts) -> impl Iterator<Item = PublishedFile> {
    strand.parts.iter().map(move |part| {
        let name = log_name(strand.originator_id, part.from);
        PublishedFile { name, digest: part.file.clone() }
    })
}

/// Returns the files of the other tables.
fn tally_files(of: &Manifest) -> impl Iterator<Item = PublishedFile> {
    of.tables().into_iter().flat_map(|(table, parts)| {
        parts.iter().filter_map(move |part| {
            let name = tally_name(table, part.originator_id, part.day);
            part.file.clone().map(|digest| PublishedFile { name, digest })
        })
    })
}

/// Records in the manifest of the place that a file is about to be replaced. Returns true if the place has the new file
/// already.
fn note_next(held: Option<&mut Vec<TallyPart>>, part: &TallyPart, digest: &FileDigest) -> bool {
    let Some(held) = held else { return false };
    let key = (part.originator_id, part.day);
    match held.binary_search_by_key(&key, |it| (it.originator_id, it.day)) {
        Ok(at) if held[at].file.as_ref() == Some(digest) && held[at].next.is_none() => return true,
        Ok(at) => held[at].next = Some(digest.clone()),
        Err(at) => {
            let next = Some(digest.clone());
            let new =
                TallyPart { originator_id: part.originator_id, day: part.day, file: None, next };
            held.insert(at, new);
        }
    }
    false
}

/// Requires that the files of the log at the place are the first ones of the export's.
fn require_same_log(here: &Manifest, there: &Manifest) -> Result<(), ExportError> {
    there.require_log_of(here)?;
    for strand in &there.strands {
        let originator_id = strand.originator_id;
        let parts = here.strand(originator_id).map_or(&[][..], |it| &it.parts);
        if !parts.starts_with(&strand.parts) {
            let files = |count: usize| format!("{count} files, or others");
            return Err(ExportError::OtherStrand {
                originator_id,
                exported: files(strand.parts.len()),
                held: files(parts.len()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::super::manifest::LogPart;
    use super::*;

    fn digest(mark: u8) -> FileDigest {
        FileDigest { rows: 1, len_bytes: 10, blake3: format!("{mark:02x}").repeat(32) }
    }

    fn manifest(parts: u8, day: Option<u8>) -> Manifest {
        let mut manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[7; 16]);
        let part = |at: u8| {
            let from = 10 * u64::from(at) + 1;
            let (from, through) = (SequenceId(from), SequenceId(from + 9));
            LogPart { from, through, file: digest(at), judged_by: None }
        };
        let parts = (0..parts).map(part).collect();
        manifest.strands = vec![StrandParts {
            originator_id: OriginatorId(200),
            parts,
            head: None,
            beyond_head: None,
        }];
        let tally = |mark| TallyPart {
            originator_id: OriginatorId(200),
            day: 3,
            file: Some(digest(mark)),
            next: None,
        };
        manifest.usage = day.map(tally).into_iter().collect();
        manifest.checkpoints.clone_from(&manifest.usage);
        manifest.rates.clone_from(&manifest.usage);
        manifest
    }

    fn names(files: &[PublishedFile]) -> Vec<&str> {
        files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn a_place_gets_what_it_lacks_and_names_both_files_while_one_is_replaced() {
        let all = Publication::plan(&manifest(2, Some(9)), None).unwrap();
        let log = |at: u64| format!("log/originator=200/from={at:019}.parquet");
        assert_eq!(names(&all.log), [log(1), log(11)]);
        let tally = |table: &str| format!("{table}/originator=200/day=00003.parquet");
        assert_eq!(names(&all.tallies), [tally("usage"), tally("checkpoints"), tally("rates")]);
        assert_eq!(all.interim, None, "nothing is replaced");
        let there = manifest(1, Some(8));
        let rest = Publication::plan(&manifest(2, Some(9)), Some(&there)).unwrap();
        assert_eq!(names(&rest.log), [log(11)]);
        let interim = rest.interim.unwrap();
        assert_eq!(interim.usage[0].file, Some(digest(8)));
        assert_eq!(interim.usage[0].next, Some(digest(9)));
        assert_eq!(interim.rates, interim.usage);
        assert_eq!(interim.strands, there.strands);
        // An interrupted run brings the file again.
        let again = Publication::plan(&manifest(2, Some(9)), Some(&interim)).unwrap();
        assert_eq!(names(&again.tallies), names(&rest.tallies));
        let here = manifest(2, Some(9));
        let done = Publication::plan(&here, Some(&here)).unwrap();
        assert_eq!((done.log.len(), done.tallies.len(), done.interim), (0, 0, None));
    }

    #[test]
    fn files_that_a_place_has_lost_are_brought_again() {
        let here = manifest(2, Some(9));
        let all = Publication::plan(&here, None).unwrap();
        let plan = || Publication::plan(&here, Some(&here)).unwrap();
        let whole = plan().with_lost(&here, |_| Some(10));
        assert_eq!((whole.log.len(), whole.tallies.len()), (0, 0));
        let (log, tally) = (all.log[0].name.clone(), all.tallies[1].name.clone());
        for len in [None, Some(9)] {
            let is_lost = |name: &str| name == log || name == tally;
            let len_of = |name: &str| if is_lost(name) { len } else { Some(10) };
            let lost = plan().with_lost(&here, len_of);
            assert_eq!((names(&lost.log), names(&lost.tallies)), (vec![&*log], vec![&*tally]));
            assert_eq!(lost.interim, None, "nothing is replaced");
        }
        let none = Publication::plan(&here, None).unwrap().with_lost(&here, |_| None);
        assert_eq!(none, all, "no file is brought twice");
    }

    #[test]
    fn a_place_with_another_log_or_more_of_this_one_is_refused() {
        let here = manifest(2, None);
        let mut other = here.clone();
        other.log = "00".to_owned();
        let refused = Publication::plan(&here, Some(&other));
        assert!(matches!(refused, Err(ExportError::OtherLog { .. })), "{refused:?}");
        let mut altered = here.clone();
        altered.strands[0].parts[1].file = digest(99);
        for there in [manifest(3, None), altered] {
            let refused = Publication::plan(&here, Some(&there));
            assert!(matches!(refused, Err(ExportError::OtherStrand { .. })), "{refused:?}");
        }
    }
}
