//! Turns marks of missing places into marks of expired ones.

use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::WriteBatch;

use crate::change::SkipReason;
use crate::database::Database;
use crate::error::CommitError;
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::raw_rows::nearest_mark;
use crate::store::Store;

impl Store {
    /// Marks the places of one strand from `from` to `through`, both included, as expired. Returns true when that is
    /// durable, and false without a change if not all of them are in one range that is marked missing.
    ///
    /// The caller has learned that the strand's own node no longer keeps them. An envelope that is found later still
    /// fills its place.
    ///
    /// # Errors
    /// When rows cannot be read or written. Nothing is written then.
    pub fn expire_missing(
        &self,
        from: EnvelopeId,
        through: SequenceId,
    ) -> Result<bool, CommitError> {
        self.database().expire_missing(from, through)
    }
}

impl Database {
    fn expire_missing(&self, from: EnvelopeId, through: SequenceId) -> Result<bool, CommitError> {
        self.check_writable()?;
        let _no_rebuild = self.gate.read();
        let head = self.strands.head(from.originator);
        let _no_commit = head.lock();
        let marks = self.family(MarkKey::FAMILY);
        let nearest = nearest_mark(&mut self.db.raw_iterator_cf(marks), from)?;
        let Some((at, Mark::Missing { through: end })) = nearest else { return Ok(false) };
        if at.originator != from.originator || through < from.sequence || end < through {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        let mut value = Vec::new();
        let mut put = |at: EnvelopeId, mark: Mark| {
            mark.encode_into(&mut value);
            batch.put_cf(marks, MarkKey(at).encode(), &value);
        };
        if at < from {
            put(at, Mark::Missing { through: from.sequence.previous() });
        }
        put(from, Mark::range(SkipReason::Expired, through));
        if through < end {
            put(EnvelopeId { sequence: through.next(), ..from }, Mark::Missing { through: end });
        }
        let writing = self.expired_ends.writing();
        self.write_change(batch)?;
        drop(writing);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hawser_proto::OriginatorId;

    use super::*;
    use crate::{Change, InvalidRule, LogEntry, testing};

    const NODE: OriginatorId = OriginatorId(200);

    fn at(sequence: u64) -> EnvelopeId {
        EnvelopeId::new(NODE, SequenceId(sequence))
    }

    fn entry(sequence: u64) -> Change {
        Change::Append(LogEntry::invalid(at(sequence), Bytes::from_static(b"it"), InvalidRule(1)))
    }

    /// Returns a store in which the places 2 to 9 are missing.
    fn store() -> Store {
        let store = testing::store();
        let (from, through) = (SequenceId(2), SequenceId(9));
        let skip = Change::Skip { originator: NODE, from, through, reason: SkipReason::Missing };
        store.commit(&[entry(1), skip, entry(10)]).unwrap();
        store
    }

    fn missing(store: &Store) -> Vec<(u64, u64)> {
        let ranges = store.snapshot().missing(NODE).unwrap();
        ranges.into_iter().map(|(from, to)| (from.0, to.0)).collect()
    }

    #[test]
    fn a_part_of_a_missing_range_expires_and_the_others_stay_missing() {
        let store = store();
        assert!(store.oldest().unwrap().is_empty());
        assert!(store.expire_missing(at(4), SequenceId(6)).unwrap());
        assert_eq!(missing(&store), [(2, 3), (7, 9)]);
        let mark = |sequence| store.snapshot().mark(at(sequence)).unwrap();
        assert_eq!(mark(5), Some(Mark::Expired { through: SequenceId(6) }));
        assert_eq!(*store.oldest().unwrap(), [at(7)], "readers are told");
        assert!(store.expire_missing(at(2), SequenceId(3)).unwrap());
        assert!(store.expire_missing(at(7), SequenceId(9)).unwrap());
        assert_eq!(missing(&store), []);
        assert_eq!(*store.oldest().unwrap(), [at(10)]);
        // It is found after all.
        store.commit(&[entry(5)]).unwrap();
        assert!(store.snapshot().get(at(5)).unwrap().is_some());
    }

    #[test]
    fn places_that_are_not_missing_do_not_expire() {
        let store = store();
        store.commit(&[entry(5)]).unwrap();
        let (before, behind) = (SequenceId(1), SequenceId(12));
        for (from, through) in
            [(1, before), (10, SequenceId(10)), (4, SequenceId(6)), (8, behind), (8, SequenceId(7))]
        {
            assert!(!store.expire_missing(at(from), through).unwrap(), "{from} to {through}");
        }
        let other = EnvelopeId::new(OriginatorId(300), SequenceId(2));
        assert!(!store.expire_missing(other, SequenceId(3)).unwrap());
        assert_eq!(missing(&store), [(2, 4), (6, 9)]);
    }
}
