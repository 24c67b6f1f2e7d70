//! The payer registry: deposits, withdrawals, settlements and the excess.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::{Panic, SolCall};
use hawser_chain::contracts::FeeToken::{
    ERC20InsufficientAllowance, ERC20InsufficientBalance, ZeroAmount,
};
use hawser_chain::contracts::PayerRegistry::{
    Deposit, ExcessTransferred, FeeDistributorUpdated, InsufficientDeposit, MinimumDepositUpdated,
    NoChange, NoExcess, NotSettler, ParameterOutOfTypeBounds, Paused, SettlerUpdated,
    TransferFromFailed, UsageSettled, WithdrawLockPeriodTooHigh, WithdrawLockPeriodUpdated,
    ZeroFeeDistributor, ZeroMinimumDeposit, ZeroPayer, ZeroSettler, cancelWithdrawalCall,
    depositCall, depositFromUnderlyingCall, depositFromUnderlyingWithPermitCall,
    depositWithPermitCall, excessCall, feeDistributorCall, finalizeWithdrawalCall,
    finalizeWithdrawalIntoUnderlyingCall, getBalancesCall, minimumDepositCall,
    requestWithdrawalCall, sendExcessToFeeDistributorCall, settleUsageCall, settlerCall,
    totalDebtCall, totalDepositsCall, totalWithdrawableCall, updateFeeDistributorCall,
    updateMinimumDepositCall, updatePauseStatusCall, updateSettlerCall,
    updateWithdrawLockPeriodCall, withdrawLockPeriodCall,
};
use hawser_chain::contracts::payer_registry::IPayerRegistry::PayerFee;

use crate::harness::actors::{Actor, Caller as _, actor, anyone, payer};
use crate::harness::cases::on_both_chains;
use crate::harness::money::{DOLLAR, NO_PERMIT, Permit, u96};
use crate::harness::network::{IntoWord, LOCK_PERIOD, MINIMUM_DEPOSIT, TestNetwork};
use crate::harness::tx::{ExpectedRevert, Receipt, Tx};

on_both_chains! {
    a_deposit_is_credited_to_whom_it_is_for
    a_deposit_can_bring_its_permit
    deposits_are_pulled_before_they_are_judged
    deposits_from_the_underlying_token_always_fail
    a_registry_without_parameters_accepts_nothing_as_a_deposit
    usage_is_taken_from_balances_and_makes_debts
    a_deposit_repays_debts_first
    only_the_settler_settles
    sums_that_leave_their_type_panic
    fees_that_were_used_are_passed_on
    a_debt_is_passed_on_once_it_is_paid
    excess_needs_a_recipient
    a_paused_registry_moves_nothing
    accounts_and_amounts_are_taken_over_from_parameters
}

const REPORT: B256 = B256::repeat_byte(0x77);

/// Returns an account that may settle, in place of the report manager.
pub(crate) async fn appoint_settler(w: &TestNetwork) -> Actor {
    let settler = actor("settler");
    w.set("xmtp.payerRegistry.settler", settler.address()).await;
    w.update(w.at.payers, updateSettlerCall {}).await;
    settler
}

/// Returns a settlement of these amounts in microdollars.
pub(crate) fn settlement(w: &TestNetwork, by: &Actor, fees: &[(&Actor, u128)]) -> Tx {
    let fee = |(payer, fee): &(&Actor, u128)| PayerFee { payer: payer.address(), fee: u96(*fee) };
    let payerFees_ = fees.iter().map(fee).collect();
    by.calls(w.at.payers, settleUsageCall { payerReportId_: REPORT, payerFees_ })
}

pub(crate) fn deposit(w: &TestNetwork, by: &Actor, payer_: Address, amount: u128) -> Tx {
    by.calls(w.at.payers, depositCall { payer_, amount_: u96(amount) })
}

