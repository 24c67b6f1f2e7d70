//! Gives the folder of a replica to the node that goes on from it, if the node's key has signed the strand that is
//! there.
//!
//! The danger is the operator in a hurry: a wrong id or key, the folder of a node, a replica that still runs, or a
//! process with the key that still signs. Only the last one cannot be noticed here; the promoted folder is in
//! quarantine.

use std::path::Path;

use hawser_engine::own_strand::GAP_MAX;
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
    /// The place of the node's newest envelope in it. It is below the head if the places behind it are left out.
    pub newest: SequenceId,
    /// The time of that envelope, unix nanoseconds: what the node has signed since is not there.
    pub newest_ns: i64,
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
    /// The strand has no places left behind the gap of the node's quarantine.
    #[error(
        "the strand ends at {head} in the folder, and no strand has places above {max}: none are left for the node \
         behind its gap. No node has signed so many: another process has used the key, or the folder is damaged",
        max = SequenceId::MAX
    )]
    NoPlacesLeft {
        /// The end of the strand.
        head: SequenceId,
    },
    /// The folder belongs to the node, but the rows may not be in their files yet.
    #[error("the folder is promoted, but its rows cannot be written to their files: {0}")]
    Flush(#[from] DatabaseError),
}

/// Gives the folder of a stopped replica to a node. The newest envelope of the node's strand shows that the node has
/// the key of `signer`. `network` is the wanted network; `None` accepts any.
///
/// # Errors
/// [`PromoteError`]; the folder belongs to the replica as before, except after [`PromoteError::Flush`], and perhaps
/// after [`PromotionError::Unsettled`].
pub fn promote(
    data_dir: &Path,
    network: Option<&str>,
    node: OriginatorId,
    signer: Address,
) -> Result<PromotedFolder, PromoteError> {
    let (store, identity) = projections::open_existing(data_dir)?;
    if identity.node != OriginatorId::REPLICA {
        return Err(PromotionError::OfNode { owner: identity.node }.into());
    }
    if let Some(wanted) = network.filter(|it| *it != identity.network) {
        let (found, wanted) = (identity.network, wanted.to_owned());
        return Err(PromoteError::OtherNetwork { found, wanted });
    }
    let head = store.promotable_head(node)?;
    if head.0 > SequenceId::MAX.0 - GAP_MAX {
        return Err(PromoteError::NoPlacesLeft { head });
    }
    let newest = store.snapshot().last_held(node).map_err(PromotionError::from)?;
    // Pruning leaves the last envelope of a strand, and a crash the places before one that is not written yet.
    let at_head = EnvelopeId::new(node, head);
    let (id, envelope) = newest.ok_or(PromoteError::Unreadable { id: at_head })?;
    let signed = newest_signed(id, envelope).ok_or(PromoteError::Unreadable { id })?;
    let NewestSigned { key, newest_ns } = signed;
    let found = key.address();
    if found != signer {
        return Err(PromoteError::OtherSigner { id, found, wanted: signer });
    }
    let head = store.promote_to(node, &key)?;
    store.flush()?;
    Ok(PromotedFolder { network: identity.network, head, newest: id.sequence, newest_ns })
}

/// The signer and the time of a strand's newest envelope.
struct NewestSigned {
    key: PublicKey,
    newest_ns: i64,
}

