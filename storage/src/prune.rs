//! Pruning: removes envelopes and their rows by topic and expiry. The places are marked, the leaves stay, and a record
//! of each envelope keeps the figures that tallies need. Receipts stay too, or a payer could be charged again for a
//! pruned envelope.
//!
//! This file decides nothing about time or payment: the caller names the envelopes. It refuses only what would break
//! the log itself. One batch has all rows of an envelope, so a crash leaves the envelope held or pruned. The batches
//! are not synced. A batch that a crash loses is repeated. A later synced commit makes earlier batches durable, because
//! the write-ahead log keeps their order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{CompactOptions, DBRawIterator, ReadOptions, WriteBatch};

use crate::change::{Facts, Validity};
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::ExpiryKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::pruned::{PrunedEnvelope, PrunedKey};
use crate::keys::topic::TopicKey;
use crate::raw_rows::nearest_mark;
use crate::rebuild::Derive;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::trees::leaf_of;

/// An envelope and the time from which on it may be pruned, as the expiry index has them. Ascending as that index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Expiring {
    /// Unix seconds.
    pub expiry_unix_s: u64,
    /// The envelope's place.
    pub id: EnvelopeId,
}

/// The outcome of pruning some envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrunedBatch {
    /// Places that are pruned now, with the lengths of their envelopes in bytes.
    pub pruned: Vec<(EnvelopeId, usize)>,
    /// Places that stay because the log needs them as they are, or because their rows do not agree.
    pub refused: Vec<EnvelopeId>,
}

/// Places of a strand, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrandPlaces {
    /// The strand.
    pub originator: OriginatorId,
    /// The first place.
    pub from: SequenceId,
    /// The last place.
    pub through: SequenceId,
}

impl Snapshot<'_> {
    /// Calls `each` with the envelopes behind `after` in the order of their expiry, at most `visits_max`. Returns the last
    /// one if there may be more; `None` at the end, or once `each` breaks off.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn expiring(
        &self,
        after: Option<Expiring>,
        visits_max: usize,
        mut each: impl FnMut(Expiring) -> ControlFlow<()>,
    ) -> Result<Option<Expiring>, ReadError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut rows = self.projected(Family::Expiry, options)?;
        match after {
            None => rows.seek_to_first(),
            Some(Expiring { expiry_unix_s, id }) => {
                let key = ExpiryKey { expiry_unix_s, id }.encode();
                rows.seek(key);
                if rows.key() == Some(key.as_ref()) {
                    rows.next();
                }
            }
        }
        let mut last = after;
        for _ in 0..visits_max {
            let Some(key) = rows.key() else {
                rows.status().map_err(DatabaseError::from)?;
                return Ok(None);
            };
            let found =
                ExpiryKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Expiry, key))?;
            let found = Expiring { expiry_unix_s: found.expiry_unix_s, id: found.id };
            if each(found).is_break() {
                return Ok(None);
            }
            last = Some(found);
            rows.next();
        }
        Ok(last)
    }
}

impl Store {
    /// Removes these envelopes from the log, each strand's as one write. Leaves, tallies, marks of rules and evidence stay.
    ///
    /// An envelope stays that is absent, marked, not verified yet, the last one of its strand, without the stated expiry, or
    /// that inboxes are made of. `derive` must be the function that a rebuild gets. Commits to a strand wait for its write. Nothing is
    /// pruned while projections have to be rebuilt. The watermark of the disk does not stop it: this is how a disk gets
    /// room.
    ///
    /// # Errors
    /// When rows cannot be read or written. Strands before that in the order of their ids are done.
    pub fn prune(
        &self,
        expired: &[Expiring],
        derive: &Derive<'_>,
    ) -> Result<PrunedBatch, CommitError> {
        self.database().prune(expired, derive)
    }

    /// Removes the next places of a strand that readers are shown and that are not verified, up to `through` or the head, a
    /// few thousand at a time as one durable write. Their own node keeps them no more, so nothing can verify them. They end
    /// as pruned and are charged to no payer; leaves stay. One that by its own statement has not expired by `now_unix_s` ends
    /// the range before it: its node has signed a tree with that statement. Without a time all of them go: nothing was found that
    /// verifies them. Returns the last place that is verified, or gone, then.
    ///
    /// # Errors
    /// When rows cannot be read or written.
    pub fn prune_shown(
        &self,
        originator: OriginatorId,
        through: SequenceId,
        now_unix_s: Option<u64>,
        derive: &Derive<'_>,
    ) -> Result<SequenceId, CommitError> {
        self.database().prune_shown(originator, through, now_unix_s, derive)
    }

