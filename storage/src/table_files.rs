//! Adds the next places of a strand to the log as table files. Nearly all bytes of an envelope are its row of the log
//! and its row of topics: these go through neither the write-ahead log nor a memory table.
//!
//! Rows of the log come in their order, and rows of topics are sorted here. So [`Store::file`] makes one file of either
//! family, synced and in the form in which a memory table would be written out. It changes nothing in the database, so
//! the next files are written while these are loaded. [`Store::load`] has RocksDB take over the files, that of the log
//! before that of topics. All other rows are a commit behind them: the head, the tree, and the rest.
//!
//! After a crash in between, rows of the files are above the head, where no reader looks. Changes that are loaded there
//! later may differ: an envelope that counts as valid before its signatures are checked has a topic row, and an invalid
//! envelope has none. The earlier topic row would then stay below the head. So the caller has these rows removed first.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use parking_lot::Mutex;
use rocksdb::{Cache, IngestExternalFileOptions, Options, SstFileWriter, WriteBatch};

use crate::change::{Change, Facts, LogEntry, Validity};
use crate::commit::CommittedChanges;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::folder::{remove, table_files_folder};
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

/// Held while a folder of files is made or removed inside the folder that all of these share.
static FOLDERS: Mutex<()> = Mutex::new(());

/// The next changes of one strand, with table files of the rows that have their envelopes. The files are not part of
/// the database yet, and go with this value.
#[derive(Debug)]
pub struct FiledChanges {
    changes: Vec<Change>,
    hashed: Vec<HashedEnvelope>,
    /// `None` if no change is an envelope, and for a database in memory.
    files: Option<TableFiles>,
}

impl FiledChanges {
    /// Returns the changes.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// Table files in a folder of their own.
#[derive(Debug)]
struct TableFiles {
    folder: PathBuf,
    /// True if there is a file with rows of topics, beside that of the log.
    has_topics: bool,
}

impl TableFiles {
    /// Creates the folder for envelopes from `first` on.
    fn create(data: &Path, first: EnvelopeId) -> Result<Self, DatabaseError> {
        let name = format!("{}-{}", first.originator.0, first.sequence.0);
        let folder = table_files_folder(data).join(name);
        let _alone = FOLDERS.lock();
        // RocksDB takes a file over by a second name for it. A failure may have left the first one, and writing to that
        // would change the database.
        let made = remove(&folder).and_then(|()| fs::create_dir_all(&folder));
        made.map_err(|error| DatabaseError::of_file(&folder, &error))?;
        Ok(Self { folder, has_topics: false })
    }
}

impl Drop for TableFiles {
    fn drop(&mut self) {
        let _alone = FOLDERS.lock();
        if let Err(error) = remove(&self.folder) {
            let folder = self.folder.display();
            tracing::warn!(%error, %folder, "table files cannot be removed before the next start");
        }
        if let Some(shared) = self.folder.parent() {
            // It stays as long as other changes have files in it.
            let _ = fs::remove_dir(shared);
        }
    }
}

impl Store {
    /// Writes and syncs table files for the next changes of one strand, which [`Store::load`] commits. They should have
    /// some ten MiB of envelopes. `hashed` may have the envelopes of the changes, in their order, so that they are not
    /// hashed again.
    ///
    /// # Errors
    /// [`CommitError::NoRoom`], and [`CommitError::Write`] after which the store is poisoned.
    ///
    /// # Panics
    /// If the changes are of several strands, or their places do not ascend.
    pub fn file(
        &self,
        changes: Vec<Change>,
        hashed: Vec<HashedEnvelope>,
    ) -> Result<FiledChanges, CommitError> {
        let database = self.database();
        database.check_writable()?;
        let entries = envelopes_of(&changes);
        let files = match self.path().zip(entries.first()) {
            Some((data, first)) => {
                let written = write_files(data, first.id, &self.shared.how.cache, &entries);
                Some(written.map_err(|cause| database.fail_write(cause))?)
            }
            None => None,
        };
        Ok(FiledChanges { changes, hashed, files })
    }

