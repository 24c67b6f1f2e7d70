//! Explains why a report differs from the one that this node would write.
//!
//! A report contains only the root of its leaves. The [cause](super::cause) of other amounts is therefore searched
//! among the likely mistakes and lies.

use hawser_proto::{OriginatorId, SequenceId};

use super::amount_cause::AmountCause;
use super::cause::cause;
use super::own_usage::OwnUsage;
use super::report::{NodeIds, PayerReport};
use super::schedule::RangeEnd;
use super::tree::Hash;

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
    /// The range covers no minute: it begins after its last minute, or after a later minute.
    MinutesReversed {
        /// The minute after which the range begins.
        start: u32,
        /// The last minute of the range.
        end: u32,
    },
    /// The report lists other nodes than the canonical network has.
    Nodes {
        /// Nodes of the report that are not in the network.
        added: Vec<OriginatorId>,
        /// Nodes of the network that are not in the report.
        left_out: Vec<OriginatorId>,
    },
    /// The report is about more payers than this node sums up. Nothing else was compared.
    TooManyPayers {
        /// The maximum number of payers of a report that this node computes.
        payers_max: usize,
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
    /// Compares the nodes of a report with those of the canonical network.
    #[must_use]
    pub fn of_nodes(reported: &NodeIds, canonical: &NodeIds) -> Option<Self> {
        let only_in = |one: &NodeIds, other: &NodeIds| -> Vec<OriginatorId> {
            one.get().iter().copied().filter(|node| !other.contains(*node)).collect()
        };
        let (added, left_out) = (only_in(reported, canonical), only_in(canonical, reported));
        let is_equal = added.is_empty() && left_out.is_empty();
        (!is_equal).then_some(Self::Nodes { added, left_out })
    }

    /// Returns a short name of the difference, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EndMinute { .. } => "end_minute",
            Self::EndSequence { .. } => "end_sequence",
            Self::MinutesReversed { .. } => "minutes_reversed",
            Self::Nodes { .. } => "nodes",
            Self::TooManyPayers { .. } => "too_many_payers",
            Self::Amounts { .. } => "amounts",
        }
    }
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
    // A range without minutes settles nothing, and the next report begins in the same minute: there could be any
    // number.
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

/// Compares a report with this node's data like [`compare`], and searches for the cause of different amounts.
/// `usage` is the complete usage of the originator in the minutes after `start_minute`, up to and including that of
/// `held_end`. With incomplete rows, a report about the same part would count as equal.
#[must_use]
pub fn explain(
    report: &PayerReport,
    start_minute: Option<u32>,
    held_end: RangeEnd,
    usage: &OwnUsage,
) -> Vec<ReportDifference> {
    let own = usage.leaves();
    let mut differences = compare(report, start_minute, held_end, own.root());
    for difference in &mut differences {
        if let ReportDifference::Amounts { reported, cause: found, .. } = difference {
            *found = cause(*reported, &own, usage);
        }
    }
    differences
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
            Self::Nodes { added, left_out } => {
                f.write_str("it lists other nodes than the canonical network has:")?;
                added.iter().try_for_each(|node| write!(f, " {node} too many"))?;
                left_out.iter().try_for_each(|node| write!(f, " {node} left out"))
            }
            Self::TooManyPayers { payers_max } => write!(
                f,
                "its range has more than {payers_max} payers, and this node sums up no more in one report"
            ),
            Self::Amounts { cause, .. } => write!(f, "its amounts are others: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use hawser_proto::price::PicoDollarPrice;

    use super::super::leaves::Leaves;
    use super::super::own_usage::MinuteOfPayer;
    use super::*;

    fn row(minute: u32, payer: u8, own: u64) -> MinuteOfPayer {
        let last = SequenceId(u64::from(minute) * 10);
        let own = PicoDollarPrice(own);
        MinuteOfPayer { minute, payer: Address([payer; 20]), own, stated: own, last }
    }

    fn usage() -> OwnUsage {
        let rows = vec![row(5, 1, 100), row(5, 2, 50), row(6, 1, 7), row(7, 3, 0)];
        OwnUsage { rows, ..OwnUsage::default() }
    }

    fn end(minute: u32, sequence: u64) -> RangeEnd {
        RangeEnd { minute, sequence: SequenceId(sequence) }
    }

    fn report(end: RangeEnd, amounts: &[(u8, u64)]) -> PayerReport {
        let of_payer =
            |(payer, amount): &(u8, u64)| (Address([*payer; 20]), PicoDollarPrice(*amount));
        let amounts = amounts.iter().map(of_payer);
        let root = Leaves::sum(amounts).root();
        let nodes = NodeIds::new([OriginatorId(100)]).unwrap();
        PayerReport::new(OriginatorId(100), SequenceId(1), end, root, nodes).unwrap()
    }

    #[test]
    fn a_true_report_is_equal() {
        let report = report(end(7, 70), &[(1, 107), (2, 50), (3, 0)]);
        assert_eq!(explain(&report, Some(4), end(7, 70), &usage()), []);
    }

    #[test]
    fn other_amounts_get_their_cause() {
        let report = report(end(7, 70), &[(1, 107), (3, 0)]);
        let differences = explain(&report, Some(4), end(7, 70), &usage());
        let [ReportDifference::Amounts { cause, .. }] = &differences[..] else {
            panic!("{differences:?}")
        };
        assert_eq!(*cause, AmountCause::WithoutPayer(Address([2; 20])));
    }

    #[test]
    fn another_end_is_named() {
        let amounts = [(1, 107), (2, 50), (3, 0)];
        let early = report(end(6, 69), &amounts);
        let explained = explain(&early, Some(4), end(7, 70), &usage());
        let minute = ReportDifference::EndMinute { reported: 6, held: 7 };
        let sequence =
            ReportDifference::EndSequence { reported: SequenceId(69), held: SequenceId(70) };
        assert_eq!(explained, [minute, sequence]);
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

    #[test]
    fn other_nodes_are_named() {
        let nodes = |ids: &[u32]| NodeIds::new(ids.iter().copied().map(OriginatorId)).unwrap();
        let found = ReportDifference::of_nodes(&nodes(&[100, 300]), &nodes(&[100, 200])).unwrap();
        let (added, left_out) = (vec![OriginatorId(300)], vec![OriginatorId(200)]);
        assert_eq!(found, ReportDifference::Nodes { added, left_out });
        let text = found.to_string();
        assert!(text.contains("300 too many") && text.contains("200 left out"), "{text}");
        assert_eq!(ReportDifference::of_nodes(&nodes(&[100]), &nodes(&[100])), None);
    }
}
