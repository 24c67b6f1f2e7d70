//! The distribution manager: the fee shares of nodes and of the protocol from settled reports.
//!
//! Each node that a report lists claims its share once, and so does the protocol. Claimed fees are owed until they are
//! withdrawn. The contract has no list of unclaimed reports, so all reports are read.

use std::collections::BTreeSet;

use alloy::primitives::{Address, U256};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hawser_proto::OriginatorId;

use super::onchain_reports::{ASKED_AT_ONCE, counted_reports, counts};
use super::{
    AdminError, Contract, MicroDollars, Network, PaymentToken, Plan, PlanStep, nodes, tokens,
};
use crate::contracts::{DistributionManager, PayerRegistry};

pub use super::onchain_reports::OnchainReport;

/// Reports claimed per transaction, which costs some 3 million gas. Guess.
const CLAIMED_AT_ONCE: usize = 50;
const MANAGER: Contract = Contract::DistributionManager;

/// The beneficiary of a claim or a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beneficiary {
    /// The owner of this node.
    Node(OriginatorId),
    /// The protocol's recipient. Any account may claim and withdraw for it.
    Protocol,
}

/// A report with the beneficiaries that have claimed their shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportClaims {
    /// The report.
    pub report: OnchainReport,
    /// The nodes that have claimed their share.
    pub nodes: BTreeSet<OriginatorId>,
    /// True if the protocol's share has been claimed.
    pub protocol: bool,
}

/// The fees owed to nodes and protocol, and the funds available to pay them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedFees {
    /// The owed fees of each node, by id.
    pub nodes: Vec<(OriginatorId, MicroDollars)>,
    /// The owed fees of the protocol.
    pub protocol: MicroDollars,
    /// The recipient of the protocol's fees; zero if none is set.
    pub protocol_recipient: Address,
    /// The manager's balance of fee tokens.
    pub available: MicroDollars,
    /// The payer registry's surplus of fee tokens, which any account may have sent to the manager.
    pub excess: MicroDollars,
}

/// Returns all reports about `originators`. An empty slice selects all nodes and the originators
/// migrated from the older network.
///
/// # Errors
/// Fails when a contract cannot be read.
pub async fn reports(
    network: &Network,
    originators: &[OriginatorId],
) -> Result<Vec<OnchainReport>, AdminError> {
    let originators = originators_or_all(network, originators).await?;
    let counts = counts(network, &originators).await?;
    counted_reports(network, &counts).await
}

/// Returns all reports about `originators` with their claims. An empty slice selects the same
/// originators as in [`reports`].
///
/// # Errors
/// Fails when a contract cannot be read.
pub async fn claims(
    network: &Network,
    originators: &[OriginatorId],
) -> Result<Vec<ReportClaims>, AdminError> {
    let reports = reports(network, originators).await?;
    let claims = reports.into_iter().map(|report| claims_of(network, report));
    stream::iter(claims).buffered(ASKED_AT_ONCE).try_collect().await
}

/// Returns the owed fees of all nodes and of the protocol.
///
/// # Errors
/// Fails when a contract cannot be read.
pub async fn owed(network: &Network) -> Result<OwedFees, AdminError> {
    let mut nodes = Vec::new();
    for node_id in registered(network).await? {
        nodes.push((node_id, owed_to(network, Beneficiary::Node(node_id)).await?));
    }
    let recipient = DistributionManager::protocolFeesRecipientCall {};
    let (available, excess) = funds(network).await?;
    Ok(OwedFees {
        nodes,
        protocol: owed_to(network, Beneficiary::Protocol).await?,
        protocol_recipient: network.view(MANAGER, &recipient).await?,
        available,
        excess,
    })
}

/// Plans to claim the beneficiary's share of all settled reports from which it has not claimed yet.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if a contract cannot be read.
pub async fn claim(
    network: &Network,
    whose: Beneficiary,
    originators: &[OriginatorId],
) -> Result<Plan, AdminError> {
    let owner = owner(network, whose).await?;
    let mut reports = reports(network, originators).await?;
    let seen = reports.len();
    reports.retain(|report| report.is_settled);
    let looks = reports.into_iter().map(|report| unclaimed(network, report, whose));
    let found: Vec<_> = stream::iter(looks).buffered(ASKED_AT_ONCE).try_collect().await?;
    let open: Vec<OnchainReport> = found.into_iter().flatten().collect();
    if open.is_empty() {
        return Ok(Plan::nothing(format!("nothing can be claimed: {seen} reports were looked at")));
    }
    let share = |report: &OnchainReport| match whose {
        Beneficiary::Node(_) => report.share_of_node().get(),
        Beneficiary::Protocol => report.share_of_protocol().get(),
    };
    let sum = open.iter().map(share).fold(0, u128::saturating_add);
    let mut steps = Vec::new();
    for some in open.chunks(CLAIMED_AT_ONCE) {
        steps.push(claim_step(network, whose, some)?);
    }
    let plan = Plan::of(steps).note(format!(
        "claims {} of {} reports",
        MicroDollars::of_token(U256::from(sum)),
        open.len()
    ));
    Ok(with_owner(plan, owner))
}

