//! Checks every envelope against its leaf, and every leaf against the root of its strand's tree.

use std::sync::Arc;

use hawser_proto::merkle::{CompactRange, TreeHash};
use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use super::report::{Damage, Scrub, ScrubError};
use crate::change::SkipReason;
use crate::database::Database;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::leaf::LeafKey;
use crate::log_scan::LogItem;
use crate::prune::StrandPlaces;
use crate::snapshot::Snapshot;
use crate::trees::leaf_of;

/// Length of a pruned envelope's record, for the pace. Most have a charge and no hash.
const RECORD_LEN_BYTES: usize = 64;

/// The cause of a damage that no checksum shows.
const OTHER: &str = "the envelope is not the one that the strand's tree has there";
/// The cause of a damage of the leaf itself.
const NO_LEAF: &str = "nothing proves the envelope: its leaf cannot be read";

/// Reads all strands.
///
/// # Errors
/// When the caller has stopped the work, or the heads cannot be read.
pub(super) fn read(database: &Arc<Database>, scrub: &mut Scrub<'_>) -> Result<(), ScrubError> {
    let snapshot = Snapshot::new(database);
    let heads: Vec<EnvelopeId> = snapshot.heads()?.iter().collect();
    heads.into_iter().try_for_each(|head| read_strand(&snapshot, head, scrub))
}

/// Reads the places of a damaged part again: each one must be stored or marked, and a stored envelope must match
/// its leaf, which must be readable.
///
/// # Errors
/// When the caller has stopped the work, or the heads cannot be read.
pub(super) fn read_part(
    database: &Arc<Database>,
    part: &Damage,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    if part.family != Family::Log.name() {
        return Ok(());
    }
    let snapshot = Snapshot::new(database);
    let strands = part.strands(&snapshot.heads()?).unwrap_or_default();
    for StrandPlaces { originator, from, through } in strands {
        let strand = EnvelopeId::new(originator, from.previous());
        let mut next = from;
        for item in snapshot.log(strand, through) {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    // Another family's damage, such as that of marks, ends neither the scrub nor other repairs.
                    let at = |sequence| Some(EnvelopeId { sequence, ..strand });
                    let places = (at(next), at(through));
                    scrub.found(damage(Family::Log, places, error.to_string()));
                    next = through.next();
                    break;
                }
            };
            let (from, to) = match item {
                LogItem::Envelope { id, bytes, .. } => {
                    scrub.read(bytes.len())?;
                    let cause = match snapshot.leaf(id) {
                        Ok(Some(leaf)) if leaf != leaf_of(&bytes) => Some(OTHER),
                        Ok(_) => None,
                        Err(_) => Some(NO_LEAF),
                    };
                    if let Some(cause) = cause {
                        scrub.found(damage(Family::Log, (Some(id), Some(id)), cause.to_owned()));
                    }
                    (id.sequence, id.sequence)
                }
                LogItem::Skipped { from, through, .. } => (from, through),
            };
            if from > next {
                lost(strand, (next, from.previous()), scrub);
            }
            next = to.next();
        }
        if next <= through {
            lost(strand, (next, through), scrub);
        }
    }
    Ok(())
}

/// Compares one strand with its tree: every place up to the head is stored or marked, each envelope has its leaf, and
/// the leaves have the stored root. Continues behind damaged rows of the log, however many there are.
fn read_strand(
    snapshot: &Snapshot<'_>,
    head: EnvelopeId,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    let Some(mut leaves) = Leaves::of(snapshot, head) else { return Ok(()) };
    let mut next = SequenceId(1);
    while let Some(unread) = read_places(snapshot, &mut leaves, (next, head), scrub)? {
        // Unreadable rows were reported before, for their families.
        let damaged = scrub.end_of_damage(EnvelopeId { sequence: unread, ..head });
        let Some(end) = damaged else { return Ok(()) };
        next = end.min(head.sequence).next();
    }
    if leaves.up_to(SequenceId(leaves.size)).is_some() && leaves.edge.root() != leaves.root {
        let whole = (Some(EnvelopeId { sequence: SequenceId(1), ..head }), Some(head));
        let cause = "the leaves of the strand have another root than its tree".to_owned();
        scrub.found(damage(Family::Tree, whole, cause));
    }
    Ok(())
}

