//! The amounts of a report without the late envelopes: those that its originator dated back into its minutes after the
//! report was written.
//!
//! Late envelopes follow the end of the report in the strand, and are in no report. If nodes counted them, one such
//! envelope would keep nodes from attesting or settling the report for ever, and its payers from paying.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::minute::{CONGESTION_MINUTES, EARLIER_MINUTES};
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId, minute_of};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::tree::Hash;
use hawser_rules::payer_report::{Leaves, PayerReport, RangeEnd, searched_trees_max};
use hawser_storage::{Charge, LogPlace, PricedEnvelope, ReadError, SkipReason, Snapshot, UsageRow};

use super::not_yet::UndecidedError;
use super::times::minute_at;
use crate::facts;
use crate::price::price;

/// The number of places before the end of a report that are searched for one of a later minute. A guess: a node of
/// other software may be a second out of order.
const BEFORE_END_MAX: u64 = 65_536;
/// The number of places behind the end of a report that are searched for one of a later minute. A guess: only free
/// envelopes and those that break a rule come between.
const BEHIND_END_MAX: usize = 65_536;
/// The maximum number of late places of a report that one look returns. A guess: the first one is a proof, unless its
/// envelope is too long for evidence.
const LATE_PLACES_MAX: usize = 16;
/// The node for which facts are read: none, because only a node's own strand has receipts, and none is needed here.
const NO_NODE: OriginatorId = OriginatorId(0);

/// Bounds of one search through the strand behind a report.
#[derive(Debug, Clone, Copy)]
struct SearchBounds {
    /// The number of places that are read.
    places: usize,
    /// Their bytes.
    len_bytes: usize,
    /// The number of late envelopes. The payer of each is recovered from its signature.
    late: usize,
}

/// The bounds to settle a report. Reports on the chain are few, and a search that failed is rarely repeated. A guess:
/// some seconds; a strand has fewer places in the days in which reports are settled.
const TO_SETTLE: SearchBounds =
    SearchBounds { places: 2_000_000, len_bytes: 1 << 30, late: 100_000 };
/// The bounds to attest a report. Each node can make this node judge a few reports a minute. A guess: a second; reports
/// are attested within minutes.
const TO_ATTEST: SearchBounds =
    SearchBounds { places: 500_000, len_bytes: 256 << 20, late: 20_000 };

/// The part of a strand that a report is about.
#[derive(Debug, Clone)]
pub(super) struct ReportedRange {
    pub(super) about: OriginatorId,
    /// The sequence id before the range.
    pub(super) start: SequenceId,
    /// The minutes of the range.
    pub(super) minutes: RangeInclusive<u32>,
    /// The last sequence id of the range. Its envelope is in the last one of the minutes.
    pub(super) end: SequenceId,
}

impl ReportedRange {
    pub(super) fn at(&self, sequence: SequenceId) -> EnvelopeId {
        EnvelopeId::new(self.about, sequence)
    }
}

/// The facts of an envelope that decide about its fee, such as one behind the end of a report with a time before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PricedFacts {
    pub(super) originator_ns: i64,
    pub(super) charge: Option<Charge>,
    pub(super) counts_for_congestion: bool,
}

/// The late envelopes of a report, in their order.
#[derive(Debug, Default)]
struct LateEnvelopes {
    all: Vec<PricedFacts>,
    /// The number of charged ones in the report's minutes before the first charged one in its last minute.
    before_last_minute: Option<usize>,
}

/// Usage of a payer in the minutes of a report. Exact, unless a minute's own row is saturated: a sum that is cut off
/// would be too small once late fees are taken out of it.
#[derive(Debug, Clone, Copy, Default)]
struct PayerSum {
    picodollars: u128,
    messages: u64,
}

impl PayerSum {
    fn add(&mut self, minute: UsageRow) {
        self.picodollars = self.picodollars.saturating_add(minute.picodollars.0.into());
        self.messages = self.messages.saturating_add(minute.messages);
    }

    /// Returns the sum as a price; the largest one if it is larger. A leaf cannot have that much.
    fn price(self) -> PicoDollarPrice {
        PicoDollarPrice(u64::try_from(self.picodollars).unwrap_or(u64::MAX))
    }
}

/// The minutes in which late envelopes of a report on the chain are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LateMinutes {
    /// All minutes of the report.
    All,
    /// The last two. An envelope of an earlier minute behind the end of the report is more than a second older than the
    /// end, and that is evidence by itself.
    LastTwo,
}

