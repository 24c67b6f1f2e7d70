//! Message counts of originators, for congestion fees.

use hawser_proto::OriginatorId;

use super::{Key, take};
use crate::family::Family;

/// Column family `congestion`: `[originator u32 BE][minute u32 BE]` → `[messages u64 BE]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CongestionKey {
    pub(crate) originator: OriginatorId,
    pub(crate) minute: u32,
}

impl Key<'_> for CongestionKey {
    const FAMILY: Family = Family::Congestion;
    type Bytes = [u8; 8];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&self.originator.0.to_be_bytes());
        key[4..].copy_from_slice(&self.minute.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (originator, minute) = take(bytes)?;
        Some(Self {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            minute: u32::from_be_bytes(minute.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = CongestionKey> {
        (any::<u32>(), any::<u32>())
            .prop_map(|(o, minute)| CongestionKey { originator: OriginatorId(o), minute })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, CongestionKey { originator: a.originator, ..b });
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = CongestionKey { originator: OriginatorId(100), minute: 0x0102 };
        assert_eq!(key.encode(), [0, 0, 0, 100, 0, 0, 1, 2]);
    }
}
