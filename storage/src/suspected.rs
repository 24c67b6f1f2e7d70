//! Envelopes whose dependencies a chain has yet to decide about. They are kept across restarts.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::lists::decode_items;
use crate::store::Store;

/// Length of one in its row, bytes.
const LEN_BYTES: usize = 32;

/// An envelope that names a place of a chain which the chain does not have yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectedDependency {
    /// Originator and sequence id of the envelope.
    pub at: EnvelopeId,
    /// The place of a chain's strand that it depends on.
    pub needed: EnvelopeId,
    /// The time of the envelope, unix nanoseconds.
    pub originator_ns: i64,
}

impl SuspectedDependency {
    fn encode(&self) -> [u8; LEN_BYTES] {
        let mut bytes = [0; LEN_BYTES];
        bytes[..4].copy_from_slice(&self.at.originator.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.at.sequence.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.needed.originator.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.needed.sequence.0.to_be_bytes());
        bytes[24..].copy_from_slice(&self.originator_ns.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN_BYTES]) -> Self {
        let (at_originator, rest) = bytes.split_first_chunk().expect("32 bytes");
        let (at_sequence, rest) = rest.split_first_chunk().expect("28 bytes");
        let (needed_originator, rest) = rest.split_first_chunk().expect("20 bytes");
        let (needed_sequence, rest) = rest.split_first_chunk().expect("16 bytes");
        let originator_ns = rest.try_into().expect("8 bytes");
        let id = |originator: &[u8; 4], sequence: &[u8; 8]| {
            let originator = OriginatorId(u32::from_be_bytes(*originator));
            EnvelopeId::new(originator, SequenceId(u64::from_be_bytes(*sequence)))
        };
        Self {
            at: id(at_originator, at_sequence),
            needed: id(needed_originator, needed_sequence),
            originator_ns: i64::from_be_bytes(originator_ns),
        }
    }

    /// Decodes the row of all of them.
    fn decode_all(row: &[u8]) -> Option<Vec<Self>> {
        decode_items(row, |bytes: &[u8; LEN_BYTES]| Some(Self::decode(bytes)))
    }
}

impl Store {
    /// Returns the envelopes that were suspected when they were last recorded.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn suspected(&self) -> Result<Vec<SuspectedDependency>, ReadError> {
        self.database().read_list(MetaKey::SuspectedDependencies, SuspectedDependency::decode_all)
    }

    /// Records all envelopes that are suspected now, in place of those before. The write becomes durable with the next
    /// commit: a suspicion that is lost with it accuses no node.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_suspected(&self, suspected: &[SuspectedDependency]) -> Result<(), CommitError> {
        let row: Vec<u8> = suspected.iter().flat_map(SuspectedDependency::encode).collect();
        self.database().record_list(MetaKey::SuspectedDependencies, &row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    #[test]
    fn what_is_recorded_last_is_read_back_and_its_form_is_pinned() {
        let store = store();
        assert_eq!(store.suspected().unwrap(), []);
        let suspected = |sequence| SuspectedDependency {
            at: EnvelopeId::new(OriginatorId(200), SequenceId(sequence)),
            needed: EnvelopeId::new(OriginatorId::IDENTITY_UPDATES, SequenceId(u64::MAX)),
            originator_ns: -5,
        };
        store.record_suspected(&[suspected(7), suspected(8)]).unwrap();
        assert_eq!(store.suspected().unwrap(), [suspected(7), suspected(8)]);
        store.record_suspected(&[suspected(9)]).unwrap();
        assert_eq!(store.suspected().unwrap(), [suspected(9)]);
        assert_eq!(
            suspected(9).encode(),
            [
                0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255,
                255, 255, 255, 255, 255, 255, 255, 255, 255, 251
            ]
        );
        assert_eq!(SuspectedDependency::decode_all(&[0; 33]), None);
    }
}