/// Returns deposits, debts, the withdrawable sum, and the excess.
async fn totals(w: &TestNetwork) -> (i128, u128, u128, u128) {
    let at = w.at.payers;
    (
        w.read(at, totalDepositsCall {}).await.try_into().unwrap(),
        w.read(at, totalDebtCall {}).await.to(),
        w.read(at, totalWithdrawableCall {}).await.to(),
        w.read(at, excessCall {}).await.to(),
    )
}

/// Gives fee tokens, and allows the registry to take them.
async fn ready(w: &TestNetwork, who: &Actor, amount: u128) {
    w.give(who, amount).await;
    w.approve(who, w.at.token, w.at.payers, amount).await;
}

pub(crate) fn with_permit(payer_: Address, amount: u128, permit: Permit) -> depositWithPermitCall {
    depositWithPermitCall {
        payer_,
        amount_: u96(amount),
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    }
}

async fn a_deposit_is_credited_to_whom_it_is_for(w: &TestNetwork) {
    let (giver, payer) = (actor("giver"), payer(1));
    ready(w, &giver, 30 * DOLLAR).await;
    let receipt = w.send(deposit(w, &giver, payer.address(), 25 * DOLLAR)).await;
    let event = Deposit { payer: payer.address(), amount: u96(25 * DOLLAR) };
    assert_eq!(receipt.event::<Deposit>(w.at.payers), event);

    assert_eq!(w.balance(&payer).await, 25_000_000);
    let payers_ = vec![giver.address(), payer.address()];
    let balances = w.read(w.at.payers, getBalancesCall { payers_ }).await;
    let balances: Vec<i128> = balances.into_iter().map(|it| it.try_into().unwrap()).collect();
    assert_eq!(balances, [0, 25_000_000]);
    assert_eq!(totals(w).await, (25_000_000, 0, 25_000_000, 0));
    assert_eq!(w.fee_tokens(giver.address()).await, 5 * DOLLAR);
    assert_eq!(w.fee_tokens(w.at.payers).await, 25 * DOLLAR);
}

async fn a_deposit_can_bring_its_permit(w: &TestNetwork) {
    let payer = payer(1);
    w.give(&payer, 40 * DOLLAR).await;
    let permit = w.permit(w.at.token, &payer, w.at.payers, 20 * DOLLAR).await;
    let call = with_permit(payer.address(), 20 * DOLLAR, permit);
    w.send(payer.calls(w.at.payers, call.clone())).await;
    assert_eq!(w.balance(&payer).await, 20_000_000);

    // A permit that fails is ignored: then the allowance decides.
    let refusal = ERC20InsufficientAllowance {
        spender: w.at.payers,
        allowance: U256::ZERO,
        needed: U256::from(20 * DOLLAR),
    };
    w.refuse(payer.calls(w.at.payers, call.clone()), refusal).await;
    w.approve(&payer, w.at.token, w.at.payers, 20 * DOLLAR).await;
    w.send(payer.calls(w.at.payers, call)).await;
    assert_eq!(w.balance(&payer).await, 40_000_000);
}

async fn deposits_are_pulled_before_they_are_judged(w: &TestNetwork) {
    let payer = payer(1);
    let try_it = |payer_, amount| deposit(w, &payer, payer_, amount);
    let (me, zero) = (payer.address(), Address::ZERO);
    let needed = U256::from(1);
    w.approve(&payer, w.at.token, w.at.payers, MINIMUM_DEPOSIT).await;
    let poor = ERC20InsufficientBalance { sender: me, balance: U256::ZERO, needed };
    w.refuse(try_it(zero, 1), poor).await;

    w.give(&payer, MINIMUM_DEPOSIT).await;
    let small =
        |amount| InsufficientDeposit { amount: u96(amount), minimumDeposit: u96(MINIMUM_DEPOSIT) };
    w.refuse_all([
        (try_it(zero, 1), ZeroPayer {}.into()),
        (try_it(me, MINIMUM_DEPOSIT - 1), small(MINIMUM_DEPOSIT - 1).into()),
        (try_it(me, 0), small(0).into()),
    ])
    .await;
    pause(w, true).await;
    w.refuse(try_it(zero, 1), Paused {}).await;
    pause(w, false).await;
    w.send(try_it(me, MINIMUM_DEPOSIT)).await;
}

