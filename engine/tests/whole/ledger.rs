//! Payers' events in the ledger of an engine, and publishes that depend on balances.

use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars, PicoDollarBalance};
use std::sync::{Arc, mpsc};

use futures_util::future::join_all;
use hawser_engine::ports::TrustingJudge;
use hawser_engine::runtime::{
    BookedEvents, Priority, PublishCaller, PublishError, PublishSettings, UsageScan,
};
use hawser_proto::Address;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_storage::{LedgerEventId, Store};

use crate::common::*;

fn event(id: u8, payer: u8, action: LedgerAction) -> LedgerEvent {
    let payer = Address([payer; 20]);
    LedgerEvent { id: LedgerEventId([id; 32]), block: u64::from(id), payer, action }
}

fn deposit(microdollars: u128) -> LedgerAction {
    LedgerAction::Deposit(LedgerMicroDollars(microdollars))
}

#[tokio::test]
async fn balances_follow_from_the_events_of_each_payer() {
    let store = store();
    let ledger = start(store.clone()).engine.ledger_appender();
    assert_eq!(ledger.position().unwrap(), None);
    let events = [
        event(1, 1, deposit(10)),
        event(2, 2, deposit(5)),
        event(3, 1, LedgerAction::WithdrawalRequested(LedgerMicroDollars(3))),
        event(4, 1, LedgerAction::WithdrawalCancelled),
        event(5, 2, LedgerAction::UsageSettled(LedgerMicroDollars(7))),
        event(6, 2, deposit(0)),
        event(1, 1, deposit(10)),
    ];
    let position = ChainPosition { block: 6, hash: [6; 32] };
    let booked = ledger.append(0, &events, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 5, known: 1, refused: 1, reversed: 0 });
    let balance = |payer| ledger.balance(Address([payer; 20])).unwrap().0;
    assert_eq!([1, 2, 3].map(balance), [10_000_000, -2_000_000, 0]);
    assert_eq!(ledger.position().unwrap(), Some(position));
    assert_eq!(ledger.known(&events).unwrap(), [true; 7], "one of them can never be booked");

    // The same after a restart, and again: nothing counts twice.
    let ledger = start(store.clone()).engine.ledger_appender();
    let booked = ledger.append(0, &events, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 0, known: 6, refused: 1, reversed: 0 });

    // Another chain from block 2 on: one event has gone, one is in another block.
    let other = [
        LedgerEvent {
            block: 2,
            ..event(33, 1, LedgerAction::WithdrawalRequested(LedgerMicroDollars(3)))
        },
        event(4, 1, LedgerAction::WithdrawalCancelled),
        event(5, 2, LedgerAction::UsageSettled(LedgerMicroDollars(7))),
    ];
    let position = ChainPosition { block: 5, hash: [55; 32] };
    let booked = ledger.append(2, &other, position).unwrap();
    assert_eq!(booked, BookedEvents { booked: 1, known: 2, refused: 0, reversed: 2 });
    let balance = |payer| ledger.balance(Address([payer; 20])).unwrap().0;
    assert_eq!([1, 2, 3].map(balance), [10_000_000, -7_000_000, 0]);
    assert_eq!(ledger.position().unwrap(), Some(position));
    let known = ledger.known(&[event(2, 2, deposit(5)), other[1].clone(), event(7, 1, deposit(1))]);
    assert_eq!(known.unwrap(), [false, true, false], "the first one is reversed, the last one new");
    // Later reads of the chain do not change earlier entries.
    ledger.append(6, &[], ChainPosition { block: 8, hash: [8; 32] }).unwrap();
    assert_eq!([1, 2].map(balance), [10_000_000, -7_000_000]);
    store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
    assert_eq!([1, 2].map(balance), [10_000_000, -7_000_000], "recorded, not derived");
}

