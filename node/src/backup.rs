//! Backups and scrubs of a node's database, by the running node or by a command on a stopped node's folder.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::price;
use hawser_engine::runtime::{ScrubDone, ScrubMode, UnrepairedDamage};
use hawser_proto::SecretKey;
use hawser_storage::{
    BackupError, BackupReport, Backups, BootstrapError, BootstrapReport, Damage, NewBackup,
    Objects, Pace, RestoreReport, ScrubReport, Store, WantedBackup,
};
use serde_json::{Value, json};

use crate::backup_notes::{self, MadeNote};
use crate::clock::now_unix_s;
use crate::error::RunError;

/// The longest single pause, so that a stop is noticed. A guess.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A limiter of the read rate.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_s: u64,
    begun: Instant,
    bytes: u64,
}

impl Throttle {
    /// Creates a limiter of `bytes_per_s` bytes per second; 0 for no limit.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, begun: Instant::now(), bytes: 0 }
    }

    /// Waits until `bytes` more may be read. Calls `stop` several times a second meanwhile, and breaks once it returns
    /// true.
    pub fn wait(&mut self, bytes: u64, stop: &mut dyn FnMut() -> bool) -> ControlFlow<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        loop {
            if stop() {
                return ControlFlow::Break(());
            }
            if self.bytes_per_s == 0 {
                return ControlFlow::Continue(());
            }
            // The computation has two steps, so that neither a low rate nor a long run loses precision.
            let (whole, rest) = (self.bytes / self.bytes_per_s, self.bytes % self.bytes_per_s);
            let nanos = u128::from(rest) * 1_000_000_000 / u128::from(self.bytes_per_s);
            let due = Duration::from_secs(whole)
                + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let left = due.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(left.min(PAUSE_MAX));
        }
    }
}

/// Makes a backup of an open database now, and records it in the data folder. `shown` is the
/// displayed name of the destination `to`.
///
/// # Errors
/// The errors of [`Store::backup`]. A failure to write the record is not an error, because the backup is complete.
pub fn create(
    store: &Store,
    to: Arc<dyn Objects>,
    shown: &str,
    key: Option<&SecretKey>,
    pace: &mut Pace<'_>,
) -> Result<BackupReport, BackupError> {
    let made_unix_s = now_unix_s();
    let begun = Instant::now();
    let place = to.location("");
    let made = store.backup(&NewBackup { to, key, now_unix_s: made_unix_s }, pace);
    if let Some(data_dir) = store.path() {
        note_answer(data_dir, shown, made.as_ref().err().filter(|it| it.is_unreachable(&place)));
    }
    let report = made?;
    let identity = store.identity();
    let note = MadeNote {
        backup: report.name.clone(),
        to: shown.to_owned(),
        network: identity.network.clone(),
        node_id: identity.node,
        signer: identity.public_key.address().to_string(),
        made_unix_s,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        bytes: report.bytes,
        bytes_new: report.bytes_copied,
        signed: key.is_some(),
    };
    if let Some(Err(error)) = store.path().map(|data_dir| backup_notes::note_made(data_dir, &note))
    {
        tracing::warn!(%error, "the backup is made, but cannot be recorded in the data folder");
    }
    Ok(report)
}

/// Records in the data folder whether a backup destination answered; `silence` is the error if it did not. A
/// failure to write the record is logged.
pub fn note_answer(data_dir: &Path, place: &str, silence: Option<&BackupError>) {
    let noted = match silence {
        None => backup_notes::note_reached(data_dir, place, now_unix_s()),
        Some(error) => {
            let note =
                backup_notes::note_unreachable(data_dir, place, &error.to_string(), now_unix_s());
            note.map(|note| {
                let (attempts, since_unix_s) = (note.attempts, note.since_unix_s);
                tracing::warn!(
                    code = "backup_place_unreachable",
                    place,
                    %error,
                    attempts,
                    since_unix_s,
                    "the place of the backups does not answer: nothing is known about them"
                );
            })
        }
    };
    if let Err(error) = noted {
        tracing::warn!(%error, "it cannot be noted in the data folder whether the place of the backups answers");
    }
}

