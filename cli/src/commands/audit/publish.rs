//! `hawser audit export --to s3://…`: copies the export in a folder to a bucket.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;

use hawser_audit::export::{Manifest, Publication, PublishedFile};
use hawser_audit::plain_file::{SymbolicLinks, open_plain};
use hawser_node::error::RunError;
use hawser_storage::{FoundObject, HeldObjects, Objects};

use super::keys;

/// Bytes that are read at once. A guess.
const STEP_BYTES: usize = 256 << 10;

/// Copies the files of the export in a folder that a bucket lacks, the manifest last. Returns the number of files and
/// of bytes.
///
/// The bucket is locked meanwhile. Two exporters of one log may have cut it into files at other places, and each would
/// replace files that the manifest of the other one lists.
///
/// # Errors
/// When the bucket has the export of another log, is in use, or cannot be read or written. A reader of the bucket then
/// finds the earlier export.
pub(super) fn publish(folder: &Path, to: &dyn Objects) -> Result<(u64, u64), RunError> {
    let here = Manifest::read(folder).map_err(RunError::failed)?;
    let here = here.ok_or_else(|| {
        RunError::failed(
            "the folder of the export has no manifest: run the export \
        again",
        )
    })?;
    let held = to.lock().map_err(|error| not_held(to, error))?;
    let there = manifest_of(to)?;
    if there.is_none() && has_files(to)? {
        let place = to.location("");
        let text = format!(
            "{}: it holds files, but no manifest of an export: name an empty place, or that of an \
            earlier export",
            place.display()
        );
        return Err(RunError::refused(text));
    }
    let mut plan = Publication::plan(&here, there.as_ref()).map_err(RunError::refused)?;
    if there.is_some() {
        let held = lengths_in(to)?;
        plan = plan.with_lost(&here, |name| held.get(name).copied());
    }
    let mut publishing = Publishing { folder, to, held, files: 0, bytes: 0 };
    publishing.bring(&plan.log)?;
    if let Some(interim) = &plan.interim {
        publishing.put(interim)?;
    }
    publishing.bring(&plan.tallies)?;
    publishing.put(&here)?;
    Ok((publishing.files, publishing.bytes))
}

/// An export that is being copied to a place, whose lock is held.
struct Publishing<'a> {
    folder: &'a Path,
    to: &'a dyn Objects,
    held: Box<dyn HeldObjects + 'a>,
    files: u64,
    bytes: u64,
}

impl Publishing<'_> {
    /// Copies files, one after the other.
    fn bring(&mut self, files: &[PublishedFile]) -> Result<(), RunError> {
        for file in files {
            self.held.keep().map_err(|error| not_held(self.to, error))?;
            copy(self.folder, file, self.to)?;
            self.files += 1;
            self.bytes += file.digest.len_bytes;
        }
        Ok(())
    }

    /// Writes a manifest, if no other exporter has taken the lock over.
    fn put(&mut self, manifest: &Manifest) -> Result<(), RunError> {
        self.held.confirm().map_err(|error| not_held(self.to, error))?;
        put(self.to, manifest)
    }
}

fn not_held(to: &dyn Objects, error: io::Error) -> RunError {
    let place = to.location("lock");
    match error.kind() {
        ErrorKind::WouldBlock => RunError::refused(format!(
            "{}: it is in use by another export to this place: run the export again when that has ended. The lock of \
             one that was killed lasts for two hours",
            place.display()
        )),
        _ => RunError::failed(format!("{}: {error}", place.display())),
    }
}