/// An endpoint serves a block before its logs, so a withdrawal is found after its cancellation. That has first given
/// back an earlier withdrawal, which was paid out.
#[tokio::test]
async fn a_cancellation_gives_back_its_own_withdrawal_when_that_is_found_later() {
    let ledger = start(store()).engine.ledger_appender();
    let ask = |microdollars| LedgerAction::WithdrawalRequested(LedgerMicroDollars(microdollars));
    let at = |block| ChainPosition { block, hash: [9; 32] };
    let balance = || ledger.balance(Address([1; 20])).unwrap().0 / 1_000_000;
    let cancelled = event(6, 1, LedgerAction::WithdrawalCancelled);
    let read = [event(1, 1, deposit(100)), event(2, 1, ask(3)), cancelled.clone()];
    ledger.append(0, &read, at(10)).unwrap();
    let whole = [event(5, 1, ask(40)), cancelled];
    let booked = ledger.append(5, &whole, at(10)).unwrap();
    assert_eq!(booked, BookedEvents { booked: 2, known: 0, refused: 0, reversed: 1 });
    assert_eq!(balance(), 97);
    let booked = ledger.append(5, &whole, at(10)).unwrap();
    assert_eq!(booked, BookedEvents { booked: 0, known: 2, refused: 0, reversed: 0 });

    // The cancellation itself is found, between two withdrawals of its block.
    let in_block = |id, action| LedgerEvent { block: 7, ..event(id, 1, action) };
    let (first, second) = (in_block(7, ask(50)), in_block(9, ask(20)));
    ledger.append(7, &[first.clone(), second.clone()], at(10)).unwrap();
    assert_eq!(balance(), 27);
    let between = in_block(8, LedgerAction::WithdrawalCancelled);
    ledger.append(7, &[first, between, second], at(10)).unwrap();
    assert_eq!(balance(), 77);
    ledger.append(11, &[event(11, 1, LedgerAction::WithdrawalCancelled)], at(11)).unwrap();
    assert_eq!(balance(), 97, "the second one is given back, too");
}

/// A payer may make any number of events at little cost: it requests a withdrawal, and cancels it.
#[tokio::test]
async fn a_balance_is_read_in_parts_of_bounded_work_and_told_once_the_chain_has_been_read() {
    // Two searches, which count as ten rows each, and ten entries.
    const ROWS_MAX: usize = 30;
    let store = store();
    let node = start(store.clone());
    let events: Vec<_> = (1..=25).map(|number| event(number, 1, deposit(2))).collect();
    let position = ChainPosition { block: 25, hash: [6; 32] };
    node.engine.ledger_appender().append(0, &events, position).unwrap();
    let read = |payer| {
        let reports = node.engine.payer_reports_on_chain().unwrap();
        let mut scan = UsageScan::new(Address([payer; 20]), 60, reports);
        let mut parts = Vec::new();
        while !scan.is_done() {
            parts.push(node.engine.reader().read_usage(&mut scan, ROWS_MAX).unwrap());
        }
        (parts, scan.balance().map(|it| it.0), scan.is_unknown())
    };
    // The second part is a search, 15 entries, and the two rows that say if the balance is known.
    assert_eq!(read(1), (vec![30, 27], None, false), "deposits may follow");
    store.note_payers_read(position).unwrap();
    assert_eq!(read(1).1, None, "settled usage may count as unsettled");
    store.note_payer_reports_read(position).unwrap();
    assert_eq!(read(1), (vec![30, 27], Some(50_000_000), false));
    assert_eq!(
        read(2),
        (vec![22], Some(0), true),
        "a payer that does not exist is searched for, too"
    );
}

fn start_asking_for_balances(store: Store) -> Node {
    let publish =
        PublishSettings { idempotent: true, require_balance: true, publishes_per_payer: None };
    start_publishing(store, publish, Arc::new(TrustingJudge))
}

/// A node whose settlement chain does not answer knows no balance. It refuses for a reason of its own then, and tells
/// no payer with a deposit that it cannot pay.
#[tokio::test]
async fn no_payer_is_called_poor_before_the_registry_has_been_read() {
    let store = store();
    let node = start_asking_for_balances(store.clone());
    let early = node.engine.publish(vec![message(1, "early")]).await;
    assert!(matches!(early, Err(PublishError::Unavailable { .. })), "{early:?}");
    assert_eq!(store.snapshot().head(NODE).unwrap().0, 0, "nothing was stored");
    // A part has been read, without the deposits behind it.
    let position = ChainPosition { block: 0, hash: [0; 32] };
    node.engine.ledger_appender().append(0, &[], position).unwrap();
    let early = node.engine.publish(vec![message(1, "in between")]).await;
    assert!(matches!(early, Err(PublishError::Unavailable { .. })), "{early:?}");
    // Reports that are settled may follow, and their usage would count twice.
    read_without_events(&node);
    let early = node.engine.publish(vec![message(1, "later")]).await;
    assert!(matches!(early, Err(PublishError::Unavailable { .. })), "{early:?}");
    store.note_payer_reports_read(position).unwrap();
    let poor = node.engine.publish(vec![message(1, "poor")]).await;
    assert!(
        matches!(poor, Err(PublishError::Balance { left: PicoDollarBalance(0), .. })),
        "{poor:?}"
    );
    let node = start_asking_for_balances(store);
    let poor = node.engine.publish(vec![message(1, "after a restart")]).await;
    assert!(
        matches!(poor, Err(PublishError::Balance { left: PicoDollarBalance(0), .. })),
        "{poor:?}"
    );
}

