//! Tallies by minute, derived from the log again and compared with the stored ones.
//!
//! The times of an honest strand ascend, so a minute is compared once a few later ones have begun, and only the last
//! minutes are in memory. A place with an earlier time changes a minute that has been compared: the replay keeps the
//! difference until the end.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{Address, SequenceId, minute_of};
use hawser_rules::fees::{has_started, total_fee};
use hawser_rules::{PicoDollarPrice, Rate};
use serde::{Deserialize, Serialize};

use super::check::Signed;
use super::item::{EnvelopeCharge, PrunedRecord, SourceError, StrandRows, Usage};

/// Minutes after which a minute is compared. A guess: times that go back do so by little.
pub(crate) const OPEN_MINUTES: u32 = 10;
/// Minutes whose messages are kept for prices. A guess: two days, for times that go back far.
const COUNTED_MINUTES: usize = 2 * 24 * 60;
/// Ranges of minutes with envelopes that could not be read. A guess. Above it the last one grows.
const UNKNOWN_MAX: usize = 10_000;
/// Differing tallies that are kept. A guess: some megabytes.
const DIFFERING_MAX: usize = 50_000;

/// A payer in a minute.
type UsageKey = (u32, [u8; 20]);

/// The values of an envelope, or of the record of a pruned one, that tallies count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TalliedEnvelope {
    pub(crate) sequence: SequenceId,
    /// Length of the originator envelope.
    len_bytes: u64,
    pub(crate) originator_ns: i64,
    /// `None` if no payer owes for it.
    pub(crate) charge: Option<EnvelopeCharge>,
    pub(crate) counts_for_congestion: bool,
}

impl TalliedEnvelope {
    /// Returns the values of a signed envelope of `len_bytes` bytes; `None` if no tally counts it.
    pub(crate) fn of_signed(
        sequence: SequenceId,
        len_bytes: usize,
        signed: &Signed,
    ) -> Option<Self> {
        let Signed { originator_ns, charge, counts_for_congestion, .. } = *signed;
        let len_bytes = u64::try_from(len_bytes).unwrap_or(u64::MAX);
        Self { sequence, len_bytes, originator_ns, charge, counts_for_congestion }.if_counted()
    }

    /// Returns the values that the record of a pruned envelope states; `None` if no tally counts it.
    pub(crate) fn of_record(sequence: SequenceId, record: &PrunedRecord) -> Option<Self> {
        let PrunedRecord { originator_ns, len_bytes, charge, counts_for_congestion } = *record;
        Self { sequence, len_bytes, originator_ns, charge, counts_for_congestion }.if_counted()
    }

    fn if_counted(self) -> Option<Self> {
        (self.charge.is_some() || self.counts_for_congestion).then_some(self)
    }

    /// Returns the payer and the tally of this envelope alone; `None` if no payer owes for it. `earlier` has the
    /// messages of its minute and of the four before.
    pub(crate) fn usage(
        &self,
        rates: &[Rate],
        earlier: [u64; CONGESTION_MINUTES],
    ) -> Option<(Address, Usage)> {
        let charge = self.charge?;
        let usage = Usage {
            picodollars: price(rates, self.originator_ns, &charge, earlier),
            messages: 1,
            bytes: self.len_bytes,
            last_sequence: self.sequence,
            stated_picodollars: charge.stated_picodollars,
        };
        Some((charge.payer, usage))
    }
}

/// Messages by minute, of the last [`COUNTED_MINUTES`] that have some.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct MinuteCounts(#[serde(with = "pairs")] BTreeMap<u32, u64>);

impl MinuteCounts {
    /// Adds messages of a minute.
    pub(crate) fn add(&mut self, minute: u32, messages: u64) {
        *self.0.entry(minute).or_default() += messages;
        while self.0.len() > COUNTED_MINUTES {
            self.0.pop_first();
        }
    }

