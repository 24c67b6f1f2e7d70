//! Envelopes whose fees wait for a newer price list to be judged. They are kept across restarts.

use hawser_proto::EnvelopeId;

use crate::error::{CommitError, ReadError};
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::meta::MetaKey;
use crate::lists::decode_items;
use crate::store::Store;

/// Length of a place in the row, bytes.
const LEN_BYTES: usize = 12;

/// Decodes the row of all of them.
fn decode_all(row: &[u8]) -> Option<Vec<EnvelopeId>> {
    decode_items(row, |place: &[u8; LEN_BYTES]| EnvelopeKey::decode(place).map(|key| key.0))
}

impl Store {
    /// Returns the envelopes whose fees waited to be judged when they were last recorded.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn doubted_fees(&self) -> Result<Vec<EnvelopeId>, ReadError> {
        self.database().read_list(MetaKey::DoubtedFees, decode_all)
    }

    /// Records all envelopes whose fees wait now, in place of those before. The write becomes durable with the next
    /// commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_doubted_fees(&self, doubted: &[EnvelopeId]) -> Result<(), CommitError> {
        let row: Vec<u8> = doubted.iter().flat_map(|id| EnvelopeKey(*id).encode()).collect();
        self.database().record_list(MetaKey::DoubtedFees, &row)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;
    use crate::testing::store;

    #[test]
    fn what_is_recorded_last_is_read_back_and_a_cut_row_is_not() {
        let store = store();
        assert_eq!(store.doubted_fees().unwrap(), []);
        let place = |sequence| EnvelopeId::new(OriginatorId(200), SequenceId(sequence));
        store.record_doubted_fees(&[place(7), place(8)]).unwrap();
        assert_eq!(store.doubted_fees().unwrap(), [place(7), place(8)]);
        store.record_doubted_fees(&[place(u64::MAX)]).unwrap();
        assert_eq!(store.doubted_fees().unwrap(), [place(u64::MAX)]);
        assert_eq!(
            decode_all(&[0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 9]),
            Some(vec![place(9)]),
            "the form is pinned"
        );
        assert_eq!(decode_all(&[0; 13]), None);
    }
}
