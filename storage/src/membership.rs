//! Records the membership of nodes from the chain's registry, which is never derived, and updates the marks that
//! follow from it. [`Store::judge_hidden`] changes marks by the same steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, minute_of};
use parking_lot::{MutexGuard, RwLockReadGuard};
use rocksdb::WriteBatch;

use crate::change::{ChainPosition, Facts, InvalidRule, Validity};
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::cursor::{CursorKey, encode_position};
use crate::keys::expiry::{ExpiryKey, ExpiryRow};
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::membership::{MembershipChange, MembershipKey};
use crate::keys::receipt::ReceiptKey;
use crate::keys::reprice::RepriceKey;
use crate::keys::topic::{self, TopicKey};
use crate::keys::{Key, decode_u64};
use crate::log_scan::LogItem;
use crate::rebuild::Derive;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// Largest number of envelopes whose marks change in a step. Each costs the recovery of a payer's key, about 40 µs,
/// and perhaps the check of a signature; commits to the strand wait for this time.
const CHANGED_AT_ONCE: usize = 1024;
/// Largest number of envelopes that a step reads. A guess.
const READ_AT_ONCE: usize = 16 * 1024;
/// Bytes of envelopes that end a step early. A guess that bounds the memory of a batch.
const STEP_LEN_BYTES: usize = 16 << 20;

/// The number of marks that [`Store::judge_times`] or [`Store::judge_hidden`] has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JudgedMarks {
    /// Envelopes that readers got before and do not get any more.
    pub marked: u64,
    /// Envelopes that readers get now and did not get before.
    pub unmarked: u64,
    /// Envelopes that readers get neither before nor after, because of the mark of another rule.
    pub remarked: u64,
}

impl JudgedMarks {
    fn count(&mut self, verdict: &ChangedValidity) {
        let counter = match (verdict.before, verdict.after) {
            (Validity::Valid, _) => &mut self.marked,
            (_, Validity::Valid) => &mut self.unmarked,
            _ => &mut self.remarked,
        };
        *counter += 1;
    }
}

/// A rule about the times of one node's envelopes.
pub struct TimeRule<'a> {
    /// The node.
    pub originator: OriginatorId,
    /// The mark of an envelope that breaks the rule.
    pub rule: InvalidRule,
    /// Returns true for a time, unix nanoseconds, at which every envelope of the node breaks the rule.
    pub is_broken_at: &'a dyn Fn(i64) -> bool,
    /// Returns true for marks that this rule's mark replaces.
    pub replaces: &'a dyn Fn(InvalidRule) -> bool,
    /// Returns the validity of an envelope by all other rules.
    pub judge: &'a dyn Fn(&Bytes) -> Validity,
    /// The encoded basis of the rule, recorded when all marks follow it: see [`Snapshot::judged_by`].
    pub basis: &'a [u8],
}

impl Store {
    /// Replaces the recorded changes of `from_block` and later blocks with `changes`, and records the position of
    /// the chain reader, as one write. Returns when it is durable.
    ///
    /// # Errors
    /// When the rows cannot be read. After [`CommitError::Write`] the store is poisoned.
    ///
    /// # Panics
    /// If a change belongs to a block before `from_block`: no later call would replace it.
    pub fn record_membership(
        &self,
        from_block: u64,
        changes: &[MembershipChange],
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        self.database().record_membership(from_block, changes, position)
    }

    /// Makes the marks of a strand follow a rule about times: an envelope that breaks it, and is valid or has a
    /// mark that the rule replaces, gets its mark and loses its rows. An envelope that has the mark and does not
    /// break the rule gets the validity by all other rules, and its rows back. Other marks stay.
    ///
    /// Reads the whole strand, in steps of bounded size. `derive` must be the function that a rebuild gets. Each
    /// step marks the minutes of changed envelopes to be counted and priced again by [`Store::reprice`], which does
    /// so after the last step. After that all rows equal those of a rebuild. Commits to the strand, rebuilds and
    /// pruning wait for one step; commits to other strands do not wait. Envelopes that are committed between two
    /// steps are judged, too.
    ///
    /// # Errors
    /// An error if the log cannot be read or rows cannot be written. Marks that were written before stay, and the
    /// basis is not recorded.
    pub fn judge_times(
        &self,
        rule: &TimeRule<'_>,
        derive: &Derive<'_>,
    ) -> Result<JudgedMarks, CommitError> {
        self.database().judge_times(rule, derive)
    }
}