/// Plans to withdraw the fees owed to the beneficiary, up to the available funds; the rest stays owed.
///
/// `recipient` receives a node's fees. The protocol's fees go to the recipient that its parameter
/// names.
///
/// # Errors
/// [`AdminError::UnknownNode`], [`AdminError::OwnContract`], and an error if a contract cannot be read.
pub async fn withdraw(
    network: &Network,
    whose: Beneficiary,
    recipient: Address,
    token: PaymentToken,
) -> Result<Plan, AdminError> {
    use DistributionManager as Manager;
    if whose != Beneficiary::Protocol {
        network.refuse_contract(recipient)?;
    }
    let owner = owner(network, whose).await?;
    let step = match (whose, token) {
        (Beneficiary::Node(node_id), PaymentToken::FeeToken) => {
            let withdraw = Manager::withdrawCall { nodeId_: node_id.0, recipient_: recipient };
            network.step(MANAGER, &withdraw)?
        }
        (Beneficiary::Node(node_id), PaymentToken::Underlying) => {
            let withdraw =
                Manager::withdrawIntoUnderlyingCall { nodeId_: node_id.0, recipient_: recipient };
            network.step(MANAGER, &withdraw)?
        }
        (Beneficiary::Protocol, PaymentToken::FeeToken) => {
            network.step(MANAGER, &Manager::withdrawProtocolFeesCall {})?
        }
        (Beneficiary::Protocol, PaymentToken::Underlying) => {
            network.step(MANAGER, &Manager::withdrawProtocolFeesIntoUnderlyingCall {})?
        }
    };
    let owed = owed_to(network, whose).await?;
    let (available, excess) = funds(network).await?;
    let note = format!("owed: {owed}; there to pay it: {available}, and {excess} of payers' fees");
    Ok(with_owner(Plan::of([step]).note(note), owner))
}

/// Plans to send the payer registry's surplus of settled fees to the manager, which pays them out. Any
/// account may send the transaction.
///
/// # Errors
/// Fails when a contract cannot be read.
pub async fn send_excess(network: &Network) -> Result<Plan, AdminError> {
    let (_, excess) = funds(network).await?;
    if excess == MicroDollars::default() {
        return Ok(Plan::nothing("there is no excess: nothing that was paid is waiting"));
    }
    let send = PayerRegistry::sendExcessToFeeDistributorCall {};
    let step = network.step(Contract::PayerRegistry, &send)?;
    Ok(Plan::of([step]).note(format!("sends {excess} to the distribution manager")))
}

/// Returns the fees that the beneficiary has claimed and not withdrawn yet.
///
/// # Errors
/// Fails when the manager cannot be read.
pub async fn owed_to(network: &Network, whose: Beneficiary) -> Result<MicroDollars, AdminError> {
    let owed = match whose {
        Beneficiary::Node(node_id) => {
            let owed = DistributionManager::getOwedFeesCall { nodeId_: node_id.0 };
            network.view(MANAGER, &owed).await?
        }
        Beneficiary::Protocol => {
            network.view(MANAGER, &DistributionManager::owedProtocolFeesCall {}).await?
        }
    };
    Ok(owed.into())
}

/// Returns the manager's balance of fee tokens and the payer registry's surplus.
async fn funds(network: &Network) -> Result<(MicroDollars, MicroDollars), AdminError> {
    let manager = network.at(MANAGER)?;
    let available = tokens::balance(network, Contract::FeeToken, manager).await?;
    let excess = network.view(Contract::PayerRegistry, &PayerRegistry::excessCall {}).await?;
    Ok((available, excess.into()))
}

/// Returns the owner of the beneficiary's node; `None` for the protocol.
async fn owner(network: &Network, whose: Beneficiary) -> Result<Option<Address>, AdminError> {
    match whose {
        Beneficiary::Node(node_id) => Ok(Some(nodes::get(network, node_id).await?.owner)),
        Beneficiary::Protocol => Ok(None),
    }
}

fn with_owner(plan: Plan, owner: Option<Address>) -> Plan {
    match owner {
        Some(owner) => plan.note(format!("only the node's owner can do this: {owner}")),
        None => plan,
    }
}

fn claim_step(
    network: &Network,
    whose: Beneficiary,
    reports: &[OnchainReport],
) -> Result<PlanStep, AdminError> {
    let originators = reports.iter().map(|report| report.originator.0).collect();
    let indices = reports.iter().map(|report| U256::from(report.index)).collect();
    match whose {
        Beneficiary::Node(node_id) => {
            let claim = DistributionManager::claimCall {
                nodeId_: node_id.0,
                originatorNodeIds_: originators,
                payerReportIndices_: indices,
            };
            network.step(MANAGER, &claim)
        }
        Beneficiary::Protocol => {
            let claim = DistributionManager::claimProtocolFeesCall {
                originatorNodeIds_: originators,
                payerReportIndices_: indices,
            };
            network.step(MANAGER, &claim)
        }
    }
}

fn is_listed(report: &OnchainReport, whose: Beneficiary) -> bool {
    match whose {
        Beneficiary::Node(node_id) => report.node_ids.contains(&node_id),
        Beneficiary::Protocol => true,
    }
}

