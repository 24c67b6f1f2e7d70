//! `hawser backup`: makes, checks, lists and removes backups. See `docs/runbooks/backup.md`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hawser_node::admin::{self, AdminRequest};
use hawser_node::backup;
use hawser_node::bucket::ObjectsAt;
use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_node::service::projections;
use hawser_node::settings;
use hawser_proto::SecretKey;
use hawser_storage::{BackupPruneReport, Backups, Objects, ReadManifest};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::rebuild;
use crate::args::backup::{BackupCreateArgs, BackupListArgs, BackupPruneArgs};
use crate::clock::now_unix_s;
use crate::output;

const MIB: u64 = 1 << 20;

/// Runs `create`.
///
/// # Errors
/// When the backup is not made. Earlier backups are as before.
pub(super) fn create(args: &BackupCreateArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let to = place_of(&args.to)?;
    let bytes_per_s = u64::from(args.rate) * MIB;
    let request = AdminRequest::Backup { to: to.clone(), bytes_per_s };
    let done = node_or("backup", &data_dir, &request, |bar| of_stopped(args, &data_dir, &to, bar))?;
    if as_json {
        output::line(done);
        return Ok(());
    }
    let number = |name: &str| done.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(format_args!(
        "backup {}: {}, {}; {}, {} of them new",
        done.get("backup").and_then(Value::as_str).unwrap_or_default(),
        output::count(number("files"), "file"),
        output::size(number("bytes")),
        output::count(number("files_copied"), "file"),
        output::size(number("bytes_copied")),
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
    let (store, identity) = projections::open_existing(data_dir).map_err(rebuild::refusal)?;
    if let Some(other) = key.as_ref().map(SecretKey::public_key)
        && other != identity.public_key
    {
        return Err(RunError::refused(format!(
            "--key-file has the key of {}, and the folder is that of node {} with the key of {}: give the key of this node",
            other.address(),
            identity.node,
            identity.public_key.address()
        )));
    }
    let mut is_warned = key.is_some();
    let report = backup::create(&store, open(to)?, &to.to_string(), key.as_ref(), &mut |bytes| {
        // Not earlier: a warning that is followed by a refusal hides the reason.
        if !std::mem::replace(&mut is_warned, true) {
            let text = "the backup will not be signed: give the node's key (--key-file) to sign it";
            bar.suspend(|| output::note(format_args!("hawser: {text}")));
        }
        bar.inc(bytes);
        ControlFlow::Continue(())
    });
    report.map(|report| backup::json_of(&report)).map_err(|error| backup::run_error(&error))
}

/// Runs `list`.
///
/// # Errors
/// When the place cannot be read.
pub(super) fn list(args: &BackupListArgs, as_json: bool) -> Result<(), RunError> {
    let folder = existing(&args.from)?;
    for name in folder.names().map_err(|error| backup::run_error(&error))? {
        match folder.manifest(&name) {
            Ok(read) => show(&name, &read, None, as_json),
            Err(error) => show_fault(&name, &error, as_json),
        }
    }
    Ok(())
}

/// Runs `prune`.
///
/// # Errors
/// When the place cannot be read, or a file cannot be removed.
pub(super) fn prune(args: &BackupPruneArgs, as_json: bool) -> Result<(), RunError> {
    let folder = existing(&args.from)?;
    let keep = usize::from(args.keep);
    let pruned = match args.dry_run {
        true => folder.prunable(keep, now_unix_s()),
        false => folder.prune(keep, now_unix_s()),
    };
    let BackupPruneReport { removed, files, bytes } =
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
        output::size(bytes)
    ));
    Ok(())
}

/// The outcome of a check of one backup.
pub(super) struct CheckedBackup {
    /// True if the backup must not be restored, although its files are as they were written.
    pub(super) is_fault: bool,
    /// The signatures, for programs.
    pub(super) signatures: Value,
    /// The signatures, for people. The first line continues that of the backup.
    pub(super) lines: Vec<String>,
}

/// Prints a backup, with the outcome of its check if it was checked.
pub(super) fn show(name: &str, read: &ReadManifest, found: Option<&CheckedBackup>, as_json: bool) {
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
            "whole": found.map(|found| !found.is_fault),
            "signatures": found.map(|found| &found.signatures),
        }));
        return;
    }
    let made_ns = i64::try_from(manifest.made_unix_s).unwrap_or(i64::MAX);
    let time = output::time(made_ns.saturating_mul(1_000_000_000));
    let own = manifest.strands.iter().find(|strand| strand.originator == identity.node);
    let head = own.map_or(0, |strand| strand.head.0);
    let signed = if *is_signed { "signed" } else { "not signed" };
    let (first, rest) = found.and_then(|found| found.lines.split_first()).unzip();
    let verdict = match found.zip(first) {
        None => String::new(),
        Some((found, first)) if found.is_fault => format!(", files as written, but {first}"),
        Some((_, first)) => format!(", whole, {first}"),
    };
    output::line(format_args!(
        "{name}  {}  node {} of network {:?} up to {head}  {}  {signed}{verdict}",
        time.get(..19).unwrap_or(&time),
        identity.node,
        identity.network,
        output::size(manifest.len_bytes()),
    ));
    rest.unwrap_or_default().iter().for_each(output::line);
}

/// Prints a backup that cannot be used, with the reason.
pub(super) fn show_fault(name: &str, error: &hawser_storage::BackupError, as_json: bool) {
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

/// Returns a bar that counts bytes, on the error output if that is a terminal.
pub(super) fn bar(word: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {spinner} {bytes} {bytes_per_sec}")
        .expect("the template is well-formed");
    ProgressBar::new_spinner().with_style(style).with_prefix(word)
}

/// Has the node on a data folder carry out a request, or `stopped` if no node runs there. Shows the bytes meanwhile.
///
/// # Errors
/// The errors of the node, and of `stopped`.
pub(super) fn node_or(
    word: &'static str,
    data_dir: &Path,
    request: &AdminRequest,
    stopped: impl FnOnce(&ProgressBar) -> Result<Value, RunError>,
) -> Result<Value, RunError> {
    let bar = bar(word);
    let done = match admin::ask(data_dir, request, &mut |bytes| bar.set_position(bytes))? {
        Some(done) => done,
        None => stopped(&bar)?,
    };
    bar.finish_and_clear();
    Ok(done)
}
