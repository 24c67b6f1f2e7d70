//! `rates.json`: the rates, with the fields of the rate registry's records.
//!
//! `{"rates":[{"messageFee":100,"storageFee":200,"congestionFee":300,
//! "targetRatePerMinute":6000,"startTime":0}]}`
//!
//! Fees are picodollars and start times unix seconds. Numbers may also be strings, as in the JSON of chain tools.
//! Records are ordered by their start.

use hawser_engine::price::rate_row;
use hawser_rules::fees::{Rate, RateTable, RateTableError};
use hawser_storage::RateRow;
use serde::{Deserialize, Deserializer, Serialize};

/// Content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesFile {
    /// Records, ascending by start.
    pub rates: Vec<RateRecord>,
}

/// One record of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateRecord {
    /// Picodollars per envelope.
    #[serde(deserialize_with = "number_or_text")]
    pub message_fee: u64,
    /// Picodollars per byte and day.
    #[serde(deserialize_with = "number_or_text")]
    pub storage_fee: u64,
    /// Picodollars per congestion unit.
    #[serde(deserialize_with = "number_or_text")]
    pub congestion_fee: u64,
    /// Envelopes per minute above which congestion begins.
    #[serde(deserialize_with = "number_or_text")]
    pub target_rate_per_minute: u64,
    /// Start, unix seconds.
    #[serde(deserialize_with = "number_or_text")]
    pub start_time: u64,
}

impl RateRecord {
    /// The initial rates of a new deployment. They start at 0, so that every envelope has a price.
    pub const FIRST: Self = Self {
        message_fee: 100,
        storage_fee: 200,
        congestion_fee: 300,
        target_rate_per_minute: 6000,
        start_time: 0,
    };
}

/// Error of parsing a rates file.
#[derive(Debug, thiserror::Error)]
pub enum RatesFileError {
    /// The text is not JSON of this form.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The records do not form a rate table.
    #[error("{0}")]
    Table(#[from] RateTableError),
}

/// Parses the text of a rates file. The table is not confirmed as of any time, so it never becomes stale.
///
/// # Errors
/// [`RatesFileError`] if the text is invalid.
pub fn parse(text: &str) -> Result<RateTable, RatesFileError> {
    let file: RatesFile = serde_json::from_str(text)?;
    let rates = file.rates.into_iter().map(|entry| Rate {
        start_unix_s: entry.start_time,
        message_fee: entry.message_fee,
        storage_fee: entry.storage_fee,
        congestion_fee: entry.congestion_fee,
        target_rate_per_minute: entry.target_rate_per_minute,
    });
    Ok(RateTable::new(rates.collect(), None)?)
}

/// Returns the rows with which the database records a rate table.
#[must_use]
pub fn rows(table: &RateTable) -> Vec<RateRow> {
    table.rates().iter().map(rate_row).collect()
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a whole number from 0 to 2^64-1, or the same as text")]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(starts: &[u64]) -> String {
        let rates = starts.iter().map(|&start_time| RateRecord { start_time, ..RateRecord::FIRST });
        serde_json::to_string(&RatesFile { rates: rates.collect() }).unwrap()
    }

    #[test]
    fn records_read_back() {
        let table = parse(&text(&[0, 7])).unwrap();
        assert_eq!(table.refreshed_ns(), None);
        let rows = rows(&table);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            rows[1],
            RateRow {
                start_unix_s: 7,
                message_fee: 100,
                storage_fee: 200,
                congestion_fee: 300,
                target_rate_per_minute: 6000,
            }
        );
    }

    #[test]
    fn numbers_may_be_text() {
        let text = text(&[5]).replace(":200", ":\"18446744073709551615\"");
        assert_eq!(parse(&text).unwrap().rates()[0].storage_fee, u64::MAX);
    }

    #[test]
    fn an_invalid_price_list_is_refused() {
        let table = |starts| match parse(&text(starts)) {
            Err(RatesFileError::Table(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(table(&[]), RateTableError::Empty);
        assert_eq!(table(&[4, 4]), RateTableError::NotAscending { index: 1 });
        for bad in ["-1", "1.5", "\"x\"", "null", "\"18446744073709551616\""] {
            let text = text(&[5]).replace(":200", &format!(":{bad}"));
            assert!(matches!(parse(&text), Err(RatesFileError::Json(_))), "{bad}");
        }
        assert!(parse(&text(&[5]).replace("storageFee", "storagefee")).is_err());
    }
}
