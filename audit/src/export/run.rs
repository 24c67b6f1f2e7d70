//! Making an export, or continuing one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Rate, RateTable, Registry};

use super::checkpoints;
use super::columns::{ExportedRow, ReadRow};
use super::continued::require_same_strands;
use super::days::{DayWriter, TOO_MANY_DAYS};
use super::derived::{DerivedTallies, Tally};
use super::error::ExportError;
use super::manifest::{
    LogPart, Manifest, StrandParts, StrandTallies, TallyOrigin, TallyPart, log_path, tally_path,
};
use super::part::{FileDigest, FinishedPart, PartWriter, lock, make_root};
use super::read::PartReader;
use super::record::{Record, RecordKind, address_text, describe};
use super::shown::ShownRows;
use super::table::{CHECKPOINTS, CONGESTION, LOG, LogColumn, RATES, USAGE, VOID_STATEMENTS, Value};
use super::voids;
use crate::replay::check::Checker;
use crate::replay::pipeline;
use crate::replay::run::unchecked_strands;
use crate::replay::{
    GapReason, LogIdentity, LogRows, LogSource, STRANDS_MAX, SourceError, StoredMark, StrandRow,
};

/// Rows of a file of the log. A guess: enough for an engine to skip files by their statistics.
const PART_ROWS: u64 = 1_000_000;
/// Bytes of a file of the log. A guess: the share that an engine gives one core.
const PART_LEN_BYTES: u64 = 256 * 1024 * 1024;
/// Rows of a batch. Signatures in batches of 2,048 cost a sixth less than in batches of a replay (measured,
/// `docs/performance.md`), and in these they take up to a quarter fewer additions (calculated). The bound
/// on the bytes of a batch ends those of envelopes of more than half a KiB earlier.
const BATCH_ROWS: usize = 8_192;
const NS_PER_MINUTE: u64 = 60_000_000_000;

/// Options of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportSettings<'a> {
    /// Threads that describe envelopes.
    pub threads: usize,
    /// Recover the payer of each envelope, which costs a signature recovery. Without it the column is empty.
    pub with_payers: bool,
    /// Keys by which the originators' signatures are judged; the export refuses an envelope that they have not signed.
    /// Absent: nothing is judged.
    pub registry: Option<&'a Registry>,
    /// The history of rates for deriving the tallies of a source that has none. Absent: the rates that the source has
    /// recorded are used, and without these no tallies are derived.
    pub rates: Option<&'a RateTable>,
    /// The current time, unix nanoseconds. A log may lack an exported envelope only if it has expired by then.
    pub now_ns: i64,
}

/// Progress of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    /// The strand.
    pub originator: OriginatorId,
    /// Processed places of all strands, in this run and earlier ones.
    pub done: u64,
    /// Places of all strands.
    pub total: u64,
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Rows of the table `log` that this run added.
    pub rows: u64,
    /// Files of the table `log` that this run added.
    pub parts: u64,
    /// Files of tallies that are new or have changed.
    pub tally_files: u64,
    /// The parts that are not in the export, in sentences for people.
    pub notes: Vec<String>,
    /// The keys that judged all signatures of the strands to which this run added files, by strand.
    pub judged: BTreeMap<OriginatorId, String>,
    /// The strands that could not be compared with those of an earlier run, and the parts of judged exports that no key
    /// judges, in sentences for people.
    pub unchecked: Vec<String>,
}

