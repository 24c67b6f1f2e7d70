//! The file in which a gateway keeps the payloads that it has put on the chain. Every reader of a topic can repeat a
//! payload, so without it a restarted gateway would pay for the same payload again.
//!
//! The file is written without waiting for the disk: it survives the end of the process. After a power failure the last
//! payloads may be missing, and each of these costs gas once more if it is repeated.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use hawser_chain::private_file::{self, DirectorySync};
use hawser_proto::{SequenceId, TransactionHash};
use sha2::{Digest as _, Sha256};

use super::recent::PayloadKey;
use super::writer::OnChain;

/// Length of an entry: key, sequence id, transaction, block time, and four bytes of the SHA-256 over these.
const ENTRY_LEN_BYTES: usize = 32 + 8 + 32 + 8 + CHECK_LEN_BYTES;
const CHECK_LEN_BYTES: usize = 4;

/// A record of payloads: where it is, and the chain that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRecordPlace {
    /// The file. Only one process may use it at a time.
    pub path: PathBuf,
    /// A name of the chain and its contracts, in one line. Payloads of another chain are not on this one.
    pub chain: String,
}

impl ChainRecordPlace {
    /// Returns the place of a tenant's record.
    #[must_use]
    pub(crate) fn of_tenant(&self, name: &str) -> Self {
        Self { path: self.path.with_added_extension(name), chain: self.chain.clone() }
    }
}

/// The reason for which a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainRecordError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is no record of this chain.
    #[error(
        "{path} is no record of payloads of this chain ({expected:?}): name another --nonce-record, or move the file \
         away"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// The first line that it should have.
        expected: String,
    },
}

/// An open record.
#[derive(Debug)]
pub(super) struct ChainRecord {
    path: PathBuf,
    head: String,
    file: File,
    entries_max: usize,
    /// Entries in the file.
    written: usize,
    /// True from the start of a write until it succeeds: meanwhile the end of the file is unknown.
    is_torn: bool,
}

type Entry = [u8; ENTRY_LEN_BYTES];

impl ChainRecord {
    /// Opens a record, or creates it. It keeps at least the newest `entries_max` payloads. Returns these too, the
    /// oldest first. A payload may be there several times; the last one counts.
    ///
    /// # Errors
    /// [`ChainRecordError`].
    pub(super) fn open(
        place: &ChainRecordPlace,
        entries_max: usize,
    ) -> Result<(Self, Vec<(PayloadKey, OnChain)>), ChainRecordError> {
        let path = place.path.clone();
        let failed = |source| ChainRecordError::File { path: place.path.clone(), source };
        let head = format!("hawser-on-chain 1 {}\n", place.chain);
        let file = private_file::open(&path).map_err(failed)?;
        let mut record = Self { path, head, file, entries_max, written: 0, is_torn: false };
        let Some(entries) = record.newest().map_err(failed)? else {
            let expected = record.head.trim_end().to_owned();
            return Err(ChainRecordError::Other { path: record.path, expected });
        };
        record.write_anew(&entries).map_err(failed)?;
        Ok((record, entries.iter().filter_map(read).collect()))
    }

