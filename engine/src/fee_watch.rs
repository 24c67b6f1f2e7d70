//! A first check of the fees of one strand, in the order of its places.
//!
//! Most are right, and that shows at once. A fee on a free topic is wrong at once. All others are doubted: the price
//! list, and for a congestion fee the log, decide about them ([`judge_fees`] and [`overcharge`](crate::overcharge)).

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{Bytes, EnvelopeId, SequenceId, minute_of};
use hawser_rules::misbehavior::StrandLoad;
use hawser_rules::{PicoDollarPrice, RateTable, RuleNumber, check_charges_by_former};
use hawser_storage::{Charge, LogEntry, Snapshot, Validity};

use crate::misbehavior::{FeeVerdict, is_late, judge_fees};

/// The result of a check of the fees of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeeCheck {
    /// Nothing is to be judged, for one of three reasons. A known rate and the load explain the fees, also a rate that
    /// another one has replaced. Or another fee of the minute is doubted. Or the envelope breaks a rule, and not by a
    /// late expiry alone.
    Explained,
    /// The fees are wrong whatever the rates are.
    Wrong,
    /// The fees may be wrong.
    Doubted {
        /// The largest numbers of envelopes that may have counted for the congestion fee, if all of them are known.
        most: Option<[u64; CONGESTION_MINUTES]>,
    },
}

/// The load of one strand, by which its congestion fees are checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct FeeWatch {
    load: StrandLoad,
    /// The minute of the last envelope whose congestion fee is doubted. One in a minute is enough: more prove nothing
    /// more, and the evidence of each may have megabytes.
    doubted: Option<u32>,
}

impl FeeWatch {
    /// Continues with this load.
    #[must_use]
    pub fn new(load: StrandLoad) -> Self {
        Self { load, doubted: None }
    }

    /// Notes that the envelopes of the next places are not known.
    pub fn lose(&mut self) {
        self.load.lose();
    }

    /// Checks the next envelope of a node's strand, which states the time `ns`.
    pub fn check(&mut self, entry: &LogEntry, ns: Option<i64>, rates: &RateTable) -> FeeCheck {
        let LogEntry { bytes, facts, validity, .. } = entry;
        let is_judged = match validity {
            Validity::Valid => true,
            // Its node may be innocent of the late expiry, and of no wrong fee.
            Validity::Invalid(rule) => RuleNumber(rule.0) == RuleNumber::EXPIRY && is_late(bytes),
            Validity::Waiting => false,
        };
        let charge = facts.as_ref().and_then(|facts| Some((facts.originator_ns, facts.charge?)));
        let check = match charge {
            _ if !is_judged => FeeCheck::Explained,
            Some((ns, charge)) => self.check_charge(ns, charge, bytes, rates),
            None if judge_fees(bytes, rates) == FeeVerdict::Wrong => FeeCheck::Wrong,
            None => FeeCheck::Explained,
        };
        match ns {
            // Other software may count an envelope that breaks a rule, although this node does not.
            Some(ns) => {
                self.load.add(ns, facts.as_ref().is_none_or(|facts| facts.counts_for_congestion));
            }
            None => self.load.lose(),
        }
        check
    }

    fn check_charge(
        &mut self,
        ns: i64,
        charge: Charge,
        envelope: &Bytes,
        rates: &RateTable,
    ) -> FeeCheck {
        let Charge { size_bytes, retention_days, stated_picodollars: sum, .. } = charge;
        let most = self.load.most(ns);
        if rates.explains_sum_of_load(ns, size_bytes, retention_days, sum, most) {
            return FeeCheck::Explained;
        }
        let doubted = FeeCheck::Doubted { most: self.load.is_whole(ns).then_some(most) };
        if !rates.explains_sum(ns, size_bytes, retention_days, sum) {
            match congestion_by_former(envelope, rates) {
                None => return doubted,
                // Doubts about fees that prove nothing would take the room of others.
                Some(fee) if !rates.is_overcharged(ns, fee, most) => return FeeCheck::Explained,
                Some(_) => {}
            }
        }
        let minute = minute_of(ns);
        // The minute only rises: times that go back and forth around its end doubt no further fee.
        if self.doubted.is_some_and(|last| minute <= last) {
            return FeeCheck::Explained;
        }
        self.doubted = Some(minute);
        doubted
    }
}

/// Returns the congestion fee of an envelope if a rate that had begun gives its base fee, and one allows the congestion
/// fee; `None` otherwise.
fn congestion_by_former(envelope: &Bytes, rates: &RateTable) -> Option<PicoDollarPrice> {
    let parsed = OriginatorEnvelope::parse(envelope.clone()).ok()?;
    let statement = parsed.unsigned();
    check_charges_by_former(statement, rates).ok()?;
    Some(statement.congestion_fee())
}

/// Returns the load of a strand up to a place whose envelope has the time `ns`, if it has one.
#[must_use]
pub fn load_at(snapshot: &Snapshot<'_>, end: EnvelopeId, ns: Option<i64>) -> StrandLoad {
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
    use hawser_proto::{Address, OriginatorId};
    use hawser_rules::{PicoDollarsPerByteDay, Rate};

    use super::*;
    use crate::read::testing;

    const SECOND_NS: i64 = 1_000_000_000;
    const START_NS: i64 = 29_166_667 * 60 * SECOND_NS;

    fn at(sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(300), SequenceId(sequence))
    }

    /// An envelope that states this sum, which is a congestion fee alone.
    fn entry(sequence: u64, originator_ns: i64, stated: u64) -> LogEntry {
        let payer = Address([7; 20]);
        let stated_picodollars = PicoDollarPrice(stated);
        let charge = Charge { payer, size_bytes: 1, retention_days: 2, stated_picodollars };
        let entry = testing::charged(at(sequence), originator_ns, charge);
        LogEntry { bytes: Bytes::new(), ..entry }
    }

    #[test]
    fn congestion_without_load_is_doubted_once_in_a_minute_and_due_congestion_never() {
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(0),
            storage_fee: PicoDollarsPerByteDay(0),
            congestion_fee: PicoDollarPrice(7),
            target_rate_per_minute: 4,
        };
        let rates = RateTable::new(vec![rate], None).unwrap();
        let mut watch = FeeWatch::new(StrandLoad::START);
        let mut doubted = Vec::new();
        let mut look = |sequence: u64, after_s: i64, fee: u64| {
            let ns = START_NS + after_s * SECOND_NS;
            match watch.check(&entry(sequence, ns, fee), Some(ns), &rates) {
                FeeCheck::Explained => {}
                FeeCheck::Wrong => panic!("it is not free"),
                FeeCheck::Doubted { most } => doubted.push((sequence, most)),
            }
            doubted.len()
        };
        assert_eq!(look(1, 0, 0), 0);
        assert_eq!(look(2, 1, 700), 1);
        assert_eq!(look(3, 2, 700), 1, "of the same minute");
        assert_eq!(look(4, 3, 0), 1);
        assert_eq!(look(5, 4, 0), 1);
        assert_eq!(look(6, 5, 700), 1, "the sixth of a minute may be due");
        assert_eq!(look(7, 300, 700), 2, "five minutes later there is no load");
        assert_eq!(look(8, 301, 701), 3, "no number of units gives it");
        assert_eq!(doubted.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [2, 7, 8]);
        assert_eq!(doubted[0].1, Some([2, 0, 0, 0, 0]));
    }
}