/// Returns the report if the beneficiary has a share in it that is not claimed yet.
async fn unclaimed(
    network: &Network,
    report: OnchainReport,
    whose: Beneficiary,
) -> Result<Option<OnchainReport>, AdminError> {
    let is_open = is_listed(&report, whose) && !is_claimed(network, &report, whose).await?;
    Ok(is_open.then_some(report))
}

async fn is_claimed(
    network: &Network,
    report: &OnchainReport,
    whose: Beneficiary,
) -> Result<bool, AdminError> {
    let (originator, index) = (report.originator.0, U256::from(report.index));
    match whose {
        Beneficiary::Node(node_id) => {
            let claimed = DistributionManager::areFeesClaimedCall {
                nodeId_: node_id.0,
                originatorNodeId_: originator,
                payerReportIndex_: index,
            };
            network.view(MANAGER, &claimed).await
        }
        Beneficiary::Protocol => {
            let claimed = DistributionManager::areProtocolFeesClaimedCall {
                originatorNodeId_: originator,
                payerReportIndex_: index,
            };
            network.view(MANAGER, &claimed).await
        }
    }
}

async fn claims_of(network: &Network, report: OnchainReport) -> Result<ReportClaims, AdminError> {
    let mut nodes = BTreeSet::new();
    let mut protocol = false;
    if report.is_settled {
        for &node_id in &report.node_ids {
            if is_claimed(network, &report, Beneficiary::Node(node_id)).await? {
                nodes.insert(node_id);
            }
        }
        protocol = is_claimed(network, &report, Beneficiary::Protocol).await?;
    }
    Ok(ReportClaims { report, nodes, protocol })
}

async fn originators_or_all(
    network: &Network,
    named: &[OriginatorId],
) -> Result<Vec<OriginatorId>, AdminError> {
    if !named.is_empty() {
        // The contract refuses to pay for one originator twice.
        return Ok(named.iter().copied().collect::<BTreeSet<_>>().into_iter().collect());
    }
    all_originators(network).await
}

/// Returns all nodes, and the originators migrated from the older network.
///
/// # Errors
/// Fails when the registry cannot be read.
pub(super) async fn all_originators(network: &Network) -> Result<Vec<OriginatorId>, AdminError> {
    Ok(registered(network).await?.into_iter().chain(OriginatorId::MIGRATED).collect())
}

async fn registered(network: &Network) -> Result<Vec<OriginatorId>, AdminError> {
    let nodes = nodes::places(network).await?;
    Ok(nodes.into_iter().map(|node| node.node_id).collect())
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    fn settled_report(fees: u128, protocol_fee_rate: u16, nodes: u32) -> OnchainReport {
        OnchainReport {
            originator: OriginatorId(100),
            index: 0,
            start_sequence_id: SequenceId::NONE,
            end_sequence_id: SequenceId(1),
            end_minute: 1,
            root: [0; 32],
            fees_settled: MicroDollars::new(fees).unwrap(),
            is_settled: true,
            protocol_fee_rate,
            node_ids: (1..=nodes).map(|node| OriginatorId(100 * node)).collect(),
        }
    }

    /// Computed by another program from the specification.
    #[test]
    fn shares_of_the_smallest_and_the_largest_fees_are_those_that_another_program_computes() {
        const MOST: u128 = (1 << 96) - 1;
        for (fees, rate, nodes, of_protocol, of_node) in [
            (2, 0, 3, 2, 0),
            (3, 1, 3, 3, 0),
            (9999, 1, 2, 1, 4999),
            (10_001, 9999, 1, 10_000, 1),
            (MOST, 0, 255, 0, 310_698_676_526_526_814_092_329_217),
            (MOST, 1, 2, 7_922_816_251_426_433_759_354_397, 39_610_119_849_006_455_579_892_297_969),
            (MOST, 10_000, 5, MOST, 0),
            (MOST, 100, 0, MOST, 0),
        ] {
            let report = settled_report(fees, rate, nodes);
            let shares = [report.share_of_protocol(), report.share_of_node()];
            let computed = [of_protocol, of_node].map(|share| MicroDollars::new(share).unwrap());
            assert_eq!(shares, computed, "{fees} at {rate} for {nodes} nodes");
        }
    }

    #[test]
    fn shares_are_those_of_the_vectors() {
        let text = include_str!("../../../tests/vectors/contracts/fees.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = vectors["protocol_fee_split"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number = |field: &str| case[field].as_str().unwrap().parse::<u128>().unwrap();
            let amount = |field: &str| MicroDollars::new(number(field)).unwrap();
            let nodes = u32::try_from(case["node_count"].as_u64().unwrap()).unwrap();
            let rate = u16::try_from(case["rate_bps"].as_u64().unwrap()).unwrap();
            let report = settled_report(number("fees_settled"), rate, nodes);
            assert_eq!(report.share_of_node(), amount("per_node"), "{case}");
            assert_eq!(report.share_of_protocol(), amount("protocol_fees"), "{case}");
        }
    }
}
