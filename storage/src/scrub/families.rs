//! Every row of every family, with RocksDB's checksums.

use hawser_proto::EnvelopeId;
use rocksdb::{DBRawIterator, ReadOptions};

use super::report::{Damage, Scrub, ScrubError};
use crate::database::Database;
use crate::error::DatabaseError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::envelope::EnvelopeKey;

/// Places that are tried one by one behind a damaged row, before the rest of its file is given up. A guess:
/// a damaged block has some hundred.
const PLACES_TRIED_MAX: u32 = 100_000;

/// Reads all families.
///
/// # Errors
/// When the caller has stopped the work.
pub(super) fn read(database: &Database, scrub: &mut Scrub<'_>) -> Result<(), ScrubError> {
    Family::ALL.into_iter().try_for_each(|family| read_family(database, family, scrub))
}

fn read_family(
    database: &Database,
    family: Family,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    options.fill_cache(false);
    let mut rows = database.db.raw_iterator_cf_opt(database.family(family), options);
    rows.seek_to_first();
    // The first key that may follow the rows that were read.
    let mut next = Vec::new();
    loop {
        while let Some((key, value)) = rows.item() {
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
        let mut resumed = match first {
            Some(place) => step_over(&mut rows, place, scrub)?,
            None => false,
        };
        if let Some((_, end)) = file_keys.filter(|_| !resumed) {
            let mut behind = end;
            behind.push(0);
            rows.seek(&behind);
            resumed = rows.status().is_ok() && behind > next;
        }
        let last = first.map(|_| rows.key().filter(|_| resumed).and_then(place_before));
        scrub.found(Damage { family: family.name(), first, last: last.flatten(), file, cause });
        if !resumed {
            return Ok(());
        }
    }
}

/// Tries the places behind a damaged row one by one. Returns true if the iterator stands behind the damage.
fn step_over(
    rows: &mut DBRawIterator<'_>,
    first: EnvelopeId,
    scrub: &mut Scrub<'_>,
) -> Result<bool, ScrubError> {
    let mut place = first;
    for _ in 0..PLACES_TRIED_MAX {
        place.sequence = place.sequence.next();
        rows.seek(EnvelopeKey(place).encode());
        if rows.status().is_ok() {
            return Ok(true);
        }
        scrub.read(EnvelopeKey(place).encode().len())?;
    }
    Ok(false)
}

/// Returns the place that follows the rows that were read, of a family whose keys are places.
fn first_place(
    family: Family,
    next: &[u8],
    file: Option<&(Vec<u8>, Vec<u8>)>,
) -> Option<EnvelopeId> {
    if !matches!(family, Family::Log | Family::Leaf) {
        return None;
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

/// Returns the name of the file that RocksDB's words name.
fn file_in(cause: &str) -> Option<String> {
    let mut words = cause.split(|it: char| it.is_whitespace() || "/:;,".contains(it));
    let is_file = |word: &&str| word.ends_with(".sst") || word.ends_with(".blob");
    words.find(is_file).map(ToOwned::to_owned)
}

/// Returns the first and the last key of a table file: of the one with this name, or else of that one which
/// ends next.
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
