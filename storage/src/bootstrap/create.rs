//! Creates a snapshot of the strands of an open database. While chunks are hashed, written and synced, the next one is
//! read.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::void::{SignedVoid, VOIDS_OF_NODE_MAX};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use parking_lot::Mutex;

use super::chunk::encode_chunk;
use super::error::BootstrapError;
use super::manifest::{BootstrapChunk, BootstrapManifest, BootstrapStrand, CHECKPOINTS_MAX};
use super::stored::Bootstraps;
use crate::backup::{FileHash, IDLE_AFTER, Pace};
use crate::disk_reserve::DiskReserveBeside;
use crate::error::ReadError;
use crate::log_scan::LogItem;
use crate::objects::{FoundObject, Objects, SEEN_IN_SNAPSHOTS, SeenObjects};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Bytes of envelopes at which a chunk ends. A guess: a reader has several chunks in memory, and a lost chunk is
/// soon fetched again.
const CHUNK_FULL_BYTES: usize = 8 << 20;

/// Chunks that wait to be written, besides those being written and the one being read. Chosen: one keeps the disk
/// busy, and each further one takes the memory of a chunk.
const WAITING: usize = 1;
/// Threads that hash and write chunks beside commits, and for a bucket, which gets one request at a time. Chosen: while
/// one waits until its chunk is synced, the other one works.
const WRITERS: usize = 2;
/// Threads that hash and write chunks into a folder while there are no commits. Chosen: two keep two cores busy while
/// two wait for the disk, as in a backup. Each takes the memory of a chunk, and that of its envelopes until they are
/// encoded. A commit that comes waits once for their chunks.
const WRITERS_IDLE: usize = 4;

/// The outcome of creating a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapReport {
    /// Its name.
    pub name: String,
    /// Its contents.
    pub manifest: BootstrapManifest,
    /// Chunks that no earlier snapshot had.
    pub chunks_new: usize,
    /// The sum of the lengths of these chunks, in bytes.
    pub bytes_new: u64,
}

/// The envelopes of a chunk, as they were read.
struct ChunkEnvelopes {
    /// The index of the strand.
    strand: usize,
    originator: OriginatorId,
    from: SequenceId,
    through: SequenceId,
    envelopes: Vec<(SequenceId, Bytes)>,
}

impl ChunkEnvelopes {
    /// Takes ascending envelopes; `None` of no envelopes.
    fn of(
        strand: usize,
        originator: OriginatorId,
        envelopes: Vec<(SequenceId, Bytes)>,
    ) -> Option<Self> {
        let (from, through) = (envelopes.first()?.0, envelopes.last()?.0);
        Some(Self { strand, originator, from, through, envelopes })
    }

    /// Returns the length of the envelopes together, in bytes.
    fn len_bytes(&self) -> u64 {
        let len: usize = self.envelopes.iter().map(|(_, bytes)| bytes.len()).sum();
        u64::try_from(len).unwrap_or(u64::MAX)
    }
}

/// A chunk that is stored.
struct StoredChunk {
    /// The index of its strand.
    strand: usize,
    chunk: BootstrapChunk,
    /// True if no earlier snapshot had it.
    is_new: bool,
}

