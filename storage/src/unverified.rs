//! Handles unverified places: readers get their envelopes before the signatures are checked, because the strand's
//! own node has signed a tree with them.
//!
//! They are the last places of a strand: those after the place in its row `in_doubt`, up to the head. A strand
//! without this row has none. They have the rows that readers need. Until they are verified no payer is charged for
//! them, they do not count for congestion, and they have no row by expiry, because nothing prunes them. The row
//! `shown_by` keeps the checkpoint with its proof, as evidence if the node states something else to others. The row
//! `in_doubt` is written with the first unverified place and moved in the same write as each verdict, so work continues
//! correctly after a crash.

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::below_head::is_same_statement;
use crate::change::{Change, InvalidRule, LogEntry, Validity};
use crate::commit::{CommittedChanges, Group};
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::hashed::HashedEnvelope;
use crate::keys::cursor::{CursorKey, CursorName};
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::ExpiryKey;
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::topic::TopicKey;
use crate::keys::{Key, decode_u64};
use crate::log_scan::read_options;
use crate::raw_rows::stored;
use crate::rebuild::Derive;
use crate::store::Store;
use crate::tallies::Pricing;

/// The outcome of [`Store::commit_verified`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifiedBatch {
    /// The last place up to which the strand is verified.
    pub through: SequenceId,
    /// Number of envelopes that readers got before and do not get any more. Those that were
    /// [withdrawn](Store::withdraw_shown) earlier do not count again.
    pub withdrawn: u64,
    /// Number of envelopes that break a rule, also if readers did not get them.
    pub invalid: u64,
}

impl Store {
    /// Commits changes whose signatures are not checked yet, otherwise like [`Store::commit`]. Their places are
    /// unverified until [`Store::commit_verified`]. The facts of these entries must be
    /// [unbooked](crate::Facts::unbooked), because [`Store::commit_verified`] books them.
    ///
    /// # Errors
    /// The errors of [`Store::commit`].
    pub fn commit_shown(&self, changes: &[Change]) -> Result<(), CommitError> {
        let changes = CommittedChanges { are_shown: true, ..CommittedChanges::of(changes) };
        self.database().commit_whole(changes, |group| group.begin_unverified())
    }

    /// Like [`Store::commit_shown`], for changes of one strand. Also stores the proof that the strand's node has
    /// signed these and all earlier unverified places. The proof replaces an earlier one, and is removed when all
    /// places are verified. `hashed` may have the envelopes of the changes, in their order, so that they are not hashed
    /// again.
    ///
    /// # Errors
    /// The errors of [`Store::commit`].
    pub fn commit_shown_by(
        &self,
        changes: &[Change],
        prefix: &SignedPrefix,
        hashed: &[HashedEnvelope],
    ) -> Result<(), CommitError> {
        let database = self.database();
        let end = changes.last().map_or(SequenceId::NONE, |change| change.end().sequence);
        // The strand's node has signed a tree that goes on behind them.
        let further = prefix.signed.checkpoint.size.saturating_sub(end.0);
        let are_remembered = !database.recent.forgets_within(further);
        let shown = CommittedChanges::of(changes);
        let shown = CommittedChanges { hashed, are_shown: true, are_remembered, ..shown };
        database.commit_whole(shown, |group| group.begin_shown_by(prefix))
    }

    /// Writes verdicts on the next unverified places of a strand as one write, and returns when it is durable.
    /// Valid envelopes are booked; if the entry's outer layer differs, its bytes are stored. Invalid envelopes get
    /// their mark, lose the rows that `derive` returns for a valid envelope, and are booked if they have facts.
    /// Entries of verified places change nothing.
    ///
    /// # Errors
    /// [`CommitError::Gap`] if an entry does not follow the verified places, [`CommitError::OutOfRange`] above the
    /// head, and [`CommitError::Conflict`] for a statement that differs from the stored one. Nothing is written
    /// then.
    pub fn commit_verified(
        &self,
        originator: OriginatorId,
        entries: &[LogEntry],
        derive: &Derive<'_>,
    ) -> Result<VerifiedBatch, CommitError> {
        self.database().commit_verified(originator, entries, derive)
    }

    /// Marks envelopes at unverified places of a strand, which break these rules, and removes the rows that readers
    /// need of them. One write; returns when it is durable. The places stay unverified, with their bytes and leaves.
    /// Places that are verified by then stay as they are. Returns the number of envelopes that readers got before.
    ///
    /// # Errors
    /// When rows cannot be read or written. Nothing is written then.
    pub fn withdraw_shown(
        &self,
        originator: OriginatorId,
        broken: &[(SequenceId, InvalidRule)],
        derive: &Derive<'_>,
    ) -> Result<u64, CommitError> {
        self.database().withdraw_shown(originator, broken, derive)
    }

