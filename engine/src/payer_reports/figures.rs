//! The figures of this node's own log: the report that it would write, and whether another one is the same.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::{
    Leaves, NodeIds, PayerReport, PayerReportError, RangeEnd, ReportDifference, compare,
    end_of_range,
};
use hawser_storage::{ReadError, Snapshot};

use super::late::{ReportedRange, leaves_to_attest, leaves_to_settle, missing_behind};
use super::not_yet::UndecidedError;
use super::times::minute_at;

/// Minutes after the end of a range in which a missing place of its minutes keeps this node from writing a report over
/// it. A guess: the time after which any node reports about an originator. A place that no peer has shown by then was
/// most likely never signed.
const MISSING_MINUTES: u32 = 12 * 60;
/// The least length in minutes of a range that ends half a day ago because newer places are missing. A guess: the time
/// between two reports of a node about itself, so that such a strand costs no more reports than another one.
const OVER_MISSING_MINUTES: u32 = 6 * 60;
/// Minutes after the end of a range in which a missing place of its minutes keeps this node from attesting a report
/// over it. A guess: a node that is restarted, or loses its connection for a moment, has received what its peers show
/// by then.
/// Nodes of the reference implementation use up sequence ids, so most of their reports are over missing places.
const ARRIVING_MINUTES: u32 = 15;
/// Minutes ahead of this node's clock in which an envelope may be dated. Specified (`docs/protocol/misbehavior.md`).
pub(crate) const AHEAD_MINUTES: u32 = 5;

/// The maximum number of payers of a report that this node writes; a single minute may have more. The report ends with
/// the last minute before there are more. Calculated: 50 MB, at some 100 bytes for each while they are summed up (a row
/// of a hash table and a leaf, by the sizes of the types). A node settles 40,000 in an hour, so they take it the time
/// after which any node reports about the originator again.
const WRITTEN_PAYERS_MAX: usize = 500_000;
/// The maximum number of payers of a report that this node computes, because another node wrote it or a single minute
/// has as many. Calculated like [`WRITTEN_PAYERS_MAX`]: 400 MB, and half as much again while late envelopes are left
/// out. Eight times as many as it writes, because other software ends no report earlier for its payers.
const COMPUTED_PAYERS_MAX: usize = 4_000_000;

/// The bounds of a node.
const PAYERS_MAX: PayersMax =
    PayersMax { written: WRITTEN_PAYERS_MAX, computed: COMPUTED_PAYERS_MAX };

/// The maximum number of payers of reports.
#[derive(Debug, Clone, Copy)]
struct PayersMax {
    /// The maximum number of payers of a report that this node writes, unless a single minute has more.
    written: usize,
    /// The maximum number of payers of a report that this node computes.
    computed: usize,
}

/// The minute after which a range from place 0 begins. Specified (`docs/protocol/payer-reports.md`): otherwise one
/// envelope that its originator dates before 1970 would keep nodes of the reference implementation from attesting.
const BEFORE_ALL: u32 = 0;

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
    /// The range has more payers than this node sums up. A node writes such a report only if a single minute has as
    /// many.
    #[error(
        "a report about originator {about} that ends in minute {minute} has more than {payers_max} payers, and this \
        node sums up no more in one report"
    )]
    TooManyPayers {
        /// The originator.
        about: OriginatorId,
        /// The last minute of the range.
        minute: u32,
        /// The maximum number of payers that this node sums up.
        payers_max: usize,
    },
    /// The amounts of the range may still change here.
    #[error(transparent)]
    NotYet(#[from] UndecidedError),
}

/// The result of computing a report again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recomputed {
    /// This node computes the same report, with these leaves.
    Equal(Leaves),
    /// This node computes a different report.
    Different(Vec<ReportDifference>),
    /// This node cannot compute the report yet.
    NotYet(UndecidedError),
}

