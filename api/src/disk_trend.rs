//! Estimates the days until a disk is full from samples of its free space. Time is an argument.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Seconds between two samples. A guess: a compaction of table files frees within minutes the space that it takes.
const SAMPLE_EVERY_S: i64 = 600;
/// Number of samples: those of a day, so that its busy and its quiet hours count.
const SAMPLES_MAX: usize = 144;
/// Shortest time between the first sample and an estimate, seconds. A guess: over a shorter time compactions have more
/// effect than callers.
const RATE_OVER_S_MIN: i64 = 3600;
const DAY_S: f64 = 86_400.0;

/// Free bytes of a disk at times of the last day, unix seconds, oldest first.
#[derive(Debug, Default)]
pub(crate) struct DiskTrend(Mutex<VecDeque<(i64, u64)>>);

impl DiskTrend {
    /// Returns true if it is time for another sample.
    pub(crate) fn is_due(&self, now_s: i64) -> bool {
        let samples = self.0.lock();
        // Also true after the clock was set back.
        samples.back().is_none_or(|(last_s, _)| !(0..SAMPLE_EVERY_S).contains(&(now_s - last_s)))
    }

    /// Records a sample.
    pub(crate) fn note(&self, now_s: i64, free_bytes: u64) {
        let mut samples = self.0.lock();
        // The clock was set, or no sample was taken for hours: earlier samples are not of the last day.
        let is_near = |last_s: i64| (0..=3 * SAMPLE_EVERY_S).contains(&(now_s - last_s));
        if samples.back().is_some_and(|(last_s, _)| !is_near(*last_s)) {
            samples.clear();
        }
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((now_s, free_bytes));
    }

    /// Returns the days until the disk is full if it fills as in the last day; `None` while the rate is unknown,
    /// and while the disk does not fill.
    pub(crate) fn days_left(&self, now_s: i64, free_bytes: u64) -> Option<f64> {
        let (first_s, first_free) = *self.0.lock().front()?;
        let over_s = now_s.checked_sub(first_s).filter(|over_s| *over_s >= RATE_OVER_S_MIN)?;
        let taken = first_free.checked_sub(free_bytes).filter(|taken| *taken > 0)?;
        Some(free_bytes as f64 / taken as f64 * over_s as f64 / DAY_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the trend and the free bytes after samples every ten minutes for this many seconds, with `per_sample`
    /// bytes less each time.
    fn sampled(seconds: i64, free: u64, per_sample: u64) -> (DiskTrend, u64) {
        let trend = DiskTrend::default();
        let mut left = free;
        for now_s in 0..seconds {
            if trend.is_due(now_s) {
                left -= per_sample;
                trend.note(now_s, left);
            }
        }
        (trend, left)
    }

    #[test]
    fn a_disk_that_fills_has_an_estimate() {
        let (trend, left) = sampled(86_400, 1_000_000, 1000);
        let days = trend.days_left(86_400, left).unwrap();
        // 144,000 bytes in a day, and 856,000 are free.
        assert!((5.8..6.2).contains(&days), "{days}");
        assert_eq!(trend.0.lock().len(), SAMPLES_MAX);
    }

    #[test]
    fn there_is_no_estimate_too_early_or_of_a_disk_that_does_not_fill() {
        let (trend, left) = sampled(3000, 1_000_000, 1000);
        assert_eq!(trend.days_left(3000, left), None, "less than an hour");
        assert!(trend.days_left(3600, left).is_some());
        assert_eq!(trend.days_left(3600, 1_000_000), None, "something was freed");
        assert_eq!(DiskTrend::default().days_left(9999, 1), None);
    }

    #[test]
    fn samples_are_ten_minutes_apart_and_begin_anew_when_the_clock_goes_back() {
        let trend = DiskTrend::default();
        assert!(trend.is_due(1000));
        trend.note(1000, 50);
        assert!(!trend.is_due(1599) && trend.is_due(1600) && trend.is_due(999));
        trend.note(500, 40);
        assert_eq!(trend.0.lock().len(), 1);
        for number in 0..1000 {
            trend.note(500 + number, 40);
        }
        assert_eq!(trend.0.lock().len(), SAMPLES_MAX);
    }
}
