//! Turns of the computations of reports, each of which may hold hundreds of megabytes.

use parking_lot::{Mutex, MutexGuard};

/// Has one report computed at a time, and one operator answered at a time.
#[derive(Debug, Default)]
pub(super) struct Computations {
    /// Held while a report is computed.
    computing: Mutex<()>,
    /// Held while an operator is answered, between computations, too.
    answering: Mutex<()>,
}

impl Computations {
    /// Computes a report. Waits for the one that is being computed: some seconds, if it has millions of payers.
    pub(super) fn compute<T>(&self, compute: impl FnOnce() -> T) -> T {
        let _computing = self.computing.lock();
        compute()
    }

    /// Begins to answer an operator. The answer ends when the guard is dropped. `None` while another operator is
    /// answered: further ones would only wait, on the threads that show all pages.
    pub(super) fn begin_answer(&self) -> Option<MutexGuard<'_, ()>> {
        self.answering.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_is_computed_at_a_time_and_one_operator_answered() {
        let computations = Computations::default();
        let answer = computations.begin_answer();
        assert!(answer.is_some() && computations.begin_answer().is_none());
        let is_free = || computations.computing.try_lock().is_some();
        assert!(is_free(), "the worker computes while an operator waits for a turn");
        assert!(!computations.compute(is_free));
        drop(answer);
        assert!(computations.begin_answer().is_some() && is_free());
    }
}
