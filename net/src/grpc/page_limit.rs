//! Lengths of the pages in which a range is asked for: a state machine without I/O.

use hawser_proto::Bytes;

/// Envelopes in the first page. Guessed: most gaps are shorter, and a page of the longest messages is within the
/// limit of a message.
pub(super) const PAGE_ENVELOPES: u32 = 100;
/// Envelopes in a page, at most. Peers send no more, whatever they are asked for. Specified in `docs/protocol/api.md`.
const PAGE_ENVELOPES_MAX: u32 = 1000;
/// Bytes of a page that is longer than the first one, by the mean length of the envelopes before. As a batch over QUIC:
/// over a slow link, the peer shows something as often.
const PAGE_BYTES: usize = 512 * 1024;

/// The number of envelopes in the next page of one range, at most.
#[derive(Debug)]
pub(super) struct PageLimit {
    envelopes: u32,
    /// The peer has answered a page with an error: pages get no longer in this range.
    has_failed: bool,
}

impl PageLimit {
    /// Begins a range.
    pub(super) fn new() -> Self {
        Self { envelopes: PAGE_ENVELOPES, has_failed: false }
    }

    /// Returns the number of envelopes to ask for.
    pub(super) fn envelopes(&self) -> u32 {
        self.envelopes
    }

    /// Notes that the peer has answered a page of this many envelopes with an error. It may be above the limit of a
    /// message.
    pub(super) fn shorten(&mut self, envelopes: u32) {
        *self = Self { envelopes: envelopes.div_ceil(10), has_failed: true };
    }

    /// Notes a page. A long range of short envelopes has few pages then.
    pub(super) fn note(&mut self, page: &[Bytes]) {
        let len: usize = page.iter().map(Bytes::len).sum();
        let Some(fit) = (PAGE_BYTES * page.len()).checked_div(len).filter(|_| !self.has_failed)
        else {
            return;
        };
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        self.envelopes = fit.clamp(PAGE_ENVELOPES, PAGE_ENVELOPES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a page of envelopes of one length.
    fn page(count: usize, len: usize) -> Vec<Bytes> {
        vec![vec![7; len].into(); count]
    }

    #[test]
    fn pages_of_short_envelopes_get_longer_and_those_of_long_ones_do_not() {
        let mut limit = PageLimit::new();
        assert_eq!(limit.envelopes(), 100);
        limit.note(&page(100, 700));
        assert_eq!(limit.envelopes(), 748);
        limit.note(&page(748, 90));
        assert_eq!(limit.envelopes(), 1000, "peers send no more");
        limit.note(&page(3, 200_000));
        assert_eq!(limit.envelopes(), 100);
        for empty in [page(0, 0), page(5, 0)] {
            limit.note(&empty);
            assert_eq!(limit.envelopes(), 100);
        }
    }

    #[test]
    fn a_page_that_fails_is_asked_for_shorter_and_none_is_longer_afterwards() {
        let mut limit = PageLimit::new();
        limit.note(&page(100, 90));
        for shorter in [100, 10, 1, 1] {
            limit.shorten(limit.envelopes());
            assert_eq!(limit.envelopes(), shorter);
        }
        limit.note(&page(1, 90));
        assert_eq!(limit.envelopes(), 1);
        limit.shorten(25);
        assert_eq!(limit.envelopes(), 3, "a range with fewer places left");
    }
}
