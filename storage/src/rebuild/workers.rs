//! The threads of a rebuild: they derive the facts of chunks, and write the rows that depend on one envelope alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::log::{Chunk, StoredEnvelope};
use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::CommitError;
use crate::keys::pruned::PrunedEnvelope;
use crate::projection_rows::EnvelopeRows;

/// Most threads. A guess: the one thread that reads the log and counts is the bound before.
const WORKERS_MAX: usize = 16;
/// Chunks that are under way for each thread, of which it works on one. A guess: enough that none waits while rows are
/// counted, and few enough for memory: each has two copies of a chunk's envelopes.
const CHUNKS_EACH: usize = 3;

/// Derives the facts of stored envelopes, in their order, from their bytes and their validity. Called from several
/// threads, each time with up to 1,024 envelopes that follow one another in the log.
pub type DeriveMany<'a> = dyn Fn(&[StoredEnvelope]) -> Vec<Option<Facts>> + Sync + 'a;

/// A chunk whose envelopes have their own rows. What depends on the order of the log is still to be counted.
pub(super) struct DerivedChunk {
    pub(super) held: Vec<DerivedEnvelope>,
    pub(super) pruned: Vec<(EnvelopeId, PrunedEnvelope)>,
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

/// An envelope with its facts.
pub(super) struct DerivedEnvelope {
    pub(super) id: EnvelopeId,
    pub(super) len_bytes: usize,
    pub(super) is_invalid: bool,
    pub(super) facts: Option<Facts>,
}

/// A chunk, and the way on which it comes back.
struct Task {
    chunk: Chunk,
    done: SyncSender<Result<DerivedChunk, CommitError>>,
}

/// The way to the threads. They end when it is dropped.
pub(super) struct Workers {
    tasks: Sender<Task>,
    /// The chunks that have not come back, in the order in which they were given.
    under_way: VecDeque<Receiver<Result<DerivedChunk, CommitError>>>,
    under_way_max: usize,
}

impl Workers {
    /// Calls `run` beside a thread for each core, and returns when all have ended.
    pub(super) fn beside<T>(
        database: &Database,
        derive: &DeriveMany<'_>,
        run: impl FnOnce(Self) -> T,
    ) -> T {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(WORKERS_MAX);
        std::thread::scope(|scope| {
            let (tasks, waiting) = mpsc::channel();
            let waiting = Arc::new(Mutex::new(waiting));
            for _ in 0..threads {
                let waiting = Arc::clone(&waiting);
                scope.spawn(move || work(database, derive, &waiting));
            }
            drop(waiting);
            let under_way_max = threads * CHUNKS_EACH;
            run(Self { tasks, under_way: VecDeque::new(), under_way_max })
        })
    }

    /// Returns true if another chunk may be given.
    pub(super) fn have_room(&self) -> bool {
        self.under_way.len() < self.under_way_max
    }

    /// Has a thread take a chunk.
    pub(super) fn give(&mut self, chunk: Chunk) {
        debug_assert!(self.have_room(), "the memory of a rebuild is bounded");
        let (done, coming) = mpsc::sync_channel(1);
        self.under_way.push_back(coming);
        // Without a thread that takes it, all have panicked: it is noticed when the chunk is taken back.
        let _ = self.tasks.send(Task { chunk, done });
    }

    /// Waits for the chunk that was given first of those that have not come back; `None` if there is none.
    ///
    /// # Errors
    /// When its rows could not be written.
    pub(super) fn take(&mut self) -> Result<Option<DerivedChunk>, CommitError> {
        let Some(coming) = self.under_way.pop_front() else { return Ok(None) };
        let derived = coming.recv();
        derived.expect("a thread answers unless it has panicked, which goes on here").map(Some)
    }
}

fn work(database: &Database, derive: &DeriveMany<'_>, waiting: &Mutex<Receiver<Task>>) {
    loop {
        let next = waiting.lock().recv();
        let Ok(Task { chunk, done }) = next else { return };
        // After an error elsewhere nothing waits for it.
        let _ = done.send(derive_chunk(database, derive, chunk));
    }
}

/// Writes the rows that envelopes have whatever stands before them, without a sync. They are there before the row that
/// says so: it is written when the chunk has come back. Until then they are written again, with the same bytes.
fn derive_chunk(
    database: &Database,
    derive: &DeriveMany<'_>,
    chunk: Chunk,
) -> Result<DerivedChunk, CommitError> {
    let facts = derive(&chunk.held);
    assert_eq!(facts.len(), chunk.held.len(), "facts for each envelope, or none");
    let mut rows = EnvelopeRows::new(database);
    let mut batch = WriteBatch::default();
    let derived = chunk.held.into_iter().zip(facts).map(|(stored, facts)| {
        let StoredEnvelope { id, bytes, validity } = stored;
        if let Some(facts) = &facts {
            rows.put(&mut batch, id, &bytes, facts);
        }
        let is_invalid = matches!(validity, Validity::Invalid(_));
        DerivedEnvelope { id, len_bytes: bytes.len(), is_invalid, facts }
    });
    let held = derived.collect();
    if !batch.is_empty() {
        database.write_buffered(batch)?;
    }
    Ok(DerivedChunk { held, pruned: chunk.pruned })
}
