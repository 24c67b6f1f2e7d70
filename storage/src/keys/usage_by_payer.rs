//! Rows of the usage of payers, payer first.

use hawser_proto::{Address, OriginatorId};

use super::usage::UsageKey;
use super::{Key, take};
use crate::family::Family;

/// Column family `usage_by_payer`: `[payer 20 bytes][originator u32 BE][minute u32 BE]` → the
/// value of the `usage` row with the same parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsageByPayerKey(pub(crate) UsageKey);

impl Key<'_> for UsageByPayerKey {
    const FAMILY: Family = Family::UsageByPayer;
    type Bytes = [u8; 28];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 28];
        key[..20].copy_from_slice(&self.0.payer.0);
        key[20..24].copy_from_slice(&self.0.originator.0.to_be_bytes());
        key[24..].copy_from_slice(&self.0.minute.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (payer, rest) = take(bytes)?;
        let (originator, minute) = take(rest)?;
        Some(Self(UsageKey {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            minute: u32::from_be_bytes(minute.try_into().ok()?),
            payer: Address(payer),
        }))
    }
}

impl Ord for UsageByPayerKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |key: &Self| (key.0.payer, key.0.originator, key.0.minute);
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for UsageByPayerKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = UsageByPayerKey> {
        (any::<u32>(), any::<u32>(), any::<[u8; 20]>()).prop_map(|(o, minute, payer)| {
            UsageByPayerKey(UsageKey { originator: OriginatorId(o), minute, payer: Address(payer) })
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, UsageByPayerKey(UsageKey { payer: a.0.payer, ..b.0 }));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = UsageByPayerKey(UsageKey {
            originator: OriginatorId(100),
            minute: 0x0102,
            payer: Address([7; 20]),
        });
        let mut expected = [7; 28];
        expected[20..].copy_from_slice(&[0, 0, 0, 100, 0, 0, 1, 2]);
        assert_eq!(key.encode(), expected);
    }
}
