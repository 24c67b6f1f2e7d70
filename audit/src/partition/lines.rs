//! Rows of the tables `log`, `checkpoints` and `void_statements` as lines of JSON, as engines pipe them to a program.

use std::fmt;
use std::io::{BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::{Bytes, OriginatorId};
use hawser_rules::ENVELOPE_LEN_BYTES_MAX;
use serde::Deserialize;
use serde::de::{self, Deserializer, Unexpected, Visitor};

use crate::export::{ExportedRow, LogColumns, ReadRow, Value};
use crate::replay::SourceError;

/// Length of the longest line, in bytes: the longest envelope in base64, its topic, which may fill an envelope that
/// breaks a rule, and its other columns.
const LINE_LEN_BYTES_MAX: u64 = 2 * (ENVELOPE_LEN_BYTES_MAX as u64 / 3 * 4) + 1024 * 1024;

/// The columns that are read. Others may stand beside them.
#[derive(Debug, Deserialize)]
struct Line {
    originator_id: u32,
    #[serde(default)]
    sequence_id: i64,
    #[serde(default)]
    through_sequence_id: i64,
    /// Absent in a row of the tables `checkpoints` and `void_statements`, which alone have one of the last two.
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    mark: Option<String>,
    #[serde(default)]
    rule: Option<i64>,
    #[serde(default)]
    originator_ns: Option<i64>,
    #[serde(default)]
    minute: Option<i64>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    topic_kind: Option<i64>,
    #[serde(default)]
    payer: Option<String>,
    #[serde(default)]
    len_bytes: Option<i64>,
    #[serde(default)]
    payer_len_bytes: Option<i64>,
    #[serde(default)]
    base_fee_picodollars: Option<Amount>,
    #[serde(default)]
    congestion_fee_picodollars: Option<Amount>,
    #[serde(default)]
    retention_days: Option<i64>,
    #[serde(default)]
    expiry_unix_s: Option<Amount>,
    #[serde(default)]
    is_charged: Option<bool>,
    #[serde(default)]
    counts_for_congestion: Option<bool>,
    #[serde(default)]
    leaf_hash: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
    #[serde(default)]
    checkpoint: Option<String>,
    #[serde(default)]
    statement: Option<String>,
}

/// The first number that a float does not hold exactly.
const INEXACT_MIN: f64 = 9_007_199_254_740_992.0;

/// A decimal without a fraction. Engines write it as an integer, as a number with the fraction `.0`, or as text.
/// Numbers with a fraction are exact below 2^53 only.
#[derive(Debug, Clone, Copy)]
struct Amount(u64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount: a whole number of 64 bits")
    }

    fn visit_u64<E: de::Error>(self, amount: u64) -> Result<Amount, E> {
        Ok(Amount(amount))
    }

    fn visit_f64<E: de::Error>(self, amount: f64) -> Result<Amount, E> {
        if amount >= INEXACT_MIN {
            let reason = "a number with a fraction is not exact from 2^53 on: write decimals as integers or as text";
            return Err(E::custom(reason));
        }
        self.visit_str(&format!("{amount}"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
        let whole = text.strip_suffix(".0").unwrap_or(text);
        let amount = whole.parse().map(Amount);
        amount.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Rows of a reader, a line for each. Ends after the first error.
pub struct LineReader<R> {
    reader: R,
    number: u64,
    line: Vec<u8>,
    has_failed: bool,
}

impl<R: BufRead> LineReader<R> {
    /// Reads lines.
    pub fn new(reader: R) -> Self {
        Self { reader, number: 0, line: Vec::new(), has_failed: false }
    }

    fn step(&mut self) -> Result<Option<(OriginatorId, ReadRow)>, SourceError> {
        loop {
            self.number += 1;
            let fail = |error: String| SourceError(format!("line {}: {error}", self.number));
            self.line.clear();
            let mut bounded = (&mut self.reader).take(LINE_LEN_BYTES_MAX + 1);
            let read = bounded.read_until(b'\n', &mut self.line);
            match read.map_err(|error| fail(error.to_string()))? as u64 {
                0 => return Ok(None),
                read if read > LINE_LEN_BYTES_MAX => return Err(fail("it is too long".to_owned())),
                _ if self.line.trim_ascii().is_empty() => {}
                _ => return row(&self.line).map(Some).map_err(fail),
            }
        }
    }
}

fn row(line: &[u8]) -> Result<(OriginatorId, ReadRow), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if line.kind.is_some() {
        let columns = LogColumns::of_line(values(line)?);
        return columns.read().ok_or_else(|| "the row is not one of a log".to_owned());
    }
    let checkpoint = decode(line.checkpoint, "checkpoint")?.map(ExportedRow::Checkpoint);
    let statement = decode(line.statement, "statement")?.map(ExportedRow::VoidStatement);
    let row = checkpoint.or(statement).ok_or_else(|| "it has no kind".to_owned())?;
    Ok((OriginatorId(line.originator_id), ReadRow { row, columns: None }))
}

fn decode(text: Option<String>, name: &str) -> Result<Option<Bytes>, String> {
    let bytes = text.map(|text| STANDARD.decode(text).map(Bytes::from)).transpose();
    bytes.map_err(|error| format!("{name}: {error}"))
}

/// Returns the values of a row of the table `log`, in the order of its columns.
fn values(line: Line) -> Result<Vec<Value>, String> {
    let int = |number: Option<i64>| number.map_or(Value::Null, Value::Int);
    let amount = |it: Option<Amount>| it.map_or(Value::Null, |it| Value::Amount(it.0));
    let flag = |flag: Option<bool>| flag.map_or(Value::Null, Value::Flag);
    let bytes = |bytes: Option<Bytes>| bytes.map_or(Value::Null, Value::Bytes);
    let text = |text: Option<String>| bytes(text.map(|text| Bytes::from(text.into_bytes())));
    Ok(vec![
        Value::int(u64::from(line.originator_id)),
        Value::Int(line.sequence_id),
        Value::Int(line.through_sequence_id),
        text(line.kind),
        text(line.mark),
        int(line.rule),
        int(line.originator_ns),
        int(line.minute),
        bytes(decode(line.topic, "topic")?),
        int(line.topic_kind),
        text(line.payer),
        int(line.len_bytes),
        int(line.payer_len_bytes),
        amount(line.base_fee_picodollars),
        amount(line.congestion_fee_picodollars),
        int(line.retention_days),
        amount(line.expiry_unix_s),
        flag(line.is_charged),
        flag(line.counts_for_congestion),
        bytes(decode(line.leaf_hash, "leaf_hash")?),
        bytes(decode(line.bytes, "bytes")?),
    ])
}

impl<R: BufRead> Iterator for LineReader<R> {
    type Item = Result<(OriginatorId, ReadRow), SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let row = self.step();
        self.has_failed = row.is_err();
        row.transpose()
    }
}
