//! Gives the folder of a replica to a node that goes on from it.
//!
//! A replica has neither the key nor the id of a node, so it signs nothing that a node signs. Its folder holds the
//! strands of all nodes. See `docs/decisions/0073-a-standby-is-a-replica.md`.

use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use rocksdb::WriteBatch;

use crate::error::{CommitError, DatabaseError, ReadError};
use crate::meta;
use crate::open::new_incarnation;
use crate::projection::{Projection, ProjectionSet};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// The cause of refused writes from a promotion until the folder is opened again.
const PROMOTED: &str = "the folder belongs to a node by now: it has to be opened again";

/// The reason for which a folder is not given to a node. The folder is unchanged, except perhaps after
/// [`Unsettled`](Self::Unsettled).
#[derive(Debug, thiserror::Error)]
pub enum PromotionError {
    /// The folder belongs to a node already.
    #[error(
        "the folder belongs to node {owner}: only the folder of a replica (`hawser audit watch`) can be promoted"
    )]
    OfNode {
        /// The owner.
        owner: OriginatorId,
    },
    /// No registry assigns this id to a node.
    #[error("{node} is not the id of a node: node ids begin with {}", OriginatorId::FIRST_NODE)]
    NoNode {
        /// The id.
        node: OriginatorId,
    },
    /// The folder has nothing of the node's strand.
    #[error(
        "the folder has nothing of the strand of node {node}: another replica may have it; a node whose key has never \
         signed starts on an empty folder, with --new-strand"
    )]
    NoStrand {
        /// The node.
        node: OriginatorId,
    },
    /// Signatures at the end of the node's strand are not checked yet.
    #[error(
        "the strand of node {node} ends at {head}, and its signatures are checked up to {verified}: start the replica \
         again until it has checked the others"
    )]
    Unverified {
        /// The node.
        node: OriginatorId,
        /// The end of the strand.
        head: SequenceId,
        /// The last place whose signature is checked.
        verified: SequenceId,
    },
    /// Rows of the strand cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The write of the new owner was not begun.
    #[error(transparent)]
    Write(#[from] CommitError),
    /// The write of the new owner failed, perhaps at its sync. The disk may have all of it, and shows that when the
    /// folder is opened again.
    #[error(
        "writing the new owner has failed: {cause}. The folder may be that of node {node} all the same: promote it \
         again when the disk works, which says so if it is"
    )]
    Unsettled {
        /// The node.
        node: OriginatorId,
        /// The failure.
        cause: DatabaseError,
    },
}

impl Store {
    /// Checks that the folder can be given to a node, as [`promote_to`](Self::promote_to) does. Returns the end of the
    /// node's strand.
    ///
    /// # Errors
    /// [`PromotionError`], except of a write.
    pub fn promotable_head(&self, node: OriginatorId) -> Result<SequenceId, PromotionError> {
        let owner = self.identity().node;
        if owner != OriginatorId::REPLICA {
            return Err(PromotionError::OfNode { owner });
        }
        if !node.is_node() || node == OriginatorId::REPLICA {
            return Err(PromotionError::NoNode { node });
        }
        let database = self.database();
        let snapshot = Snapshot::new(&database);
        let (head, verified) = (snapshot.head(node)?, snapshot.verified_head(node)?);
        if head == SequenceId::NONE {
            return Err(PromotionError::NoStrand { node });
        }
        if verified < head {
            return Err(PromotionError::Unverified { node, head, verified });
        }
        Ok(head)
    }

    /// Returns true if the folder was a replica's, comes from a backup or from before an upgrade, or the machine was
    /// started again before its last commits were on the disk, and its node has not signed from it since. Such a folder
    /// may lack places that the node has signed.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn may_lack_places(&self) -> Result<bool, ReadError> {
        Ok(self.is_unsynced() || meta::may_lack_places(&self.database().db)?)
    }

    /// Gives the folder of a replica to a node whose strand it holds, in one durable write. Returns the end of that
    /// strand.
    ///
    /// The folder gets a new incarnation, so no host takes it for the one that the node wrote last: the node starts
    /// from it in quarantine. Receipts are built from the log when the node starts, because a replica has none. This
    /// store still has the replica's identity: it refuses all further writes and has to be closed.
    ///
    /// # Errors
    /// [`PromotionError`]; the folder still belongs to the replica, except perhaps after
    /// [`PromotionError::Unsettled`].
    pub fn promote_to(
        &self,
        node: OriginatorId,
        public_key: &PublicKey,
    ) -> Result<SequenceId, PromotionError> {
        let database = self.database();
        database.check_writable()?;
        let _no_commits = database.gate_for_a_step()?;
        let head = self.promotable_head(node)?;
        // Projections that this version has to rebuild anyway stay in the set.
        let incomplete = ProjectionSet::of(database.stale.list());
        let incomplete = incomplete.or(ProjectionSet::of([Projection::Receipt])).with_companions();
        let (db, mut batch) = (&database.db, WriteBatch::default());
        meta::put_owner(db, &mut batch, (node, public_key), new_incarnation(), head);
        meta::put_condemned(db, &mut batch, incomplete);
        database.write_durable(batch).map_err(|error| match error {
            CommitError::Write(cause) => PromotionError::Unsettled { node, cause },
            not_begun => PromotionError::Write(not_begun),
        })?;
        database.stale.add(incomplete);
        database.poison.set(PROMOTED);
        Ok(head)
    }
}
