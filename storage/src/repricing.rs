//! The progress of the minutes that are being priced again.

use std::collections::{BTreeMap, HashMap, HashSet};

use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::price::Rate;
use hawser_proto::{OriginatorId, PayerAddress, SequenceId};

use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::usage::UsageRow;

/// The work on marked minutes between two steps. At most one minute of each strand is under way.
#[derive(Debug, Default)]
pub(crate) struct Repricing {
    /// The strand of the last step. The next one above it is served next.
    pub(crate) last: OriginatorId,
    /// Strands whose marks are changing. Their minutes wait, so that each is read once, after all marks are final.
    pub(crate) judged: HashSet<OriginatorId>,
    scans: HashMap<OriginatorId, MinuteScan>,
}

impl Repricing {
    /// Removes and returns the minute of a strand that is under way.
    pub(crate) fn take(&mut self, originator: OriginatorId) -> Option<MinuteScan> {
        self.scans.remove(&originator)
    }

    pub(crate) fn put(&mut self, scan: MinuteScan) {
        self.scans.insert(scan.at.originator, scan);
    }

    /// Drops the scans of these strands, because an envelope or a mark below the head has changed. The caller holds
    /// their heads, so no step is running.
    pub(crate) fn forget(&mut self, strands: impl Iterator<Item = OriginatorId>) {
        strands.for_each(|strand| _ = self.scans.remove(&strand));
    }

    /// Drops all scans, because the log or its rows are about to change.
    pub(crate) fn forget_all(&mut self) {
        self.scans.clear();
    }
}

/// A minute of a strand that is being read in parts.
#[derive(Debug)]
pub(crate) struct MinuteScan {
    pub(crate) at: CongestionKey,
    /// The rates with which the amounts in `piece` are calculated.
    pub(crate) rates: Vec<Rate>,
    pub(crate) span: MinuteSpan,
    /// The last place that has been read.
    pub(crate) read: SequenceId,
    /// Messages of each minute of the window before the next place.
    pub(crate) earlier: [u64; CONGESTION_MINUTES],
    /// Rows of usage up to here, of the payers that this reading is about.
    pub(crate) piece: UsagePiece,
    /// The count of the minute up to here.
    pub(crate) counted: CongestionRow,
}

impl MinuteScan {
    /// Starts the scan of a minute, for one piece of its usage.
    pub(crate) fn new(
        at: CongestionKey,
        span: MinuteSpan,
        rates: Vec<Rate>,
        piece: UsagePiece,
    ) -> Self {
        let (read, earlier) = (span.first.previous(), span.earlier);
        let counted = CongestionRow::default();
        Self { at, rates, span, read, earlier, piece, counted }
    }

    /// Returns true if the scan can continue: it is of this minute, with these rates, and new envelopes have only
    /// moved the end of its span.
    pub(crate) fn is_of(&self, at: CongestionKey, span: &MinuteSpan, rates: &[Rate]) -> bool {
        let MinuteSpan { first, last: _, earlier, is_counted } = span;
        self.at == at
            && self.rates == rates
            && self.span.first == *first
            && self.span.earlier == *earlier
            && self.span.is_counted == *is_counted
    }
}

/// The usage of a minute by neighbouring payers, by address. A minute has any number of payers, so each reading of it
/// is about a piece of bounded size.
#[derive(Debug)]
pub(crate) struct UsagePiece {
    /// The first payer.
    from: PayerAddress,
    /// The payer before which the piece ends; `None` for the last piece.
    below: Option<PayerAddress>,
    rows: BTreeMap<PayerAddress, UsageRow>,
    rows_max: usize,
}

impl UsagePiece {
    /// Creates a piece that begins with a payer. It has at most `rows_max` rows, which is at least 1.
    pub(crate) fn starting_at(from: PayerAddress, rows_max: usize) -> Self {
        assert!(rows_max > 0, "a piece without rows is no progress");
        Self { from, below: None, rows: BTreeMap::new(), rows_max }
    }

