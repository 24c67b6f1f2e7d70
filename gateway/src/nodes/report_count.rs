//! Limits the log lines about the wrong answers of a node.

use std::time::{Duration, Instant};

/// Largest number of wrong answers of a node that are logged in a period, and the period. Guesses: enough for
/// evidence, and a node that always answers wrongly cannot fill the disk.
const REPORTS_MAX: u32 = 8;
const REPORTS_PERIOD: Duration = Duration::from_secs(60);

/// Counts the wrong answers of a node in a period.
#[derive(Debug, Default)]
pub(super) struct ReportCount {
    began: Option<Instant>,
    count: u32,
}

impl ReportCount {
    /// Counts a wrong answer at `now`. Returns `None` if it must not be logged, otherwise the number of earlier
    /// ones that were not logged.
    pub(super) fn note(&mut self, now: Instant) -> Option<u32> {
        let is_over = self.began.is_none_or(|began| now.duration_since(began) >= REPORTS_PERIOD);
        let left_out = if is_over { self.count.saturating_sub(REPORTS_MAX) } else { 0 };
        if is_over {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        (self.count <= REPORTS_MAX).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_answers_wrongly_for_good_is_logged_seldom() {
        let (mut reports, now) = (ReportCount::default(), Instant::now());
        let logged: Vec<_> = (0..1000).filter_map(|_| reports.note(now)).collect();
        assert_eq!(logged, [0; REPORTS_MAX as usize]);
        let later = now + REPORTS_PERIOD;
        assert_eq!(reports.note(later), Some(1000 - REPORTS_MAX), "those that were left out");
        assert_eq!(reports.note(later), Some(0));
    }
}
