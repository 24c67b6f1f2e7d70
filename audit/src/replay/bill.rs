//! The bill of a payer, computed again from the log: the cost of its envelopes by the rates, compared with the charges
//! of the reports on the chain.
//!
//! A report contains only the root of all amounts, so the amounts of all payers are computed: the payer's leaf is
//! proven if the root is the same. If the source leaves places out, nothing is proven and nothing refuted.

use std::collections::BTreeMap;

use hawser_proto::{Address, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_rules::payer_report::tree::Hash;
use hawser_rules::payer_report::{Leaves, SettledAmount};
use hawser_rules::{RateTable, Registry};
use serde::Serialize;

use super::check::{CheckedEnvelope, CheckedRow, Checker};
use super::fault::{Fault, FaultKind, Faults};
use super::item::{GapReason, SourceError, StrandRow};
use super::pipeline;
use super::repeats::{RepeatFinder, RepeatedCharges};
use super::report_sums::{ReportLeaves, ReportSums};
use super::run::LogSource;
use super::tally::{COUNTED_MINUTES, OPEN_MINUTES, price};

/// A report on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BilledReport {
    /// Its place in the contract's list for the originator.
    pub index: u64,
    /// The sequence id before its range.
    pub start: u64,
    /// The last sequence id of its range.
    pub end: u64,
    /// The last minute of its range, since the unix epoch.
    pub end_minute: u32,
    /// The root of its tree.
    pub root: Hash,
    /// True if no leaf is left to settle.
    pub is_settled: bool,
}

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
    /// The log gives another root, and places of it were not shown, or more envelopes are dated back into the report than
    /// can be compared with it one by one.
    NotShown,
}

/// A part of a strand that could not be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnverifiedPart {
    /// The signatures of the originator: its key is not known. So places and times of the envelopes are the source's word. The
    /// signatures of payers are verified all the same.
    OriginatorSignatures,
    /// The rules that envelopes have to keep, such as that a payer signed for this originator: they are checked with the key.
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
    /// The last minute of its range, since the unix epoch.
    pub end_minute: u32,
    /// The payer's fees in its range by the rates, picodollars.
    pub picodollars: u64,
    /// The amount that a settlement takes for them, microdollars.
    pub microdollars: u64,
    /// True if it was taken.
    pub is_settled: bool,
    /// The finding.
    pub verdict: BillVerdict,
}

/// The payer's bill at one originator.
#[derive(Debug, Clone, Serialize)]
pub struct StrandBill {
    /// The originator.
    pub originator_id: u32,
    /// Envelopes that the payer pays for.
    pub envelopes: u64,
    /// Fees of the payer as the originator stated them, picodollars.
    pub stated_picodollars: u64,
    /// Parts by report, in the contract's order.
    pub parts: Vec<BilledPart>,
    /// Fees after the last report, picodollars.
    pub unreported_picodollars: u64,
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
/// contract's order.
///
/// # Errors
/// When the source fails.
pub fn bill(
    log: &dyn LogSource,
    head: EnvelopeId,
    reports: &[BilledReport],
    settings: &BillSettings,
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
        let text = "the registry does not name its node, so no signature could be checked";
        strand.bill.faults.add(Fault::of_strand(FaultKind::UnknownOriginator, originator, text));
    }
    let rows = log.rows(EnvelopeId::new(originator, SequenceId::NONE), head.sequence);
    pipeline::run(&|rows| checker.check(rows), settings.threads, rows, |batch| {
        batch.into_iter().for_each(|row| strand.take(row));
        Ok::<_, SourceError>(())
    })?;
    Ok(strand.finish(head.sequence))
}

/// The bill of a strand that is being read.
struct StrandBilling<'a> {
    settings: &'a BillSettings,
    /// Reports with a range, in the contract's order.
    reports: Vec<BilledReport>,
    /// Amounts of all payers, by the place of the report in `reports`. The amounts of finished reports are removed.
    sums: BTreeMap<usize, ReportSums>,
    /// Reports before this place are finished.
    finished: usize,
    /// Messages by minute, of the last minutes.
    counts: BTreeMap<u32, u64>,
    /// The next place.
    next: u64,
    repeats: RepeatFinder,
    bill: StrandBill,
}

