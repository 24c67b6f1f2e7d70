//! Reads the whole log in chunks.

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};

use crate::change::Validity;
use crate::error::ReadError;
use crate::keys::pruned::PrunedEnvelope;
use crate::pruned::{LogPlace, PlaceScan};
use crate::snapshot::Snapshot;

/// Largest number of places in a chunk. Measured (`docs/performance.md`, *Signatures in batches*): in a batch of
/// this size a signature costs a quarter, and hardly less in a larger one.
pub(super) const CHUNK_PLACES_MAX: usize = 1024;
/// Bytes of envelopes at which a chunk is closed early. A chunk exceeds them by less than one envelope. A guess: chunks
/// of messages are half as long.
pub(super) const CHUNK_LEN_BYTES: usize = 2 << 20;

/// A stored envelope of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnvelope {
    /// Its place.
    pub id: EnvelopeId,
    /// The originator envelope as signed.
    pub bytes: Bytes,
    /// The envelope's validity, from its mark.
    pub validity: Validity,
}

/// Consecutive envelopes of the log, and the records of pruned ones between them. Both ascend.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) held: Vec<StoredEnvelope>,
    pub(super) pruned: Vec<(EnvelopeId, PrunedEnvelope)>,
    /// Bytes of the envelopes.
    pub(super) len_bytes: usize,
}

/// Reader over the envelopes of all strands, one strand after the other.
pub(super) struct LogReader<'s> {
    snapshot: &'s Snapshot<'s>,
    heads: Vec<EnvelopeId>,
    /// Envelopes up to this one are skipped.
    after: EnvelopeId,
    strand: Option<PlaceScan<'s>>,
}

impl<'s> LogReader<'s> {
    pub(super) fn new(snapshot: &'s Snapshot<'s>, after: EnvelopeId) -> Result<Self, ReadError> {
        Ok(Self::up_to(snapshot, &snapshot.heads()?, after))
    }

    /// Reads up to `ends`, or to the heads where they are lower.
    pub(super) fn through(
        snapshot: &'s Snapshot<'s>,
        ends: &Cursor,
        after: EnvelopeId,
    ) -> Result<Self, ReadError> {
        let lower = |head: EnvelopeId| {
            let sequence = head.sequence.min(ends.get(head.originator));
            EnvelopeId { sequence, ..head }
        };
        let heads: Cursor = snapshot.heads()?.iter().map(lower).collect();
        Ok(Self::up_to(snapshot, &heads, after))
    }

    fn up_to(snapshot: &'s Snapshot<'s>, heads: &Cursor, after: EnvelopeId) -> Self {
        let is_left = |head: &EnvelopeId| head.originator >= after.originator;
        let mut heads: Vec<EnvelopeId> = heads.iter().filter(is_left).collect();
        heads.reverse(); // `pop` then yields ascending originators
        Self { snapshot, heads, after, strand: None }
    }

    /// Reads the next chunk, of `places_max` at most; `None` at the end of the log.
    pub(super) fn chunk(&mut self, places_max: usize) -> Result<Option<Chunk>, ReadError> {
        let mut chunk = Chunk::default();
        while chunk.held.len() + chunk.pruned.len() < places_max
            && chunk.len_bytes < CHUNK_LEN_BYTES
        {
            match self.place()? {
                Some(LogPlace::Held { id, bytes, validity }) => {
                    chunk.len_bytes += bytes.len();
                    chunk.held.push(StoredEnvelope { id, bytes, validity });
                }
                Some(LogPlace::Pruned { id, envelope }) => chunk.pruned.push((id, envelope)),
                Some(LogPlace::Empty { .. }) => {}
                None => break,
            }
        }
        let is_empty = chunk.held.is_empty() && chunk.pruned.is_empty();
        Ok((!is_empty).then_some(chunk))
    }

    fn place(&mut self) -> Result<Option<LogPlace>, ReadError> {
        loop {
            if let Some(place) = self.strand.as_mut().and_then(Iterator::next) {
                return place.map(Some);
            }
            let Some(head) = self.heads.pop() else { return Ok(None) };
            let beginning = EnvelopeId { sequence: SequenceId::NONE, ..head };
            let after = beginning.max(self.after);
            self.strand = Some(self.snapshot.places(after, head.sequence));
        }
    }
}
