//! The distribution manager, second half: payouts of booked fees, as far as there is money.

use alloy::primitives::{Address, U256};
use hawser_chain::contracts::DistributionManager::{
    NoChange, NoFeesOwed, NotNodeOwner, ParameterOutOfTypeBounds, ProtocolFeesRecipientUpdated,
    ProtocolFeesWithdrawal, Withdrawal, ZeroAvailableBalance, ZeroProtocolFeeRecipient,
    ZeroRecipient, protocolFeesRecipientCall, updateProtocolFeesRecipientCall, withdrawCall,
    withdrawIntoUnderlyingCall, withdrawProtocolFeesCall, withdrawProtocolFeesIntoUnderlyingCall,
};
use hawser_chain::contracts::{NodeRegistry, PayerRegistry};

use crate::claims::{claim, claim_protocol, owed};
use crate::harness::actors::{Caller as _, actor, anyone, owner, payer};
use crate::harness::cases::on_both_chains;
use crate::harness::money::u96;
use crate::harness::network::TestNetwork;
use crate::harness::report::{ReportDraft, Usage};
use crate::harness::tx::Tx;

on_both_chains! {
    a_payout_fetches_what_payers_have_used
    nodes_are_paid_in_the_underlying_token
    the_protocol_is_paid_for_any_caller
    unfunded_fees_stay_owed
    the_first_claim_is_paid_first
    money_at_hand_is_paid_without_asking_for_more
    without_money_nothing_is_paid
    payouts_are_refused_in_order
    a_paused_payer_registry_is_told
    the_protocol_names_who_is_paid
}

const RECIPIENT: &str = "xmtp.distributionManager.protocolFeesRecipient";

pub(crate) fn withdraw(w: &TestNetwork, nodeId_: u32, recipient_: Address) -> Tx {
    owner(nodeId_).calls(w.at.distribution, withdrawCall { nodeId_, recipient_ })
}

pub(crate) fn withdraw_protocol(w: &TestNetwork) -> Tx {
    anyone().calls(w.at.distribution, withdrawProtocolFeesCall {})
}

fn pocket() -> Address {
    actor("pocket").address()
}

/// Sets the recipient of the protocol's fees.
pub(crate) async fn name_recipient(w: &TestNetwork, recipient: Address) {
    w.set(RECIPIENT, recipient).await;
    w.update(w.at.distribution, updateProtocolFeesRecipientCall {}).await;
}

/// Books 330 for each of three nodes and 10 for the protocol. The payer has a deposit.
async fn claimed(w: &TestNetwork) {
    w.settled_report(1000).await;
    claim_all(w).await;
}

async fn claim_all(w: &TestNetwork) {
    for node_id in [100, 200, 300] {
        w.send(claim(w, node_id, &[0])).await;
    }
    w.send(claim_protocol(w, &[0])).await;
}

/// Sets up the same without a deposit of the payer.
async fn claimed_on_credit(w: &TestNetwork) {
    let node_ids = w.add_canonical_nodes(3).await;
    w.submit_and_settle(&ReportDraft::new(100, &[Usage::new(&payer(1), 1000)], &node_ids)).await;
    claim_all(w).await;
}

async fn a_payout_fetches_what_payers_have_used(w: &TestNetwork) {
    claimed(w).await;
    let call = withdrawCall { nodeId_: 100, recipient_: pocket() };
    let returned = w.returned(owner(100).address(), w.at.distribution, call).await;
    assert_eq!(returned, u96(330));
    let receipt = w.send(withdraw(w, 100, pocket())).await;
    let event = Withdrawal { nodeId: 100, amount: u96(330) };
    assert_eq!(receipt.event::<Withdrawal>(w.at.distribution), event);
    let fetched = receipt.event::<PayerRegistry::ExcessTransferred>(w.at.payers);
    assert_eq!(fetched.amount, u96(1000));
    assert_eq!(w.fee_tokens(pocket()).await, 330);
    assert_eq!(w.fee_tokens(w.at.distribution).await, 670);
    assert_eq!(owed(w, 100).await, (0, 660, 10));
}

async fn nodes_are_paid_in_the_underlying_token(w: &TestNetwork) {
    claimed(w).await;
    let call = withdrawIntoUnderlyingCall { nodeId_: 100, recipient_: pocket() };
    let receipt = w.send(owner(100).calls(w.at.distribution, call)).await;
    let event = Withdrawal { nodeId: 100, amount: u96(330) };
    assert_eq!(receipt.event::<Withdrawal>(w.at.distribution), event);
    assert_eq!(w.owned(w.at.underlying, pocket()).await, 330);
    assert_eq!(owed(w, 100).await.0, 0);
}

async fn the_protocol_is_paid_for_any_caller(w: &TestNetwork) {
    claimed(w).await;
    name_recipient(w, pocket()).await;
    let snapshot = w.snapshot().await;
    let receipt = w.send(withdraw_protocol(w)).await;
    let event = ProtocolFeesWithdrawal { amount: u96(10) };
    assert_eq!(receipt.event::<ProtocolFeesWithdrawal>(w.at.distribution), event);
    assert_eq!(w.fee_tokens(pocket()).await, 10);
    assert_eq!(owed(w, 100).await, (330, 990, 0));
    w.revert_to(snapshot).await;

    let call = withdrawProtocolFeesIntoUnderlyingCall {};
    w.send(anyone().calls(w.at.distribution, call)).await;
    assert_eq!(w.owned(w.at.underlying, pocket()).await, 10);
    assert_eq!(owed(w, 100).await, (330, 990, 0));
}

