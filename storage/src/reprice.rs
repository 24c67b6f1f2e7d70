//! Prices minutes again after a rate was recorded late, an envelope filled a place below the head, or the mark of
//! an envelope changed.
//!
//! The write that causes the work also marks the minutes, so a crash loses no mark. Each minute of a strand is
//! counted and priced from the log, and its rows are replaced completely, so repeating it changes nothing, and the
//! result equals that of a rebuild. The lowest minute of a strand comes first, because prices depend on the counts
//! of the minutes before.
//!
//! An originator can date its envelopes so that one minute spans its whole strand, with any number of payers. So the
//! log is read in steps of bounded size, the strands take turns, and no step holds the rates while it reads. The rows
//! of a minute are replaced in pieces of a bounded number of payers, and the minute is read once for each piece. It
//! stays marked until the last piece is written: after a crash all pieces are written again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::price::Rate;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PayerAddress, minute_of};
use rocksdb::WriteBatch;

use crate::change::Validity;
use crate::database::Database;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::reprice::RepriceKey;
use crate::keys::usage::UsageKey;
use crate::keys::usage_by_payer::UsageByPayerKey;
use crate::price::PriceFn;
use crate::pruned::LogPlace;
use crate::rebuild::Derive;
use crate::repricing::{MinuteScan, MinuteSpan, UsagePiece};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tallies::{Pricing, TalliedFacts, UsageFamilies};

/// Largest number of marks in a write while rates are recorded. A guess that bounds
/// the memory of a batch to about a MiB.
const MARKS_PER_WRITE: usize = 16 * 1024;
/// Largest number of items of the log that a step reads. Calculated from 37 µs for each recovered key: a step takes
/// about 40 ms, and commits to its strand wait for this time.
const STEP_ITEMS: usize = 1024;
/// Bytes of envelopes that end a step early. A guess: reading them takes less than recovering the keys.
const STEP_LEN_BYTES: usize = 16 << 20;
/// Largest number of payers whose rows are replaced by one write, and largest number whose rows are removed by it. A
/// guess: some 60 MB with the write, and more than the payers of an honest minute.
const PIECE_ROWS: usize = 250_000;

impl Store {
    /// Returns true while minutes are marked to be priced again and are not blocked.
    #[must_use]
    pub fn has_unpriced(&self) -> bool {
        let database = self.database();
        database.unpriced.load(Ordering::Acquire) && database.stale.is_empty()
    }

    /// Returns the numbers of envelopes, since the database was opened, whose stated fees differed from the booked
    /// ones at their first booking: for each originator that has any.
    #[must_use]
    pub fn differing_fees(&self) -> BTreeMap<OriginatorId, u64> {
        self.database().differing_fees.lock().clone()
    }

    /// Runs up to `steps_max` steps that correct the amounts of marked minutes. A step prices one minute again, or a
    /// piece of its payers, or reads a bounded part of a long one; the strands with marked minutes take turns. Until
    /// its last piece is written, a minute has rows of both prices. Returns the number of steps; fewer than `steps_max`
    /// means that no minute is left.
    ///
    /// `derive` must be the function that a rebuild gets. Commits to the strand of the current step wait for that
    /// step; commits to other strands do not.
    ///
    /// # Errors
    /// When the log cannot be read or the rows cannot be written. The minute stays marked.
    pub fn reprice(&self, derive: &Derive<'_>, steps_max: usize) -> Result<usize, CommitError> {
        self.database().reprice(derive, steps_max, PIECE_ROWS)
    }
}

impl Database {
    fn reprice(
        self: &Arc<Self>,
        derive: &Derive<'_>,
        steps_max: usize,
        piece_rows: usize,
    ) -> Result<usize, CommitError> {
        self.check_writable()?;
        if self.rebuilt_in_part.load(Ordering::Acquire) || !self.stale.is_empty() {
            return Ok(0); // places that are not rebuilt yet would be counted twice
        }
        // Cleared before the search: a commit that marks a minute meanwhile sets it again.
        self.unpriced.store(false, Ordering::Release);
        let mut done = 0;
        while done < steps_max {
            let mut must_wait = false;
            // The mark may be readable later, and until then amounts do not count as correct.
            let next = self.next_marked(&mut must_wait);
            let next = next.inspect_err(|_| self.unpriced.store(true, Ordering::Release))?;
            let Some(minute) = next else {
                if must_wait {
                    self.unpriced.store(true, Ordering::Release);
                }
                return Ok(done);
            };
            if let Err(error) = self.reprice_step(minute, derive, piece_rows) {
                self.unpriced.store(true, Ordering::Release);
                return Err(error);
            }
            done += 1;
        }
        self.unpriced.store(true, Ordering::Release);
        Ok(done)
    }

