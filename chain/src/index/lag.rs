//! Decides when the endpoint in use is so far behind the chain, or for so long, that another one is used. A plain
//! value.

#[cfg(test)]
mod simulation;

use std::time::{Duration, Instant};

/// The number of blocks by which an endpoint that goes on may be behind. Guess.
pub(super) const BEHIND_BLOCKS_MAX: u64 = 16;
/// The time for which an endpoint may be further behind, or lack a block and show no new one. Guess: endpoints of one
/// chain are rarely further apart than a second.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// The lag of the endpoint in use.
///
/// An endpoint that is a few blocks behind delays little while it advances. On a chain without new blocks it would hide
/// the same few blocks for as long, so an endpoint that has stopped behind others is left, too.
#[derive(Debug, Default)]
pub(super) struct EndpointLag {
    /// The time since when the endpoint has been more than [`BEHIND_BLOCKS_MAX`] behind.
    far_since: Option<Instant>,
    /// The endpoint with its highest block, and the time since when it has shown no higher one.
    stands: Option<(NewestBlock, Instant)>,
    /// The endpoint that was left last, with its highest block.
    left: Option<NewestBlock>,
}

/// A reason to use another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LagReason {
    /// The reason as text, for logs.
    pub(super) text: &'static str,
    /// The number of a block that the endpoint lacks. The reason counts only if another endpoint has this block. A
    /// single endpoint states the head of the chain, and may have invented it.
    pub(super) lacks: u64,
    /// True if the endpoint shows no new block, and false if it goes on far behind.
    is_still: bool,
}

/// The newest block of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewestBlock {
    /// The index of the endpoint.
    pub(super) endpoint: usize,
    /// The number of the block.
    pub(super) number: u64,
}

impl EndpointLag {
    /// Notes the newest block of the endpoint in use, and the number of the newest known one of the chain. Returns the
    /// reason to use another endpoint, again with each call while it lasts, and at once if the endpoint was left at the
    /// same block, or a higher one, before; `None` if there is none.
    ///
    /// One missing block is enough to show that an endpoint has stopped. An endpoint that advances often lacks the
    /// newest block for a moment, so it has to lack more. A block below an earlier one is no new block: an endpoint
    /// that states two by turns stands still.
    pub(super) fn reason(
        &mut self,
        newest: NewestBlock,
        head: u64,
        now: Instant,
    ) -> Option<LagReason> {
        let behind = head.saturating_sub(newest.number);
        if behind == 0 {
            self.note_going_on();
            return None;
        }
        if self.stands.is_some_and(|(before, _)| before.endpoint != newest.endpoint) {
            self.note_going_on();
        }
        self.far_since = self.far_since.or(Some(now)).filter(|_| behind > BEHIND_BLOCKS_MAX);
        let is_no_higher = |(before, _): &(NewestBlock, Instant)| newest.number <= before.number;
        let (highest, stands_since) = self.stands.filter(is_no_higher).unwrap_or((newest, now));
        self.stands = Some((highest, stands_since));
        let is_long = |since: Instant| now.saturating_duration_since(since) > BEHIND_MAX;
        let was_left_here = self
            .left
            .is_some_and(|left| left.endpoint == newest.endpoint && newest.number <= left.number);
        let is_still = is_long(stands_since) || was_left_here;
        let next = newest.number.saturating_add(1);
        let reason = if is_still {
            let text = "it stands still behind the head of the chain";
            Some(LagReason { text, lacks: next, is_still })
        } else if self.far_since.is_some_and(is_long) {
            let text = "it is far behind the head of the chain";
            Some(LagReason { text, lacks: next.saturating_add(BEHIND_BLOCKS_MAX), is_still })
        } else {
            None
        };
        self.left = reason.map(|_| highest).or(self.left);
        reason
    }

    /// Notes that the endpoint in use has blocks that are not read yet.
    pub(super) fn note_going_on(&mut self) {
        (self.far_since, self.stands) = (None, None);
    }