/// Late envelopes of a report on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LatePlaces {
    /// Their places, at most [`LATE_PLACES_MAX`]. None while a part of the rows is left.
    pub(crate) places: Vec<EnvelopeId>,
    /// The rows of usage that were read to find them.
    pub(crate) rows: usize,
    /// The part that was read, if rows are left.
    pub(crate) rest: Option<LateScan>,
}

/// The part of the usage in a report's minutes that was read, to go on behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LateScan {
    /// The minute and payer of the next row; `None` before the first one.
    next: Option<(u32, PayerAddress)>,
    /// The late envelopes of the rows so far: bytes of the payer in the minute, and the place. At most
    /// [`LATE_PLACES_MAX`].
    late: BTreeSet<(u64, SequenceId)>,
}

impl LateScan {
    /// Goes on behind a part that an earlier run has read. Keeps at most [`LATE_PLACES_MAX`] of its late envelopes.
    pub(crate) fn restored(
        next: (u32, PayerAddress),
        late: impl IntoIterator<Item = (u64, SequenceId)>,
    ) -> Self {
        Self { next: Some(next), late: late.into_iter().take(LATE_PLACES_MAX).collect() }
    }

    /// Returns the minute and payer of the next row; `None` before the first one.
    pub(crate) fn next_row(&self) -> Option<(u32, PayerAddress)> {
        self.next
    }

    /// Returns the late envelopes so far: bytes of the payer in the minute, and the place.
    pub(crate) fn late(&self) -> Vec<(u64, SequenceId)> {
        self.late.iter().copied().collect()
    }
}

/// Returns late envelopes of a report on the chain whose range ends in `last_minute`. Reads at most `rows_max` rows of
/// usage, from the end of `scan` on.
///
/// Looks at the last charged envelope of each payer and minute alone, and leaves it out if it has a mark. An envelope
/// that breaks a rule is charged, too, but it proves no late release, and the originator could add any number of them.
/// Envelopes of payers with few bytes in that minute come first: evidence has no room for a long envelope.
///
/// # Errors
/// When a row cannot be read.
pub(crate) fn late_places(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    last_minute: u32,
    minutes: LateMinutes,
    scan: LateScan,
    rows_max: usize,
) -> Result<LatePlaces, ReadError> {
    let (about, start, end) = (report.originator(), report.start(), report.end().sequence);
    if start == end {
        return Ok(LatePlaces::default());
    }
    let start_minute = match (minutes, start) {
        (LateMinutes::LastTwo, _) => last_minute.checked_sub(2),
        (LateMinutes::All, SequenceId::NONE) => None,
        (LateMinutes::All, start) => Some(
            minute_at(snapshot, EnvelopeId::new(about, start))?
                .unwrap_or(last_minute.saturating_sub(1)),
        ),
    };
    let first = start_minute.map_or(0, |minute| minute.saturating_add(1));
    let from = scan.next.unwrap_or_default().max((first, PayerAddress::default()));
    let (mut late, mut rows, mut next) = (scan.late, 0, None);
    let mut unread = None;
    // `late` is ordered by bytes. A mark is read only for a row that would get a place, because that read is a seek.
    snapshot.usage_from(about, from, last_minute, |minute, payer, row| {
        if rows == rows_max {
            next = Some((minute, payer));
            return false;
        }
        rows += 1;
        let place = (row.bytes, row.last_sequence);
        let is_wanted =
            late.len() < LATE_PLACES_MAX || late.last().is_some_and(|last| place < *last);
        if row.last_sequence > end && is_wanted {
            match snapshot.mark(EnvelopeId::new(about, row.last_sequence)) {
                Ok(None) => _ = late.insert(place),
                Ok(Some(_)) => {}
                Err(error) => unread = Some(error),
            }
        }
        if late.len() > LATE_PLACES_MAX {
            late.pop_last();
        }
        unread.is_none()
    })?;
    if let Some(error) = unread {
        return Err(error);
    }
    if next.is_some() {
        return Ok(LatePlaces { places: Vec::new(), rows, rest: Some(LateScan { next, late }) });
    }
    let places = late.into_iter().map(|(_, sequence)| EnvelopeId::new(about, sequence)).collect();
    Ok(LatePlaces { places, rows, rest: None })
}

