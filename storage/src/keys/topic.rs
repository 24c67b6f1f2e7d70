//! Rows of envelopes, by topic.

use std::cmp::Ordering;

use bytes::Bytes;
use hawser_proto::EnvelopeId;

use super::envelope::EnvelopeKey;
use super::{Key, take};
use crate::change::Facts;
use crate::family::Family;

/// Envelopes up to this length, in bytes, are stored in their topic rows as well. A guess: nearly all
/// messages of a conversation are shorter, and for a longer one the extra write costs more than the read
/// saves. `docs/decisions/0018-envelopes-beside-topics.md` has the cost.
pub(crate) const BESIDE_LEN_BYTES_MAX: usize = 2048;

/// The bit of a row's envelope length that is set if the envelope follows. No envelope has such a length.
const ENVELOPE_FOLLOWS: u32 = 1 << 31;

/// Column family `topic`: `[length u16 BE][topic][originator u32 BE][sequence u64 BE]` → `[originator_ns i64
/// BE][envelope length u32 BE]`, per envelope depended on `[originator u32 BE][sequence u64 BE]`, and the envelope
/// if the highest bit of its length is set: one of up to [`BESIDE_LEN_BYTES_MAX`] bytes. Rows of formats before 4
/// have no envelope, and are still valid.
///
/// The length in front keeps the rows of one topic adjacent even when the topic is a prefix of another. Rows of a
/// topic sort by originator, then by sequence.
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

    /// Returns the key of an envelope with these facts; `None` if it has no row.
    pub(crate) fn of(facts: &'a Facts, id: EnvelopeId) -> Option<Self> {
        Self::new(facts.topic.as_ref()?.as_bytes(), id)
    }

    pub(crate) fn id(&self) -> EnvelopeId {
        self.id
    }

    /// Returns the first bytes of the encoded key as a number. Numbers that differ have the order of the keys.
    pub(crate) fn front(&self) -> u128 {
        let mut front = [0_u8; size_of::<u128>()];
        front[..2].copy_from_slice(&self.topic_len().to_be_bytes());
        let beginning = &self.topic[..self.topic.len().min(front.len() - 2)];
        front[2..2 + beginning.len()].copy_from_slice(beginning);
        u128::from_be_bytes(front)
    }

    fn topic_len(&self) -> u16 {
        u16::try_from(self.topic.len()).expect("checked when the key was made")
    }

    /// Encodes the key into `buffer`, replacing its content. Saves an allocation per key where many are
    /// written.
    pub(crate) fn encode_into(self, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.topic_len().to_be_bytes());
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

/// A row of the topic index: an envelope with the values that a page plan needs.
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
    /// The envelope as signed, if the row has it and the scan requested it. Otherwise it has to be read from the
    /// log.
    pub envelope: Option<Bytes>,
}

/// Encodes the value of a row into `buffer`, replacing its content.
pub(crate) fn encode_value(
    originator_ns: i64,
    envelope: &[u8],
    depends_on: &[EnvelopeId],
    buffer: &mut Vec<u8>,
) {
    let is_beside = envelope.len() <= BESIDE_LEN_BYTES_MAX;
    let len_bytes = u32::try_from(envelope.len()).unwrap_or(u32::MAX).min(ENVELOPE_FOLLOWS - 1);
    let flag = if is_beside { ENVELOPE_FOLLOWS } else { 0 };
    buffer.clear();
    buffer.extend_from_slice(&originator_ns.to_be_bytes());
    buffer.extend_from_slice(&(len_bytes | flag).to_be_bytes());
    for &id in depends_on {
        buffer.extend_from_slice(&EnvelopeKey(id).encode());
    }
    if is_beside {
        buffer.extend_from_slice(envelope);
    }
}

/// A row's value, pointing into its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicValue<'a> {
    pub(crate) originator_ns: i64,
    pub(crate) len_bytes: u32,
    depends_on: &'a [u8],
    pub(crate) envelope: Option<&'a [u8]>,
}

