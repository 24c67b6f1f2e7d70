//! The time for which the calling thread waits, as opposed to its work.

use std::time::{Duration, Instant};

/// A moment of the calling thread, with its CPU time until then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadTime {
    at: Instant,
    /// `None` if the system does not tell it.
    cpu: Option<Duration>,
}

impl ThreadTime {
    /// Returns the present moment.
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu_time() }
    }

    /// Returns the time since this moment without the CPU time of the calling thread, which must be the same thread. It
    /// is zero if the system does not tell the CPU time.
    pub(crate) fn waited(&self) -> Duration {
        let worked = self.cpu.zip(cpu_time()).map(|(before, now)| now.saturating_sub(before));
        worked.map_or(Duration::ZERO, |worked| self.at.elapsed().saturating_sub(worked))
    }
}

/// Returns the CPU time of the calling thread.
fn cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "the standard library does not tell the CPU time of a thread")]
    // SAFETY: the call writes to one value, which this function owns.
    let known = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } == 0;
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    known.then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_waiting_and_work_is_not() {
        let before = ThreadTime::now();
        let asked = Duration::from_millis(20);
        std::thread::sleep(asked);
        let slept = before.waited();
        assert!(slept > asked / 2, "{slept:?}");
        let cpu = cpu_time().unwrap();
        while cpu_time().unwrap() < cpu + asked {
            std::hint::black_box(blake3::hash(&[7; 4096]));
        }
        let waited = before.waited();
        let all = before.at.elapsed();
        assert!(waited + asked <= all, "{waited:?} of {all:?}");
    }
}
