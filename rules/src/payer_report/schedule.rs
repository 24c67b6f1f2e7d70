//! The schedule of payer reports: when a node's workers run, where a report ends, and when the next one is due.

use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};

/// A task that runs once an hour, in a minute that depends on the node's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HourlyTask {
    /// Writes reports.
    Generate = 1,
    /// Submits reports that a majority has attested.
    Submit = 2,
    /// Settles submitted reports.
    Settle = 3,
}

/// Returns the minute of every hour, 0 to 59, in which a node runs a task. The nodes are spread over the hour, and a
/// node's tasks are five minutes apart.
#[must_use]
pub fn minute_of_hour(node: OriginatorId, task: HourlyTask) -> u32 {
    // Knuth's multiplicative hash, as specified.
    let hash = node.0.wrapping_mul(2_654_435_761) >> 16;
    (hash + 5 * (task as u32 - 1)) % 60
}

/// The end of a report: its last sequence id, and the minute that ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeEnd {
    /// The number of the minute since the unix epoch.
    pub minute: u32,
    /// The last sequence id in that minute for which a payer pays.
    pub sequence: SequenceId,
}

/// Returns the end of a report that begins after `after_minute`: the second newest minute with usage, because the
/// newest one may still grow. `minutes` are the minutes with usage, newest first, each with its last sequence id.
/// Returns `None` if fewer than two of them are after `after_minute`.
#[must_use]
pub fn end_of_range(
    after_minute: u32,
    minutes: impl IntoIterator<Item = RangeEnd>,
) -> Option<RangeEnd> {
    minutes.into_iter().nth(1).filter(|end| end.minute > after_minute)
}

/// The periods of payer reports. The age of a report is counted from the beginning of its last minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// The least time between the ends of two reports of a node about itself.
    pub own: Duration,
    /// The least time between the ends of two reports about another originator, so that an originator that reports
    /// nothing is reported by others.
    pub others: Duration,
    /// The age at which a report of a node about itself is given up if no node has submitted it.
    pub expiry_own: Duration,
    /// The age at which a report about another originator is given up if no node has submitted it.
    pub expiry_others: Duration,
}

impl Default for Periods {
    /// Returns the periods of the reference implementation: 6 and 12 hours, with reports given up
    /// after one and a half times as long.
    fn default() -> Self {
        let [own, others, expiry_own, expiry_others] =
            [6, 12, 9, 18].map(|hours| Duration::from_secs(hours * 60 * 60));
        Self { own, others, expiry_own, expiry_others }
    }
}

impl Periods {
    /// Returns the least time between two reports of `node` about an originator.
    #[must_use]
    pub fn between(self, node: OriginatorId, about: OriginatorId) -> Duration {
        if node == about { self.own } else { self.others }
    }

    /// Returns the age at which a report of `node` about an originator is given up.
    #[must_use]
    pub fn expiry(self, node: OriginatorId, about: OriginatorId) -> Duration {
        if node == about { self.expiry_own } else { self.expiry_others }
    }
}

/// The result of [`due`]: if a node has to write a report about one originator now, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportDue {
    /// The last report is too recent.
    NotYet,
    /// Another report that starts at the same sequence id waits for its submission.
    UnderWay,
    /// A report that starts after this sequence id is due.
    From(SequenceId),
}