    /// Compacts the parts of the log with these places, and the indexes, so that the files shrink. Takes long, and
    /// cannot be cancelled. Commits and readers continue meanwhile. Without this call, RocksDB compacts the files
    /// later, when it finds that they are mostly deletions.
    pub fn compact_places(&self, places: &[StrandPlaces]) {
        let database = self.database();
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let log = database.family(Family::Log);
        for &StrandPlaces { originator, from, through } in places {
            let key = |sequence| EnvelopeKey(EnvelopeId::new(originator, sequence)).encode();
            let (from, end) = (key(from), key(through.next()));
            database.db.compact_range_cf_opt(log, Some(from), Some(end), &options);
        }
        for family in [Family::Expiry, Family::Topic] {
            let family = database.family(family);
            database.db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
        }
    }
}

/// Places that readers are shown, and that go in one write. A guess: a write of less than a MiB.
const SHOWN_PLACES: u64 = 4096;

/// An envelope that is being removed, as read before the writers of its strand have to wait.
struct Leaving {
    id: EnvelopeId,
    /// `None` if it never expires.
    expiry_unix_s: Option<u64>,
    len_bytes: usize,
    /// `None` if the strand's tree has reached the place.
    leaf: Option<TreeHash>,
    facts: Facts,
}

impl Database {
    fn prune(
        self: &Arc<Self>,
        expired: &[Expiring],
        derive: &Derive<'_>,
    ) -> Result<PrunedBatch, CommitError> {
        self.poison.check()?;
        let _one = self.pruning.lock();
        let _no_rebuild = self.gate.read();
        let mut done = PrunedBatch::default();
        if self.rebuilt_in_part.load(Ordering::Acquire) || !self.stale.is_empty() {
            return Ok(done);
        }
        let mut strands: BTreeMap<OriginatorId, Vec<Expiring>> = BTreeMap::new();
        for &it in expired {
            strands.entry(it.id.originator).or_default().push(it);
        }
        for (originator, mut expired) in strands {
            expired.sort_unstable_by_key(|it| it.id);
            expired.dedup_by_key(|it| it.id);
            let leaving = self.leaving(originator, &expired, derive, &mut done)?;
            if !leaving.is_empty() {
                self.prune_strand(originator, leaving, &mut done)?;
            }
        }
        Ok(done)
    }

    fn prune_shown(
        self: &Arc<Self>,
        originator: OriginatorId,
        through: SequenceId,
        now_unix_s: Option<u64>,
        derive: &Derive<'_>,
    ) -> Result<SequenceId, CommitError> {
        self.check_writable()?;
        let _one = self.pruning.lock();
        let _no_rebuild = self.gate.read();
        let head = self.strands.head(originator);
        let head = head.lock();
        let Some(verified) = self.verified(originator)? else { return Ok(*head) };
        let through = through.min(*head).min(SequenceId(verified.0 + SHOWN_PLACES));
        if through <= verified {
            return Ok(verified);
        }
        let snapshot = Snapshot::new(self);
        let tree_size = snapshot.tree_size(originator)?;
        let mut marks = self.db.raw_iterator_cf(self.family(Family::Mark));
        let (mut batch, mut ranges) = (WriteBatch::default(), Ranges::default());
        let mut gone = verified;
        for place in verified.0 + 1..=through.0 {
            let id = EnvelopeId::new(originator, SequenceId(place));
            let bytes = snapshot.get(id)?;
            let facts = bytes.as_ref().and_then(|bytes| derive(id, bytes, Validity::Valid));
            let shown = bytes.zip(facts);
            let corrupt = || ReadError::corrupt(Family::Log, &EnvelopeKey(id).encode());
            let (bytes, facts) = shown.ok_or_else(corrupt)?;
            let expiry_unix_s = facts.expiry_unix_s;
            if now_unix_s.is_some_and(|now| expiry_unix_s.is_none_or(|at| at > now)) {
                break;
            }
            let leaf = (place > tree_size).then(|| leaf_of(&bytes));
            let facts = facts.unbooked();
            let leaving = Leaving { id, expiry_unix_s, len_bytes: bytes.len(), leaf, facts };
            self.stage_pruned(&leaving, &mut batch);
            ranges.add(id, &mut marks)?;
            gone = id.sequence;
        }
        if gone == verified {
            return Ok(verified);
        }
        ranges.stage(self, &mut batch);
        self.stage_verified_head(EnvelopeId::new(originator, gone), *head, &mut batch);
        let writing = self.expired_ends.writing();
        self.write_change(batch)?;
        drop(writing);
        self.recent.forget(originator);
        Ok(gone)
    }

    /// Reads the envelopes of one strand that may go. Bytes of a held envelope never change. One is in memory at a time:
    /// each may have 25 MiB.
    fn leaving(
        self: &Arc<Self>,
        originator: OriginatorId,
        expired: &[Expiring],
        derive: &Derive<'_>,
        done: &mut PrunedBatch,
    ) -> Result<Vec<Leaving>, ReadError> {
        let snapshot = Snapshot::new(self);
        let tree_size = snapshot.tree_size(originator)?;
        let mut leaving = Vec::with_capacity(expired.len());
        for &Expiring { expiry_unix_s, id } in expired {
            let bytes = snapshot.get(id)?;
            let facts = bytes.as_ref().and_then(|bytes| derive(id, bytes, Validity::Valid));
            let agrees = |facts: &Facts| {
                facts.expiry_unix_s == Some(expiry_unix_s) && facts.addresses.is_empty()
            };
            let Some((bytes, facts)) = bytes.zip(facts.filter(agrees)) else {
                done.refused.push(id);
                continue;
            };
            let leaf = (id.sequence.0 > tree_size).then(|| leaf_of(&bytes));
            let (expiry_unix_s, len_bytes) = (Some(expiry_unix_s), bytes.len());
            leaving.push(Leaving { id, expiry_unix_s, len_bytes, leaf, facts });
        }
        Ok(leaving)
    }

