//! Counters of payer reports: settlements from one look to the next.

use std::collections::BTreeMap;

use hawser_chain::admin::fees::OnchainReport;
use hawser_proto::OriginatorId;

use crate::metrics_server::MetricsPage;

/// Bounds of the times from submission to settlement, seconds. A guess: nodes settle once an hour.
const BOUNDS_S: [u64; 6] = [600, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600];
const PICODOLLARS: u128 = 1_000_000;

/// Reports by originator, with the number of all.
pub(super) type Reports = BTreeMap<OriginatorId, (u64, Vec<OnchainReport>)>;

/// Sums over all looks. The first look counts the newest reports, which it shows.
#[derive(Debug, Default)]
pub(super) struct ReportTotals {
    originators: BTreeMap<OriginatorId, OriginatorTotals>,
    has_looked: bool,
    /// The time of the chain when a report was seen first that an earlier look had not shown, unix seconds.
    last_submission_s: Option<u64>,
}

#[derive(Debug, Default)]
struct OriginatorTotals {
    /// Reports on the chain.
    count: u64,
    settled: u64,
    fees_picodollars: u128,
    /// The reports of the last look, by index.
    known: BTreeMap<u64, KnownReport>,
    /// Times from submission to settlement of at most each bound.
    within: [u64; BOUNDS_S.len()],
    times: u64,
    times_sum_s: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct KnownReport {
    is_settled: bool,
    fees_picodollars: u128,
    /// The time of the chain when it was seen first, unless the first look showed it.
    submitted_s: Option<u64>,
}

impl ReportTotals {
    /// Adds a look at this time of the chain.
    pub(super) fn note(&mut self, reports: &Reports, chain_time: u64) {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        for (originator, (count, newest)) in reports {
            let totals = self.originators.entry(*originator).or_default();
            if !is_first && *count > totals.count {
                self.last_submission_s = Some(chain_time);
            }
            totals.count = *count;
            totals.note(newest, (!is_first).then_some(chain_time), chain_time);
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
        page.family("xmtp_chain_report_settled_total", "Reports settled", "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.settled));
        page.family("xmtp_chain_fees_settled_picodollars", "Fees settled", "counter");
        all.iter().for_each(|(id, it)| page.row(&of(id), it.fees_picodollars));
        let help = "Time from submission to settlement";
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
    fn note(&mut self, newest: &[OnchainReport], submitted_s: Option<u64>, chain_time: u64) {
        let before = std::mem::take(&mut self.known);
        for report in newest {
            let was = before.get(&report.index).copied();
            let was = was.unwrap_or(KnownReport { submitted_s, ..KnownReport::default() });
            let fees_picodollars = report.fees_settled.get().saturating_mul(PICODOLLARS);
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
            };
            self.known.insert(report.index, now);
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
    use hawser_proto::SequenceId;

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

    fn page(totals: &ReportTotals) -> String {
        let mut page = MetricsPage::default();
        totals.write_to(&mut page);
        page.into_text()
    }

    #[test]
    fn a_settlement_is_counted_once_with_its_fees_and_its_time() {
        let mut totals = ReportTotals::default();
        let look = |reports: &[OnchainReport]| {
            Reports::from([(OriginatorId(100), (reports.len() as u64, reports.to_vec()))])
        };
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
}
