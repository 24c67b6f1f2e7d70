//! Removes the end of a chain strand after a reorganisation of the chain.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::WriteBatch;

use crate::change::ChainPosition;
use crate::database::Database;
use crate::error::CommitError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, CursorName, encode_position};
use crate::keys::envelope::EnvelopeKey;
use crate::keys::mark::MarkKey;
use crate::raw_rows::{current_mark, seek_nearest_mark};
use crate::store::Store;

impl Store {
    /// Deletes the places of a chain strand from `from` on, with their marks, and sets the chain reader back to
    /// `position`, or to the beginning. The same write drops the projections, which stay stale until
    /// [`Store::rebuild`] has ended. A caller that needs the deleted envelopes must read them before. Checkpoints stay,
    /// so that this node signs no other tree of their sizes. [Standing
    /// checkpoints](crate::Snapshot::standing_checkpoint) are those of the tree that is left.
    ///
    /// No other operation removes an envelope before it expires. This one exists because the order of
    /// a chain is not this node's statement.
    ///
    /// # Errors
    /// [`CommitError::OutOfRange`] if `from` is not a place of a chain strand. After [`CommitError::Write`] the
    /// store is poisoned.
    pub fn truncate_strand(
        &self,
        from: EnvelopeId,
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        self.database().truncate_strand(from, position)
    }
}

impl Database {
    /// Removes everything of a chain's strand from `from` on, moves head, verified end and reader's position, and drops
    /// the projections, in one synced write.
    fn truncate_strand(
        &self,
        from: EnvelopeId,
        position: Option<ChainPosition>,
    ) -> Result<(), CommitError> {
        self.check_writable()?;
        if from.originator.is_node() || from.sequence == SequenceId::NONE {
            return Err(CommitError::OutOfRange { at: from });
        }
        let _no_commits = self.gate.write();
        let head = self.strands.head(from.originator);
        let mut head = head.lock();
        let last = from.sequence.previous().min(*head);

        let mut batch = WriteBatch::default();
        let next_strand = OriginatorId(from.originator.0 + 1);
        let end = EnvelopeKey(EnvelopeId::new(next_strand, SequenceId::NONE)).encode();
        for family in [Family::Log, Family::Mark] {
            let family = self.family(family);
            batch.delete_range_cf(family, EnvelopeKey(from).encode(), end);
        }
        let marks = self.family(MarkKey::FAMILY);
        let before = EnvelopeId { sequence: from.sequence.previous(), ..from };
        // A range that begins before `from` may reach beyond it; it is cut to end just below.
        let open = || self.db.raw_iterator_cf(marks);
        let mut rows = open();
        let has_nearest = seek_nearest_mark(&mut rows, open, before)?;
        let nearest = if has_nearest { current_mark(&rows)? } else { None };
        if let Some((at, mark)) = nearest.filter(|(at, mark)| mark.end(*at) >= from.sequence) {
            let mut value = Vec::new();
            mark.truncated(before.sequence).encode_into(&mut value);
            batch.put_cf(marks, MarkKey(at).encode(), value);
        }
        self.stage_tree_end(EnvelopeId { sequence: last, ..from }, &mut batch);
        if let Some(verified) = self.verified(from.originator)? {
            // A verified place above the head would let later envelopes there pass as verified.
            let verified = EnvelopeId { sequence: verified.min(last), ..from };
            self.stage_verified_head(verified, last, &mut batch);
        }
        let cursors = self.family(CursorKey::FAMILY);
        let cursor = |name| CursorKey { name, originator: from.originator }.encode();
        batch.put_cf(cursors, cursor(CursorName::Head), last.0.to_be_bytes());
        match position {
            Some(at) => batch.put_cf(cursors, cursor(CursorName::Chain), encode_position(at)),
            None => batch.delete_cf(cursors, cursor(CursorName::Chain)),
        }
        self.stage_drop_of_projections(&mut batch);
        let writing = self.expired_ends.writing();
        self.write_durable(batch)?;
        drop(writing);
        self.trees.forget(from.originator);
        *head = last;
        Ok(())
    }
}
