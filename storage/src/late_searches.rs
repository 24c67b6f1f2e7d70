//! Searches for evidence about late releases, which go on after a restart.

use hawser_proto::{Address, OriginatorId, PayerAddress, SequenceId};
use rocksdb::WriteBatch;

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::lists::decode_items;
use crate::meta;
use crate::store::Store;

/// Length of a search in the row, bytes.
const LEN_BYTES: usize = 45;
/// Length of a late place in the row of scans, bytes.
const LATE_LEN_BYTES: usize = 16;

/// The state of the search for the envelope in which an originator has attested a payer report about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredSearchState {
    /// The strand has none up to this place.
    Through(SequenceId),
    /// The attestation is at this place.
    Found(SequenceId),
    /// Evidence was recorded.
    Recorded,
    /// The next look at the originator begins with this report, which has this index in the contract's list.
    Next(u64),
}

/// A search that is kept for the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredSearch {
    /// The originator that the report is about.
    pub about: OriginatorId,
    /// The report's id.
    pub report: [u8; 32],
    /// The state of the search.
    pub state: StoredSearchState,
}

impl StoredSearch {
    fn encode(&self) -> [u8; LEN_BYTES] {
        let (kind, number) = match self.state {
            StoredSearchState::Through(at) => (0, at.0),
            StoredSearchState::Found(at) => (1, at.0),
            StoredSearchState::Recorded => (2, 0),
            StoredSearchState::Next(index) => (3, index),
        };
        let mut bytes = [0; LEN_BYTES];
        bytes[..4].copy_from_slice(&self.about.0.to_be_bytes());
        bytes[4..36].copy_from_slice(&self.report);
        bytes[36] = kind;
        bytes[37..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN_BYTES]) -> Option<Self> {
        let (about, rest) = bytes.split_first_chunk()?;
        let (report, rest) = rest.split_first_chunk()?;
        let (kind, number) = rest.split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        let state = match kind {
            0 => StoredSearchState::Through(SequenceId(number)),
            1 => StoredSearchState::Found(SequenceId(number)),
            2 => StoredSearchState::Recorded,
            3 => StoredSearchState::Next(number),
            _ => return None,
        };
        Some(Self { about: OriginatorId(u32::from_be_bytes(*about)), report: *report, state })
    }

    /// Decodes the row of all of them.
    fn decode_all(row: &[u8]) -> Option<Vec<Self>> {
        decode_items(row, Self::decode)
    }
}

/// The part of a report's minutes that a look has read, to go on behind it after a restart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredScan {
    /// The originator that the report is about.
    pub about: OriginatorId,
    /// The report's id.
    pub report: [u8; 32],
    /// The minute and payer of the next row of usage.
    pub next: (u32, PayerAddress),
    /// The late envelopes so far: bytes of the payer in the minute, and the place. At most 255 are recorded.
    pub late: Vec<(u64, SequenceId)>,
}

impl StoredScan {
    fn encode_into(&self, row: &mut Vec<u8>) {
        let (minute, payer) = self.next;
        row.extend(self.about.0.to_be_bytes());
        row.extend(self.report);
        row.extend(minute.to_be_bytes());
        row.extend(payer.0);
        let count = u8::try_from(self.late.len()).unwrap_or(u8::MAX);
        row.push(count);
        for (len_bytes, at) in self.late.iter().take(count.into()) {
            row.extend(len_bytes.to_be_bytes());
            row.extend(at.0.to_be_bytes());
        }
    }

    /// Decodes the first scan of a row. Returns the rest of the row, too.
    fn decode_first(row: &[u8]) -> Option<(Self, &[u8])> {
        let (about, row) = row.split_first_chunk()?;
        let (report, row) = row.split_first_chunk()?;
        let (minute, row) = row.split_first_chunk()?;
        let (payer, row) = row.split_first_chunk()?;
        let (count, row) = row.split_first()?;
        let (late, rest) = row.split_at_checked(usize::from(*count) * LATE_LEN_BYTES)?;
        let (late, _) = late.as_chunks::<LATE_LEN_BYTES>();
        let found = Self {
            about: OriginatorId(u32::from_be_bytes(*about)),
            report: *report,
            next: (u32::from_be_bytes(*minute), Address(*payer)),
            late: late.iter().filter_map(decode_late).collect(),
        };
        Some((found, rest))
    }

