//! Envelopes by topic.

use std::cmp::Ordering;

use hawser_proto::EnvelopeId;

use super::envelope::EnvelopeKey;
use super::{Key, take};
use crate::family::Family;

/// Column family `topic`: `[length u16 BE][topic][originator u32 BE][sequence u64 BE]` →
/// `[originator_ns i64 BE][envelope length u32 BE]` and, per envelope depended on,
/// `[originator u32 BE][sequence u64 BE]`.
///
/// The length in front keeps the rows of one topic adjacent even when the topic is a prefix of another. Rows of a topic sort by originator, then by sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicKey<'a> {
    topic: &'a [u8],
    id: EnvelopeId,
}

impl<'a> TopicKey<'a> {
    /// Returns the key; `None` for a topic above 65,535 bytes, which is not indexed.
    pub(crate) fn new(topic: &'a [u8], id: EnvelopeId) -> Option<Self> {
        u16::try_from(topic.len()).is_ok().then_some(Self { topic, id })
    }

    pub(crate) fn id(&self) -> EnvelopeId {
        self.id
    }

    /// Encodes the key into `buffer`, replacing its content. Saves an allocation per key where many are
    /// written.
    pub(crate) fn encode_into(self, buffer: &mut Vec<u8>) {
        let len = u16::try_from(self.topic.len()).expect("checked when the key was made");
        buffer.clear();
        buffer.extend_from_slice(&len.to_be_bytes());
        buffer.extend_from_slice(self.topic);
        buffer.extend_from_slice(&EnvelopeKey(self.id).encode());
    }
}

/// Returns the length of the topic part at the front of `key`; `None` for malformed bytes.
pub(crate) fn prefix_len(key: &[u8]) -> Option<usize> {
    let (len, rest) = take::<2>(key)?;
    let len = usize::from(u16::from_be_bytes(len));
    (rest.len() >= len).then_some(2 + len)
}

impl<'a> Key<'a> for TopicKey<'a> {
    const FAMILY: Family = Family::Topic;
    type Bytes = Vec<u8>;

    fn encode(self) -> Self::Bytes {
        let mut key = Vec::with_capacity(2 + self.topic.len() + 12);
        self.encode_into(&mut key);
        key
    }

    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (prefix, id) = bytes.split_at_checked(prefix_len(bytes)?)?;
        Some(Self { topic: &prefix[2..], id: EnvelopeKey::decode(id)?.0 })
    }
}

impl Ord for TopicKey<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.topic.len(), self.topic, self.id).cmp(&(other.topic.len(), other.topic, other.id))
    }
}

impl PartialOrd for TopicKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One row of the topic index: an envelope with all that a page plan needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    /// Id of the envelope.
    pub id: EnvelopeId,
    /// The originator's time in unix nanoseconds.
    pub originator_ns: i64,
    /// Length of the stored envelope.
    pub len_bytes: u32,
    /// Chain envelopes that readers must have first. Allocates only if there are any.
    pub depends_on: Vec<EnvelopeId>,
}

/// Encodes the value of a row into `buffer`, replacing its content.
pub(crate) fn encode_value(
    originator_ns: i64,
    len_bytes: u32,
    depends_on: &[EnvelopeId],
    buffer: &mut Vec<u8>,
) {
    buffer.clear();
    buffer.extend_from_slice(&originator_ns.to_be_bytes());
    buffer.extend_from_slice(&len_bytes.to_be_bytes());
    for &id in depends_on {
        buffer.extend_from_slice(&EnvelopeKey(id).encode());
    }
}

/// Decodes the value of a row; `None` for malformed bytes.
pub(crate) fn decode_value(id: EnvelopeId, value: &[u8]) -> Option<TopicRow> {
    let (originator_ns, rest) = take(value)?;
    let (len_bytes, rest) = take(rest)?;
    let depends_on = rest
        .chunks(12)
        .map(|bytes| EnvelopeKey::decode(bytes).map(|key| key.0))
        .collect::<Option<Vec<_>>>()?;
    Some(TopicRow {
        id,
        originator_ns: i64::from_be_bytes(originator_ns),
        len_bytes: u32::from_be_bytes(len_bytes),
        depends_on,
    })
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::keeps_order;

    fn ids() -> impl Strategy<Value = EnvelopeId> {
        (any::<u32>(), any::<u64>())
            .prop_map(|(o, s)| EnvelopeId::new(OriginatorId(o), SequenceId(s)))
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(
            short in proptest::collection::vec(0u8..3, 0..5),
            long in proptest::collection::vec(any::<u8>(), 0..300),
            a in ids(),
            b in ids(),
        ) {
            let topics = [short, long];
            for topic in &topics {
                let key = TopicKey::new(topic, a).unwrap();
                let bytes = key.encode();
                prop_assert_eq!(TopicKey::decode(&bytes), Some(key));
                prop_assert_eq!(prefix_len(&bytes), Some(2 + topic.len()));
                for other in &topics {
                    keeps_order(key, TopicKey::new(other, b).unwrap());
                }
            }
        }

        #[test]
        fn values_read_back(ns in any::<i64>(), len in any::<u32>(), deps in proptest::collection::vec(ids(), 0..3), id in ids()) {
            let mut value = vec![9; 3];
            encode_value(ns, len, &deps, &mut value);
            let row = TopicRow { id, originator_ns: ns, len_bytes: len, depends_on: deps };
            prop_assert_eq!(decode_value(id, &value), Some(row));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = TopicKey::decode(&bytes);
            let _ = decode_value(EnvelopeId::default(), &bytes);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        let key = TopicKey::new(&[0, 0xaa, 0xbb], id).unwrap();
        assert_eq!(key.encode(), [0, 3, 0, 0xaa, 0xbb, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7]);
        let mut value = Vec::new();
        encode_value(1, 2, &[EnvelopeId::new(OriginatorId(0), SequenceId(3))], &mut value);
        assert_eq!(value, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn topics_whose_length_does_not_fit_have_no_key() {
        let id = EnvelopeId::default();
        assert!(TopicKey::new(&vec![0; 65_535], id).is_some());
        assert_eq!(TopicKey::new(&vec![0; 65_536], id), None);
    }
}
