//! The report manager, first half: which reports are accepted.

use alloy::primitives::{B256, FixedBytes, U256};
use hawser_chain::contracts::PayerReportManager::{
    ArrayLengthMismatch, DOMAIN_SEPARATORCall, InsufficientSignatures, InvalidProtocolFeeRate,
    InvalidSequenceIds, InvalidStartSequenceId, NoChange, NoReportsForOriginator,
    NodeIdAtIndexMismatch, NodeIdsLengthMismatch, ONE_HUNDRED_PERCENTCall,
    PAYER_REPORT_TYPEHASHCall, ParameterOutOfTypeBounds, PayerReportAlreadySubmitted,
    PayerReportIndexOutOfBounds, PayerReportSignature, PayerReportSubmitted,
    PayerReportSubsetSettled, ProtocolFeeRateUpdated, UnorderedNodeIds, eip712DomainCall,
    getPayerReportCall, getPayerReportsCall, protocolFeeRateCall, updateProtocolFeeRateCall,
};
use hawser_chain::contracts::{NodeRegistry, PayerReportManager};

use crate::harness::actors::{Actor, Caller as _, actor, admin, anyone, payer, signer};
use crate::harness::cases::on_both_chains;
use crate::harness::network::{CHAIN_ID, TestNetwork};
use crate::harness::report::{ReportDraft, Usage, signature};
use crate::harness::tx::Tx;
use crate::harness::vectors::vectors;

on_both_chains! {
    a_report_is_kept_and_logged_as_submitted
    a_report_without_usage_is_settled_at_once
    reports_of_an_originator_follow_each_other
    a_report_is_not_submitted_twice_in_a_row
    a_report_names_the_canonical_nodes_in_order
    more_than_half_of_the_nodes_sign
    bad_signatures_are_skipped
    signatures_have_two_forms
    signatures_come_in_order_and_from_known_nodes
    without_canonical_nodes_nothing_can_be_submitted
    a_change_of_the_canonical_nodes_voids_what_was_signed
    unknown_reports_are_told_apart
    the_protocol_fee_rate_is_taken_over_from_a_parameter
    a_report_keeps_the_protocol_fee_rate_of_its_submission
    the_domain_names_contract_and_chain
}

fn usages() -> [Usage; 2] {
    [Usage::new(&payer(1), 5), Usage::new(&payer(2), 7)]
}

/// A report about node 100 by three canonical nodes.
async fn draft(w: &TestNetwork) -> ReportDraft {
    let node_ids = w.add_canonical_nodes(3).await;
    ReportDraft::new(100, &usages(), &node_ids)
}

fn submission(w: &TestNetwork, draft: &ReportDraft, signatures: Vec<PayerReportSignature>) -> Tx {
    anyone().calls(w.at.reports, draft.submission(signatures))
}

fn unsigned(w: &TestNetwork, draft: &ReportDraft) -> Tx {
    submission(w, draft, vec![])
}

async fn a_report_is_kept_and_logged_as_submitted(w: &TestNetwork) {
    let draft = draft(w).await;
    let signatures = w.signatures(&draft, &[100, 300]).await;
    let tx = submission(w, &draft, signatures);
    let receipt = w.send(tx).await;
    let event = PayerReportSubmitted {
        originatorNodeId: 100,
        payerReportIndex: U256::ZERO,
        startSequenceId: 0,
        endSequenceId: 10,
        endMinuteSinceEpoch: 29_000_000,
        payersMerkleRoot: draft.root(),
        nodeIds: vec![100, 200, 300],
        signingNodeIds: vec![100, 300],
    };
    assert_eq!(receipt.event::<PayerReportSubmitted>(w.at.reports), event);
    assert_eq!(receipt.0.logs().len(), 1);

    let report = w.report(100, 0).await;
    assert_eq!((report.startSequenceId, report.endSequenceId), (0, 10));
    assert_eq!(report.endMinuteSinceEpoch, 29_000_000);
    assert_eq!((report.feesSettled.to::<u128>(), report.offset, report.isSettled), (0, 0, false));
    assert_eq!(report.protocolFeeRate, 100);
    assert_eq!(report.payersMerkleRoot, draft.root());
    assert_eq!(report.nodeIds, [100, 200, 300]);
}

async fn a_report_without_usage_is_settled_at_once(w: &TestNetwork) {
    let draft = ReportDraft { leaves: vec![], ..draft(w).await };
    let tx = w.submission(&draft).await;
    let receipt = w.send(tx).await;
    let event = receipt.event::<PayerReportSubsetSettled>(w.at.reports);
    assert_eq!((event.originatorNodeId, event.payerReportIndex), (100, U256::ZERO));
    assert_eq!((event.count, event.remaining, event.feesSettled.to::<u128>()), (0, 0, 0));
    assert!(w.report(100, 0).await.isSettled);
}

