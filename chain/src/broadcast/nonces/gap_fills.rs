//! The gaps that endpoints report, and the fillers of the last hour.

use std::collections::VecDeque;
use std::time::Duration;

/// The largest number of gap fillers in an hour. Guess: two gaps of the greatest length. Each costs
/// the gas of an empty transaction.
pub(super) const FILL_PER_HOUR_MAX: usize = 128;
/// The period over which fillers are counted.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The reported gaps, and the fillers of the last hour.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// The time since which every endpoint reports a gap.
    pub(super) agreed: Option<Duration>,
    /// The first own nonce, and the time since which at least one endpoint reports a gap below it.
    pub(super) reported: Option<(u64, Duration)>,
    /// The times of the last hour's fillers, oldest first.
    filled: VecDeque<Duration>,
    /// True after a filler was not made because the hourly bound is reached.
    pub(super) is_exhausted: bool,
}

impl Gaps {
    /// Returns the number of fillers that may still be made now.
    fn room(&mut self, now: Duration) -> usize {
        while self.filled.front().is_some_and(|at| now >= *at + HOUR) {
            self.filled.pop_front();
        }
        FILL_PER_HOUR_MAX.saturating_sub(self.filled.len())
    }

    /// Takes one filler from the hourly allowance. Returns false if none is left.
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
