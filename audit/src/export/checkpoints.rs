//! Checkpoints beside an exported strand: all of a folder's, or the newest ones that a node shows, after those of
//! earlier runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{Bytes, OriginatorId};
use hawser_rules::Registry;
use hawser_rules::misbehavior::TIME_LEAD_NS_MAX;
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader as _;

use super::error::ExportError;
use super::part::FileDigest;
use super::read::{TableReader, column, guarded, open_table_verified, values};
use super::table::{CHECKPOINTS, Value};
use crate::replay::{SourceError, StrandRows};

/// Calls `each` with the checkpoints of all nodes that a folder has of a strand, by time.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn by_time(
    beside: &dyn StrandRows,
    mut each: impl FnMut(&CosignedCheckpoint),
) -> Result<(), SourceError> {
    let mut next = BTreeMap::new();
    for node in beside.checkpoint_nodes()? {
        next.extend(beside.checkpoint_after(node, 0)?.map(|first| (node, first)));
    }
    let time = |(_, it): &(&OriginatorId, &CosignedCheckpoint)| it.signed.checkpoint.time_ns;
    while let Some((&node, _)) = next.iter().min_by_key(time) {
        let checkpoint = next.remove(&node).expect("it is the earliest one");
        let size = checkpoint.signed.checkpoint.size;
        next.extend(beside.checkpoint_after(node, size)?.map(|later| (node, later)));
        each(&checkpoint);
    }
    Ok(())
}

/// Calls `each` with the checkpoints in the files of earlier runs, in their order, and then with the newest ones that a
/// source shows, by time. Leaves out checkpoints that no node of the registry has signed, and those dated after
/// `now_ns`, and adds a sentence for people to `notes` for each. A checkpoint that an earlier run has exported gets the
/// further cosignatures that the source shows, and loses none.
///
/// # Errors
/// When a file has other bytes than are listed, or the source gives no answer.
pub(super) fn with_newest(
    files: Vec<(PathBuf, FileDigest)>,
    beside: &dyn StrandRows,
    (registry, now_ns): (&Registry, i64),
    notes: &mut Vec<String>,
    mut each: impl FnMut(&CosignedCheckpoint),
) -> Result<(), ExportError> {
    let mut shown = Vec::new();
    for node in beside.checkpoint_nodes()? {
        let Some(mut checkpoint) = beside.checkpoint_after(node, 0)? else { continue };
        match authenticate(&mut checkpoint, registry, now_ns) {
            Ok(()) => shown.push(checkpoint),
            Err(text) => {
                let strand = checkpoint.signed.checkpoint.originator;
                notes.push(format!("a checkpoint of strand {strand} by node {node}: {text}"));
            }
        }
    }
    shown.sort_by_key(|it| it.signed.checkpoint.time_ns);
    for (path, listed) in files {
        let reader = open_table_verified(&path, &listed, &CHECKPOINTS)?;
        for group in 0..reader.num_row_groups() {
            let read = guarded(|| read_group(&reader, group));
            for mut held in read.map_err(|text| ExportError::malformed(&path, text))? {
                if let Some(at) = shown.iter().position(|it| it.signed == held.signed) {
                    add_missing(&mut held, shown.remove(at));
                }
                each(&held);
            }
        }
    }
    shown.iter().for_each(each);
    Ok(())
}

/// Adds the cosignatures of `shown`, which is authentic, that `held` does not have yet. Keeps the witnesses of `held`:
/// the source may show worthless ones in their place, because the keys of witnesses are unknown.
fn add_missing(held: &mut CosignedCheckpoint, shown: CosignedCheckpoint) {
    for cosignature in shown.cosignatures {
        held.add_cosignature(cosignature);
    }
    for witness in shown.witnesses {
        if held.witnesses.iter().all(|it| it.signer() != witness.signer()) {
            held.add_witness(witness);
        }
    }
}

/// Checks the signatures by the keys of a registry, and the time by a clock. Removes cosignatures of nodes that the
/// registry does not name: a source could make up so many that there is no room for true ones.
fn authenticate(
    checkpoint: &mut CosignedCheckpoint,
    registry: &Registry,
    now_ns: i64,
) -> Result<(), String> {
    let of = checkpoint.signed.checkpoint;
    // Otherwise all later rows would go into the file of its day in the future.
    let latest_ns = u64::try_from(now_ns.saturating_add(TIME_LEAD_NS_MAX)).unwrap_or_default();
    if of.time_ns > latest_ns {
        return Err("it is not exported: its time is more than five minutes ahead".to_owned());
    }
    let record = registry.node(of.node).ok_or("the registry does not name the node")?;
    let wrong = |error: &dyn std::fmt::Display| format!("it is not exported: {error}");
    checkpoint.signed.verify(&record.public_key).map_err(|error| wrong(&error))?;
    checkpoint.cosignatures.retain(|it| registry.node(it.cosigner).is_some());
    for cosignature in &checkpoint.cosignatures {
        if let Some(record) = registry.node(cosignature.cosigner) {
            cosignature.verify(&of, &record.public_key).map_err(|error| {
                let cosigner = cosignature.cosigner;
                wrong(&format!("the cosignature of node {cosigner} is not its own: {error}"))
            })?;
        }
    }
    Ok(())
}

/// Returns the row of a checkpoint.
pub(super) fn row(
    originator: OriginatorId,
    minute: u32,
    checkpoint: &CosignedCheckpoint,
) -> Vec<Value> {
    let of = &checkpoint.signed.checkpoint;
    vec![
        Value::int(u64::from(originator.0)),
        Value::int(u64::from(minute)),
        Value::int(u64::from(of.node.0)),
        Value::int(of.size),
        Value::Amount(of.time_ns),
        Value::Bytes(Bytes::copy_from_slice(&of.root.0)),
        Value::int(checkpoint.cosignatures.len() as u64),
        Value::int(checkpoint.witnesses.len() as u64),
        Value::Bytes(Bytes::from(checkpoint.encode())),
    ]
}

/// Reads the checkpoints of a row group.
fn read_group(reader: &TableReader, at: usize) -> Result<Vec<CosignedCheckpoint>, ParquetError> {
    let group = reader.get_row_group(at)?;
    let fail = |text: String| ParquetError::General(text);
    let rows = usize::try_from(group.metadata().num_rows()).map_err(|it| fail(it.to_string()))?;
    let pages = column(&*group, &CHECKPOINTS, "checkpoint", false)?;
    let checkpoints = values::<ByteArrayType>(pages, rows, true)?;
    let decode = |bytes: Option<parquet::data_type::ByteArray>| {
        let bytes = bytes.ok_or_else(|| fail("a row without a checkpoint".to_owned()))?;
        CosignedCheckpoint::decode(bytes.data()).map_err(|error| fail(error.to_string()))
    };
    checkpoints.into_iter().map(decode).collect()
}