/// Returns the report that this node would write about an originator from `start` on, in minute `now_minute`; `None`
/// while there is too little usage. Places that are missing do not count once the range has ended half a day ago. If
/// newer ones are missing, the range ends half a day ago: an originator whose usage goes on could otherwise keep back
/// one place after the other, and no report would come. Usage in minutes that [have not come](has_come) does not count
/// yet: a report that ends far ahead would be the last one.
/// Envelopes that are dated into the range and follow its end count: nodes of the reference implementation count them,
/// and refuse a report without them for good.
///
/// A range of very many payers ends earlier: with the last minute up to which it has at most 500,000, or with its first
/// one. The next report begins there.
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
    draft_within(PAYERS_MAX, snapshot, about, start, nodes, now_minute)
}

fn draft_within(
    payers_max: PayersMax,
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    nodes: NodeIds,
    now_minute: u32,
) -> Result<Option<PayerReport>, FiguresError> {
    let start_minute = match start {
        SequenceId::NONE => Some(BEFORE_ALL),
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
    let Some(end) = end_of_range(start_minute.unwrap_or(BEFORE_ALL), minutes) else {
        return Ok(None);
    };
    let from = (start, start_minute);
    let Some(end) = end_behind_start(snapshot, about, from, end)? else { return Ok(None) };
    if snapshot.has_unpriced_in(about, minutes_of(start_minute, end.minute))? {
        return Err(UndecidedError::Unpriced.into());
    }
    let (mut end, mut leaves) = end_by_payers(payers_max, snapshot, about, from, end)?;
    let may_come = now_minute.saturating_sub(end.minute) < MISSING_MINUTES;
    if may_come && let Some(why) = missing_of_minutes(snapshot, about, start, end)? {
        let earlier = end_over_missing(snapshot, about, from, now_minute)?.ok_or(why)?;
        drop(leaves); // a range may have as many payers as fit into memory once
        (end, leaves) = end_by_payers(payers_max, snapshot, about, from, earlier)?;
    }
    Ok(Some(PayerReport::new(about, start, end, leaves.root(), nodes)?))
}

/// Returns the end of a range that ends with `end` at the latest: the newest minute whose last place follows the start,
/// because only such a minute can end a range. `None` if there is none. An originator may have dated places that an
/// earlier report covers into minutes that come only now, each of which would otherwise end all its reports.
fn end_behind_start(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    (start, start_minute): (SequenceId, Option<u32>),
    end: RangeEnd,
) -> Result<Option<RangeEnd>, ReadError> {
    if end.sequence > start {
        return Ok(Some(end));
    }
    let Some(through) = end.minute.checked_sub(1) else { return Ok(None) };
    let mut found: Option<RangeEnd> = None;
    snapshot.usage_of_minutes(about, start_minute, through, |minute, _, row| {
        if row.last_sequence > start {
            let earlier = found.filter(|earlier| earlier.minute == minute);
            let sequence = earlier.map_or(SequenceId::NONE, |earlier| earlier.sequence);
            found = Some(RangeEnd { minute, sequence: sequence.max(row.last_sequence) });
        }
        true
    })?;
    Ok(found)
}

/// Returns the end of a range whose missing places come no more: the last minute with usage of half a day ago. `None`
/// if the range is shorter than [`OVER_MISSING_MINUTES`] up to there.
fn end_over_missing(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    (start, start_minute): (SequenceId, Option<u32>),
    now_minute: u32,
) -> Result<Option<RangeEnd>, ReadError> {
    let Some(through) = now_minute.checked_sub(MISSING_MINUTES) else { return Ok(None) };
    let Some((minute, sequence)) = snapshot.last_used_minute(about, through)? else {
        return Ok(None);
    };
    let from = (start, start_minute);
    let end = end_behind_start(snapshot, about, from, RangeEnd { minute, sequence })?;
    let start_minute = start_minute.unwrap_or(BEFORE_ALL);
    Ok(end.filter(|end| end.minute.saturating_sub(start_minute) >= OVER_MISSING_MINUTES))
}

/// Returns the end of a range that ends with `end` at the latest, and the amounts up to there. A range with too many
/// payers ends earlier: with the last minute at which the number is still allowed, or with its first minute. If neither
/// minute can end the range, because the originator has dated its envelopes out of order, the range keeps all its
/// payers.
fn end_by_payers(
    payers_max: PayersMax,
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    (start, start_minute): (SequenceId, Option<u32>),
    end: RangeEnd,
) -> Result<(RangeEnd, Leaves), FiguresError> {
    let full = match sum_up(snapshot, about, start_minute, end.minute, payers_max.written)? {
        Summed::All(leaves, _) => return Ok((end, leaves)),
        Summed::Full { minute } => minute,
    };
    let used = |through| snapshot.last_used_minute(about, through);
    let is_end = |(minute, sequence): &(u32, SequenceId)| {
        start_minute.is_none_or(|start_minute| *minute > start_minute) && *sequence > start
    };
    let before = full.checked_sub(1).map(used).transpose()?.flatten();
    let found = match before.filter(is_end) {
        None => used(full)?.filter(is_end),
        before => before,
    };
    let end = found.map_or(end, |(minute, sequence)| RangeEnd { minute, sequence });
    let leaves = leaves(snapshot, about, start_minute, end.minute, payers_max.computed)?.0;
    Ok((end, leaves))
}

/// Returns true if a minute has come at a node whose clock is in minute `now_minute`.
#[must_use]
pub fn has_come(minute: u32, now_minute: u32) -> bool {
    minute <= now_minute.saturating_add(AHEAD_MINUTES)
}

/// Computes a report again. Does not search for the cause of other amounts, as
/// [`recompute_explained`](super::recompute_explained) does.
///
/// The amounts may be equal although this node lacks places of the range, if the writer counted none of them: the
/// reference implementation uses up sequence ids without an envelope. A report is also equal if this node would have
/// written it before its originator dated further envelopes back into its minutes.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Recomputed, FiguresError> {
    Ok(recomputed(COMPUTED_PAYERS_MAX, snapshot, report, |_| true)?.0)
}

