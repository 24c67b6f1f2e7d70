//! Tallies of a strand whose source has none: derived from its rows, as nodes book them.
//!
//! The attacker is the strand's own node, which may sign times that go back or stand still, and a new payer in each
//! envelope. The minutes and payers that wait to be written are bounded, and so is memory. A strand that exceeds the
//! bounds has no tallies.

use std::collections::BTreeMap;

use hawser_proto::{Address, minute_of};
use hawser_rules::Rate;

use crate::replay::check::CheckedRow;
use crate::replay::tally::{MinuteCounts, TalliedEnvelope};
use crate::replay::{GapReason, StrandRow, Usage};

/// Minutes after which a minute is written. A guess: the times of honest nodes ascend.
const OPEN_MINUTES: u32 = 60;
/// Payers in minutes that wait to be written. A guess: some hundred megabytes.
const OPEN_MAX: usize = 1_000_000;

/// A finished tally, by minute ascending in each of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tally {
    /// The tally of a payer in a minute.
    Usage(u32, Address, Usage),
    /// The messages of a minute.
    Congestion(u32, u64),
}

/// The tallies of one strand, while its rows pass.
#[derive(Debug, Default)]
pub(super) struct DerivedTallies {
    rates: Vec<Rate>,
    counts: MinuteCounts,
    usage: BTreeMap<(u32, [u8; 20]), Usage>,
    congestion: BTreeMap<u32, u64>,
    /// The last minute that was written.
    written: Option<u32>,
    /// The minute of the previous envelope. A minute counts as past when two envelopes have later minutes, so that one
    /// wrong time does not make all others late.
    previous: Option<u32>,
    /// Places that the source did not show.
    pub(super) not_shown: u64,
    /// The reason the strand has no tallies, in words for people.
    pub(super) refusal: Option<String>,
}

impl DerivedTallies {
    pub(super) fn new(rates: Vec<Rate>) -> Self {
        Self { rates, ..Self::default() }
    }

    /// Takes the next row, and passes the tallies that cannot change any more to `each`.
    pub(super) fn take(&mut self, row: &CheckedRow, each: &mut impl FnMut(Tally)) {
        if self.refusal.is_some() {
            return;
        }
        let tallied = match row {
            CheckedRow::Envelope(envelope) => match &envelope.found {
                Ok(signed) if envelope.mark.is_booked() => {
                    TalliedEnvelope::of_signed(envelope.sequence, envelope.len_bytes, signed)
                }
                _ => None,
            },
            CheckedRow::Other(StrandRow::Pruned { sequence, record, .. }) => {
                TalliedEnvelope::of_record(*sequence, record)
            }
            CheckedRow::Other(StrandRow::Gap { from, through, reason: GapReason::NotShown }) => {
                let places = (through.0 + 1).saturating_sub(from.0);
                self.not_shown = self.not_shown.saturating_add(places);
                None
            }
            CheckedRow::Other(_) => None,
        };
        if let Some(tallied) = tallied {
            self.count(&tallied, each);
        }
    }

    /// Passes the remaining tallies to `each`.
    pub(super) fn finish(&mut self, each: &mut impl FnMut(Tally)) {
        if self.refusal.is_none() {
            self.write_through(u32::MAX, each);
        }
    }

    fn count(&mut self, envelope: &TalliedEnvelope, each: &mut impl FnMut(Tally)) {
        let (sequence, minute) = (envelope.sequence, minute_of(envelope.originator_ns));
        if self.written.is_some_and(|written| minute <= written) {
            let text = format!("the time of place {sequence} goes back by {OPEN_MINUTES} minutes");
            self.refusal = Some(text);
            return;
        }
        if let Some((payer, usage)) = envelope.usage(&self.rates, self.counts.up_to(minute)) {
            self.usage.entry((minute, payer.0)).or_default().add(usage);
        }
        if envelope.counts_for_congestion {
            self.counts.add(minute, 1);
            *self.congestion.entry(minute).or_default() += 1;
        }
        let reached = self.previous.replace(minute).map_or(0, |previous| previous.min(minute));
        if let Some(end) = reached.checked_sub(OPEN_MINUTES + 1)
            && self.written.is_none_or(|written| written < end)
        {
            self.write_through(end, each);
        }
        if self.usage.len().max(self.congestion.len()) > OPEN_MAX {
            let text = format!("more than {OPEN_MAX} tallies of one hour at place {sequence}");
            self.refusal = Some(text);
        }
    }

