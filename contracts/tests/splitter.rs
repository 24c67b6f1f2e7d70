//! The deposit splitter: one payment for a payer's balance and for gas on the app chain.

use alloy::primitives::{Address, U256};
use alloy::sol_types::Panic;
use hawser_chain::contracts::DepositSplitter::{
    TransferFromFailed, ZeroTotalAmount, depositCall, depositFromUnderlyingCall,
    depositFromUnderlyingWithPermitCall, depositWithPermitCall,
};
use hawser_chain::contracts::{FeeToken, PayerRegistry, SettlementChainGateway};

use crate::harness::actors::{Actor, Caller as _, actor, payer};
use crate::harness::cases::on_both_chains;
use crate::harness::money::{DOLLAR, NO_PERMIT, Permit, u96};
use crate::harness::network::{APP_CHAIN_ID, MINIMUM_DEPOSIT, TestNetwork};
use crate::harness::tx::{Receipt, Tx};

on_both_chains! {
    a_payment_is_split
    a_part_of_nothing_is_left_out
    each_form_of_payment_is_split
    payments_of_nothing_are_refused
    payments_must_be_covered
    each_part_is_judged_where_it_goes
}

pub(crate) const TO_PAYER: u128 = 20 * DOLLAR;
pub(crate) const TO_APP_CHAIN: u128 = 3 * DOLLAR;
pub(crate) const TOTAL: u128 = TO_PAYER + TO_APP_CHAIN;

pub(crate) fn customer() -> Actor {
    actor("customer")
}

fn recipient() -> Address {
    actor("recipient").address()
}

/// Makes one of the splitter's four calls: its amounts, and the parts of a permit if the call takes one.
macro_rules! split_call {
    ($call:ident, $to_payer:expr, $to_app_chain:expr $(, $permit:expr)?) => {
        $call {
            payer_: payer(1).address(),
            payerRegistryAmount_: u96($to_payer),
            appChainRecipient_: recipient(),
            appChainAmount_: u96($to_app_chain),
            appChainGasLimit_: U256::from(1000),
            appChainMaxFeePerGas_: U256::from(2),
            $(deadline_: $permit.deadline, v_: $permit.v, r_: $permit.r, s_: $permit.s,)?
        }
    };
}

pub(crate) fn split(to_payer: u128, to_app_chain: u128) -> depositCall {
    split_call!(depositCall, to_payer, to_app_chain)
}

pub(crate) fn split_with_permit(
    to_payer: u128,
    to_app_chain: u128,
    permit: Permit,
) -> depositWithPermitCall {
    split_call!(depositWithPermitCall, to_payer, to_app_chain, permit)
}

pub(crate) fn split_underlying(to_payer: u128, to_app_chain: u128) -> depositFromUnderlyingCall {
    split_call!(depositFromUnderlyingCall, to_payer, to_app_chain)
}

pub(crate) fn split_underlying_with_permit(permit: Permit) -> depositFromUnderlyingWithPermitCall {
    split_call!(depositFromUnderlyingWithPermitCall, TO_PAYER, TO_APP_CHAIN, permit)
}

pub(crate) fn pay(w: &TestNetwork, call: depositCall) -> Tx {
    customer().calls(w.at.splitter, call)
}

/// A customer with fee tokens.
pub(crate) async fn with_fee_tokens(w: &TestNetwork, amount: u128) {
    w.give(&customer(), amount).await;
    w.approve(&customer(), w.at.token, w.at.splitter, amount).await;
}

/// Asserts that both parts arrived, and that the splitter kept nothing.
async fn assert_split(w: &TestNetwork, receipt: &Receipt) {
    let deposit = receipt.event::<PayerRegistry::Deposit>(w.at.payers);
    assert_eq!((deposit.payer, deposit.amount), (payer(1).address(), u96(TO_PAYER)));
    let sent = receipt.event::<SettlementChainGateway::Deposit>(w.at.gateway);
    assert_eq!((sent.chainId, sent.recipient), (U256::from(APP_CHAIN_ID), recipient()));
    assert_eq!((sent.amount, sent.maxFees), (U256::from(TO_APP_CHAIN), U256::from(1)));
    assert_eq!(w.fee_tokens(customer().address()).await, 0);
    assert_eq!(w.owned(w.at.underlying, customer().address()).await, 0);
    assert_eq!(w.fee_tokens(w.at.splitter).await, 0);
    assert_eq!(w.fee_tokens(w.at.inbox).await, TO_APP_CHAIN);
    assert_eq!(w.fee_tokens(w.at.payers).await, TO_PAYER);
}