/// Computes a report again to attest it, in minute `now_minute`. Differs from [`recompute`] only while the range has
/// ended less than a quarter of an hour ago: a report whose minutes have missing places is then not judged yet, because
/// they may still come. Envelopes that are dated back are searched for if `may_search` returns true; it gets the places
/// of the range that this node lacks.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute_to_attest(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    now_minute: u32,
    may_search: impl FnOnce(Option<&UndecidedError>) -> bool,
) -> Result<Recomputed, FiguresError> {
    let may_come = now_minute.saturating_sub(report.end().minute) < ARRIVING_MINUTES;
    let may_search =
        |missing: Option<&UndecidedError>| !(may_come && missing.is_some()) && may_search(missing);
    Ok(match recomputed(COMPUTED_PAYERS_MAX, snapshot, report, may_search)? {
        (Recomputed::Equal(leaves), _) if may_come => {
            let (about, start, end) = (report.originator(), report.start(), report.end());
            let missing = missing_of_minutes(snapshot, about, start, end)?;
            missing.map_or(Recomputed::Equal(leaves), Recomputed::NotYet)
        }
        (recomputed, _) => recomputed,
    })
}

/// Computes a report again, and returns the result with the places of its range that this node lacks.
fn recomputed(
    payers_max: usize,
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    may_search: impl FnOnce(Option<&UndecidedError>) -> bool,
) -> Result<(Recomputed, Option<UndecidedError>), FiguresError> {
    let figures = match figures_within(payers_max, snapshot, report) {
        Ok(Ok(figures)) => figures,
        Ok(Err(why)) => return Ok((Recomputed::NotYet(why), None)),
        Err(FiguresError::TooManyPayers { payers_max, .. }) => {
            let difference = ReportDifference::TooManyPayers { payers_max };
            return Ok((Recomputed::Different(vec![difference]), None));
        }
        Err(error) => return Err(error),
    };
    let start_minute = figures.start_minute;
    let differences = compare(report, start_minute, figures.end, figures.leaves.root());
    if differences.is_empty() {
        return Ok((Recomputed::Equal(figures.leaves), figures.missing));
    }
    let (end, root) = (report.end().sequence, report.root());
    let stated_end = RangeEnd { sequence: end, ..figures.end };
    let may_be_late =
        figures.newest > end && compare(report, start_minute, stated_end, root).is_empty();
    if may_be_late
        && may_search(figures.missing.as_ref())
        && let Some(leaves) = leaves_to_attest(snapshot, &figures.range(report), root)?
    {
        return Ok((Recomputed::Equal(leaves), figures.missing));
    }
    Ok(match figures.missing {
        Some(why) => (Recomputed::NotYet(why.clone()), Some(why)),
        None => (Recomputed::Different(differences), None),
    })
}

