//! Reads a whole snapshot without a data folder: `hawser snapshot verify`.

use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::merkle::{CompactRange, LeafData, envelope_leaf, leaf_hash};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{
    BootstrapChunk, BootstrapManifest, BootstrapStrand, Bootstraps, is_void_run_in_tree,
};

use super::checkpoints::{Evidence, MajorityTree};
use super::error::BootstrapFetchError;
use super::report::VerifiedStrand;
use super::strand::{Envelopes, require_all_signed};

/// Reads every chunk of a snapshot. With a registry, each envelope and each checkpoint is verified with its
/// keys; without one, only lengths, hashes and order are verified. The envelopes of a chain's strand are
/// only checked for their form, because they are unsigned and the chain is not asked. Calls `note` with the
/// length in bytes of each chunk.
///
/// # Errors
/// The first error.
pub fn verify(
    place: &Bootstraps,
    manifest: &BootstrapManifest,
    registry: Option<&Registry>,
    note: &mut dyn FnMut(u64),
) -> Result<Vec<VerifiedStrand>, BootstrapFetchError> {
    let none = Registry::default();
    let evidence = Evidence::of(manifest, registry.unwrap_or(&none))?;
    let mut strands = Vec::new();
    for stated in &manifest.strands {
        let record = registry.and_then(|it| it.node(stated.originator));
        let verifier = record.map(|record| EnvelopeVerifier {
            originator: stated.originator,
            key: record.public_key,
            own: OriginatorId(0),
            absences: Absences::NONE,
        });
        let mut reading = StrandReading::new(stated.originator, &evidence, verifier);
        let read: ReadChunk<'_> = &mut |chunk| Ok(place.chunk(stated.originator, chunk)?);
        reading.read(stated, read, &mut |chunk, _| note(chunk.len_bytes))?;
        strands.push(reading.strand);
    }
    Ok(strands)
}

/// A function that reads a chunk's envelopes.
pub(super) type ReadChunk<'a> =
    &'a mut dyn FnMut(&BootstrapChunk) -> Result<Envelopes, BootstrapFetchError>;

/// A callback for each chunk with its envelopes.
type SeeChunk<'a> = &'a mut dyn FnMut(&BootstrapChunk, &[(SequenceId, Bytes)]);
/// A callback for envelopes in the order of their sequence ids.
pub(super) type EnvelopesFn<'a> = &'a mut dyn FnMut(&[(SequenceId, Bytes)]);

/// Reads a chain's strand of a snapshot and requires that it has the tree that most nodes have signed. Writes nothing.
/// Calls `seen` with the envelopes of each chunk.
///
/// # Errors
/// The first error; [`BootstrapFetchError::OtherTree`] also if nodes sign no tree with so many void sequence ids.
pub(super) fn require_chain_tree(
    stated: &BootstrapStrand,
    signed: &MajorityTree,
    read: ReadChunk<'_>,
    seen: EnvelopesFn<'_>,
) -> Result<(), BootstrapFetchError> {
    let evidence = Evidence::of_majority(signed);
    let mut reading = StrandReading::new(stated.originator, &evidence, None);
    reading.read(stated, read, &mut |_, envelopes| seen(envelopes))?;
    let of = signed.checkpoint.signed.checkpoint;
    // Another root would have been refused at its size.
    let reached = reading.strand.covered.map_or(0, |it| it.signed.checkpoint.size);
    if reached < of.size {
        let (originator, node, size) = (of.originator, of.node, of.size);
        return Err(BootstrapFetchError::OtherTree { originator, node, size });
    }
    Ok(())
}

/// The state of reading a strand.
struct StrandReading<'a> {
    verifier: Option<EnvelopeVerifier>,
    evidence: &'a Evidence,
    /// The tree so far; `None` after the first sequence id without an envelope, and of a chain's strand after the first
    /// run of void ones that no tree has.
    tree: Option<CompactRange>,
    strand: VerifiedStrand,
}

impl<'a> StrandReading<'a> {
    /// Starts before the first chunk of a strand. Without a verifier no signature of an envelope is checked.
    fn new(
        originator: OriginatorId,
        evidence: &'a Evidence,
        verifier: Option<EnvelopeVerifier>,
    ) -> Self {
        let strand = VerifiedStrand {
            originator,
            last: SequenceId::NONE,
            envelopes: 0,
            is_signed: verifier.is_some(),
            covered: None,
            is_tree_short: false,
        };
        Self { verifier, evidence, tree: Some(CompactRange::default()), strand }
    }

    /// Reads all chunks of one strand, checks their envelopes, and grows the strand's tree by them.
    fn read(
        &mut self,
        stated: &BootstrapStrand,
        read: ReadChunk<'_>,
        seen: SeeChunk<'_>,
    ) -> Result<(), BootstrapFetchError> {
        let is_of_chain = stated.is_of_chain();
        for chunk in &stated.chunks {
            let envelopes = read(chunk)?;
            if let Some(verifier) = &self.verifier {
                require_all_signed(verifier, &envelopes)?;
            }
            for (place, bytes) in &envelopes {
                if is_of_chain {
                    self.require_event(*place, bytes)?;
                    self.grow_void(place.previous())?;
                }
                self.grow(*place, bytes)?;
            }
            self.strand.envelopes += envelopes.len() as u64;
            self.strand.last = chunk.through;
            seen(chunk, &envelopes);
        }
        if is_of_chain {
            self.grow_void(stated.head)?;
        }
        let compared = self.strand.covered.as_ref().map_or(0, |it| it.signed.checkpoint.size);
        let largest = self.evidence.of_strand(stated.originator).last();
        self.strand.is_tree_short = largest.is_some_and(|it| it.signed.checkpoint.size > compared);
        Ok(())
    }

