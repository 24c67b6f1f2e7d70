//! The report manager, second half: how accepted reports are settled.

use alloy::primitives::{B256, Bytes, U256};
use alloy::sol_types::{Panic, SolEvent as _};
use hawser_chain::contracts::PayerRegistry;
use hawser_chain::contracts::PayerRegistry::UsageSettled;
use hawser_chain::contracts::PayerReportManager::{
    InvalidBitCount32Input, InvalidProof, NoLeaves, NoProofElements, PayerReportEntirelySettled,
    PayerReportIndexOutOfBounds, PayerReportSubsetSettled, settleCall,
};

use crate::harness::actors::{Caller as _, actor, anyone, payer};
use crate::harness::cases::on_both_chains;
use crate::harness::money::u96;
use crate::harness::network::TestNetwork;
use crate::harness::report::{ReportDraft, Usage};
use crate::harness::tx::{ExpectedRevert, Receipt, Tx};

on_both_chains! {
    a_report_is_settled_in_parts_of_any_size
    fees_are_rounded_up_leaf_by_leaf
    usage_is_logged_before_its_settlement
    nothing_is_settled_twice
    leaves_are_settled_in_order_without_gaps
    proofs_must_hold
    a_payer_may_occur_twice
    leaves_are_read_by_their_first_words
    errors_of_the_payer_registry_come_through
    unknown_reports_are_not_settled
}

/// Submits a report on a number of payers, who used 1, 2, 3, … microdollars.
async fn submitted(w: &TestNetwork, payers: u128) -> ReportDraft {
    let usages: Vec<Usage> =
        (1..=payers).map(|n| Usage::new(&payer(usize::try_from(n).unwrap()), n)).collect();
    submitted_with(w, &usages).await
}

async fn submitted_with(w: &TestNetwork, usages: &[Usage]) -> ReportDraft {
    let node_ids = w.add_canonical_nodes(1).await;
    let draft = ReportDraft::new(100, usages, &node_ids);
    w.submit(&draft).await;
    draft
}

fn settle(w: &TestNetwork, call: settleCall) -> Tx {
    anyone().calls(w.at.reports, call)
}

/// Returns the settled leaves, the remaining leaves, and the settled amount.
fn settled(receipt: &Receipt, w: &TestNetwork) -> (u32, u32, u128) {
    let it = receipt.event::<PayerReportSubsetSettled>(w.at.reports);
    assert_eq!((it.originatorNodeId, it.payerReportIndex), (100, U256::ZERO));
    (it.count, it.remaining, it.feesSettled.to())
}

async fn a_report_is_settled_in_parts_of_any_size(w: &TestNetwork) {
    let draft = submitted(w, 7).await;
    let mut settled_count = 0;
    let mut total = 0;
    for (range, remaining, fees) in [(0..1, 6, 1), (1..5, 2, 14), (5..7, 0, 13)] {
        let count = u32::try_from(range.len()).unwrap();
        let receipt = w.send(settle(w, draft.settlement(0, range))).await;
        assert_eq!(settled(&receipt, w), (count, remaining, fees));
        settled_count += count;
        total += fees;
        let report = w.report(100, 0).await;
        assert_eq!(report.offset, settled_count);
        assert_eq!(report.feesSettled.to::<u128>(), total);
        assert_eq!(report.isSettled, remaining == 0);
    }
    for number in 1..=7 {
        assert_eq!(w.balance(&payer(number)).await, -i128::try_from(number).unwrap());
    }
}

async fn fees_are_rounded_up_leaf_by_leaf(w: &TestNetwork) {
    let usages = [1, 999_999, 1_000_000, 1_000_001]
        .map(|picodollars| Usage { payer: payer(1).address(), picodollars });
    let draft = submitted_with(w, &usages).await;
    let receipt = w.send(settle(w, draft.settlement(0, 0..4))).await;
    let fees: Vec<u128> = receipt
        .events::<UsageSettled>(w.at.payers)
        .into_iter()
        .map(|event| event.amount.to())
        .collect();
    assert_eq!(fees, [1, 1, 1, 2]);
    assert_eq!(settled(&receipt, w), (4, 0, 5));
}

async fn usage_is_logged_before_its_settlement(w: &TestNetwork) {
    let draft = submitted(w, 2).await;
    let receipt = w.send(settle(w, draft.settlement(0, 0..2))).await;
    let usage = UsageSettled::SIGNATURE_HASH;
    assert_eq!(receipt.log_kinds(), [usage, usage, PayerReportSubsetSettled::SIGNATURE_HASH]);
    // Under the report's id, which is what the nodes have signed.
    let id = w.report_id(&draft).await;
    let expected = [1, 2].map(|number| UsageSettled {
        payerReportId: id,
        payer: payer(number).address(),
        amount: u96(number as u128),
    });
    assert_eq!(receipt.events::<UsageSettled>(w.at.payers), expected);
}

async fn nothing_is_settled_twice(w: &TestNetwork) {
    let draft = submitted(w, 2).await;
    let first = settle(w, draft.settlement(0, 0..1));
    w.send(first.clone()).await;
    w.refuse(first.clone(), InvalidProof {}).await;
    w.send(settle(w, draft.settlement(0, 1..2))).await;
    w.refuse(first, PayerReportEntirelySettled {}).await;
    let empty = ReportDraft { leaves: vec![], ..draft.following(&[]) };
    let index = w.submit(&empty).await;
    let nothing = settleCall { payerReportIndex_: U256::from(index), ..draft.settlement(0, 0..1) };
    w.refuse(settle(w, nothing), PayerReportEntirelySettled {}).await;
}

