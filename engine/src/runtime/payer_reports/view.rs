//! Payer reports as an operator sees them: the reports that nodes have written, the reports on the chain, and the
//! reason why this node does not attest a report.

use hawser_proto::{OriginatorId, PayerAddress, SequenceId, minute_of};
use hawser_rules::payer_report::{PayerReport, ReportDifference, ReportId, SettledAmount};

use super::submitting::counted;
use super::verdict::{NOT_COME, OTHER_NODES, PayerReportVerdict, UNJUDGED};
use super::{PayerReporter, PayerReporterState, ReportStepError};
use crate::payer_reports::{
    ComparedReport, EXPLAINED_ROWS_MAX, HeldReport, PayerUsage, SETTLED_KEPT, has_come, nodes_of,
    recompute_explained, usage_of,
};

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportView {
    /// Its id.
    pub id: ReportId,
    /// The report.
    pub report: PayerReport,
    /// The nodes in whose strands it is; empty for one that is known from the chain alone.
    pub writers: Vec<OriginatorId>,
    /// The nodes whose attestations of the report this node has. Of a report that is not on the chain, only those whose
    /// attestations count towards the majority.
    pub attested_by: Vec<OriginatorId>,
    /// Its state.
    pub state: ReportState,
}

/// The reports that a node can read, and the originators about which it cannot.
#[derive(Debug, Default)]
pub struct ReportList {
    /// The reports by originator. The reports on the chain come first, oldest first. The reports that would continue
    /// them follow.
    pub views: Vec<ReportView>,
    /// The originators about which there may be further reports, which cannot be read or judged now, with the reason.
    pub unread: Vec<(OriginatorId, ReportStepError)>,
}

/// The state of a report, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportState {
    /// This node has attested it. It waits for others, or for its submission.
    Attested,
    /// This node computes the same report, and has not attested it yet.
    Equal,
    /// This node computes another report.
    Refused(Vec<ReportDifference>),
    /// This node cannot judge the report now.
    Waiting(String),
    /// The chain has it. Some leaves may be settled.
    OnChain {
        /// Its place in the contract's list.
        index: u64,
        /// Leaves that are settled.
        leaves_settled: u64,
        /// Their sum.
        settled: SettledAmount,
        /// True if no leaf is left.
        is_settled: bool,
    },
}

/// A report beside this node's own figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportExplained {
    /// The report.
    pub view: ReportView,
    /// The comparison with this node's own figures.
    pub compared: ComparedReport,
    /// The reason why the report cannot be compared yet.
    pub waits_for: Option<String>,
}

impl ReportExplained {
    /// Returns true if this node computes the same report.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.waits_for.is_none() && self.compared.differences.is_empty()
    }

    /// Returns the reasons for which this node does not attest the report, each once: why it waits, why it cannot be
    /// compared, and the differences with their causes.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let waits = match &self.view.state {
            ReportState::Waiting(why) => Some(why.clone()),
            _ => None,
        };
        let differences = self.compared.differences.iter().map(ToString::to_string);
        let mut reasons = Vec::new();
        for reason in waits.into_iter().chain(self.waits_for.clone()).chain(differences) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        reasons
    }
}

impl PayerReporter {
    /// Returns the reports about all originators: for each originator the newest reports on the chain, and the reports
    /// that would continue them. If reading or judging fails for an originator, the list names it, and has the reports
    /// about all other originators. Blocks on the disk, and while another report is computed.
    ///
    /// # Errors
    /// [`ReportStepError::Busy`] while another operator is answered, or another [`ReportStepError`] that concerns all
    /// originators.
    pub fn reports(&self) -> Result<ReportList, ReportStepError> {
        let _answer = self.0.computations.begin_answer().ok_or(ReportStepError::Busy)?;
        self.all_reports()
    }

    /// Returns the reports of [`reports`](Self::reports), for an answer that has begun.
    fn all_reports(&self) -> Result<ReportList, ReportStepError> {
        // Without the events of the chain nothing is known about any originator.
        self.0.chain()?;
        let mut list = ReportList::default();
        for about in self.originators() {
            if let Err(error) = self.reports_about(about, &mut list.views) {
                list.unread.push((about, error));
            }
        }
        Ok(list)
    }

