//! Amounts of payer reports that this node keeps until the reports are settled. The log may give others by then.

use hawser_proto::{OriginatorId, PayerAddress, SequenceId};

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::store::Store;

/// Length of the amount of a payer in the row, bytes.
const AMOUNT_LEN_BYTES: usize = 28;

/// The amounts of the payers in one payer report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportAmounts {
    /// The report's id.
    pub report: [u8; 32],
    /// The originator that it is about.
    pub about: OriginatorId,
    /// The sequence id before its range.
    pub start: SequenceId,
    /// The payers, each with its amount, picodollars.
    pub amounts: Vec<(PayerAddress, u64)>,
}

impl ReportAmounts {
    fn encode_into(&self, row: &mut Vec<u8>) {
        row.extend(self.report);
        row.extend(self.about.0.to_be_bytes());
        row.extend(self.start.0.to_be_bytes());
        row.extend((self.amounts.len() as u64).to_be_bytes());
        for (payer, picodollars) in &self.amounts {
            row.extend(payer.0);
            row.extend(picodollars.to_be_bytes());
        }
    }

    /// Decodes the first report of a row. Returns the rest of the row, too.
    fn decode_first(row: &[u8]) -> Option<(Self, &[u8])> {
        let (report, row) = row.split_first_chunk::<32>()?;
        let (about, row) = row.split_first_chunk::<4>()?;
        let (start, row) = row.split_first_chunk::<8>()?;
        let (count, row) = row.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_be_bytes(*count)).ok()?;
        let (amounts, rest) = row.split_at_checked(count.checked_mul(AMOUNT_LEN_BYTES)?)?;
        let (amounts, _) = amounts.as_chunks::<AMOUNT_LEN_BYTES>();
        let found = Self {
            report: *report,
            about: OriginatorId(u32::from_be_bytes(*about)),
            start: SequenceId(u64::from_be_bytes(*start)),
            amounts: amounts.iter().map(decode_amount).collect(),
        };
        Some((found, rest))
    }

    /// Decodes the row of all of them.
    fn decode_all(mut row: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !row.is_empty() {
            let (first, rest) = Self::decode_first(row)?;
            all.push(first);
            row = rest;
        }
        Some(all)
    }
}

fn decode_amount(bytes: &[u8; AMOUNT_LEN_BYTES]) -> (PayerAddress, u64) {
    let (payer, picodollars) = bytes.split_first_chunk().expect("28 bytes");
    let picodollars = picodollars.try_into().expect("8 bytes");
    (hawser_proto::Address(*payer), u64::from_be_bytes(picodollars))
}

impl Store {
    /// Returns the amounts that were recorded last, in their order.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn report_amounts(&self) -> Result<Vec<ReportAmounts>, ReadError> {
        self.database().read_list(MetaKey::ReportAmounts, ReportAmounts::decode_all)
    }

    /// Records the amounts of all reports that are kept now, in place of those before. The caller bounds their number.
    /// The write becomes durable with the next commit.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_report_amounts(&self, all: &[ReportAmounts]) -> Result<(), CommitError> {
        let mut row = Vec::new();
        all.iter().for_each(|amounts| amounts.encode_into(&mut row));
        self.database().record_list(MetaKey::ReportAmounts, &row)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;
    use crate::testing::store;

    fn of_report(number: u8, payers: u8) -> ReportAmounts {
        ReportAmounts {
            report: [number; 32],
            about: OriginatorId(200),
            start: SequenceId(7),
            amounts: (0..payers).map(|payer| (Address([payer; 20]), u64::MAX)).collect(),
        }
    }

    #[test]
    fn what_is_recorded_last_is_read_back() {
        let store = store();
        assert_eq!(store.report_amounts().unwrap(), []);
        let all = [of_report(1, 3), of_report(2, 0), of_report(3, 1)];
        store.record_report_amounts(&all).unwrap();
        assert_eq!(store.report_amounts().unwrap(), all);
        store.record_report_amounts(&all[1..2]).unwrap();
        assert_eq!(store.report_amounts().unwrap(), all[1..2]);
    }

    #[test]
    fn the_form_is_pinned_and_a_part_of_it_or_a_false_count_is_damage() {
        let mut row = Vec::new();
        of_report(9, 1).encode_into(&mut row);
        let head = [&[9; 32][..], &[0, 0, 0, 200], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
        let amount = [&[0; 20][..], &[255; 8]].concat();
        assert_eq!(row, [&head[..], &[0, 0, 0, 0, 0, 0, 0, 1], &amount[..]].concat());
        for len in 1..row.len() {
            assert_eq!(ReportAmounts::decode_all(&row[..len]), None, "{len} bytes");
        }
        for count in [2, u64::MAX / 28, u64::MAX] {
            let row = [&head[..], &count.to_be_bytes(), &amount[..]].concat();
            assert_eq!(ReportAmounts::decode_all(&row), None, "{count}");
        }
    }
}
