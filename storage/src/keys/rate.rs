//! Rows of recorded rates.

use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};

use super::{Key, take};
use crate::family::Family;

/// Column family `rate`: `[start in unix seconds u64 BE]` → message fee, storage fee, congestion
/// fee and target rate per minute, each `u64 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RateKey {
    pub(crate) start_unix_s: u64,
}

impl Key<'_> for RateKey {
    const FAMILY: Family = Family::Rate;
    type Bytes = [u8; 8];

    fn encode(self) -> Self::Bytes {
        self.start_unix_s.to_be_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self { start_unix_s: super::decode_u64(bytes)? })
    }
}

/// Encodes a rate without its start, which is the key.
pub(crate) fn encode_value(rate: &Rate) -> [u8; 32] {
    let mut value = [0; 32];
    value[..8].copy_from_slice(&rate.message_fee.0.to_be_bytes());
    value[8..16].copy_from_slice(&rate.storage_fee.0.to_be_bytes());
    value[16..24].copy_from_slice(&rate.congestion_fee.0.to_be_bytes());
    value[24..].copy_from_slice(&rate.target_rate_per_minute.to_be_bytes());
    value
}

pub(crate) fn decode(key: RateKey, value: &[u8]) -> Option<Rate> {
    let (message_fee, rest) = take(value)?;
    let (storage_fee, rest) = take(rest)?;
    let (congestion_fee, rest) = take(rest)?;
    Some(Rate {
        start_unix_s: key.start_unix_s,
        message_fee: PicoDollarPrice(u64::from_be_bytes(message_fee)),
        storage_fee: PicoDollarsPerByteDay(u64::from_be_bytes(storage_fee)),
        congestion_fee: PicoDollarPrice(u64::from_be_bytes(congestion_fee)),
        target_rate_per_minute: super::decode_u64(rest)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in any::<u64>(), b in any::<u64>()) {
            round_trips(RateKey { start_unix_s: a });
            keeps_order(RateKey { start_unix_s: a }, RateKey { start_unix_s: b });
        }

        #[test]
        fn values_read_back(start_unix_s in any::<u64>(), fees in any::<[u64; 4]>()) {
            let [message_fee, storage_fee, congestion_fee, target_rate_per_minute] = fees;
            let rate = Rate {
                start_unix_s,
                message_fee: PicoDollarPrice(message_fee),
                storage_fee: PicoDollarsPerByteDay(storage_fee),
                congestion_fee: PicoDollarPrice(congestion_fee),
                target_rate_per_minute,
            };
            prop_assert_eq!(decode(RateKey { start_unix_s }, &encode_value(&rate)), Some(rate));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        assert_eq!(RateKey { start_unix_s: 0x0102 }.encode(), [0, 0, 0, 0, 0, 0, 1, 2]);
        let rate = Rate {
            start_unix_s: 9,
            message_fee: PicoDollarPrice(1),
            storage_fee: PicoDollarsPerByteDay(2),
            congestion_fee: PicoDollarPrice(3),
            target_rate_per_minute: 4,
        };
        let mut expected = [0; 32];
        (expected[7], expected[15], expected[23], expected[31]) = (1, 2, 3, 4);
        assert_eq!(encode_value(&rate), expected);
    }
}
