//! The manifest of an export: its content, and the digest of each file.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use hawser_proto::{OriginatorId, SequenceId};
use serde::{Deserialize, Serialize};

use super::error::ExportError;
use super::part::{FileDigest, digest_of, open_plain, verify, write_whole};
use super::table::{CHECKPOINTS, CONGESTION, LOG, RATES, USAGE, VOID_STATEMENTS};
use crate::replay::STRANDS_MAX;

/// The schema of manifests.
const SCHEMA: &str = "hawser-export/1";
/// The name of the file.
pub(super) const FILE_NAME: &str = "manifest.json";
/// Length of the longest manifest that is read, in bytes. A guess: a few hundred thousand files.
pub(super) const LEN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Threads that read files at once. A guess: more do not make a disk faster.
const READERS_MAX: usize = 8;

/// The content of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    schema: String,
    /// The network.
    pub network: String,
    /// The keeper of the log.
    pub node_id: OriginatorId,
    /// Bytes that no other log has, hex.
    pub log: String,
    /// The strands of the table `log`, ascending.
    pub strands: Vec<StrandParts>,
    /// The files of the table `usage`, ascending by originator and day.
    pub usage: Vec<TallyPart>,
    /// The files of the table `congestion`, likewise.
    pub congestion: Vec<TallyPart>,
    /// The files of the table `checkpoints`, likewise. Exports of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<TallyPart>,
    /// The files of the table `void_statements`, likewise. Exports of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void_statements: Vec<TallyPart>,
    /// The only file of the table `rates`. Rates belong to no strand and no day, so both are 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<TallyPart>,
    /// The origin of each strand's files in `usage` and `congestion`, ascending. Exports of earlier versions have none:
    /// their tallies are those that the keeper has stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<StrandTallies>,
}

/// The origin of a strand's tallies. A claim of the manifest's writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrandTallies {
    /// The strand.
    pub originator_id: OriginatorId,
    /// The origin.
    pub origin: TallyOrigin,
    /// The last place that they count.
    pub through: SequenceId,
    /// The number of places up to `through` that the source did not show, for derived tallies. These do not count
    /// pruned places, although their payers were charged.
    pub not_shown: u64,
    /// BLAKE3 over the rates that give the amounts of derived tallies, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<String>,
    /// The reason why the last run could not make tallies, in words for people. Tallies of an earlier run stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// The origin of tallies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TallyOrigin {
    /// The keeper of the log has them beside it, as it booked them.
    Stored,
    /// The exporting program derived them from the envelopes and the rates.
    Derived,
    /// There are none.
    None,
}

/// The files of one strand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrandParts {
    /// The strand.
    pub originator_id: OriginatorId,
    /// Its files, ascending. The first begins at place 1, and each other one behind the one before it.
    pub parts: Vec<LogPart>,
    /// The head that a folder stated in the last run. Absent if the run ended before the head, at an envelope that
    /// waits for its verdict, and for a running node, whose head would be an unverified claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<SequenceId>,
    /// The highest place that holds an envelope, if it lies behind the head: a fault of the folder, whose rows are not
    /// exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond_head: Option<SequenceId>,
}

/// A file with a range of a strand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPart {
    /// The first place, included.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
    /// The file.
    pub file: FileDigest,
    /// The key by which the signatures of all envelopes in the file were judged when it was written; absent if they
    /// were not judged. A claim of the manifest's writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<String>,
}

/// A file with the tallies of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TallyPart {
    /// The strand.
    pub originator_id: OriginatorId,
    /// Days since 1970.
    pub day: u32,
    /// The file; absent before the first one is in its place.
    pub file: Option<FileDigest>,
    /// The file that takes its place in a run that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<FileDigest>,
}

/// The form of the file: the manifest and its own digest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    manifest: Manifest,
    /// BLAKE3 of the manifest as compact JSON, hex. It detects damage, but not a forged manifest.
    blake3: String,
}

impl StrandParts {
    /// Returns the last place that the export has processed.
    #[must_use]
    pub fn through(&self) -> SequenceId {
        self.parts.last().map_or(SequenceId::NONE, |part| part.through)
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.file.rows))
    }
}

