//! Searches for evidence about late releases, which go on after a restart.

use hawser_proto::{OriginatorId, SequenceId};

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::lists::decode_items;
use crate::store::Store;

/// Length of a search in the row, bytes.
const LEN_BYTES: usize = 45;

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

impl Store {
    /// Returns the searches that were recorded last.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn late_searches(&self) -> Result<Vec<StoredSearch>, ReadError> {
        self.database().read_list(MetaKey::LateSearches, StoredSearch::decode_all)
    }

    /// Records all searches that are under way, in place of those before. The write becomes durable with the next
    /// commit: a search that is lost with it begins again.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_late_searches(&self, all: &[StoredSearch]) -> Result<(), CommitError> {
        let row: Vec<u8> = all.iter().flat_map(StoredSearch::encode).collect();
        self.database().record_list(MetaKey::LateSearches, &row)
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
        store.record_late_searches(&all).unwrap();
        assert_eq!(store.late_searches().unwrap(), all);
        store.record_late_searches(&all[..1]).unwrap();
        assert_eq!(store.late_searches().unwrap(), all[..1]);
        let pinned = [&[0, 0, 0, 200][..], &[7; 32], &[3], &[0, 0, 0, 0, 0, 0, 0, 6]].concat();
        assert_eq!(all[3].encode()[..], pinned);
        assert_eq!(StoredSearch::decode_all(&pinned[1..]), None);
        assert_eq!(StoredSearch::decode_all(&[4; LEN_BYTES]), None, "no such state");
    }
}