/// Returns who has signed the envelope at a place, and when; `None` if the bytes are those of another envelope.
fn newest_signed(id: EnvelopeId, envelope: Bytes) -> Option<NewestSigned> {
    let (statement, proof) = OriginatorEnvelope::open(envelope).ok()?;
    let (stated, newest_ns) = OriginatorEnvelope::statement(statement.clone()).ok()?;
    match proof {
        Proof::Signature(signature) if stated == id => {
            let key = signature.recover(originator_digest(&statement)).ok()?;
            Some(NewestSigned { key, newest_ns })
        }
        Proof::Signature(_) | Proof::Transaction(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_storage::{Change, InvalidRule, LogEntry, SkipReason, Store, StoreIdentity};
    use tempfile::TempDir;

    use super::*;
    use crate::service::testing::{key, open_as};

    const NODE: OriginatorId = OriginatorId(100);

    /// Opens the database of a replica.
    fn replica(folder: &TempDir) -> Store {
        let (network, public_key) = ("testnet".to_owned(), key(900).public_key());
        let identity = StoreIdentity { network, node: OriginatorId::REPLICA, public_key };
        open_as(folder, "replica", identity)
    }

    /// Returns the envelope of the node at a place, as this key signs it. Its time is the place, in seconds, or the
    /// latest one.
    fn envelope(place: u64, signer: &SecretKey) -> Change {
        let bytes = UnsealedEnvelope::new(&UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: place,
            originator_ns: i64::try_from(place).unwrap().saturating_mul(1_000_000_000),
            ..Default::default()
        })
        .seal(signer);
        let id = EnvelopeId::new(NODE, SequenceId(place));
        Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))
    }

    fn promoted(
        folder: &TempDir,
        node: OriginatorId,
        signer: &SecretKey,
    ) -> Result<PromotedFolder, PromoteError> {
        promote(&folder.path().join("replica"), None, node, signer.public_key().address())
    }

    #[test]
    fn a_folder_is_promoted_once_with_the_end_and_the_time_of_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let changes: Vec<_> = (1..=3).map(|place| envelope(place, &key(100))).collect();
        replica(&folder).commit(&changes).unwrap();
        let other = promoted(&folder, NODE, &key(200)).unwrap_err();
        assert!(matches!(other, PromoteError::OtherSigner { .. }), "{other:?}");
        let done = promoted(&folder, NODE, &key(100)).unwrap();
        assert_eq!(
            (done.head, done.newest, done.newest_ns),
            (SequenceId(3), SequenceId(3), 3_000_000_000)
        );
        let again = promoted(&folder, NODE, &key(100)).unwrap_err();
        let is_refused =
            matches!(again, PromoteError::Folder(PromotionError::OfNode { owner: NODE }));
        assert!(is_refused, "{again:?}");
    }

    /// Returns the change that leaves out places of the node.
    fn left_out(from: u64, through: u64) -> Change {
        let (from, through, reason) = (SequenceId(from), SequenceId(through), SkipReason::Missing);
        Change::Skip { originator: NODE, from, through, reason }
    }

    /// The replica has crashed before it wrote the envelope behind places that no peer had.
    #[test]
    fn the_newest_envelope_is_named_where_the_strand_ends_without_one() {
        let folder = tempfile::tempdir().unwrap();
        replica(&folder).commit(&[envelope(1, &key(100)), left_out(2, 5)]).unwrap();
        let done = promoted(&folder, NODE, &key(100)).unwrap();
        assert_eq!(
            (done.head, done.newest, done.newest_ns),
            (SequenceId(5), SequenceId(1), 1_000_000_000)
        );
    }

    /// Played by a thief of the key, or by the keeper of the replica's disk, who lets the node publish nothing more.
    #[test]
    fn a_strand_without_places_behind_the_gap_is_refused() {
        let last = SequenceId::MAX.0 - GAP_MAX;
        for (head, is_refused) in [(SequenceId::MAX.0, true), (last + 1, true), (last, false)] {
            let folder = tempfile::tempdir().unwrap();
            let changes = [left_out(1, head - 1), envelope(head, &key(100))];
            replica(&folder).commit(&changes).unwrap();
            let done = promoted(&folder, NODE, &key(100));
            if is_refused {
                assert!(matches!(done, Err(PromoteError::NoPlacesLeft { .. })), "{head}: {done:?}");
            } else {
                assert_eq!(done.unwrap().head, SequenceId(head));
            }
        }
    }

    /// A wrong id is wrong usage, whatever the folder has of its strand: envelopes of chains have no signature.
    #[test]
    fn an_id_of_no_node_is_named_before_its_strand_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let chain = OriginatorId::GROUP_MESSAGES;
        let at = EnvelopeId::new(chain, SequenceId(1));
        let of_chain = LogEntry::invalid(at, Bytes::from_static(b"of a chain"), InvalidRule(1));
        replica(&folder).commit(&[Change::Append(of_chain), envelope(1, &key(100))]).unwrap();
        for node in [chain, OriginatorId(7), OriginatorId::REPLICA] {
            let refused = promoted(&folder, node, &key(100)).unwrap_err();
            let is_usage = matches!(refused, PromoteError::Folder(PromotionError::NoNode { .. }));
            assert!(is_usage, "{node}: {refused:?}");
        }
    }

    /// A liar's tree covers an envelope that the node has not signed. A check of it would remove it.
    #[test]
    fn the_signer_of_an_envelope_that_is_not_checked_yet_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let store = replica(&folder);
        store.commit(&[envelope(1, &key(100))]).unwrap();
        store.commit_shown(&[envelope(2, &key(200))]).unwrap();
        drop(store);
        for signer in [100, 200] {
            let refused = promoted(&folder, NODE, &key(signer)).unwrap_err();
            let is_unverified =
                matches!(refused, PromoteError::Folder(PromotionError::Unverified { .. }));
            assert!(is_unverified, "{refused:?}");
        }
    }
}
