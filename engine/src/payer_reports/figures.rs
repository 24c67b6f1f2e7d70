//! The figures of this node's own log: the report that it would write, and whether another one is the same.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use hawser_rules::payer_report::explain::AmountCause;
use hawser_rules::payer_report::{
    Explanation, Leaves, MinuteOfPayer, NodeIds, PayerReport, PayerReportError, RangeEnd,
    ReportDifference, compare, end_of_range, explain,
};
use hawser_storage::{Mark, ReadError, Snapshot};

use super::late::leaves_without_late;

/// Usage rows that are held at once to explain a difference. A guess: some 64 MB.
pub const EXPLAINED_ROWS_MAX: usize = 1_000_000;
/// Minutes after the end of a range in which a missing place of it keeps this node from writing a report over it. A
/// guess: the time after which any node reports about an originator. A place that no peer has shown by then was
/// most likely never signed.
const MISSING_MINUTES: u32 = 12 * 60;
/// Minutes ahead of this node's clock in which an envelope may be dated. Specified (`docs/protocol/misbehavior.md`).
const AHEAD_MINUTES: u32 = 5;

/// The figures could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// The database failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A number exceeds the largest one of a report.
    #[error(transparent)]
    Report(#[from] PayerReportError),
    /// The envelope at the start of the range is not held, so its minute is not known.
    #[error("this node does not have envelope {0}, at which the range of the report starts")]
    NoStart(EnvelopeId),
    /// The amounts of the range may still change here.
    #[error(transparent)]
    NotYet(#[from] NotYet),
}

/// The reason a report cannot be judged yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The strand is not held up to the end of the report.
    #[error("this node has the strand only up to {head}")]
    Behind {
        /// The last envelope that is held without gap.
        head: SequenceId,
    },
    /// The envelope at one of the report's ends is not held.
    #[error("this node does not have envelope {0}")]
    NoEnvelope(EnvelopeId),
    /// Places of the range are missing in this node's copy of the strand, or had expired before it was made.
    #[error("this node lacks envelopes {0} to {1}")]
    Missing(SequenceId, SequenceId),
    /// Amounts of the range are being corrected.
    #[error(
        "amounts of this originator are still being corrected: a rate or an envelope came late"
    )]
    Unpriced,
}

/// The result of computing a report again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recomputed {
    /// This node computes the same report, with these leaves.
    Equal(Leaves),
    /// This node computes a different report.
    Different(Vec<ReportDifference>),
    /// This node cannot compute the report yet.
    NotYet(NotYet),
}

/// Returns the report that this node would write about an originator from `start` on, in minute `now_minute`; `None` while
/// there is too little usage. Places that are missing do not count once the range has ended half a day ago. Usage in minutes
/// that [have not come](has_come) does not count yet: a report that ends far ahead would be the last one.
///
/// # Errors
/// [`FiguresError`].
pub fn draft(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    nodes: NodeIds,
    now_minute: u32,
) -> Result<Option<PayerReport>, FiguresError> {
    let start_minute = match start {
        SequenceId::NONE => None,
        start => {
            let at = EnvelopeId::new(about, start);
            Some(minute_at(snapshot, at)?.ok_or(FiguresError::NoStart(at))?)
        }
    };
    let last_minute = now_minute.saturating_add(AHEAD_MINUTES);
    let Some(newest) = snapshot.last_used_minute(about, last_minute)? else { return Ok(None) };
    let before = newest.0.checked_sub(1);
    let second = before.map(|minute| snapshot.last_used_minute(about, minute)).transpose()?;
    let minutes = [Some(newest), second.flatten()].into_iter().flatten();
    let minutes = minutes.map(|(minute, sequence)| RangeEnd { minute, sequence });
    let end = match end_of_range(start_minute.unwrap_or(0), minutes) {
        Some(end) => end,
        None => return Ok(None),
    };
    if snapshot.has_unpriced_in(about, minutes_of(start_minute, end.minute))? {
        return Err(NotYet::Unpriced.into());
    }
    let may_come = now_minute.saturating_sub(end.minute) < MISSING_MINUTES;
    if let Some(why) = missing(snapshot, about, start, end.sequence)?.filter(|_| may_come) {
        return Err(why.into());
    }
    let leaves = leaves(snapshot, about, start_minute, end.minute)?;
    Ok(Some(PayerReport::new(about, start, end, leaves.root(), nodes)?))
}