/// Computes the amounts of a report that the chain has, to settle it: a majority has attested its root, so only that
/// counts. Leaves out envelopes that its originator has dated back into its minutes since. They are searched for if
/// `may_search` returns true; it gets the places of the range that this node lacks.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute_on_chain(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    may_search: impl FnOnce(Option<&UndecidedError>) -> bool,
) -> Result<Recomputed, FiguresError> {
    let figures = match figures_of(snapshot, report)? {
        Ok(figures) => figures,
        Err(why) => return Ok(Recomputed::NotYet(why)),
    };
    let root = figures.leaves.root();
    if root == report.root() {
        return Ok(Recomputed::Equal(figures.leaves));
    }
    if figures.newest > report.end().sequence
        && may_search(figures.missing.as_ref())
        && let Some(leaves) = leaves_to_settle(snapshot, &figures.range(report), report.root())?
    {
        return Ok(Recomputed::Equal(leaves));
    }
    Ok(match figures.missing {
        Some(why) => Recomputed::NotYet(why),
        None => Recomputed::Different(compare(report, figures.start_minute, figures.end, root)),
    })
}

/// This node's figures of the range of a report.
pub(super) struct Figures {
    pub(super) start_minute: Option<u32>,
    /// The minute of the envelope at the report's end, and the last place with usage in it.
    pub(super) end: RangeEnd,
    /// All amounts of the range.
    pub(super) leaves: Leaves,
    /// The last charged envelope with a time in the range. It is late if it follows the report's end.
    newest: SequenceId,
    /// The places of the range that this node lacks: its amounts may be too small.
    missing: Option<UndecidedError>,
}

impl Figures {
    pub(super) fn range(&self, report: &PayerReport) -> ReportedRange {
        ReportedRange {
            about: report.originator(),
            start: report.start(),
            minutes: minutes_of(self.start_minute, self.end.minute),
            end: report.end().sequence,
        }
    }
}

