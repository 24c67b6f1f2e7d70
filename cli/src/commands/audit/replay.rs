//! `hawser audit replay`: a whole log, checked again from its bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hawser_audit::html;
use hawser_audit::plain_file;
use hawser_audit::replay::{
    LogSource, LogWithSecond, Replay, ReplayProgress, ReplayReport, ReplaySettings, ReplayState,
    ReplayedStrand, STATE_LEN_BYTES_MAX, SecondCheckpoints,
};
use hawser_node::error::RunError;
use hawser_proto::OriginatorId;
use hawser_rules::Registry;
use serde_json::json;

use super::keys::{self, LoadedKeys};
use super::progress::StrandProgressBar;
use super::source::{
    FolderLog, NodeLog, SnapshotLog, StoredLog, check_backup, folder_for_copy, open_with_signers,
};
use crate::args::audit::AuditReplayArgs;
use crate::clock::now_ns;
use crate::{exit_codes, output, output_file};

/// Time between two writes of the state file. A guess: an interruption costs no more than that.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Runs the command.
///
/// # Errors
/// When the log, the keys, the chain or the state cannot be read, or the state or the page cannot be written; and with
/// the exit code of the verdict.
pub(super) fn run(args: &AuditReplayArgs, as_json: bool) -> Result<(), RunError> {
    check_backup(&args.from, args.backup.as_deref())?;
    let copy_in = folder_for_copy(&args.from, args.work.as_deref())?;
    let mut keys = keys::load_with_chain(&args.keys, &args.network)?;
    let Replayed { report, saved } = if let Some(place) = SnapshotLog::place_in(&args.from) {
        let log = SnapshotLog::open(place, args.backup.as_deref())?;
        replay(&log, args, &keys, Vec::new())?
    } else if args.from.contains("://") && copy_in.is_none() {
        let signers = keys.known.registry.nodes().map(|node| node.id).collect();
        let log = NodeLog::connect(&args.from, signers)?;
        replay(&log, args, &keys, Vec::new())?
    } else {
        let (from, named) = (Path::new(&args.from), args.backup.as_deref());
        let store = match copy_in {
            Some(work) => StoredLog::open_bucket(from, named, work)?,
            None => StoredLog::open(from, named)?,
        };
        let log = FolderLog::new(&store).map_err(RunError::failed)?;
        let absences = log.add_absences(&mut keys.known.registry).map_err(RunError::failed)?;
        let note = "that the removals of nodes are those of the chain: the log has recorded them";
        let notes = if absences { vec![note.to_owned()] } else { Vec::new() };
        replay(&log, args, &keys, notes)?
    };
    let page = args.html.as_ref().map(|path| write_page(path, &report, &keys.origin));
    // A replay takes hours: a file that cannot be written does not hide the verdict.
    let verdict = print(&report, &keys.origin, as_json);
    saved.and(page.unwrap_or(Ok(()))).and(verdict)
}

/// A replay that is done.
struct Replayed {
    report: ReplayReport,
    /// The error of the last write of the state file, if it failed.
    saved: Result<(), RunError>,
}

/// Writes the report as a page.
fn write_page(path: &Path, report: &ReplayReport, keys: &str) -> Result<(), RunError> {
    let tool = concat!("hawser ", env!("HAWSER_VERSION"));
    let page = html::page(report, html::PageFacts { keys, tool, now_ns: now_ns() });
    output_file::write(path, page.as_bytes())
}