async fn reports_of_an_originator_follow_each_other(w: &TestNetwork) {
    let first = draft(w).await;
    let wrong = |startSequenceId, lastSequenceId| InvalidStartSequenceId {
        startSequenceId,
        lastSequenceId,
    };
    let starting = |start, end| unsigned(w, &ReportDraft { start, end, ..first.clone() });
    w.refuse_all([
        (starting(1, 10), wrong(1, 0).into()),
        // An end before the start is looked at later.
        (starting(5, 4), wrong(5, 0).into()),
    ])
    .await;
    w.submit(&first).await;
    w.refuse_all([
        (starting(0, 11), wrong(0, 10).into()),
        (starting(9, 20), wrong(9, 10).into()),
        (starting(11, 20), wrong(11, 10).into()),
        (starting(10, 9), InvalidSequenceIds {}.into()),
    ])
    .await;
    // Nothing happened in between: the end may be the start.
    let empty = ReportDraft { end: 10, ..first.following(&usages()) };
    assert_eq!(w.submit(&empty).await, 1);
    // Each originator for itself; it need not be a node.
    let other = ReportDraft { originator: 0, minute: 0, ..first.clone() };
    assert_eq!(w.submit(&other).await, 0);
    let last = ReportDraft { start: 10, end: u64::MAX, ..first };
    assert_eq!(w.submit(&last).await, 2);
}

async fn a_report_is_not_submitted_twice_in_a_row(w: &TestNetwork) {
    let first = draft(w).await;
    w.submit(&first).await;
    let refusal = PayerReportAlreadySubmitted {
        originatorNodeId: 100,
        startSequenceId: 0,
        endSequenceId: 10,
    };
    w.refuse(unsigned(w, &first), refusal).await;
    w.submit(&first.following(&usages())).await;
    // An older report is refused for another reason: it does not start at the last one's end.
    let refusal = InvalidStartSequenceId { startSequenceId: 0, lastSequenceId: 20 };
    w.refuse(unsigned(w, &first), refusal).await;
}

async fn a_report_names_the_canonical_nodes_in_order(w: &TestNetwork) {
    w.add_canonical_nodes(4).await;
    // The registry lists 400, 200, 300 now.
    let call = NodeRegistry::removeFromNetworkCall { nodeId_: 100 };
    w.send(admin().calls(w.at.nodes, call)).await;
    let naming = |node_ids: &[u32]| unsigned(w, &ReportDraft::new(100, &usages(), node_ids));
    let length = |providedCount| NodeIdsLengthMismatch { expectedCount: 3, providedCount };
    let other = |expectedId, actualId, index| NodeIdAtIndexMismatch { expectedId, actualId, index };
    w.refuse_all([
        (naming(&[]), length(0).into()),
        (naming(&[200, 300]), length(2).into()),
        (naming(&[100, 200, 300, 400]), length(4).into()),
        (naming(&[400, 200, 300]), other(200, 400, 0).into()),
        (naming(&[200, 200, 300]), UnorderedNodeIds {}.into()),
        (naming(&[200, 400, 300]), other(300, 400, 1).into()),
        (naming(&[200, 300, 300]), UnorderedNodeIds {}.into()),
        (naming(&[200, 300, 500]), other(400, 500, 2).into()),
    ])
    .await;
    w.submit(&ReportDraft::new(100, &usages(), &[200, 300, 400])).await;
}

async fn more_than_half_of_the_nodes_sign(w: &TestNetwork) {
    for (nodes, required) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
        let snapshot = w.snapshot().await;
        let node_ids = w.add_canonical_nodes(nodes).await;
        let draft = ReportDraft::new(100, &usages(), &node_ids);
        let too_few = usize::from(required) - 1;
        let signatures = w.signatures(&draft, &node_ids[..too_few]).await;
        let refusal = InsufficientSignatures {
            validSignatureCount: required - 1,
            requiredSignatureCount: required,
        };
        w.refuse(submission(w, &draft, signatures), refusal).await;
        let signatures = w.signatures(&draft, &node_ids[..=too_few]).await;
        w.send(submission(w, &draft, signatures)).await;
        w.revert_to(snapshot).await;
    }
}

