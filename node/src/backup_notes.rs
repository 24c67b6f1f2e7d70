//! Records of backups in a data folder: the last backup made, the last check of backups, and a
//! destination that does not answer.
//!
//! Each record is a small JSON file in the folder. The node, or a command that has opened a stopped node's database,
//! writes the first; `hawser backup verify` writes the second, so neither overwrites the other's record. Both write the
//! third, and remove it when the destination answers. The records inform the operator: no restore reads them, no backup
//! contains them, and any user who may write to the folder may alter them.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use hawser_api::{BackupMade, BackupNotes, BackupPlaceUnreachable, BackupVerified, BackupsView};
use hawser_proto::OriginatorId;
use hawser_storage::{StoreIdentity, open_plain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::write_whole;

/// The name of the file about the last backup made.
const MADE: &str = "last-backup.json";
/// The name of the file about the last check.
const VERIFIED: &str = "last-backup-check.json";
/// The name of the file about a destination that does not answer.
const UNREACHABLE: &str = "backup-place-unreachable.json";
/// The time after the last attempt at which another destination's answer removes a record. A guess: a destination that
/// is still in use is asked every night.
const UNUSED_AFTER_S: u64 = 2 * 86_400;
/// The longest error text in a record, in characters. A guess: a line or two.
const ERROR_CHARS_MAX: usize = 400;
/// The longest record that is read, in bytes. A guess: records have some hundred, but the name of a folder may be long.
const LEN_BYTES_MAX: u64 = 64 * 1024;

/// A record of a backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeNote {
    /// The backup's name.
    pub backup: String,
    /// The folder or bucket that contains it.
    pub to: String,
    /// The network of the database.
    pub network: String,
    /// The node whose database it is.
    pub node_id: OriginatorId,
    /// The address of the node's key.
    pub signer: String,
    /// The time at which it began, unix seconds.
    pub made_unix_s: u64,
    /// Its duration in milliseconds.
    pub took_ms: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The number of bytes that no earlier backup contained.
    pub bytes_new: u64,
    /// True if it is signed with the node's key.
    pub signed: bool,
}

impl MadeNote {
    /// Returns true if a backup is of the same node, according to its manifest.
    #[must_use]
    pub fn is_of(&self, identity: &StoreIdentity) -> bool {
        self.network == identity.network
            && self.node_id == identity.node
            && self.signer == identity.public_key.address().to_string()
    }
}

/// A record of a check of the node's backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedNote {
    /// The name of the newest backup that was checked.
    pub backup: String,
    /// The time at which the check ended, unix seconds.
    pub verified_unix_s: u64,
    /// True if that backup can be restored.
    pub whole: bool,
    /// The number of the node's backups that were checked.
    pub checked: u64,
    /// The number of those that cannot be restored.
    pub damaged: u64,
}

/// Records that a backup destination did not answer, and returns the record.
///
/// # Errors
/// Error of the operating system.
pub(crate) fn note_unreachable(
    data_dir: &Path,
    place: &str,
    error: &str,
    now_unix_s: u64,
) -> io::Result<BackupPlaceUnreachable> {
    // A record that cannot be read is replaced.
    let before = unreachable(data_dir).ok().flatten().filter(|note| note.place == place);
    let since_unix_s = before.as_ref().map_or(now_unix_s, |note| note.since_unix_s);
    let note = BackupPlaceUnreachable {
        place: place.to_owned(),
        since_unix_s,
        tried_unix_s: now_unix_s,
        attempts: before.map_or(0, |note| note.attempts).saturating_add(1),
        error: error.chars().take(ERROR_CHARS_MAX).collect(),
    };
    write(&data_dir.join(UNREACHABLE), &note)?;
    Ok(note)
}

/// Removes the record if this destination has answered. A record of another destination is kept as long as that one is
/// still asked.
///
/// # Errors
/// Error of the operating system.
pub(crate) fn note_reached(data_dir: &Path, place: &str, now_unix_s: u64) -> io::Result<()> {
    let is_used = |note: &BackupPlaceUnreachable| {
        note.place != place && now_unix_s.saturating_sub(note.tried_unix_s) < UNUSED_AFTER_S
    };
    match unreachable(data_dir) {
        Ok(None) => Ok(()),
        Ok(Some(note)) if is_used(&note) => Ok(()),
        Ok(Some(_)) | Err(_) => match std::fs::remove_file(data_dir.join(UNREACHABLE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Reads the record of a destination that does not answer; `None` if there is none.
///
/// # Errors
/// Fails when the file cannot be read or parsed.
pub fn unreachable(data_dir: &Path) -> io::Result<Option<BackupPlaceUnreachable>> {
    read(&data_dir.join(UNREACHABLE))
}

/// Records a backup that was made.
///
/// # Errors
/// Error of the operating system.
pub(crate) fn note_made(data_dir: &Path, note: &MadeNote) -> io::Result<()> {
    write(&data_dir.join(MADE), note)
}

/// Records a check.
///
/// # Errors
/// Error of the operating system.
pub fn note_verified(data_dir: &Path, note: &VerifiedNote) -> io::Result<()> {
    write(&data_dir.join(VERIFIED), note)
}

/// Reads the record of the last backup made; `None` if there is none.
///
/// # Errors
/// Fails when the file cannot be read or parsed.
pub fn made(data_dir: &Path) -> io::Result<Option<MadeNote>> {
    read(&data_dir.join(MADE))
}

/// Reads the record of the last check; `None` if there is none.
///
/// # Errors
/// Fails when the file cannot be read or parsed.
pub fn verified(data_dir: &Path) -> io::Result<Option<VerifiedNote>> {
    read(&data_dir.join(VERIFIED))
}

fn write(path: &Path, note: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(note).map_err(io::Error::other)?;
    text.push(b'\n');
    write_whole(path, &text)
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    // A user who may write to the folder can put a link or a pipe there.
    let file = match open_plain(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(LEN_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}

/// The records of a data folder, read at each call.
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
            unreachable,
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
    use hawser_proto::SecretKey;
    use serde_json::{Value, json};

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
            node_id: OriginatorId(100),
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
        // A node of another version may have written it.
        let kept = std::fs::read(folder.path().join(UNREACHABLE)).unwrap();
        let form = json!({
            "place": "s3://a/b",
            "since_unix_s": 5,
            "tried_unix_s": 9,
            "attempts": 2,
            "error": "no route",
        });
        assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), form);
        let reached = |place: &str, now| note_reached(folder.path(), place, now).unwrap();
        reached("s3://other/b", 10);
        assert_eq!(notes.backups().unreachable.unwrap().place, "s3://a/b");
        assert_eq!(notes.backups().verified, None, "it is no check");
        reached("s3://a/b", 11);
        assert_eq!(notes.backups(), BackupNotes::default());
        reached("s3://a/b", 12);
        assert_eq!(silent("s3://a/b", 20).unwrap().since_unix_s, 20);
        // Another destination starts a new record, and so does an unreadable one.
        assert_eq!(silent("/mnt", 21).unwrap().attempts, 1);
        std::fs::write(folder.path().join(UNREACHABLE), "{").unwrap();
        assert!(notes.backups().fault.unwrap().starts_with(UNREACHABLE));
        assert_eq!(silent("/mnt", 22).unwrap().attempts, 1);
        // The operator has moved the backups: nothing asks the earlier destination any more.
        reached("s3://other/b", 22 + UNUSED_AFTER_S - 1);
        assert!(notes.backups().unreachable.is_some());
        reached("s3://other/b", 22 + UNUSED_AFTER_S);
        assert_eq!(notes.backups(), BackupNotes::default());
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
