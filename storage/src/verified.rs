//! The last verified places of strands.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use crate::database::Database;
use crate::error::ReadError;
use crate::keys::cursor::{CursorKey, CursorName};
use crate::keys::decode_u64;
use crate::raw_rows::stored;

impl Database {
    /// Returns the last verified place of a strand; `None` if all of it is verified. Call it under the strand's
    /// lock if the result must stay valid.
    pub(crate) fn verified(
        &self,
        originator: OriginatorId,
    ) -> Result<Option<SequenceId>, ReadError> {
        let key = CursorKey { name: CursorName::InDoubt, originator };
        Ok(stored(&self.db, key, decode_u64)?.map(SequenceId))
    }
}

/// The verified places during a rebuild, while nothing is committed.
pub(crate) struct VerifiedPlaces<'a> {
    store: &'a Database,
    strand: Option<(OriginatorId, Option<SequenceId>)>,
}

impl<'a> VerifiedPlaces<'a> {
    pub(crate) fn new(store: &'a Database) -> Self {
        Self { store, strand: None }
    }

    pub(crate) fn has(&mut self, id: EnvelopeId) -> Result<bool, ReadError> {
        let known = self.strand.filter(|(originator, _)| *originator == id.originator);
        let verified = match known {
            Some((_, verified)) => verified,
            None => {
                let verified = self.store.verified(id.originator)?;
                self.strand = Some((id.originator, verified));
                verified
            }
        };
        Ok(verified.is_none_or(|verified| id.sequence <= verified))
    }
}
