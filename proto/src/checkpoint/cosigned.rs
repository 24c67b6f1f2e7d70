//! A checkpoint with the cosignatures about it.

use super::statement::{Cosignature, SignedCheckpoint};
use super::witness::WitnessCosignature;

/// The maximum number of nodes that may cosign one checkpoint. A guess: far more nodes than the network has.
pub const COSIGNATURES_MAX: usize = 256;
/// The maximum number of witnesses that may cosign one checkpoint. A guess: a reader trusts a handful.
pub const WITNESSES_MAX: usize = 64;

/// A checkpoint with the cosignatures that this node has received. They need not be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignedCheckpoint {
    /// The checkpoint.
    pub signed: SignedCheckpoint,
    /// The cosignatures of nodes, by cosigner ascending, each once.
    pub cosignatures: Vec<Cosignature>,
    /// The cosignatures of witnesses, by name and key id ascending, each once.
    pub witnesses: Vec<WitnessCosignature>,
}

impl From<SignedCheckpoint> for CosignedCheckpoint {
    fn from(signed: SignedCheckpoint) -> Self {
        Self { signed, cosignatures: Vec::new(), witnesses: Vec::new() }
    }
}

impl CosignedCheckpoint {
    /// Adds a node's cosignature, which the caller has verified. It replaces an earlier one of the same node.
    /// Returns false when there is no room for another one.
    pub fn add_cosignature(&mut self, cosignature: Cosignature) -> bool {
        match self.cosignatures.binary_search_by_key(&cosignature.cosigner, |it| it.cosigner) {
            Ok(at) => self.cosignatures[at] = cosignature,
            Err(_) if self.cosignatures.len() == COSIGNATURES_MAX => return false,
            Err(at) => self.cosignatures.insert(at, cosignature),
        }
        true
    }

    /// Adds a witness's cosignature, which the caller has verified. It replaces an earlier one of the same key.
    /// Returns false when there is no room for another one.
    pub fn add_witness(&mut self, witness: WitnessCosignature) -> bool {
        match self.witnesses.binary_search_by(|it| it.signer().cmp(&witness.signer())) {
            Ok(at) => self.witnesses[at] = witness,
            Err(_) if self.witnesses.len() == WITNESSES_MAX => return false,
            Err(at) => self.witnesses.insert(at, witness),
        }
        true
    }
}