impl Manifest {
    /// Returns the numbers of rows of each strand in the tables `checkpoints` and `void_statements`. Of a file that an
    /// interrupted run was about to replace, the smaller number of the old and the new one counts.
    #[must_use]
    pub fn rows_beside(&self) -> BTreeMap<OriginatorId, [u64; 2]> {
        let mut all = BTreeMap::<OriginatorId, [u64; 2]>::new();
        for (table, parts) in [&self.checkpoints, &self.void_statements].into_iter().enumerate() {
            for TallyPart { originator_id, file, next, .. } in parts {
                let rows = file.as_ref().map_or(0, |file| file.rows);
                let next = next.as_ref().map_or(u64::MAX, |file| file.rows);
                let sum = &mut all.entry(*originator_id).or_default()[table];
                *sum = sum.saturating_add(rows.min(next));
            }
        }
        all
    }

    /// Makes the manifest of an export without files.
    #[must_use]
    pub fn new(network: String, node: OriginatorId, log: &[u8]) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            network,
            node_id: node,
            log: hex::encode(log),
            strands: Vec::new(),
            usage: Vec::new(),
            congestion: Vec::new(),
            checkpoints: Vec::new(),
            void_statements: Vec::new(),
            rates: Vec::new(),
            tallies: Vec::new(),
        }
    }

    /// Reads the manifest of a folder; `None` if it has none. The file is untrusted: its length is bounded, and names
    /// of files do not come from it.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or contradicts itself.
    pub fn read(folder: &Path) -> Result<Option<Self>, ExportError> {
        let path = folder.join(FILE_NAME);
        let file = match open_plain(&path) {
            Ok(file) => file,
            Err(ExportError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        let read = file.take(LEN_BYTES_MAX + 1).read_to_string(&mut text);
        let read = read.map_err(ExportError::io(&path))?;
        if read as u64 > LEN_BYTES_MAX {
            return Err(ExportError::malformed(&path, "the manifest is too long"));
        }
        Self::parse(&text).map(Some).map_err(|text| ExportError::malformed(&path, text))
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// A sentence for people that names the fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: ManifestFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let manifest = file.manifest;
        if manifest.schema != SCHEMA {
            return Err(format!("schema {:?}, and this program reads {SCHEMA:?}", manifest.schema));
        }
        if file.blake3 != manifest.digest() {
            return Err("the manifest is damaged: its digest does not match".to_owned());
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let strands = self.strands.len().max(self.tallies.len());
        if strands > STRANDS_MAX {
            return Err(ExportError::TooManyStrands { found: strands }.to_string());
        }
        if !self.strands.is_sorted_by(|one, two| one.originator_id < two.originator_id) {
            return Err("the strands are not sorted".to_owned());
        }
        for strand in &self.strands {
            if strand.head.is_some_and(|head| head > SequenceId::MAX) {
                return Err(format!("strand {}: no head", strand.originator_id));
            }
            let is_beyond = |place: SequenceId| {
                strand.head.is_some_and(|head| head < place && place <= SequenceId::MAX)
            };
            if strand.beyond_head.is_some_and(|place| !is_beyond(place)) {
                return Err(format!("strand {}: no place beyond its head", strand.originator_id));
            }
            let mut next = SequenceId(1);
            for part in &strand.parts {
                let is_range = part.from == next && part.through >= part.from;
                if !is_range || part.through > SequenceId::MAX {
                    let id = strand.originator_id;
                    return Err(format!(
                        "strand {id}: a file from {} after {}",
                        part.from,
                        next.previous()
                    ));
                }
                next = part.through.next();
            }
        }
        let key = |part: &TallyPart| (part.originator_id, part.day);
        for (_, parts) in self.tables() {
            if !parts.is_sorted_by(|one, two| key(one) < key(two)) {
                return Err("the files of tallies are not sorted".to_owned());
            }
        }
        if !self.tallies.is_sorted_by(|one, two| one.originator_id < two.originator_id) {
            return Err("the origins of tallies are not sorted".to_owned());
        }
        Ok(())
    }

    /// Requires that this manifest is of the same log as another one.
    ///
    /// # Errors
    /// [`ExportError::OtherLog`], which names the log of this manifest.
    pub(super) fn require_log_of(&self, other: &Self) -> Result<(), ExportError> {
        if (&self.network, self.node_id, &self.log) == (&other.network, other.node_id, &other.log) {
            return Ok(());
        }
        let (network, node_id) = (self.network.clone(), self.node_id);
        Err(ExportError::OtherLog { network, node_id })
    }

    fn digest(&self) -> String {
        let text = serde_json::to_string(self).expect("a manifest has text keys only");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// Returns the text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let file = ManifestFile { blake3: self.digest(), manifest: self.clone() };
        serde_json::to_string_pretty(&file).expect("a manifest has text keys only")
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), ExportError> {
        write_whole(&folder.join(FILE_NAME), &self.to_text())
    }

    /// Reads every file of a folder, and compares it with the manifest. Reads several files at once.
    ///
    /// # Errors
    /// For the first file that is missing or has other bytes.
    pub(crate) fn verify_files(&self, folder: &Path) -> Result<(), ExportError> {
        let mut files = Vec::new();
        for strand in &self.strands {
            for part in &strand.parts {
                let path = log_path(folder, strand.originator_id, part.from);
                files.push((path, vec![&part.file]));
            }
        }
        for (table, parts) in self.tables() {
            for part in parts {
                let path = tally_path(folder, table, part.originator_id, part.day);
                let may_be_absent = part.file.is_none() && !path.exists();
                if !may_be_absent {
                    files.push((path, part.file.iter().chain(&part.next).collect()));
                }
            }
        }
        verify_all(&files)
    }

    /// Determines for each file that a run was about to replace whether the old or the new one is in place, because the
    /// run may have been interrupted.
    pub(super) fn end_interrupted(&mut self, folder: &Path) -> Result<(), ExportError> {
        for (table, parts) in self.tables_mut() {
            for part in parts.iter_mut() {
                let Some(next) = part.next.take() else { continue };
                let path = tally_path(folder, table, part.originator_id, part.day);
                if path.exists() && digest_of(&path)? == (next.len_bytes, next.blake3.clone()) {
                    part.file = Some(next);
                }
            }
        }
        Ok(())
    }

    /// Returns the tables whose files are by strand and day.
    pub(super) fn tables(&self) -> [(&'static str, &Vec<TallyPart>); 5] {
        let Self { usage, congestion, checkpoints, void_statements, rates, .. } = self;
        [
            (USAGE.name, usage),
            (CONGESTION.name, congestion),
            (CHECKPOINTS.name, checkpoints),
            (VOID_STATEMENTS.name, void_statements),
            (RATES.name, rates),
        ]
    }

    pub(super) fn tables_mut(&mut self) -> [(&'static str, &mut Vec<TallyPart>); 5] {
        let Self { usage, congestion, checkpoints, void_statements, rates, .. } = self;
        [
            (USAGE.name, usage),
            (CONGESTION.name, congestion),
            (CHECKPOINTS.name, checkpoints),
            (VOID_STATEMENTS.name, void_statements),
            (RATES.name, rates),
        ]
    }

    pub(super) fn strand_mut(&mut self, originator: OriginatorId) -> &mut StrandParts {
        let at = self.strands.binary_search_by_key(&originator, |strand| strand.originator_id);
        let at = at.unwrap_or_else(|at| {
            let (parts, head, beyond_head) = (Vec::new(), None, None);
            let strand = StrandParts { originator_id: originator, parts, head, beyond_head };
            self.strands.insert(at, strand);
            at
        });
        &mut self.strands[at]
    }

    /// Returns the origin of a strand's tallies, or the origin `none` if the manifest has no entry.
    pub(super) fn tallies_of(&self, originator: OriginatorId) -> StrandTallies {
        let at = self.tallies.binary_search_by_key(&originator, |strand| strand.originator_id);
        at.map(|at| self.tallies[at].clone()).unwrap_or(StrandTallies {
            originator_id: originator,
            origin: TallyOrigin::None,
            through: SequenceId::NONE,
            not_shown: 0,
            rates: None,
            missing: None,
        })
    }

    /// Records the origin of a strand's tallies.
    pub(super) fn note_tallies(&mut self, tallies: StrandTallies) {
        let id = tallies.originator_id;
        match self.tallies.binary_search_by_key(&id, |strand| strand.originator_id) {
            Ok(at) => self.tallies[at] = tallies,
            Err(at) => self.tallies.insert(at, tallies),
        }
    }

    /// Returns the strand's files, if there are any.
    #[must_use]
    pub fn strand(&self, originator: OriginatorId) -> Option<&StrandParts> {
        let at = self.strands.binary_search_by_key(&originator, |strand| strand.originator_id);
        at.ok().map(|at| &self.strands[at])
    }
}

/// Compares files with their digests, on several threads: hashing on one core is slower than most disks.
///
/// # Errors
/// For the first file, in the order of the list, that is missing or has none of its digests.
fn verify_all(files: &[(PathBuf, Vec<&FileDigest>)]) -> Result<(), ExportError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX);
    let next = AtomicUsize::new(0);
    let read = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (path, listed) = files.get(at)?;
            let verified = open_plain(path).and_then(|mut file| verify(&mut file, path, listed));
            if let Err(error) = verified {
                // Files before this one are being read, and no later one has to be.
                next.fetch_max(files.len(), Ordering::Relaxed);
                return Some((at, error));
            }
        }
    };
    let mut failed = Vec::new();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        for reader in readers {
            match reader.join() {
                Ok(found) => failed.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    match failed.into_iter().min_by_key(|(at, _)| *at) {
        None => Ok(()),
        Some((_, error)) => Err(error),
    }
}

/// Returns the path of a file of the table `log`.
#[must_use]
pub fn log_path(folder: &Path, originator: OriginatorId, from: SequenceId) -> PathBuf {
    folder.join(log_name(originator, from))
}

/// Returns that path below the folder.
pub(super) fn log_name(originator: OriginatorId, from: SequenceId) -> String {
    format!("{}/originator={originator}/from={:019}.parquet", LOG.name, from.0)
}

pub(super) fn tally_path(
    folder: &Path,
    table: &str,
    originator: OriginatorId,
    day: u32,
) -> PathBuf {
    folder.join(tally_name(table, originator, day))
}

pub(super) fn tally_name(table: &str, originator: OriginatorId, day: u32) -> String {
    format!("{table}/originator={originator}/day={day:05}.parquet")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::table::TABLES;
    use super::*;

    /// A table that the manifest lacks would be written, and neither verified nor copied.
    #[test]
    fn the_manifest_lists_the_files_of_each_table() {
        let mut manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[7; 16]);
        let by_day = manifest.tables().map(|(table, _)| table);
        assert_eq!(by_day, manifest.tables_mut().map(|(table, _)| table));
        let [log, others @ ..] = TABLES.map(|table| table.name);
        assert_eq!((log, others), ("log", by_day));
    }

    /// The form of manifests of earlier versions. Exports are continued for years, and the digest is over this text.
    #[test]
    fn ids_are_plain_numbers_as_in_manifests_of_earlier_versions() {
        let file = r#"{"rows":9,"len_bytes":5,"blake3":"00"}"#;
        let manifest = [
            r#"{"schema":"hawser-export/1","network":"net","node_id":100,"log":"aa","strands":["#,
            r#"{"originator_id":200,"parts":[{"from":1,"through":9,"file":"#,
            file,
            r#"}],"head":9,"beyond_head":12}],"usage":[{"originator_id":200,"day":3,"file":"#,
            file,
            r#"}],"congestion":[],"tallies":[{"originator_id":200,"origin":"stored","#,
            r#""through":9,"not_shown":0}]}"#,
        ];
        let manifest = manifest.concat();
        let digest = blake3::hash(manifest.as_bytes()).to_hex();
        let text = format!(r#"{{"manifest":{manifest},"blake3":"{digest}"}}"#);
        let read = Manifest::parse(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), manifest);
        assert_eq!(read.strands[0].beyond_head, Some(SequenceId(12)));
        assert_eq!(read.tallies[0].originator_id, OriginatorId(200));
    }

    #[test]
    fn of_several_damaged_files_the_first_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        let digest = |bytes: &[u8]| FileDigest {
            rows: 1,
            len_bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        let (good, other) = (digest(b"good"), digest(b"other"));
        let path = |at: usize| place.path().join(format!("{at:02}"));
        let files: Vec<_> = (0..40).map(|at| (path(at), vec![&other, &good])).collect();
        files.iter().for_each(|(path, _)| fs::write(path, b"good").unwrap());
        verify_all(&files).unwrap();
        verify_all(&[]).unwrap();
        for damaged in [39, 11, 7] {
            fs::write(path(damaged), b"bad").unwrap();
            let error = verify_all(&files).unwrap_err().to_string();
            assert!(error.contains(path(damaged).to_str().unwrap()), "{error}");
        }
        fs::remove_file(path(3)).unwrap();
        assert!(matches!(verify_all(&files), Err(ExportError::Io { .. })));
    }
}
