//! Checks of the rows of a partition, which may have ranges of several strands.

use std::iter::Peekable;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{RateTable, Registry};

use super::chains::ChainsOfLog;
use super::expected::RowsBeside;
use super::unchecked::UncheckedCounts;
use super::verdict::{RangeVerdict, other_columns};
use crate::export::columns::ColumnJudgement;
use crate::export::{ExportedRow, LogColumns, ReadRow};
use crate::replay::check::{CheckedEnvelope, CheckedRow, Checker};
use crate::replay::judge::not_expired;
use crate::replay::pipeline::{self, PipelineRow};
use crate::replay::run::judged_by;
use crate::replay::void::forged_statement;
use crate::replay::{Fault, FaultKind, Faults, GapReason, ReplaySettings, SourceError, StrandRow};

/// Ranges of one call. A guess: sorted rows have one for each strand, and networks have far fewer.
pub(super) const RANGES_MAX: usize = 10_000;

/// A row with its strand.
type PartitionRow = Result<(OriginatorId, ReadRow), SourceError>;

/// The payers of the rows, as the auditor knows how the export was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportedPayers {
    /// The export has payers: a row that names none although its envelope has one is a fault.
    Named,
    /// The export was made with `--without-payers`, at least in parts: rows that name none are counted as unchecked.
    MayLack,
}

/// Checks the rows of a partition: signatures, places, rules, fees, marks, leaves, order and times. Each range of a
/// strand gets a verdict. Checks on all cores, and needs memory for some batches.
///
/// The rows of a strand must ascend by place and follow each other, because at most 10,000 ranges are judged. The
/// settings must have rates: a partition has no history of them. Dependencies of nodes' envelopes are judged if the
/// times of `chains` are known.
///
/// # Errors
/// When rows cannot be read, do not ascend, or make more ranges.
pub fn check_partition(
    rows: impl Iterator<Item = PartitionRow> + Send,
    settings: &ReplaySettings,
    payers: ExportedPayers,
    chains: &ChainsOfLog,
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
        verdicts.push(check_range(&mut rows, originator, settings, payers, chains)?);
    }
}

/// Checks the rows of one strand, batch by batch on all threads, and returns the verdict on their range.
fn check_range<I: Iterator<Item = PartitionRow> + Send>(
    rows: &mut Peekable<I>,
    originator: OriginatorId,
    settings: &ReplaySettings,
    payers: ExportedPayers,
    chains: &ChainsOfLog,
) -> Result<RangeVerdict, SourceError> {
    let rates: Option<RateTable> = settings.rates.clone();
    let checker = Checker::new(originator, &settings.registry, rates);
    let given = settings.rates.as_ref().map_or(&[][..], RateTable::rates);
    let mut verdict = RangeVerdict::new(originator, judged_by(&settings.registry, given));
    verdict.signatures_checked = checker.key.is_some();
    if originator.is_node() {
        verdict.chains.clone_from(&chains.digest);
    }
    let mut findings = RangeFindings::default();
    let range = Range { rows, originator, settings, findings: &mut findings };
    let check = |rows| check_rows(&checker, rows, payers);
    pipeline::run(&check, settings.threads, range, |batch| {
        batch.into_iter().try_for_each(|(row, columns)| {
            columns.iter().for_each(|(id, columns)| verdict.take_columns(*id, columns));
            verdict.take(row, settings, &chains.times)
        })
    })?;
    (verdict.rows, verdict.checkpoints) = (findings.rows, findings.checkpoints);
    verdict.beside = findings.beside;
    verdict.add_faults(&findings.faults);
    verdict.unchecked.add(findings.unchecked);
    // The range with the first place reports it.
    let is_first = verdict.from == SequenceId(1);
    if is_first && originator.is_node() && settings.registry.node(originator).is_none() {
        verdict.fault(Fault::unknown_originator(originator));
    }
    Ok(verdict)
}

