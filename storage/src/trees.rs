//! Grows the trees of all strands with commits, and completes trees that are behind.
//!
//! A commit that lengthens a strand whose tree has reached the head adds its leaves in the same write. A tree may
//! be behind in a folder of an older format, or after a missing place. Commits do not touch it;
//! [`Store::extend_trees`] extends it in steps until it has reached the head.
//!
//! Each void place has a row, and the operator of a chain's contract, or a lying endpoint, makes any number of places
//! void with one event. So a tree ends for good before a run of void places that is [too long](is_void_run_in_tree).
//!
//! Invariant: a tree ends before the first place that may still be filled, so its rows never change, except when a
//! chain's strand is cut.

use std::cell::LazyCell;

use bytes::Bytes;
use hawser_proto::merkle::{CompactRange, LeafData, TreeHash, envelope_leaf, leaf_hash};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::WriteBatch;

use crate::change::{Change, SkipReason};
use crate::database::Database;
use crate::error::{CommitError, ReadError};
use crate::hashed::HashedEnvelope;
use crate::log_scan::LogItem;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tree_edges::Trees;
use crate::tree_rows::TreeFamilies;

/// Largest number of places of a step. Writers of the strand wait for the write, and in the last step for the
/// places that were added meanwhile. Calculated: 2 µs for each envelope of a kilobyte in the page cache.
const STEP_PLACES: u64 = 512;
/// Bytes of envelopes that a step reads while writers continue. A guess: envelopes may have 25 MiB each.
const STEP_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of envelopes that are read while writers of the strand wait. A guess: a millisecond from memory.
const LAST_STEP_BYTES: usize = 1024 * 1024;
/// Longest run of void places that has leaves wherever it is. Calculated: an event makes a node write 200 kB for it.
/// Specified in `docs/protocol/checkpoints.md`, as is the next one.
const SHORT_VOID_RUN_MAX: u64 = 1 << 12;
/// Longer runs have leaves if they end here or before. Calculated: all of them together take 13 GB.
const LONG_VOID_RUNS_END: SequenceId = SequenceId(1 << 28);

/// Returns true if a tree has leaves for this run of void places, and false if it ends before it.
#[must_use]
pub fn is_void_run_in_tree(from: SequenceId, through: SequenceId) -> bool {
    through <= LONG_VOID_RUNS_END || through.0.saturating_sub(from.0) < SHORT_VOID_RUN_MAX
}

/// A strand whose tree ends before its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeBehind {
    /// The originator of the strand.
    pub originator: OriginatorId,
    /// Number of leaves: the tree covers the places up to this one.
    pub size: u64,
    /// The head of the strand.
    pub head: SequenceId,
    /// True if the next place is missing or has expired, and the tree grows again once the place is found. Also true
    /// if the next void places are too many for a tree.
    pub waits: bool,
}

impl Database {
    /// Returns the edge of a strand's tree. Call it under the strand's lock.
    fn edge(&self, originator: OriginatorId) -> Result<CompactRange, ReadError> {
        self.trees.get(originator, || self.load_tree(originator))
    }
}

/// Returns the leaf of a stored envelope. Bytes that are not an envelope, which only tests store, are hashed as
/// they are.
pub(crate) fn leaf_of(bytes: &Bytes) -> TreeHash {
    envelope_leaf(bytes).unwrap_or_else(|| leaf_hash(LeafData::Signed(bytes)))
}

/// A tree while the changes of a group are added.
struct Growth {
    originator: OriginatorId,
    edge: CompactRange,
    /// False after the first place without a leaf.
    is_open: bool,
}

/// The trees that a group of changes lengthens.
pub(crate) struct Growths(Vec<Growth>);

impl Growths {
    /// Selects the trees of the strands with these durable heads that are not behind.
    pub(crate) fn new(
        database: &Database,
        heads: impl Iterator<Item = EnvelopeId>,
    ) -> Result<Self, ReadError> {
        let mut growths = Vec::new();
        for head in heads {
            let edge = database.edge(head.originator)?;
            if edge.size() == head.sequence.0 {
                growths.push(Growth { originator: head.originator, edge, is_open: true });
            }
        }
        Ok(Self(growths))
    }

    /// Adds the leaves of all changes to the batch. `leaves` has the hash of each change that is an envelope.
    pub(crate) fn stage(
        &mut self,
        database: &Database,
        changes: &[Change],
        leaves: &[TreeHash],
        batch: &mut WriteBatch,
    ) {
        assert_eq!(changes.len(), leaves.len(), "each change has a leaf");
        let families = database.tree_families();
        for (change, &leaf) in changes.iter().zip(leaves) {
            let at = self.0.binary_search_by_key(&change.originator(), |it| it.originator);
            let Ok(at) = at else { continue };
            self.0[at].add(families, change, leaf, batch);
        }
    }

