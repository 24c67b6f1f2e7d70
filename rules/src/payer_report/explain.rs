//! Explains why a report differs from the one that this node would write.
//!
//! A report contains only the root of its leaves. The cause of a difference is therefore searched among the likely
//! mistakes of a node: it charged wrong fees, omitted a payer or a minute, or counted a minute too many.

use hawser_proto::{PayerAddress, SequenceId};

use super::leaves::Leaves;
use super::report::PayerReport;
use super::schedule::RangeEnd;
use super::tree::Hash;

/// The largest number of trees that are built to find the cause of a difference. A guess: a tree of 10,000 payers
/// takes some hundredths of a second.
const TRIED_MAX: usize = 512;

/// The usage of one payer in one minute, as this node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteOfPayer {
    /// The minute, since the unix epoch.
    pub minute: u32,
    /// The payer.
    pub payer: PayerAddress,
    /// The fees in picodollars by this node's own computation.
    pub own: u64,
    /// The fees in picodollars that the originator stated in its envelopes.
    pub stated: u64,
    /// The sequence id of the last counted envelope.
    pub last: SequenceId,
}

/// One difference between a report and this node's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportDifference {
    /// The report states another end minute than that of the last envelope of its range.
    EndMinute {
        /// The minute in the report.
        reported: u32,
        /// The minute of the envelope.
        held: u32,
    },
    /// The range does not end with the last counted envelope of its last minute.
    EndSequence {
        /// The end of the report.
        reported: SequenceId,
        /// The last counted envelope of that minute; 0 if there is none.
        held: SequenceId,
    },
    /// The range covers no minute: the minute after which it begins is its last one, or a later one.
    MinutesReversed {
        /// The minute after which the range begins.
        start: u32,
        /// The last minute of the range.
        end: u32,
    },
    /// The amounts differ.
    Amounts {
        /// The root in the report.
        reported: Hash,
        /// The root of this node's amounts.
        own: Hash,
        /// The cause of the difference, if it can be found.
        cause: AmountCause,
    },
}

impl ReportDifference {
    /// Returns a short name of the difference, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EndMinute { .. } => "end_minute",
            Self::EndSequence { .. } => "end_sequence",
            Self::MinutesReversed { .. } => "minutes_reversed",
            Self::Amounts { .. } => "amounts",
        }
    }
}

/// The cause of wrong amounts in a report, if it can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AmountCause {
    /// The report uses the fees that the originator stated. Holds the minutes of payers where these are
    /// not the fees that the rates give.
    StatedFees(Vec<MinuteOfPayer>),
    /// The report omits this payer.
    WithoutPayer(PayerAddress),
    /// The report omits the minutes up to this one.
    AfterMinute(u32),
    /// The report omits the minutes from this one on.
    BeforeMinute(u32),
    /// None of the other causes, or there is too much usage to search.
    Unknown,
    /// No search was made, because it takes far longer than the comparison.
    NotSought,
}

/// The result of recomputing a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explanation {
    /// The report equals this node's computation.
    Equal,
    /// The report differs. The list of differences is not empty.
    Different(Vec<ReportDifference>),
}

/// Compares a report with this node's data and returns the differences; empty if they are equal. `start_minute` is
/// the minute of the envelope at the report's start, `None` for a report from the beginning. `held_end` is the
/// minute of the envelope at the report's end, and the last sequence id with usage in that minute. `own` is the
/// root of all amounts in the minutes after `start_minute`, up to and including that of `held_end`. Does not search
/// for the cause of different amounts.
#[must_use]
pub fn compare(
    report: &PayerReport,
    start_minute: Option<u32>,
    held_end: RangeEnd,
    own: Hash,
) -> Vec<ReportDifference> {
    let mut differences = Vec::new();
    let end = report.end();
    if end.minute != held_end.minute {
        let (reported, held) = (end.minute, held_end.minute);
        differences.push(ReportDifference::EndMinute { reported, held });
    }
    // A range without minutes settles nothing, and the next report begins in the same minute: there could be any number.
    if let Some(start) = start_minute.filter(|start| *start >= held_end.minute) {
        differences.push(ReportDifference::MinutesReversed { start, end: held_end.minute });
    }
    if end.sequence != held_end.sequence {
        let (reported, held) = (end.sequence, held_end.sequence);
        differences.push(ReportDifference::EndSequence { reported, held });
    }
    let reported = report.root();
    if reported != own {
        differences.push(ReportDifference::Amounts {
            reported,
            own,
            cause: AmountCause::NotSought,
        });
    }
    differences
}

/// Compares a report with this node's data like [`compare`], and searches for the cause of different amounts. `rows` is
/// the complete usage of the originator in the minutes after `start_minute`, up to and including that of `held_end`, by
/// ascending minute. With incomplete rows, a report about the same part would count as equal.
#[must_use]
pub fn explain(
    report: &PayerReport,
    start_minute: Option<u32>,
    held_end: RangeEnd,
    rows: &[MinuteOfPayer],
) -> Explanation {
    let own = Leaves::sum(rows.iter().map(|row| (row.payer, row.own)));
    let mut differences = compare(report, start_minute, held_end, own.root());
    for difference in &mut differences {
        if let ReportDifference::Amounts { reported, cause: found, .. } = difference {
            *found = cause(*reported, &own, rows);
        }
    }
    match differences.is_empty() {
        true => Explanation::Equal,
        false => Explanation::Different(differences),
    }
}

