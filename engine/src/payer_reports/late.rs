//! The amounts of a report as they were when nodes attested it, of a strand whose originator has since dated envelopes back into
//! the minutes of the report.
//!
//! Such envelopes are in no report: their minutes are reported. Without this, an originator could keep a report about itself
//! from being settled for ever, by one envelope, and its payers from paying.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PayerAddress, SequenceId, minute_of};
use hawser_rules::payer_report::{Leaves, PayerReport};
use hawser_storage::{CONGESTION_MINUTES, Charge, Place, PricedEnvelope, ReadError, Snapshot};

use crate::facts;
use crate::price::price;

/// Places after a report that are read at most. A guess: some seconds; a strand has fewer in the days in which reports are
/// settled.
const READ_MAX: usize = 2_000_000;
/// Late envelopes that are held at once. A guess: 10 MB.
const LATE_MAX: usize = 100_000;
/// Late envelopes that are left out one by one, each with a tree of its own. A guess: nodes attest a report within minutes.
const TRIED_MAX: usize = 64;
/// Minutes before its own that decide about the congestion of an envelope.
#[expect(clippy::cast_possible_truncation, reason = "a handful of minutes")]
const EARLIER_MINUTES: u32 = CONGESTION_MINUTES as u32 - 1;

/// An envelope behind the end of a report, with a time before it.
#[derive(Debug, Clone, Copy)]
struct LateEnvelope {
    originator_ns: i64,
    charge: Option<Charge>,
    counts_for_congestion: bool,
}

/// Usage of a payer in the minutes of a report.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    picodollars: u64,
    messages: u64,
}

/// Returns the leaves that have the root of a report, without some of the envelopes that follow its end in the strand: all of
/// them, or those from some place on. `None` if no such leaves have the root, or too much would have to be read. `minutes` are
/// those of the report. `own` is this node.
///
/// # Errors
/// When a row cannot be read.
pub(super) fn leaves_without_late(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    minutes: &RangeInclusive<u32>,
    own: OriginatorId,
) -> Result<Option<Leaves>, ReadError> {
    let about = report.originator();
    let counted = minutes.start().saturating_sub(EARLIER_MINUTES)..=*minutes.end();
    let Some(mut late) = late_envelopes(snapshot, report, &counted, own)? else { return Ok(None) };
    let mut sums: HashMap<PayerAddress, Sum> = HashMap::new();
    let after = minutes.start().checked_sub(1);
    snapshot.usage_of_minutes(about, after, *minutes.end(), |_, payer, row| {
        let sum = sums.entry(payer).or_default();
        sum.picodollars = sum.picodollars.saturating_add(row.picodollars);
        sum.messages = sum.messages.saturating_add(row.messages);
        true
    })?;
    let rates = snapshot.rates()?;
    let mut counts = Counts { snapshot, about, of: HashMap::new() };
    // From the last one back: what is left then stands before the envelope whose price is needed.
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
        if late.len() < TRIED_MAX {
            let leaves = Leaves::sum(sums.iter().map(|(payer, sum)| (*payer, sum.picodollars)));
            if leaves.root() == report.root() {
                return Ok(Some(leaves));
            }
        }
    }
    Ok(None)
}

/// Takes one envelope out of the sum of its payer. A payer without any other one has no leaf.
fn take(sums: &mut HashMap<PayerAddress, Sum>, payer: PayerAddress, picodollars: u64) {
    let Some(sum) = sums.get_mut(&payer) else { return };
    sum.picodollars = sum.picodollars.saturating_sub(picodollars);
    sum.messages = sum.messages.saturating_sub(1);
    if sum.messages == 0 {
        sums.remove(&payer);
    }
}

/// Returns the envelopes behind the end of a report whose times are in `minutes`, in their order; `None` if there are too many.
fn late_envelopes(
    snapshot: &Snapshot<'_>,
    report: &PayerReport,
    minutes: &RangeInclusive<u32>,
    own: OriginatorId,
) -> Result<Option<Vec<LateEnvelope>>, ReadError> {
    let is_late = |originator_ns: i64| minutes.contains(&minute_of(originator_ns));
    let end = EnvelopeId::new(report.originator(), report.end().sequence);
    let mut late = Vec::new();
    for (read, place) in snapshot.places(end, SequenceId::MAX).enumerate() {
        if read == READ_MAX || late.len() == LATE_MAX {
            return Ok(None);
        }
        late.extend(match place? {
            Place::Empty { .. } => None,
            Place::Pruned { envelope, .. } => {
                is_late(envelope.originator_ns).then_some(LateEnvelope {
                    originator_ns: envelope.originator_ns,
                    charge: envelope.charge,
                    counts_for_congestion: envelope.counts_for_congestion,
                })
            }
            // The payer is recovered only where it matters.
            Place::Held { bytes, validity, .. } if stated_ns(&bytes).is_some_and(is_late) => {
                facts::of_stored(&bytes, validity, own).map(|facts| LateEnvelope {
                    originator_ns: facts.originator_ns,
                    charge: facts.charge,
                    counts_for_congestion: facts.counts_for_congestion,
                })
            }
            Place::Held { .. } => None,
        });
    }
    Ok(Some(late))
}

/// Returns the time that a stored envelope states, without reading its inner layers.
fn stated_ns(bytes: &Bytes) -> Option<i64> {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    OriginatorEnvelope::statement(statement).ok().map(|(_, originator_ns)| originator_ns)
}

/// The envelopes of a strand that count for congestion, by minute, without those that were taken out.
struct Counts<'a, 's> {
    snapshot: &'a Snapshot<'s>,
    about: OriginatorId,
    of: HashMap<u32, u64>,
}

impl Counts<'_, '_> {
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