    fn prune_strand(
        &self,
        originator: OriginatorId,
        leaving: Vec<Leaving>,
        done: &mut PrunedBatch,
    ) -> Result<(), CommitError> {
        let head = self.strands.head(originator);
        // A late find reads marks, and a verdict writes them.
        let head = head.lock();
        let end = self.verified(originator)?.unwrap_or(*head);
        let mut marks = self.db.raw_iterator_cf(self.family(Family::Mark));
        let (mut batch, mut ranges) = (WriteBatch::default(), Ranges::default());
        let (mut pruned, mut refused) = (Vec::new(), Vec::new());
        for leaving in leaving {
            let id = leaving.id;
            let mark = nearest_mark(&mut marks, id)?;
            let is_marked = mark.is_some_and(|(at, mark)| {
                at.originator == originator && mark.end(at) >= id.sequence
            });
            if is_marked || id.sequence >= *head || id.sequence > end {
                refused.push(id);
                continue;
            }
            self.stage_pruned(&leaving, &mut batch);
            ranges.add(id, &mut marks)?;
            pruned.push((id, leaving.len_bytes));
        }
        ranges.stage(self, &mut batch);
        if !pruned.is_empty() {
            let writing = self.expired_ends.writing();
            self.write_buffered(batch)?;
            drop(writing);
        }
        done.pruned.append(&mut pruned);
        done.refused.append(&mut refused);
        Ok(())
    }

    /// Stages everything of one envelope but the mark of its place.
    fn stage_pruned(&self, leaving: &Leaving, batch: &mut WriteBatch) {
        let &Leaving { id, expiry_unix_s, len_bytes, leaf, ref facts } = leaving;
        let receipt = facts.receipt.filter(|_| id.originator == self.identity.node);
        let record = PrunedEnvelope {
            originator_ns: facts.originator_ns,
            len_bytes: u64::try_from(len_bytes).unwrap_or(u64::MAX),
            charge: facts.charge,
            counts_for_congestion: facts.counts_for_congestion,
            receipt,
            leaf,
        };
        batch.put_cf(self.family(Family::Pruned), PrunedKey(id).encode(), record.encode());
        batch.delete_cf(self.family(Family::Log), EnvelopeKey(id).encode());
        if let Some(expiry_unix_s) = expiry_unix_s {
            let expiry = ExpiryKey { expiry_unix_s, id };
            batch.delete_cf(self.family(Family::Expiry), expiry.encode());
        }
        if let Some(topic) = TopicKey::new(facts.topic.as_bytes(), id) {
            batch.delete_cf(self.family(Family::Topic), topic.encode());
        }
    }
}

/// Ranges of pruned places that a batch makes, each joined with the stored ones beside it. Places come ascending.
#[derive(Default)]
struct Ranges {
    /// First place of each range → last one.
    made: BTreeMap<EnvelopeId, SequenceId>,
    /// Stored rows that a range has taken in.
    taken: Vec<EnvelopeId>,
}

impl Ranges {
    fn add(&mut self, id: EnvelopeId, marks: &mut DBRawIterator<'_>) -> Result<(), ReadError> {
        let mut through = id.sequence;
        let next = EnvelopeId { sequence: id.sequence.next(), ..id };
        if let Some((at, Mark::Pruned { through: end })) = nearest_mark(marks, next)?
            && at == next
        {
            self.taken.push(at);
            through = end;
        }
        let before = EnvelopeId { sequence: id.sequence.previous(), ..id };
        if let Some(mut last) = self.made.last_entry()
            && *last.get() == before.sequence
        {
            last.insert(through);
            return Ok(());
        }
        let mut first = id;
        if let Some((at, Mark::Pruned { through: end })) = nearest_mark(marks, before)?
            && at.originator == id.originator
            && end == before.sequence
        {
            first = at;
        }
        self.made.insert(first, through);
        Ok(())
    }

    fn stage(self, database: &Database, batch: &mut WriteBatch) {
        let family = database.family(Family::Mark);
        // Before the ranges: none of these begins where a made one does.
        for at in self.taken {
            batch.delete_cf(family, MarkKey(at).encode());
        }
        let mut value = Vec::new();
        for (first, through) in self.made {
            Mark::Pruned { through }.encode_into(&mut value);
            batch.put_cf(family, MarkKey(first).encode(), &value);
        }
    }
}
