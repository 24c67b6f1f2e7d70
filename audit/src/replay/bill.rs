//! The bill of a payer, computed again from the log: the cost of its envelopes by the rates, compared with the charges
//! of the reports on the chain.
//!
//! A report contains only the root of all amounts, so the amounts of all payers are computed: if the root is the same,
//! the payer's leaf is under it. If the source leaves places out, nothing is proven and nothing refuted.

use hawser_proto::{Address, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_rules::payer_report::SettledAmount;
use hawser_rules::{PicoDollarPrice, RateTable, Registry};
use serde::Serialize;

use super::check::{CheckedEnvelope, CheckedRow, Checker, Signed};
use super::fault::{Fault, FaultKind, Faults};
use super::item::{SourceError, StrandRow};
use super::pipeline;
use super::repeats::{RepeatFinder, RepeatedCharges};
use super::report_ranges::{BilledReport, FeePart, FinishedRange, ReportRanges};
use super::report_sums::ReportLeaves;
use super::source::LogSource;
use super::tally::{MinuteCounts, OPEN_MINUTES, price};

/// Everything that a bill is computed by.
#[derive(Debug, Clone)]
pub struct BillSettings {
    /// The payer.
    pub payer: Address,
    /// The nodes with their keys.
    pub registry: Registry,
    /// The key that signed the strands of the older network, which no registry names; `None` if it is not known.
    pub migration_key: Option<PublicKey>,
    /// The history of rates.
    pub rates: RateTable,
    /// Threads that check.
    pub threads: usize,
}

/// The finding about a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BillVerdict {
    /// The log gives the root of the report: the payer's leaf is proven to be in it.
    Proven,
    /// The log gives another root.
    OtherRoot,
    /// The log gives another root, and places of it were not shown, or more envelopes are dated back into the report
    /// than can be compared with it one by one.
    NotShown,
}

/// A part of a strand that could not be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnverifiedPart {
    /// The signatures of the originator: its key is not known. So places and times of the envelopes are claims of the
    /// source. The signatures of payers are verified.
    OriginatorSignatures,
    /// The rules that envelopes have to keep, such as that a payer signed for this originator: they are checked with
    /// the key.
    Rules,
}

impl UnverifiedPart {
    /// Returns the part in words for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::OriginatorSignatures => "the signatures of the originator",
            Self::Rules => "the rules for envelopes, such as their target",
        }
    }
}

/// The payer's part of one report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BilledPart {
    /// The report's place in the contract's list for the originator.
    pub index: u64,
    /// The last minute of its range as the chain states it, since the unix epoch.
    pub end_minute: u32,
    /// The minute of the envelope at its end, with which its range ends; `None` if the envelope was not shown. If the
    /// chain states another one, its statement is false; the amounts may be right.
    pub log_end_minute: Option<u32>,
    /// The payer's fees in its range by the rates.
    #[serde(serialize_with = "super::amount_text::serialize")]
    pub picodollars: PicoDollarPrice,
    /// The amount that a settlement takes for them.
    #[serde(serialize_with = "super::amount_text::serialize_settled")]
    pub microdollars: SettledAmount,
    /// True if it was taken.
    pub is_settled: bool,
    /// The finding.
    pub verdict: BillVerdict,
}

impl BilledPart {
    /// Returns true if the chain states another end minute than the log gives.
    #[must_use]
    pub fn has_other_end_minute(&self) -> bool {
        self.log_end_minute.is_some_and(|minute| minute != self.end_minute)
    }
}

/// The payer's bill at one originator.
#[derive(Debug, Clone, Serialize)]
pub struct StrandBill {
    /// The originator.
    pub originator_id: OriginatorId,
    /// Envelopes that the payer pays for.
    pub envelopes: u64,
    /// Fees of the payer as the originator stated them.
    #[serde(serialize_with = "super::amount_text::serialize")]
    pub stated_picodollars: PicoDollarPrice,
    /// Parts by report, in the contract's order.
    pub parts: Vec<BilledPart>,
    /// Fees after the last report.
    #[serde(serialize_with = "super::amount_text::serialize")]
    pub unreported_picodollars: PicoDollarPrice,
    /// Places that the source did not show.
    pub not_shown: u64,
    /// Payer envelopes that were charged more than once.
    pub charged_again: RepeatedCharges,
    /// The parts that could not be verified.
    pub unverified: Vec<UnverifiedPart>,
    /// The faults of the strand.
    pub faults: Faults,
}

