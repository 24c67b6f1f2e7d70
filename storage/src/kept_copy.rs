//! The copy of a database that a migration leaves.
//!
//! Before a program raises the format of a database, it keeps the database as the earlier program wrote it, in the
//! folder `before-upgrade-N` inside the data folder; N is the earlier format. The copy consists of hard links, so it
//! takes room only after the database has deleted its own links. [`rollback`](crate::rollback) returns to it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;

use crate::error::DatabaseError;
use crate::folder::{is_folder, remove};
use crate::meta;
use crate::open_error::OpenError;

/// Start of the name of a copy; the format follows.
const KEPT: &str = "before-upgrade-";
/// Folder of a copy that is being made.
const UNFINISHED_COPY: &str = "before-upgrade.new";
/// Folder of a copy that is being removed.
const DISCARDED: &str = "before-upgrade.old";
/// File that an unfinished return leaves.
pub(crate) const NOTE: &str = "rollback-unfinished";

/// A copy of an earlier format.
pub(crate) struct KeptCopy {
    pub(crate) format: u32,
    pub(crate) path: PathBuf,
}

/// Keeps a copy of an open database of this format, in place of those that there are.
///
/// A row of the copy says that it may lack places: after the upgrade the node signs further ones. The database has the
/// row only meanwhile. If the process ends there, it loses the row when its node signs.
///
/// # Errors
/// When the copy cannot be made. The database is unchanged then, or has the row.
pub(crate) fn keep(db: &DB, folder: &Path, format: u32) -> Result<(), OpenError> {
    let kept = copy_folder(folder, format);
    let unwritable = |source| OpenError::Unwritable { path: kept.clone(), source };
    discard_all(folder).map_err(unwritable)?;
    let unfinished = folder.join(UNFINISHED_COPY);
    remove(&unfinished).map_err(unwritable)?;
    let lacked = meta::may_lack_places(db)?;
    meta::write_may_lack_places(db, true)?;
    let made = Checkpoint::new(db).and_then(|it| it.create_checkpoint(&unfinished));
    meta::write_may_lack_places(db, lacked)?;
    made.map_err(DatabaseError::from)?;
    fs::rename(&unfinished, &kept).and_then(|()| sync(folder)).map_err(unwritable)
}

/// Tells of the copies of a folder, which take room.
pub(crate) fn mention_copies(folder: &Path) {
    for copy in kept_copies(folder).unwrap_or_default() {
        let (format, path) = (copy.format, copy.path.display());
        tracing::info!(
            format,
            %path,
            "the database from before the upgrade is kept: `hawser rollback` returns to it, and with --discard removes it"
        );
    }
}

/// Returns true if a return to an earlier format was interrupted in this folder.
///
/// # Errors
/// When the note cannot be looked up. It does not count as absent then: a start would make a new database in a folder
/// whose files are aside.
pub(crate) fn is_unfinished(folder: &Path) -> io::Result<bool> {
    match fs::exists(folder.join(NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        found => found,
    }
}

/// Requires that no return to an earlier format was interrupted in this folder.
///
/// # Errors
/// [`OpenError::RollbackUnfinished`], and [`OpenError::Unreadable`] if it is not known.
pub(crate) fn require_finished(folder: &Path) -> Result<(), OpenError> {
    match is_unfinished(folder) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::RollbackUnfinished { path: folder.to_owned() }),
        Err(source) => Err(OpenError::Unreadable { path: folder.join(NOTE), source }),
    }
}

/// Returns the earlier format to which a folder can return, if it has a copy.
///
/// # Errors
/// When the folder cannot be read.
pub fn kept_format(folder: &Path) -> io::Result<Option<u32>> {
    Ok(kept_copies(folder)?.into_iter().map(|copy| copy.format).max())
}

/// Returns the copies of a folder.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn kept_copies(folder: &Path) -> io::Result<Vec<KeptCopy>> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let format = name.to_str().and_then(|name| name.strip_prefix(KEPT));
        let path = entry.path();
        if let Some(format) = format.and_then(|format| format.parse().ok())
            && path == copy_folder(folder, format)
            && is_folder(&path)?
        {
            copies.push(KeptCopy { format, path });
        }
    }
    Ok(copies)
}

/// Returns the folder of a copy of this format.
pub(crate) fn copy_folder(folder: &Path, format: u32) -> PathBuf {
    folder.join(format!("{KEPT}{format}"))
}

/// Removes the copies of a folder. Each one loses its name first, so that an interrupted removal leaves no part that
/// looks like a copy. Returns their number.
///
/// # Errors
/// The system's error.
pub(crate) fn discard_all(folder: &Path) -> io::Result<usize> {
    let discarded = folder.join(DISCARDED);
    remove(&discarded)?; // an interrupted removal has left it
    let copies = kept_copies(folder)?;
    for copy in &copies {
        fs::rename(&copy.path, &discarded)?;
        sync(folder)?;
        remove(&discarded)?;
    }
    Ok(copies.len())
}

/// Writes the names in a folder to the disk.
///
/// # Errors
/// The system's error.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
