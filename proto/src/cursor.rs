//! The vector cursor: the position of a reader in every strand.

use std::collections::BTreeMap;

use crate::ids::{EnvelopeId, OriginatorId, SequenceId};
use crate::pb::xmtp::xmtpv4::envelopes as pb;

/// A map from originator to the highest sequence id seen. An absent originator means 0, and entries of 0
/// are dropped, so two cursors with the same meaning are equal.
///
/// A list, because most cursors have few entries and a node keeps one for each topic of a stream that catches up. A
/// tree would take ten times as much for a single entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// One entry for each originator, ascending.
    seen: Vec<EnvelopeId>,
}

impl Cursor {
    /// Returns the cursor of a reader that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the highest sequence id seen of `originator`, 0 for none.
    #[must_use]
    pub fn get(&self, originator: OriginatorId) -> SequenceId {
        self.place(originator).map_or(SequenceId::NONE, |at| self.seen[at].sequence)
    }

    /// Returns the place of an originator's entry, or the place where it would be inserted.
    fn place(&self, originator: OriginatorId) -> Result<usize, usize> {
        match self.seen.last() {
            // Entries mostly come in ascending order.
            Some(last) if last.originator < originator => Err(self.seen.len()),
            _ => self.seen.binary_search_by_key(&originator, |id| id.originator),
        }
    }

    /// Moves an entry up to `id`. Never moves it down.
    pub fn advance(&mut self, id: EnvelopeId) {
        if id.sequence > SequenceId::NONE {
            match self.place(id.originator) {
                Ok(at) => self.seen[at].sequence = self.seen[at].sequence.max(id.sequence),
                Err(at) => self.seen.insert(at, id),
            }
        }
    }

    /// Takes the higher entry of both cursors for every originator. Costs a search for each entry of `other`, and one
    /// pass over both if entries are missing here.
    pub fn merge(&mut self, other: &Self) {
        let mut missing = Vec::new();
        for id in other.iter() {
            match self.place(id.originator) {
                Ok(at) => self.seen[at].sequence = self.seen[at].sequence.max(id.sequence),
                Err(_) => missing.push(id),
            }
        }
        if !missing.is_empty() {
            // Exact, as in `from_iter`.
            self.seen.reserve_exact(missing.len());
            self.seen.append(&mut missing);
            // Two ascending runs: the stable sort merges them.
            self.seen.sort_by_key(|id| id.originator);
        }
    }

    /// Returns true when `id` is at or below its originator's entry.
    #[must_use]
    pub fn covers(&self, id: EnvelopeId) -> bool {
        id.sequence <= self.get(id.originator)
    }

    /// Iterates over the entries, by originator ascending.
    pub fn iter(&self) -> impl Iterator<Item = EnvelopeId> + '_ {
        self.seen.iter().copied()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Returns the memory that its entries take, with the room for further ones, in bytes.
    #[must_use]
    pub fn entries_bytes(&self) -> usize {
        self.seen.capacity() * size_of::<EnvelopeId>()
    }

    /// Returns true when the cursor has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Returns the wire form, entries ascending.
    #[must_use]
    pub fn to_pb(&self) -> pb::Cursor {
        pb::Cursor {
            node_id_to_sequence_id: self
                .iter()
                .map(|id| (id.originator.0, id.sequence.0))
                .collect(),
        }
    }
}

/// The reason a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorTextError<'a> {
    /// An entry is not `ORIGINATOR=SEQUENCE`, or repeats an originator.
    #[error("{0:?} is no ORIGINATOR=SEQUENCE, or names an originator again")]
    Entry(&'a str),
    /// There are more entries than the limit.
    #[error("{0} entries are too many")]
    Entries(usize),
}

impl Cursor {
    /// Reads the text form, `100=5123,200=77`, which may be spread over several texts. Spaces and empty entries are
    /// allowed. A sequence id above [`SequenceId::MAX`] counts as that maximum, as in the wire form.
    ///
    /// # Errors
    /// [`CursorTextError`]: an entry is wrong, or there are more than `entries_max`.
    pub fn from_texts<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        entries_max: usize,
    ) -> Result<Self, CursorTextError<'a>> {
        let mut places = BTreeMap::new();
        for entry in texts.into_iter().flat_map(|text| text.split(',')).map(str::trim) {
            if entry.is_empty() {
                continue;
            }
            let parsed = entry.split_once('=').and_then(|(originator, sequence)| {
                Some((number(originator)?.parse().ok()?, number(sequence)?.parse().ok()?))
            });
            let (originator, sequence): (u32, u64) = parsed.ok_or(CursorTextError::Entry(entry))?;
            if places.insert(originator, sequence).is_some() {
                return Err(CursorTextError::Entry(entry));
            }
        }
        if places.len() > entries_max {
            return Err(CursorTextError::Entries(places.len()));
        }
        Ok(Self::from(&pb::Cursor { node_id_to_sequence_id: places }))
    }
}