/// Compares the places of a strand from `from` to its head. Returns the first place that cannot be read; `None` at the
/// head.
fn read_places(
    snapshot: &Snapshot<'_>,
    leaves: &mut Leaves<'_>,
    (from, head): (SequenceId, EnvelopeId),
    scrub: &mut Scrub<'_>,
) -> Result<Option<SequenceId>, ScrubError> {
    let mut next = from;
    let before = EnvelopeId { sequence: from.previous(), ..head };
    for item in snapshot.log(before, head.sequence) {
        let Ok(item) = item else { return Ok(Some(next)) };
        let (from, through) = match &item {
            LogItem::Envelope { id, .. } => (id.sequence, id.sequence),
            LogItem::Skipped { from, through, .. } => (*from, *through),
        };
        if from > next {
            lost(head, (next, from.previous()), scrub);
        }
        next = through.next();
        if matches!(item, LogItem::Skipped { reason: SkipReason::Pruned, .. }) {
            read_records(snapshot, EnvelopeId { sequence: from, ..head }, through, scrub)?;
        }
        let LogItem::Envelope { id, bytes, .. } = item else { continue };
        scrub.read(bytes.len())?;
        // Unreadable leaves were reported before, too.
        let leaf = leaves.up_to(id.sequence).flatten();
        if leaf.is_some_and(|leaf| leaf != leaf_of(&bytes)) {
            scrub.found(damage(Family::Log, (Some(id), Some(id)), OTHER.to_owned()));
        }
    }
    if next <= head.sequence {
        lost(head, (next, head.sequence), scrub);
    }
    Ok(None)
}

/// Reads the records of pruned places. Without them the tallies cannot be rebuilt.
fn read_records(
    snapshot: &Snapshot<'_>,
    from: EnvelopeId,
    through: SequenceId,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    let mut next = from.sequence;
    for record in snapshot.pruned(from.originator, from.sequence, through) {
        scrub.read(RECORD_LEN_BYTES)?;
        match record {
            Ok((id, _)) => next = id.sequence.next(),
            Err(_) => {
                let places = (Some(EnvelopeId { sequence: next, ..from }), None);
                let cause = "the record of a pruned envelope cannot be read".to_owned();
                scrub.found(damage(Family::Pruned, places, cause));
                break;
            }
        }
    }
    Ok(())
}

fn lost(strand: EnvelopeId, (first, last): (SequenceId, SequenceId), scrub: &mut Scrub<'_>) {
    let at = |sequence| Some(EnvelopeId { sequence, ..strand });
    let cause = "nothing is stored there, and nothing says why".to_owned();
    scrub.found(damage(Family::Log, (at(first), at(last)), cause));
}

fn damage(
    family: Family,
    (first, last): (Option<EnvelopeId>, Option<EnvelopeId>),
    cause: String,
) -> Damage {
    Damage { family: family.name(), first, last, file: None, cause }
}

/// The stored leaves of one strand, read in order.
struct Leaves<'a> {
    rows: DBRawIterator<'a>,
    edge: CompactRange,
    size: u64,
    root: TreeHash,
    last: Option<TreeHash>,
}

impl<'a> Leaves<'a> {
    /// Starts at the first leaf; `None` if the tree cannot be read, which was reported before for its families.
    fn of(snapshot: &'a Snapshot<'_>, head: EnvelopeId) -> Option<Self> {
        let size = snapshot.tree_size(head.originator).ok()?;
        let root = snapshot.root(head.originator, size).ok()?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = snapshot.rows(Family::Leaf, options);
        rows.seek(LeafKey(EnvelopeId { sequence: SequenceId(1), ..head }).encode());
        Some(Self { rows, edge: CompactRange::default(), size, root, last: None })
    }

    /// Reads up to the leaf of a place, and returns it; `Some(None)` beyond the tree, `None` if a row cannot
    /// be read.
    fn up_to(&mut self, place: SequenceId) -> Option<Option<TreeHash>> {
        while self.edge.size() < place.0.min(self.size) {
            let leaf = TreeHash::from_slice(self.rows.value()?)?;
            self.edge.append(leaf, |_, _| ());
            self.last = Some(leaf);
            self.rows.next();
        }
        Some(self.last.filter(|_| self.edge.size() == place.0))
    }
}