    /// Returns the first marked minute of the strand whose turn it is. Sets `must_wait` if a strand has a marked
    /// minute and its marks are changing.
    fn next_marked(&self, must_wait: &mut bool) -> Result<Option<CongestionKey>, ReadError> {
        let last = self.repricing.lock().last;
        let next = match last.0.checked_add(1) {
            Some(next) => self.first_free(OriginatorId(next), must_wait)?,
            None => None,
        };
        let minute = match next {
            Some(minute) => Some(minute),
            None => self.first_free(OriginatorId(0), must_wait)?,
        };
        if let Some(CongestionKey { originator, .. }) = minute {
            self.repricing.lock().last = originator;
        }
        Ok(minute)
    }

    /// Returns the lowest marked minute of the lowest strand at or above `from` whose marks are not changing.
    fn first_free(
        &self,
        mut from: OriginatorId,
        must_wait: &mut bool,
    ) -> Result<Option<CongestionKey>, ReadError> {
        loop {
            let Some(minute) = self.first_marked(from)? else { return Ok(None) };
            if !self.repricing.lock().judged.contains(&minute.originator) {
                return Ok(Some(minute));
            }
            *must_wait = true;
            let Some(next) = minute.originator.0.checked_add(1) else { return Ok(None) };
            from = OriginatorId(next);
        }
    }

