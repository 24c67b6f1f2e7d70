//! The app chain's gateway: deposits arrive, withdrawals leave.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall as _;
use hawser_chain::contracts::AppChainGateway::{
    DepositReceived, Paused, TransferFailed, Withdrawal, ZeroRecipient, ZeroWithdrawalAmount,
    receiveDepositCall, updatePauseStatusCall, withdrawCall, withdrawIntoUnderlyingCall,
};
use hawser_chain::contracts::ArbSys::{TxSentToL1, sendTxToL1Call};
use hawser_chain::contracts::SettlementChainGateway::{
    receiveWithdrawalCall, receiveWithdrawalIntoUnderlyingCall,
};

use crate::harness::actors::{Caller as _, actor, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::network::{ARB_SYS, TestNetwork};
use crate::harness::tx::Tx;

on_both_chains! {
    a_deposit_is_handed_on
    a_deposit_needs_a_recipient_that_accepts
    a_withdrawal_is_left_with_the_system
    a_withdrawal_needs_recipient_and_value
    a_paused_gateway_takes_no_withdrawals
    the_system_numbers_what_it_is_given
}

fn recipient() -> Address {
    actor("recipient").address()
}

fn deposit(w: &TestNetwork, recipient_: Address, wei: u64) -> Tx {
    anyone().calls(w.at.app_gateway, receiveDepositCall { recipient_ }).with_value(U256::from(wei))
}

fn withdraw(w: &TestNetwork, recipient_: Address, wei: u64) -> Tx {
    anyone().calls(w.at.app_gateway, withdrawCall { recipient_ }).with_value(U256::from(wei))
}

fn withdraw_underlying(w: &TestNetwork, recipient_: Address, wei: u64) -> Tx {
    let call = withdrawIntoUnderlyingCall { recipient_ };
    anyone().calls(w.at.app_gateway, call).with_value(U256::from(wei))
}

async fn a_deposit_is_handed_on(w: &TestNetwork) {
    for wei in [0, 7] {
        let receipt = w.send(deposit(w, recipient(), wei)).await;
        let event = DepositReceived { recipient: recipient(), amount: U256::from(wei) };
        assert_eq!(receipt.event::<DepositReceived>(w.at.app_gateway), event);
        assert_eq!(w.native_balance(recipient()).await, U256::from(wei));
    }
    assert_eq!(w.native_balance(w.at.app_gateway).await, U256::ZERO);
}

async fn a_deposit_needs_a_recipient_that_accepts(w: &TestNetwork) {
    // Contracts that take no native tokens.
    for recipient in [w.at.rates, w.at.app_gateway] {
        w.refuse(deposit(w, recipient, 7), TransferFailed {}).await;
    }
}

async fn a_withdrawal_is_left_with_the_system(w: &TestNetwork) {
    let before = w.native_balance(ARB_SYS).await;
    let to = recipient();
    let plain = receiveWithdrawalCall { recipient_: to }.abi_encode();
    let underlying = receiveWithdrawalIntoUnderlyingCall { recipient_: to }.abi_encode();
    for (number, tx, message) in
        [(1, withdraw(w, to, 7), plain), (2, withdraw_underlying(w, to, 7), underlying)]
    {
        let receipt = w.send(tx).await;
        let event =
            Withdrawal { messageId: U256::from(number), recipient: to, amount: U256::from(7) };
        assert_eq!(receipt.event::<Withdrawal>(w.at.app_gateway), event);
        let left = TxSentToL1 {
            messageId: U256::from(number),
            sender: w.at.app_gateway,
            destination: w.at.gateway,
            value: U256::from(7),
            data: message.into(),
        };
        assert_eq!(receipt.event::<TxSentToL1>(ARB_SYS), left);
    }
    assert_eq!(w.native_balance(ARB_SYS).await, before + U256::from(14));
    assert_eq!(w.native_balance(w.at.app_gateway).await, U256::ZERO);
}

async fn a_withdrawal_needs_recipient_and_value(w: &TestNetwork) {
    let zero = Address::ZERO;
    w.refuse_all([
        (withdraw(w, zero, 0), ZeroRecipient {}.into()),
        (withdraw(w, recipient(), 0), ZeroWithdrawalAmount {}.into()),
        (withdraw_underlying(w, zero, 0), ZeroRecipient {}.into()),
        (withdraw_underlying(w, recipient(), 0), ZeroWithdrawalAmount {}.into()),
    ])
    .await;
}

async fn a_paused_gateway_takes_no_withdrawals(w: &TestNetwork) {
    w.set_app("xmtp.appChainGateway.paused", 1).await;
    w.update(w.at.app_gateway, updatePauseStatusCall {}).await;
    w.refuse_all([
        (withdraw(w, Address::ZERO, 0), Paused {}.into()),
        (withdraw_underlying(w, recipient(), 7), Paused {}.into()),
    ])
    .await;
    w.send(deposit(w, recipient(), 7)).await;
    assert_eq!(w.native_balance(recipient()).await, U256::from(7));
}

async fn the_system_numbers_what_it_is_given(w: &TestNetwork) {
    let data_ = Bytes::from_static(b"anything");
    let call = sendTxToL1Call { destination_: recipient(), data_: data_.clone() };
    for number in [1, 2].map(U256::from) {
        let returned = w.returned(anyone().address(), ARB_SYS, call.clone()).await;
        assert_eq!(returned, number);
        let receipt = w.send(anyone().calls(ARB_SYS, call.clone())).await;
        let event = receipt.event::<TxSentToL1>(ARB_SYS);
        assert_eq!((event.messageId, event.sender), (number, anyone().address()));
        assert_eq!((event.destination, event.data), (recipient(), data_.clone()));
    }
}
