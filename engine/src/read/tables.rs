//! Hash tables that become smaller again.

use std::collections::HashMap;
use std::hash::Hash;

/// Entries for which the smallest tables have room. A guess: smaller ones are not worth the work.
const ROOM_MIN: usize = 64;

/// Makes a table smaller if it has room for far more entries than it has. To be called after entries were removed: a
/// table otherwise keeps the room of the most entries that it ever had, while streams are charged for present ones.
///
/// A table doubles when it is full, and shrinks when less than three eighths of it are in use. So between two moves at
/// least a quarter as many entries are added or removed as the next one moves.
pub(crate) fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > ROOM_MIN && table.len() < table.capacity() / 8 * 3 {
        table.shrink_to(table.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_follows_what_it_holds_and_moves_seldom() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|n| (n, n)).collect();
        let (mut last, mut moves) = (table.capacity(), 0);
        for n in 0..100_000 {
            table.remove(&n);
            shrink(&mut table);
            let room = table.capacity();
            assert!(room <= ROOM_MIN.max(3 * table.len() + 8), "{room} for {}", table.len());
            // Entries that have left may keep their room until the table moves.
            moves += u32::from(room < last / 4 * 3);
            last = room;
        }
        assert!(moves < 20, "{moves} times");
    }
}