    /// Returns the lowest marked minute of the lowest strand at or above `from`.
    fn first_marked(&self, from: OriginatorId) -> Result<Option<CongestionKey>, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(Family::Reprice));
        rows.seek(RepriceKey(CongestionKey::start_of(from)).encode());
        let Some(key) = rows.key() else {
            rows.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        let minute =
            RepriceKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Reprice, key));
        minute.map(|RepriceKey(minute)| Some(minute))
    }

    /// Reads the next part of a minute, and replaces the amounts of a piece of its payers after the last part. The next
    /// step begins with the payers behind the piece.
    fn reprice_step(
        self: &Arc<Self>,
        at: CongestionKey,
        derive: &Derive<'_>,
        piece_rows: usize,
    ) -> Result<(), CommitError> {
        let _no_rebuild = self.gate.read();
        // A copy, because a writer that waits for this lock blocks all commits.
        let rates = self.rate_list.read().clone();
        let head = self.strands.head(at.originator);
        // No envelope joins the minute during the step. Envelopes that join it between steps come after the read
        // part, or their commit drops the scan (`Repricing::forget`).
        let _no_commit = head.lock();
        let snapshot = Snapshot::new(self);
        let mut read = None;
        if let Some(span) = snapshot.span(at)? {
            let started = self.repricing.lock().take(at.originator);
            let mut scan =
                started.filter(|scan| scan.is_of(at, &span, &rates)).unwrap_or_else(|| {
                    let piece = UsagePiece::starting_at(PayerAddress::default(), piece_rows);
                    MinuteScan::new(at, span.clone(), rates, piece)
                });
            scan.span.last = span.last;
            if !snapshot.scan_on(&mut scan, self.price, derive)? {
                self.repricing.lock().put(scan);
                return Ok(());
            }
            read = Some(scan);
        }
        let mut batch = WriteBatch::default();
        let mut rest = None;
        // Held until the write: a rate that is recorded later marks the minute again.
        let rates = self.rate_list.read();
        if let Some(scan) = &mut read {
            if scan.rates != *rates {
                return Ok(()); // the minute stays marked, and the next step begins anew
            }
            rest = self.stage_piece(scan, &snapshot, &mut batch)?;
        }
        if rest.is_none() {
            batch.delete_cf(self.family(Family::Reprice), RepriceKey(at).encode());
        }
        self.write_buffered(batch)?;
        drop(rates);
        // The span is read again: the write has corrected the places of the minute.
        if let Some((from, scan)) = rest.zip(read)
            && let Some(span) = Snapshot::new(self).span(at)?
        {
            let piece = UsagePiece::starting_at(from, piece_rows);
            self.repricing.lock().put(MinuteScan::new(at, span, scan.rates, piece));
        }
        Ok(())
    }

    /// Stages the rows of a piece of a completely read minute, which replace its stored rows, and returns the payer
    /// with which the next piece begins; `None` after the last one. If too many stored rows are to be removed, the
    /// piece ends before the rest of them.
    ///
    /// The count of the minute is written with each piece: an envelope that joins the minute before the next one is
    /// priced by it, also if its payer is in a piece that is written.
    fn stage_piece(
        &self,
        scan: &mut MinuteScan,
        snapshot: &Snapshot<'_>,
        batch: &mut WriteBatch,
    ) -> Result<Option<PayerAddress>, ReadError> {
        let (at, piece) = (scan.at, &mut scan.piece);
        let CongestionKey { originator, minute } = at;
        let key_of = |payer| UsageKey { originator, minute, payer };
        let mut removed = 0;
        snapshot.payers_from(key_of(piece.first()), |payer| {
            if !piece.contains(payer) {
                return false;
            }
            if piece.has_usage_of(payer) {
                return true;
            }
            if removed == piece.rows_max() {
                piece.end_before(payer);
                return false;
            }
            removed += 1;
            let key = key_of(payer);
            batch.delete_cf(self.family(Family::Usage), key.encode());
            batch.delete_cf(self.family(Family::UsageByPayer), UsageByPayerKey(key).encode());
            true
        })?;
        let congestion = self.family(Family::Congestion);
        if scan.counted != CongestionRow::default() {
            batch.put_cf(congestion, at.encode(), scan.counted.encode());
        } else if piece.rest().is_none() {
            // Removed last: without it no step finds the places of the minute.
            batch.delete_cf(congestion, at.encode());
        }
        let usage = UsageFamilies::of(&self.db);
        for (payer, row) in piece.rows() {
            usage.put(batch, key_of(payer), row);
        }
        Ok(piece.rest())
    }

    /// Marks all booked minutes in which one of the rates `fresh` applies; `all` are the rates after the change.
    /// The caller blocks commits.
    pub(crate) fn mark_minutes_of(&self, fresh: &[Rate], all: &[Rate]) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        let mut marked = 0;
        for rate in fresh {
            let next = all.iter().find(|other| other.start_unix_s > rate.start_unix_s);
            let from = minute_at(rate.start_unix_s);
            let to = next.map_or(u32::MAX, |next| minute_at(next.start_unix_s));
            self.for_each_booked_minute(from, to, |minute| {
                batch.put_cf(self.family(Family::Reprice), RepriceKey(minute).encode(), []);
                marked += 1;
                match marked % MARKS_PER_WRITE {
                    0 => self.write_buffered(std::mem::take(&mut batch)),
                    _ => Ok(()),
                }
            })?;
        }
        if marked > 0 {
            self.write_buffered(batch)?;
            self.unpriced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Calls `each` with the minutes of `from..=to` in which an envelope of any strand counts, one by one: all strands
    /// together may have many millions.
    fn for_each_booked_minute(
        &self,
        from: u32,
        to: u32,
        mut each: impl FnMut(CongestionKey) -> Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        let family = self.family(Family::Congestion);
        let mut rows = self.db.raw_iterator_cf(family);
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let corrupt = || ReadError::corrupt(Family::Congestion, key);
            let found = CongestionKey::decode(key).ok_or_else(corrupt)?;
            if found.minute < from {
                rows.seek(CongestionKey { minute: from, ..found }.encode());
            } else if found.minute > to {
                let Some(next) = found.originator.0.checked_add(1) else { break };
                rows.seek(CongestionKey::start_of(OriginatorId(next)).encode());
            } else {
                each(found)?;
                rows.next();
            }
        }
        rows.status().map_err(|error| ReadError::from(DatabaseError::from(error)))?;
        Ok(())
    }
}

fn minute_at(unix_s: u64) -> u32 {
    u32::try_from(unix_s / 60).unwrap_or(u32::MAX)
}