fn cause(reported: Hash, own: &Leaves, rows: &[MinuteOfPayer]) -> AmountCause {
    let is_of = |amounts: Leaves| amounts.root() == reported;
    if is_of(Leaves::sum(rows.iter().map(|row| (row.payer, row.stated)))) {
        let differs = |row: &&MinuteOfPayer| row.own != row.stated;
        return AmountCause::StatedFees(rows.iter().filter(differs).copied().collect());
    }
    let amounts = |keep: &dyn Fn(&MinuteOfPayer) -> bool| {
        is_of(Leaves::sum(rows.iter().filter(|row| keep(row)).map(|row| (row.payer, row.own))))
    };
    let mut minutes: Vec<u32> = rows.iter().map(|row| row.minute).collect();
    minutes.dedup();
    let share = TRIED_MAX / 4;
    // A wrong range is usually wrong at its ends.
    if let Some(minute) = minutes.iter().take(share).find(|it| amounts(&|row| row.minute > **it)) {
        return AmountCause::AfterMinute(*minute);
    }
    if let Some(minute) =
        minutes.iter().rev().take(share).find(|it| amounts(&|row| row.minute < **it))
    {
        return AmountCause::BeforeMinute(*minute);
    }
    let mut payers = own.payers().iter().map(|leaf| leaf.payer).take(2 * share);
    match payers.find(|payer| amounts(&|row| row.payer != *payer)) {
        Some(payer) => AmountCause::WithoutPayer(payer),
        None => AmountCause::Unknown,
    }
}

impl std::fmt::Display for ReportDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EndMinute { reported, held } => {
                write!(
                    f,
                    "it says that it ends in minute {reported}, and its last envelope is of minute {held}"
                )
            }
            Self::EndSequence { reported, held } => {
                write!(
                    f,
                    "it ends at envelope {reported}, and the last one of that minute is {held}"
                )
            }
            Self::MinutesReversed { start, end } => {
                write!(f, "it begins after minute {start} and ends in minute {end}")
            }
            Self::Amounts { cause, .. } => write!(f, "its amounts are others: {cause}"),
        }
    }
}

impl std::fmt::Display for AmountCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StatedFees(rows) => {
                let envelopes = rows.len();
                write!(
                    f,
                    "the originator's own fees, which differ in {envelopes} minutes of payers"
                )
            }
            Self::WithoutPayer(payer) => write!(f, "payer {payer} is left out"),
            Self::AfterMinute(minute) => write!(f, "the minutes up to {minute} are left out"),
            Self::BeforeMinute(minute) => write!(f, "the minutes from {minute} on are left out"),
            Self::Unknown => f.write_str("the cause is not known"),
            Self::NotSought => f.write_str("an explanation of the report looks for the cause"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Address, OriginatorId};

    use super::super::report::NodeIds;
    use super::*;

    fn row(minute: u32, payer: u8, own: u64, stated: u64) -> MinuteOfPayer {
        let last = SequenceId(u64::from(minute) * 10);
        MinuteOfPayer { minute, payer: Address([payer; 20]), own, stated, last }
    }

    fn rows() -> Vec<MinuteOfPayer> {
        vec![row(5, 1, 100, 100), row(5, 2, 50, 50), row(6, 1, 7, 8), row(7, 3, 0, 0)]
    }

    fn end(minute: u32, sequence: u64) -> RangeEnd {
        RangeEnd { minute, sequence: SequenceId(sequence) }
    }

    fn report(end: RangeEnd, amounts: &[(u8, u64)]) -> PayerReport {
        let amounts = amounts.iter().map(|(payer, amount)| (Address([*payer; 20]), *amount));
        let root = Leaves::sum(amounts).root();
        let nodes = NodeIds::new(vec![100]).unwrap();
        PayerReport::new(OriginatorId(100), SequenceId(1), end, root, nodes).unwrap()
    }

    fn causes(amounts: &[(u8, u64)]) -> AmountCause {
        let explained = explain(&report(end(7, 70), amounts), Some(4), end(7, 70), &rows());
        let Explanation::Different(differences) = explained else { panic!("it is equal") };
        let [ReportDifference::Amounts { cause, .. }] = &differences[..] else {
            panic!("{differences:?}")
        };
        cause.clone()
    }

    #[test]
    fn a_true_report_is_equal() {
        let report = report(end(7, 70), &[(1, 107), (2, 50), (3, 0)]);
        assert_eq!(explain(&report, Some(4), end(7, 70), &rows()), Explanation::Equal);
    }

    #[test]
    fn each_lie_is_named() {
        assert_eq!(
            causes(&[(1, 108), (2, 50), (3, 0)]),
            AmountCause::StatedFees(vec![row(6, 1, 7, 8)])
        );
        assert_eq!(causes(&[(1, 107), (2, 50)]), AmountCause::BeforeMinute(7));
        assert_eq!(causes(&[(1, 107), (3, 0)]), AmountCause::WithoutPayer(Address([2; 20])));
        assert_eq!(causes(&[(1, 7), (3, 0)]), AmountCause::AfterMinute(5));
        assert_eq!(causes(&[(1, 1), (2, 50), (3, 0)]), AmountCause::Unknown);
    }

    #[test]
    fn another_end_is_named() {
        let amounts = [(1, 107), (2, 50), (3, 0)];
        let early = report(end(6, 69), &amounts);
        let explained = explain(&early, Some(4), end(7, 70), &rows());
        let minute = ReportDifference::EndMinute { reported: 6, held: 7 };
        let sequence =
            ReportDifference::EndSequence { reported: SequenceId(69), held: SequenceId(70) };
        assert_eq!(explained, Explanation::Different(vec![minute, sequence]));
        for start in [7, 8] {
            let differences = compare(
                &report(end(7, 70), &[]),
                Some(start),
                end(7, 70),
                Leaves::default().root(),
            );
            assert_eq!(differences, [ReportDifference::MinutesReversed { start, end: 7 }]);
        }
    }
}
