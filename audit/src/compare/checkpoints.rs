//! The checkpoints of a strand's own node that both logs keep of one size.

use std::cmp::Ordering;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::Checkpoint;
use serde::Serialize;

use crate::replay::{SourceError, StrandRows};

/// A size of which the logs keep two roots that the strand's node has signed, as they say. A comparison has no keys, so
/// it verifies neither: a replay of each log does that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherCheckpoint {
    /// Leaves of the tree.
    pub size: u64,
    /// The root in the first log, and the one in the second, hex.
    pub roots: (String, String),
}

/// The error of one of the logs, with its index.
type LogError = (usize, SourceError);

/// Returns the first `kept` sizes of which the checkpoints in both logs have different roots, and the number of all.
/// Sizes that one log alone has are no difference: nodes do not keep the same ones.
///
/// # Errors
/// When a checkpoint cannot be read.
pub(super) fn differing(
    logs: [&dyn StrandRows; 2],
    node: OriginatorId,
    kept: usize,
) -> Result<(Vec<OtherCheckpoint>, u64), LogError> {
    let next = |log: usize, size: u64| -> Result<Option<Checkpoint>, LogError> {
        let next = logs[log].checkpoint_after(node, size).map_err(|error| (log, error))?;
        // Without this check, the comparison would never end with a source that goes backwards.
        let is_next = |it: &Checkpoint| it.size > size && (it.node, it.originator) == (node, node);
        Ok(next.map(|it| it.signed.checkpoint).filter(is_next))
    };
    let (mut first, mut count) = (Vec::new(), 0);
    let (mut mine, mut other) = (next(0, 0)?, next(1, 0)?);
    while let (Some(a), Some(b)) = (mine, other) {
        match a.size.cmp(&b.size) {
            Ordering::Less => mine = next(0, b.size - 1)?,
            Ordering::Greater => other = next(1, a.size - 1)?,
            Ordering::Equal => {
                if a.root != b.root {
                    count += 1;
                    if first.len() < kept {
                        let roots = (a.root.to_string(), b.root.to_string());
                        first.push(OtherCheckpoint { size: a.size, roots });
                    }
                }
                (mine, other) = (next(0, a.size)?, next(1, b.size)?);
            }
        }
    }
    Ok((first, count))
}
