//! The journal file of a chain: records of steps, each written before any client sees its effect.
//!
//! The journal writes a record with one system call and does not sync it. A record survives the end of the process at
//! any moment, which is all that a development chain guarantees. A loss of power may lose the last seconds.

use std::fs::{File, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use alloy::primitives::keccak256;

use super::record::{self, JournalStep, MalformedStepError, StateRoots};

/// The first bytes of a new file: the kind of file and the version of its format. Another format gets another number.
const MAGIC: [u8; 24] = *b"development chain log 2\n";
/// The first bytes of an older file. Its records have the same format, but its block headers have no state roots.
const MAGIC_WITHOUT_ROOTS: [u8; 24] = *b"development chain log 1\n";
/// The length of the file header: 24 bytes of magic, and the chain id in 8 bytes.
const HEADER_LEN: usize = 32;
/// The length of a record header: body length in 4 bytes, checksum in 8.
const RECORD_HEADER_LEN: usize = 12;

/// Error of opening or writing the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused a read or write.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error(
        "{path} is in use by another process: stop that one, or choose another data folder",
        path = path.display()
    )]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// The file is not a journal, or has another version of the format.
    #[error(
        "{path} is not a chain in a format that this version reads: choose another data folder",
        path = path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds another chain.
    #[error(
        "{path} holds chain {found}, not {wanted}: choose another data folder",
        path = path.display()
    )]
    OtherChain {
        /// The file.
        path: PathBuf,
        /// The chain id in the file.
        found: u64,
        /// The chain id in the settings.
        wanted: u64,
    },
    /// The chain in the folder has another genesis: other accounts, code or time.
    #[error(
        "{path} holds a chain that began with another genesis: choose another data folder",
        path = path.display()
    )]
    OtherGenesis {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged before its end.
    #[error(
        "{path} is damaged at byte {offset} ({reason}): restore it, or choose another data folder",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The offset of the first unusable record.
        offset: u64,
        /// The defect of that record.
        reason: String,
    },
    /// The chain has been stopped.
    #[error("the chain has ended: start it again")]
    Closed,
    /// An earlier write failed and could not be undone, so the journal accepts no more.
    #[error(
        "{path} could not be written before, so nothing more is accepted: make room and restart",
        path = path.display()
    )]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

/// The open file. It is locked until this value is dropped.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// The end of the last complete record.
    len: u64,
    poisoned: bool,
}

