//! Pruning at an operator's request, by a running node or on a stopped node's folder.

use std::ops::ControlFlow;

use hawser_engine::Engine;
use hawser_engine::runtime::{PruneReport, PruneRun, ShortTurns};
use hawser_rules::retention::unix_s;
use hawser_storage::Store;
use serde_json::{Value, json};

use crate::clock::now_unix_s;
use crate::error::RunError;

/// Receives the bytes removed since the last call, and returns whether the work continues.
type PruneProgress<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Removes all expired data from the database of a running node, without the bound of a regular
/// run, at the pace of [`ShortTurns`].
///
/// # Errors
/// Fails when this node's clock is wrong, or the disk fails.
pub(crate) fn of_engine(
    engine: &Engine,
    dry_run: bool,
    moved: &mut PruneProgress<'_>,
) -> Result<Value, RunError> {
    engine.check_clock().map_err(RunError::refused)?;
    let own_unix_s = unix_s(engine.ports().clock.now_ns());
    let run = PruneRun { own_unix_s, places_max: u64::MAX, dry_run };
    let before = engine.store().disk_bytes();
    let report = prune(engine.store(), run, Some(ShortTurns::begin(engine.store())), moved)?;
    engine.note_pruned(&report);
    let disk = DiskUse { before, after: engine.store().disk_bytes(), is_compacted: false };
    Ok(json_of(&report, disk))
}

/// Removes all expired data from the folder of a stopped node, and compacts its files: also those with data that the
/// node removed while it ran.
///
/// # Errors
/// Fails when the disk fails.
pub fn of_stopped(
    store: &Store,
    dry_run: bool,
    moved: &mut PruneProgress<'_>,
) -> Result<Value, RunError> {
    let run = PruneRun { own_unix_s: now_unix_s(), places_max: u64::MAX, dry_run };
    let before = store.disk_bytes();
    let report = prune(store, run, None, moved)?;
    if !dry_run {
        store.compact_pruned().map_err(RunError::failed)?;
        store.flush().map_err(RunError::failed)?;
    }
    let disk = DiskUse { before, after: store.disk_bytes(), is_compacted: !dry_run };
    Ok(json_of(&report, disk))
}

/// Bytes that a database takes on the disk, before and after a run.
struct DiskUse {
    before: u64,
    after: u64,
    /// True if its files were compacted before they were measured again.
    is_compacted: bool,
}

/// Makes one run over all strands. With `turns` it pauses between writes, for the callers of a running node.
fn prune(
    store: &Store,
    run: PruneRun,
    mut turns: Option<ShortTurns>,
    moved: &mut PruneProgress<'_>,
) -> Result<PruneReport, RunError> {
    if !store.stale_projections().is_empty() {
        return Err(RunError::refused(
            "the projections have to be rebuilt before envelopes are pruned: run hawser \
            rebuild first",
        ));
    }
    let mut reported_bytes = 0;
    let done = run.run(store, &mut |report| {
        if let Some(turns) = &mut turns {
            turns.pause(store);
        }
        let bytes = report.strands.values().map(|it| it.bytes).sum::<u64>();
        moved(bytes - std::mem::replace(&mut reported_bytes, bytes))
    });
    let report = done.map_err(RunError::failed)?;
    match report.is_partial {
        true => {
            Err(RunError::failed("pruning was stopped before it was done: the next run continues"))
        }
        false => Ok(report),
    }
}

fn json_of(report: &PruneReport, disk: DiskUse) -> Value {
    let strands = report.strands.iter().map(|(originator, strand)| {
        let stays: serde_json::Map<String, Value> =
            strand.stays.iter().map(|(why, count)| (why.name().to_owned(), json!(count))).collect();
        let mut of_strand = json!({
            "originator": originator.0,
            "pruned": strand.pruned,
            "bytes": strand.bytes,
            "first": strand.places.map(|it| it.0.0),
            "last": strand.places.map(|it| it.1.0),
            "stays": stays,
        });
        if report.dry_run {
            of_strand["not_expired"] = json!(strand.not_expired);
        }
        of_strand
    });
    json!({
        "dry_run": report.dry_run,
        "compared_with_unix_s": report.now_unix_s,
        "pruned": report.pruned(),
        "disk_bytes_before": disk.before,
        "disk_bytes": disk.after,
        "compacted": disk.is_compacted,
        "strands": strands.collect::<Vec<_>>(),
    })
}
