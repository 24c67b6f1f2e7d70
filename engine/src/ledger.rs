//! What a payer's balance is made of, as this node reads it off the settlement chain.
//!
//! Entries are never changed: one whose event the chain takes back gets a second entry that undoes
//! it. See `docs/protocol/fees.md`.

use hawser_proto::PayerAddress;
use hawser_storage::{LedgerEntry, LedgerKind};
use sha2::{Digest as _, Sha256};

/// The chain counts in millionths of a dollar, a node in 10⁻¹² dollars.
const PICODOLLARS_PER_MICRODOLLAR: u128 = 1_000_000;

/// An event of the payer registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEvent {
    /// Names it; see [`event_id`].
    pub id: [u8; 32],
    /// The block that has it.
    pub block: u64,
    /// Whose balance it changes.
    pub payer: PayerAddress,
    /// How.
    pub action: LedgerAction,
}

/// What an event does to a balance. Amounts are in 10⁻⁶ dollars, as the chain has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerAction {
    /// Adds to it.
    Deposit {
        /// How much.
        microdollars: u128,
    },
    /// Takes from it, from the moment of asking.
    WithdrawalRequested {
        /// How much.
        microdollars: u128,
    },
    /// Takes from it.
    UsageSettled {
        /// How much.
        microdollars: u128,
    },
    /// Gives back what the payer's last withdrawal took.
    WithdrawalCancelled,
}

/// Why an event has no place in the ledger. It never will have one, so it is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerRefusal {
    /// An id of zeros names nothing.
    #[error("it has no id")]
    NoId,
    /// Nothing, or more than can be counted.
    #[error("an amount of {microdollars} microdollars cannot be booked")]
    Amount {
        /// As the chain has it.
        microdollars: u128,
    },
    /// A cancellation without anything to cancel.
    #[error("no withdrawal is on record that it could cancel")]
    NoWithdrawal,
    /// A second cancellation of one withdrawal.
    #[error("the last withdrawal is cancelled already")]
    AlreadyCancelled,
}

/// The name of an event: the SHA-256 of transaction hash, block hash and the log's index in the
/// block (big-endian). The same log in another block is another event.
#[must_use]
pub fn event_id(transaction_hash: [u8; 32], block_hash: [u8; 32], log_index: u32) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(transaction_hash);
    hasher.update(block_hash);
    hasher.update(log_index.to_be_bytes());
    hasher.finalize().into()
}

/// The entry that an event adds to those of its payer, which are given in their order; `None` when
/// it says nothing new.
///
/// # Errors
/// Says why it cannot be booked.
pub fn book(
    entries: &[LedgerEntry],
    event: &LedgerEvent,
) -> Result<Option<LedgerEntry>, LedgerRefusal> {
    if event.id == [0; 32] {
        return Err(LedgerRefusal::NoId);
    }
    let entry = |kind, picodollars| {
        Some(LedgerEntry { event: event.id, block: event.block, kind, picodollars })
    };
    let newest = entries.iter().rev().find(|entry| entry.event == event.id);
    // The id before all other rules: what is booked stays booked, whatever came after it.
    if newest.is_some_and(|entry| entry.kind != LedgerKind::Reversal) {
        return Ok(None);
    }
    Ok(match event.action {
        LedgerAction::Deposit { microdollars } => {
            entry(LedgerKind::Deposit, picodollars(microdollars)?)
        }
        LedgerAction::WithdrawalRequested { microdollars } => {
            entry(LedgerKind::WithdrawalRequested, -picodollars(microdollars)?)
        }
        LedgerAction::UsageSettled { microdollars } => {
            entry(LedgerKind::UsageSettled, -picodollars(microdollars)?)
        }
        LedgerAction::WithdrawalCancelled => {
            let withdrawn = last_withdrawal(entries)?;
            entry(LedgerKind::WithdrawalCancelled, withdrawn.saturating_neg())
        }
    })
}

/// The entries that undo those of a payer that stand, are of `from_block` or a later block, and are
/// not of events that the chain `has`.
#[must_use]
pub fn take_back(
    entries: &[LedgerEntry],
    from_block: u64,
    has: impl Fn(&[u8; 32]) -> bool,
) -> Vec<LedgerEntry> {
    let mut standing: Vec<LedgerEntry> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.block >= from_block && !has(&entry.event)) {
        match entry.kind {
            LedgerKind::Reversal => standing.retain(|earlier| earlier.event != entry.event),
            _ => standing.push(*entry),
        }
    }
    let undo = |entry: LedgerEntry| LedgerEntry {
        kind: LedgerKind::Reversal,
        picodollars: entry.picodollars.saturating_neg(),
        ..entry
    };
    standing.into_iter().map(undo).collect()
}

/// What the entries of a payer add up to, in picodollars. May be below 0.
#[must_use]
pub fn balance(entries: &[LedgerEntry]) -> i128 {
    entries.iter().map(|entry| i128::from(entry.picodollars)).sum()
}

