//! The amounts of one report on the chain, as a log gives them.

use std::collections::BTreeMap;

use hawser_proto::{Address, EnvelopeId};
use hawser_rules::payer_report::Leaves;
use hawser_rules::payer_report::tree::Hash;

type Sums = BTreeMap<Address, u64>;

/// The amounts of a report that is being read.
#[derive(Debug, Default)]
pub(super) struct ReportSums {
    /// Those of envelopes up to the report's end.
    in_range: Sums,
    /// Those of envelopes that follow its end and are dated into its minutes.
    late: Sums,
    first_late: Option<EnvelopeId>,
}

impl ReportSums {
    /// Adds the fee of an envelope. `end` is the last sequence id of the report.
    pub(super) fn add(&mut self, id: EnvelopeId, end: u64, payer: Address, fee: u64) {
        let is_late = id.sequence.0 > end;
        if is_late {
            self.first_late.get_or_insert(id);
        }
        let sums = if is_late { &mut self.late } else { &mut self.in_range };
        let sum = sums.entry(payer).or_default();
        *sum = sum.saturating_add(fee);
    }

    /// Returns the amounts, and the first envelope that is not in them although its time is in the report's minutes.
    ///
    /// Nodes leave such envelopes out, because an originator can date them back at any time (`docs/protocol/payer-reports.md`).
    /// A report may have been written by a node of other software, or have another root on the chain than this log gives: all
    /// amounts count if they give its root.
    pub(super) fn leaves(self, root: Hash) -> (Leaves, Option<EnvelopeId>) {
        let without = Leaves::sum(self.in_range.clone());
        let Some(first_late) = self.first_late.filter(|_| without.root() != root) else {
            return (without, self.first_late);
        };
        let mut all = self.in_range;
        for (payer, fee) in self.late {
            let sum = all.entry(payer).or_default();
            *sum = sum.saturating_add(fee);
        }
        let all = Leaves::sum(all);
        match all.root() == root {
            true => (all, None),
            false => (without, Some(first_late)),
        }
    }
}
