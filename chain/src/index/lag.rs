//! Decides when the endpoint in use is so far behind the chain, or for so long, that another one is used. A plain
//! value.

use std::time::{Duration, Instant};

/// The number of blocks by which an endpoint that goes on may be behind. Guess.
pub(super) const BEHIND_BLOCKS_MAX: u64 = 16;
/// The time for which an endpoint may be further behind, or lack a block and show no new one. Guess: endpoints of one
/// chain are rarely further apart than a second.
const BEHIND_MAX: Duration = Duration::from_secs(5);

/// The lag of the endpoint in use.
///
/// An endpoint that is a few blocks behind delays little while it goes on. On a chain that stands still the same few
/// blocks would be hidden for as long, so an endpoint that stands still behind others is left, too.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// The time since when it has been more than [`BEHIND_BLOCKS_MAX`] behind.
    far_since: Option<Instant>,
    /// Its newest block, and the time since when that is its newest one.
    stands: Option<(u64, Instant)>,
}

impl Lag {
    /// Notes the newest block of the endpoint, and the newest known one of the chain. Returns the reason to use another
    /// endpoint, again with each call while it lasts; `None` if there is none.
    pub(super) fn reason(&mut self, newest: u64, head: u64, now: Instant) -> Option<&'static str> {
        let behind = head.saturating_sub(newest);
        if behind == 0 {
            *self = Self::default();
            return None;
        }
        self.far_since = self.far_since.or(Some(now)).filter(|_| behind > BEHIND_BLOCKS_MAX);
        let (block, stands_since) =
            self.stands.filter(|(block, _)| *block == newest).unwrap_or((newest, now));
        self.stands = Some((block, stands_since));
        let is_long = |since: Instant| now.saturating_duration_since(since) > BEHIND_MAX;
        match self.far_since {
            Some(since) if is_long(since) => Some("it is far behind the head of the chain"),
            _ if is_long(stands_since) => Some("it stands still behind the head of the chain"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_a_little_behind_is_used_while_it_goes_on() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let second = Duration::from_secs(1);
        for block in 100_u32..200 {
            let now = start + second * (block - 100);
            let block = u64::from(block);
            assert_eq!(lag.reason(block, block + BEHIND_BLOCKS_MAX, now), None);
        }
        let now = start + 1000 * second;
        assert_eq!(lag.reason(300, 301, now), None);
        assert_eq!(lag.reason(300, 305, now + BEHIND_MAX), None);
        for _ in 0..2 {
            let reason = lag.reason(300, 305, now + BEHIND_MAX + second);
            assert!(reason.is_some_and(|it| it.contains("stands still")), "{reason:?}");
        }
        assert_eq!(lag.reason(305, 305, now + 10 * second), None, "it has come");
        assert_eq!(lag.reason(305, 306, now + 20 * second), None, "that is another time");
    }

    #[test]
    fn an_endpoint_that_is_far_behind_is_left_although_it_goes_on() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let mut reason = |block: u64, head, after_s| {
            lag.reason(block, head, start + Duration::from_secs(after_s))
        };
        assert_eq!(reason(100, 200, 0), None);
        assert_eq!(reason(103, 203, 3), None);
        assert!(reason(106, 206, 6).is_some_and(|it| it.contains("far behind")));
        assert_eq!(reason(200, 207, 7), None, "it is near now");
        assert_eq!(reason(201, 300, 8), None, "and far again only since then");
    }
}
