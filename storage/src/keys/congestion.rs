//! Message counts of originators, for congestion fees.

use hawser_proto::{OriginatorId, SequenceId};

use super::{Key, take};
use crate::family::Family;

/// Column family `congestion`: `[originator u32 BE][minute u32 BE]` → messages, first sequence and
/// last sequence, each `u64 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CongestionKey {
    pub(crate) originator: OriginatorId,
    pub(crate) minute: u32,
}

impl CongestionKey {
    /// Returns the key of a strand's first possible minute.
    pub(crate) fn start_of(originator: OriginatorId) -> Self {
        Self { originator, minute: 0 }
    }

    /// Returns the minute that lies `minutes` before this one.
    pub(crate) fn before(self, minutes: u32) -> Option<Self> {
        Some(Self { minute: self.minute.checked_sub(minutes)?, ..self })
    }

    /// Returns the minute that lies `minutes` after this one.
    pub(crate) fn after(self, minutes: u32) -> Option<Self> {
        Some(Self { minute: self.minute.checked_add(minutes)?, ..self })
    }
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

/// The number of messages of a strand that count in a minute, and the range of places that count or are charged in
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CongestionRow {
    pub(crate) messages: u64,
    /// The lowest sequence id that counts or is charged.
    pub(crate) first: SequenceId,
    /// The highest sequence id that counts or is charged.
    pub(crate) last: SequenceId,
}

impl CongestionRow {
    /// Adds the envelope at `sequence`, which counts as a message if `counts`. Commutative, so that rebuilds and
    /// late finds produce the same rows as commits in order.
    pub(crate) fn add(&mut self, sequence: SequenceId, counts: bool) {
        let is_empty = self.last == SequenceId::NONE;
        self.first = if is_empty { sequence } else { self.first.min(sequence) };
        self.last = self.last.max(sequence);
        self.messages = self.messages.saturating_add(u64::from(counts));
    }

    pub(crate) fn encode(self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..8].copy_from_slice(&self.messages.to_be_bytes());
        value[8..16].copy_from_slice(&self.first.0.to_be_bytes());
        value[16..].copy_from_slice(&self.last.0.to_be_bytes());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (messages, rest) = take(value)?;
        let (first, rest) = take(rest)?;
        Some(Self {
            messages: u64::from_be_bytes(messages),
            first: SequenceId(u64::from_be_bytes(first)),
            last: SequenceId(super::decode_u64(rest)?),
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

        #[test]
        fn values_read_back_and_do_not_depend_on_the_order_of_counting(
            mut sequences in proptest::collection::vec(1..u64::MAX, 0..8),
        ) {
            let count = |sequences: &[u64]| {
                let mut row = CongestionRow::default();
                sequences.iter().for_each(|&it| row.add(SequenceId(it), it % 3 > 0));
                row
            };
            let row = count(&sequences);
            prop_assert_eq!(CongestionRow::decode(&row.encode()), Some(row));
            sequences.sort_unstable();
            prop_assert_eq!(count(&sequences), row);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = CongestionKey { originator: OriginatorId(100), minute: 0x0102 };
        assert_eq!(key.encode(), [0, 0, 0, 100, 0, 0, 1, 2]);
        let row = CongestionRow { messages: 1, first: SequenceId(2), last: SequenceId(3) };
        let mut expected = [0; 24];
        (expected[7], expected[15], expected[23]) = (1, 2, 3);
        assert_eq!(row.encode(), expected);
    }
}
