//! Adds unverified places to the log as table files. Nearly all bytes of an envelope are its row of the log and its row
//! of topics: these go through neither the write-ahead log nor a memory table.
//!
//! Rows of the log come in their order, and rows of topics are sorted here. So each call makes one file of either
//! family, synced and in the form in which a memory table would be written out. RocksDB takes over the files first.
//! The other rows are a commit behind them: with the head, the tree, and the expiry times.
//!
//! After a crash in between, rows of the files are above the head, where no reader looks. The next run writes the same
//! ones again. Another program could write others there, so no node may start from the folder before. For that, a
//! strand has its row `in_doubt` on the disk before it has rows above its head.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use hawser_proto::checkpoint::SignedPrefix;
use rocksdb::{Cache, IngestExternalFileOptions, Options, SstFileWriter};

use crate::change::{Change, LogEntry};
use crate::commit::CommittedChanges;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError};
use crate::family::Family;
use crate::hashed::HashedEnvelope;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::topic::{TopicKey, encode_value};
use crate::options::family_options;
use crate::store::Store;

/// Folder of files that RocksDB has not taken over, in the data folder.
const FOLDER: &str = "table-files";
/// Name of the file with rows of the log.
const LOG: &str = "log.sst";
/// Name of the file with rows of topics.
const TOPICS: &str = "topics.sst";

impl Store {
    /// Commits envelopes of one strand behind its head, like [`Store::commit_shown_by`], with table files. Each call
    /// writes and syncs two files, so it should have some ten MiB of envelopes.
    ///
    /// Only for a folder from which no node starts before the strand has come to the end of the prefix: after an error
    /// or a crash, rows may be above the head of the strand. A call with the same changes replaces them.
    ///
    /// # Errors
    /// The errors of [`Store::commit`]. Files are left in the folder after [`CommitError::Write`], and the next call
    /// removes them.
    ///
    /// # Panics
    /// If a change is no envelope, or does not follow the one before it.
    pub fn load_shown_by(
        &self,
        changes: &[Change],
        prefix: &SignedPrefix,
        hashed: &[HashedEnvelope],
    ) -> Result<(), CommitError> {
        let Some(first) = changes.first() else { return Ok(()) };
        let Some(folder) = self.path() else {
            return self.commit_shown_by(changes, prefix, hashed);
        };
        let database = self.database();
        // The first unverified place of a strand is committed alone, because its row `in_doubt` comes with it.
        let begun = usize::from(database.verified(first.originator())?.is_none());
        let (alone, changes) = changes.split_at(begun);
        let (hashed_alone, hashed) = hashed.split_at(begun.min(hashed.len()));
        if !alone.is_empty() {
            self.commit_shown_by(alone, prefix, hashed_alone)?;
            let synced = database.db.flush_wal(true).map_err(DatabaseError::from);
            synced.map_err(|cause| database.fail_write(cause))?;
        }
        if changes.is_empty() {
            return Ok(());
        }
        database.check_writable()?;
        let entries = database.entries_behind_head(changes)?;
        let added = database.add_files(&folder.join(FOLDER), &self.shared.how.cache, &entries);
        added.map_err(|cause| database.fail_write(cause))?;
        let changes = CommittedChanges { changes, hashed, are_filed: true };
        database.commit_whole(changes, |group| group.begin_shown_by(prefix))
    }
}

impl Database {
    /// Returns the entries of changes, which must be the next places of one strand.
    fn entries_behind_head<'c>(
        &self,
        changes: &'c [Change],
    ) -> Result<Vec<&'c LogEntry>, CommitError> {
        let entry_of = |change: &'c Change| match change {
            Change::Append(entry) => entry,
            Change::Skip { .. } => panic!("a table file has envelopes alone"),
        };
        let entries: Vec<_> = changes.iter().map(entry_of).collect();
        let follows = |pair: &[&LogEntry]| {
            pair[0].id.originator == pair[1].id.originator
                && pair[0].id.sequence.next() == pair[1].id.sequence
        };
        assert!(entries.windows(2).all(follows), "envelopes of a table file follow one another");
        let Some(first) = entries.first() else { return Ok(entries) };
        let after = *self.strands.head(first.id.originator).lock();
        match first.id.sequence == after.next() {
            true => Ok(entries),
            false => Err(CommitError::Gap { after, got: first.id }),
        }
    }

    /// Writes the rows of the log and of topics to table files, and has RocksDB take over the files.
    fn add_files(
        &self,
        folder: &Path,
        cache: &Cache,
        entries: &[&LogEntry],
    ) -> Result<(), DatabaseError> {
        let _no_rebuild = self.gate.read();
        // RocksDB takes a file over by a second name for it. A crash may have left the first one, and writing to that
        // would change the database.
        remove(folder)?;
        fs::create_dir(folder).map_err(|error| DatabaseError::of_file(folder, &error))?;
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
        remove(folder)
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
    let rows = entries.iter().filter_map(|entry| {
        let facts = entry.facts.as_ref()?;
        Some((TopicKey::of(facts, entry.id)?.encode(), &entry.bytes, facts))
    });
    let mut rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(false);
    }
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut file = SstFileWriter::create(options);
    file.open(path)?;
    let mut value = Vec::new();
    for (key, bytes, facts) in rows {
        encode_value(facts.originator_ns, bytes, &facts.depends_on, &mut value);
        file.put(key, &value)?;
    }
    file.finish()?;
    Ok(true)
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> Result<(), DatabaseError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(DatabaseError::of_file(folder, &error))
        }
        _ => Ok(()),
    }
}
