//! The figures of this node's own log: the report that it would write, and whether another one is the same.

use std::collections::HashMap;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use hawser_rules::payer_report::{
    Difference, Explanation, Leaves, LeavesError, MinuteOfPayer, NodeIds, PayerReport,
    PayerReportError, RangeEnd, end_of_range, explain,
};
use hawser_storage::{ReadError, Snapshot};

/// Usage rows that are held at once to explain a difference. A guess: some 64 MB.
const EXPLAINED_ROWS_MAX: usize = 1_000_000;

/// The figures could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// The database failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An amount is above what a report can say.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
    /// A number is above what a report can say.
    #[error(transparent)]
    Report(#[from] PayerReportError),
    /// The envelope at the start of the range is not held, so its minute is not known.
    #[error("envelope {0}, at which the range starts, is not held here")]
    NoStart(EnvelopeId),
}

/// The reason a report cannot be judged yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The strand is not held up to the end of the report.
    #[error("the strand is held up to {head} only")]
    Behind {
        /// The last envelope that is held without gap.
        head: SequenceId,
    },
    /// The envelope at one of the report's ends is not held.
    #[error("envelope {0} is not held")]
    NoEnvelope(EnvelopeId),
    /// Places of the range are missing in this node's copy of the strand.
    #[error("envelopes {0} to {1} are missing here")]
    Missing(SequenceId, SequenceId),
}

/// The result of computing a report again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recomputed {
    /// This node comes to the same report, with these leaves.
    Equal(Leaves),
    /// It comes to another one.
    Different(Vec<Difference>),
    /// It cannot say yet.
    NotYet(NotYet),
}

/// Returns the report that this node would write about an originator from `start` on; `None` while there is too little
/// usage.
///
/// # Errors
/// [`FiguresError`].
pub fn draft(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    start: SequenceId,
    nodes: NodeIds,
) -> Result<Option<PayerReport>, FiguresError> {
    let start_minute = match start {
        SequenceId::NONE => None,
        start => {
            let at = EnvelopeId::new(about, start);
            Some(minute_at(snapshot, at)?.ok_or(FiguresError::NoStart(at))?)
        }
    };
    let Some(newest) = snapshot.last_used_minute(about, u32::MAX)? else { return Ok(None) };
    let before = newest.0.checked_sub(1);
    let second = before.map(|minute| snapshot.last_used_minute(about, minute)).transpose()?;
    let minutes = [Some(newest), second.flatten()].into_iter().flatten();
    let minutes = minutes.map(|(minute, sequence)| RangeEnd { minute, sequence });
    let end = match end_of_range(start_minute.unwrap_or(0), minutes) {
        Some(end) => end,
        None => return Ok(None),
    };
    let leaves = leaves(snapshot, about, start_minute, end.minute)?;
    Ok(Some(PayerReport::new(about, start, end, leaves.root(), nodes)?))
}

/// Computes a report again.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Recomputed, FiguresError> {
    let (about, start, end) = (report.originator(), report.start(), report.end());
    if start == end.sequence {
        return Ok(Recomputed::Equal(Leaves::default()));
    }
    let head = snapshot.head(about)?;
    if head < end.sequence {
        return Ok(Recomputed::NotYet(NotYet::Behind { head }));
    }
    let missing = snapshot.missing(about)?;
    let in_range =
        |(from, through): &(SequenceId, SequenceId)| *through > start && *from <= end.sequence;
    if let Some((from, through)) = missing.into_iter().find(in_range) {
        return Ok(Recomputed::NotYet(NotYet::Missing(from, through)));
    }
    let end_at = EnvelopeId::new(about, end.sequence);
    let Some(end_minute) = minute_at(snapshot, end_at)? else {
        return Ok(Recomputed::NotYet(NotYet::NoEnvelope(end_at)));
    };
    let start_at = EnvelopeId::new(about, start);
    let start_minute = match start {
        SequenceId::NONE => None,
        _ => match minute_at(snapshot, start_at)? {
            Some(minute) => Some(minute),
            None => return Ok(Recomputed::NotYet(NotYet::NoEnvelope(start_at))),
        },
    };
    let last = snapshot.last_used_minute(about, end_minute)?;
    let last = last.filter(|(minute, _)| *minute == end_minute).map(|(_, last)| last);
    let held_end = RangeEnd { minute: end_minute, sequence: last.unwrap_or(SequenceId::NONE) };
    let own = leaves(snapshot, about, start_minute, end_minute)?;
    if held_end == end && own.root() == report.root() {
        return Ok(Recomputed::Equal(own));
    }
    let mut rows = Vec::new();
    snapshot.usage_of_minutes(about, start_minute, end_minute, |minute, payer, row| {
        rows.push(MinuteOfPayer {
            minute,
            payer,
            own: row.picodollars,
            stated: row.stated_picodollars,
            last: row.last_sequence,
        });
        rows.len() < EXPLAINED_ROWS_MAX
    })?;
    Ok(match explain(report, start_minute, held_end, &rows)? {
        Explanation::Different(differences) => Recomputed::Different(differences),
        Explanation::Equal => Recomputed::Equal(own),
    })
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
    // A sum that saturated is above what a leaf can say, and is an error there.
    Ok(Leaves::sum(sums)?)
}

/// Returns the minute of an envelope; `None` if it is not held.
fn minute_at(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Result<Option<u32>, ReadError> {
    let envelope = snapshot.get(at)?.and_then(|bytes| OriginatorEnvelope::parse(bytes).ok());
    Ok(envelope.map(|it| hawser_proto::minute_of(it.unsigned().originator_ns())))
}
