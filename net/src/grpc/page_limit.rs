//! Lengths of the pages in which a range is asked for: a state machine without I/O.

use std::time::Duration;

use hawser_proto::Bytes;

/// Envelopes in the first page of a strand. Guessed: most gaps are shorter, and a page of the longest messages is
/// within the limit of a message.
pub(super) const PAGE_ENVELOPES: u32 = 100;
/// Envelopes in a page, at most. Peers send no more, whatever they are asked for. Specified in `docs/protocol/api.md`.
const PAGE_ENVELOPES_MAX: u32 = 1000;
/// Bytes of a page that is longer than the first one, by the mean length of the envelopes before. As a batch over QUIC.
const PAGE_BYTES: usize = 512 * 1024;
/// The part of a page by which the last one of a range may be longer. A guess: the rest would cost a round trip.
const REST_PART: u32 = 8;
/// The time from which a page is a slow one. A guess: several of the longest round trips, so it is the link that takes
/// the time.
const SLOW_PAGE: Duration = Duration::from_secs(2);
/// The time that a page may take over a slow link. A guess: less than half of the time for which a call may last, so
/// that two strands may share the link.
const PAGE_TIME: Duration = Duration::from_secs(4);

/// The number of envelopes in the next page of one range of a strand, at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageLimit {
    envelopes: u32,
    /// Envelopes in the first page of the next range. Below [`PAGE_ENVELOPES`] only after slow pages.
    usual: u32,
    /// The peer has answered a page with an error: pages get no longer in this range.
    has_failed: bool,
}

impl Default for PageLimit {
    /// Begins with a strand of which no page has come.
    fn default() -> Self {
        Self { envelopes: PAGE_ENVELOPES, usual: PAGE_ENVELOPES, has_failed: false }
    }
}

impl PageLimit {
    /// Begins the next range of the same strand, by the length of the envelopes before.
    pub(super) fn of_next_range(self) -> Self {
        Self { envelopes: self.usual, usual: self.usual, has_failed: false }
    }

    /// Returns the number of envelopes to ask for while so many places of the range are left.
    pub(super) fn envelopes(&self, left: u32) -> u32 {
        let may_be_longer = self.envelopes > PAGE_ENVELOPES && !self.has_failed;
        let rest = if may_be_longer { self.envelopes / REST_PART } else { 0 };
        let longest = (self.envelopes + rest).min(PAGE_ENVELOPES_MAX);
        if left <= longest { left } else { self.envelopes }
    }

    /// Notes that the peer has answered a page of this many envelopes with an error. It may be above the limit of a
    /// message.
    pub(super) fn shorten(&mut self, envelopes: u32) {
        (self.envelopes, self.has_failed) = (envelopes.div_ceil(10), true);
    }

