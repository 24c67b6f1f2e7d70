//! The rates that a log is judged by: those that were given, and those that its keeper has recorded.
//!
//! The attacker is a keeper who leaves out a rate that raises what it has to book, or makes one up. An honest keeper
//! cannot know a rate yet that begins after its log ends.

use hawser_rules::fees::has_started;
use hawser_rules::{Rate, RateTable};
use serde::{Deserialize, Serialize};

/// Nanoseconds by which a rate has to begin after an envelope so that it cannot explain the envelope's fees. Specified
/// (`docs/protocol/rules.md`, rule 10).
const TOLERANCE_NS: i64 = 5 * 60 * 1_000_000_000;

/// A rate in a state file: its five numbers, in the order of [`Rate`].
type RateNumbers = [u64; 5];

/// The rates of a replay, as its state file keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JudgedRates {
    /// The given ones; absent if the recorded ones judge fees.
    given: Option<Vec<RateNumbers>>,
    /// The time up to which the ones that judge fees are whole, unix nanoseconds; absent if given ones are whole for
    /// ever, and in states of earlier versions for recorded ones.
    whole_until_ns: Option<i64>,
    /// The ones that the keeper has recorded.
    recorded: Vec<RateNumbers>,
    /// True if earlier runs have passed envelopes whose fees their rates did not cover.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_passed_unjudged: bool,
}

impl JudgedRates {
    /// `recorded_until_ns` is the time up to which the recorded rates are whole, if they judge fees.
    pub(super) fn new(
        given: Option<&RateTable>,
        recorded: &[Rate],
        recorded_until_ns: Option<i64>,
    ) -> Self {
        let numbers = |rates: &[Rate]| rates.iter().map(numbers).collect();
        Self {
            given: given.map(|table| numbers(table.rates())),
            whole_until_ns: given.map_or(recorded_until_ns, RateTable::complete_until_ns),
            recorded: numbers(recorded),
            has_passed_unjudged: false,
        }
    }

    /// Returns true if verdicts by these rates on envelopes up to `newest_ns` are the same by the `later` rates: rates
    /// were only added, and none of them can explain a fee that was judged.
    pub(super) fn stand_with(&self, later: &Self, newest_ns: Option<i64>) -> bool {
        let adds = |old: &[RateNumbers], new: &[RateNumbers], judged_ns: Option<i64>| {
            let judged_ns = judged_ns.map(|ns| ns.saturating_add(TOLERANCE_NS));
            let added = new.strip_prefix(old);
            added.is_some_and(|added| added.iter().all(|rate| is_after(rate[0], judged_ns)))
        };
        let is_given = match (&self.given, &later.given) {
            (Some(old), Some(new)) => {
                let until_ns = self.whole_until_ns.unwrap_or(i64::MAX);
                adds(old, new, newest_ns.map(|ns| ns.min(until_ns)))
            }
            (None, None) => true,
            _ => false,
        };
        is_given && adds(&self.recorded, &later.recorded, newest_ns)
    }

    /// Returns these rates for a run that continues one by the `earlier` rates, which has reached envelopes up to
    /// `newest_ns`.
    #[must_use]
    pub(super) fn continuing(self, earlier: &Self, newest_ns: Option<i64>) -> Self {
        // Earlier versions did not state it for recorded rates, which judged no fees after the newest one had begun.
        let is_unstated = earlier.given.is_none() && earlier.whole_until_ns.is_none();
        let is_short = earlier.are_short_of(newest_ns) || is_unstated && newest_ns.is_some();
        let has_passed_unjudged = earlier.has_passed_unjudged || is_short;
        Self { has_passed_unjudged, ..self }
    }

    /// Returns true if the rates do not cover the fees of all envelopes up to `newest_ns`.
    pub(super) fn are_short_of(&self, newest_ns: Option<i64>) -> bool {
        self.whole_until_ns.is_some_and(|until_ns| Some(until_ns) < newest_ns)
    }

    /// Returns true if earlier runs have passed envelopes whose fees their rates did not cover.
    pub(super) fn has_passed_unjudged(&self) -> bool {
        self.has_passed_unjudged
    }
}

fn numbers(rate: &Rate) -> RateNumbers {
    let Rate { start_unix_s, message_fee, storage_fee, congestion_fee, target_rate_per_minute } =
        *rate;
    [start_unix_s, message_fee.0, storage_fee.0, congestion_fee.0, target_rate_per_minute]
}

/// Returns true for a rate that begins after the newest envelope.
fn is_after(start_unix_s: u64, newest_ns: Option<i64>) -> bool {
    newest_ns.is_none_or(|newest_ns| !has_started(start_unix_s, newest_ns))
}

/// Compares the recorded rates with the given ones. `newest_ns` is the time of the newest envelope of all strands.
/// Returns the number of given rates that the keeper has not recorded and need not know: they begin later.
///
/// # Errors
/// A sentence for people that names the first rate that was made up, altered or left out.
pub(super) fn compare(
    given: &[Rate],
    recorded: &[Rate],
    newest_ns: Option<i64>,
) -> Result<usize, String> {
    let from = |rate: &Rate| format!("the rate from {} unix seconds", rate.start_unix_s);
    for (at, rate) in recorded.iter().enumerate() {
        match given.get(at) {
            Some(other) if other == rate => {}
            Some(other) if other.start_unix_s == rate.start_unix_s => {
                return Err(format!("{} is recorded with other fees", from(rate)));
            }
            Some(other) if other.start_unix_s < rate.start_unix_s => {
                return Err(format!("{} was given, and is not recorded", from(other)));
            }
            _ => return Err(format!("{} is recorded, and was not given", from(rate))),
        }
    }
    let missing = given.get(recorded.len()..).unwrap_or_default();
    match missing.iter().find(|rate| !is_after(rate.start_unix_s, newest_ns)) {
        None => Ok(missing.len()),
        Some(rate) => Err(format!("{} was given, and is not recorded", from(rate))),
    }
}

