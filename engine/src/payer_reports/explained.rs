//! A report beside this node's own figures, with the minutes and envelopes at fault.

use std::collections::HashMap;

use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{PayerAddress, SequenceId, minute_of};
use hawser_rules::payer_report::{
    AmountCause, ChargedEnvelope, Leaves, MinuteOfPayer, OwnUsage, PayerReport, ReportDifference,
    explain,
};
use hawser_storage::{LogPlace, PricedEnvelope, ReadError, Snapshot, UsageRow};

use super::figures::{Figures, FiguresError, Recomputed, figures_of, recompute};
use super::late::{ReportedRange, envelope_of, len_of};
use super::not_yet::UndecidedError;
use crate::price::price;

/// Usage rows that are held at once to explain a difference. A guess: some 64 MB.
pub const EXPLAINED_ROWS_MAX: usize = 1_000_000;
/// Minutes before and behind the range of a report that its writer may have counted, too. A guess: a wrong range is
/// wrong by little.
const BESIDE_MINUTES: u32 = 60;
/// Charged envelopes of a range that are read one by one. A guess: a second, because the payer of each is recovered
/// from its signature.
const ENVELOPES_MAX: usize = 20_000;
/// Bytes of a range that are read for them. A guess: a second.
const ENVELOPES_LEN_BYTES_MAX: usize = 256 << 20;
/// Places of a range that are read for them. A guess: a second.
const PLACES_MAX: usize = 500_000;

/// Minutes behind a range in which envelopes that are dated back into it are still looked for. A guess: times that go
/// back do so by little.
const LATE_MINUTES: u32 = 10;

/// A report that was compared with this node's own figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ComparedReport {
    /// This node's amounts; `None` while they cannot be known, and of too many payers.
    pub leaves: Option<Leaves>,
    /// The differences; empty if this node computes the same report, or cannot compute it yet.
    pub differences: Vec<ReportDifference>,
    /// The reason why this node cannot compute the report yet.
    pub not_yet: Option<UndecidedError>,
    /// The usage of payers that the cause of other amounts is about, by minute.
    pub minutes: Vec<MinuteOfPayer>,
    /// The envelopes of that usage at fault, as far as they are known, in the order of the strand.
    pub envelopes: Vec<SequenceId>,
}