async fn deposits_from_the_underlying_token_always_fail(w: &TestNetwork) {
    let payer = payer(1);
    let payer_ = payer.address();
    let plain = |amount| {
        payer.calls(w.at.payers, depositFromUnderlyingCall { payer_, amount_: u96(amount) })
    };
    let permitted = |amount, permit: Permit| {
        let call = depositFromUnderlyingWithPermitCall {
            payer_,
            amount_: u96(amount),
            deadline_: permit.deadline,
            v_: permit.v,
            r_: permit.r,
            s_: permit.s,
        };
        payer.calls(w.at.payers, call)
    };
    w.mint(&payer, MINIMUM_DEPOSIT).await;
    let permit = w.permit(w.at.underlying, &payer, w.at.payers, MINIMUM_DEPOSIT).await;
    w.refuse_all([
        // The registry may not take the tokens; nor may the fee token take them from the registry.
        (plain(MINIMUM_DEPOSIT), TransferFromFailed {}.into()),
        (permitted(MINIMUM_DEPOSIT, NO_PERMIT), TransferFromFailed {}.into()),
        (permitted(MINIMUM_DEPOSIT, permit), TransferFromFailed {}.into()),
        (plain(0), ZeroAmount {}.into()),
        (permitted(0, NO_PERMIT), ZeroAmount {}.into()),
    ])
    .await;
    w.approve(&payer, w.at.underlying, w.at.payers, MINIMUM_DEPOSIT).await;
    w.refuse(plain(MINIMUM_DEPOSIT), TransferFromFailed {}).await;
}

async fn a_registry_without_parameters_accepts_nothing_as_a_deposit(w: &TestNetwork) {
    let registry = w.fresh("PayerRegistry").await;
    let call = depositCall { payer_: anyone().address(), amount_: u96(0) };
    let receipt = w.send(anyone().calls(registry, call)).await;
    assert_eq!(receipt.event::<Deposit>(registry).amount, u96(0));
    for by in [anyone().address(), w.at.reports] {
        let call = settleUsageCall { payerReportId_: REPORT, payerFees_: vec![] };
        w.refuse(by.calls(registry, call), NotSettler {}).await;
    }
}

async fn usage_is_taken_from_balances_and_makes_debts(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let (rich, poor, unknown) = (payer(1), payer(2), payer(3));
    w.deposit(&rich, 20 * DOLLAR).await;
    w.deposit(&poor, 10 * DOLLAR).await;
    let fees = [(&rich, 5 * DOLLAR), (&poor, 12 * DOLLAR), (&unknown, 1), (&rich, 0), (&poor, 1)];
    let tx = settlement(w, &settler, &fees);
    let receipt = w.send(tx.clone()).await;
    let expected: Vec<_> = fees
        .iter()
        .map(|(payer, fee)| UsageSettled {
            payerReportId: REPORT,
            payer: payer.address(),
            amount: u96(*fee),
        })
        .collect();
    assert_eq!(receipt.events::<UsageSettled>(w.at.payers), expected);

    for (payer, balance) in [(&rich, 15_000_000), (&poor, -2_000_001), (&unknown, -1)] {
        assert_eq!(w.balance(payer).await, balance);
    }
    // Deposits of 30: one payer has 15 left, 15 are used.
    assert_eq!(totals(w).await, (12_999_998, 2_000_002, 15_000_000, 15_000_000));
    let call = settleUsageCall::abi_decode(&tx.data).unwrap();
    let total = w.returned(settler.address(), w.at.payers, call).await;
    assert_eq!(total, u96(17_000_002));
    // The registry keeps no record of the report.
    w.send(tx).await;
    assert_eq!(w.balance(&rich).await, 10_000_000);
}