    pub(crate) fn first(&self) -> PayerAddress {
        self.from
    }

    /// Returns the payer with which the next piece begins; `None` for the last piece.
    pub(crate) fn rest(&self) -> Option<PayerAddress> {
        self.below
    }

    pub(crate) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Returns true if the rows of a payer belong to the piece.
    pub(crate) fn contains(&self, payer: PayerAddress) -> bool {
        self.from <= payer && self.below.is_none_or(|below| payer < below)
    }

    /// Returns true if the payer has usage in the piece.
    pub(crate) fn has_usage_of(&self, payer: PayerAddress) -> bool {
        self.rows.contains_key(&payer)
    }

    /// Adds usage of a payer of the piece. If it has too many rows then, it ends with the lower half of them.
    pub(crate) fn add(&mut self, payer: PayerAddress, row: UsageRow) {
        debug_assert!(self.contains(payer), "usage of {payer} is in another piece");
        self.rows.entry(payer).or_default().add(row);
        if self.rows.len() > self.rows_max
            && let Some(&middle) = self.rows.keys().nth(self.rows.len() / 2)
        {
            self.end_before(middle);
        }
    }

    /// Ends the piece before a payer. Drops the usage of that one and of those behind it.
    pub(crate) fn end_before(&mut self, payer: PayerAddress) {
        debug_assert!(self.from < payer, "a piece has at least one payer");
        drop(self.rows.split_off(&payer));
        self.below = Some(payer);
    }

    /// Returns the rows, by ascending payer.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (PayerAddress, UsageRow)> {
        self.rows.iter().map(|(payer, row)| (*payer, *row))
    }
}

/// The places to read for one minute.
#[derive(Debug, Clone)]
pub(crate) struct MinuteSpan {
    pub(crate) first: SequenceId,
    pub(crate) last: SequenceId,
    /// Messages of each minute of the window that is completely before the span.
    pub(crate) earlier: [u64; CONGESTION_MINUTES],
    /// True for these minutes. The messages of the other minutes are counted while they are read.
    pub(crate) is_counted: [bool; CONGESTION_MINUTES],
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;

    fn payer(number: u8) -> PayerAddress {
        Address([number; 20])
    }

    /// Returns the usage of all payers, piece by piece, and the number of pieces. `order` is the order in which the
    /// payers have usage in the log.
    fn read_in_pieces(order: &[u8], rows_max: usize) -> (Vec<(PayerAddress, UsageRow)>, usize) {
        let (mut all, mut from) = (Vec::new(), Some(PayerAddress::default()));
        let mut pieces = 0;
        while let Some(first) = from {
            let mut piece = UsagePiece::starting_at(first, rows_max);
            for number in order.iter().copied().filter(|number| *number > 0) {
                if piece.contains(payer(number)) {
                    piece.add(payer(number), UsageRow { messages: 1, ..UsageRow::default() });
                }
                assert!(piece.rows().count() <= rows_max);
            }
            all.extend(piece.rows());
            (from, pieces) = (piece.rest(), pieces + 1);
        }
        (all, pieces)
    }

    #[test]
    fn pieces_of_any_size_have_each_payer_once_with_all_of_its_usage() {
        for seed in 0..50_u32 {
            // Multiplication by an odd number spreads the payers over the order.
            let number = |place: u32| (place * place + seed).wrapping_mul(0x9e37_79b9) >> 27;
            let order: Vec<u8> =
                (0..200).map(|place| u8::try_from(number(place)).unwrap()).collect();
            let (whole, pieces) = read_in_pieces(&order, 1000);
            assert_eq!(pieces, 1);
            for rows_max in 1..10 {
                let (read, pieces) = read_in_pieces(&order, rows_max);
                assert_eq!(read, whole, "seed {seed}, {rows_max} rows");
                let least = whole.len().div_ceil(rows_max);
                assert!((least..=whole.len()).contains(&pieces), "{pieces} pieces, seed {seed}");
            }
        }
    }
}
