//! Writes of submitted reports. Those that come within half a second of each other share a sync of the disk.
//!
//! Publishers wait for each sync, and any stranger may submit reports that have to be kept. One of the submissions that
//! wait writes all of them. If its caller leaves before that, the next one does, so no task outlives the submissions.

use std::time::Duration;

use hawser_storage::{CommitError, NewReport, StoredReport};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::stoppable::blocking;

/// Least time between two writes. Specified (`docs/protocol/misbehavior.md`). A guess: two syncs in a second are few
/// beside those of a publisher, and a submitter does not notice the wait.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// The reports that wait to be written. Bounded by the time that checks of reports may take, and by the memory that
/// their callers are charged.
#[derive(Default)]
pub(super) struct ReportWrites {
    waiting: Mutex<Vec<WaitingReport>>,
    /// The time of the last write, locked by the submission that makes the next one.
    last: tokio::sync::Mutex<Option<Instant>>,
}

struct WaitingReport {
    report: NewReport,
    /// Gets true if the report was new.
    stored: oneshot::Sender<Result<bool, CommitError>>,
}

/// Removes the reports of callers that have left, when its own submission ends.
struct RemoveAbandoned<'a>(&'a Mutex<Vec<WaitingReport>>);

impl Drop for RemoveAbandoned<'_> {
    fn drop(&mut self) {
        self.0.lock().retain(|waiting| !waiting.stored.is_closed());
    }
}

impl ReportWrites {
    /// Writes a report together with all other waiting reports, by one call of `write`. That function returns the new
    /// reports once they are durable. Returns true if this report was new. Dropping the future before the write begins
    /// gives the report up.
    ///
    /// # Errors
    /// The error of the write: none of its reports is kept.
    pub(super) async fn store(
        &self,
        report: NewReport,
        write: impl FnOnce(Vec<NewReport>) -> Result<Vec<StoredReport>, CommitError> + Send + 'static,
    ) -> Result<bool, CommitError> {
        // Dropped after the receiver, so that it finds this submission gone.
        let _forget = RemoveAbandoned(&self.waiting);
        let (sender, mut stored) = oneshot::channel();
        self.waiting.lock().push(WaitingReport { report, stored: sender });
        let mut last = tokio::select! {
            biased;
            outcome = &mut stored => return outcome_of(outcome),
            last = self.last.lock() => last,
        };
        if let Some(last) = *last {
            tokio::select! {
                biased;
                // The submission that has written this report has left during its write.
                outcome = &mut stored => return outcome_of(outcome),
                () = sleep_until(last + WRITE_EVERY) => {}
            }
        }
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if !waiting.is_empty() {
            *last = Some(Instant::now());
            blocking(move || write_all(waiting, write)).await;
        }
        drop(last);
        outcome_of(stored.await)
    }
}

/// Writes all reports, and tells each submission its outcome.
fn write_all(
    waiting: Vec<WaitingReport>,
    write: impl FnOnce(Vec<NewReport>) -> Result<Vec<StoredReport>, CommitError>,
) {
    let reports = waiting.iter().map(|waiting| waiting.report.clone()).collect();
    let written = write(reports);
    for WaitingReport { report, stored } in waiting {
        let is_new = |fresh: &Vec<StoredReport>| {
            fresh
                .iter()
                .any(|it| it.kept.signature == report.signature && it.kept.report == report.report)
        };
        // The caller may have left meanwhile.
        let _ = stored.send(written.as_ref().map(is_new).map_err(CommitError::clone));
    }
}

fn outcome_of(
    outcome: Result<Result<bool, CommitError>, oneshot::error::RecvError>,
) -> Result<bool, CommitError> {
    // Without an outcome the write has panicked.
    let failed = |_| Err(CommitError::Poisoned { cause: "the write of reports has failed".into() });
    outcome.unwrap_or_else(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use hawser_proto::{Bytes, OriginatorId, SequenceId};
    use hawser_storage::{KeptReport, ReportClass, ReportFact};

    use super::*;

    fn report(number: u8) -> NewReport {
        let fact = ReportFact {
            accused: OriginatorId(200),
            class: ReportClass::Foreign,
            kind: 5,
            detail: 0,
            sequence: SequenceId(u64::from(number)),
            digest: [number; 16],
        };
        NewReport { fact, signature: [number; 65], report: Bytes::copy_from_slice(&[number]) }
    }

    /// A disk that knows odd reports already.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<Vec<usize>>>);

    impl Disk {
        async fn store(&self, writes: &ReportWrites, number: u8) -> Result<bool, CommitError> {
            let lengths = self.0.clone();
            let write = move |reports: Vec<NewReport>| {
                lengths.lock().push(reports.len());
                let kept = |it: NewReport| StoredReport {
                    server_time_ns: 7,
                    kept: KeptReport {
                        class: it.fact.class,
                        signature: it.signature,
                        report: it.report,
                    },
                };
                let fresh = reports.into_iter().filter(|it| it.report[0].is_multiple_of(2));
                Ok(fresh.map(kept).collect())
            };
            writes.store(report(number), write).await
        }

        /// Returns the number of reports in each write.
        fn writes(&self) -> Vec<usize> {
            self.0.lock().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_come_together_share_a_write_and_each_learns_its_outcome() {
        let (writes, disk) = (ReportWrites::default(), Disk::default());
        let began = Instant::now();
        assert_eq!(disk.store(&writes, 0).await, Ok(true));
        assert_eq!(began.elapsed(), Duration::ZERO, "a single one does not wait");
        let outcomes = join_all((1..=12).map(|number| disk.store(&writes, number))).await;
        assert_eq!(disk.writes(), [1, 12]);
        assert!(began.elapsed() >= WRITE_EVERY);
        for (number, outcome) in (1..=12_u8).zip(outcomes) {
            assert_eq!(outcome, Ok(number.is_multiple_of(2)), "{number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_fails_is_told_to_all_and_the_next_one_goes_on() {
        let (writes, disk) = (ReportWrites::default(), Disk::default());
        let error = || CommitError::NoRoom { free: 1, wanted: 2 };
        let fail = move |_: Vec<NewReport>| Err::<Vec<StoredReport>, _>(error());
        let failed = join_all((1..=3).map(|number| writes.store(report(number), fail))).await;
        assert_eq!(failed, [Err::<bool, _>(error()), Err(error()), Err(error())]);
        assert_eq!(disk.store(&writes, 4).await, Ok(true));
        assert_eq!(disk.writes(), [1]);
    }

    /// Callers submit reports and hang up, and no other submission writes what they leave behind.
    #[tokio::test(start_paused = true)]
    async fn callers_that_leave_keep_no_memory_and_others_write_in_their_place() {
        let (writes, disk) = (ReportWrites::default(), Disk::default());
        disk.store(&writes, 0).await.unwrap();
        for _ in 0..100 {
            assert!(disk.store(&writes, 2).now_or_never().is_none(), "it waits, and leaves");
        }
        assert!(writes.waiting.lock().is_empty());
        let mut writer = Box::pin(disk.store(&writes, 2));
        assert!((&mut writer).now_or_never().is_none(), "it will write");
        let mut other = Box::pin(disk.store(&writes, 4));
        assert!((&mut other).now_or_never().is_none());
        drop(writer);
        assert_eq!(other.await, Ok(true));
        assert_eq!(disk.writes(), [1, 1]);
    }
}
