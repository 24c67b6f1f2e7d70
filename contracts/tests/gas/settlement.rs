//! Gas of the settlement chain's contracts.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall;
use hawser_chain::contracts::{
    DistributionManager, FeeToken, NodeRegistry, PayerRegistry, PayerReportManager, RateRegistry,
    SettlementChainGateway,
};

use super::Meter;
use crate::bridged_parameters::{message, message_with_permit};
use crate::claims::{claim, claim_protocol};
use crate::harness::actors::{Actor, Caller as _, actor, admin, anyone, owner, payer, signer};
use crate::harness::money::{DOLLAR, NO_PERMIT};
use crate::harness::network::{APP_CHAIN_ID, LOCK_PERIOD, MINIMUM_DEPOSIT};
use crate::harness::report::{ReportDraft, Usage};
use crate::harness::tx::Tx;
use crate::{payers, payouts, settlement_gateway, splitter, withdrawals};

pub(super) async fn measure(m: &mut Meter<'_>) {
    nodes(m).await;
    tokens(m).await;
    rates(m).await;
    payers(m).await;
    reports(m).await;
    gateway(m).await;
    splitter(m).await;
    parameters_of_payers(m).await;
}

fn someone() -> Address {
    actor("someone").address()
}

async fn nodes(m: &mut Meter<'_>) {
    let at = m.w.at.nodes;
    let (from, to) = (owner(100).address(), someone());
    let tokenId = U256::from(100);
    m.w.add_node(100).await;
    let call = NodeRegistry::addNodeCall {
        owner_: owner(200).address(),
        signingPublicKey_: signer(200).public_key(),
        httpAddress_: "https://node200.example".to_owned(),
    };
    m.send(admin().calls(at, call)).await;
    m.send(admin().calls(at, NodeRegistry::addToNetworkCall { nodeId_: 100 })).await;
    m.send(admin().calls(at, NodeRegistry::removeFromNetworkCall { nodeId_: 100 })).await;
    let baseURI_ = "https://nodes.example/".to_owned();
    m.send(admin().calls(at, NodeRegistry::setBaseURICall { baseURI_ })).await;
    let httpAddress_ = "https://elsewhere.example".to_owned();
    let call = NodeRegistry::setHttpAddressCall { nodeId_: 100, httpAddress_ };
    m.send(owner(100).calls(at, call)).await;
    m.send(owner(100).calls(at, NodeRegistry::approveCall { to, tokenId })).await;
    let call = NodeRegistry::setApprovalForAllCall { operator: to, approved: true };
    m.send(owner(100).calls(at, call)).await;

    let back = || NodeRegistry::transferFromCall { from: to, to: from, tokenId };
    m.send(owner(100).calls(at, NodeRegistry::transferFromCall { from, to, tokenId })).await;
    m.w.send(to.calls(at, back())).await;
    let call = NodeRegistry::safeTransferFrom_0Call { from, to, tokenId };
    m.send(owner(100).calls(at, call)).await;
    m.w.send(to.calls(at, back())).await;
    let data = Bytes::new();
    let call = NodeRegistry::safeTransferFrom_1Call { from, to, tokenId, data };
    m.send(owner(100).calls(at, call)).await;
    m.w.send(to.calls(at, back())).await;

    m.w.set("xmtp.nodeRegistry.maxCanonicalNodes", 20).await;
    m.send(anyone().calls(at, NodeRegistry::updateMaxCanonicalNodesCall {})).await;
    m.w.set("xmtp.nodeRegistry.admin", actor("admin's heir").address()).await;
    m.send(anyone().calls(at, NodeRegistry::updateAdminCall {})).await;
    m.w.set("xmtp.nodeRegistry.admin", admin().address()).await;
    m.w.update(at, NodeRegistry::updateAdminCall {}).await;
}

async fn tokens(m: &mut Meter<'_>) {
    let (at, underlying) = (m.w.at.token, m.w.at.underlying);
    let alice = actor("alice");
    let n = U256::from;
    m.w.mint(&alice, 1000).await;
    m.w.approve(&alice, underlying, at, 1000).await;
    m.send(alice.calls(at, FeeToken::depositCall { amount_: n(100) })).await;
    let call = FeeToken::depositForCall { recipient_: someone(), amount_: n(100) };
    m.send(alice.calls(at, call)).await;
    let permit = m.w.permit(underlying, &alice, at, 100).await;
    m.send(alice.calls(at, crate::permits::deposit(100, permit))).await;
    let permit = m.w.permit(underlying, &alice, at, 100).await;
    m.send(alice.calls(at, crate::permits::deposit_for(someone(), 100, permit))).await;

    let spender = anyone().address();
    m.send(alice.calls(at, FeeToken::approveCall { spender, value: n(50) })).await;
    m.send(alice.calls(at, FeeToken::transferCall { to: someone(), value: n(10) })).await;
    let (from, to) = (alice.address(), someone());
    m.send(anyone().calls(at, FeeToken::transferFromCall { from, to, value: n(10) })).await;
    let permit = m.w.permit(at, &alice, spender, 7).await;
    m.send(crate::permits::use_of(permit, at, from, spender, 7)).await;
    m.send(alice.calls(at, FeeToken::withdrawCall { amount_: n(10) })).await;
    let call = FeeToken::withdrawToCall { recipient_: someone(), amount_: n(10) };
    m.send(alice.calls(at, call)).await;
}

