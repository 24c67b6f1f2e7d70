//! Envelopes by expiry time.

use hawser_proto::{Address, EnvelopeId, PayerAddress};

use super::envelope::EnvelopeKey;
use super::{Key, take};
use crate::family::Family;

/// Column family `expiry`: `[unix seconds u64 BE][originator u32 BE][sequence u64 BE]` → the payer (20 bytes), or nothing.
/// Sorts by expiry time.
///
/// The payer is there to spare pruning the recovery of a signature. Rows of free envelopes have none, nor do those that
/// were written before signatures were checked, and those of earlier versions.
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

/// Encodes a row's value.
pub(crate) fn encode_payer(payer: Option<&PayerAddress>) -> &[u8] {
    payer.map_or(&[], |payer| &payer.0)
}

/// Decodes a row's value; `None` for malformed bytes.
pub(crate) fn decode_payer(value: &[u8]) -> Option<Option<PayerAddress>> {
    match value {
        [] => Some(None),
        _ => Some(Some(Address(value.try_into().ok()?))),
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
        assert_eq!(encode_payer(Some(&Address([9; 20]))), [9; 20]);
        assert!(encode_payer(None).is_empty());
    }

    #[test]
    fn payers_read_back_and_cut_ones_do_not() {
        for payer in [None, Some(Address([9; 20]))] {
            assert_eq!(decode_payer(encode_payer(payer.as_ref())), Some(payer));
        }
        assert_eq!(decode_payer(&[9; 19]), None);
        assert_eq!(decode_payer(&[9; 21]), None);
    }
}