#[cfg(test)]
mod tests {
    use hawser_rules::PicoDollarPrice;

    use super::*;
    use crate::replay::testing::RATE;

    fn rate(start_unix_s: u64) -> Rate {
        Rate { start_unix_s, ..RATE }
    }

    #[test]
    fn a_rate_may_lack_if_it_begins_behind_the_log_and_none_may_be_made_up() {
        let given = [rate(10), rate(20), rate(30)];
        let newest = Some(29_999_999_999);
        let compared = |recorded: &[Rate], newest| compare(&given, recorded, newest);
        assert_eq!(compared(&given, newest), Ok(0));
        assert_eq!(compared(&given[..2], newest), Ok(1));
        assert_eq!(compared(&given, None), Ok(0));
        assert_eq!(compared(&given[..1], None), Ok(2));
        let error = |recorded: &[Rate], newest| compared(recorded, newest).unwrap_err();
        // The last one was in force at the newest envelope; the one in the middle long before.
        assert!(
            error(&given[..2], Some(30_000_000_000)).contains("from 30 unix seconds was given")
        );
        assert!(error(&given[..1], newest).contains("from 20 unix seconds was given"));
        assert!(error(&[given[0], given[2]], newest).contains("from 20 unix seconds was given"));
        assert!(error(&[rate(5)], newest).contains("from 5 unix seconds is recorded, and was not"));
        let more = [&given[..], &[rate(40)]].concat();
        assert!(error(&more, newest).contains("from 40 unix seconds is recorded, and was not"));
        let other = [Rate { message_fee: PicoDollarPrice(1), ..given[0] }];
        assert!(error(&other, newest).contains("from 10 unix seconds is recorded with other fees"));
    }

    #[test]
    fn verdicts_stand_if_rates_were_only_added_after_the_newest_envelope() {
        let of = |given: &[Rate], recorded: &[Rate]| {
            let given = RateTable::new(given.to_vec(), None).unwrap();
            JudgedRates::new(Some(&given), recorded, None)
        };
        let (first, second) = (rate(10), rate(1_000));
        let old = of(&[first], &[first]);
        let newest = Some(100_000_000_000);
        assert!(old.stand_with(&old, newest));
        for later in [
            of(&[first, second], &[first]),
            of(&[first, second], &[first, second]),
            of(&[first], &[first, second]),
        ] {
            assert!(old.stand_with(&later, newest));
            // It may explain the fees of an envelope five minutes before it begins.
            assert!(!old.stand_with(&later, Some(700_000_000_000)));
            assert!(!later.stand_with(&old, newest), "rates are missing");
        }
        assert!(!old.stand_with(
            &of(&[Rate { message_fee: PicoDollarPrice(1), ..first }], &[first]),
            newest
        ));
        assert!(!old.stand_with(&JudgedRates::new(None, &[first], None), newest));
    }

    /// An auditor reads the list anew each night, and the log has gone on since the last one.
    #[test]
    fn verdicts_stand_with_a_newer_list_and_fees_that_no_list_covered_stay_named() {
        let until = |second: i64, given: &[u64]| {
            let given = given.iter().map(|&start| rate(start)).collect();
            let given = RateTable::new(given, Some(second * 1_000_000_000)).unwrap();
            JudgedRates::new(Some(&given), &[rate(10)], None)
        };
        let newest = Some(1_000_000_000_000);
        let next = |earlier: &JudgedRates, later: JudgedRates| {
            assert!(earlier.stand_with(&later, newest));
            later.continuing(earlier, newest)
        };
        let whole = until(1_000, &[10]);
        assert!(!next(&whole, until(2_000, &[10])).has_passed_unjudged());
        let short = until(500, &[10]);
        let after = next(&short, until(2_000, &[10, 801]));
        assert!(after.has_passed_unjudged());
        assert!(next(&after, until(3_000, &[10, 801])).has_passed_unjudged(), "for good");
        // This one may explain a fee that was judged.
        assert!(!short.stand_with(&until(2_000, &[10, 800]), newest));
        let recorded = |until_ns| JudgedRates::new(None, &[rate(10)], until_ns);
        let of_an_earlier_version = recorded(None);
        assert!(next(&of_an_earlier_version, recorded(Some(i64::MAX))).has_passed_unjudged());
        assert!(!next(&recorded(newest), recorded(Some(i64::MAX))).has_passed_unjudged());
        let text = serde_json::to_string(&after).unwrap();
        assert_eq!(serde_json::from_str::<JudgedRates>(&text).unwrap(), after);
        let text = serde_json::to_string(&whole).unwrap();
        assert!(!text.contains("unjudged"), "state files of earlier versions have no such field");
        assert_eq!(serde_json::from_str::<JudgedRates>(&text).unwrap(), whole);
    }
}