async fn rates(m: &mut Meter<'_>) {
    m.w.set("xmtp.rateRegistry.messageFee", 101).await;
    m.w.set("xmtp.rateRegistry.ratesInEffectAfter", u64::MAX).await;
    m.send(anyone().calls(m.w.at.rates, RateRegistry::updateRatesCall {})).await;
}

async fn payers(m: &mut Meter<'_>) {
    let w = m.w;
    let at = w.at.payers;
    let one = payer(1);
    w.give(&one, 100 * DOLLAR).await;
    w.approve(&one, w.at.token, at, 50 * DOLLAR).await;
    m.send_with("a new payer", payers::deposit(w, &one, one.address(), 50 * DOLLAR)).await;
    let permit = w.permit(w.at.token, &one, at, MINIMUM_DEPOSIT).await;
    let call = payers::with_permit(payer(2).address(), MINIMUM_DEPOSIT, permit);
    m.send_with("a new payer", one.calls(at, call)).await;

    m.send(withdrawals::request(w, &one, DOLLAR)).await;
    m.send(withdrawals::cancel(w, &one)).await;
    w.send(withdrawals::request(w, &one, DOLLAR)).await;
    w.wait(LOCK_PERIOD).await;
    m.send(withdrawals::finalize(w, &one, someone())).await;
    w.send(withdrawals::request(w, &one, DOLLAR)).await;
    w.wait(LOCK_PERIOD).await;
    let recipient_ = someone();
    let call = PayerRegistry::finalizeWithdrawalIntoUnderlyingCall { recipient_ };
    m.send(one.calls(at, call)).await;

    let snapshot = w.snapshot().await;
    let settler = payers::appoint_settler(w).await;
    m.send_with("1 payer", payers::settlement(w, &settler, &[(&one, DOLLAR)])).await;
    w.give(&w.at.distribution, 1).await;
    m.send(anyone().calls(at, PayerRegistry::sendExcessToFeeDistributorCall {})).await;
    w.revert_to(snapshot).await;
}

async fn parameters_of_payers(m: &mut Meter<'_>) {
    let at = m.w.at.payers;
    for (name, update) in [
        ("settler", PayerRegistry::updateSettlerCall {}.abi_encode()),
        ("feeDistributor", PayerRegistry::updateFeeDistributorCall {}.abi_encode()),
        ("minimumDeposit", PayerRegistry::updateMinimumDepositCall {}.abi_encode()),
        ("withdrawLockPeriod", PayerRegistry::updateWithdrawLockPeriodCall {}.abi_encode()),
    ] {
        m.w.set(&format!("xmtp.payerRegistry.{name}"), 1000).await;
        m.send(Tx::raw(anyone().address(), at, update)).await;
    }
}

/// Three nodes; reports over one payer, a hundred, and four hundred.
async fn reports(m: &mut Meter<'_>) {
    let w = m.w;
    let at = w.at.reports;
    for nodeId_ in [100, 200, 300] {
        if nodeId_ == 300 {
            w.add_node(300).await;
        }
        w.send(admin().calls(w.at.nodes, NodeRegistry::addToNetworkCall { nodeId_ })).await;
    }
    let first = ReportDraft::new(100, &[Usage::new(&payer(1), DOLLAR)], &[100, 200, 300]);
    w.submit_and_settle(&first).await;
    let second = first.following(&[Usage::new(&payer(1), DOLLAR)]);
    let signatures = w.signatures(&second, &[100, 200]).await;
    let call = second.submission(signatures);
    m.send_with("3 nodes, 2 signatures", anyone().calls(at, call)).await;
    let call = second.settlement(1, 0..1);
    m.send_with("1 leaf", anyone().calls(at, call)).await;
    let usages = |payers: std::ops::Range<_>| -> Vec<Usage> {
        payers.map(|number| Usage::new(&payer(number), DOLLAR)).collect()
    };
    let third = second.following(&usages(1000..1100));
    w.submit(&third).await;
    let call = third.settlement(2, 0..100);
    m.send_with("100 leaves, new payers", anyone().calls(at, call)).await;
    let fourth = third.following(&usages(2000..2400));
    w.submit(&fourth).await;
    let call = fourth.settlement(3, 0..400);
    m.send_with("400 leaves, new payers", anyone().calls(at, call)).await;
    w.set("xmtp.payerReportManager.protocolFeeRate", 250).await;
    m.send(anyone().calls(at, PayerReportManager::updateProtocolFeeRateCall {})).await;
    distribution(m).await;
}

