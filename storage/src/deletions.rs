//! The deleted rows of a column family that its files still have: what a compaction can give back.

use crate::database::Database;
use crate::family::Family;

/// RocksDB's names of the numbers of deletions in memory tables.
const IN_MEMORY: [&str; 2] =
    ["rocksdb.num-deletes-active-mem-table", "rocksdb.num-deletes-imm-mem-tables"];
/// RocksDB's name of the sum of the properties of all table files of a family.
const OF_TABLES: &str = "rocksdb.aggregated-table-properties";
/// Start of the field of that sum that has the number of deletions.
const FIELD: &str = "# deletions=";

impl Database {
    /// Returns false if neither a table file nor a memory table of the family has a deletion, so a compaction of the
    /// family gives no room back. True also if RocksDB does not say how many there are.
    pub(crate) fn has_deletions(&self, family: Family) -> bool {
        let family = self.family(family);
        let in_memory = IN_MEMORY.iter().any(|&name| {
            let deletions = self.db.property_int_value_cf(family, name).ok().flatten();
            deletions.is_none_or(|it| it > 0)
        });
        in_memory || {
            let properties = self.db.property_value_cf(family, OF_TABLES).ok().flatten();
            properties.and_then(|it| deletions_of(&it)).is_none_or(|it| it > 0)
        }
    }
}

/// Reads the number of deletions from RocksDB's text: `# entries=7; # deletions=0; …`.
fn deletions_of(properties: &str) -> Option<u64> {
    let mut fields = properties.split(';');
    fields.find_map(|field| field.trim().strip_prefix(FIELD)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::{EnvelopeId, Topic};

    use super::*;
    use crate::change::{Change, Facts, LogEntry, Validity};
    use crate::expiring::Expiring;
    use crate::testing::{self, expiring, id};

    fn facts(place: u64) -> Facts {
        let topic = Some(Topic::parse(Bytes::from_static(&[1, 7])).unwrap());
        Facts { topic, ..testing::facts(place) }
    }

    #[test]
    fn the_number_is_read_from_its_own_field() {
        let text = "# data blocks=2; # entries=9; # deletions=7; # range deletions=3; ";
        assert_eq!(deletions_of(text), Some(7));
        assert_eq!(deletions_of("# range deletions=3; "), None);
        assert_eq!(deletions_of(""), None);
    }

    /// The index of topics is one run after a compaction, and the next one would read and write all of it.
    #[test]
    fn topics_are_written_again_only_if_some_were_removed() {
        let store = testing::store();
        let append = |place| {
            let statement = Bytes::from(format!("envelope {place}").into_bytes());
            let bytes = OriginatorEnvelope::encode(statement, Proof::Transaction([1; 32]));
            Change::Append(LogEntry::valid(id(place), bytes, facts(place)))
        };
        store.commit(&(1..=100).map(append).collect::<Vec<_>>()).unwrap();
        store.flush().unwrap();
        let derive = |id: EnvelopeId, _: &Bytes, _: Validity| Some(facts(id.sequence.0));
        let prune = |places: std::ops::Range<u64>| {
            let expired: Vec<Expiring> = places.map(expiring).collect();
            store.prune(&expired, &derive).unwrap().pruned.len()
        };
        let database = store.database();
        let files = || -> BTreeSet<String> {
            let files = database.db.live_files().unwrap().into_iter();
            let topics = files.filter(|it| it.column_family_name == Family::Topic.name());
            topics.map(|it| it.name).collect()
        };
        assert!(!database.has_deletions(Family::Topic));
        assert_eq!(prune(1..50), 49);
        assert!(database.has_deletions(Family::Topic), "they are in memory yet");
        store.flush().unwrap();
        assert!(database.has_deletions(Family::Topic), "they are in a file");

        let before = files();
        store.compact_pruned().unwrap();
        assert!(!database.has_deletions(Family::Topic));
        let compacted = files();
        assert!(compacted.is_disjoint(&before), "{compacted:?} {before:?}");
        store.compact_pruned().unwrap();
        assert_eq!(files(), compacted, "nothing has gone since");

        assert_eq!(prune(50..60), 10);
        store.compact_pruned().unwrap();
        assert!(files().is_disjoint(&compacted));
    }
}
