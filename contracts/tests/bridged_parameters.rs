//! Parameters on their way from the settlement chain's gateway to the app chain's.

use alloy::primitives::{B256, U256};
use alloy::sol_types::{Panic, SolCall as _};
use hawser_chain::contracts::AppChainGateway::{
    NotSettlementChainGateway, ParametersReceived, receiveParametersCall,
    settlementChainGatewayAliasCall, updatePauseStatusCall,
};
use hawser_chain::contracts::ERC20Inbox::{InsufficientValue, RetryableTicketCreated};
use hawser_chain::contracts::FeeToken;
use hawser_chain::contracts::SettlementChainGateway::{
    NoChainIds, NoKeys, ParametersSent, UnsupportedChainId, sendParametersCall,
    sendParametersWithPermitCall, updateInboxCall,
};
use hawser_chain::contracts::SettlementChainParameterRegistry::{
    NotAdmin, ParameterSet, get_0Call,
};

use crate::harness::actors::{Caller as _, actor, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::money::{DOLLAR, Permit};
use crate::harness::network::{APP_CHAIN_ID, TestNetwork, alias};
use crate::harness::tx::{Receipt, Tx};
use crate::settlement_gateway::{chain, customer};

on_both_chains! {
    parameters_leave_with_their_present_values
    every_chain_gets_the_same_message
    parameters_can_bring_a_permit
    messages_of_parameters_are_refused_in_order
    messages_must_pay_their_way
    only_the_other_gateway_brings_parameters
    each_parameter_is_set_by_the_newest_message
    a_parameter_is_set_once_by_a_message
    missing_values_are_missed_for_what_is_set_only
    the_gateway_must_be_an_admin
    parameters_arrive_while_the_gateway_is_paused
}

fn n(amount: u128) -> U256 {
    U256::from(amount)
}

fn word(value: u64) -> B256 {
    U256::from(value).into()
}

fn texts(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// Returns a message to these chains, with an amount of tokens for each.
pub(crate) fn message(chainIds_: Vec<U256>, keys: &[&str], amount: u128) -> sendParametersCall {
    sendParametersCall {
        chainIds_,
        keys_: texts(keys),
        gasLimit_: n(1000),
        maxFeePerGas_: U256::ZERO,
        amountToSend_: n(amount),
    }
}

pub(crate) fn message_with_permit(
    chainIds_: Vec<U256>,
    keys: &[&str],
    amount: u128,
    permit: Permit,
) -> sendParametersWithPermitCall {
    sendParametersWithPermitCall {
        chainIds_,
        keys_: texts(keys),
        gasLimit_: U256::ZERO,
        maxFeePerGas_: U256::ZERO,
        amountToSend_: n(amount),
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    }
}

fn arriving(nonce: u64, keys: &[&str], values: &[u64]) -> receiveParametersCall {
    receiveParametersCall {
        nonce_: U256::from(nonce),
        keys_: texts(keys),
        values_: values.iter().copied().map(word).collect(),
    }
}

/// Returns a message that the gateway accepts.
pub(crate) fn arrival(w: &TestNetwork, nonce: u64, keys: &[&str], values: &[u64]) -> Tx {
    alias(w.at.gateway).calls(w.at.app_gateway, arriving(nonce, keys, values))
}

async fn value(w: &TestNetwork, key: &str) -> B256 {
    w.read(w.at.app_params, get_0Call { key_: key.to_owned() }).await
}

fn set_by(receipt: &Receipt, w: &TestNetwork) -> Vec<(String, B256)> {
    let events = receipt.events::<ParameterSet>(w.at.app_params);
    events.into_iter().map(|event| (event.key, event.value)).collect()
}

async fn parameters_leave_with_their_present_values(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    w.set("a.b", 5).await;
    for nonce in [1, 2] {
        let call = message(vec![chain()], &["a.b", "none"], 0);
        let receipt = w.send(customer.calls(w.at.gateway, call)).await;
        let event = ParametersSent {
            chainId: chain(),
            messageNumber: U256::from(nonce),
            nonce: U256::from(nonce),
            keys: texts(&["a.b", "none"]),
        };
        assert_eq!(receipt.event::<ParametersSent>(w.at.gateway), event);
        let ticket = receipt.event::<RetryableTicketCreated>(w.at.inbox).ticket;
        assert_eq!((ticket.to, ticket.l2CallValue), (w.at.app_gateway, U256::ZERO));
        assert_eq!(ticket.excessFeeRefundAddress, alias(w.at.gateway));
        assert_eq!(ticket.callValueRefundAddress, alias(w.at.gateway));
        assert_eq!((ticket.gasLimit, ticket.tokenTotalFeeAmount), (n(1000), U256::ZERO));
        let expected = arriving(nonce, &["a.b", "none"], &[5, 0]);
        assert_eq!(ticket.data, expected.abi_encode());
    }
}

async fn every_chain_gets_the_same_message(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    let other = U256::from(APP_CHAIN_ID + 1);
    let key = format!("xmtp.settlementChainGateway.inbox.{other}");
    w.set(&key, w.at.inbox).await;
    w.update(w.at.gateway, updateInboxCall { chainId_: other }).await;

    let call = message(vec![chain(), other], &["a"], 300);
    let returned = w.returned(customer.address(), w.at.gateway, call.clone()).await;
    assert_eq!(returned, n(600));
    let receipt = w.send(customer.calls(w.at.gateway, call)).await;
    let sent = receipt.events::<ParametersSent>(w.at.gateway);
    let logged: Vec<_> = sent.iter().map(|it| (it.chainId, it.messageNumber, it.nonce)).collect();
    assert_eq!(logged, [(chain(), n(1), n(1)), (other, n(2), n(1))]);
    let tickets = receipt.events::<RetryableTicketCreated>(w.at.inbox);
    assert!(tickets.iter().all(|it| it.ticket.tokenTotalFeeAmount == n(300)));
    assert_eq!(tickets[0].ticket.data, tickets[1].ticket.data);
    assert_eq!(w.fee_tokens(w.at.inbox).await, 600);
}

async fn parameters_can_bring_a_permit(w: &TestNetwork) {
    let customer = actor("customer");
    w.give(&customer, DOLLAR).await;
    let permit = w.permit(w.at.token, &customer, w.at.gateway, 2 * 300).await;
    let call = message_with_permit(vec![chain(); 2], &["a"], 300, permit);
    let returned = w.returned(customer.address(), w.at.gateway, call.clone()).await;
    assert_eq!(returned, n(600));
    let receipt = w.send(customer.calls(w.at.gateway, call)).await;
    assert_eq!(receipt.events::<ParametersSent>(w.at.gateway).len(), 2);
    assert_eq!(w.fee_tokens(w.at.inbox).await, 600);
}

async fn messages_of_parameters_are_refused_in_order(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    let other = U256::from(APP_CHAIN_ID + 1);
    let send =
        |chains, keys: &[&str], amount| customer.calls(w.at.gateway, message(chains, keys, amount));
    let too_little = FeeToken::ERC20InsufficientAllowance {
        spender: w.at.gateway,
        allowance: n(DOLLAR),
        needed: n(2 * DOLLAR),
    };
    w.refuse_all([
        (send(vec![other, other], &[], DOLLAR), too_little.into()),
        (send(vec![], &[], DOLLAR), NoChainIds {}.into()),
        (send(vec![other], &[], DOLLAR), NoKeys {}.into()),
        (send(vec![other], &["a"], DOLLAR), UnsupportedChainId { chainId: other }.into()),
        (send(vec![chain(), other], &["a"], 1), UnsupportedChainId { chainId: other }.into()),
        (
            send(vec![chain(); 2], &["a"], u128::MAX),
            FeeToken::ERC20InsufficientAllowance {
                spender: w.at.gateway,
                allowance: n(DOLLAR),
                needed: n(u128::MAX) * n(2),
            }
            .into(),
        ),
    ])
    .await;
    // A reverted message takes no number: the next message is the first.
    let receipt = w.send(send(vec![chain()], &["a"], 0)).await;
    assert_eq!(receipt.event::<ParametersSent>(w.at.gateway).nonce, n(1));
}

async fn messages_must_pay_their_way(w: &TestNetwork) {
    let customer = customer(w, DOLLAR).await;
    // The gateway does not compare; the bridge does.
    let scale = 1_000_000_000_000;
    let call =
        sendParametersCall { maxFeePerGas_: n(scale), ..message(vec![chain()], &["a"], 999) };
    let refusal = InsufficientValue { expected: n(1000 * scale), actual: n(999 * scale) };
    w.refuse(customer.calls(w.at.gateway, call.clone()), refusal).await;
    let call = sendParametersCall { amountToSend_: n(1000), ..call };
    w.send(customer.calls(w.at.gateway, call)).await;
}

async fn only_the_other_gateway_brings_parameters(w: &TestNetwork) {
    let it = w.read(w.at.app_gateway, settlementChainGatewayAliasCall {}).await;
    assert_eq!(it, alias(w.at.gateway));
    let call = arriving(1, &["k"], &[5]);
    w.refuse_all([
        (anyone().calls(w.at.app_gateway, call.clone()), NotSettlementChainGateway {}.into()),
        (w.at.gateway.calls(w.at.app_gateway, call), NotSettlementChainGateway {}.into()),
    ])
    .await;
    let receipt = w.send(arrival(w, 1, &["k", "l"], &[5, 6])).await;
    let event = ParametersReceived { nonce: n(1), keys: texts(&["k", "l"]) };
    assert_eq!(receipt.event::<ParametersReceived>(w.at.app_gateway), event);
    assert_eq!(set_by(&receipt, w), [("k".to_owned(), word(5)), ("l".to_owned(), word(6))]);
    assert_eq!(value(w, "k").await, word(5));
}

async fn each_parameter_is_set_by_the_newest_message(w: &TestNetwork) {
    w.send(arrival(w, 5, &["k"], &[50])).await;
    // Late or repeated messages set only the keys that no later message has set.
    for (nonce, keys, set) in [
        (4, vec!["k", "l"], vec![("l".to_owned(), word(40))]),
        (5, vec!["k", "l"], vec![("l".to_owned(), word(50))]),
        (5, vec!["k", "l"], vec![]),
        (0, vec!["new"], vec![]),
        (6, vec!["k"], vec![("k".to_owned(), word(60))]),
    ] {
        let values = vec![nonce * 10; keys.len()];
        let receipt = w.send(arrival(w, nonce, &keys, &values)).await;
        let event = ParametersReceived { nonce: U256::from(nonce), keys: texts(&keys) };
        assert_eq!(receipt.event::<ParametersReceived>(w.at.app_gateway), event);
        assert_eq!(set_by(&receipt, w), set);
    }
    assert_eq!((value(w, "k").await, value(w, "l").await), (word(60), word(50)));
}

async fn a_parameter_is_set_once_by_a_message(w: &TestNetwork) {
    let receipt = w.send(arrival(w, 1, &["k", "k"], &[5, 6])).await;
    assert_eq!(set_by(&receipt, w), [("k".to_owned(), word(5))]);
}

async fn missing_values_are_missed_for_what_is_set_only(w: &TestNetwork) {
    w.refuse(arrival(w, 1, &["k", "l"], &[5]), Panic::from(0x32)).await;
    w.send(arrival(w, 2, &["l"], &[7])).await;
    w.send(arrival(w, 1, &["k", "l"], &[5])).await;
    assert_eq!((value(w, "k").await, value(w, "l").await), (word(5), word(7)));
    // Surplus values are ignored.
    w.send(arrival(w, 3, &[], &[5])).await;
}

async fn the_gateway_must_be_an_admin(w: &TestNetwork) {
    let key = format!("xmtp.appChainParameterRegistry.isAdmin.{:#x}", w.at.app_gateway);
    w.set_app(&key, 0).await;
    w.refuse(arrival(w, 1, &["k"], &[5]), NotAdmin {}).await;
}

async fn parameters_arrive_while_the_gateway_is_paused(w: &TestNetwork) {
    w.set_app("xmtp.appChainGateway.paused", 1).await;
    w.update(w.at.app_gateway, updatePauseStatusCall {}).await;
    w.send(arrival(w, 1, &["k"], &[5])).await;
    assert_eq!(value(w, "k").await, word(5));
}
