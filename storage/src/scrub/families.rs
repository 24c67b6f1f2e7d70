//! Reads every row of every column family, with RocksDB's checksums.

use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use rocksdb::{DBRawIterator, ReadOptions};

use super::report::{Damage, Scrub, ScrubError};
use crate::database::Database;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;
use crate::keys::expiry::{ExpiryKey, ExpiryRow};
use crate::keys::topic::{TopicKey, TopicValue};
use crate::snapshot::Snapshot;

/// Number of places that are tried one by one after a damaged row, before the rest of its file counts as damaged. A
/// guess: a damaged block has some hundred.
const PLACES_TRIED_MAX: u32 = 100_000;

/// Reads all families.
///
/// # Errors
/// When the caller has stopped the work.
pub(super) fn read(database: &Arc<Database>, scrub: &mut Scrub<'_>) -> Result<(), ScrubError> {
    let heads = heads(database);
    let whole = |family| RowRange { family, from: Vec::new(), through: None };
    Family::ALL.into_iter().try_for_each(|family| whole(family).read(database, &heads, scrub))
}

/// Reads the rows of a damaged part again. For rows that belong to no place this reads the whole family.
///
/// # Errors
/// When the caller has stopped the work.
pub(super) fn read_part(
    database: &Arc<Database>,
    damage: &Damage,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    let Some(family) = Family::ALL.into_iter().find(|it| it.name() == damage.family) else {
        return Ok(());
    };
    let key = |place: EnvelopeId| EnvelopeKey(place).encode().to_vec();
    let from = damage.first.map(key).unwrap_or_default();
    let rows = RowRange { family, from, through: damage.last.map(key) };
    rows.read(database, &heads(database), scrub)
}

/// Returns the heads of all strands; none if they cannot be read, which is reported for their family.
fn heads(database: &Arc<Database>) -> Cursor {
    Snapshot::new(database).heads().unwrap_or_default()
}

/// A range of rows to read.
struct RowRange {
    family: Family,
    /// The first key.
    from: Vec<u8>,
    /// The last key; `None` for the end of the family.
    through: Option<Vec<u8>>,
}

impl RowRange {
    /// Reads the rows, reports each damaged part with the places that it can have held, and continues behind it if a
    /// row there can be read.
    fn read(
        &self,
        database: &Database,
        heads: &Cursor,
        scrub: &mut Scrub<'_>,
    ) -> Result<(), ScrubError> {
        let family = self.family;
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        options.fill_cache(false);
        if let Some(through) = &self.through {
            options.set_iterate_upper_bound([&through[..], &[0]].concat());
        }
        let mut rows = database.db.raw_iterator_cf_opt(database.family(family), options);
        rows.seek(&self.from);
        // The first key after the rows that were read.
        let mut next = self.from.clone();
        let mut is_formed = true;
        loop {
            while let Some((key, value)) = rows.item() {
                if is_formed && !is_well_formed(database, family, key, value) {
                    // One is enough: all rows of the family are made again.
                    is_formed = false;
                    scrub.found(malformed(family, key));
                }
                let len = key.len() + value.len();
                next.clear();
                next.extend_from_slice(key);
                next.push(0);
                scrub.count(len);
                scrub.read(len)?;
                rows.next();
            }
            let Err(error) = rows.status() else { return Ok(()) };
            let cause = DatabaseError::from(error).to_string();
            let file = file_in(&cause);
            let file_keys = keys_of_file(database, family, file.as_deref(), &next);
            let first = first_place(family, &next, file_keys.as_ref());
            let mut behind = match first {
                Some(place) => step_over(&mut rows, place, heads, scrub)?,
                None => RowsBehind::Damage,
            };
            if let Some((_, end)) = file_keys.filter(|_| behind == RowsBehind::Damage) {
                let after = [&end[..], &[0]].concat();
                rows.seek(&after);
                if rows.status().is_ok() && after > next {
                    behind = RowsBehind::Rows;
                }
            }
            let last = match behind {
                RowsBehind::Rows => rows.key().and_then(place_before),
                RowsBehind::Damage => None,
            };
            // Without a readable row after it, the damage reaches to the end of the range.
            let end = self.through.as_deref().and_then(EnvelopeKey::decode).map(|key| key.0);
            let end = end.or(heads.iter().last());
            let last = last.or(end.filter(|_| behind == RowsBehind::Rows && rows.key().is_none()));
            let last = last.filter(|_| first.is_some());
            scrub.found(Damage { family: family.name(), first, last, file, cause });
            if behind == RowsBehind::Damage {
                return Ok(());
            }
        }
    }
}