/// Returns this node's figures of the range of a report, or the reason why they cannot be known yet.
///
/// # Errors
/// [`FiguresError`], also if the range has too many payers.
pub(super) fn figures_of(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Result<Figures, UndecidedError>, FiguresError> {
    figures_within(COMPUTED_PAYERS_MAX, snapshot, report)
}

fn figures_within(
    payers_max: usize,
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Result<Figures, UndecidedError>, FiguresError> {
    let (about, start, end) = (report.originator(), report.start(), report.end());
    if start == end.sequence {
        // A range without envelopes has no amounts, whatever else is held.
        let (leaves, newest) = (Leaves::default(), SequenceId::NONE);
        return Ok(Ok(Figures { start_minute: None, end, leaves, newest, missing: None }));
    }
    let head = snapshot.verified_head(about)?;
    if head < end.sequence {
        return Ok(Err(UndecidedError::Behind { head }));
    }
    let end_at = EnvelopeId::new(about, end.sequence);
    let Some(end_minute) = minute_at(snapshot, end_at)? else {
        return Ok(Err(UndecidedError::NoEnvelope(end_at)));
    };
    let start_at = EnvelopeId::new(about, start);
    let start_minute = match start {
        SequenceId::NONE => Some(BEFORE_ALL),
        _ => match minute_at(snapshot, start_at)? {
            Some(minute) => Some(minute),
            None => return Ok(Err(UndecidedError::NoEnvelope(start_at))),
        },
    };
    if snapshot.has_unpriced_in(about, minutes_of(start_minute, end_minute))? {
        return Ok(Err(UndecidedError::Unpriced));
    }
    let missing = missing(snapshot, about, start, end.sequence)?;
    let last = snapshot.last_used_minute(about, end_minute)?;
    let last = last.filter(|(minute, _)| *minute == end_minute).map(|(_, last)| last);
    let end = RangeEnd { minute: end_minute, sequence: last.unwrap_or(SequenceId::NONE) };
    let (leaves, newest) = leaves(snapshot, about, start_minute, end_minute, payers_max)?;
    Ok(Ok(Figures { start_minute, end, leaves, newest, missing }))
}

/// Returns the minutes of a range. A report depends on no amounts of other minutes or other strands, so an originator
/// whose own amounts are corrected again and again delays no report about another one.
fn minutes_of(start_minute: Option<u32>, end_minute: u32) -> RangeInclusive<u32> {
    start_minute.map_or(0, |minute| minute.saturating_add(1))..=end_minute
}

/// Returns the first missing places that may still come and may belong to the minutes of a range: places of the range,
/// and places behind it that may belong to its last minute. There are none in a strand of the older network: most row
/// numbers of its database are of no envelope, and its node has passed over them.
fn missing_of_minutes(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    end: RangeEnd,
) -> Result<Option<UndecidedError>, ReadError> {
    if about.is_migrated() {
        return Ok(None);
    }
    match missing(snapshot, about, start, end.sequence)? {
        None => missing_behind(snapshot, about, end),
        found => Ok(found),
    }
}

/// Returns the first places of a range that are not held, if there are any. Reads them from the same snapshot as the
/// amounts, because another snapshot may differ.
fn missing(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    end: SequenceId,
) -> Result<Option<UndecidedError>, ReadError> {
    let not_held = snapshot.first_not_held(about, start, end)?;
    Ok(not_held.map(|(from, through)| UndecidedError::Missing(from, through)))
}

/// Returns the amounts of all payers in the minutes after `start_minute` up to `end_minute`, and the last place that is
/// charged there.
///
/// # Errors
/// [`FiguresError::TooManyPayers`] for more than `payers_max` payers.
fn leaves(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start_minute: Option<u32>,
    end_minute: u32,
    payers_max: usize,
) -> Result<(Leaves, SequenceId), FiguresError> {
    match sum_up(snapshot, about, start_minute, end_minute, payers_max)? {
        Summed::All(leaves, newest) => Ok((leaves, newest)),
        Summed::Full { .. } => {
            Err(FiguresError::TooManyPayers { about, minute: end_minute, payers_max })
        }
    }
}

/// The amounts of a range.
enum Summed {
    /// The amounts of all payers, and the last place that is charged.
    All(Leaves, SequenceId),
    /// The range has too many payers. Its part through this minute has too many; its part before does not.
    Full { minute: u32 },
}

/// Sums up the amounts in the minutes after `start_minute` up to `end_minute`, of at most `payers_max` payers.
fn sum_up(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start_minute: Option<u32>,
    end_minute: u32,
    payers_max: usize,
) -> Result<Summed, ReadError> {
    let mut sums: HashMap<PayerAddress, PicoDollarPrice> = HashMap::new();
    let (mut newest, mut full) = (SequenceId::NONE, None);
    snapshot.usage_of_minutes(about, start_minute, end_minute, |minute, payer, row| {
        if sums.len() == payers_max && !sums.contains_key(&payer) {
            full = Some(minute);
            return false;
        }
        let sum = sums.entry(payer).or_default();
        *sum = sum.plus(row.picodollars);
        newest = newest.max(row.last_sequence);
        true
    })?;
    Ok(match full {
        Some(minute) => Summed::Full { minute },
        None => Summed::All(Leaves::sum(sums), newest),
    })
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
