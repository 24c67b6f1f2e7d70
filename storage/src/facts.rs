//! Records evidence and reports: one record of each fact, within bounds about each node.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use hawser_proto::OriginatorId;
use parking_lot::MutexGuard;
use rocksdb::{DB, DBRawIterator, WriteBatch};

use crate::behind_damage::key_behind;
use crate::database::{Database, family_of};
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::fact_index::{Amount, CLASS_MAX, FactIndex, IndexedFacts, OverShare};
use crate::keys::Key;
use crate::keys::fact::{Fact, FactClass, FactRow, RecordTime};
use crate::raw_rows::stored;
use crate::unread::PartRead;

/// Time for which a record is kept that proves nothing. Specified (`docs/protocol/misbehavior.md`): 30 days.
const CLAIM_KEPT_NS: u64 = 30 * 24 * 60 * 60 * 1_000_000_000;

/// A row of an index.
type StoredFact<F> = (F, FactRow<<F as Fact>::Time>);

/// Reads an index from the database. Unreadable facts are not counted, so more of them than the bounds may be kept.
pub(crate) fn load_index<F: Fact>(db: &DB) -> PartRead<FactIndex<F>> {
    let mut index = FactIndex::<F>::default();
    let read = add_to_index(db, &mut index);
    if read.is_err() {
        // A new record must not take the place of another one.
        let mut rows = db.raw_iterator_cf(family_of(db, F::Time::FAMILY));
        rows.seek_to_last();
        let last = rows.key().and_then(F::Time::decode);
        index.last = index.last.max(last.unwrap_or_default());
        if let Err(error) = rows.status().map_err(DatabaseError::from)
            && !error.is_corruption()
        {
            return Err(error.into()); // the last one may still be found
        }
    }
    Ok((index, read))
}

fn add_to_index<F: Fact>(db: &DB, index: &mut FactIndex<F>) -> Result<(), ReadError> {
    let mut read = Ok(());
    each_fact::<F>(
        db,
        || db.raw_iterator_cf(family_of(db, F::FAMILY)),
        &[],
        |_, fact| {
            match fact {
                Ok((fact, row)) => {
                    index.add((fact.accused(), fact.class()), row.len_bytes);
                    index.last = index.last.max(row.at);
                }
                Err(error) if read.is_ok() => read = Err(error),
                Err(_) => {}
            }
            ControlFlow::Continue(())
        },
    )?;
    read
}

/// Calls `each` with the facts of an index from a key on, ascending, until it returns `Break`. A fact comes with its
/// key, or instead of it the reason for which it cannot be read. Facts in a block that the disk has damaged are lost:
/// `each` gets the error of the block once, with the last key before it, and then the facts behind it.
///
/// # Errors
/// When the database fails, and not because of damage.
pub(crate) fn each_fact<'a, F: Fact>(
    db: &DB,
    open: impl Fn() -> DBRawIterator<'a>,
    from: &[u8],
    mut each: impl FnMut(&[u8], Result<StoredFact<F>, ReadError>) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let (mut rows, mut last) = (open(), from.to_vec());
    rows.seek(&last);
    loop {
        while let Some((key, value)) = rows.item() {
            if each(key, decode_fact::<F>(key, value)).is_break() {
                return Ok(());
            }
            last.clear();
            last.extend_from_slice(key);
            rows.next();
        }
        let Err(error) = rows.status().map_err(DatabaseError::from) else { return Ok(()) };
        if !error.is_corruption() {
            return Err(error.into());
        }
        if each(&last, Err(error.into())).is_break() {
            return Ok(());
        }
        let Some(behind) = key_behind((db, F::FAMILY), &open, &last)? else { return Ok(()) };
        rows = open();
        rows.seek(behind);
        last = behind.to_vec();
    }
}

/// Decodes a row of an index.
pub(crate) fn decode_fact<F: Fact>(key: &[u8], value: &[u8]) -> Result<StoredFact<F>, ReadError> {
    let decoded = F::decode(key).zip(FactRow::decode(value));
    decoded.ok_or_else(|| ReadError::corrupt(F::FAMILY, key))
}

/// Records that become one write. Other writers of their kind wait meanwhile, and readers do not.
pub(crate) struct FactBatch<'a, F: Fact> {
    database: &'a Database,
    kept: &'a IndexedFacts<F>,
    now_ns: u64,
    /// The rows. The caller may add others, which are written with them.
    pub(crate) rows: WriteBatch,
    staged: BTreeMap<F, u32>,
    grown: BTreeMap<(OriginatorId, F::Class), Amount>,
    last: F::Time,
    _writes: MutexGuard<'a, ()>,
}