/// Decides whether a report about one originator is due at `now_ns`, unix nanoseconds. `last_end` is the end of
/// its newest report on the chain. `pending` are the start and the end of its reports that are known, not on
/// the chain, and not refused by this node.
#[must_use]
pub fn due(
    now_ns: i64,
    period: Duration,
    expiry: Duration,
    last_end: Option<RangeEnd>,
    pending: impl IntoIterator<Item = (SequenceId, RangeEnd)>,
) -> ReportDue {
    // An end ahead of this node's clock has age 0.
    let now = Duration::from_nanos(u64::try_from(now_ns).unwrap_or(0));
    let age = |end: RangeEnd| now.saturating_sub(Duration::from_secs(u64::from(end.minute) * 60));
    if last_end.is_some_and(|last| age(last) <= period) {
        return ReportDue::NotYet;
    }
    let start = last_end.map_or(SequenceId::NONE, |last| last.sequence);
    let is_under_way = |(from, end): (SequenceId, RangeEnd)| {
        // An empty report settles nothing and would block others forever.
        from == start && end.sequence != from && age(end) <= expiry
    };
    match pending.into_iter().any(is_under_way) {
        true => ReportDue::UnderWay,
        false => ReportDue::From(start),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{list, small, vectors};
    use super::*;

    fn end(minute: u32, sequence: u64) -> RangeEnd {
        RangeEnd { minute, sequence: SequenceId(sequence) }
    }

    #[test]
    fn minutes_are_those_of_other_implementations() {
        for row in list(&vectors("worker_schedule")["rows"]) {
            let node = OriginatorId(small(&row["node_id"]));
            assert_eq!(minute_of_hour(node, HourlyTask::Generate), small(&row["generator_minute"]));
            assert_eq!(minute_of_hour(node, HourlyTask::Submit), small(&row["submitter_minute"]));
            assert_eq!(minute_of_hour(node, HourlyTask::Settle), small(&row["settlement_minute"]));
        }
    }

    /// Computed by another program from the specification: ids at powers of two, and minutes beyond the full hour.
    #[test]
    fn minutes_of_other_nodes_are_those_that_another_program_computes() {
        for (node, minutes) in [
            (1, [3, 8, 13]),
            (2, [50, 55, 0]),
            (12, [49, 54, 59]),
            (14, [40, 45, 50]),
            (99, [28, 33, 38]),
            (1200, [54, 59, 4]),
            (1300, [9, 14, 19]),
            (25_500, [37, 42, 47]),
            (65_535, [25, 30, 35]),
            (65_536, [13, 18, 23]),
            (0x7fff_ffff, [20, 25, 30]),
            (0x8000_0000, [8, 13, 18]),
            (4_294_967_200, [26, 31, 36]),
        ] {
            let tasks = [HourlyTask::Generate, HourlyTask::Submit, HourlyTask::Settle];
            let computed = tasks.map(|task| minute_of_hour(OriginatorId(node), task));
            assert_eq!(computed, minutes, "node {node}");
        }
    }

    #[test]
    fn a_report_ends_with_the_second_newest_minute() {
        assert_eq!(end_of_range(0, []), None);
        assert_eq!(end_of_range(0, [end(9, 90)]), None);
        assert_eq!(end_of_range(0, [end(9, 90), end(5, 50)]), Some(end(5, 50)));
        assert_eq!(end_of_range(4, [end(9, 90), end(5, 50), end(3, 30)]), Some(end(5, 50)));
        assert_eq!(end_of_range(5, [end(9, 90), end(5, 50)]), None, "it is reported already");
    }

    #[test]
    fn a_report_is_due_after_the_period_unless_one_is_under_way() {
        let last = Some(end(1000, 50));
        let (period, expiry) = (Duration::from_secs(360 * 60), Duration::from_secs(540 * 60));
        let due = |minute: i64, last, pending: &[_]| {
            due(minute * 60_000_000_000, period, expiry, last, pending.iter().copied())
        };
        assert_eq!(due(1360, last, &[]), ReportDue::NotYet);
        assert_eq!(due(1361, last, &[]), ReportDue::From(SequenceId(50)));
        assert_eq!(due(5, None, &[]), ReportDue::From(SequenceId::NONE));
        let pending = |from: u64, end: RangeEnd| [(SequenceId(from), end)];
        assert_eq!(due(1361, last, &pending(50, end(1100, 60))), ReportDue::UnderWay);
        assert_eq!(due(1641, last, &pending(50, end(1100, 60))), ReportDue::From(SequenceId(50)));
        assert_eq!(due(1361, last, &pending(49, end(1100, 60))), ReportDue::From(SequenceId(50)));
        let empty = pending(50, end(1100, 50));
        assert_eq!(due(1361, last, &empty), ReportDue::From(SequenceId(50)));
    }

    /// The comparison is exact to the second, not to the minute.
    #[test]
    fn a_report_is_due_as_soon_as_its_end_is_older_than_the_period() {
        let last = Some(end(1000, 50));
        let due = |seconds: i64, period_s: u64| {
            let period = Duration::from_secs(period_s);
            due((60_000 + seconds) * 1_000_000_000, period, period, last, [])
        };
        assert_eq!(due(30, 30), ReportDue::NotYet);
        assert_eq!(due(31, 30), ReportDue::From(SequenceId(50)));
        assert_eq!(due(3600, 3600), ReportDue::NotYet);
        assert_eq!(due(3601, 3600), ReportDue::From(SequenceId(50)));
        assert_eq!(due(-5, 30), ReportDue::NotYet, "an end ahead of the clock");
    }
}
