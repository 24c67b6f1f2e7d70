//! The settlement chain's contract of payer reports, as the worker needs it.

use futures_util::future::BoxFuture;
use hawser_proto::OriginatorId;
use hawser_rules::payer_report::leaves::LEAF_LEN_BYTES;
use hawser_rules::payer_report::{Attestation, ContractReport, LeafProof, PayerReport, Submitted};

/// A call of the contract failed. The text is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ContractError {
    /// The reason.
    pub text: String,
    /// The chain refused the transaction, and nothing was sent: a smaller one may be taken. Of a transaction that was
    /// sent and may still be mined, no part may be sent again.
    pub may_be_too_large: bool,
}

/// The gas that a transaction took, as its receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GasUsed(pub u64);

/// The contract of payer reports. Its calls may be repeated: a report is taken once, and each leaf settled once.
pub trait ReportContract: Send + Sync + 'static {
    /// Submits a report with its attestations, which are verified, sorted by node, and enough.
    fn submit<'a>(
        &'a self,
        report: &'a PayerReport,
        attestations: &'a [Attestation],
    ) -> BoxFuture<'a, Result<Submitted, ContractError>>;

    /// Returns a report as the contract keeps it. `known` is the report by the contract's events: of sources that
    /// differ, one that agrees with it is believed.
    fn held(
        &self,
        originator: OriginatorId,
        index: u64,
        known: ContractReport,
    ) -> BoxFuture<'_, Result<ContractReport, ContractError>>;

    /// Settles the next leaves of a report, and returns when the chain has done so, with the gas that it took.
    fn settle<'a>(
        &'a self,
        originator: OriginatorId,
        index: u64,
        leaves: &'a [[u8; LEAF_LEN_BYTES]],
        proof: &'a LeafProof,
    ) -> BoxFuture<'a, Result<GasUsed, ContractError>>;
}
