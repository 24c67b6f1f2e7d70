//! Withdrawals of payers: requested, waited for, finalised or cancelled.

use alloy::primitives::Address;
use alloy::primitives::aliases::U24;
use hawser_chain::contracts::FeeToken::Transfer;
use hawser_chain::contracts::PayerRegistry::{
    InsufficientBalance, NoPendingWithdrawal, PayerInDebt, PendingWithdrawalExists,
    WithdrawalCancelled, WithdrawalFinalized, WithdrawalNotReady, WithdrawalRequested,
    ZeroRecipient, ZeroWithdrawalAmount, cancelWithdrawalCall, finalizeWithdrawalCall,
    finalizeWithdrawalIntoUnderlyingCall, getPendingWithdrawalCall, requestWithdrawalCall,
    totalDepositsCall, totalWithdrawableCall, updateWithdrawLockPeriodCall,
};

use crate::harness::actors::{Actor, Caller as _, actor, payer};
use crate::harness::cases::on_both_chains;
use crate::harness::money::{DOLLAR, u96};
use crate::harness::network::{LOCK_PERIOD, TestNetwork};
use crate::harness::tx::{Receipt, Tx};
use crate::payers::{appoint_settler, settlement};

on_both_chains! {
    a_withdrawal_is_paid_after_the_lock_period
    a_withdrawal_can_be_paid_in_the_underlying_token
    a_cancelled_withdrawal_is_back_in_the_balance
    requests_count_up
    requests_are_for_what_is_there
    a_withdrawal_that_was_not_requested_is_not_paid
    a_withdrawal_waits_for_its_lock_period
    a_debt_blocks_a_withdrawal_until_it_is_repaid_or_cancelled
    a_new_lock_period_counts_for_new_requests
}

pub(crate) fn request(w: &TestNetwork, payer: &Actor, amount: u128) -> Tx {
    payer.calls(w.at.payers, requestWithdrawalCall { amount_: u96(amount) })
}

pub(crate) fn cancel(w: &TestNetwork, payer: &Actor) -> Tx {
    payer.calls(w.at.payers, cancelWithdrawalCall {})
}

pub(crate) fn finalize(w: &TestNetwork, payer: &Actor, recipient_: Address) -> Tx {
    payer.calls(w.at.payers, finalizeWithdrawalCall { recipient_ })
}

fn nonce(number: u64) -> U24 {
    U24::from(number)
}

/// Returns the pending amount, the time when it can be finalised, and the number of requests.
async fn pending(w: &TestNetwork, payer: &Actor) -> (u128, u32, u64) {
    let call = getPendingWithdrawalCall { payer_: payer.address() };
    let it = w.read(w.at.payers, call).await;
    (it.pendingWithdrawal_.to(), it.withdrawableTimestamp_, it.nonce_.to())
}

async fn total(w: &TestNetwork) -> (i128, u128) {
    let deposits = w.read(w.at.payers, totalDepositsCall {}).await;
    let withdrawable = w.read(w.at.payers, totalWithdrawableCall {}).await;
    (deposits.try_into().unwrap(), withdrawable.to())
}

fn requested(receipt: &Receipt, w: &TestNetwork) -> WithdrawalRequested {
    receipt.event(w.at.payers)
}