async fn bad_signatures_are_skipped(w: &TestNetwork) {
    let draft = draft(w).await;
    w.add_node(400).await;
    let digest = w.report_id(&draft).await;
    let by = |node_id: u32, key: &Actor| signature(node_id, key, digest);
    let of_what = |node_id: u32, digest| signature(node_id, &signer(node_id), digest);
    let bytes = |node_id, length: usize| PayerReportSignature {
        nodeId: node_id,
        signature: vec![1; length].into(),
    };
    let short_v = {
        // The form in which nodes exchange signatures.
        let mut it = by(200, &signer(200));
        let mut bytes = it.signature.to_vec();
        bytes[64] -= 27;
        it.signature = bytes.into();
        it
    };
    let good = by(300, &signer(300));
    for bad in [
        by(200, &actor("another account")),
        by(200, &signer(100)),
        of_what(200, B256::ZERO),
        short_v,
        bytes(200, 0),
        bytes(200, 63),
        bytes(200, 64),
        bytes(200, 65),
        bytes(200, 66),
    ] {
        let tx = submission(w, &draft, vec![bad, good.clone()]);
        let refusal = InsufficientSignatures { validSignatureCount: 1, requiredSignatureCount: 2 };
        w.refuse(tx, refusal).await;
    }
    // A node that is not canonical does not count, and does not harm.
    let all = vec![by(100, &signer(100)), bytes(200, 3), good, by(400, &signer(400))];
    let tx = submission(w, &draft, all);
    let receipt = w.send(tx).await;
    let event = receipt.event::<PayerReportSubmitted>(w.at.reports);
    assert_eq!(event.signingNodeIds, [100, 300]);
}

async fn signatures_have_two_forms(w: &TestNetwork) {
    let draft = draft(w).await;
    let digest = w.report_id(&draft).await;
    let (high, short) = (signer(100).sign(digest), signer(200).sign(digest));
    // The contract accepts the other square root (high s), which other contracts refuse.
    let order = crate::permits::ORDER;
    let s: B256 = (order - high.s()).into();
    let high = [high.r().to_be_bytes_vec(), s.to_vec(), vec![28 - u8::from(high.v())]].concat();
    // EIP-2098: the parity is the first bit of s.
    let parity: U256 = U256::from(short.v()) << 255;
    let vs = B256::from(short.s() | parity);
    let short = [short.r().to_be_bytes_vec(), vs.to_vec()].concat();
    let signatures = vec![
        PayerReportSignature { nodeId: 100, signature: high.into() },
        PayerReportSignature { nodeId: 200, signature: short.into() },
    ];
    let tx = submission(w, &draft, signatures);
    let receipt = w.send(tx).await;
    let event = receipt.event::<PayerReportSubmitted>(w.at.reports);
    assert_eq!(event.signingNodeIds, [100, 200]);
}

async fn signatures_come_in_order_and_from_known_nodes(w: &TestNetwork) {
    let draft = draft(w).await;
    let all = w.signatures(&draft, &[100, 200, 300]).await;
    let [first, second, third] = <[_; 3]>::try_from(all).unwrap();
    let with = |signatures| submission(w, &draft, signatures);
    let unknown = w.signatures(&draft, &[700]).await.remove(0);
    let unregistered = NodeRegistry::ERC721NonexistentToken { tokenId: U256::from(700) };
    w.refuse_all([
        (with(vec![second.clone(), first.clone()]), UnorderedNodeIds {}.into()),
        (with(vec![first.clone(), first.clone(), second.clone()]), UnorderedNodeIds {}.into()),
        // One unknown node id reverts the submission, with any number of good signatures.
        (with(vec![first, second, third, unknown]), unregistered.into()),
    ])
    .await;
}

async fn without_canonical_nodes_nothing_can_be_submitted(w: &TestNetwork) {
    w.add_node(100).await;
    let draft = ReportDraft::new(100, &usages(), &[]);
    let refusal = || InsufficientSignatures { validSignatureCount: 0, requiredSignatureCount: 1 };
    w.refuse(unsigned(w, &draft), refusal()).await;
    let signatures = w.signatures(&draft, &[100]).await;
    w.refuse(submission(w, &draft, signatures), refusal()).await;
}

async fn a_change_of_the_canonical_nodes_voids_what_was_signed(w: &TestNetwork) {
    let draft = draft(w).await;
    let tx = w.submission(&draft).await;
    w.add_node(400).await;
    let call = NodeRegistry::addToNetworkCall { nodeId_: 400 };
    w.send(admin().calls(w.at.nodes, call)).await;
    let refusal = NodeIdsLengthMismatch { expectedCount: 4, providedCount: 3 };
    w.refuse(tx, refusal).await;
    // And with the present nodes it is another report.
    let now = ReportDraft { node_ids: vec![100, 200, 300, 400], ..draft.clone() };
    let signatures = w.signatures(&draft, &[100, 200, 300]).await;
    let refusal = InsufficientSignatures { validSignatureCount: 0, requiredSignatureCount: 3 };
    w.refuse(submission(w, &now, signatures), refusal).await;
}

