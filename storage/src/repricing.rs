//! The progress of the minutes that are being priced again.

use std::collections::{HashMap, HashSet};

use hawser_proto::{OriginatorId, SequenceId};

use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::rate::RateRow;
use crate::keys::usage::{UsageKey, UsageRow};
use crate::price::CONGESTION_MINUTES;

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
    /// The rates with which the amounts in `usage` are calculated.
    pub(crate) rates: Vec<RateRow>,
    pub(crate) span: MinuteSpan,
    /// The last place that has been read.
    pub(crate) read: SequenceId,
    /// Messages of each minute of the window before the next place.
    pub(crate) earlier: [u64; CONGESTION_MINUTES],
    /// Rows of usage up to here.
    pub(crate) usage: HashMap<UsageKey, UsageRow>,
    /// The count of the minute up to here.
    pub(crate) counted: CongestionRow,
}

impl MinuteScan {
    /// Starts the scan of a minute.
    pub(crate) fn new(at: CongestionKey, span: MinuteSpan, rates: Vec<RateRow>) -> Self {
        let (read, earlier) = (span.first.previous(), span.earlier);
        let counted = CongestionRow::default();
        Self { at, rates, span, read, earlier, usage: HashMap::new(), counted }
    }

    /// Returns true if the scan can continue: it is of this minute, with these rates, and new envelopes have only
    /// moved the end of its span.
    pub(crate) fn is_of(&self, at: CongestionKey, span: &MinuteSpan, rates: &[RateRow]) -> bool {
        let MinuteSpan { first, last: _, earlier, is_counted } = span;
        self.at == at
            && self.rates == rates
            && self.span.first == *first
            && self.span.earlier == *earlier
            && self.span.is_counted == *is_counted
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