    /// Returns the last verified place of a strand up to `end`; `end` must be durable.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn verified_up_to(&self, end: EnvelopeId) -> Result<EnvelopeId, ReadError> {
        let verified = self.database().verified(end.originator)?;
        let sequence = verified.map_or(end.sequence, |it| it.min(end.sequence));
        Ok(EnvelopeId { sequence, ..end })
    }

    /// Returns the strands with unverified places, each with its last verified place.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn unverified(&self) -> Result<Vec<EnvelopeId>, ReadError> {
        let database = self.database();
        let mut found = Vec::new();
        for (originator, _) in database.strands.all() {
            let verified = database.verified(originator)?;
            found.extend(verified.map(|verified| EnvelopeId::new(originator, verified)));
        }
        Ok(found)
    }
}

impl Database {
    /// Takes over verdicts on the places behind the verified end, in order, and moves that end in the same write.
    fn commit_verified(
        &self,
        originator: OriginatorId,
        entries: &[LogEntry],
        derive: &Derive<'_>,
    ) -> Result<VerifiedBatch, CommitError> {
        self.check_writable()?;
        let _no_rebuild = self.gate.read();
        let head = self.strands.head(originator);
        let head = head.lock();
        let Some(verified) = self.verified(originator)? else {
            return Ok(VerifiedBatch { through: *head, ..VerifiedBatch::default() });
        };
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut group = Group::new(self, &[], pricing);
        let mut done = VerifiedBatch { through: verified, ..VerifiedBatch::default() };
        let mut is_changed = false;
        // In one pass, without the block cache: verified envelopes would otherwise displace blocks that readers
        // need.
        let last = entries.last().map_or(verified, |entry| entry.id.sequence).min(*head);
        let mut held =
            self.db.raw_iterator_cf_opt(self.family(Family::Log), read_options(originator, last));
        held.seek(EnvelopeKey(EnvelopeId::new(originator, verified.next())).encode());
        for entry in entries.iter().filter(|entry| entry.id.sequence > verified) {
            if entry.id != EnvelopeId::new(originator, done.through.next()) {
                return Err(CommitError::Gap { after: done.through, got: entry.id });
            }
            if entry.id.sequence > *head {
                return Err(CommitError::OutOfRange { at: entry.id });
            }
            let verdict = group.stage_verified(entry, held_at(&held, entry.id)?, derive)?;
            held.next();
            is_changed |= verdict != StagedVerdict::Same;
            done.withdrawn += u64::from(verdict == StagedVerdict::Withdrawn);
            done.invalid += u64::from(entry.validity != Validity::Valid);
            done.through = entry.id.sequence;
        }
        assert!(done.through >= verified, "the verified end never falls");
        let (mut batch, tallies) = group.finish()?;
        self.stage_verified_head(EnvelopeId::new(originator, done.through), *head, &mut batch);
        self.write_change(batch)?;
        if is_changed {
            self.recent.forget(originator);
        }
        self.note(tallies, std::iter::once(originator));
        Ok(done)
    }

    /// Marks those of the places that are unverified, and removes the rows that readers need of them.
    fn withdraw_shown(
        &self,
        originator: OriginatorId,
        broken: &[(SequenceId, InvalidRule)],
        derive: &Derive<'_>,
    ) -> Result<u64, CommitError> {
        self.check_writable()?;
        let _no_rebuild = self.gate.read();
        let head = self.strands.head(originator);
        let head = head.lock();
        let Some(verified) = self.verified(originator)? else { return Ok(0) };
        let (mut batch, mut withdrawn) = (WriteBatch::default(), 0);
        let is_unverified = |place: SequenceId| place > verified && place <= *head;
        let mut mark = Vec::new();
        for &(place, rule) in broken.iter().filter(|(place, _)| is_unverified(*place)) {
            let id = EnvelopeId::new(originator, place);
            Mark::Invalid(rule).encode_into(&mut mark);
            batch.put_cf(self.family(Family::Mark), MarkKey(id).encode(), &mark);
            let held = stored(&self.db, EnvelopeKey(id), |it| Some(Bytes::copy_from_slice(it)))?;
            let held = held.ok_or_else(|| ReadError::unreadable_envelope(id))?;
            withdrawn += u64::from(self.stage_withdrawn(id, &held, derive, &mut batch)?);
        }
        if !batch.is_empty() {
            self.write_change(batch)?;
            self.recent.forget(originator);
        }
        Ok(withdrawn)
    }

    /// Stages the removal of the rows that readers need of an envelope. Returns true if readers get it until then.
    fn stage_withdrawn(
        &self,
        id: EnvelopeId,
        held: &Bytes,
        derive: &Derive<'_>,
        batch: &mut WriteBatch,
    ) -> Result<bool, ReadError> {
        let Some(shown) = derive(id, held, Validity::Valid) else { return Ok(false) };
        // An earlier version wrote it together with the envelope.
        if let Some(expiry_unix_s) = shown.expiry_unix_s {
            let key = ExpiryKey { expiry_unix_s, id };
            batch.delete_cf(self.family(Family::Expiry), key.encode());
        }
        let Some(topic) = TopicKey::of(&shown, id) else { return Ok(false) };
        let (family, key) = (self.family(Family::Topic), topic.encode());
        let row = self.db.get_pinned_cf(family, &key).map_err(DatabaseError::from)?;
        batch.delete_cf(family, &key);
        Ok(row.is_some())
    }