/// Returns false for a row of topics or expiries that no program of this format has written, although its checksum is
/// right: readers and pruning end with an error there. Rows that are to be made again may have another form.
fn is_well_formed(database: &Database, family: Family, key: &[u8], value: &[u8]) -> bool {
    let is_formed = match family {
        Family::Topic => TopicKey::decode(key).is_some() && TopicValue::decode(value).is_some(),
        Family::Expiry => ExpiryKey::decode(key).is_some() && ExpiryRow::decode(value).is_some(),
        _ => true,
    };
    is_formed || !database.stale.is_empty()
}

fn malformed(family: Family, key: &[u8]) -> Damage {
    let cause = ReadError::corrupt(family, key).to_string();
    Damage { family: family.name(), first: None, last: None, file: None, cause }
}

/// The state of the rows after a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsBehind {
    /// The rows can be read, or there are none.
    Rows,
    /// The rows cannot be read.
    Damage,
}

/// Tries the places after a damaged row one by one, up to the last place of the last strand. Leaves the iterator at
/// the first readable row.
fn step_over(
    rows: &mut DBRawIterator<'_>,
    first: EnvelopeId,
    heads: &Cursor,
    scrub: &mut Scrub<'_>,
) -> Result<RowsBehind, ScrubError> {
    let mut place = first;
    for _ in 0..PLACES_TRIED_MAX {
        place = place_after(place, heads);
        rows.seek(EnvelopeKey(place).encode());
        if rows.status().is_ok() {
            return Ok(RowsBehind::Rows);
        }
        scrub.pause()?;
    }
    Ok(RowsBehind::Damage)
}

/// Returns the next place: in the same strand, or the first one of the next strand.
fn place_after(place: EnvelopeId, heads: &Cursor) -> EnvelopeId {
    let next = EnvelopeId { sequence: place.sequence.next(), ..place };
    if heads.covers(next) {
        return next;
    }
    let mut later = heads.iter().filter(|it| it.originator > place.originator);
    let Some(strand) = later.next() else { return next };
    EnvelopeId { sequence: SequenceId(1), ..strand }
}

/// Returns the place after the rows that were read, of a family whose keys are places. `next` is its key, or the
/// last read key with a byte appended.
fn first_place(
    family: Family,
    next: &[u8],
    file: Option<&(Vec<u8>, Vec<u8>)>,
) -> Option<EnvelopeId> {
    if !matches!(family, Family::Log | Family::Leaf) {
        return None;
    }
    if let Some(first) = EnvelopeKey::decode(next) {
        return Some(first.0);
    }
    let Some((0, read)) = next.split_last() else {
        return EnvelopeKey::decode(&file?.0).map(|key| key.0);
    };
    let place = EnvelopeKey::decode(read)?.0;
    Some(EnvelopeId { sequence: place.sequence.next(), ..place })
}

fn place_before(key: &[u8]) -> Option<EnvelopeId> {
    let place = EnvelopeKey::decode(key)?.0;
    Some(EnvelopeId { sequence: place.sequence.previous(), ..place })
}

/// Returns the name of the file in RocksDB's error text.
fn file_in(cause: &str) -> Option<String> {
    let mut words = cause.split(|it: char| it.is_whitespace() || "/:;,".contains(it));
    let is_file = |word: &&str| word.ends_with(".sst") || word.ends_with(".blob");
    words.find(is_file).map(ToOwned::to_owned)
}

/// Returns the first and the last key of a table file: of the file with this name, otherwise of the file that ends
/// next.
fn keys_of_file(
    database: &Database,
    family: Family,
    name: Option<&str>,
    next: &[u8],
) -> Option<(Vec<u8>, Vec<u8>)> {
    let files = database.db.live_files().ok()?;
    let of_family = files.into_iter().filter(|it| it.column_family_name == family.name());
    let keys = of_family.filter_map(|it| Some((it.name, (it.start_key?, it.end_key?))));
    let mut keys: Vec<_> = keys.filter(|(_, (_, end))| end.as_slice() >= next).collect();
    keys.sort_by(|(_, (_, a)), (_, (_, b))| a.cmp(b));
    let is_named = |(file, _): &&(String, _)| name.is_some_and(|name| file.ends_with(name));
    let found = keys.iter().find(is_named).or(keys.first());
    found.map(|(_, keys)| keys.clone())
}