/// Returns true if a minute has come at a node whose clock is in minute `now_minute`.
#[must_use]
pub fn has_come(minute: u32, now_minute: u32) -> bool {
    minute <= now_minute.saturating_add(AHEAD_MINUTES)
}

/// Computes a report again. The cause of other amounts is not looked for: that is for [`recompute_explained`].
///
/// A report of which this node lacks places may be equal all the same: its writer has counted none of them. Sequence ids
/// that the reference implementation uses up without an envelope are such places.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Recomputed, FiguresError> {
    let figures = match figures_of(snapshot, report)? {
        Ok(figures) => figures,
        Err(why) => return Ok(Recomputed::NotYet(why)),
    };
    let differences = compare(report, figures.start_minute, figures.end, figures.leaves.root());
    Ok(match (differences.is_empty(), figures.missing) {
        (true, _) => Recomputed::Equal(figures.leaves),
        (false, Some(why)) => Recomputed::NotYet(why),
        (false, None) => Recomputed::Different(differences),
    })
}

/// Computes the amounts of a report that the chain has, to settle it: a majority has attested its root, so only that counts.
/// Leaves out envelopes that its originator has dated back into its minutes since. `own` is this node.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute_on_chain(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    own: OriginatorId,
) -> Result<Recomputed, FiguresError> {
    let figures = match figures_of(snapshot, report)? {
        Ok(figures) => figures,
        Err(why) => return Ok(Recomputed::NotYet(why)),
    };
    let root = figures.leaves.root();
    if root == report.root() {
        return Ok(Recomputed::Equal(figures.leaves));
    }
    let minutes = minutes_of(figures.start_minute, figures.end.minute);
    if let Some(leaves) = leaves_without_late(snapshot, report, &minutes, own)? {
        return Ok(Recomputed::Equal(leaves));
    }
    Ok(match figures.missing {
        Some(why) => Recomputed::NotYet(why),
        None => Recomputed::Different(compare(report, figures.start_minute, figures.end, root)),
    })
}

/// Computes a report again, and looks for the cause of other amounts if the range has at most `rows_max` rows of usage. Takes
/// far longer than [`recompute`], with the same result.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute_explained(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    rows_max: usize,
) -> Result<Recomputed, FiguresError> {
    let mut differences = match recompute(snapshot, report)? {
        Recomputed::Different(differences) => differences,
        other => return Ok(other),
    };
    for difference in &mut differences {
        if let ReportDifference::Amounts { cause, .. } = difference {
            *cause = cause_of(snapshot, report, rows_max)?;
        }
    }
    Ok(Recomputed::Different(differences))
}

/// Looks for the cause of other amounts.
fn cause_of(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    rows_max: usize,
) -> Result<AmountCause, FiguresError> {
    let Ok(figures) = figures_of(snapshot, report)? else { return Ok(AmountCause::Unknown) };
    let mut rows = Vec::new();
    let mut is_whole = true;
    let (about, from, through) = (report.originator(), figures.start_minute, figures.end.minute);
    snapshot.usage_of_minutes(about, from, through, |minute, payer, row| {
        is_whole = rows.len() < rows_max;
        if is_whole {
            rows.push(MinuteOfPayer {
                minute,
                payer,
                own: row.picodollars,
                stated: row.stated_picodollars,
                last: row.last_sequence,
            });
        }
        is_whole
    })?;
    // A part of the rows decides nothing: a report of only those rows would look equal.
    if !is_whole {
        return Ok(AmountCause::Unknown);
    }
    let explained = explain(report, figures.start_minute, figures.end, &rows);
    let Explanation::Different(differences) = explained else { return Ok(AmountCause::Unknown) };
    let cause = differences.into_iter().find_map(|difference| match difference {
        ReportDifference::Amounts { cause, .. } => Some(cause),
        _ => None,
    });
    Ok(cause.unwrap_or(AmountCause::Unknown))
}

