//! Golden vectors that no other module uses, checked on contracts on a chain.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol;
use alloy::sol_types::SolValue as _;
use hawser_chain::contracts::Factory::computeProxyAddressCall;
use hawser_chain::contracts::PayerRegistry::UsageSettled;
use hawser_chain::contracts::PayerReportManager::{DOMAIN_SEPARATORCall, getPayerReportDigestCall};
use hawser_chain::contracts::{
    DistributionManager, NodeRegistry, PayerRegistry, PayerReportManager, RateRegistry,
};
use serde_json::Value;

use crate::harness::actors::{Caller as _, anyone, deployer};
use crate::harness::cases::on_both_chains;
use crate::harness::merkle::Tree;
use crate::harness::network::TestNetwork;
use crate::harness::report::{ReportDraft, Usage};
use crate::harness::test_chain::{TestChain, init_code};
use crate::harness::tx::{ExpectedRevert, Tx};
use crate::harness::vectors::{byte_strings, field, list, scalars, vectors};

on_both_chains! {
    hashes_of_trees_are_those_of_the_vectors
    ranges_of_trees_are_proven_as_in_the_vectors
    proofs_are_rejected_as_in_the_vectors
    all_ranges_of_small_trees_are_proven
    report_ids_are_those_of_the_vectors
    usage_is_settled_as_in_the_vectors
    parameters_are_bounded_as_in_the_vectors
    aliases_are_those_of_the_vectors
    proxies_are_salted_as_in_the_vectors
}

sol!(
    #![sol(extra_derives(Debug))]
    MerkleHarness,
    "../contracts/artifacts/MerkleHarness.json"
);
sol!(AliasHarness, "../contracts/artifacts/AliasHarness.json");

async fn library(w: &TestNetwork, name: &'static str) -> Address {
    w.create(deployer().address(), name, []).await
}

async fn hashes_of_trees_are_those_of_the_vectors(w: &TestNetwork) {
    let at = library(w, "MerkleHarness").await;
    let vectors = &vectors("merkle")["primitives"];
    for case in list(vectors, "leaf") {
        let leaf_ = Bytes::copy_from_slice(case["in_utf8"].as_str().unwrap().as_bytes());
        let hash = w.read(at, MerkleHarness::hashLeafCall { leaf_ }).await;
        assert_eq!(hash, field::<B256>(case, "out"));
    }
    for case in list(vectors, "pair") {
        let (left_, right_) = (field(case, "left"), field(case, "right"));
        let hash = w.read(at, MerkleHarness::hashPairCall { left_, right_ }).await;
        assert_eq!(hash, field::<B256>(case, "out"));
    }
    for case in list(vectors, "pairless") {
        let hash = w.read(at, MerkleHarness::hashAloneCall { left_: field(case, "in") }).await;
        assert_eq!(hash, field::<B256>(case, "out"));
    }
    for case in list(vectors, "root") {
        let (leafCount_, subRoot_) = (field(case, "leaf_count"), field(case, "subroot"));
        let hash = w.read(at, MerkleHarness::hashRootCall { leafCount_, subRoot_ }).await;
        assert_eq!(hash, field::<B256>(case, "out"));
    }
}

fn verification(at: Address, root_: B256, start: u64, leaves_: &[Bytes], proof: Vec<B256>) -> Tx {
    let (leaves_, proof_) = (leaves_.to_vec(), proof);
    let start_ = U256::from(start);
    anyone().calls(at, MerkleHarness::verifyCall { root_, start_, leaves_, proof_ })
}

/// Asserts the result of the deployed contract.
async fn expect(w: &TestNetwork, tx: Tx, expected: &str) {
    match expected {
        "ok" => drop(w.answer_to(tx).await),
        "Panic(0x32)" => w.refuse(tx, alloy::sol_types::Panic::from(0x32)).await,
        error => w.refuse(tx, ExpectedRevert::named(error)).await,
    }
}

async fn ranges_of_trees_are_proven_as_in_the_vectors(w: &TestNetwork) {
    let at = library(w, "MerkleHarness").await;
    let vectors = vectors("merkle");
    for tree in list(&vectors, "trees") {
        let leaves = leaves_of(tree);
        let root: B256 = field(tree, "root");
        assert_eq!(Tree::new(&leaves).root(), root);
        for case in list(tree, "proofs") {
            let (start, count): (usize, usize) = (field(case, "start"), field(case, "count"));
            let range = start..start + count;
            let proof: Vec<B256> = scalars(case, "proof_elements");
            let expected = case["on_chain"].as_str().unwrap();
            if expected == "ok" && count > 0 {
                assert_eq!(Tree::new(&leaves).proof(range.clone()), proof);
            }
            expect(w, verification(at, root, start as u64, &leaves[range], proof), expected).await;
        }
    }
    for case in list(&vectors, "known_samples") {
        let (start, count): (usize, usize) = (field(case, "start"), field(case, "count"));
        let leaves = byte_strings(case, "leaves");
        let proof = scalars(case, "proof_elements");
        let root = field(case, "root");
        let leaves = &leaves[start..start + count];
        expect(w, verification(at, root, start as u64, leaves, proof), "ok").await;
    }
}

