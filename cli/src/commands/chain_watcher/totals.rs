//! Counters of payer reports: what looks have shown so far, and settlements from one look to the next.

use std::collections::BTreeMap;

use hawser_chain::admin::fees::OnchainReport;
use hawser_proto::{OriginatorId, SequenceId};

use crate::metrics_server::MetricsPage;

/// Bounds of the times from submission to settlement, seconds. Up to two hours they are those of the reference
/// implementation's watcher, so that queries about its buckets have an answer. The longer ones are a guess: a report
/// that is not settled for a day is stuck.
const BOUNDS_S: [u64; 12] =
    [60, 120, 300, 600, 900, 1800, 3600, 5400, 7200, 6 * 3600, 12 * 3600, 24 * 3600];
const PICODOLLARS: u128 = 1_000_000;
/// Reports of an originator that are remembered. A guess: eight times as many as a look shows. Bounds what an endpoint
/// that makes up reports adds.
const KNOWN_MAX: usize = 256;
/// Originators that are remembered. A guess: four times as many as a look shows. Bounds what an endpoint that makes up
/// nodes adds.
const ORIGINATORS_MAX: usize = 1024;

/// Reports by originator, with the number of all.
pub(super) type Reports = BTreeMap<OriginatorId, (u64, Vec<OnchainReport>)>;

/// Sums over all looks. The first look counts the newest reports, which it shows.
#[derive(Debug, Default)]
pub(super) struct ReportTotals {
    originators: BTreeMap<OriginatorId, OriginatorTotals>,
    /// The number of looks so far.
    looks: u64,
    /// The time of the chain when a report was seen first that an earlier look had not shown, unix seconds.
    last_submission_s: Option<u64>,
}

#[derive(Debug, Default)]
struct OriginatorTotals {
    /// The maximum number of reports that a look has shown.
    submitted: u64,
    /// The highest end of a last report that a look has shown.
    end_sequence_id: SequenceId,
    settled: u64,
    fees_picodollars: u128,
    /// Reports that looks have shown, by index. An endpoint that is behind shows fewer, and others again that newer
    /// ones had displaced.
    known: BTreeMap<u64, KnownReport>,
    /// The number of looks so far that showed it.
    looks: u64,
    /// The last of all looks that showed it.
    last_look: u64,
    /// Times from submission to settlement of at most each bound.
    within: [u64; BOUNDS_S.len()],
    times: u64,
    times_sum_s: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct KnownReport {
    is_settled: bool,
    fees_picodollars: u128,
    /// The time of the chain when it was seen first, unless it was there before.
    submitted_s: Option<u64>,
    /// The number of the last look that showed it.
    look: u64,
}

impl ReportTotals {
    /// Adds a look at this time of the chain.
    pub(super) fn note(&mut self, reports: &Reports, chain_time: u64) {
        let is_first = self.looks == 0;
        self.looks += 1;
        for (originator, (count, newest)) in reports {
            let totals = self.originators.entry(*originator).or_default();
            totals.last_look = self.looks;
            totals.submitted = totals.submitted.max(*count);
            let end = newest.last().map_or(SequenceId::NONE, |last| last.end_sequence_id);
            totals.end_sequence_id = totals.end_sequence_id.max(end);
            let has_new = totals.note(newest, (!is_first).then_some(chain_time), chain_time);
            if has_new && !is_first {
                self.last_submission_s = Some(chain_time);
            }
        }
        self.forget_originators();
    }

    /// Forgets the originators that no look has shown for longest, if there are too many.
    fn forget_originators(&mut self) {
        while self.originators.len() > ORIGINATORS_MAX {
            let oldest = self.originators.iter().min_by_key(|(_, it)| it.last_look);
            let Some((&originator, _)) = oldest else { return };
            self.originators.remove(&originator);
        }
    }

    /// Returns the time of the last submission that was seen, unix seconds.
    pub(super) fn last_submission_s(&self) -> Option<u64> {
        self.last_submission_s
    }