impl Store {
    /// Creates a snapshot of the strands of all nodes and chains, for a node of any identity. Commits and reads
    /// continue meanwhile.
    ///
    /// Chunks always end at the same places, so a later snapshot only adds chunks of newer envelopes. `pace` is called
    /// with the number of bytes read.
    ///
    /// # Errors
    /// [`BootstrapError`]. Earlier snapshots stay complete. [`BootstrapError::NoRoom`] below the watermark of the disk,
    /// if the snapshots are on that of the data folder; the chunks that this snapshot has added are removed then, or
    /// the error says why not.
    pub fn create_bootstrap(
        &self,
        to: Arc<dyn Objects>,
        now_unix_s: u64,
        pace: &mut Pace<'_>,
    ) -> Result<BootstrapReport, BootstrapError> {
        let mut seen = SeenObjects::read(self.path(), SEEN_IN_SNAPSHOTS, &*to);
        let folder = to.folder().map(Path::to_owned);
        let place = Bootstraps::new(to);
        place.make()?;
        let (before, added) = (place.names_in_folder()?, Mutex::new(Vec::new()));
        let reserve = &self.shared.how.lasting.disk_reserve;
        let mut reserve = DiskReserveBeside::new(reserve, folder.as_deref().zip(self.path()));
        let mut paced = |bytes: u64| match reserve.check() {
            ControlFlow::Continue(()) => pace(bytes),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        };
        let made = self.put_copy(&place, (&mut seen, &added), now_unix_s, &mut paced);
        seen.write(made.is_ok());
        let Some(mut reason) = reserve.refused() else { return made };
        // What this snapshot has written would keep the node from writing.
        match place.remove_added(&added.into_inner(), &before) {
            Ok(true) => {}
            Ok(false) => {
                reason += "; chunks that were written stay, because another snapshot may name \
                           them, and take this room";
            }
            Err(error) => {
                reason = format!("{reason}; chunks that were written were not removed: {error}");
            }
        }
        Err(BootstrapError::NoRoom { reason })
    }

