//! `hawser audit export`: a log and its tallies as Parquet.

use std::thread;
use std::time::Instant;

use hawser_audit::export::{ExportError, ExportProgress, ExportReport, ExportSettings, export};
use hawser_node::bucket::ObjectsAt;
use hawser_node::error::RunError;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::publish::publish;
use super::replay::TELL_EVERY;
use super::source::{FolderLog, StoredLog};
use crate::args::audit::{AuditExportArgs, ExportFormat};
use crate::commands::backup as backups;
use crate::output;

/// Runs the command.
///
/// # Errors
/// When the log cannot be read, or the folder is not an export of it; nothing in the folder is changed then.
pub(in super::super) fn run(args: &AuditExportArgs, as_json: bool) -> Result<(), RunError> {
    let ExportFormat::Parquet = args.format;
    let (folder, bucket) = match (backups::place_of(&args.to)?, &args.work) {
        (ObjectsAt::Folder(_), None) => (&args.to, None),
        (ObjectsAt::Folder(_), Some(_)) => {
            return Err(RunError::usage("--work goes with --to s3://BUCKET/PREFIX alone"));
        }
        (ObjectsAt::Bucket(_), None) => {
            let text = "name the folder in which the export is made, and which the next run adds to (--work)";
            return Err(RunError::usage(text));
        }
        (place @ ObjectsAt::Bucket(_), Some(work)) => (work, Some(backups::open(&place)?)),
    };
    let store = StoredLog::open(&args.from, args.backup.as_deref())?;
    let log = FolderLog::new(&store).map_err(RunError::failed)?;
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let settings = ExportSettings {
        threads: args.threads.unwrap_or_else(cores),
        with_payers: !args.without_payers,
    };
    let mut bar = ExportProgressBar::new();
    let report = export(&log, folder, settings, |progress| bar.tell(progress));
    bar.bar.finish_and_clear();
    let report = report.map_err(refused)?;
    let brought = match &bucket {
        Some(bucket) => Some(publish(folder, &**bucket)?),
        None => None,
    };
    tell(&report, brought, as_json);
    Ok(())
}

fn refused(error: ExportError) -> RunError {
    match error {
        ExportError::Io { .. } | ExportError::Source(_) => RunError::failed(error),
        ExportError::Malformed { .. }
        | ExportError::Busy(_)
        | ExportError::NotAnExport(_)
        | ExportError::OtherLog { .. }
        | ExportError::OtherStrand { .. } => RunError::refused(error),
    }
}

/// Progress on the error output: a bar on a terminal, lines elsewhere.
struct ExportProgressBar {
    bar: ProgressBar,
    told: Instant,
}

impl ExportProgressBar {
    fn new() -> Self {
        let template = "exporting {msg} [{bar:40}] {pos}/{len} {per_sec} {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
        Self { bar, told: Instant::now() }
    }

    fn tell(&mut self, progress: ExportProgress) {
        let ExportProgress { originator, done, total } = progress;
        self.bar.set_message(format!("strand {originator}"));
        self.bar.set_length(total.max(done));
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            eprintln!("strand {originator}; {done} of {total}");
        }
    }
}

fn tell(report: &ExportReport, brought: Option<(u64, u64)>, as_json: bool) {
    let ExportReport { rows, parts, tally_files, notes } = report;
    if as_json {
        output::line(json!({
            "rows": rows,
            "files": parts,
            "tally_files": tally_files,
            "not_exported": notes,
            "files_brought": brought.map(|it| it.0),
            "bytes_brought": brought.map(|it| it.1),
        }));
        return;
    }
    output::line(format_args!("rows: {rows}, in {parts} new files"));
    output::line(format_args!("files of tallies that are new or others: {tally_files}"));
    if let Some((files, bytes)) = brought {
        let (files, bytes) = (format!("{files} files"), backups::size(bytes));
        output::line(format_args!("brought to the bucket: {files}, {bytes}"));
    }
    notes.iter().for_each(|note| output::line(format_args!("not exported: {note}")));
}