async fn a_payment_is_split(w: &TestNetwork) {
    with_fee_tokens(w, TOTAL).await;
    let receipt = w.send(pay(w, split(TO_PAYER, TO_APP_CHAIN))).await;
    assert_split(w, &receipt).await;
}

async fn a_part_of_nothing_is_left_out(w: &TestNetwork) {
    with_fee_tokens(w, TOTAL).await;
    // A part of zero needs no recipient.
    let zero = Address::ZERO;
    let all = depositCall { appChainRecipient_: zero, ..split(TO_PAYER, 0) };
    let receipt = w.send(pay(w, all)).await;
    assert!(receipt.events::<SettlementChainGateway::Deposit>(w.at.gateway).is_empty());
    let all = depositCall { payer_: zero, ..split(0, TO_APP_CHAIN) };
    let receipt = w.send(pay(w, all)).await;
    assert!(receipt.events::<PayerRegistry::Deposit>(w.at.payers).is_empty());
}

async fn each_form_of_payment_is_split(w: &TestNetwork) {
    let customer = customer();
    let snapshot = w.snapshot().await;
    w.give(&customer, TOTAL).await;
    let permit = w.permit(w.at.token, &customer, w.at.splitter, TOTAL).await;
    let call = split_with_permit(TO_PAYER, TO_APP_CHAIN, permit);
    let receipt = w.send(customer.calls(w.at.splitter, call)).await;
    assert_split(w, &receipt).await;
    w.revert_to(snapshot).await;

    let snapshot = w.snapshot().await;
    w.mint(&customer, TOTAL).await;
    w.approve(&customer, w.at.underlying, w.at.splitter, TOTAL).await;
    let call = split_underlying(TO_PAYER, TO_APP_CHAIN);
    let receipt = w.send(customer.calls(w.at.splitter, call)).await;
    assert_split(w, &receipt).await;
    w.revert_to(snapshot).await;

    w.mint(&customer, TOTAL).await;
    let permit = w.permit(w.at.underlying, &customer, w.at.splitter, TOTAL).await;
    let call = split_underlying_with_permit(permit);
    let receipt = w.send(customer.calls(w.at.splitter, call)).await;
    assert_split(w, &receipt).await;
}

async fn payments_of_nothing_are_refused(w: &TestNetwork) {
    let permitted = split_with_permit(0, 0, NO_PERMIT);
    let underlying = split_underlying(0, 0);
    w.refuse_all([
        (pay(w, split(0, 0)), ZeroTotalAmount {}.into()),
        (customer().calls(w.at.splitter, permitted), ZeroTotalAmount {}.into()),
        // There is nothing to wrap.
        (customer().calls(w.at.splitter, underlying), FeeToken::ZeroAmount {}.into()),
    ])
    .await;
}

async fn payments_must_be_covered(w: &TestNetwork) {
    let most = (1 << 96) - 1;
    let permitted = split_with_permit(1, 0, NO_PERMIT);
    let poor = || FeeToken::ERC20InsufficientAllowance {
        spender: w.at.splitter,
        allowance: U256::ZERO,
        needed: U256::from(1),
    };
    let at = w.at.splitter;
    w.refuse_all([
        (pay(w, split(1, 0)), poor().into()),
        (customer().calls(at, permitted), poor().into()),
        (customer().calls(at, split_underlying(1, 0)), TransferFromFailed {}.into()),
        (
            customer().calls(at, split_underlying_with_permit(NO_PERMIT)),
            TransferFromFailed {}.into(),
        ),
        (pay(w, split(most, 1)), Panic::from(0x11).into()),
        (customer().calls(at, split_underlying(most, 1)), Panic::from(0x11).into()),
    ])
    .await;
}

async fn each_part_is_judged_where_it_goes(w: &TestNetwork) {
    with_fee_tokens(w, TOTAL).await;
    let small =
        PayerRegistry::InsufficientDeposit { amount: u96(1), minimumDeposit: u96(MINIMUM_DEPOSIT) };
    let without_recipient = depositCall { appChainRecipient_: Address::ZERO, ..split(TO_PAYER, 1) };
    let expensive = depositCall { appChainMaxFeePerGas_: U256::from(DOLLAR), ..split(0, 1) };
    let expensive =
        depositCall { appChainGasLimit_: U256::from(DOLLAR) * U256::from(2), ..expensive };
    let costs = SettlementChainGateway::InsufficientAmount {
        appChainAmount: U256::from(DOLLAR * DOLLAR),
        maxTotalCosts: U256::from(2 * DOLLAR * DOLLAR),
    };
    w.refuse_all([
        (pay(w, split(1, TO_APP_CHAIN)), small.into()),
        (pay(w, without_recipient), SettlementChainGateway::ZeroRecipient {}.into()),
        (pay(w, expensive), costs.into()),
    ])
    .await;
}
