//! The checkpoints of a copy, by the keys of the registry.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_rules::Registry;
use hawser_storage::{BootstrapManifest, BootstrapStrand, Store};

use super::error::BootstrapFetchError;
use super::report::FetchedStrand;

/// The checkpoints of all strands that the registry's keys have signed.
#[derive(Debug)]
pub(super) struct Evidence(BTreeMap<OriginatorId, Vec<CosignedCheckpoint>>);

impl Evidence {
    /// Checks the signatures. Checkpoints and cosignatures of nodes that the registry does not know say nothing.
    ///
    /// # Errors
    /// When a node of the registry has not signed what bears its name, or has signed more than the copy holds.
    pub(super) fn of(
        manifest: &BootstrapManifest,
        registry: &Registry,
    ) -> Result<Self, BootstrapFetchError> {
        let mut evidence = BTreeMap::new();
        for strand in &manifest.strands {
            let mut held = Vec::new();
            for checkpoint in &strand.checkpoints {
                held.extend(check(checkpoint, strand, registry)?);
            }
            // The largest tree last.
            held.sort_by_key(|it: &CosignedCheckpoint| it.signed.checkpoint.size);
            evidence.insert(strand.originator, held);
        }
        Ok(Self(evidence))
    }

    /// Returns the checkpoints of a strand that hold, the largest last.
    pub(super) fn of_strand(&self, originator: OriginatorId) -> &[CosignedCheckpoint] {
        self.0.get(&originator).map_or(&[][..], Vec::as_slice)
    }

    /// Compares the tree of a strand with what was signed about it. Notes the largest checkpoint that holds.
    ///
    /// # Errors
    /// [`BootstrapFetchError::OtherTree`].
    pub(super) fn require_roots(
        &self,
        store: &Store,
        strand: &mut FetchedStrand,
    ) -> Result<(), BootstrapFetchError> {
        let originator = strand.originator;
        let snapshot = store.snapshot();
        let size = snapshot.tree_size(originator)?;
        for checkpoint in self.of_strand(originator) {
            let signed = checkpoint.signed.checkpoint;
            if signed.size > size {
                // The tree ends before a place without an envelope, which may have expired.
                strand.is_tree_short = true;
                continue;
            }
            if snapshot.root(originator, signed.size)? != signed.root {
                let (node, size) = (signed.node, signed.size);
                return Err(BootstrapFetchError::OtherTree { originator, node, size });
            }
            strand.covered = Some(checkpoint.clone());
        }
        Ok(())
    }
}

/// Returns the checkpoint with the cosignatures that hold; `None` if the registry does not know its node.
fn check(
    checkpoint: &CosignedCheckpoint,
    strand: &BootstrapStrand,
    registry: &Registry,
) -> Result<Option<CosignedCheckpoint>, BootstrapFetchError> {
    let of = checkpoint.signed.checkpoint;
    let originator = strand.originator;
    let Some(record) = registry.node(of.node) else { return Ok(None) };
    if checkpoint.signed.verify(&record.public_key).is_err() {
        return Err(BootstrapFetchError::ForgedCheckpoint { originator, node: of.node });
    }
    if of.size > strand.head.0 {
        let (signed, head) = (of.size, strand.head);
        return Err(BootstrapFetchError::Cut { originator, signed, head });
    }
    let mut held = CosignedCheckpoint::from(checkpoint.signed);
    for cosignature in &checkpoint.cosignatures {
        let key = registry.node(cosignature.cosigner).map(|it| it.public_key);
        let holds = |key| cosignature.verify(&of, &key).is_ok();
        if cosignature.cosigner != of.node && key.is_some_and(holds) {
            held.add_cosignature(*cosignature);
        }
    }
    Ok(Some(held))
}