impl<'a, F: Fact> FactBatch<'a, F> {
    /// Begins a write of records at `now_ns`.
    ///
    /// # Errors
    /// When nothing may be written.
    pub(crate) fn new(
        database: &'a Database,
        kept: &'a IndexedFacts<F>,
        now_ns: u64,
    ) -> Result<Self, CommitError> {
        database.check_writable()?;
        let writes = kept.begin_write();
        let last = kept.lock().last;
        let (staged, grown) = (BTreeMap::new(), BTreeMap::new());
        let rows = WriteBatch::default();
        Ok(Self { database, kept, now_ns, rows, staged, grown, last, _writes: writes })
    }

    /// Stages the record of a fact, unless there is one of any of the `covering` facts, or no room. Returns its key
    /// if it is staged.
    ///
    /// A fact whose row cannot be read counts as new. At worst it then has two records, and the new row can be read. If
    /// it counted as known, a damaged block would keep out all facts whose rows belong into it.
    pub(crate) fn stage(
        &mut self,
        fact: F,
        covering: impl IntoIterator<Item = F>,
        record: impl FnOnce() -> Vec<u8>,
    ) -> Option<F::Time> {
        for known in covering {
            if self.staged.contains_key(&known) {
                return None;
            }
            match stored(&self.database.db, known, FactRow::<F::Time>::decode) {
                Ok(None) => {}
                Ok(Some(_)) => return None,
                Err(error) => self.kept.lock().note_unreadable(known.encode().as_ref(), &error),
            }
        }
        let (about, record) = ((fact.accused(), fact.class()), record());
        let len_bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
        let added = self.grown.get(&about).copied().unwrap_or_default();
        let mut index = self.kept.lock();
        if !index.has_room(about, added, len_bytes) {
            index.note_left_out(about);
            return None;
        }
        drop(index);
        let bytes = added.bytes + u64::from(len_bytes);
        self.grown.insert(about, Amount { records: added.records + 1, bytes });
        self.last = self.last.next(self.now_ns);
        let row = FactRow { at: self.last, len_bytes };
        self.rows.put_cf(self.database.family(F::Time::FAMILY), self.last.encode(), record);
        self.rows.put_cf(self.database.family(F::FAMILY), fact.encode(), row.encode());
        self.staged.insert(fact, len_bytes);
        Some(self.last)
    }

    /// Returns the lowest fact that is not below `from`, of those that are kept and those that are staged. A row that
    /// cannot be read counts as none, as in [`stage`](Self::stage).
    pub(crate) fn first_from(&self, from: F) -> Option<F> {
        let staged = self.staged.range(from..).next().map(|(fact, _)| *fact);
        let (key, mut kept) = (from.encode(), None);
        let open = || self.database.db.raw_iterator_cf(self.database.family(F::FAMILY));
        let read = each_fact::<F>(&self.database.db, open, key.as_ref(), |key, fact| match fact {
            Ok((fact, _)) => {
                kept = Some(fact);
                ControlFlow::Break(())
            }
            Err(error) => {
                self.kept.lock().note_unreadable(key, &error);
                ControlFlow::Continue(())
            }
        });
        if let Err(error) = read {
            self.kept.lock().note_unreadable(key.as_ref(), &error);
        }
        staged.into_iter().chain(kept).min()
    }

    /// Writes all rows, and returns when they are durable. Then removes the oldest records of classes that have too
    /// many, and those that strangers submitted if all nodes together have too many. If that fails, the rows are there
    /// all the same, and the next write removes the others.
    ///
    /// # Errors
    /// When the database fails: the rows are not there, and do not count.
    pub(crate) fn write(self) -> Result<(), CommitError> {
        let Self { database, kept, now_ns, rows, staged, grown, last, _writes } = self;
        if rows.is_empty() {
            return Ok(());
        }
        database.write_durable(rows)?;
        let mut index = kept.lock();
        index.last = last;
        for (fact, len_bytes) in staged {
            index.add((fact.accused(), fact.class()), len_bytes);
        }
        drop(index);
        let mut grown = grown.into_keys();
        let made = grown.try_for_each(|about| database.make_room(now_ns, about, kept));
        if let Err(error) = made.and_then(|()| database.make_submitted_room(now_ns, kept)) {
            tracing::warn!(piece = F::RECORD, %error, "old claims against nodes cannot be removed now");
        }
        Ok(())
    }
}

impl Database {
    /// Removes records that prove nothing and are too old to be kept.
    pub(crate) fn forget_old<F: Fact>(
        &self,
        now_ns: u64,
        kept: &IndexedFacts<F>,
    ) -> Result<(), CommitError> {
        self.check_writable()?;
        let _writes = kept.begin_write();
        let index = kept.lock();
        let filled = index.amounts().iter().filter(|(_, amount)| amount.records > 0);
        let claims = filled.map(|(about, _)| *about).filter(|(_, class)| !class.is_proven());
        let claims: Vec<_> = claims.collect();
        drop(index);
        for about in claims {
            self.remove_oldest(now_ns, about, kept, |_| true)?;
        }
        self.make_submitted_room(now_ns, kept)
    }

