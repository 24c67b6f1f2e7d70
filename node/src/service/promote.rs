//! Gives the folder of a replica to the node that goes on from it, if the node's key has signed the strand that is
//! there.
//!
//! The enemy is the operator in a hurry: a wrong id or key, the folder of a node, a replica that still runs, or a
//! process with the key that still signs. Only the last one cannot be noticed here; the promoted folder is in
//! quarantine.

use std::path::Path;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::{Address, Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_storage::{DatabaseError, PromotionError};

use super::projections::{self, OpenStoppedError};

/// A folder that belongs to a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromotedFolder {
    /// The network.
    pub network: String,
    /// The end of the node's strand in it.
    pub head: SequenceId,
}

/// The reason for which a folder was not promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenStoppedError),
    /// The folder cannot be given to the node.
    #[error(transparent)]
    Folder(#[from] PromotionError),
    /// The replica follows another network than the wanted one.
    #[error(
        "the folder belongs to network {found}, not {wanted}: a node starts from it only with --network {found}"
    )]
    OtherNetwork {
        /// The network of the folder.
        found: String,
        /// The wanted network.
        wanted: String,
    },
    /// Another key has signed the strand.
    #[error(
        "{id}, the newest envelope of the node in the folder, is signed by {found}, and not by {wanted}: check \
         --node-id and --signer"
    )]
    OtherSigner {
        /// The newest envelope of the strand.
        id: EnvelopeId,
        /// The address of its signer.
        found: Address,
        /// The wanted address.
        wanted: Address,
    },
    /// No key can be recovered from the newest envelope of the strand.
    #[error(
        "{id}, the newest envelope of the node in the folder, cannot be read: the disk may have damaged it. Look with \
         `hawser scrub`"
    )]
    Unreadable {
        /// The newest envelope of the strand.
        id: EnvelopeId,
    },
    /// The folder belongs to the node, but the rows may not be in their files yet.
    #[error("the folder is promoted, but its rows cannot be written to their files: {0}")]
    Flush(#[from] DatabaseError),
}

/// Gives the folder of a stopped replica to a node. The newest envelope of the node's strand shows that the node has
/// the key of `signer`. `network` is the wanted network; `None` accepts any.
///
/// # Errors
/// [`PromoteError`]; the folder belongs to the replica as before, except after [`PromoteError::Flush`].
pub fn promote(
    data_dir: &Path,
    network: Option<&str>,
    node: OriginatorId,
    signer: Address,
) -> Result<PromotedFolder, PromoteError> {
    let (store, identity) = projections::open_existing(data_dir)?;
    // Before the strand is read: that of a chain has no signatures, and would pass for a damaged one.
    store.check_promotion(node)?;
    if let Some(wanted) = network.filter(|it| *it != identity.network) {
        let (found, wanted) = (identity.network, wanted.to_owned());
        return Err(PromoteError::OtherNetwork { found, wanted });
    }
    let newest = store.snapshot().last_held(node).map_err(PromotionError::from)?;
    let (id, envelope) = newest.ok_or(PromotionError::NoStrand { node })?;
    let key = signer_of(id, envelope).ok_or(PromoteError::Unreadable { id })?;
    let found = key.address();
    if found != signer {
        return Err(PromoteError::OtherSigner { id, found, wanted: signer });
    }
    let head = store.give_to(node, &key)?;
    store.flush()?;
    Ok(PromotedFolder { network: identity.network, head })
}

/// Returns the key that has signed the envelope at a place; `None` if the bytes are those of another envelope.
fn signer_of(id: EnvelopeId, envelope: Bytes) -> Option<PublicKey> {
    let (statement, proof) = OriginatorEnvelope::open(envelope).ok()?;
    let (stated, _) = OriginatorEnvelope::statement(statement.clone()).ok()?;
    match proof {
        Proof::Signature(signature) if stated == id => {
            signature.recover(originator_digest(&statement)).ok()
        }
        Proof::Signature(_) | Proof::Transaction(_) => None,
    }
}
