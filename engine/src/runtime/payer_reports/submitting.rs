//! Submitting the reports that a majority of the nodes has attested.

use std::cmp::Reverse;

use hawser_proto::OriginatorId;
use hawser_rules::Registry;
use hawser_rules::payer_report::{Majority, Submitted, majority};

use super::verdict::OTHER_NODES;
use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{HeldReport, nodes_of};

/// A report with the attestations to submit it with, or the reason why it is not submitted now.
type Submittable = (HeldReport, Result<Majority, String>);

impl PayerReporterState {
    /// Returns the reports about an originator that continue the chain's reports, the longest report first. Each comes
    /// with the attestations to submit, or with the reason why it is not submitted now.
    pub(super) fn to_submit(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<Submittable>, ReportStepError> {
        let registry = self.registry();
        let nodes = nodes_of(&registry)?;
        let judge = |held: HeldReport| {
            if !held.is_attested_by(self.own()) {
                return (held, Err("this node has not attested it".to_owned()));
            }
            if *held.report.nodes() != nodes {
                return (held, Err(OTHER_NODES.to_owned()));
            }
            let majority = counted(&registry, &held);
            for (node, error) in &majority.refused {
                tracing::warn!(
                    code = "attestation_refused", report_id = %held.id, node_id = %node, %error,
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
        let mut continuing = self.continuing(about)?;
        longest_first(&mut continuing);
        Ok(continuing.into_iter().map(judge).collect())
    }

    /// Submits one report with these attestations.
    pub(super) async fn submit_one(
        &self,
        held: &HeldReport,
        majority: &Majority,
    ) -> Result<Submitted, ReportStepError> {
        let submitted = self.contract.submit(&held.report, &majority.counted).await?;
        let about = held.report.originator();
        tracing::info!(report_id = %held.id, originator_id = %about, ?submitted, "submitted a payer report");
        Ok(submitted)
    }
}

/// Counts the attestations of a report that hold by the keys of the canonical network.
pub(super) fn counted(registry: &Registry, held: &HeldReport) -> Majority {
    let member = |node| registry.member(node).map(|record| record.public_key);
    majority(held.id, held.report.nodes(), held.attestations.iter().copied(), member)
}

/// Puts the reports that end last before the others. All reports begin at the same place, and the contract takes only
/// one of them. If it takes a shorter report, the usage behind that report's end costs all nodes a further submission
/// and further settlements.
fn longest_first(reports: &mut [HeldReport]) {
    reports.sort_by_key(|held| Reverse(held.report.end().sequence));
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;
    use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd, ReportId};

    use super::*;

    /// A node may write a true report of each minute, whose ids come in any order.
    #[test]
    fn the_report_that_ends_last_is_submitted_first() {
        let held = |id: u8, end: u64| {
            let range_end = RangeEnd { minute: 5, sequence: SequenceId(end) };
            let (about, nodes) = (OriginatorId(100), NodeIds::new([OriginatorId(100)]).unwrap());
            let report = PayerReport::new(about, SequenceId::NONE, range_end, [7; 32], nodes);
            HeldReport {
                id: ReportId([id; 32]),
                report: report.unwrap(),
                written: Vec::new(),
                attestations: Vec::new(),
            }
        };
        let mut reports = [held(1, 10), held(2, 30), held(3, 20), held(4, 30)];
        longest_first(&mut reports);
        let ids: Vec<u8> = reports.iter().map(|it| it.id.0[0]).collect();
        assert_eq!(ids, [2, 4, 3, 1], "those of one end stay in the order of their ids");
    }
}
