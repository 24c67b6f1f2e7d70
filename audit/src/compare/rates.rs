//! The rates that the keepers of both logs have recorded.

use std::collections::{BTreeMap, BTreeSet};

use hawser_rules::Rate;
use serde::Serialize;

use super::KEPT_OF_KIND;
use crate::replay::{LogSource, SourceError};

/// A rate that one of two folders has not recorded, or with other prices. It may be late, and so may be the other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherRate {
    /// The first second of the rate, unix seconds.
    pub start_unix_s: u64,
    /// A sentence for people.
    pub text: String,
}

/// Returns the first rates that the keepers of two logs have not recorded alike, and their number. A log that shows no
/// rates is not compared.
///
/// # Errors
/// When the rates of a log cannot be read.
pub fn other_rates(
    first: &dyn LogSource,
    second: &dyn LogSource,
) -> Result<(Vec<OtherRate>, u64), SourceError> {
    let by_start = |log: &dyn LogSource| -> Result<BTreeMap<u64, Rate>, SourceError> {
        Ok(log.rates()?.into_iter().map(|rate| (rate.start_unix_s, rate)).collect())
    };
    let (mine, other) = (by_start(first)?, by_start(second)?);
    let (mut found, mut count) = (Vec::new(), 0);
    if mine.is_empty() || other.is_empty() {
        return Ok((found, count));
    }
    let starts: BTreeSet<u64> = mine.keys().chain(other.keys()).copied().collect();
    for start_unix_s in starts {
        let both = [&mine, &other].map(|rates| rates.get(&start_unix_s));
        if both[0] == both[1] {
            continue;
        }
        count += 1;
        if found.len() < KEPT_OF_KIND {
            let [mine, other] = both.map(prices);
            found.push(OtherRate { start_unix_s, text: format!("{mine}, and {other}") });
        }
    }
    Ok((found, count))
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
