//! Nodes, and the reports that they sign.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolValue as _;
use hawser_chain::contracts::payer_report_manager::PayerReportManager::{
    PayerReportSignature, PayerReportSubmitted, getPayerReportDigestCall, settleCall, submitCall,
};
use hawser_chain::contracts::{NodeRegistry, PayerReportManager};

use super::actors::{Actor, Caller as _, admin, anyone, owner, payer, signer};
use super::merkle::Tree;
use super::money::u96;
use super::network::TestNetwork;
use super::tx::{Receipt, Tx};

/// The usage of one payer in a report, in picodollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) payer: Address,
    pub(crate) picodollars: u128,
}

impl Usage {
    pub(crate) fn new(payer: &Actor, microdollars: u128) -> Self {
        Self { payer: payer.address(), picodollars: microdollars * 1_000_000 }
    }

    pub(crate) fn leaf(self) -> Bytes {
        (self.payer, u96(self.picodollars)).abi_encode().into()
    }
}

/// A report before it is submitted.
#[derive(Debug, Clone)]
pub(crate) struct ReportDraft {
    pub(crate) originator: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) minute: u32,
    pub(crate) leaves: Vec<Bytes>,
    pub(crate) node_ids: Vec<u32>,
}

impl ReportDraft {
    /// The first report of an originator.
    pub(crate) fn new(originator: u32, usages: &[Usage], node_ids: &[u32]) -> Self {
        let leaves = usages.iter().map(|usage| usage.leaf()).collect();
        let node_ids = node_ids.to_vec();
        Self { originator, start: 0, end: 10, minute: 29_000_000, leaves, node_ids }
    }

    /// Returns the report that follows this one.
    pub(crate) fn following(&self, usages: &[Usage]) -> Self {
        let leaves = usages.iter().map(|usage| usage.leaf()).collect();
        Self { start: self.end, end: self.end + 10, leaves, ..self.clone() }
    }

    pub(crate) fn root(&self) -> B256 {
        Tree::new(&self.leaves).root()
    }

    /// The submission with these signatures.
    pub(crate) fn submission(&self, signatures: Vec<PayerReportSignature>) -> submitCall {
        submitCall {
            originatorNodeId_: self.originator,
            startSequenceId_: self.start,
            endSequenceId_: self.end,
            endMinuteSinceEpoch_: self.minute,
            payersMerkleRoot_: self.root(),
            nodeIds_: self.node_ids.clone(),
            signatures_: signatures,
        }
    }

    /// The settlement of some of the leaves.
    pub(crate) fn settlement(&self, index: u64, range: std::ops::Range<usize>) -> settleCall {
        settleCall {
            originatorNodeId_: self.originator,
            payerReportIndex_: U256::from(index),
            proofElements_: Tree::new(&self.leaves).proof(range.clone()),
            payerFees_: self.leaves[range].to_vec(),
        }
    }
}

/// A signature as the contract takes it: v is 27 or 28.
pub(crate) fn signature(node_id: u32, key: &Actor, digest: B256) -> PayerReportSignature {
    let signature = key.sign(digest).as_bytes().to_vec().into();
    PayerReportSignature { nodeId: node_id, signature }
}

impl TestNetwork {
    /// Registers the next node, with its own owner and key.
    pub(crate) async fn add_node(&self, node_id: u32) -> Receipt {
        let call = NodeRegistry::addNodeCall {
            owner_: owner(node_id).address(),
            signingPublicKey_: signer(node_id).public_key(),
            httpAddress_: format!("https://node{node_id}.example"),
        };
        self.send(admin().calls(self.at.nodes, call)).await
    }

    /// Registers a number of nodes and makes them canonical.
    pub(crate) async fn add_canonical_nodes(&self, count: u32) -> Vec<u32> {
        let node_ids: Vec<u32> = (1..=count).map(|number| number * 100).collect();
        for node_id in &node_ids {
            self.add_node(*node_id).await;
            let call = NodeRegistry::addToNetworkCall { nodeId_: *node_id };
            self.send(admin().calls(self.at.nodes, call)).await;
        }
        node_ids
    }

    /// Returns the report id, the digest that nodes sign.
    pub(crate) async fn report_id(&self, draft: &ReportDraft) -> B256 {
        let call = getPayerReportDigestCall {
            originatorNodeId_: draft.originator,
            startSequenceId_: draft.start,
            endSequenceId_: draft.end,
            endMinuteSinceEpoch_: draft.minute,
            payersMerkleRoot_: draft.root(),
            nodeIds_: draft.node_ids.clone(),
        };
        self.read(self.at.reports, call).await
    }

    /// Signatures of these nodes.
    pub(crate) async fn signatures(
        &self,
        draft: &ReportDraft,
        node_ids: &[u32],
    ) -> Vec<PayerReportSignature> {
        let digest = self.report_id(draft).await;
        node_ids.iter().map(|id| signature(*id, &signer(*id), digest)).collect()
    }

    /// The submission of a report that all its nodes have signed.
    pub(crate) async fn submission(&self, draft: &ReportDraft) -> Tx {
        let signatures = self.signatures(draft, &draft.node_ids).await;
        anyone().calls(self.at.reports, draft.submission(signatures))
    }

    /// Submits a report that all its nodes have signed, and returns its index.
    pub(crate) async fn submit(&self, draft: &ReportDraft) -> u64 {
        let receipt = self.send(self.submission(draft).await).await;
        receipt.event::<PayerReportSubmitted>(self.at.reports).payerReportIndex.to()
    }

    /// Submits a report and settles all its leaves.
    pub(crate) async fn submit_and_settle(&self, draft: &ReportDraft) -> u64 {
        let index = self.submit(draft).await;
        let settlement = draft.settlement(index, 0..draft.leaves.len());
        self.send(anyone().calls(self.at.reports, settlement)).await;
        index
    }

    /// Submits and settles a report by three nodes on one payer with a deposit.
    pub(crate) async fn settled_report(&self, microdollars: u128) -> ReportDraft {
        let node_ids = self.add_canonical_nodes(3).await;
        self.deposit(&payer(1), microdollars.max(super::network::MINIMUM_DEPOSIT)).await;
        let draft = ReportDraft::new(100, &[Usage::new(&payer(1), microdollars)], &node_ids);
        self.submit_and_settle(&draft).await;
        draft
    }

    /// The record of a report.
    pub(crate) async fn report(
        &self,
        originator: u32,
        index: u64,
    ) -> hawser_chain::contracts::payer_report_manager::IPayerReportManager::PayerReport {
        let call = PayerReportManager::getPayerReportCall {
            originatorNodeId_: originator,
            payerReportIndex_: U256::from(index),
        };
        self.read(self.at.reports, call).await
    }
}
