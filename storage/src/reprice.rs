//! Pricing minutes again: after a rate became known late, or an envelope filled a place below the head.
//!
//! The cause of the work marks the minutes in its own write, so a crash loses no mark. One minute of one
//! strand is calculated from the log and replaced as a whole, so doing it twice changes nothing, and the
//! result is that of a rebuild.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, SequenceId, minute_of};
use rocksdb::WriteBatch;

use crate::change::Validity;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::rate::RateRow;
use crate::keys::reprice::RepriceKey;
use crate::keys::usage::{UsageKey, UsageRow};
use crate::log_scan::LogItem;
use crate::price::CONGESTION_MINUTES;
use crate::rebuild::Derive;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tallies::{Pricing, put_usage};

/// Marks in one write while rates are recorded. Bounds the memory of a batch to about a MiB.
const MARKS_PER_WRITE: usize = 16 * 1024;

impl Store {
    /// Returns true while minutes are marked to be priced again.
    #[must_use]
    pub fn has_unpriced(&self) -> bool {
        self.inner.unpriced.load(Ordering::Acquire)
    }

    /// Returns the number of envelopes whose stated fees were not the booked ones when they were first
    /// booked, since the database was opened.
    #[must_use]
    pub fn differing_fees(&self) -> u64 {
        self.inner.differing_fees.load(Ordering::Relaxed)
    }

    /// Prices up to `minutes_max` of the marked minutes again. Returns the number of minutes done; fewer
    /// than `minutes_max` means that none is left.
    ///
    /// `derive` must be the function that a rebuild gets. Commits to other strands go on; those to the
    /// strand of the current minute wait for that minute.
    ///
    /// # Errors
    /// When the log cannot be read or the rows cannot be written. The minute stays marked.
    pub fn reprice(&self, derive: &Derive<'_>, minutes_max: usize) -> Result<usize, CommitError> {
        self.inner.poison.check()?;
        // Before the look: a commit that marks a minute meanwhile raises it again.
        self.inner.unpriced.store(false, Ordering::Release);
        let mut done = 0;
        while done < minutes_max {
            let Some(minute) = self.next_marked()? else { return Ok(done) };
            if let Err(error) = self.reprice_minute(minute, derive) {
                self.inner.unpriced.store(true, Ordering::Release);
                return Err(error);
            }
            done += 1;
        }
        self.inner.unpriced.store(true, Ordering::Release);
        Ok(done)
    }