/// This node's figures of the range of a report.
struct Figures {
    start_minute: Option<u32>,
    /// The minute of the envelope at the report's end, and the last place with usage in it.
    end: RangeEnd,
    /// All amounts of the range.
    leaves: Leaves,
    /// The places of the range that this node lacks: its amounts may be too small.
    missing: Option<NotYet>,
}

/// Returns this node's figures of the range of a report, or the reason why they cannot be known yet.
fn figures_of(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Result<Figures, NotYet>, FiguresError> {
    let (about, start, end) = (report.originator(), report.start(), report.end());
    if start == end.sequence {
        // A range without envelopes has no amounts, whatever else is held.
        let leaves = Leaves::default();
        return Ok(Ok(Figures { start_minute: None, end, leaves, missing: None }));
    }
    let head = snapshot.verified_head(about)?;
    if head < end.sequence {
        return Ok(Err(NotYet::Behind { head }));
    }
    let end_at = EnvelopeId::new(about, end.sequence);
    let Some(end_minute) = minute_at(snapshot, end_at)? else {
        return Ok(Err(NotYet::NoEnvelope(end_at)));
    };
    let start_at = EnvelopeId::new(about, start);
    let start_minute = match start {
        SequenceId::NONE => None,
        _ => match minute_at(snapshot, start_at)? {
            Some(minute) => Some(minute),
            None => return Ok(Err(NotYet::NoEnvelope(start_at))),
        },
    };
    if snapshot.has_unpriced_in(about, minutes_of(start_minute, end_minute))? {
        return Ok(Err(NotYet::Unpriced));
    }
    let missing = missing(snapshot, about, start, end.sequence)?;
    let last = snapshot.last_used_minute(about, end_minute)?;
    let last = last.filter(|(minute, _)| *minute == end_minute).map(|(_, last)| last);
    let end = RangeEnd { minute: end_minute, sequence: last.unwrap_or(SequenceId::NONE) };
    let leaves = leaves(snapshot, about, start_minute, end_minute)?;
    Ok(Ok(Figures { start_minute, end, leaves, missing }))
}

/// Returns the minutes of a range. Amounts of other minutes, and of other strands, do not matter to a report: an originator
/// that has its own corrected again and again holds up no report about another one.
fn minutes_of(start_minute: Option<u32>, end_minute: u32) -> RangeInclusive<u32> {
    start_minute.map_or(0, |minute| minute.saturating_add(1))..=end_minute
}

/// Returns the first places of a range that are not held, if there are any. They are read from the snapshot that the amounts
/// are read from: what another one says may have changed since.
fn missing(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    end: SequenceId,
) -> Result<Option<NotYet>, ReadError> {
    let not_held = snapshot.first_not_held(about, start, end)?;
    Ok(not_held.map(|(from, through)| NotYet::Missing(from, through)))
}

/// Returns the amounts of all payers in the minutes after `start_minute` up to `end_minute`.
fn leaves(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start_minute: Option<u32>,
    end_minute: u32,
) -> Result<Leaves, FiguresError> {
    let mut sums: HashMap<PayerAddress, u64> = HashMap::new();
    snapshot.usage_of_minutes(about, start_minute, end_minute, |_, payer, row| {
        let sum = sums.entry(payer).or_default();
        *sum = sum.saturating_add(row.picodollars);
        true
    })?;
    Ok(Leaves::sum(sums))
}

/// Returns the minute of an envelope, also of one that this node has pruned; `None` if it was never held.
///
/// A report on the chain can be false, or be withdrawn: what was pruned by it may be the start or the end of a later one.
pub(crate) fn minute_at(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Result<Option<u32>, ReadError> {
    if let Some(bytes) = snapshot.get(at)? {
        let envelope = OriginatorEnvelope::parse(bytes).ok();
        return Ok(envelope.map(|it| hawser_proto::minute_of(it.unsigned().originator_ns())));
    }
    if !matches!(snapshot.mark(at)?, Some(Mark::Pruned { .. })) {
        return Ok(None);
    }
    let record = snapshot.pruned(at.originator, at.sequence, at.sequence).next().transpose()?;
    Ok(record.map(|(_, it)| hawser_proto::minute_of(it.originator_ns)))
}
