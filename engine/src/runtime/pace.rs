//! The pace of work in the background, which leaves the disk to others for half of the time at least.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hawser_storage::Store;

use super::stop::StopSignal;

/// The longest pause at once, so that a stop is noticed. A guess.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The shortest pause. A guess: systems do not wake up more exactly. Shorter pauses add up until they reach it.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pace of one piece of work, from step to step.
pub(super) struct Pace {
    /// The begin of the present step.
    begun: Instant,
    /// Pauses that are due.
    owed: Duration,
    stopped: StopSignal,
}

impl Pace {
    /// Begins with the first step. The work ends once it is `stopped`.
    pub(super) fn new(stopped: StopSignal) -> Self {
        Self { begun: Instant::now(), owed: Duration::ZERO, stopped }
    }

    /// Pauses as long as the step took, and at least until `step_min` has passed since its begin. Says if the work goes
    /// on.
    pub(super) fn pause(&mut self, step_min: Duration) -> ControlFlow<()> {
        let took = self.begun.elapsed();
        let pause = took.max(step_min.saturating_sub(took));
        self.owed = self.owed.saturating_add(pause);
        let goes_on = self.sleep();
        self.begun = Instant::now();
        goes_on
    }

    fn sleep(&mut self) -> ControlFlow<()> {
        loop {
            if self.stopped.is_stopped() {
                return ControlFlow::Break(());
            }
            if self.owed < PAUSE_MIN {
                return ControlFlow::Continue(());
            }
            let pause = self.owed.min(PAUSE_MAX);
            std::thread::sleep(pause);
            self.owed = self.owed.saturating_sub(pause);
        }
    }
}

/// The shortest pause of [`ShortTurns`]. A guess: a tenth is what systems wake up later than asked.
const SHORT_PAUSE_MIN: Duration = Duration::from_micros(300);
/// Pauses that were longer than asked are made up for by leaving out others, up to this time. A guess: more would be a
/// long turn.
const AHEAD_MAX: Duration = Duration::from_millis(2);
/// Pauses for each two parts of work. The work has two thirds of a core then.
const PAUSES_OF_TWO: u32 = 1;
/// Time without a commit after which the work makes no pauses. A guess: a publisher that comes after it meets one turn,
/// as between two pauses.
const IDLE_AFTER: Duration = Duration::from_millis(100);

/// Turns of work of less than a millisecond, with pauses half as long: work that publishers queue behind, and that has
/// to get on beside them. The time for which it waits for commits counts as a pause. There are no pauses while there
/// are no commits. A turn ends before the system would give the core to another thread in the middle of a write.
#[derive(Debug)]
pub struct ShortTurns {
    /// The begin of the present turn.
    begun: Instant,
    /// Pauses that are due.
    owed: Duration,
    /// Time for which pauses were longer than due.
    ahead: Duration,
    /// The time for which pruning had waited for commits, in all, when the present turn began.
    waited: Duration,
}

impl ShortTurns {
    /// Begins the first turn of work on `store`. Waits of earlier work on it are no pauses of this one.
    #[must_use]
    pub fn begin(store: &Store) -> Self {
        Self::after_waits(store.waited_for_commits())
    }

    /// Begins the first turn after the store's work had waited for commits for `waited`, in all.
    fn after_waits(waited: Duration) -> Self {
        let (owed, ahead) = (Duration::ZERO, Duration::ZERO);
        Self { begun: Instant::now(), owed, ahead, waited }
    }

    /// Pauses if a pause is due, unless no commit to `store` may queue behind the work. To be called after each small
    /// part of the work, without any lock. Blocks.
    pub fn pause(&mut self, store: &Store) {
        let is_idle = store.is_without_commits_for(IDLE_AFTER);
        let worked = self.without_waits(self.begun.elapsed(), store.waited_for_commits());
        let due = self.due(worked, is_idle);
        if !due.is_zero() {
            let asleep = Instant::now();
            std::thread::sleep(due);
            self.note_pause(due, asleep.elapsed());
        }
        self.begun = Instant::now();
    }

    /// Returns the part of a turn in which it worked, and counts the rest as a pause: the turn waited for commits, for
    /// `waited` together with all turns before it.
    fn without_waits(&mut self, took: Duration, waited: Duration) -> Duration {
        let of_turn = waited.saturating_sub(std::mem::replace(&mut self.waited, waited)).min(took);
        self.note_pause(Duration::ZERO, of_turn);
        took - of_turn
    }