/// Computes a report again, and looks for the cause of other amounts if the range has at most `rows_max` rows of usage.
/// Takes far longer than [`recompute`], with the same result.
///
/// # Errors
/// [`FiguresError`].
pub fn recompute_explained(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    rows_max: usize,
) -> Result<ComparedReport, FiguresError> {
    let mut compared = ComparedReport::default();
    match recompute(snapshot, report)? {
        Recomputed::Equal(leaves) => compared.leaves = Some(leaves),
        Recomputed::NotYet(why) => compared.not_yet = Some(why),
        Recomputed::Different(differences) => {
            compared.differences = differences;
            match figures_of(snapshot, report) {
                Ok(Ok(figures)) => {
                    find_cause(snapshot, report, &figures, rows_max, &mut compared)?;
                    compared.leaves = Some(figures.leaves);
                }
                // The difference says so.
                Ok(Err(_)) | Err(FiguresError::TooManyPayers { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(compared)
}

/// Looks for the cause of other amounts, and for the minutes and envelopes at fault.
fn find_cause(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    figures: &Figures,
    rows_max: usize,
    compared: &mut ComparedReport,
) -> Result<(), ReadError> {
    let sought = compared.differences.iter_mut().find_map(|difference| match difference {
        ReportDifference::Amounts { cause, .. } => Some(cause),
        _ => None,
    });
    let Some(sought) = sought else { return Ok(()) };
    *sought = AmountCause::Unknown;
    let Some(usage) = own_usage(snapshot, report, figures, rows_max)? else { return Ok(()) };
    let differences = explain(report, figures.start_minute, figures.end, &usage);
    let cause = differences.into_iter().find_map(|difference| match difference {
        ReportDifference::Amounts { cause, .. } => Some(cause),
        _ => None,
    });
    if let Some(cause) = cause {
        compared.minutes = usage.rows_of(&cause);
        compared.envelopes = usage.envelopes_of(&cause);
        *sought = cause;
    }
    Ok(())
}

/// Returns the usage in and around a range; `None` if it has more rows than are held. A part of the rows decides
/// nothing: a report of only those rows would look equal.
fn own_usage(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    figures: &Figures,
    rows_max: usize,
) -> Result<Option<OwnUsage>, ReadError> {
    let rows_of = |after: Option<u32>, through: u32| {
        let (mut rows, mut messages, mut is_whole) = (Vec::new(), 0_u64, true);
        snapshot.usage_of_minutes(report.originator(), after, through, |minute, payer, row| {
            is_whole = rows.len() < rows_max;
            if is_whole {
                messages = messages.saturating_add(row.messages);
                rows.push(row_of(minute, payer, row));
            }
            is_whole
        })?;
        Ok::<_, ReadError>((rows, is_whole, messages))
    };
    let (start, end) = (figures.start_minute, figures.end.minute);
    let (rows, is_whole, charged) = rows_of(start, end)?;
    if !is_whole {
        return Ok(None);
    }
    // Rows around the range need not be whole: a part of them gives no root by accident.
    let (behind, ..) = rows_of(Some(end), end.saturating_add(BESIDE_MINUTES))?;
    let before = match start {
        Some(start) => rows_of(start.checked_sub(BESIDE_MINUTES), start)?.0,
        None => Vec::new(),
    };
    let envelopes = match usize::try_from(charged) {
        Ok(charged) if charged <= ENVELOPES_MAX => envelopes(snapshot, &figures.range(report))?,
        _ => Vec::new(),
    };
    Ok(Some(OwnUsage { rows, before, behind, envelopes }))
}

fn row_of(minute: u32, payer: PayerAddress, row: UsageRow) -> MinuteOfPayer {
    MinuteOfPayer {
        minute,
        payer,
        own: row.picodollars,
        stated: row.stated_picodollars,
        last: row.last_sequence,
    }
}

/// Returns the charged envelopes of a range in the order of the strand, also those behind its end that are dated back
/// by a little; empty if they exceed the bounds.
fn envelopes(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
) -> Result<Vec<ChargedEnvelope>, ReadError> {
    let head = snapshot.verified_head(range.about)?;
    let rates = snapshot.rates()?;
    let mut counts: HashMap<u32, u64> = HashMap::new();
    let (mut found, mut len_bytes) = (Vec::new(), 0_usize);
    let mut sequence = range.start;
    for (read, place) in snapshot.places(range.at(range.start), head).enumerate() {
        let place = place?;
        if let LogPlace::Held { id, .. } | LogPlace::Pruned { id, .. } = &place {
            sequence = id.sequence;
        }
        len_bytes = len_bytes.saturating_add(len_of(&place));
        if read == PLACES_MAX || len_bytes > ENVELOPES_LEN_BYTES_MAX || found.len() > ENVELOPES_MAX
        {
            return Ok(Vec::new());
        }
        let Some(envelope) = envelope_of(place) else { continue };
        let minute = minute_of(envelope.originator_ns);
        if sequence > range.end && minute > range.minutes.end().saturating_add(LATE_MINUTES) {
            break;
        }
        if !range.minutes.contains(&minute) {
            continue;
        }
        let mut earlier = [0; CONGESTION_MINUTES];
        for (age, count) in (0..).zip(&mut earlier) {
            let Some(counted) = minute.checked_sub(age) else { continue };
            *count = match range.minutes.contains(&counted) {
                true => counts.get(&counted).copied().unwrap_or(0),
                false => snapshot.congestion(range.about, counted)?,
            };
        }
        *counts.entry(minute).or_default() += u64::from(envelope.counts_for_congestion);
        let Some(charge) = envelope.charge else { continue };
        let priced = PricedEnvelope {
            originator_ns: envelope.originator_ns,
            size_bytes: charge.size_bytes,
            retention_days: charge.retention_days,
            earlier,
        };
        found.push(ChargedEnvelope {
            sequence,
            minute,
            payer: charge.payer,
            own: price(&rates, &priced),
            stated: charge.stated_picodollars,
        });
    }
    Ok(found)
}
