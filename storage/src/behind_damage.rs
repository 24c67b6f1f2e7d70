//! Search for rows behind a block that the disk has damaged. RocksDB's iterators end at such a block, and the keys in
//! it are not known.

use rocksdb::DBRawIterator;

use crate::error::DatabaseError;

/// Bytes of a key that the search varies.
const LEN_BYTES: usize = 16;

/// Returns true if the last step of an iterator has met no damage.
///
/// # Errors
/// Another failure of the database. The next try may succeed.
pub(crate) fn is_sound(rows: &DBRawIterator<'_>) -> Result<bool, DatabaseError> {
    match rows.status().map_err(DatabaseError::from) {
        Ok(()) => Ok(true),
        Err(error) if error.is_corruption() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the distance, at most `limit`, at which damage ends. Tries distances that double until one can be read, and
/// then halves the last step, so it takes at most 256 tries. `None` if no distance that was tried can be read.
///
/// If there are several damaged parts, the result is the end of one of them: sound rows before it may be missed.
///
/// # Errors
/// The error of a try.
pub(crate) fn end_of_damage(
    limit: u128,
    can_read: impl Fn(u128) -> Result<bool, DatabaseError>,
) -> Result<Option<u128>, DatabaseError> {
    if limit == 0 {
        return Ok(None);
    }
    let (mut damaged, mut sound) = (0_u128, 1_u128);
    while !can_read(sound)? {
        if sound == limit {
            return Ok(None);
        }
        damaged = sound;
        sound = sound.saturating_mul(2).min(limit);
    }
    while sound - damaged > 1 {
        let middle = damaged + (sound - damaged) / 2;
        if can_read(middle)? {
            sound = middle;
        } else {
            damaged = middle;
        }
    }
    Ok(Some(sound))
}

/// Returns the first key behind a damaged block from which rows can be read again, at most 16 bytes of it. `last` is
/// the last key before the block. `None` if no such key is found.
///
/// # Errors
/// A failure of the database that is no damage.
pub(crate) fn key_behind<'a>(
    open: impl Fn() -> DBRawIterator<'a>,
    last: &[u8],
) -> Result<Option<[u8; LEN_BYTES]>, DatabaseError> {
    let mut start = [0; LEN_BYTES];
    let len = last.len().min(LEN_BYTES);
    start[..len].copy_from_slice(&last[..len]);
    let start = u128::from_be_bytes(start);
    let end = end_of_damage(u128::MAX - start, |distance| {
        // A new iterator for each try: one that goes back and forth between a damaged block and a sound one may return
        // the error of the first for the second.
        let mut rows = open();
        rows.seek((start + distance).to_be_bytes());
        is_sound(&rows)
    })?;
    Ok(end.map(|distance| (start + distance).to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_end_of_a_damaged_part_is_found_exactly_and_in_few_tries() {
        for len in [1, 2, 3, 1000, u128::MAX / 2, u128::MAX] {
            let tries = Cell::new(0);
            let found = end_of_damage(u128::MAX, |distance| {
                tries.set(tries.get() + 1);
                Ok(distance >= len)
            });
            assert_eq!(found, Ok(Some(len)));
            assert!(tries.get() <= 256, "{} tries", tries.get());
        }
        assert_eq!(end_of_damage(1000, |distance| Ok(distance > 1000)), Ok(None));
        assert_eq!(end_of_damage(0, |_| Ok(true)), Ok(None));
    }

    #[test]
    fn a_failure_that_is_no_damage_ends_the_search() {
        let failed = end_of_damage(1000, |distance| match distance {
            0..8 => Ok(false),
            _ => Err(DatabaseError::injected()),
        });
        assert_eq!(failed, Err(DatabaseError::injected()));
    }
}