impl<'a> TopicValue<'a> {
    /// Decodes a value; `None` for malformed bytes.
    pub(crate) fn decode(value: &'a [u8]) -> Option<Self> {
        let (originator_ns, rest) = take(value)?;
        let (len_bytes, rest) = take(rest)?;
        let len_bytes = u32::from_be_bytes(len_bytes);
        let (depends_on, envelope, len_bytes) = if len_bytes & ENVELOPE_FOLLOWS == 0 {
            (rest, None, len_bytes)
        } else {
            let len_bytes = len_bytes & !ENVELOPE_FOLLOWS;
            let at = rest.len().checked_sub(usize::try_from(len_bytes).ok()?)?;
            let (depends_on, envelope) = rest.split_at(at);
            (depends_on, Some(envelope), len_bytes)
        };
        let originator_ns = i64::from_be_bytes(originator_ns);
        depends_on.len().is_multiple_of(ID_LEN).then_some(Self {
            originator_ns,
            len_bytes,
            depends_on,
            envelope,
        })
    }

    /// Returns the chain envelopes that readers must have first.
    pub(crate) fn depends_on(&self) -> Vec<EnvelopeId> {
        let ids = self.depends_on.chunks_exact(ID_LEN);
        ids.filter_map(|bytes| Some(EnvelopeKey::decode(bytes)?.0)).collect()
    }

    /// Returns the row of envelope `id`, without the envelope.
    pub(crate) fn row(&self, id: EnvelopeId) -> TopicRow {
        TopicRow {
            id,
            originator_ns: self.originator_ns,
            len_bytes: self.len_bytes,
            depends_on: self.depends_on(),
            envelope: None,
        }
    }
}

/// Length of an envelope id in a value, in bytes.
const ID_LEN: usize = 12;

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
                    let other = TopicKey::new(other, b).unwrap();
                    keeps_order(key, other);
                    let fronts = key.front().cmp(&other.front());
                    prop_assert!(fronts.is_eq() || fronts == key.cmp(&other));
                }
            }
        }

        #[test]
        fn values_read_back(
            ns in any::<i64>(),
            envelope in proptest::collection::vec(any::<u8>(), 0..2 * BESIDE_LEN_BYTES_MAX),
            deps in proptest::collection::vec(ids(), 0..3),
            id in ids(),
        ) {
            let mut value = vec![9; 3];
            encode_value(ns, &envelope, &deps, &mut value);
            let read = TopicValue::decode(&value).unwrap();
            let len_bytes = u32::try_from(envelope.len()).unwrap();
            let row = TopicRow {
                id, originator_ns: ns, len_bytes, depends_on: deps, envelope: None,
            };
            prop_assert_eq!(read.row(id), row);
            let is_beside = envelope.len() <= BESIDE_LEN_BYTES_MAX;
            prop_assert_eq!(read.envelope, is_beside.then_some(&envelope[..]));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = TopicKey::decode(&bytes);
            let _ = TopicValue::decode(&bytes).map(|value| value.row(EnvelopeId::default()));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let id = EnvelopeId::new(OriginatorId(100), SequenceId(7));
        let key = TopicKey::new(&[0, 0xaa, 0xbb], id).unwrap();
        assert_eq!(key.encode(), [0, 3, 0, 0xaa, 0xbb, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7]);
        let on = [EnvelopeId::new(OriginatorId(0), SequenceId(3))];
        let on_bytes = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
        let mut value = Vec::new();
        encode_value(1, b"ab", &on, &mut value);
        let small = [&[0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 2][..], &on_bytes, b"ab"].concat();
        assert_eq!(value, small);
        encode_value(1, &[7; BESIDE_LEN_BYTES_MAX + 1], &on, &mut value);
        let large = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 8, 1][..], &on_bytes].concat();
        assert_eq!(value, large, "and so were all rows before format 4");
    }

    #[test]
    fn topics_whose_length_does_not_fit_have_no_key() {
        let id = EnvelopeId::default();
        assert!(TopicKey::new(&vec![0; 65_535], id).is_some());
        assert_eq!(TopicKey::new(&vec![0; 65_536], id), None);
    }
}
