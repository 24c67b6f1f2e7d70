//! Tallies of envelopes: usage of payers and messages of originators, by minute.
//!
//! An amount depends on earlier envelopes of the strand, so it is calculated where the order is known: while a
//! commit is staged, during a rebuild, and when a minute is priced again. Once no minute is marked to be priced
//! again, the sums are independent of the order of commits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hawser_proto::minute::{CONGESTION_MINUTES, EARLIER_MINUTES};
use hawser_proto::price::Rate;
use hawser_proto::{EnvelopeId, OriginatorId, minute_of};
use rocksdb::{ColumnFamily, DB, WriteBatch};

use crate::change::{Charge, Facts};
use crate::database::{Database, family_of};
use crate::error::ReadError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::congestion::{CongestionKey, CongestionRow};
use crate::keys::pruned::PrunedEnvelope;
use crate::keys::reprice::RepriceKey;
use crate::keys::usage::{UsageKey, UsageRow};
use crate::keys::usage_by_payer::UsageByPayerKey;
use crate::price::{PriceFn, PricedEnvelope};
use crate::raw_rows::stored_in;

/// The recorded rates and the arithmetic over them.
#[derive(Clone, Copy)]
pub(crate) struct Pricing<'a> {
    pub(crate) price: PriceFn,
    pub(crate) rates: &'a [Rate],
}

impl Pricing<'_> {
    /// Returns the usage row of one envelope of `len_bytes`.
    pub(crate) fn book(
        self,
        id: EnvelopeId,
        len_bytes: u64,
        originator_ns: i64,
        charge: Charge,
        earlier: [u64; CONGESTION_MINUTES],
    ) -> UsageRow {
        let Charge { size_bytes, retention_days, stated_picodollars, .. } = charge;
        let envelope = PricedEnvelope { originator_ns, size_bytes, retention_days, earlier };
        UsageRow {
            picodollars: (self.price)(self.rates, &envelope),
            messages: 1,
            bytes: len_bytes,
            last_sequence: id.sequence,
            stated_picodollars,
        }
    }
}

/// The properties of an envelope that tallies count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TalliedFacts {
    /// Length of the stored envelope.
    pub(crate) len_bytes: u64,
    pub(crate) originator_ns: i64,
    pub(crate) charge: Option<Charge>,
    pub(crate) counts_for_congestion: bool,
}

impl TalliedFacts {
    /// Returns the counted values of an envelope of `len_bytes`.
    pub(crate) fn of(len_bytes: usize, facts: &Facts) -> Self {
        Self {
            len_bytes: u64::try_from(len_bytes).unwrap_or(u64::MAX),
            originator_ns: facts.originator_ns,
            charge: facts.charge,
            counts_for_congestion: facts.counts_for_congestion,
        }
    }

    /// Returns true for an envelope that is charged or counts for congestion.
    pub(crate) fn is_tallied(&self) -> bool {
        self.charge.is_some() || self.counts_for_congestion
    }
}

impl From<&PrunedEnvelope> for TalliedFacts {
    fn from(pruned: &PrunedEnvelope) -> Self {
        Self {
            len_bytes: pruned.len_bytes,
            originator_ns: pruned.originator_ns,
            charge: pruned.charge,
            counts_for_congestion: pruned.counts_for_congestion,
        }
    }
}

/// Tallies of one batch. They gather until [`Tallies::finish`], so that each row is read and written
/// once for a batch.
pub(crate) struct Tallies<'a> {
    db: &'a DB,
    /// The family of the counts.
    counts: &'a ColumnFamily,
    pricing: Pricing<'a>,
    usage: HashMap<UsageKey, UsageRow>,
    congestion: HashMap<CongestionKey, StagedCount>,
    /// The counts for the last priced envelope: most envelopes of a batch share a minute.
    window: Option<(CongestionKey, [u64; CONGESTION_MINUTES])>,
    reprice: BTreeSet<CongestionKey>,
    differing: BTreeMap<OriginatorId, u64>,
}

#[derive(Debug, Clone, Copy)]
struct StagedCount {
    row: CongestionRow,
    is_changed: bool,
}

/// Facts about the tallies of a batch that are not in its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TallyReport {
    /// Minutes were marked to be priced again.
    pub(crate) has_marked: bool,
    /// Numbers of envelopes whose stated fees differ from the booked ones, of originators with any.
    pub(crate) differing: BTreeMap<OriginatorId, u64>,
}

impl<'a> Tallies<'a> {
    pub(crate) fn new(store: &'a Database, pricing: Pricing<'a>) -> Self {
        Self {
            db: &store.db,
            counts: store.family(Family::Congestion),
            pricing,
            usage: HashMap::new(),
            congestion: HashMap::new(),
            window: None,
            reprice: BTreeSet::new(),
            differing: BTreeMap::new(),
        }
    }

