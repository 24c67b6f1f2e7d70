//! `rates.json`: the rates, with the fields of the rate registry's records.
//!
//! `{"rates":[{"messageFee":100,"storageFee":200,"congestionFee":300,
//! "targetRatePerMinute":6000,"startTime":0}]}`
//!
//! Fees are picodollars and start times unix seconds. Numbers may also be strings, as in the JSON of chain tools.
//! Records are ordered by their start. `"completeUntil"` beside `"rates"` may name the time up to which the list is
//! complete, by which a judge of other nodes' fees goes. A node prices by the file itself as the source of its rates.

use hawser_rules::fees::{
    PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, RateTableError, complete_until_ns,
};
use serde::{Deserialize, Deserializer, Serialize};

/// Content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RatesFile {
    /// The time of the block at which the records were all that the registry had, unix seconds; absent if the writer
    /// did not read it.
    #[serde(
        default,
        deserialize_with = "some_number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub complete_until: Option<u64>,
    /// Records, ascending by start.
    pub rates: Vec<RateRecord>,
}

/// One record of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateRecord {
    /// The fee per envelope.
    #[serde(deserialize_with = "price")]
    pub message_fee: PicoDollarPrice,
    /// The fee per byte and day.
    #[serde(deserialize_with = "price_per_byte_day")]
    pub storage_fee: PicoDollarsPerByteDay,
    /// The fee per congestion unit.
    #[serde(deserialize_with = "price")]
    pub congestion_fee: PicoDollarPrice,
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
        message_fee: PicoDollarPrice(100),
        storage_fee: PicoDollarsPerByteDay(200),
        congestion_fee: PicoDollarPrice(300),
        target_rate_per_minute: 6000,
        start_time: 0,
    };

    /// Returns the record of a rate.
    #[must_use]
    pub fn of(rate: &Rate) -> Self {
        Self {
            message_fee: rate.message_fee,
            storage_fee: rate.storage_fee,
            congestion_fee: rate.congestion_fee,
            target_rate_per_minute: rate.target_rate_per_minute,
            start_time: rate.start_unix_s,
        }
    }

    /// Returns the rate of a record.
    pub(crate) fn rate(&self) -> Rate {
        Rate {
            start_unix_s: self.start_time,
            message_fee: self.message_fee,
            storage_fee: self.storage_fee,
            congestion_fee: self.congestion_fee,
            target_rate_per_minute: self.target_rate_per_minute,
        }
    }
}

/// Error of parsing a rates file.
#[derive(Debug, thiserror::Error)]
pub enum RatesFileError {
    /// The text is not JSON of this form.
    #[error("it is no rates file (`hawser registry rates list --rates-file` prints one): {0}")]
    Json(#[from] serde_json::Error),
    /// The records do not form a rate table.
    #[error("{0}")]
    Table(#[from] RateTableError),
}

/// Parses the text of a rates file that is the source of a node's rates. The table is not confirmed as of any time, so
/// it never becomes stale.
///
/// A file with `completeUntil` is a copy of the chain's list, and lacks rates that came to the chain later. It is
/// complete for the times that [`parse_for_judging`] names. A file without it, such as that of a development network
/// without chains, has all rates that there are.
///
/// # Errors
/// [`RatesFileError`] if the text is invalid.
pub fn parse(text: &str) -> Result<RateTable, RatesFileError> {
    let file: RatesFile = serde_json::from_str(text)?;
    let table = table(&file, None)?;
    Ok(match file.complete_until.and_then(|_| complete_until(&file)) {
        Some(until_s) => table.of_block(until_s),
        None => table,
    })
}

/// Returns the time up to which a file is complete as a copy of the chain's list, unix seconds.
fn complete_until(file: &RatesFile) -> Option<u64> {
    file.rates.iter().map(|record| record.start_time).max().max(file.complete_until)
}

/// Parses the text of a rates file for a judge of other nodes' fees: see [`RatesFile::table_for_judging`].
///
/// # Errors
/// [`RatesFileError`] if the text is invalid.
pub fn parse_for_judging(text: &str) -> Result<RateTable, RatesFileError> {
    let file: RatesFile = serde_json::from_str(text)?;
    Ok(file.table_for_judging()?)
}

impl RatesFile {
    /// Returns the rates for a judge of other nodes' fees. An old list lacks rates that honest nodes apply, so the
    /// table covers only times for which no rate can be missing.
    ///
    /// These are times up to `completeUntil`, and up to the start of the newest rate, because the registry takes no
    /// rate that begins earlier than its newest one. Five minutes are subtracted: the clock of an honest node may be so
    /// far behind, and it may have learned of a rate that came to the chain after the list was read.
    ///
    /// # Errors
    /// [`RateTableError`] if the records do not form a rate table.
    pub fn table_for_judging(&self) -> Result<RateTable, RateTableError> {
        table(self, complete_until(self).map(complete_until_ns))
    }
}

fn table(file: &RatesFile, confirmed_ns: Option<i64>) -> Result<RateTable, RateTableError> {
    RateTable::new(file.rates.iter().map(RateRecord::rate).collect(), confirmed_ns)
}

fn some_number_or_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    number_or_text(deserializer).map(Some)
}

fn price<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PicoDollarPrice, D::Error> {
    number_or_text(deserializer).map(PicoDollarPrice)
}

fn price_per_byte_day<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<PicoDollarsPerByteDay, D::Error> {
    number_or_text(deserializer).map(PicoDollarsPerByteDay)
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
        let file = RatesFile { complete_until: None, rates: rates.collect() };
        serde_json::to_string(&file).unwrap()
    }

