//! The inbox of a development chain, which stands in for a rollup's bridge.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall as _;
use hawser_chain::contracts::ERC20Inbox::{
    AlreadyReleased, ContractTransactionCreated, DepositCreated, InsufficientSubmissionCost,
    InsufficientValue, NotRelayer, RetryableTicketCreated, Ticket, WithdrawalReleased,
    calculateRetryableSubmissionFeeCall, createRetryableTicketCall, depositERC20Call,
    releaseWithdrawalCall, releasedCall, sendContractTransactionCall, setSubmissionGasPerByteCall,
};
use hawser_chain::contracts::SettlementChainGateway;

use crate::harness::actors::{Actor, Caller as _, actor, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::money::DOLLAR;
use crate::harness::network::TestNetwork;

on_both_chains! {
    a_ticket_is_paid_for_and_logged
    a_ticket_must_cover_its_costs
    tokens_are_moved_to_the_sender
    messages_of_all_kinds_have_one_numbering
    a_withdrawal_is_released_once
    a_withdrawal_that_fails_can_be_tried_again
    only_the_relayer_releases
}

fn n(number: u128) -> U256 {
    U256::from(number)
}

fn relayer() -> Actor {
    actor("relayer")
}

/// Returns a ticket of this value.
fn ticket(amount: u128) -> createRetryableTicketCall {
    createRetryableTicketCall {
        to_: Address::repeat_byte(1),
        l2CallValue_: n(500_000_000_000),
        maxSubmissionCost_: n(100_000_000_000),
        excessFeeRefundAddress_: Address::repeat_byte(2),
        callValueRefundAddress_: Address::repeat_byte(3),
        gasLimit_: n(40),
        maxFeePerGas_: n(10_000_000_000),
        tokenTotalFeeAmount_: n(amount),
        data_: Bytes::from_static(b"data"),
    }
}

async fn rich(w: &TestNetwork) -> Actor {
    let rich = actor("rich");
    w.give(&rich, DOLLAR).await;
    w.approve(&rich, w.at.token, w.at.inbox, DOLLAR).await;
    rich
}

async fn a_ticket_is_paid_for_and_logged(w: &TestNetwork) {
    let rich = rich(w).await;
    let call = ticket(1);
    assert_eq!(w.returned(rich.address(), w.at.inbox, call.clone()).await, n(1));
    let receipt = w.send(rich.calls(w.at.inbox, call.clone())).await;
    let event = RetryableTicketCreated {
        messageNumber: n(1),
        sender: rich.address(),
        ticket: Ticket {
            to: call.to_,
            l2CallValue: call.l2CallValue_,
            maxSubmissionCost: call.maxSubmissionCost_,
            excessFeeRefundAddress: call.excessFeeRefundAddress_,
            callValueRefundAddress: call.callValueRefundAddress_,
            gasLimit: call.gasLimit_,
            maxFeePerGas: call.maxFeePerGas_,
            tokenTotalFeeAmount: call.tokenTotalFeeAmount_,
            data: call.data_,
        },
    };
    assert_eq!(receipt.event::<RetryableTicketCreated>(w.at.inbox), event);
    assert_eq!(w.fee_tokens(w.at.inbox).await, 1);
}

async fn a_ticket_must_cover_its_costs(w: &TestNetwork) {
    let rich = rich(w).await;
    let one_more = createRetryableTicketCall { gasLimit_: n(41), ..ticket(1) };
    let too_little =
        InsufficientValue { expected: n(1_010_000_000_000), actual: n(1_000_000_000_000) };
    w.refuse(rich.calls(w.at.inbox, one_more), too_little).await;

    let call = setSubmissionGasPerByteCall { submissionGasPerByte_: n(1_000_000_000_000) };
    w.send(relayer().calls(w.at.inbox, call)).await;
    let fee = calculateRetryableSubmissionFeeCall { dataLength_: n(4), baseFee_: n(3) };
    assert_eq!(w.read(w.at.inbox, fee).await, n(12_000_000_000_000));
    let refused = w.try_send(rich.calls(w.at.inbox, ticket(1))).await.unwrap_err();
    let refused: InsufficientSubmissionCost = refused.as_error().unwrap();
    assert_eq!(refused.actual, n(100_000_000_000));
}

async fn tokens_are_moved_to_the_sender(w: &TestNetwork) {
    let rich = rich(w).await;
    let receipt = w.send(rich.calls(w.at.inbox, depositERC20Call { amount_: n(3) })).await;
    let event = DepositCreated {
        messageNumber: n(1),
        recipient: rich.address(),
        value: n(3_000_000_000_000),
    };
    assert_eq!(receipt.event::<DepositCreated>(w.at.inbox), event);
    assert_eq!(w.fee_tokens(w.at.inbox).await, 3);
}

async fn messages_of_all_kinds_have_one_numbering(w: &TestNetwork) {
    let rich = rich(w).await;
    w.send(rich.calls(w.at.inbox, ticket(1))).await;
    let call = sendContractTransactionCall {
        gasLimit_: n(5),
        maxFeePerGas_: n(6),
        to_: Address::repeat_byte(7),
        value_: n(8),
        data_: Bytes::from_static(b"data"),
    };
    let receipt = w.send(rich.calls(w.at.inbox, call)).await;
    let event = receipt.event::<ContractTransactionCreated>(w.at.inbox);
    assert_eq!((event.messageNumber, event.sender), (n(2), rich.address()));
    assert_eq!((event.gasLimit, event.maxFeePerGas, event.value), (n(5), n(6), n(8)));
    assert_eq!((event.to, event.data), (Address::repeat_byte(7), "data".into()));
    let receipt = w.send(rich.calls(w.at.inbox, depositERC20Call { amount_: n(1) })).await;
    assert_eq!(receipt.event::<DepositCreated>(w.at.inbox).messageNumber, n(3));
}

fn release(id: u128, destination_: Address, tokens: u128, data: &[u8]) -> releaseWithdrawalCall {
    releaseWithdrawalCall {
        messageId_: n(id),
        destination_,
        // The remainder is below one unit of the token.
        value_: n(tokens * 1_000_000_000_000 + 999),
        data_: Bytes::copy_from_slice(data),
    }
}

async fn a_withdrawal_is_released_once(w: &TestNetwork) {
    w.give(&w.at.inbox, DOLLAR).await;
    let someone = actor("someone").address();
    // Numbers come in any order.
    for id in [2, 1] {
        let call = release(id, someone, 7, &[]);
        let receipt = w.send(relayer().calls(w.at.inbox, call.clone())).await;
        let event = WithdrawalReleased { messageId: n(id), destination: someone, amount: n(7) };
        assert_eq!(receipt.event::<WithdrawalReleased>(w.at.inbox), event);
        assert!(w.read(w.at.inbox, releasedCall { messageId: n(id) }).await);
        let again = AlreadyReleased { messageId: n(id) };
        w.refuse(relayer().calls(w.at.inbox, call), again).await;
    }
    assert_eq!(w.fee_tokens(someone).await, 14);
}

async fn a_withdrawal_that_fails_can_be_tried_again(w: &TestNetwork) {
    w.give(&w.at.inbox, DOLLAR).await;
    let someone = actor("someone").address();
    let nonsense = release(1, w.at.gateway, 7, b"nonsense");
    let refused = w.try_send(relayer().calls(w.at.inbox, nonsense)).await.unwrap_err();
    assert_eq!(refused.name(), None);
    assert!(!w.read(w.at.inbox, releasedCall { messageId: n(1) }).await);
    let call = SettlementChainGateway::receiveWithdrawalCall { recipient_: someone };
    let good = release(1, w.at.gateway, 7, &call.abi_encode());
    w.send(relayer().calls(w.at.inbox, good)).await;
    assert_eq!(w.fee_tokens(someone).await, 7);
}

async fn only_the_relayer_releases(w: &TestNetwork) {
    let price = setSubmissionGasPerByteCall { submissionGasPerByte_: n(1) };
    w.refuse_all([
        (anyone().calls(w.at.inbox, release(1, w.at.gateway, 0, &[])), NotRelayer {}.into()),
        (anyone().calls(w.at.inbox, price), NotRelayer {}.into()),
    ])
    .await;
}
