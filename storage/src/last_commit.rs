//! The time of the last commit to the log. Work in the background knows by it if publishers and followers may wait for
//! the disk.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The time at which a commit began or ended last, in this process.
#[derive(Debug)]
pub(crate) struct LastCommit {
    /// The time from which milliseconds are counted.
    since: Instant,
    /// Milliseconds from there to the last commit, plus one; 0 before the first one.
    at_ms: AtomicU64,
    /// Commits that have begun and not ended. On a slow disk one can take longer than the time that counts as idle.
    running: AtomicUsize,
    /// Nanoseconds for which work in the background has waited for commits.
    waited_ns: AtomicU64,
}

/// A commit that has begun. It ends when this is dropped, also after an error.
#[must_use]
#[derive(Debug)]
pub(crate) struct RunningCommit<'a>(&'a LastCommit);

impl Drop for RunningCommit<'_> {
    fn drop(&mut self) {
        // The time is noted first: a reader that counts no running commit then knows it.
        self.0.note();
        self.0.running.fetch_sub(1, Ordering::Release);
    }
}

impl Default for LastCommit {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            at_ms: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }
}

impl LastCommit {
    /// Notes that a commit begins now.
    pub(crate) fn begin(&self) -> RunningCommit<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.note();
        RunningCommit(self)
    }

    /// Notes that a commit begins or ends now.
    fn note(&self) {
        // Commits of several strands may note their times in another order, which differs by less than a commit takes.
        self.at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Returns true while a commit runs, or waits for its turn.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    /// Returns true if no commit is running, and none has begun or ended for this time.
    pub(crate) fn is_before(&self, time: Duration) -> bool {
        if self.is_running() {
            return false;
        }
        let at_ms = self.at_ms.load(Ordering::Relaxed);
        at_ms == 0 || u128::from(self.now_ms().saturating_sub(at_ms)) >= time.as_millis()
    }

    /// Notes that work in the background has waited for commits for this time.
    pub(crate) fn note_wait(&self, time: Duration) {
        let waited_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
    }

    /// Returns the time for which work in the background has waited for commits, in all.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_counts_for_the_time_after_it_and_none_counts_for_ever() {
        let last = LastCommit::default();
        assert!(last.is_before(Duration::MAX), "there was none");
        let running = last.begin();
        assert!(last.is_running());
        assert!(
            !last.is_before(Duration::ZERO),
            "it may wait for the disk however long ago it began"
        );
        drop(running);
        assert!(!last.is_running());
        assert!(!last.is_before(Duration::MAX));
        assert!(last.is_before(Duration::ZERO));
    }
}