impl Database {
    fn record_membership(
        &self,
        from_block: u64,
        changes: &[MembershipChange],
        position: ChainPosition,
    ) -> Result<(), CommitError> {
        let is_replaced = |change: &MembershipChange| change.block >= from_block;
        assert!(changes.iter().all(is_replaced), "no change is of a block before {from_block}");
        self.check_writable()?;
        let family = self.family(MembershipKey::FAMILY);
        let mut batch = WriteBatch::default();
        let start = MembershipKey::Change { block: from_block, log_index: 0 }.encode();
        batch.delete_range_cf(family, &start[..], &MembershipKey::END_OF_CHANGES[..]);
        for change in changes {
            batch.put_cf(family, change.key().encode(), change.encode_value());
        }
        let cursors = self.family(CursorKey::FAMILY);
        batch.put_cf(cursors, CursorKey::REGISTRY.encode(), encode_position(position));
        self.write_durable(batch)
    }

    fn judge_times(
        self: &Arc<Self>,
        rule: &TimeRule<'_>,
        derive: &Derive<'_>,
    ) -> Result<JudgedMarks, CommitError> {
        let walk = MarkWalk {
            originator: rule.originator,
            find: &|snapshot: &Snapshot<'_>, after, end| snapshot.changed_by(rule, after, end),
            done: (MembershipKey::Judged(rule.originator), rule.basis),
        };
        self.judge_strand(&walk, derive)
    }

    /// Changes the marks of a strand that a walk finds, step by step.
    pub(crate) fn judge_strand(
        self: &Arc<Self>,
        walk: &MarkWalk<'_>,
        derive: &Derive<'_>,
    ) -> Result<JudgedMarks, CommitError> {
        let _no_reprice = NoReprice::of(self, walk.originator);
        let (mut after, mut judged) = (SequenceId::NONE, JudgedMarks::default());
        while let Some(reached) = self.judge_step(walk, derive, after, &mut judged)? {
            after = reached;
        }
        Ok(judged)
    }

    /// Judges the next part of a strand. Returns its last place; `None` at the end of the strand.
    fn judge_step(
        self: &Arc<Self>,
        walk: &MarkWalk<'_>,
        derive: &Derive<'_>,
        after: SequenceId,
        judged: &mut JudgedMarks,
    ) -> Result<Option<SequenceId>, CommitError> {
        self.check_writable()?;
        let no_rebuild = self.gate.read();
        let head = self.strands.head(walk.originator);
        let head = head.lock();
        // Unverified envelopes are left out: they are judged when their signatures are checked, by the rule in
        // force then.
        let end = self.verified(walk.originator)?.unwrap_or(*head);
        let snapshot = Snapshot::new(self);
        let (changed, reached) = (walk.find)(&snapshot, after, end)?;
        let is_last = reached >= end;
        let mut batch = WriteBatch::default();
        if !changed.is_empty() {
            let own = self.identity.node;
            let rejudging = Rejudging { store: self, snapshot: &snapshot, derive, own };
            rejudging.stage(&changed, &mut batch)?;
        }
        if is_last {
            let (key, value) = walk.done;
            batch.put_cf(self.family(MembershipKey::FAMILY), key.encode(), value);
        }
        if !batch.is_empty() {
            self.write_change(batch)?;
        }
        if !changed.is_empty() {
            changed.values().for_each(|verdict| judged.count(verdict));
            self.repricing.lock().forget(std::iter::once(walk.originator));
            self.recent.forget(walk.originator);
            self.unpriced.store(true, Ordering::Release);
        }
        // Fair, because the next step follows at once: a waiting thread gets the lock first.
        MutexGuard::unlock_fair(head);
        RwLockReadGuard::unlock_fair(no_rebuild);
        Ok((!is_last).then_some(reached))
    }
}

/// The envelopes of a part of a strand whose validity changes, and the last place of the part.
pub(crate) type ChangedPart = (BTreeMap<EnvelopeId, ChangedValidity>, SequenceId);