/// Adds the part of the log that the export in a folder lacks. Creates the folder if it does not exist.
///
/// Everything in the folder is read and compared with its manifest before anything is written. Needs memory for one
/// row group and some batches, however long the log is.
///
/// A source that omits places may lie: only its strands of nodes in the registry, and of chains, are exported.
///
/// # Errors
/// See [`ExportError`].
pub fn export(
    source: &dyn LogSource,
    folder: &Path,
    settings: ExportSettings<'_>,
    mut progress: impl FnMut(ExportProgress),
) -> Result<ExportReport, ExportError> {
    make_root(folder)?;
    let _locked = lock(folder)?;
    let manifest = open(source, folder)?;
    let heads = source.heads()?;
    if heads.len() > STRANDS_MAX {
        return Err(ExportError::TooManyStrands { found: heads.len() });
    }
    let unchecked = require_same_strands(source, folder, &manifest, &heads, settings.now_ns)?;
    let (report, tallies) = (ExportReport { unchecked, ..ExportReport::default() }, Vec::new());
    let mut run = Run { source, folder, settings, manifest, report, tallies };
    run.manifest.write(folder)?;
    let heads = run.exported(heads);
    let total = heads.iter().fold(0_u64, |sum, head| sum.saturating_add(head.sequence.0));
    let mut before = 0_u64;
    for head in &heads {
        run.strand(*head, &mut |reached| {
            let done = before.saturating_add(reached);
            progress(ExportProgress { originator: head.originator, done, total });
        })?;
        before = before.saturating_add(head.sequence.0);
    }
    let rates = run.rates()?;
    for head in &heads {
        run.tallies(head.originator, &rates)?;
    }
    for head in &heads {
        run.checkpoints(head.originator)?;
        run.void_statements(head.originator)?;
    }
    if !source.shows_gaps() {
        let note = "checkpoints but the newest one of each node at the time of a run: the source shows no others";
        run.report.notes.push(note.to_owned());
    }
    run.settle()?;
    Ok(run.report)
}

/// Opens the export in a folder, or begins one.
fn open(source: &dyn LogSource, folder: &Path) -> Result<Manifest, ExportError> {
    let LogIdentity { network, node, log } = source.identity();
    let fresh = Manifest::new(network, node, &log);
    let Some(mut manifest) = Manifest::read(folder)? else {
        let entries = fs::read_dir(folder).map_err(ExportError::io(folder))?;
        let is_visible =
            |entry: fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
        return match entries.flatten().any(is_visible) {
            true => Err(ExportError::NotAnExport(folder.to_owned())),
            false => Ok(fresh),
        };
    };
    manifest.require_log_of(&fresh)?;
    manifest.verify_files(folder)?;
    manifest.end_interrupted(folder)?;
    Ok(manifest)
}

struct Run<'a> {
    source: &'a dyn LogSource,
    folder: &'a Path,
    settings: ExportSettings<'a>,
    manifest: Manifest,
    report: ExportReport,
    /// The origins of tallies, for the manifest once their files are in their places.
    tallies: Vec<StrandTallies>,
}

/// A strand that is being written.
struct Strand {
    originator: OriginatorId,
    /// The first place of the next file, and the last place that was written.
    from: u64,
    reached: u64,
    part: Option<PartWriter>,
    /// The key that judges all signatures, as text.
    judged_by: Option<String>,
    /// The gap that was written last.
    gap: Option<(u64, u64, GapReason)>,
    /// The place of the first envelope that waits for its verdict. Nothing from there on is written.
    waits_at: Option<u64>,
}

/// Returns true for the strands of chains and those of the older network. A node could claim any number of other ids.
fn is_without_node(id: OriginatorId) -> bool {
    id.is_of_chain() || id.is_migrated()
}

