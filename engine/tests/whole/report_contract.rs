//! The contract of payer reports, in memory: it judges as the real one does, and writes down its events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_engine::runtime::{ContractError, GasUsed, ReportContract, Submitted};
use hawser_proto::{Address, OriginatorId, PayerAddress, SecretKey, SequenceId};
use hawser_rules::payer_report::leaves::LEAF_LEN_BYTES;
use hawser_rules::payer_report::{
    Attestation, ContractReport, DomainSeparator, LeafProof, PayerFee, PayerReport, PicoDollars,
    SettledAmount,
};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{PayerReportChange, PayerReportEvent};
use parking_lot::Mutex;

use crate::payer_money::PayerMoney;

/// The nodes of the network at its beginning.
pub const NODES: [u32; 3] = [100, 200, 300];
/// A node that may join later.
pub const JOINER: u32 = 400;

pub fn domain() -> DomainSeparator {
    DomainSeparator::of_contract(31337, [0x55; 20])
}

pub fn key(node: u32) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
}

/// The nodes that have ever been in the network, each with true while it is.
#[derive(Clone)]
pub struct Membership {
    nodes: BTreeMap<u32, bool>,
    /// Members whose record no node can use, such as one without a valid key.
    unusable: BTreeSet<u32>,
}

impl Default for Membership {
    fn default() -> Self {
        Self { nodes: NODES.map(|node| (node, true)).into(), unusable: BTreeSet::new() }
    }
}

impl Membership {
    pub fn set(&mut self, node: u32, is_member: bool) {
        self.nodes.insert(node, is_member);
    }

    /// Makes a node a member whose record no node can use.
    pub fn set_unusable(&mut self, node: u32) {
        self.nodes.remove(&node);
        self.unusable.insert(node);
    }

    /// The present members, in their order.
    pub fn members(&self) -> Vec<u32> {
        let usable = self.nodes.iter().filter(|(_, is_member)| **is_member).map(|(node, _)| *node);
        let members: BTreeSet<u32> = usable.chain(self.unusable.iter().copied()).collect();
        members.into_iter().collect()
    }

    pub fn registry(&self) -> Registry {
        let record = |(node, canonical): (&u32, &bool)| NodeRecord {
            id: OriginatorId(*node),
            public_key: key(*node).public_key(),
            owner: key(*node).public_key().address(),
            http_address: Some("http://127.0.0.1:5050".into()),
            quic_address: None,
            canonical: *canonical,
        };
        let unusable = self.unusable.iter().map(|node| (OriginatorId(*node), true));
        self.nodes.iter().map(record).collect::<Registry>().with_unusable(unusable)
    }
}

/// A report of the contract, with the amounts that were settled.
#[derive(Clone)]
pub struct Kept {
    pub report: PayerReport,
    pub offset: u64,
    pub is_settled: bool,
}

/// The contract: judges as the real one, and writes down its events.
#[derive(Default)]
pub struct Chain {
    kept: BTreeMap<u32, Vec<Kept>>,
    pub events: Vec<PayerReportEvent>,
    pub taken_from: BTreeMap<PayerAddress, SettledAmount>,
    /// The contract of payers' money, from which it takes the amounts that it settles.
    pub money: PayerMoney,
    /// Settlements that it was asked for.
    pub asked_to_settle: usize,
    /// Settlements that still succeed before the connection breaks; `None`: it never breaks.
    pub settles: Option<usize>,
    /// True if the answers to transactions come too late: the sender is told of an error although they are mined.
    pub loses_answers: bool,
    /// Leaves that a transaction has room for; `None` for any number.
    pub leaves_max: Option<usize>,
    /// The index of a report of which the contract shows another root than its events do.
    pub spoilt: Option<u64>,
    /// True if it says falsely that all reports are settled, as an endpoint that lies.
    pub says_settled: bool,
    /// The settled leaves of each report that it names falsely.
    pub says_offset: Option<u64>,
    /// The canonical network: a report has to list it as it is when the report is submitted.
    pub membership: Membership,
}

#[derive(Clone, Default)]
pub struct TestContract(pub Arc<Mutex<Chain>>);

fn refused<T>(why: &str) -> Result<T, ContractError> {
    Err(ContractError { text: why.to_owned(), may_be_too_large: false })
}

impl Chain {
    /// Returns the answer to a transaction that is mined, unless it comes too late.
    fn answer<T>(&self, answer: T) -> Result<T, ContractError> {
        if self.loses_answers { refused("no answer in time") } else { Ok(answer) }
    }

    fn note(&mut self, originator: OriginatorId, index: u64, change: PayerReportChange) {
        let block = self.events.len() as u64 + 1;
        self.events.push(PayerReportEvent { block, log_index: 0, originator, index, change });
    }

