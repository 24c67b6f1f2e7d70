//! Published envelopes by digest of their request.

use super::Key;
use crate::family::Family;

/// Column family `receipt`: 32-byte digest of a publish request → `[sequence u64 BE]` of this
/// node's own strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReceiptKey(pub(crate) [u8; 32]);

impl Key<'_> for ReceiptKey {
    const FAMILY: Family = Family::Receipt;
    type Bytes = [u8; 32];

    fn encode(self) -> Self::Bytes {
        self.0
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            round_trips(ReceiptKey(a));
            keeps_order(ReceiptKey(a), ReceiptKey(b));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let digest: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(ReceiptKey(digest).encode(), digest);
    }
}