impl Journal {
    /// Opens or creates the file in this folder. Passes the steps of each record to `each`, in order, with the
    /// kind of state roots in the file.
    ///
    /// Removes an incomplete last record, which remains when the process ends during a write.
    pub(super) fn open(
        folder: &Path,
        chain_id: u64,
        mut each: impl FnMut(StateRoots, Vec<JournalStep>) -> Result<(), String>,
    ) -> Result<Self, JournalError> {
        let path = folder.join("chain.log");
        let io = |source| JournalError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(io)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Locked { path: path.clone() },
            TryLockError::Error(source) => JournalError::Io { path: path.clone(), source },
        })?;
        let file_len = file.metadata().map_err(io)?.len();
        let mut journal = Self { file, path: path.clone(), len: 0, poisoned: false };
        if file_len < HEADER_LEN as u64 {
            journal.begin(chain_id, file_len)?;
        } else {
            let roots = journal.check_header(chain_id)?;
            journal.replay(file_len, &mut |steps| each(roots, steps))?;
        }
        Ok(journal)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn header(chain_id: u64) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..24].copy_from_slice(&MAGIC);
        header[24..].copy_from_slice(&chain_id.to_be_bytes());
        header
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }

    /// Writes the header of a new file.
    fn begin(&mut self, chain_id: u64, file_len: u64) -> Result<(), JournalError> {
        let header = Self::header(chain_id);
        let mut found = Vec::new();
        self.file.read_to_end(&mut found).map_err(|error| self.io(error))?;
        // A prefix of the magic is a truncated header. Any other content belongs to another program.
        let found = &found[..found.len().min(24)];
        if !MAGIC.starts_with(found) && !MAGIC_WITHOUT_ROOTS.starts_with(found) {
            return Err(JournalError::UnknownFormat { path: self.path.clone() });
        }
        if file_len > 0 {
            self.cut(0)?;
        }
        self.file.write_all(&header).map_err(|error| self.io(error))?;
        self.len = HEADER_LEN as u64;
        Ok(())
    }

    /// Checks magic and chain id of an existing file. Returns the kind of its state roots.
    fn check_header(&mut self, wanted: u64) -> Result<StateRoots, JournalError> {
        let mut header = [0; HEADER_LEN];
        self.file.read_exact(&mut header).map_err(|error| self.io(error))?;
        let roots = match &header[..24] {
            magic if *magic == MAGIC => StateRoots::Tries,
            magic if *magic == MAGIC_WITHOUT_ROOTS => StateRoots::Unchecked,
            _ => return Err(JournalError::UnknownFormat { path: self.path.clone() }),
        };
        let found = u64::from_be_bytes(header[24..].try_into().expect("eight bytes are left"));
        if found != wanted {
            return Err(JournalError::OtherChain { path: self.path.clone(), found, wanted });
        }
        self.len = HEADER_LEN as u64;
        Ok(roots)
    }

    /// Reads all records after the header.
    fn replay(
        &mut self,
        file_len: u64,
        each: &mut impl FnMut(Vec<JournalStep>) -> Result<(), String>,
    ) -> Result<(), JournalError> {
        let file = self.file.try_clone().map_err(|error| self.io(error))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        while self.len < file_len {
            let left = file_len - self.len;
            let record = next_record(&mut file, left).map_err(|error| self.io(error))?;
            let Some((body, intact)) = record else {
                tracing::warn!(path = %self.path.display(), bytes = left, "cutting off a record that was not written whole");
                return self.cut(self.len);
            };
            let len = (RECORD_HEADER_LEN + body.len()) as u64;
            if !intact && len == left {
                tracing::warn!(path = %self.path.display(), bytes = left, "cutting off a broken last record");
                return self.cut(self.len);
            }
            let damaged = |reason: String| {
                let (path, offset) = (self.path.clone(), self.len);
                JournalError::Damaged { path, offset, reason }
            };
            if !intact {
                return Err(damaged("its checksum is another".into()));
            }
            let steps = record::read(&body)
                .map_err(|error: MalformedStepError| damaged(error.to_string()))?;
            each(steps).map_err(damaged)?;
            self.len += len;
        }
        self.file.seek(SeekFrom::Start(self.len)).map_err(|error| self.io(error))?;
        Ok(())
    }

    /// Truncates the file to `len` bytes and moves to its end.
    fn cut(&mut self, len: u64) -> Result<(), JournalError> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map(|_| ()).map_err(|error| self.io(error))
    }

    /// Writes one record. After an error, either the file has no part of it, or the journal accepts no more records.
    pub(super) fn append(&mut self, steps: &[JournalStep]) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        }
        let mut record = vec![0; RECORD_HEADER_LEN];
        record.extend(record::write(steps));
        let body = &record[RECORD_HEADER_LEN..];
        let len = u32::try_from(body.len()).map_err(|_| {
            self.io(io::Error::new(io::ErrorKind::FileTooLarge, "a record of more than 4 GiB"))
        })?;
        let checksum = checksum(body);
        record[..4].copy_from_slice(&len.to_be_bytes());
        record[4..RECORD_HEADER_LEN].copy_from_slice(&checksum);
        if let Err(error) = self.file.write_all(&record) {
            self.poisoned = self.cut(self.len).is_err();
            return Err(self.io(error));
        }
        self.len += record.len() as u64;
        debug_assert_eq!(
            self.file.stream_position().ok(),
            Some(self.len),
            "records are contiguous"
        );
        Ok(())
    }

    /// Syncs the file at the end of a run.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_all().map_err(|error| self.io(error))
    }
}