    /// Writes the chunks of all strands, and then the manifest that names them. Enters those that the place did not
    /// have into `added`.
    fn put_copy(
        &self,
        place: &Bootstraps,
        (seen, added): (&mut SeenObjects, &Mutex<Vec<FileHash>>),
        now_unix_s: u64,
        pace: &mut Pace<'_>,
    ) -> Result<BootstrapReport, BootstrapError> {
        let mut strands = strands_of(&self.snapshot(), &self.void_statements()?)?;
        let head = |it: &BootstrapStrand| EnvelopeId::new(it.originator, it.head);
        let heads: Vec<EnvelopeId> = strands.iter().map(head).collect();
        let (read_to, read) = sync_channel(WAITING);
        let seen = Mutex::new(seen);
        let mut stored = thread::scope(|scope| {
            scope.spawn(move || self.read_chunks(&heads, &read_to));
            let seen = &seen;
            let (to, writers): (Vec<_>, Vec<_>) = (0..WRITERS_IDLE)
                .map(|_| {
                    let (to, chunks) = sync_channel(0);
                    (to, scope.spawn(move || write_chunks(place, chunks, (seen, added))))
                })
                .unzip();
            let is_in_folder = place.is_in_folder();
            // While there are chunks to come, a writer ends only if it has failed.
            let used = || match is_in_folder && self.is_without_commits_for(IDLE_AFTER) {
                _ if writers.iter().any(|it| it.is_finished()) => 0,
                true => WRITERS_IDLE,
                false => WRITERS,
            };
            let handed_over = hand_over(read, to, &used, pace);
            let mut stored = Vec::new();
            for writer in writers {
                match writer.join() {
                    Ok(written) => stored.append(&mut written?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            handed_over.map(|()| stored)
        })?;
        stored.sort_unstable_by_key(|it| (it.strand, it.chunk.from));
        let (mut chunks_new, mut bytes_new) = (0, 0);
        for StoredChunk { strand, chunk, is_new } in stored {
            chunks_new += usize::from(is_new);
            bytes_new += if is_new { chunk.len_bytes } else { 0 };
            strands[strand].chunks.push(chunk);
        }
        let network = self.identity().network.clone();
        let manifest = BootstrapManifest { network, made_unix_s: now_unix_s, strands };
        let manifest = place.with_own_second(manifest)?;
        let name = place.put_whole_manifest(&manifest)?;
        place.put_names(&name)?;
        Ok(BootstrapReport { name, manifest, chunks_new, bytes_new })
    }

    /// Reads the chunks of all strands up to these heads, in order. Ends with the first error, or when the receiver
    /// takes no more.
    fn read_chunks(
        &self,
        heads: &[EnvelopeId],
        to: &SyncSender<Result<ChunkEnvelopes, ReadError>>,
    ) {
        for (strand, head) in heads.iter().enumerate() {
            let mut after = SequenceId::NONE;
            loop {
                let envelopes = self.next_chunk(head.originator, after, head.sequence);
                let read = envelopes.map(|all| ChunkEnvelopes::of(strand, head.originator, all));
                let Some(read) = read.transpose() else { break };
                let through = read.as_ref().ok().map(|chunk| chunk.through);
                if to.send(read).is_err() {
                    return;
                }
                let Some(through) = through else { return };
                after = through;
            }
        }
    }

    /// Reads the envelopes of the next chunk. Each chunk has its own view of the database: a single long-lived view
    /// would make RocksDB keep removed rows for the duration of a slow snapshot.
    fn next_chunk(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        head: SequenceId,
    ) -> Result<Vec<(SequenceId, Bytes)>, ReadError> {
        let (mut envelopes, mut len) = (Vec::new(), 0);
        for item in self.snapshot().log(EnvelopeId::new(originator, after), head) {
            // Envelopes that break a rule are included: the reader judges them again.
            if let LogItem::Envelope { id, bytes, .. } = item? {
                len += bytes.len();
                envelopes.push((id.sequence, bytes));
                if len >= CHUNK_FULL_BYTES {
                    break;
                }
            }
        }
        Ok(envelopes)
    }
}

/// Hands chunks to the writers in turns, at the pace of the caller: to as many of them, from the first on, as `used`
/// returns. Ends early when that is 0, or when a writer takes no more: one has failed then, and returns the error.
fn hand_over(
    read: Receiver<Result<ChunkEnvelopes, ReadError>>,
    writers: Vec<SyncSender<ChunkEnvelopes>>,
    used: &dyn Fn() -> usize,
    pace: &mut Pace<'_>,
) -> Result<(), BootstrapError> {
    for (turn, chunk) in read.into_iter().enumerate() {
        let chunk = chunk?;
        if pace(chunk.len_bytes()).is_break() {
            return Err(BootstrapError::Stopped);
        }
        let used = used();
        if used == 0 || writers[turn % used].send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

/// Encodes, hashes and stores chunks until there are no more. Enters those that the place did not have into `added`.
///
/// # Errors
/// The first error.
fn write_chunks(
    place: &Bootstraps,
    chunks: Receiver<ChunkEnvelopes>,
    (seen, added): (&Mutex<&mut SeenObjects>, &Mutex<Vec<FileHash>>),
) -> Result<Vec<StoredChunk>, BootstrapError> {
    let mut stored = Vec::new();
    for ChunkEnvelopes { strand, originator, from, through, envelopes } in chunks {
        let bytes = encode_chunk(originator, &envelopes);
        // They are as long as the chunk, which waits for the disk now.
        drop(envelopes);
        let hash = FileHash(*blake3::hash(&bytes).as_bytes());
        let replaced = place.put_chunk(hash, &bytes, seen)?;
        if replaced == Some(FoundObject::Absent) {
            added.lock().push(hash);
        }
        let is_new = replaced.is_some();
        let len_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let chunk = BootstrapChunk { from, through, len_bytes, hash };
        stored.push(StoredChunk { strand, chunk, is_new });
    }
    Ok(stored)
}

/// Returns the strands of nodes and chains, without chunks. `stated` has the statements about void places.
fn strands_of(
    snapshot: &Snapshot<'_>,
    stated: &[SignedVoid],
) -> Result<Vec<BootstrapStrand>, ReadError> {
    let heads = snapshot.heads()?;
    let is_copied = |it: OriginatorId| it.is_node() || it.is_of_chain();
    let copied = heads.iter().filter(|head| is_copied(head.originator));
    let strand = |head: EnvelopeId| {
        let originator = head.originator;
        // Other nodes get only envelopes that this node has verified.
        let head = snapshot.verified_head(originator)?;
        let checkpoints = checkpoints_of(snapshot, originator, head)?;
        let of_node = stated.iter().filter(|signed| signed.statement.node == originator);
        let voids = of_node.copied().take(VOIDS_OF_NODE_MAX).collect();
        Ok(BootstrapStrand { originator, head, checkpoints, voids, chunks: Vec::new() })
    };
    copied.map(strand).collect()
}

/// Returns the most useful checkpoints of a strand that its tree does not contradict: first those of its node, then
/// those of observers. Those of its node are the newest one with a cosignature, and the one with the most cosignatures,
/// by which a new node may take the strand. For a chain's strand they are those that most nodes have signed.
fn checkpoints_of(
    snapshot: &Snapshot<'_>,
    originator: OriginatorId,
    head: SequenceId,
) -> Result<Vec<CosignedCheckpoint>, ReadError> {
    let is_of_chain = originator.is_of_chain();
    let mut nodes = snapshot.checkpoint_nodes(originator)?;
    nodes.sort_by_key(|node| *node != originator);
    if !is_of_chain {
        nodes.truncate(CHECKPOINTS_MAX);
    }
    let mut checkpoints = Vec::<CosignedCheckpoint>::new();
    for node in nodes {
        if !is_of_chain {
            checkpoints.extend(snapshot.cosigned_checkpoint(originator, node)?);
        }
        if is_of_chain || node == originator {
            checkpoints.extend(snapshot.most_cosigned_checkpoint(originator, node)?);
        }
    }
    // A strand of a chain may have been cut and read again since nodes have signed it. Readers would take a checkpoint
    // of the earlier tree for a sign that the snapshot was altered.
    let is_of_other_tree =
        |of: &Checkpoint| snapshot.root(originator, of.size).is_ok_and(|root| root != of.root);
    checkpoints.retain(|it| {
        let of = &it.signed.checkpoint;
        of.size <= head.0 && !is_of_other_tree(of)
    });
    // Readers know the keys of nodes, but not those of witnesses.
    checkpoints.iter_mut().for_each(|it| it.witnesses.clear());
    // Both of a node may be the same.
    checkpoints.dedup();
    if is_of_chain {
        checkpoints.sort_by_key(|it| std::cmp::Reverse(it.cosignatures.len()));
    }
    checkpoints.truncate(CHECKPOINTS_MAX);
    Ok(checkpoints)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Hands over eight chunks, and returns the first places of those that each writer got.
    fn handed_over(used: &dyn Fn() -> usize) -> Vec<Vec<u64>> {
        let (read_to, read) = sync_channel(8);
        for place in 1..=8 {
            let envelopes = vec![(SequenceId(place), Bytes::from_static(b"envelope"))];
            let chunk = ChunkEnvelopes::of(0, OriginatorId(200), envelopes);
            read_to.send(Ok(chunk.unwrap())).unwrap();
        }
        drop(read_to);
        let (to, got): (Vec<_>, Vec<_>) = (0..WRITERS_IDLE).map(|_| sync_channel(8)).unzip();
        hand_over(read, to, used, &mut |_| ControlFlow::Continue(())).unwrap();
        let places = |of: Receiver<ChunkEnvelopes>| -> Vec<u64> {
            of.into_iter().map(|it| it.from.0).collect()
        };
        got.into_iter().map(places).collect()
    }

    /// A publisher must not wait until the chunks of all writers have reached the disk.
    #[test]
    fn beside_commits_two_writers_get_chunks_and_without_them_all() {
        let busy = handed_over(&|| WRITERS);
        assert_eq!(busy, [vec![1, 3, 5, 7], vec![2, 4, 6, 8], vec![], vec![]]);
        let idle = handed_over(&|| WRITERS_IDLE);
        assert_eq!(idle, [vec![1, 5], vec![2, 6], vec![3, 7], vec![4, 8]]);
    }

    /// A writer of an idle node has failed, and gets no further chunk because there are commits now.
    #[test]
    fn a_writer_that_has_failed_ends_a_copy_also_while_it_is_not_used() {
        let turns = Cell::new(0);
        let used = || match turns.replace(turns.get() + 1) {
            0..4 => WRITERS_IDLE,
            4 => WRITERS,
            _ => 0,
        };
        assert_eq!(handed_over(&used), [vec![1, 5], vec![2], vec![3], vec![4]]);
    }
}
