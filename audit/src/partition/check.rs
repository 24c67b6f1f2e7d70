//! Checks of the rows of a partition, which may have ranges of several strands.

use std::iter::Peekable;

use hawser_proto::OriginatorId;
use hawser_rules::RateTable;

use super::verdict::{RangeVerdict, unknown_originator};
use crate::export::ExportedRow;
use crate::replay::check::Checker;
use crate::replay::run::judged_by;
use crate::replay::{ReplaySettings, SourceError, StrandRow, pipeline};

/// A row with its strand.
type PartitionRow = Result<(OriginatorId, ExportedRow), SourceError>;

/// Checks the rows of a partition: signatures, places, rules, fees, marks, leaves, order and times. Each range of a
/// strand gets a verdict. Checks on all cores, and needs memory for some batches.
///
/// Rows have to ascend by place within each strand. Rates have to be given: a partition has no history of them.
///
/// # Errors
/// When rows cannot be read, or do not ascend.
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
    let mut count = 0;
    let range = Range { rows, originator, count: &mut count };
    let check = |rows| checker.check(rows);
    pipeline::run(&check, settings.threads, range, |batch| {
        batch.into_iter().try_for_each(|row| verdict.take(row, settings.now_ns))
    })?;
    verdict.rows = count;
    if verdict.from == 1 && originator.is_node() && settings.registry.node(originator).is_none() {
        verdict.fault(unknown_originator(originator));
    }
    Ok(verdict)
}

/// The next rows of one strand, as long as they are of it.
struct Range<'a, I: Iterator<Item = PartitionRow>> {
    rows: &'a mut Peekable<I>,
    originator: OriginatorId,
    count: &'a mut u64,
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
                ExportedRow::Leaf(_) => {}
            }
        }
    }
}