/// Returns the reason why the last minute of a report may get further envelopes in the strand of this node itself:
/// no place of a later minute follows the report's end, or the node lacks one before that place. `None` if none can
/// come: a node signs its places in order, and with times that do not go back.
///
/// # Errors
/// When a row cannot be read.
pub(crate) fn may_grow(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Option<UndecidedError>, ReadError> {
    let end = EnvelopeId::new(report.originator(), report.end().sequence);
    let Some(last_minute) = minute_at(snapshot, end)? else {
        return Ok(Some(UndecidedError::NoEnvelope(end)));
    };
    unfinished(snapshot, end, last_minute)
}

/// Returns the first places behind a range that this node lacks and that may belong to the range's last minute, because
/// no envelope of a later minute comes before them.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn missing_behind(
    snapshot: &Snapshot<'_>,
    about: OriginatorId,
    end: RangeEnd,
) -> Result<Option<UndecidedError>, ReadError> {
    let why = unfinished(snapshot, EnvelopeId::new(about, end.sequence), end.minute)?;
    Ok(why.filter(|why| matches!(why, UndecidedError::Missing(..))))
}

/// Returns the first reason why further envelopes of a minute may follow a place: this node lacks a place behind it,
/// or has no envelope of a later minute. Looks at most at [`BEHIND_END_MAX`] places.
fn unfinished(
    snapshot: &Snapshot<'_>,
    end: EnvelopeId,
    last_minute: u32,
) -> Result<Option<UndecidedError>, ReadError> {
    let places = snapshot.places(end, snapshot.verified_head(end.originator)?);
    let mut len_bytes = 0_usize;
    for place in places.take(BEHIND_END_MAX) {
        let place = place?;
        if let LogPlace::Empty { from, through, reason } = &place
            && matches!(reason, SkipReason::Missing | SkipReason::Expired)
        {
            return Ok(Some(UndecidedError::Missing(*from, *through)));
        }
        if stated_ns_of(&place).is_some_and(|ns| minute_of(ns) > last_minute) {
            return Ok(None);
        }
        len_bytes = len_bytes.saturating_add(len_of(&place));
        if len_bytes > TO_ATTEST.len_bytes {
            break;
        }
    }
    Ok(Some(UndecidedError::Filling(last_minute)))
}

/// Returns the reason why the last minute of a report that this node computes may get further envelopes: its originator
/// has no usage in a later minute here. A node writes no such report, because the rest of the minute would be in none.
///
/// # Errors
/// When a row cannot be read.
pub(crate) fn may_fill(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
) -> Result<Option<UndecidedError>, ReadError> {
    let last_minute = report.end().minute;
    let newest = snapshot.last_used_minute(report.originator(), u32::MAX)?;
    let is_newest = newest.is_none_or(|(minute, _)| minute <= last_minute);
    Ok(is_newest.then_some(UndecidedError::Filling(last_minute)))
}

/// Returns the leaves that have a root, without some of the late envelopes: all of them, or those from some place on.
/// `None` if no such leaves are found within the bounds.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn leaves_to_settle(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
    root: Hash,
) -> Result<Option<Leaves>, ReadError> {
    let late = late_envelopes(snapshot, range, TO_SETTLE, || Ok(true))?;
    let Some(late) = late else { return Ok(None) };
    leaves_without(snapshot, range, late.all, usize::MAX, root)
}

/// Returns the leaves that have a root, as this node would have computed them at an earlier moment. At that moment the
/// end of the range was the last charged envelope of its last minute, and that minute was over. `None` if there was no
/// such moment, or no such leaves are found within the bounds.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn leaves_to_attest(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
    root: Hash,
) -> Result<Option<Leaves>, ReadError> {
    if !is_charged(snapshot, range.at(range.end))? {
        return Ok(None);
    }
    // Otherwise the writer cuts the last minute short: the rest of it would be in no report.
    let may_cut = || is_later_minute_before_end(snapshot, range);
    let late = late_envelopes(snapshot, range, TO_ATTEST, may_cut)?;
    let Some(late) = late else { return Ok(None) };
    let may_keep = late.before_last_minute.unwrap_or(usize::MAX);
    leaves_without(snapshot, range, late.all, may_keep, root)
}

