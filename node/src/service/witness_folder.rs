//! The record of the data folder from which a witness's key cosigns.
//!
//! A witness never cosigns a tree that contradicts an earlier one, and its data folder has the earlier ones. A folder
//! that is new, restored, copied or set back lacks some of them: with it an honest witness would cosign the second
//! story of a node that lies. So the state folder of this host notes the one folder of each key and its last run, and a
//! process with another folder, or with one that lacks this run, does not start.
//!
//! A run is counted in the folder first, and then in the record: so a folder with a lower number is an older state of
//! itself. It is counted at the start, each hour, and at the end, because the folder may be copied meanwhile.
//!
//! While the disk is full or read-only, no run can be counted. Until one can be, the process serves readers and cosigns
//! nothing.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hawser_proto::checkpoint::WitnessKey;
use hawser_storage::{CommitError, Store};

/// The first line of a record.
const TITLE: &str = "hawser witness key 1: do not copy, do not back up";
/// Start of the line with the last run.
const RUN: &str = "run=";
/// Digits of that number, so that it can be overwritten in place.
const RUN_DIGITS: usize = 20;
/// Interval at which a run that goes on is counted again. A guess: two syncs are nothing in an hour, and copies that
/// are put back after a crash are usually older.
pub(super) const COUNT_EVERY: Duration = Duration::from_secs(3600);
/// Interval at which a process that waits tries to count its run. A guess: as soon as an operator looks again.
const TRY_EVERY: Duration = Duration::from_secs(10);
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
    /// The folder is an older state of the one that the key has cosigned from.
    #[error(
        "{data_dir} has an older state than it had when a witness with this key last ran: it may lack what the key has \
         cosigned since. Use a new key. Only if nothing was lost, remove {path}"
    )]
    SetBack {
        /// The data folder of this process.
        data_dir: PathBuf,
        /// The record.
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
    /// The number of the run cannot be read or written in the data folder.
    #[error(
        "the number of this run, by which a witness notices a folder that was set back, cannot be written: {0}"
    )]
    Run(#[from] CommitError),
}

impl WitnessFolderError {
    /// Returns true if the disk may permit it later.
    fn is_of_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::Unusable { source, .. } => {
                matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            }
            Self::Run(error) => error.is_of_disk(),
            Self::Held { .. } | Self::SetBack { .. } | Self::OtherFolder { .. } => false,
        }
    }
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
    /// The last run that the database has counted.
    pub(super) run: u64,
}

/// The right of this process to cosign with a key. No other process of this host has it until the value is dropped.
#[derive(Debug)]
pub(super) struct WitnessFolder {
    /// The record of the key, locked.
    record: File,
    path: PathBuf,
    /// The lines about the folder.
    folder: String,
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
        if !found.is_empty() {
            let run = found.strip_prefix(wanted.as_bytes()).and_then(run_of);
            let data_dir = place.data_dir.to_owned();
            match run {
                None => return Err(WitnessFolderError::OtherFolder { data_dir, path }),
                Some(run) if place.run < run => {
                    return Err(WitnessFolderError::SetBack { data_dir, path });
                }
                Some(_) => {}
            }
        }
        Ok(Self { record, path, folder: wanted })
    }

    /// Notes that the key cosigns from this folder, and the run that the folder has counted durably. To be called
    /// before the first cosignature, and after the last one.
    ///
    /// # Errors
    /// [`WitnessFolderError::Unusable`].
    pub(super) fn note(&self, run: u64) -> Result<(), WitnessFolderError> {
        let text = format!("{}{RUN}{run:0width$}\n", self.folder, width = RUN_DIGITS);
        let write = || -> io::Result<()> {
            self.record.write_all_at(text.as_bytes(), 0)?;
            self.record.sync_all()?;
            File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
        };
        write().map_err(|source| WitnessFolderError::Unusable { path: self.path.clone(), source })
    }
}

/// A witness's right to cosign, which waits while the disk cannot be written to.
#[derive(Debug)]
pub(super) struct WitnessRight {
    network: String,
    state_dir: PathBuf,
    data_dir: PathBuf,
    key: WitnessKey,
    /// The claimed key; `None` while the record cannot be opened.
    folder: Option<WitnessFolder>,
    /// True until data folder and record have the number of this run: nothing may be cosigned before.
    waits: Arc<AtomicBool>,
    /// The last error that was logged while the process waits.
    told: String,
}

impl WitnessRight {
    pub(super) fn new(network: &str, state_dir: &Path, data_dir: &Path, key: WitnessKey) -> Self {
        Self {
            network: network.to_owned(),
            state_dir: state_dir.to_owned(),
            data_dir: data_dir.to_owned(),
            key,
            folder: None,
            waits: Arc::new(AtomicBool::new(true)),
            told: String::new(),
        }
    }

    /// Claims the key for this process. If the disk does not permit that now, logs it, and leaves the claim to
    /// [`count_again`](Self::count_again).
    ///
    /// # Errors
    /// [`WitnessFolderError`].
    pub(super) fn claim(&mut self, store: &Store) -> Result<(), WitnessFolderError> {
        let claimed = self.claim_now(store);
        self.or_wait(claimed)
    }