async fn a_withdrawal_is_paid_after_the_lock_period(w: &TestNetwork) {
    let (payer, recipient) = (payer(1), actor("recipient").address());
    w.deposit(&payer, 20 * DOLLAR).await;
    let receipt = w.send(request(w, &payer, 8 * DOLLAR)).await;
    let ready = u32::try_from(w.now().await + LOCK_PERIOD).unwrap();
    let event = WithdrawalRequested {
        payer: payer.address(),
        amount: u96(8 * DOLLAR),
        withdrawableTimestamp: ready,
        nonce: nonce(1),
    };
    assert_eq!(requested(&receipt, w), event);
    assert_eq!(w.balance(&payer).await, 12_000_000);
    assert_eq!(pending(w, &payer).await, (8 * DOLLAR, ready, 1));
    assert_eq!(total(w).await, (20_000_000, 20_000_000));

    w.wait(LOCK_PERIOD).await;
    let receipt = w.send(finalize(w, &payer, recipient)).await;
    let event = WithdrawalFinalized { payer: payer.address(), nonce: nonce(1) };
    assert_eq!(receipt.event::<WithdrawalFinalized>(w.at.payers), event);
    assert_eq!(w.fee_tokens(recipient).await, 8 * DOLLAR);
    assert_eq!(pending(w, &payer).await, (0, 0, 1));
    assert_eq!(total(w).await, (12_000_000, 12_000_000));
    w.refuse(finalize(w, &payer, recipient), NoPendingWithdrawal {}).await;
}

async fn a_withdrawal_can_be_paid_in_the_underlying_token(w: &TestNetwork) {
    let (payer, recipient) = (payer(1), actor("recipient").address());
    w.deposit(&payer, 20 * DOLLAR).await;
    w.send(request(w, &payer, 20 * DOLLAR)).await;
    w.wait(LOCK_PERIOD).await;
    let call = finalizeWithdrawalIntoUnderlyingCall { recipient_: recipient };
    let receipt = w.send(payer.calls(w.at.payers, call)).await;
    let burnt = receipt.event::<Transfer>(w.at.token);
    assert_eq!((burnt.from, burnt.to), (w.at.payers, Address::ZERO));
    assert_eq!(w.owned(w.at.underlying, recipient).await, 20 * DOLLAR);
    assert_eq!(w.fee_tokens(recipient).await, 0);
    assert_eq!(w.balance(&payer).await, 0);
}

async fn a_cancelled_withdrawal_is_back_in_the_balance(w: &TestNetwork) {
    let payer = payer(1);
    w.deposit(&payer, 20 * DOLLAR).await;
    w.send(request(w, &payer, 20 * DOLLAR)).await;
    // Also after the lock period.
    w.wait(LOCK_PERIOD).await;
    let receipt = w.send(cancel(w, &payer)).await;
    let event = WithdrawalCancelled { payer: payer.address(), nonce: nonce(1) };
    assert_eq!(receipt.event::<WithdrawalCancelled>(w.at.payers), event);
    assert_eq!(w.balance(&payer).await, 20_000_000);
    assert_eq!(pending(w, &payer).await, (0, 0, 1));
    assert_eq!(total(w).await, (20_000_000, 20_000_000));
    w.refuse(cancel(w, &payer), NoPendingWithdrawal {}).await;
}

async fn requests_count_up(w: &TestNetwork) {
    let (one, other) = (payer(1), payer(2));
    w.deposit(&one, 20 * DOLLAR).await;
    w.deposit(&other, 20 * DOLLAR).await;
    for number in 1..=3 {
        let receipt = w.send(request(w, &one, 1)).await;
        assert_eq!(requested(&receipt, w).nonce, nonce(number));
        let receipt = w.send(cancel(w, &one)).await;
        let cancelled = receipt.event::<WithdrawalCancelled>(w.at.payers);
        assert_eq!(cancelled.nonce, nonce(number));
    }
    let receipt = w.send(request(w, &other, 1)).await;
    assert_eq!(requested(&receipt, w).nonce, nonce(1));
}

async fn requests_are_for_what_is_there(w: &TestNetwork) {
    let (payer, poor) = (payer(1), payer(2));
    w.deposit(&payer, 20 * DOLLAR).await;
    w.refuse_all([
        (request(w, &payer, 0), ZeroWithdrawalAmount {}.into()),
        (request(w, &payer, 20 * DOLLAR + 1), InsufficientBalance {}.into()),
        (request(w, &poor, 1), InsufficientBalance {}.into()),
    ])
    .await;
    // The reverted call changed nothing.
    assert_eq!(pending(w, &payer).await, (0, 0, 0));
    w.send(request(w, &payer, 1)).await;
    w.refuse_all([
        (request(w, &payer, 0), ZeroWithdrawalAmount {}.into()),
        (request(w, &payer, 1), PendingWithdrawalExists {}.into()),
        (request(w, &payer, 21 * DOLLAR), PendingWithdrawalExists {}.into()),
    ])
    .await;
}