    fn submit(
        &mut self,
        report: &PayerReport,
        attestations: &[Attestation],
    ) -> Result<Submitted, ContractError> {
        let originator = report.originator();
        let kept = self.kept.entry(originator.0).or_default();
        if kept.last().is_some_and(|last| last.report == *report) {
            return Ok(Submitted::Before);
        }
        let last_end = kept.last().map_or(SequenceId::NONE, |last| last.report.end().sequence);
        if report.start() != last_end {
            return Ok(Submitted::Superseded);
        }
        if report.nodes().numbers() != self.membership.members() {
            return refused("NodeIdAtIndexMismatch");
        }
        if !attestations.windows(2).all(|two| two[0].node < two[1].node) {
            return refused("UnorderedNodeIds");
        }
        let registry = self.membership.registry();
        for attestation in attestations {
            let Some(record) = registry.member(attestation.node) else {
                return refused("ERC721NonexistentToken");
            };
            assert_eq!(attestation.report, report.id(domain()));
            attestation.verify(&record.public_key).unwrap();
        }
        if attestations.len() < report.nodes().majority() {
            return refused("InsufficientSignatures");
        }
        let index = kept.len() as u64;
        kept.push(Kept { report: report.clone(), offset: 0, is_settled: false });
        let change = PayerReportChange::Submitted {
            start: report.start(),
            end: report.end().sequence,
            end_minute: report.end().minute,
            root: report.root(),
            nodes: report.nodes().get().to_vec(),
        };
        self.note(originator, index, change);
        Ok(Submitted::Now)
    }

    fn settle(
        &mut self,
        originator: OriginatorId,
        index: u64,
        leaves: &[[u8; LEAF_LEN_BYTES]],
        proof: &LeafProof,
    ) -> Result<(), ContractError> {
        self.asked_to_settle += 1;
        match &mut self.settles {
            Some(0) => return refused("the connection is gone"),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.leaves_max.is_some_and(|max| leaves.len() > max) {
            let text = "exceeds block gas limit".to_owned();
            return Err(ContractError { text, may_be_too_large: true });
        }
        let place = usize::try_from(index).unwrap();
        let kept = &mut self.kept.get_mut(&originator.0).unwrap()[place];
        if kept.is_settled {
            return refused("PayerReportEntirelySettled");
        }
        if let Err(error) = proof.verify(kept.report.root(), kept.offset, leaves) {
            return refused(&format!("InvalidProof: {error}"));
        }
        kept.offset += leaves.len() as u64;
        let total = u64::from_be_bytes(proof.0[0][24..].try_into().unwrap());
        let left = total - kept.offset;
        kept.is_settled = left == 0;
        let (mut microdollars, mut fees) = (SettledAmount(0), Vec::new());
        for leaf in leaves {
            let PayerFee { payer, fee } = fee_of(leaf);
            self.taken_from.entry(payer).or_default().0 += fee.settled().0;
            microdollars = microdollars.plus(fee.settled());
            fees.push((payer, fee.settled().0));
        }
        self.money.settle(&fees);
        let count = leaves.len() as u64;
        let change = PayerReportChange::Settled { leaves: count, left, microdollars };
        self.note(originator, index, change);
        Ok(())
    }
}

/// Decodes a leaf: address and amount, each in one word.
fn fee_of(leaf: &[u8; LEAF_LEN_BYTES]) -> PayerFee {
    let (payer, amount) = leaf.split_at(32);
    assert!(payer[..12].iter().chain(&amount[..24]).all(|byte| *byte == 0), "it has one form");
    let payer = Address(payer[12..].try_into().unwrap());
    let amount = u64::from_be_bytes(amount[24..].try_into().unwrap());
    PayerFee { payer, fee: PicoDollars::new(amount).unwrap() }
}

impl ReportContract for TestContract {
    fn submit<'a>(
        &'a self,
        report: &'a PayerReport,
        attestations: &'a [Attestation],
    ) -> BoxFuture<'a, Result<Submitted, ContractError>> {
        async move {
            let mut chain = self.0.lock();
            let submitted = chain.submit(report, attestations)?;
            chain.answer(submitted)
        }
        .boxed()
    }

    fn held(
        &self,
        originator: OriginatorId,
        index: u64,
        known: ContractReport,
    ) -> BoxFuture<'_, Result<ContractReport, ContractError>> {
        async move {
            let chain = self.0.lock();
            let kept = chain.kept[&originator.0][usize::try_from(index).unwrap()].clone();
            let (start, end) = (kept.report.start(), kept.report.end().sequence);
            let (offset, is_settled) = (kept.offset, kept.is_settled || chain.says_settled);
            assert_eq!((known.start, known.end, known.root), (start, end, kept.report.root()));
            assert!(known.offset <= offset, "the events are not ahead");
            let offset = chain.says_offset.unwrap_or(offset);
            let root = match chain.spoilt == Some(index) {
                true => [9; 32],
                false => kept.report.root(),
            };
            Ok(ContractReport { start, end, root, offset, is_settled })
        }
        .boxed()
    }

    fn settle<'a>(
        &'a self,
        originator: OriginatorId,
        index: u64,
        leaves: &'a [[u8; LEAF_LEN_BYTES]],
        proof: &'a LeafProof,
    ) -> BoxFuture<'a, Result<GasUsed, ContractError>> {
        async move {
            let mut chain = self.0.lock();
            chain.settle(originator, index, leaves, proof)?;
            chain.answer(GasUsed(30_000 * leaves.len() as u64))
        }
        .boxed()
    }
}
