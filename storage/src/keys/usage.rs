//! Rows of the usage of payers, by originator and minute.

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{Address, OriginatorId, PayerAddress, SequenceId};

use super::{Key, take};
use crate::family::Family;

/// Column family `usage`: `[originator u32 BE][minute u32 BE][payer 20 bytes]` → picodollars,
/// messages, bytes, last sequence and stated picodollars, each `u64 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UsageKey {
    pub(crate) originator: OriginatorId,
    pub(crate) minute: u32,
    pub(crate) payer: PayerAddress,
}

impl Key<'_> for UsageKey {
    const FAMILY: Family = Family::Usage;
    type Bytes = [u8; 28];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 28];
        key[..4].copy_from_slice(&self.originator.0.to_be_bytes());
        key[4..8].copy_from_slice(&self.minute.to_be_bytes());
        key[8..].copy_from_slice(&self.payer.0);
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (originator, rest) = take(bytes)?;
        let (minute, payer) = take(rest)?;
        Some(Self {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            minute: u32::from_be_bytes(minute),
            payer: Address(payer.try_into().ok()?),
        })
    }
}

/// Usage of one payer at one originator in one minute. Counters saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageRow {
    /// Base and congestion fees together by this node's own calculation.
    pub picodollars: PicoDollarPrice,
    /// Number of charged envelopes.
    pub messages: u64,
    /// Sum of the lengths of their originator envelopes as stored, bytes.
    pub bytes: u64,
    /// The highest sequence id among them.
    pub last_sequence: SequenceId,
    /// Sum of the fees that the originator stated. Never booked; a difference to `picodollars` is evidence.
    pub stated_picodollars: PicoDollarPrice,
}

impl UsageRow {
    /// Adds another count. Commutative and associative, so that rebuilds and late finds produce the same rows as
    /// commits in order.
    pub(crate) fn add(&mut self, other: Self) {
        self.picodollars = self.picodollars.plus(other.picodollars);
        self.messages = self.messages.saturating_add(other.messages);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.last_sequence = self.last_sequence.max(other.last_sequence);
        self.stated_picodollars = self.stated_picodollars.plus(other.stated_picodollars);
    }

    pub(crate) fn encode(self) -> [u8; 40] {
        let mut value = [0; 40];
        value[..8].copy_from_slice(&self.picodollars.0.to_be_bytes());
        value[8..16].copy_from_slice(&self.messages.to_be_bytes());
        value[16..24].copy_from_slice(&self.bytes.to_be_bytes());
        value[24..32].copy_from_slice(&self.last_sequence.0.to_be_bytes());
        value[32..].copy_from_slice(&self.stated_picodollars.0.to_be_bytes());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (picodollars, rest) = take(value)?;
        let (messages, rest) = take(rest)?;
        let (bytes, rest) = take(rest)?;
        let (last_sequence, rest) = take(rest)?;
        Some(Self {
            picodollars: PicoDollarPrice(u64::from_be_bytes(picodollars)),
            messages: u64::from_be_bytes(messages),
            bytes: u64::from_be_bytes(bytes),
            last_sequence: SequenceId(u64::from_be_bytes(last_sequence)),
            stated_picodollars: PicoDollarPrice(super::decode_u64(rest)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = UsageKey> {
        (any::<u32>(), any::<u32>(), any::<[u8; 20]>()).prop_map(|(o, minute, payer)| UsageKey {
            originator: OriginatorId(o),
            minute,
            payer: Address(payer),
        })
    }

    fn rows() -> impl Strategy<Value = UsageRow> {
        any::<[u64; 5]>().prop_map(|[picodollars, messages, bytes, last, stated]| UsageRow {
            picodollars: PicoDollarPrice(picodollars),
            messages,
            bytes,
            last_sequence: SequenceId(last),
            stated_picodollars: PicoDollarPrice(stated),
        })
    }

    fn sum(parts: [UsageRow; 3]) -> UsageRow {
        let mut sum = UsageRow::default();
        parts.into_iter().for_each(|part| sum.add(part));
        sum
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, UsageKey { originator: a.originator, ..b });
            keeps_order(a, UsageKey { payer: b.payer, ..a });
        }

        #[test]
        fn values_read_back(row in rows()) {
            prop_assert_eq!(UsageRow::decode(&row.encode()), Some(row));
        }

        #[test]
        fn counts_do_not_depend_on_the_order_of_joining(a in rows(), b in rows(), c in rows()) {
            prop_assert_eq!(sum([a, b, c]), sum([c, a, b]));
            prop_assert_eq!(sum([a, b, c]), sum([b, a, c]));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key =
            UsageKey { originator: OriginatorId(100), minute: 0x0102, payer: Address([7; 20]) };
        let mut expected = [7; 28];
        expected[..8].copy_from_slice(&[0, 0, 0, 100, 0, 0, 1, 2]);
        assert_eq!(key.encode(), expected);
        let row = UsageRow {
            picodollars: PicoDollarPrice(1),
            messages: 2,
            bytes: 3,
            last_sequence: SequenceId(4),
            stated_picodollars: PicoDollarPrice(5),
        };
        let mut expected = [0; 40];
        (expected[7], expected[15], expected[23]) = (1, 2, 3);
        (expected[31], expected[39]) = (4, 5);
        assert_eq!(row.encode(), expected);
    }
}
