//! Errors of reads and writes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hawser_proto::{EnvelopeId, SequenceId};

use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;

/// The beginning of RocksDB's error texts for bytes that differ from the written ones.
pub(crate) const CORRUPTION: &str = "Corruption:";
/// The system's words for a missing file in RocksDB's error texts.
pub(crate) const NO_FILE: &str = "No such file or directory";

/// A failure of RocksDB with RocksDB's text. Callers show it and never match on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatabaseError(String);

impl DatabaseError {
    /// Returns true if RocksDB has found bytes that differ from the written ones.
    pub(crate) fn is_corruption(&self) -> bool {
        self.0.starts_with(CORRUPTION)
    }

    /// Returns true if RocksDB has not found a file.
    pub(crate) fn is_of_missing_file(&self) -> bool {
        self.0.contains(NO_FILE)
    }

    /// Returns the failure of an operation on a file or folder beside the database.
    pub(crate) fn of_file(path: &Path, error: &io::Error) -> Self {
        Self(format!("IO error: {}: {error}", path.display()))
    }

    /// Returns the failure that tests inject.
    pub(crate) fn injected() -> Self {
        Self("IO error: injected failure".to_owned())
    }
}

impl From<rocksdb::Error> for DatabaseError {
    fn from(error: rocksdb::Error) -> Self {
        Self(error.into_string())
    }
}

/// The reason for which a row could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// RocksDB failed: a disk error, or a checksum that does not match.
    #[error("database: {0}")]
    Database(#[from] DatabaseError),
    /// A row has bytes that this code never writes, or a row that must exist is absent.
    #[error("row {key_hex} of column family {family} is damaged")]
    Corrupt {
        /// The column family.
        family: &'static str,
        /// The row's key, in hex.
        key_hex: String,
    },
    /// The rows have to be rebuilt from the log, or are being rebuilt: existing rows may be wrong, and rows may be
    /// absent.
    #[error(
        "column family {family} is being rebuilt from the log: read it again when the rebuild has ended"
    )]
    Rebuilding {
        /// The column family.
        family: &'static str,
    },
}

impl ReadError {
    /// Returns true if the disk has bytes that differ from the written ones, so that another attempt is useless.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Database(error) => error.is_corruption(),
            Self::Corrupt { .. } => true,
            Self::Rebuilding { .. } => false,
        }
    }

    /// Returns the error that the envelope at `id` is absent, or differs from the stored one.
    #[must_use]
    pub fn unreadable_envelope(id: EnvelopeId) -> Self {
        Self::corrupt(Family::Log, &EnvelopeKey(id).encode())
    }

    pub(crate) fn corrupt(family: Family, key: &[u8]) -> Self {
        let key_hex = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::Corrupt { family: family.name(), key_hex }
    }
}

/// The reason for which a commit was refused. Nothing of the group was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The place has another statement, or was declared void: the originator has made two statements about one
    /// sequence id.
    #[error("another envelope, or a void place, is stored at {at}")]
    Conflict {
        /// The place.
        at: EnvelopeId,
    },
    /// The change leaves places between the head and itself that are neither stored nor marked.
    #[error("{got} cannot be stored after {after}: envelopes of a strand are stored without gaps")]
    Gap {
        /// The strand's head before this change.
        after: SequenceId,
        /// The first place of the change.
        got: EnvelopeId,
    },
    /// The place is outside of 1 to [`SequenceId::MAX`], or a range ends before it begins.
    #[error("{at} cannot be stored: its originator or sequence id is out of range")]
    OutOfRange {
        /// The place.
        at: EnvelopeId,
    },
    /// The envelope is absent, or its validity is known already.
    #[error("no envelope at {at} is waiting to be judged")]
    NotWaiting {
        /// The place.
        at: EnvelopeId,
    },
    /// Other rates are recorded for this moment. Recorded rates never change.
    #[error("other rates than these are recorded from unix second {start_unix_s} on")]
    OtherRates {
        /// Start of validity, in unix seconds.
        start_unix_s: u64,
    },
    /// A stored row that the commit compares with or adds to could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// This write failed, and the store is poisoned. Reading the log again shows whether the disk has it.
    #[error("write failed, nothing more is accepted until the log has been read again: {0}")]
    Write(DatabaseError),
    /// An earlier write failed, or the disk allows no writes: the store accepts no commit until
    /// [`Store::reopen`](crate::Store::reopen) has read the log again.
    #[error("log is read-only: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The disk is nearly full. Nothing was written.
    #[error("the disk is nearly full: {free} bytes are free, and {wanted} are needed")]
    NoRoom {
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to be free before anything is written.
        wanted: u64,
    },
}

impl CommitError {
    /// Returns true if the same commit may succeed later, when the disk works again or has room.
    #[must_use]
    pub fn is_of_disk(&self) -> bool {
        match self {
            Self::Read(_) | Self::Write(_) | Self::Poisoned { .. } | Self::NoRoom { .. } => true,
            Self::Conflict { .. }
            | Self::Gap { .. }
            | Self::OutOfRange { .. }
            | Self::NotWaiting { .. }
            | Self::OtherRates { .. } => false,
        }
    }
}
