//! Pages of a single strand as the entries of messages: each envelope is copied once, from the database's memory to its
//! place in the message.

use bytes::{Buf as _, Bytes};
use hawser_storage::{LogItem, Snapshot, Validity};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

use super::{BYTES_PER_ROW, LogFilling, LogPage, ROWS_PER_SCAN};
use crate::read::error::QueryError;
use crate::read::limits::{BatchLimits, BatchSize, is_deliverable, wire_len_bytes};

/// The number of the field that the entries belong to, in each message with a list of envelopes.
const FIELD: u32 = 1;

/// Envelopes as the entries of a repeated field with the number 1, one behind the other: each has a tag and its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeEntries {
    /// The entries as they are on the wire.
    pub bytes: Bytes,
    /// The number of envelopes.
    pub count: usize,
}

impl EnvelopeEntries {
    /// Returns the envelopes. They share the memory of the entries.
    pub fn envelopes(&self) -> impl Iterator<Item = Bytes> + use<> {
        let mut rest = self.bytes.clone();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            rest.advance(1); // the tag
            let len = decode_varint(&mut rest).expect("an entry has a length");
            Some(rest.split_to(usize::try_from(len).expect("an entry is in memory")))
        })
    }
}

impl From<Vec<Bytes>> for EnvelopeEntries {
    fn from(envelopes: Vec<Bytes>) -> Self {
        let count = envelopes.len();
        let len_bytes = envelopes.iter().map(|envelope| wire_len_bytes(envelope.len())).sum();
        let mut bytes = Vec::with_capacity(len_bytes);
        // Each is given back as soon as it is copied.
        envelopes.into_iter().for_each(|envelope| put_entry(&mut bytes, &envelope));
        Self { bytes: bytes.into(), count }
    }
}

fn put_entry(entries: &mut Vec<u8>, envelope: &[u8]) {
    encode_key(FIELD, WireType::LengthDelimited, entries);
    encode_varint(envelope.len() as u64, entries);
    entries.extend_from_slice(envelope);
}

/// The envelopes of a page while it is filled, in batches.
#[derive(Debug, Default)]
pub(super) struct EntryBatches {
    full: Vec<EnvelopeEntries>,
    last: Vec<u8>,
    size: BatchSize,
    /// The number of envelopes in the last batch.
    count: usize,
}

impl EntryBatches {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, envelope: &[u8]) {
        if !self.size.try_add(BatchLimits::STREAM, envelope.len()) {
            self.end_batch();
            self.size.try_add(BatchLimits::STREAM, envelope.len());
        }
        if self.last.is_empty() {
            // Envelopes of a strand are mostly of one length.
            let BatchLimits { envelopes, len_bytes } = BatchLimits::STREAM;
            let entry_len = wire_len_bytes(envelope.len());
            self.last.reserve(entry_len.max(len_bytes.min(envelopes * entry_len)));
        }
        put_entry(&mut self.last, envelope);
        self.count += 1;
    }

    fn end_batch(&mut self) {
        let mut bytes = std::mem::take(&mut self.last);
        bytes.shrink_to_fit();
        let count = std::mem::take(&mut self.count);
        self.full.push(EnvelopeEntries { bytes: bytes.into(), count });
        self.size = BatchSize::default();
    }

    fn end(mut self) -> Vec<EnvelopeEntries> {
        if !self.is_empty() {
            self.end_batch();
        }
        self.full
    }
}

/// The reason that a page does not take an envelope.
enum EntryRefusal {
    /// It fits into no answer.
    TooLarge,
    Full,
    NoMemory(QueryError),
}

impl EntryRefusal {
    /// Ends the page: returns false, since it does not reach the end of its range.
    ///
    /// # Errors
    /// [`QueryError::NoMemory`] if nothing is in the page yet.
    fn end_page(self, batches: &EntryBatches) -> Result<bool, QueryError> {
        match self {
            Self::NoMemory(error) if batches.is_empty() => Err(error),
            Self::NoMemory(_) | Self::Full | Self::TooLarge => Ok(false),
        }
    }
}

impl LogFilling {
    /// Does a turn of a page of a single strand, as [`fill`](Self::fill) does.
    pub(super) fn fill_entries(
        &mut self,
        mut batches: EntryBatches,
        snapshot: &Snapshot<'_>,
        mut left: usize,
    ) -> Result<Option<LogPage>, QueryError> {
        let mut lane = self.strands.pop().expect("a page in entries is of one strand");
        left = left.saturating_sub(ROWS_PER_SCAN).max(1);
        let mut scan = snapshot.log(lane.after, lane.through);
        let finished = loop {
            if left == 0 {
                self.strands.push(lane);
                self.batches = Some(batches);
                return Ok(None);
            }
            let mut refusal = None;
            let taken = scan.take_valid(|bytes| {
                refusal = self.add_entry(&mut batches, bytes).err();
                refusal.is_none()
            });
            if let Some(id) = taken {
                lane.after = id;
                left -= 1;
                continue;
            }
            if let Some(refusal @ (EntryRefusal::Full | EntryRefusal::NoMemory(_))) = refusal {
                break refusal.end_page(&batches)?;
            }
            let Some(item) = scan.next().transpose()? else {
                lane.after.sequence = lane.through;
                break true;
            };
            left -= 1;
            let (id, bytes, validity) = match item {
                LogItem::Envelope { id, bytes, validity } => (id, bytes, validity),
                LogItem::Skipped { through, .. } => {
                    lane.after.sequence = through.min(lane.through);
                    continue;
                }
            };
            if validity == Validity::Valid && is_deliverable(bytes.len()) {
                if let Err(refusal) = self.add_entry(&mut batches, &bytes) {
                    break refusal.end_page(&batches)?;
                }
            } else {
                left = left.saturating_sub(bytes.len() / BYTES_PER_ROW);
            }
            lane.after = id;
        };
        let reached = std::iter::once(lane.after).collect();
        let (envelopes, batches) = (Vec::new(), batches.end());
        Ok(Some(LogPage { envelopes, batches, reached, finished }))
    }

    /// Puts an envelope into the page, whose memory is taken first.
    fn add_entry(&mut self, batches: &mut EntryBatches, bytes: &[u8]) -> Result<(), EntryRefusal> {
        if !is_deliverable(bytes.len()) {
            return Err(EntryRefusal::TooLarge);
        }
        if !self.size.try_add(self.limits, bytes.len()) {
            return Err(EntryRefusal::Full);
        }
        self.memory.add(1, bytes.len()).map_err(EntryRefusal::NoMemory)?;
        batches.push(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of envelopes in the batches of these.
    fn batches(envelopes: &[&[u8]]) -> Vec<usize> {
        let mut batches = EntryBatches::default();
        envelopes.iter().for_each(|envelope| batches.push(envelope));
        let ended = batches.end();
        let entries: Vec<Bytes> = ended.iter().flat_map(EnvelopeEntries::envelopes).collect();
        assert!(entries == envelopes);
        ended.iter().map(|batch| batch.count).collect()
    }

    #[test]
    fn batches_of_entries_have_the_bounds_of_other_batches() {
        let bytes = vec![7_u8; 3 * 1024 * 1024];
        let (small, large): (&[u8], &[u8]) = (&bytes[..11], &bytes[..1024 * 1024]);
        assert!(batches(&[]).is_empty());
        assert_eq!(batches(&[small; 1100]), [512, 512, 76]);
        assert_eq!(batches(&[large, large, &small[..0], &large[1..], small]), [1, 2, 2]);
        assert_eq!(batches(&[small, &bytes[..], small]), [1, 1, 1]);
    }
}
