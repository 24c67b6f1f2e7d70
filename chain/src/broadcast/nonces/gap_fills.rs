//! The gaps that endpoints tell of, and the fillers of the last hour.

use std::collections::VecDeque;
use std::time::Duration;

/// Fillers of gaps in an hour. Guess: two gaps of the greatest length. Each costs the gas of a bare transaction.
pub(super) const FILL_PER_HOUR_MAX: usize = 128;
/// Time in which fillers are counted.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The reported gaps, and the fillers of the last hour.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// The time since which no node has a transaction that could be mined next.
    pub(super) since: Option<Duration>,
    /// The first own nonce, and the time since which one endpoint reports a gap below it and another one reports none.
    pub(super) doubtful: Option<(u64, Duration)>,
    /// The times of the last hour's fillers, the oldest first.
    filled: VecDeque<Duration>,
    /// True once a filler was not made, because the hour had enough.
    pub(super) is_exhausted: bool,
}

impl Gaps {
    /// Returns the number of fillers that may be made now.
    fn room(&mut self, now: Duration) -> usize {
        while self.filled.front().is_some_and(|at| now >= *at + HOUR) {
            self.filled.pop_front();
        }
        FILL_PER_HOUR_MAX.saturating_sub(self.filled.len())
    }

    /// Takes one filler out of the hour's. Returns false if there is none.
    pub(super) fn take_filler(&mut self, now: Duration) -> bool {
        let has_room = self.room(now) > 0;
        if has_room {
            self.filled.push_back(now);
        } else {
            self.is_exhausted = true;
        }
        has_room
    }
}
