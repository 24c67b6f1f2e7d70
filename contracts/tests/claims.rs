//! The distribution manager, first half: shares of settled reports are booked.

use alloy::primitives::{Address, U256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use hawser_chain::contracts::DistributionManager::{
    AlreadyClaimed, ArrayLengthMismatch, Claim, NotInPayerReport, NotNodeOwner, Paused,
    PayerReportNotSettled, ProtocolFeesClaim, areFeesClaimedCall, areProtocolFeesClaimedCall,
    claimCall, claimProtocolFeesCall, getOwedFeesCall, owedProtocolFeesCall, totalOwedFeesCall,
    updatePauseStatusCall, withdrawCall, withdrawIntoUnderlyingCall, withdrawProtocolFeesCall,
    withdrawProtocolFeesIntoUnderlyingCall,
};
use hawser_chain::contracts::payer_report_manager::IPayerReportManager::PayerReport;
use hawser_chain::contracts::{NodeRegistry, PayerReportManager};

use crate::harness::actors::{Caller as _, actor, admin, anyone, owner, payer};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::money::u96;
use crate::harness::network::TestNetwork;
use crate::harness::report::{ReportDraft, Usage};
use crate::harness::tx::{ExpectedRevert, Tx};
use crate::harness::vectors::{field, list, vectors};

on_both_chains! {
    nodes_share_what_the_protocol_leaves
    shares_are_those_of_the_vectors
    many_reports_are_claimed_at_once
    each_share_is_claimed_once
    shares_wait_for_the_whole_report
    shares_belong_to_the_nodes_that_the_report_lists
    a_node_that_has_left_still_claims
    shares_are_claimed_by_the_owner_of_the_node
    claims_name_reports_that_exist
    a_paused_manager_does_nothing
}

/// The claim of a node for reports of node 100.
pub(crate) fn claim(w: &TestNetwork, nodeId_: u32, indices: &[u64]) -> Tx {
    owner(nodeId_).calls(w.at.distribution, claim_call(nodeId_, indices))
}

fn claim_call(nodeId_: u32, indices: &[u64]) -> claimCall {
    let originatorNodeIds_ = vec![100; indices.len()];
    let payerReportIndices_ = indices.iter().copied().map(U256::from).collect();
    claimCall { nodeId_, originatorNodeIds_, payerReportIndices_ }
}

pub(crate) fn claim_protocol(w: &TestNetwork, indices: &[u64]) -> Tx {
    let originatorNodeIds_ = vec![100; indices.len()];
    let payerReportIndices_ = indices.iter().copied().map(U256::from).collect();
    let call = claimProtocolFeesCall { originatorNodeIds_, payerReportIndices_ };
    anyone().calls(w.at.distribution, call)
}

/// Returns the debts to a node, to all nodes, and to the protocol.
pub(crate) async fn owed(w: &TestNetwork, nodeId_: u32) -> (u128, u128, u128) {
    let at = w.at.distribution;
    (
        w.read(at, getOwedFeesCall { nodeId_ }).await.to(),
        w.read(at, totalOwedFeesCall {}).await.to(),
        w.read(at, owedProtocolFeesCall {}).await.to(),
    )
}

fn index(number: u64) -> U256 {
    U256::from(number)
}

async fn nodes_share_what_the_protocol_leaves(w: &TestNetwork) {
    w.settled_report(1001).await;
    let at = w.at.distribution;
    let is_claimed = |nodeId_| {
        let (originatorNodeId_, payerReportIndex_) = (100, index(0));
        w.read(at, areFeesClaimedCall { nodeId_, originatorNodeId_, payerReportIndex_ })
    };
    for (count, node_id) in (1..).zip([100, 200, 300]) {
        assert!(!is_claimed(node_id).await);
        let returned = w.returned(owner(node_id).address(), at, claim_call(node_id, &[0])).await;
        assert_eq!(returned, u96(330));
        let receipt = w.send(claim(w, node_id, &[0])).await;
        let event = Claim {
            nodeId: node_id,
            originatorNodeId: 100,
            payerReportIndex: index(0),
            amount: u96(330),
        };
        assert_eq!(receipt.event::<Claim>(at), event);
        assert!(is_claimed(node_id).await);
        assert_eq!(owed(w, node_id).await, (330, 330 * count, 0));
    }
    let is_claimed = || {
        let (originatorNodeId_, payerReportIndex_) = (100, index(0));
        w.read(at, areProtocolFeesClaimedCall { originatorNodeId_, payerReportIndex_ })
    };
    assert!(!is_claimed().await);
    let receipt = w.send(claim_protocol(w, &[0])).await;
    let event = receipt.event::<ProtocolFeesClaim>(at);
    assert_eq!((event.originatorNodeId, event.payerReportIndex), (100, index(0)));
    // One percent, and what cannot be shared.
    assert_eq!(event.amount, u96(11));
    assert!(is_claimed().await);
    assert_eq!(owed(w, 100).await, (330, 990, 11));
    // Nothing has moved.
    assert_eq!(w.fee_tokens(at).await, 0);
}

/// A report as the manager returns it in a list.
fn report(case: &serde_json::Value) -> PayerReport {
    let nodes: u32 = field(case, "node_count");
    PayerReport {
        startSequenceId: 0,
        endSequenceId: 1,
        endMinuteSinceEpoch: 0,
        feesSettled: field(case, "fees_settled"),
        offset: 1,
        isSettled: true,
        protocolFeeRate: field(case, "rate_bps"),
        payersMerkleRoot: Default::default(),
        nodeIds: (1..=nodes).map(|number| number * 100).collect(),
    }
}

async fn shares_are_those_of_the_vectors(w: &TestNetwork) {
    w.add_node(100).await;
    // No real report reaches the last case, so a contract in machine code returns such reports.
    let report_source = actor("teller").address();
    let at = w.at;
    let arguments = (at.params, at.nodes, report_source, at.payers, at.token).abi_encode();
    let manager = w.create(anyone().address(), "DistributionManager", arguments).await;
    for case in list(&vectors("fees"), "protocol_fee_split") {
        let returned = vec![report(case)].abi_encode();
        w.set_code(report_source, &bytecode::answering_bytes(&returned).into()).await;
        let (originatorNodeIds_, payerReportIndices_) = (vec![100], vec![index(0)]);
        let call = claimProtocolFeesCall { originatorNodeIds_, payerReportIndices_ };
        let protocol = w.returned(anyone().address(), manager, call).await;
        assert_eq!(protocol.to::<u128>(), field::<u128>(case, "protocol_fees"), "{case}");
        if field::<u32>(case, "node_count") > 0 {
            let share = w.returned(owner(100).address(), manager, claim_call(100, &[0])).await;
            assert_eq!(share.to::<u128>(), field::<u128>(case, "per_node"), "{case}");
        }
    }
}

async fn many_reports_are_claimed_at_once(w: &TestNetwork) {
    let first = w.settled_report(1000).await;
    w.submit_and_settle(&first.following(&[Usage::new(&payer(1), 2000)])).await;
    let receipt = w.send(claim(w, 100, &[1, 0])).await;
    let amounts: Vec<_> =
        receipt.events::<Claim>(w.at.distribution).into_iter().map(|it| it.amount).collect();
    assert_eq!(amounts, [u96(660), u96(330)]);
    w.send(claim_protocol(w, &[0, 1])).await;
    assert_eq!(owed(w, 100).await, (990, 990, 30));

    for tx in [claim(w, 100, &[]), claim_protocol(w, &[])] {
        assert!(w.send(tx).await.0.logs().is_empty());
    }
    assert_eq!(owed(w, 100).await, (990, 990, 30));
}

async fn each_share_is_claimed_once(w: &TestNetwork) {
    let first = w.settled_report(1000).await;
    w.submit_and_settle(&first.following(&[Usage::new(&payer(1), 2000)])).await;
    let again = |number| AlreadyClaimed { originatorNodeId: 100, payerReportIndex: index(number) };
    w.refuse_all([
        (claim(w, 100, &[0, 1, 0]), again(0).into()),
        (claim_protocol(w, &[1, 1]), again(1).into()),
    ])
    .await;
    w.send(claim(w, 100, &[0])).await;
    w.send(claim_protocol(w, &[1])).await;
    w.refuse_all([
        (claim(w, 100, &[1, 0]), again(0).into()),
        (claim_protocol(w, &[0, 1]), again(1).into()),
    ])
    .await;
    w.send(claim(w, 200, &[0])).await;
}

async fn shares_wait_for_the_whole_report(w: &TestNetwork) {
    let node_ids = w.add_canonical_nodes(1).await;
    let usages = [Usage::new(&payer(1), 10), Usage::new(&payer(2), 10)];
    let draft = ReportDraft::new(100, &usages, &node_ids);
    w.submit(&draft).await;
    w.send(anyone().calls(w.at.reports, draft.settlement(0, 0..1))).await;
    let refusal = || PayerReportNotSettled { originatorNodeId: 100, payerReportIndex: index(0) };
    w.refuse_all([
        (claim(w, 100, &[0]), refusal().into()),
        (claim_protocol(w, &[0]), refusal().into()),
    ])
    .await;
    w.send(anyone().calls(w.at.reports, draft.settlement(0, 1..2))).await;
    w.send(claim(w, 100, &[0])).await;
}

async fn shares_belong_to_the_nodes_that_the_report_lists(w: &TestNetwork) {
    w.settled_report(1000).await;
    // A node that came later, and became canonical.
    w.add_node(400).await;
    let call = NodeRegistry::addToNetworkCall { nodeId_: 400 };
    w.send(admin().calls(w.at.nodes, call)).await;
    let refusal = NotInPayerReport { originatorNodeId: 100, payerReportIndex: index(0) };
    w.refuse(claim(w, 400, &[0]), refusal).await;
}

async fn a_node_that_has_left_still_claims(w: &TestNetwork) {
    w.settled_report(1000).await;
    let call = NodeRegistry::removeFromNetworkCall { nodeId_: 200 };
    w.send(admin().calls(w.at.nodes, call)).await;
    w.send(claim(w, 200, &[0])).await;
    assert_eq!(owed(w, 200).await.0, 330);
}

async fn shares_are_claimed_by_the_owner_of_the_node(w: &TestNetwork) {
    w.settled_report(1000).await;
    let by_other = owner(200).calls(w.at.distribution, claim_call(100, &[0]));
    w.refuse(by_other.clone(), NotNodeOwner {}).await;
    let call = NodeRegistry::transferFromCall {
        from: owner(100).address(),
        to: owner(200).address(),
        tokenId: U256::from(100),
    };
    w.send(owner(100).calls(w.at.nodes, call)).await;
    w.refuse(claim(w, 100, &[0]), NotNodeOwner {}).await;
    w.send(by_other).await;
    assert_eq!(owed(w, 100).await.0, 330);
}

async fn claims_name_reports_that_exist(w: &TestNetwork) {
    w.settled_report(1000).await;
    let at = w.at.distribution;
    let claim_of = |nodeId_, originatorNodeIds_: Vec<u32>, indices: &[u64]| {
        let payerReportIndices_ = indices.iter().copied().map(U256::from).collect();
        let call = claimCall { nodeId_, originatorNodeIds_, payerReportIndices_ };
        owner(nodeId_).calls(at, call)
    };
    let uneven =
        claimProtocolFeesCall { originatorNodeIds_: vec![100], payerReportIndices_: vec![] };
    let unknown = NodeRegistry::ERC721NonexistentToken { tokenId: U256::from(700) };
    let none = PayerReportManager::NoReportsForOriginator { originatorNodeId: 200 };
    let beyond = || ExpectedRevert::from(PayerReportManager::PayerReportIndexOutOfBounds {});
    w.refuse_all([
        (claim_of(700, vec![100], &[]), unknown.into()),
        (claim_of(100, vec![100], &[]), ArrayLengthMismatch {}.into()),
        (claim_of(100, vec![100, 200], &[0, 0]), none.into()),
        (claim_of(100, vec![100], &[1]), beyond()),
        (anyone().calls(at, uneven), ArrayLengthMismatch {}.into()),
        (claim_protocol(w, &[0, 1]), beyond()),
    ])
    .await;
}

async fn a_paused_manager_does_nothing(w: &TestNetwork) {
    w.settled_report(1000).await;
    w.set("xmtp.distributionManager.paused", 1).await;
    w.update(w.at.distribution, updatePauseStatusCall {}).await;
    let by_owner = |data: Vec<u8>| Tx::raw(owner(100).address(), w.at.distribution, data);
    let recipient_ = Address::ZERO;
    let nodeId_ = 100;
    let paused = || ExpectedRevert::from(Paused {});
    w.refuse_all([
        (claim(w, 100, &[0]), paused()),
        (claim_protocol(w, &[0]), paused()),
        (by_owner(withdrawCall { nodeId_, recipient_ }.abi_encode()), paused()),
        (by_owner(withdrawIntoUnderlyingCall { nodeId_, recipient_ }.abi_encode()), paused()),
        (by_owner(withdrawProtocolFeesCall {}.abi_encode()), paused()),
        (by_owner(withdrawProtocolFeesIntoUnderlyingCall {}.abi_encode()), paused()),
    ])
    .await;
}
