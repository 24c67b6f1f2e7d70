//! Common traits of the keys of evidence and of reports. Both are records about nodes, and one record is kept for each
//! fact.
//!
//! Each kind of record has two families: the records by their time, and an index of facts that names the record of
//! each.

use std::fmt::Debug;

use hawser_proto::OriginatorId;

use super::Key;

/// The key of a record: the time at which it was stored, and a part that makes it unique.
pub(crate) trait RecordTime: for<'a> Key<'a> + Default {
    /// Returns the key of a record that is stored at `now_ns`, after this one.
    fn next(self, now_ns: u64) -> Self;

    /// Returns the time, unix nanoseconds.
    fn stored_at_ns(self) -> u64;
}

/// A part of the room for records about one node. A node that fills one leaves the others free.
pub(crate) trait FactClass: Copy + Ord + Debug {
    /// Returns true for records that are kept for ever. The others make room for later ones.
    fn is_proven(self) -> bool;

    /// Returns true for records that strangers submit and that prove nothing. Those about all nodes share a bound.
    fn is_submitted(self) -> bool;
}

/// A fact about a node, as the key of its row in the index. The value is a [`FactRow`].
pub(crate) trait Fact: for<'a> Key<'a> {
    /// The key of its record.
    type Time: RecordTime;
    /// The parts of the room.
    type Class: FactClass;
    /// Name of a record, for the log.
    const RECORD: &'static str;

    /// Returns the node that the fact is about.
    fn accused(self) -> OriginatorId;

    /// Returns the part of the room that the record takes.
    fn class(self) -> Self::Class;

    /// Returns the lowest fact of a class that is not proven. The facts of such a class about one node are
    /// adjacent.
    fn first(accused: OriginatorId, class: Self::Class) -> Self;
}

/// The value of a fact: the key of its record, and the record's length as `u32 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FactRow<T> {
    pub(crate) at: T,
    pub(crate) len_bytes: u32,
}

impl<T: RecordTime> FactRow<T> {
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.at.encode().as_ref(), &self.len_bytes.to_be_bytes()].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (at, len_bytes) = value.split_last_chunk()?;
        Some(Self { at: T::decode(at)?, len_bytes: u32::from_be_bytes(*len_bytes) })
    }
}