    /// Returns the messages of a minute and of the four before, the latest first.
    pub(crate) fn up_to(&self, minute: u32) -> [u64; CONGESTION_MINUTES] {
        let count = |age| minute.checked_sub(age).and_then(|at| self.0.get(&at)).copied();
        [0, 1, 2, 3, 4].map(|age| count(age).unwrap_or(0))
    }
}

/// A tally that differs from the stored one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TallyFault {
    Usage { minute: u32, payer: Address, stored: Option<Usage>, derived: Usage },
    Congestion { minute: u32, stored: u64, derived: u64 },
}

impl TallyFault {
    /// Returns the highest place that the derived or the stored tally names.
    pub(super) fn place(&self) -> SequenceId {
        match self {
            Self::Usage { stored, derived, .. } => {
                derived.last_sequence.max(stored.map_or(SequenceId::NONE, |it| it.last_sequence))
            }
            Self::Congestion { .. } => SequenceId::NONE,
        }
    }
}

/// The tallies of one strand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tallies {
    counts: MinuteCounts,
    /// Tallies of minutes that have not been compared: one for each payer and minute. If the times of a strand do not
    /// advance, this has a tally of every payer of the strand.
    #[serde(with = "pairs")]
    open: BTreeMap<UsageKey, Usage>,
    #[serde(with = "pairs")]
    open_counts: BTreeMap<u32, u64>,
    /// The last minute that was compared.
    compared: Option<u32>,
    /// The minute of the previous envelope. A minute counts as past when two envelopes have later minutes, so that one
    /// wrong time does not make all others late.
    previous: Option<u32>,
    /// The minute of the last envelope that could be read.
    seen: Option<u32>,
    /// Derived tallies of compared minutes that differed from the stored ones.
    #[serde(with = "pairs")]
    differing: BTreeMap<UsageKey, Usage>,
    #[serde(with = "pairs")]
    differing_counts: BTreeMap<u32, u64>,
    /// Tallies that differ and were not kept.
    pub(super) not_kept: u64,
    /// Minutes from the first to the second of each pair, both included, in which an envelope could not be read: their
    /// correct tallies are not known.
    unknown: Vec<(u32, u32)>,
    /// The first minute in which an envelope that could not be read may stand. The next one that is read ends them.
    unknown_from: Option<u32>,
}