/// Finds the envelopes behind a place, up to another one, whose validity changes, within the bounds of a step.
pub(crate) type FindChanged<'a> =
    dyn Fn(&Snapshot<'_>, SequenceId, SequenceId) -> Result<ChangedPart, ReadError> + 'a;

/// A walk over a strand that changes marks.
pub(crate) struct MarkWalk<'a> {
    pub(crate) originator: OriginatorId,
    pub(crate) find: &'a FindChanged<'a>,
    /// The row that is written with the last step, with its value.
    pub(crate) done: (MembershipKey, &'a [u8]),
}

/// The size of the part of a strand that a step has read.
#[derive(Default)]
pub(crate) struct StepSize {
    /// Envelopes whose marks change, or that were judged by their bytes.
    pub(crate) judged: usize,
    /// Envelopes or marks.
    pub(crate) read: usize,
    /// The bytes of the envelopes.
    pub(crate) len_bytes: usize,
}

impl StepSize {
    /// Returns true if the step ends here.
    pub(crate) fn is_full(&self) -> bool {
        self.judged >= CHANGED_AT_ONCE
            || self.read >= READ_AT_ONCE
            || self.len_bytes >= STEP_LEN_BYTES
    }
}

/// Keeps the minutes of a strand marked while its envelopes are judged. Amounts count as correct when no minute is
/// marked, and those of a partly judged strand are not correct.
struct NoReprice<'a> {
    store: &'a Database,
    originator: OriginatorId,
}

impl<'a> NoReprice<'a> {
    fn of(store: &'a Database, originator: OriginatorId) -> Self {
        store.repricing.lock().judged.insert(originator);
        Self { store, originator }
    }
}

impl Drop for NoReprice<'_> {
    fn drop(&mut self) {
        self.store.repricing.lock().judged.remove(&self.originator);
    }
}

impl Snapshot<'_> {
    /// Returns the recorded changes of membership, in the order of the chain.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn membership_changes(&self) -> Result<Vec<MembershipChange>, ReadError> {
        let mut rows = self.rows(MembershipKey::FAMILY, rocksdb::ReadOptions::default());
        let mut changes = Vec::new();
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if key >= &MembershipKey::END_OF_CHANGES[..] {
                break;
            }
            let change = MembershipChange::decode(key, value);
            changes.push(change.ok_or_else(|| ReadError::corrupt(MembershipKey::FAMILY, key))?);
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(changes)
    }

    /// Returns the position of the reader of the chain's registry; `None` before its first record.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn registry_position(&self) -> Result<Option<ChainPosition>, ReadError> {
        self.row(CursorKey::REGISTRY, crate::keys::cursor::decode_position)
    }

    /// Returns the basis of the last [`TimeRule`] that all marks of a strand follow; empty before the first.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn judged_by(&self, originator: OriginatorId) -> Result<Vec<u8>, ReadError> {
        let basis = self.row(MembershipKey::Judged(originator), |value| Some(value.to_vec()))?;
        Ok(basis.unwrap_or_default())
    }

    /// Finds the envelopes after `after` whose mark the rule changes, within the bounds of a step. Returns the last
    /// place that was read.
    fn changed_by(
        &self,
        rule: &TimeRule<'_>,
        after: SequenceId,
        through: SequenceId,
    ) -> Result<ChangedPart, ReadError> {
        let (mut changed, mut size) = (BTreeMap::new(), StepSize::default());
        let mut reached = after;
        for item in self.log(EnvelopeId::new(rule.originator, after), through) {
            if size.is_full() {
                return Ok((changed, reached));
            }
            size.read += 1;
            let (id, bytes, before) = match item? {
                LogItem::Envelope { id, bytes, validity } => (id, bytes, validity),
                LogItem::Skipped { through, .. } => {
                    reached = through;
                    continue;
                }
            };
            reached = id.sequence;
            size.len_bytes += bytes.len();
            let is_marked = before == Validity::Invalid(rule.rule);
            let is_judged = match before {
                Validity::Valid => true,
                Validity::Invalid(other) => is_marked || (rule.replaces)(other),
                Validity::Waiting => false,
            };
            if !is_judged {
                continue;
            }
            let Some(originator_ns) = OriginatorEnvelope::stated_ns(&bytes) else { continue };
            let is_broken = (rule.is_broken_at)(originator_ns);
            if is_broken != is_marked {
                let broken = Validity::Invalid(rule.rule);
                let after = if is_broken { broken } else { (rule.judge)(&bytes) };
                changed.insert(id, ChangedValidity::new(bytes, originator_ns, before, after));
                size.judged += 1;
            }
        }
        Ok((changed, through))
    }
}

/// The new validity of a stored envelope.
pub(crate) struct ChangedValidity {
    bytes: Bytes,
    originator_ns: i64,
    before: Validity,
    after: Validity,
}

impl ChangedValidity {
    pub(crate) fn new(bytes: Bytes, originator_ns: i64, before: Validity, after: Validity) -> Self {
        assert_ne!(after, Validity::Waiting, "a node's envelope has a verdict");
        Self { bytes, originator_ns, before, after }
    }
}

