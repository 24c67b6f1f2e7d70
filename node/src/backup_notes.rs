//! Notes of a data folder about its backups: the last one that was made, the last check of some, and a place that does not
//! answer.
//!
//! They are small files of JSON in the folder. The node, or the command that holds a stopped node's database, writes
//! the first; `hawser backup verify` writes the second, so neither overwrites a note of the other. Either notes the
//! third,
//! and removes it when the place answers. They are notes for
//! an operator: no restore reads them, no backup holds them, and each user who may write into the folder may alter them.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use hawser_api::{BackupMade, BackupNotes, BackupPlaceUnreachable, BackupVerified, BackupsView};
use hawser_storage::{StoreIdentity, open_plain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::write_whole;

/// Name of the file about the last backup that was made.
const MADE: &str = "last-backup.json";
/// Name of the file about the last check.
const VERIFIED: &str = "last-backup-check.json";
/// Name of the file about a place that does not answer.
const UNREACHABLE: &str = "backup-place-unreachable.json";
/// The longest text of an error in a note, in characters. A guess: a line or two.
const ERROR_CHARS_MAX: usize = 400;
/// The longest note that is read, in bytes. A guess: one has some hundred, and the name of a folder may be long.
const LEN_BYTES_MAX: u64 = 64 * 1024;

/// A note about a backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeNote {
    /// The backup's name.
    pub backup: String,
    /// The folder or bucket that it lies in.
    pub to: String,
    /// The network of the database.
    pub network: String,
    /// The node whose database it is.
    pub node_id: u32,
    /// Address of the node's key.
    pub signer: String,
    /// Time at which it began, unix seconds.
    pub made_unix_s: u64,
    /// Time that it took, milliseconds.
    pub took_ms: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// Bytes that no earlier backup had.
    pub bytes_new: u64,
    /// True if the node's key has signed it.
    pub signed: bool,
}

impl MadeNote {
    /// Returns true if a backup is of the same node, by its manifest.
    #[must_use]
    pub fn is_of(&self, identity: &StoreIdentity) -> bool {
        self.network == identity.network
            && self.node_id == identity.node.0
            && self.signer == identity.public_key.address().to_string()
    }
}

/// A note about a check of backups of the folder's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedNote {
    /// The newest one that was checked.
    pub backup: String,
    /// Time of the check's end, unix seconds.
    pub verified_unix_s: u64,
    /// True if that one can be restored.
    pub whole: bool,
    /// Number of the node's backups that were checked.
    pub checked: u64,
    /// Those of them that cannot be restored.
    pub damaged: u64,
}

/// A note about a place of backups that does not answer. It says nothing about the backups there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreachableNote {
    /// The folder or bucket.
    pub place: String,
    /// Time of the first attempt without an answer since the last one with one, unix seconds.
    pub since_unix_s: u64,
    /// Time of the last attempt, unix seconds.
    pub tried_unix_s: u64,
    /// Attempts in a row.
    pub attempts: u64,
    /// The error of the last one.
    pub error: String,
}

/// Notes that a place of backups did not answer, and returns the note.
///
/// # Errors
/// Error of the operating system.
pub fn note_unreachable(
    data_dir: &Path,
    place: &str,
    error: &str,
    now_unix_s: u64,
) -> io::Result<UnreachableNote> {
    // One that cannot be read is replaced.
    let before = unreachable(data_dir).ok().flatten().filter(|note| note.place == place);
    let since_unix_s = before.as_ref().map_or(now_unix_s, |note| note.since_unix_s);
    let note = UnreachableNote {
        place: place.to_owned(),
        since_unix_s,
        tried_unix_s: now_unix_s,
        attempts: before.map_or(0, |note| note.attempts).saturating_add(1),
        error: error.chars().take(ERROR_CHARS_MAX).collect(),
    };
    write(&data_dir.join(UNREACHABLE), &note)?;
    Ok(note)
}

