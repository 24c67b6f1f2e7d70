//! The ledger of a payer: entries that follow from the payer registry's events on the settlement
//! chain.
//!
//! Entries never change. When the chain takes an event back, a second entry reverses its first one.
//! Specified in `docs/protocol/fees.md`.

use std::collections::{BTreeMap, HashMap, HashSet};

use hawser_proto::PayerAddress;
use hawser_proto::price::{PicoDollarChange, PicoDollarPrice};
use hawser_storage::{LedgerEntry, LedgerEventId, LedgerKind};
use sha2::{Digest as _, Sha256};

/// Picodollars in a microdollar. The chain counts in 10⁻⁶ dollars, a node in 10⁻¹² dollars.
const PICODOLLARS_PER_MICRODOLLAR: u128 = 1_000_000;
/// The largest amount of the payer registry in 10⁻⁶ dollars. It counts amounts in 96 bits, and balances in 104.
const MICRODOLLARS_MAX: u128 = (1 << 96) - 1;

/// An event of the payer registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEvent {
    /// Identifies the event; see [`event_id`].
    pub id: LedgerEventId,
    /// Number of the block that contains the event.
    pub block: u64,
    /// The payer whose balance it changes.
    pub payer: PayerAddress,
    /// The change to the balance of that payer.
    pub action: LedgerAction,
}

/// An amount in 10⁻⁶ dollars, the unit of the chain. Any number, because an endpoint can make one up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerMicroDollars(pub u128);

/// The change that an event makes to a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerAction {
    /// Adds the amount.
    Deposit(LedgerMicroDollars),
    /// Takes the amount, from the request on and not only from the payment.
    WithdrawalRequested(LedgerMicroDollars),
    /// Takes the amount.
    UsageSettled(LedgerMicroDollars),
    /// Returns the amount of the payer's last withdrawal. The event names no amount.
    WithdrawalCancelled,
}

/// The reason why an event has no place in the ledger. Waiting would not change it, so the event is
/// passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BookingError {
    /// The id is all zeros.
    #[error("the event of the settlement chain has no id")]
    NoId,
    /// The amount is 0, or is no amount of the payer registry, which counts in 96 bits.
    #[error("an amount of {} microdollars cannot be booked", .amount.0)]
    Amount {
        /// The amount.
        amount: LedgerMicroDollars,
    },
    /// A cancellation without a withdrawal.
    #[error("the payer has no recorded withdrawal that the event could cancel")]
    NoWithdrawal,
    /// A second cancellation of one withdrawal.
    #[error("the payer's last withdrawal is cancelled already")]
    AlreadyCancelled,
}

/// Returns the id of an event: the SHA-256 of transaction hash, block hash and the log's index in
/// the block (4 bytes, big-endian). The same log in another block is another event.
#[must_use]
pub fn event_id(transaction_hash: [u8; 32], block_hash: [u8; 32], log_index: u32) -> LedgerEventId {
    let mut hasher = Sha256::new();
    hasher.update(transaction_hash);
    hasher.update(block_hash);
    hasher.update(log_index.to_be_bytes());
    LedgerEventId(hasher.finalize().into())
}

/// The entries of a payer in their order, with an index of their events. A payer can cause any number of events, and
/// each further event is searched for among them.
#[derive(Debug, Clone, Default)]
pub struct PayerLedger {
    entries: Vec<LedgerEntry>,
    /// The kind and the amount of the newest entry of each event.
    newest: HashMap<LedgerEventId, (LedgerKind, PicoDollarChange)>,
    /// The withdrawals and cancellations that are not reversed, by block, and within a block in the order of booking.
    withdrawals: BTreeMap<(u64, usize), LedgerEntry>,
}

impl PayerLedger {
    /// Creates the ledger from entries in their order.
    #[must_use]
    pub fn new(entries: Vec<LedgerEntry>) -> Self {
        let mut ledger = Self::default();
        entries.into_iter().for_each(|entry| ledger.push(entry));
        ledger
    }