    /// Returns the place of each tree's last leaf.
    pub(crate) fn ends(&self) -> impl Iterator<Item = EnvelopeId> {
        self.0.iter().map(|it| EnvelopeId::new(it.originator, SequenceId(it.edge.size())))
    }

    /// Sets the trees' edges once the batch is durable.
    pub(crate) fn done(self, trees: &Trees) {
        for growth in self.0 {
            trees.set(growth.originator, growth.edge);
        }
    }
}

impl Growth {
    fn add(
        &mut self,
        families: TreeFamilies<'_>,
        change: &Change,
        leaf: TreeHash,
        batch: &mut WriteBatch,
    ) {
        let next = SequenceId(self.edge.size() + 1);
        let (start, end) = (change.start().sequence, change.end().sequence);
        if !self.is_open || end < next || start > next {
            return;
        }
        let places = end.0 - next.0 + 1;
        match change {
            Change::Append(_) => {
                families.stage_leaf(self.originator, &mut self.edge, leaf, batch);
            }
            Change::Skip { reason: SkipReason::Void, .. } if places <= STEP_PLACES => {
                for _ in 0..places {
                    families.stage_leaf(self.originator, &mut self.edge, leaf, batch);
                }
            }
            Change::Skip { .. } => self.is_open = false,
        }
        assert!(!self.is_open || self.edge.size() == end.0, "each place has one leaf");
    }
}

/// Returns the leaves of changes, before any lock is taken. A skipped range has the leaf of a void place. Hashes the
/// envelopes that are not the next ones of `hashed`.
pub(crate) fn leaves_of(changes: &[Change], hashed: &[HashedEnvelope]) -> Vec<TreeHash> {
    let void = LazyCell::new(|| leaf_hash(LeafData::Void));
    let mut hashed = hashed.iter();
    let leaf = |change: &Change| match change {
        Change::Append(entry) => {
            let known = hashed.next().and_then(|it| it.leaf_of(&entry.bytes));
            known.unwrap_or_else(|| leaf_of(&entry.bytes))
        }
        Change::Skip { .. } => *void,
    };
    changes.iter().map(leaf).collect()
}

