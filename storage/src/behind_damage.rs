//! Search for rows behind a block that the disk has damaged. RocksDB's iterators end at such a block, and the keys in
//! it are not known. The indexes of the table files tell where the next block begins.

use rocksdb::{DB, DBRawIterator, Range};

use crate::database::family_of;
use crate::error::DatabaseError;
use crate::family::Family;

/// Bytes of a key that the search varies.
const LEN_BYTES: usize = 16;
/// Blocks that are tried one by one. A guess: with more damaged ones in a row the disk is replaced.
const BLOCKS_MAX: usize = 256;

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

/// Returns the first distance, at most `limit`, at which rows can be read again, however many parts are damaged. `size`
/// returns the size of the blocks that begin before a distance: where it grows, the next block begins, and is tried.
///
/// Without such sizes, and behind [`BLOCKS_MAX`] damaged blocks, the result is that of [`end_of_damage`].
///
/// # Errors
/// The error of a try.
fn first_sound(
    limit: u128,
    size: impl Fn(u128) -> u64,
    can_read: impl Fn(u128) -> Result<bool, DatabaseError>,
) -> Result<Option<u128>, DatabaseError> {
    let mut damaged = 0;
    for _ in 0..BLOCKS_MAX {
        let Some(next) = next_block(damaged, limit, &size) else { break };
        if can_read(next)? {
            return Ok(Some(next));
        }
        damaged = next;
    }
    let rest = end_of_damage(limit - damaged, |distance| can_read(damaged + distance))?;
    Ok(rest.map(|distance| damaged + distance))
}

/// Returns the first distance after `from`, at most `limit`, at which `size` is larger. Halves the distance, so it
/// looks at most 130 times.
fn next_block(from: u128, limit: u128, size: impl Fn(u128) -> u64) -> Option<u128> {
    let before = size(from);
    if size(limit) <= before {
        return None;
    }
    let (mut same, mut next) = (from, limit);
    while next - same > 1 {
        let middle = same + (next - same) / 2;
        if size(middle) > before {
            next = middle;
        } else {
            same = middle;
        }
    }
    Some(next)
}

/// Returns the first key behind a damaged block of a family from which rows can be read again, at most 16 bytes of it.
/// `last` is the last key before the block. `None` if no such key is found.
///
/// # Errors
/// A failure of the database that is no damage.
pub(crate) fn key_behind<'a>(
    (db, family): (&DB, Family),
    open: impl Fn() -> DBRawIterator<'a>,
    last: &[u8],
) -> Result<Option<[u8; LEN_BYTES]>, DatabaseError> {
    let mut first = [0; LEN_BYTES];
    let len = last.len().min(LEN_BYTES);
    first[..len].copy_from_slice(&last[..len]);
    let start = u128::from_be_bytes(first);
    let size = |distance: u128| {
        let end = (start + distance).to_be_bytes();
        let range = Range::new(&first, &end);
        // 0 if an index cannot be read.
        let sizes = db.get_approximate_sizes_cf(family_of(db, family), &[range]);
        sizes.first().copied().unwrap_or(0)
    };
    let end = first_sound(u128::MAX - start, size, |distance| {
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

    /// Rows between damaged blocks that doubled distances step over.
    #[test]
    fn rows_between_damaged_blocks_are_found_block_by_block() {
        // The beginnings of blocks behind the last row that was read, and those that are damaged.
        let begins: [u128; 5] = [1, 1 << 100, (1 << 100) + 7, (1 << 100) + 9, (1 << 100) + 300];
        let size = |distance: u128| {
            let begun = begins.iter().filter(|begin| **begin <= distance).count();
            u64::try_from(4096 * begun).unwrap()
        };
        let reads = |damaged: &'static [usize]| {
            move |distance: u128| {
                let block = begins.iter().rposition(|begin| *begin <= distance);
                Ok(block.is_none_or(|block| !damaged.contains(&block)))
            }
        };
        let found = |damaged| first_sound(u128::MAX, size, reads(damaged));
        assert_eq!(found(&[0]), Ok(Some(begins[1])));
        assert_eq!(found(&[0, 2]), Ok(Some(begins[1])));
        assert_eq!(found(&[0, 1]), Ok(Some(begins[2])));
        assert_eq!(found(&[0, 1, 3]), Ok(Some(begins[2])));
        assert_eq!(found(&[0, 1, 2, 4]), Ok(Some(begins[3])));
        // Behind the last block is nothing, which is no damage; here every later distance is in it.
        assert_eq!(found(&[0, 1, 2, 3, 4]), Ok(None));
        let without_sizes = first_sound(u128::MAX, |_| 0, reads(&[0]));
        assert_eq!(without_sizes, Ok(Some(begins[1])));
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
