//! A consistent view of the log and its projections at one moment, for readers.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::checkpoint::{SignedCheckpoint, SignedPrefix};
use hawser_proto::merkle::ConsistencyProof;
use hawser_proto::price::Rate;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use rocksdb::{DBPinnableSlice, DBRawIterator, ReadOptions};

use crate::change::ChainPosition;
use crate::database::Database;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::cursor::{CursorKey, CursorName, HASH_UNKNOWN, decode_position, is_reached};
use crate::keys::envelope::EnvelopeKey;
use crate::keys::ledger::{LedgerEntry, LedgerKey};
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::meta::MetaKey;
use crate::keys::topic::TopicKey;
use crate::keys::usage::{UsageKey, UsageRow};
use crate::keys::usage_by_payer::UsageByPayerKey;
use crate::keys::{Key, decode_u64};
use crate::log_scan::{self, LogScan};
use crate::meta::decode_i64;
use crate::raw_rows::{
    collect_heads, collect_rates, current_ledger_entry, current_ledger_entry_of, current_mark_of,
};
use crate::stale::HiddenProjections;
use crate::topic_scan::TopicScan;

/// A consistent view of everything that was durable when it was taken. Later commits are invisible,
/// so rows read from one snapshot agree with one another.
///
/// RocksDB keeps replaced rows while a snapshot exists, so drop it as soon as the answer is made.
pub struct Snapshot<'a> {
    /// Borrows from `store`, and is declared before it: fields are dropped in this order.
    view: rocksdb::Snapshot<'static>,
    /// The projections that must not be read in this view.
    hidden: HiddenProjections,
    /// The database of the view. The store may have reopened another one since.
    store: Arc<Database>,
    /// Ties the view to the lifetime of its store.
    of: PhantomData<&'a ()>,
}