    /// Adds work to the owed pause. Returns the pause that is due now, which may be none. Work beside no commits owes
    /// none.
    fn due(&mut self, worked: Duration, is_idle: bool) -> Duration {
        if is_idle {
            self.owed = Duration::ZERO;
            return Duration::ZERO;
        }
        self.owed = self.owed.saturating_add(worked * PAUSES_OF_TWO / 2);
        let made_up = self.owed.min(self.ahead);
        (self.owed, self.ahead) = (self.owed - made_up, self.ahead - made_up);
        match self.owed < SHORT_PAUSE_MIN {
            true => Duration::ZERO,
            false => std::mem::take(&mut self.owed),
        }
    }

    fn note_pause(&mut self, due: Duration, took: Duration) {
        self.ahead = (self.ahead + took.saturating_sub(due)).min(AHEAD_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::runtime::stop;

    /// A pause that does not look at the stop never returns: this test then runs for ever.
    #[test]
    fn a_stop_by_another_thread_ends_a_pause_of_any_length() {
        let (stop, stopped) = stop::channel();
        let mut pace = Pace::new(stopped);
        assert!(pace.pause(Duration::ZERO).is_continue());
        let (began, has_begun) = mpsc::channel();
        let pausing = thread::spawn(move || {
            began.send(()).expect("the test waits for it");
            pace.pause(Duration::MAX)
        });
        has_begun.recv().expect("the thread says that it begins");
        stop.stop();
        assert!(pausing.join().expect("a pause does not panic").is_break());
    }

    #[test]
    fn short_pauses_add_up_to_half_of_the_work_however_late_the_system_wakes() {
        let us = Duration::from_micros;
        for late in [0, 60, 1_000, 50_000] {
            let mut turns = ShortTurns::after_waits(Duration::ZERO);
            let (mut worked, mut paused, mut longest) = (Duration::ZERO, Duration::ZERO, 0);
            let mut without = 0;
            for step in 0..1_000 {
                let work = us(50 + step % 100);
                worked += work;
                let due = turns.due(work, false);
                without = if due.is_zero() { without + 1 } else { 0 };
                longest = longest.max(without);
                if !due.is_zero() {
                    assert!(due >= SHORT_PAUSE_MIN);
                    turns.note_pause(due, due + us(late));
                    paused += due + us(late);
                }
            }
            // Allows for pauses that are not due yet, and for those made in advance.
            assert!(paused + SHORT_PAUSE_MIN * 2 >= worked / 2, "{late}: {paused:?} of {worked:?}");
            let in_advance = us(late) * 1_000;
            assert!(paused <= worked / 2 + in_advance, "{late}: {paused:?} of {worked:?}");
            // After a pause that was far too long, no more than 2 ms are made up for: 4 ms of work.
            assert!(longest <= 100, "{late}: {longest} parts without a pause");
        }
    }

    #[test]
    fn the_wait_for_a_commit_is_a_pause_and_no_work() {
        let us = Duration::from_micros;
        // 9 s are those of earlier runs.
        let mut turns = ShortTurns::after_waits(us(9_000_000));
        let mut due = |took, waited: u64| {
            let worked = turns.without_waits(us(took), us(9_000_000 + waited));
            (worked, turns.due(worked, false))
        };
        assert_eq!(due(1_000, 600), (us(400), Duration::ZERO), "its pause of 200 was the wait");
        assert_eq!(due(1_000, 600), (us(1_000), Duration::ZERO), "400 of 500 were made up for");
        assert_eq!(due(400, 600), (us(400), us(300)));
        assert_eq!(due(500, 9_600), (Duration::ZERO, Duration::ZERO), "all of it was the wait");
    }

    /// A commit that comes must find the pauses of the work since then, and no others.
    #[test]
    fn work_beside_no_commits_owes_no_pauses_and_pauses_once_they_come() {
        let us = Duration::from_micros;
        let mut turns = ShortTurns::after_waits(Duration::ZERO);
        assert_eq!(turns.due(us(500), false), Duration::ZERO, "it is owed");
        assert_eq!(turns.due(us(10_000_000), true), Duration::ZERO);
        assert_eq!(turns.due(us(500), false), Duration::ZERO);
        assert_eq!(turns.due(us(500), false), us(500));
    }

    #[test]
    fn a_stop_before_a_pause_leaves_it_out() {
        let (stop, stopped) = stop::channel();
        stop.stop();
        assert!(Pace::new(stopped).pause(Duration::MAX).is_break());
        let (owner, stopped) = stop::channel();
        drop(owner);
        assert!(Pace::new(stopped).pause(Duration::MAX).is_break(), "nothing waits for the work");
    }
}