impl Store {
    /// Returns the strands whose trees end before their heads, by originator ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn trees_behind(&self) -> Result<Vec<TreeBehind>, ReadError> {
        let all = self.database().strands.all().into_iter();
        all.filter_map(|(originator, _)| self.tree_behind(originator).transpose()).collect()
    }

    /// Returns the tree of a strand if it ends before the strand's head.
    fn tree_behind(&self, originator: OriginatorId) -> Result<Option<TreeBehind>, ReadError> {
        let database = self.database();
        let head = database.strands.head(originator);
        let (head, size) = {
            let head = head.lock();
            (*head, database.edge(originator)?.size())
        };
        if size >= head.0 {
            return Ok(None);
        }
        let waits = self.waits(EnvelopeId::new(originator, SequenceId(size + 1)))?;
        Ok(Some(TreeBehind { originator, size, head, waits }))
    }

    /// Returns the edge of a strand's tree, which may end before the strand's head.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn tree_edge(&self, originator: OriginatorId) -> Result<CompactRange, ReadError> {
        let database = self.database();
        let head = database.strands.head(originator);
        let _no_commit = head.lock();
        database.edge(originator)
    }

    /// Runs up to `steps_max` steps that extend trees to their strands' heads. Returns true if all remaining trees
    /// [wait](TreeBehind::waits). A step is one write and is not synced: a step that a crash loses is repeated.
    ///
    /// The log is read before writers of the strand have to wait.
    ///
    /// # Errors
    /// An error if a row cannot be read or written, after the trees of all other strands have been extended. The caller
    /// should try again later.
    pub fn extend_trees(&self, steps_max: usize) -> Result<bool, CommitError> {
        let (mut steps, mut failure) = (0, None);
        for (originator, _) in self.database().strands.all() {
            match self.bring_up_to_head(originator, steps_max, &mut steps) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    /// Runs steps for one tree, until `steps` is `steps_max`. Returns false if it needs more.
    fn bring_up_to_head(
        &self,
        originator: OriginatorId,
        steps_max: usize,
        steps: &mut usize,
    ) -> Result<bool, CommitError> {
        if self.tree_behind(originator)?.is_none_or(|it| it.waits) {
            return Ok(true);
        }
        loop {
            if *steps == steps_max {
                return Ok(false);
            }
            *steps += 1;
            if self.bring_up_tree(originator)? {
                return Ok(true);
            }
        }
    }

    fn waits(&self, next: EnvelopeId) -> Result<bool, ReadError> {
        let snapshot = self.snapshot();
        let item = snapshot.log(before(next), next.sequence).next().transpose()?;
        Ok(match item {
            Some(LogItem::Skipped { reason: SkipReason::Void, .. }) => {
                begins_long_void_run(&snapshot, next)?
            }
            Some(LogItem::Skipped { reason, .. }) => reason != SkipReason::Pruned,
            Some(LogItem::Envelope { id, .. }) => id != next,
            None => true,
        })
    }

    /// Runs one step for a tree. Returns true if it has reached the head, or waits for a place.
    fn bring_up_tree(&self, originator: OriginatorId) -> Result<bool, CommitError> {
        let database = self.database();
        database.check_writable()?;
        let _no_rebuild = database.gate.read();
        let _one_step = database.trees.steps.lock();
        let head = database.strands.head(originator);
        let (seen, edge) = {
            let head = head.lock();
            (*head, database.edge(originator)?)
        };
        let from = edge.size();
        if from >= seen.0 {
            // Another thread has completed it, so commits extend it from now on, also while this one holds no lock.
            return Ok(true);
        }
        let through = SequenceId(seen.0.min(from + STEP_PLACES));
        let mut batch = WriteBatch::default();
        let (mut edge, mut stop) =
            self.stage_places(&database, originator, edge, (through, STEP_BYTES), &mut batch)?;
        let head = head.lock();
        if edge.size() == seen.0 {
            // Writers wait while the places that were added meanwhile are processed; afterwards commits extend the
            // tree.
            let last = (SequenceId(head.0.min(seen.0 + STEP_PLACES)), LAST_STEP_BYTES);
            (edge, stop) = self.stage_places(&database, originator, edge, last, &mut batch)?;
        }
        let size = edge.size();
        if size > from {
            assert!(size <= head.0, "no tree ends above the head of its strand");
            database.write_buffered(batch)?;
            database.trees.set(originator, edge);
        }
        Ok(stop == Stop::Waits || size == head.0)
    }

    /// Adds the leaves of stored or void places up to `through`. Ends at the first other place, before a run of void
    /// places that is too long, after this many bytes, or before what cannot be read, unless that is the first place.
    fn stage_places(
        &self,
        database: &Database,
        originator: OriginatorId,
        mut edge: CompactRange,
        (through, bytes_max): (SequenceId, usize),
        batch: &mut WriteBatch,
    ) -> Result<(CompactRange, Stop), ReadError> {
        let families = database.tree_families();
        let mut left = bytes_max;
        let after = EnvelopeId::new(originator, SequenceId(edge.size()));
        let snapshot = self.snapshot();
        for item in snapshot.log(after, through) {
            let item = match item {
                Ok(item) => item,
                // The next step begins at the damage, and fails.
                Err(_) if edge.size() > after.sequence.0 => return Ok((edge, Stop::Bound)),
                Err(error) => return Err(error),
            };
            match item {
                LogItem::Envelope { id, bytes, .. } if id.sequence.0 == edge.size() + 1 => {
                    if left == 0 {
                        return Ok((edge, Stop::Bound));
                    }
                    left = left.saturating_sub(bytes.len());
                    families.stage_leaf(originator, &mut edge, leaf_of(&bytes), batch);
                }
                LogItem::Skipped { from, through: end, reason: SkipReason::Void }
                    if from.0 == edge.size() + 1 =>
                {
                    // A step has fewer places than a short run, so only a run that its bound cuts can be long.
                    let next = EnvelopeId::new(originator, from);
                    if end == through && begins_long_void_run(&snapshot, next)? {
                        break;
                    }
                    let void = leaf_hash(LeafData::Void);
                    for _ in from.0..=end.0 {
                        families.stage_leaf(originator, &mut edge, void, batch);
                    }
                }
                LogItem::Skipped { from, through, reason: SkipReason::Pruned }
                    if from.0 == edge.size() + 1 =>
                {
                    for place in from.0..=through.0 {
                        let id = EnvelopeId::new(originator, SequenceId(place));
                        let leaf = database.pruned_leaf(id)?;
                        families.stage_leaf(originator, &mut edge, leaf, batch);
                    }
                }
                LogItem::Envelope { .. } | LogItem::Skipped { .. } => break,
            }
        }
        let stop = if edge.size() < through.0 { Stop::Waits } else { Stop::Bound };
        Ok((edge, stop))
    }
}

/// The reason for which a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The bound of places or bytes was reached, or a place that cannot be read.
    Bound,
    /// The next place may still be found, or begins a run of void places that is too long.
    Waits,
}

/// Returns true if `next` is the first of void places that are too many for a tree.
fn begins_long_void_run(snapshot: &Snapshot<'_>, next: EnvelopeId) -> Result<bool, ReadError> {
    let item = snapshot.log(before(next), SequenceId::MAX).next().transpose()?;
    Ok(match item {
        Some(LogItem::Skipped { from, through, reason: SkipReason::Void }) => {
            from == next.sequence && !is_void_run_in_tree(from, through)
        }
        Some(_) | None => false,
    })
}

fn before(id: EnvelopeId) -> EnvelopeId {
    EnvelopeId { sequence: id.sequence.previous(), ..id }
}