    /// Returns the entries in their order.
    #[must_use]
    pub fn entries(&self) -> &[LedgerEntry] {
        &self.entries
    }

    /// Adds an entry behind all others.
    pub fn push(&mut self, entry: LedgerEntry) {
        self.newest.insert(entry.event, (entry.kind, entry.picodollars));
        match entry.kind {
            LedgerKind::WithdrawalRequested | LedgerKind::WithdrawalCancelled => {
                self.withdrawals.insert((entry.block, self.entries.len()), entry);
            }
            LedgerKind::Reversal => {
                let mut of_block =
                    self.withdrawals.range((entry.block, 0)..=(entry.block, usize::MAX));
                let reversed = of_block.find(|(_, it)| it.event == entry.event);
                if let Some(place) = reversed.map(|(place, _)| *place) {
                    self.withdrawals.remove(&place);
                }
            }
            LedgerKind::Deposit | LedgerKind::UsageSettled => {}
        }
        self.entries.push(entry);
    }

    /// Returns the entry that an event adds; `None` if the event is booked already, or settles an amount of zero. The
    /// cost hardly depends on the number of entries.
    ///
    /// # Errors
    /// If the event can never be booked.
    pub fn book(&self, event: &LedgerEvent) -> Result<Option<LedgerEntry>, BookingError> {
        // The id counts before all other rules: a booked event stays booked, also a cancellation whose
        // withdrawal is no longer the last one.
        let newest = self.newest.get(&event.id);
        if newest.is_some_and(|(kind, _)| *kind != LedgerKind::Reversal) {
            return Ok(None);
        }
        self.book_new(event)
    }

    /// Returns true if an event is booked, or can never be. One that has the id of another event is not booked: an
    /// endpoint of the chain can show any event at the place of a true one, to have it taken for booked.
    #[must_use]
    pub fn knows(&self, event: &LedgerEvent) -> bool {
        let (kind, amount) = match self.newest.get(&event.id) {
            Some((kind, amount)) if *kind != LedgerKind::Reversal => (*kind, *amount),
            _ => return !matches!(self.book_new(event), Ok(Some(_))),
        };
        let (expected, shown) = match event.action {
            LedgerAction::Deposit(shown) => (LedgerKind::Deposit, shown),
            LedgerAction::WithdrawalRequested(shown) => (LedgerKind::WithdrawalRequested, shown),
            LedgerAction::UsageSettled(shown) => (LedgerKind::UsageSettled, shown),
            // The event names no amount.
            LedgerAction::WithdrawalCancelled => return kind == LedgerKind::WithdrawalCancelled,
        };
        let is_amount =
            picodollars(shown).is_ok_and(|shown| shown.0.unsigned_abs() == amount.0.unsigned_abs());
        kind == expected && is_amount
    }

    /// Returns the events of a batch whose entries stay: those that a ledger made anew from the batch has, too.
    /// The batch has all events of the payer from `from_block` on, in the order of the chain. One that an endpoint had
    /// left out may change the amount of a later cancellation, and the order of the entries behind it in its block.
    pub(crate) fn staying(
        &self,
        from_block: u64,
        batch: &[&LedgerEvent],
    ) -> HashSet<LedgerEventId> {
        let before = self.entries.iter().filter(|entry| entry.block < from_block);
        let mut anew = Self::new(before.copied().collect());
        let (mut staying, mut moved_in) = (HashSet::new(), None);
        for event in batch {
            let Ok(Some(entry)) = anew.book(event) else { continue };
            anew.push(entry);
            if self.newest.get(&entry.event) != Some(&(entry.kind, entry.picodollars)) {
                moved_in = Some(entry.block);
            }
            if moved_in != Some(entry.block) {
                staying.insert(entry.event);
            }
        }
        staying
    }

