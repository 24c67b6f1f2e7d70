//! Checks of the rows of a partition, which may have ranges of several strands.

use std::iter::Peekable;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{RateTable, Registry};

use super::verdict::{RangeVerdict, unknown_originator};
use crate::export::ExportedRow;
use crate::replay::check::Checker;
use crate::replay::judge::not_expired;
use crate::replay::run::judged_by;
use crate::replay::{
    Fault, FaultKind, Faults, GapReason, ReplaySettings, SourceError, StrandRow, pipeline,
};

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
    let mut checkpoints = 0;
    let range = Range {
        rows,
        originator,
        settings,
        count: &mut count,
        checkpoints: &mut checkpoints,
        faults: &mut faults,
    };
    let check = |rows| checker.check(rows);
    pipeline::run(&check, settings.threads, range, |batch| {
        batch.into_iter().try_for_each(|row| verdict.take(row, settings.now_ns))
    })?;
    (verdict.rows, verdict.checkpoints) = (count, checkpoints);
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
    settings: &'a ReplaySettings,
    /// Rows of the table `log`.
    count: &'a mut u64,
    checkpoints: &'a mut u64,
    /// The faults of pruned places and of checkpoints.
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
            if let ExportedRow::Checkpoint(bytes) = row {
                *self.checkpoints += 1;
                check_checkpoint(self.originator, &bytes, &self.settings.registry, self.faults);
                continue;
            }
            *self.count += 1;
            match row {
                ExportedRow::Row(row) => return Some(Ok(row)),
                ExportedRow::VoidLeaf(sequence, leaf) => {
                    return Some(Ok(StrandRow::Leaf { sequence, leaf }));
                }
                ExportedRow::Pruned { sequence, originator_ns, retention_days } => {
                    let id = EnvelopeId::new(self.originator, sequence);
                    let fault =
                        not_expired(id, originator_ns, retention_days, self.settings.now_ns);
                    fault.into_iter().for_each(|fault| self.faults.add(fault));
                    let (from, through, reason) = (sequence, sequence, GapReason::Pruned);
                    return Some(Ok(StrandRow::Gap { from, through, reason }));
                }
                ExportedRow::Leaf(_) | ExportedRow::Checkpoint(_) => {}
            }
        }
    }
}

/// Checks the signature of a checkpoint and its cosignatures, as a replay does. Ignores those of nodes that the
/// registry does not name. The root needs the whole strand.
fn check_checkpoint(
    originator: OriginatorId,
    bytes: &[u8],
    registry: &Registry,
    faults: &mut Faults,
) {
    let of_strand =
        |text: String| Fault::of_strand(FaultKind::CheckpointSignature, originator, text);
    let cosigned = match CosignedCheckpoint::decode(bytes) {
        Ok(cosigned) => cosigned,
        Err(error) => return faults.add(of_strand(format!("a checkpoint is none: {error}"))),
    };
    let of = cosigned.signed.checkpoint;
    if of.originator != originator {
        return faults.add(of_strand(format!("a checkpoint is of strand {}", of.originator)));
    }
    let id = EnvelopeId::new(originator, SequenceId(of.size));
    let Some(record) = registry.node(of.node) else { return };
    if let Err(error) = cosigned.signed.verify(&record.public_key) {
        return faults.add(Fault::at(FaultKind::CheckpointSignature, id, error));
    }
    for cosignature in &cosigned.cosignatures {
        let record = registry.node(cosignature.cosigner);
        let error = record.and_then(|it| cosignature.verify(&of, &it.public_key).err());
        error.into_iter().for_each(|error| {
            faults.add(Fault::at(FaultKind::Cosignature, id, error));
        });
    }
}