fn manifest_of(to: &dyn Objects) -> Result<Option<Manifest>, RunError> {
    let place = to.location(Publication::MANIFEST);
    let fail = |error: io::Error| RunError::failed(format!("{}: {error}", place.display()));
    match to.find(Publication::MANIFEST).map_err(fail)? {
        FoundObject::Absent => return Ok(None),
        FoundObject::NotPlain | FoundObject::Plain(_) => {}
    }
    // A longer one is refused before a byte is read.
    let mut source =
        to.open(Publication::MANIFEST, Publication::MANIFEST_LEN_BYTES_MAX).map_err(fail)?;
    let mut text = String::new();
    source.read_to_string(&mut text).map_err(fail)?;
    let wrong = |error| RunError::refused(format!("{}: {error}", place.display()));
    Manifest::parse(&text).map(Some).map_err(wrong)
}

/// Returns true if the place has files of an export.
fn has_files(to: &dyn Objects) -> Result<bool, RunError> {
    for table in Publication::folders() {
        let place = to.location(table);
        let fail = |error: io::Error| RunError::failed(format!("{}: {error}", place.display()));
        if to.has_folder(table).map_err(fail)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the lengths of the files that a place holds in the folders of an export.
fn lengths_in(to: &dyn Objects) -> Result<BTreeMap<String, u64>, RunError> {
    let mut held = BTreeMap::new();
    for table in Publication::folders() {
        let place = to.location(table);
        let fail = |error: io::Error| RunError::failed(format!("{}: {error}", place.display()));
        if to.has_folder(table).map_err(fail)? {
            let listed = to.list(table).map_err(fail)?.into_iter().filter(|it| it.is_plain);
            held.extend(listed.map(|it| (it.name, it.len_bytes)));
        }
    }
    Ok(held)
}

/// Copies a file, if its bytes are those that the manifest names.
fn copy(folder: &Path, file: &PublishedFile, to: &dyn Objects) -> Result<(), RunError> {
    let path = folder.join(&file.name);
    let fail = |error: io::Error| RunError::failed(format!("{}: {error}", path.display()));
    let mut source =
        open_plain(&path, SymbolicLinks::Refused).map_err(|error| keys::unread(&path, &error))?;
    let place = to.location(&file.name);
    let not_written = |error: io::Error| RunError::failed(format!("{}: {error}", place.display()));
    let mut target = to.create(&file.name).map_err(not_written)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; STEP_BYTES]);
    loop {
        let read = source.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        target.write_all(&buffer[..read]).map_err(not_written)?;
    }
    if hasher.finalize().to_hex().as_str() != file.digest.blake3 {
        return Err(RunError::failed(format!(
            "{}: the file has changed since the export was made: run the export \
            again",
            path.display()
        )));
    }
    target.finish().map(drop).map_err(not_written)
}