async fn unknown_reports_are_told_apart(w: &TestNetwork) {
    w.submit(&draft(w).await).await;
    let at = w.at.reports;
    let one = |originatorNodeId_, index: u64| {
        let payerReportIndex_ = U256::from(index);
        anyone().calls(at, getPayerReportCall { originatorNodeId_, payerReportIndex_ })
    };
    let many = |originatorNodeIds_: Vec<u32>, indices: &[u64]| {
        let payerReportIndices_ = indices.iter().copied().map(U256::from).collect();
        getPayerReportsCall { originatorNodeIds_, payerReportIndices_ }
    };
    let none = |originatorNodeId| NoReportsForOriginator { originatorNodeId };
    w.refuse_all([
        (one(200, 0), none(200).into()),
        (one(100, 1), PayerReportIndexOutOfBounds {}.into()),
        (anyone().calls(at, many(vec![100], &[0, 0])), ArrayLengthMismatch {}.into()),
        (anyone().calls(at, many(vec![100, 200], &[0, 0])), none(200).into()),
        (anyone().calls(at, many(vec![100, 100], &[0, 1])), PayerReportIndexOutOfBounds {}.into()),
    ])
    .await;
    let reports = w.read(at, many(vec![100, 100], &[0, 0])).await;
    assert_eq!(reports, vec![w.report(100, 0).await; 2]);
    assert!(w.read(at, many(vec![], &[])).await.is_empty());
}

const RATE: &str = "xmtp.payerReportManager.protocolFeeRate";

async fn the_protocol_fee_rate_is_taken_over_from_a_parameter(w: &TestNetwork) {
    let at = w.at.reports;
    let update = anyone().calls(at, updateProtocolFeeRateCall {});
    w.refuse(update.clone(), NoChange {}).await;
    w.set(RATE, 10_001).await;
    w.refuse(update.clone(), InvalidProtocolFeeRate {}).await;
    w.set(RATE, 1 << 16).await;
    w.refuse(update.clone(), ParameterOutOfTypeBounds {}).await;
    assert_eq!(w.read(at, ONE_HUNDRED_PERCENTCall {}).await, 10_000);
    for rate in [10_000, 0] {
        w.set(RATE, u64::from(rate)).await;
        let receipt = w.send(update.clone()).await;
        let event = receipt.event::<ProtocolFeeRateUpdated>(at);
        assert_eq!(event.protocolFeeRate, rate);
        assert_eq!(w.read(at, protocolFeeRateCall {}).await, rate);
    }
}

async fn a_report_keeps_the_protocol_fee_rate_of_its_submission(w: &TestNetwork) {
    let first = draft(w).await;
    w.submit(&first).await;
    w.set(RATE, 250).await;
    w.submit(&first.following(&usages())).await;
    w.update(w.at.reports, updateProtocolFeeRateCall {}).await;
    w.submit(&first.following(&[]).following(&usages())).await;
    for (index, rate) in [(0, 100), (1, 100), (2, 250)] {
        assert_eq!(w.report(100, index).await.protocolFeeRate, rate);
    }
}

async fn the_domain_names_contract_and_chain(w: &TestNetwork) {
    let at = w.at.reports;
    let domain = w.read(at, eip712DomainCall {}).await;
    assert_eq!(domain.fields_, FixedBytes([0x0f]));
    assert_eq!((domain.name_.as_str(), domain.version_.as_str()), ("PayerReportManager", "1"));
    assert_eq!((domain.chainId_, domain.verifyingContract_), (U256::from(CHAIN_ID), at));
    assert_eq!((domain.salt_, domain.extensions_.len()), (B256::ZERO, 0));

    let constants = vectors("constants");
    let types = constants["type_strings"].as_object().unwrap();
    let report_type = types.iter().find(|(text, _)| text.starts_with("PayerReport(")).unwrap();
    let expected: B256 = report_type.1.as_str().unwrap().parse().unwrap();
    assert_eq!(w.read(at, PAYER_REPORT_TYPEHASHCall {}).await, expected);
    assert_ne!(w.read(at, DOMAIN_SEPARATORCall {}).await, B256::ZERO);
    let name = w.read(at, PayerReportManager::contractNameCall {}).await;
    assert_eq!(name, domain.name_);
}
