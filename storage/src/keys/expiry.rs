//! Rows of envelopes, by expiry time.

use hawser_proto::{Address, EnvelopeId, PayerAddress};

use super::envelope::EnvelopeKey;
use super::{Key, take};
use crate::change::Facts;
use crate::family::Family;

/// Column family `expiry`: `[unix seconds u64 BE][originator u32 BE][sequence u64 BE]` → the payer (20 bytes) and the
/// receipt (32 bytes), each if it is known. Sorts by expiry time.
///
/// The payer saves pruning the recovery of a signature, and the receipt saves the digest of the request. Rows of
/// free envelopes have no payer, and neither have rows of earlier versions. Rows of this node's own strand have a
/// receipt, except those of earlier versions. An unverified place has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExpiryKey {
    pub(crate) expiry_unix_s: u64,
    pub(crate) id: EnvelopeId,
}

impl Key<'_> for ExpiryKey {
    const FAMILY: Family = Family::Expiry;
    type Bytes = [u8; 20];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 20];
        key[..8].copy_from_slice(&self.expiry_unix_s.to_be_bytes());
        key[8..].copy_from_slice(&EnvelopeKey(self.id).encode());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (expiry_unix_s, id) = take(bytes)?;
        Some(Self {
            expiry_unix_s: u64::from_be_bytes(expiry_unix_s),
            id: EnvelopeKey::decode(id)?.0,
        })
    }
}

/// A row's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ExpiryRow {
    pub(crate) payer: Option<PayerAddress>,
    pub(crate) receipt: Option<[u8; RECEIPT_LEN]>,
}

const PAYER_LEN: usize = 20;
const RECEIPT_LEN: usize = 32;
const WHOLE_LEN: usize = PAYER_LEN + RECEIPT_LEN;

impl ExpiryRow {
    /// Returns the row of an envelope with these facts. `is_own` is true for this node's own strand.
    pub(crate) fn of(facts: &Facts, is_own: bool) -> Self {
        let payer = facts.charge.as_ref().map(|charge| charge.payer);
        Self { payer, receipt: facts.receipt.filter(|_| is_own) }
    }

    /// Returns the encoded value: a buffer, and the number of its bytes that count.
    pub(crate) fn encode(&self) -> ([u8; WHOLE_LEN], usize) {
        let (mut value, mut len) = ([0; WHOLE_LEN], 0);
        if let Some(payer) = &self.payer {
            value[..PAYER_LEN].copy_from_slice(&payer.0);
            len = PAYER_LEN;
        }
        if let Some(receipt) = &self.receipt {
            value[len..len + RECEIPT_LEN].copy_from_slice(receipt);
            len += RECEIPT_LEN;
        }
        (value, len)
    }

    /// Decodes a value, whose length shows which parts it has; `None` for malformed bytes.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let payer_len = match value.len() {
            0 | RECEIPT_LEN => 0,
            PAYER_LEN | WHOLE_LEN => PAYER_LEN,
            _ => return None,
        };
        let (payer, receipt) = value.split_at(payer_len);
        Some(Self { payer: payer.try_into().ok().map(Address), receipt: receipt.try_into().ok() })
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = ExpiryKey> {
        (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(expiry_unix_s, o, s)| ExpiryKey {
            expiry_unix_s,
            id: EnvelopeId::new(OriginatorId(o), SequenceId(s)),
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, ExpiryKey { expiry_unix_s: a.expiry_unix_s, ..b });
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        assert_eq!(
            ExpiryKey { expiry_unix_s: 0x0102, id }.encode(),
            [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7]
        );
        let row = ExpiryRow { payer: Some(Address([9; 20])), receipt: Some([8; 32]) };
        assert_eq!(encoded(row), [&[9; 20][..], &[8; 32]].concat());
        assert_eq!(
            encoded(ExpiryRow { receipt: None, ..row }),
            [9; 20],
            "of earlier versions, too"
        );
        assert_eq!(encoded(ExpiryRow { payer: None, ..row }), [8; 32]);
        assert!(encoded(ExpiryRow::default()).is_empty());
    }

    fn encoded(row: ExpiryRow) -> Vec<u8> {
        let (value, len) = row.encode();
        value[..len].to_vec()
    }

    #[test]
    fn rows_read_back_and_cut_ones_do_not() {
        for payer in [None, Some(Address([9; 20]))] {
            for receipt in [None, Some([8; 32])] {
                let row = ExpiryRow { payer, receipt };
                assert_eq!(ExpiryRow::decode(&encoded(row)), Some(row));
            }
        }
        for len in (1..60).filter(|len| ![20, 32, 52].contains(len)) {
            assert_eq!(ExpiryRow::decode(&vec![9; len]), None);
        }
    }
}