/// Computes the bill at one originator from its strand, on all cores. `reports` are those on the chain about it, in the
/// contract's order. Calls `tell` with the last place that is reached, after each batch of envelopes.
///
/// # Errors
/// When the source fails.
pub fn bill(
    log: &dyn LogSource,
    head: EnvelopeId,
    reports: &[BilledReport],
    settings: &BillSettings,
    mut tell: impl FnMut(SequenceId),
) -> Result<StrandBill, SourceError> {
    let originator = head.originator;
    let record = settings.registry.node(originator);
    let mut checker = Checker::new(originator, &settings.registry, Some(settings.rates.clone()));
    if originator.is_migrated() {
        checker.key = settings.migration_key;
    }
    let mut strand = StrandBilling::new(originator, reports, settings);
    if checker.key.is_none() {
        strand.bill.unverified = vec![UnverifiedPart::OriginatorSignatures, UnverifiedPart::Rules];
    }
    if record.is_none() && originator.is_node() {
        strand.bill.faults.add(Fault::unknown_originator(originator));
    }
    let rows = log.rows(EnvelopeId::new(originator, SequenceId::NONE), head.sequence);
    pipeline::run(&|rows| checker.check(rows), settings.threads, rows, |batch| {
        batch.into_iter().for_each(|row| strand.take(row));
        tell(SequenceId(strand.next.saturating_sub(1)));
        Ok::<_, SourceError>(())
    })?;
    Ok(strand.finish(head.sequence))
}

/// The bill of a strand that is being read.
struct StrandBilling<'a> {
    settings: &'a BillSettings,
    ranges: ReportRanges,
    counts: MinuteCounts,
    /// The next place.
    next: u64,
    repeats: RepeatFinder,
    bill: StrandBill,
}

impl<'a> StrandBilling<'a> {
    fn new(originator: OriginatorId, reports: &[BilledReport], settings: &'a BillSettings) -> Self {
        let bill = StrandBill {
            originator_id: originator,
            envelopes: 0,
            stated_picodollars: PicoDollarPrice(0),
            parts: Vec::new(),
            unreported_picodollars: PicoDollarPrice(0),
            not_shown: 0,
            charged_again: RepeatedCharges::default(),
            unverified: Vec::new(),
            faults: Faults::default(),
        };
        let (ranges, repeats) = (ReportRanges::new(reports), RepeatFinder::default());
        Self { settings, ranges, counts: MinuteCounts::default(), next: 1, repeats, bill }
    }

    fn take(&mut self, row: CheckedRow) {
        match row {
            CheckedRow::Envelope(envelope) => self.take_envelope(*envelope),
            // Whatever the reason is: only strands of chains, which have no bills, have void places.
            CheckedRow::Other(StrandRow::Gap { from, through, .. }) => {
                self.skip_to(from.0);
                self.note_not_shown(through.0.saturating_add(1).saturating_sub(from.0));
                self.next = through.0.saturating_add(1);
            }
            // A row of pruned places is not signed. They count as not shown when the next row comes.
            CheckedRow::Other(_) => {}
        }
    }

    fn skip_to(&mut self, place: u64) {
        self.note_not_shown(place.saturating_sub(self.next));
        self.next = self.next.max(place);
    }

    /// Counts places that the source did not show. Sources and endpoints of the chain state any places.
    fn note_not_shown(&mut self, places: u64) {
        self.bill.not_shown = self.bill.not_shown.saturating_add(places);
    }

