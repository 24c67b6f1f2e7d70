//! Envelopes as the entries of messages, in batches.

use bytes::{Buf as _, Bytes};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

use crate::read::limits::{BatchLimits, BatchSize, wire_len_bytes};

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
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Copies an envelope behind the others.
    pub(super) fn push(&mut self, envelope: &[u8]) {
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

    /// Returns the batches, the last one included.
    pub(super) fn end(mut self) -> Vec<EnvelopeEntries> {
        if !self.is_empty() {
            self.end_batch();
        }
        self.full
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
