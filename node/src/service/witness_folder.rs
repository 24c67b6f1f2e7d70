//! The record of the data folder from which a witness's key cosigns.
//!
//! A witness never cosigns a tree that contradicts an earlier one, and its data folder has the earlier ones. A folder
//! that is new, restored or copied lacks some of them: with it an honest witness would cosign the second story of a
//! node that lies. So the state folder of this host notes the one folder of each key, and a process with another folder
//! does not start.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hawser_proto::checkpoint::WitnessKey;

/// The first line of a record.
const TITLE: &str = "hawser witness key 1: do not copy, do not back up";
/// The longest record that is read, in bytes. A guess: records have some hundred bytes.
const LEN_BYTES_MAX: u64 = 4096;

/// Error of a witness's key that may have cosigned what the data folder lacks.
#[derive(Debug, thiserror::Error)]
pub enum WitnessFolderError {
    /// The record cannot be read or written.
    #[error(
        "cannot use {path}, which keeps from which folder this witness cosigns: {source}. Check owner, mode and free \
         space, or name another folder (--state-dir)"
    )]
    Unusable {
        /// The record.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Another process of this host cosigns with the key.
    #[error(
        "another process of this host cosigns with this witness key ({path} is locked): stop it first"
    )]
    Held {
        /// The locked record.
        path: PathBuf,
    },
    /// The key has cosigned from another folder.
    #[error(
        "this witness key has cosigned from another data folder than {data_dir}, which may lack what it has cosigned: \
         use a new key, or the other folder. Only if this folder has been moved and nothing was lost, or if no witness \
         with this key has ever started, remove {path}"
    )]
    OtherFolder {
        /// The data folder of this process.
        data_dir: PathBuf,
        /// The record.
        path: PathBuf,
    },
}

/// The folders of a process that cosigns.
#[derive(Debug, Clone, Copy)]
pub(super) struct WitnessPlace<'a> {
    /// The name of its network.
    pub(super) network: &'a str,
    /// The folder of this host's records.
    pub(super) state_dir: &'a Path,
    /// The data folder.
    pub(super) data_dir: &'a Path,
    /// The incarnation of the database in it.
    pub(super) incarnation: [u8; 16],
}

/// The right of this process to cosign with a key. No other process of this host has it until the value is dropped.
#[derive(Debug)]
pub(super) struct WitnessFolder {
    /// The record of the key, locked.
    record: File,
    path: PathBuf,
    /// The text that the record lacks, as the key has not cosigned yet.
    unwritten: Option<String>,
}