impl Run<'_> {
    /// Returns the heads of the exported strands, and notes the strands that are not exported or not judged.
    fn exported(&mut self, heads: Vec<EnvelopeId>) -> Vec<EnvelopeId> {
        let is_whole = self.source.shows_gaps();
        let registry = self.settings.registry;
        let named = |id| registry.is_some_and(|registry| registry.node(id).is_some());
        let (exported, left_out): (Vec<EnvelopeId>, Vec<EnvelopeId>) =
            heads.into_iter().partition(|head| {
                is_whole || is_without_node(head.originator) || named(head.originator)
            });
        for EnvelopeId { originator, .. } in left_out {
            self.report.notes.push(format!(
                "strand {originator}: the registry does not name its node and it is none of a chain, so nothing of it \
                 could be checked"
            ));
        }
        if registry.is_some() {
            let ids: Vec<OriginatorId> = exported.iter().map(|head| head.originator).collect();
            self.report.unchecked.extend(unchecked_strands(&ids));
            for id in ids.into_iter().filter(|id| id.is_node() && !named(*id)) {
                let text = "the registry does not name its node";
                self.report.unchecked.push(format!("the signatures of strand {id}: {text}"));
            }
        }
        exported
    }

    fn strand(
        &mut self,
        head: EnvelopeId,
        note_progress: &mut dyn FnMut(u64),
    ) -> Result<(), ExportError> {
        let originator = head.originator;
        let reached = self.manifest.strand(originator).map_or(0, |strand| strand.through().0);
        let after = EnvelopeId::new(originator, SequenceId(reached));
        let mut rows = self.source.rows(after, head.sequence);
        if !self.source.shows_gaps() {
            rows = Box::new(ShownRows::new(rows, after.sequence));
        }
        let ExportSettings { threads, with_payers, registry, .. } = self.settings;
        let checker = registry.map(|registry| Checker::new(originator, registry, None));
        let work = |rows: Vec<StrandRow>| {
            let refusals = checker.as_ref().map(|checker| checker.refusals(&rows));
            let mut records = describe(originator, with_payers, rows);
            for (record, refusal) in records.iter_mut().zip(refusals.into_iter().flatten()) {
                record.refusal = refusal;
            }
            records
        };
        let key = checker.as_ref().and_then(|checker| checker.key);
        let mut strand = Strand {
            originator,
            from: reached + 1,
            reached,
            part: None,
            judged_by: key.map(|key| key.to_string()),
            gap: None,
            waits_at: None,
        };
        pipeline::run_in_batches(BATCH_ROWS, &work, threads, rows, |records| {
            for record in records {
                self.take(&mut strand, record)?;
            }
            note_progress(strand.reached);
            Ok::<(), ExportError>(())
        })?;
        self.end_part(&mut strand)?;
        let is_whole = self.source.shows_gaps() && strand.waits_at.is_none();
        self.note_head(originator, is_whole.then_some(head.sequence))?;
        if !self.source.shows_gaps() && strand.reached < head.sequence.0 {
            self.report.notes.push(format!(
                "strand {originator}: its node says that it ends at {}, and shows places to {}; a later run asks again",
                head.sequence, strand.reached
            ));
        }
        if let Some(place) = strand.waits_at {
            self.report.notes.push(format!(
                "strand {originator}: {place} waits for its verdict, so a later run exports it and what is behind it"
            ));
        }
        Ok(())
    }

    /// Notes the head of a strand, behind which rows may be missing, and an envelope that is held behind the head.
    fn note_head(
        &mut self,
        originator: OriginatorId,
        head: Option<SequenceId>,
    ) -> Result<(), ExportError> {
        let last_held = self.source.last_held(originator)?;
        let beyond = last_held.filter(|last| head.is_some_and(|head| *last > head));
        let strand = self.manifest.strand(originator);
        if strand.map(|it| (it.head, it.beyond_head)).unwrap_or_default() == (head, beyond) {
            return Ok(());
        }
        let strand = self.manifest.strand_mut(originator);
        (strand.head, strand.beyond_head) = (head, beyond);
        self.manifest.write(self.folder)
    }

    fn take(&mut self, strand: &mut Strand, mut record: Record) -> Result<(), ExportError> {
        if strand.waits_at.is_some() {
            return Ok(());
        }
        if let Some((kind, text)) = record.refusal {
            let id = EnvelopeId::new(strand.originator, SequenceId(record.from));
            return Err(ExportError::Refused { id, kind, text });
        }
        match record.kind {
            RecordKind::Envelope(StoredMark::Waiting) => {
                strand.waits_at = Some(record.from);
                return Ok(());
            }
            RecordKind::Envelope(_) => strand.reached = record.through,
            RecordKind::Gap(reason) => {
                strand.gap = Some((record.from, record.through, reason));
                strand.reached = record.through;
            }
            RecordKind::Leaf => {
                // The reason is beside the leaf, so that a reader of one file knows it.
                let covers = |(from, through, _): &(u64, u64, GapReason)| {
                    (*from..=*through).contains(&record.from)
                };
                if let Some((_, _, reason)) = strand.gap.filter(covers) {
                    record.values[LogColumn::Mark as usize] = Value::text(reason.name());
                }
            }
        }
        let part = match &mut strand.part {
            Some(part) => part,
            None => {
                let path = log_path(self.folder, strand.originator, SequenceId(strand.from));
                strand.part.insert(PartWriter::create(self.folder, &path, &LOG)?)
            }
        };
        part.push(record.values)?;
        // A file ends with an envelope, so that the leaves of a gap stand beside it.
        let is_full = part.rows() >= PART_ROWS || part.len_bytes() >= PART_LEN_BYTES;
        if is_full && matches!(record.kind, RecordKind::Envelope(_)) {
            self.end_part(strand)?;
        }
        Ok(())
    }

    /// Ends the file, and names it in the manifest.
    fn end_part(&mut self, strand: &mut Strand) -> Result<(), ExportError> {
        let Some(part) = strand.part.take() else { return Ok(()) };
        if strand.reached < strand.from {
            return Ok(()); // leaves alone: they are written again with what follows
        }
        let file = part.finish()?.show()?;
        self.report.rows += file.rows;
        self.report.parts += 1;
        let judged_by = strand.judged_by.clone();
        let judged = judged_by.clone().map(|key| (strand.originator, key));
        self.report.judged.extend(judged);
        let (from, through) = (SequenceId(strand.from), SequenceId(strand.reached));
        let part = LogPart { from, through, file, judged_by };
        self.manifest.strand_mut(strand.originator).parts.push(part);
        strand.from = strand.reached + 1;
        self.manifest.write(self.folder)
    }

    /// Writes the tallies of a strand beside those of the run before. Amounts may have been corrected, so all of them
    /// are written again; a file that did not change is left alone. Tallies that the source lacks are derived from the
    /// rows.
    fn tallies(&mut self, originator: OriginatorId, rates: &[Rate]) -> Result<(), ExportError> {
        let through =
            self.manifest.strand(originator).map_or(SequenceId::NONE, StrandParts::through);
        let before = self.manifest.tallies_of(originator);
        let mut now = StrandTallies { through, not_shown: 0, missing: None, ..before.clone() };
        let mut usage = DayWriter::new(self.folder, &USAGE, originator);
        let mut congestion = DayWriter::new(self.folder, &CONGESTION, originator);
        let mut each = |tally| match tally {
            Tally::Usage(minute, payer, of) => {
                usage.push(minute, || usage_row(originator, minute, payer, of));
            }
            Tally::Congestion(minute, messages) => {
                congestion.push(minute, || {
                    [u64::from(originator.0), u64::from(minute), messages].map(Value::int).to_vec()
                });
            }
        };
        let beside = self.source.beside(originator);
        if beside.has_tallies() {
            (now.origin, now.rates) = (TallyOrigin::Stored, None);
            let all = 0..=u32::MAX;
            beside.usage(all.clone(), &mut |minute, payer, of| {
                each(Tally::Usage(minute, payer, of));
            })?;
            beside.congestion(all, &mut |minute, messages| {
                each(Tally::Congestion(minute, messages));
            })?;
        } else if rates.is_empty() {
            let text = "the source shows none, and there are no rates to derive them by (--rates)";
            return self.no_tallies(before, text);
        } else {
            let mut bytes = Vec::new();
            rates.iter().for_each(|rate| bytes.extend_from_slice(format!("{rate:?}").as_bytes()));
            (now.origin, now.rates) =
                (TallyOrigin::Derived, Some(blake3::hash(&bytes).to_hex().to_string()));
            now.not_shown = before.not_shown;
            if now == before {
                return Ok(()); // of the same rows, by the same rates
            }
            let mut derived = DerivedTallies::new(rates.to_vec());
            self.derive(originator, &mut derived, &mut each)?;
            now.not_shown = derived.not_shown;
            if let Some(text) = derived.refusal {
                usage.discard()?;
                congestion.discard()?;
                return self.no_tallies(before, &text);
            }
        }
        if usage.has_too_many_days() || congestion.has_too_many_days() {
            usage.discard()?;
            congestion.discard()?;
            return self.no_tallies(before, TOO_MANY_DAYS);
        }
        let notes = &mut self.report.notes;
        let mut changed = usage.end(&mut self.manifest.usage, notes)?;
        changed.extend(congestion.end(&mut self.manifest.congestion, notes)?);
        self.tallies.push(now);
        self.show(changed)
    }

    /// Records the reason why a strand has no tallies. Those of the previous run stay.
    fn no_tallies(&mut self, before: StrandTallies, text: &str) -> Result<(), ExportError> {
        let (id, through) = (before.originator_id, before.through);
        let left = match before.origin {
            TallyOrigin::None => String::new(),
            _ => format!("; those of the places to {through} are left"),
        };
        self.report.notes.push(format!("tallies of strand {id}: {text}{left}"));
        let missing = Some(text.to_owned());
        self.tallies.push(StrandTallies { missing, ..before });
        Ok(())
    }

    /// Reads the exported rows of a strand again, of this run and earlier ones, and derives its tallies. Reads a
    /// folder, which also has the records of pruned places, or without one the files of the export.
    fn derive(
        &self,
        originator: OriginatorId,
        derived: &mut DerivedTallies,
        each: &mut impl FnMut(Tally),
    ) -> Result<(), ExportError> {
        let parts = self.manifest.strand(originator).map_or(&[][..], |strand| &strand.parts);
        let Some(last) = parts.last() else { return Ok(()) };
        let rows: LogRows<'_> = if self.source.shows_gaps() {
            let first = EnvelopeId::new(originator, SequenceId::NONE);
            self.source.rows(first, last.through)
        } else {
            let rows = |part: &LogPart| {
                exported_rows(&log_path(self.folder, originator, part.from), &part.file)
            };
            Box::new(parts.iter().flat_map(rows))
        };
        let none = Registry::default();
        let registry = self.settings.registry.unwrap_or(&none);
        let checker = Checker::new(originator, registry, None);
        let check = |rows| checker.check(rows);
        pipeline::run_in_batches(BATCH_ROWS, &check, self.settings.threads, rows, |batch| {
            batch.iter().for_each(|row| derived.take(row, each));
            Ok::<(), ExportError>(())
        })?;
        derived.finish(each);
        Ok(())
    }

    /// Writes the checkpoints of a strand, by time. A node shows the newest ones alone: those of earlier runs stay.
    fn checkpoints(&mut self, originator: OriginatorId) -> Result<(), ExportError> {
        let beside = self.source.beside(originator);
        let mut days = DayWriter::new(self.folder, &CHECKPOINTS, originator);
        let each = |checkpoint: &CosignedCheckpoint| {
            let minute = checkpoint.signed.checkpoint.time_ns / NS_PER_MINUTE;
            let minute = u32::try_from(minute).unwrap_or(u32::MAX);
            days.push_late(minute, |minute| checkpoints::row(originator, minute, checkpoint));
        };
        if self.source.shows_gaps() {
            checkpoints::by_time(&*beside, each)?;
        } else if let Some(registry) = self.settings.registry {
            let parts = self.manifest.checkpoints.iter();
            let file = |part: &TallyPart| {
                let path = tally_path(self.folder, CHECKPOINTS.name, originator, part.day);
                Some((path, part.file.clone()?))
            };
            let files = parts.filter(|part| part.originator_id == originator).filter_map(file);
            let notes = &mut self.report.notes;
            let judged_by = (registry, self.settings.now_ns);
            checkpoints::with_newest(files.collect(), &*beside, judged_by, notes, each)?;
        }
        let changed = days.end(&mut self.manifest.checkpoints, &mut self.report.notes)?;
        self.show(changed)
    }

    /// Writes the statements of a strand's node about void places, by time.
    fn void_statements(&mut self, originator: OriginatorId) -> Result<(), ExportError> {
        let beside = self.source.beside(originator);
        let key = self.settings.registry.and_then(|registry| registry.node(originator));
        let key = key.map(|record| &record.public_key);
        let all = voids::of_strand(&*beside, originator, key, &mut self.report.notes)?;
        let mut days = DayWriter::new(self.folder, &VOID_STATEMENTS, originator);
        for signed in &all {
            let minute = signed.statement.time_ns / NS_PER_MINUTE;
            let minute = u32::try_from(minute).unwrap_or(u32::MAX);
            days.push_late(minute, |minute| voids::row(minute, signed));
        }
        let changed = days.end(&mut self.manifest.void_statements, &mut self.report.notes)?;
        self.show(changed)
    }

    /// Writes the rates that the keeper has recorded, or the given ones if the source shows none. Returns the rates by
    /// which tallies are derived.
    fn rates(&mut self) -> Result<Vec<Rate>, ExportError> {
        let given = self.settings.rates.map(|table| table.rates().to_vec()).unwrap_or_default();
        if !self.source.shows_gaps() && given.is_empty() {
            // The tallies of an earlier run stay, and so do the rates that give their amounts.
            return Ok(Vec::new());
        }
        let mut file = DayWriter::new(self.folder, &RATES, OriginatorId(0));
        let mut recorded = self.source.rates()?;
        if !self.source.shows_gaps() {
            recorded.clone_from(&given);
        }
        for rate in &recorded {
            let Rate {
                start_unix_s,
                message_fee,
                storage_fee,
                congestion_fee,
                target_rate_per_minute,
            } = *rate;
            let row = [
                start_unix_s,
                message_fee.0,
                storage_fee.0,
                congestion_fee.0,
                target_rate_per_minute,
            ];
            file.push(0, || row.map(Value::Amount).to_vec());
        }
        let changed = file.end(&mut self.manifest.rates, &mut self.report.notes)?;
        self.show(changed)?;
        Ok(if given.is_empty() { recorded } else { given })
    }

    /// Gives new files their names.
    fn show(&mut self, changed: Vec<FinishedPart>) -> Result<(), ExportError> {
        if changed.is_empty() {
            return Ok(());
        }
        // The manifest names old and new files until the new ones have their names: a crash leaves either.
        self.manifest.write(self.folder)?;
        self.report.tally_files += changed.len() as u64;
        changed.into_iter().try_for_each(|part| part.show().map(drop))
    }

    /// Records in the manifest that the new files of tallies are in place, and their origin.
    fn settle(&mut self) -> Result<(), ExportError> {
        for (_, parts) in self.manifest.tables_mut() {
            for part in parts.iter_mut() {
                if let Some(next) = part.next.take() {
                    part.file = Some(next);
                }
            }
        }
        for tallies in std::mem::take(&mut self.tallies) {
            self.manifest.note_tallies(tallies);
        }
        self.manifest.write(self.folder)
    }
}

/// Returns the envelopes and gaps of a file of the table `log`, if it still has the listed bytes.
fn exported_rows(path: &Path, listed: &FileDigest) -> LogRows<'static> {
    let failed = |error: ExportError| SourceError(error.to_string());
    let row = move |row: Result<(OriginatorId, ReadRow), ExportError>| match row {
        Ok((_, ReadRow { row: ExportedRow::Row(row), .. })) => Some(Ok(row)),
        Ok(_) => None,
        Err(error) => Some(Err(failed(error))),
    };
    match PartReader::open_verified(path, listed) {
        Ok(reader) => Box::new(reader.filter_map(row)),
        Err(error) => Box::new(std::iter::once(Err(failed(error)))),
    }
}

fn usage_row(
    originator: OriginatorId,
    minute: u32,
    payer: Address,
    of: crate::replay::Usage,
) -> Vec<Value> {
    vec![
        Value::int(u64::from(originator.0)),
        Value::int(u64::from(minute)),
        Value::Bytes(address_text(payer)),
        Value::Amount(of.picodollars.0),
        Value::Amount(of.stated_picodollars.0),
        Value::int(of.messages),
        Value::int(of.bytes),
        Value::int(of.last_sequence.0),
    ]
}