    /// Notes a page, and the time that it took. A long range of short envelopes has few pages then, and a page of long
    /// ones over a slow link has few envelopes.
    pub(super) fn note(&mut self, page: &[Bytes], took: Duration) {
        let len: usize = page.iter().map(Bytes::len).sum();
        let Some(by_len) = (PAGE_BYTES * page.len()).checked_div(len) else { return };
        let by_len = u32::try_from(by_len).unwrap_or(u32::MAX);
        let count = u32::try_from(page.len()).unwrap_or(u32::MAX);
        let fit = if took >= SLOW_PAGE {
            let in_time = (PAGE_TIME * count).as_millis() / took.as_millis();
            by_len.min(u32::try_from(in_time).unwrap_or(u32::MAX))
        } else if self.usual < PAGE_ENVELOPES {
            // A page with few envelopes does not show that the link is fast.
            by_len.max(PAGE_ENVELOPES).min(self.usual.max(count.saturating_mul(2)))
        } else {
            by_len.max(PAGE_ENVELOPES)
        };
        self.usual = fit.clamp(1, PAGE_ENVELOPES_MAX);
        if !self.has_failed {
            self.envelopes = self.usual;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time of a page over a fast link.
    const FAST: Duration = Duration::from_millis(200);
    /// More places than a page can have.
    const MANY: u32 = 1_000_000;

    /// Returns a page of envelopes of one length.
    fn page(count: usize, len: usize) -> Vec<Bytes> {
        vec![vec![7; len].into(); count]
    }

    /// Returns the number of pages in which a range of envelopes of one length comes.
    fn pages_of(limit: &mut PageLimit, places: u32, len: usize) -> usize {
        *limit = limit.of_next_range();
        let (mut left, mut pages) = (places, 0);
        while left > 0 {
            let count = limit.envelopes(left);
            limit.note(&page(usize::try_from(count).unwrap(), len), FAST);
            left -= count;
            pages += 1;
        }
        pages
    }

    #[test]
    fn pages_of_short_envelopes_get_longer_and_those_of_long_ones_do_not() {
        let mut limit = PageLimit::default();
        assert_eq!(limit.envelopes(MANY), 100);
        limit.note(&page(100, 700), FAST);
        assert_eq!(limit.envelopes(MANY), 748);
        limit.note(&page(748, 90), FAST);
        assert_eq!(limit.envelopes(MANY), 1000, "peers send no more");
        limit.note(&page(3, 200_000), FAST);
        assert_eq!(limit.envelopes(MANY), 100);
        for empty in [page(0, 0), page(5, 0)] {
            limit.note(&empty, FAST);
            assert_eq!(limit.envelopes(MANY), 100);
        }
    }

    #[test]
    fn a_page_that_fails_is_asked_for_shorter_and_none_is_longer_afterwards() {
        let mut limit = PageLimit::default();
        limit.note(&page(100, 90), FAST);
        let mut asked = limit.envelopes(MANY);
        for shorter in [100, 10, 1, 1] {
            limit.shorten(asked);
            asked = limit.envelopes(MANY);
            assert_eq!(asked, shorter);
        }
        limit.note(&page(1, 90), FAST);
        assert_eq!(limit.envelopes(MANY), 1);
        limit.shorten(25);
        assert_eq!(limit.envelopes(MANY), 3, "a range with fewer places left");
        assert_eq!(limit.envelopes(2), 2);
    }

    /// Each page costs a round trip, and a far peer that sends parts of a backlog must not be slower than its stream.
    #[test]
    fn a_later_range_begins_with_a_page_of_the_right_length_and_has_no_short_last_page() {
        let mut limit = PageLimit::default();
        assert_eq!(pages_of(&mut limit, 256, 700), 2);
        assert_eq!(pages_of(&mut limit, 512, 700), 1);
        assert_eq!(pages_of(&mut limit, 2_995, 700), 4);
        assert_eq!(pages_of(&mut limit, 4_000, 90), 5, "the envelopes were longer before");
        assert_eq!(pages_of(&mut limit, 4_000, 90), 4);
        assert!(limit.envelopes(1_001) <= 1_000, "peers send no more");
        limit.shorten(1_000);
        limit = limit.of_next_range();
        assert_eq!(limit.envelopes(MANY), 1_000, "an error says nothing about later ranges");
    }

    /// A page that takes longer than a call may last would fail in each range.
    #[test]
    fn over_a_slow_link_pages_of_long_envelopes_are_short_also_in_later_ranges() {
        let mut limit = PageLimit::default();
        limit.shorten(100);
        limit.note(&page(10, 20_000), Duration::from_secs(3));
        assert_eq!(limit.envelopes(MANY), 10);
        limit = limit.of_next_range();
        assert_eq!(limit.envelopes(MANY), 13);
        limit.note(&page(13, 20_000), Duration::from_secs(4));
        assert_eq!(limit.envelopes(MANY), 13);
        limit.note(&page(3, 20_000), Duration::from_secs(1));
        assert_eq!(limit.of_next_range().envelopes(MANY), 13, "the rest of a range");
        limit.note(&page(1, 900_000), Duration::from_secs(9));
        assert_eq!(limit.envelopes(MANY), 1);
        for longer in [2, 4, 8, 16, 32, 64, 100, 100] {
            let count = usize::try_from(limit.envelopes(MANY)).unwrap();
            limit.note(&page(count, 20_000), FAST);
            assert_eq!(limit.envelopes(MANY), longer, "the link is fast");
        }
    }
}
