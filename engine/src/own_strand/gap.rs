//! The width of the gap behind which a node continues if its folder may lack places.
//!
//! The danger is a second folder of the same age with the same key, on another machine. Behind equal gaps both would
//! sign the same places. The two do not always see each other: no peer can be asked, or the same peers answer both
//! before one of them has signed. So the width differs for each of them.

/// Number of places that are left empty after an unknown folder, unless the operator confirms that nothing is lost.
/// The unit of wider gaps. Specified (`docs/protocol/replication.md`, A node's own strand).
pub const GAP: u64 = 1_000_000;
/// The maximum number of units of a gap. A guess: two folders of one age continue at one place once in so many times,
/// and a strand has places for 36 billion such gaps.
const UNITS_MAX: u64 = 256;
/// The widest gap.
pub const GAP_MAX: u64 = GAP * UNITS_MAX;

/// Returns a gap of one or more units, [`GAP_MAX`] at most. `seed` is what differs between two folders, or between two
/// starts from copies of one.
#[must_use]
pub fn gap_of(seed: &[u8]) -> u64 {
    let [first, ..] = *blake3::hash(seed).as_bytes();
    GAP * (u64::from(first) % UNITS_MAX + 1)
}

/// Returns the gap that a majority of answers has a node leave, by the incarnation of its folder and the time of its
/// start. Copies of one folder may have one incarnation, and then differ in their starts.
#[must_use]
pub fn gap_of_start(incarnation: &[u8; 16], start_ns: i64) -> u64 {
    gap_of(&[&incarnation[..], &start_ns.to_be_bytes()].concat())
}