fn put(to: &dyn Objects, manifest: &Manifest) -> Result<(), RunError> {
    let place = to.location(Publication::MANIFEST);
    let write = || {
        let mut new = to.create(Publication::MANIFEST)?;
        new.write_all(manifest.to_text().as_bytes())?;
        new.finish().map(drop)
    };
    write().map_err(|error| RunError::failed(format!("{}: {error}", place.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hawser_audit::export::{FileDigest, LogPart, StrandParts};
    use hawser_node::error::RunErrorKind;
    use hawser_proto::{OriginatorId, SequenceId};
    use hawser_storage::FolderObjects;

    use super::*;

    /// Another export without a manifest, or files of another program, are in the way.
    #[test]
    fn a_place_with_files_of_any_table_is_not_empty() {
        let place = tempfile::tempdir().unwrap();
        let to = FolderObjects::new(place.path());
        assert!(!has_files(&to).unwrap());
        for table in Publication::folders() {
            fs::create_dir(place.path().join(table)).unwrap();
            assert!(has_files(&to).unwrap(), "{table}");
            fs::remove_dir(place.path().join(table)).unwrap();
        }
    }

    /// Another user, or a rule of a bucket, removes or cuts a file that the manifest of the place lists.
    #[test]
    fn a_file_that_the_place_has_lost_is_brought_again() {
        let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let name = "log/originator=200/from=0000000000000000001.parquet";
        fs::create_dir_all(here.path().join("log/originator=200")).unwrap();
        fs::write(here.path().join(name), b"rows").unwrap();
        let blake3 = blake3::hash(b"rows").to_hex().to_string();
        let file = FileDigest { rows: 1, len_bytes: 4, blake3 };
        let (from, through) = (SequenceId(1), SequenceId(1));
        let parts = vec![LogPart { from, through, file, judged_by: None }];
        let originator_id = OriginatorId(200);
        let strand = StrandParts { originator_id, parts, head: None, beyond_head: None };
        let mut manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[7; 16]);
        manifest.strands = vec![strand];
        fs::write(here.path().join(Publication::MANIFEST), manifest.to_text()).unwrap();
        let to = FolderObjects::new(there.path());
        let brought = || publish(here.path(), &to).unwrap();
        assert_eq!((brought(), brought()), ((1, 4), (0, 0)));
        fs::remove_file(there.path().join(name)).unwrap();
        assert_eq!((brought(), brought()), ((1, 4), (0, 0)));
        fs::write(there.path().join(name), b"row").unwrap();
        assert_eq!(brought(), (1, 4));
        assert_eq!(fs::read(there.path().join(name)).unwrap(), b"rows");
    }

    #[test]
    fn an_error_of_the_place_names_the_place() {
        let here = tempfile::tempdir().unwrap();
        let there = tempfile::tempdir().unwrap();
        fs::write(here.path().join("part"), b"rows").unwrap();
        let digest = FileDigest {
            rows: 1,
            len_bytes: 4,
            blake3: blake3::hash(b"rows").to_hex().to_string(),
        };
        let file = PublishedFile { name: "part".to_owned(), digest };
        let gone = there.path().join("gone");
        // A file has the name of the place's folder.
        fs::write(&gone, b"").unwrap();
        let error = copy(here.path(), &file, &FolderObjects::new(&gone)).unwrap_err();
        assert!(error.text.starts_with(gone.to_str().unwrap()), "{error}");
        copy(here.path(), &file, &FolderObjects::new(there.path())).unwrap();
        assert_eq!(fs::read(there.path().join("part")).unwrap(), b"rows");
    }

    /// Two auditors who export one log to one bucket at once, each from a folder of their own.
    #[test]
    fn an_export_waits_for_no_other_one_and_changes_nothing_beside_it() {
        let (work, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[7; 16]);
        std::fs::write(work.path().join(Publication::MANIFEST), manifest.to_text()).unwrap();
        let to = FolderObjects::new(place.path());
        let other = to.lock().unwrap();
        let refused = publish(work.path(), &to).unwrap_err();
        assert_eq!(refused.kind, RunErrorKind::Refused, "{refused:?}");
        assert!(refused.text.contains("in use by another export"), "{refused:?}");
        assert_eq!(to.find(Publication::MANIFEST).unwrap(), FoundObject::Absent);
        drop(other);
        assert_eq!(publish(work.path(), &to).unwrap(), (0, 0));
        assert_eq!(manifest_of(&to).unwrap(), Some(manifest));
    }

    /// A machine that was suspended for hours.
    #[test]
    fn an_export_whose_lock_was_taken_over_writes_no_manifest() {
        #[derive(Debug)]
        struct Lost;
        impl HeldObjects for Lost {
            fn keep(&mut self) -> io::Result<()> {
                Ok(())
            }

            fn confirm(&mut self) -> io::Result<()> {
                Err(ErrorKind::WouldBlock.into())
            }
        }
        let place = tempfile::tempdir().unwrap();
        let to = FolderObjects::new(place.path());
        let held = Box::new(Lost);
        let mut publishing = Publishing { folder: place.path(), to: &to, held, files: 0, bytes: 0 };
        let manifest = Manifest::new("testnet".to_owned(), OriginatorId(100), &[7; 16]);
        assert_eq!(publishing.put(&manifest).unwrap_err().kind, RunErrorKind::Refused);
        assert_eq!(to.find(Publication::MANIFEST).unwrap(), FoundObject::Absent);
    }
}