    fn next_marked(&self) -> Result<Option<CongestionKey>, ReadError> {
        let mut rows = self.inner.db.raw_iterator_cf(self.inner.family(Family::Reprice));
        rows.seek_to_first();
        let Some(key) = rows.key() else {
            rows.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        let minute =
            RepriceKey::decode(key).ok_or_else(|| ReadError::corrupt(Family::Reprice, key));
        minute.map(|RepriceKey(minute)| Some(minute))
    }

    fn reprice_minute(&self, at: CongestionKey, derive: &Derive<'_>) -> Result<(), CommitError> {
        let _no_rebuild = self.inner.gate.read();
        let rates = self.inner.rate_list.read();
        let head = self.inner.strands.head(at.originator);
        // No envelope joins the minute until its amounts are replaced.
        let _no_commit = head.lock();
        let pricing = Pricing { price: self.inner.price, rates: &rates };
        let usage = self.snapshot().usage_of_minute(at, pricing, derive)?;
        let mut batch = WriteBatch::default();
        for (key, row) in usage {
            put_usage(&self.inner.db, &mut batch, key, row);
        }
        batch.delete_cf(self.inner.family(Family::Reprice), RepriceKey(at).encode());
        self.inner.write_buffered(batch)
    }

    /// Marks every booked minute in which one of the rates `fresh` applies; `all` are the rates as they
    /// will be. The caller keeps commits away.
    pub(crate) fn mark_minutes_of(
        &self,
        fresh: &[RateRow],
        all: &[RateRow],
    ) -> Result<(), CommitError> {
        let mut batch = WriteBatch::default();
        let mut marked = 0;
        for rate in fresh {
            let next = all.iter().find(|other| other.start_unix_s > rate.start_unix_s);
            let from = minute_at(rate.start_unix_s);
            let to = next.map_or(u32::MAX, |next| minute_at(next.start_unix_s));
            for minute in self.booked_minutes(from, to)? {
                batch.put_cf(self.inner.family(Family::Reprice), RepriceKey(minute).encode(), []);
                marked += 1;
                if marked % MARKS_PER_WRITE == 0 {
                    self.inner.write_buffered(std::mem::take(&mut batch))?;
                }
            }
        }
        if marked > 0 {
            self.inner.write_buffered(batch)?;
            self.inner.unpriced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Returns the minutes of `from..=to` in which an envelope of any strand counts.
    fn booked_minutes(&self, from: u32, to: u32) -> Result<Vec<CongestionKey>, ReadError> {
        let family = self.inner.family(Family::Congestion);
        let mut rows = self.inner.db.raw_iterator_cf(family);
        let mut minutes = Vec::new();
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let corrupt = || ReadError::corrupt(Family::Congestion, key);
            let found = CongestionKey::decode(key).ok_or_else(corrupt)?;
            if found.minute < from {
                rows.seek(CongestionKey { minute: from, ..found }.encode());
            } else if found.minute > to {
                let Some(next) = found.originator.0.checked_add(1) else { break };
                rows.seek(CongestionKey::start_of(hawser_proto::OriginatorId(next)).encode());
            } else {
                minutes.push(found);
                rows.next();
            }
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(minutes)
    }
}

fn minute_at(unix_s: u64) -> u32 {
    u32::try_from(unix_s / 60).unwrap_or(u32::MAX)
}

impl Snapshot<'_> {
    /// Calculates the usage rows of one minute from the log.
    fn usage_of_minute(
        &self,
        at: CongestionKey,
        pricing: Pricing<'_>,
        derive: &Derive<'_>,
    ) -> Result<HashMap<UsageKey, UsageRow>, ReadError> {
        let mut usage: HashMap<UsageKey, UsageRow> = HashMap::new();
        let Some(span) = self.span(at)? else { return Ok(usage) };
        let MinuteSpan { first, last, mut earlier, is_counted } = span;
        let after = EnvelopeId::new(at.originator, first.previous());
        for item in self.log(after, last) {
            let LogItem::Envelope { id, bytes, validity } = item? else { continue };
            if age_of(&bytes, at).is_none() && time_of(&bytes).is_some() {
                continue; // most of the cost is deriving: the payer is recovered from a signature
            }
            let Some(facts) = derive(id, &bytes, validity).filter(|_| validity == Validity::Valid)
            else {
                continue;
            };
            let minute = minute_of(facts.originator_ns);
            let Some(age) = age(minute, at) else { continue };
            if let Some(charge) = facts.charge.filter(|_| age == 0) {
                let ns = facts.originator_ns;
                let row = pricing.book(id, bytes.len(), ns, charge, earlier);
                let (originator, payer) = (at.originator, charge.payer);
                usage.entry(UsageKey { originator, minute, payer }).or_default().add(row);
            }
            if facts.counts_for_congestion && !is_counted[age] {
                earlier[age] = earlier[age].saturating_add(1);
            }
        }
        Ok(usage)
    }

    /// Finds the part of the strand that holds the minute, and of the minutes before it those that are
    /// not wholly before that part. Times of a strand ascend, so mostly that is the minute alone.
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

/// The places to read for one minute.
struct MinuteSpan {
    first: SequenceId,
    last: SequenceId,
    /// Messages of each minute of the window, of those minutes that lie wholly before the own one.
    earlier: [u64; CONGESTION_MINUTES],
    /// True for those minutes. The messages of the others are counted while they are read.
    is_counted: [bool; CONGESTION_MINUTES],
}

/// Returns the distance of `minute` before `at`, if it counts for congestion there.
fn age(minute: u32, at: CongestionKey) -> Option<usize> {
    let age = usize::try_from(at.minute.checked_sub(minute)?).ok()?;
    (age < CONGESTION_MINUTES).then_some(age)
}

/// The same for an envelope, by the time that it states.
fn age_of(bytes: &Bytes, at: CongestionKey) -> Option<usize> {
    age(minute_of(time_of(bytes)?), at)
}

fn time_of(bytes: &Bytes) -> Option<i64> {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    Some(OriginatorEnvelope::statement(statement).ok()?.1)
}