    /// Returns the entry of an event that is not booked, or whose entry is reversed.
    fn book_new(&self, event: &LedgerEvent) -> Result<Option<LedgerEntry>, BookingError> {
        if event.id == LedgerEventId([0; 32]) {
            return Err(BookingError::NoId);
        }
        let entry = |kind, picodollars| {
            Some(LedgerEntry { event: event.id, block: event.block, kind, picodollars })
        };
        Ok(match event.action {
            // The leaf of a payer without a price, such as one at rates of zero, is settled like any other.
            LedgerAction::UsageSettled(LedgerMicroDollars(0)) => None,
            LedgerAction::Deposit(amount) => entry(LedgerKind::Deposit, picodollars(amount)?),
            LedgerAction::WithdrawalRequested(amount) => {
                entry(LedgerKind::WithdrawalRequested, opposite(picodollars(amount)?))
            }
            LedgerAction::UsageSettled(amount) => {
                entry(LedgerKind::UsageSettled, opposite(picodollars(amount)?))
            }
            LedgerAction::WithdrawalCancelled => {
                let amount = self.last_withdrawal(event.block)?;
                entry(LedgerKind::WithdrawalCancelled, opposite(amount))
            }
        })
    }

    /// Returns the amount of the last withdrawal up to a block that is neither reversed nor cancelled; below 0. An
    /// event that an endpoint has left out is booked when it is found, behind events of later blocks.
    fn last_withdrawal(&self, block: u64) -> Result<PicoDollarChange, BookingError> {
        match self.withdrawals.range(..=(block, usize::MAX)).next_back() {
            None => Err(BookingError::NoWithdrawal),
            Some((_, last)) if last.kind == LedgerKind::WithdrawalCancelled => {
                Err(BookingError::AlreadyCancelled)
            }
            Some((_, last)) => Ok(last.picodollars),
        }
    }
}

/// Returns the entries that reverse those which are not reversed yet, are of `from_block` or a later block, and
/// belong to no event that the chain still `has`.
#[must_use]
pub(crate) fn reversals(
    entries: &[LedgerEntry],
    from_block: u64,
    has: impl Fn(&LedgerEventId) -> bool,
) -> Vec<LedgerEntry> {
    let mut standing: Vec<LedgerEntry> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.block >= from_block && !has(&entry.event)) {
        match entry.kind {
            // An event that was reversed before must not be reversed twice.
            LedgerKind::Reversal => standing.retain(|earlier| earlier.event != entry.event),
            _ => standing.push(*entry),
        }
    }
    let reverse = |entry: LedgerEntry| LedgerEntry {
        kind: LedgerKind::Reversal,
        picodollars: opposite(entry.picodollars),
        ..entry
    };
    standing.into_iter().map(reverse).collect()
}

/// The money of a payer, in picodollars: its balance in the payer registry, or the part of it that it can still spend.
/// Below 0 if the payer owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PicoDollarBalance(pub i128);

impl PicoDollarBalance {
    /// Returns the balance without a fee.
    #[must_use]
    pub fn without(self, fee: PicoDollarPrice) -> Self {
        Self(self.0.saturating_sub(fee.0.into()))
    }

    /// Returns the balance after an entry of this amount.
    ///
    /// Sums count modulo 2^128. So every sum in that range is exact, and that of any entries that are true is. An
    /// endpoint can make up thousands of the largest deposits; they are as wrong as a single one, and after their
    /// reversals nothing is left of them.
    #[must_use]
    pub fn after(self, change: PicoDollarChange) -> Self {
        Self(self.0.wrapping_add(change.0))
    }
}

/// Returns the sum of a payer's entries.
#[must_use]
pub fn balance(entries: &[LedgerEntry]) -> PicoDollarBalance {
    let start = PicoDollarBalance::default();
    entries.iter().fold(start, |balance, entry| balance.after(entry.picodollars))
}

