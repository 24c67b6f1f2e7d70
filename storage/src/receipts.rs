//! Receipts of earlier publishes.

use hawser_proto::SequenceId;

use crate::error::ReadError;
use crate::keys::decode_u64;
use crate::keys::receipt::ReceiptKey;
use crate::snapshot::Snapshot;

impl Snapshot<'_> {
    /// Returns the place in this node's own strand of the envelope published with this digest. That envelope may have
    /// been pruned.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn receipt(&self, digest: &[u8; 32]) -> Result<Option<SequenceId>, ReadError> {
        Ok(self.row(ReceiptKey(*digest), decode_u64)?.map(SequenceId))
    }

    /// Returns true if memory alone shows that no envelope was published with this digest. Never waits for the disk: if
    /// the answer is there, returns false, and [`Self::receipt`] has to be asked.
    #[must_use]
    pub fn lacks_receipt_for_sure(&self, digest: &[u8; 32]) -> bool {
        self.lacks_for_sure(ReceiptKey(*digest))
    }
}