/// Stages rows for changed validity.
struct Rejudging<'a> {
    store: &'a Database,
    snapshot: &'a Snapshot<'a>,
    derive: &'a Derive<'a>,
    own: OriginatorId,
}

impl Rejudging<'_> {
    /// Stages the marks, the rows and the minutes of envelopes whose validity has changed.
    fn stage(
        &self,
        changed: &BTreeMap<EnvelopeId, ChangedValidity>,
        batch: &mut WriteBatch,
    ) -> Result<(), ReadError> {
        let marks = self.store.family(MarkKey::FAMILY);
        let mut minutes: BTreeMap<CongestionKey, BTreeSet<SequenceId>> = BTreeMap::new();
        let mut value = Vec::new();
        for (&id, verdict) in changed {
            if let Validity::Invalid(rule) = verdict.after {
                Mark::Invalid(rule).encode_into(&mut value);
                batch.put_cf(marks, MarkKey(id).encode(), &value);
            } else {
                batch.delete_cf(marks, MarkKey(id).encode());
            }
            // Only an envelope that readers get has rows beside those of tallies.
            let is_read = [verdict.before, verdict.after].contains(&Validity::Valid);
            if is_read && let Some(facts) = (self.derive)(id, &verdict.bytes, Validity::Valid) {
                self.stage_rows(id, verdict, &facts, batch)?;
            }
            // It may have been booked before, or may be now. Counting a minute in vain changes nothing.
            let minute = minute_of(verdict.originator_ns);
            let at = CongestionKey { originator: id.originator, minute };
            minutes.entry(at).or_default().insert(id.sequence);
        }
        minutes.iter().try_for_each(|(at, places)| self.stage_minute(*at, places, batch))
    }

    /// Stages the rows that belong to one envelope alone.
    fn stage_rows(
        &self,
        id: EnvelopeId,
        verdict: &ChangedValidity,
        facts: &Facts,
        batch: &mut WriteBatch,
    ) -> Result<(), ReadError> {
        let store = self.store;
        let receipt = facts.receipt.filter(|_| id.originator == self.own).map(ReceiptKey);
        let expiry = facts.expiry_unix_s.map(|expiry_unix_s| ExpiryKey { expiry_unix_s, id });
        let topic = TopicKey::of(facts, id);
        let held = receipt.map(|key| self.snapshot.row(key, decode_u64)).transpose()?.flatten();
        if verdict.after != Validity::Valid {
            topic.iter().for_each(|it| batch.delete_cf(store.family(Family::Topic), it.encode()));
            expiry.iter().for_each(|it| batch.delete_cf(store.family(Family::Expiry), it.encode()));
            // If the same request has an earlier place, only a rebuild finds it again.
            if let Some(key) = receipt.filter(|_| held == Some(id.sequence.0)) {
                batch.delete_cf(store.family(Family::Receipt), key.encode());
            }
            return Ok(());
        }
        let mut value = Vec::new();
        topic::encode_value(facts.originator_ns, &verdict.bytes, &facts.depends_on, &mut value);
        topic.iter().for_each(|it| batch.put_cf(store.family(Family::Topic), it.encode(), &value));
        let (value, len) = ExpiryRow::of(facts, id.originator == self.own).encode();
        expiry
            .iter()
            .for_each(|it| batch.put_cf(store.family(Family::Expiry), it.encode(), &value[..len]));
        if let Some(key) = receipt.filter(|_| held.is_none_or(|held| held < id.sequence.0)) {
            batch.put_cf(store.family(Family::Receipt), key.encode(), id.sequence.0.to_be_bytes());
        }
        Ok(())
    }

    /// Marks a minute, and those whose amounts depend on it, to be counted and priced again, and extends the
    /// minute's range of places to these places.
    fn stage_minute(
        &self,
        at: CongestionKey,
        places: &BTreeSet<SequenceId>,
        batch: &mut WriteBatch,
    ) -> Result<(), ReadError> {
        let store = self.store;
        let mut row = self.snapshot.row(at, CongestionRow::decode)?.unwrap_or_default();
        places.first().into_iter().chain(places.last()).for_each(|&place| row.add(place, false));
        batch.put_cf(store.family(Family::Congestion), at.encode(), row.encode());
        for minutes in (0..).take(CONGESTION_MINUTES) {
            if let Some(minute) = at.after(minutes) {
                batch.put_cf(store.family(Family::Reprice), RepriceKey(minute).encode(), []);
            }
        }
        Ok(())
    }
}
