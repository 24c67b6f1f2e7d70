//! Payers' events in the ledger of an engine.

use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::ledger::{LedgerAction, LedgerEvent};
use hawser_engine::runtime::BookedEvents;
use hawser_proto::Address;

use crate::common::*;

fn event(id: u8, payer: u8, action: LedgerAction) -> LedgerEvent {
    let payer = Address([payer; 20]);
    LedgerEvent { id: [id; 32], block: u64::from(id), payer, action }
}

fn deposit(microdollars: u128) -> LedgerAction {
    LedgerAction::Deposit { microdollars }
}

#[tokio::test]
async fn balances_follow_from_the_events_of_each_payer() {
    let store = store();
    let ledger = start(store.clone()).engine.ledger_appender();
    assert_eq!(ledger.position().unwrap(), None);
    let events = [
        event(1, 1, deposit(10)),
        event(2, 2, deposit(5)),
        event(3, 1, LedgerAction::WithdrawalRequested { microdollars: 3 }),
        event(4, 1, LedgerAction::WithdrawalCancelled),
        event(5, 2, LedgerAction::UsageSettled { microdollars: 7 }),
        event(6, 2, deposit(0)),
        event(1, 1, deposit(10)),
    ];
    let position = ChainPosition { block: 6, hash: [6; 32] };
    let booked = ledger.append(0, &events, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 5, known: 1, refused: 1, reversed: 0 });
    let balance = |payer| ledger.balance(Address([payer; 20])).unwrap();
    assert_eq!([1, 2, 3].map(balance), [10_000_000, -2_000_000, 0]);
    assert_eq!(ledger.position().unwrap(), Some(position));

    // The same after a restart, and again: nothing counts twice.
    let ledger = start(store.clone()).engine.ledger_appender();
    let booked = ledger.append(0, &events, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 0, known: 6, refused: 1, reversed: 0 });

    // Another chain from block 2 on: one event has gone, one stands in another block.
    let other = [
        LedgerEvent {
            block: 2,
            ..event(33, 1, LedgerAction::WithdrawalRequested { microdollars: 3 })
        },
        event(4, 1, LedgerAction::WithdrawalCancelled),
        event(5, 2, LedgerAction::UsageSettled { microdollars: 7 }),
    ];
    let position = ChainPosition { block: 5, hash: [55; 32] };
    let booked = ledger.append(2, &other, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 1, known: 2, refused: 0, reversed: 2 });
    let balance = |payer| ledger.balance(Address([payer; 20])).unwrap();
    assert_eq!([1, 2, 3].map(balance), [10_000_000, -7_000_000, 0]);
    assert_eq!(ledger.position().unwrap(), Some(position));
    // What is read further on leaves alone what came before.
    ledger.append(6, &[], ChainPosition { block: 8, hash: [8; 32] }).unwrap();
    assert_eq!([1, 2].map(balance), [10_000_000, -7_000_000]);
    store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
    assert_eq!([1, 2].map(balance), [10_000_000, -7_000_000], "recorded, not derived");
}
