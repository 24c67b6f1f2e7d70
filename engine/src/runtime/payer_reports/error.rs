//! Errors of a step of the payer report worker.

use hawser_proto::OriginatorId;
use hawser_rules::payer_report::PayerReportError;
use hawser_storage::{CommitError, ReadError};

use super::contract::ContractError;
use crate::payer_reports::{FiguresError, UndecidedError};
use crate::runtime::PublishError;

/// A step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportStepError {
    /// The database failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The amounts of a report could not be stored, so it is not attested.
    #[error("the amounts of a report cannot be stored: {0}")]
    Write(#[from] CommitError),
    /// The figures could not be computed.
    #[error(transparent)]
    Figures(#[from] FiguresError),
    /// The canonical network makes no list of nodes.
    #[error(transparent)]
    Nodes(#[from] PayerReportError),
    /// The envelope could not be published in this node's strand.
    #[error("the report or attestation cannot be published: {0}")]
    Publish(#[from] PublishError),
    /// The settlement chain did not take a transaction, or did not answer.
    #[error("the settlement chain: {0}")]
    Contract(#[from] ContractError),
    /// The settlement chain's events have not been read yet, so it is not known which reports it has.
    #[error("the reports on the settlement chain have not been read yet")]
    NoChain,
    /// The payers' deposits, or the settled reports, are being read for the first time or anew, so no balance is known.
    #[error(
        "deposits and settlements on the settlement chain are being read, and no balance is known until then"
    )]
    NoBalances,
    /// The chain's storage and its events have different reports at this index.
    #[error(
        "report {index} about {originator} differs between the contract's storage and its events: check the \
        endpoints of the settlement chain"
    )]
    OtherReport {
        /// The originator.
        originator: OriginatorId,
        /// The place in the contract's list.
        index: u64,
    },
    /// The chain has accepted a report with other amounts than this node computes.
    #[error(
        "report {index} about {originator}, which the chain has accepted, has other amounts than this node computes"
    )]
    OtherAmounts {
        /// The originator.
        originator: OriginatorId,
        /// The place in the contract's list.
        index: u64,
    },
    /// The chain's storage has as many leaves of a report as settled as it has, or more, and calls it unsettled.
    #[error(
        "report {index} about {originator} has {leaves} leaves, and the contract calls {settled} of them settled and \
        the report unsettled: check the endpoints of the settlement chain"
    )]
    BeyondLeaves {
        /// The originator.
        originator: OriginatorId,
        /// The place in the contract's list.
        index: u64,
        /// The number of leaves that the contract calls settled.
        settled: u64,
        /// The number of leaves of the report.
        leaves: usize,
    },
    /// This node cannot compute the report yet.
    #[error(transparent)]
    NotYet(#[from] UndecidedError),
    /// Reports about an originator cannot be read or judged, and the one that was asked for may be among them.
    #[error("not all reports about originator {about} can be read: {cause}")]
    Unread {
        /// The originator.
        about: OriginatorId,
        /// The reason.
        cause: Box<ReportStepError>,
    },
    /// Reports are computed for another operator.
    #[error(
        "this node is busy computing payer reports for another request: ask again in some seconds"
    )]
    Busy,
}

impl ReportStepError {
    /// Returns the error that names the originator whose reports cannot be read.
    pub(super) fn unread(about: OriginatorId, cause: Self) -> Self {
        Self::Unread { about, cause: Box::new(cause) }
    }

    /// Returns true if the step may succeed for other reports.
    pub(super) fn concerns_one_report(&self) -> bool {
        matches!(
            self,
            Self::Contract(_)
                | Self::OtherReport { .. }
                | Self::OtherAmounts { .. }
                | Self::BeyondLeaves { .. }
                | Self::NotYet(_)
                | Self::Figures(_)
        )
    }

    /// Returns the damage of the disk that the step has met, if that is why it could not be taken.
    pub(super) fn damage(&self) -> Option<&ReadError> {
        match self {
            Self::Read(cause) | Self::Figures(FiguresError::Read(cause)) => {
                Some(cause).filter(|cause| cause.is_damage())
            }
            _ => None,
        }
    }

    /// Returns true if waiting is enough: a node that starts, or is behind, knows too little for a while.
    pub(super) fn passes_by_itself(&self) -> bool {
        matches!(self, Self::NoChain | Self::NotYet(_) | Self::Figures(FiguresError::NotYet(_)))
    }

    /// Returns true if the worker waits without a warning at first: if [waiting is enough](Self::passes_by_itself), and
    /// while this node takes no publish, as before it is canonical. The node's status names that condition.
    pub(super) fn is_awaited(&self) -> bool {
        let is_unready =
            matches!(self, Self::Publish(PublishError::Unavailable { .. } | PublishError::Busy));
        is_unready || self.passes_by_itself()
    }
}

/// Errors of the contract in one step after which the others are left for the next step. A guess: an endpoint that is
/// away would be waited for with each report.
const CONTRACT_ERRORS_MAX: usize = 3;

/// The reports for which a step has failed.
#[derive(Debug, Default)]
pub(super) struct FailedReports {
    first: Option<ReportStepError>,
    of_contract: usize,
}

impl FailedReports {
    /// Notes that one report failed.
    ///
    /// # Errors
    /// The first error, if the step would fail for all other reports as well.
    pub(super) fn add(&mut self, error: ReportStepError) -> Result<(), ReportStepError> {
        self.of_contract += usize::from(matches!(error, ReportStepError::Contract(_)));
        let concerns_all = !error.concerns_one_report() || self.of_contract >= CONTRACT_ERRORS_MAX;
        let first = self.first.take().unwrap_or(error);
        if concerns_all {
            return Err(first);
        }
        self.first = Some(first);
        Ok(())
    }

    /// Returns the first error, if there was one.
    pub(super) fn into_result(self) -> Result<(), ReportStepError> {
        self.first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A node that is not canonical yet would otherwise warn of each report that it could attest.
    #[test]
    fn a_node_that_takes_no_publish_waits_without_a_warning() {
        let reason = "this node is not in the canonical network".to_owned();
        let retry_after = Duration::from_secs(1);
        let unready = ReportStepError::from(PublishError::Unavailable { reason, retry_after });
        assert!(unready.is_awaited() && !unready.passes_by_itself(), "by hand it is a failure");
        assert!(!ReportStepError::from(PublishError::AnswerTooLarge).is_awaited());
        assert!(ReportStepError::NoChain.is_awaited());
    }
}