async fn a_withdrawal_that_was_not_requested_is_not_paid(w: &TestNetwork) {
    let payer = payer(1);
    let underlying =
        |recipient_| payer.calls(w.at.payers, finalizeWithdrawalIntoUnderlyingCall { recipient_ });
    let me = payer.address();
    w.deposit(&payer, 20 * DOLLAR).await;
    w.refuse_all([
        (cancel(w, &payer), NoPendingWithdrawal {}.into()),
        (finalize(w, &payer, Address::ZERO), ZeroRecipient {}.into()),
        (finalize(w, &payer, me), NoPendingWithdrawal {}.into()),
        (underlying(Address::ZERO), ZeroRecipient {}.into()),
        (underlying(me), NoPendingWithdrawal {}.into()),
    ])
    .await;
}

async fn a_withdrawal_waits_for_its_lock_period(w: &TestNetwork) {
    let payer = payer(1);
    w.deposit(&payer, 20 * DOLLAR).await;
    w.send(request(w, &payer, 1)).await;
    let (_, ready, _) = pending(w, &payer).await;
    // Blocks may advance the time by seconds, but not by a minute.
    w.wait(LOCK_PERIOD - 60).await;
    let refused = w.try_send(finalize(w, &payer, payer.address())).await.unwrap_err();
    let not_ready: WithdrawalNotReady = refused.as_error().unwrap();
    assert_eq!((not_ready.withdrawableTimestamp, not_ready.nonce), (ready, nonce(1)));
    assert!(not_ready.timestamp < ready);
    w.refuse(finalize(w, &payer, Address::ZERO), ZeroRecipient {}).await;
    w.wait(60).await;
    w.send(finalize(w, &payer, payer.address())).await;
}

async fn a_debt_blocks_a_withdrawal_until_it_is_repaid_or_cancelled(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let payer = payer(1);
    let me = payer.address();
    w.deposit(&payer, 20 * DOLLAR).await;
    w.send(request(w, &payer, 15 * DOLLAR)).await;
    w.send(settlement(w, &settler, &[(&payer, 8 * DOLLAR)])).await;
    assert_eq!(w.balance(&payer).await, -3_000_000);
    // The contract checks for a debt before the time.
    w.refuse(finalize(w, &payer, me), PayerInDebt {}).await;
    w.wait(LOCK_PERIOD).await;
    w.refuse(finalize(w, &payer, me), PayerInDebt {}).await;

    let snapshot = w.snapshot().await;
    w.send(cancel(w, &payer)).await;
    assert_eq!(w.balance(&payer).await, 12_000_000);
    assert_eq!(total(w).await, (12_000_000, 12_000_000));
    w.revert_to(snapshot).await;

    w.deposit(&payer, 10 * DOLLAR).await;
    w.send(finalize(w, &payer, me)).await;
    assert_eq!(w.balance(&payer).await, 7_000_000);
    assert_eq!(total(w).await, (7_000_000, 7_000_000));
}

async fn a_new_lock_period_counts_for_new_requests(w: &TestNetwork) {
    let (before, after) = (payer(1), payer(2));
    w.deposit(&before, 20 * DOLLAR).await;
    w.deposit(&after, 20 * DOLLAR).await;
    w.send(request(w, &before, 1)).await;
    w.set("xmtp.payerRegistry.withdrawLockPeriod", 0).await;
    w.update(w.at.payers, updateWithdrawLockPeriodCall {}).await;
    w.send(request(w, &after, 1)).await;
    w.send(finalize(w, &after, after.address())).await;
    let refused = w.try_send(finalize(w, &before, before.address())).await.unwrap_err();
    assert_eq!(refused.name(), Some("WithdrawalNotReady"));
}
