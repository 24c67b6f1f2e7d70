//! Writing and reading reports of misbehaviour. They are recorded beside the log, never derived, and stay
//! when the envelopes in them are pruned.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_proto::OriginatorId;
use rocksdb::{DB, ReadOptions, WriteBatch};

use crate::database::{Database, family_of};
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::evidence_index::Amount;
use crate::keys::Key;
use crate::keys::misbehavior::EvidenceTime;
use crate::keys::report::{KeptReport, ReportClass, ReportFact, ReportFactRow, ReportTime};
use crate::meta;
use crate::raw_rows::stored;
use crate::report_index::ReportIndex;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::unread::PartRead;

/// Reports of one class about one node that are kept. Specified (`docs/protocol/misbehavior.md`).
const REPORTS_MAX: u64 = 10_000;
/// Their bytes. Specified (same page).
const LEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Time for which a report is kept that proves nothing. Specified (same page): 30 days.
const CLAIM_KEPT_NS: u64 = 30 * 24 * 60 * 60 * 1_000_000_000;
/// Part of either bound that is freed when there are too many, so that the search for the oldest ones is paid by many
/// new ones: a tenth. Guessed.
const FREED_PART: u64 = 10;

/// A report that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReport {
    /// The fact that it is about. Of each fact the first report is kept.
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
    /// The report.
    pub kept: KeptReport,
}

/// Reads the index of the reports from the database. What cannot be read is not in it: of those reports more is kept than
/// the bounds say, until the next start.
pub(crate) fn load_report_index(db: &DB) -> PartRead<ReportIndex> {
    let mut index = ReportIndex::default();
    let read = add_to_index(db, &mut index);
    if read.is_err() {
        // A new report must not take the place of another one.
        let mut rows = db.raw_iterator_cf(family_of(db, ReportTime::FAMILY));
        rows.seek_to_last();
        let last = rows.key().and_then(ReportTime::decode);
        index.last = last.map_or(index.last, |last| index.last.max(last));
        if let Err(error) = rows.status().map_err(DatabaseError::from)
            && !error.is_corruption()
        {
            return Err(error.into()); // the last one may still be found
        }
    }
    Ok((index, read))
}

fn add_to_index(db: &DB, index: &mut ReportIndex) -> Result<(), ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, ReportFact::FAMILY));
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let (fact, row) = decode_fact(key, value)?;
        index.add(fact.accused, fact.class, row.len_bytes);
        index.last = index.last.max(row.at);
        rows.next();
    }
    Ok(rows.status().map_err(DatabaseError::from)?)
}

fn decode_fact(key: &[u8], value: &[u8]) -> Result<(ReportFact, ReportFactRow), ReadError> {
    let decoded = ReportFact::decode(key).zip(ReportFactRow::decode(value));
    decoded.ok_or_else(|| ReadError::corrupt(ReportFact::FAMILY, key))
}

impl Store {
    /// Records reports at `now_ns` as one write, and returns those that were new when it is durable. Of each
    /// fact the first report is kept. `reported_up_to` is the evidence that the reports were made of, and
    /// recorded with them.
    ///
    /// Keeps about each node and class up to 10,000 reports and 256 MiB. Proven ones are kept for ever, and
    /// further ones are not stored: they prove nothing more. Others are kept for 30 days, and the oldest
    /// ones make room.
    ///
    /// # Errors
    /// When the database fails. After [`CommitError::Write`] the store is poisoned.
    pub fn record_reports(
        &self,
        now_ns: u64,
        reports: Vec<NewReport>,
        reported_up_to: Option<EvidenceTime>,
    ) -> Result<Vec<StoredReport>, CommitError> {
        self.database().record_reports(now_ns, reports, reported_up_to)
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
        self.database().reports.lock().counts()
    }

    /// Returns the number of reports about each node that were not stored since the start, because the node's room for
    /// proven ones is full. A report that comes again counts again.
    #[must_use]
    pub fn reports_left_out(&self) -> BTreeMap<OriginatorId, u64> {
        self.database().reports.lock().left_out.by_node()
    }
}