impl<'a> StrandBilling<'a> {
    fn new(originator: OriginatorId, reports: &[BilledReport], settings: &'a BillSettings) -> Self {
        let reports = reports.iter().filter(|report| report.start != report.end).copied();
        let bill = StrandBill {
            originator_id: originator.0,
            envelopes: 0,
            stated_picodollars: 0,
            parts: Vec::new(),
            unreported_picodollars: 0,
            not_shown: 0,
            charged_again: RepeatedCharges::default(),
            unverified: Vec::new(),
            faults: Faults::default(),
        };
        let repeats = RepeatFinder::default();
        let (reports, sums, counts) = (reports.collect(), BTreeMap::new(), BTreeMap::new());
        Self { settings, reports, sums, finished: 0, counts, next: 1, repeats, bill }
    }

    fn take(&mut self, row: CheckedRow) {
        match row {
            CheckedRow::Envelope(envelope) => self.take_envelope(*envelope),
            CheckedRow::Other(StrandRow::Gap { from, through, reason }) => {
                self.skip_to(from.0);
                if reason != GapReason::Void {
                    self.bill.not_shown += (through.0 + 1).saturating_sub(from.0);
                }
                self.next = through.0 + 1;
            }
            // A row of pruned places is not signed. They count as not shown when the next row comes.
            CheckedRow::Other(_) => {}
        }
    }

    fn skip_to(&mut self, place: u64) {
        self.bill.not_shown += place.saturating_sub(self.next);
        self.next = self.next.max(place);
    }

    fn take_envelope(&mut self, envelope: CheckedEnvelope) {
        self.skip_to(envelope.sequence.0);
        self.next = envelope.sequence.0 + 1;
        let id = EnvelopeId::new(OriginatorId(self.bill.originator_id), envelope.sequence);
        let signed = match envelope.found {
            Ok(signed) => signed,
            Err((kind, text)) => {
                self.bill.faults.add(Fault::at(kind, id, text));
                self.bill.not_shown += 1;
                return;
            }
        };
        if let Some(fee) = &signed.fee {
            self.bill.faults.add(Fault::at(FaultKind::Fee, id, fee));
        }
        if !envelope.mark.is_booked() {
            return;
        }
        if let Some(charge) = &signed.charge {
            let earlier = [0, 1, 2, 3, 4].map(|age| {
                let minute = signed.minute.checked_sub(age);
                minute.and_then(|at| self.counts.get(&at)).copied().unwrap_or(0)
            });
            let rates = self.settings.rates.rates();
            let fee = price(rates, signed.originator_ns, charge, earlier);
            self.book(id, signed.minute, charge.payer, fee);
            if charge.payer == self.settings.payer {
                self.bill.envelopes += 1;
                self.bill.stated_picodollars =
                    self.bill.stated_picodollars.saturating_add(charge.stated_picodollars);
                if let Some(digest) = &signed.payer_digest {
                    self.repeats.take(digest, envelope.sequence, fee);
                }
            }
        }
        if signed.counts_for_congestion {
            *self.counts.entry(signed.minute).or_default() += 1;
            while self.counts.len() > COUNTED_MINUTES {
                self.counts.pop_first();
            }
        }
        self.finish_before(signed.minute.saturating_sub(OPEN_MINUTES));
    }

    /// Adds a fee to the report of its minute.
    fn book(&mut self, id: EnvelopeId, minute: u32, payer: Address, fee: u64) {
        let report = self.reports.partition_point(|report| report.end_minute < minute);
        if report < self.finished {
            let text = "its minute is long past, and the report of that minute is finished";
            self.bill.faults.add(Fault::at(FaultKind::TimeBack, id, text));
        } else if report < self.reports.len() {
            let end = self.reports[report].end;
            self.sums.entry(report).or_default().add(id, end, payer, fee);
        } else if payer == self.settings.payer {
            let sum = &mut self.bill.unreported_picodollars;
            *sum = sum.saturating_add(fee);
        }
    }

    /// Finishes the reports that end before a minute.
    fn finish_before(&mut self, minute: u32) {
        while let Some(report) = self.reports.get(self.finished).copied() {
            if report.end_minute >= minute || report.end >= self.next {
                return;
            }
            self.finish_report(report);
        }
    }