async fn a_deposit_repays_debts_first(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let payer = payer(1);
    w.send(settlement(w, &settler, &[(&payer, 25 * DOLLAR)])).await;
    assert_eq!(totals(w).await, (-25_000_000, 25_000_000, 0, 0));
    w.deposit(&payer, 10 * DOLLAR).await;
    assert_eq!(totals(w).await, (-15_000_000, 15_000_000, 0, 10_000_000));
    w.deposit(&payer, 20 * DOLLAR).await;
    assert_eq!(totals(w).await, (5_000_000, 0, 5_000_000, 25_000_000));
    assert_eq!(w.balance(&payer).await, 5_000_000);
}

async fn only_the_settler_settles(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    pause(w, true).await;
    w.refuse_all([
        (settlement(w, &anyone(), &[]), NotSettler {}.into()),
        (settlement(w, &settler, &[]), Paused {}.into()),
    ])
    .await;
    pause(w, false).await;
    let receipt = w.send(settlement(w, &settler, &[])).await;
    assert!(receipt.0.logs().is_empty());
}

async fn sums_that_leave_their_type_panic(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let most = (1 << 96) - 1;
    let (one, other) = (payer(1), payer(2));
    w.refuse(settlement(w, &settler, &[(&one, most), (&other, 1)]), Panic::from(0x11)).await;
    w.send(settlement(w, &settler, &[(&one, most)])).await;
    // Debts together are no more than one can be.
    w.refuse(settlement(w, &settler, &[(&other, 1)]), Panic::from(0x11)).await;
}

async fn fees_that_were_used_are_passed_on(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let send = || anyone().calls(w.at.payers, sendExcessToFeeDistributorCall {});
    w.deposit(&payer(1), 20 * DOLLAR).await;
    w.refuse(send(), NoExcess {}).await;
    w.send(settlement(w, &settler, &[(&payer(1), 3 * DOLLAR)])).await;
    // Tokens that arrived without a deposit are excess as well.
    w.give(&w.at.payers, 1).await;
    let amount = 3 * DOLLAR + 1;
    assert_eq!(totals(w).await, (17_000_000, 0, 17_000_000, amount));

    let call = sendExcessToFeeDistributorCall {};
    assert_eq!(w.returned(anyone().address(), w.at.payers, call).await, u96(amount));
    let receipt = w.send(send()).await;
    assert_eq!(receipt.event::<ExcessTransferred>(w.at.payers).amount, u96(amount));
    assert_eq!(w.fee_tokens(w.at.distribution).await, amount);
    assert_eq!(totals(w).await, (17_000_000, 0, 17_000_000, 0));
    w.refuse(send(), NoExcess {}).await;
}

async fn a_debt_is_passed_on_once_it_is_paid(w: &TestNetwork) {
    let settler = appoint_settler(w).await;
    let send = || anyone().calls(w.at.payers, sendExcessToFeeDistributorCall {});
    w.send(settlement(w, &settler, &[(&payer(1), 3 * DOLLAR)])).await;
    w.refuse(send(), NoExcess {}).await;
    w.deposit(&payer(1), 10 * DOLLAR).await;
    w.send(send()).await;
    assert_eq!(w.fee_tokens(w.at.distribution).await, 3 * DOLLAR);
}

async fn excess_needs_a_recipient(w: &TestNetwork) {
    let registry = w.fresh("PayerRegistry").await;
    let send = || anyone().calls(registry, sendExcessToFeeDistributorCall {});
    w.refuse(send(), NoExcess {}).await;
    w.give(&registry, 1).await;
    w.refuse(send(), ZeroFeeDistributor {}).await;
    w.update(registry, updateFeeDistributorCall {}).await;
    w.send(send()).await;
}

async fn pause(w: &TestNetwork, is_paused: bool) {
    w.set("xmtp.payerRegistry.paused", u64::from(is_paused)).await;
    w.update(w.at.payers, updatePauseStatusCall {}).await;
}

