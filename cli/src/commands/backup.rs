//! `hawser backup`: makes, checks, lists and removes backups. See `docs/runbooks/backup.md`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_node::admin::{self, AdminRequest};
use hawser_node::backup;
use hawser_node::backup_notes::{self, MadeNote, VerifiedNote};
use hawser_node::bucket::ObjectsAt;
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::files::key;
use hawser_node::service::projections;
use hawser_node::settings;
use hawser_storage::{BackupError, Backups, ListedBackup, Objects, PruneReport, ReadManifest};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::rebuild;
use crate::args::backup::{
    BackupCommand, BackupCreateArgs, BackupListArgs, BackupPruneArgs, BackupVerifyArgs,
};
use crate::output;

const MIB: u64 = 1 << 20;
/// The exit code of a check of a place that does not answer.
const UNREACHABLE_EXIT_CODE: u8 = 9;

/// Runs the command.
///
/// # Errors
/// When a backup is not made or not whole. Earlier backups are as before.
pub(super) fn run(command: &BackupCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        BackupCommand::Create(args) => create(args, as_json),
        BackupCommand::Verify(args) => verify(args, as_json),
        BackupCommand::List(args) => list(args, as_json),
        BackupCommand::Prune(args) => prune(args, as_json),
    }
}

fn create(args: &BackupCreateArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let to = place_of(&args.to)?;
    let bytes_per_s = u64::from(args.rate) * MIB;
    let request = AdminRequest::Backup { to: to.clone(), bytes_per_s };
    let bar = bar("backup");
    let done = match admin::ask(&data_dir, &request, &mut |bytes| bar.set_position(bytes))? {
        Some(done) => done,
        None => of_stopped(args, &data_dir, &to, &bar)?,
    };
    bar.finish_and_clear();
    if as_json {
        output::line(done);
        return Ok(());
    }
    let number = |name: &str| done.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(format_args!(
        "backup {}: {} files, {}; {} files, {} of them new",
        done.get("backup").and_then(Value::as_str).unwrap_or_default(),
        number("files"),
        size(number("bytes")),
        number("files_copied"),
        size(number("bytes_copied")),
    ));
    Ok(())
}

/// Makes a backup of a folder that no node runs on.
fn of_stopped(
    args: &BackupCreateArgs,
    data_dir: &Path,
    to: &ObjectsAt,
    bar: &ProgressBar,
) -> Result<Value, RunError> {
    let key = match &args.key_file {
        None => None,
        Some(path) => Some(key::read(path).map_err(|error| error.at(path))?),
    };
    if key.is_none() {
        let text = "the backup will not be signed: give the node's key (--key-file) to sign it";
        bar.suspend(|| eprintln!("hawser: {text}"));
    }
    let (store, _) = projections::open_existing(data_dir).map_err(rebuild::refusal)?;
    let report = backup::create(&store, open(to)?, &to.to_string(), key.as_ref(), &mut |bytes| {
        bar.inc(bytes);
        ControlFlow::Continue(())
    });
    report.map(|report| backup::json_of(&report)).map_err(|error| backup::run_error(&error))
}

fn verify(args: &BackupVerifyArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let mut checks = ChecksOfNode::new(&data_dir);
    let place = place_of(&args.from)?;
    let objects = open(&place)?;
    let (shown, root) = (place.to_string(), objects.location(""));
    let checked = verify_all(args, objects, &mut checks, as_json);
    let silence = checked.as_ref().err().filter(|error| error.is_unreachable(&root));
    if checks.made.as_ref().is_some_and(|made| made.to == shown) {
        backup::note_answer(&data_dir, &shown, silence);
    }
    if let Some(error) = silence {
        // The record of the last check stays, because this check has no result.
        let text = "the place does not answer, so nothing is known about its backups";
        let kind = RunErrorKind::Answer(UNREACHABLE_EXIT_CODE);
        return Err(RunError { kind, text: format!("{text}: {error}") });
    }
    match checked {
        // A named backup that does not exist does not count as damaged.
        Err(error @ BackupError::NoBackup { .. }) => Err(backup::run_error(&error)),
        Err(error) => {
            checks.note(&data_dir);
            Err(backup::run_error(&error))
        }
        Ok((damaged, expected)) => {
            checks.note(&data_dir);
            match damaged {
                0 => Ok(()),
                _ => {
                    let text = format!("{damaged} of {expected} backups cannot be restored");
                    Err(RunError::failed(text))
                }
            }
        }
    }
}

