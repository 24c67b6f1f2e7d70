//! Reading a copy as a whole, without a data folder: `hawser snapshot verify`.

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::merkle::{CompactRange, envelope_leaf};
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{BootstrapManifest, BootstrapStrand, Bootstraps};

use super::checkpoints::Evidence;
use super::error::BootstrapFetchError;
use super::report::VerifiedStrand;
use super::strand::require_signed;

/// Reads every chunk of a copy. With a registry each envelope and each checkpoint is checked by its keys; without one
/// only lengths, hashes and order are. Calls `note` with the bytes of each chunk.
///
/// # Errors
/// The first thing that is wrong.
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
        let mut reading = Reading {
            verifier,
            evidence: &evidence,
            tree: Some(CompactRange::default()),
            strand: VerifiedStrand {
                originator: stated.originator,
                head: stated.head,
                envelopes: 0,
                is_signed: record.is_some(),
                covered: None,
                is_tree_short: false,
            },
        };
        reading.read(place, stated, note)?;
        strands.push(reading.strand);
    }
    Ok(strands)
}

/// A strand while it is read.
struct Reading<'a> {
    verifier: Option<EnvelopeVerifier>,
    evidence: &'a Evidence,
    /// `None` from the first place on that has no envelope.
    tree: Option<CompactRange>,
    strand: VerifiedStrand,
}

impl Reading<'_> {
    fn read(
        &mut self,
        place: &Bootstraps,
        stated: &BootstrapStrand,
        note: &mut dyn FnMut(u64),
    ) -> Result<(), BootstrapFetchError> {
        for chunk in &stated.chunks {
            let envelopes = place.chunk(stated.originator, chunk)?;
            if let Some(verifier) = &self.verifier {
                require_signed(verifier, &envelopes)?;
            }
            for (place, bytes) in &envelopes {
                self.grow(*place, bytes)?;
            }
            self.strand.envelopes += envelopes.len() as u64;
            note(chunk.len_bytes);
        }
        let size = self.tree.as_ref().map_or(0, CompactRange::size);
        let held = self.evidence.of_strand(stated.originator);
        let is_behind = held.last().is_some_and(|it| it.signed.checkpoint.size > size);
        self.strand.is_tree_short = self.tree.is_none() && is_behind;
        Ok(())
    }

    /// Adds an envelope to the tree, and compares it with the checkpoints of its size.
    fn grow(&mut self, place: SequenceId, bytes: &Bytes) -> Result<(), BootstrapFetchError> {
        let originator = self.strand.originator;
        let leaf = envelope_leaf(bytes);
        let Some((mut tree, leaf)) = self.tree.take().zip(leaf) else { return Ok(()) };
        if place.0 != tree.size() + 1 {
            return Ok(());
        }
        tree.append(leaf, |_, _| {});
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