/// Records that the payer registry has been read to its head and has no event.
fn read_without_events(node: &Node) {
    let position = ChainPosition { block: 0, hash: [0; 32] };
    node.engine.ledger_appender().append(0, &[], position).unwrap();
    node.engine.ledger_appender().note_at_head(position).unwrap();
}

/// The reader goes back to an early block, as for an event that the recheck has found, and has not come to the
/// withdrawal again.
#[tokio::test]
async fn a_payer_who_has_withdrawn_publishes_nothing_while_the_registry_is_read_again() {
    let store = store();
    let address = payer(0).public_key().address();
    let all = LedgerAction::WithdrawalRequested(LedgerMicroDollars(1_000_000));
    let paid = LedgerEvent { payer: address, ..event(1, 0, deposit(1_000_000)) };
    let withdrawn = LedgerEvent { payer: address, ..event(5, 0, all) };
    let at = |block: u8| ChainPosition { block: block.into(), hash: [block; 32] };
    let ledger = start(store.clone()).engine.ledger_appender();
    ledger.append(0, &[paid.clone(), withdrawn.clone()], at(6)).unwrap();
    ledger.note_at_head(at(6)).unwrap();
    store.note_payer_reports_read(at(6)).unwrap();
    let publish = |text: &'static str| {
        let node = start_asking_for_balances(store.clone());
        async move { node.engine.publish(vec![message(1, text)]).await }
    };
    let poor = publish("poor").await;
    assert!(matches!(poor, Err(PublishError::Balance { .. })), "{poor:?}");
    ledger.append(1, &[paid], at(2)).unwrap();
    let unknown = publish("in between").await;
    assert!(matches!(unknown, Err(PublishError::Unavailable { .. })), "{unknown:?}");
    ledger.append(3, &[], at(4)).unwrap();
    let unknown = publish("shortly before").await;
    assert!(matches!(unknown, Err(PublishError::Unavailable { .. })), "{unknown:?}");
    // The endpoint stands still there, so nothing says that it is the head.
    ledger.append(5, &[withdrawn], at(5)).unwrap();
    let poor = publish("still poor").await;
    assert!(matches!(poor, Err(PublishError::Balance { .. })), "{poor:?}");
}

/// Any caller can publish with any number of payers, each of whose balances is read once. The disk may be slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn balances_that_are_slow_to_read_hold_no_other_payer_up() {
    let store = store();
    let node = start_asking_for_balances(store.clone());
    let event =
        LedgerEvent { payer: payer(0).public_key().address(), ..event(1, 0, deposit(1_000_000)) };
    let position = ChainPosition { block: 1, hash: [1; 32] };
    node.engine.ledger_appender().append(0, &[event], position).unwrap();
    node.engine.ledger_appender().note_at_head(position).unwrap();
    store.note_payer_reports_read(position).unwrap();
    node.engine.publish(vec![message(1, "first")]).await.unwrap();

    let workers = node.engine.workers();
    let (begun, begins) = mpsc::channel();
    let hang = |_| {
        let (hung, release) = mpsc::channel::<()>();
        let begun = begun.clone();
        workers.spawn(Priority::LookUp(PublishCaller::default()), move || {
            let _ = begun.send(());
            let _ = release.recv();
        });
        hung
    };
    let hung: Vec<_> = (0..workers.threads()).map(hang).collect();
    begins.iter().take(hung.len()).for_each(drop);
    let of_stranger = PayerEnvelope::sign(
        client(&group_topic(1), None, group_payload(frame(1, 1, b"stranger"))),
        NODE,
        60,
        &payer(1),
    );
    let stranger = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.publish(vec![of_stranger]).await }
    });
    for number in 0..20 {
        node.engine.publish(vec![message(1, &number.to_string())]).await.unwrap();
    }
    assert!(!stranger.is_finished());
    drop(hung);
    let poor = stranger.await.unwrap();
    assert!(matches!(poor, Err(PublishError::Balance { .. })), "{poor:?}");
}

