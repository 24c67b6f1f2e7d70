//! Ledger entries of payers from contract events: deposits, withdrawals and settled usage.

use hawser_proto::PayerAddress;
use hawser_proto::price::PicoDollarChange;

use super::{Key, decode_u64, take};
use crate::family::Family;

/// Column family `ledger`: `[payer, 20 bytes][order u64 BE]` →
/// `[event id, 32 bytes][block u64 BE][kind u8][picodollars i64 BE]`.
///
/// The amount is i128 BE if it does not fit into i64: the payer registry counts microdollars in 96 bits.
///
/// The order numbers a payer's entries from 1 in the order of writing. Append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LedgerKey {
    pub(crate) payer: PayerAddress,
    pub(crate) order: u64,
}

impl Key<'_> for LedgerKey {
    const FAMILY: Family = Family::Ledger;
    type Bytes = [u8; 28];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 28];
        key[..20].copy_from_slice(&self.payer.0);
        key[20..].copy_from_slice(&self.order.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (payer, order) = take(bytes)?;
        Some(Self { payer: hawser_proto::Address(payer), order: decode_u64(order)? })
    }
}

/// Identifies an event of the payer registry: SHA-256 over its place on the chain. Stored and never
/// interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerEventId(pub [u8; 32]);

/// An entry in a payer's ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Identifier of the contract event.
    pub event: LedgerEventId,
    /// Number of the block with the event.
    pub block: u64,
    /// Kind of the event.
    pub kind: LedgerKind,
    /// Amount that the entry adds to the payer's balance.
    pub picodollars: PicoDollarChange,
}

/// The kind of a [`LedgerEntry`]. The numbers are stored and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LedgerKind {
    /// The payer deposited money.
    Deposit = 0,
    /// The payer asked for a withdrawal, which is debited at once.
    WithdrawalRequested = 1,
    /// A settlement deducted fees.
    UsageSettled = 2,
    /// The payer cancelled a withdrawal; its amount is credited again.
    WithdrawalCancelled = 3,
    /// A reorganisation removed the event of an earlier entry. Carries that entry's negated amount.
    Reversal = 4,
}

impl LedgerKind {
    const ALL: [Self; 5] = [
        Self::Deposit,
        Self::WithdrawalRequested,
        Self::UsageSettled,
        Self::WithdrawalCancelled,
        Self::Reversal,
    ];
}

impl LedgerEntry {
    /// Returns true when credits are not negative, debits are not positive, and the amount has an
    /// opposite, with which a reversal balances it. A reversal may have either sign.
    pub(crate) fn is_sound(&self) -> bool {
        let has_opposite = self.picodollars.opposite().is_some();
        has_opposite
            && match self.kind {
                LedgerKind::Deposit | LedgerKind::WithdrawalCancelled => self.picodollars.0 >= 0,
                LedgerKind::WithdrawalRequested | LedgerKind::UsageSettled => {
                    self.picodollars.0 <= 0
                }
                LedgerKind::Reversal => true,
            }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = self.event.0.to_vec();
        value.extend(self.block.to_be_bytes());
        value.push(self.kind as u8);
        match i64::try_from(self.picodollars.0) {
            Ok(picodollars) => value.extend(picodollars.to_be_bytes()),
            Err(_) => value.extend(self.picodollars.0.to_be_bytes()),
        }
        value
    }

    /// Decodes an entry; `None` for bytes that are never written, such as an amount with the wrong sign.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (event, rest) = take::<32>(value)?;
        let (block, rest) = take::<8>(rest)?;
        let ([kind], picodollars) = take::<1>(rest)?;
        let entry = Self {
            event: LedgerEventId(event),
            block: u64::from_be_bytes(block),
            kind: LedgerKind::ALL.into_iter().find(|known| *known as u8 == kind)?,
            picodollars: decode_amount(picodollars)?,
        };
        Some(entry).filter(Self::is_sound)
    }
}

