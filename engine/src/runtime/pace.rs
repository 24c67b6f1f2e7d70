//! The pace of work in the background, which leaves the disk to others for half of the time at least.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::stop::StopSignal;

/// The longest pause at once, so that a stop is noticed. A guess.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The shortest pause. A guess: systems do not wake up more exactly. What is shorter adds up.
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
    fn a_stop_before_a_pause_leaves_it_out() {
        let (stop, stopped) = stop::channel();
        stop.stop();
        assert!(Pace::new(stopped).pause(Duration::MAX).is_break());
        let (owner, stopped) = stop::channel();
        drop(owner);
        assert!(Pace::new(stopped).pause(Duration::MAX).is_break(), "nothing waits for the work");
    }
}
