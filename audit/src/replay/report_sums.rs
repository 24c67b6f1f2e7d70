//! The amounts of one report on the chain, as a log gives them.

use std::collections::BTreeMap;

use hawser_proto::{Address, EnvelopeId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::tree::Hash;
use hawser_rules::payer_report::{Leaves, searched_trees_max};

/// The fees of payers.
pub(super) type FeesByPayer = BTreeMap<Address, PicoDollarPrice>;

/// The maximum number of late envelopes of a report that are remembered one by one. A guess: 2 MB.
const LATE_MAX: usize = 50_000;

/// The amounts of a report that is being read.
#[derive(Debug, Default)]
pub(super) struct ReportSums {
    /// The sums of envelopes up to the report's end.
    in_range: FeesByPayer,
    /// The fees of envelopes that follow its end and are dated into its minutes, in the order of the strand.
    late: Vec<(EnvelopeId, Address, PicoDollarPrice)>,
    /// True if there are more late envelopes than are remembered.
    has_more: bool,
}

/// The amounts that a log gives for a report.
pub(super) struct ReportLeaves {
    /// The amounts.
    pub(super) leaves: Leaves,
    /// The first envelope that is not in them although its time is in the report's minutes.
    pub(super) late: Option<EnvelopeId>,
    /// True if the amounts with every number of late envelopes were compared with the report.
    pub(super) are_all_compared: bool,
}

impl ReportSums {
    /// Adds the fee of an envelope. `end` is the last sequence id of the report.
    pub(super) fn add(&mut self, id: EnvelopeId, end: u64, payer: Address, fee: PicoDollarPrice) {
        if id.sequence.0 <= end {
            add(&mut self.in_range, payer, fee);
        } else if self.late.len() < LATE_MAX {
            self.late.push((id, payer, fee));
        } else {
            self.has_more = true;
        }
    }

    /// Adds fees of the report's range.
    pub(super) fn add_sums(&mut self, sums: FeesByPayer) {
        if self.in_range.is_empty() {
            self.in_range = sums;
        } else {
            sums.into_iter().for_each(|(payer, fee)| add(&mut self.in_range, payer, fee));
        }
    }

    /// Returns the amounts whose tree has this root. If none have it, returns the amounts of the report's range without
    /// late envelopes.
    ///
    /// An originator can date envelopes back at any time, and nodes leave out envelopes that came after they had
    /// computed the report: all late ones, or those from some place on (`docs/protocol/payer-reports.md`). So this
    /// compares the amounts with no late envelope, with the first one, with the first two, and so on. Then it compares
    /// the amounts with all late envelopes, with all but the last one, and so on.
    pub(super) fn leaves(self, root: Hash) -> ReportLeaves {
        let without = Leaves::sum(self.in_range.clone());
        let late = self.late.first().map(|(id, ..)| *id);
        if without.root() == root || late.is_none() {
            return ReportLeaves { leaves: without, late, are_all_compared: true };
        }
        let tried = searched_trees_max(self.in_range.len() + self.late.len());
        let count = self.late.len();
        let from_end = (count.saturating_sub(tried).max(1)..=count).rev();
        for kept in (1..=count.min(tried)).chain(from_end) {
            let mut sums = self.in_range.clone();
            self.late[..kept].iter().for_each(|(_, payer, fee)| add(&mut sums, *payer, *fee));
            let leaves = Leaves::sum(sums);
            if leaves.root() == root {
                let late = self.late.get(kept).map(|(id, ..)| *id);
                return ReportLeaves { leaves, late, are_all_compared: true };
            }
        }
        let are_all_compared = !self.has_more && count <= 2 * tried;
        ReportLeaves { leaves: without, late, are_all_compared }
    }
}

/// Adds a fee to the sum of its payer.
pub(super) fn add(sums: &mut FeesByPayer, payer: Address, fee: PicoDollarPrice) {
    let sum = sums.entry(payer).or_default();
    *sum = sum.plus(fee);
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

    use super::*;

    fn id(sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(100), SequenceId(sequence))
    }

    fn sums(late: u64) -> ReportSums {
        let mut sums = ReportSums::default();
        for sequence in 1..=10 + late {
            sums.add(
                id(sequence),
                10,
                Address([u8::try_from(sequence % 3).unwrap(); 20]),
                PicoDollarPrice(sequence),
            );
        }
        sums
    }

    /// Nodes that had already received some late envelopes have attested the report with these.
    #[test]
    fn a_report_may_have_any_number_of_the_late_envelopes() {
        for late in [1, 2, 30] {
            for kept in 0..=late {
                let expected = sums(kept);
                let mut all = expected.in_range;
                expected.late.iter().for_each(|(_, payer, fee)| add(&mut all, *payer, *fee));
                let root = Leaves::sum(all).root();
                let found = sums(late).leaves(root);
                assert_eq!(found.leaves.root(), root, "{kept} of {late}");
                assert_eq!(found.late, (kept < late).then(|| id(11 + kept)));
            }
        }
        let false_report = sums(30).leaves([9; 32]);
        assert!(false_report.are_all_compared && false_report.late == Some(id(11)));
    }

    #[test]
    fn more_late_envelopes_than_are_compared_refute_nothing() {
        let mut many = sums(100);
        // With so many payers, 16 trees are computed from either end.
        for payer in 0..62_500_u32 {
            let mut address = [7; 20];
            address[..4].copy_from_slice(&payer.to_be_bytes());
            many.add(id(1), 10, Address(address), PicoDollarPrice(1));
        }
        let found = many.leaves([9; 32]);
        assert!(!found.are_all_compared);
    }
}