/// Returns the first leaves that have a root while late envelopes are left out one by one, the last one first. Keeps at
/// most `may_keep` of those that are charged in the minutes of the range. If there are more than can be tried, it tries
/// the first and the last ones. The caller has summed up the same minutes within its bound of payers.
fn leaves_without(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
    mut late: Vec<PricedFacts>,
    may_keep: usize,
    root: Hash,
) -> Result<Option<Leaves>, ReadError> {
    let (about, minutes) = (range.about, &range.minutes);
    let mut sums: HashMap<PayerAddress, PayerSum> = HashMap::new();
    let after = minutes.start().checked_sub(1);
    snapshot.usage_of_minutes(about, after, *minutes.end(), |_, payer, row| {
        sums.entry(payer).or_default().add(row);
        true
    })?;
    let rates = snapshot.rates()?;
    let mut counts = MinuteCounts { snapshot, about, of: HashMap::new() };
    let tried_max = searched_trees_max(sums.len());
    let mut left = late.iter().filter(|it| it.is_charged_in(minutes)).count();
    let newest_tried = left.min(may_keep).saturating_sub(tried_max);
    // From the last one back, so that the counts contain only the envelopes before the one that is priced.
    while let Some(last) = late.pop() {
        let minute = minute_of(last.originator_ns);
        if last.counts_for_congestion {
            let count = counts.of_minute(minute)?;
            *count = count.saturating_sub(1);
        }
        let Some(charge) = last.charge.filter(|_| minutes.contains(&minute)) else { continue };
        let priced = PricedEnvelope {
            originator_ns: last.originator_ns,
            size_bytes: charge.size_bytes,
            retention_days: charge.retention_days,
            earlier: counts.before(minute)?,
        };
        take(&mut sums, charge.payer, price(&rates, &priced));
        left -= 1;
        if left <= may_keep && (left < tried_max || left >= newest_tried) {
            let leaves = Leaves::sum(sums.iter().map(|(payer, sum)| (*payer, sum.price())));
            if leaves.root() == root {
                return Ok(Some(leaves));
            }
        }
    }
    Ok(None)
}

/// Takes one envelope out of the sum of its payer. A payer without other envelopes has no leaf.
fn take(sums: &mut HashMap<PayerAddress, PayerSum>, payer: PayerAddress, fee: PicoDollarPrice) {
    let Some(sum) = sums.get_mut(&payer) else { return };
    sum.picodollars = sum.picodollars.saturating_sub(fee.0.into());
    sum.messages = sum.messages.saturating_sub(1);
    if sum.messages == 0 {
        sums.remove(&payer);
    }
}

impl PricedFacts {
    fn is_charged_in(&self, minutes: &RangeInclusive<u32>) -> bool {
        self.charge.is_some() && minutes.contains(&minute_of(self.originator_ns))
    }
}

/// Returns the envelopes behind the end of a range that are dated into its minutes, or into those before that count for
/// their congestion; `None` if they exceed the bounds. Ends at the last verified place: later ones are not booked yet.
/// If charged envelopes of the last minute follow the range before any place of a later minute, the result is `None`
/// unless `may_cut`.
fn late_envelopes(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
    bounds: SearchBounds,
    may_cut: impl Fn() -> Result<bool, ReadError>,
) -> Result<Option<LateEnvelopes>, ReadError> {
    let counted = range.minutes.start().saturating_sub(EARLIER_MINUTES)..=*range.minutes.end();
    let head = snapshot.verified_head(range.about)?;
    let (mut late, mut len_bytes, mut charged, mut is_over) =
        (LateEnvelopes::default(), 0_usize, 0, false);
    for (read, place) in snapshot.places(range.at(range.end), head).enumerate() {
        let place = place?;
        len_bytes = len_bytes.saturating_add(len_of(&place));
        let is_full = late.all.len() == bounds.late;
        if read == bounds.places || len_bytes > bounds.len_bytes || is_full {
            return Ok(None);
        }
        let Some(originator_ns) = stated_ns_of(&place) else { continue };
        let minute = minute_of(originator_ns);
        is_over |= minute > *range.minutes.end();
        // The payer is recovered only where it matters.
        if !counted.contains(&minute) {
            continue;
        }
        let Some(envelope) = envelope_of(place) else { continue };
        let is_in_last_minute = envelope.charge.is_some() && minute == *range.minutes.end();
        if is_in_last_minute && late.before_last_minute.is_none() {
            if !is_over && !may_cut()? {
                return Ok(None);
            }
            late.before_last_minute = Some(charged);
        }
        charged += usize::from(envelope.is_charged_in(&range.minutes));
        late.all.push(envelope);
    }
    Ok(Some(late))
}