/// Returns the leaves of a tree. Vectors list them if they are few, and give a rule else.
fn leaves_of(tree: &Value) -> Vec<Bytes> {
    if tree["leaves"].is_array() {
        return byte_strings(tree, "leaves");
    }
    let count: u64 = field(tree, "leaf_count");
    let leaf = |index| keccak256(format!("xmtp vector leaf {index}")).to_vec().into();
    (0..count).map(leaf).collect()
}

async fn proofs_are_rejected_as_in_the_vectors(w: &TestNetwork) {
    let at = library(w, "MerkleHarness").await;
    for case in list(&vectors("merkle"), "rejections") {
        let leaves = byte_strings(case, "leaves");
        let proof = scalars(case, "proof_elements");
        let tx = verification(at, field(case, "root"), field(case, "start"), &leaves, proof);
        expect(w, tx, case["on_chain"].as_str().unwrap()).await;
    }
}

async fn all_ranges_of_small_trees_are_proven(w: &TestNetwork) {
    let at = library(w, "MerkleHarness").await;
    for count in 1..=9_usize {
        let leaves: Vec<Bytes> = (0..count).map(|index| vec![7; index].into()).collect();
        let tree = Tree::new(&leaves);
        for start in 0..count {
            for end in start + 1..=count {
                let proof = tree.proof(start..end);
                let tx = verification(at, tree.root(), start as u64, &leaves[start..end], proof);
                expect(w, tx, "ok").await;
            }
        }
    }
}

/// A chain of this id with a report manager at this address.
async fn chain_with_manager(w: &TestNetwork, chain_id: u64, manager: Address) -> TestChain {
    let net = TestChain::start(w.kind, chain_id).await;
    let from = anyone().address();
    let arguments = w.at.arguments("PayerReportManager");
    let implementation = net.create(from, "PayerReportManager", arguments).await;
    // Code alone is copied: the flag that locks the implementation is in its state.
    net.set_code(manager, &net.code(implementation).await).await;
    net.name(manager, "PayerReportManager");
    let initialise = w.at.initialisation("PayerReportManager");
    net.send(Tx::raw(from, manager, initialise)).await;
    net
}

async fn report_ids_are_those_of_the_vectors(w: &TestNetwork) {
    let vectors = vectors("payer_report_digest");
    for case in list(&vectors, "cases") {
        let manager = field(case, "verifying_contract");
        let net = chain_with_manager(w, field(case, "chain_id"), manager).await;
        let domain: B256 = field(case, "domain_separator");
        assert_eq!(net.read(manager, DOMAIN_SEPARATORCall {}).await, domain);
        let id = net.read(manager, digest_call(case, scalars(case, "node_ids"))).await;
        assert_eq!(id, field::<B256>(case, "digest"), "{}", case["name"]);
        assert_ne!(id, field::<B256>(case, "not_this_standard_eip712_digest"));
    }
    let off_chain = &vectors["off_chain_report_ids"];
    let manager = field(off_chain, "verifying_contract");
    let net = chain_with_manager(w, field(off_chain, "chain_id"), manager).await;
    for case in list(off_chain, "cases") {
        let call = digest_call(off_chain, scalars(case, "node_ids_hashed"));
        assert_eq!(net.read(manager, call).await, field::<B256>(case, "report_id"));
    }
}

fn digest_call(case: &Value, nodeIds_: Vec<u32>) -> getPayerReportDigestCall {
    getPayerReportDigestCall {
        originatorNodeId_: field(case, "originator_node_id"),
        startSequenceId_: field(case, "start_sequence_id"),
        endSequenceId_: field(case, "end_sequence_id"),
        endMinuteSinceEpoch_: field(case, "end_minute_since_epoch"),
        payersMerkleRoot_: field(case, "payers_merkle_root"),
        nodeIds_,
    }
}

async fn usage_is_settled_as_in_the_vectors(w: &TestNetwork) {
    let node_ids = w.add_canonical_nodes(1).await;
    let vectors = vectors("payer_leaves");
    for (originator, map) in (1..).zip(list(&vectors, "maps")) {
        let payers = list(map, "payers");
        let draft = ReportDraft {
            leaves: leaves_of_map(payers),
            ..ReportDraft::new(originator, &[], &node_ids)
        };
        assert_eq!(draft.root(), field::<B256>(map, "root"));
        w.submit(&draft).await;
        if payers.is_empty() {
            assert!(w.report(originator, 0).await.isSettled, "{map}");
            continue;
        }
        let all = draft.settlement(0, 0..payers.len());
        let receipt = w.send(anyone().calls(w.at.reports, all)).await;
        let fees: Vec<u128> = receipt
            .events::<UsageSettled>(w.at.payers)
            .into_iter()
            .map(|event| event.amount.to())
            .collect();
        let expected: Vec<u128> =
            payers.iter().map(|payer| field(payer, "microdollars_settled")).collect();
        assert_eq!(fees, expected);
        let total: u128 = field(map, "total_microdollars_settled");
        assert_eq!(w.report(originator, 0).await.feesSettled.to::<u128>(), total);
    }
    let roundings: Vec<Usage> = list(&vectors, "rounding")
        .iter()
        .map(|case| Usage { payer: anyone().address(), picodollars: field(case, "picodollars") })
        .collect();
    let draft = ReportDraft::new(100, &roundings, &node_ids);
    w.submit(&draft).await;
    let all = draft.settlement(0, 0..roundings.len());
    let receipt = w.send(anyone().calls(w.at.reports, all)).await;
    for (event, case) in
        receipt.events::<UsageSettled>(w.at.payers).iter().zip(list(&vectors, "rounding"))
    {
        assert_eq!(event.amount.to::<u128>(), field::<u128>(case, "microdollars"));
    }
}