/// Makes a data folder from a backup, as [`Backups::restore`] does.
///
/// # Errors
/// The errors of [`Backups::restore`].
pub fn restore(
    from: &Backups,
    name: &str,
    wanted: &WantedBackup,
    target: &Path,
    pace: &mut Pace<'_>,
) -> Result<RestoreReport, BackupError> {
    from.restore(name, wanted, target, price::price, pace)
}

/// Makes a snapshot of the log for new nodes now.
///
/// # Errors
/// The errors of [`Store::create_bootstrap`].
pub fn create_bootstrap(
    store: &Store,
    to: Arc<dyn Objects>,
    pace: &mut Pace<'_>,
) -> Result<BootstrapReport, BootstrapError> {
    store.create_bootstrap(to, now_unix_s(), pace)
}

/// Returns the outcome of making a snapshot as JSON.
#[must_use]
pub fn json_of_bootstrap(report: &BootstrapReport) -> Value {
    let strands = report.manifest.strands.iter();
    let heads: serde_json::Map<_, _> =
        strands.clone().map(|it| (it.originator.to_string(), json!(it.head.0))).collect();
    json!({
        "snapshot": report.name,
        "chunks": strands.map(|strand| strand.chunks.len()).sum::<usize>(),
        "bytes": report.manifest.len_bytes(),
        "chunks_new": report.chunks_new,
        "bytes_new": report.bytes_new,
        "heads": heads,
    })
}

/// Returns the outcome of a backup as JSON.
#[must_use]
pub fn json_of(report: &BackupReport) -> Value {
    let heads: serde_json::Map<_, _> = report
        .strands
        .iter()
        .map(|strand| (strand.originator.to_string(), json!(strand.head.0)))
        .collect();
    json!({
        "backup": report.name,
        "files": report.files,
        "bytes": report.bytes,
        "files_copied": report.files_copied,
        "bytes_copied": report.bytes_copied,
        "heads": heads,
    })
}

/// Returns the outcome of a scrub as JSON.
#[must_use]
pub fn json_of_scrub(report: &ScrubReport) -> Value {
    let ScrubReport { rows, bytes, damages, further } = report;
    let damages: Vec<Value> = damages.iter().map(json_of_damage).collect();
    let whole = damages.is_empty();
    json!({ "whole": whole, "rows": rows, "bytes": bytes, "damages": damages, "further": further })
}

fn json_of_damage(damage: &Damage) -> Value {
    let Damage { family, first, last, file, cause } = damage;
    json!({
        "family": family,
        "originator": first.or(*last).map(|it| it.originator.0),
        "first": first.map(|it| it.sequence.0),
        "last": last.map(|it| it.sequence.0),
        "file": file,
        "cause": cause,
    })
}

/// Returns the outcome of a running node's scrub as JSON, including repairs. `whole` is true if
/// the database is undamaged now.
#[must_use]
pub(crate) fn json_of_scrub_done(done: &ScrubDone, mode: ScrubMode) -> Value {
    let mut json = json_of_scrub(&done.report);
    if mode == ScrubMode::Repair {
        let left = |it: &UnrepairedDamage| {
            let mut left = json_of_damage(&it.damage);
            left["reason"] = json!(it.reason);
            left
        };
        json["repaired"] = json!(done.repaired);
        json["left"] = done.left.iter().map(left).collect();
        json["whole"] = json!(done.left.is_empty() && done.report.further == 0);
    }
    json
}

/// Converts an error of backup work.
#[must_use]
pub fn run_error(error: &BackupError) -> RunError {
    use BackupError::{
        Busy, InMemory, Inside, MountPoint, NoBackup, NoDiskRoom, NoRoom, NotBackups, OtherKey,
        OtherNetwork, OtherNode, Restoring, Stopped, TargetInUse, Unsigned,
    };
    match error {
        NoBackup { .. } | NotBackups { .. } => RunError::not_found(error),
        Busy { .. }
        | InMemory
        | Inside { .. }
        | MountPoint { .. }
        | NoDiskRoom { .. }
        | NoRoom { .. }
        | OtherKey { .. }
        | OtherNetwork { .. }
        | OtherNode { .. }
        | Restoring { .. }
        | Stopped
        | TargetInUse { .. }
        | Unsigned => RunError::refused(error),
        _ => RunError::failed(error),
    }
}