async fn distribution(m: &mut Meter<'_>) {
    let w = m.w;
    let at = w.at.distribution;
    m.send_with("1 report", claim(w, 100, &[0])).await;
    m.send_with("1 report", claim_protocol(w, &[0])).await;
    let snapshot = w.snapshot().await;
    m.send(payouts::withdraw(w, 100, someone())).await;
    w.revert_to(snapshot).await;
    let snapshot = w.snapshot().await;
    let call =
        DistributionManager::withdrawIntoUnderlyingCall { nodeId_: 100, recipient_: someone() };
    m.send(owner(100).calls(at, call)).await;
    w.revert_to(snapshot).await;

    w.set("xmtp.distributionManager.protocolFeesRecipient", someone()).await;
    m.send(anyone().calls(at, DistributionManager::updateProtocolFeesRecipientCall {})).await;
    let snapshot = w.snapshot().await;
    m.send(payouts::withdraw_protocol(w)).await;
    w.revert_to(snapshot).await;
    let call = DistributionManager::withdrawProtocolFeesIntoUnderlyingCall {};
    m.send(anyone().calls(at, call)).await;
}

async fn gateway(m: &mut Meter<'_>) {
    let w = m.w;
    let at = w.at.gateway;
    let customer: Actor = settlement_gateway::customer(w, 2 * DOLLAR).await;
    let call = settlement_gateway::deposit_of(DOLLAR, 0, 0);
    // The first message fills a word that was empty.
    w.send(customer.calls(at, call.clone())).await;
    w.approve(&customer, w.at.token, at, 10 * DOLLAR).await;
    w.give(&customer, 10 * DOLLAR).await;
    m.send(customer.calls(at, call.clone())).await;
    let permit = w.permit(w.at.token, &customer, at, DOLLAR).await;
    m.send(customer.calls(at, settlement_gateway::with_permit(&call, permit))).await;

    let chains = vec![settlement_gateway::chain()];
    let key = "xmtp.groupMessageBroadcaster.maxPayloadSize";
    m.send_with("1", customer.calls(at, message(chains.clone(), &[key], 0))).await;
    let permitted = message_with_permit(chains, &[key], 0, NO_PERMIT);
    m.send_with("1", customer.calls(at, permitted)).await;

    let recipient_ = someone();
    w.give(&at, DOLLAR).await;
    let call = SettlementChainGateway::receiveWithdrawalCall { recipient_ };
    m.send(anyone().calls(at, call)).await;
    w.give(&at, DOLLAR).await;
    let call = SettlementChainGateway::receiveWithdrawalIntoUnderlyingCall { recipient_ };
    m.send(anyone().calls(at, call)).await;
    let other = U256::from(APP_CHAIN_ID + 1);
    w.set(&format!("xmtp.settlementChainGateway.inbox.{other}"), w.at.inbox).await;
    let call = SettlementChainGateway::updateInboxCall { chainId_: other };
    m.send(anyone().calls(at, call)).await;
}

async fn splitter(m: &mut Meter<'_>) {
    let w = m.w;
    let at = w.at.splitter;
    let customer = splitter::customer();
    let (to_payer, to_app_chain) = (splitter::TO_PAYER, splitter::TO_APP_CHAIN);
    splitter::with_fee_tokens(w, splitter::TOTAL).await;
    m.send(splitter::pay(w, splitter::split(to_payer, to_app_chain))).await;
    w.give(&customer, splitter::TOTAL).await;
    let permit = w.permit(w.at.token, &customer, at, splitter::TOTAL).await;
    let call = splitter::split_with_permit(to_payer, to_app_chain, permit);
    m.send(customer.calls(at, call)).await;
    w.mint(&customer, 2 * splitter::TOTAL).await;
    w.approve(&customer, w.at.underlying, at, splitter::TOTAL).await;
    m.send(customer.calls(at, splitter::split_underlying(to_payer, to_app_chain))).await;
    let permit = w.permit(w.at.underlying, &customer, at, splitter::TOTAL).await;
    m.send(customer.calls(at, splitter::split_underlying_with_permit(permit))).await;
}