fn checksum(body: &[u8]) -> [u8; 8] {
    keccak256(body)[..8].try_into().expect("a hash has more than eight bytes")
}

/// Reads a record: its body, and true if the checksum matches. `None` if fewer bytes are `left` than it declares.
fn next_record(file: &mut impl Read, left: u64) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut header = [0; RECORD_HEADER_LEN];
    if left < RECORD_HEADER_LEN as u64 {
        return Ok(None);
    }
    file.read_exact(&mut header)?;
    let (len, sum) = header.split_at(4);
    let len = u32::from_be_bytes(len.try_into().expect("four bytes"));
    if left - (RECORD_HEADER_LEN as u64) < u64::from(len) {
        return Ok(None);
    }
    let mut body = Vec::new();
    file.take(u64::from(len)).read_to_end(&mut body)?;
    let intact = checksum(&body) == *sum;
    Ok(Some((body, intact)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(folder: &Path, chain_id: u64) -> Result<(Journal, Vec<i64>), JournalError> {
        let mut found = Vec::new();
        let journal = Journal::open(folder, chain_id, |_, steps| {
            found.extend(steps.iter().map(|step| match step {
                JournalStep::ClockOffset(offset) => *offset,
                step => panic!("{step:?}"),
            }));
            Ok(())
        })?;
        Ok((journal, found))
    }

    fn written(folder: &Path) -> Vec<u8> {
        let (mut journal, _) = offsets(folder, 5).unwrap();
        for offset in 1..=3 {
            journal.append(&[JournalStep::ClockOffset(offset)]).unwrap();
        }
        std::fs::read(folder.join("chain.log")).unwrap()
    }

    #[test]
    fn a_cut_file_opens_with_every_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(folder.path());
        let record_len = (bytes.len() - 32) / 3;
        for len in 0..bytes.len() {
            std::fs::write(folder.path().join("chain.log"), &bytes[..len]).unwrap();
            let (mut journal, found) = offsets(folder.path(), 5).unwrap();
            let whole = len.saturating_sub(32) / record_len;
            assert_eq!(found.len(), whole, "{len} bytes");
            journal.append(&[JournalStep::ClockOffset(9)]).unwrap();
            drop(journal);
            let (_, found) = offsets(folder.path(), 5).unwrap();
            assert_eq!((found.len(), found.last()), (whole + 1, Some(&9)), "{len} bytes");
        }
    }

    #[test]
    fn damage_before_the_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = written(folder.path());
        bytes[50] ^= 1;
        std::fs::write(folder.path().join("chain.log"), &bytes).unwrap();
        let error = offsets(folder.path(), 5).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { offset: 32, .. }), "{error}");
    }

    #[test]
    fn a_record_of_another_chain_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chain.log");
        for foreign in [&b"notes"[..], &[b'x'; 100], b"development chain log 3\n01234567"] {
            std::fs::write(&file, foreign).unwrap();
            let error = offsets(folder.path(), 5).unwrap_err();
            assert!(matches!(error, JournalError::UnknownFormat { .. }), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), foreign);
        }
        std::fs::remove_file(&file).unwrap();
        written(folder.path());
        let error = offsets(folder.path(), 6).unwrap_err();
        assert!(matches!(error, JournalError::OtherChain { found: 5, wanted: 6, .. }), "{error}");
    }

    #[test]
    fn nothing_is_written_after_a_write_that_could_not_be_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = offsets(folder.path(), 5).unwrap();
        journal.file = File::open(journal.path()).unwrap(); // cannot be written or cut
        let error = journal.append(&[JournalStep::ClockOffset(1)]).unwrap_err();
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
        let error = journal.append(&[JournalStep::ClockOffset(1)]).unwrap_err();
        assert!(matches!(error, JournalError::Poisoned { .. }), "{error}");
    }

    #[test]
    fn a_folder_serves_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = offsets(folder.path(), 5).unwrap();
        let error = offsets(folder.path(), 5).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        drop(held);
        offsets(folder.path(), 5).unwrap();
    }
}
