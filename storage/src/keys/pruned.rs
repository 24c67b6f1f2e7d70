//! Records of envelopes that were stored until they expired: all values from which tallies follow.

use hawser_proto::merkle::TreeHash;
use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{Address, EnvelopeId};

use super::envelope::EnvelopeKey;
use super::{Key, take};
use crate::change::Charge;
use crate::family::Family;

/// Column family `pruned`: `[originator u32 BE][sequence u64 BE]` → flags u8, the originator's time i64 BE and the
/// envelope's length u64 BE; then, each if its flag is set: the charge (payer 20 bytes, size u64 BE, retention u32 BE,
/// stated picodollars u64 BE), the receipt (32 bytes), the leaf (32 bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrunedKey(pub(crate) EnvelopeId);

impl Key<'_> for PrunedKey {
    const FAMILY: Family = Family::Pruned;
    type Bytes = [u8; 12];

    fn encode(self) -> Self::Bytes {
        EnvelopeKey(self.0).encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        EnvelopeKey::decode(bytes).map(|key| Self(key.0))
    }
}

/// The properties of a pruned valid envelope that tallies and trees need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedEnvelope {
    /// The originator's time, unix nanoseconds.
    pub originator_ns: i64,
    /// Length of the envelope as it was stored.
    pub len_bytes: u64,
    /// Charge to the payer.
    pub charge: Option<Charge>,
    /// True if the envelope counts towards its originator's congestion.
    pub counts_for_congestion: bool,
    /// Digest of its publish request; `None` outside of this node's own strand.
    pub receipt: Option<[u8; 32]>,
    /// The envelope's leaf; `None` if the strand's tree had reached the place.
    pub leaf: Option<TreeHash>,
}

const CHARGE: u8 = 1;
const COUNTS: u8 = 2;
const RECEIPT: u8 = 4;
const LEAF: u8 = 8;
/// Length of a row with all parts, bytes.
const LEN_MAX: usize = 17 + 40 + 2 * 32;

impl PrunedEnvelope {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
        let flags = flag(self.charge.is_some(), CHARGE)
            | flag(self.counts_for_congestion, COUNTS)
            | flag(self.receipt.is_some(), RECEIPT)
            | flag(self.leaf.is_some(), LEAF);
        let mut value = Vec::with_capacity(LEN_MAX);
        value.push(flags);
        value.extend(self.originator_ns.to_be_bytes());
        value.extend(self.len_bytes.to_be_bytes());
        if let Some(charge) = self.charge {
            value.extend(charge.payer.0);
            value.extend(charge.size_bytes.to_be_bytes());
            value.extend(charge.retention_days.to_be_bytes());
            value.extend(charge.stated_picodollars.0.to_be_bytes());
        }
        value.extend(self.receipt.iter().flatten());
        value.extend(self.leaf.iter().flat_map(|leaf| leaf.0));
        value
    }

    /// Decodes a row; `None` for malformed bytes.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let ([flags], rest) = take::<1>(value)?;
        let (originator_ns, rest) = take(rest)?;
        let (len_bytes, mut rest) = take(rest)?;
        if flags & !(CHARGE | COUNTS | RECEIPT | LEAF) != 0 {
            return None;
        }
        let mut charge = None;
        if flags & CHARGE != 0 {
            let (payer, more) = take(rest)?;
            let (size_bytes, more) = take(more)?;
            let (retention_days, more) = take(more)?;
            let (stated_picodollars, more) = take(more)?;
            rest = more;
            charge = Some(Charge {
                payer: Address(payer),
                size_bytes: u64::from_be_bytes(size_bytes),
                retention_days: u32::from_be_bytes(retention_days),
                stated_picodollars: PicoDollarPrice(u64::from_be_bytes(stated_picodollars)),
            });
        }
        let mut hash = |flag| -> Option<Option<[u8; 32]>> {
            if flags & flag == 0 {
                return Some(None);
            }
            let (hash, more) = take(rest)?;
            rest = more;
            Some(Some(hash))
        };
        let (receipt, leaf) = (hash(RECEIPT)?, hash(LEAF)?.map(TreeHash));
        rest.is_empty().then_some(Self {
            originator_ns: i64::from_be_bytes(originator_ns),
            len_bytes: u64::from_be_bytes(len_bytes),
            charge,
            counts_for_congestion: flags & COUNTS != 0,
            receipt,
            leaf,
        })
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = PrunedKey> {
        (any::<u32>(), any::<u64>())
            .prop_map(|(o, s)| PrunedKey(EnvelopeId::new(OriginatorId(o), SequenceId(s))))
    }

    fn rows() -> impl Strategy<Value = PrunedEnvelope> {
        let charge = any::<([u8; 20], u64, u32, u64)>().prop_map(|it| {
            let (payer, size_bytes, retention_days, stated) = it;
            let stated_picodollars = PicoDollarPrice(stated);
            Charge { payer: Address(payer), size_bytes, retention_days, stated_picodollars }
        });
        let rest = any::<(i64, u64, bool, Option<[u8; 32]>, Option<[u8; 32]>)>();
        (proptest::option::of(charge), rest).prop_map(|(charge, rest)| {
            let (originator_ns, len_bytes, counts_for_congestion, receipt, leaf) = rest;
            let leaf = leaf.map(TreeHash);
            PrunedEnvelope {
                originator_ns,
                len_bytes,
                charge,
                counts_for_congestion,
                receipt,
                leaf,
            }
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }

        #[test]
        fn values_read_back_and_cut_ones_do_not(row in rows()) {
            let value = row.encode();
            prop_assert_eq!(PrunedEnvelope::decode(&value), Some(row));
            prop_assert_eq!(PrunedEnvelope::decode(&value[..value.len() - 1]), None);
            prop_assert_eq!(PrunedEnvelope::decode(&[&value[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        assert_eq!(PrunedKey(id).encode(), [0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7]);
        let row = PrunedEnvelope {
            originator_ns: 1,
            len_bytes: 2,
            charge: Some(Charge {
                payer: Address([3; 20]),
                size_bytes: 4,
                retention_days: 5,
                stated_picodollars: PicoDollarPrice(6),
            }),
            counts_for_congestion: true,
            receipt: Some([7; 32]),
            leaf: Some(TreeHash([8; 32])),
        };
        let mut expected = vec![15, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        expected.extend([3; 20]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6]);
        expected.extend([7; 32]);
        expected.extend([8; 32]);
        assert_eq!(row.encode(), expected);
        assert_eq!(PrunedEnvelope::decode(&[16; 17]), None, "a flag of a later version");
    }
}
