//! Counts of the worker of payer reports since it was created.

use std::collections::BTreeMap;

use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::{PayerFee, ReportDifference};
use parking_lot::Mutex;

/// Counts of the worker's decisions and settlements since it was created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PayerReportTotals {
    /// Reports that this node has attested.
    pub signed: u64,
    /// Reports that this node has refused, because it computes other figures. Each counts once, however often it is
    /// looked at.
    pub refused: u64,
    /// The differences of the refused ones, by [reason](ReportDifference::reason).
    pub differences: BTreeMap<&'static str, u64>,
    /// Amounts of the leaves that this node has settled. Saturates.
    pub settled_picodollars: PicoDollarPrice,
}

/// The counts while they are made.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<PayerReportTotals>);

impl Totals {
    pub(super) fn read(&self) -> PayerReportTotals {
        self.0.lock().clone()
    }

    pub(super) fn note_signed(&self) {
        self.0.lock().signed += 1;
    }

    pub(super) fn note_refused(&self, differences: &[ReportDifference]) {
        let mut totals = self.0.lock();
        totals.refused += 1;
        for difference in differences {
            *totals.differences.entry(difference.reason()).or_default() += 1;
        }
    }

    pub(super) fn note_settled(&self, leaves: &[PayerFee]) {
        let mut totals = self.0.lock();
        for leaf in leaves {
            totals.settled_picodollars = totals.settled_picodollars.plus(leaf.fee.into());
        }
    }
}