    /// Notes that no other endpoint has the block that the last reason names, and restarts the time of that reason. If
    /// the endpoint was too far behind, keeps the time since its last new block, so an invented head does not reset it.
    pub(super) fn refuted(&mut self, reason: LagReason) {
        (self.far_since, self.left) = (None, None);
        if reason.is_still {
            self.stands = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(endpoint: usize, number: u64) -> NewestBlock {
        NewestBlock { endpoint, number }
    }

    #[test]
    fn an_endpoint_that_is_a_little_behind_is_used_while_it_goes_on() {
        let (mut lag, start) = (EndpointLag::default(), Instant::now());
        for block in 100_u32..200 {
            let now = start + SECOND * (block - 100);
            let block = u64::from(block);
            assert_eq!(lag.reason(at(0, block), block + BEHIND_BLOCKS_MAX, now), None);
        }
        let now = start + SECOND * 1000;
        assert_eq!(lag.reason(at(0, 300), 301, now), None);
        assert_eq!(lag.reason(at(0, 300), 305, now + BEHIND_MAX), None);
        for _ in 0..2 {
            let reason = lag.reason(at(0, 300), 305, now + BEHIND_MAX + SECOND);
            assert!(reason.is_some_and(|it| it.text.contains("stands still")), "{reason:?}");
            assert_eq!(reason.map(|it| it.lacks), Some(301));
        }
        assert_eq!(lag.reason(at(0, 305), 305, now + SECOND * 10), None, "it has come");
        assert_eq!(lag.reason(at(0, 305), 306, now + SECOND * 20), None, "that is another time");
    }

    #[test]
    fn an_endpoint_that_was_left_is_left_at_once_until_it_has_a_new_block() {
        let (mut lag, start) = (EndpointLag::default(), Instant::now());
        let mut is_left = |newest, after_s| {
            lag.reason(newest, 105, start + Duration::from_secs(after_s)).is_some()
        };
        assert!(!is_left(at(0, 100), 0) && is_left(at(0, 100), 6));
        assert!(!is_left(at(1, 100), 7), "another endpoint has its own time");
        assert!(!is_left(at(1, 105), 8));
        assert!(is_left(at(0, 100), 20));
        assert!(!is_left(at(0, 101), 21));
    }

    #[test]
    fn an_endpoint_that_states_two_blocks_by_turns_stands_still() {
        let (mut lag, start) = (EndpointLag::default(), Instant::now());
        let mut reason =
            |after_s: u32, number| lag.reason(at(0, number), 105, start + SECOND * after_s);
        for after_s in 0..=5 {
            assert_eq!(reason(after_s, 100 - u64::from(after_s % 2)), None);
        }
        for (after_s, number) in [(6, 100), (7, 99)] {
            let still = reason(after_s, number).unwrap();
            assert!(still.text.contains("stands still"), "{still:?}");
            assert_eq!(still.lacks, number + 1);
        }
        assert_eq!(reason(8, 101), None, "it goes on");
    }

    #[test]
    fn an_endpoint_that_is_far_behind_is_left_although_it_goes_on() {
        let (mut lag, start) = (EndpointLag::default(), Instant::now());
        let mut reason = |number, head, after_s| {
            lag.reason(at(0, number), head, start + Duration::from_secs(after_s))
        };
        assert_eq!(reason(100, 200, 0), None);
        assert_eq!(reason(103, 203, 3), None);
        let far = reason(106, 206, 6).unwrap();
        assert!(far.text.contains("far behind"), "{far:?}");
        assert_eq!(far.lacks, 106 + BEHIND_BLOCKS_MAX + 1);
        assert_eq!(reason(200, 207, 7), None, "it is near now");
        assert_eq!(reason(201, 300, 8), None, "and far again only since then");
    }

    #[test]
    fn a_head_that_was_refuted_does_not_prolong_the_time_of_an_endpoint_that_stands_still() {
        let (mut lag, start) = (EndpointLag::default(), Instant::now());
        let at_s = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lag.reason(at(0, 100), 1000, at_s(0)), None);
        assert_eq!(lag.reason(at(0, 101), 1000, at_s(3)), None);
        let far = lag.reason(at(0, 101), 1000, at_s(6)).unwrap();
        assert_eq!(far.lacks, 101 + BEHIND_BLOCKS_MAX + 1);
        lag.refuted(far);
        assert_eq!(lag.reason(at(0, 101), 1000, at_s(7)), None);
        let still = lag.reason(at(0, 101), 1000, at_s(9)).unwrap();
        assert_eq!(still.lacks, 102);
        lag.refuted(still);
        assert_eq!(lag.reason(at(0, 101), 1000, at_s(10)), None, "its time begins anew");
        assert_eq!(lag.reason(at(0, 101), 1000, at_s(14)), None);
        assert_eq!(lag.reason(at(0, 101), 1000, at_s(16)).map(|it| it.lacks), Some(102));
    }
}