/// What was taken by the last withdrawal that stands and is not cancelled; below 0.
fn last_withdrawal(entries: &[LedgerEntry]) -> Result<i64, LedgerRefusal> {
    let mut undone: Vec<[u8; 32]> = Vec::new();
    for entry in entries.iter().rev() {
        let is_undone = undone.iter().position(|event| *event == entry.event);
        match (entry.kind, is_undone) {
            (LedgerKind::Reversal, _) => undone.push(entry.event),
            (_, Some(place)) => _ = undone.swap_remove(place),
            (LedgerKind::WithdrawalCancelled, None) => return Err(LedgerRefusal::AlreadyCancelled),
            (LedgerKind::WithdrawalRequested, None) => return Ok(entry.picodollars),
            (LedgerKind::Deposit | LedgerKind::UsageSettled, None) => {}
        }
    }
    Err(LedgerRefusal::NoWithdrawal)
}

fn picodollars(microdollars: u128) -> Result<i64, LedgerRefusal> {
    let refused = LedgerRefusal::Amount { microdollars };
    match microdollars.checked_mul(PICODOLLARS_PER_MICRODOLLAR) {
        None | Some(0) => Err(refused),
        Some(amount) => i64::try_from(amount).map_err(|_| refused),
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;

    const DEPOSIT: LedgerAction = LedgerAction::Deposit { microdollars: 10 };
    const WITHDRAWAL: LedgerAction = LedgerAction::WithdrawalRequested { microdollars: 4 };
    const CANCEL: LedgerAction = LedgerAction::WithdrawalCancelled;

    fn event(id: u8, action: LedgerAction) -> LedgerEvent {
        LedgerEvent { id: [id; 32], block: id.into(), payer: Address([3; 20]), action }
    }

    /// Books one after the other; gives the balance in microdollars and the refusals.
    fn after(events: &[LedgerEvent]) -> (i128, Vec<LedgerRefusal>) {
        let mut entries = Vec::new();
        let refused = book_all(&mut entries, events);
        (micros(&entries), refused)
    }

    fn book_all(entries: &mut Vec<LedgerEntry>, events: &[LedgerEvent]) -> Vec<LedgerRefusal> {
        let mut refused = Vec::new();
        for event in events {
            match book(entries, event) {
                Ok(entry) => entries.extend(entry),
                Err(refusal) => refused.push(refusal),
            }
        }
        refused
    }

    /// The chain is another one from this block on, and has these events there.
    fn replace(entries: &mut Vec<LedgerEntry>, from_block: u64, ids: &[u8]) {
        let undone = take_back(entries, from_block, |id| ids.contains(&id[0]));
        entries.extend(undone);
    }

    fn micros(entries: &[LedgerEntry]) -> i128 {
        balance(entries) / 1_000_000
    }

    #[test]
    fn ids_are_those_of_other_implementations() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/contracts/ledger_event_ids.json"
        );
        let vectors: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = vectors["cases"].as_array().unwrap();
        for case in cases {
            let bytes = |name: &str| -> [u8; 32] {
                let text = case[name].as_str().unwrap().trim_start_matches("0x");
                hex::decode(text).unwrap().try_into().unwrap()
            };
            let index = u32::try_from(case["log_index"].as_u64().unwrap()).unwrap();
            assert_eq!(event_id(bytes("tx_hash"), bytes("block_hash"), index), bytes("event_id"));
        }
        assert_eq!(cases.len(), 5);
    }

    #[test]
    fn kinds_and_signs_are_those_of_other_implementations() {
        let book = |action| book(&[], &event(1, action)).unwrap().unwrap();
        let deposit = book(DEPOSIT);
        assert_eq!((deposit.kind as u8, deposit.picodollars), (0, 10_000_000));
        let withdrawal = book(WITHDRAWAL);
        assert_eq!((withdrawal.kind as u8, withdrawal.picodollars), (1, -4_000_000));
        let settled = book(LedgerAction::UsageSettled { microdollars: 3 });
        assert_eq!((settled.kind as u8, settled.picodollars), (2, -3_000_000));
        let cancelled = super::book(&[withdrawal], &event(2, CANCEL)).unwrap().unwrap();
        assert_eq!((cancelled.kind as u8, cancelled.picodollars), (3, 4_000_000));
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
    fn what_the_chain_takes_back_no_longer_counts() {
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
        let larger = LedgerAction::WithdrawalRequested { microdollars: 6 };
        assert_eq!(after(&[event(1, CANCEL)]), (0, vec![LedgerRefusal::NoWithdrawal]));
        let mut events = vec![event(1, DEPOSIT), event(2, WITHDRAWAL), event(3, larger)];
        events.push(event(4, CANCEL));
        assert_eq!(after(&events), (6, vec![]));
        events.push(event(5, CANCEL));
        assert_eq!(after(&events), (6, vec![LedgerRefusal::AlreadyCancelled]));
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

    #[test]
    fn amounts_that_are_none_or_cannot_be_counted_are_passed_over() {
        let refused = |microdollars| book(&[], &event(1, LedgerAction::Deposit { microdollars }));
        for microdollars in [0, 1 << 63, u128::MAX] {
            assert_eq!(refused(microdollars), Err(LedgerRefusal::Amount { microdollars }));
        }
        assert!(refused(9_223_372_036_854).is_ok());
        assert_eq!(book(&[], &event(0, DEPOSIT)), Err(LedgerRefusal::NoId));
    }
}