/// Checks rows, and compares the columns of envelopes with those that their bytes give.
fn check_rows(
    checker: &Checker,
    rows: Vec<RangeRow>,
    payers: ExportedPayers,
) -> Vec<(CheckedRow, Option<(EnvelopeId, ColumnJudgement)>)> {
    let (rows, columns): (Vec<StrandRow>, Vec<_>) =
        rows.into_iter().map(|row| (row.row, row.columns)).unzip();
    let checked = checker.check(rows.clone());
    let judge = |((checked, row), columns): ((CheckedRow, StrandRow), Option<LogColumns>)| {
        let judged = match (&checked, columns) {
            (CheckedRow::Envelope(envelope), Some(columns)) => {
                let CheckedEnvelope { sequence, found, .. } = &**envelope;
                // Of an envelope that cannot stand there no payer is recovered.
                let payer = found.as_ref().ok().map(|signed| signed.payer);
                let id = EnvelopeId::new(checker.originator, *sequence);
                let judged = columns.judge_envelope(checker.originator, row, payer);
                Some((
                    id,
                    match payers {
                        ExportedPayers::Named => judged.with_payer(),
                        ExportedPayers::MayLack => judged,
                    },
                ))
            }
            _ => None,
        };
        (checked, judged)
    };
    checked.into_iter().zip(rows).zip(columns).map(judge).collect()
}

/// A row that waits for its checks. Columns are those of an envelope.
struct RangeRow {
    row: StrandRow,
    columns: Option<LogColumns>,
}

impl PipelineRow for RangeRow {
    fn envelope(&self) -> Option<&Bytes> {
        self.row.envelope()
    }
}

/// Findings of the reader of a range, beside the rows that threads check.
#[derive(Default)]
struct RangeFindings {
    /// Rows of the table `log`.
    rows: u64,
    checkpoints: u64,
    beside: RowsBeside,
    /// The faults of pruned places, of checkpoints and statements, and of rows without an envelope.
    faults: Faults,
    unchecked: UncheckedCounts,
}

/// The next rows of one strand, as long as they are of it.
struct Range<'a, I: Iterator<Item = PartitionRow>> {
    rows: &'a mut Peekable<I>,
    originator: OriginatorId,
    settings: &'a ReplaySettings,
    findings: &'a mut RangeFindings,
}

impl<I: Iterator<Item = PartitionRow>> Range<'_, I> {
    /// Compares the columns of a row without an envelope.
    fn judge_columns(&mut self, row: &ExportedRow, columns: Option<&LogColumns>) {
        let place = match row {
            ExportedRow::Row(StrandRow::Gap { from, .. }) => *from,
            ExportedRow::Pruned { sequence, .. }
            | ExportedRow::VoidLeaf(sequence, _)
            | ExportedRow::Leaf(sequence) => *sequence,
            ExportedRow::Row(_) | ExportedRow::Checkpoint(_) | ExportedRow::VoidStatement(_) => {
                return;
            }
        };
        let Some(columns) = columns else { return };
        let id = EnvelopeId::new(self.originator, place);
        let judged = columns.judge_other(row);
        self.findings.unchecked.add(UncheckedCounts::of_columns(&judged));
        other_columns(id, &judged)
            .into_iter()
            .for_each(|fault| self.findings.faults.add_in_any_order(fault));
    }
}

