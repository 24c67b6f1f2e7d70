//! Reads typed rows from RocksDB iterators.
//!
//! An iterator of RocksDB without a row is either past the last one or has failed; only its status shows which. All
//! functions here check it, so no caller mistakes a disk error for the end.

use std::sync::LazyLock;

use hawser_proto::price::Rate;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId};
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions};

use crate::database::family_of;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::cursor::{CursorKey, CursorName};
use crate::keys::ledger::{LedgerEntry, LedgerKey};
use crate::keys::mark::{Mark, MarkKey};
use crate::keys::rate::{self, RateKey};
use crate::keys::{Key, decode_u64};

/// Decodes the row under the iterator; `None` if there is none.
///
/// # Errors
/// An error if RocksDB failed, or if `decode` refuses the row.
fn current<T>(
    rows: &DBRawIterator<'_>,
    family: Family,
    decode: impl FnOnce(&[u8], &[u8]) -> Option<T>,
) -> Result<Option<T>, ReadError> {
    let Some((key, value)) = rows.item() else {
        rows.status().map_err(DatabaseError::from)?;
        return Ok(None);
    };
    decode(key, value).map(Some).ok_or_else(|| ReadError::corrupt(family, key))
}

/// Reads the stored heads of all strands, by originator ascending.
pub(crate) fn load_heads(db: &DB) -> Result<Vec<EnvelopeId>, ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, CursorKey::FAMILY));
    rows.seek(CursorName::Head.as_bytes());
    collect_heads(&mut rows)
}

/// Reads head rows from the iterator's position up to the first row of another name.
pub(crate) fn collect_heads(rows: &mut DBRawIterator<'_>) -> Result<Vec<EnvelopeId>, ReadError> {
    let mut heads: Vec<EnvelopeId> = Vec::new();
    while let Some((key, value)) = rows.item() {
        let corrupt = || ReadError::corrupt(CursorKey::FAMILY, key);
        let cursor = CursorKey::decode(key).ok_or_else(corrupt)?;
        if cursor.name != CursorName::Head {
            break;
        }
        let sequence = SequenceId(decode_u64(value).ok_or_else(corrupt)?);
        debug_assert!(heads.last().is_none_or(|last| last.originator < cursor.originator));
        heads.push(EnvelopeId::new(cursor.originator, sequence));
        rows.next();
    }
    rows.status().map_err(DatabaseError::from)?;
    Ok(heads)
}

/// Seeks to the row of `mark` at `id`, or to the nearest one below it. Returns `None` if that is one of another strand.
pub(crate) fn nearest_mark(
    rows: &mut DBRawIterator<'_>,
    id: EnvelopeId,
) -> Result<Option<(EnvelopeId, Mark)>, ReadError> {
    rows.seek_for_prev(MarkKey(id).encode());
    current_mark_of(rows, id.originator)
}

/// Moves an iterator over `mark` to the row at `id`, or to the nearest one below it in the same strand. Returns false
/// if there is none; the iterator then stands anywhere. Decodes no value. `open` opens iterators with the same view.
///
/// The seek may read the block before that of `id`. If that block cannot be read, the strand may still have no row in
/// it, and its neighbour's damage is no error of this strand: the row is then searched from below.
///
/// # Errors
/// An error if RocksDB failed in rows of the strand, so that the nearest one is not known. The iterator then keeps the
/// failed status.
pub(crate) fn seek_nearest_mark<'a>(
    rows: &mut DBRawIterator<'a>,
    open: impl Fn() -> DBRawIterator<'a>,
    id: EnvelopeId,
) -> Result<bool, ReadError> {
    rows.seek_for_prev(MarkKey(id).encode());
    if rows.status().is_ok() {
        return Ok(rows.key().is_some_and(|key| is_key_of(key, id.originator)));
    }
    let nearest = search_nearest_mark(&open, id)?;
    let is_found = nearest.is_some();
    *rows = nearest.unwrap_or_else(open);
    Ok(is_found)
}

/// Returns an iterator that stands on the row of `mark` at `id`, or on the nearest one below it in the same strand.
/// `None` if there is none. Halves the places of the strand, so it seeks at most 65 times. A forward seek reads no
/// block that ends before its key.
fn search_nearest_mark<'a>(
    open: &impl Fn() -> DBRawIterator<'a>,
    id: EnvelopeId,
) -> Result<Option<DBRawIterator<'a>>, ReadError> {
    // No row is in `end..=id`. `nearest` tells of the last row below `begin`.
    let (mut begin, mut end) = (0, id.sequence.0.saturating_add(1));
    let mut nearest = Ok(None);
    while begin < end {
        let middle = begin + (end - begin) / 2;
        // A new iterator for each try, for the reason named in `behind_damage`.
        let mut rows = open();
        rows.seek(MarkKey(EnvelopeId::new(id.originator, SequenceId(middle))).encode());
        if let Err(error) = rows.status() {
            // Rows above the damage are as good as others: a range covers no place behind the next row.
            (begin, nearest) = (middle + 1, Err(DatabaseError::from(error).into()));
            continue;
        }
        let found = rows.key().filter(|key| is_key_of(key, id.originator));
        let found = found.map(|key| {
            MarkKey::decode(key).ok_or_else(|| ReadError::corrupt(MarkKey::FAMILY, key))
        });
        match found.transpose()? {
            Some(MarkKey(at)) if at.sequence <= id.sequence => {
                (begin, nearest) = (at.sequence.0.saturating_add(1), Ok(Some(rows)));
            }
            _ => end = middle,
        }
    }
    nearest
}

