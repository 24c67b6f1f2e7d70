//! Rows of envelopes, by place.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use super::{Key, take};
use crate::family::Family;

/// Column family `log`: `[originator u32 BE][sequence u64 BE]` → envelope bytes as signed.
///
/// Byte order is `(originator, sequence)` order, so one scan reads one strand in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EnvelopeKey(pub(crate) EnvelopeId);

impl Key<'_> for EnvelopeKey {
    const FAMILY: Family = Family::Log;
    type Bytes = [u8; 12];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.0.originator.0.to_be_bytes());
        key[4..].copy_from_slice(&self.0.sequence.0.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (originator, rest) = take(bytes)?;
        Some(Self(EnvelopeId {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            sequence: SequenceId(u64::from_be_bytes(rest.try_into().ok()?)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = EnvelopeKey> {
        (any::<u32>(), any::<u64>())
            .prop_map(|(o, s)| EnvelopeKey(EnvelopeId::new(OriginatorId(o), SequenceId(s))))
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, EnvelopeKey(EnvelopeId { originator: a.0.originator, ..b.0 }));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = EnvelopeKey(EnvelopeId::new(OriginatorId(0x0102_0304), SequenceId(5)));
        assert_eq!(key.encode(), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn other_lengths_are_no_key() {
        assert_eq!(EnvelopeKey::decode(&[0; 11]), None);
        assert_eq!(EnvelopeKey::decode(&[0; 13]), None);
    }
}
