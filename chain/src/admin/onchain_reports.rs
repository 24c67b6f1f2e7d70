//! Payer reports, as the payer report manager holds them.
//!
//! The contract does not state how many reports there are about an originator, so they are counted first.

use alloy::primitives::U256;
use alloy::sol_types::SolCall as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hawser_proto::{OriginatorId, SequenceId};

use super::{AdminError, Contract, MicroDollars, Network};
use crate::contracts::PayerReportManager;
use crate::contracts::payer_report_manager::IPayerReportManager;
use crate::send::ViewError;

/// Reports read per call. Guess.
const PAGE: usize = 50;
/// Concurrent requests. Guess.
pub(super) const ASKED_AT_ONCE: usize = 16;
/// The largest number of reports about one originator that is counted. A guess: thousands of years of reports. It
/// bounds the search if a lying endpoint reports one at every index.
const REPORTS_MAX: u64 = 1 << 24;
/// The largest number of nodes that a report lists: the contract takes the canonical nodes, at most 255. An endpoint
/// could make each report as long as an answer may be.
const NODES_MAX: usize = u8::MAX as usize;
/// The denominator of fee rates, which are in hundredths of a percent.
const HUNDRED_PERCENT: u128 = 10_000;
/// The seconds by which the end that a report states may be ahead of a reader's clock. A guess: clocks differ by less.
const END_AHEAD_S_MAX: u64 = 3600;

/// A payer report on the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnchainReport {
    /// The originator whose usage it covers.
    pub originator: OriginatorId,
    /// The index in the originator's list, from 0.
    pub index: u64,
    /// The start of the covered range, exclusive.
    pub start_sequence_id: SequenceId,
    /// The last covered sequence id.
    pub end_sequence_id: SequenceId,
    /// The last covered minute as the report states it, in minutes since the unix epoch. The contract takes any, and
    /// nodes of the reference implementation attest any.
    pub end_minute: u32,
    /// The Merkle root over the amounts per payer.
    pub root: [u8; 32],
    /// The fees settled so far.
    pub fees_settled: MicroDollars,
    /// True if the report is settled completely, so that its shares can be claimed.
    pub is_settled: bool,
    /// The protocol's share, in hundredths of a percent.
    pub protocol_fee_rate: u16,
    /// The nodes that share the remaining fees equally.
    pub node_ids: Vec<OriginatorId>,
}

impl OnchainReport {
    /// Returns the end that the report states, unix seconds.
    #[must_use]
    pub fn stated_end_s(&self) -> u64 {
        u64::from(self.end_minute) * 60
    }

    /// Returns true if the stated end is reached at `now`, unix seconds, give or take the difference of two clocks. A
    /// report that states a later end is false.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        self.stated_end_s() <= now.saturating_add(END_AHEAD_S_MAX)
    }

    /// Returns the share of each listed node.
    #[must_use]
    pub fn share_of_node(&self) -> MicroDollars {
        let nodes = self.node_ids.len() as u128;
        let rest = HUNDRED_PERCENT.saturating_sub(self.protocol_fee_rate.into());
        let share = (self.fees_settled.get() * rest / HUNDRED_PERCENT).checked_div(nodes);
        MicroDollars::new(share.unwrap_or_default()).expect("a part is not more than the whole")
    }

    /// Returns the share of the protocol, including the remainder of an uneven division.
    #[must_use]
    pub fn share_of_protocol(&self) -> MicroDollars {
        let nodes = self.share_of_node().get() * self.node_ids.len() as u128;
        MicroDollars::new(self.fees_settled.get() - nodes)
            .expect("a part is not more than the whole")
    }
}

/// Returns the number of reports about each of these originators, in their order.
///
/// # Errors
/// Fails when the contract cannot be read.
pub(super) async fn counts(
    network: &Network,
    originators: &[OriginatorId],
) -> Result<Vec<(OriginatorId, u64)>, AdminError> {
    let looks = originators.iter().copied().map(|originator| counted(network, originator));
    stream::iter(looks).buffered(ASKED_AT_ONCE).try_collect().await
}

async fn counted(
    network: &Network,
    originator: OriginatorId,
) -> Result<(OriginatorId, u64), AdminError> {
    Ok((originator, count(network, originator).await?))
}

/// Returns the first reports about originators, as many as `counts` states of each, and no others.
///
/// # Errors
/// Fails when the contract cannot be read, or has fewer.
pub(super) async fn counted_reports(
    network: &Network,
    counts: &[(OriginatorId, u64)],
) -> Result<Vec<OnchainReport>, AdminError> {
    let looks = counts.iter().copied();
    let looks = looks.map(|(originator, count)| reports_of(network, originator, 0, count));
    let all: Vec<_> = stream::iter(looks).buffered(ASKED_AT_ONCE).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}