    /// Writes the counters.
    pub(super) fn write_to(&self, page: &mut MetricsPage) {
        let all = &self.originators;
        let of = |originator: &OriginatorId| format!("originator_id=\"{originator}\"");
        page.family("xmtp_chain_report_submitted_total", "Reports on the chain", "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.submitted));
        let help = "Places that the reports cover";
        page.family("xmtp_chain_envelope_range_total", help, "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.end_sequence_id));
        page.family("xmtp_chain_report_settled_total", "Reports settled", "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.settled));
        let help = "Fees settled, 10^-12 dollars";
        page.family("xmtp_chain_fees_settled_picodollars", help, "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.fees_picodollars));
        let help = "Time from submission to settlement, seconds";
        page.family("xmtp_chain_submission_to_settlement_seconds", help, "histogram");
        for (id, it) in all {
            for (bound, within) in BOUNDS_S.iter().zip(it.within) {
                page.part("_bucket", &format!("{},le=\"{bound}\"", of(id)), within);
            }
            page.part("_bucket", &format!("{},le=\"+Inf\"", of(id)), it.times);
            page.part("_sum", &of(id), it.times_sum_s);
            page.part("_count", &of(id), it.times);
        }
    }
}

impl OriginatorTotals {
    /// Adds the newest reports of a look. Returns true if one of them is new; it was then submitted at `submitted_s`.
    fn note(
        &mut self,
        newest: &[OnchainReport],
        submitted_s: Option<u64>,
        chain_time: u64,
    ) -> bool {
        let lowest = self.known.iter().find(|(_, it)| it.look == self.looks);
        let lowest = lowest.map_or(0, |(index, _)| *index);
        self.looks += 1;
        let mut has_new = false;
        for report in newest {
            let fees_picodollars = report.fees_settled.get().saturating_mul(PICODOLLARS);
            let was = match self.known.get(&report.index).copied() {
                Some(known) => known,
                // It was there before, and newer ones had displaced it.
                None if report.index < lowest => {
                    let is_settled = report.is_settled;
                    KnownReport { is_settled, fees_picodollars, ..KnownReport::default() }
                }
                None => {
                    has_new = true;
                    KnownReport { submitted_s, ..KnownReport::default() }
                }
            };
            // A counter never decreases, even if the endpoint withdraws something.
            let more = fees_picodollars.saturating_sub(was.fees_picodollars);
            self.fees_picodollars = self.fees_picodollars.saturating_add(more);
            if report.is_settled && !was.is_settled {
                self.settled += 1;
                if let Some(submitted) = was.submitted_s {
                    self.took(chain_time.saturating_sub(submitted));
                }
            }
            let now = KnownReport {
                is_settled: was.is_settled || report.is_settled,
                fees_picodollars: was.fees_picodollars.max(fees_picodollars),
                submitted_s: was.submitted_s,
                look: self.looks,
            };
            self.known.insert(report.index, now);
        }
        self.forget_oldest();
        has_new
    }

    /// Forgets the reports that no look has shown for longest, if there are too many.
    fn forget_oldest(&mut self) {
        while self.known.len() > KNOWN_MAX {
            let oldest = self.known.iter().min_by_key(|(_, it)| it.look);
            let Some((&index, _)) = oldest else { return };
            self.known.remove(&index);
        }
    }

    fn took(&mut self, time_s: u64) {
        self.times += 1;
        self.times_sum_s = self.times_sum_s.saturating_add(time_s);
        for (within, bound) in self.within.iter_mut().zip(BOUNDS_S) {
            *within += u64::from(time_s <= bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_chain::admin::MicroDollars;

    use super::*;

    fn report(index: u64, fees: u128, is_settled: bool) -> OnchainReport {
        OnchainReport {
            originator: OriginatorId(100),
            index,
            start_sequence_id: SequenceId(index),
            end_sequence_id: SequenceId(index + 1),
            end_minute: 1,
            root: [1; 32],
            fees_settled: MicroDollars::new(fees).unwrap(),
            is_settled,
            protocol_fee_rate: 0,
            node_ids: vec![OriginatorId(100)],
        }
    }

    fn look(reports: &[OnchainReport]) -> Reports {
        Reports::from([(OriginatorId(100), (reports.len() as u64, reports.to_vec()))])
    }

    fn page(totals: &ReportTotals) -> String {
        let mut page = MetricsPage::default();
        totals.write_to(&mut page);
        page.into_text()
    }

    #[test]
    fn a_settlement_is_counted_once_with_its_fees_and_its_time() {
        let mut totals = ReportTotals::default();
        totals.note(&look(&[report(0, 5, true)]), 1000);
        assert_eq!(totals.last_submission_s(), None, "it was there before");
        totals.note(&look(&[report(0, 5, true), report(1, 0, false)]), 2000);
        assert_eq!(totals.last_submission_s(), Some(2000));
        totals.note(&look(&[report(0, 5, true), report(1, 2, false)]), 2300);
        let settled = look(&[report(0, 5, true), report(1, 7, true)]);
        totals.note(&settled, 2700);
        totals.note(&settled, 9000);
        let text = page(&totals);
        for line in [
            "xmtp_chain_report_settled_total{originator_id=\"100\"} 2",
            "xmtp_chain_fees_settled_picodollars{originator_id=\"100\"} 12000000",
            "xmtp_chain_submission_to_settlement_seconds_bucket{originator_id=\"100\",le=\"600\"} 0",
            "xmtp_chain_submission_to_settlement_seconds_bucket{originator_id=\"100\",le=\"900\"} 1",
            "xmtp_chain_submission_to_settlement_seconds_bucket{originator_id=\"100\",le=\"3600\"} 1",
            "xmtp_chain_submission_to_settlement_seconds_sum{originator_id=\"100\"} 700",
            "xmtp_chain_submission_to_settlement_seconds_count{originator_id=\"100\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
        // If an endpoint withdraws and repeats an answer, nothing is counted twice.
        totals.note(&look(&[report(0, 5, true), report(1, 0, false)]), 9100);
        totals.note(&settled, 9200);
        assert_eq!(page(&totals), text);
    }

    /// Dashboards that were made for that watcher name its buckets.
    #[test]
    fn settlements_have_the_buckets_of_the_reference_watcher() {
        let mut totals = ReportTotals::default();
        totals.note(&look(&[]), 1000);
        totals.note(&look(&[report(0, 0, false)]), 2000);
        totals.note(&look(&[report(0, 1, true)]), 2061);
        let text = page(&totals);
        for bound in [60, 120, 300, 600, 900, 1800, 3600, 5400, 7200] {
            let name = "xmtp_chain_submission_to_settlement_seconds_bucket";
            let within = u8::from(bound > 60);
            let line = format!("{name}{{originator_id=\"100\",le=\"{bound}\"}} {within}");
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
    }

    /// Looks may meet endpoints of which one is behind, and a chain may be reorganised.
    #[test]
    fn a_report_that_vanishes_and_returns_counts_once_and_is_no_new_submission() {
        let mut totals = ReportTotals::default();
        let both = look(&[report(0, 5, true), report(1, 7, true)]);
        totals.note(&look(&[report(0, 5, true)]), 1000);
        totals.note(&look(&[report(0, 5, true), report(1, 0, false)]), 2000);
        totals.note(&both, 2700);
        let text = page(&totals);
        for line in [
            "xmtp_chain_report_submitted_total{originator_id=\"100\"} 2",
            "xmtp_chain_envelope_range_total{originator_id=\"100\"} 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
        for behind in [look(&[report(0, 5, true)]), look(&[]), Reports::new()] {
            totals.note(&behind, 3000);
            assert_eq!(page(&totals), text, "no counter decreases");
            totals.note(&both, 4000);
            assert_eq!(page(&totals), text);
            assert_eq!(totals.last_submission_s(), Some(2000));
        }
    }

    /// An endpoint that is behind by one report shows one more at the other end.
    #[test]
    fn an_older_report_that_a_look_shows_counts_what_it_does_from_then_on() {
        let mut totals = ReportTotals::default();
        let newest = look(&[report(2, 5, true), report(3, 0, false)]);
        totals.note(&newest, 1000);
        let text = page(&totals);
        totals.note(&look(&[report(1, 9, false), report(2, 5, true)]), 2000);
        totals.note(&newest, 3000);
        assert_eq!((page(&totals), totals.last_submission_s()), (text, None));
        totals.note(&look(&[report(1, 11, true), report(2, 5, true)]), 4000);
        let text = page(&totals);
        for line in [
            "xmtp_chain_report_settled_total{originator_id=\"100\"} 2",
            "xmtp_chain_fees_settled_picodollars{originator_id=\"100\"} 7000000",
            "xmtp_chain_submission_to_settlement_seconds_count{originator_id=\"100\"} 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn an_endpoint_that_makes_up_reports_takes_no_memory_without_end() {
        let mut totals = ReportTotals::default();
        let honest = look(&[report(0, 5, true)]);
        for index in 1..2000 {
            totals.note(&honest, 1000);
            totals.note(&look(&[report(index, 1, true)]), 1000);
        }
        assert_eq!(totals.originators[&OriginatorId(100)].known.len(), KNOWN_MAX);
        let text = page(&totals);
        totals.note(&honest, 1000);
        assert_eq!(page(&totals), text, "looks go on showing it");
    }

    #[test]
    fn an_endpoint_that_makes_up_originators_takes_no_memory_without_end() {
        let mut totals = ReportTotals::default();
        let honest = look(&[report(0, 5, true)]);
        for part in 0..20_u32 {
            totals.note(&honest, 1000);
            let invented = (0..256).map(|it| OriginatorId(1000 + part * 256 + it));
            let reports = invented.map(|it| (it, (1, vec![report(0, 1, true)])));
            totals.note(&reports.collect::<Reports>(), 1000);
        }
        assert_eq!(totals.originators.len(), ORIGINATORS_MAX);
        let text = page(&totals);
        let line = "xmtp_chain_report_settled_total{originator_id=\"100\"} 1";
        assert!(text.lines().any(|it| it == line), "looks go on showing it: {text}");
    }
}
