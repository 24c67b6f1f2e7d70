//! Payer reports as an operator sees them: those that nodes have written and those on the chain, and why this
//! node does not attest one.

use hawser_proto::{OriginatorId, PayerAddress};
use hawser_rules::payer_report::explain::AmountCause;
use hawser_rules::payer_report::{Leaves, MinuteOfPayer, PayerReport, ReportDifference, ReportId};

use super::{PayerReportVerdict, PayerReporter, ReportStepError, UNJUDGED};
use crate::payer_reports::{
    EXPLAINED_ROWS_MAX, PayerUsage, Recomputed, SETTLED_KEPT, recompute_explained, usage_of,
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
    /// The nodes whose attestations of the report this node has.
    pub attested_by: Vec<OriginatorId>,
    /// Its state.
    pub state: ReportState,
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
    /// It cannot be judged now.
    Waiting(String),
    /// The chain has it. Some leaves may be settled.
    OnChain {
        /// Its place in the contract's list.
        index: u64,
        /// Leaves that are settled.
        leaves_settled: u64,
        /// Their sum, microdollars.
        microdollars: u64,
        /// True if no leaf is left.
        is_settled: bool,
    },
}

/// A report beside this node's own figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportExplained {
    /// The report.
    pub view: ReportView,
    /// This node's amounts, if it computes the same report.
    pub leaves: Option<Leaves>,
    /// The differences, if it computes another report.
    pub differences: Vec<ReportDifference>,
    /// The minutes of payers in which the originator charged other fees than the rates give, if the report was made of
    /// those.
    pub minutes: Vec<MinuteOfPayer>,
}

impl PayerReporter {
    /// Returns the reports of all originators: first the newest ones on the chain, then those that would continue them.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`ReportStepError`].
    pub fn reports(&self) -> Result<Vec<ReportView>, ReportStepError> {
        let mut views = Vec::new();
        for about in self.originators() {
            self.reports_about(about, &mut views)?;
        }
        Ok(views)
    }

    /// Computes a report again, and returns it with the differences and their causes; `None` if it is not among those that
    /// [`reports`](Self::reports) returns. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReportStepError`].
    pub fn explain(&self, id: &str) -> Result<Option<ReportExplained>, ReportStepError> {
        let Ok(id) = id.parse::<ReportId>() else { return Ok(None) };
        let Some(view) = self.reports()?.into_iter().find(|view| view.id == id) else {
            return Ok(None);
        };
        let snapshot = self.0.engine.store().snapshot();
        let (leaves, differences) =
            match recompute_explained(&snapshot, &view.report, EXPLAINED_ROWS_MAX)? {
                Recomputed::Equal(leaves) => (Some(leaves), Vec::new()),
                Recomputed::Different(differences) => (None, differences),
                Recomputed::NotYet(why) => return Err(why.into()),
            };
        let stated = differences.iter().filter_map(|difference| match difference {
            ReportDifference::Amounts { cause: AmountCause::StatedFees(rows), .. } => {
                Some(rows.clone())
            }
            _ => None,
        });
        let minutes = stated.flatten().collect();
        Ok(Some(ReportExplained { view, leaves, differences, minutes }))
    }

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
                    microdollars: kept.microdollars,
                    is_settled: kept.is_settled,
                },
            });
        }
        for (held, verdict) in state.verdicts(state.continuing(about)?)? {
            let shown = match verdict {
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
                attested_by: attesters(&held),
                state: shown,
            });
        }
        Ok(())
    }

    /// Returns the usage of a payer at all originators, apart: what no settlement has taken yet, and what one has. In
    /// picodollars. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReportStepError`].
    pub fn usage_of(&self, payer: PayerAddress) -> Result<PayerUsage, ReportStepError> {
        let now = self.0.chain_now()?;
        Ok(usage_of(&now.snapshot, &now.reports, payer)?)
    }
}

fn writers(held: &crate::payer_reports::HeldReport) -> Vec<OriginatorId> {
    held.written.iter().map(|at| at.originator).collect()
}

fn attesters(held: &crate::payer_reports::HeldReport) -> Vec<OriginatorId> {
    held.attestations.iter().map(|it| it.node).collect()
}
