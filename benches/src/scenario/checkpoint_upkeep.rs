//! The cost of trees and checkpoints, beside that of a published envelope: each envelope's leaf is written with it, so
//! there is no node without them. The cost of the rows is the difference between writes with a tree and writes to a
//! strand whose tree waits behind a missing place.

use std::hint::black_box;
use std::path::Path;

use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::envelope_leaf;
use hawser_storage::{Change, LogEntry, SkipReason, Store};

use crate::error::BenchError;
use crate::micro::{NODE, key};
use crate::network::Network;
use crate::process;
use crate::scenario::accounting::{Plan, entries, new_store, write_groups};
use crate::scenario::publish;
use crate::stats::{self, verdict};

/// Promised share of a published envelope's cost.
const SHARE_MAX: f64 = 0.03;
/// Checkpoints in a second: a node looks twice in a second whether its strand has grown.
const PER_SECOND: f64 = 2.0;
/// Checkpoints that are signed to measure one.
const CHECKPOINTS: u64 = 2_000;

/// Prints a line for each part, and the verdict.
pub(crate) async fn run(plan: &Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    let node = network.start(0).await?;
    let published = publish::run(&plan.publish, &node, &[]).await?;
    node.stop();
    let (whole, per_second) =
        (published.node_cpu_us.unwrap_or(f64::NAN), published.envelopes_per_second);
    println!(
        "published: {per_second:.0} envelopes/s, {} in a request, {whole:.1} us CPU of the node each",
        plan.publish.per_request
    );

    // One more than is measured: the first place has no envelope in a strand whose tree waits.
    let mut all = entries(&plan.publish, plan.envelopes + 1)?;
    let first = all.remove(0);
    let (mut grown, mut behind, mut signing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (us, signed) = write(data_dir, plan, Change::Append(first.clone()), &all)?;
        grown.push(us);
        signing.push(signed);
        let missing = Change::Skip {
            originator: NODE,
            from: first.id.sequence,
            through: first.id.sequence,
            reason: SkipReason::Missing,
        };
        behind.push(write(data_dir, plan, missing, &all)?.0);
    }
    let (grown, behind, signed) =
        (stats::median(&grown), stats::median(&behind), stats::median(&signing));
    let hashed = hashing(&all)?;
    println!(
        "written with its tree: {grown:.2} us CPU each, without {behind:.2}; its leaf is hashed in {hashed:.2} us"
    );
    let of_checkpoints = PER_SECOND * signed / per_second;
    println!(
        "a checkpoint: {signed:.0} us CPU, {PER_SECOND:.0} in a second, so {of_checkpoints:.3} us for each envelope"
    );
    let share = (grown - behind + hashed + of_checkpoints) / whole;
    let (promised, kept) = (100.0 * SHARE_MAX, verdict(share < SHARE_MAX));
    println!("promised: below {promised:.0} % of the node's time: {kept}, {:.1} %", 100.0 * share);
    Ok(())
}

/// Writes all of them behind `first` into a new database. Returns the CPU time of each in microseconds, flushes and
/// compactions beside it included, and that of a checkpoint; this is 0 if the strand's tree waits.
fn write(
    data_dir: &Path,
    plan: &Plan,
    first: Change,
    entries: &[LogEntry],
) -> Result<(f64, f64), BenchError> {
    let folder = tempfile::tempdir_in(data_dir)?;
    let store = new_store(folder.path())?;
    let has_tree = matches!(first, Change::Append(_));
    store.commit(&[first])?;
    let groups: Vec<Vec<Change>> = entries
        .chunks(plan.group()?)
        .map(|part| part.iter().cloned().map(Change::Append).collect())
        .collect();
    let cpu = write_groups(&store, &groups)?;
    let size = store.tree_edge(NODE)?.size();
    let expected = if has_tree { entries.len() as u64 + 1 } else { 0 };
    if size != expected {
        return Err(format!("the tree has {size} leaves instead of {expected}").into());
    }
    let each = cpu.as_secs_f64() * 1e6 / stats::float(entries.len().max(1) as u64);
    Ok((each, if has_tree { sign_checkpoints(&store, size)? } else { 0.0 }))
}

/// Signs and stores checkpoints of the last sizes of a strand's tree, as its node does while the strand grows. Returns
/// the CPU time of each in microseconds.
fn sign_checkpoints(store: &Store, size: u64) -> Result<f64, BenchError> {
    let key = key()?;
    let first = size.saturating_sub(CHECKPOINTS).max(2);
    let before = process::cpu_time(std::process::id())?;
    for size in first..=size {
        let snapshot = store.snapshot();
        black_box(snapshot.checkpoint(NODE, NODE, u64::MAX)?);
        // The tree has to begin with the last signed one.
        black_box(snapshot.root(NODE, size - 1)?);
        let root = snapshot.root(NODE, size)?;
        let checkpoint = Checkpoint { node: NODE, originator: NODE, size, root, time_ns: size };
        store.put_checkpoint(&checkpoint.sign(&key).into())?;
    }
    let cpu = process::cpu_time(std::process::id())?.saturating_sub(before);
    Ok(cpu.as_secs_f64() * 1e6 / stats::float((size + 1).saturating_sub(first).max(1)))
}

/// Returns the CPU time in which the leaf of an envelope is hashed, in microseconds.
fn hashing(entries: &[LogEntry]) -> Result<f64, BenchError> {
    let before = process::thread_cpu_time()?;
    for entry in entries {
        black_box(envelope_leaf(&entry.bytes));
    }
    let cpu = process::thread_cpu_time()?.saturating_sub(before);
    Ok(cpu.as_secs_f64() * 1e6 / stats::float(entries.len().max(1) as u64))
}
