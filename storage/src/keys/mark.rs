//! Marks: places of the log that readers do not get, with the reason.

use hawser_proto::{EnvelopeId, SequenceId};

use super::envelope::EnvelopeKey;
use super::{Key, decode_u64};
use crate::change::{InvalidRule, SkipReason};
use crate::family::Family;

/// Column family `mark`: `[originator u32 BE][sequence u64 BE]` → `[1][rule u8]` for an invalid envelope, or for a
/// range that begins here `[2][through u64 BE]` (missing), `[3][through u64 BE]` (void) and `[4][through u64 BE]`
/// (expired); `[5]` for an envelope whose validity is not known yet; `[6][through u64 BE]` (pruned).
///
/// Ranges neither overlap nor cover a stored envelope, so the nearest row at or below a place decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MarkKey(pub(crate) EnvelopeId);

impl Key<'_> for MarkKey {
    const FAMILY: Family = Family::Mark;
    type Bytes = [u8; 12];

    fn encode(self) -> Self::Bytes {
        EnvelopeKey(self.0).encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        EnvelopeKey::decode(bytes).map(|key| Self(key.0))
    }
}

/// The mark of a place or a range of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The envelope is stored and breaks this rule.
    Invalid(InvalidRule),
    /// The envelope is stored, and its validity is unknown.
    Waiting,
    /// No reachable peer has the envelopes up to and including `through`.
    Missing {
        /// The last place of the range.
        through: SequenceId,
    },
    /// The places up to and including `through` are declared empty.
    Void {
        /// The last place of the range.
        through: SequenceId,
    },
    /// The originator has pruned the envelopes up to and including `through`, and this node never stored them.
    Expired {
        /// The last place of the range.
        through: SequenceId,
    },
    /// This node stored the envelopes up to and including `through` until they expired. Each has a record with the
    /// values that tallies and trees need.
    Pruned {
        /// The last place of the range.
        through: SequenceId,
    },
}

impl Mark {
    /// Returns the mark of a range that ends with `through`.
    pub(crate) fn range(reason: SkipReason, through: SequenceId) -> Self {
        match reason {
            SkipReason::Missing => Self::Missing { through },
            SkipReason::Void => Self::Void { through },
            SkipReason::Expired => Self::Expired { through },
            SkipReason::Pruned => Self::Pruned { through },
        }
    }

    /// Returns the last place that a row at `at` covers.
    pub(crate) fn end(self, at: EnvelopeId) -> SequenceId {
        match self {
            Self::Invalid(_) | Self::Waiting => at.sequence,
            Self::Missing { through }
            | Self::Void { through }
            | Self::Expired { through }
            | Self::Pruned { through } => through,
        }
    }

    /// Returns the same range, ending at `through`.
    pub(crate) fn truncated(self, through: SequenceId) -> Self {
        match self {
            Self::Invalid(_) | Self::Waiting => self,
            Self::Missing { .. } => Self::Missing { through },
            Self::Void { .. } => Self::Void { through },
            Self::Expired { .. } => Self::Expired { through },
            Self::Pruned { .. } => Self::Pruned { through },
        }
    }

    pub(crate) fn encode_into(self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let (tag, through) = match self {
            Self::Invalid(rule) => return buffer.extend_from_slice(&[1, rule.0]),
            Self::Waiting => return buffer.push(5),
            Self::Missing { through } => (2, through),
            Self::Void { through } => (3, through),
            Self::Expired { through } => (4, through),
            Self::Pruned { through } => (6, through),
        };
        buffer.push(tag);
        buffer.extend_from_slice(&through.0.to_be_bytes());
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        match value {
            [1, rule] => Some(Self::Invalid(InvalidRule(*rule))),
            [2, through @ ..] => Some(Self::Missing { through: SequenceId(decode_u64(through)?) }),
            [3, through @ ..] => Some(Self::Void { through: SequenceId(decode_u64(through)?) }),
            [5] => Some(Self::Waiting),
            [4, through @ ..] => Some(Self::Expired { through: SequenceId(decode_u64(through)?) }),
            [6, through @ ..] => Some(Self::Pruned { through: SequenceId(decode_u64(through)?) }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = MarkKey> {
        (any::<u32>(), any::<u64>())
            .prop_map(|(o, s)| MarkKey(EnvelopeId::new(OriginatorId(o), SequenceId(s))))
    }

    fn marks() -> impl Strategy<Value = Mark> {
        prop_oneof![
            any::<u8>().prop_map(|rule| Mark::Invalid(InvalidRule(rule))),
            Just(Mark::Waiting),
            any::<u64>().prop_map(|through| Mark::Missing { through: SequenceId(through) }),
            any::<u64>().prop_map(|through| Mark::Void { through: SequenceId(through) }),
            any::<u64>().prop_map(|through| Mark::Expired { through: SequenceId(through) }),
            any::<u64>().prop_map(|through| Mark::Pruned { through: SequenceId(through) }),
        ]
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }

        #[test]
        fn values_read_back(mark in marks()) {
            let mut value = vec![7];
            mark.encode_into(&mut value);
            prop_assert_eq!(Mark::decode(&value), Some(mark));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = MarkKey(EnvelopeId::new(OriginatorId(100), SequenceId(7)));
        assert_eq!(key.encode(), [0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 7]);
        let mut value = Vec::new();
        Mark::Invalid(InvalidRule(9)).encode_into(&mut value);
        assert_eq!(value, [1, 9]);
        Mark::Missing { through: SequenceId(5) }.encode_into(&mut value);
        assert_eq!(value, [2, 0, 0, 0, 0, 0, 0, 0, 5]);
        Mark::Void { through: SequenceId(5) }.encode_into(&mut value);
        assert_eq!(value, [3, 0, 0, 0, 0, 0, 0, 0, 5]);
        Mark::Expired { through: SequenceId(5) }.encode_into(&mut value);
        assert_eq!(value, [4, 0, 0, 0, 0, 0, 0, 0, 5]);
        Mark::Waiting.encode_into(&mut value);
        assert_eq!(value, [5]);
        Mark::Pruned { through: SequenceId(5) }.encode_into(&mut value);
        assert_eq!(value, [6, 0, 0, 0, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn unknown_marks_are_not_guessed() {
        for value in [&[][..], &[0], &[1], &[1, 2, 3], &[2, 0], &[5, 0], &[6], &[6, 0], &[7]] {
            assert_eq!(Mark::decode(value), None, "{value:?}");
        }
    }
}
