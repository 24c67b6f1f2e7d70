//! The parts of ranges that were not checked, as numbers that add up.

use hawser_proto::OriginatorId;
use serde::{Deserialize, Serialize};

use crate::export::columns::ColumnJudgement;
use crate::replay::run::{UNPROVEN, unchecked_strands};

/// Numbers of things that a check of a range could not judge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UncheckedCounts {
    /// Envelopes whose fees no given rates judge.
    pub(super) fees: u64,
    /// Envelopes with a payer whose rows name none.
    pub(super) payers: u64,
    /// Rows that lack columns.
    pub(super) columns: u64,
    /// Checkpoints, cosignatures and statements about void places of nodes that the registry does not name.
    pub(super) signers: u64,
    /// Cosignatures of witnesses.
    pub(super) witnesses: u64,
    /// Envelopes that break a rule of which their signer may be innocent. Programs of earlier versions do not count
    /// them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) unproven: u64,
}

/// Returns true for a number that programs of earlier versions need not read.
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl UncheckedCounts {
    /// Counts the columns that the comparison of a row left out.
    pub(super) fn of_columns(judged: &ColumnJudgement) -> Self {
        Self {
            payers: u64::from(judged.lacks_payer),
            columns: u64::from(judged.lacks_columns),
            ..Self::default()
        }
    }

    /// Adds the numbers of another part. They may be false, so sums saturate.
    pub(super) fn add(&mut self, other: Self) {
        self.fees = self.fees.saturating_add(other.fees);
        self.payers = self.payers.saturating_add(other.payers);
        self.columns = self.columns.saturating_add(other.columns);
        self.signers = self.signers.saturating_add(other.signers);
        self.witnesses = self.witnesses.saturating_add(other.witnesses);
        self.unproven = self.unproven.saturating_add(other.unproven);
    }

    /// Returns the parts of these strands that were not checked, in sentences for people.
    pub(super) fn sentences(self, strands: &[OriginatorId]) -> Vec<String> {
        let mut unchecked = unchecked_strands(strands);
        let mut note = |count: u64, text: &str| {
            if count > 0 {
                unchecked.push(text.replace('#', &count.to_string()));
            }
        };
        note(self.fees, "the fees of # envelopes: no given rates are of their time (--rates)");
        note(self.payers, "the payers of # envelopes: their rows name none (--without-payers)");
        note(self.columns, "the other columns of # rows: their lines do not have them all");
        note(
            self.signers,
            "# checkpoints and cosignatures, or statements about void places, of nodes that the registry does \
             not name",
        );
        note(self.witnesses, "# cosignatures of witnesses");
        note(self.unproven, UNPROVEN);
        unchecked
    }
}
