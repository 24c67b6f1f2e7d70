//! Writes of submitted reports. Those that come within half a second of each other share a sync of the disk.
//!
//! Publishers wait for each sync, and any stranger may submit reports that have to be kept. One of the submissions that
//! wait writes all of them. If its caller leaves before that, the next one does, so no task outlives the submissions.
//! Reports without proof are displaced by later ones, so their number alone would not end the writes: their bytes have
//! a rate, too.

use std::time::Duration;

use hawser_storage::{CommitError, NewReport, ReportClass, StoredReport};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::stoppable::blocking;

/// Least time between two writes. Specified (`docs/protocol/misbehavior.md`). A guess: two syncs in a second are few
/// beside those of a publisher, and a submitter does not notice the wait.
const WRITE_EVERY: Duration = Duration::from_millis(500);
/// Bytes of reports without proof that may be written at once. Specified (same page). A guess: four of the largest
/// reports.
const CLAIMS_BURST_BYTES: u32 = 32 * 1024 * 1024;
/// Time in which room for one more such byte is free again. Specified (same page): some 64 KiB in a second. A guess:
/// the dozen small reports that checks let through in a second fit, and the reports that are kept are displaced by a
/// flood within hours and not within minutes.
const CLAIM_BYTE_EVERY: Duration = Duration::from_micros(15);

/// The reports that wait to be written. Bounded by the time that checks of reports may take, and by the memory that
/// their callers are charged.
#[derive(Default)]
pub(super) struct ReportWrites {
    waiting: Mutex<Vec<WaitingReport>>,
    claims: Mutex<ClaimAllowance>,
    /// The time of the last write, locked by the submission that makes the next one.
    last: tokio::sync::Mutex<Option<Instant>>,
}

/// The reason a report is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReportWriteError {
    /// Reports without proof have used up what may be written of them.
    #[error("too many bytes of reports without proof: try again in {retry_after_s} s")]
    ClaimsBusy {
        /// Whole seconds, at least 1.
        retry_after_s: u64,
    },
    /// The write has failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The bytes of reports without proof that may be written now. A plain value.
#[derive(Debug, Clone, Copy, Default)]
struct ClaimAllowance {
    /// The time at which all of [`CLAIMS_BURST_BYTES`] may be written again; `None` before the first report.
    whole_at: Option<Instant>,
}

impl ClaimAllowance {
    /// Takes a report of `len_bytes`, or nothing.
    ///
    /// # Errors
    /// The time after which the report fits.
    fn take(&mut self, len_bytes: usize, now: Instant) -> Result<(), Duration> {
        let bytes = u32::try_from(len_bytes).unwrap_or(u32::MAX).min(CLAIMS_BURST_BYTES);
        let whole_at = self.whole_at.map_or(now, |at| at.max(now)) + CLAIM_BYTE_EVERY * bytes;
        let owed = whole_at.saturating_duration_since(now);
        let wait = owed.saturating_sub(CLAIM_BYTE_EVERY * CLAIMS_BURST_BYTES);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.whole_at = Some(whole_at);
        Ok(())
    }
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
    /// The error of the write: none of its reports is kept. Before it, [`ReportWriteError::ClaimsBusy`] for a report
    /// without proof.
    pub(super) async fn store(
        &self,
        report: NewReport,
        write: impl FnOnce(Vec<NewReport>) -> Result<Vec<StoredReport>, CommitError> + Send + 'static,
    ) -> Result<bool, ReportWriteError> {
        self.admit(&report)?;
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

    /// Takes the bytes of a report that proves nothing from what may be written of such reports.
    fn admit(&self, report: &NewReport) -> Result<(), ReportWriteError> {
        if report.fact.class != ReportClass::Foreign {
            return Ok(());
        }
        let taken = self.claims.lock().take(report.report.len(), Instant::now());
        taken.map_err(|wait| ReportWriteError::ClaimsBusy { retry_after_s: wait.as_secs() + 1 })
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
) -> Result<bool, ReportWriteError> {
    // Without an outcome the write has panicked.
    let failed = |_| Err(CommitError::Poisoned { cause: "the write of reports has failed".into() });
    outcome.unwrap_or_else(failed).map_err(ReportWriteError::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use hawser_proto::{Bytes, OriginatorId, SequenceId};
    use hawser_storage::{KeptReport, ReportFact};

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
        async fn store(&self, writes: &ReportWrites, number: u8) -> Result<bool, ReportWriteError> {
            self.store_this(writes, report(number)).await
        }

        async fn store_this(
            &self,
            writes: &ReportWrites,
            report: NewReport,
        ) -> Result<bool, ReportWriteError> {
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
            writes.store(report, write).await
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
        assert_eq!(failed, [(); 3].map(|()| Err::<bool, _>(ReportWriteError::Commit(error()))));
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

    /// Played by strangers of many sites whose large reports prove nothing and displace each other.
    #[test]
    fn reports_without_proof_are_written_at_a_bounded_rate() {
        const LEN_BYTES: usize = 3 * 1024 * 1024;
        let (began, mut allowance, mut written) = (Instant::now(), ClaimAllowance::default(), 0);
        let mut now = began;
        while now < began + Duration::from_secs(3600) {
            match allowance.take(LEN_BYTES, now) {
                Ok(()) => written += LEN_BYTES,
                Err(wait) => now += wait,
            }
        }
        assert!((200 << 20..280 << 20).contains(&written), "32 MiB and an hour: {written}");
        let mut whole = ClaimAllowance::default();
        assert_eq!(whole.take(usize::MAX, began), Ok(()), "whatever its length, it fits once");
        assert_eq!(whole.take(4_000, began), Err(Duration::from_millis(60)), "a small one soon");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_claims_keeps_no_proof_out() {
        let (writes, disk) = (ReportWrites::default(), Disk::default());
        let claim = NewReport { report: Bytes::from(vec![2; 8 << 20]), ..report(2) };
        for _ in 0..4 {
            assert_eq!(disk.store_this(&writes, claim.clone()).await, Ok(true));
        }
        let refused = disk.store_this(&writes, claim.clone()).await;
        assert!(matches!(refused, Err(ReportWriteError::ClaimsBusy { retry_after_s: 100.. })));
        assert_eq!(disk.writes(), [1; 4], "it was not written");
        let fact = ReportFact { class: ReportClass::Proven, ..claim.fact };
        let proof = NewReport { fact, ..claim };
        assert_eq!(disk.store_this(&writes, proof).await, Ok(true));
        assert_eq!(disk.store(&writes, 4).await, Ok(true), "nor a claim of a byte");
    }
}
