//! Pauses between attempts that fail because of the disk.
//!
//! Not `backon`: these pauses have no random part, because a process waits for its own disk alone, and this crate uses
//! no randomness outside of its runtime.

use std::time::Duration;

/// The first pause. Guessed: most errors of a disk pass at once or take an operator.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause. A guess: work resumes within half a minute after the disk works again.
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses of one second, two, four, and so on up to half a minute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPauses(Duration);

impl Default for RetryPauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl RetryPauses {
    /// Returns the next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = LONGEST.min(pause * 2);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = RetryPauses::default();
        let seconds: Vec<u64> = (0..7).map(|_| pauses.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }
}
