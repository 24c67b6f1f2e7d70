//! The threads of a rebuild: they derive the facts of chunks, and write the rows that depend on one envelope alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use hawser_proto::EnvelopeId;
use hawser_proto::decoding::decodable_at_once;
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::log::{CHUNK_LEN_BYTES, Chunk, StoredEnvelope};
use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::CommitError;
use crate::keys::pruned::PrunedEnvelope;
use crate::projection::{Projection, ProjectionSet};
use crate::projection_rows::{CountedFacts, EnvelopeRows};
use crate::verified::VerifiedPlaces;

/// Largest number of threads. A guess: the thread that reads the log and counts is the limit with fewer.
const WORKERS_MAX: usize = 16;
/// Number of chunks in progress for each thread, which works on one of them. A guess: no thread waits while rows
/// are counted, and memory stays small: each chunk has two copies of its envelopes. The bytes of all chunks are
/// bounded too, except that a single chunk may exceed the bound, because its last envelope may be large.
const CHUNKS_EACH: usize = 3;

/// Derives the facts of stored envelopes, in their order, from their bytes and their validity. Called from several
/// threads, each time with up to 1,024 consecutive envelopes of the log that may be [decoded at
/// once](decodable_at_once).
pub type DeriveMany<'a> = dyn Fn(&[StoredEnvelope]) -> Vec<Option<Facts>> + Sync + 'a;

/// A chunk whose rows that depend on one envelope alone are written. The rows that depend on the order of the log
/// are counted later.
pub(super) struct DerivedChunk {
    pub(super) held: Vec<DerivedEnvelope>,
    pub(super) pruned: Vec<(EnvelopeId, PrunedEnvelope)>,
    /// Length of the envelopes, which are freed already.
    pub(super) len_bytes: usize,
}

impl DerivedChunk {
    /// Returns the number of its places.
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.pruned.len()
    }

    /// Returns its last place.
    pub(super) fn last(&self) -> Option<EnvelopeId> {
        let held = self.held.last().map(|it| it.id);
        held.max(self.pruned.last().map(|(id, _)| *id))
    }
}

/// An envelope with the values for counters. Its other facts would keep its bytes in memory.
pub(super) struct DerivedEnvelope {
    pub(super) id: EnvelopeId,
    pub(super) is_invalid: bool,
    pub(super) facts: Option<CountedFacts>,
}

/// A chunk, and the channel for its result.
struct ChunkTask {
    chunk: Chunk,
    done: SyncSender<Result<DerivedChunk, CommitError>>,
}

/// A handle to the threads. They end when it is dropped.
pub(super) struct Workers {
    tasks: Sender<ChunkTask>,
    /// The chunks without a result, in the order of the log.
    under_way: VecDeque<PendingChunk>,
    /// Bytes of their envelopes.
    len_bytes: usize,
    under_way_max: usize,
    threads: usize,
}

/// A chunk without a result.
struct PendingChunk {
    len_bytes: usize,
    coming: Receiver<Result<DerivedChunk, CommitError>>,
}

impl Workers {
    /// Calls `run` beside a thread for each core, and returns when all have ended. They write rows of the projections
    /// in `made`.
    pub(super) fn beside<T>(
        database: &Database,
        derive: &DeriveMany<'_>,
        made: ProjectionSet,
        run: impl FnOnce(Self) -> T,
    ) -> T {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(WORKERS_MAX);
        std::thread::scope(|scope| {
            let (tasks, waiting) = mpsc::channel();
            let waiting = Arc::new(Mutex::new(waiting));
            for _ in 0..threads {
                let waiting = Arc::clone(&waiting);
                scope.spawn(move || work(database, derive, made, &waiting));
            }
            drop(waiting);
            run(Self::new(tasks, threads))
        })
    }

    fn new(tasks: Sender<ChunkTask>, threads: usize) -> Self {
        let under_way_max = threads * CHUNKS_EACH;
        Self { tasks, under_way: VecDeque::new(), len_bytes: 0, under_way_max, threads }
    }

    /// Returns the number of threads.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Returns true if another chunk may be handed out.
    pub(super) fn have_room(&self) -> bool {
        let len_bytes_max = self.under_way_max * CHUNK_LEN_BYTES;
        // A chunk with a large last envelope is accepted if it is the only one.
        let is_short = self.len_bytes < len_bytes_max || self.under_way.is_empty();
        self.under_way.len() < self.under_way_max && is_short
    }

    /// Hands a chunk to a thread.
    pub(super) fn give(&mut self, chunk: Chunk) {
        debug_assert!(self.have_room(), "the memory of a rebuild is bounded");
        let (done, coming) = mpsc::sync_channel(1);
        self.len_bytes += chunk.len_bytes;
        self.under_way.push_back(PendingChunk { len_bytes: chunk.len_bytes, coming });
        // This fails only if all threads have panicked, which `take` reports.
        let _ = self.tasks.send(ChunkTask { chunk, done });
    }

