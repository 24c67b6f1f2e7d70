//! The places of one range that a gRPC peer does not hold, as its pages show them: a state machine without I/O.
//!
//! The envelopes of the pages go no further. They are not verified, and say only that the peer may hold their places:
//! this node then searches for these by themselves.

use std::time::Instant;

use hawser_engine::replication::{StrandItem, Want};
use hawser_proto::{Bytes, OriginatorId, SequenceId};

use super::asked_peer::AskedPeer;
use super::feed::{FeedItems, WantFeed};
use crate::counters::PeerError;

/// The gaps in one range so far.
#[derive(Debug)]
pub(super) struct RangeGaps {
    feed: WantFeed,
    /// The last place of the range.
    last: SequenceId,
    /// Ascending and disjoint, and within the range.
    gaps: Vec<StrandItem<Bytes>>,
    is_over: bool,
}

impl RangeGaps {
    /// Begins with a range, both ends included.
    pub(super) fn new(
        originator: OriginatorId,
        (first, last): (SequenceId, SequenceId),
        asked: AskedPeer,
        now: Instant,
    ) -> Self {
        let want = Want::envelopes(originator, first.previous(), Some(last));
        Self { feed: WantFeed::new(want, asked, now), last, gaps: Vec::new(), is_over: false }
    }

    /// Returns the feed of the pages, which says from where on the next one is asked for.
    pub(super) fn feed(&self) -> &WantFeed {
        &self.feed
    }

    /// Returns true once no further page is needed.
    pub(super) fn is_over(&self) -> bool {
        self.is_over || self.feed.is_over()
    }

    /// Takes the next page. Returns the number of its envelopes that were not in canonical form. `unix_ns` is the wall
    /// clock.
    ///
    /// # Errors
    /// The fault for which the peer is left.
    pub(super) fn take(
        &mut self,
        now: Instant,
        unix_ns: i64,
        page: Vec<Bytes>,
    ) -> Result<u64, PeerError> {
        let before = self.feed.position();
        let FeedItems { batches, rewritten, violation } = self.feed.take(now, unix_ns, page);
        if let Some(violation) = violation {
            return Err(violation);
        }
        for item in batches.into_iter().flatten() {
            // Places that may have expired are no gap: the strand's own node is asked about them alone.
            if let StrandItem::Gap { from, to, expired: false } = item {
                self.add(from, to);
            }
        }
        if self.feed.position() == before && !self.feed.is_over() {
            // Nothing is left behind it.
            self.add(before.next(), self.last);
            self.is_over = true;
        }
        Ok(rewritten)
    }

    /// Returns the gaps, in ascending order.
    pub(super) fn into_items(self) -> Vec<StrandItem<Bytes>> {
        self.gaps
    }

    fn add(&mut self, from: SequenceId, to: SequenceId) {
        self.gaps.push(StrandItem::Gap { from, to: to.min(self.last), expired: false });
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::replication::PeerViolation;

    use super::super::feed::tests::{NODE, NOW_NS, envelope_at};
    use super::*;

    /// Three days: more than the shortest retention.
    const LONG_NS: i64 = 3 * 24 * 3600 * 1_000_000_000;

    /// Takes pages with envelopes at these places until no further one is needed. Returns the gaps between 11 and 19.
    fn gaps(pages: &[&[u64]]) -> Vec<(u64, u64)> {
        let mut gaps = RangeGaps::new(NODE, places(11, 19), AskedPeer::OwnNode, Instant::now());
        for page in pages {
            assert!(!gaps.is_over(), "{page:?}");
            let page = page.iter().map(|place| envelope_at(NODE, *place, NOW_NS)).collect();
            assert_eq!(gaps.take(Instant::now(), NOW_NS, page), Ok(0));
        }
        assert!(gaps.is_over());
        named(gaps)
    }

    /// Begins with the places 11 to 17.
    fn gaps_of(asked: AskedPeer) -> RangeGaps {
        RangeGaps::new(NODE, places(11, 17), asked, Instant::now())
    }

    fn places(first: u64, last: u64) -> (SequenceId, SequenceId) {
        (SequenceId(first), SequenceId(last))
    }

    fn named(gaps: RangeGaps) -> Vec<(u64, u64)> {
        let of_item = |item: StrandItem<Bytes>| match item {
            StrandItem::Gap { from, to, expired: false } => (from.0, to.0),
            item => panic!("{item:?}"),
        };
        gaps.into_items().into_iter().map(of_item).collect()
    }

    #[test]
    fn what_the_pages_of_a_range_do_not_show_is_named() {
        assert_eq!(gaps(&[&[]]), [(11, 19)], "it ends before the range");
        assert_eq!(gaps(&[&[20]]), [(11, 19)]);
        assert_eq!(gaps(&[&[500]]), [(11, 19)], "a gap that goes on behind the range");
        assert_eq!(gaps(&[&[12, 13, 16], &[17], &[]]), [(11, 11), (14, 15), (18, 19)]);
        assert_eq!(gaps(&[&[11, 12], &[13, 14, 15, 16, 17, 18, 19]]), []);
        assert_eq!(gaps(&[&[11, 19]]), [(12, 18)]);
    }

    /// A peer that sends such envelopes answers about another range, or has not looked at the one that was asked for.
    #[test]
    fn envelopes_from_before_a_range_say_nothing_about_it() {
        assert_eq!(gaps(&[&[3, 4, 12], &[12, 4]]), [(11, 11), (13, 19)]);
        assert_eq!(gaps(&[&[3, 4]]), [(11, 19)]);
    }

    #[test]
    fn places_that_may_have_expired_are_not_named() {
        let old = vec![envelope_at(NODE, 15, NOW_NS - LONG_NS), envelope_at(NODE, 17, NOW_NS)];
        let mut gaps = gaps_of(AskedPeer::OwnNode);
        assert_eq!(gaps.take(Instant::now(), NOW_NS, old.clone()), Ok(0));
        assert_eq!(named(gaps), [(16, 16)]);
        let mut of_relay = gaps_of(AskedPeer::Relay);
        assert_eq!(of_relay.take(Instant::now(), NOW_NS, old), Ok(0));
        assert_eq!(named(of_relay), [(11, 14), (16, 16)], "only its own node can say so");
    }

    #[test]
    fn what_a_relay_has_not_checked_says_nothing_about_the_places_behind_it() {
        let garbage = Bytes::from_static(b"no envelope");
        for (page, expected) in [
            (vec![garbage.clone()], vec![]),
            (vec![envelope_at(NODE, 13, NOW_NS), garbage], vec![(11, 12)]),
        ] {
            let mut gaps = gaps_of(AskedPeer::Relay);
            assert_eq!(gaps.take(Instant::now(), NOW_NS, page), Ok(0));
            assert!(gaps.is_over());
            assert_eq!(named(gaps), expected);
        }
    }

    #[test]
    fn garbage_and_envelopes_of_others_end_the_session() {
        for (page, violation) in [
            (Bytes::from_static(b"no envelope"), PeerViolation::NotCanonical),
            (envelope_at(OriginatorId(400), 12, NOW_NS), PeerViolation::WrongOriginator),
            (envelope_at(NODE, 1 << 63, NOW_NS), PeerViolation::OutOfOrder),
        ] {
            let mut gaps = gaps_of(AskedPeer::OwnNodeUnprotected);
            let taken = gaps.take(Instant::now(), NOW_NS, vec![page]);
            assert_eq!(taken, Err(PeerError::Envelope(violation)));
        }
    }
}