/// Returns the amount that balances an entry.
///
/// # Panics
/// For `i128::MIN`, which has no opposite. No entry has it: [`picodollars`] gives amounts of 116 bits, and
/// storage reads a stored one as damage. An entry that did not balance would change what a payer owns.
fn opposite(amount: PicoDollarChange) -> PicoDollarChange {
    amount.opposite().expect("an amount of the ledger has an opposite")
}

/// Converts an amount of the chain.
fn picodollars(amount: LedgerMicroDollars) -> Result<PicoDollarChange, BookingError> {
    let error = BookingError::Amount { amount };
    if !(1..=MICRODOLLARS_MAX).contains(&amount.0) {
        return Err(error);
    }
    let picodollars = i128::try_from(amount.0 * PICODOLLARS_PER_MICRODOLLAR).map_err(|_| error)?;
    Ok(PicoDollarChange(picodollars))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hawser_proto::Address;
    use proptest::prelude::*;

    use super::*;

    const DEPOSIT: LedgerAction = LedgerAction::Deposit(LedgerMicroDollars(10));
    const WITHDRAWAL: LedgerAction = LedgerAction::WithdrawalRequested(LedgerMicroDollars(4));
    const CANCEL: LedgerAction = LedgerAction::WithdrawalCancelled;

    fn event(id: u8, action: LedgerAction) -> LedgerEvent {
        LedgerEvent {
            id: LedgerEventId([id; 32]),
            block: id.into(),
            payer: Address([3; 20]),
            action,
        }
    }

    /// Books one after the other; returns the balance in microdollars and the errors.
    fn after(events: &[LedgerEvent]) -> (i128, Vec<BookingError>) {
        let mut entries = Vec::new();
        let refused = book_all(&mut entries, events);
        (micros(&entries), refused)
    }

    fn book(
        entries: &[LedgerEntry],
        event: &LedgerEvent,
    ) -> Result<Option<LedgerEntry>, BookingError> {
        let mut ledger = PayerLedger::default();
        entries.iter().for_each(|entry| ledger.push(*entry));
        let booked = ledger.book(event);
        assert_eq!(PayerLedger::new(entries.to_vec()).book(event), booked);
        booked
    }

    fn book_all(entries: &mut Vec<LedgerEntry>, events: &[LedgerEvent]) -> Vec<BookingError> {
        let mut refused = Vec::new();
        for event in events {
            match book(entries, event) {
                Ok(entry) => entries.extend(entry),
                Err(refusal) => refused.push(refusal),
            }
        }
        refused
    }

    /// Replaces the entries from this block on by these events, as a reorganisation of the chain does.
    fn replace(entries: &mut Vec<LedgerEntry>, from_block: u64, ids: &[u8]) {
        let undone = reversals(entries, from_block, |id| ids.contains(&id.0[0]));
        entries.extend(undone);
    }

    fn micros(entries: &[LedgerEntry]) -> i128 {
        balance(entries).0 / 1_000_000
    }

    #[test]
    fn ids_are_those_of_other_implementations() {
        let text = include_str!("../../tests/vectors/contracts/ledger_event_ids.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        for case in cases {
            let bytes = |name: &str| -> [u8; 32] {
                let text = case[name].as_str().unwrap().trim_start_matches("0x");
                hex::decode(text).unwrap().try_into().unwrap()
            };
            let index = u32::try_from(case["log_index"].as_u64().unwrap()).unwrap();
            assert_eq!(
                event_id(bytes("tx_hash"), bytes("block_hash"), index),
                LedgerEventId(bytes("event_id"))
            );
        }
        assert!(!cases.is_empty());
    }

    #[test]
    fn codes_of_kinds_are_those_of_other_implementations() {
        let text = include_str!("../../tests/vectors/contracts/ledger_event_ids.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for (name, kind) in [
            ("deposit", LedgerKind::Deposit),
            ("withdrawal_requested", LedgerKind::WithdrawalRequested),
            ("usage_settled", LedgerKind::UsageSettled),
            ("withdrawal_cancelled", LedgerKind::WithdrawalCancelled),
            ("reorg_reversal_unused", LedgerKind::Reversal),
        ] {
            assert_eq!(vectors["event_types"][name], kind as u8, "{name}");
        }
    }

    /// Computed by another program from the specification.
    #[test]
    fn ids_have_their_parts_in_the_order_and_with_the_ends_that_are_specified() {
        for (transaction, block, index, id) in [
            (0, 0, 0, "1751ac12e70e15b4f76c16775cd329ae55973b612521dab2de828a5cdb6c8ab3"),
            (0x11, 0x22, 255, "6bad75441c448655be22de6dd6b6333580a8f607fbe310c5ff1dc7d85f9f0fd1"),
            (0x22, 0x11, 255, "05cae0ebe6d653883c76da3c32ebcf47333c91a3ac6952166a3525dbf9dc9b04"),
            (
                0xff,
                0xff,
                1 << 24,
                "00f60df3d95c3457cd0227d93fbc60166202983dc3c7a1e4186db21c16ccb098",
            ),
            (1, 2, 1 << 31, "54b5f9583dace7d319ff8f8ed0e9611924bc1afef71826d4b7e93dac945bc9b8"),
        ] {
            let computed = event_id([transaction; 32], [block; 32], index).0;
            assert_eq!(hex::encode(computed), id, "{transaction} {block} {index}");
        }
    }

    #[test]
    fn an_event_is_not_known_by_the_id_of_another_one() {
        let mut entries = Vec::new();
        let events = [event(1, DEPOSIT), event(2, WITHDRAWAL), event(3, CANCEL)];
        assert!(book_all(&mut entries, &events).is_empty());
        let ledger = PayerLedger::new(entries);
        assert!(events.iter().all(|event| ledger.knows(event)));
        let larger = LedgerAction::Deposit(LedgerMicroDollars(11));
        for (id, action) in [(1, WITHDRAWAL), (1, larger), (2, CANCEL), (3, DEPOSIT), (4, DEPOSIT)]
        {
            assert!(!ledger.knows(&event(id, action)), "{id}: {action:?}");
        }
        assert!(ledger.knows(&event(5, CANCEL)), "it can never be booked");
    }

    #[test]
    fn kinds_and_signs_are_those_of_other_implementations() {
        let book = |action| book(&[], &event(1, action)).unwrap().unwrap();
        let deposit = book(DEPOSIT);
        assert_eq!((deposit.kind as u8, deposit.picodollars.0), (0, 10_000_000));
        let withdrawal = book(WITHDRAWAL);
        assert_eq!((withdrawal.kind as u8, withdrawal.picodollars.0), (1, -4_000_000));
        let settled = book(LedgerAction::UsageSettled(LedgerMicroDollars(3)));
        assert_eq!((settled.kind as u8, settled.picodollars.0), (2, -3_000_000));
        let nothing = self::book(&[], &event(3, LedgerAction::UsageSettled(LedgerMicroDollars(0))));
        assert_eq!(nothing, Ok(None), "a settlement of nothing is no error");
        let cancelled = self::book(&[withdrawal], &event(2, CANCEL)).unwrap().unwrap();
        assert_eq!((cancelled.kind as u8, cancelled.picodollars.0), (3, 4_000_000));
    }

    #[test]
    fn amounts_are_converted_as_by_other_implementations() {
        let text = include_str!("../../tests/vectors/contracts/fees.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut compared = 0;
        for case in vectors["micro_to_pico"].as_array().unwrap() {
            // The chain has no negative amounts. An amount of 0 is no entry.
            let Ok(microdollars) = case["microdollars"].as_str().unwrap().parse::<u128>() else {
                continue;
            };
            let golden = case["picodollars"].as_str().map(|it| it.parse::<i128>().unwrap());
            // Other implementations skip what their 64 bits do not hold.
            let exact = microdollars.checked_mul(PICODOLLARS_PER_MICRODOLLAR);
            let exact = exact.and_then(|it| i128::try_from(it).ok());
            let is_beyond = exact.is_none_or(|exact| exact > i128::from(i64::MAX));
            assert_eq!(golden.is_none(), is_beyond, "{case}");
            let booked = exact.filter(|it| *it != 0 && microdollars <= MICRODOLLARS_MAX);
            let converted = picodollars(LedgerMicroDollars(microdollars)).ok().map(|it| it.0);
            assert_eq!(converted, booked, "{case}");
            assert!(golden.is_none() || golden == exact, "{case}");
            compared += 1;
        }
        assert!(compared >= 7, "{compared}");
    }

    #[test]
    fn an_event_counts_once_however_often_and_whenever_it_comes() {
        let events = [event(1, DEPOSIT), event(2, WITHDRAWAL), event(3, CANCEL)];
        let mut again = events.to_vec();
        again.extend(events.clone());
        assert_eq!(after(&again), (10, vec![]), "an old cancellation again is no error");
        again.extend([event(4, WITHDRAWAL), event(5, CANCEL), event(3, CANCEL)]);
        assert_eq!(after(&again), (10, vec![]));
    }

    #[test]
    fn reorganised_events_no_longer_count() {
        let mut entries = Vec::new();
        book_all(&mut entries, &[event(1, DEPOSIT), event(2, DEPOSIT), event(3, DEPOSIT)]);
        replace(&mut entries, 4, &[]);
        assert_eq!(micros(&entries), 30, "nothing is as late as that");
        replace(&mut entries, 2, &[3]);
        assert_eq!(micros(&entries), 20, "one is not there any more");
        replace(&mut entries, 2, &[3]);
        assert_eq!(micros(&entries), 20, "it is taken back once");
        book_all(&mut entries, &[event(9, DEPOSIT)]);
        assert_eq!(micros(&entries), 30, "it stands in another block now");
        book_all(&mut entries, &[event(2, DEPOSIT)]);
        assert_eq!(micros(&entries), 40, "the first block is back");
        replace(&mut entries, 0, &[]);
        assert_eq!(micros(&entries), 0);
    }

    #[test]
    fn a_cancellation_gives_back_the_last_withdrawal_that_stands() {
        let larger = LedgerAction::WithdrawalRequested(LedgerMicroDollars(6));
        assert_eq!(after(&[event(1, CANCEL)]), (0, vec![BookingError::NoWithdrawal]));
        let mut events = vec![event(1, DEPOSIT), event(2, WITHDRAWAL), event(3, larger)];
        events.push(event(4, CANCEL));
        assert_eq!(after(&events), (6, vec![]));
        events.push(event(5, CANCEL));
        assert_eq!(after(&events), (6, vec![BookingError::AlreadyCancelled]));
        let mut entries = Vec::new();
        book_all(&mut entries, &[event(1, DEPOSIT), event(2, WITHDRAWAL), event(3, larger)]);
        replace(&mut entries, 3, &[]);
        book_all(&mut entries, &[event(4, CANCEL)]);
        assert_eq!(micros(&entries), 10);
        replace(&mut entries, 4, &[]);
        assert_eq!(micros(&entries), 6);
        assert_eq!(book_all(&mut entries, &[event(5, CANCEL)]), vec![]);
        assert_eq!(micros(&entries), 10);
    }

    /// The first withdrawal has been paid out, of which the ledger gets no event: the cancellation is of the second.
    #[test]
    fn a_cancellation_gives_back_its_own_withdrawal_however_large_that_is() {
        let (deposit, large) = (40_000_000_000_000, 10_000_000_000_000);
        for large in [large, MICRODOLLARS_MAX] {
            let mut events = vec![
                event(1, LedgerAction::Deposit(LedgerMicroDollars(deposit))),
                event(2, WITHDRAWAL),
                event(3, LedgerAction::WithdrawalRequested(LedgerMicroDollars(large))),
            ];
            let (deposit, large) = (i128::try_from(deposit), i128::try_from(large));
            let (deposit, large) = (deposit.unwrap(), large.unwrap());
            assert_eq!(after(&events), (deposit - 4 - large, vec![]));
            events.push(event(4, CANCEL));
            assert_eq!(after(&events), (deposit - 4, vec![]));
            events.push(event(5, CANCEL));
            assert_eq!(after(&events), (deposit - 4, vec![BookingError::AlreadyCancelled]));
        }
    }

    /// An endpoint has left an event out, and the recheck finds it behind events of later blocks.
    #[test]
    fn a_cancellation_gives_back_the_withdrawal_before_it_whenever_they_are_found() {
        let larger = LedgerAction::WithdrawalRequested(LedgerMicroDollars(6));
        let late = [event(1, DEPOSIT), event(2, WITHDRAWAL), event(4, larger), event(3, CANCEL)];
        assert_eq!(after(&late), (4, vec![]), "the larger one is paid out");
        let late = [event(1, DEPOSIT), event(3, WITHDRAWAL), event(2, larger), event(4, CANCEL)];
        assert_eq!(after(&late), (4, vec![]), "the larger one was paid out before");
    }

    #[test]
    fn made_up_deposits_beyond_any_sum_leave_nothing_behind_once_they_are_reversed() {
        let most = LedgerAction::Deposit(LedgerMicroDollars(MICRODOLLARS_MAX));
        let made_up = |number: u16| {
            let mut id = [2; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let made_up = LedgerEvent { id: LedgerEventId(id), block: 9, ..event(2, most) };
            book(&[], &made_up).unwrap().unwrap()
        };
        let mut entries = vec![book(&[], &event(1, DEPOSIT)).unwrap().unwrap()];
        entries.extend((0..2_200).map(made_up));
        assert!(balance(&entries).0 < 0, "the sum has left the range");
        let undone = reversals(&entries, 9, |_| false);
        entries.extend(undone);
        assert_eq!(micros(&entries), 10);
        let lowest = PicoDollarBalance(i128::MIN);
        assert_eq!(lowest.without(PicoDollarPrice(1)), lowest);
    }

    #[test]
    fn amounts_that_are_none_or_cannot_be_counted_are_passed_over() {
        let refused = |amount| book(&[], &event(1, LedgerAction::Deposit(amount)));
        for amount in [0, MICRODOLLARS_MAX + 1, u128::MAX].map(LedgerMicroDollars) {
            assert_eq!(refused(amount), Err(BookingError::Amount { amount }));
        }
        assert!(refused(LedgerMicroDollars(MICRODOLLARS_MAX)).is_ok());
        assert_eq!(book(&[], &event(0, DEPOSIT)), Err(BookingError::NoId));
    }

    proptest! {
        /// Events and reorganisations in any order: each event that the chain has counts once, and
        /// what it no longer has counts as nothing.
        #[test]
        fn the_balance_is_what_the_chain_has(
            steps in proptest::collection::vec((1..8_u8, any::<bool>()), 1..40),
        ) {
            let mut entries = Vec::new();
            let mut chain = BTreeSet::new();
            for (id, is_reorganised) in steps {
                if is_reorganised {
                    // The chain loses all events from this block on.
                    chain.retain(|known| *known < id);
                    let undone = reversals(&entries, id.into(), |event| chain.contains(&event.0[0]));
                    let before = balance(&entries).0;
                    let sum = balance(&undone).0;
                    entries.extend(undone);
                    prop_assert_eq!(balance(&entries).0, before + sum);
                } else {
                    chain.insert(id);
                    entries.extend(book(&entries, &event(id, DEPOSIT)).unwrap());
                }
                prop_assert_eq!(micros(&entries), 10 * chain.len() as i128);
            }
        }
    }
}