/// Removes the note about a place that has answered. A note about another place stays.
///
/// # Errors
/// Error of the operating system.
pub fn note_reached(data_dir: &Path, place: &str) -> io::Result<()> {
    match unreachable(data_dir) {
        Ok(None) => Ok(()),
        Ok(Some(note)) if note.place != place => Ok(()),
        Ok(Some(_)) | Err(_) => match std::fs::remove_file(data_dir.join(UNREACHABLE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Reads the note about a place that does not answer; `None` if there is none.
///
/// # Errors
/// When the file cannot be read, or is no note.
pub fn unreachable(data_dir: &Path) -> io::Result<Option<UnreachableNote>> {
    read(&data_dir.join(UNREACHABLE))
}

/// Notes a backup that was made.
///
/// # Errors
/// Error of the operating system.
pub fn note_made(data_dir: &Path, note: &MadeNote) -> io::Result<()> {
    write(&data_dir.join(MADE), note)
}

/// Notes a check.
///
/// # Errors
/// Error of the operating system.
pub fn note_verified(data_dir: &Path, note: &VerifiedNote) -> io::Result<()> {
    write(&data_dir.join(VERIFIED), note)
}

/// Reads the note about the last backup that was made; `None` if there is none.
///
/// # Errors
/// When the file cannot be read, or is no note.
pub fn made(data_dir: &Path) -> io::Result<Option<MadeNote>> {
    read(&data_dir.join(MADE))
}

/// Reads the note about the last check; `None` if there is none.
///
/// # Errors
/// When the file cannot be read, or is no note.
pub fn verified(data_dir: &Path) -> io::Result<Option<VerifiedNote>> {
    read(&data_dir.join(VERIFIED))
}

fn write(path: &Path, note: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(note).map_err(io::Error::other)?;
    text.push(b'\n');
    write_whole(path, &text)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    // A user who may write into the folder can put a link or a pipe there.
    let file = match open_plain(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(LEN_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}

/// The notes of a data folder, read whenever they are asked for.
pub(crate) struct FolderNotes(pub(crate) PathBuf);

impl BackupsView for FolderNotes {
    fn backups(&self) -> BackupNotes {
        let mut faults = Vec::new();
        let made = made(&self.0).unwrap_or_else(|error| {
            faults.push(format!("{MADE}: {error}"));
            None
        });
        let verified = verified(&self.0).unwrap_or_else(|error| {
            faults.push(format!("{VERIFIED}: {error}"));
            None
        });
        let unreachable = unreachable(&self.0).unwrap_or_else(|error| {
            faults.push(format!("{UNREACHABLE}: {error}"));
            None
        });
        BackupNotes {
            unreachable: unreachable.map(BackupPlaceUnreachable::from),
            made: made.map(BackupMade::from),
            verified: verified.map(BackupVerified::from),
            fault: (!faults.is_empty()).then(|| faults.join("; ")),
        }
    }
}

impl From<MadeNote> for BackupMade {
    fn from(note: MadeNote) -> Self {
        Self {
            backup: note.backup,
            to: note.to,
            made_unix_s: note.made_unix_s,
            took_ms: note.took_ms,
            len_bytes: note.bytes,
            new_bytes: note.bytes_new,
            is_signed: note.signed,
        }
    }
}

impl From<UnreachableNote> for BackupPlaceUnreachable {
    fn from(note: UnreachableNote) -> Self {
        Self {
            place: note.place,
            since_unix_s: note.since_unix_s,
            tried_unix_s: note.tried_unix_s,
            attempts: note.attempts,
            error: note.error,
        }
    }
}

impl From<VerifiedNote> for BackupVerified {
    fn from(note: VerifiedNote) -> Self {
        Self {
            backup: note.backup,
            verified_unix_s: note.verified_unix_s,
            is_whole: note.whole,
            checked: note.checked,
            damaged: note.damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SecretKey};

    use super::*;

    fn identity(node: u32) -> StoreIdentity {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        StoreIdentity { network: "test".into(), node: OriginatorId(node), public_key }
    }

    fn note() -> MadeNote {
        MadeNote {
            backup: "one".into(),
            to: "/backups".into(),
            network: "test".into(),
            node_id: 100,
            signer: identity(100).public_key.address().to_string(),
            made_unix_s: 5,
            took_ms: 6,
            bytes: 7,
            bytes_new: 8,
            signed: true,
        }
    }

    #[test]
    fn a_folder_without_notes_has_none_and_says_so_without_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let notes = FolderNotes(folder.path().to_owned());
        assert_eq!(notes.backups(), BackupNotes::default());
        assert!(!folder.path().join(MADE).exists(), "reading leaves nothing behind");
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_the_last_one_stands() {
        let folder = tempfile::tempdir().unwrap();
        let notes = FolderNotes(folder.path().to_owned());
        note_made(folder.path(), &MadeNote { backup: "earlier".into(), ..note() }).unwrap();
        note_made(folder.path(), &note()).unwrap();
        assert_eq!(made(folder.path()).unwrap(), Some(note()));
        let check = VerifiedNote {
            backup: "one".into(),
            verified_unix_s: 9,
            whole: true,
            checked: 2,
            damaged: 0,
        };
        note_verified(folder.path(), &check).unwrap();
        let shown = notes.backups();
        assert_eq!(shown.made.unwrap().backup, "one");
        assert_eq!(shown.verified, Some(BackupVerified::from(check)));
        assert_eq!(shown.fault, None);
    }

    #[test]
    fn a_place_that_does_not_answer_is_noted_until_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let notes = FolderNotes(folder.path().to_owned());
        let silent = |place: &str, now| note_unreachable(folder.path(), place, "no route", now);
        assert_eq!(silent("s3://a/b", 5).unwrap().attempts, 1);
        let again = silent("s3://a/b", 9).unwrap();
        assert_eq!((again.since_unix_s, again.tried_unix_s, again.attempts), (5, 9, 2));
        note_reached(folder.path(), "s3://other/b").unwrap();
        assert_eq!(notes.backups().unreachable.unwrap().place, "s3://a/b");
        assert_eq!(notes.backups().verified, None, "it is no check");
        note_reached(folder.path(), "s3://a/b").unwrap();
        assert_eq!(notes.backups(), BackupNotes::default());
        note_reached(folder.path(), "s3://a/b").unwrap();
        assert_eq!(silent("s3://a/b", 20).unwrap().since_unix_s, 20);
        // Another place begins anew, and so does a note that is none.
        assert_eq!(silent("/mnt", 21).unwrap().attempts, 1);
        std::fs::write(folder.path().join(UNREACHABLE), "{").unwrap();
        assert!(notes.backups().fault.unwrap().starts_with(UNREACHABLE));
        assert_eq!(silent("/mnt", 22).unwrap().attempts, 1);
    }

    #[test]
    fn a_note_that_is_none_is_told_and_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let notes = FolderNotes(folder.path().to_owned());
        note_made(folder.path(), &note()).unwrap();
        let long = vec![b' '; usize::try_from(LEN_BYTES_MAX).unwrap() + 1];
        for content in [&b"{\"backup\": 1}"[..], b"", b"\xff", &long] {
            std::fs::write(folder.path().join(VERIFIED), content).unwrap();
            let shown = notes.backups();
            assert!(shown.made.is_some() && shown.verified.is_none());
            assert!(shown.fault.unwrap().starts_with(VERIFIED));
        }
    }

    #[test]
    fn backups_of_another_node_network_or_key_are_not_of_this_one() {
        assert!(note().is_of(&identity(100)));
        assert!(!note().is_of(&identity(200)));
        assert!(!note().is_of(&StoreIdentity { network: "other".into(), ..identity(100) }));
        let public_key = SecretKey::from_bytes(&[2; 32]).unwrap().public_key();
        assert!(!note().is_of(&StoreIdentity { public_key, ..identity(100) }));
    }
}