    fn finish_report(&mut self, report: BilledReport) {
        let sums = self.sums.remove(&self.finished).unwrap_or_default();
        self.finished += 1;
        let ReportLeaves { leaves, late, are_all_compared } = sums.leaves(report.root);
        if let Some(id) = late {
            let text = "it follows the end of the report of its minute, so it is in no report";
            self.bill.faults.add(Fault::at(FaultKind::TimeBack, id, text));
        }
        let amount = leaves.of(self.settings.payer).unwrap_or_default();
        let SettledAmount(microdollars) = amount.settled();
        let verdict = match (proves(&leaves, self.settings.payer, report.root), self.bill.not_shown)
        {
            (true, _) => BillVerdict::Proven,
            (false, 0) if are_all_compared => BillVerdict::OtherRoot,
            (false, _) => BillVerdict::NotShown,
        };
        self.bill.parts.push(BilledPart {
            index: report.index,
            end_minute: report.end_minute,
            picodollars: amount.get(),
            microdollars,
            is_settled: report.is_settled,
            verdict,
        });
    }

    fn finish(mut self, head: SequenceId) -> StrandBill {
        self.skip_to(head.0 + 1);
        while let Some(report) = self.reports.get(self.finished).copied() {
            // The source ends before the report does.
            if report.end > head.0 {
                self.bill.not_shown += report.end - head.0.max(report.start);
            }
            self.finish_report(report);
        }
        self.bill.charged_again = self.repeats.finish();
        self.bill
    }
}

