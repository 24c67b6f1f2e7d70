//! When a node's workers run, where a report ends, and when the next one is due.

use hawser_proto::{OriginatorId, SequenceId};

/// A task that runs once an hour, at a minute that depends on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HourlyTask {
    /// Writes reports.
    Generate = 1,
    /// Submits reports that a majority has attested.
    Submit = 2,
    /// Settles submitted reports.
    Settle = 3,
}

/// Returns the minute of every hour, 0 to 59, at which a node runs a task. Nodes are spread over the hour, and a
/// node's tasks are five minutes apart.
#[must_use]
pub fn minute_of_hour(node: OriginatorId, task: HourlyTask) -> u32 {
    // Knuth's multiplicative hash, as specified.
    let hash = node.0.wrapping_mul(2_654_435_761) >> 16;
    (hash + 5 * (task as u32 - 1)) % 60
}

/// The last envelope of a report, and the minute that it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeEnd {
    /// The minute, since the unix epoch.
    pub minute: u32,
    /// The last envelope of that minute which a payer pays for.
    pub sequence: SequenceId,
}

/// Returns the end of a report whose range begins after `after_minute`: the second newest minute that has usage. The
/// newest may still be filling. `minutes` are the minutes with usage, newest first, each with its last
/// sequence id. Returns `None` if there are fewer than two after `after_minute`.
#[must_use]
pub fn end_of_range(
    after_minute: u32,
    minutes: impl IntoIterator<Item = RangeEnd>,
) -> Option<RangeEnd> {
    minutes.into_iter().nth(1).filter(|end| end.minute > after_minute)
}

/// Times between reports, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// The least time between the ends of two reports of this node about itself.
    pub own: u32,
    /// The same, about other originators: an originator that writes none is reported by others.
    pub others: u32,
    /// The age of its end at which a report about this node is given up if no node has submitted it.
    pub expiry_own: u32,
    /// The same, of reports about others.
    pub expiry_others: u32,
}

impl Default for Periods {
    /// The periods of the reference implementation: 6 and 12 hours, given up after one and a half times
    /// as long.
    fn default() -> Self {
        Self { own: 6 * 60, others: 12 * 60, expiry_own: 9 * 60, expiry_others: 18 * 60 }
    }
}

impl Periods {
    /// Returns the least time between reports about an originator, minutes.
    #[must_use]
    pub fn between(self, node: OriginatorId, about: OriginatorId) -> u32 {
        if node == about { self.own } else { self.others }
    }

    /// Returns the age at which a report about an originator is given up, minutes.
    #[must_use]
    pub fn expiry(self, node: OriginatorId, about: OriginatorId) -> u32 {
        if node == about { self.expiry_own } else { self.expiry_others }
    }
}

/// A decision whether to write a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportDue {
    /// The last report is too new.
    NotYet,
    /// Another report of the same range waits for its submission.
    UnderWay,
    /// A report is due after this sequence id.
    From(SequenceId),
}

/// Decides whether a report is due. `last_end` is the end of the newest report on the chain, with its minute;
/// `pending` are the start, the end and the end minute of reports that are known, are not on the
/// chain, and were not refused here. All of one originator.
#[must_use]
pub fn due(
    now_minute: u32,
    period: u32,
    expiry: u32,
    last_end: Option<RangeEnd>,
    pending: impl IntoIterator<Item = (SequenceId, RangeEnd)>,
) -> ReportDue {
    if last_end.is_some_and(|last| now_minute.saturating_sub(last.minute) <= period) {
        return ReportDue::NotYet;
    }
    let start = last_end.map_or(SequenceId::NONE, |last| last.sequence);
    let is_under_way = |(from, end): (SequenceId, RangeEnd)| {
        // A report about nothing settles nothing, and would stand in the way for ever.
        from == start && end.sequence != from && now_minute.saturating_sub(end.minute) <= expiry
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
        assert_eq!(due(1360, 360, 540, last, []), ReportDue::NotYet);
        assert_eq!(due(1361, 360, 540, last, []), ReportDue::From(SequenceId(50)));
        assert_eq!(due(5, 360, 540, None, []), ReportDue::From(SequenceId::NONE));
        let pending = |from: u64, end: RangeEnd| [(SequenceId(from), end)];
        assert_eq!(due(1361, 360, 540, last, pending(50, end(1100, 60))), ReportDue::UnderWay);
        assert_eq!(
            due(1641, 360, 540, last, pending(50, end(1100, 60))),
            ReportDue::From(SequenceId(50))
        );
        assert_eq!(
            due(1361, 360, 540, last, pending(49, end(1100, 60))),
            ReportDue::From(SequenceId(50))
        );
        let empty = pending(50, end(1100, 50));
        assert_eq!(due(1361, 360, 540, last, empty), ReportDue::From(SequenceId(50)));
    }
}
