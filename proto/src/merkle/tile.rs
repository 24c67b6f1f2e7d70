//! The tiles of a tree, and their paths (C2SP `tlog-tiles`).

use std::fmt;

use crate::decimal::decimal;

/// Hashes of a full tile (C2SP tlog-tiles).
pub const TILE_WIDTH: u16 = 256;
/// Levels of the tree that a level of tiles spans: a full tile has 2^8 hashes, and its root is one hash of the tile
/// above.
pub const TILE_LEVELS: u8 = 8;
/// The longest path in characters: a level of one digit, a number of 21 digits in groups of three, and the longest
/// width.
const PATH_LEN_MAX: usize = "7/x000/x000/x000/x000/x000/x000/000.p/255".len();

/// The first `width` hashes of a tile: those of subtrees of 256^`level` leaves each, from number 256 · `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// Describes a tile; `None` if no tree of less than 2^63 leaves has it, or the width is not from 1 to
    /// [`TILE_WIDTH`].
    #[must_use]
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        let tile = Self { level, index, width };
        let is_width = (1..=TILE_WIDTH).contains(&width);
        (is_width && tile.checked_end().is_some_and(|end| end <= i64::MAX as u64)).then_some(tile)
    }

    /// Parses the part of a path after `tile/`. Each tile has one path only, so a cache holds it once.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        if path.len() > PATH_LEN_MAX {
            return None;
        }
        let (path, width) = match path.split_once(".p/") {
            Some((path, width)) => (path, decimal(width).filter(|&it| it < u64::from(TILE_WIDTH))?),
            None => (path, u64::from(TILE_WIDTH)),
        };
        let (level, groups) = path.split_once('/')?;
        let level = u8::try_from(decimal(level)?).ok()?;
        let mut index = 0_u64;
        let mut groups = groups.split('/').peekable();
        let mut is_first = true;
        while let Some(group) = groups.next() {
            let digits = match groups.peek() {
                Some(_) => group.strip_prefix('x')?,
                None => group,
            };
            let is_group = digits.len() == 3 && digits.bytes().all(|it| it.is_ascii_digit());
            let is_padding = is_first && groups.peek().is_some() && digits == "000";
            if !is_group || is_padding {
                return None;
            }
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
            is_first = false;
        }
        Self::new(level, index, u16::try_from(width).ok()?)
    }

    /// Returns the level, in tiles: 0 for leaves.
    #[must_use]
    pub fn level(self) -> u8 {
        self.level
    }

    /// Returns the number of the tile in its level, from 0.
    #[must_use]
    pub fn index(self) -> u64 {
        self.index
    }

    /// Returns the number of hashes.
    #[must_use]
    pub fn width(self) -> u16 {
        self.width
    }

    /// Returns the number of leaves of the smallest tree that has all the hashes.
    #[must_use]
    pub fn end(self) -> u64 {
        self.checked_end().expect("a tile is made only if its end is a size")
    }

    /// Lists the tiles of a tree of `size` leaves, level by level. The last one of each level may be partial.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0_u8..8).flat_map(move |level| {
            let hashes = size >> (u32::from(level) * u32::from(TILE_LEVELS));
            let tiles = hashes.div_ceil(u64::from(TILE_WIDTH));
            (0..tiles).filter_map(move |index| {
                let width = (hashes - index * u64::from(TILE_WIDTH)).min(u64::from(TILE_WIDTH));
                Self::new(level, index, u16::try_from(width).ok()?)
            })
        })
    }

    fn checked_end(self) -> Option<u64> {
        let height = u32::from(self.level) * u32::from(TILE_LEVELS);
        let hashes = self.index.checked_mul(u64::from(TILE_WIDTH))?;
        let hashes = hashes.checked_add(u64::from(self.width))?;
        hashes.checked_mul(1_u64.checked_shl(height)?)
    }
}

impl fmt::Display for Tile {
    /// Writes the part of the path after `tile/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.level)?;
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        match self.width {
            TILE_WIDTH => Ok(()),
            width => write!(f, ".p/{width}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_convention() {
        let path = |level, index, width| Tile::new(level, index, width).unwrap().to_string();
        assert_eq!(path(0, 0, 256), "0/000");
        assert_eq!(path(0, 1_234_067, 256), "0/x001/x234/067");
        assert_eq!(path(1, 999, 17), "1/999.p/17");
        assert_eq!(path(2, 1000, 1), "2/x001/000.p/1");
        let largest = Tile::new(0, (1 << 55) - 1, 255).unwrap();
        assert_eq!(Tile::of_path(&largest.to_string()), Some(largest));
    }

    #[test]
    fn a_path_in_another_form_is_none() {
        for path in [
            "",
            "/",
            "0",
            "0/",
            "/000",
            "0/0",
            "0/00",
            "0/0000",
            "00/000",
            "+0/000",
            "-0/000",
            "0/ 00",
            "0/x000/001",
            "0/x001",
            "0/001/002",
            "0/x1/000",
            "0/X001/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/000.p",
            "0/000.p/1/",
            "0/000/",
            "0//000",
            "0/../000",
            "0/%30",
            "0/000.p/1.p/1",
            "8/000",
            "7/128",
            "255/000",
            "256/000",
            "0/x018/x446/x744/x073/x709/x551/615",
            "0/x999/x999/x999/x999/x999/x999/999",
            "0/x144/x115/x188/x075/x855/x871",
            "entries/000",
            "0/٠٠٠",
        ] {
            assert_eq!(Tile::of_path(path), None, "{path}");
        }
        assert_eq!(Tile::of_path(&"0/x001".repeat(1 << 16)), None);
    }

    #[test]
    fn tiles_beyond_every_tree_are_none() {
        assert_eq!(Tile::new(0, 0, 0), None);
        assert_eq!(Tile::new(0, 0, 257), None);
        assert_eq!(Tile::new(0, 1 << 60, 1), None);
        assert_eq!(Tile::new(0, u64::MAX, 256), None);
        assert_eq!(Tile::new(7, 0, 128), None, "2^63 leaves");
        assert_eq!(Tile::new(7, 0, 127).map(Tile::end), Some(127 << 56));
        assert_eq!(Tile::new(8, 0, 1), None);
        assert_eq!(Tile::new(255, 0, 1), None);
    }

    #[test]
    fn a_tree_has_the_tiles_that_its_hashes_fill() {
        let paths = |size| Tile::all(size).map(|it| it.to_string()).collect::<Vec<_>>();
        assert_eq!(paths(0), Vec::<String>::new());
        assert_eq!(paths(1), ["0/000.p/1"]);
        assert_eq!(paths(256), ["0/000", "1/000.p/1"]);
        assert_eq!(paths(600), ["0/000", "0/001", "0/002.p/88", "1/000.p/2"]);
        for size in 0..2000 {
            assert!(Tile::all(size).all(|tile| tile.end() <= size), "{size}");
        }
    }

    proptest! {
        #[test]
        fn a_path_reads_back(level in 0_u8..8, index in any::<u64>(), shift in 8_u32..64, width in 1_u16..=256) {
            if let Some(tile) = Tile::new(level, index >> shift, width) {
                prop_assert_eq!(Tile::of_path(&tile.to_string()), Some(tile));
            }
        }

        #[test]
        fn what_is_read_is_written_the_same(path in "[0-9]/(x[0-9]{3}/){0,6}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::of_path(&path) {
                prop_assert_eq!(tile.to_string(), path);
            }
        }
    }
}
