//! The fees of one strand, looked at in the order of its places, before they are written.
//!
//! Most are right, and that shows at once. A fee on a free topic is wrong at once. All others are doubted: the price
//! list, and for a congestion fee the log, decide about them later.

use hawser_proto::{EnvelopeId, SequenceId, minute_of};
use hawser_rules::RateTable;
use hawser_rules::misbehavior::StrandLoad;
use hawser_storage::{Charge, LogEntry, Snapshot, Validity};

use super::doubted::DoubtedFees;
use crate::misbehavior::{FeeVerdict, judge_fees};

/// The load of one strand, by which its congestion fees are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FeeWatch {
    load: StrandLoad,
    /// The minute of the last envelope whose congestion fee is doubted. One in a minute is enough: more prove nothing
    /// more, and the evidence of each may have megabytes.
    doubted: Option<u32>,
}

impl FeeWatch {
    /// Continues with this load.
    pub(super) fn new(load: StrandLoad) -> Self {
        Self { load, doubted: None }
    }

    /// Notes that the envelopes of the next places are not known.
    pub(super) fn lose(&mut self) {
        self.load.lose();
    }

    /// Looks at the next envelope of the strand, which states the time `ns`, and adds its fees to the doubted ones if
    /// they may be wrong. Returns true if they are wrong whatever the rates are.
    pub(super) fn look_at(
        &mut self,
        entry: &LogEntry,
        ns: Option<i64>,
        rates: &RateTable,
        doubted: &DoubtedFees,
    ) -> bool {
        let LogEntry { id, bytes, facts, validity } = entry;
        let charged = facts.as_ref().filter(|_| *validity == Validity::Valid);
        let is_wrong = match charged.map(|facts| (facts.originator_ns, facts.charge)) {
            Some((ns, Some(charge))) => {
                self.doubt(*id, ns, charge, rates, doubted);
                false
            }
            Some((_, None)) => judge_fees(bytes, rates) == FeeVerdict::Wrong,
            None => false,
        };
        match ns {
            // Of an envelope that breaks a rule other software may count what is not booked here.
            Some(ns) => {
                self.load.add(ns, facts.as_ref().is_none_or(|facts| facts.counts_for_congestion));
            }
            None => self.load.lose(),
        }
        is_wrong
    }

    fn doubt(
        &mut self,
        at: EnvelopeId,
        ns: i64,
        charge: Charge,
        rates: &RateTable,
        doubted: &DoubtedFees,
    ) {
        let Charge { size_bytes, retention_days, stated_picodollars: sum, .. } = charge;
        let most = self.load.most(ns);
        if rates.explains_sum_of_load(ns, size_bytes, retention_days, sum, most) {
            return;
        }
        let minute = minute_of(ns);
        let is_of_congestion = rates.explains_sum(ns, size_bytes, retention_days, sum);
        if is_of_congestion {
            // The minute only rises: times that go back and forth around its end doubt no further fee.
            if self.doubted.is_some_and(|last| minute <= last) {
                return;
            }
            self.doubted = Some(minute);
        }
        doubted.push(at, self.load.is_whole(ns).then_some(most));
    }
}

/// Returns the load of a strand up to a place whose envelope has the time `ns`, if it has one.
pub(super) fn load_at(snapshot: &Snapshot<'_>, end: EnvelopeId, ns: Option<i64>) -> StrandLoad {
    // If a count is too low, or cannot be read, more fees are doubted, and the log decides about them.
    let counted = |minute| snapshot.congestion(end.originator, minute).unwrap_or(0);
    match ns {
        Some(ns) => StrandLoad::behind(ns, counted),
        None if end.sequence == SequenceId::NONE => StrandLoad::START,
        None => StrandLoad::default(),
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Address, Bytes, OriginatorId};
    use hawser_rules::Rate;
    use hawser_storage::Facts;

    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;
    const START_NS: i64 = 29_166_667 * 60 * SECOND_NS;

    fn at(sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(300), SequenceId(sequence))
    }

    /// An envelope that states this sum, which is a congestion fee alone.
    fn entry(sequence: u64, originator_ns: i64, stated_picodollars: u64) -> LogEntry {
        let payer = Address([7; 20]);
        let charge = Charge { payer, size_bytes: 1, retention_days: 2, stated_picodollars };
        let facts = Facts {
            topic: None,
            originator_ns,
            depends_on: Vec::new(),
            expiry_unix_s: None,
            receipt: None,
            charge: Some(charge),
            counts_for_congestion: true,
            addresses: Vec::new(),
        };
        LogEntry::valid(at(sequence), Bytes::new(), facts)
    }

    #[test]
    fn congestion_without_load_is_doubted_once_in_a_minute_and_due_congestion_never() {
        let rate = Rate {
            start_unix_s: 0,
            message_fee: 0,
            storage_fee: 0,
            congestion_fee: 7,
            target_rate_per_minute: 4,
        };
        let rates = RateTable::new(vec![rate], None).unwrap();
        let (mut watch, doubted) = (FeeWatch::new(StrandLoad::START), DoubtedFees::default());
        let mut look = |sequence: u64, after_s: i64, fee: u64| {
            let ns = START_NS + after_s * SECOND_NS;
            assert!(!watch.look_at(&entry(sequence, ns, fee), Some(ns), &rates, &doubted));
            doubted.all().len()
        };
        assert_eq!(look(1, 0, 0), 0);
        assert_eq!(look(2, 1, 700), 1);
        assert_eq!(look(3, 2, 700), 1, "of the same minute");
        assert_eq!(look(4, 3, 0), 1);
        assert_eq!(look(5, 4, 0), 1);
        assert_eq!(look(6, 5, 700), 1, "the sixth of a minute may be due");
        assert_eq!(look(7, 300, 700), 2, "five minutes later there is no load");
        assert_eq!(look(8, 301, 701), 3, "no number of units gives it");
        assert_eq!(doubted.all(), [at(2), at(7), at(8)]);
        assert_eq!(doubted.most(at(2)), Some([2, 0, 0, 0, 0]));
    }
}
