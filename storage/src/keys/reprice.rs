//! Minutes whose booked amounts have to be calculated again.

use super::Key;
use super::congestion::CongestionKey;
use crate::family::Family;

/// Column family `reprice`: `[originator u32 BE][minute u32 BE]` → empty.
///
/// A row is written in the same batch as the change that makes the amounts of its minute wrong (a rate that was
/// recorded late, or an envelope below the head), and removed in the same batch that writes the correct amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepriceKey(pub(crate) CongestionKey);

impl Key<'_> for RepriceKey {
    const FAMILY: Family = Family::Reprice;
    type Bytes = [u8; 8];

    fn encode(self) -> Self::Bytes {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        CongestionKey::decode(bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = RepriceKey> {
        (any::<u32>(), any::<u32>()).prop_map(|(o, minute)| {
            RepriceKey(CongestionKey { originator: OriginatorId(o), minute })
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = RepriceKey(CongestionKey { originator: OriginatorId(100), minute: 0x0102 });
        assert_eq!(key.encode(), [0, 0, 0, 100, 0, 0, 1, 2]);
    }
}
