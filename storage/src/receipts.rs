//! Receipts of earlier publishes.

use hawser_proto::SequenceId;

use crate::error::ReadError;
use crate::keys::receipt::ReceiptKey;
use crate::keys::{Key, decode_u64};
use crate::snapshot::Snapshot;
use crate::store::Store;

impl Snapshot<'_> {
    /// Returns the place in this node's own strand of the envelope published with this digest. That envelope may have
    /// been pruned.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn receipt(&self, digest: &[u8; 32]) -> Result<Option<SequenceId>, ReadError> {
        Ok(self.row(ReceiptKey(*digest), decode_u64)?.map(SequenceId))
    }
}

impl Store {
    /// Returns true if memory alone shows that no envelope was published with one of these digests before the call.
    /// Never waits for the disk: if the answer is there, returns false, and [`Snapshot::receipt`] has to be asked.
    ///
    /// Takes no snapshot. Each publish asks, and a snapshot locks the database when it is taken and when it is dropped.
    #[must_use]
    pub fn lacks_receipts_for_sure(&self, digests: impl IntoIterator<Item = [u8; 32]>) -> bool {
        let database = self.database();
        let family = database.family(ReceiptKey::FAMILY);
        let lacks =
            |digest: [u8; 32]| database.lacks_in_memory(family, &ReceiptKey(digest).encode());
        let (lacks_all, hidden) = database.stale.view(|| digests.into_iter().all(lacks));
        lacks_all && !hidden.cover(ReceiptKey::FAMILY)
    }
}
