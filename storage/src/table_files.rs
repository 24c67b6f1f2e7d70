//! Adds the next places of a strand to the log as table files. Nearly all bytes of an envelope are its row of the log
//! and its row of topics: these go through neither the write-ahead log nor a memory table.
//!
//! Rows of the log come in their order, and rows of topics are sorted here. So each call makes one file of either
//! family, synced and in the form in which a memory table would be written out. RocksDB takes over the files first,
//! that of the log before that of topics. All other rows are a commit behind them: the head, the tree, and the rest.
//!
//! After a crash in between, rows of the files are above the head, where no reader looks. Changes that are loaded there
//! later may be others: an envelope that was valid before its signatures were checked has a row of its topic, and an
//! invalid one has none. The earlier row would stay, below the head. So the caller has these rows removed first.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{Cache, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch};

use crate::change::{Change, Facts, LogEntry, Validity};
use crate::commit::CommittedChanges;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::folder::{remove_table_files, table_files_folder};
use crate::hashed::HashedEnvelope;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::topic::{TopicKey, encode_value};
use crate::log_scan::read_options;
use crate::options::family_options;
use crate::rebuild::Derive;
use crate::store::Store;

/// Name of the file with rows of the log.
const LOG: &str = "log.sst";
/// Name of the file with rows of topics.
const TOPICS: &str = "topics.sst";

impl Store {
    /// Commits the next changes of one strand like [`Store::commit`], or with `shown_by` like
    /// [`Store::commit_shown_by`], with table files. Each call writes and syncs two files, so it should have some ten
    /// MiB of envelopes. `hashed` may have the envelopes of the changes, in their order, so that they are not hashed
    /// again.
    ///
    /// Only for a folder from which no node starts meanwhile: an error or a crash may leave rows above the head of the
    /// strand. [`Store::remove_above_head`] is to be called before the next call, and before a node starts.
    ///
    /// # Errors
    /// The errors of [`Store::commit`]; [`CommitError::Gap`] also for changes below the head. Files are left in the
    /// folder after [`CommitError::Write`], and the next call or start removes them.
    pub fn load(
        &self,
        changes: &[Change],
        hashed: &[HashedEnvelope],
        shown_by: Option<&SignedPrefix>,
    ) -> Result<(), CommitError> {
        if changes.is_empty() {
            return Ok(());
        }
        let database = self.database();
        database.check_writable()?;
        let entries = database.entries_behind_head(changes)?;
        // A database in memory has no files.
        let data = self.path().filter(|_| !entries.is_empty());
        if let Some(data) = data {
            let added = database.add_files(data, &self.shared.how.cache, &entries);
            added.map_err(|cause| database.fail_write(cause))?;
        }
        let are_filed = data.is_some();
        // No reader comes to the folder before it is opened anew.
        let (are_shown, are_remembered) = (shown_by.is_some(), false);
        let changes = CommittedChanges { changes, hashed, are_filed, are_shown, are_remembered };
        database.commit_whole(changes, |group| match shown_by {
            Some(prefix) => group.begin_shown_by(prefix),
            None => Ok(()),
        })
    }

    /// Removes the rows above the head of a strand, where a crash within [`Store::load`] may have left some. Returns
    /// the number of envelopes that had them.
    ///
    /// # Errors
    /// When rows cannot be read or written. Nothing is removed then.
    pub fn remove_above_head(
        &self,
        originator: OriginatorId,
        derive: &Derive<'_>,
    ) -> Result<u64, CommitError> {
        let database = self.database();
        database.check_writable()?;
        let head = database.strands.head(originator);
        let head = head.lock();
        let (log, topics) = (database.family(Family::Log), database.family(Family::Topic));
        let (mut batch, mut removed) = (WriteBatch::default(), 0);
        let mut rows =
            database.db.raw_iterator_cf_opt(log, read_options(originator, SequenceId::MAX));
        rows.seek(EnvelopeKey(EnvelopeId::new(originator, head.next())).encode());
        while let Some((key, value)) = rows.item() {
            let decoded = EnvelopeKey::decode(key);
            let EnvelopeKey(id) = decoded.ok_or_else(|| ReadError::corrupt(Family::Log, key))?;
            // One that readers must not get has no row of its topic, and none is removed.
            let facts = derive(id, &Bytes::copy_from_slice(value), Validity::Valid);
            if let Some(topic) = facts.as_ref().and_then(|facts| TopicKey::of(facts, id)) {
                batch.delete_cf(topics, topic.encode());
            }
            batch.delete_cf(log, key);
            removed += 1;
            rows.next();
        }
        rows.status().map_err(DatabaseError::from).map_err(ReadError::from)?;
        if removed > 0 {
            database.write_durable(batch)?;
        }
        Ok(removed)
    }
}

