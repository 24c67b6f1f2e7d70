//! Places that readers are shown before their signatures are checked, because the strand's own node has signed a tree with
//! them.
//!
//! Of a strand these are the last ones: those behind the place in its row `in_doubt`, up to the head. A strand without
//! this row has none. They have the rows that readers need, and are charged to no payer and counted for no congestion
//! until they are verified. Beside it, `shown_by` keeps the checkpoint by which they are shown and its proof: what their node has stated,
//! should it state something else to others. The row is written with the first of them and moved with what verifying adds or takes
//! away, so a crash goes on where it was.

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::below_head::is_same_statement;
use crate::change::{Change, LogEntry, Validity};
use crate::commit::Group;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::cursor::{CursorKey, CursorName};
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::ExpiryKey;
use crate::keys::mark::Mark;
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
    /// The last place of the verified beginning of the strand.
    pub through: SequenceId,
    /// Envelopes that readers were shown and get no more.
    pub withdrawn: u64,
}

impl Store {
    /// Commits changes as [`Store::commit`] does, whose signatures are not checked yet. What follows the head of their
    /// strands is unverified from then on, until [`Store::commit_verified`]. Facts of these entries have to be
    /// [unbooked](crate::Facts::unbooked).
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_shown(&self, changes: &[Change]) -> Result<(), CommitError> {
        self.database().commit(changes, |group| group.begin_unverified())
    }

    /// Does the same, and keeps the proof that the strand's node has signed the changes, which are all of one
    /// strand, and what was shown before. It takes the place of an earlier one, and goes when everything is verified.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_shown_by(
        &self,
        changes: &[Change],
        prefix: &SignedPrefix,
    ) -> Result<(), CommitError> {
        self.database().commit(changes, |group| {
            group.begin_unverified()?;
            let originator = prefix.signed.checkpoint.originator;
            let key = CursorKey { name: CursorName::ShownBy, originator };
            group.batch.put_cf(
                group.store.family(CursorKey::FAMILY),
                key.encode(),
                prefix.encode(),
            );
            Ok(())
        })
    }

    /// Takes over verdicts on the next unverified places of a strand as one write, and returns when it is durable. Valid
    /// envelopes are booked, with the bytes of the entry where its outer layer differs. Invalid ones get their
    /// mark, lose the rows that `derive` names for a valid envelope, and are booked if they have facts. Entries of places that are verified change
    /// nothing.
    ///
    /// # Errors
    /// [`CommitError::Gap`] if an entry does not follow what is verified, [`CommitError::OutOfRange`] above the head, and
    /// [`CommitError::Conflict`] for another statement than the one that is held. Nothing is written then.
    pub fn commit_verified(
        &self,
        originator: OriginatorId,
        entries: &[LogEntry],
        derive: &Derive<'_>,
    ) -> Result<VerifiedBatch, CommitError> {
        self.database().commit_verified(originator, entries, derive)
    }

    /// Returns the last place of a strand up to `end` that is verified; `end` has to be durable.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn verified_up_to(&self, end: EnvelopeId) -> Result<EnvelopeId, ReadError> {
        let verified = self.database().verified(end.originator)?;
        let sequence = verified.map_or(end.sequence, |it| it.min(end.sequence));
        Ok(EnvelopeId { sequence, ..end })
    }

    /// Returns the strands with unverified places, and the last place of each that is verified.
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
            return Ok(VerifiedBatch { through: *head, withdrawn: 0 });
        };
        let rates = self.rate_list.read();
        let pricing = Pricing { price: self.price, rates: &rates };
        let mut group = Group::new(self, &[], pricing);
        let mut done = VerifiedBatch { through: verified, withdrawn: 0 };
        let mut is_changed = false;
        // In one pass and past the cache: else each envelope that is verified would take the place of what readers look for.
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
            is_changed |= group.stage_verified(entry, held_at(&held, entry.id)?, derive)?;
            held.next();
            done.withdrawn += u64::from(entry.validity != Validity::Valid);
            done.through = entry.id.sequence;
        }
        let (mut batch, tallies) = group.finish()?;
        self.stage_verified_head(EnvelopeId::new(originator, done.through), *head, &mut batch);
        self.write_change(batch)?;
        if is_changed {
            self.recent.forget(originator);
        }
        self.note(tallies, std::iter::once(originator));
        Ok(done)
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

/// Returns the envelope under an iterator over the log, which has to be the one of this place.
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
    /// Stages the row of each strand of the group whose unverified places begin with it.
    fn begin_unverified(&mut self) -> Result<(), CommitError> {
        let store = self.store;
        let mut begun = None;
        for originator in self.changes.iter().map(Change::originator) {
            if begun.replace(originator) == Some(originator)
                || store.verified(originator)?.is_some()
            {
                continue;
            }
            // The caller holds the lock of the head, so the row is that of the last commit.
            let head = CursorKey { name: CursorName::Head, originator };
            let head = stored(&store.db, head, decode_u64)?.unwrap_or_default();
            let key = CursorKey { name: CursorName::InDoubt, originator };
            self.batch.put_cf(store.family(CursorKey::FAMILY), key.encode(), head.to_be_bytes());
        }
        Ok(())
    }

    /// Stages the verdict on an unverified envelope, of which these bytes are held. Returns true if readers get something
    /// else than before.
    fn stage_verified(
        &mut self,
        entry: &LogEntry,
        held: &[u8],
        derive: &Derive<'_>,
    ) -> Result<bool, CommitError> {
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
            match is_other {
                true => self.put_rows(id, &entry.bytes, facts)?,
                false => self.rows.put_payer(&mut self.batch, id, entry.bytes.len(), facts)?,
            }
            return Ok(is_other);
        }
        if let Validity::Invalid(rule) = entry.validity {
            self.marks.insert(id, Some(Mark::Invalid(rule)));
        }
        if let Some(shown) = derive(id, &Bytes::copy_from_slice(held), Validity::Valid) {
            if let Some(topic) = TopicKey::of(&shown, id) {
                self.batch.delete_cf(self.store.family(Family::Topic), topic.encode());
            }
            if let Some(expiry_unix_s) = shown.expiry_unix_s {
                let key = ExpiryKey { expiry_unix_s, id };
                self.batch.delete_cf(self.store.family(Family::Expiry), key.encode());
            }
        }
        assert!(entry.is_kept_from_readers(), "{id} is not valid, and readers would get it");
        if let Some(owed) = &entry.facts {
            self.rows.put_payer(&mut self.batch, id, entry.bytes.len(), owed)?;
        }
        Ok(true)
    }
}
