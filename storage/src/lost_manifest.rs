//! Finds files of a database that its own list no longer names, because the disk has lost `CURRENT` or the manifest.
//! RocksDB would create a new database in such a folder, and remove the files at its next start.

use std::fs;
use std::io;
use std::path::Path;

use rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

use crate::family::Family;
use crate::kept_copy::{is_unfinished, require_finished};
use crate::open_error::OpenError;

/// The manifest of a database that is being created. RocksDB replaces it before it writes a row, so a crash may leave
/// it alone in the folder.
const FIRST_MANIFEST: &str = "MANIFEST-000001";
/// The file with the name of the manifest.
const CURRENT: &str = "CURRENT";

/// Returns the name of a file of a database in a folder that has lost `CURRENT`; `None` for every other folder, for one
/// that cannot be listed, and while an interrupted return to an earlier format has `CURRENT` elsewhere. No start opens
/// such a folder.
#[must_use]
pub fn file_of_lost_database(folder: &Path) -> Option<String> {
    let found = find(folder, is_of_database).ok().flatten();
    let is_finished = || matches!(is_unfinished(folder), Ok(false));
    found.filter(|_| !folder.join(CURRENT).is_file() && is_finished())
}

/// Returns the error for a folder without a database. It is a damaged one if it has files of a database, unless a
/// return to an earlier format has moved some of them.
pub(crate) fn no_database(folder: &Path) -> OpenError {
    if let Err(error) = require_finished(folder) {
        return error;
    }
    match require_none(folder) {
        Err(error @ OpenError::Corrupt { .. }) => error,
        Err(OpenError::Unwritable { path, source })
            if source.kind() != io::ErrorKind::NotADirectory =>
        {
            OpenError::Unreadable { path, source }
        }
        Ok(()) | Err(_) => OpenError::NotADatabase { path: folder.to_owned() },
    }
}

/// Refuses to create a database in a folder that has files of one and no `CURRENT`.
///
/// # Errors
/// [`OpenError::Corrupt`] with the name of a file, or [`OpenError::Unwritable`] if the folder cannot be listed.
pub(crate) fn require_none(folder: &Path) -> Result<(), OpenError> {
    let Some(file) = find(folder, is_of_database)? else { return Ok(()) };
    let current = folder.join(CURRENT);
    let cause = format!("{} is missing or unreadable, and {file} is there", current.display());
    Err(OpenError::Corrupt { cause })
}

/// Refuses a manifest that names no family of a node, in a folder with tables: they would count as obsolete. A crash
/// while a database is created leaves no tables.
///
/// # Errors
/// The errors of [`require_none`].
pub(crate) fn require_named(folder: &Path, families: &[String]) -> Result<(), OpenError> {
    let is_known = |name: &String| {
        name == DEFAULT_COLUMN_FAMILY_NAME || Family::ALL.into_iter().any(|it| name == it.name())
    };
    let is_whole = families.iter().any(|name| name == Family::Meta.name());
    // Another program's database is refused for its families.
    if is_whole || !families.iter().all(is_known) {
        return Ok(());
    }
    let Some(file) = find(folder, is_table)? else { return Ok(()) };
    let cause = format!(
        "the MANIFEST of {} names no column family of a node, and {file} is there",
        folder.display()
    );
    Err(OpenError::Corrupt { cause })
}

/// Returns the highest name that is wanted in a folder: that of a manifest, if there is one among them.
fn find(folder: &Path, is_wanted: fn(&str) -> bool) -> Result<Option<String>, OpenError> {
    let list = || -> io::Result<Option<String>> {
        let mut found: Option<String> = None;
        for file in fs::read_dir(folder)? {
            let name = file?.file_name();
            let name = name.to_str().filter(|name| is_wanted(name)).map(ToOwned::to_owned);
            found = found.max(name);
        }
        Ok(found)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Unwritable { path: folder.to_owned(), source }),
        Ok(found) => Ok(found),
    }
}

/// Returns true for files that a database has after its first start.
fn is_of_database(name: &str) -> bool {
    let is_manifest = || name.strip_prefix("MANIFEST-").is_some_and(is_number);
    is_table(name) || has_kind(name, "log") || (name != FIRST_MANIFEST && is_manifest())
}

/// Returns true for files with rows.
fn is_table(name: &str) -> bool {
    has_kind(name, "sst") || has_kind(name, "blob")
}

fn has_kind(name: &str, kind: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(number, it)| it == kind && is_number(number))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_database_are_told_from_those_of_a_start_that_was_cut_short() {
        for name in ["000012.sst", "000012.blob", "000009.log", "MANIFEST-000005"] {
            assert!(is_of_database(name), "{name}");
        }
        let others = [
            "MANIFEST-000001",
            "MANIFEST-",
            "LOG",
            "LOG.old.17",
            "LOCK",
            "IDENTITY",
            "OPTIONS-000007",
            ".sst",
            "000001.dbtmp",
            "write-probe",
            "a.log",
            "lost+found",
        ];
        for name in others {
            assert!(!is_of_database(name), "{name}");
        }
        assert!(!is_table("000009.log"));
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_not_called_empty() {
        let folder = tempfile::tempdir().unwrap();
        let [absent, file, itself] =
            ["absent", "file", "loop"].map(|name| folder.path().join(name));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("loop", &itself).unwrap();
        for path in [absent, file] {
            let refused = no_database(&path);
            assert!(matches!(refused, OpenError::NotADatabase { .. }), "{refused:?}");
        }
        let refused = no_database(&itself);
        assert!(matches!(refused, OpenError::Unreadable { .. }), "{refused:?}");
    }

    #[test]
    fn a_return_that_was_interrupted_has_lost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("000012.sst"), "").unwrap();
        assert_eq!(file_of_lost_database(folder.path()).as_deref(), Some("000012.sst"));
        assert!(matches!(no_database(folder.path()), OpenError::Corrupt { .. }));
        fs::write(folder.path().join(crate::kept_copy::NOTE), "aside 5").unwrap();
        assert_eq!(file_of_lost_database(folder.path()), None);
        let refused = no_database(folder.path());
        assert!(matches!(refused, OpenError::RollbackUnfinished { .. }), "{refused:?}");
    }
}