async fn unfunded_fees_stay_owed(w: &TestNetwork) {
    claimed_on_credit(w).await;
    w.give(&w.at.distribution, 100).await;
    let receipt = w.send(withdraw(w, 100, pocket())).await;
    assert_eq!(receipt.event::<Withdrawal>(w.at.distribution).amount, u96(100));
    assert_eq!(owed(w, 100).await, (230, 890, 10));
    // The payer pays the debt, and the rest is there.
    w.deposit(&payer(1), crate::harness::network::MINIMUM_DEPOSIT).await;
    w.send(withdraw(w, 100, pocket())).await;
    assert_eq!(w.fee_tokens(pocket()).await, 330);
    assert_eq!(owed(w, 100).await, (0, 660, 10));
}

async fn the_first_claim_is_paid_first(w: &TestNetwork) {
    claimed_on_credit(w).await;
    name_recipient(w, pocket()).await;
    w.give(&w.at.distribution, 400).await;
    w.send(withdraw(w, 300, pocket())).await;
    w.send(withdraw_protocol(w)).await;
    w.send(withdraw(w, 100, pocket())).await;
    assert_eq!(w.fee_tokens(pocket()).await, 400);
    assert_eq!(owed(w, 100).await, (270, 600, 0));
    w.refuse(withdraw(w, 200, pocket()), ZeroAvailableBalance {}).await;
}

async fn money_at_hand_is_paid_without_asking_for_more(w: &TestNetwork) {
    claimed(w).await;
    w.give(&w.at.distribution, 330).await;
    let receipt = w.send(withdraw(w, 100, pocket())).await;
    assert!(receipt.events::<PayerRegistry::ExcessTransferred>(w.at.payers).is_empty());
    assert_eq!(w.fee_tokens(pocket()).await, 330);
}

async fn without_money_nothing_is_paid(w: &TestNetwork) {
    claimed_on_credit(w).await;
    name_recipient(w, pocket()).await;
    w.refuse_all([
        (withdraw(w, 100, pocket()), ZeroAvailableBalance {}.into()),
        (withdraw_protocol(w), ZeroAvailableBalance {}.into()),
    ])
    .await;
}

async fn payouts_are_refused_in_order(w: &TestNetwork) {
    w.add_node(100).await;
    let unknown = NodeRegistry::ERC721NonexistentToken { tokenId: U256::from(700) };
    let by_other = withdrawCall { nodeId_: 100, recipient_: pocket() };
    let underlying = |nodeId_, recipient_| {
        let call = withdrawIntoUnderlyingCall { nodeId_, recipient_ };
        owner(100).calls(w.at.distribution, call)
    };
    w.refuse_all([
        (withdraw(w, 700, Address::ZERO), ZeroRecipient {}.into()),
        (withdraw(w, 700, pocket()), unknown.clone().into()),
        (anyone().calls(w.at.distribution, by_other), NotNodeOwner {}.into()),
        (withdraw(w, 100, pocket()), NoFeesOwed {}.into()),
        (underlying(700, Address::ZERO), ZeroRecipient {}.into()),
        (underlying(700, pocket()), unknown.into()),
        (underlying(100, pocket()), NoFeesOwed {}.into()),
        (withdraw_protocol(w), ZeroProtocolFeeRecipient {}.into()),
    ])
    .await;
    name_recipient(w, pocket()).await;
    w.refuse(withdraw_protocol(w), NoFeesOwed {}).await;
    let call = withdrawProtocolFeesIntoUnderlyingCall {};
    w.refuse(anyone().calls(w.at.distribution, call), NoFeesOwed {}).await;
}

async fn a_paused_payer_registry_is_told(w: &TestNetwork) {
    claimed(w).await;
    w.set("xmtp.payerRegistry.paused", 1).await;
    w.update(w.at.payers, PayerRegistry::updatePauseStatusCall {}).await;
    w.refuse(withdraw(w, 100, pocket()), PayerRegistry::Paused {}).await;
    // A payout of money at hand does not call the registry.
    w.give(&w.at.distribution, 330).await;
    w.send(withdraw(w, 100, pocket())).await;
}

async fn the_protocol_names_who_is_paid(w: &TestNetwork) {
    let at = w.at.distribution;
    let update = anyone().calls(at, updateProtocolFeesRecipientCall {});
    w.refuse(update.clone(), NoChange {}).await;
    w.set(RECIPIENT, U256::MAX).await;
    w.refuse(update.clone(), ParameterOutOfTypeBounds {}).await;
    // The zero address is valid as well.
    for recipient in [pocket(), Address::ZERO] {
        w.set(RECIPIENT, recipient).await;
        let receipt = w.send(update.clone()).await;
        let event = receipt.event::<ProtocolFeesRecipientUpdated>(at);
        assert_eq!(event.protocolFeesRecipient, recipient);
        assert_eq!(w.read(at, protocolFeesRecipientCall {}).await, recipient);
        w.refuse(update.clone(), NoChange {}).await;
    }
}