impl Snapshot<'_> {
    pub(crate) fn new(store: &Arc<Database>) -> Self {
        let store = Arc::clone(store);
        #[expect(unsafe_code, reason = "a view and the database that it borrows from go together")]
        // SAFETY: the database lives behind `store`, which is never moved out of its `Arc`, is not
        // changed, and is dropped after `view`. No method gives out a borrow that outlives `self`.
        let database: &'static Database = unsafe { &*Arc::as_ptr(&store) };
        let (view, hidden) = database.stale.view(|| database.db.snapshot());
        Self { view, hidden, store, of: PhantomData }
    }

    /// Returns true if everything in this view is durable. A database that was opened for reading only also shows the
    /// end of its write-ahead log, which may not be synced.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        !self.store.is_read_only
    }

    /// Returns the head of a strand: every place up to it is held or marked. Returns 0 for an unknown
    /// originator.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn head(&self, originator: OriginatorId) -> Result<SequenceId, ReadError> {
        let key = CursorKey { name: CursorName::Head, originator };
        Ok(SequenceId(self.row(key, decode_u64)?.unwrap_or_default()))
    }

    /// Returns the last place of a strand up to which all signatures are checked. It is below the head only if
    /// readers are shown unverified envelopes ([`Store::commit_shown`](crate::Store::commit_shown)).
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn verified_head(&self, originator: OriginatorId) -> Result<SequenceId, ReadError> {
        let key = CursorKey { name: CursorName::InDoubt, originator };
        match self.row(key, decode_u64)? {
            Some(verified) => Ok(SequenceId(verified)),
            None => self.head(originator),
        }
    }

    /// Returns the proof that a strand's node has signed the envelopes that readers get before they are verified;
    /// `None` if everything is verified, or no proof was kept. An older version kept the checkpoint alone, which
    /// counts as a prefix without leaves.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn shown_by(&self, originator: OriginatorId) -> Result<Option<SignedPrefix>, ReadError> {
        let alone = |value: &[u8]| {
            let signed = SignedCheckpoint::decode(value).ok()?;
            Some(SignedPrefix { size: 0, signed, proof: ConsistencyProof(Vec::new()) })
        };
        let key = CursorKey { name: CursorName::ShownBy, originator };
        self.row(key, |value| SignedPrefix::decode(value).ok().or_else(|| alone(value)))
    }

    /// Returns the number of leaves of a strand's tree whose envelopes are verified, so that this node may sign a tree
    /// of them.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn verified_tree_size(&self, originator: OriginatorId) -> Result<u64, ReadError> {
        let size = self.tree_size(originator)?;
        let verified = self.row(CursorKey { name: CursorName::InDoubt, originator }, decode_u64)?;
        Ok(verified.map_or(size, |verified| size.min(verified)))
    }

    /// Returns the heads of all strands.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn heads(&self) -> Result<Cursor, ReadError> {
        let mut rows = self.rows(CursorKey::FAMILY, ReadOptions::default());
        rows.seek(CursorName::Head.as_bytes());
        Ok(collect_heads(&mut rows)?.into_iter().collect())
    }

    /// Returns the position of the chain reader behind a strand, as of its last commit. `None` before
    /// the first commit with a position.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn chain_position(
        &self,
        originator: OriginatorId,
    ) -> Result<Option<ChainPosition>, ReadError> {
        self.row(CursorKey { name: CursorName::Chain, originator }, decode_position)
    }

    /// Returns the bytes of an envelope as signed, including one that is marked invalid or pending.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn get(&self, id: EnvelopeId) -> Result<Option<Bytes>, ReadError> {
        self.row(EnvelopeKey(id), |bytes| Some(Bytes::copy_from_slice(bytes)))
    }

    /// Returns the envelope of a strand with the highest place that is held.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn last_held(
        &self,
        originator: OriginatorId,
    ) -> Result<Option<(EnvelopeId, Bytes)>, ReadError> {
        self.last_held_through(EnvelopeId::new(originator, SequenceId(u64::MAX)))
    }

    /// Returns the envelope of a strand with the highest place that is held and is not above `through`. Costs one
    /// seek, for any distance between them.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn last_held_through(
        &self,
        through: EnvelopeId,
    ) -> Result<Option<(EnvelopeId, Bytes)>, ReadError> {
        let mut rows = self.rows(EnvelopeKey::FAMILY, ReadOptions::default());
        rows.seek_for_prev(EnvelopeKey(through).encode());
        rows.status().map_err(DatabaseError::from)?;
        let Some((key, bytes)) = rows.item() else { return Ok(None) };
        let EnvelopeKey(id) =
            EnvelopeKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Log, key))?;
        let is_own = id.originator == through.originator;
        Ok(is_own.then(|| (id, Bytes::copy_from_slice(bytes))))
    }

    /// Returns the bytes of many envelopes, in the order of `ids`. Cheaper than single reads, most of
    /// all when `ids` ascend.
    ///
    /// The blocks bypass the block cache: it is small and serves the indexes better, and the system
    /// caches the files (measured: 4 % less CPU time for pages out of a large log).
    ///
    /// # Errors
    /// When one of the rows cannot be read.
    pub fn get_many(&self, ids: &[EnvelopeId]) -> Result<Vec<Option<Bytes>>, ReadError> {
        let keys: Vec<[u8; 12]> = ids.iter().map(|&id| EnvelopeKey(id).encode()).collect();
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.view);
        options.fill_cache(false);
        let family = self.store.family(EnvelopeKey::FAMILY);
        self.store
            .db
            .batched_multi_get_cf_opt(family, &keys, ids.is_sorted(), &options)
            .into_iter()
            .map(|row| {
                let row = row.map_err(DatabaseError::from)?;
                Ok(row.map(|bytes| Bytes::copy_from_slice(&bytes)))
            })
            .collect()
    }

    /// Returns the ranges of one strand that are marked missing, ascending, both ends included.
    ///
    /// Visits each mark of the strand.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn missing(
        &self,
        originator: OriginatorId,
    ) -> Result<Vec<(SequenceId, SequenceId)>, ReadError> {
        let mut missing = Vec::new();
        self.marks(originator, |at, mark| {
            if let Mark::Missing { through } = mark {
                missing.push((at.sequence, through));
            }
        })?;
        Ok(missing)
    }

    /// Returns the last `ranges_max` of the ranges of one strand that are marked missing, ascending, both ends
    /// included.
    ///
    /// Visits the marks of the strand backwards from its end, until it has found that many.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn last_missing(
        &self,
        originator: OriginatorId,
        ranges_max: usize,
    ) -> Result<Vec<(SequenceId, SequenceId)>, ReadError> {
        self.missing_below(originator, SequenceId(u64::MAX), ranges_max)
    }

    /// Returns the last `ranges_max` of the ranges of one strand that are marked missing and begin below a place, like
    /// [`last_missing`](Self::last_missing).
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn missing_below(
        &self,
        originator: OriginatorId,
        below: SequenceId,
        ranges_max: usize,
    ) -> Result<Vec<(SequenceId, SequenceId)>, ReadError> {
        let mut missing = Vec::new();
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek_for_prev(MarkKey(EnvelopeId::new(originator, below.previous())).encode());
        while missing.len() < ranges_max {
            let Some((at, mark)) = current_mark_of(&rows, originator)? else { break };
            if let Mark::Missing { through } = mark {
                missing.push((at.sequence, through));
            }
            rows.prev();
        }
        missing.reverse();
        Ok(missing)
    }

    /// Calls `each` with the marks of one strand, ascending.
    fn marks(
        &self,
        originator: OriginatorId,
        mut each: impl FnMut(EnvelopeId, Mark),
    ) -> Result<(), ReadError> {
        let mut rows = self.rows(MarkKey::FAMILY, ReadOptions::default());
        rows.seek(MarkKey(EnvelopeId::new(originator, SequenceId::NONE)).encode());
        while let Some((at, mark)) = current_mark_of(&rows, originator)? {
            each(at, mark);
            rows.next();
        }
        Ok(())
    }

    /// Returns the ids of one strand whose validity is not known yet, ascending.
    ///
    /// Visits each mark of the strand.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn waiting(&self, originator: OriginatorId) -> Result<Vec<EnvelopeId>, ReadError> {
        let mut waiting = Vec::new();
        self.marks(originator, |at, mark| {
            if mark == Mark::Waiting {
                waiting.push(at);
            }
        })?;
        Ok(waiting)
    }

    /// Scans one strand in ascending order, after `after` up to and including `through`. Skipped
    /// ranges are yielded as such, clipped to these bounds.
    ///
    /// Costs two seeks and the bytes of the yielded items. Bypasses the block cache, because a strand is mostly
    /// scanned once.
    #[must_use]
    pub fn log(&self, after: EnvelopeId, through: SequenceId) -> LogScan<'_> {
        let rows = |family| self.rows(family, log_scan::read_options(after.originator, through));
        LogScan::new(rows(Family::Log), || rows(Family::Mark), after, through)
    }

    /// Opens a scan over topics; one iterator serves many of them. Its rows come without envelopes.
    #[must_use]
    pub fn topics(&self) -> TopicScan<'_> {
        self.topics_with_envelopes(0)
    }

    /// Opens a scan over topics whose rows include their envelopes, if these are stored beside them, up to
    /// `len_bytes_max` in total. The other envelopes are in the log.
    #[must_use]
    pub fn topics_with_envelopes(&self, len_bytes_max: usize) -> TopicScan<'_> {
        let rows = self.projected(TopicKey::FAMILY, ReadOptions::default());
        TopicScan::new(rows, len_bytes_max, &self.store.recent)
    }

    /// Returns the usage of one payer at one originator in one minute ([`hawser_proto::minute_of`]).
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn usage(
        &self,
        originator: OriginatorId,
        minute: u32,
        payer: PayerAddress,
    ) -> Result<Option<UsageRow>, ReadError> {
        self.row(UsageKey { originator, minute, payer }, UsageRow::decode)
    }

    /// Calls `each` with every usage row of one payer, by originator and minute ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_of_payer(
        &self,
        payer: PayerAddress,
        each: impl FnMut(OriginatorId, u32, UsageRow),
    ) -> Result<(), ReadError> {
        self.usage_after(payer, None, usize::MAX, each).map(|_| ())
    }

    /// Calls `each` with at most `rows_max` usage rows of one payer after `after`, by originator and minute
    /// ascending. Returns the place of the last one if `rows_max` rows were read, since there may be more.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_after(
        &self,
        payer: PayerAddress,
        after: Option<(OriginatorId, u32)>,
        rows_max: usize,
        mut each: impl FnMut(OriginatorId, u32, UsageRow),
    ) -> Result<Option<(OriginatorId, u32)>, ReadError> {
        let mut rows = self.projected(UsageByPayerKey::FAMILY, ReadOptions::default())?;
        let mut last = after;
        match after {
            Some((originator, minute)) => {
                let key = UsageByPayerKey(UsageKey { originator, minute, payer }).encode();
                rows.seek(key);
                if rows.key() == Some(key.as_ref()) {
                    rows.next();
                }
            }
            None => rows.seek(payer.0),
        }
        for _ in 0..rows_max {
            let Some((key, value)) = rows.item() else {
                rows.status().map_err(DatabaseError::from)?;
                return Ok(None);
            };
            let corrupt = || ReadError::corrupt(UsageByPayerKey::FAMILY, key);
            let UsageByPayerKey(found) = UsageByPayerKey::decode(key).ok_or_else(corrupt)?;
            if found.payer != payer {
                return Ok(None);
            }
            each(found.originator, found.minute, UsageRow::decode(value).ok_or_else(corrupt)?);
            last = Some((found.originator, found.minute));
            rows.next();
        }
        Ok(last)
    }

    /// Calls `each` with usage rows of one payer, by originator and minute ascending. If `each` returns a minute,
    /// the rows of that originator up to that minute are skipped, at the cost of one seek.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn usage_of_payer_skipping(
        &self,
        payer: PayerAddress,
        mut each: impl FnMut(OriginatorId, u32, UsageRow) -> Option<u32>,
    ) -> Result<(), ReadError> {
        let mut rows = self.projected(UsageByPayerKey::FAMILY, ReadOptions::default())?;
        rows.seek(payer.0);
        while let Some((key, value)) = rows.item() {
            let corrupt = || ReadError::corrupt(UsageByPayerKey::FAMILY, key);
            let UsageByPayerKey(found) = UsageByPayerKey::decode(key).ok_or_else(corrupt)?;
            if found.payer != payer {
                return Ok(());
            }
            let row = UsageRow::decode(value).ok_or_else(corrupt)?;
            match each(found.originator, found.minute, row) {
                Some(through) if through > found.minute => {
                    let last = UsageByPayerKey(UsageKey { minute: through, ..found }).encode();
                    rows.seek(last);
                    if rows.key() == Some(last.as_ref()) {
                        rows.next();
                    }
                }
                _ => rows.next(),
            }
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(())
    }

    /// Returns the number of envelopes that count towards congestion at one originator in one minute.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn congestion(&self, originator: OriginatorId, minute: u32) -> Result<u64, ReadError> {
        let row = self.row(CongestionKey { originator, minute }, CongestionRow::decode)?;
        Ok(row.unwrap_or_default().messages)
    }

    /// Returns all recorded rates, by start ascending.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn rates(&self) -> Result<Vec<Rate>, ReadError> {
        let mut rows = self.rows(Family::Rate, ReadOptions::default());
        rows.seek_to_first();
        collect_rates(&mut rows)
    }

    /// Returns the time up to which the recorded rates were noted to be complete, unix nanoseconds: see
    /// [`Store::note_rates_complete`](crate::Store::note_rates_complete). `None` if no time was noted, as in databases
    /// of earlier versions.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn rates_complete_until_ns(&self) -> Result<Option<i64>, ReadError> {
        self.row(MetaKey::RatesComplete, decode_i64)
    }

    /// Returns all ledger entries of a payer, in the order of writing.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn ledger(&self, payer: PayerAddress) -> Result<Vec<LedgerEntry>, ReadError> {
        let mut rows = self.rows(LedgerKey::FAMILY, ReadOptions::default());
        rows.seek(payer.0);
        let mut entries = Vec::new();
        while let Some((_, entry)) = current_ledger_entry_of(&rows, payer)? {
            entries.push(entry);
            rows.next();
        }
        Ok(entries)
    }

    /// Calls `each` with at most `entries_max` ledger entries of a payer after the first `after` ones, in the order of
    /// writing. Returns their number. There may be more if it is `entries_max`.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn ledger_after(
        &self,
        payer: PayerAddress,
        after: u64,
        entries_max: usize,
        mut each: impl FnMut(LedgerEntry),
    ) -> Result<usize, ReadError> {
        let mut rows = self.rows(LedgerKey::FAMILY, ReadOptions::default());
        rows.seek(LedgerKey { payer, order: after.saturating_add(1) }.encode());
        for read in 0..entries_max {
            let Some((_, entry)) = current_ledger_entry_of(&rows, payer)? else {
                return Ok(read);
            };
            each(entry);
            rows.next();
        }
        Ok(entries_max)
    }

    /// Calls `each` with all entries of all payers, each payer's in the order of writing.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn ledgers(
        &self,
        mut each: impl FnMut(PayerAddress, LedgerEntry),
    ) -> Result<(), ReadError> {
        let mut rows = self.rows(LedgerKey::FAMILY, ReadOptions::default());
        rows.seek_to_first();
        while let Some((key, entry)) = current_ledger_entry(&rows)? {
            each(key.payer, entry);
            rows.next();
        }
        Ok(())
    }

    /// Returns the position of the reader of payer events, as of its last write. `None` before the
    /// first write with a position.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn ledger_position(&self) -> Result<Option<ChainPosition>, ReadError> {
        self.row(CursorKey::LEDGER, decode_position)
    }

    /// Returns an old position of the reader of payer events: that at which it came to the head of its chain first, or
    /// to that block again, or to the last one whose events it had taken back. `None` before.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn payers_read(&self) -> Result<Option<ChainPosition>, ReadError> {
        Ok(self.row(CursorKey::PAYERS_READ, decode_position)?.filter(|it| it.hash != HASH_UNKNOWN))
    }

    /// Returns true if the readers of payer events and of payer reports have been at the head of their chain, and are
    /// not behind blocks whose events they have taken back since. Otherwise an unknown part of the deposits is not in
    /// the ledger, or settled usage counts as unsettled.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn knows_balances(&self) -> Result<bool, ReadError> {
        Ok(self.has_read(CursorKey::PAYERS_READ, CursorKey::LEDGER)?
            && self.has_read(CursorKey::REPORTS_READ, CursorKey::PAYER_REPORTS)?)
    }

    /// Returns true if a reader has reached the position of its note.
    pub(crate) fn has_read(&self, note: CursorKey, reader: CursorKey) -> Result<bool, ReadError> {
        let Some(note) = self.row(note, decode_position)? else { return Ok(false) };
        Ok(is_reached(note, self.row(reader, decode_position)?))
    }

    /// Opens an iterator over one family. It is at no row until it seeks.
    pub(crate) fn rows(&self, family: Family, options: ReadOptions) -> DBRawIterator<'_> {
        self.view.raw_iterator_cf_opt(self.store.family(family), options)
    }

    /// Returns the database of this view.
    pub(crate) fn database(&self) -> &Database {
        &self.store
    }

    /// Opens an iterator over the rows of a projection.
    ///
    /// # Errors
    /// [`ReadError::Rebuilding`] if the projection has to be rebuilt.
    pub(crate) fn projected(
        &self,
        family: Family,
        options: ReadOptions,
    ) -> Result<DBRawIterator<'_>, ReadError> {
        self.check(family)?;
        Ok(self.rows(family, options))
    }

    fn check(&self, family: Family) -> Result<(), ReadError> {
        match self.hidden.cover(family) {
            true => Err(ReadError::Rebuilding { family: family.name() }),
            false => Ok(()),
        }
    }

    pub(crate) fn row<K: for<'k> Key<'k>, V>(
        &self,
        key: K,
        decode: impl FnOnce(&[u8]) -> Option<V>,
    ) -> Result<Option<V>, ReadError> {
        self.check(K::FAMILY)?;
        let key = key.encode();
        let row: Option<DBPinnableSlice<'_>> = self
            .view
            .get_pinned_cf(self.store.family(K::FAMILY), key.as_ref())
            .map_err(DatabaseError::from)?;
        row.map(|value| decode(&value).ok_or_else(|| ReadError::corrupt(K::FAMILY, key.as_ref())))
            .transpose()
    }
}