    /// Counts an envelope. `is_late` is true if it fills a place below the head: it changes the congestion of later
    /// envelopes, so their minutes are marked to be priced again.
    pub(crate) fn count(
        &mut self,
        id: EnvelopeId,
        counted: TalliedFacts,
        is_late: bool,
    ) -> Result<(), ReadError> {
        let TalliedFacts { len_bytes, originator_ns, charge, counts_for_congestion: counts } =
            counted;
        let (originator, minute) = (id.originator, minute_of(originator_ns));
        let at = CongestionKey { originator, minute };
        if let Some(charge) = charge {
            let earlier = self.earlier(at)?;
            let row = self.pricing.book(id, len_bytes, originator_ns, charge, earlier);
            if row.picodollars != row.stated_picodollars {
                *self.differing.entry(originator).or_default() += 1;
            }
            let key = UsageKey { originator, minute, payer: charge.payer };
            self.usage.entry(key).or_default().add(row);
        }
        if !counted.is_tallied() {
            return Ok(());
        }
        let staged = self.staged(at)?;
        staged.row.add(id.sequence, counts);
        staged.is_changed = true;
        match &mut self.window {
            Some((of, earlier)) if *of == at => {
                earlier[0] = earlier[0].saturating_add(u64::from(counts));
            }
            window => *window = None,
        }
        if is_late {
            // The envelope is in an earlier minute for each of these.
            self.reprice.extend((0..=EARLIER_MINUTES).filter_map(|minutes| at.after(minutes)));
        }
        Ok(())
    }

    /// Adds the gathered counts to the stored ones and stages the sums. No other writer may change
    /// counters of the same originators before the batch is written.
    pub(crate) fn finish(self, batch: &mut WriteBatch) -> Result<TallyReport, ReadError> {
        let families = UsageFamilies::of(self.db);
        for (&key, &counted) in &self.usage {
            let held = stored_in(self.db, families.usage, key, UsageRow::decode)?;
            let mut row = held.unwrap_or_default();
            row.add(counted);
            families.put(batch, key, row);
        }
        for (&key, staged) in self.congestion.iter().filter(|(_, staged)| staged.is_changed) {
            batch.put_cf(self.counts, key.encode(), staged.row.encode());
        }
        let reprice = family_of(self.db, Family::Reprice);
        for &minute in &self.reprice {
            batch.put_cf(reprice, RepriceKey(minute).encode(), []);
        }
        Ok(TallyReport { has_marked: !self.reprice.is_empty(), differing: self.differing })
    }

    /// Returns the counts of the minutes that decide about congestion in `at`, its own first.
    fn earlier(&mut self, at: CongestionKey) -> Result<[u64; CONGESTION_MINUTES], ReadError> {
        if let Some((of, counts)) = self.window
            && of == at
        {
            return Ok(counts);
        }
        let mut counts = [0; CONGESTION_MINUTES];
        for (minutes, count) in (0..).zip(&mut counts) {
            if let Some(minute) = at.before(minutes) {
                *count = self.staged(minute)?.row.messages;
            }
        }
        self.window = Some((at, counts));
        Ok(counts)
    }

    fn staged(&mut self, at: CongestionKey) -> Result<&mut StagedCount, ReadError> {
        use std::collections::hash_map::Entry;
        Ok(match self.congestion.entry(at) {
            Entry::Occupied(staged) => staged.into_mut(),
            Entry::Vacant(vacant) => {
                let row = stored_in(self.db, self.counts, at, CongestionRow::decode)?;
                let row = row.unwrap_or_default();
                vacant.insert(StagedCount { row, is_changed: false })
            }
        })
    }
}

/// The families of usage rows, looked up once for many rows.
pub(crate) struct UsageFamilies<'a> {
    usage: &'a ColumnFamily,
    by_payer: &'a ColumnFamily,
}

impl<'a> UsageFamilies<'a> {
    pub(crate) fn of(db: &'a DB) -> Self {
        let (usage, by_payer) = (Family::Usage, Family::UsageByPayer);
        Self { usage: family_of(db, usage), by_payer: family_of(db, by_payer) }
    }

    /// Stages a usage row under both of its keys.
    pub(crate) fn put(&self, batch: &mut WriteBatch, key: UsageKey, row: UsageRow) {
        let row = row.encode();
        batch.put_cf(self.usage, key.encode(), row);
        batch.put_cf(self.by_payer, UsageByPayerKey(key).encode(), row);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hawser_proto::price::PicoDollarPrice;
    use hawser_proto::{Address, SequenceId};

    use super::*;
    use crate::change::{Change, LogEntry};
    use crate::testing::{PEER, facts, id, store};

    /// The row adds up to the largest number. A sum beyond it would end the process at each envelope of the minute.
    #[test]
    fn a_damaged_count_of_messages_ends_no_commit() {
        let store = store();
        let at = CongestionKey { originator: PEER, minute: 0 };
        let (first, last) = (SequenceId(1), SequenceId(1));
        let damaged = CongestionRow { messages: u64::MAX, first, last };
        store.put_raw_row(Family::Congestion, &at.encode(), &damaged.encode());
        let charge = Charge {
            payer: Address([7; 20]),
            size_bytes: 10,
            retention_days: 2,
            stated_picodollars: PicoDollarPrice(0),
        };
        let append = |place| {
            let charge = Some(charge);
            let facts = Facts { charge, counts_for_congestion: true, ..facts(place) };
            Change::Append(LogEntry::valid(id(place), Bytes::from(vec![7; 100]), facts))
        };
        store.commit(&[append(1), append(2)]).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.head(PEER), Ok(SequenceId(2)));
        assert_eq!(snapshot.congestion(PEER, 0), Ok(u64::MAX));
    }
}