    fn require_event(&self, place: SequenceId, bytes: &Bytes) -> Result<(), BootstrapFetchError> {
        let originator = self.strand.originator;
        match ChainEvent::of_bytes(EnvelopeId::new(originator, place), bytes) {
            Some(_) => Ok(()),
            None => Err(BootstrapFetchError::NoEvent { originator, place }),
        }
    }

    /// Adds an envelope to the tree.
    fn grow(&mut self, place: SequenceId, bytes: &Bytes) -> Result<(), BootstrapFetchError> {
        let leaf = envelope_leaf(bytes);
        let Some((mut tree, leaf)) = self.tree.take().zip(leaf) else { return Ok(()) };
        if place.0 != tree.size() + 1 {
            return Ok(());
        }
        tree.append(leaf, |_, _| {});
        self.compare(tree)
    }

    /// Adds the void sequence ids of a chain's strand to the tree, up to the size that was signed, however many they
    /// are. The trees of nodes end before runs that are too long, so this one does, too.
    fn grow_void(&mut self, through: SequenceId) -> Result<(), BootstrapFetchError> {
        let evidence = self.evidence;
        let held = evidence.of_strand(self.strand.originator);
        let sizes = || held.iter().map(|it| it.signed.checkpoint.size);
        let end = through.0.min(sizes().max().unwrap_or(0));
        let is_in_tree = |tree: &CompactRange| {
            is_void_run_in_tree(SequenceId(tree.size()).next(), SequenceId(end))
        };
        self.tree = self.tree.take().filter(is_in_tree);
        while let Some(mut tree) = self.tree.take_if(|tree| tree.size() < end) {
            let next = sizes().filter(|size| (tree.size() + 1..=end).contains(size)).min();
            tree.append_equal(leaf_hash(LeafData::Void), next.unwrap_or(end) - tree.size());
            self.compare(tree)?;
        }
        Ok(())
    }

    /// Compares a tree that has grown with the checkpoints of its size, and keeps it.
    fn compare(&mut self, tree: CompactRange) -> Result<(), BootstrapFetchError> {
        let originator = self.strand.originator;
        for checkpoint in self.evidence.of_strand(originator) {
            let signed = checkpoint.signed.checkpoint;
            if signed.size == tree.size() {
                if signed.root != tree.root() {
                    let (node, size) = (signed.node, signed.size);
                    return Err(BootstrapFetchError::OtherTree { originator, node, size });
                }
                self.strand.covered = Some(checkpoint.clone());
            }
        }
        self.tree = Some(tree);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
    use hawser_proto::merkle::TreeHash;
    use hawser_storage::FileHash;

    use super::super::testing::{GROUPS, Maker, PLACES, entry, key};
    use super::*;

    /// The maker states the end of a strand, and nothing in the snapshot shows it.
    #[test]
    fn a_strand_ends_with_its_last_envelope_whatever_the_maker_states() {
        let maker = Maker::new();
        let mut manifest = maker.copy();
        manifest.strands[0].head = SequenceId::MAX;
        let verified = verify(&maker.place, &manifest, None, &mut |_| {}).unwrap();
        assert_eq!((verified[0].originator, verified[0].last), (GROUPS, SequenceId(PLACES)));
    }

    /// Reads a strand of two envelopes, at the first place and at the last one, against this root.
    fn required(size: u64, root: TreeHash) -> Result<(), BootstrapFetchError> {
        let node = OriginatorId(100);
        let of = Checkpoint { node, originator: GROUPS, size, root, time_ns: 5 };
        let checkpoint = CosignedCheckpoint::from(of.sign(&key(node.0)));
        let signed = MajorityTree { checkpoint, nodes: vec![node] };
        let (from, through) = (SequenceId(1), SequenceId(size));
        let chunk = BootstrapChunk { from, through, len_bytes: 1, hash: FileHash([0; 32]) };
        let stated = BootstrapStrand {
            originator: GROUPS,
            head: through,
            checkpoints: Vec::new(),
            voids: Vec::new(),
            chunks: vec![chunk],
        };
        let held = [1, size].map(|place| (SequenceId(place), entry(GROUPS, place, 5).bytes));
        let read: ReadChunk<'_> = &mut |_| Ok(held.to_vec());
        require_chain_tree(&stated, &signed, read, &mut |_| {})
    }

    /// The operator of a contract may skip hundreds of millions of places, which honest nodes sign.
    #[test]
    fn a_strand_with_many_void_places_is_compared_with_its_tree() {
        let tree_of = |size: u64| {
            let leaf = |place| envelope_leaf(&entry(GROUPS, place, 5).bytes).unwrap();
            let mut tree = CompactRange::default();
            tree.append(leaf(1), |_, _| {});
            tree.append_equal(leaf_hash(LeafData::Void), size - 2);
            tree.append(leaf(size), |_, _| {});
            tree.root()
        };
        let is_other = |it: Result<(), _>| matches!(it, Err(BootstrapFetchError::OtherTree { .. }));
        for size in [3, 2_000_000, 1 << 28] {
            required(size, tree_of(size)).unwrap();
            assert!(is_other(required(size, tree_of(size + 1))), "{size}");
        }
        // No node signs this tree, which a run of void places ends.
        let longer = (1 << 28) + 2;
        assert!(is_other(required(longer, tree_of(longer))));
    }
}