/// Returns true if the leaves give the root, and the payer's leaf is proven to be under it; a payer without usage has
/// none.
fn proves(leaves: &Leaves, payer: Address, root: Hash) -> bool {
    if leaves.root() != root {
        return false;
    }
    let Some(place) = leaves.place_of(payer) else { return true };
    let proof = leaves.tree().proof(place..place + 1);
    let leaf = leaves.payers()[place].leaf();
    proof.verify(root, place as u64, &[leaf]).is_ok()
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::OriginatorEnvelope;
    use hawser_rules::NodeRecord;

    use super::super::item::StoredMark;
    use super::super::planted::sign_at;
    use super::super::testing::{Draft, MemoryLog, NODE, RATE, draft, draft_for, key, ns_of};
    use super::*;

    fn settings(payer: u8) -> BillSettings {
        let record = NodeRecord {
            id: NODE,
            public_key: key(1).public_key(),
            owner: key(1).public_key().address(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
            canonical: true,
        };
        BillSettings {
            payer: key(payer).public_key().address(),
            registry: [record].into_iter().collect(),
            migration_key: None,
            rates: RateTable::new(vec![RATE], None).unwrap(),
            threads: 2,
        }
    }

    /// The reports that honest nodes make of a log: one that ends with the minute of this envelope, and so on.
    fn reports(log: &MemoryLog, ends: &[u64]) -> Vec<BilledReport> {
        let mut start = 0;
        let mut after = None;
        let report = |(index, at): (usize, &u64)| {
            let end_minute = hawser_proto::minute_of(ns_of(*at));
            let in_range =
                |minute: u32| after.is_none_or(|after| minute > after) && minute <= end_minute;
            let usage = log.usage.iter().filter(|((minute, _), _)| in_range(*minute));
            let sums: Vec<_> = usage.map(|((_, payer), row)| (*payer, *row)).collect();
            let end = sums.iter().map(|(_, row)| row.last_sequence).max().unwrap();
            let root = Leaves::sum(sums.iter().map(|(payer, row)| (*payer, row.picodollars)));
            let root = root.root();
            let index = index as u64;
            let report =
                BilledReport { index, start, end, end_minute, root, is_settled: index == 0 };
            (start, after) = (end, Some(end_minute));
            report
        };
        ends.iter().enumerate().map(report).collect()
    }

    fn head(log: &MemoryLog) -> EnvelopeId {
        EnvelopeId::new(NODE, SequenceId(log.head))
    }

    #[test]
    fn an_honest_bill_is_proven_for_each_payer() {
        let log = MemoryLog::honest(200);
        let reports = reports(&log, &[60, 120]);
        for payer in [8, 9] {
            let settings = settings(payer);
            let bill = bill(&log, head(&log), &reports, &settings).unwrap();
            assert_eq!((bill.faults.count(), bill.not_shown, bill.parts.len()), (0, 0, 2));
            assert!(bill.parts.iter().all(|part| part.verdict == BillVerdict::Proven), "{bill:?}");
            assert_eq!([bill.parts[0].is_settled, bill.parts[1].is_settled], [true, false]);
            let parts: u64 = bill.parts.iter().map(|part| part.picodollars).sum();
            assert!(bill.unreported_picodollars > 0 && bill.parts[1].picodollars > 0);
            assert_eq!(parts + bill.unreported_picodollars, bill.stated_picodollars);
            let part = &bill.parts[0];
            assert_eq!(part.microdollars, part.picodollars.div_ceil(1_000_000));
        }
        let stranger = bill(&log, head(&log), &reports, &settings(7)).unwrap();
        assert_eq!((stranger.envelopes, stranger.parts[0].picodollars), (0, 0));
        assert_eq!(
            stranger.parts[0].verdict,
            BillVerdict::Proven,
            "a payer of nothing has no leaf"
        );
    }

    /// An originator dates an envelope back so that an honest report about it looks false. No payer pays for the
    /// envelope.
    #[test]
    fn an_envelope_behind_the_end_of_its_report_refutes_no_report() {
        let with = |at: u64, dated: u64| {
            let envelope = |of| {
                (draft(of, ns_of(if of == at { dated } else { of })).seal(), StoredMark::Valid)
            };
            MemoryLog::of((1..=100).map(envelope).collect())
        };
        let honest = MemoryLog::honest(100);
        let on_chain = reports(&honest, &[60]);
        let end = on_chain[0].end;
        let log = with(end + 1, end);
        let found = bill(&log, head(&log), &on_chain, &settings(8)).unwrap();
        assert_eq!(found.parts[0].verdict, BillVerdict::Proven, "{found:?}");
        assert!(found.faults.kept().iter().any(|it| it.kind == FaultKind::TimeBack), "{found:?}");
        // Other software may count it.
        let counted = reports(&log, &[60])[0];
        let of_other = [BilledReport { end, ..counted }];
        let found = bill(&log, head(&log), &of_other, &settings(8)).unwrap();
        assert_eq!((found.parts[0].verdict, found.faults.count()), (BillVerdict::Proven, 0));
    }

    /// Readers do not get the envelope, and its payer owes for it.
    #[test]
    fn a_bill_has_what_is_marked_and_owed_and_nothing_else_that_is_marked() {
        let honest = MemoryLog::honest(50);
        let at = |sequence, mark, change: fn(&mut Draft)| {
            let (mut log, mut changed) = (honest.clone(), draft(sequence, ns_of(sequence)));
            change(&mut changed);
            sign_at(&mut log, sequence, mark, &changed);
            log
        };
        let envelopes = |log: &MemoryLog| {
            let bill = bill(log, head(log), &reports(log, &[30]), &settings(9)).unwrap();
            let parts: Vec<_> = bill.parts.iter().map(|part| part.verdict).collect();
            assert_eq!(parts, [BillVerdict::Proven], "the report of an honest node");
            bill.envelopes
        };
        let expected = envelopes(&honest);
        // Place 5 is of payer 9.
        let late = at(5, StoredMark::Invalid(9), |it| it.statement.expiry_unixtime += 601);
        assert_eq!(envelopes(&late), expected);
        let unpaid = at(5, StoredMark::Invalid(1), |it| {
            it.statement.payer_envelope_bytes = vec![0xff; 8].into();
        });
        assert_eq!(envelopes(&unpaid), expected - 1);
    }

    /// The log in which the node has charged the payer envelope of place 3 again at each of these.
    fn with_repeats(places: &[u64]) -> MemoryLog {
        let envelope = |at: u64| {
            let topic = [1, if places.contains(&at) { 3 } else { u8::try_from(at).unwrap() }];
            let mut draft = draft_for(at, ns_of(at), NODE, &topic);
            if places.contains(&at) {
                // The payer of place 3 pays again.
                draft.statement.payer_envelope_bytes =
                    draft_for(3, ns_of(3), NODE, &topic).statement.payer_envelope_bytes;
            }
            (draft.seal(), StoredMark::Valid)
        };
        MemoryLog::of((1..=50).map(envelope).collect())
    }

    #[test]
    fn a_payer_envelope_that_was_charged_again_is_listed_with_its_place_and_its_price() {
        let bill_of = |log: &MemoryLog, payer| bill(log, head(log), &[], &settings(payer)).unwrap();
        let honest = bill_of(&with_repeats(&[]), 8);
        assert_eq!(honest.charged_again, RepeatedCharges::default());
        let log = with_repeats(&[7, 40]);
        let found = bill_of(&log, 8);
        assert_eq!(found.faults.count(), 0, "the log says truly what the node did: {found:?}");
        let again = &found.charged_again;
        let places: Vec<_> = again.kept.iter().map(|it| (it.first, it.again)).collect();
        assert_eq!(places, [(3, 7), (3, 40)]);
        let price = again.kept[0].picodollars;
        assert!(price > 0 && again.picodollars == 2 * price, "{again:?}");
        assert_eq!(found.envelopes, honest.envelopes + 2, "both were charged");
        assert_eq!(bill_of(&log, 9).charged_again.count, 0, "another payer has none");
    }

    #[test]
    fn a_report_of_other_amounts_is_refuted_and_one_of_hidden_places_is_not_proven() {
        let log = MemoryLog::honest(200);
        let honest = reports(&log, &[60, 120]);
        let mut lie = honest.clone();
        lie[1].root[0] ^= 1;
        let found = bill(&log, head(&log), &lie, &settings(8)).unwrap();
        let verdicts: Vec<_> = found.parts.iter().map(|part| part.verdict).collect();
        assert_eq!(verdicts, [BillVerdict::Proven, BillVerdict::OtherRoot]);

        let mut hiding = log.clone();
        hiding.rows.remove(99);
        let found = bill(&hiding, head(&hiding), &honest, &settings(8)).unwrap();
        let verdicts: Vec<_> = found.parts.iter().map(|part| part.verdict).collect();
        assert_eq!(verdicts, [BillVerdict::Proven, BillVerdict::NotShown]);
        assert_eq!(found.not_shown, 1);

        let mut short = log.clone();
        short.rows.truncate(100);
        short.head = 100;
        let found = bill(&short, head(&short), &honest, &settings(8)).unwrap();
        assert_eq!(found.parts[1].verdict, BillVerdict::NotShown);
        assert!(found.not_shown > 0);
    }

    /// A log of what was taken over from the older network: its key is in no registry.
    fn taken_over() -> (OriginatorId, MemoryLog) {
        let strand = OriginatorId::MIGRATED[0];
        let envelope = |at: u64| {
            let mut draft = draft_for(at, ns_of(at), strand, &[1, 7]);
            draft.statement.originator_node_id = strand.0;
            (draft.seal(), StoredMark::Valid)
        };
        (strand, MemoryLog::of((1..=50).map(envelope).collect()))
    }

    #[test]
    fn a_bill_says_which_signatures_of_the_older_network_could_not_be_verified() {
        let (strand, log) = taken_over();
        let head = EnvelopeId::new(strand, SequenceId(log.head));
        let reports = reports(&log, &[30]);
        let bill_by = |migration_key, log: &MemoryLog| {
            let settings = BillSettings { migration_key, ..settings(9) };
            bill(log, head, &reports, &settings).unwrap()
        };
        let without = bill_by(None, &log);
        assert_eq!(
            without.unverified,
            [UnverifiedPart::OriginatorSignatures, UnverifiedPart::Rules]
        );
        assert!(without.envelopes > 0, "the signatures of payers need no other key");
        assert_eq!(without.parts[0].verdict, BillVerdict::Proven, "by the root on the chain");
        let with = bill_by(Some(key(1).public_key()), &log);
        assert_eq!((with.unverified.len(), with.faults.count()), (0, 0));
        assert_eq!((with.envelopes, &with.parts), (without.envelopes, &without.parts));
        let other = bill_by(Some(key(2).public_key()), &log);
        assert_eq!((other.envelopes, other.not_shown), (0, 50), "another key signed them");
        assert_eq!(other.faults.count(), 50);
        // Nodes of the registry have theirs.
        let honest = MemoryLog::honest(20);
        let of_node = bill(&honest, self::head(&honest), &[], &settings(9)).unwrap();
        assert!(of_node.unverified.is_empty());
    }

    #[test]
    fn a_forged_envelope_and_a_wrong_fee_are_named() {
        let mut log = MemoryLog::honest(50);
        let bytes = log.bytes_at(10);
        let parsed = OriginatorEnvelope::parse(bytes.clone()).unwrap();
        assert_eq!(parsed.id().sequence.0, 10);
        let mut forged = bytes.to_vec();
        let last = forged.len() - 5;
        forged[last] ^= 1;
        *bytes = forged.into();
        let other = BillSettings {
            rates: RateTable::new(vec![hawser_rules::Rate { message_fee: 9, ..RATE }], None)
                .unwrap(),
            ..settings(9)
        };
        let found = bill(&log, head(&log), &[], &other).unwrap();
        assert_eq!(found.not_shown, 1, "what is forged is not counted");
        assert!(found.faults.count() > 1, "{:?}", found.faults);
        assert!(found.unreported_picodollars < found.stated_picodollars);
    }
}