    /// Counts the run, after which the process may cosign. If the disk does not permit that now, logs it, and leaves
    /// the count to [`count_again`](Self::count_again).
    ///
    /// # Errors
    /// [`WitnessFolderError`].
    pub(super) fn begin(&mut self, store: &Store) -> Result<(), WitnessFolderError> {
        let begun = self.count(store);
        self.or_wait(begun)
    }

    /// Counts the run again, so that earlier copies of the files are older than the folder. Counts it for the first
    /// time if the disk has not permitted that so far.
    pub(super) fn count_again(&mut self, store: &Store) {
        let waited = self.is_waiting();
        match self.count(store) {
            Ok(()) if waited => tracing::info!("this witness cosigns from now on"),
            Ok(()) => {}
            Err(error) if waited => self.tell(&error),
            Err(error) => {
                tracing::warn!(%error, "an older copy of this witness's folder might not be noticed");
            }
        }
    }

    /// Returns true until the process may cosign.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Claims the key if that has failed so far, and counts the run: in the folder before the record has it.
    fn count(&mut self, store: &Store) -> Result<(), WitnessFolderError> {
        self.claim_now(store)?;
        if let Some(folder) = &self.folder {
            folder.note(store.count_run()?)?;
            self.waits.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn claim_now(&mut self, store: &Store) -> Result<(), WitnessFolderError> {
        if self.folder.is_none() {
            let run = store.run_number().map_err(CommitError::Read)?;
            let place = WitnessPlace {
                network: &self.network,
                state_dir: &self.state_dir,
                data_dir: &self.data_dir,
                incarnation: store.incarnation(),
                run,
            };
            self.folder = Some(WitnessFolder::claim(&place, &self.key)?);
        }
        Ok(())
    }

    /// Logs an error of the disk, and lets the start go on.
    fn or_wait(&mut self, done: Result<(), WitnessFolderError>) -> Result<(), WitnessFolderError> {
        match done {
            Err(error) if error.is_of_disk() => {
                self.tell(&error);
                Ok(())
            }
            done => done,
        }
    }

    /// Logs why the process cosigns nothing, once for each reason.
    fn tell(&mut self, error: &WitnessFolderError) {
        let text = error.to_string();
        if self.told != text {
            tracing::error!(code = "witness_waits", %error, "this witness cosigns nothing now");
            self.told = text;
        }
    }
}

/// A run of a witness that goes on. A thread counts it again and again: the process may be killed, and an older copy of
/// its folder put in place.
#[derive(Debug)]
pub(super) struct WitnessRun {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<WitnessRight>,
    waits: Arc<AtomicBool>,
}

impl WitnessRun {
    /// Starts the thread, which calls `count` every so often, sooner while the process waits, and at the end unless it
    /// has cosigned nothing.
    pub(super) fn start(
        mut right: WitnessRight,
        every: Duration,
        count: impl Fn(&mut WitnessRight) + Send + 'static,
    ) -> Self {
        let (stop, stopped) = mpsc::channel();
        let waits = right.waits.clone();
        let thread = thread::spawn(move || {
            loop {
                let pause = if right.is_waiting() { every.min(TRY_EVERY) } else { every };
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                count(&mut right);
            }
            if !right.is_waiting() {
                count(&mut right);
            }
            right
        });
        Self { stop, thread, waits }
    }

    /// Returns the flag that is true while nothing may be cosigned.
    pub(super) fn waits(&self) -> Arc<AtomicBool> {
        self.waits.clone()
    }

    /// Ends the run, and returns the right to cosign with its key. Blocks on the disk.
    pub(super) fn stop(self) -> WitnessRight {
        drop(self.stop);
        self.thread.join().expect("a panic ends the process")
    }
}

/// Reads the last run from the end of a record; 0 if an earlier version has written it, which did not note any.
fn run_of(line: &[u8]) -> Option<u64> {
    if line.is_empty() {
        return Some(0);
    }
    let digits = std::str::from_utf8(line).ok()?.strip_prefix(RUN)?.strip_suffix('\n')?;
    let is_number = digits.len() == RUN_DIGITS && digits.bytes().all(|it| it.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
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
    use crate::service::testing;

    fn key(seed: u8) -> WitnessKey {
        WitnessSigner::new(WitnessName::new("w.example/1").unwrap(), &[seed; 32]).key()
    }

    /// Returns a place of the network `test` whose state and data are in one folder.
    fn place_in(folder: &Path, incarnation: u8, run: u64) -> WitnessPlace<'_> {
        let incarnation = [incarnation; 16];
        WitnessPlace { network: "test", state_dir: folder, data_dir: folder, incarnation, run }
    }

    /// Claims a key, and starts to cosign.
    fn cosign(
        place: &WitnessPlace<'_>,
        key: &WitnessKey,
    ) -> Result<WitnessFolder, WitnessFolderError> {
        let folder = WitnessFolder::claim(place, key)?;
        folder.note(place.run)?;
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
            let place = WitnessPlace { network, state_dir, data_dir, incarnation, run: 1 };
            cosign(&place, &key(seed))
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
            run: 1,
        };
        let other = cosign(&folder, &renamed).unwrap_err();
        assert!(matches!(other, WitnessFolderError::OtherFolder { .. }), "{other}");
    }

    /// The start may fail behind the claim: a list cannot be read, or the log cannot be rebuilt.
    #[test]
    fn a_start_that_ends_before_it_cosigns_binds_the_key_to_no_folder() {
        let place = tempfile::tempdir().unwrap();
        let claim =
            |incarnation| WitnessFolder::claim(&place_in(place.path(), incarnation, 1), &key(1));
        let first = claim(1).unwrap();
        let second = claim(2).unwrap_err();
        assert!(matches!(second, WitnessFolderError::Held { .. }), "it may yet cosign: {second}");
        drop(first);
        claim(2).unwrap().note(1).unwrap();
        let other = claim(1).unwrap_err();
        assert!(matches!(other, WitnessFolderError::OtherFolder { .. }), "{other}");
        let again = claim(2).unwrap();
        again.note(1).unwrap();
        drop(again);
        claim(2).unwrap();
    }

    /// The operator puts an older copy of the files into the same folder.
    #[test]
    fn a_folder_that_was_set_back_in_place_does_not_cosign() {
        let place = tempfile::tempdir().unwrap();
        let claim = |run| WitnessFolder::claim(&place_in(place.path(), 1, run), &key(1));
        let first = claim(0).unwrap();
        first.note(1).unwrap();
        first.note(2).unwrap();
        drop(first);
        // Run 1 is the state in the middle of the first run.
        for run in [0, 1] {
            let older = claim(run).unwrap_err();
            assert!(matches!(older, WitnessFolderError::SetBack { .. }), "{older}");
        }
        claim(2).unwrap();
        // A kill between the two notes leaves the folder ahead.
        claim(3).unwrap().note(u64::MAX).unwrap();
        let older = claim(u64::MAX - 1).unwrap_err();
        assert!(matches!(older, WitnessFolderError::SetBack { .. }), "{older}");
        claim(u64::MAX).unwrap();
    }

    /// The process is killed some time after the files were copied.
    #[test]
    fn a_run_that_goes_on_is_counted_again() {
        let place = tempfile::tempdir().unwrap();
        let claim = |run| WitnessFolder::claim(&place_in(place.path(), 1, run), &key(1));
        let folder = claim(0).unwrap();
        folder.note(1).unwrap();
        let (tell, told) = mpsc::channel();
        let runs = std::sync::atomic::AtomicU64::new(2);
        let right = WitnessRight {
            folder: Some(folder),
            waits: Arc::default(),
            ..WitnessRight::new("test", place.path(), place.path(), key(1))
        };
        let run = WitnessRun::start(right, Duration::from_millis(1), move |right| {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            right.folder.as_ref().unwrap().note(run).unwrap();
            let _ = tell.send(run);
        });
        for counted in 2..5 {
            assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(counted), "it goes on");
        }
        let last = {
            drop(run.stop());
            told.into_iter().last().unwrap()
        };
        assert!(matches!(claim(4).unwrap_err(), WitnessFolderError::SetBack { .. }));
        claim(last).unwrap();
    }