    /// Removes the oldest records of a class about a node once there are too many, and with them those that
    /// are too old to be kept. Proofs stay.
    fn make_room<F: Fact>(
        &self,
        now_ns: u64,
        about: (OriginatorId, F::Class),
        kept: &IndexedFacts<F>,
    ) -> Result<(), CommitError> {
        let amount = kept.lock().of(about);
        if about.1.is_proven() || amount.is_within(CLASS_MAX) {
            return Ok(());
        }
        let bound = CLASS_MAX.after_freeing();
        self.remove_oldest(now_ns, about, kept, |left| left.is_within(bound))
    }

    /// Removes the oldest records that strangers submitted about nodes with more than their share, once there are too
    /// many about all nodes together. Others stay.
    fn make_submitted_room<F: Fact>(
        &self,
        now_ns: u64,
        kept: &IndexedFacts<F>,
    ) -> Result<(), CommitError> {
        let found = kept.lock().over_share();
        let Some(OverShare { share, nodes }) = found else { return Ok(()) };
        for about in nodes {
            self.remove_oldest(now_ns, about, kept, |left| left.is_within(share))?;
        }
        Ok(())
    }

    /// Removes the oldest records of a class about a node: those that are too old, and others until the rest fits.
    fn remove_oldest<F: Fact>(
        &self,
        now_ns: u64,
        about: (OriginatorId, F::Class),
        kept: &IndexedFacts<F>,
        fits: impl Fn(Amount) -> bool,
    ) -> Result<(), CommitError> {
        let mut facts = self.facts_about::<F>(about, kept);
        facts.sort_unstable_by_key(|(_, row)| row.at);
        let mut batch = WriteBatch::default();
        let mut index = kept.lock();
        for (fact, row) in facts {
            let is_old = row.at.stored_at_ns().saturating_add(CLAIM_KEPT_NS) < now_ns;
            if fits(index.of(about)) && !is_old {
                break;
            }
            batch.delete_cf(self.family(F::Time::FAMILY), row.at.encode());
            batch.delete_cf(self.family(F::FAMILY), fact.encode());
            index.remove(about, row.len_bytes);
        }
        drop(index);
        if batch.is_empty() { Ok(()) } else { self.write_buffered(batch) }
    }

    /// Removes the records of a class about a node whose fact `is_kind` and whose content `is_over` choose, and returns
    /// their number when that is durable. Proofs stay, and so do records that cannot be read.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub(crate) fn withdraw<F: Fact>(
        &self,
        about: (OriginatorId, F::Class),
        kept: &IndexedFacts<F>,
        is_kind: impl Fn(F) -> bool,
        is_over: impl Fn(&[u8]) -> bool,
    ) -> Result<usize, CommitError> {
        if about.1.is_proven() {
            return Ok(0);
        }
        self.check_writable()?;
        let _writes = kept.begin_write();
        let mut facts = self.facts_about::<F>(about, kept);
        facts.retain(|(fact, _)| is_kind(*fact));
        let (mut batch, mut removed) = (WriteBatch::default(), Vec::new());
        for (fact, row) in facts {
            match stored(&self.db, row.at, |record| Some(is_over(record))) {
                Ok(Some(true)) => {
                    batch.delete_cf(self.family(F::Time::FAMILY), row.at.encode());
                    batch.delete_cf(self.family(F::FAMILY), fact.encode());
                    removed.push(row.len_bytes);
                }
                Ok(Some(false) | None) => {}
                Err(error) => kept.lock().note_unreadable(row.at.encode().as_ref(), &error),
            }
        }
        if !removed.is_empty() {
            self.write_durable(batch)?;
        }
        let mut index = kept.lock();
        removed.iter().for_each(|len_bytes| index.remove(about, *len_bytes));
        Ok(removed.len())
    }

    /// Returns the facts of a class about a node. Those that cannot be read are left out: they must not keep out new
    /// ones.
    fn facts_about<F: Fact>(
        &self,
        about: (OriginatorId, F::Class),
        kept: &IndexedFacts<F>,
    ) -> Vec<StoredFact<F>> {
        let mut facts = Vec::new();
        let first = F::first(about.0, about.1).encode();
        let open = || self.db.raw_iterator_cf(self.family(F::FAMILY));
        let read = each_fact::<F>(&self.db, open, first.as_ref(), |key, fact| {
            match fact {
                Ok((fact, _)) if (fact.accused(), fact.class()) != about => {
                    return ControlFlow::Break(());
                }
                Ok(found) => facts.push(found),
                Err(error) => kept.lock().note_unreadable(key, &error),
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            kept.lock().note_unreadable(first.as_ref(), &error);
        }
        facts
    }
}
