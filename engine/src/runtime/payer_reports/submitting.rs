//! Submitting the reports that a majority of the nodes has attested.

use hawser_proto::OriginatorId;
use hawser_rules::payer_report::{Majority, majority};

use super::contract::Submitted;
use super::verdict::OTHER_NODES;
use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{HeldReport, nodes_of};

/// A report with the attestations to submit it with, or the reason why it is not submitted now.
type Submittable = (HeldReport, Result<Majority, String>);

impl PayerReporterState {
    /// Returns the reports about an originator that continue those on the chain, each with the attestations to submit
    /// it with, or the reason why it is not submitted now.
    pub(super) fn to_submit(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<Submittable>, ReportStepError> {
        let registry = self.registry();
        let nodes = nodes_of(&registry)?;
        let member = |node| registry.member(node).map(|record| record.public_key);
        let judge = |held: HeldReport| {
            if !held.is_attested_by(self.own()) {
                return (held, Err("this node has not attested it".to_owned()));
            }
            if *held.report.nodes() != nodes {
                return (held, Err(OTHER_NODES.to_owned()));
            }
            let attestations = held.attestations.iter().copied();
            let majority = majority(held.id, held.report.nodes(), attestations, member);
            for (node, error) in &majority.refused {
                tracing::warn!(
                    code = "attestation_refused", report = %held.id, %node, %error,
                    "an attestation does not count"
                );
            }
            if majority.is_reached() {
                return (held, Ok(majority));
            }
            let (counted, needed) = (majority.counted.len(), held.report.nodes().majority());
            (
                held,
                Err(format!("only {counted} of the {needed} attestations that it needs are valid")),
            )
        };
        Ok(self.continuing(about)?.into_iter().map(judge).collect())
    }

    /// Submits one report with these attestations.
    pub(super) async fn submit_one(
        &self,
        held: &HeldReport,
        majority: &Majority,
    ) -> Result<Submitted, ReportStepError> {
        let submitted = self.contract.submit(&held.report, &majority.counted).await?;
        let about = held.report.originator();
        tracing::info!(report = %held.id, %about, ?submitted, "submitted a payer report");
        Ok(submitted)
    }
}