async fn a_paused_registry_moves_nothing(w: &TestNetwork) {
    let payer = payer(1);
    let me = payer.address();
    let at = w.at.payers;
    ready(w, &payer, 2 * MINIMUM_DEPOSIT).await;
    pause(w, true).await;
    let paused = || ExpectedRevert::from(Paused {});
    w.refuse_all([
        (deposit(w, &payer, me, MINIMUM_DEPOSIT), paused()),
        (payer.calls(at, with_permit(me, MINIMUM_DEPOSIT, NO_PERMIT)), paused()),
        (payer.calls(at, requestWithdrawalCall { amount_: u96(0) }), paused()),
        (payer.calls(at, cancelWithdrawalCall {}), paused()),
        (payer.calls(at, finalizeWithdrawalCall { recipient_: Address::ZERO }), paused()),
        (
            payer.calls(at, finalizeWithdrawalIntoUnderlyingCall { recipient_: Address::ZERO }),
            paused(),
        ),
        (payer.calls(at, sendExcessToFeeDistributorCall {}), paused()),
    ])
    .await;
}

async fn accounts_and_amounts_are_taken_over_from_parameters(w: &TestNetwork) {
    let at = w.at.payers;
    let account = actor("new").address();
    let zero_settler = ZeroSettler {}.into();
    let receipt = take_over(w, "settler", updateSettlerCall {}, zero_settler, account).await;
    assert_eq!(receipt.event::<SettlerUpdated>(at).settler, account);
    assert_eq!(w.read(at, settlerCall {}).await, account);

    let zero = ZeroFeeDistributor {}.into();
    let receipt = take_over(w, "feeDistributor", updateFeeDistributorCall {}, zero, account).await;
    assert_eq!(receipt.event::<FeeDistributorUpdated>(at).feeDistributor, account);
    assert_eq!(w.read(at, feeDistributorCall {}).await, account);

    let zero = ZeroMinimumDeposit {}.into();
    let receipt = take_over(w, "minimumDeposit", updateMinimumDepositCall {}, zero, 5).await;
    assert_eq!(receipt.event::<MinimumDepositUpdated>(at).minimumDeposit, u96(5));
    assert_eq!(w.read(at, minimumDepositCall {}).await, u96(5));

    assert_eq!(u64::from(w.read(at, withdrawLockPeriodCall {}).await), LOCK_PERIOD);
    w.set("xmtp.payerRegistry.withdrawLockPeriod", 604_801).await;
    let too_high =
        WithdrawLockPeriodTooHigh { withdrawLockPeriod: 604_801, maxWithdrawLockPeriod: 604_800 };
    w.refuse(anyone().calls(at, updateWithdrawLockPeriodCall {}), too_high).await;
    for period in [604_800, 0] {
        w.set("xmtp.payerRegistry.withdrawLockPeriod", u64::from(period)).await;
        let receipt = w.send(anyone().calls(at, updateWithdrawLockPeriodCall {})).await;
        let event = receipt.event::<WithdrawLockPeriodUpdated>(at);
        assert_eq!(event.withdrawLockPeriod, period);
        assert_eq!(w.read(at, withdrawLockPeriodCall {}).await, period);
        w.refuse(anyone().calls(at, updateWithdrawLockPeriodCall {}), NoChange {}).await;
    }
}

/// Tests a parameter that the contract refuses if it is unchanged, zero or too large.
async fn take_over<C: SolCall + Clone>(
    w: &TestNetwork,
    name: &str,
    update: C,
    zero: ExpectedRevert,
    value: impl IntoWord,
) -> Receipt {
    let key = format!("xmtp.payerRegistry.{name}");
    let tx = anyone().calls(w.at.payers, update);
    w.refuse(tx.clone(), NoChange {}).await;
    w.set(&key, 0).await;
    w.refuse(tx.clone(), zero).await;
    w.set(&key, U256::MAX).await;
    w.refuse(tx.clone(), ParameterOutOfTypeBounds {}).await;
    w.set(&key, value).await;
    w.send(tx).await
}