    /// Commits the next changes of one strand like [`Store::commit`], or with `shown_by` like
    /// [`Store::commit_shown_by`], with table files.
    ///
    /// Only for a folder from which no node starts meanwhile: an error or a crash may leave rows above the head of the
    /// strand. [`Store::remove_above_head`] is to be called before the next call, and before a node starts.
    ///
    /// # Errors
    /// The errors of [`Store::commit`]; [`CommitError::Gap`] also for changes below the head.
    pub fn load(
        &self,
        filed: FiledChanges,
        shown_by: Option<&SignedPrefix>,
    ) -> Result<(), CommitError> {
        let FiledChanges { changes, hashed, files } = filed;
        if changes.is_empty() {
            return Ok(());
        }
        let database = self.database();
        database.check_writable()?;
        database.require_behind_head(&changes)?;
        let are_filed = files.is_some();
        if let Some(files) = files {
            let taken = database.take_over(&files);
            taken.map_err(|cause| database.fail_write(cause))?;
        }
        // The folder has no readers before it is opened anew.
        let (are_shown, are_remembered) = (shown_by.is_some(), false);
        let (changes, hashed) = (&changes[..], &hashed[..]);
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
    /// Requires that changes are the next ones of their strand.
    fn require_behind_head(&self, changes: &[Change]) -> Result<(), CommitError> {
        let Some(first) = changes.first() else { return Ok(()) };
        let mut after = *self.strands.head(first.originator()).lock();
        for change in changes {
            let got = change.start();
            if got.sequence != after.next() {
                return Err(CommitError::Gap { after, got });
            }
            after = change.end().sequence;
        }
        Ok(())
    }

    /// Has RocksDB take over table files.
    fn take_over(&self, files: &TableFiles) -> Result<(), DatabaseError> {
        let _no_rebuild = self.gate.read();
        let mut moving = IngestExternalFileOptions::default();
        moving.set_move_files(true);
        let of_topics = files.has_topics.then_some((Family::Topic, TOPICS));
        for (family, name) in [(Family::Log, LOG)].into_iter().chain(of_topics) {
            let file = files.folder.join(name);
            self.db.ingest_external_file_cf_opts(self.family(family), &moving, vec![file])?;
        }
        Ok(())
    }
}

/// Returns the envelopes of changes of one strand.
fn envelopes_of(changes: &[Change]) -> Vec<&LogEntry> {
    let (mut entries, mut after) = (Vec::with_capacity(changes.len()), SequenceId::NONE);
    for change in changes {
        let (start, end) = (change.start(), change.end());
        assert_eq!(start.originator, changes[0].originator(), "a table file is of one strand");
        let ascends = after < start.sequence && start.sequence <= end.sequence;
        assert!(ascends, "places of a table file ascend: {} behind {after}", start.sequence);
        after = end.sequence;
        if let Change::Append(entry) = change {
            entries.push(entry);
        }
    }
    entries
}

/// Writes the rows of the log and of topics of envelopes from `first` on to table files in the data folder.
fn write_files(
    data: &Path,
    first: EnvelopeId,
    cache: &Cache,
    entries: &[&LogEntry],
) -> Result<TableFiles, DatabaseError> {
    let mut files = TableFiles::create(data, first)?;
    let (log, topics) = (files.folder.join(LOG), files.folder.join(TOPICS));
    files.has_topics = thread::scope(|scope| {
        let sorting =
            scope.spawn(|| write_topics(&topics, &family_options(Family::Topic, cache), entries));
        let written = write_log(&log, &family_options(Family::Log, cache), entries);
        let has_topics = match sorting.join() {
            Ok(has_topics) => has_topics,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        written.and(has_topics)
    })?;
    Ok(files)
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

/// Returns the key and the content of an envelope's row by topic; `None` if the envelope has no such row.
fn topic_row(entry: &LogEntry) -> Option<(TopicKey<'_>, &Facts, &Bytes)> {
    let facts = entry.facts.as_ref()?;
    Some((TopicKey::of(facts, entry.id)?, facts, &entry.bytes))
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Topic, TopicKind};

    use super::*;
    use crate::testing::bare_facts;

    fn entry(sequence: u64, identifier: &[u8]) -> LogEntry {
        let topic = Topic::new(TopicKind::GroupMessages, identifier).unwrap();
        let facts = Facts { topic: Some(topic), ..bare_facts() };
        let id = EnvelopeId::new(OriginatorId(300), SequenceId(sequence));
        LogEntry::valid(id, Bytes::new(), facts)
    }

    #[test]
    #[should_panic(expected = "places of a table file ascend: 2 behind 2")]
    fn a_place_that_comes_twice_is_never_filed() {
        let changes = [1, 2, 2].map(|at| Change::Append(entry(at, &[1])));
        envelopes_of(&changes);
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