/// Returns the given number of threads, or that of the cores.
pub(super) fn threads_or_cores(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Returns the settings of a replay by these keys, now.
pub(super) fn settings_by(keys: &LoadedKeys, threads: Option<usize>) -> ReplaySettings {
    ReplaySettings {
        registry: keys.known.registry.clone(),
        rates: keys.known.rates.clone(),
        threads: threads_or_cores(threads),
        now_ns: now_ns(),
    }
}

fn replay(
    log: &dyn LogSource,
    args: &AuditReplayArgs,
    keys: &LoadedKeys,
    notes: Vec<String>,
) -> Result<Replayed, RunError> {
    let settings = settings_by(keys, args.threads);
    let second = args.checkpoints_from.as_deref();
    let second =
        second.map(|name| second_checkpoints(name, log, &settings.registry)).transpose()?;
    let both = second.as_ref().map(|second| LogWithSecond::new(log, second));
    let log = both.as_ref().map_or(log, |both| both as &dyn LogSource);
    let state_file = args.state.as_deref();
    let state = state_file.map(read_state).transpose()?.flatten();
    let mut replay = Replay::new(log, &settings, state).map_err(RunError::refused)?;
    let mut bar = StrandProgressBar::new("replaying");
    let mut saved = Instant::now();
    let mut unsaved = None;
    let report = replay.run(|state, progress| {
        show(&mut bar, progress);
        if let Some(path) = state_file.filter(|_| saved.elapsed() >= SAVE_EVERY) {
            saved = Instant::now();
            unsaved = write_state(path, state).err();
        }
        unsaved.is_none()
    });
    bar.finish();
    let report = report.map_err(|error| RunError::failed(format!("{}: {error}", args.from)))?;
    if let Some(error) = unsaved {
        return Err(error);
    }
    let saved = state_file.map_or(Ok(()), |path| write_state(path, replay.state()));
    let Some(mut report) = report else {
        saved?;
        return Err(RunError::failed("the replay was interrupted before it was done"));
    };
    report.unchecked.extend(notes);
    report.incomplete.extend(second.iter().flat_map(|it| it.not_listed(settings.now_ns)));
    Ok(Replayed { report, saved })
}

/// Reads the checkpoints that a second source shows of the strands of a log.
fn second_checkpoints(
    name: &str,
    log: &dyn LogSource,
    registry: &Registry,
) -> Result<SecondCheckpoints, RunError> {
    let opened = open_with_signers(name, registry.nodes().map(|node| node.id).collect())?;
    let view = opened.view()?;
    let read = SecondCheckpoints::read(&*view, log, registry);
    read.map_err(|error| RunError::failed(format!("checkpoints from {name}: {error}")))
}

fn show(bar: &mut StrandProgressBar, progress: ReplayProgress) {
    let ReplayProgress { originator, reached, head, done, total, faults } = progress;
    bar.show(originator, (done, total), || {
        let faults = output::count(faults, "fault");
        format!("strand {originator} at {reached} of {head}; {done} of {total}; {faults}")
    });
}

/// Reads the state of an earlier run; `None` before the first.
fn read_state(path: &Path) -> Result<Option<ReplayState>, RunError> {
    let text = match plain_file::read_text(path, STATE_LEN_BYTES_MAX) {
        Err(error) if error.is_absence() => return Ok(None),
        text => text.map_err(|error| keys::unread(path, &error))?,
    };
    let state = ReplayState::parse(&text);
    state.map(Some).map_err(|error| RunError::failed(format!("{}: {error}", path.display())))
}

/// Writes the state to a temporary file and renames it, so that an interruption leaves either the old or the new state.
fn write_state(path: &Path, state: &ReplayState) -> Result<(), RunError> {
    let text = state.to_text().map_err(RunError::failed)?;
    output_file::write(path, text.as_bytes())
}

fn print(report: &ReplayReport, keys: &str, as_json: bool) -> Result<(), RunError> {
    let faults = report.all_faults();
    if as_json {
        let counts = faults.counts().iter().map(|(kind, count)| (kind.name(), *count));
        output::line(json!({
            "verdict": report.verdict(),
            "keys": keys,
            "network": report.network,
            "node_id": report.node_id,
            "faults": counts.collect::<BTreeMap<_, _>>(),
            "first_faults": faults.kept(),
            "strands": report.strands,
            "unchecked": report.unchecked,
            "incomplete": report.incomplete,
        }));
    } else {
        match report.node_id {
            OriginatorId(0) => output::line(&report.network),
            node => output::line(format_args!("node {node} of network {:?}", report.network)),
        }
        report.strands.iter().for_each(print_strand);
        faults.kept().iter().for_each(output::line);
        for (kind, count) in faults.counts() {
            output::line(format_args!("{:<22} {count}", kind.name()));
        }
        for text in &report.unchecked {
            output::line(format_args!("not checked: {text}"));
        }
        for text in &report.incomplete {
            output::line(format_args!("incomplete: {text}"));
        }
        output::line(format_args!("keys: {keys}"));
        output::line(format_args!("verdict: {}", report.verdict()));
    }
    exit_of_log(report.verdict())
}

/// Returns the result of a command whose exit code is this verdict on a log.
pub(super) fn exit_of_log(verdict: &str) -> Result<(), RunError> {
    let code = match verdict {
        "clean" => return Ok(()),
        "claim" => exit_codes::CLAIM,
        "incomplete" => exit_codes::INCOMPLETE,
        _ => exit_codes::FAULTS,
    };
    Err(exit_codes::answer(code, ""))
}

fn print_strand(strand: &ReplayedStrand) {
    let figures = &strand.figures;
    let absent: Vec<String> = figures
        .absent
        .iter()
        .map(|(reason, places)| format!(", {places} {}", reason.name()))
        .collect();
    output::line(format_args!(
        "strand {}: to {}, {} ({} invalid{}), tree of {}, {}, {}",
        strand.originator_id,
        strand.reached,
        output::count(figures.envelopes, "envelope"),
        figures.invalid,
        absent.concat(),
        strand.tree_size,
        output::count(total(&figures.checkpoints), "checkpoint"),
        output::count(total(&figures.cosigners), "cosignature"),
    ));
}

/// Returns the sum of counts by node, which a state file may have with any values.
fn total(counts: &BTreeMap<OriginatorId, u64>) -> u64 {
    counts.values().fold(0, |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_a_state_file_makes_up_end_no_report() {
        let counts = [(OriginatorId(100), u64::MAX), (OriginatorId(200), 1)];
        assert_eq!(total(&BTreeMap::from(counts)), u64::MAX);
    }
}
