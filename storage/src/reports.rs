//! Writing and reading reports of misbehaviour. They are recorded beside the log, never derived, and stay
//! when the envelopes in them are pruned.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use hawser_proto::OriginatorId;

use crate::error::{CommitError, ReadError};
use crate::facts::FactBatch;
use crate::keys::misbehavior::EvidenceTime;
use crate::keys::report::{KeptReport, ReportClass, ReportFact, ReportTime};
use crate::meta;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// A report that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReport {
    /// The fact that it is about. The first report of each fact is kept.
    pub fact: ReportFact,
    /// The host's signature over the report.
    pub signature: [u8; 65],
    /// The bytes of the unsigned report.
    pub report: Bytes,
}

/// A report with the time at which it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// Time of this node's clock, unix nanoseconds; unique, and above that of earlier reports.
    pub server_time_ns: u64,
    /// The report as it was judged when it came, with its host's signature.
    pub kept: KeptReport,
}

impl Store {
    /// Records reports at `now_ns` as one write, and returns the new ones when it is durable. The first report of each
    /// fact is kept. Of proofs that take two places, only the first one is kept if their kind and detail are equal and
    /// their ranges overlap: any pair of places around a fault proves that fault. `reported_up_to` is the evidence from
    /// which the reports were made; it is recorded with them.
    ///
    /// Keeps about each node and class up to 10,000 reports and 256 MiB. Proven ones are kept for ever, and
    /// further ones are not stored: they prove nothing more. Others are kept for 30 days, and the oldest
    /// ones make room. Submitted ones that prove nothing also share 40,000 reports and 1 GiB: beyond that, the oldest
    /// about the nodes with most of them make room.
    ///
    /// # Errors
    /// When the database fails. After [`CommitError::Write`] the store is poisoned.
    pub fn record_reports(
        &self,
        now_ns: u64,
        reports: Vec<NewReport>,
        reported_up_to: Option<EvidenceTime>,
    ) -> Result<Vec<StoredReport>, CommitError> {
        let database = self.database();
        let mut batch = FactBatch::new(&database, &database.reports, now_ns)?;
        let mut fresh = Vec::new();
        for NewReport { fact, signature, report } in reports {
            if has_known_places(&batch, fact) {
                continue;
            }
            let kept = KeptReport { class: fact.class, signature, report };
            let at = batch.stage(fact, [fact], || kept.encode());
            if let Some(ReportTime(server_time_ns)) = at {
                fresh.push(StoredReport { server_time_ns, kept });
            }
        }
        if let Some(reported) = reported_up_to {
            meta::put_reported_evidence(&database.db, &mut batch.rows, reported);
        }
        batch.write()?;
        Ok(fresh)
    }

    /// Removes this node's own claims of one kind about a node for whose unsigned report `is_over` returns true, and
    /// returns their number when that is durable. `kind` is its number in the API's schema.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn withdraw_own_claims(
        &self,
        accused: OriginatorId,
        kind: u8,
        is_over: impl Fn(&Bytes) -> bool,
    ) -> Result<usize, CommitError> {
        let database = self.database();
        let about = (accused, ReportClass::OwnClaim);
        let is_kind = |fact: ReportFact| fact.kind == kind;
        let is_over =
            |record: &[u8]| KeptReport::decode(record).is_some_and(|kept| is_over(&kept.report));
        database.withdraw(about, &database.reports, is_kind, is_over)
    }

    /// Returns the position of the last piece of evidence that reports were made of.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn reported_evidence(&self) -> Result<EvidenceTime, ReadError> {
        meta::reported_evidence(&self.database().db)
    }

    /// Returns the number of reports by accused node and class.
    #[must_use]
    pub fn report_counts(&self) -> BTreeMap<(OriginatorId, ReportClass), u64> {
        let database = self.database();
        let index = database.reports.lock();
        index.amounts().iter().map(|(about, amount)| (*about, amount.records)).collect()
    }

    /// Returns the number of reports about each node that were not stored since the start, because the node's room
    /// for proven ones is full. A report that is submitted again counts again.
    #[must_use]
    pub fn reports_left_out(&self) -> BTreeMap<OriginatorId, u64> {
        self.database().reports.lock().left_out_by_node()
    }
}

/// Returns true for a proof that takes two places if a known one of the same kind and detail overlaps its range.
fn has_known_places(batch: &FactBatch<'_, ReportFact>, fact: ReportFact) -> bool {
    let Some(earlier) = fact.earlier() else { return false };
    // No two known proofs overlap. So of those that end after `earlier`, the one that ends first also begins first: if
    // it begins at or after the fact's place, all others do.
    let first = ReportFact { sequence: earlier.next(), digest: [0; 16], ..fact };
    let kind = |it: ReportFact| (it.accused, it.class, it.kind, it.detail);
    let next = batch.first_from(first).filter(|it| kind(*it) == kind(fact));
    next.and_then(|it| it.earlier()).is_some_and(|begin| begin < fact.sequence)
}

impl Snapshot<'_> {
    /// Returns reports that were stored after `after_ns`, oldest first: at most `limit`, and no more once
    /// they have `len_bytes_max` bytes together; the first one is returned regardless. Empty at the end. Passes over
    /// rows that the disk has damaged.
    ///
    /// # Errors
    /// When the database fails.
    pub fn reports(
        &self,
        after_ns: u64,
        limit: usize,
        len_bytes_max: usize,
    ) -> Result<Vec<StoredReport>, ReadError> {
        let (mut found, mut len_bytes) = (Vec::new(), 0);
        let reports = &self.database().reports;
        self.each_record(reports, ReportTime(after_ns), |ReportTime(server_time_ns), value| {
            len_bytes += value.len();
            if found.len() >= limit || (len_bytes > len_bytes_max && !found.is_empty()) {
                return Some(ControlFlow::Break(()));
            }
            let kept = KeptReport::decode(value)?;
            found.push(StoredReport { server_time_ns, kept });
            Some(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}
