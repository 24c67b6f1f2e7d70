//! The part of the requesting half that compares the announced head with what endpoints have.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{PageReader, SERVED_FOR};
use crate::index::event::BlockRef;
use crate::index::fetch;
use crate::index::lag::NewestBlock;
use crate::send::Chain;

/// The time limit for an endpoint's answer about a block that another endpoint lacks. A guess.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The time after which an endpoint's own head counts as that of the chain although a higher one is announced. A guess:
/// several times as long as an endpoint may stand still or be far behind before it is left.
const AHEAD_MAX: Duration = Duration::from_secs(30);

impl PageReader {
    /// Returns the head to read up to: the announced one, or for a short time the one that the endpoint serves.
    pub(super) fn served_head(&mut self, announced: BlockRef) -> BlockRef {
        let is_present = |(served, at): &(BlockRef, Instant)| {
            at.elapsed() < SERVED_FOR && served.number < announced.number
        };
        self.served = self.served.filter(is_present);
        self.served.map_or(announced, |(served, _)| served)
    }

    /// Notes that a page was read up to the head at `now`. Returns true if that head counts as the chain's. The
    /// endpoint's own head, while it does not serve the announced one, does so only after [`AHEAD_MAX`]: an endpoint
    /// that is far behind is left sooner, and a WebSocket may announce ever higher heads.
    pub(super) fn note_read_head(&mut self, now: Instant) -> bool {
        if self.served.is_none() {
            self.ahead_since = None;
            return true;
        }
        let since = *self.ahead_since.get_or_insert(now);
        now.saturating_duration_since(since) >= AHEAD_MAX
    }

    /// Returns the head from which the depth of blocks counts that wait for their recheck.
    pub(super) fn depth_head(&self, head: BlockRef) -> u64 {
        let read = self.walk.unread().saturating_sub(1);
        depth_head(head.number, read, self.held.is_some())
    }

    /// Compares the announced head with that of the endpoint `giver` after a block was missing in a page of it.
    /// Announcement and endpoint are independent, and either may be late or wrong. No other endpoint is asked for its
    /// head instead: it would answer for what this one lacks.
    pub(super) async fn missing(&mut self, head: BlockRef, giver: &Chain) {
        let own = self.endpoints.with_host_of(giver);
        let served = self.endpoints.ask_in(own, |chain| async move { fetch::head(&chain).await });
        // One that fails is paused: if it hangs, it must not do so at each of the pages that it has left.
        let Ok(served) = served.await else {
            return self.useless("the head of the chain is not known", giver).await;
        };
        let named = giver.endpoint();
        if served.block.number < head.number {
            self.served = Some((served.block, Instant::now()));
            self.note_lag(named, served.block.number, head.number).await;
            return;
        }
        // The endpoint states a head up to which it does not serve blocks, so what was read is all that it shows.
        let read = self.walk.unread().saturating_sub(1);
        if self.note_lag(named, read, head.number).await {
            sleep(SERVED_FOR).await; // while all endpoints are paused, the next request may go to the same one
        } else {
            self.useless("a block below the head is missing", giver).await;
        }
    }

    /// Switches to another endpoint when the one with this scheme, host and port, whose newest block is given, is
    /// behind for some time, for example because it is syncing anew. Does nothing if no other endpoint has more blocks,
    /// because the head may be invented. Returns true if it switches.
    pub(super) async fn note_lag(&mut self, named: &str, newest: u64, head: u64) -> bool {
        let newest = NewestBlock { endpoint: self.endpoints.index_of(named), number: newest };
        let Some(reason) = self.lag.reason(newest, head, Instant::now()) else { return false };
        if !self.has_another(named, reason.lacks).await {
            self.lag.refuted(reason);
            return false;
        }
        self.endpoints.distrust_named(named, reason.text);
        true
    }

    /// Returns true if an endpoint with another host or port than `named` has the block with this number. The answer of
    /// an endpoint that is left because it invented such blocks does not count.
    async fn has_another(&self, named: &str, number: u64) -> bool {
        let answers = self.endpoints.each_in_time(ANSWER_MAX, |chain| async move {
            fetch::headers(&chain, &[number], None).await
        });
        let answers = answers.await.into_iter().zip(self.endpoints.display_urls()).enumerate();
        let contradicted = self.contradicted.as_deref();
        let is_left = |place: usize| {
            contradicted.is_some_and(|named| self.endpoints.is_distrusted(place, named))
        };
        let mut others =
            answers.filter(|(place, (_, host))| host.as_str() != named && !is_left(*place));
        others.any(|(_, (answer, _))| answer.is_ok_and(|headers| !headers.is_empty()))
    }
}

/// Returns the head from which the depth of blocks counts, given the announced one and the last block that was read.
///
/// An announced head may be invented. A recheck of blocks that have just been read would miss logs that come late, so
/// blocks count as deep only below others that were read. While the reader holds, only further rechecks end that, so
/// none is deferred.
fn depth_head(head: u64, read: u64, is_held: bool) -> u64 {
    if is_held { head } else { head.min(read) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::event_set::EventSet;
    use crate::index::reading::tests::{block, reader};

    #[test]
    fn blocks_count_as_deep_below_what_was_read_unless_the_reader_holds() {
        assert_eq!(depth_head(1_000_000, 100, false), 100);
        assert_eq!(depth_head(90, 100, false), 90);
        assert_eq!(depth_head(1000, 100, true), 1000);
    }

    /// A recheck of blocks that have just been read finds no logs that come late, and they get no other one.
    #[tokio::test]
    async fn a_head_that_is_only_announced_has_no_block_rechecked_early() {
        let mut reader = reader();
        for number in 0..100 {
            reader.walk.rechecks().read(number, EventSet::default());
        }
        let depth_head = reader.depth_head(block(1_000_000));
        let due = reader.walk.rechecks().due(depth_head, 100);
        assert_eq!(due.map(|due| due.blocks), Some(0..=35));
    }
}