fn leaves_of_map(payers: &[Value]) -> Vec<Bytes> {
    let leaf = |payer: &Value| {
        let usage =
            Usage { payer: field(payer, "address"), picodollars: field(payer, "picodollars") };
        assert_eq!(usage.leaf(), field::<Bytes>(payer, "leaf"));
        usage.leaf()
    };
    payers.iter().map(leaf).collect()
}

/// A parameter of this type, and the function that reads it.
fn parameter_of(w: &TestNetwork, kind: &str) -> (&'static str, Tx) {
    let (by, at) = (anyone(), w.at);
    match kind {
        "address" => (
            "xmtp.distributionManager.protocolFeesRecipient",
            by.calls(at.distribution, DistributionManager::updateProtocolFeesRecipientCall {}),
        ),
        "bool" => (
            "xmtp.payerRegistry.paused",
            by.calls(at.payers, PayerRegistry::updatePauseStatusCall {}),
        ),
        "uint8" => (
            "xmtp.nodeRegistry.maxCanonicalNodes",
            by.calls(at.nodes, NodeRegistry::updateMaxCanonicalNodesCall {}),
        ),
        "uint16" => (
            "xmtp.payerReportManager.protocolFeeRate",
            by.calls(at.reports, PayerReportManager::updateProtocolFeeRateCall {}),
        ),
        "uint32" => (
            "xmtp.payerRegistry.withdrawLockPeriod",
            by.calls(at.payers, PayerRegistry::updateWithdrawLockPeriodCall {}),
        ),
        "uint64" => {
            ("xmtp.rateRegistry.messageFee", by.calls(at.rates, RateRegistry::updateRatesCall {}))
        }
        "uint96" => (
            "xmtp.payerRegistry.minimumDeposit",
            by.calls(at.payers, PayerRegistry::updateMinimumDepositCall {}),
        ),
        other => panic!("no parameter has the type {other}"),
    }
}

async fn parameters_are_bounded_as_in_the_vectors(w: &TestNetwork) {
    for case in list(&vectors("parameter_keys"), "values") {
        let (key, tx) = parameter_of(w, case["type"].as_str().unwrap());
        w.set(key, U256::from_be_bytes(field::<B256>(case, "bytes32").0)).await;
        if let Some(error) = case["error"].as_str() {
            w.refuse(tx, ExpectedRevert::named(error)).await;
        } else if let Err(refused) = w.try_send(tx).await {
            // The value was set before, or is of the type and outside of the bounds of this parameter.
            let own = [
                "NoChange",
                "InvalidProtocolFeeRate",
                "WithdrawLockPeriodTooHigh",
                "ZeroMinimumDeposit",
            ];
            assert!(refused.name().is_some_and(|name| own.contains(&name)), "{case}");
        }
    }
}

async fn aliases_are_those_of_the_vectors(w: &TestNetwork) {
    let at = library(w, "AliasHarness").await;
    for case in list(&vectors("addresses"), "alias") {
        let call = AliasHarness::toAliasCall { account_: field(case, "account") };
        assert_eq!(w.read(at, call).await, field::<Address>(case, "alias"));
    }
}

async fn proxies_are_salted_as_in_the_vectors(w: &TestNetwork) {
    let vectors = vectors("addresses");
    let code = keccak256(init_code("Proxy", w.at.factory.create(1).abi_encode()));
    for case in list(&vectors["proxy_salt"], "cases") {
        let (caller_, salt_) = (field(case, "caller"), field::<B256>(case, "salt"));
        let text = case["salt_text"].as_str().unwrap().as_bytes();
        assert_eq!(salt_, B256::right_padding_from(text));
        let place = w.read(w.at.factory, computeProxyAddressCall { caller_, salt_ }).await;
        let salt: B256 = field(case, "create2_salt");
        assert_eq!(place, w.at.factory.create2(salt, code));
    }
    let example = &vectors["create2_example"];
    let factory: Address = field(example, "factory");
    let (salt, code): (B256, B256) = (field(example, "salt"), field(example, "init_code_hash"));
    assert_eq!(factory.create2(salt, code), field::<Address>(example, "address"));
}