    fn take_envelope(&mut self, envelope: CheckedEnvelope) {
        self.skip_to(envelope.sequence.0);
        self.next = envelope.sequence.0.saturating_add(1);
        let id = EnvelopeId::new(self.bill.originator_id, envelope.sequence);
        let signed = match envelope.found {
            Ok(signed) => signed,
            Err((kind, text)) => {
                self.bill.faults.add(Fault::at(kind, id, text));
                self.note_not_shown(1);
                return;
            }
        };
        if let Some((kind, fee)) = &signed.fee {
            self.bill.faults.add(Fault::at(*kind, id, fee));
        }
        self.ranges.reach(id.sequence.0, signed.minute);
        if envelope.mark.is_booked() {
            self.charge(id, &signed);
        }
        self.ranges.pass(id.sequence.0, signed.minute);
        let over = signed.minute.saturating_sub(OPEN_MINUTES);
        while let Some(range) = self.ranges.next_finished(over) {
            self.finish_report(range);
        }
    }

    /// Books an envelope, and counts it.
    fn charge(&mut self, id: EnvelopeId, signed: &Signed) {
        if let Some(charge) = &signed.charge {
            let (rates, earlier) = (self.settings.rates.rates(), self.counts.up_to(signed.minute));
            let fee = price(rates, signed.originator_ns, charge, earlier);
            self.book(id, signed.minute, charge.payer, fee);
            if charge.payer == self.settings.payer {
                self.bill.envelopes += 1;
                self.bill.stated_picodollars =
                    self.bill.stated_picodollars.plus(charge.stated_picodollars);
                if let Some(digest) = &signed.payer_digest {
                    self.repeats.take(digest, id.sequence, fee);
                }
            }
        }
        if signed.counts_for_congestion {
            self.counts.add(signed.minute, 1);
        }
    }

    /// Adds a fee to the report of its minute.
    fn book(&mut self, id: EnvelopeId, minute: u32, payer: Address, fee: PicoDollarPrice) {
        match self.ranges.book(id, minute, payer, fee) {
            FeePart::Open => {}
            FeePart::Finished => {
                let text = "its minute is long past, and the report of that minute is finished";
                self.bill.faults.add(Fault::at(FaultKind::TimeBack, id, text));
            }
            FeePart::AfterLast if payer == self.settings.payer => {
                let sum = &mut self.bill.unreported_picodollars;
                *sum = sum.plus(fee);
            }
            FeePart::AfterLast => {}
        }
    }

    fn finish_report(&mut self, range: FinishedRange) {
        let FinishedRange { report, held_minute, amounts } = range;
        let ReportLeaves { leaves, late, are_all_compared } = amounts;
        if let Some(id) = late {
            let text = "it follows the end of the report of its minute, so it is in no report";
            self.bill.faults.add(Fault::at(FaultKind::InNoReport, id, text));
        }
        let amount = leaves.of(self.settings.payer).unwrap_or_default();
        let verdict = match (leaves.root() == report.root, self.bill.not_shown) {
            (true, _) => BillVerdict::Proven,
            (false, 0) if are_all_compared => BillVerdict::OtherRoot,
            (false, _) => BillVerdict::NotShown,
        };
        self.bill.parts.push(BilledPart {
            index: report.index,
            end_minute: report.end_minute,
            log_end_minute: held_minute,
            picodollars: amount.into(),
            microdollars: amount.settled(),
            is_settled: report.is_settled,
            verdict,
        });
    }

    fn finish(mut self, head: SequenceId) -> StrandBill {
        self.skip_to(head.0.saturating_add(1));
        while let Some(range) = self.ranges.next_left() {
            // The source ends before the report does.
            let BilledReport { start, end, .. } = range.report;
            if end > head {
                self.note_not_shown(end.0.saturating_sub(head.max(start).0));
            }
            self.finish_report(range);
        }
        let left = self.ranges.left_of(self.settings.payer);
        self.bill.unreported_picodollars = self.bill.unreported_picodollars.plus(left);
        self.bill.charged_again = self.repeats.finish();
        self.bill
    }
}

#[cfg(test)]
mod tests;