impl WitnessFolder {
    /// Claims a key for this process, and compares the folder with the record of the key.
    ///
    /// # Errors
    /// [`WitnessFolderError`].
    pub(super) fn claim(
        place: &WitnessPlace<'_>,
        key: &WitnessKey,
    ) -> Result<Self, WitnessFolderError> {
        let path = place.state_dir.join(name_of(place.network, key));
        let unusable = |source| WitnessFolderError::Unusable { path: path.clone(), source };
        let record = open(place.state_dir, &path).map_err(unusable)?;
        match record.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(WitnessFolderError::Held { path: path.clone() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let inode = fs::metadata(place.data_dir).map_err(unusable)?.ino();
        let incarnation = hex::encode(place.incarnation);
        let wanted = format!("{TITLE}\nincarnation={incarnation}\ninode={inode}\n");
        let mut found = Vec::new();
        (&record).take(LEN_BYTES_MAX).read_to_end(&mut found).map_err(unusable)?;
        // A start that ends before the note leaves an empty record, and no cosignature.
        let is_noted = !found.is_empty();
        if is_noted && found != wanted.as_bytes() {
            let data_dir = place.data_dir.to_owned();
            return Err(WitnessFolderError::OtherFolder { data_dir, path: path.clone() });
        }
        Ok(Self { record, path, unwritten: (!is_noted).then_some(wanted) })
    }

    /// Notes that the key cosigns from this folder. To be called before the first cosignature.
    ///
    /// # Errors
    /// [`WitnessFolderError::Unusable`].
    pub(super) fn note(&mut self) -> Result<(), WitnessFolderError> {
        let Some(text) = &self.unwritten else { return Ok(()) };
        let write = || -> io::Result<()> {
            (&self.record).write_all(text.as_bytes())?;
            self.record.sync_all()?;
            File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
        };
        write()
            .map_err(|source| WitnessFolderError::Unusable { path: self.path.clone(), source })?;
        self.unwritten = None;
        Ok(())
    }
}

/// Opens a record, and creates it if there is none.
fn open(state_dir: &Path, path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Returns the name of the record of a key, which may cosign in several networks. The settings take only names of
/// networks that a file may have. The witness's name is no part of it: a cosignature does not contain that, so one that
/// was made under another name is valid under this one, too.
fn name_of(network: &str, key: &WitnessKey) -> String {
    format!("witness-{network}-{}", hex::encode(key.public_key()))
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::{WitnessName, WitnessSigner};

    use super::*;

    fn key(seed: u8) -> WitnessKey {
        WitnessSigner::new(WitnessName::new("w.example/1").unwrap(), &[seed; 32]).key()
    }

    /// Claims a key, and starts to cosign.
    fn cosign(
        place: &WitnessPlace<'_>,
        key: &WitnessKey,
    ) -> Result<WitnessFolder, WitnessFolderError> {
        let mut folder = WitnessFolder::claim(place, key)?;
        folder.note()?;
        Ok(folder)
    }

    /// The operator restores the folder from a backup, makes a new one, or runs a copy.
    #[test]
    fn a_key_cosigns_from_one_folder_and_in_one_process() {
        let place = tempfile::tempdir().unwrap();
        let state_dir = place.path().join("state");
        let [data, copy] = ["data", "copy"].map(|name| place.path().join(name));
        for folder in [&data, &copy] {
            fs::create_dir(folder).unwrap();
        }
        let claim = |network: &str, seed: u8, data_dir: &Path, incarnation: u8| {
            let (state_dir, incarnation) = (state_dir.as_path(), [incarnation; 16]);
            cosign(&WitnessPlace { network, state_dir, data_dir, incarnation }, &key(seed))
        };
        let held = claim("test", 1, &data, 1).unwrap();
        let second = claim("test", 1, &data, 1).unwrap_err();
        assert!(matches!(second, WitnessFolderError::Held { .. }), "{second}");
        // Another key, and the same one in another network, have folders of their own.
        claim("test", 2, &copy, 2).unwrap();
        claim("other", 1, &copy, 2).unwrap();
        drop(held);
        claim("test", 1, &data, 1).unwrap();
        for (data_dir, incarnation) in [(&data, 3), (&copy, 1), (&copy, 3)] {
            let other = claim("test", 1, data_dir, incarnation).unwrap_err();
            assert!(matches!(other, WitnessFolderError::OtherFolder { .. }), "{other}");
        }
        claim("test", 1, &data, 1).unwrap();
        // The operator gives the witness another name, and keeps the key.
        let name = WitnessName::new("w.example/2").unwrap();
        let renamed = WitnessSigner::new(name, &[1; 32]).key();
        let folder = WitnessPlace {
            network: "test",
            state_dir: &state_dir,
            data_dir: &copy,
            incarnation: [2; 16],
        };
        let other = cosign(&folder, &renamed).unwrap_err();
        assert!(matches!(other, WitnessFolderError::OtherFolder { .. }), "{other}");
    }

    /// The start may fail behind the claim: a list cannot be read, or the log cannot be rebuilt.
    #[test]
    fn a_start_that_ends_before_it_cosigns_binds_the_key_to_no_folder() {
        let place = tempfile::tempdir().unwrap();
        let claim = |incarnation: u8| {
            let (state_dir, data_dir) = (place.path(), place.path());
            let incarnation = [incarnation; 16];
            let place = WitnessPlace { network: "test", state_dir, data_dir, incarnation };
            WitnessFolder::claim(&place, &key(1))
        };
        let first = claim(1).unwrap();
        let second = claim(2).unwrap_err();
        assert!(matches!(second, WitnessFolderError::Held { .. }), "it may yet cosign: {second}");
        drop(first);
        claim(2).unwrap().note().unwrap();
        let other = claim(1).unwrap_err();
        assert!(matches!(other, WitnessFolderError::OtherFolder { .. }), "{other}");
        let mut again = claim(2).unwrap();
        again.note().unwrap();
        drop(again);
        claim(2).unwrap();
    }

    #[test]
    fn an_empty_record_is_none_and_a_damaged_one_is_of_another_folder() {
        let place = tempfile::tempdir().unwrap();
        let claim = || {
            let (state_dir, data_dir) = (place.path(), place.path());
            let incarnation = [1; 16];
            cosign(&WitnessPlace { network: "test", state_dir, data_dir, incarnation }, &key(1))
        };
        let path = place.path().join(name_of("test", &key(1)));
        fs::write(&path, "").unwrap();
        claim().unwrap();
        let whole = fs::read(&path).unwrap();
        assert!(whole.starts_with(TITLE.as_bytes()));
        let mut longer = whole.clone();
        longer.push(b'\n');
        for damaged in [&whole[..whole.len() - 1], &longer[..], &[0xff; 5000][..]] {
            fs::write(&path, damaged).unwrap();
            let refused = claim().unwrap_err();
            assert!(matches!(refused, WitnessFolderError::OtherFolder { .. }), "{refused}");
        }
        fs::write(&path, whole).unwrap();
        claim().unwrap();
    }
}
