//! `hawser audit check-partition` and `hawser audit merge`: checking a log in parts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, stdin};
use std::path::{Path, PathBuf};

use hawser_audit::export::{Manifest, PartReader};
use hawser_audit::partition::{
    ChainsOfLog, ExpectedStrand, ExportedPayers, LineReader, MergedVerdict, RangeVerdict,
    VERDICT_LEN_BYTES_MAX, chains_of, check_partition, merge as merge_ranges, unchecked,
};
use hawser_audit::plain_file::{SymbolicLinks, open_plain};
use hawser_audit::replay::{Faults, SourceError};
use hawser_node::error::RunError;
use serde_json::{Value, json};

use super::keys;
use super::replay::{exit_of_log, settings_by};
use crate::args::audit::{AuditCheckPartitionArgs, AuditMergeArgs};
use crate::output;

/// Summaries that are read. A guess: engines split a log into thousands of parts at most.
const RANGES_MAX: usize = 100_000;
/// Length of all summaries together, in bytes, beside lines with faults, which are not held. A guess: ten KiB for each
/// of the most, and little enough to be held.
const RANGES_LEN_BYTES_MAX: usize = 1 << 30;
/// The error about a line that is no verdict.
const NO_VERDICT: &str =
    "a line is not JSON: verdicts are the output of hawser audit check-partition --json";

/// Runs `check-partition`.
///
/// # Errors
/// When rows or keys cannot be read; and with the exit code of the verdict, unless an engine pipes the rows: it takes
/// every other code than 0 for a task that failed.
pub(super) fn check(args: &AuditCheckPartitionArgs, as_json: bool) -> Result<(), RunError> {
    let keys = keys::load(&args.keys, None)?;
    let settings = settings_by(&keys, args.threads);
    let payers = if args.without_payers { ExportedPayers::MayLack } else { ExportedPayers::Named };
    let chains = args.chains.as_deref().map(read_chains).transpose()?.unwrap_or_default();
    let is_piped = is_standard_input(&args.files);
    if let Some(path) = args.files.iter().find(|path| !is_piped && !path.exists()) {
        return Err(RunError::not_found(format!("{}: there is no such file", path.display())));
    }
    if let Some(path) = args.files.iter().find(|path| !is_piped && path.is_dir()) {
        return Err(RunError::usage(format!(
            "{} is a folder: name files of the table, such as EXPORT/log/originator=100/*.parquet",
            path.display()
        )));
    }
    let ranges = if is_piped {
        let rows = LineReader::new(BufReader::new(stdin()));
        check_partition(rows, &settings, payers, &chains).map_err(RunError::failed)?
    } else {
        let rows = args.files.iter().flat_map(|path| rows_of(path));
        check_partition(rows, &settings, payers, &chains).map_err(RunError::failed)?
    };
    ranges.iter().for_each(|range| print_range(range, as_json));
    if !as_json {
        unchecked(&ranges)
            .iter()
            .for_each(|text| output::line(format_args!("not checked: {text}")));
    }
    if is_piped {
        return Ok(());
    }
    if ranges.is_empty() && !as_json {
        output::line("incomplete: the files have no rows");
    }
    exit_of_log(verdict_on(&ranges))
}

/// Returns the verdict on the ranges of files. Files without rows show nothing: an export writes none.
fn verdict_on(ranges: &[RangeVerdict]) -> &'static str {
    let mut faults = Faults::default();
    ranges.iter().for_each(|range| faults.extend(&range.all_faults()));
    let is_whole = ranges.iter().all(|range| range.incomplete().is_empty());
    faults.verdict(is_whole && !ranges.is_empty())
}

/// Returns the times of the chains' places from the verdicts on their strands.
fn read_chains(path: &Path) -> Result<ChainsOfLog, RunError> {
    let mut read = ReadRanges::new();
    read.file(path)?;
    chains_of(read.ranges).map_err(|error| RunError::failed(format!("{}: {error}", path.display())))
}

fn is_standard_input(files: &[PathBuf]) -> bool {
    files.len() == 1 && files[0].as_os_str() == "-"
}

type Row = <LineReader<BufReader<File>> as Iterator>::Item;

/// Opens a file when its turn comes, and reads its rows.
fn rows_of(path: &Path) -> Box<dyn Iterator<Item = Row> + Send> {
    let failed = |error: hawser_audit::export::ExportError| SourceError(error.to_string());
    match PartReader::open(path) {
        Ok(reader) => Box::new(reader.map(move |row| row.map_err(failed))),
        Err(error) => Box::new(std::iter::once(Err(failed(error)))),
    }
}

fn print_range(range: &RangeVerdict, as_json: bool) {
    let faults = range.all_faults();
    if as_json {
        for fault in faults.kept() {
            output::line(json!({ "fault": fault }));
        }
        output::line(format_args!("{{\"range\":{}}}", range.to_line()));
        return;
    }
    faults.kept().iter().for_each(output::line);
    let more = faults.count().saturating_sub(faults.kept().len() as u64);
    if more > 0 {
        output::line(format_args!("and {} more", output::count(more, "fault")));
    }
    let RangeVerdict { originator_id, from, through, rows, envelopes, .. } = range;
    output::line(format_args!(
        "strand {originator_id}: places {from} to {through}, {}, {}, {}",
        output::count(*rows, "row"),
        output::count(*envelopes, "envelope"),
        output::count(faults.count(), "fault"),
    ));
    range.incomplete().iter().for_each(|text| output::line(format_args!("incomplete: {text}")));
}