impl Snapshot<'_> {
    /// Reads the next part of a minute, at most one step. Returns true if the minute is read completely.
    fn scan_on(
        &self,
        scan: &mut MinuteScan,
        price: PriceFn,
        derive: &Derive<'_>,
    ) -> Result<bool, ReadError> {
        let (at, pricing) = (scan.at, Pricing { price, rates: &scan.rates });
        let after = EnvelopeId::new(at.originator, scan.read);
        let (mut items, mut len_bytes) = (0, 0);
        for place in self.places(after, scan.span.last) {
            if items == STEP_ITEMS || len_bytes >= STEP_LEN_BYTES {
                return Ok(false);
            }
            items += 1;
            let (id, counted) = match place? {
                LogPlace::Empty { through, .. } => {
                    scan.read = through;
                    continue;
                }
                LogPlace::Pruned { id, envelope } => (id, Some(TalliedFacts::from(&envelope))),
                LogPlace::Held { id, bytes, validity } => {
                    len_bytes += bytes.len();
                    (id, counted_in(at, id, &bytes, validity, derive))
                }
            };
            scan.read = id.sequence;
            let Some(counted) = counted else { continue };
            let TalliedFacts { len_bytes, originator_ns: ns, .. } = counted;
            let minute = minute_of(ns);
            let Some(age) = age(minute, at) else { continue };
            if age == 0 && counted.is_tallied() {
                scan.counted.add(id.sequence, counted.counts_for_congestion);
            }
            if let Some(charge) = counted.charge
                && age == 0
                && scan.piece.contains(charge.payer)
            {
                let row = pricing.book(id, len_bytes, ns, charge, scan.earlier);
                scan.piece.add(charge.payer, row);
            }
            if counted.counts_for_congestion && !scan.span.is_counted[age] {
                scan.earlier[age] = scan.earlier[age].saturating_add(1);
            }
        }
        Ok(true)
    }

    /// Calls `each` with the payers who have booked usage in the minute of `from`, ascending from the payer of `from`,
    /// until it returns false.
    fn payers_from(
        &self,
        from: UsageKey,
        mut each: impl FnMut(PayerAddress) -> bool,
    ) -> Result<(), ReadError> {
        let mut rows = self.projected(Family::Usage, rocksdb::ReadOptions::default())?;
        rows.seek(from.encode());
        while let Some(key) = rows.key() {
            let corrupt = || ReadError::corrupt(Family::Usage, key);
            let booked = UsageKey::decode(key).ok_or_else(corrupt)?;
            let is_of_minute = (booked.originator, booked.minute) == (from.originator, from.minute);
            if !is_of_minute || !each(booked.payer) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(())
    }

    /// Finds the part of the strand with the minute, extended by those of the minutes before it that are not
    /// completely before this part. The times of a strand ascend, so usually this is the minute alone.
    fn span(&self, at: CongestionKey) -> Result<Option<MinuteSpan>, ReadError> {
        let row = |key| self.row(key, CongestionRow::decode);
        let Some(own) = row(at)? else { return Ok(None) };
        let mut span = MinuteSpan {
            first: own.first,
            last: own.last,
            earlier: [0; CONGESTION_MINUTES],
            is_counted: [false; CONGESTION_MINUTES],
        };
        for (minutes, age) in (0..).zip(0..CONGESTION_MINUTES).skip(1) {
            let Some(before) = at.before(minutes).map(row).transpose()?.flatten() else { continue };
            if before.last < own.first {
                (span.earlier[age], span.is_counted[age]) = (before.messages, true);
            } else {
                span.first = span.first.min(before.first);
            }
        }
        Ok(Some(span))
    }
}

/// Returns the tallied values of a stored envelope; `None` if it cannot count in the minute.
fn counted_in(
    at: CongestionKey,
    id: EnvelopeId,
    bytes: &Bytes,
    validity: Validity,
    derive: &Derive<'_>,
) -> Option<TalliedFacts> {
    if age_of(bytes, at).is_none() && OriginatorEnvelope::stated_ns(bytes).is_some() {
        return None; // most of the cost is deriving: the payer is recovered from a signature
    }
    let facts = derive(id, bytes, validity)?;
    Some(TalliedFacts::of(bytes.len(), &facts))
}

/// Returns the distance of `minute` before `at`, if it counts for congestion there.
fn age(minute: u32, at: CongestionKey) -> Option<usize> {
    let age = usize::try_from(at.minute.checked_sub(minute)?).ok()?;
    (age < CONGESTION_MINUTES).then_some(age)
}

/// Like `age`, for an envelope by the time in it.
fn age_of(bytes: &Bytes, at: CongestionKey) -> Option<usize> {
    age(minute_of(OriginatorEnvelope::stated_ns(bytes)?), at)
}

#[cfg(test)]
#[path = "reprice_tests.rs"]
mod tests;