    /// Adds a payload. A failure is logged: the gateway still knows the payload until it ends.
    pub(super) fn add(&mut self, key: &PayloadKey, at: &OnChain) {
        if let Err(error) = self.write(&entry_of(key, at)) {
            tracing::warn!(
                code = "chain_record_failed",
                path = %self.path.display(),
                %error,
                "a payload on the chain was not recorded: after a restart the gateway pays again if it is repeated"
            );
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        if self.is_torn || self.written >= 2 * self.entries_max {
            let entries = self.newest()?.unwrap_or_default();
            self.write_anew(&entries)?;
        }
        self.is_torn = true;
        self.file.write_all(entry)?;
        self.is_torn = false;
        self.written += 1;
        Ok(())
    }

    /// Reads the newest good entries of the file; `None` if its first line differs.
    fn newest(&self) -> io::Result<Option<Vec<Entry>>> {
        let bytes = fs::read(&self.path)?;
        let body = match bytes.strip_prefix(self.head.as_bytes()) {
            Some(body) => body,
            // An earlier process was killed before it had written the whole first line.
            None if self.head.as_bytes().starts_with(&bytes) => &[],
            None => return Ok(None),
        };
        let (whole, _torn) = body.as_chunks::<ENTRY_LEN_BYTES>();
        let good: Vec<_> = whole.iter().filter(|entry| read(entry).is_some()).copied().collect();
        Ok(Some(good[good.len().saturating_sub(self.entries_max)..].to_vec()))
    }

    /// Writes these entries to a new file, which atomically replaces the old one.
    fn write_anew(&mut self, entries: &[Entry]) -> io::Result<()> {
        let bytes = [self.head.as_bytes(), entries.as_flattened()].concat();
        // As for each entry: nothing waits for the disk, except that no power failure leaves a part of a file.
        let file = private_file::replace(&self.path, &bytes, DirectorySync::Skip)?;
        (self.file, self.written, self.is_torn) = (file, entries.len(), false);
        Ok(())
    }
}

fn entry_of(key: &PayloadKey, at: &OnChain) -> [u8; ENTRY_LEN_BYTES] {
    let mut body = Vec::with_capacity(ENTRY_LEN_BYTES);
    body.extend_from_slice(key);
    body.extend_from_slice(&at.sequence_id.0.to_be_bytes());
    body.extend_from_slice(&at.transaction_hash.0);
    body.extend_from_slice(&at.block_time_s.to_be_bytes());
    let check = Sha256::digest(&body);
    body.extend_from_slice(&check[..CHECK_LEN_BYTES]);
    body.try_into().expect("the parts have the length of an entry")
}

/// Returns the payload of an entry; `None` if its check is wrong.
fn read(entry: &[u8; ENTRY_LEN_BYTES]) -> Option<(PayloadKey, OnChain)> {
    let (body, check) = entry.split_at(ENTRY_LEN_BYTES - CHECK_LEN_BYTES);
    if Sha256::digest(body)[..CHECK_LEN_BYTES] != *check {
        return None;
    }
    let (key, rest) = body.split_first_chunk::<32>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (transaction, rest) = rest.split_first_chunk::<32>()?;
    let (time, _) = rest.split_first_chunk::<8>()?;
    let at = OnChain {
        sequence_id: SequenceId(u64::from_be_bytes(*sequence)),
        transaction_hash: TransactionHash(*transaction),
        block_time_s: u64::from_be_bytes(*time),
    };
    Some((*key, at))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn at(sequence: u64) -> OnChain {
        OnChain {
            sequence_id: SequenceId(sequence),
            transaction_hash: TransactionHash([7; 32]),
            block_time_s: 1_700_000_000 + sequence,
        }
    }

    fn place(folder: &Path) -> ChainRecordPlace {
        ChainRecordPlace { path: folder.join("deep/nonces.on-chain"), chain: "31338 0xaa".into() }
    }

    fn open(place: &ChainRecordPlace, entries_max: usize) -> (ChainRecord, Vec<(u8, u64)>) {
        let (record, all) = ChainRecord::open(place, entries_max).unwrap();
        assert!(all.iter().all(|(_, held)| *held == at(held.sequence_id.0)));
        (record, all.iter().map(|(key, at)| (key[0], at.sequence_id.0)).collect())
    }

    #[test]
    fn what_was_added_is_there_after_a_restart_and_torn_or_altered_entries_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let (mut record, _) = open(&place, 10);
        (1..=3).for_each(|number| record.add(&[number; 32], &at(number.into())));
        drop(record);
        assert_eq!(open(&place, 10).1, [(1, 1), (2, 2), (3, 3)]);
        let mut bytes = fs::read(&place.path).unwrap();
        bytes.truncate(bytes.len() - 1);
        let middle = bytes.len() - ENTRY_LEN_BYTES;
        bytes[middle] ^= 1;
        fs::write(&place.path, &bytes).unwrap();
        let (mut record, held) = open(&place, 10);
        assert_eq!(held, [(1, 1)]);
        record.add(&[4; 32], &at(4));
        assert_eq!(open(&place, 10).1, [(1, 1), (4, 4)]);
    }

    #[test]
    fn the_newest_entries_are_kept_and_the_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let (mut record, _) = open(&place, 4);
        (1..=100).for_each(|number| record.add(&[number; 32], &at(number.into())));
        let len = fs::metadata(&place.path).unwrap().len();
        assert!(len <= (record.head.len() + 8 * ENTRY_LEN_BYTES) as u64, "{len}");
        assert_eq!(open(&place, 4).1, [(97, 97), (98, 98), (99, 99), (100, 100)]);
    }

    #[test]
    fn a_record_of_another_chain_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let here = place(folder.path());
        open(&here, 4).0.add(&[1; 32], &at(1));
        let other = ChainRecordPlace { chain: "5 0xaa".into(), ..here.clone() };
        let refused = ChainRecord::open(&other, 4).unwrap_err();
        assert!(matches!(refused, ChainRecordError::Other { .. }), "{refused}");
        assert_eq!(open(&here, 4).1, [(1, 1)]);
    }
}
