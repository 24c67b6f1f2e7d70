//! The amount of reports about each node.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;

use crate::evidence_index::{Amount, LeftOut};
use crate::keys::report::{ReportClass, ReportTime};

/// The amounts by node and class, and the last time. An entry for each accused node and class, which the
/// registry bounds.
#[derive(Debug, Default)]
pub(crate) struct ReportIndex {
    pub(crate) last: ReportTime,
    pub(crate) left_out: LeftOut<ReportClass>,
    amounts: BTreeMap<(OriginatorId, ReportClass), Amount>,
}

impl ReportIndex {
    pub(crate) fn of(&mut self, accused: OriginatorId, class: ReportClass) -> &mut Amount {
        self.amounts.entry((accused, class)).or_default()
    }

    pub(crate) fn add(&mut self, accused: OriginatorId, class: ReportClass, len_bytes: u32) {
        let amount = self.of(accused, class);
        amount.pieces += 1;
        amount.bytes += u64::from(len_bytes);
    }

    pub(crate) fn remove(&mut self, accused: OriginatorId, class: ReportClass, len_bytes: u32) {
        let amount = self.of(accused, class);
        amount.pieces = amount.pieces.saturating_sub(1);
        amount.bytes = amount.bytes.saturating_sub(u64::from(len_bytes));
    }

    /// Returns the number of reports by node and class.
    pub(crate) fn counts(&self) -> BTreeMap<(OriginatorId, ReportClass), u64> {
        self.amounts.iter().map(|(key, amount)| (*key, amount.pieces)).collect()
    }
}