    /// Decodes the row of all of them.
    fn decode_all(mut row: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !row.is_empty() {
            let (first, rest) = Self::decode_first(row)?;
            all.push(first);
            row = rest;
        }
        Some(all)
    }
}

fn decode_late(bytes: &[u8; LATE_LEN_BYTES]) -> Option<(u64, SequenceId)> {
    let (len_bytes, at) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*len_bytes), SequenceId(u64::from_be_bytes(at.try_into().ok()?))))
}

impl Store {
    /// Returns the searches that were recorded last.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn late_searches(&self) -> Result<Vec<StoredSearch>, ReadError> {
        self.database().read_list(MetaKey::LateSearches, StoredSearch::decode_all)
    }

    /// Returns the scans that were recorded last.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn late_scans(&self) -> Result<Vec<StoredScan>, ReadError> {
        self.database().read_list(MetaKey::LateScans, StoredScan::decode_all)
    }

    /// Records all searches and scans that are under way, in place of those before. The write becomes durable with the
    /// next commit: what is lost with it begins again.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_late_searches(
        &self,
        all: &[StoredSearch],
        scans: &[StoredScan],
    ) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let row: Vec<u8> = all.iter().flat_map(StoredSearch::encode).collect();
        let mut batch = WriteBatch::default();
        meta::put(&database.db, &mut batch, MetaKey::LateSearches, &row);
        let mut row = Vec::new();
        scans.iter().for_each(|scan| scan.encode_into(&mut row));
        meta::put(&database.db, &mut batch, MetaKey::LateScans, &row);
        database.write_buffered(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    #[test]
    fn what_is_recorded_last_is_read_back_and_its_form_is_pinned() {
        let store = store();
        assert_eq!(store.late_searches().unwrap(), []);
        let search = |state| StoredSearch { about: OriginatorId(200), report: [7; 32], state };
        let all = [
            search(StoredSearchState::Through(SequenceId(5))),
            search(StoredSearchState::Found(SequenceId(u64::MAX))),
            search(StoredSearchState::Recorded),
            search(StoredSearchState::Next(6)),
        ];
        store.record_late_searches(&all, &[]).unwrap();
        assert_eq!(store.late_searches().unwrap(), all);
        store.record_late_searches(&all[..1], &[]).unwrap();
        assert_eq!(store.late_searches().unwrap(), all[..1]);
        let pinned = [&[0, 0, 0, 200][..], &[7; 32], &[3], &[0, 0, 0, 0, 0, 0, 0, 6]].concat();
        assert_eq!(all[3].encode()[..], pinned);
        assert_eq!(StoredSearch::decode_all(&pinned[1..]), None);
        assert_eq!(StoredSearch::decode_all(&[4; LEN_BYTES]), None, "no such state");
    }

    #[test]
    fn scans_are_read_back_and_their_form_is_pinned() {
        let store = store();
        assert_eq!(store.late_scans().unwrap(), []);
        let scan = |late: &[u64]| StoredScan {
            about: OriginatorId(200),
            report: [7; 32],
            next: (258, Address([8; 20])),
            late: late.iter().map(|&at| (9, SequenceId(at))).collect(),
        };
        let all = [scan(&[]), scan(&[1, 2])];
        store.record_late_searches(&[], &all).unwrap();
        assert_eq!(store.late_scans().unwrap(), all);
        store.record_late_searches(&[], &[]).unwrap();
        assert_eq!(store.late_scans().unwrap(), []);
        let mut row = Vec::new();
        scan(&[3]).encode_into(&mut row);
        let head = [&[0, 0, 0, 200][..], &[7; 32], &[0, 0, 1, 2], &[8; 20], &[1]].concat();
        let late = [9u64, 3].map(u64::to_be_bytes).concat();
        assert_eq!(row, [head, late].concat());
        for len in 1..row.len() {
            assert_eq!(StoredScan::decode_all(&row[..len]), None, "{len} bytes");
        }
        let mut row = Vec::new();
        scan(&[5; 300]).encode_into(&mut row);
        assert_eq!(StoredScan::decode_all(&row), Some(vec![scan(&[5; 255])]), "a bounded number");
    }
}