impl Database {
    fn record_reports(
        &self,
        now_ns: u64,
        reports: Vec<NewReport>,
        reported_up_to: Option<EvidenceTime>,
    ) -> Result<Vec<StoredReport>, CommitError> {
        self.check_writable()?;
        let mut index = self.reports.lock();
        let mut batch = WriteBatch::default();
        let (mut fresh, mut staged) = (Vec::new(), BTreeMap::new());
        let mut grown: BTreeMap<_, Amount> = BTreeMap::new();
        let mut last = index.last;
        for NewReport { fact, signature, report } in reports {
            let is_known = staged.contains_key(&fact)
                || stored(&self.db, fact, ReportFactRow::decode)?.is_some();
            let kept = KeptReport { class: fact.class, signature, report };
            let value = kept.encode();
            let len_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let about = (fact.accused, fact.class);
            let added = grown.get(&about).copied().unwrap_or_default();
            if is_known {
                continue;
            }
            if !has_room(*index.of(about.0, about.1), added, fact.class, len_bytes) {
                index.left_out.note(fact.accused, fact.class, "report");
                continue;
            }
            let bytes = added.bytes + u64::from(len_bytes);
            grown.insert(about, Amount { pieces: added.pieces + 1, bytes });
            last = ReportTime(last.0.saturating_add(1).max(now_ns));
            let row = ReportFactRow { at: last, len_bytes };
            batch.put_cf(self.family(ReportTime::FAMILY), last.encode(), value);
            batch.put_cf(self.family(ReportFact::FAMILY), fact.encode(), row.encode());
            staged.insert(fact, len_bytes);
            fresh.push(StoredReport { server_time_ns: last.0, kept });
        }
        if let Some(reported) = reported_up_to {
            meta::put_reported_evidence(&self.db, &mut batch, reported);
        }
        if fresh.is_empty() && reported_up_to.is_none() {
            return Ok(fresh);
        }
        self.write_durable(batch)?;
        index.last = last;
        for (fact, len_bytes) in &staged {
            index.add(fact.accused, fact.class, *len_bytes);
        }
        for (accused, class) in grown.into_keys() {
            self.make_room_for_reports(now_ns, accused, class, &mut index)?;
        }
        Ok(fresh)
    }

    /// Removes the oldest reports of a class about a node once there are too many, and with them those that
    /// are too old to be kept.
    fn make_room_for_reports(
        &self,
        now_ns: u64,
        accused: OriginatorId,
        class: ReportClass,
        index: &mut ReportIndex,
    ) -> Result<(), CommitError> {
        let amount = *index.of(accused, class);
        if class.is_proven() || (amount.pieces <= REPORTS_MAX && amount.bytes <= LEN_BYTES_MAX) {
            return Ok(());
        }
        let mut reports = self.reports_about(accused, class)?;
        reports.sort_unstable_by_key(|(_, row)| row.at);
        let mut batch = WriteBatch::default();
        for (fact, row) in reports {
            let is_old = row.at.0.saturating_add(CLAIM_KEPT_NS) < now_ns;
            let left = *index.of(accused, class);
            let fits = left.pieces <= REPORTS_MAX - REPORTS_MAX / FREED_PART
                && left.bytes <= LEN_BYTES_MAX - LEN_BYTES_MAX / FREED_PART;
            if fits && !is_old {
                break;
            }
            batch.delete_cf(self.family(ReportTime::FAMILY), row.at.encode());
            batch.delete_cf(self.family(ReportFact::FAMILY), fact.encode());
            index.remove(accused, class, row.len_bytes);
        }
        self.write_buffered(batch)
    }

    fn reports_about(
        &self,
        accused: OriginatorId,
        class: ReportClass,
    ) -> Result<Vec<(ReportFact, ReportFactRow)>, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(ReportFact::FAMILY));
        let mut reports = Vec::new();
        rows.seek(ReportFact::first(accused, class).encode());
        while let Some((key, value)) = rows.item() {
            let (fact, row) = decode_fact(key, value)?;
            if (fact.accused, fact.class) != (accused, class) {
                break;
            }
            reports.push((fact, row));
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(reports)
    }
}

/// Returns true if another report may be stored, besides those that are kept and `added` now. What proves
/// nothing makes room for itself.
fn has_room(kept: Amount, added: Amount, class: ReportClass, len_bytes: u32) -> bool {
    !class.is_proven()
        || (kept.pieces + added.pieces < REPORTS_MAX
            && kept.bytes + added.bytes + u64::from(len_bytes) <= LEN_BYTES_MAX)
}

impl Snapshot<'_> {
    /// Returns reports that were stored after `after_ns`, oldest first: at most `limit`, and no more once
    /// they have `len_bytes_max` bytes together; the first one is returned regardless. Empty at the end.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn reports(
        &self,
        after_ns: u64,
        limit: usize,
        len_bytes_max: usize,
    ) -> Result<Vec<StoredReport>, ReadError> {
        let Some(from) = after_ns.checked_add(1) else { return Ok(Vec::new()) };
        let mut rows = self.rows(ReportTime::FAMILY, ReadOptions::default());
        let (mut found, mut len_bytes) = (Vec::new(), 0);
        rows.seek(ReportTime(from).encode());
        while let Some((key, value)) = rows.item() {
            len_bytes += value.len();
            if found.len() >= limit || (len_bytes > len_bytes_max && !found.is_empty()) {
                break;
            }
            let corrupt = || ReadError::corrupt(ReportTime::FAMILY, key);
            let ReportTime(server_time_ns) = ReportTime::decode(key).ok_or_else(corrupt)?;
            let kept = KeptReport::decode(value).ok_or_else(corrupt)?;
            found.push(StoredReport { server_time_ns, kept });
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(found)
    }
}