impl<I: Iterator<Item = PartitionRow>> Iterator for Range<'_, I> {
    type Item = Result<RangeRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let is_next = |row: &PartitionRow| match row {
                Ok((originator, _)) => *originator == self.originator,
                Err(_) => true,
            };
            let ReadRow { row, columns } = match self.rows.next_if(is_next)? {
                Ok((_, read)) => read,
                Err(error) => return Some(Err(error)),
            };
            if let ExportedRow::Checkpoint(bytes) = row {
                self.findings.checkpoints += 1;
                self.findings.beside.add_checkpoint(&bytes);
                check_checkpoint(self.originator, &bytes, &self.settings.registry, self.findings);
                continue;
            }
            if let ExportedRow::VoidStatement(bytes) = row {
                self.findings.beside.add_statement(&bytes);
                check_statement(self.originator, &bytes, &self.settings.registry, self.findings);
                continue;
            }
            self.findings.rows += 1;
            self.judge_columns(&row, columns.as_ref());
            let without = |row| Some(Ok(RangeRow { row, columns: None }));
            match row {
                ExportedRow::Row(row) => return Some(Ok(RangeRow { row, columns })),
                ExportedRow::VoidLeaf(sequence, leaf) => {
                    self.findings.beside.add_leaf(sequence);
                    return without(StrandRow::Leaf { sequence, leaf });
                }
                ExportedRow::Pruned { sequence, originator_ns, retention_days } => {
                    let id = EnvelopeId::new(self.originator, sequence);
                    let fault =
                        not_expired(id, originator_ns, retention_days, self.settings.now_ns);
                    fault
                        .into_iter()
                        .for_each(|fault| self.findings.faults.add_in_any_order(fault));
                    let (from, through, reason) = (sequence, sequence, GapReason::Pruned);
                    return without(StrandRow::Gap { from, through, reason });
                }
                ExportedRow::Leaf(sequence) => self.findings.beside.add_leaf(sequence),
                ExportedRow::Checkpoint(_) | ExportedRow::VoidStatement(_) => {}
            }
        }
    }
}

/// Checks the signature of a checkpoint and its cosignatures, as a replay does. Those of nodes that the registry does
/// not name, and of witnesses, are counted as unchecked. The root needs the whole strand.
fn check_checkpoint(
    originator: OriginatorId,
    bytes: &[u8],
    registry: &Registry,
    findings: &mut RangeFindings,
) {
    let faults = &mut findings.faults;
    let of_strand =
        |text: String| Fault::of_strand(FaultKind::CheckpointSignature, originator, text);
    let cosigned = match CosignedCheckpoint::decode(bytes) {
        Ok(cosigned) => cosigned,
        Err(error) => {
            return faults.add_in_any_order(of_strand(format!("a checkpoint is none: {error}")));
        }
    };
    let of = cosigned.signed.checkpoint;
    if of.originator != originator {
        return faults
            .add_in_any_order(of_strand(format!("a checkpoint is of strand {}", of.originator)));
    }
    let id = EnvelopeId::new(originator, SequenceId(of.size));
    let witnesses = cosigned.witnesses.len() as u64;
    findings.unchecked.add(UncheckedCounts { witnesses, ..UncheckedCounts::default() });
    let unknown = UncheckedCounts { signers: 1, ..UncheckedCounts::default() };
    let Some(record) = registry.node(of.node) else { return findings.unchecked.add(unknown) };
    if let Err(error) = cosigned.signed.verify(&record.public_key) {
        return faults.add_in_any_order(Fault::at(FaultKind::CheckpointSignature, id, error));
    }
    findings.beside.note_signed(of.size);
    for cosignature in &cosigned.cosignatures {
        let Some(record) = registry.node(cosignature.cosigner) else {
            findings.unchecked.add(unknown);
            continue;
        };
        if let Err(error) = cosignature.verify(&of, &record.public_key) {
            faults.add_in_any_order(Fault::at(FaultKind::Cosignature, id, error));
        }
    }
}

/// Checks the signature of a statement about void places, as a replay does. One of a node that the registry does not
/// name is counted as unchecked.
fn check_statement(
    originator: OriginatorId,
    bytes: &[u8],
    registry: &Registry,
    findings: &mut RangeFindings,
) {
    let faults = &mut findings.faults;
    let of_strand = |text: String| Fault::of_strand(FaultKind::Forged, originator, text);
    let signed = match SignedVoid::decode(bytes) {
        Ok(signed) => signed,
        Err(error) => {
            return faults.add_in_any_order(of_strand(format!(
                "a statement about void places is none: {error}"
            )));
        }
    };
    if signed.statement.node != originator {
        let node = signed.statement.node;
        return faults.add_in_any_order(of_strand(format!(
            "a statement about void places is of node {node}"
        )));
    }
    let Some(record) = registry.node(originator) else {
        return findings
            .unchecked
            .add(UncheckedCounts { signers: 1, ..UncheckedCounts::default() });
    };
    if signed.verify(&record.public_key).is_err() {
        faults.add_in_any_order(forged_statement(originator, &signed));
    }
}