/// Returns a text without spaces around it if it has only digits. The parser of numbers would take a sign.
fn number(text: &str) -> Option<&str> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
}

/// Converts the wire form. A sequence id above [`SequenceId::MAX`] counts as that maximum, so a hostile
/// cursor means "everything seen" and never "from the beginning".
impl From<&pb::Cursor> for Cursor {
    fn from(cursor: &pb::Cursor) -> Self {
        cursor
            .node_id_to_sequence_id
            .iter()
            .map(|(&originator, &sequence)| {
                EnvelopeId::new(OriginatorId(originator), SequenceId(sequence).min(SequenceId::MAX))
            })
            .collect()
    }
}

impl FromIterator<EnvelopeId> for Cursor {
    /// Takes the highest entry of each originator. Sorts once if the ids do not ascend, so that no order is slow.
    fn from_iter<I: IntoIterator<Item = EnvelopeId>>(ids: I) -> Self {
        let ids = ids.into_iter();
        // Mostly exact, so that a cursor that is kept takes no more than its entries.
        let mut seen = Vec::with_capacity(ids.size_hint().0);
        seen.extend(ids.filter(|id| id.sequence > SequenceId::NONE));
        if !seen.is_sorted_by(|a: &EnvelopeId, b| a.originator < b.originator) {
            seen.sort_unstable();
            seen.dedup_by(|higher, kept| {
                let is_same = higher.originator == kept.originator;
                if is_same {
                    kept.sequence = higher.sequence;
                }
                is_same
            });
        }
        Self { seen }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursors() -> impl Strategy<Value = Cursor> {
        proptest::collection::btree_map(0u32..6, 0u64..9, 0..6).prop_map(|entries| {
            entries
                .into_iter()
                .map(|(o, s)| EnvelopeId::new(OriginatorId(o), SequenceId(s)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_wire_form_says_the_same(cursor in cursors()) {
            prop_assert_eq!(Cursor::from(&cursor.to_pb()), cursor);
        }

        #[test]
        fn merging_is_commutative_idempotent_and_never_moves_down(a in cursors(), b in cursors()) {
            let mut ab = a.clone();
            ab.merge(&b);
            let mut ba = b.clone();
            ba.merge(&a);
            prop_assert_eq!(&ab, &ba);
            let before = ab.clone();
            ab.merge(&a);
            prop_assert_eq!(&ab, &before);
            prop_assert!(a.iter().chain(b.iter()).all(|id| ab.covers(id)));
            prop_assert!(ab.iter().all(|id| a.get(id.originator) == id.sequence || b.get(id.originator) == id.sequence));
        }
    }

    #[test]
    fn sequences_beyond_what_peers_store_mean_everything_seen() {
        let wire = pb::Cursor { node_id_to_sequence_id: [(100, u64::MAX)].into() };
        assert_eq!(Cursor::from(&wire).get(OriginatorId(100)), SequenceId::MAX);
    }

    /// Entries in any order, and originators that are named again, give the same cursor as single steps.
    #[test]
    fn collected_entries_may_come_in_any_order() {
        let id =
            |originator, sequence| EnvelopeId::new(OriginatorId(originator), SequenceId(sequence));
        let ids = [id(7, 2), id(3, 9), id(7, 5), id(1, 0), id(3, 4), id(5, 1), id(7, 3)];
        let mut stepped = Cursor::new();
        ids.iter().for_each(|&id| stepped.advance(id));
        let collected: Cursor = ids.into_iter().collect();
        assert_eq!(collected, stepped);
        assert_eq!(collected.iter().collect::<Vec<_>>(), [id(3, 9), id(5, 1), id(7, 5)]);
    }

    /// A peer may name strands in the worst order. Insertion one by one would move half of the list each time.
    #[test]
    fn a_hundred_thousand_descending_entries_are_sorted_once() {
        let ids = (1..=100_000).rev().map(|it| EnvelopeId::new(OriginatorId(it), SequenceId(1)));
        let mut cursor: Cursor = ids.clone().collect();
        assert_eq!(cursor.len(), 100_000);
        let others =
            ids.map(|id| EnvelopeId::new(OriginatorId(id.originator.0 + 50_000), SequenceId(2)));
        cursor.merge(&others.collect());
        assert_eq!(cursor.len(), 150_000);
        assert_eq!(cursor.get(OriginatorId(60_000)), SequenceId(2));
        assert!(cursor.iter().is_sorted());
    }

    #[test]
    fn an_entry_of_zero_is_the_same_as_none() {
        let wire = pb::Cursor { node_id_to_sequence_id: [(0, 0)].into() };
        assert_eq!(Cursor::from(&wire), Cursor::new());
    }
}
