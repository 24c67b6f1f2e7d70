//! `hawser audit export`: a log and its tallies as Parquet.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hawser_audit::export::{ExportError, ExportProgress, ExportReport, ExportSettings, export};
use hawser_audit::replay::LogSource;
use hawser_node::bucket::ObjectsAt;
use hawser_node::error::RunError;
use hawser_node::settings;
use hawser_rules::RateTable;
use serde_json::json;

use super::keys::{self, LoadedKeys};
use super::progress::StrandProgressBar;
use super::publish::publish;
use super::replay::threads_or_cores;
use super::source::{FolderLog, NodeLog, SnapshotLog, StoredLog, check_backup};
use crate::args::audit::{AuditExportArgs, ExportFormat, KeysArgs};
use crate::args::sources_of;
use crate::clock::now_ns;
use crate::commands::backup as backups;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When the log cannot be read, or the folder is not an export of it: nothing in the folder changes. When signatures
/// are judged and an envelope is refused: files with earlier places stay.
pub(super) fn run(args: &AuditExportArgs, as_json: bool) -> Result<(), RunError> {
    let ExportFormat::Parquet = args.format;
    let place = backups::place_of(&args.to)?;
    let (folder, bucket) = match (&place, &args.work) {
        (ObjectsAt::Folder(_), None) => (args.to.clone(), None),
        (ObjectsAt::Folder(_), Some(_)) => {
            return Err(RunError::usage("--work is only for --to s3://BUCKET/PREFIX"));
        }
        (ObjectsAt::Bucket(_), Some(work)) => (work.clone(), Some(backups::open(&place)?)),
        (ObjectsAt::Bucket(_), None) => {
            let folder = usual_work(&place.to_string())?;
            std::fs::create_dir_all(&folder)
                .map_err(|error| RunError::failed(format!("{}: {error}", folder.display())))?;
            (folder, Some(backups::open(&place)?))
        }
    };
    let folder = folder.as_path();
    let snapshots = SnapshotLog::place_in(&args.from);
    let is_node = snapshots.is_none() && args.from.contains("://");
    check_backup(&args.from, args.backup.as_deref())?;
    // The rows of a running node and of a snapshot are always judged, because they may be anything.
    let keys = KeysArgs { registry: args.registry.clone(), rates: args.rates.clone() };
    let judges = is_node || snapshots.is_some() || args.registry.is_some();
    let keys = judges.then(|| keys::load(&keys, None)).transpose()?;
    let rates = match (&keys, &args.rates) {
        (Some(keys), _) => keys.known.rates.clone(),
        (None, Some(path)) => Some(keys::rates_of(path)?),
        (None, None) => None,
    };
    let report = if let Some(place) = snapshots {
        let log = SnapshotLog::open(place, args.backup.as_deref())?;
        write(&log, folder, args, keys.as_ref(), rates.as_ref())?
    } else if is_node {
        let signers = keys.iter().flat_map(|keys| keys.known.registry.nodes().map(|node| node.id));
        let log = NodeLog::connect(&args.from, signers.collect())?;
        write(&log, folder, args, keys.as_ref(), rates.as_ref())?
    } else {
        let store = StoredLog::open(Path::new(&args.from), args.backup.as_deref())?;
        let log = FolderLog::new(&store).map_err(RunError::failed)?;
        write(&log, folder, args, keys.as_ref(), rates.as_ref())?
    };
    let brought = match &bucket {
        Some(bucket) => Some(publish(folder, &**bucket)?),
        None => None,
    };
    print_report(&report, keys.as_ref(), brought, as_json);
    Ok(())
}

/// Returns the folder in which an export to this place is made, if none is named.
fn usual_work(place: &str) -> Result<PathBuf, RunError> {
    let sources = sources_of([]);
    let state = settings::state_dir(&sources).map_err(|error| {
        RunError::usage(format!(
            "an export to a bucket is made in a folder, which the next run extends: give --work DIR ({error})"
        ))
    })?;
    Ok(state.join("exports").join(folder_name(place)))
}

/// Returns the name of a place as the name of one folder. Different places have different names.
fn folder_name(place: &str) -> String {
    let mut name = String::new();
    for byte in place.trim_start_matches("s3://").trim_end_matches('/').bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            _ => _ = write!(name, "%{byte:02X}"),
        }
    }
    name
}

fn write(
    log: &dyn LogSource,
    folder: &Path,
    args: &AuditExportArgs,
    keys: Option<&LoadedKeys>,
    rates: Option<&RateTable>,
) -> Result<ExportReport, RunError> {
    let settings = ExportSettings {
        threads: threads_or_cores(args.threads),
        with_payers: !args.without_payers,
        registry: keys.map(|keys| &keys.known.registry),
        rates,
        now_ns: now_ns(),
    };
    let mut bar = StrandProgressBar::new("exporting");
    let report = export(log, folder, settings, |progress| {
        let ExportProgress { originator, done, total } = progress;
        let line = || format!("strand {originator}; {done} of {total}");
        bar.show(originator, (done, total), line);
    });
    bar.finish();
    report.map_err(refused)
}

fn refused(error: ExportError) -> RunError {
    match error {
        ExportError::Io { .. } | ExportError::Source(_) => RunError::failed(error),
        ExportError::Malformed { .. }
        | ExportError::Refused { .. }
        | ExportError::Busy(_)
        | ExportError::InTheWay(_)
        | ExportError::NotAnExport(_)
        | ExportError::OtherLog { .. }
        | ExportError::TooManyStrands { .. }
        | ExportError::OtherStrand { .. } => RunError::refused(error),
    }
}

fn print_report(
    report: &ExportReport,
    keys: Option<&LoadedKeys>,
    brought: Option<(u64, u64)>,
    as_json: bool,
) {
    let ExportReport { rows, parts, tally_files, notes, judged, unchecked } = report;
    if as_json {
        output::line(json!({
            "rows": rows,
            "files": parts,
            "tally_files": tally_files,
            "not_exported": notes,
            "keys": keys.map(|keys| &keys.origin),
            "judged": judged,
            "unchecked": unchecked,
            "files_brought": brought.map(|it| it.0),
            "bytes_brought": brought.map(|it| it.1),
        }));
        return;
    }
    output::line(format_args!("rows: {rows}, in {}", output::count(*parts, "new file")));
    output::line(format_args!("files of tallies that are new or others: {tally_files}"));
    if let Some((files, bytes)) = brought {
        let (files, bytes) = (output::count(files, "file"), output::size(bytes));
        output::line(format_args!("brought to the bucket: {files}, {bytes}"));
    }
    notes.iter().for_each(|note| output::line(format_args!("not exported: {note}")));
    for (strand, key) in judged {
        output::line(format_args!("strand {strand}: all signatures are by {key}"));
    }
    unchecked.iter().for_each(|text| output::line(format_args!("not checked: {text}")));
    match keys {
        Some(keys) => output::line(format_args!("keys: {}", keys.origin)),
        None => output::line("not checked: signatures (--registry)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_and_prefix_has_a_folder_of_its_own() {
        assert_eq!(
            folder_name("s3://my-bucket/exports/node_100/"),
            "my-bucket%2Fexports%2Fnode_100"
        );
        assert_eq!(folder_name("s3://b/.."), "b%2F%2E%2E", "no way out of the folder");
        assert_ne!(folder_name("s3://b/a/c"), folder_name("s3://b/a%2Fc"));
    }
}