/// Returns true if a place shortly before the end of a range is dated into a later minute than the end.
fn is_later_minute_before_end(
    snapshot: &Snapshot<'_>,
    range: &ReportedRange,
) -> Result<bool, ReadError> {
    let after = SequenceId(range.end.0.saturating_sub(BEFORE_END_MAX)).max(range.start);
    let mut len_bytes = 0_usize;
    for place in snapshot.places(range.at(after), range.end.previous()) {
        let place = place?;
        len_bytes = len_bytes.saturating_add(len_of(&place));
        if stated_ns_of(&place).is_some_and(|ns| minute_of(ns) > *range.minutes.end()) {
            return Ok(true);
        }
        if len_bytes > TO_ATTEST.len_bytes {
            break;
        }
    }
    Ok(false)
}

/// Returns true if a payer pays for an envelope.
fn is_charged(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Result<bool, ReadError> {
    let before = EnvelopeId { sequence: at.sequence.previous(), ..at };
    let place = snapshot.places(before, at.sequence).next().transpose()?;
    Ok(place.and_then(envelope_of).is_some_and(|envelope| envelope.charge.is_some()))
}

/// Returns the length of the envelope at a place, in bytes.
pub(super) fn len_of(place: &LogPlace) -> usize {
    match place {
        LogPlace::Held { bytes, .. } => bytes.len(),
        LogPlace::Pruned { .. } | LogPlace::Empty { .. } => 0,
    }
}

fn stated_ns_of(place: &LogPlace) -> Option<i64> {
    match place {
        LogPlace::Held { bytes, .. } => OriginatorEnvelope::stated_ns(bytes),
        LogPlace::Pruned { envelope, .. } => Some(envelope.originator_ns),
        LogPlace::Empty { .. } => None,
    }
}

/// Returns the facts of the envelope at a place, if it has one. Recovers its payer.
pub(super) fn envelope_of(place: LogPlace) -> Option<PricedFacts> {
    match place {
        LogPlace::Empty { .. } => None,
        LogPlace::Pruned { envelope, .. } => Some(PricedFacts {
            originator_ns: envelope.originator_ns,
            charge: envelope.charge,
            counts_for_congestion: envelope.counts_for_congestion,
        }),
        LogPlace::Held { bytes, validity, .. } => {
            facts::of_stored(&bytes, validity, NO_NODE).map(|facts| PricedFacts {
                originator_ns: facts.originator_ns,
                charge: facts.charge,
                counts_for_congestion: facts.counts_for_congestion,
            })
        }
    }
}

/// The envelopes of a strand that count for congestion, by minute, without those that were taken out.
struct MinuteCounts<'a, 's> {
    snapshot: &'a Snapshot<'s>,
    about: OriginatorId,
    of: HashMap<u32, u64>,
}

impl MinuteCounts<'_, '_> {
    fn of_minute(&mut self, minute: u32) -> Result<&mut u64, ReadError> {
        use std::collections::hash_map::Entry;
        Ok(match self.of.entry(minute) {
            Entry::Occupied(count) => count.into_mut(),
            Entry::Vacant(count) => count.insert(self.snapshot.congestion(self.about, minute)?),
        })
    }

    /// Returns the counts of a minute and of those before it, its own first.
    fn before(&mut self, minute: u32) -> Result<[u64; CONGESTION_MINUTES], ReadError> {
        let mut counts = [0; CONGESTION_MINUTES];
        for (age, count) in (0..).zip(&mut counts) {
            if let Some(minute) = minute.checked_sub(age) {
                *count = *self.of_minute(minute)?;
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use hawser_rules::payer_report::PicoDollars;

    use super::*;

    /// A payer without money has published in three minutes for nearly 2^63 picodollars each. Two of the envelopes are
    /// late.
    #[test]
    fn late_fees_are_taken_out_of_a_sum_above_all_prices() {
        let payer = Address([7; 20]);
        let most = PicoDollarPrice::from(PicoDollars::MAX);
        let mut sums: HashMap<PayerAddress, PayerSum> = HashMap::new();
        for _ in 0..3 {
            let row = UsageRow { picodollars: most, messages: 1, ..UsageRow::default() };
            sums.entry(payer).or_default().add(row);
        }
        assert_eq!(sums[&payer].price(), PicoDollarPrice(u64::MAX));
        take(&mut sums, payer, most);
        take(&mut sums, payer, most);
        assert_eq!(sums[&payer].price(), most);
        take(&mut sums, payer, most);
        assert!(sums.is_empty(), "it has no leaf");
    }
}
