//! Complete subtrees, which never change while a tree grows.

/// A complete subtree: the 2^level leaves from index · 2^level on. A leaf has level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// Height; from 0 to 63.
    pub level: u8,
    /// Number of subtrees of the same height to the left.
    pub index: u64,
}

/// Splits the leaves from `begin` up to, not including, `end` into complete subtrees, from the largest to the
/// smallest. `begin` is 0, or a multiple of a power of two that is not less than their number.
pub(super) fn subtrees(begin: u64, end: u64) -> impl DoubleEndedIterator<Item = Subtree> {
    let len = end - begin;
    (0..64_u8).rev().filter(move |level| len >> level & 1 == 1).map(move |level| {
        // The leaves of the larger subtrees, whose bits of `len` are above this one.
        let before = (len >> level) - 1;
        Subtree { level, index: (begin >> level) + before }
    })
}
