//! The checkpoints of a strand's own node that both logs keep of one size.

use std::cmp::Ordering;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use serde::Serialize;

use super::side::{Side, SideError};
use crate::replay::{KEPT_OF_KIND, StrandRows};

/// A size of which the logs keep two roots that the strand's node has signed, as they say. A comparison has no keys, so
/// it verifies neither: a replay of each log does that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherCheckpoint {
    /// Leaves of the tree.
    pub size: u64,
    /// The root in the first log, and the one in the second, hex.
    pub roots: (String, String),
}

/// A checkpoint that both logs keep with one root, and that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedAgain {
    /// Leaves of the tree.
    pub size: u64,
    /// The node that has signed, or cosigned, as the logs say.
    pub signer: OriginatorId,
    /// The part that differs: `time`, `signature`, `cosignature_time` or `cosignature`. Of the parts `signature` and
    /// `cosignature` one statement has two signatures, and at most one of them is the signer's.
    pub what: &'static str,
}

/// The checkpoints that differ.
#[derive(Debug, Default)]
pub(super) struct DifferingCheckpoints {
    /// The first sizes with two roots, and their number.
    pub(super) roots: (Vec<OtherCheckpoint>, u64),
    /// The first ones with one root that differ, and their number.
    pub(super) again: (Vec<SignedAgain>, u64),
    /// The number of those in which one statement has two signatures.
    pub(super) other_signatures: u64,
}

impl DifferingCheckpoints {
    fn add(&mut self, a: &CosignedCheckpoint, b: &CosignedCheckpoint) {
        let (mine, other) = (a.signed.checkpoint, b.signed.checkpoint);
        let size = mine.size;
        if mine.root != other.root {
            self.roots.1 += 1;
            if self.roots.0.len() < KEPT_OF_KIND {
                let roots = (mine.root.to_string(), other.root.to_string());
                self.roots.0.push(OtherCheckpoint { size, roots });
            }
            return;
        }
        let mut note = |signer: OriginatorId, what: &'static str| {
            self.again.1 += 1;
            self.other_signatures += u64::from(matches!(what, "signature" | "cosignature"));
            if self.again.0.len() < KEPT_OF_KIND {
                self.again.0.push(SignedAgain { size, signer, what });
            }
        };
        if mine.time_ns != other.time_ns {
            note(mine.node, "time");
            return; // cosignatures cover the time
        }
        if a.signed.signature != b.signed.signature {
            note(mine.node, "signature");
        }
        for one in &a.cosignatures {
            let Some(two) = b.cosignatures.iter().find(|it| it.cosigner == one.cosigner) else {
                continue;
            };
            if one.time_ns != two.time_ns {
                note(one.cosigner, "cosignature_time");
            } else if one.signature != two.signature {
                note(one.cosigner, "cosignature");
            }
        }
    }
}

/// Returns the pairs of different checkpoints that the logs keep for the same size. A size or a cosignature that only
/// one log has is no difference: nodes do not keep the same ones.
///
/// # Errors
/// When a checkpoint cannot be read.
pub(super) fn differing(
    logs: [&dyn StrandRows; 2],
    node: OriginatorId,
) -> Result<DifferingCheckpoints, SideError> {
    let next = |side: Side, size: u64| -> Result<Option<CosignedCheckpoint>, SideError> {
        let next = logs[side.index()].checkpoint_after(node, size);
        let next = next.map_err(|error| SideError { side, error })?;
        // Without this check, the comparison would never end with a source that goes backwards.
        let is_next = |it: &Checkpoint| it.size > size && (it.node, it.originator) == (node, node);
        Ok(next.filter(|it| is_next(&it.signed.checkpoint)))
    };
    let mut found = DifferingCheckpoints::default();
    let (mut mine, mut other) = (next(Side::First, 0)?, next(Side::Second, 0)?);
    while let (Some(a), Some(b)) = (&mine, &other) {
        let sizes = (a.signed.checkpoint.size, b.signed.checkpoint.size);
        match sizes.0.cmp(&sizes.1) {
            Ordering::Less => mine = next(Side::First, sizes.1 - 1)?,
            Ordering::Greater => other = next(Side::Second, sizes.0 - 1)?,
            Ordering::Equal => {
                found.add(a, b);
                (mine, other) = (next(Side::First, sizes.0)?, next(Side::Second, sizes.1)?);
            }
        }
    }
    Ok(found)
}