impl Database {
    /// Returns the envelopes of changes, which must be the next ones of one strand.
    fn entries_behind_head<'c>(
        &self,
        changes: &'c [Change],
    ) -> Result<Vec<&'c LogEntry>, CommitError> {
        let mut entries = Vec::with_capacity(changes.len());
        let Some(first) = changes.first() else { return Ok(entries) };
        let mut after = *self.strands.head(first.originator()).lock();
        for change in changes {
            let got = change.start();
            assert_eq!(got.originator, first.originator(), "a table file is of one strand");
            if got.sequence != after.next() {
                return Err(CommitError::Gap { after, got });
            }
            after = change.end().sequence;
            if let Change::Append(entry) = change {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Writes the rows of the log and of topics to table files in the data folder, and has RocksDB take over the files.
    fn add_files(
        &self,
        data: &Path,
        cache: &Cache,
        entries: &[&LogEntry],
    ) -> Result<(), DatabaseError> {
        let _no_rebuild = self.gate.read();
        let folder = table_files_folder(data);
        let failed = |error: io::Error| DatabaseError::of_file(&folder, &error);
        // RocksDB takes a file over by a second name for it. A failure may have left the first one, and writing to that
        // would change the database.
        remove_table_files(data).map_err(failed)?;
        fs::create_dir(&folder).map_err(failed)?;
        let (log, topics) = (folder.join(LOG), folder.join(TOPICS));
        let has_topics = thread::scope(|scope| {
            let sorting = scope
                .spawn(|| write_topics(&topics, &family_options(Family::Topic, cache), entries));
            let written = write_log(&log, &family_options(Family::Log, cache), entries);
            let has_topics = match sorting.join() {
                Ok(has_topics) => has_topics,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            written.and(has_topics)
        })?;
        let mut moving = IngestExternalFileOptions::default();
        moving.set_move_files(true);
        let of_topics = has_topics.then_some((Family::Topic, topics));
        for (family, file) in [(Family::Log, log)].into_iter().chain(of_topics) {
            self.db.ingest_external_file_cf_opts(self.family(family), &moving, vec![file])?;
        }
        remove_table_files(data).map_err(failed)
    }
}

/// Writes the rows of the log, which come in their order.
fn write_log(path: &Path, options: &Options, entries: &[&LogEntry]) -> Result<(), rocksdb::Error> {
    let mut file = SstFileWriter::create(options);
    file.open(path)?;
    for entry in entries {
        file.put(EnvelopeKey(entry.id).encode(), &entry.bytes)?;
    }
    file.finish()
}

/// Writes the rows of topics. Returns false without a file if there are none.
fn write_topics(
    path: &Path,
    options: &Options,
    entries: &[&LogEntry],
) -> Result<bool, rocksdb::Error> {
    let rows = in_order_of_topics(entries);
    if rows.is_empty() {
        return Ok(false);
    }
    let mut file = SstFileWriter::create(options);
    file.open(path)?;
    let (mut key_bytes, mut value) = (Vec::new(), Vec::new());
    for (key, facts, bytes) in rows.into_iter().filter_map(|index| topic_row(entries[index])) {
        key.encode_into(&mut key_bytes);
        encode_value(facts.originator_ns, bytes, &facts.depends_on, &mut value);
        file.put(&key_bytes, &value)?;
    }
    file.finish()?;
    Ok(true)
}

/// Returns the indexes of the entries that have a row of their topic, in the order of these rows.
fn in_order_of_topics(entries: &[&LogEntry]) -> Vec<usize> {
    // Topics are spread over the memory of all envelopes. Most of the order follows from numbers that lie together:
    // entries of one topic are in their order already, and few topics begin alike.
    let mut rows = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        rows.extend(topic_row(entry).map(|(key, ..)| (key.front(), index)));
    }
    rows.sort_unstable();
    for alike in rows.chunk_by_mut(|a, b| a.0 == b.0) {
        alike.sort_unstable_by_key(|&(_, index)| topic_row(entries[index]).map(|(key, ..)| key));
    }
    rows.into_iter().map(|(_, index)| index).collect()
}

/// Returns the key of an envelope's row of its topic, with what the row has; `None` if it has none.
fn topic_row(entry: &LogEntry) -> Option<(TopicKey<'_>, &Facts, &Bytes)> {
    let facts = entry.facts.as_ref()?;
    Some((TopicKey::of(facts, entry.id)?, facts, &entry.bytes))
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Topic, TopicKind};

    use super::*;

    fn entry(sequence: u64, identifier: &[u8]) -> LogEntry {
        let facts = Facts {
            topic: Some(Topic::new(TopicKind::GroupMessages, identifier).unwrap()),
            originator_ns: 0,
            depends_on: Vec::new(),
            expiry_unix_s: None,
            receipt: None,
            charge: None,
            counts_for_congestion: false,
            addresses: Vec::new(),
        };
        let id = EnvelopeId::new(OriginatorId(300), SequenceId(sequence));
        LogEntry::valid(id, Bytes::new(), facts)
    }

    #[test]
    fn rows_of_topics_come_in_the_order_of_their_keys() {
        // Long ones differ behind the part of their keys by which they are sorted first.
        let long = |last: u8| [&[7_u8; 40][..], &[last]].concat();
        let identifiers = [vec![9], long(3), vec![1, 2], long(1), vec![2], long(2), vec![8; 13]];
        let mut entries: Vec<_> =
            (1..).zip(identifiers.iter().cycle()).take(30).map(|(at, it)| entry(at, it)).collect();
        entries[10].facts = None;
        let entries: Vec<&LogEntry> = entries.iter().collect();
        let key = |index: usize| topic_row(entries[index]).map(|(key, ..)| key.encode());
        let mut sorted: Vec<_> = (0..30).filter_map(key).collect();
        sorted.sort_unstable();
        assert_eq!(sorted.len(), 29);
        let keys: Vec<_> = in_order_of_topics(&entries).into_iter().filter_map(key).collect();
        assert_eq!(keys, sorted);
    }
}