/// Decodes the row of `mark` under the iterator; `None` if it is one of another strand. Such a row is not decoded: its
/// damage is no error of this strand.
pub(crate) fn current_mark_of(
    rows: &DBRawIterator<'_>,
    originator: OriginatorId,
) -> Result<Option<(EnvelopeId, Mark)>, ReadError> {
    match rows.key() {
        Some(key) if !is_key_of(key, originator) => Ok(None),
        _ => current_mark(rows),
    }
}

/// Returns true if the key of a row of `log` or `mark` is one of this strand.
pub(crate) fn is_key_of(key: &[u8], originator: OriginatorId) -> bool {
    key.starts_with(&originator.0.to_be_bytes())
}

/// Decodes the row of `mark` under the iterator.
pub(crate) fn current_mark(
    rows: &DBRawIterator<'_>,
) -> Result<Option<(EnvelopeId, Mark)>, ReadError> {
    current(rows, MarkKey::FAMILY, |key, value| {
        Some((MarkKey::decode(key)?.0, Mark::decode(value)?))
    })
}

/// Decodes the row of `ledger` under the iterator.
pub(crate) fn current_ledger_entry(
    rows: &DBRawIterator<'_>,
) -> Result<Option<(LedgerKey, LedgerEntry)>, ReadError> {
    current(rows, LedgerKey::FAMILY, |key, value| {
        Some((LedgerKey::decode(key)?, LedgerEntry::decode(value)?))
    })
}

/// Decodes the row of `ledger` under the iterator; `None` if it is not a row of the payer. A row of another payer is
/// not decoded: damage of one payer's rows is no error of another one.
pub(crate) fn current_ledger_entry_of(
    rows: &DBRawIterator<'_>,
    payer: PayerAddress,
) -> Result<Option<(LedgerKey, LedgerEntry)>, ReadError> {
    match rows.key() {
        Some(key) if !key.starts_with(&payer.0) => Ok(None),
        _ => current_ledger_entry(rows),
    }
}

/// Reads the rows of `rate` from the iterator's position to the last one.
pub(crate) fn collect_rates(rows: &mut DBRawIterator<'_>) -> Result<Vec<Rate>, ReadError> {
    let mut rates: Vec<Rate> = Vec::new();
    while let Some(rate) =
        current(rows, RateKey::FAMILY, |key, value| rate::decode(RateKey::decode(key)?, value))?
    {
        debug_assert!(rates.last().is_none_or(|last| last.start_unix_s < rate.start_unix_s));
        rates.push(rate);
        rows.next();
    }
    Ok(rates)
}

/// Reads all recorded rates, by start ascending.
pub(crate) fn load_rates(db: &DB) -> Result<Vec<Rate>, ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, Family::Rate));
    rows.seek_to_first();
    collect_rates(&mut rows)
}

/// Returns true if a family has no row.
pub(crate) fn is_empty(db: &DB, family: Family) -> Result<bool, ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, family));
    rows.seek_to_first();
    rows.status().map_err(DatabaseError::from)?;
    Ok(!rows.valid())
}

/// The options for a read of the newest rows. Without them, the library allocates its own for each read.
static NEWEST: LazyLock<ReadOptions> = LazyLock::new(ReadOptions::default);

/// Reads the stored row of `key`.
pub(crate) fn stored<K: for<'b> Key<'b>, V>(
    db: &DB,
    key: K,
    decode: impl FnOnce(&[u8]) -> Option<V>,
) -> Result<Option<V>, ReadError> {
    stored_in(db, family_of(db, K::FAMILY), key, decode)
}

/// Reads the stored row of `key` as [`stored`] does. `family` is that of the key, looked up once for many rows.
pub(crate) fn stored_in<K: for<'b> Key<'b>, V>(
    db: &DB,
    family: &ColumnFamily,
    key: K,
    decode: impl FnOnce(&[u8]) -> Option<V>,
) -> Result<Option<V>, ReadError> {
    let key = key.encode();
    let value = db.get_pinned_cf_opt(family, key.as_ref(), &NEWEST).map_err(DatabaseError::from)?;
    value
        .map(|value| decode(&value).ok_or_else(|| ReadError::corrupt(K::FAMILY, key.as_ref())))
        .transpose()
}