async fn leaves_are_settled_in_order_without_gaps(w: &TestNetwork) {
    let draft = submitted(w, 6).await;
    // The place of the leaves is what the report says, not what the proof was made for.
    for range in [1..2, 1..6, 5..6] {
        let refused = w.try_send(settle(w, draft.settlement(0, range))).await.unwrap_err();
        let name = refused.name();
        assert!(name == Some("InvalidProof") || name == Some("Panic"), "{refused}");
    }
    w.send(settle(w, draft.settlement(0, 0..2))).await;
    w.refuse(settle(w, draft.settlement(0, 0..2)), InvalidProof {}).await;
    w.send(settle(w, draft.settlement(0, 2..6))).await;
}

async fn proofs_must_hold(w: &TestNetwork) {
    let draft = submitted(w, 5).await;
    let good = draft.settlement(0, 0..2);
    let proof = |elements: &[B256]| {
        settle(w, settleCall { proofElements_: elements.to_vec(), ..good.clone() })
    };
    let leaves = |leaves: &[Bytes], elements: &[B256]| {
        let (payerFees_, proofElements_) = (leaves.to_vec(), elements.to_vec());
        settle(w, settleCall { payerFees_, proofElements_, ..good.clone() })
    };
    let elements = &good.proofElements_;
    let count = |count: u64| B256::from(U256::from(count));
    let changed = Usage { payer: payer(1).address(), picodollars: 0 }.leaf();
    let one_changed = [changed, draft.leaves[1].clone()];
    let swapped = [draft.leaves[1].clone(), draft.leaves[0].clone()];
    w.refuse_all([
        (proof(&[]), NoProofElements {}.into()),
        (leaves(&[], &[]), NoProofElements {}.into()),
        (leaves(&[], elements), NoLeaves {}.into()),
        (leaves(&[], &[B256::ZERO]), InvalidProof {}.into()),
        (proof(&[count(1)]), InvalidProof {}.into()),
        (proof(&[count(1 << 32)]), InvalidBitCount32Input {}.into()),
        (proof(&elements[..1]), Panic::from(0x32).into()),
        (proof(&[&[count(4)], &elements[1..]].concat()), InvalidProof {}.into()),
        (leaves(&one_changed, elements), InvalidProof {}.into()),
        (leaves(&swapped, elements), InvalidProof {}.into()),
    ])
    .await;
    // Surplus elements are ignored.
    w.send(proof(&[elements, &[B256::ZERO][..]].concat())).await;
}

async fn a_payer_may_occur_twice(w: &TestNetwork) {
    let draft = submitted_with(w, &[Usage::new(&payer(1), 3), Usage::new(&payer(1), 4)]).await;
    w.send(settle(w, draft.settlement(0, 0..2))).await;
    assert_eq!(w.balance(&payer(1)).await, -7);
}

async fn leaves_are_read_by_their_first_words(w: &TestNetwork) {
    let usage = Usage::new(&payer(1), 3);
    let long: Bytes = [&usage.leaf(), &[0xff; 7][..]].concat().into();
    let no_address = [&[1], &usage.leaf()[1..]].concat().into();
    let no_amount = [&usage.leaf()[..32], &[1], &usage.leaf()[33..]].concat().into();
    let short = usage.leaf().slice(..63);
    let node_ids = w.add_canonical_nodes(1).await;
    for (originator, leaf) in (1..).zip([no_address, no_amount, short, Bytes::new()]) {
        let draft =
            ReportDraft { leaves: vec![leaf], ..ReportDraft::new(originator, &[], &node_ids) };
        w.submit(&draft).await;
        w.refuse(settle(w, draft.settlement(0, 0..1)), ExpectedRevert::silent()).await;
    }
    let draft = ReportDraft { leaves: vec![long], ..ReportDraft::new(100, &[], &node_ids) };
    w.submit(&draft).await;
    let receipt = w.send(settle(w, draft.settlement(0, 0..1))).await;
    assert_eq!(settled(&receipt, w), (1, 0, 3));
}

async fn errors_of_the_payer_registry_come_through(w: &TestNetwork) {
    let draft = submitted(w, 1).await;
    let tx = settle(w, draft.settlement(0, 0..1));
    w.set("xmtp.payerRegistry.paused", 1).await;
    w.update(w.at.payers, PayerRegistry::updatePauseStatusCall {}).await;
    w.refuse(tx.clone(), PayerRegistry::Paused {}).await;
    w.set("xmtp.payerRegistry.settler", actor("another").address()).await;
    w.update(w.at.payers, PayerRegistry::updateSettlerCall {}).await;
    w.refuse(tx, PayerRegistry::NotSettler {}).await;
    // The reverted call settled nothing.
    assert_eq!(w.report(100, 0).await.offset, 0);
}

async fn unknown_reports_are_not_settled(w: &TestNetwork) {
    let draft = submitted(w, 1).await;
    let other = ReportDraft { originator: 200, ..draft.clone() };
    w.refuse_all([
        (settle(w, draft.settlement(1, 0..1)), PayerReportIndexOutOfBounds {}.into()),
        (settle(w, other.settlement(0, 0..1)), PayerReportIndexOutOfBounds {}.into()),
    ])
    .await;
}