    /// Computes a report again, or takes the amounts that this node kept of a report on the chain. Returns the report
    /// with the differences and their causes, or with the reason why this node cannot compute it yet. Returns `None` if
    /// the report is neither returned by [`reports`](Self::reports) nor among the newest reports of a node. An earlier
    /// refusal ends if this node now computes the same amounts. Blocks on the disk, and while another report is
    /// computed.
    ///
    /// # Errors
    /// [`ReportStepError::Busy`] while another operator is answered, [`ReportStepError::Unread`] if the report may be
    /// among those that cannot be read, or another [`ReportStepError`].
    pub fn explain(&self, id: &str) -> Result<Option<ReportExplained>, ReportStepError> {
        let Ok(id) = id.parse::<ReportId>() else { return Ok(None) };
        let _answer = self.0.computations.begin_answer().ok_or(ReportStepError::Busy)?;
        let ReportList { views, unread } = self.all_reports()?;
        let mut view =
            match (views.into_iter().find(|view| view.id == id), unread.into_iter().next()) {
                (Some(view), _) => view,
                (None, Some((about, cause))) => return Err(ReportStepError::unread(about, cause)),
                (None, None) => match self.elsewhere(id)? {
                    Some(view) => view,
                    None => return Ok(None),
                },
            };
        let kept = match view.state {
            ReportState::OnChain { .. } => self.0.compared_with_kept(id, &view.report),
            _ => None,
        };
        let snapshot = self.0.engine.store().snapshot();
        let compute = || recompute_explained(&snapshot, &view.report, EXPLAINED_ROWS_MAX);
        let mut compared = match kept {
            Some(compared) => compared,
            None => self.0.computations.compute(compute)?,
        };
        let nodes = match view.state {
            // The network may have changed since it was put there.
            ReportState::OnChain { .. } => None,
            _ => ReportDifference::of_nodes(view.report.nodes(), &nodes_of(&self.0.registry())?),
        };
        let has_same_amounts = compared.not_yet.is_none() && compared.differences.is_empty();
        if has_same_amounts && matches!(view.state, ReportState::Refused(_)) {
            self.0.judge_again(id);
            view.state = match nodes {
                Some(_) => ReportState::Waiting(OTHER_NODES.to_owned()),
                None => ReportState::Equal,
            };
        }
        compared.differences.extend(nodes);
        let now_minute = minute_of(self.0.engine.ports().clock.now_ns());
        let waits_for = match has_come(view.report.end().minute, now_minute) {
            true => compared.not_yet.as_ref().map(ToString::to_string),
            false => Some(NOT_COME.to_owned()),
        };
        Ok(Some(ReportExplained { view, compared, waits_for }))
    }

    /// Returns a report that a node has written and that does not continue those on the chain, with the reason why no
    /// node judges it; `None` if it is not among the newest ones of a node.
    fn elsewhere(&self, id: ReportId) -> Result<Option<ReportView>, ReportStepError> {
        let chain = self.0.chain()?;
        for about in self.originators() {
            let held = self.0.held(about)?;
            let Some(held) = held.into_iter().find(|held| held.id == id) else { continue };
            let (start, end) = (held.report.start(), held.report.end().sequence);
            let next = chain.last_end(about).map_or(SequenceId::NONE, |end| end.sequence);
            let why = match start == end {
                true => "it covers no envelope".to_owned(),
                false => format!(
                    "it starts at {start}, and the next report on the chain starts at {next}"
                ),
            };
            return Ok(Some(ReportView {
                id,
                writers: writers(&held),
                attested_by: self.0.counted_attesters(&held),
                report: held.report,
                state: ReportState::Waiting(why),
            }));
        }
        Ok(None)
    }

    /// Adds the reports about one originator: first the reports on the chain, oldest first, then the reports that
    /// continue them.
    fn reports_about(
        &self,
        about: OriginatorId,
        views: &mut Vec<ReportView>,
    ) -> Result<(), ReportStepError> {
        let state = &self.0;
        let chain = state.chain()?;
        let held = state.held(about)?;
        let on_chain: Vec<_> = chain.about(about).rev().take(SETTLED_KEPT).collect();
        for kept in on_chain.into_iter().rev() {
            let Some(report) = kept.report() else { continue };
            let id = report.id(state.domain);
            let written = held.iter().find(|held| held.id == id);
            views.push(ReportView {
                id,
                report,
                writers: written.map(writers).unwrap_or_default(),
                attested_by: written.map(attesters).unwrap_or_default(),
                state: ReportState::OnChain {
                    index: kept.index,
                    leaves_settled: kept.leaves_settled,
                    settled: kept.settled,
                    is_settled: kept.is_settled,
                },
            });
        }
        let nodes = nodes_of(&state.registry());
        for (held, verdict) in state.verdicts(state.continuing(about)?)? {
            let is_of_others = nodes.as_ref().is_ok_and(|nodes| held.report.nodes() != nodes);
            let shown = match verdict {
                // The network has changed since.
                PayerReportVerdict::Attested if is_of_others => {
                    ReportState::Waiting(OTHER_NODES.to_owned())
                }
                PayerReportVerdict::Attested => ReportState::Attested,
                PayerReportVerdict::Equal => ReportState::Equal,
                PayerReportVerdict::Different(differences) => ReportState::Refused(differences),
                PayerReportVerdict::NotNow(why) => ReportState::Waiting(why),
                PayerReportVerdict::Unjudged => ReportState::Waiting(UNJUDGED.into()),
            };
            views.push(ReportView {
                id: held.id,
                report: held.report.clone(),
                writers: writers(&held),
                attested_by: state.counted_attesters(&held),
                state: shown,
            });
        }
        Ok(())
    }