/// Decodes the amount of an entry; `None` for other lengths, and for an amount that takes more bytes than it needs.
fn decode_amount(bytes: &[u8]) -> Option<PicoDollarChange> {
    if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        return Some(PicoDollarChange(i64::from_be_bytes(bytes).into()));
    }
    let amount = i128::from_be_bytes(bytes.try_into().ok()?);
    i64::try_from(amount).is_err().then_some(PicoDollarChange(amount))
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = LedgerKey> {
        (any::<[u8; 20]>(), any::<u64>())
            .prop_map(|(payer, order)| LedgerKey { payer: Address(payer), order })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, LedgerKey { payer: a.payer, ..b });
        }

        #[test]
        fn values_read_back(
            event in any::<[u8; 32]>(),
            block in any::<u64>(),
            kind in 0..LedgerKind::ALL.len(),
            picodollars in prop_oneof![any::<i64>().prop_map(i128::from), any::<i128>()],
        ) {
            let entry = LedgerEntry {
                event: LedgerEventId(event),
                block,
                kind: LedgerKind::ALL[kind],
                picodollars: PicoDollarChange(picodollars),
            };
            let expected = Some(entry).filter(LedgerEntry::is_sound);
            prop_assert_eq!(LedgerEntry::decode(&entry.encode()), expected);
        }
    }

    #[test]
    fn an_amount_that_cannot_be_balanced_is_damage() {
        let entry = |kind, picodollars| LedgerEntry {
            event: LedgerEventId([1; 32]),
            block: 1,
            kind,
            picodollars: PicoDollarChange(picodollars),
        };
        for (kind, amount) in [
            (LedgerKind::Deposit, -1),
            (LedgerKind::WithdrawalCancelled, -1),
            (LedgerKind::WithdrawalRequested, 1),
            (LedgerKind::UsageSettled, 1),
            (LedgerKind::UsageSettled, i128::MIN),
            (LedgerKind::Reversal, i128::MIN),
        ] {
            assert_eq!(LedgerEntry::decode(&entry(kind, amount).encode()), None, "{kind:?}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = LedgerKey { payer: Address([7; 20]), order: 0x0102 }.encode();
        assert_eq!((&key[..20], &key[20..]), (&[7; 20][..], &[0, 0, 0, 0, 0, 0, 1, 2][..]));
        let value = |kind, picodollars| {
            let picodollars = PicoDollarChange(picodollars);
            let entry = LedgerEntry { event: LedgerEventId([9; 32]), block: 5, kind, picodollars };
            entry.encode()
        };
        let small = value(LedgerKind::WithdrawalRequested, -2);
        assert_eq!(small[..32], [9; 32]);
        assert_eq!(small[32..41], [0, 0, 0, 0, 0, 0, 0, 5, 1]);
        assert_eq!(small[41..], [255, 255, 255, 255, 255, 255, 255, 254]);
        assert_eq!(LedgerKind::ALL.map(|it| value(it, -2)[40]), [0, 1, 2, 3, 4]);
        let large = value(LedgerKind::Deposit, 1 << 64);
        assert_eq!(large[..41], value(LedgerKind::Deposit, 0)[..41]);
        assert_eq!(large[41..], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn each_amount_has_one_form() {
        let entry = LedgerEntry {
            event: LedgerEventId([9; 32]),
            block: 5,
            kind: LedgerKind::Reversal,
            picodollars: PicoDollarChange(0),
        };
        let head = &entry.encode()[..41];
        let of = |amount: &[u8]| LedgerEntry::decode(&[head, amount].concat());
        for amount in [i64::MIN, -1, 0, i64::MAX].map(i128::from) {
            assert_eq!(of(&amount.to_be_bytes()), None, "{amount} in 16 bytes");
            let entry = LedgerEntry { picodollars: PicoDollarChange(amount), ..entry };
            assert_eq!(entry.encode().len(), 49);
            assert_eq!(LedgerEntry::decode(&entry.encode()), Some(entry));
        }
        let beyond = i128::from(i64::MAX) + 1;
        let of_beyond = of(&beyond.to_be_bytes()).map(|it| it.picodollars);
        assert_eq!(of_beyond, Some(PicoDollarChange(beyond)));
    }

    #[test]
    fn unknown_kinds_and_other_lengths_are_no_entry() {
        let mut value = LedgerEntry {
            event: LedgerEventId([9; 32]),
            block: 5,
            kind: LedgerKind::Deposit,
            picodollars: PicoDollarChange(1),
        }
        .encode();
        assert_eq!(LedgerEntry::decode(&value[..48]), None);
        value[40] = 5;
        assert_eq!(LedgerEntry::decode(&value), None);
    }
}
