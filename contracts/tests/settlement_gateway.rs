//! The settlement chain's gateway: deposits and parameters leave as tickets, withdrawals arrive.

use alloy::primitives::{Address, U256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use hawser_chain::contracts::ERC20Inbox::{
    RetryableTicketCreated, Ticket, setSubmissionGasPerByteCall,
};
use hawser_chain::contracts::SettlementChainGateway::{
    Deposit, InboxUpdated, InsufficientAmount, InvalidFeeTokenDecimals, ParameterOutOfTypeBounds,
    Paused, TransferFromFailed, UnsupportedChainId, WithdrawalReceived, ZeroAmount, ZeroRecipient,
    appChainAliasCall, calculateMaxDepositFeeCall, depositCall, depositFromUnderlyingCall,
    depositFromUnderlyingWithPermitCall, depositWithPermitCall, getInboxCall,
    receiveWithdrawalCall, receiveWithdrawalIntoUnderlyingCall, sendParametersCall,
    sendParametersFromUnderlyingCall, sendParametersFromUnderlyingWithPermitCall,
    sendParametersWithPermitCall, updateInboxCall, updatePauseStatusCall,
};

use hawser_chain::contracts::{AppChainGateway, FeeToken};

use crate::harness::actors::{Actor, Caller as _, actor, anyone, deployer};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::money::{DOLLAR, NO_PERMIT, Permit};
use crate::harness::network::{APP_CHAIN_ID, TestNetwork, alias};
use crate::harness::tx::{ExpectedRevert, Tx};

on_both_chains! {
    a_deposit_leaves_as_a_ticket
    costs_of_a_deposit_are_taken_from_it
    the_bridge_may_ask_for_a_submission_fee
    a_deposit_can_bring_its_permit
    deposits_are_refused_in_order
    transfers_from_the_underlying_token_fail
    a_withdrawal_empties_the_gateway
    a_withdrawal_can_arrive_as_the_underlying_token
    an_inbox_can_be_replaced_and_taken_away
    a_paused_gateway_sends_nothing_and_takes_everything
    the_fee_token_has_no_more_decimals_than_the_app_chain
}

/// Wei of the app chain in a unit of the fee token.
const SCALE: u128 = 1_000_000_000_000;
const GWEI: u128 = 1_000_000_000;

pub(crate) fn chain() -> U256 {
    U256::from(APP_CHAIN_ID)
}

fn n(amount: u128) -> U256 {
    U256::from(amount)
}

fn recipient() -> Address {
    actor("recipient").address()
}

pub(crate) fn deposit_of(amount: u128, gas: u128, price: u128) -> depositCall {
    depositCall {
        chainId_: chain(),
        recipient_: recipient(),
        amount_: n(amount),
        gasLimit_: n(gas),
        maxFeePerGas_: n(price),
    }
}

/// Returns an account with fee tokens that allows the gateway to take them.
pub(crate) async fn customer(w: &TestNetwork, amount: u128) -> Actor {
    let customer = actor("customer");
    w.give(&customer, amount).await;
    w.approve(&customer, w.at.token, w.at.gateway, amount).await;
    customer
}

/// Returns the ticket that this deposit leaves.
fn ticket(w: &TestNetwork, call: &depositCall, submission: U256, value: U256) -> Ticket {
    let alias = alias(w.at.gateway);
    Ticket {
        to: w.at.app_gateway,
        l2CallValue: value,
        maxSubmissionCost: submission,
        excessFeeRefundAddress: alias,
        callValueRefundAddress: alias,
        gasLimit: call.gasLimit_,
        maxFeePerGas: call.maxFeePerGas_,
        tokenTotalFeeAmount: call.amount_,
        data: AppChainGateway::receiveDepositCall { recipient_: call.recipient_ }
            .abi_encode()
            .into(),
    }
}

async fn a_deposit_leaves_as_a_ticket(w: &TestNetwork) {
    let customer = customer(w, 5 * DOLLAR).await;
    let call = deposit_of(3 * DOLLAR, 0, 0);
    for number in [1, 2].map(U256::from) {
        let call = depositCall { amount_: n(DOLLAR), ..call.clone() };
        let receipt = w.send(customer.calls(w.at.gateway, call.clone())).await;
        let event = Deposit {
            chainId: chain(),
            messageNumber: number,
            recipient: recipient(),
            amount: n(DOLLAR),
            maxFees: U256::ZERO,
        };
        assert_eq!(receipt.event::<Deposit>(w.at.gateway), event);
        let left = receipt.event::<RetryableTicketCreated>(w.at.inbox);
        assert_eq!((left.messageNumber, left.sender), (number, w.at.gateway));
        assert_eq!(left.ticket, ticket(w, &call, U256::ZERO, n(DOLLAR * SCALE)));
    }
    assert_eq!(w.fee_tokens(w.at.inbox).await, 2 * DOLLAR);
    assert_eq!(w.fee_tokens(w.at.gateway).await, 0);
    assert_eq!(w.fee_tokens(customer.address()).await, 3 * DOLLAR);
    // The inbox was allowed just that.
    let call = FeeToken::allowanceCall { owner: w.at.gateway, spender: w.at.inbox };
    assert_eq!(w.read(w.at.token, call).await, U256::ZERO);
}

async fn costs_of_a_deposit_are_taken_from_it(w: &TestNetwork) {
    let customer = customer(w, 10 * DOLLAR).await;
    // The smallest cost is shown as one unit of the token.
    for (gas, price, max_fees) in [(300_000, 2 * GWEI, 600), (1, 1, 1), (1, SCALE + 1, 2)] {
        let call = deposit_of(DOLLAR, gas, price);
        let receipt = w.send(customer.calls(w.at.gateway, call.clone())).await;
        assert_eq!(receipt.event::<Deposit>(w.at.gateway).maxFees, n(max_fees));
        let left = receipt.event::<RetryableTicketCreated>(w.at.inbox).ticket;
        let value = n(DOLLAR * SCALE - gas * price);
        assert_eq!(left, ticket(w, &call, U256::ZERO, value));
    }
    let all = deposit_of(DOLLAR, DOLLAR, SCALE);
    let receipt = w.send(customer.calls(w.at.gateway, all.clone())).await;
    let left = receipt.event::<RetryableTicketCreated>(w.at.inbox).ticket;
    assert_eq!(left.l2CallValue, U256::ZERO);
    let too_much = depositCall { maxFeePerGas_: n(SCALE + 1), ..all };
    let refusal = InsufficientAmount {
        appChainAmount: n(DOLLAR * SCALE),
        maxTotalCosts: n(DOLLAR * (SCALE + 1)),
    };
    w.refuse(customer.calls(w.at.gateway, too_much), refusal).await;
}

async fn the_bridge_may_ask_for_a_submission_fee(w: &TestNetwork) {
    let customer = customer(w, 10 * DOLLAR).await;
    let per_byte = n(17);
    let call = setSubmissionGasPerByteCall { submissionGasPerByte_: per_byte };
    w.send(actor("relayer").calls(w.at.inbox, call)).await;
    let fee = w.read(
        w.at.gateway,
        calculateMaxDepositFeeCall {
            chainId_: chain(),
            gasLimit_: n(1000),
            maxFeePerGas_: n(3),
            maxBaseFee_: n(5),
        },
    );
    assert_eq!(fee.await, n(17 * 36 * 5 + 1000 * 3));

    let call = deposit_of(DOLLAR, 1000, 3);
    let receipt = w.send(customer.calls(w.at.gateway, call.clone())).await;
    let submission = per_byte * n(36) * n(w.base_fee(&receipt).await);
    assert_ne!(submission, U256::ZERO);
    let costs = submission + n(3000);
    let left = receipt.event::<RetryableTicketCreated>(w.at.inbox).ticket;
    assert_eq!(left, ticket(w, &call, submission, n(DOLLAR * SCALE) - costs));
    let max_fees = costs.div_ceil(n(SCALE));
    assert_eq!(receipt.event::<Deposit>(w.at.gateway).maxFees, max_fees);
}

pub(crate) fn with_permit(call: &depositCall, permit: Permit) -> depositWithPermitCall {
    depositWithPermitCall {
        chainId_: call.chainId_,
        recipient_: call.recipient_,
        amount_: call.amount_,
        gasLimit_: call.gasLimit_,
        maxFeePerGas_: call.maxFeePerGas_,
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    }
}

async fn a_deposit_can_bring_its_permit(w: &TestNetwork) {
    let customer = actor("customer");
    w.give(&customer, 2 * DOLLAR).await;
    let call = deposit_of(DOLLAR, 0, 0);
    let permit = w.permit(w.at.token, &customer, w.at.gateway, DOLLAR).await;
    let receipt = w.send(customer.calls(w.at.gateway, with_permit(&call, permit))).await;
    assert_eq!(receipt.event::<Deposit>(w.at.gateway).amount, n(DOLLAR));
    // One that fails is ignored, when there is an allowance.
    let call = with_permit(&call, NO_PERMIT);
    let refused = w.try_send(customer.calls(w.at.gateway, call.clone())).await.unwrap_err();
    assert_eq!(refused.name(), Some("ERC20InsufficientAllowance"));
    w.approve(&customer, w.at.token, w.at.gateway, DOLLAR).await;
    w.send(customer.calls(w.at.gateway, call)).await;
}

async fn deposits_are_refused_in_order(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    let other = n(u128::from(APP_CHAIN_ID) + 1);
    let zero = Address::ZERO;
    let call = deposit_of(0, 1, 1);
    let try_it = |chainId_, recipient_, amount: u128| {
        let amount_ = n(amount);
        customer.calls(w.at.gateway, depositCall { chainId_, recipient_, amount_, ..call.clone() })
    };
    let poor = FeeToken::ERC20InsufficientAllowance {
        spender: w.at.gateway,
        allowance: n(DOLLAR),
        needed: n(DOLLAR + 1),
    };
    let costs = InsufficientAmount { appChainAmount: n(SCALE), maxTotalCosts: n(2 * SCALE) };
    let expensive = depositCall { amount_: n(1), maxFeePerGas_: n(2 * SCALE), ..call.clone() };
    w.refuse_all([
        (try_it(other, zero, DOLLAR + 1), poor.into()),
        (try_it(other, zero, 0), UnsupportedChainId { chainId: other }.into()),
        (try_it(chain(), zero, 0), ZeroRecipient {}.into()),
        (try_it(chain(), recipient(), 0), ZeroAmount {}.into()),
        (customer.calls(w.at.gateway, expensive), costs.into()),
    ])
    .await;
}

/// Returns the calls that take this amount of underlying tokens.
fn from_underlying(w: &TestNetwork, customer: &Actor, amount: u128, permit: Permit) -> [Tx; 4] {
    let (chainId_, amount_) = (chain(), n(amount));
    let (gasLimit_, maxFeePerGas_) = (U256::ZERO, U256::ZERO);
    let recipient_ = recipient();
    let chainIds_ = vec![chain()];
    let keys_ = vec!["k".to_owned()];
    let Permit { deadline: deadline_, v: v_, r: r_, s: s_ } = permit;
    let at = w.at.gateway;
    [
        customer.calls(
            at,
            depositFromUnderlyingCall { chainId_, recipient_, amount_, gasLimit_, maxFeePerGas_ },
        ),
        customer.calls(
            at,
            depositFromUnderlyingWithPermitCall {
                chainId_,
                recipient_,
                amount_,
                gasLimit_,
                maxFeePerGas_,
                deadline_,
                v_,
                r_,
                s_,
            },
        ),
        customer.calls(
            at,
            sendParametersFromUnderlyingCall {
                chainIds_: chainIds_.clone(),
                keys_: keys_.clone(),
                gasLimit_,
                maxFeePerGas_,
                amountToSend_: amount_,
            },
        ),
        customer.calls(
            at,
            sendParametersFromUnderlyingWithPermitCall {
                chainIds_,
                keys_,
                gasLimit_,
                maxFeePerGas_,
                amountToSend_: amount_,
                deadline_,
                v_,
                r_,
                s_,
            },
        ),
    ]
}

async fn transfers_from_the_underlying_token_fail(w: &TestNetwork) {
    let customer = actor("customer");
    w.mint(&customer, DOLLAR).await;
    for tx in from_underlying(w, &customer, DOLLAR, NO_PERMIT) {
        w.refuse(tx, TransferFromFailed {}).await;
    }
    w.approve(&customer, w.at.underlying, w.at.gateway, DOLLAR).await;
    let permit = w.permit(w.at.underlying, &customer, w.at.gateway, DOLLAR).await;
    for tx in from_underlying(w, &customer, DOLLAR, permit) {
        // The fee token may not take them from the gateway.
        w.refuse(tx, TransferFromFailed {}).await;
    }
    for tx in from_underlying(w, &customer, 0, NO_PERMIT) {
        w.refuse(tx, FeeToken::ZeroAmount {}).await;
    }
}

async fn a_withdrawal_empties_the_gateway(w: &TestNetwork) {
    let call = || receiveWithdrawalCall { recipient_: recipient() };
    for amount in [0, 7 * DOLLAR] {
        w.give(&w.at.gateway, amount).await;
        assert_eq!(w.returned(anyone().address(), w.at.gateway, call()).await, n(amount));
        let receipt = w.send(anyone().calls(w.at.gateway, call())).await;
        let event = WithdrawalReceived { recipient: recipient(), amount: n(amount) };
        assert_eq!(receipt.event::<WithdrawalReceived>(w.at.gateway), event);
        assert_eq!(w.fee_tokens(recipient()).await, amount);
    }
    let without_recipient = receiveWithdrawalCall { recipient_: Address::ZERO };
    let refusal = FeeToken::ERC20InvalidReceiver { receiver: Address::ZERO };
    w.refuse(anyone().calls(w.at.gateway, without_recipient), refusal).await;
}

async fn a_withdrawal_can_arrive_as_the_underlying_token(w: &TestNetwork) {
    let tx = || {
        let call = receiveWithdrawalIntoUnderlyingCall { recipient_: recipient() };
        anyone().calls(w.at.gateway, call)
    };
    w.refuse(tx(), FeeToken::ZeroAmount {}).await;
    w.give(&w.at.gateway, 7 * DOLLAR).await;
    let receipt = w.send(tx()).await;
    let event = WithdrawalReceived { recipient: recipient(), amount: n(7 * DOLLAR) };
    assert_eq!(receipt.event::<WithdrawalReceived>(w.at.gateway), event);
    assert_eq!(w.owned(w.at.underlying, recipient()).await, 7 * DOLLAR);
}

async fn an_inbox_can_be_replaced_and_taken_away(w: &TestNetwork) {
    let at = w.at.gateway;
    let update = || anyone().calls(at, updateInboxCall { chainId_: chain() });
    let get_inbox = || getInboxCall { chainId_: chain() };
    let key = format!("xmtp.settlementChainGateway.inbox.{APP_CHAIN_ID}");
    let unsupported = || UnsupportedChainId { chainId: chain() };
    // The contract logs a call that changes nothing as well.
    for inbox in [w.at.inbox, w.at.inbox, recipient(), Address::ZERO] {
        w.set(&key, inbox).await;
        let receipt = w.send(update()).await;
        let event = InboxUpdated { chainId: chain(), inbox };
        assert_eq!(receipt.event::<InboxUpdated>(at), event);
        if inbox != Address::ZERO {
            assert_eq!(w.read(at, get_inbox()).await, inbox);
        }
    }
    let fee = calculateMaxDepositFeeCall {
        chainId_: chain(),
        gasLimit_: n(0),
        maxFeePerGas_: n(0),
        maxBaseFee_: n(0),
    };
    w.refuse_all([
        (anyone().calls(at, get_inbox()), unsupported().into()),
        (anyone().calls(at, fee), unsupported().into()),
    ])
    .await;
    w.set(&key, U256::MAX).await;
    w.refuse(update(), ParameterOutOfTypeBounds {}).await;
}

async fn a_paused_gateway_sends_nothing_and_takes_everything(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    let at = w.at.gateway;
    w.set("xmtp.settlementChainGateway.paused", 1).await;
    w.update(at, updatePauseStatusCall {}).await;
    let deposit = deposit_of(DOLLAR, 0, 0);
    let (gasLimit_, maxFeePerGas_, amountToSend_) = (n(0), n(0), n(0));
    let (chainIds_, keys_) = (vec![], vec![]);
    let Permit { deadline: deadline_, v: v_, r: r_, s: s_ } = NO_PERMIT;
    let send = sendParametersCall {
        chainIds_: chainIds_.clone(),
        keys_: keys_.clone(),
        gasLimit_,
        maxFeePerGas_,
        amountToSend_,
    };
    let permitted = sendParametersWithPermitCall {
        chainIds_,
        keys_,
        gasLimit_,
        maxFeePerGas_,
        amountToSend_,
        deadline_,
        v_,
        r_,
        s_,
    };
    let paused = || ExpectedRevert::from(Paused {});
    w.refuse_all([
        (customer.calls(at, deposit.clone()), paused()),
        (customer.calls(at, with_permit(&deposit, NO_PERMIT)), paused()),
        (customer.calls(at, send), paused()),
        (customer.calls(at, permitted), paused()),
    ])
    .await;
    for tx in from_underlying(w, &customer, 0, NO_PERMIT) {
        w.refuse(tx, Paused {}).await;
    }
    let call = receiveWithdrawalCall { recipient_: recipient() };
    w.send(anyone().calls(at, call)).await;
    assert_eq!(w.read(at, appChainAliasCall {}).await, alias(at));
}

async fn the_fee_token_has_no_more_decimals_than_the_app_chain(w: &TestNetwork) {
    let creator = deployer().address();
    for (decimals, is_accepted) in [(18, true), (19, false)] {
        let token = w.create_raw(creator, &bytecode::answering(decimals)).await;
        let arguments = (w.at.params, w.at.app_gateway, token).abi_encode();
        if is_accepted {
            w.create(creator, "SettlementChainGateway", arguments).await;
        } else {
            let refusal = InvalidFeeTokenDecimals {};
            w.refuse_creation("SettlementChainGateway", arguments, refusal).await;
        }
    }
}