/// Runs `merge`.
///
/// # Errors
/// When summaries cannot be read or do not join; and with the exit code of the verdict.
pub(super) fn merge(args: &AuditMergeArgs, as_json: bool) -> Result<(), RunError> {
    let expected = args.export.as_deref().map(expected).transpose()?;
    let mut read = ReadRanges::new();
    for path in &args.files {
        if path.as_os_str() == "-" {
            read.lines(stdin().lock(), path)?;
        } else {
            read.file(path)?;
        }
    }
    let merged = merge_ranges(read.ranges, expected.as_deref()).map_err(RunError::failed)?;
    print_merged(&merged, as_json);
    exit_of_log(merged.verdict)
}

/// Returns the strands that the manifest of an export names.
fn expected(folder: &Path) -> Result<Vec<ExpectedStrand>, RunError> {
    let manifest = Manifest::read(folder).map_err(RunError::failed)?;
    let missing =
        || RunError::not_found(format!("{}: the folder does not hold an export", folder.display()));
    let manifest = manifest.ok_or_else(missing)?;
    let beside = manifest.rows_beside();
    let strand = |strand: &hawser_audit::export::StrandParts| {
        let [checkpoints, statements] =
            beside.get(&strand.originator_id).copied().unwrap_or_default();
        ExpectedStrand {
            originator_id: strand.originator_id,
            through: strand.through(),
            rows: strand.rows(),
            checkpoints,
            statements,
            head: strand.head,
            beyond_head: strand.beyond_head,
        }
    };
    Ok(manifest.strands.iter().map(strand).collect())
}

/// The summaries of one or more files. The files are untrusted: a worker of an engine may have written anything.
struct ReadRanges {
    ranges: Vec<RangeVerdict>,
    /// Bytes that further summaries may have.
    left_bytes: usize,
}

impl ReadRanges {
    fn new() -> Self {
        Self { ranges: Vec::new(), left_bytes: RANGES_LEN_BYTES_MAX }
    }

    /// Reads the summaries in a file.
    fn file(&mut self, path: &Path) -> Result<(), RunError> {
        let file = open_plain(path, SymbolicLinks::Followed)
            .map_err(|error| keys::unread(path, &error))?;
        self.lines(BufReader::new(file), path)
    }

    /// Reads summaries, and skips lines with faults, which the summaries have too.
    fn lines(&mut self, mut reader: impl BufRead, path: &Path) -> Result<(), RunError> {
        let fail = |error: &dyn std::fmt::Display| {
            RunError::failed(format!("{}: {error}", path.display()))
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            let bound = VERDICT_LEN_BYTES_MAX as u64 + 1024;
            let read = (&mut reader).take(bound).read_until(b'\n', &mut line);
            let read = read.map_err(|error| fail(&error))?;
            if read == 0 {
                return Ok(());
            }
            if read as u64 >= bound || self.ranges.len() >= RANGES_MAX {
                return Err(fail(
                    &"a line of the verdicts is too long, or there are too many lines",
                ));
            }
            let text = str::from_utf8(&line).map_err(|error| fail(&error))?.trim();
            if text.is_empty() || text.starts_with("{\"fault\":") {
                continue;
            }
            let left = self.left_bytes.checked_sub(text.len());
            self.left_bytes = left.ok_or_else(|| {
                fail(&format_args!(
                    "the verdicts have more than {RANGES_LEN_BYTES_MAX} bytes together"
                ))
            })?;
            let object: Value = serde_json::from_str(text)
                .map_err(|error| fail(&format_args!("{NO_VERDICT} ({error})")))?;
            let range = object
                .get("range")
                .ok_or_else(|| fail(&"a line of the verdicts has no field `range`"))?;
            self.ranges
                .push(RangeVerdict::parse(&range.to_string()).map_err(|error| fail(&error))?);
        }
    }
}

fn print_merged(merged: &MergedVerdict, as_json: bool) {
    if as_json {
        let counts = merged.faults.counts().iter().map(|(kind, count)| (kind.name(), *count));
        output::line(json!({
            "verdict": merged.verdict,
            "strands": merged.strands,
            "faults": counts.collect::<std::collections::BTreeMap<_, _>>(),
            "first_faults": merged.faults.kept(),
            "incomplete": merged.incomplete,
            "unchecked": merged.unchecked,
        }));
        return;
    }
    for strand in &merged.strands {
        output::line(format_args!(
            "strand {}: places {} to {}, {}, {}",
            strand.originator_id,
            strand.from,
            strand.through,
            output::count(strand.rows, "row"),
            output::count(strand.envelopes, "envelope"),
        ));
    }
    merged.faults.kept().iter().for_each(output::line);
    for (kind, count) in merged.faults.counts() {
        output::line(format_args!("{:<22} {count}", kind.name()));
    }
    for text in &merged.incomplete {
        output::line(format_args!("incomplete: {text}"));
    }
    merged.unchecked.iter().for_each(|text| output::line(format_args!("not checked: {text}")));
    output::line(format_args!("verdict: {}", merged.verdict));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file of a strand may be replaced by an empty one.
    #[test]
    fn files_without_rows_are_not_clean() {
        assert_eq!(verdict_on(&[]), "incomplete");
    }

    /// A worker of an engine may write verdicts without end.
    #[test]
    fn verdicts_have_a_bound_together() {
        let long = format!("{{\"range\":{}}}\n", "0".repeat(100));
        let path = Path::new("verdicts");
        let mut read = ReadRanges { ranges: Vec::new(), left_bytes: 99 };
        let error = read.lines(long.as_bytes(), path).unwrap_err();
        assert!(error.text.contains("bytes together"), "{error:?}");
        // Lines with faults are not held.
        let mut read = ReadRanges { ranges: Vec::new(), left_bytes: 99 };
        let fault = format!("{{\"fault\":{}}}\n", "0".repeat(100));
        read.lines(fault.as_bytes(), path).unwrap();
    }
}
