//! The rates that the keepers of both logs have recorded.

use std::collections::{BTreeMap, BTreeSet};

use hawser_rules::Rate;
use serde::Serialize;

use crate::replay::{KEPT_OF_KIND, LogSource, SourceError};

/// A rate that one of two folders has not recorded, or with other prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherRate {
    /// The first second of the rate, unix seconds.
    pub start_unix_s: u64,
    /// A sentence for people.
    pub text: String,
}

/// The rates that the keepers of two logs have not recorded alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherRates {
    /// The first of them, ascending.
    pub first: Vec<OtherRate>,
    /// Their number.
    pub count: u64,
    /// The number of other rates that only one keeper has recorded, and that the other one may not have read from the
    /// chain yet. They are no difference.
    pub unread: u64,
}

/// The rates of one log.
struct KeptRates {
    by_start: BTreeMap<u64, Rate>,
    /// The last second up to which they are complete by the keeper's own note, unix seconds.
    until_s: Option<u64>,
}

impl KeptRates {
    fn of(log: &dyn LogSource) -> Result<Self, SourceError> {
        let by_start = log.rates()?.into_iter().map(|rate| (rate.start_unix_s, rate)).collect();
        let until_ns = log.rates_complete_until_ns()?;
        let until_s = until_ns.and_then(|until_ns| u64::try_from(until_ns / 1_000_000_000).ok());
        Ok(Self { by_start, until_s })
    }

    /// Returns true if the keeper may not have read a rate of this start from the chain yet, whose rates ascend.
    fn may_be_unread(&self, start_unix_s: u64) -> bool {
        let is_newer = self.by_start.keys().next_back().is_none_or(|last| *last < start_unix_s);
        is_newer && self.until_s.is_none_or(|until_s| until_s < start_unix_s)
    }
}

/// Returns the rates that the keepers of two logs have not recorded alike. A log that shows no rates is not compared.
///
/// # Errors
/// When the rates of a log cannot be read.
pub fn other_rates(
    first: &dyn LogSource,
    second: &dyn LogSource,
) -> Result<OtherRates, SourceError> {
    let kept = [KeptRates::of(first)?, KeptRates::of(second)?];
    let mut found = OtherRates::default();
    if kept.iter().any(|log| log.by_start.is_empty()) {
        return Ok(found);
    }
    let starts: BTreeSet<u64> = kept.iter().flat_map(|log| log.by_start.keys().copied()).collect();
    for start_unix_s in starts {
        let both = kept.each_ref().map(|log| log.by_start.get(&start_unix_s));
        if both[0] == both[1] {
            continue;
        }
        if kept.iter().any(|log| log.may_be_unread(start_unix_s)) {
            found.unread += 1;
            continue;
        }
        found.count += 1;
        if found.first.len() < KEPT_OF_KIND {
            let [mine, other] = both.map(prices);
            found.first.push(OtherRate { start_unix_s, text: format!("{mine}, and {other}") });
        }
    }
    Ok(found)
}

/// Returns the prices of a rate, for people.
fn prices(rate: Option<&Rate>) -> String {
    let Some(rate) = rate else { return "none".to_owned() };
    let Rate { message_fee, storage_fee, congestion_fee, target_rate_per_minute, .. } = rate;
    format!(
        "{} p$ each, {} p$ for a byte and day, {} p$ of congestion above {target_rate_per_minute} a minute",
        message_fee.0, storage_fee.0, congestion_fee.0
    )
}
