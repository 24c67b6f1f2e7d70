//! The ranges that a search asks each peer for: its own gap, and those behind it that the source has shown.
//!
//! Gaps side by side go into one range. Each peer sends what stands between them once more, and this node checks it, so
//! these bytes are bounded. A gap that lies further apart is a range of its own, which costs a peer a want, and over
//! gRPC as many envelopes as it has places.
//!
//! The source may name a gap that all other peers hold, and each of them would send all of it. So the places of all
//! gaps together are bounded, as those of one gap for which all peers are asked at once.

use hawser_proto::SequenceId;

use super::search::IN_TURNS_FROM;
use crate::replication::ranges::Places;

/// Bytes of the envelopes that stand between the gaps of one range. Specified (`docs/protocol/replication.md`, Gaps).
const BETWEEN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the envelopes between the gaps of all ranges of a search. Specified (same page).
const BETWEEN_BYTES_IN_ALL_MAX: usize = 256 * 1024;
/// Ranges of a search. Specified (same page): wants that one search costs each peer.
pub(super) const ASKED_RANGES_MAX: usize = 16;

/// Returns true if a want for the places after `after` and up to `up_to` has a short range.
pub(super) fn is_short(after: SequenceId, up_to: SequenceId) -> bool {
    up_to.0.saturating_sub(after.0) <= IN_TURNS_FROM
}

/// The ranges of a search, while the envelopes behind its gap are looked at.
#[derive(Debug)]
pub(super) struct AskedRanges {
    /// Ascending and disjoint, both ends included. The first one begins with the gap of the search.
    ranges: Vec<Places>,
    /// The last place that was looked at.
    last: SequenceId,
    /// Places of all gaps; at most [`IN_TURNS_FROM`] if there are two or more.
    places: u64,
    /// Bytes of the envelopes since the last gap.
    since_gap: usize,
    /// Bytes between the gaps of the last range.
    between: usize,
    /// Bytes between the gaps of each range, of all ranges.
    in_all: usize,
}

impl AskedRanges {
    /// Begins with the gap of the search, and the length of the envelope behind it.
    pub(super) fn begin(gap: Places, behind_bytes: usize) -> Self {
        let (last, places) = (gap.1.next(), places_of(gap));
        Self { ranges: vec![gap], last, places, since_gap: behind_bytes, between: 0, in_all: 0 }
    }

    /// Looks at the next envelope. Returns false if nothing from there on is asked for.
    pub(super) fn take(&mut self, place: SequenceId, len_bytes: usize) -> bool {
        if place <= self.last {
            return false;
        }
        let gap = (self.last.next(), place.previous());
        if gap.0 <= gap.1 && !self.add(gap) {
            return false;
        }
        self.last = place;
        self.since_gap = self.since_gap.saturating_add(len_bytes);
        true
    }

    /// Adds a gap to the last range, or as a range of its own. Returns false if there is no room for it.
    fn add(&mut self, gap: Places) -> bool {
        let (_, through) = gap;
        let places = self.places.saturating_add(places_of(gap));
        if places > IN_TURNS_FROM {
            return false;
        }
        let between = self.between.saturating_add(self.since_gap);
        let in_all = self.in_all.saturating_add(self.since_gap);
        let is_near = between <= BETWEEN_BYTES_MAX && in_all <= BETWEEN_BYTES_IN_ALL_MAX;
        let has_room = self.ranges.len() < ASKED_RANGES_MAX;
        match self.ranges.last_mut() {
            // With the envelope behind it, as in the search that the gap would have otherwise.
            Some((from, last)) if is_near && is_short(from.previous(), through.next()) => {
                *last = through;
                (self.between, self.in_all) = (between, in_all);
            }
            _ if has_room => {
                self.ranges.push(gap);
                self.between = 0;
            }
            _ => return false,
        }
        (self.places, self.since_gap) = (places, 0);
        true
    }

    /// Returns the last place of the first range, and the other ranges.
    pub(super) fn into_parts(self) -> (SequenceId, Vec<Places>) {
        let mut ranges = self.ranges.into_iter();
        let first = ranges.next().map_or(SequenceId::NONE, |(_, last)| last);
        (first, ranges.collect())
    }
}

/// Returns the number of places of a gap, both ends included.
fn places_of((first, last): Places) -> u64 {
    last.0.saturating_sub(first.0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the ranges for a gap at 2, and envelopes at these places behind that at 3.
    fn ranges(behind_bytes: usize, envelopes: &[(u64, usize)]) -> Vec<(u64, u64)> {
        let mut asked = AskedRanges::begin((SequenceId(2), SequenceId(2)), behind_bytes);
        let _ = envelopes.iter().all(|(place, len)| asked.take(SequenceId(*place), *len));
        asked.ranges.iter().map(|(first, last)| (first.0, last.0)).collect()
    }

    const FAR: usize = BETWEEN_BYTES_MAX + 1;

    #[test]
    fn near_gaps_share_a_range_and_each_far_one_has_its_own() {
        assert_eq!(ranges(9, &[]), [(2, 2)]);
        assert_eq!(ranges(9, &[(4, 9), (6, 9), (9, 9)]), [(2, 8)]);
        assert_eq!(ranges(9, &[(4, FAR), (6, 9), (8, 9)]), [(2, 2), (5, 7)]);
        assert_eq!(ranges(FAR, &[(5, FAR), (7, FAR)]), [(2, 2), (4, 4), (6, 6)]);
        assert_eq!(ranges(9, &[(1_025, 9)]), [(2, 1_024)]);
        assert_eq!(ranges(9, &[(1_026, 9)]), [(2, 2), (4, 1_025)], "too wide for one");
        assert_eq!(ranges(9, &[(1_029, 9), (1_031, 9)]), [(2, 2)], "too many places");
        assert_eq!(ranges(9, &[(5, 9), (5, 9), (7, 9)]), [(2, 4)], "out of order");
    }

    /// Each peer gets as many wants, and sends as many bytes once more.
    #[test]
    fn what_one_search_asks_for_is_bounded() {
        let far: Vec<_> = (1..100).map(|number| (3 + 2 * number, FAR)).collect();
        assert_eq!(ranges(FAR, &far).len(), ASKED_RANGES_MAX);
        // The other peers may hold what the source leaves out.
        let wide: Vec<_> = (1..100).map(|number| (3 + 300 * number, FAR)).collect();
        assert_eq!(ranges(FAR, &wide), [(2, 2), (4, 302), (304, 602), (604, 902)]);
        let near: Vec<_> = (1..1_000).map(|number| (3 + 2 * number, 8 * 1024)).collect();
        let ranges = ranges(8 * 1024, &near);
        assert_eq!(ranges.len(), ASKED_RANGES_MAX);
        let between: u64 = ranges.iter().map(|(first, last)| (last - first) / 2).sum();
        assert_eq!(between * 8 * 1024, 256 * 1024);
    }

    #[test]
    fn the_last_places_that_a_strand_can_have_are_taken() {
        let gap = (SequenceId(1), SequenceId(u64::MAX - 1));
        let mut asked = AskedRanges::begin(gap, usize::MAX);
        assert!(!asked.take(SequenceId(u64::MAX), usize::MAX));
        assert_eq!(asked.into_parts(), (SequenceId(u64::MAX - 1), Vec::new()));
    }
}