    /// Passes all minutes up to and including `end` on, and forgets them.
    fn write_through(&mut self, end: u32, each: &mut impl FnMut(Tally)) {
        while let Some(entry) = self.usage.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((minute, payer), usage) = entry.remove_entry();
            each(Tally::Usage(minute, Address(payer), usage));
        }
        while let Some(entry) = self.congestion.first_entry().filter(|entry| *entry.key() <= end) {
            let (minute, messages) = entry.remove_entry();
            each(Tally::Congestion(minute, messages));
        }
        self.written = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;
    use crate::replay::check::{CheckedEnvelope, Checker};
    use crate::replay::testing::{MemoryLog, NODE, RATE, draft, ns_of, settings};
    use crate::replay::{EnvelopeCharge, StoredMark};

    fn checked(log: &MemoryLog) -> Vec<CheckedRow> {
        Checker::new(NODE, &settings().registry, None).check(log.rows.clone())
    }

    /// Returns the tallies of rows, or the reason why there are none.
    fn derive(rows: &[CheckedRow]) -> (Vec<Tally>, Option<String>) {
        let (mut derived, mut tallies) = (DerivedTallies::new(vec![RATE]), Vec::new());
        rows.iter().for_each(|row| derived.take(row, &mut |tally| tallies.push(tally)));
        derived.finish(&mut |tally| tallies.push(tally));
        (tallies, derived.refusal)
    }

    #[test]
    fn tallies_ascend_and_are_those_of_the_log_though_times_go_back_a_little() {
        let mut log: Vec<_> =
            (1..=2_000).map(|at| (draft(at, ns_of(at)).seal(), StoredMark::Valid)).collect();
        log[1_500].0 = draft(1_501, ns_of(1_501) - 50 * 60_000_000_000).seal();
        // One time far ahead does not end the minutes before it.
        log[100].0 = draft(101, ns_of(1_000_000)).seal();
        let log = MemoryLog::of(log);
        let (tallies, refusal) = derive(&checked(&log));
        assert_eq!(refusal, None);
        let mut usage = log.usage.iter();
        let mut congestion = log.congestion.iter();
        for tally in tallies {
            match tally {
                Tally::Usage(minute, payer, of) => {
                    assert_eq!(usage.next(), Some((&(minute, payer), &of)));
                }
                Tally::Congestion(minute, messages) => {
                    assert_eq!(congestion.next(), Some((&minute, &messages)));
                }
            }
        }
        assert_eq!((usage.next(), congestion.next()), (None, None));
    }

    #[test]
    fn pruned_places_count_by_their_records_and_those_of_unbooked_marks_do_not() {
        let mut log = MemoryLog::honest(200);
        let honest = derive(&checked(&log)).0;
        log.prune(7);
        assert_eq!(derive(&checked(&log)).0, honest);
        *log.row_at(9).0 = StoredMark::Invalid(3);
        assert_ne!(derive(&checked(&log)).0, honest);
    }

    #[test]
    fn a_time_that_goes_back_far_and_payers_without_an_end_are_refused() {
        let mut log: Vec<_> =
            (1..=2_000).map(|at| (draft(at, ns_of(at)).seal(), StoredMark::Valid)).collect();
        log[1_500].0 = draft(1_501, ns_of(1)).seal();
        let refusal = derive(&checked(&MemoryLog::of(log))).1.expect("it goes back by hours");
        assert!(refusal.contains("place 1501 goes back"), "{refusal}");

        let CheckedRow::Envelope(one) = checked(&MemoryLog::honest(1)).remove(0) else {
            panic!("another row")
        };
        let Ok(signed) = one.found.clone() else { panic!("a fault") };
        let (mut derived, mut count) = (DerivedTallies::new(vec![RATE]), 0);
        for at in 1..=OPEN_MAX + 2 {
            let mut signed = signed.clone();
            let mut payer = Address([0; 20]);
            payer.0[..8].copy_from_slice(&at.to_be_bytes());
            signed.charge = signed.charge.map(|charge| EnvelopeCharge { payer, ..charge });
            let (sequence, found) = (SequenceId(at as u64), Ok(signed));
            let envelope = CheckedEnvelope { sequence, found, ..(*one).clone() };
            derived.take(&CheckedRow::Envelope(Box::new(envelope)), &mut |_| count += 1);
        }
        assert!(derived.usage.len() <= OPEN_MAX + 1, "{}", derived.usage.len());
        assert!(derived.refusal.expect("it is full").contains("more than 1000000"));
        assert_eq!(count, 0);
    }
}
