//! The checkpoints of a snapshot, verified with the keys of the registry.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::checkpoint::{CosignedCheckpoint, SignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use hawser_rules::Registry;
use hawser_storage::{BootstrapManifest, BootstrapStrand, Store};

use super::error::BootstrapFetchError;
use super::report::FetchedStrand;
use super::voids;

/// The verified checkpoints of all strands.
#[derive(Debug)]
pub(super) struct Evidence(BTreeMap<OriginatorId, Vec<CosignedCheckpoint>>);

impl Evidence {
    /// Verifies the signatures of checkpoints, and of statements about void places. Those of nodes outside the registry
    /// are ignored.
    ///
    /// # Errors
    /// Fails when a node of the registry has not signed a checkpoint or a statement under its name, or has signed a
    /// larger size than the snapshot has.
    pub(super) fn of(
        manifest: &BootstrapManifest,
        registry: &Registry,
    ) -> Result<Self, BootstrapFetchError> {
        let mut evidence = BTreeMap::new();
        for strand in &manifest.strands {
            voids::require_signed(strand, registry)?;
            let mut held = Vec::new();
            for checkpoint in &strand.checkpoints {
                held.extend(check(checkpoint, strand, registry)?);
            }
            // Ascending, so that the largest tree is last.
            held.sort_by_key(|it: &CosignedCheckpoint| it.signed.checkpoint.size);
            evidence.insert(strand.originator, held);
        }
        Ok(Self(evidence))
    }

    /// Returns evidence about this tree only.
    pub(super) fn of_majority(signed: &MajorityTree) -> Self {
        let originator = signed.checkpoint.signed.checkpoint.originator;
        Self(BTreeMap::from([(originator, vec![signed.checkpoint.clone()])]))
    }

    /// Returns the valid checkpoints of a strand, the largest last.
    pub(super) fn of_strand(&self, originator: OriginatorId) -> &[CosignedCheckpoint] {
        self.0.get(&originator).map_or(&[][..], Vec::as_slice)
    }

    /// Compares the tree of a strand with its checkpoints, and records the largest matching one.
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
                // The tree ends before a sequence id without an envelope, which may have expired.
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

/// The keys that have signed or cosigned each tree, which has a size and a root, each with the first of its nodes.
type TreeSigners = BTreeMap<(u64, TreeHash), BTreeMap<PublicKey, OriginatorId>>;

/// The tree of a strand that more than half of the network's other nodes have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MajorityTree {
    /// One of the checkpoints with this size and root.
    pub(super) checkpoint: CosignedCheckpoint,
    /// The nodes of the network that have signed or cosigned it, ascending; of nodes with one key, the first one.
    pub(super) nodes: Vec<OriginatorId>,
}

impl MajorityTree {
    /// Returns the last sequence id of the tree.
    pub(super) fn end(&self) -> SequenceId {
        SequenceId(self.checkpoint.signed.checkpoint.size)
    }
}

impl Evidence {
    /// Returns the largest tree of a strand that more than half of the current nodes of the network have signed; `own`
    /// is not counted.
    ///
    /// Envelopes of a chain carry no signature, so the signed trees are these nodes' statement of what they have read.
    /// A single node is not sufficient unless there is no third one.
    ///
    /// # Errors
    /// [`BootstrapFetchError::ChainUnsigned`].
    pub(super) fn majority_tree(
        &self,
        originator: OriginatorId,
        registry: &Registry,
        own: OriginatorId,
    ) -> Result<MajorityTree, BootstrapFetchError> {
        let (signers, wanted) = self.signers(originator, registry, own);
        let most = signers.values().map(BTreeMap::len).max().unwrap_or_default();
        let found = signers.into_iter().rev().find(|(_, nodes)| nodes.len() >= wanted);
        let Some(((size, root), nodes)) = found else {
            return Err(BootstrapFetchError::ChainUnsigned { originator, most, wanted });
        };
        let is_of_tree = |it: &&CosignedCheckpoint| {
            (it.signed.checkpoint.size, it.signed.checkpoint.root) == (size, root)
        };
        let checkpoint = self.of_strand(originator).iter().find(is_of_tree);
        let checkpoint = checkpoint.expect("the size and the root are those of a checkpoint");
        let mut nodes: Vec<OriginatorId> = nodes.into_values().collect();
        nodes.sort_unstable();
        Ok(MajorityTree { checkpoint: checkpoint.clone(), nodes })
    }

    /// Returns the largest tree of a node's strand that more than half of the network's other nodes have signed, as in
    /// [`majority_tree`](Self::majority_tree), and the strand's own node among them. `None` if there is no such tree,
    /// or if the strand's node is not in the network now: no follower verifies its strand as long as the history of the
    /// registry is not known.
    ///
    /// The others cannot add an envelope that the strand's node has not signed, because its signature is required. It
    /// alone cannot have one node shown a tree that it hides from the others.
    pub(super) fn vouched_tree(
        &self,
        originator: OriginatorId,
        registry: &Registry,
        own: OriginatorId,
    ) -> Option<SignedCheckpoint> {
        registry.member(originator)?;
        let (signers, wanted) = self.signers(originator, registry, own);
        let is_vouched = |it: &SignedCheckpoint| {
            let of = it.checkpoint;
            let nodes = signers.get(&(of.size, of.root)).map_or(0, BTreeMap::len);
            of.node == originator && nodes >= wanted
        };
        self.of_strand(originator).iter().rev().map(|it| it.signed).find(is_vouched)
    }

    /// Returns the current nodes of the network that have signed or cosigned each tree of a strand, and the number of
    /// nodes that is more than half of the network's. A key that is registered for several nodes counts once, and that
    /// of `own` is not counted. A node without a valid key counts, as for the contracts, and signs nothing.
    fn signers(
        &self,
        originator: OriginatorId,
        registry: &Registry,
        own: OriginatorId,
    ) -> (TreeSigners, usize) {
        let key_of = |node: OriginatorId| registry.member(node).map(|record| record.public_key);
        let own_key = registry.node(own).map(|record| record.public_key);
        let counted = |node: OriginatorId| key_of(node).filter(|key| Some(*key) != own_key);
        let all: BTreeSet<PublicKey> =
            registry.nodes().filter_map(|record| counted(record.id)).collect();
        let keyless = registry.canonical_ids().filter(|it| registry.node(*it).is_none()).count();
        let mut signers = TreeSigners::new();
        for checkpoint in self.of_strand(originator) {
            let of = checkpoint.signed.checkpoint;
            let cosigners = checkpoint.cosignatures.iter().map(|it| it.cosigner);
            let of_tree = signers.entry((of.size, of.root)).or_default();
            for node in cosigners.chain([of.node]) {
                if let Some(key) = counted(node) {
                    let first = of_tree.entry(key).or_insert(node);
                    *first = node.min(*first);
                }
            }
        }
        (signers, (all.len() + keyless) / 2 + 1)
    }
}

/// Returns the checkpoint with its valid cosignatures; `None` if the registry does not know its node.
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