    /// Waits for the result of the oldest chunk; `None` if no chunk is in progress.
    ///
    /// # Errors
    /// An error if its rows could not be written.
    pub(super) fn take(&mut self) -> Result<Option<DerivedChunk>, CommitError> {
        let Some(PendingChunk { len_bytes, coming }) = self.under_way.pop_front() else {
            return Ok(None);
        };
        self.len_bytes -= len_bytes;
        let derived = coming.recv();
        derived.expect("a thread answers unless it has panicked, which goes on here").map(Some)
    }
}

fn work(
    database: &Database,
    derive: &DeriveMany<'_>,
    made: ProjectionSet,
    waiting: &Mutex<Receiver<ChunkTask>>,
) {
    loop {
        let next = waiting.lock().recv();
        let Ok(ChunkTask { chunk, done }) = next else { return };
        // After an error elsewhere no receiver waits for the result.
        let _ = done.send(derive_chunk(database, derive, made, chunk));
    }
}

/// Writes, without a sync, the rows that depend on one envelope alone. The progress that covers them is written
/// later, after the chunk's result. After a crash before that, the same bytes are written again.
fn derive_chunk(
    database: &Database,
    derive: &DeriveMany<'_>,
    made: ProjectionSet,
    chunk: Chunk,
) -> Result<DerivedChunk, CommitError> {
    let (mut facts, mut rest) = (Vec::with_capacity(chunk.held.len()), &chunk.held[..]);
    while !rest.is_empty() {
        let count = decodable_at_once(rest.iter().map(|stored| Some(&stored.bytes)));
        let (part, behind) = rest.split_at(count);
        facts.append(&mut derive(part));
        rest = behind;
    }
    assert_eq!(facts.len(), chunk.held.len(), "facts for each envelope, or none");
    let mut rows = EnvelopeRows::new(database).only(made);
    // Those of unverified places: a verdict writes the row by expiry.
    let mut shown_rows = EnvelopeRows::new(database).only(made.without(Projection::Expiry));
    let mut verified = VerifiedPlaces::new(database);
    let (mut batch, mut held) = (WriteBatch::default(), Vec::with_capacity(facts.len()));
    for (stored, facts) in chunk.held.into_iter().zip(facts) {
        let StoredEnvelope { id, bytes, validity } = stored;
        if let Some(facts) = &facts {
            let rows = if verified.has(id)? { &mut rows } else { &mut shown_rows };
            rows.put(&mut batch, id, &bytes, facts);
        }
        let is_invalid = matches!(validity, Validity::Invalid(_));
        let facts = facts.map(|facts| CountedFacts::of(bytes.len(), facts));
        held.push(DerivedEnvelope { id, is_invalid, facts });
    }
    if !batch.is_empty() {
        database.write_buffered(batch)?;
    }
    Ok(DerivedChunk { held, pruned: chunk.pruned, len_bytes: chunk.len_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(len_bytes: usize) -> Chunk {
        Chunk { len_bytes, ..Chunk::default() }
    }

    fn has_room_beside(len_bytes: &[usize]) -> bool {
        let (tasks, _waiting) = mpsc::channel();
        let mut workers = Workers::new(tasks, 2);
        len_bytes.iter().for_each(|len_bytes| workers.give(chunk(*len_bytes)));
        workers.have_room()
    }

    /// A log of the largest envelopes has one in each chunk.
    #[test]
    fn chunks_under_way_are_bounded_by_their_bytes() {
        const LARGE: usize = 25 << 20;
        assert!(has_room_beside(&[CHUNK_LEN_BYTES; 5]));
        assert!(!has_room_beside(&[CHUNK_LEN_BYTES; 6]));
        assert!(!has_room_beside(&[1; 6]));
        assert!(has_room_beside(&[]));
        assert!(!has_room_beside(&[LARGE]));
    }

    #[test]
    fn a_chunk_that_has_come_back_makes_room() {
        let (tasks, waiting) = mpsc::channel();
        let mut workers = Workers::new(tasks, 1);
        workers.give(chunk(25 << 20));
        assert!(!workers.have_room());
        let ChunkTask { chunk, done } = waiting.recv().unwrap();
        let derived =
            DerivedChunk { held: Vec::new(), pruned: Vec::new(), len_bytes: chunk.len_bytes };
        assert!(done.send(Ok(derived)).is_ok());
        assert!(workers.take().unwrap().is_some());
        assert!(workers.have_room());
    }
}