impl Tallies {
    /// Checks that these can be the tallies of places up to `reached`.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(super) fn check(&self, reached: u64) -> Result<(), &'static str> {
        let counts = self.counts.0.values().chain(self.open_counts.values());
        if counts.chain(self.open.values().map(|it| &it.messages)).any(|count| *count > reached) {
            return Err("it counts more messages than places");
        }
        if self.open.values().any(|it| it.last_sequence.0 > reached) {
            return Err("it has charged places beyond the place reached");
        }
        let open = self.open.keys().map(|key| key.0).chain(self.open_counts.keys().copied());
        if open.min().is_some_and(|first| self.is_compared(first)) {
            return Err("minutes that were compared are still open");
        }
        if self.counts.0.len() > COUNTED_MINUTES
            || self.differing.len() + self.differing_counts.len() > DIFFERING_MAX
            || self.unknown.len() > UNKNOWN_MAX
        {
            return Err("it keeps more minutes than a replay does");
        }
        match self.unknown.iter().all(|(from, through)| from <= through) {
            true => Ok(()),
            false => Err("minutes end before they begin"),
        }
    }

    /// Counts tallies that differ and are not kept.
    fn leave_out(&mut self, more: u64) {
        self.not_kept = self.not_kept.saturating_add(more);
    }

    /// Notes that an envelope after the last one could not be read.
    pub(super) fn miss(&mut self) {
        self.unknown_from.get_or_insert(self.seen.unwrap_or(0));
    }

    /// Notes the minute of an envelope, whether it counts or not.
    pub(super) fn see(&mut self, minute: u32) {
        self.seen = Some(minute);
        let Some(from) = self.unknown_from.take() else { return };
        // Uncounted envelopes of this minute change the prices of the following minutes.
        let through = minute.max(from).saturating_add(OPEN_MINUTES);
        let is_full = self.unknown.len() >= UNKNOWN_MAX;
        match self.unknown.last_mut() {
            Some(last) if last.1 >= from || is_full => {
                *last = (last.0.min(from), last.1.max(through));
            }
            _ => self.unknown.push((from, through)),
        }
    }

    fn is_unknown(&self, minute: u32) -> bool {
        self.unknown_from.is_some_and(|from| minute >= from)
            || self.unknown.iter().any(|(from, through)| (*from..=*through).contains(&minute))
    }

    /// Counts an envelope. Returns the amount that is booked for it.
    pub(super) fn count(
        &mut self,
        envelope: &TalliedEnvelope,
        rates: &[Rate],
        rows: &dyn StrandRows,
    ) -> Result<PicoDollarPrice, SourceError> {
        let minute = minute_of(envelope.originator_ns);
        let mut booked = PicoDollarPrice(0);
        if let Some((payer, usage)) = envelope.usage(rates, self.counts.up_to(minute)) {
            booked = usage.picodollars;
            self.add_usage((minute, payer.0), usage, rows)?;
        }
        self.add_count(minute, u64::from(envelope.counts_for_congestion), rows)?;
        let reached = self.previous.replace(minute).map_or(0, |previous| previous.min(minute));
        if let Some(end) = reached.checked_sub(OPEN_MINUTES)
            && self.compared.is_none_or(|compared| compared.saturating_add(OPEN_MINUTES) < end)
        {
            self.compare(end, rows)?;
        }
        Ok(booked)
    }

    /// Compares all remaining minutes whose correct tallies are known. Returns the tallies that differ from the stored
    /// ones.
    pub(super) fn finish(
        mut self,
        rows: &dyn StrandRows,
    ) -> Result<(Vec<TallyFault>, u64), SourceError> {
        let end = self.unknown_from.map_or(Some(u32::MAX), |from| from.checked_sub(1));
        if let Some(end) = end {
            self.compare(end, rows)?;
        }
        let mut faults = Vec::new();
        for (&(minute, payer), &derived) in &self.differing {
            let payer = Address(payer);
            let mut stored = None;
            rows.usage(minute..=minute, &mut |_, of, usage| {
                stored = stored.or((of == payer).then_some(usage));
            })?;
            if stored.unwrap_or_default() != derived && !self.is_unknown(minute) {
                faults.push(TallyFault::Usage { minute, payer, stored, derived });
            }
        }
        for (&minute, &derived) in &self.differing_counts {
            let mut stored = 0;
            rows.congestion(minute..=minute, &mut |_, messages| stored = messages)?;
            if stored != derived && !self.is_unknown(minute) {
                faults.push(TallyFault::Congestion { minute, stored, derived });
            }
        }
        Ok((faults, self.not_kept))
    }

    fn is_compared(&self, minute: u32) -> bool {
        self.compared.is_some_and(|compared| minute <= compared)
    }

    fn add_usage(
        &mut self,
        key: UsageKey,
        usage: Usage,
        rows: &dyn StrandRows,
    ) -> Result<(), SourceError> {
        if !self.is_compared(key.0) {
            self.open.entry(key).or_default().add(usage);
            return Ok(());
        }
        let mut derived = self.differing.get(&key).copied();
        if derived.is_none() {
            // The tallies were equal, so the stored one is the tally of the log up to here.
            rows.usage(key.0..=key.0, &mut |_, payer, stored| {
                if payer.0 == key.1 {
                    derived = Some(stored);
                }
            })?;
        }
        let mut derived = derived.unwrap_or_default();
        derived.add(usage);
        self.keep(key, derived);
        Ok(())
    }

    fn add_count(
        &mut self,
        minute: u32,
        messages: u64,
        rows: &dyn StrandRows,
    ) -> Result<(), SourceError> {
        self.counts.add(minute, messages);
        if !self.is_compared(minute) {
            *self.open_counts.entry(minute).or_default() += messages;
            return Ok(());
        }
        if !self.differing_counts.contains_key(&minute) && self.has_room() {
            let mut stored = 0;
            rows.congestion(minute..=minute, &mut |_, messages| stored = messages)?;
            self.differing_counts.insert(minute, stored);
        }
        if let Some(derived) = self.differing_counts.get_mut(&minute) {
            *derived = derived.saturating_add(messages); // the stored count may be any
        }
        Ok(())
    }

    /// Compares all minutes up to and including `end` that have not been.
    fn compare(&mut self, end: u32, rows: &dyn StrandRows) -> Result<(), SourceError> {
        let start = self.compared.map_or(Some(0), |compared| compared.checked_add(1));
        let Some(start) = start.filter(|start| *start <= end) else { return Ok(()) };
        let mut open = take_through(&mut self.open, &(end, [u8::MAX; 20]));
        let mut counts = take_through(&mut self.open_counts, &end);
        let mut differing = Vec::new();
        let mut differing_counts = Vec::new();
        let minutes: RangeInclusive<u32> = start..=end;
        let mut not_kept = 0;
        rows.usage(minutes.clone(), &mut |minute, payer, stored| {
            let key = (minute, payer.0);
            let derived = open.remove(&key).unwrap_or_default();
            if derived != stored && differing.len() < DIFFERING_MAX {
                differing.push((key, derived));
            } else {
                not_kept += u64::from(derived != stored);
            }
        })?;
        rows.congestion(minutes, &mut |minute, stored| {
            let derived = counts.remove(&minute).unwrap_or_default();
            if derived != stored && differing_counts.len() < DIFFERING_MAX {
                differing_counts.push((minute, derived));
            } else {
                not_kept += u64::from(derived != stored);
            }
        })?;
        self.leave_out(not_kept);
        // The remaining counts have no stored row.
        counts.retain(|_, messages| *messages > 0);
        differing.into_iter().chain(open).for_each(|(key, derived)| self.keep(key, derived));
        for (minute, derived) in differing_counts.into_iter().chain(counts) {
            if self.has_room() {
                self.differing_counts.insert(minute, derived);
            } else {
                self.leave_out(1);
            }
        }
        self.compared = Some(end);
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.differing.len() + self.differing_counts.len() < DIFFERING_MAX
    }

    fn keep(&mut self, key: UsageKey, derived: Usage) {
        if self.differing.contains_key(&key) || self.has_room() {
            self.differing.insert(key, derived);
        } else {
            self.leave_out(1);
        }
    }
}

/// Takes all entries up to and including `end` out of a map.
fn take_through<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, end: &K) -> BTreeMap<K, V> {
    let mut rest = map.split_off(end);
    let mut taken = std::mem::take(map);
    if let Some((key, value)) = rest.remove_entry(end) {
        taken.insert(key, value);
    }
    *map = rest;
    taken
}

/// Returns the amount that is booked for an envelope; 0 for one without a price, as nodes do.
pub(crate) fn price(
    rates: &[Rate],
    originator_ns: i64,
    charge: &EnvelopeCharge,
    earlier: [u64; CONGESTION_MINUTES],
) -> PicoDollarPrice {
    let started = rates.partition_point(|rate| has_started(rate.start_unix_s, originator_ns));
    let rate = started.checked_sub(1).and_then(|index| rates.get(index));
    let fee = rate.map(|rate| total_fee(rate, charge.size_bytes, charge.retention_days, earlier));
    fee.and_then(Result::ok).unwrap_or_default()
}

/// Maps as lists of pairs, because JSON has only texts as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Vec::<(K, V)>::deserialize(from).map(|pairs| pairs.into_iter().collect())
    }
}