    /// Returns the usage of a payer at all originators, apart: what no settlement has taken yet, and what one has.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`ReportStepError`].
    pub fn usage_of(&self, payer: PayerAddress) -> Result<PayerUsage, ReportStepError> {
        let now = self.0.chain_now()?;
        if !now.snapshot.knows_balances()? {
            return Err(ReportStepError::NoBalances);
        }
        Ok(usage_of(&now.snapshot, &now.reports, payer)?)
    }
}

impl PayerReporterState {
    /// Returns the comparison of a report with the amounts that this node kept when it computed the report as its
    /// writer did. The log may have changed since, and these amounts are settled all the same. `None` if there are
    /// none, or if a damaged folder has other ones.
    fn compared_with_kept(&self, id: ReportId, report: &PayerReport) -> Option<ComparedReport> {
        let leaves = self.known_leaves.lock().of(id)?;
        let is_same = self.computations.compute(|| leaves.root() == report.root());
        let leaves = is_same.then(|| (*leaves).clone())?;
        Some(ComparedReport { leaves: Some(leaves), ..ComparedReport::default() })
    }

    /// Returns the nodes whose attestations of a report count. Any node can publish one with a wrong signature, and an
    /// operator would take the report for one that can be submitted.
    fn counted_attesters(&self, held: &HeldReport) -> Vec<OriginatorId> {
        let counted = counted(&self.registry(), held).counted;
        counted.into_iter().map(|attestation| attestation.node).collect()
    }
}

fn writers(held: &HeldReport) -> Vec<OriginatorId> {
    held.written.iter().map(|at| at.originator).collect()
}

fn attesters(held: &HeldReport) -> Vec<OriginatorId> {
    held.attestations.iter().map(|it| it.node).collect()
}

#[cfg(test)]
mod tests {
    use hawser_rules::payer_report::{AmountCause, NodeIds, RangeEnd};

    use super::*;

    fn explained(
        state: ReportState,
        waits_for: Option<&str>,
        differences: Vec<ReportDifference>,
    ) -> ReportExplained {
        let end = RangeEnd { minute: 5, sequence: SequenceId(9) };
        let nodes = NodeIds::new([OriginatorId(100)]).unwrap();
        let report =
            PayerReport::new(OriginatorId(100), SequenceId::NONE, end, [7; 32], nodes).unwrap();
        let id = ReportId([1; 32]);
        let (writers, attested_by) = (Vec::new(), Vec::new());
        ReportExplained {
            view: ReportView { id, report, writers, attested_by, state },
            compared: ComparedReport { differences, ..ComparedReport::default() },
            waits_for: waits_for.map(Into::into),
        }
    }

    #[test]
    fn reasons_are_in_order_and_each_is_there_once() {
        let minute = ReportDifference::EndMinute { reported: 6, held: 5 };
        let amounts = |cause| ReportDifference::Amounts { reported: [7; 32], own: [8; 32], cause };
        let sought = amounts(AmountCause::BeforeMinute(4));
        let found = vec![minute.clone(), sought.clone()];
        let refused = ReportState::Refused(vec![minute.clone(), amounts(AmountCause::NotSought)]);
        let reasons = explained(refused, None, found.clone()).reasons();
        assert_eq!(reasons, [minute.to_string(), sought.to_string()], "only with the cause");
        let waiting = ReportState::Waiting("it waits".into());
        let reasons = explained(waiting.clone(), Some("it lacks a place"), found).reasons();
        let [minute_text, sought_text] = [minute.to_string(), sought.to_string()];
        assert_eq!(reasons, ["it waits", "it lacks a place", &minute_text, &sought_text]);
        let once = explained(waiting, Some("it waits"), Vec::new());
        assert_eq!((once.reasons(), once.is_equal()), (vec!["it waits".to_owned()], false));
        assert!(explained(ReportState::Equal, None, Vec::new()).reasons().is_empty());
    }
}