/// Reads the backups to check. Returns the number of those that cannot be restored, and the number that should exist.
///
/// # Errors
/// When the place cannot be read, at once; and for the one backup that was named, if it is not whole.
fn verify_all(
    args: &BackupVerifyArgs,
    objects: Arc<dyn Objects>,
    checks: &mut ChecksOfNode,
    as_json: bool,
) -> Result<(usize, usize), BackupError> {
    let root = objects.location("");
    let folder = Backups::existing(objects)?;
    let names = match &args.backup {
        Some(name) => vec![name.clone()],
        None => folder.list()?.into_iter().map(|backup| backup.name).collect(),
    };
    let mut damaged = 0;
    for name in &names {
        let bar = bar("verify");
        let read = folder.verify(name, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        let read = match read {
            Err(error) if error.is_unreachable(&root) => return Err(error),
            read => read,
        };
        let is_own = match &read {
            Ok(read) => checks.is_own(name, Some(read)),
            Err(_) => checks.is_own(name, folder.manifest(name).ok().as_ref()),
        };
        if is_own {
            checks.count(name, read.is_ok());
        }
        match read {
            Ok(read) => show(name, &read, "whole", as_json),
            Err(error) if args.backup.is_some() => return Err(error),
            Err(error) => {
                damaged += 1;
                show_fault(name, &error, as_json);
            }
        }
    }
    let mut expected = names.len();
    if let Some(gone) = checks.gone(args, &names) {
        (damaged, expected) = (damaged + 1, expected + 1);
        checks.count(&gone, false);
        show_fault(&gone, &BackupError::NoBackup { name: gone.clone() }, as_json);
    }
    Ok((damaged, expected))
}

/// The checks of backups of the node whose data folder records the last one.
struct ChecksOfNode {
    /// The last backup that was made of the folder; `None` if the folder records none.
    made: Option<MadeNote>,
    newest: Option<(String, bool)>,
    checked: u64,
    damaged: u64,
}

impl ChecksOfNode {
    /// Begins for a folder, which need not exist: backups may be checked on another machine.
    fn new(data_dir: &Path) -> Self {
        let made = backup_notes::made(data_dir).unwrap_or_else(|error| {
            eprintln!(
                "hawser: the result of the check cannot be recorded in {}: {error}",
                data_dir.display()
            );
            None
        });
        Self { made, newest: None, checked: 0, damaged: 0 }
    }

    /// Returns true if a backup is of the folder's node. A stranger who can write to the place of the backups can name
    /// any node in a manifest, but cannot sign it with the node's key.
    fn is_own(&self, name: &str, read: Option<&ReadManifest>) -> bool {
        let Some(made) = &self.made else { return false };
        let is_of = |read: &ReadManifest| {
            made.is_of(&read.manifest.identity) && (read.is_signed || !made.signed)
        };
        // The manifest of a damaged backup may be unreadable, but the name of the last backup is known.
        made.backup == name || read.is_some_and(is_of)
    }

    /// Returns the name of the last backup that was made of the folder, if all backups of its place were checked and it is
    /// not among them: a stranger who may write there, or a rule of the bucket, has removed it.
    fn gone(&self, args: &BackupVerifyArgs, names: &[String]) -> Option<String> {
        let place = place_of(&args.from).ok()?.to_string();
        let made = self.made.as_ref().filter(|made| made.to == place)?;
        (args.backup.is_none() && !names.contains(&made.backup)).then(|| made.backup.clone())
    }

    /// Counts a check of a backup of this node, older ones first.
    fn count(&mut self, name: &str, is_whole: bool) {
        self.newest = Some((name.to_owned(), is_whole));
        self.checked += 1;
        self.damaged += u64::from(!is_whole);
    }

    /// Records the result in the data folder, if one of the backups was of its node. A failure to record is reported
    /// and does not change the result.
    fn note(self, data_dir: &Path) {
        let Some((backup, whole)) = self.newest else { return };
        let (checked, damaged) = (self.checked, self.damaged);
        let note = VerifiedNote { backup, verified_unix_s: now_unix_s(), whole, checked, damaged };
        if let Err(error) = backup_notes::note_verified(data_dir, &note) {
            eprintln!(
                "hawser: the result of the check cannot be recorded in {}: {error}",
                data_dir.display()
            );
        }
    }
}

fn list(args: &BackupListArgs, as_json: bool) -> Result<(), RunError> {
    for backup in existing(&args.from)?.list().map_err(|error| backup::run_error(&error))? {
        let ListedBackup { name, manifest } = backup;
        match manifest {
            Ok(read) => show(&name, &read, "", as_json),
            Err(error) => show_fault(&name, &error, as_json),
        }
    }
    Ok(())
}

fn prune(args: &BackupPruneArgs, as_json: bool) -> Result<(), RunError> {
    let folder = existing(&args.from)?;
    let pruned = folder.prune(usize::from(args.keep), args.dry_run, now_unix_s());
    let PruneReport { removed, files, bytes } =
        pruned.map_err(|error| backup::run_error(&error))?;
    if as_json {
        let dry_run = args.dry_run;
        output::line(
            json!({ "removed": removed, "files": files, "bytes": bytes, "dry_run": dry_run }),
        );
        return Ok(());
    }
    for name in &removed {
        output::line(name);
    }
    let verb = if args.dry_run { "would go" } else { "removed" };
    output::line(format_args!(
        "{verb}: {}, {}, {}",
        output::count(removed.len(), "backup"),
        output::count(files, "file"),
        size(bytes)
    ));
    Ok(())
}

fn show(name: &str, read: &ReadManifest, verdict: &str, as_json: bool) {
    let ReadManifest { manifest, is_signed } = read;
    let identity = &manifest.identity;
    if as_json {
        let heads: serde_json::Map<_, _> = manifest
            .strands
            .iter()
            .map(|strand| (strand.originator.to_string(), json!(strand.head.0)))
            .collect();
        output::line(json!({
            "backup": name,
            "made_unix_s": manifest.made_unix_s,
            "network": identity.network,
            "node_id": identity.node.0,
            "signer": identity.public_key.address().to_string(),
            "signed": is_signed,
            "bytes": manifest.len_bytes(),
            "files": manifest.files.len(),
            "heads": heads,
            "whole": (!verdict.is_empty()).then_some(true),
        }));
        return;
    }
    let made_ns = i64::try_from(manifest.made_unix_s).unwrap_or(i64::MAX);
    let time = output::time(made_ns.saturating_mul(1_000_000_000));
    let own = manifest.strands.iter().find(|strand| strand.originator == identity.node);
    let head = own.map_or(0, |strand| strand.head.0);
    let signed = if *is_signed { "signed" } else { "not signed" };
    output::line(format_args!(
        "{name}  {}  node {} of network {:?} up to {head}  {}  {signed}{}{verdict}",
        time.get(..19).unwrap_or(&time),
        identity.node,
        identity.network,
        size(manifest.len_bytes()),
        if verdict.is_empty() { "" } else { ", " },
    ));
}

fn show_fault(name: &str, error: &hawser_storage::BackupError, as_json: bool) {
    if as_json {
        output::line(json!({ "backup": name, "whole": false, "error": error.to_string() }));
    } else {
        output::line(format_args!("{name}  {error}"));
    }
}

/// Names a place that has backups.
///
/// # Errors
/// When it has none.
pub(super) fn existing(path: &Path) -> Result<Backups, RunError> {
    Backups::existing(open(&place_of(path)?)?).map_err(|error| backup::run_error(&error))
}

/// Reads the name of a folder or of a bucket, whose keys are in the environment.
///
/// # Errors
/// When it is neither, or the variables of a bucket do not fit.
pub(crate) fn place_of(given: &Path) -> Result<ObjectsAt, RunError> {
    ObjectsAt::new(given, &|name| std::env::var(name).ok())
}

/// Opens a place. The command ends with its process, so no work has to be stopped.
///
/// # Errors
/// When the settings of a bucket do not fit.
pub(crate) fn open(place: &ObjectsAt) -> Result<Arc<dyn Objects>, RunError> {
    place.open(Arc::new(|| false))
}

/// Returns the time, unix seconds.
pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns a bar that counts bytes, on the error output if that is a terminal.
pub(super) fn bar(word: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {spinner} {bytes} {bytes_per_sec}")
        .expect("the template is well-formed");
    ProgressBar::new_spinner().with_style(style).with_prefix(word)
}

/// Writes a number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