    /// Returns the last second that the rates of a file cover for a judge, before the five minutes are subtracted.
    fn covered_until(text: &str) -> i64 {
        let table = parse_for_judging(text).unwrap();
        let until_ns = table.refreshed_ns().unwrap() + 300 * 1_000_000_000;
        assert!(table.covers(until_ns - 300 * 1_000_000_000));
        assert!(!table.covers(until_ns - 300 * 1_000_000_000 + 1));
        until_ns / 1_000_000_000
    }

    /// The list may lack each rate that came to the chain after it was read.
    #[test]
    fn a_judge_takes_no_file_for_complete_beyond_the_time_of_its_reading() {
        assert_eq!(covered_until(&text(&[0])), 0);
        assert_eq!(covered_until(&text(&[0, 7_000])), 7_000, "a later rate begins later");
        let until = |until: &str| {
            text(&[0, 7_000]).replacen('{', &format!("{{\"completeUntil\":{until},"), 1)
        };
        assert_eq!(covered_until(&until("9000")), 9_000);
        assert_eq!(covered_until(&until("\"9000\"")), 9_000);
        assert_eq!(covered_until(&until("5000")), 7_000, "the newest rate begins later");
        assert!(parse_for_judging(&until("18446744073709551615")).is_ok());
        for bad in ["-1", "null", "\"x\""] {
            assert!(
                matches!(parse_for_judging(&until(bad)), Err(RatesFileError::Json(_))),
                "{bad}"
            );
        }
        // A node prices by a file however old it is, and proves nothing by what the file may lack.
        let node = parse(&until("9000")).unwrap();
        assert_eq!(node.refreshed_ns(), None);
        assert_eq!(node.complete_until_ns(), Some(complete_until_ns(9_000)));
        let node = parse(&until("5000")).unwrap();
        assert_eq!(node.complete_until_ns(), Some(complete_until_ns(7_000)));
        assert_eq!(parse(&text(&[0, 7_000])).unwrap().complete_until_ns(), None, "the source");
    }

    #[test]
    fn records_read_back() {
        let table = parse(&text(&[0, 7])).unwrap();
        assert_eq!(table.refreshed_ns(), None);
        assert_eq!(table.rates().len(), 2);
        assert_eq!(
            table.rates()[1],
            Rate {
                start_unix_s: 7,
                message_fee: PicoDollarPrice(100),
                storage_fee: PicoDollarsPerByteDay(200),
                congestion_fee: PicoDollarPrice(300),
                target_rate_per_minute: 6000,
            }
        );
    }

    #[test]
    fn numbers_may_be_text() {
        let text = text(&[5]).replace(":200", ":\"18446744073709551615\"");
        assert_eq!(parse(&text).unwrap().rates()[0].storage_fee.0, u64::MAX);
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