/// The books of this node: what it charges counts before it is durable, and once.
#[tokio::test]
async fn a_payer_spends_what_it_has_and_no_more_however_many_publish_at_once() {
    let store = store();
    let node = start_asking_for_balances(store.clone());
    read_without_events(&node);
    store.note_payer_reports_read(ChainPosition { block: 0, hash: [0; 32] }).unwrap();
    let texts: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    let poor = node.engine.publish(vec![message(1, "poor")]).await;
    assert!(
        matches!(poor, Err(PublishError::Balance { left: PicoDollarBalance(0), .. })),
        "{poor:?}"
    );
    assert_eq!(store.snapshot().head(NODE).unwrap().0, 0, "nothing was stored");

    let pay = |block: u8, microdollars| {
        let event = LedgerEvent {
            id: LedgerEventId([block; 32]),
            block: block.into(),
            payer: payer(0).public_key().address(),
            action: deposit(microdollars),
        };
        let position = ChainPosition { block: block.into(), hash: [block; 32] };
        node.engine.ledger_appender().append(block.into(), &[event], position).unwrap();
    };
    pay(1, 1);
    // A balance is read again after a while, or by a new process.
    let node = start_asking_for_balances(store.clone());
    let publish = |text: &String| {
        let (engine, message) = (node.engine.clone(), message(1, text));
        async move { engine.publish(vec![message]).await }
    };
    let answers = join_all(texts.iter().map(publish)).await;
    let fee = |bytes: &hawser_proto::Bytes| {
        let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
        envelope.unsigned().base_fee().0
    };
    let fees: Vec<u64> = answers.iter().flatten().flatten().map(fee).collect();
    let spent: u64 = fees.iter().sum();
    assert!(spent <= 1_000_000 && spent + fees[0] > 1_000_000, "{spent} of {} a piece", fees[0]);
    let refused = answers.iter().filter(|it| matches!(it, Err(PublishError::Balance { .. })));
    assert_eq!(refused.count(), 100 - fees.len());

    let first = answers.iter().position(Result::is_ok).unwrap();
    assert_eq!(publish(&texts[first]).await, answers[first], "a repeat costs nothing");
    let mixed = vec![message(1, &texts[first]), message(1, "new"), message(1, "newer")];
    let beyond = node.engine.publish(mixed).await;
    assert!(matches!(beyond, Err(PublishError::Balance { index: 1, .. })), "{beyond:?}");
    let node = start_asking_for_balances(store.clone());
    let poor = node.engine.publish(vec![message(1, "after a restart")]).await;
    assert!(matches!(poor, Err(PublishError::Balance { .. })), "{poor:?}");
    pay(2, 1);
    let node = start_asking_for_balances(store);
    assert!(node.engine.publish(vec![message(1, "paid")]).await.is_ok());
}

/// At rates of zero, a payer in debt is refused as at all others, and one that has nothing is not.
#[tokio::test]
async fn a_payer_in_debt_publishes_nothing_even_where_that_costs_nothing() {
    let (message_fee, storage_fee) = (PicoDollarPrice(0), PicoDollarsPerByteDay(0));
    let free = Rate { message_fee, storage_fee, ..rate() };
    let store = empty_store();
    record_rates(&store, &[free]);
    let start = || {
        let node = start_asking_for_balances(store.clone());
        node.rates.send_replace(Arc::new(RateTable::new(vec![free], None).unwrap()));
        node
    };
    let node = start();
    read_without_events(&node);
    store.note_payer_reports_read(ChainPosition { block: 0, hash: [0; 32] }).unwrap();
    let first = node.engine.publish(vec![message(1, "nothing left")]).await;
    assert!(first.is_ok(), "{first:?}");

    let settled = LedgerEvent {
        id: LedgerEventId([1; 32]),
        block: 1,
        payer: payer(0).public_key().address(),
        action: LedgerAction::UsageSettled(LedgerMicroDollars(1)),
    };
    let position = ChainPosition { block: 1, hash: [1; 32] };
    node.engine.ledger_appender().append(1, &[settled], position).unwrap();
    // A balance is read again after a while, or by a new process.
    let node = start();
    let both = vec![message(1, "nothing left"), message(1, "in debt")];
    let left = PicoDollarBalance(-1_000_000);
    let refused = node.engine.publish(both).await;
    assert_eq!(refused, Err(PublishError::Balance { price: PicoDollarPrice(0), left, index: 1 }));
    let again = node.engine.publish(vec![message(1, "nothing left")]).await;
    assert_eq!(again, first, "a repeat costs nothing");
}