/// Returns the reports from one index, inclusive, to another, exclusive.
async fn reports_of(
    network: &Network,
    originator: OriginatorId,
    from: u64,
    end: u64,
) -> Result<Vec<OnchainReport>, AdminError> {
    let (mut all, mut left) = (Vec::new(), from..end);
    while !left.is_empty() {
        let some: Vec<u64> = left.by_ref().take(PAGE).collect();
        all.extend(reports_at(network, originator, &some).await?);
    }
    Ok(all)
}

/// Returns the reports about an originator at these indices, in their order. The contract refuses an index without a
/// report.
///
/// # Errors
/// Fails when the contract cannot be read.
pub(crate) async fn reports_at(
    network: &Network,
    originator: OriginatorId,
    indices: &[u64],
) -> Result<Vec<OnchainReport>, AdminError> {
    let mut all = Vec::new();
    for some in indices.chunks(PAGE) {
        let page = PayerReportManager::getPayerReportsCall {
            originatorNodeIds_: vec![originator.0; some.len()],
            payerReportIndices_: some.iter().copied().map(U256::from).collect(),
        };
        let page = network.view(Contract::PayerReportManager, &page).await?;
        if page.iter().any(lists_too_many) {
            return Err(too_many_nodes(network));
        }
        all.extend(some.iter().zip(page).map(|(index, report)| read(originator, *index, report)));
    }
    Ok(all)
}

fn lists_too_many(report: &IPayerReportManager::PayerReport) -> bool {
    report.nodeIds.len() > NODES_MAX
}

/// Returns the error about a report that lists more nodes than the contract accepts.
fn too_many_nodes(network: &Network) -> AdminError {
    let contract = Contract::PayerReportManager;
    let address = match network.at(contract) {
        Ok(address) => address,
        Err(unknown) => return unknown,
    };
    let source = ViewError::OtherContract {
        address,
        chain_id: network.settlement.id(),
        function: PayerReportManager::getPayerReportsCall::SIGNATURE,
        reason: format!("a report lists more than {NODES_MAX} nodes"),
    };
    AdminError::View { contract, source }
}

/// Returns the newest reports about an originator, at most `most`, in ascending index order,
/// after the count of all its reports.
///
/// # Errors
/// Fails when the contract cannot be read.
pub(crate) async fn newest_reports(
    network: &Network,
    originator: OriginatorId,
    most: u64,
) -> Result<(u64, Vec<OnchainReport>), AdminError> {
    let count = count(network, originator).await?;
    let newest = reports_of(network, originator, count.saturating_sub(most), count).await?;
    Ok((count, newest))
}

/// Returns the number of reports about an originator, at most [`REPORTS_MAX`]. The contract has no function for it, so
/// the first index without a report is found by doubling and then bisection.
async fn count(network: &Network, originator: OriginatorId) -> Result<u64, AdminError> {
    if !exists(network, originator, 0).await? {
        return Ok(0);
    }
    let mut known = 0;
    let mut absent = 1;
    while absent < REPORTS_MAX && exists(network, originator, absent).await? {
        known = absent;
        absent *= 2;
    }
    while known + 1 < absent {
        let middle = known + (absent - known) / 2;
        if exists(network, originator, middle).await? {
            known = middle;
        } else {
            absent = middle;
        }
    }
    Ok(absent)
}

async fn exists(
    network: &Network,
    originator: OriginatorId,
    index: u64,
) -> Result<bool, AdminError> {
    let report = PayerReportManager::getPayerReportCall {
        originatorNodeId_: originator.0,
        payerReportIndex_: U256::from(index),
    };
    Ok(network.try_view(Contract::PayerReportManager, &report).await?.is_some())
}

fn read(
    originator: OriginatorId,
    index: u64,
    report: IPayerReportManager::PayerReport,
) -> OnchainReport {
    OnchainReport {
        originator,
        index,
        start_sequence_id: SequenceId(report.startSequenceId),
        end_sequence_id: SequenceId(report.endSequenceId),
        end_minute: report.endMinuteSinceEpoch,
        root: report.payersMerkleRoot.0,
        fees_settled: report.feesSettled.into(),
        is_settled: report.isSettled,
        protocol_fee_rate: report.protocolFeeRate,
        node_ids: report.nodeIds.into_iter().map(OriginatorId).collect(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use alloy::primitives::aliases::U96;

    use super::*;

    #[test]
    fn a_report_with_more_nodes_than_a_network_can_have_is_refused() {
        let report = |nodes: usize| IPayerReportManager::PayerReport {
            startSequenceId: 0,
            endSequenceId: 1,
            endMinuteSinceEpoch: 1,
            feesSettled: U96::ZERO,
            offset: 0,
            isSettled: false,
            protocolFeeRate: 0,
            payersMerkleRoot: B256::ZERO,
            nodeIds: vec![100; nodes],
        };
        assert!(!lists_too_many(&report(NODES_MAX)));
        assert!(lists_too_many(&report(NODES_MAX + 1)));
    }
}