    /// The witness serves readers meanwhile, and binds its key to the folder when it begins to cosign.
    #[test]
    fn a_witness_on_a_disk_that_cannot_be_written_waits_and_begins_without_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let (store, data) = (testing::open(&place, "data", 200), place.path().join("data"));
        let (read_only, _) = Store::open_read_only(&data, hawser_engine::price::price).unwrap();
        let mut right = WitnessRight::new("test", place.path(), &data, key(1));
        right.claim(&read_only).unwrap();
        right.begin(&read_only).unwrap();
        right.count_again(&read_only);
        assert!(right.is_waiting(), "the number of the run is not in the folder");
        let record = place.path().join(name_of("test", &key(1)));
        assert_eq!(fs::read(&record).unwrap(), b"", "the key is bound to no folder");
        right.count_again(&store);
        assert!(!right.is_waiting());
        assert!(fs::read(&record).unwrap().starts_with(TITLE.as_bytes()));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(WitnessFolderError::Unusable { path: record, source: full }.is_of_disk());
    }

    #[test]
    fn a_record_of_an_earlier_version_has_no_run_and_gets_one() {
        let place = tempfile::tempdir().unwrap();
        let claim = |run| WitnessFolder::claim(&place_in(place.path(), 1, run), &key(1));
        claim(0).unwrap().note(7).unwrap();
        let path = place.path().join(name_of("test", &key(1)));
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.find(RUN).unwrap()]).unwrap();
        claim(0).unwrap().note(1).unwrap();
        assert!(matches!(claim(0).unwrap_err(), WitnessFolderError::SetBack { .. }));
    }

    #[test]
    fn an_empty_record_is_none_and_a_damaged_one_is_of_another_folder() {
        let place = tempfile::tempdir().unwrap();
        let claim = || cosign(&place_in(place.path(), 1, 1), &key(1));
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