    pub(crate) fn stage_verified_head(
        &self,
        verified: EnvelopeId,
        head: SequenceId,
        batch: &mut WriteBatch,
    ) {
        let family = self.family(CursorKey::FAMILY);
        let key = CursorKey { name: CursorName::InDoubt, originator: verified.originator };
        if verified.sequence < head {
            batch.put_cf(family, key.encode(), verified.sequence.0.to_be_bytes());
        } else {
            batch.delete_cf(family, key.encode());
            let shown_by = CursorKey { name: CursorName::ShownBy, ..key };
            batch.delete_cf(family, shown_by.encode());
        }
    }
}

/// Returns the envelope at the position of an iterator over the log, which must be this place.
fn held_at<'a>(log: &'a DBRawIterator<'_>, id: EnvelopeId) -> Result<&'a [u8], ReadError> {
    let key = EnvelopeKey(id).encode();
    match log.item() {
        Some((at, held)) if at == key => Ok(held),
        Some(_) => Err(ReadError::corrupt(Family::Log, &key)),
        None => {
            log.status().map_err(DatabaseError::from)?;
            Err(ReadError::corrupt(Family::Log, &key))
        }
    }
}

impl Group<'_> {
    /// Stages the rows of a strand whose unverified places this group begins or continues.
    pub(crate) fn begin_shown_by(&mut self, prefix: &SignedPrefix) -> Result<(), CommitError> {
        self.begin_unverified()?;
        let originator = prefix.signed.checkpoint.originator;
        let key = CursorKey { name: CursorName::ShownBy, originator };
        self.batch.put_cf(self.store.family(CursorKey::FAMILY), key.encode(), prefix.encode());
        Ok(())
    }

    /// Stages the row `in_doubt` of each strand whose unverified places begin with this group.
    fn begin_unverified(&mut self) -> Result<(), CommitError> {
        debug_assert!(
            self.changes.iter().all(is_unbooked),
            "an unverified envelope is not charged"
        );
        let store = self.store;
        let mut begun = None;
        for originator in self.changes.iter().map(Change::originator) {
            if begun.replace(originator) == Some(originator)
                || store.verified(originator)?.is_some()
            {
                continue;
            }
            // The caller holds the lock of the head, so the row has the head of the last commit.
            let head = CursorKey { name: CursorName::Head, originator };
            let head = stored(&store.db, head, decode_u64)?.unwrap_or_default();
            let key = CursorKey { name: CursorName::InDoubt, originator };
            self.batch.put_cf(store.family(CursorKey::FAMILY), key.encode(), head.to_be_bytes());
        }
        Ok(())
    }

    /// Stages the verdict on an unverified envelope whose stored bytes are given.
    fn stage_verified(
        &mut self,
        entry: &LogEntry,
        held: &[u8],
        derive: &Derive<'_>,
    ) -> Result<StagedVerdict, CommitError> {
        let id = entry.id;
        let is_other = held != entry.bytes;
        if is_other {
            if !is_same_statement(&Bytes::copy_from_slice(held), &entry.bytes) {
                return Err(CommitError::Conflict { at: id });
            }
            let log = self.store.family(Family::Log);
            self.batch.put_cf(log, EnvelopeKey(id).encode(), &entry.bytes);
        }
        if let Some(facts) = entry.facts.as_ref().filter(|_| entry.validity == Validity::Valid) {
            if is_other {
                self.put_rows(id, &entry.bytes, facts)?;
                return Ok(StagedVerdict::Changed);
            }
            self.rows.put_payer(&mut self.batch, id, entry.bytes.len(), facts)?;
            return Ok(StagedVerdict::Same);
        }
        if let Validity::Invalid(rule) = entry.validity {
            self.marks.insert(id, Some(Mark::Invalid(rule)));
        }
        let (store, held) = (self.store, Bytes::copy_from_slice(held));
        let was_shown = store.stage_withdrawn(id, &held, derive, &mut self.batch)?;
        assert!(entry.is_kept_from_readers(), "{id} is not valid, and readers would get it");
        if let Some(owed) = &entry.facts {
            self.rows.put_payer(&mut self.batch, id, entry.bytes.len(), owed)?;
        }
        Ok(if was_shown { StagedVerdict::Withdrawn } else { StagedVerdict::Changed })
    }
}

/// Returns true if no payer is charged for a change, and if it does not count towards congestion.
fn is_unbooked(change: &Change) -> bool {
    let Change::Append(LogEntry { facts: Some(facts), .. }) = change else { return true };
    facts.charge.is_none() && !facts.counts_for_congestion
}

/// The effect of a verdict on the rows that readers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StagedVerdict {
    /// Readers get the envelope as before.
    Same,
    /// Readers get other bytes, or did not get the envelope before either.
    Changed,
    /// Readers get the envelope no more.
    Withdrawn,
}
