//! Checks of the rows of a partition, which may have ranges of several strands.

use std::iter::Peekable;

use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::RateTable;

use super::verdict::{RangeVerdict, unknown_originator};
use crate::export::ExportedRow;
use crate::replay::check::Checker;
use crate::replay::judge::not_expired;
use crate::replay::run::judged_by;
use crate::replay::{Faults, GapReason, ReplaySettings, SourceError, StrandRow, pipeline};

/// Ranges of one call. A guess: sorted rows have one for each strand, and networks have far fewer.
pub(super) const RANGES_MAX: usize = 10_000;

/// A row with its strand.
type PartitionRow = Result<(OriginatorId, ExportedRow), SourceError>;

/// Checks the rows of a partition: signatures, places, rules, fees, marks, leaves, order and times. Each range of a
/// strand gets a verdict. Checks on all cores, and needs memory for some batches.
///
/// Rows have to ascend by place within each strand, and those of a strand to stand together: at most 10,000 ranges are
/// judged. Rates have to be given: a partition has no history of them.
///
/// # Errors
/// When rows cannot be read, do not ascend, or make more ranges.
pub fn check_partition(
    rows: impl Iterator<Item = PartitionRow> + Send,
    settings: &ReplaySettings,
) -> Result<Vec<RangeVerdict>, SourceError> {
    let mut rows = rows.peekable();
    let mut verdicts: Vec<RangeVerdict> = Vec::new();
    loop {
        let originator = match rows.peek() {
            None => return Ok(verdicts),
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok((originator, _))) => *originator,
        };
        if verdicts.len() >= RANGES_MAX {
            let text = format!("more than {RANGES_MAX} ranges: sort the rows by their strands");
            return Err(SourceError(text));
        }
        verdicts.push(check_range(&mut rows, originator, settings)?);
    }
}

fn check_range<I: Iterator<Item = PartitionRow> + Send>(
    rows: &mut Peekable<I>,
    originator: OriginatorId,
    settings: &ReplaySettings,
) -> Result<RangeVerdict, SourceError> {
    let rates: Option<RateTable> = settings.rates.clone();
    let checker = Checker::new(originator, &settings.registry, rates);
    let mut verdict = RangeVerdict::new(originator, judged_by(settings, &[]));
    verdict.signatures_checked = checker.key.is_some();
    let (mut count, mut faults) = (0, Faults::default());
    let now_ns = settings.now_ns;
    let range = Range { rows, originator, now_ns, count: &mut count, faults: &mut faults };
    let check = |rows| checker.check(rows);
    pipeline::run(&check, settings.threads, range, |batch| {
        batch.into_iter().try_for_each(|row| verdict.take(row, settings.now_ns))
    })?;
    verdict.rows = count;
    verdict.add_faults(&faults);
    if verdict.from == 1 && originator.is_node() && settings.registry.node(originator).is_none() {
        verdict.fault(unknown_originator(originator));
    }
    Ok(verdict)
}

/// The next rows of one strand, as long as they are of it.
struct Range<'a, I: Iterator<Item = PartitionRow>> {
    rows: &'a mut Peekable<I>,
    originator: OriginatorId,
    now_ns: i64,
    count: &'a mut u64,
    /// The faults of pruned places.
    faults: &'a mut Faults,
}

impl<I: Iterator<Item = PartitionRow>> Iterator for Range<'_, I> {
    type Item = Result<StrandRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let is_next = |row: &PartitionRow| match row {
                Ok((originator, _)) => *originator == self.originator,
                Err(_) => true,
            };
            let row = match self.rows.next_if(is_next)? {
                Ok((_, row)) => row,
                Err(error) => return Some(Err(error)),
            };
            *self.count += 1;
            match row {
                ExportedRow::Row(row) => return Some(Ok(row)),
                ExportedRow::VoidLeaf(sequence, leaf) => {
                    return Some(Ok(StrandRow::Leaf { sequence, leaf }));
                }
                ExportedRow::Pruned { sequence, originator_ns, retention_days } => {
                    let id = EnvelopeId::new(self.originator, sequence);
                    let fault = not_expired(id, originator_ns, retention_days, self.now_ns);
                    fault.into_iter().for_each(|fault| self.faults.add(fault));
                    let (from, through, reason) = (sequence, sequence, GapReason::Pruned);
                    return Some(Ok(StrandRow::Gap { from, through, reason }));
                }
                ExportedRow::Leaf(_) => {}
            }
        }
    }
}
